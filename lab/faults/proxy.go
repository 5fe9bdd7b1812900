package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy stands at one node's replication address. Its methods may be called from several
// goroutines.
type Proxy struct {
	addr     string
	upstream string
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	accepts  sync.WaitGroup
	open     atomic.Int64

	mu       sync.Mutex
	listener net.Listener // nil while the node is down
	conns    map[*conn]struct{}
	faults   []*Fault
}

// Listen makes a proxy at addr for the server at upstream.
func Listen(addr, upstream string) (*Proxy, error) {
	p := &Proxy{addr: addr, upstream: upstream, conns: map[*conn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.listen(); err != nil {
		p.cancel()
		return nil, err
	}
	return p, nil
}

// listen takes the address. Caller holds mu.
func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return fmt.Errorf("cannot stand at %s: %w", p.addr, err)
	}
	p.addr, p.listener = l.Addr().String(), l
	p.accepts.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				// Out of descriptors, or a connection that went away: no reason to end.
				select {
				case <-p.ctx.Done():
					return
				case <-time.After(10 * time.Millisecond):
				}
				continue
			}
			p.take(&conn{proxy: p, client: c.(*net.TCPConn), in: bufio.NewReaderSize(c, bufSize)})
		}
	})
	return nil
}

func (p *Proxy) take(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil { // down since
		c.client.Close()
		return
	}
	p.conns[c] = struct{}{}
	p.open.Add(1)
	p.wg.Go(func() {
		c.serve()
		c.close()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		p.open.Add(-1)
	})
}

// Addr is where the proxy stands.
func (p *Proxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Open is the number of connections that clients have to the proxy.
func (p *Proxy) Open() int64 { return p.open.Load() }

// Inject adds faults.
func (p *Proxy) Inject(faults ...*Fault) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range faults {
		f.lifted = make(chan struct{})
		f.struck.Store(0)
		if f.Kind == Down {
			var err error
			if f.refused, err = failedAttempts(); err != nil {
				return err
			}
			p.down()
		}
		p.faults = append(p.faults, f)
	}
	return nil
}

// down stops listening and hangs up on everybody. Caller holds mu.
func (p *Proxy) down() {
	if p.listener == nil {
		return
	}
	p.listener.Close()
	p.listener = nil
	for c := range p.conns {
		c.close()
	}
}

// Lift ends all faults: what stalls goes on (an SSYNC session ends), what is down comes
// back.
func (p *Proxy) Lift() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		close(f.lifted)
		if f.Kind == Down {
			n, err := failedAttempts()
			if err != nil {
				return err
			}
			f.struck.Store(n - f.refused)
		}
	}
	p.faults = nil
	if p.listener == nil && p.ctx.Err() == nil {
		return p.listen()
	}
	return nil
}

// Close hangs up on everybody and gives the address back.
func (p *Proxy) Close() {
	p.cancel()
	p.mu.Lock()
	for _, f := range p.faults {
		close(f.lifted)
	}
	p.faults = nil
	p.down()
	p.mu.Unlock()
	p.accepts.Wait()
	p.wg.Wait()
}

// on are the faults of the given kinds that the device asked has now.
func (p *Proxy) on(r *request, kinds ...Kind) []*Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*Fault
	for _, f := range p.faults {
		if f.Device == r.device && (f.Method == "" || f.Method == r.method) && slices.Contains(kinds, f.Kind) {
			list = append(list, f)
		}
	}
	return list
}

// struck is the device's first fault of the given kinds that strikes now, or nil.
func (p *Proxy) struck(r *request, kinds ...Kind) *Fault {
	for _, f := range p.on(r, kinds...) {
		if f.strike() {
			return f
		}
	}
	return nil
}

// request is what the proxy needs to know of a request.
type request struct {
	raw     []byte // the head as it came, with its blank line
	method  string
	device  string
	length  int64 // of a body of known length
	chunked bool
}

// maxHead bounds the head of a request or an answer: Swift's is 8 KiB a line.
const (
	bufSize = 64 << 10
	maxHead = 256 << 10
)

// readHead reads up to and with the blank line.
func readHead(in *bufio.Reader) ([]byte, error) {
	var raw []byte
	for {
		line, err := in.ReadSlice('\n')
		raw = append(raw, line...)
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return raw, err
		case len(raw) > maxHead:
			return raw, fmt.Errorf("a head of more than %d bytes", maxHead)
		case err == nil && len(strings.TrimRight(string(line), "\r\n")) == 0:
			return raw, nil
		}
	}
}

func parseRequest(raw []byte) (*request, error) {
	r := &request{raw: raw}
	h, err := parseHead(raw)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(h.first)
	if len(words) != 3 || !strings.HasPrefix(words[1], "/") {
		return nil, fmt.Errorf("not a request: %.100q", h.first)
	}
	r.method = words[0]
	r.device, _, _ = strings.Cut(words[1][1:], "/")
	r.chunked = h.chunked
	r.length = max(h.length, 0)
	return r, nil
}
