package netfast

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// maxHead bounds a head. Swift's limits on metadata (constraints.py: 4 KiB of user
	// metadata, as much again per kind of system metadata) stay far below, and eventlet
	// refuses longer ones too; a peer that sends more is not Swift.
	maxHead = 64 << 10
	// maxChunkLine bounds the line that tells a chunk's length, extensions included.
	maxChunkLine = 1024
	// maxTrailer bounds all trailer fields behind the last chunk together.
	maxTrailer = 16 << 10
)

// body is what follows a head, of an answer or of a request.
type body struct {
	conn    *Conn
	length  int64 // Content-Length, or -1
	chunked bool
	keep    bool // the peer allows another request on this connection

	offset int64 // body bytes handed out
	left   int64 // of the body, or of the current chunk; -1: until the peer closes
	begun  bool  // chunked: a chunk was read, its line end waits
	ended  bool  // the whole body was read
	err    error // what broke the body; it stays broken

	inMemory bool // the connection is others' by now
	memory   *[ShortAnswer]byte
}

// readHead reads up to the blank line. The result is the caller's.
func (c *Conn) readHead() ([]byte, error) {
	if _, err := c.br.Peek(1); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("the peer closed without an answer: %w", io.ErrUnexpectedEOF)
		}
		return nil, unanswered{err}
	}
	there, _ := c.br.Peek(c.br.Buffered()) // mostly all of it
	if end, blank := headEnd(there); blank > 0 {
		head := bytes.Clone(there[:end])
		_, err := c.br.Discard(end + blank)
		return head, err
	}
	head := make([]byte, 0, min(c.br.Buffered(), 1024))
	start := 0 // of the current line
	for {
		part, err := c.br.ReadSlice('\n')
		if len(head)+len(part) > maxHead {
			return nil, errLongHead
		}
		head = append(head, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("the head broke off after %d bytes: %w", len(head), err)
		}
		if len(bytes.TrimRight(head[start:], "\r\n")) == 0 {
			return head[:start], nil
		}
		start = len(head)
	}
}

// headEnd finds the blank line that ends a head, and its length, unless it is a strange one: then that is 0.
func headEnd(b []byte) (end, blank int) {
	for {
		switch rest := b[end:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return end, 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return end, 2
		case len(rest) > 0 && rest[0] == '\r':
			return 0, 0
		}
		line := bytes.IndexByte(b[end:], '\n') + 1
		if line == 0 {
			return 0, 0
		}
		end += line
	}
}

var errLongHead = fmt.Errorf("the head is longer than %d bytes", maxHead)

// frame reads the fields that frame the body out of the lines of a head.
func (b *body) frame(lines []byte) error {
	b.length = -1
	for len(lines) > 0 {
		key, value, rest, err := nextField(lines)
		if err != nil {
			return err
		}
		lines = rest
		switch {
		case isKey(key, "Content-Length"):
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil || b.length >= 0 && b.length != int64(n) {
				return fmt.Errorf("bad Content-Length %.100q", value)
			}
			b.length = int64(n)
		case isKey(key, "Transfer-Encoding"):
			if !isKey(value, "chunked") {
				return fmt.Errorf("unknown Transfer-Encoding %.100q", value)
			}
			b.chunked = true
		case isKey(key, "Connection"):
			for _, token := range strings.Split(string(value), ",") {
				switch strings.ToLower(strings.TrimSpace(token)) {
				case "close":
					b.keep = false
				case "keep-alive":
					b.keep = true
				}
			}
		}
	}
	return nil
}

// nextField takes the first line off lines: any key that is not empty and starts no
// continuation line, for Swift has users with X-Object-Meta-Ünicode.
func nextField(lines []byte) (key, value, rest []byte, err error) {
	line, rest, _ := bytes.Cut(lines, []byte("\n"))
	key, value, ok := bytes.Cut(bytes.TrimRight(line, "\r"), []byte(":"))
	if !ok || len(key) == 0 || key[0] == ' ' || key[0] == '\t' {
		return nil, nil, nil, fmt.Errorf("not a header line: %.100q", line)
	}
	return key, bytes.TrimSpace(value), rest, nil
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
func (b *body) Length() int64 { return b.length }

// Framed says that the head tells where the body ends; others end when the peer hangs up,
// which a broken connection does, too.
func (b *body) Framed() bool { return b.length >= 0 || b.chunked }

// Offset is how many bytes of the body were read.
func (b *body) Offset() int64 { return b.offset }

// pull reads what is there, up to len(p) bytes: first what came along with the head,
// then straight from the socket. io.EOF comes only at the declared end; a body that
// stops before is io.ErrUnexpectedEOF.
func (b *body) pull(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.chunked && b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, b.broken(err)
		}
		if b.ended {
			return 0, io.EOF
		}
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.read(p)
	b.offset += int64(n)
	if b.left > 0 {
		b.left -= int64(n)
		b.ended = b.left == 0 && !b.chunked
	}
	switch {
	case n > 0 || err == nil:
		return n, nil // an error comes again
	case err == io.EOF && b.left < 0:
		b.ended = true
		return 0, io.EOF
	}
	return 0, b.broken(err)
}

// read is one read of body bytes that belong to the current chunk or the whole body.
func (b *body) read(p []byte) (int, error) {
	if b.inMemory {
		return copy(p, b.memory[b.offset:b.length]), nil
	}
	br, t := b.conn.br, b.conn.traffic
	// Short reads out of chunks go through the buffer, which holds the chunk lines
	// anyway; all others leave it alone once it is empty.
	if br.Buffered() > 0 || b.chunked && len(p) < bufferSize {
		n, err := br.Read(p)
		t.buffered.Add(int64(n))
		return n, err
	}
	n, err := b.conn.Read(p)
	t.direct.Add(int64(n))
	return n, err
}

func (b *body) broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if b.length >= 0 {
		b.err = fmt.Errorf("the body from %s broke off at byte %d of %d: %w", b.conn.addr, b.offset, b.length, err)
	} else {
		b.err = fmt.Errorf("the body from %s broke off at byte %d: %w", b.conn.addr, b.offset, err)
	}
	return b.err
}

var errChunks = errors.New("broken chunks")

// nextChunk reads the line before a chunk, and what is left of the one before.
func (b *body) nextChunk() error {
	if b.begun {
		line, err := b.conn.line(2)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return fmt.Errorf("%w: a chunk is longer than it said: %.100q", errChunks, line)
		}
	}
	line, err := b.conn.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 63)
	if err != nil {
		return fmt.Errorf("%w: not a chunk length: %.100q", errChunks, line)
	}
	b.begun, b.left = true, int64(n)
	if n > 0 {
		return nil
	}
	for room := maxTrailer; room > 0; {
		line, err := b.conn.line(maxChunkLine)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.ended = true
			return nil
		}
		room -= len(line)
	}
	return fmt.Errorf("%w: trailer fields longer than %d bytes", errChunks, maxTrailer)
}

// line reads one line of at most limit bytes and strips its end. The result is valid
// until the next read.
func (c *Conn) line(limit int) ([]byte, error) {
	line, err := c.br.ReadSlice('\n')
	if err == bufio.ErrBufferFull || len(line) > limit+2 {
		return nil, fmt.Errorf("%w: a line is longer than %d bytes: %.100q", errChunks, limit, line)
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
