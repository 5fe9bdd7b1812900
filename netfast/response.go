package netfast

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxHead bounds a response head. Swift's limits on metadata (constraints.py:
	// 4 KiB of user metadata, as much again per kind of system metadata) stay far
	// below; a peer that sends more is not Swift.
	maxHead = 64 << 10
	// maxInterim is how many 1xx answers are skipped before the real one.
	maxInterim = 4
	// maxChunkLine bounds the line that tells a chunk's length, extensions included.
	maxChunkLine = 1024
	// maxTrailer bounds all trailer fields behind the last chunk together.
	maxTrailer = 16 << 10
)

// farFuture is later than any context that waits for an answer.
const farFuture = 365 * 24 * time.Hour

var errClosed = errors.New("the response was closed")

// Response is an answer whose head was read and whose body waits to be. One
// goroutine reads at a time; Interrupt and Close may come from others.
type Response struct {
	Status int
	Addr   string // the peer that answered

	head    []byte // header lines, each ended by \n
	length  int64  // Content-Length, or -1
	chunked bool
	keep    bool // the peer allows another request on this connection

	offset int64 // body bytes handed out
	left   int64 // of the body, or of the current chunk; -1: until the peer closes
	begun  bool  // chunked: a chunk was read, its line end waits
	ended  bool  // the whole body was read
	err    error // what broke the body; it stays broken

	conn   *Conn
	client *Client     // the pool to return to, or nil
	stop   func() bool // ends the watch over the request's context, or nil

	reading sync.Mutex // held by Read; Close takes it to outwait the last one
	state   sync.Mutex // guards closed
	closed  bool
}

// Receive reads the head of the answer to r. The caller of Receive owns the
// connection: closing such a response closes it.
//
// Heads are not parsed by fasthttp, because it refuses field names that are not
// RFC 9110 tokens, and Swift has users with X-Object-Meta-Ünicode; nor does it read
// heads that are longer than its buffer.
func (c *Conn) Receive(r *Request) (*Response, error) {
	switch wait := r.HeadTimeout; {
	case wait < 0:
		c.ReadBy(time.Now().Add(farFuture))
	case wait > 0:
		c.ReadBy(time.Now().Add(wait))
	case c.readTimeout > 0:
		c.ReadBy(time.Now().Add(c.readTimeout))
	}
	defer c.ReadBy(time.Time{})
	for range maxInterim + 1 {
		head, err := c.readHead()
		if err != nil {
			return nil, err
		}
		resp := &Response{Addr: c.addr, conn: c}
		if err := resp.parse(head, r.Method); err != nil {
			return nil, err
		}
		if resp.Status >= 200 {
			return resp, nil
		}
	}
	return nil, fmt.Errorf("more than %d interim answers", maxInterim)
}

// readHead reads up to the blank line. The result is the caller's.
func (c *Conn) readHead() ([]byte, error) {
	if _, err := c.br.Peek(1); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("the peer closed without an answer: %w", io.ErrUnexpectedEOF)
		}
		return nil, unanswered{err}
	}
	head := make([]byte, 0, 1024)
	start := 0 // of the current line
	for {
		part, err := c.br.ReadSlice('\n')
		if len(head)+len(part) > maxHead {
			return nil, fmt.Errorf("the response head is longer than %d bytes", maxHead)
		}
		head = append(head, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("the response head broke off after %d bytes: %w", len(head), err)
		}
		if len(bytes.TrimRight(head[start:], "\r\n")) == 0 {
			return head[:start], nil
		}
		start = len(head)
	}
}

// parse takes the status line off head and reads the fields that frame the body.
func (r *Response) parse(head []byte, method string) error {
	line, rest, _ := bytes.Cut(head, []byte("\n"))
	line = bytes.TrimRight(line, "\r")
	// HTTP/1.1 200 OK
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || (line[7] != '0' && line[7] != '1') || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return fmt.Errorf("not an HTTP/1 status line: %.100q", line)
	}
	status, err := strconv.ParseUint(string(line[9:12]), 10, 16)
	if err != nil || status < 100 {
		return fmt.Errorf("not an HTTP/1 status line: %.100q", line)
	}
	r.Status, r.head, r.length, r.keep = int(status), rest, -1, line[7] == '1'

	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		key, value, ok := bytes.Cut(bytes.TrimRight(line, "\r"), []byte(":"))
		if !ok || len(key) == 0 || key[0] == ' ' || key[0] == '\t' {
			return fmt.Errorf("not a header line: %.100q", line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case isKey(key, "Content-Length"):
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil || r.length >= 0 && r.length != int64(n) {
				return fmt.Errorf("bad Content-Length %.100q", value)
			}
			r.length = int64(n)
		case isKey(key, "Transfer-Encoding"):
			if !isKey(value, "chunked") {
				return fmt.Errorf("unknown Transfer-Encoding %.100q", value)
			}
			r.chunked = true
		case isKey(key, "Connection"):
			for _, token := range strings.Split(string(value), ",") {
				switch strings.ToLower(strings.TrimSpace(token)) {
				case "close":
					r.keep = false
				case "keep-alive":
					r.keep = true
				}
			}
		}
	}
	switch {
	case r.Status < 200 || r.Status == 204 || r.Status == 304 || method == "HEAD":
		r.ended = true
	case r.chunked && r.length >= 0:
		return errors.New("both Content-Length and Transfer-Encoding: the body's end is not certain")
	case r.chunked:
	case r.length >= 0:
		r.left = r.length
		r.ended = r.left == 0
	default:
		r.left, r.keep = -1, false
	}
	return nil
}

// Header is the value of the first field named key in any case, without surrounding
// white space, or "". Values are raw bytes.
func (r *Response) Header(key string) string {
	v, _ := r.Lookup(key)
	return v
}

// Fields are all header fields in their order, as the peer wrote them, values without
// surrounding white space.
func (r *Response) Fields() []Field {
	var list []Field
	for rest := r.head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		key, value, _ := bytes.Cut(line, []byte(":"))
		list = append(list, Field{Key: string(key), Value: string(bytes.TrimSpace(value))})
	}
	return list
}

// Lookup tells apart a field that is empty from one that is not there.
func (r *Response) Lookup(key string) (string, bool) {
	for rest := r.head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		if len(line) > len(key) && line[len(key)] == ':' && isKey(line[:len(key)], key) {
			return string(bytes.TrimSpace(line[len(key)+1:])), true
		}
	}
	return "", false
}

// isKey compares a field name without regard to case, in ASCII only.
func isKey(b []byte, key string) bool {
	if len(b) != len(key) {
		return false
	}
	for i, c := range b {
		d := key[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if 'A' <= d && d <= 'Z' {
			d |= 0x20
		}
		if c != d {
			return false
		}
	}
	return true
}

// Length is the declared length of the body in bytes, or -1.
func (r *Response) Length() int64 { return r.length }

// Framed says that the answer tells where it ends; others end when the peer hangs up,
// which a broken connection does, too.
func (r *Response) Framed() bool { return r.length >= 0 || r.chunked }

// Offset is how many bytes of the body were read.
func (r *Response) Offset() int64 { return r.offset }

// Read reads what is there, up to len(p) bytes: first what came along with the head,
// then straight from the socket. io.EOF comes only at the declared end; a body that
// stops before is io.ErrUnexpectedEOF.
func (r *Response) Read(p []byte) (int, error) { return r.readUntil(p, time.Time{}) }

// readUntil is Read that ends at a time at the latest, unless it is zero.
func (r *Response) readUntil(p []byte, end time.Time) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	if r.isClosed() {
		return 0, errClosed
	}
	r.conn.readLimit = end
	defer func() { r.conn.readLimit = time.Time{} }()
	if r.err != nil {
		return 0, r.err
	}
	if r.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.chunked && r.left == 0 {
		if err := r.nextChunk(); err != nil {
			return 0, r.broken(err)
		}
		if r.ended {
			return 0, io.EOF
		}
	}
	if r.left > 0 && int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.read(p)
	r.offset += int64(n)
	if r.left > 0 {
		r.left -= int64(n)
		r.ended = r.left == 0 && !r.chunked
	}
	switch {
	case n > 0 || err == nil:
		return n, nil // an error comes again
	case err == io.EOF && r.left < 0:
		r.ended = true
		return 0, io.EOF
	}
	return 0, r.broken(err)
}

// read is one read of body bytes that belong to the current chunk or the whole body.
func (r *Response) read(p []byte) (int, error) {
	br, t := r.conn.br, r.conn.traffic
	// Short reads out of chunks go through the buffer, which holds the chunk lines
	// anyway; all others leave it alone once it is empty.
	if br.Buffered() > 0 || r.chunked && len(p) < bufferSize {
		n, err := br.Read(p)
		t.buffered.Add(int64(n))
		return n, err
	}
	n, err := r.conn.Read(p)
	t.direct.Add(int64(n))
	return n, err
}

// patience is how many times the timeout for no progress a whole ReadFull may take: a
// minute by default, which is what Swift's servers wait for a client (client_timeout). A
// peer that dribbles would hold up a job for days.
const patience = 6

// until is when something that may take n times the progress timeout has to end; zero:
// never.
func (r *Response) until(n time.Duration) time.Time {
	if r.conn.readTimeout <= 0 {
		return time.Time{}
	}
	return time.Now().Add(n * r.conn.readTimeout)
}

// ReadFull fills p. Fewer bytes come only with an error: io.EOF if the body had ended
// before, io.ErrUnexpectedEOF if it ends within p.
func (r *Response) ReadFull(p []byte) (int, error) {
	n, end := 0, r.until(patience)
	for n < len(p) {
		m, err := r.readUntil(p[n:], end)
		n += m
		if err == io.EOF && n > 0 {
			return n, fmt.Errorf("the body from %s ended at byte %d, %d bytes too early: %w",
				r.Addr, r.offset, len(p)-n, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (r *Response) broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if r.length >= 0 {
		r.err = fmt.Errorf("the body from %s broke off at byte %d of %d: %w", r.Addr, r.offset, r.length, err)
	} else {
		r.err = fmt.Errorf("the body from %s broke off at byte %d: %w", r.Addr, r.offset, err)
	}
	return r.err
}

// nextChunk reads the line before a chunk, and what is left of the one before.
func (r *Response) nextChunk() error {
	if r.begun {
		line, err := r.conn.line(2)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return fmt.Errorf("a chunk is longer than it said: %.100q", line)
		}
	}
	line, err := r.conn.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 63)
	if err != nil {
		return fmt.Errorf("not a chunk length: %.100q", line)
	}
	r.begun, r.left = true, int64(n)
	if n > 0 {
		return nil
	}
	for room := maxTrailer; room > 0; {
		line, err := r.conn.line(maxChunkLine)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			r.ended = true
			return nil
		}
		room -= len(line)
	}
	return fmt.Errorf("trailer fields longer than %d bytes", maxTrailer)
}

// line reads one line of at most limit bytes and strips its end. The result is valid
// until the next read.
func (c *Conn) line(limit int) ([]byte, error) {
	line, err := c.br.ReadSlice('\n')
	if err == bufio.ErrBufferFull || len(line) > limit+2 {
		return nil, fmt.Errorf("a line is longer than %d bytes: %.100q", limit, line)
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// Drain reads and drops up to limit bytes of the body, so that a short rest does not
// cost the connection. It takes no longer than the timeout for no progress.
func (r *Response) Drain(limit int) {
	buf, end := make([]byte, min(limit, bufferSize)), r.until(1)
	for limit > 0 {
		n, err := r.readUntil(buf[:min(limit, len(buf))], end)
		if err != nil {
			return
		}
		limit -= n
	}
	if r.chunked { // the last chunk may wait behind the last byte
		r.readUntil(buf[:min(1, len(buf))], end)
	}
}

// Interrupt makes the read under way, and all later ones, fail with cause.
func (r *Response) Interrupt(cause error) {
	r.state.Lock()
	defer r.state.Unlock()
	if !r.closed { // else the connection may be someone else's by now
		r.conn.Interrupt(cause)
	}
}

// Conn is the connection under the response, for protocols that write while they
// read. It is nobody's once the response is closed.
func (r *Response) Conn() *Conn { return r.conn }

func (r *Response) isClosed() bool {
	r.state.Lock()
	defer r.state.Unlock()
	return r.closed
}

// Close returns after the last read has ended (one under way is interrupted): the
// caller's memory is his again. The connection is kept for another request only if
// the body was read to its end. Closing twice does nothing.
func (r *Response) Close() error {
	if !r.reading.TryLock() {
		r.Interrupt(errClosed)
		r.reading.Lock()
	}
	defer r.reading.Unlock()
	r.state.Lock()
	defer r.state.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	c := r.conn
	if r.stop != nil && !r.stop() || r.client == nil || !r.ended || !r.keep || c.br.Buffered() > 0 || c.Interrupted() != nil {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
	r.client.put(c)
	return nil
}

// StatusError is an answer with a status that was not hoped for.
type StatusError struct {
	Status int
	Addr   string
	Body   string // at most its first KiB
}

func (e *StatusError) Error() string {
	if e.Body == "" {
		return fmt.Sprintf("%s answered %d", e.Addr, e.Status)
	}
	return fmt.Sprintf("%s answered %d: %.1024q", e.Addr, e.Status, e.Body)
}

// Retryable says that the peer is busy, not broken (rule 10: 503 and 529).
func (e *StatusError) Retryable() bool { return e.Status == 503 || e.Status == 529 }

// Refuse reads the body of an unwelcome answer into an error and closes the response.
func (r *Response) Refuse() *StatusError {
	body, end, n := make([]byte, 1024), r.until(1), 0
	for n < len(body) {
		m, err := r.readUntil(body[n:], end)
		if n += m; err != nil {
			break
		}
	}
	r.Drain(64 << 10)
	r.Close()
	return &StatusError{Status: r.Status, Addr: r.Addr, Body: string(body[:n])}
}

// IsTimeout says that err, or something it wraps, is a progress timeout.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
