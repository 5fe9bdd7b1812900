package netfast

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Requests for short answers share one connection per device: they are written several at a time, and so come their answers, in their
// order (RFC 9112, 9.3.2). A short answer costs mostly system calls and waking up, on both sides, and many share one then. It is done
// only where the peer says that it wants to: behind the address of Swift's servers may be several processes, to which connections are
// dealt, not requests.
const (
	// Pipelining is the header with which a client asks for that and by which a server agrees.
	Pipelining = "X-Backend-Pipelining"
	// ShortAnswer is the length in bytes of the longest body that may come so.
	ShortAnswer = 16 << 10
	// pipeDepth is how many answers a connection may owe; further requests take others.
	pipeDepth = 32
	// wideBuffer is the reader of such a connection: a few short answers.
	wideBuffer = 16 << 10
	// slowAnswer is how long an answer may take when its turn has come, on the average of some. Disks that take longer find
	// shorter ways if they are asked for several things at once: for restFor each request has a connection.
	slowAnswer = 5 * time.Millisecond
	restFor    = time.Second
	// tooSlow is how long one answer may take with others behind it: they go alone then.
	tooSlow = 250 * time.Millisecond
)

// errAlone sends a request to a connection of its own.
var errAlone = errors.New("the connection was shared, and broke")

var shortBodies = sync.Pool{New: func() any { return new([ShortAnswer]byte) }}

// pipe is the connection to one device that short answers share.
type pipe struct {
	client *Client
	addr   string
	device string

	mu      sync.Mutex
	conn    *Conn         // nil while nothing is under way
	line    []*turn       // who waits for an answer, in the order of the requests
	unsent  int           // so many at the line's end were not written yet
	writing bool          // somebody writes
	pace    time.Duration // that answers take, averaged
	rest    time.Time     // the pipe is not used before
}

// turn is one request of a batch.
type turn struct {
	n     int // of the request in its batch
	addr  string
	r     *Request
	pipe  *pipe // in whose line it stands; nil: it went alone
	batch *Batch
	told  bool // the batch has the answer, or wants none any more; under pipe.mu
	resp  *Response
	err   error
}

// tell ends the turn. Caller holds pipe.mu, if there is one.
func (t *turn) tell(resp *Response, err error) {
	t.resp, t.err, t.told = resp, err, true
	t.batch.told <- t
}

// Batch is what one goroutine asks several peers at once. Short answers take no further goroutine, whose start, stack and waking
// up would cost more than the answer does.
type Batch struct {
	client *Client
	ctx    context.Context
	over   <-chan struct{} // nil once the lines were left
	told   chan *turn      // never blocks who tells
	asked  int
	given  int // answers
	inLine []*turn
	unsent []*pipe
}

// Batch makes a batch of which at most so many requests are under way at a time. ctx governs the bodies of answers, too.
func (c *Client) Batch(ctx context.Context, most int) *Batch {
	return &Batch{client: c, ctx: ctx, over: ctx.Done(), told: make(chan *turn, most)}
}

// Ask adds a request, which is safe to send twice; Next, which is to be called once for each, and soon, since others' requests may stand
// behind it, sends it. An answer that is expected
// to be short shares a connection where the peer agrees, and its body, if it has at most ShortAnswer bytes, may be in
// memory when it is given out: to read and close it takes no peer any more.
func (b *Batch) Ask(addr string, r *Request, short bool) {
	if b.asked-b.given == cap(b.told) {
		panic(fmt.Sprintf("BUG: more than %d requests of a batch are under way", cap(b.told)))
	}
	t := &turn{n: b.asked, addr: addr, r: r, batch: b}
	b.asked++
	if !short || b.ctx.Err() != nil {
		b.alone(t)
		return
	}
	p := b.client.pipe(addr, r.device())
	switch {
	case p == nil:
		go func() { t.tell(b.client.doAsking(b.ctx, addr, r)) }()
	case p.join(t):
		b.inLine = append(b.inLine, t)
		if !slices.Contains(b.unsent, p) {
			b.unsent = append(b.unsent, p)
		}
	default:
		b.alone(t)
	}
}

// alone sends a request over a connection of its own.
func (b *Batch) alone(t *turn) {
	t.pipe = nil
	go func() { t.tell(b.client.Do(b.ctx, t.addr, t.r)) }()
}

// Next waits for an answer, and says to which request: the n-th that was asked, from 0 on.
func (b *Batch) Next() (n int, resp *Response, err error) {
	b.send()
	for {
		var t *turn
		select {
		case t = <-b.told:
		case <-b.over:
			b.over = nil
			for _, t := range b.inLine {
				t.pipe.leave(t, fmt.Errorf("%s %s from %s: %w", t.r.Method, t.r.Path, t.addr, context.Cause(b.ctx)))
			}
			continue
		}
		if t.pipe == nil {
			b.given++
			return t.n, t.resp, t.err
		}
		b.inLine = slices.DeleteFunc(b.inLine, func(u *turn) bool { return u == t })
		if t.err == errAlone {
			b.alone(t)
			continue
		}
		if t.resp != nil && !t.resp.inMemory { // it is alone with its connection
			t.resp.stop = t.resp.conn.InterruptOn(b.ctx)
		}
		b.given++
		return t.n, t.resp, t.err
	}
}

// send writes the requests that stand in lines and were not sent.
func (b *Batch) send() {
	if len(b.unsent) == 0 {
		return
	}
	runtime.Gosched() // others may be about to come
	for _, p := range b.unsent {
		p.mu.Lock()
		p.write()
		p.mu.Unlock()
	}
	b.unsent = b.unsent[:0]
}

// doAsking is Do that asks the peer whether it agrees to pipelining.
func (c *Client) doAsking(ctx context.Context, addr string, r *Request) (*Response, error) {
	asking := *r
	asking.Header = append(r.Header[:len(r.Header):len(r.Header)], Field{Pipelining, "ask"})
	resp, err := c.Do(ctx, addr, &asking)
	if err != nil {
		return nil, err
	}
	agrees := resp.Header(Pipelining) != ""
	c.mu.Lock()
	defer c.mu.Unlock()
	if agrees || resp.Status == 200 && !c.agreed[addr] { // other answers say nothing of it
		c.agreed[addr] = agrees
	}
	return resp, err
}

// OneByOne reports whether the peer at addr was asked and did not agree that requests for short answers share connections.
func (c *Client) OneByOne(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	agreed, asked := c.agreed[addr]
	return asked && !agreed
}

// pipe is that of a device, nil where the peer has not agreed.
func (c *Client) pipe(addr, device string) *pipe {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.agreed[addr] {
		return nil
	}
	key := addr + "/" + device
	p := c.pipes[key]
	if p == nil {
		p = &pipe{client: c, addr: addr, device: device}
		c.pipes[key] = p
	}
	return p
}

// join lets a request stand in the line, unless it has to go elsewhere.
func (p *pipe) join(t *turn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.line) >= pipeDepth || time.Now().Before(p.rest) || p.conn == nil && !p.open() {
		return false
	}
	p.client.traffic.reused.Add(1)
	t.pipe = p
	p.line = append(p.line, t)
	p.unsent++
	return true
}

// open takes an idle connection. Caller holds mu.
func (p *pipe) open() bool {
	if p.conn = p.client.take(p.addr); p.conn == nil {
		return false
	}
	p.conn.widen(true)
	go p.read(p.conn)
	return true
}

// write sends what is unsent, unless somebody else is at it, who will do that. Caller holds mu, which is let go meanwhile.
func (p *pipe) write() {
	if p.writing {
		return
	}
	p.writing = true
	defer func() { p.writing = false }()
	for p.unsent > 0 {
		conn := p.conn
		out, err := conn.out[:0], error(nil)
		for _, t := range p.line[len(p.line)-p.unsent:] {
			if out, err = t.r.append(out, p.addr, p.client.opt.UserAgent); err != nil {
				break // whose it is finds it again, alone
			}
		}
		p.unsent = 0
		if err == nil {
			conn.out = out
			p.mu.Unlock()
			_, err = conn.Write(out)
			p.mu.Lock()
		}
		if err != nil && p.conn == conn {
			p.shut()
			conn.Interrupt(err)
		}
	}
}

// leave is for who does not wait any more, but for cause.
func (p *pipe) leave(t *turn, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.told {
		return
	}
	t.tell(nil, cause)
	for _, t := range p.line {
		if !t.told {
			return
		}
	}
	conn := p.conn
	p.shut()
	conn.Interrupt(context.Canceled)
}

// crowded reports whether the first one in the line is not alone there, or was not sent yet.
func (p *pipe) crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.line) > 1 || p.unsent > 0
}

// shut parts with the connection: who still waits goes alone. Caller holds mu.
func (p *pipe) shut() {
	for _, t := range p.line {
		if !t.told {
			t.tell(nil, errAlone)
		}
	}
	p.conn, p.line, p.unsent = nil, nil, 0
}

// read gives everyone in the line his answer, until the line is empty: then conn is idle again.
func (p *pipe) read(conn *Conn) {
	for answers := 0; ; answers++ {
		p.mu.Lock()
		for p.conn == conn && len(p.line) == 0 && p.writing { // Write is about to return
			p.mu.Unlock()
			runtime.Gosched()
			p.mu.Lock()
		}
		switch {
		case p.conn != conn:
			p.mu.Unlock()
			conn.Close()
			return
		case len(p.line) == 0:
			p.conn = nil
			p.mu.Unlock()
			if conn.br.Buffered() > 0 {
				conn.Close()
				return
			}
			conn.widen(false)
			p.client.put(conn)
			return
		}
		t := p.line[0]
		p.mu.Unlock()

		began := time.Now()
		resp, keep, err := conn.short(t.r)
		took := time.Since(began)
		switch {
		case err == nil:
			p.client.fine(p.addr, p.device)
		case isStale(conn, err):
			p.client.traffic.stale.Add(1)
			err = errAlone
		case IsTimeout(err) && conn.Interrupted() == nil && p.crowded():
			err = errAlone // the peer may be at another's, and have the answer ready, or not have been asked
		case conn.Interrupted() == nil:
			p.client.fault(p.addr, p.device, err)
			err = fmt.Errorf("%s %s from %s: %w", t.r.Method, t.r.Path, p.addr, err)
		}

		p.mu.Lock()
		if p.conn != conn { // t was told already
			p.mu.Unlock()
			if resp != nil {
				resp.Close()
			}
			conn.Close()
			return
		}
		if p.pace += (took - p.pace) / 8; p.pace > slowAnswer || took > tooSlow {
			p.rest, p.pace = time.Now().Add(restFor), 0
		}
		if p.unsent == len(p.line) && err == nil { // it was not asked yet: what came is nobody's answer
			p.shut()
			p.mu.Unlock()
			resp.Close()
			conn.Close()
			return
		}
		p.line = p.line[1:]
		keep = keep && took <= tooSlow // the others would wait as long, each for all before it
		switch {
		case !t.told:
			t.tell(resp, err)
		case resp != nil:
			resp.Close()
		}
		if !keep {
			p.shut()
		}
		p.mu.Unlock()
		if !keep {
			if err != nil {
				p.client.disagree(p.addr)
			}
			if resp == nil || resp.inMemory {
				conn.Close()
			}
			return
		}
	}
}

// disagree has the peer at addr asked anew.
func (c *Client) disagree(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.agreed, addr)
}

// short reads an answer, its body included if it is short. keep says that the next answer can follow. A response whose body
// is not in memory has the connection for itself, and closes it.
func (c *Conn) short(r *Request) (resp *Response, keep bool, err error) {
	resp, err = c.Receive(r)
	if err != nil {
		return nil, false, err
	}
	if !resp.ended && (resp.length < 0 || resp.length > ShortAnswer || resp.chunked) {
		return resp, false, nil
	}
	var memory *[ShortAnswer]byte
	if !resp.ended {
		memory = shortBodies.Get().(*[ShortAnswer]byte)
		if _, err := resp.ReadFull(memory[:resp.length]); err != nil {
			shortBodies.Put(memory)
			return nil, false, err
		}
		resp.offset, resp.left, resp.ended = 0, resp.length, false
		resp.memory = memory
	}
	resp.inMemory = true
	return resp, resp.keep, nil
}

// widen has the connection read many short answers at a time, or not. Nothing may be in its buffer.
func (c *Conn) widen(on bool) {
	switch {
	case !on:
		c.br = c.page
	case c.wide == nil:
		c.page, c.wide = c.br, bufio.NewReaderSize(c, wideBuffer)
		fallthrough
	default:
		c.br = c.wide
	}
}
