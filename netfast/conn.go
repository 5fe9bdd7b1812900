// Package netfast holds bytes on the wire: HTTP/1.1 connections of our own with
// progress timeouts, a pool of idle ones per peer, and response bodies that are
// read straight into the caller's memory. It knows no Swift: what is asked of
// whom, and what an answer means, is in the packages below it.
package netfast

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is the reader of every connection: one page, enough for the response
// head of nearly every object. Whatever of a body arrives in the same read(2) as
// the head is copied once; a larger buffer would copy more, a smaller one would
// split ordinary heads.
const bufferSize = 4096

// ErrSlow is wrapped by the errors of reads and writes that used up the time that they
// were given in all, whatever progress they made. IsTimeout is true of them.
var ErrSlow = fmt.Errorf("the peer is too slow: %w", os.ErrDeadlineExceeded)

// aLongTimeAgo is the deadline that wakes blocked reads and writes at once.
var aLongTimeAgo = time.Unix(1, 0)

// Conn is one TCP connection to one peer. Its timeouts mean "no progress for so
// long": every read and write starts its own, and a write that moved some bytes
// before it expired goes on. One goroutine may read while another one writes;
// Interrupt and Close may be called from anywhere.
type Conn struct {
	tcp     *net.TCPConn
	br      *bufio.Reader
	page    *bufio.Reader // br, and what it may be instead: see widen
	wide    *bufio.Reader
	addr    string
	traffic *traffic

	readTimeout, writeTimeout time.Duration
	readBy                    time.Time // unless zero, reads end then, progress or not
	readLimit, writeLimit     time.Time // unless zero, they end then at the latest: ErrSlow

	cause atomic.Pointer[error] // of the first Interrupt

	out  []byte // request head under construction
	held []byte // answers that wait for the next

	reused    bool      // came from the pool
	idleSince time.Time // owned by the pool
}

// traffic is what a client's connections count: plain atomics, moved where the
// bytes move.
type traffic struct {
	dials, reused, stale, buffered, direct atomic.Int64
}

func newConn(tcp *net.TCPConn, addr string, node time.Duration, t *traffic) *Conn {
	c := &Conn{tcp: tcp, addr: addr, readTimeout: node, writeTimeout: node, traffic: t}
	c.br = bufio.NewReaderSize(c, bufferSize)
	return c
}

// Addr is the peer, host:port, as it was dialled.
func (c *Conn) Addr() string { return c.addr }

// SetTimeouts replaces both progress timeouts; 0 waits for ever. Not to be called
// while a read or write is under way.
func (c *Conn) SetTimeouts(read, write time.Duration) { c.readTimeout, c.writeTimeout = read, write }

// ReadBy replaces the progress timeout of all reads by one end for them together,
// until it is called with the zero time. Not to be called while a read is under way.
func (c *Conn) ReadBy(end time.Time) { c.readBy = end }

// WriteBy ends all writes at that time at the latest, with ErrSlow, until it is called with
// the zero time. Not to be called while a write is under way.
func (c *Conn) WriteBy(end time.Time) { c.writeLimit = end }

// Read is one read(2) into p, past the connection's buffer: it is what that buffer
// reads from. Use the Response for bodies.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	by := c.readBy
	if by.IsZero() && c.readTimeout > 0 {
		by = time.Now().Add(c.readTimeout)
	}
	by, limited := earlier(by, c.readLimit)
	if err := c.tcp.SetReadDeadline(by); err != nil {
		return 0, c.explain("reading from", c.readTimeout, err)
	}
	// Interrupt stores its cause before it moves the deadline, so that it can not
	// be lost between the line above and the read below.
	if p := c.cause.Load(); p != nil {
		return 0, c.explain("reading from", c.readTimeout, *p)
	}
	n, err := c.tcp.Read(p)
	if err != nil && limited && errors.Is(err, os.ErrDeadlineExceeded) && c.cause.Load() == nil {
		err = fmt.Errorf("reading from %s: %w", c.addr, ErrSlow)
	} else if err != nil {
		err = c.explain("reading from", c.readTimeout, err)
	}
	return n, err
}

// earlier is the earlier one of a deadline and a limit, of which zero means never, and
// whether it is the limit.
func earlier(by, limit time.Time) (time.Time, bool) {
	if !limit.IsZero() && (by.IsZero() || limit.Before(by)) {
		return limit, true
	}
	return by, false
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	n, err := c.progress(func() (int64, error) {
		n, err := c.tcp.Write(p)
		p = p[n:]
		return int64(n), err
	})
	return int(n), err
}

// Writev writes all of bufs with writev(2), without copying, and consumes them as
// net.Buffers.WriteTo does.
func (c *Conn) Writev(bufs *net.Buffers) (int64, error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	return c.progress(func() (int64, error) { return bufs.WriteTo(c.tcp) })
}

// holdMost is how many bytes of answers wait for another one.
const holdMost = 32 << 10

// Answer is Writev of a short answer to a request. If another request has come already, it waits for that one's answer, to go out with it: until
// the next read from the peer, or write, at the latest.
func (c *Conn) Answer(head, body []byte) error {
	if c.br.Buffered() > 0 && len(c.held)+len(head)+len(body) <= holdMost {
		c.held = append(append(c.held, head...), body...)
		return nil
	}
	bufs := net.Buffers{c.held, head, body}
	if len(c.held) == 0 {
		bufs = bufs[1:]
	}
	c.held = c.held[:0]
	_, err := c.Writev(&bufs)
	return err
}

// Flush writes the answers that wait.
func (c *Conn) Flush() error {
	if len(c.held) == 0 {
		return nil
	}
	held := c.held
	c.held = held[:0]
	_, err := c.Write(held)
	return err
}

// progress repeats a write that consumes what it has written, until it is complete, fails or
// moves nothing for the write timeout.
func (c *Conn) progress(write func() (int64, error)) (int64, error) {
	var total int64
	for {
		var by time.Time
		if c.writeTimeout > 0 {
			by = time.Now().Add(c.writeTimeout)
		}
		by, limited := earlier(by, c.writeLimit)
		if err := c.tcp.SetWriteDeadline(by); err != nil {
			return total, c.explain("writing to", c.writeTimeout, err)
		}
		if p := c.cause.Load(); p != nil {
			return total, c.explain("writing to", c.writeTimeout, *p)
		}
		n, err := write()
		total += n
		if err == nil {
			return total, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && c.cause.Load() == nil {
			if limited {
				return total, fmt.Errorf("writing to %s: only %d bytes were taken: %w", c.addr, total, ErrSlow)
			}
			if n > 0 {
				continue // slow, but it moves
			}
		}
		return total, c.explain("writing to", c.writeTimeout, err)
	}
}

// explain turns a failed read or write into what a person would ask for. io.EOF
// stays io.EOF.
func (c *Conn) explain(doing string, timeout time.Duration, err error) error {
	if p := c.cause.Load(); p != nil {
		return fmt.Errorf("%s %s was interrupted: %w", doing, c.addr, *p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s %s: no progress for %v: %w", doing, c.addr, timeout, os.ErrDeadlineExceeded)
	}
	return err
}

// Interrupt makes blocked and later reads and writes fail with cause (the first
// one given wins). It does not close the connection: its owner does.
func (c *Conn) Interrupt(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	if c.cause.CompareAndSwap(nil, &cause) {
		c.tcp.SetDeadline(aLongTimeAgo)
	}
}

// InterruptOn interrupts the connection with ctx's cause when ctx is done. stop
// ends the watch and reports whether it came in time: false means that the
// connection is, or is about to be, interrupted.
func (c *Conn) InterruptOn(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Interrupt(context.Cause(ctx)) })
}

// Interrupted is the cause of the first Interrupt, or nil.
func (c *Conn) Interrupted() error {
	if p := c.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// Drop makes Close discard what was written and not yet delivered.
func (c *Conn) Drop() { c.tcp.SetLinger(0) } // an error means that it is closed

// cork holds back packets that are not full, or lets go.
func (c *Conn) cork(on bool) {
	value := 0
	if on {
		value = 1
	}
	if raw, err := c.tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, value) })
	}
}

// unread is how many bytes have come that are not in the buffer.
func (c *Conn) unread() (n int) {
	if raw, err := c.tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	}
	return n
}

// Close closes the socket. What was written before is still delivered.
func (c *Conn) Close() error { return c.tcp.Close() }
