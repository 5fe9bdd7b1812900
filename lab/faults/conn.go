package faults

import (
	"bufio"
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

// dialLimit bounds the way to the server behind the proxy, on the same machine.
const dialLimit = 10 * time.Second

// conn is one client's connection, with the one to the server that belongs to it.
type conn struct {
	proxy  *Proxy
	client *net.TCPConn
	in     *bufio.Reader

	mu     sync.Mutex
	closed bool
	up     *net.TCPConn // nil: none yet
	out    *bufio.Reader
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.client.Close()
	if c.up != nil {
		c.up.Close()
	}
}

// dial opens the way to the server, if it is not open.
func (c *conn) dial() (fresh bool, err error) {
	if c.up != nil {
		return false, nil
	}
	d := net.Dialer{Timeout: dialLimit}
	up, err := d.DialContext(c.proxy.ctx, "tcp", c.proxy.upstream)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		up.Close()
		return false, net.ErrClosed
	}
	c.up = up.(*net.TCPConn)
	c.out = bufio.NewReaderSize(up, bufSize)
	return true, nil
}

// hangUp ends the way to the server.
func (c *conn) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up != nil {
		c.up.Close()
		c.up = nil
	}
}

// serve answers one request after the other.
func (c *conn) serve() {
	for {
		raw, err := readHead(c.in)
		if err != nil {
			return
		}
		r, err := parseRequest(raw)
		if err != nil {
			io.WriteString(c.client, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		keep, err := c.answer(r)
		if err != nil || !keep {
			return
		}
	}
}

// answer does what one request asks for, or what a fault makes of it.
func (c *conn) answer(r *request) (keep bool, err error) {
	p := c.proxy
	if f := p.struck(r, StallHead); f != nil && !c.hold(f) {
		return false, nil
	}
	if f := p.struck(r, Unmounted); f != nil {
		return c.refuse(r, 507)
	}
	if f := p.struck(r, Busy); f != nil {
		// Servers say 503, rate limiters 529.
		if f.Struck()%2 == 0 {
			return c.status(r, 529)
		}
		return c.refuse(r, 503)
	}
	if f := p.struck(r, Garbage); f != nil {
		return c.garbage(r, f)
	}
	if r.method == "SSYNC" || r.chunked {
		return false, c.tunnel(r)
	}
	h, err := c.ask(r)
	if err != nil {
		return false, err
	}
	if r.method == "GET" && h.status == 200 {
		return c.archive(r, h)
	}
	if _, err := c.client.Write(h.bytes()); err != nil {
		return false, err
	}
	return c.body(r, h)
}

var reasons = map[int]string{503: "Service Unavailable", 507: "Insufficient Storage", 529: "Rate Limited"}

// refuse says no as a Swift server does: within SSYNC, where the answer has begun when the
// device is looked at, by a line.
func (c *conn) refuse(r *request, status int) (keep bool, err error) {
	if r.method != "SSYNC" {
		return c.status(r, status)
	}
	return false, c.lines(fmt.Sprintf("\r\n:ERROR: %d b'<html><h1>%s</h1></html>'\n", status, reasons[status]))
}

// status answers with a status alone. A request with a body costs the connection.
func (c *conn) status(r *request, status int) (keep bool, err error) {
	body := fmt.Sprintf("<html><h1>%s</h1></html>", reasons[status])
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/html; charset=UTF-8\r\nContent-Length: %d\r\n", status, reasons[status], len(body))
	if r.method == "HEAD" {
		body = ""
	}
	keep = !r.chunked && r.method != "SSYNC" && r.length == 0
	if !keep {
		head += "Connection: close\r\n"
	}
	_, err = io.WriteString(c.client, head+"\r\n"+body)
	return keep, err
}

// lines is an answer to SSYNC that says so much and ends.
func (c *conn) lines(text string) error {
	_, err := fmt.Fprintf(c.client, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Backend-Accept-No-Commit: True\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(text), text)
	if err != nil {
		return err
	}
	// What the client still sends must not turn our last words into a reset.
	c.client.CloseWrite()
	c.client.SetReadDeadline(time.Now().Add(dialLimit))
	_, err = io.Copy(io.Discard, c.in)
	return err
}

// What garbage looks like: bytes of no protocol, a pickle that would call a function, and
// well-formed lines that nobody asked for.
const (
	noHTTP    = "SSH-2.0-OpenSSH_9.2\r\n"
	noHashes  = "\x00\xff\x13\x37 these are not hashes"
	evil      = "\x80\x02cposix\nsystem\nU\x02idR."
	noSession = ":MISSING_CHECK: START\r\n\x00\xff\xfe\x01 d\r\n" + "ffffffffffffffffffffffffffffffff dm\r\n:MISSING_CHECK: END\r\n"
)

func (c *conn) garbage(r *request, f *Fault) (keep bool, err error) {
	switch r.method {
	case "REPLICATE":
		body := noHashes
		if f.Struck()%2 == 0 {
			body = evil
		}
		_, err = fmt.Fprintf(c.client, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		return true, err
	case "SSYNC":
		return false, c.lines(noSession)
	}
	_, err = io.WriteString(c.client, noHTTP)
	return false, err
}

// ask passes a request on and reads the head of the answer. The server may have closed a
// connection that was kept: then, and only then, it is asked once more.
func (c *conn) ask(r *request) (*head, error) {
	for {
		fresh, err := c.dial()
		if err != nil {
			return nil, err
		}
		h, err := c.exchange(r)
		if err == nil {
			return h, nil
		}
		c.hangUp()
		if fresh || r.length > 0 {
			return nil, err
		}
	}
}

func (c *conn) exchange(r *request) (*head, error) {
	if _, err := c.up.Write(r.raw); err != nil {
		return nil, err
	}
	if r.length > 0 {
		if _, err := io.CopyN(c.up, c.in, r.length); err != nil {
			return nil, err
		}
	}
	raw, err := readHead(c.out)
	if err != nil {
		return nil, err
	}
	h, err := parseHead(raw)
	if err != nil {
		return nil, err
	}
	return h, h.parseStatus()
}

// body passes the body of an answer on.
func (c *conn) body(r *request, h *head) (keep bool, err error) {
	switch {
	case r.method == "HEAD" || h.status == 204 || h.status == 304:
	case h.chunked:
		err = copyChunks(c.client, c.out)
	case h.length >= 0:
		_, err = io.CopyN(c.client, c.out, h.length)
	default:
		_, err = io.Copy(c.client, c.out)
		return false, err
	}
	if h.closes {
		c.hangUp()
	}
	return err == nil && !h.closes, err
}

// archive passes a fragment archive on, in whatever shape.
func (c *conn) archive(r *request, h *head) (keep bool, err error) {
	p := c.proxy
	if f := first(p.on(r, WrongIndex)); f != nil {
		if n, err := strconv.Atoi(h.get(indexKey)); err == nil && f.strike() {
			// A neighbour's: an index of the code, and sometimes the wanted one.
			if n == 0 {
				n = 2
			}
			h.set(indexKey, strconv.Itoa(n-1))
		}
	}
	if f := first(p.on(r, WrongTime)); f != nil && h.get(dataTimeKey) != "" && f.strike() {
		h.set(dataTimeKey, older(h.get(dataTimeKey)))
		h.set(timeKey, older(h.get(timeKey)))
	}
	if f := first(p.on(r, WrongEtag)); f != nil && h.get(etagKey) != "" && f.strike() {
		h.set(etagKey, "d41d8cd98f00b204e9800998ecf8427e")
	}
	if _, err := c.client.Write(h.bytes()); err != nil {
		return false, err
	}
	if h.length <= fragmentHead { // no payload
		return c.body(r, h)
	}
	if f := p.struck(r, Flip); f != nil {
		at := int64(fragmentHead)
		if f.Struck()%2 == 0 {
			at = h.length - 1
		}
		if _, err := io.CopyN(c.client, c.out, at); err != nil {
			return false, err
		}
		b, err := c.out.ReadByte()
		if err != nil {
			return false, err
		}
		if _, err := c.client.Write([]byte{^b}); err != nil {
			return false, err
		}
		h.length -= at + 1
		return c.body(r, h)
	}
	if f := p.struck(r, Truncate, StallBody); f != nil {
		half := h.length / 2
		if _, err := io.CopyN(c.client, c.out, half); err != nil {
			return false, err
		}
		if f.Kind == Truncate || !c.hold(f) {
			return false, nil
		}
		h.length -= half
	}
	return c.body(r, h)
}

func first(list []*Fault) *Fault {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// fragmentHead is the size of liberasurecode's fragment header.
const fragmentHead = 80

const (
	indexKey    = "X-Object-Sysmeta-Ec-Frag-Index"
	etagKey     = "X-Object-Sysmeta-Ec-Etag"
	dataTimeKey = "X-Backend-Data-Timestamp"
	timeKey     = "X-Backend-Timestamp"
)

// older is a timestamp of long before: Swift's have ten digits before the point.
func older(ts string) string {
	if ts == "" {
		return ""
	}
	return "1" + ts[1:min(2, len(ts))] + "00000000" + ts[min(10, len(ts)):]
}

// hold does nothing until the client hangs up (false) or the fault is lifted (true).
func (c *conn) hold(f *Fault) (lifted bool) {
	done, left := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		select {
		case <-f.lifted:
			c.client.SetReadDeadline(time.Unix(1, 0)) // wakes the Peek
		case <-done:
		}
	}()
	defer func() {
		close(done)
		<-left
		c.client.SetReadDeadline(time.Time{})
	}()
	for {
		// A client that waits for an answer sends nothing, or little.
		_, err := c.in.Peek(c.in.Buffered() + 1)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return true
		case errors.Is(err, bufio.ErrBufferFull):
			<-f.lifted
			return true
		default:
			return false
		}
	}
}

// tunnel passes all bytes on in both directions at once, until both have ended.
func (c *conn) tunnel(r *request) error {
	c.hangUp() // a session has a connection of its own
	if _, err := c.dial(); err != nil {
		return err
	}
	if _, err := c.up.Write(r.raw); err != nil {
		return err
	}
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(c.client, c.out)
		c.client.CloseWrite()
	})
	defer back.Wait()
	err := c.updates(r)
	if err == nil {
		c.up.CloseWrite()
		return nil
	}
	if errors.Is(err, errStruck) {
		c.close()
	} else {
		c.up.CloseWrite() // one of the two hung up: what the server still says is passed on
	}
	return err
}

var errStruck = errors.New("cut by a fault")

const updatesStart = ":UPDATES: START"

// longestMark is more than any mark has.
const longestMark = 64

// updates passes the client's half of a session, or the body of a PUT, on, watching for the faults that strike in the middle of it.
func (c *conn) updates(r *request) error {
	kinds := []Kind{SsyncCut, SsyncStall}
	if r.method == "PUT" {
		kinds = []Kind{PutStall}
	}
	list := c.proxy.on(r, kinds...)
	if len(list) == 0 {
		_, err := io.Copy(c.up, c.in)
		return err
	}
	buf := make([]byte, 16<<10)
	var tail string                    // of what was passed on: a mark may come in pieces
	passed := make([]int64, len(list)) // behind each fault's mark
	begun := make([]bool, len(list))
	for {
		n, err := c.in.Read(buf)
		part := buf[:n]
		seen := tail + string(part)
		for i, f := range list {
			mark, after := f.cut()
			if begun[i] {
				passed[i] += int64(n)
			} else if at := strings.Index(seen, mark); at >= 0 {
				begun[i], passed[i] = true, int64(len(seen)-at-len(mark))
			}
			over := passed[i] - after
			if !begun[i] || over < 0 || !f.strike() {
				continue
			}
			if _, err := c.up.Write(part[:max(0, int64(n)-over)]); err != nil {
				return err
			}
			if f.Kind != SsyncCut {
				c.swallow(f)
			}
			return errStruck
		}
		tail = seen[max(0, len(seen)-longestMark):]
		if _, err := c.up.Write(part); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// swallow takes what the client sends, and no more, until it hangs up or the fault is
// lifted.
func (c *conn) swallow(f *Fault) {
	done, left := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		select {
		case <-f.lifted:
			c.client.SetReadDeadline(time.Unix(1, 0))
		case <-done:
		}
	}()
	io.Copy(io.Discard, c.in)
	close(done)
	<-left
}
