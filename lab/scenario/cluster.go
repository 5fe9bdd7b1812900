// Package scenario is what happens to a cluster: objects are loaded, a disk is wiped,
// a byte rots, reconstructors run, and what came back is compared with what was there.
// It does not know which cluster that is, nor whose reconstructor runs.
package scenario

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/ring"
)

// Cluster is what a scenario needs of a cluster: devices as folders of this machine,
// and a way to store objects.
type Cluster interface {
	Nodes() []int                 // object nodes, by number
	Devices(node int) []string    // names of a node's devices
	NodeOf(dev string) int        // 0: no node has it
	DevicePath(dev string) string // folder that holds objects, objects-1, ...
	SwiftConf() string            // path of swift.conf; the rings lie beside it
	Account() string              // whose objects Do stores

	// Do sends a client's request to a container, or, when object is not "", to an
	// object. Names are plain. The status is not judged; the caller closes the body.
	Do(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (*http.Response, error)
}

// Stock is a cluster where Swift's own daemons can be run, one pass over one node at a
// time. They return the lines that they logged, without the program's name.
type Stock interface {
	Cluster
	StockReconstructor(ctx context.Context, node int) ([]string, error)
	StockAuditor(ctx context.Context, node int) ([]string, error)
}

// Layout knows where a cluster keeps what.
type Layout struct {
	Swift   *policy.Swift
	cluster Cluster
	rings   map[int]*ring.Ring // by policy index
}

// NewLayout reads swift.conf and every policy's ring.
func NewLayout(c Cluster) (*Layout, error) {
	swift, err := policy.Load(c.SwiftConf())
	if err != nil {
		return nil, err
	}
	l := &Layout{Swift: swift, cluster: c, rings: map[int]*ring.Ring{}}
	for _, p := range swift.Policies {
		path := filepath.Join(filepath.Dir(c.SwiftConf()), ring.Name(p.Index)+".ring.gz")
		if l.rings[p.Index], err = ring.Load(path); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Ring is the ring of a policy.
func (l *Layout) Ring(p *policy.Policy) *ring.Ring { return l.rings[p.Index] }

func (l *Layout) hash(o *Object) (hash string, part int) {
	h := l.Swift.Hasher().Path(l.cluster.Account(), o.Container, o.Name)
	return objhash.Hex(h), objhash.Partition(h, l.rings[o.Policy.Index].PartPower)
}

// Hash is the object's hash, as its folder is named.
func (l *Layout) Hash(o *Object) string {
	hash, _ := l.hash(o)
	return hash
}

// Path is the object's path, not quoted: /account/container/object.
func (l *Layout) Path(o *Object) string {
	return "/" + l.cluster.Account() + "/" + o.Container + "/" + o.Name
}

// Primaries are the object's primary nodes, in the ring's order.
func (l *Layout) Primaries(o *Object) []ring.Node {
	_, part := l.hash(o)
	return l.rings[o.Policy.Index].PartNodes(part)
}

// Partition is the object's partition.
func (l *Layout) Partition(o *Object) int {
	_, part := l.hash(o)
	return part
}

// HashDir is the folder that an object has on a device, whether it is there or not.
func (l *Layout) HashDir(o *Object, dev string) string {
	hash, part := l.hash(o)
	return filepath.Join(l.cluster.DevicePath(dev), o.Policy.DataDir(), strconv.Itoa(part), objhash.Suffix(hash), hash)
}

// Archive is the object's one .data file on a device. No file, or more than one, is an
// error.
func (l *Layout) Archive(o *Object, dev string) (string, error) {
	dir := l.HashDir(o, dev)
	found, err := fs.Glob(os.DirFS(dir), "*.data")
	if err != nil {
		return "", fmt.Errorf("cannot look for %v on %s: %w", o, dev, err)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%v has %d .data files on %s, not one", o, len(found), dev)
	}
	return filepath.Join(dir, found[0]), nil
}

// devices are all devices of the cluster.
func devices(c Cluster) []string {
	var all []string
	for _, n := range c.Nodes() {
		all = append(all, c.Devices(n)...)
	}
	return all
}
