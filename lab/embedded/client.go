package embedded

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"imping/codec"
	"imping/io/diskfile"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// Store puts objects on the disks of a cluster, whoever serves it, as Swift's proxy and object servers would have left them. Its
// methods are goroutine-safe.
type Store struct {
	nodeOf map[string]int // by device
	client *http.Client
	swift  *policy.Swift
	places map[int]*place // by policy index

	mu         sync.Mutex
	containers map[string]int // policy index
	last       timestamp.Timestamp
}

// place is where the objects of a policy go.
type place struct {
	*policy.Policy
	code  *codec.Code
	ring  *ring.Ring
	files map[int]*diskfile.Manager // by node
}

// OpenStore reads a cluster's swift.conf and its rings, which lie beside it, as everyone else does. Of policies, it stores those that
// are erasure-coded.
func OpenStore(swiftConf string, nodes []int, devices func(node int) []string, path func(device string) string) (*Store, error) {
	s := &Store{nodeOf: map[string]int{}, places: map[int]*place{}, containers: map[string]int{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}}}
	var err error
	if s.swift, err = policy.Load(swiftConf); err != nil {
		return nil, err
	}
	for _, p := range s.swift.Policies {
		if p.Type != policy.ErasureCoding {
			continue
		}
		pl := &place{Policy: p, files: map[int]*diskfile.Manager{}}
		s.places[p.Index] = pl
		if pl.code, err = codec.New(codec.Scheme{Type: p.ECType, K: p.Data, M: p.Parity}); err != nil {
			return nil, err
		}
		if pl.ring, err = ring.Load(filepath.Join(filepath.Dir(swiftConf), ring.Name(p.Index)+".ring.gz")); err != nil {
			return nil, err
		}
		for _, n := range nodes {
			for _, dev := range devices(n) {
				s.nodeOf[dev] = n
			}
			pl.files[n] = diskfile.NewManager(diskfile.Config{
				Devices: filepath.Dir(path(devices(n)[0])), Policy: p, Hasher: s.swift.Hasher(),
				ReclaimAge: diskfile.DefaultReclaimAge, CommitWindow: diskfile.DefaultCommitWindow, NoFallocate: true,
			})
		}
	}
	return s, nil
}

// Close drops idle connections.
func (s *Store) Close() { s.client.CloseIdleConnections() }

const account = "AUTH_test"

// Account is the account of Do.
func (c *Store) Account() string { return account }

// Do is a request of the account's user: PUT of a container, with X-Storage-Policy, and PUT,
// POST, DELETE and GET of an object. Names are plain. What is stored lies on all primaries
// when it returns, whether their nodes run or not; a GET asks the nodes, as a proxy does. The
// answer's status is not judged; its body is to be closed.
func (c *Store) Do(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	if object == "" {
		return c.doContainer(method, container, header), nil
	}
	c.mu.Lock()
	index, ok := c.containers[container]
	c.mu.Unlock()
	if !ok {
		return response(http.StatusNotFound), nil
	}
	o := c.object(c.places[index], container, object)
	switch method {
	case http.MethodPut:
		return o.put(ctx, header, body, size)
	case http.MethodPost:
		return o.post(header)
	case http.MethodDelete:
		return o.delete()
	case http.MethodGet:
		return o.get(ctx)
	}
	return response(http.StatusMethodNotAllowed), nil
}

func (c *Store) doContainer(method, container string, header http.Header) *http.Response {
	if method != http.MethodPut {
		return response(http.StatusMethodNotAllowed)
	}
	p := c.swift.Default()
	if name := header.Get("X-Storage-Policy"); name != "" {
		p = c.swift.ByName(name)
	}
	if p == nil || p.Type != policy.ErasureCoding || container == "" || strings.Contains(container, "/") {
		return response(http.StatusBadRequest)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if index, ok := c.containers[container]; ok && index != p.Index {
		return response(http.StatusConflict)
	}
	c.containers[container] = p.Index
	return response(http.StatusCreated)
}

// object is an object and where it belongs.
type object struct {
	*place
	cluster   *Store
	name      string // /account/container/object
	partition int
	primaries []ring.Node
}

func (c *Store) object(pl *place, container, name string) *object {
	o := &object{place: pl, cluster: c, name: "/" + account + "/" + container + "/" + name}
	o.partition = objhash.Partition(c.swift.Hasher().Object(o.name), pl.ring.PartPower)
	o.primaries = pl.ring.PartNodes(o.partition)
	return o
}

// now is later than all that it was before: two requests never have one time.
func (c *Store) now() timestamp.Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := timestamp.FromTime(time.Now())
	if !t.After(c.last) {
		t = c.last.Add(1)
	}
	c.last = t
	return t
}

func response(status int) *http.Response {
	return &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
	}
}
