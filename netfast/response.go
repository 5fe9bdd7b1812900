package netfast

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// maxInterim is how many 1xx answers are skipped before the real one.
const maxInterim = 4

// farFuture is later than any context that waits for an answer.
const farFuture = 365 * 24 * time.Hour

var errClosed = errors.New("the response was closed")

// Response is an answer whose head was read and whose body waits to be. One
// goroutine reads at a time; Interrupt and Close may come from others.
type Response struct {
	Status int
	Addr   string // the peer that answered

	head   []byte      // header lines, each ended by \n
	body               // follows the head
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
	defer c.limit(r)()
	for range maxInterim + 1 {
		resp, err := c.answer(r)
		if err != nil || resp.Status >= 200 {
			return resp, err
		}
	}
	return nil, fmt.Errorf("more than %d interim answers", maxInterim)
}

// Await is Receive for who sends a body when he is asked for it: it reads the head of the next answer, an
// interim one (1xx) included, which has no body and leaves the connection as it is.
func (c *Conn) Await(r *Request) (*Response, error) {
	defer c.limit(r)()
	return c.answer(r)
}

// limit bounds how long an answer to r may take, until lift is called.
func (c *Conn) limit(r *Request) (lift func()) {
	switch wait := r.HeadTimeout; {
	case wait < 0:
		c.ReadBy(time.Now().Add(farFuture))
	case wait > 0:
		c.ReadBy(time.Now().Add(wait))
	case c.readTimeout > 0:
		c.ReadBy(time.Now().Add(c.readTimeout))
	}
	return func() { c.ReadBy(time.Time{}) }
}

// answer reads the head of the next answer.
func (c *Conn) answer(r *Request) (*Response, error) {
	head, err := c.readHead()
	if err != nil {
		return nil, err
	}
	resp := &Response{Addr: c.addr, body: body{conn: c}}
	if err := resp.parse(head, r.Method); err != nil {
		return nil, err
	}
	return resp, nil
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
	r.Status, r.head, r.keep = int(status), rest, line[7] == '1'
	if err := r.frame(rest); err != nil {
		return err
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

// Several is Lookup of up to 64 keys in one look at the head: it fills values, and sets the bits of those that are there.
func (r *Response) Several(keys, values []string) (there uint64) {
	for rest := r.head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		end := bytes.IndexByte(line, ':')
		for i, key := range keys {
			if len(key) == end && there&(1<<i) == 0 && isKey(line[:end], key) {
				values[i] = string(bytes.TrimSpace(line[end+1:]))
				there |= 1 << i
			}
		}
	}
	return there
}

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
	if !r.inMemory {
		r.conn.readLimit = end
		defer func() { r.conn.readLimit = time.Time{} }()
	}
	return r.pull(p)
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
	var end time.Time
	if !r.inMemory {
		end = r.until(patience)
	}
	n := 0
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

// Drain reads and drops up to limit bytes of the body, so that a short rest does not
// cost the connection. It takes no longer than the timeout for no progress.
func (r *Response) Drain(limit int) {
	end := r.until(1)
	read := func(p []byte) (int, error) { return r.readUntil(p, end) }
	drain(read, limit)
	if r.chunked { // the last chunk may wait behind the last byte
		var one [1]byte
		read(one[:])
	}
}

// Interrupt makes the read under way, and all later ones, fail with cause.
func (r *Response) Interrupt(cause error) {
	r.state.Lock()
	defer r.state.Unlock()
	if !r.closed && !r.inMemory { // else the connection may be someone else's by now
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
	if r.inMemory {
		if r.memory != nil {
			shortBodies.Put(r.memory)
			r.memory = nil
		}
		return nil
	}
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
