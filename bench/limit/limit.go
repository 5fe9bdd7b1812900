// Package limit moves the bytes of a rebuild and does nothing else with them: survivors are fetched by one reused buffer per
// stream and dropped, while as many archives, of made up bytes, are sent to the same servers by the same SSYNC sessions. No
// rebuild on the same machine can be expected to be faster. It knows no engine: neither rings, jobs, headers nor codes.
package limit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/timestamp"
)

// Plan is what is to be moved.
type Plan struct {
	InFlight int // objects that are fetched at once
	Objects  []Object
	Targets  [][]Session // of each target one after another, of all targets at once, beside the objects
}

// Object is what one rebuild reads.
type Object struct {
	Local   string // path of the local archive; "" for none
	Length  int    // of each archive
	Sources []Source
}

// Source is an archive at a peer.
type Source struct {
	Addr, Device      string // host:port
	Partition, Policy int
	Path              string // /account/container/object, quoted
}

// Session is what one SSYNC session brings.
type Session struct {
	Target ssync.Target
	Puts   []Put
}

// Put is an archive to send.
type Put struct {
	Hash  string // of the object, hexadecimal
	Stamp timestamp.Timestamp
	Head  ssync.PutHead
}

// FragmentSize is how much of an archive is sent at once: a fragment of a segment of 1 MiB at 10+4, as a rebuild has it.
const FragmentSize = 104938

// BufferSize is the size of a stream's buffer. 64 KiB to 256 KiB are equally fast on loopback; with 1 MiB the cache is missed.
const BufferSize = 128 << 10

// Body is what every archive that is sent consists of, over and over.
func Body() []byte { return bytes.Repeat([]byte("imping\n."), FragmentSize/8+1)[:FragmentSize] }

// Run moves what the plan says.
func Run(ctx context.Context, p *Plan) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return fetchAll(ctx, p) })
	client := netfast.NewClient(netfast.Options{ConnTimeout: 5 * time.Second, NodeTimeout: time.Minute, UserAgent: "obj-reconstructor 1"})
	defer client.Close()
	for _, sessions := range p.Targets {
		group.Go(func() error {
			for i := range sessions {
				if err := Send(ctx, client, &sessions[i], Body()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func fetchAll(ctx context.Context, p *Plan) error {
	conns := &pool{idle: map[string][]*Conn{}}
	defer conns.close()
	defer context.AfterFunc(ctx, conns.close)()
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range p.InFlight {
		group.Go(func() error {
			local := make([]byte, BufferSize)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(p.Objects) || ctx.Err() != nil {
					return ctx.Err()
				}
				if err := fetch(ctx, conns, &p.Objects[i], local); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// fetch reads the archives of an object, all at once.
func fetch(ctx context.Context, conns *pool, o *Object, buf []byte) error {
	var group errgroup.Group
	for i := range o.Sources {
		group.Go(func() error {
			s := &o.Sources[i]
			c, err := conns.get(ctx, s.Addr)
			if err != nil {
				return err
			}
			if err := c.Get(s, o.Length); err != nil {
				return err
			}
			conns.put(s.Addr, c)
			return nil
		})
	}
	var err error
	if o.Local != "" {
		err = drop(o.Local, o.Length, buf)
	}
	return errors.Join(err, group.Wait())
}

// drop reads a file.
func drop(path string, length int, buf []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	all := 0
	for {
		n, err := f.Read(buf)
		all += n
		if err == io.EOF && all == length {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w after %d of %d bytes", path, err, all, length)
		}
	}
}

// Conn is a keep-alive connection with its buffer. It is used by one goroutine at a time.
type Conn struct {
	conn net.Conn
	buf  []byte
	out  []byte
}

// Dial connects to a server.
func Dial(ctx context.Context, addr string) (*Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Conn{conn: conn, buf: make([]byte, BufferSize)}, nil
}

// Close ends the connection, and what is under way on it.
func (c *Conn) Close() error { return c.conn.Close() }

// Get asks for an archive of that length and drops it. Status and length are looked at.
func (c *Conn) Get(s *Source, length int) error {
	c.out = fmt.Appendf(c.out[:0], "GET /%s/%d%s HTTP/1.1\r\nHost: x\r\nX-Backend-Storage-Policy-Index: %d\r\nX-Backend-Replication: True\r\n"+
		"X-Backend-Fragment-Preferences: []\r\nUser-Agent: obj-reconstructor 1\r\n\r\n", s.Device, s.Partition, s.Path, s.Policy)
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	n, head := 0, 0
	for head == 0 || n < head+length {
		at := c.buf
		if head == 0 {
			at = c.buf[n:]
		}
		m, err := c.conn.Read(at)
		if err != nil {
			return fmt.Errorf("%s of %s/%s: after %d bytes: %w", s.Path, s.Addr, s.Device, n, err)
		}
		n += m
		if head == 0 {
			if i := bytes.Index(c.buf[:n], []byte("\r\n\r\n")); i > 0 {
				head = i + 4
				want := "\r\nContent-Length: " + strconv.Itoa(length) + "\r\n"
				if !bytes.HasPrefix(c.buf, []byte("HTTP/1.1 200 ")) || !bytes.Contains(c.buf[:head], []byte(want)) {
					return fmt.Errorf("%s of %s/%s: answered %q", s.Path, s.Addr, s.Device, c.buf[:head])
				}
			} else if n == len(c.buf) {
				return errors.New("a head longer than the buffer")
			}
		}
	}
	if n != head+length {
		return fmt.Errorf("%s of %s/%s: %d bytes too many", s.Path, s.Addr, s.Device, n-head-length)
	}
	return nil
}

// pool is connections, as many per address as were needed at once.
type pool struct {
	mu     sync.Mutex
	idle   map[string][]*Conn
	all    []*Conn
	closed bool
}

func (p *pool) get(ctx context.Context, addr string) (*Conn, error) {
	p.mu.Lock()
	if list := p.idle[addr]; len(list) > 0 {
		c := list[len(list)-1]
		p.idle[addr] = list[:len(list)-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	c, err := Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	p.all = append(p.all, c)
	return c, nil
}

func (p *pool) put(addr string, c *Conn) {
	p.mu.Lock()
	p.idle[addr] = append(p.idle[addr], c)
	p.mu.Unlock()
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.all {
		c.Close()
	}
}

// Send brings archives by one SSYNC session: their bytes are those of body, over and over.
func Send(ctx context.Context, client *netfast.Client, s *Session, body []byte) error {
	timeouts := ssync.Timeouts{Conn: 5 * time.Second, Node: time.Minute, HTTP: time.Minute}
	session, err := ssync.Open(ctx, client, s.Target, timeouts)
	if err != nil {
		return err
	}
	defer session.Close()
	by := map[string]*Put{}
	if err := session.Offer(ctx, func(yield func(ssync.Offer) bool) {
		for i := range s.Puts {
			p := &s.Puts[i]
			by[p.Hash] = p
			if !yield(ssync.Offer{Hash: p.Hash, Data: p.Stamp}) {
				return
			}
		}
	}); err != nil {
		return err
	}
	wanted, err := session.Wanted(ctx)
	if err != nil {
		return err
	}
	if len(wanted) != len(s.Puts) {
		return fmt.Errorf("%s/%s/%d wants %d of %d archives", s.Target.Addr, s.Target.Device, s.Target.Partition, len(wanted), len(s.Puts))
	}
	for _, w := range wanted {
		p := by[w.Hash]
		if p == nil {
			return fmt.Errorf("%s/%s/%d wants %s, which was not offered", s.Target.Addr, s.Target.Device, s.Target.Partition, w.Hash)
		}
		put, err := session.Put(p.Head)
		if err != nil {
			return err
		}
		for left := p.Head.Length; left > 0; {
			n := min(left, int64(len(body)))
			if err := put.WriteFragment(body[:n]); err != nil {
				return err
			}
			left -= n
		}
		if err := put.Commit(ctx); err != nil {
			return err
		}
	}
	return session.Finish(ctx)
}
