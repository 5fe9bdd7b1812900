// Package object is an EC client: it does for one object what Swift's proxy does, straight with the object servers that the
// ring names. It knows no accounts and no containers: who lists what, and who may, is not its business.
package object

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"imping/codec"
	"imping/netfast"
	"imping/swift/policy"
	"imping/swift/ring"
)

// Client stores and reads objects of erasure-code policies. It is safe for concurrent use.
type Client struct {
	Swift       *policy.Swift
	Dir         string // of the rings: swift_dir
	HTTP        *netfast.Client
	ConnTimeout time.Duration // of a connection that is opened for a PUT
	NodeTimeout time.Duration // for no progress on it
	Replication bool          // the ring's replication addresses, not those for clients
	CRC         codec.CRC     // flavour of the checksums that fragment headers get

	// UpdateContainers has the object servers tell container servers what is put, posted and deleted, and the expirer's queue what is to
	// vanish; without it neither hears of it, and what has an X-Delete-At is not to be read after that, but stays on the disks.
	UpdateContainers bool

	mu            sync.Mutex
	places        map[*policy.Policy]*place
	containerRing *ring.Ring
}

// place is where a policy keeps objects.
type place struct {
	pol  *policy.Policy
	ring *ring.Ring
	code *codec.Code
}

// place reads a policy's ring once.
func (c *Client) place(pol *policy.Policy) (*place, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pl := c.places[pol]; pl != nil {
		return pl, nil
	}
	if pol.Type != policy.ErasureCoding {
		return nil, fmt.Errorf("policy %v: not an erasure-code policy", pol)
	}
	code, err := codec.New(codec.Scheme{Type: pol.ECType, K: pol.Data, M: pol.Parity})
	if err != nil {
		return nil, fmt.Errorf("policy %v: %w", pol, err)
	}
	r, err := ring.Load(filepath.Join(c.Dir, ring.Name(pol.Index)+".ring.gz"))
	if err != nil {
		return nil, err
	}
	if err := pol.CheckReplicas(r.Replicas()); err != nil {
		return nil, fmt.Errorf("%s: %w", r.Path, err)
	}
	if c.places == nil {
		c.places = map[*policy.Policy]*place{}
	}
	pl := &place{pol, r, code}
	c.places[pol] = pl
	return pl, nil
}

// node is a device that holds, or may hold, an archive.
type node struct {
	addr, device string
	index        int // of the fragment that belongs there; -1: of none, it is a handoff
}

func (n *node) String() string { return n.addr + "/" + n.device }

// nodes are the primaries of a partition, and as many handoffs (Swift: request_node_count, 2 * replicas).
func (c *Client) nodes(pl *place, part int) (primaries, handoffs []*node) {
	of := func(n ring.Node) *node {
		index := -1
		if !n.Handoff {
			index = pl.pol.BackendIndex(n.Index)
		}
		return &node{c.addr(n), n.Device.Device, index}
	}
	for _, n := range pl.ring.PartNodes(part) {
		primaries = append(primaries, of(n))
	}
	for n := range pl.ring.MoreNodes(part) {
		if len(handoffs) == len(primaries) {
			break
		}
		handoffs = append(handoffs, of(n))
	}
	return primaries, handoffs
}

// addr is where a device's server is spoken to.
func (c *Client) addr(n ring.Node) string {
	if c.Replication {
		return net.JoinHostPort(n.ReplicationIP, strconv.Itoa(n.ReplicationPort))
	}
	return net.JoinHostPort(n.IP, strconv.Itoa(n.Port))
}

// quorum is how many archives make a PUT (rule 28). Swift: common/storage_policy.py, ECStoragePolicy.quorum.
func quorum(pl *place) int { return (pl.code.K() + 1) * pl.pol.Duplication }

// partition is that of an object's name, /account/container/object.
func (c *Client) partition(pl *place, name string) int {
	return pl.ring.Partition(c.Swift.Hasher().Object(name))
}

// path is an object's path on a device, as it goes into a request.
func path(n *node, part int, name string) string {
	return netfast.Quote("/" + n.device + "/" + strconv.Itoa(part) + name)
}

// StatusError is an object's state, or that of the cluster, as an HTTP status says it: 404, 409, 412, 503.
type StatusError struct {
	Status int
	Reason string
}

func (e *StatusError) Error() string { return e.Reason }

// ErrNotFound is wrapped by the error of an object that is not there, or is there no more.
var ErrNotFound = errors.New("no such object")

// each does something with every node at once.
func each(list []*node, do func(i int, n *node)) {
	var wg sync.WaitGroup
	for i, n := range list {
		wg.Go(func() { do(i, n) })
	}
	wg.Wait()
}

func cause(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
