package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"imping/netfast"
)

const (
	// leftover is how much of a body that nobody wanted is read to keep the connection; a
	// longer rest costs it. 64 KiB is one of Swift's network_chunk_size.
	leftover = 64 << 10
	// lingering and lingerBytes bound what is still read from a peer that was given its last
	// answer, so that it can read that answer before the reset.
	lingering   = 2 * time.Second
	lingerBytes = 4 << 20
)

// connection is one of a client's. idle is guarded by the server's mutex: no request is
// under way.
type connection struct {
	*netfast.Conn
	head []byte // of answers, one after the other
	idle bool
	used bool // there was a request
}

// isPassing reports that the process, not the listener, is in trouble.
func isPassing(err error) bool {
	for _, errno := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func (s *Server) start(tcp *net.TCPConn) {
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: s.conf.KeepIdle})
	c := &connection{Conn: netfast.Accepted(tcp, s.conf.ClientTimeout), idle: true}
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		tcp.Close()
		<-s.slots
		return
	}
	s.conns[c] = true
	s.running.Add(1)
	if s.stopping { // it was accepted just before
		s.lastCall(c)
	}
	s.mu.Unlock()
	go func() {
		defer s.running.Done()
		defer func() { <-s.slots }()
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
		defer c.Close()
		served, remote := tcp.LocalAddr().String(), tcp.RemoteAddr().String()
		if host, _, err := net.SplitHostPort(remote); err == nil {
			remote = host
		}
		for s.serveOne(c, served, remote) {
		}
	}()
}

// setIdle reports false when the connection should be given up.
func (s *Server) setIdle(c *connection, idle bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.idle = idle
	return !idle || !s.stopping || !c.used && !s.ending
}

// serveOne reads one request and answers it, and reports whether another may follow.
func (s *Server) serveOne(c *connection, served, remote string) bool {
	if !s.setIdle(c, true) {
		c.Flush()
		return false
	}
	if c.AwaitRequest() != nil {
		return false
	}
	s.setIdle(c, false)
	c.used = true
	in, err := c.ReadRequest()
	if bad := (*netfast.HeadError)(nil); errors.As(err, &bad) {
		s.log.Errorf("ERROR WSGI: code %d, message %s", bad.Status, bad.Reason)
		resp := answerText(bad.Status, "text/plain", bad.Reason)
		if c.send(nil, resp, "", false) == nil {
			c.HangUp(lingering, lingerBytes)
		}
		return false
	}
	if err != nil {
		return false // nobody is there, or he is too slow
	}
	if in.Method != "GET" && in.Method != "HEAD" && c.Flush() != nil {
		return false // what follows may take its time, and answers wait for the next one
	}
	r := newRequest(in, served, remote)
	resp := s.app(r)
	defer resp.close()
	keep := in.Answering()
	switch {
	case resp.Duplex != nil || !keep:
	case verbs[r.Method].duplex:
		keep = false // its sender waits for the answer before it sends the body
	default:
		// What is left of the body is read first, so that the answer can say what becomes of
		// the connection.
		keep = in.Finish(leftover)
	}
	keep = keep && !s.isStopping()
	if keep && strings.EqualFold(r.Header.Get("Connection"), "keep-alive") {
		resp.with("Connection", "keep-alive") // a client of HTTP/1.0 waits for it
	}
	if err := s.answer(c, in, r, resp, keep); err != nil {
		if resp.Duplex == nil {
			c.HangUp(lingering, lingerBytes) // the answers before this one are whole, and shall arrive
		}
		return false
	}
	if resp.Duplex != nil {
		keep = keep && in.Finish(leftover)
	}
	if !keep {
		c.HangUp(lingering, lingerBytes)
	}
	return keep
}

// answer sends an answer; a bug in what makes its body costs the connection, not the process.
func (s *Server) answer(c *connection, in *netfast.Incoming, r *Request, resp *Response, keep bool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.bug(r, p)
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	err = c.send(in, resp, r.Method, keep)
	if bad := (*headerError)(nil); errors.As(err, &bad) {
		s.errorf(r, "%s %s: %v", r.Method, netfast.Quote(r.Path), err)
		return c.send(in, answer(500), r.Method, keep)
	}
	return err
}

// headerError is a field that can not be sent. Nothing was.
type headerError struct{ error }

// send writes an answer. An error means that the connection is of no use any more.
func (c *connection) send(in *netfast.Incoming, resp *Response, method string, keep bool) error {
	resp.complete(method)
	chunked := resp.Duplex != nil && (in == nil || !in.Old())
	keep = keep && (resp.Duplex == nil || chunked)
	head, err := appendHead(c.head[:0], resp, chunked, keep)
	if err != nil {
		return err
	}
	c.head = head
	switch {
	case resp.Stream != nil && method == "HEAD":
		_, err = c.Write(head)
		return err
	case resp.Stream != nil:
		return resp.Stream.Send(c.Conn, head)
	case resp.Duplex != nil:
		if _, err := c.Write(head); err != nil {
			return err
		}
		w := &chunks{c: c.Conn, plain: !chunked}
		if err := resp.Duplex(w); err != nil {
			return err
		}
		return w.end()
	case method == "HEAD" || len(resp.Body) == 0:
		_, err = c.Write(head)
		return err
	}
	_, err = c.Writev(&net.Buffers{head, resp.Body})
	return err
}

func appendHead(b []byte, resp *Response, chunked, keep bool) ([]byte, error) {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(resp.Status), 10)
	b = append(b, ' ')
	b = append(b, resp.title()...)
	b = append(b, "\r\n"...)
	var err error
	for _, f := range resp.Header {
		if b, err = netfast.AppendField(b, f); err != nil {
			return nil, &headerError{err}
		}
	}
	switch {
	case chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case resp.Duplex == nil:
		length := int64(len(resp.Body))
		if resp.Stream != nil {
			length = resp.Stream.Length()
		}
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "Date: "...)
	b = append(b, date(time.Now())...)
	if !keep {
		b = append(b, "\r\nConnection: close"...)
	}
	return append(b, "\r\n\r\n"...), nil
}

// dated is the Date of a second.
type dated struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dated]

// date is made once a second.
func date(now time.Time) string {
	d := lastDate.Load()
	if second := now.Unix(); d == nil || d.second != second {
		d = &dated{second, now.UTC().Format(httpTime)}
		lastDate.Store(d)
	}
	return d.text
}

// httpTime is the form of Date and Last-Modified.
const httpTime = "Mon, 02 Jan 2006 15:04:05 GMT"

// chunks writes each Write as a chunk, or as it is to a peer that knows none.
type chunks struct {
	c     *netfast.Conn
	plain bool
	head  []byte
}

func (w *chunks) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // would be the last one
	}
	if w.plain {
		return w.c.Write(p)
	}
	w.head = fmt.Appendf(w.head[:0], "%x\r\n", len(p))
	if _, err := w.c.Writev(&net.Buffers{w.head, p, crlf}); err != nil {
		return 0, err
	}
	return len(p), nil
}

var crlf = []byte("\r\n")

func (w *chunks) end() error {
	if w.plain {
		return nil
	}
	_, err := io.WriteString(w.c, "0\r\n\r\n")
	return err
}
