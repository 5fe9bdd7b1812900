package embedded

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"imping/swift/objhash"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

const account = "AUTH_test"

// Account is the account of Do.
func (c *Cluster) Account() string { return account }

// Do is a request of the account's user: PUT of a container, with X-Storage-Policy, and PUT,
// POST, DELETE and GET of an object. Names are plain. What is stored lies on all primaries
// when it returns, whether their nodes run or not; a GET asks the nodes, as a proxy does. The
// answer's status is not judged; its body is to be closed.
func (c *Cluster) Do(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
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

func (c *Cluster) doContainer(method, container string, header http.Header) *http.Response {
	if method != http.MethodPut {
		return response(http.StatusMethodNotAllowed)
	}
	p := c.swift.Default()
	if name := header.Get("X-Storage-Policy"); name != "" {
		p = c.swift.ByName(name)
	}
	if p == nil || container == "" || strings.Contains(container, "/") {
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
	cluster   *Cluster
	name      string // /account/container/object
	partition int
	primaries []ring.Node
}

func (c *Cluster) object(pl *place, container, name string) *object {
	o := &object{place: pl, cluster: c, name: "/" + account + "/" + container + "/" + name}
	o.partition = objhash.Partition(c.swift.Hasher().Object(o.name), pl.ring.PartPower)
	o.primaries = pl.ring.PartNodes(o.partition)
	return o
}

// now is later than all that it was before: two requests never have one time.
func (c *Cluster) now() timestamp.Timestamp {
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
