package netfast

import (
	"fmt"
	"strings"
	"time"
)

// Field is one header field. Key goes out in the case in which it is written, and
// both are raw bytes.
type Field struct{ Key, Value string }

// Request is a request head; netfast's own requests have no body. Path is the
// request target as it goes on the wire (see Quote). Host and User-Agent are added.
type Request struct {
	Method, Path string
	Header       []Field

	// HeadTimeout is how long the whole head of the answer may take: 0 means the
	// connection's read timeout (Swift: node_timeout around getresponse), a negative
	// one that only the context ends the wait (a peer may have to work first).
	HeadTimeout time.Duration
}

// Send writes the head of r in one write. Useful for connections that are not the
// pool's; others go through Client.Do.
func (c *Conn) Send(r *Request, userAgent string) error {
	out, err := r.append(c.out[:0], c.addr, userAgent)
	if err != nil {
		return err
	}
	c.out = out
	if _, err := c.Write(out); err != nil {
		return unanswered{err}
	}
	return nil
}

func (r *Request) append(dst []byte, host, userAgent string) ([]byte, error) {
	if r.Method == "" || r.Path == "" || strings.ContainsAny(r.Method, " \r\n") || strings.ContainsAny(r.Path, " \r\n") {
		return nil, fmt.Errorf("cannot send method %q with path %q", r.Method, r.Path)
	}
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	dst = append(dst, r.Path...)
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst, err := AppendField(dst, Field{"Host", host})
	if err == nil && userAgent != "" {
		dst, err = AppendField(dst, Field{"User-Agent", userAgent})
	}
	for _, f := range r.Header {
		if err != nil {
			break
		}
		dst, err = AppendField(dst, f)
	}
	if err != nil {
		return nil, err
	}
	return append(dst, "\r\n"...), nil
}

// AppendField appends "Key: Value\r\n", or fails if either would break the framing:
// a line break anywhere, a colon in the key, an empty key. NUL is a byte like any other:
// clients can store it, and Swift's servers take it.
func AppendField(dst []byte, f Field) ([]byte, error) {
	if f.Key == "" || strings.IndexByte(f.Key, ':') >= 0 || breaksLine(f.Key) || breaksLine(f.Value) {
		return nil, fmt.Errorf("cannot send header %q with value %.100q", f.Key, f.Value)
	}
	dst = append(dst, f.Key...)
	dst = append(dst, ": "...)
	dst = append(dst, f.Value...)
	return append(dst, "\r\n"...), nil
}

func breaksLine(s string) bool {
	return strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0
}

// Quote escapes a path as Python's urllib.parse.quote does: letters, digits and
// "_.-~/" stay, every other byte becomes %XX.
func Quote(s string) string {
	const hex = "0123456789ABCDEF"
	n := 0
	for i := 0; i < len(s); i++ {
		if !unreserved(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 2*n)
	for i := 0; i < len(s); i++ {
		if c := s[i]; unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == '.' || c == '-' || c == '~' || c == '/'
}
