package netfast

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// maxFields is how many header fields a request may have. Swift's servers take 90 of user
// metadata, as many of each other kind, and some tens of their own.
const maxFields = 1000

// HeadError is a request that is not answered as what it asks for, but by Status; the
// connection can not be used any more.
type HeadError struct {
	Status int
	Reason string
}

func (e *HeadError) Error() string { return e.Reason }

// Accepted takes over a connection that a peer opened. progress is its timeout in both
// directions, 0 waits for ever.
func Accepted(tcp *net.TCPConn, progress time.Duration) *Conn {
	return newConn(tcp, tcp.RemoteAddr().String(), progress, new(traffic))
}

// Incoming is a request whose head was read and whose body waits to be.
type Incoming struct {
	Method, Target string // as they came; neither is empty or holds a space
	Fields         []Field

	body
	old    bool // HTTP/1.0
	expect bool // the peer waits for 100 Continue
	quiet  bool // and need not hear it any more: the answer has begun

	promised []Field // what each 100 Continue says
}

// AwaitRequest waits for the first byte of a request, for the connection's read timeout at
// most. An error means that there is nobody to answer.
func (c *Conn) AwaitRequest() error {
	_, err := c.br.Peek(1)
	return err
}

// ReadRequest reads the head of a request within the connection's read timeout. Whatever
// could be understood in two ways by two parsers is a *HeadError: both lengths, lengths that
// are no plain numbers, lines that are no fields, a line break that is none for others. Names
// and values are otherwise free: any byte that is no line break.
func (c *Conn) ReadRequest() (*Incoming, error) {
	if c.readTimeout > 0 {
		c.ReadBy(time.Now().Add(c.readTimeout))
		defer c.ReadBy(time.Time{})
	}
	head, err := c.readHead()
	if err == errLongHead {
		return nil, &HeadError{431, err.Error()}
	}
	if err != nil {
		return nil, err
	}
	in := &Incoming{body: body{conn: c}}
	if err := in.parse(head); err != nil {
		if bad := (*HeadError)(nil); errors.As(err, &bad) {
			return nil, err
		}
		return nil, &HeadError{400, err.Error()}
	}
	return in, nil
}

func (in *Incoming) parse(head []byte) error {
	line, rest, _ := bytes.Cut(head, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	words := bytes.Split(line, []byte(" "))
	if len(words) != 3 || len(words[0]) == 0 || len(words[1]) == 0 || bytes.ContainsAny(line, "\r\x00") {
		return fmt.Errorf("Bad request syntax (%.100q)", line) //lint:ignore ST1005 Swift's words
	}
	version := words[2]
	if len(version) != 8 || string(version[:7]) != "HTTP/1." || version[7] < '0' || version[7] > '9' {
		return fmt.Errorf("Bad request version (%.100q)", version) //lint:ignore ST1005 Swift's words
	}
	in.Method, in.Target = string(words[0]), string(words[1])
	in.old = version[7] == '0'
	in.keep = !in.old
	if err := in.frame(rest); err != nil {
		return err
	}
	if in.chunked && (in.length >= 0 || in.old) {
		return errors.New("both Content-Length and Transfer-Encoding, or the latter in HTTP/1.0: the body's end is not certain")
	}
	in.Fields = make([]Field, 0, bytes.Count(rest, []byte("\n")))
	all := string(rest) // once, for all names and values
	for len(rest) > 0 {
		if len(in.Fields) == maxFields {
			return &HeadError{431, fmt.Sprintf("more than %d header fields", maxFields)}
		}
		key, value, others, err := nextField(rest)
		if err != nil {
			return err
		}
		if bytes.IndexByte(key, '\r') >= 0 || bytes.IndexByte(value, '\r') >= 0 || len(bytes.TrimRight(key, " \t")) != len(key) {
			return fmt.Errorf("not a header line: %.100q", key)
		}
		line := all[len(all)-len(rest) : len(all)-len(others)]
		in.Fields = append(in.Fields, Field{line[:len(key)], strings.TrimSpace(line[len(key)+1:])})
		if isKey(key, "Expect") && isKey(value, "100-continue") {
			in.expect = !in.old
		}
		rest = others
	}
	switch {
	case in.length > 0:
		in.left = in.length
	case !in.chunked:
		in.ended, in.expect = true, false
	}
	return nil
}

// Length is the declared length of the body, 0 where there is none, -1 for chunks.
func (in *Incoming) Length() int64 {
	if in.chunked {
		return -1
	}
	return max(in.length, 0)
}

// Read is a read of the body. The first one says 100 Continue to a peer that waits for it.
func (in *Incoming) Read(p []byte) (int, error) {
	if in.expect && !in.quiet {
		in.expect = false
		if err := in.goOn(); err != nil {
			return 0, err
		}
	}
	return in.pull(p)
}

// Comes tells whether more of the body has come.
func (in *Incoming) Comes() bool {
	read, _ := in.conn.br.Peek(in.conn.br.Buffered())
	if !in.chunked || in.left > 0 {
		return len(read) > 0 || in.conn.unread() > 0
	}
	due := 0
	if in.begun {
		due = len("\r\n") // the end of the chunk before
	}
	if unread := in.conn.unread(); unread > 0 {
		read, _ = in.conn.br.Peek(min(len(read)+unread, bufferSize)) // which waits for nothing
	}
	return bytes.IndexByte(read[min(due, len(read)):], '\n') >= 0 // the line before the next one
}

// Promise adds fields to each 100 Continue.
func (in *Incoming) Promise(fields ...Field) { in.promised = append(in.promised, fields...) }

// NextPhase has the peer send more of a body that comes in phases: each ends as a body of chunks does, and another one
// follows when the peer was told 100 Continue. (HTTP knows no such thing; Swift's proxies wait in between for what other
// servers say.) It is an error if the present phase has not ended.
func (in *Incoming) NextPhase() error {
	if !in.chunked {
		return errors.New("a body of known length has one phase")
	}
	var one [1]byte
	if n, err := in.Read(one[:]); n > 0 || err == nil {
		return errors.New("there is more of the body than the phase should have")
	} else if err != io.EOF {
		return err
	}
	in.ended, in.begun, in.left = false, false, 0
	return in.goOn()
}

func (in *Incoming) goOn() error {
	line := []byte("HTTP/1.1 100 Continue\r\n")
	for _, f := range in.promised {
		var err error
		if line, err = AppendField(line, f); err != nil {
			return err
		}
	}
	if _, err := in.conn.Write(append(line, '\r', '\n')); err != nil {
		return in.broken(err)
	}
	return nil
}

// Conn is the connection under the request.
func (in *Incoming) Conn() *Conn { return in.conn }

// Old says that the request is of HTTP/1.0, which knows no chunks.
func (in *Incoming) Old() bool { return in.old }

// Answering says that the answer begins: no 100 Continue will be sent. It reports whether
// the connection can be kept for another request once the body was read to its end.
func (in *Incoming) Answering() (keep bool) {
	in.quiet = true
	return in.keep && !in.expect && in.err == nil
}

// Finish drops up to limit bytes of the body that nobody read and reports whether the
// next request can follow on this connection.
func (in *Incoming) Finish(limit int) bool {
	if in.expect {
		return false // a body may follow, or not
	}
	if !in.ended {
		if wait := in.conn.readTimeout; wait > 0 {
			in.conn.readLimit = time.Now().Add(wait) // for all of it
			defer func() { in.conn.readLimit = time.Time{} }()
		}
		drain(in.pull, limit)
		if in.chunked && !in.ended { // the last chunk may wait behind the last byte
			var one [1]byte
			in.pull(one[:])
		}
	}
	return in.ended && in.err == nil && in.keep
}

// drain reads and drops up to limit bytes.
func drain(read func([]byte) (int, error), limit int) {
	buf := make([]byte, min(limit, bufferSize))
	for limit > 0 {
		n, err := read(buf[:min(limit, len(buf))])
		if err != nil {
			return
		}
		limit -= n
	}
}

// sendPiece is how much of a file goes to the socket in one call: each starts the progress
// timeout anew, and a slow peer takes 1 MiB in it.
const sendPiece = 1 << 20

// SendFile writes n bytes of f from off on with sendfile(2). f's position is moved. A file
// that ends before is io.ErrUnexpectedEOF.
func (c *Conn) SendFile(f *os.File, off, n int64) error {
	_, err := c.sendFile(f, off, n)
	return err
}

// sendFile says how much was written, too.
func (c *Conn) sendFile(f *os.File, off, n int64) (total int64, err error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	piece := &io.LimitedReader{R: f}
	for total < n {
		begun := total
		end := min(n, total+sendPiece)
		_, err = c.progress(func() (int64, error) {
			// Anew for each try: where the file system has no sendfile, more was read from the file than was written.
			if _, err := f.Seek(off+total, io.SeekStart); err != nil {
				return 0, err
			}
			piece.N = end - total
			sent, err := c.tcp.ReadFrom(piece)
			total += sent
			return sent, err
		})
		if err != nil {
			return total, err
		}
		if total == begun {
			return total, io.ErrUnexpectedEOF
		}
	}
	return total, nil
}

// Corked writes what do writes in as few packets as possible.
func (c *Conn) Corked(do func() error) error {
	c.cork(true)
	err := do()
	c.cork(false)
	return err
}

// HangUp closes the connection so that the peer can still read what was written to it: it
// waits, for at most a while, until the peer has closed its side or stops sending; a socket
// closed over unread bytes would be reset, and the answer lost.
func (c *Conn) HangUp(wait time.Duration, limit int) {
	if c.Flush() == nil && c.tcp.CloseWrite() == nil {
		c.ReadBy(time.Now().Add(wait))
		drain(c.br.Read, limit)
	}
	c.Close()
}
