package netfast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Options of a Client; zero values mean the defaults named below, except for the
// timeouts, where 0 waits for ever.
type Options struct {
	ConnTimeout time.Duration // Swift: conn_timeout
	NodeTimeout time.Duration // Swift: node_timeout; no progress for so long
	UserAgent   string        // sent with every request unless empty
	IdlePerHost int           // idle connections kept per host:port
	IdleFor     time.Duration // and how long each may stay idle
}

const (
	// defaultIdlePerHost covers a peer that holds one fragment of each object in
	// flight; further ones are closed after use, which costs a dial later.
	defaultIdlePerHost = 16
	// defaultIdleFor is half of the keep-alive of Swift's servers (client_timeout,
	// 60 s): longer ones would mostly be found closed by the peer.
	defaultIdleFor = 30 * time.Second
)

// Client dials peers and keeps idle connections to them, last used first taken.
// It is safe for use by many goroutines.
type Client struct {
	opt     Options
	traffic traffic

	mu     sync.Mutex
	health map[string]*health // of what is in trouble, by host:port and host:port/device
	agreed map[string]bool    // to pipelining, or not, by host:port, once they were asked
	pipes  map[string]*pipe   // by host:port/device
	idle   map[string][]*Conn // oldest first
	reaper *time.Timer        // runs only while there is something idle
	closed bool
}

// Counters is what a client did since it was made.
type Counters struct {
	Dials    int64 // connections opened
	Reused   int64 // requests sent over an idle connection
	Stale    int64 // of these, repeated on a new connection because the peer had closed
	Buffered int64 // body bytes that passed through a connection's buffer
	Direct   int64 // body bytes read straight into the caller's memory
}

// NewClient makes a client; nothing is dialled yet.
func NewClient(o Options) *Client {
	if o.IdlePerHost == 0 {
		o.IdlePerHost = defaultIdlePerHost
	}
	if o.IdleFor == 0 {
		o.IdleFor = defaultIdleFor
	}
	return &Client{opt: o, idle: make(map[string][]*Conn), health: make(map[string]*health),
		agreed: make(map[string]bool), pipes: make(map[string]*pipe)}
}

// Counters reads the client's counters.
func (c *Client) Counters() Counters {
	t := &c.traffic
	return Counters{Dials: t.dials.Load(), Reused: t.reused.Load(), Stale: t.stale.Load(),
		Buffered: t.buffered.Load(), Direct: t.direct.Load()}
}

// UserAgent is what the client calls itself.
func (c *Client) UserAgent() string { return c.opt.UserAgent }

// Close closes the idle connections. Those in use are closed when their responses
// are; new requests may still be made, on connections that are not kept.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.reaper != nil {
		c.reaper.Stop()
	}
	for _, conns := range c.idle {
		closeAll(conns)
	}
	clear(c.idle)
}

// Dial opens a connection of the caller's own, which never enters the pool. The
// timeouts are the connection's: conn bounds the dial, node is its progress
// timeout in both directions.
func (c *Client) Dial(ctx context.Context, addr string, conn, node time.Duration) (*Conn, error) {
	d := net.Dialer{Timeout: conn}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else {
			c.fault(addr, "", err)
		}
		return nil, fmt.Errorf("cannot connect to %s: %w", addr, err)
	}
	c.traffic.dials.Add(1)
	return newConn(nc.(*net.TCPConn), addr, node, &c.traffic), nil
}

// Do sends r, which has no body, and reads the head of the answer. The end of ctx
// interrupts the exchange, reads of the body included. A connection from the pool
// that the peer closed before answering is replaced once by a new one, so r must
// be safe to send twice.
func (c *Client) Do(ctx context.Context, addr string, r *Request) (*Response, error) {
	return c.Start(ctx, addr, r).Answer(ctx)
}

// Exchange is a request that was sent, on a connection of its own: no answer can be taken
// for that of another. Either its Answer is to be taken, or it is to be dropped.
type Exchange struct {
	client *Client
	addr   string
	r      *Request
	conn   *Conn // nil: there is none
	err    error // why it was not sent
}

// Start is the first half of Do: it sends r and waits for nothing but a new connection, where
// it needs one; ctx ends that wait. Many requests can be under way so without a goroutine
// for each, whose waking up, one by one, costs more than all the rest of a small answer.
func (c *Client) Start(ctx context.Context, addr string, r *Request) *Exchange {
	e := &Exchange{client: c, addr: addr, r: r, conn: c.take(addr)}
	if e.conn == nil {
		e.dial(ctx)
	} else {
		c.traffic.reused.Add(1)
	}
	e.send()
	return e
}

func (e *Exchange) dial(ctx context.Context) {
	o := &e.client.opt
	e.conn, e.err = e.client.Dial(ctx, e.addr, o.ConnTimeout, o.NodeTimeout)
}

func (e *Exchange) send() {
	if e.conn != nil {
		e.err = e.conn.Send(e.r, e.client.opt.UserAgent)
	}
}

// Answer is the other half of Do. The request's HeadTimeout counts from here on.
func (e *Exchange) Answer(ctx context.Context) (*Response, error) {
	resp, err := e.receive(ctx)
	if err == nil || e.conn == nil || !e.conn.reused || !isStale(e.conn, err) {
		return resp, err
	}
	e.client.traffic.stale.Add(1)
	e.client.forget(e.addr) // a peer that closed one has mostly closed all
	e.dial(ctx)
	e.send()
	return e.receive(ctx)
}

// Drop is for an answer that nobody wants any more.
func (e *Exchange) Drop() {
	if e.conn != nil {
		e.conn.Close()
	}
}

// receive closes the connection on error.
func (e *Exchange) receive(ctx context.Context) (*Response, error) {
	c, conn, r := e.client, e.conn, e.r
	if conn == nil {
		return nil, e.err
	}
	stop := conn.InterruptOn(ctx)
	var resp *Response
	err := e.err
	if err == nil {
		resp, err = conn.Receive(r)
	}
	if err != nil {
		stop()
		conn.Close()
		if !errors.Is(ctx.Err(), context.Canceled) && (!conn.reused || !isStale(conn, err)) {
			c.fault(conn.addr, r.device(), err)
		}
		return nil, fmt.Errorf("%s %s from %s: %w", r.Method, r.Path, conn.addr, err)
	}
	c.fine(conn.addr, r.device())
	resp.client, resp.stop = c, stop
	return resp, nil
}

// unanswered marks an exchange that failed before the first byte of its answer.
type unanswered struct{ error }

func (u unanswered) Unwrap() error { return u.error }

// isStale says that the peer had closed the connection before it saw the request.
// A peer that is merely silent, and an interrupted exchange, are not stale.
func isStale(conn *Conn, err error) bool {
	var u unanswered
	return errors.As(err, &u) && conn.Interrupted() == nil && !IsTimeout(err)
}

// take returns the idle connection to addr that was used last, or nil.
func (c *Client) take(addr string) *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	conns := c.idle[addr]
	if len(conns) == 0 {
		return nil
	}
	conn := conns[len(conns)-1]
	if time.Since(conn.idleSince) > c.opt.IdleFor {
		closeAll(conns)
		delete(c.idle, addr)
		return nil
	}
	conns[len(conns)-1] = nil
	c.idle[addr] = conns[:len(conns)-1]
	conn.reused = true
	return conn
}

// put keeps conn for the next request to the same peer.
func (c *Client) put(conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conns := c.idle[conn.addr]
	if c.closed || len(conns) >= c.opt.IdlePerHost {
		conn.Close()
		return
	}
	conn.idleSince = time.Now()
	c.idle[conn.addr] = append(conns, conn)
	if c.reaper == nil {
		c.reaper = time.AfterFunc(c.opt.IdleFor, c.reap)
	}
}

// forget closes the idle connections to addr.
func (c *Client) forget(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	closeAll(c.idle[addr])
	delete(c.idle, addr)
}

// reap closes what has been idle for too long and comes back while anything is left.
func (c *Client) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reaper = nil
	if c.closed {
		return
	}
	now := time.Now()
	for addr, conns := range c.idle {
		old := 0
		for old < len(conns) && now.Sub(conns[old].idleSince) >= c.opt.IdleFor {
			old++
		}
		closeAll(conns[:old])
		if old == len(conns) {
			delete(c.idle, addr)
		} else {
			c.idle[addr] = append([]*Conn(nil), conns[old:]...)
		}
	}
	if len(c.idle) > 0 {
		c.reaper = time.AfterFunc(c.opt.IdleFor, c.reap)
	}
}

func closeAll(conns []*Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}
