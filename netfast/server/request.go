package server

import (
	"fmt"
	"io"
	"iter"
	"net/url"
	"strings"
	"time"

	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/timestamp"
)

// Header is the fields of a request, as Swift's servers see them: one of each name, names in
// title case with dashes for underscores, values raw bytes.
type Header struct {
	fields  []netfast.Field
	lengths uint64 // a bit per length of a name: most names that are looked up are not there
}

// NewHeader takes fields as they came. Values of the same name are joined with commas, but
// of those that describe the body the first one counts.
func NewHeader(fields ...netfast.Field) Header {
	h := Header{fields: make([]netfast.Field, 0, len(fields))}
	for _, f := range fields {
		key := title(f.Key)
		if i := h.index(key); i < 0 {
			h.add(key, f.Value)
		} else if key != "Content-Length" && key != "Content-Type" {
			h.fields[i].Value += "," + f.Value
		}
	}
	return h
}

// title is the form in which names are compared and stored: Python's bytes.title(), after
// underscores were taken for dashes. Swift: common/swob.py, HeaderEnvironProxy.keys.
func title(key string) string {
	inWord, titled := false, true
	for i := 0; i < len(key) && titled; i++ {
		upper, lower := 'A' <= key[i] && key[i] <= 'Z', 'a' <= key[i] && key[i] <= 'z'
		titled = key[i] != '_' && (!upper || !inWord) && (!lower || inWord)
		inWord = upper || lower
	}
	if titled { // as nearly all are
		return key
	}
	b := []byte(key)
	inWord = false
	for i, c := range b {
		switch {
		case c == '_':
			b[i], inWord = '-', false
		case 'a' <= c && c <= 'z':
			if !inWord {
				b[i] = c - 0x20
			}
			inWord = true
		case 'A' <= c && c <= 'Z':
			if inWord {
				b[i] = c + 0x20
			}
			inWord = true
		default:
			inWord = false
		}
	}
	return string(b)
}

func (h *Header) index(key string) int {
	for i := range h.fields {
		if h.fields[i].Key == key {
			return i
		}
	}
	return -1
}

// Lookup tells apart a field that is empty from one that is not there. key is in any case.
func (h *Header) Lookup(key string) (string, bool) {
	if h.lengths&lengthBit(key) == 0 {
		return "", false
	}
	if i := h.index(title(key)); i >= 0 {
		return h.fields[i].Value, true
	}
	return "", false
}

// Get is the value of a field, or "".
func (h *Header) Get(key string) string {
	value, _ := h.Lookup(key)
	return value
}

// True is Swift's config_true_value of a field.
func (h *Header) True(key string) bool { return isTrue(h.Get(key)) }

// isTrue is Swift's config_true_value.
func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "true", "1", "yes", "on", "t", "y":
		return true
	}
	return false
}

// Set replaces a field or adds it.
func (h *Header) Set(key, value string) {
	key = title(key)
	if i := h.index(key); i >= 0 {
		h.fields[i].Value = value
	} else {
		h.add(key, value)
	}
}

func (h *Header) add(key, value string) {
	h.fields = append(h.fields, netfast.Field{Key: key, Value: value})
	h.lengths |= lengthBit(key)
}

func lengthBit(key string) uint64 { return 1 << min(len(key), 63) }

// Del removes a field.
func (h *Header) Del(key string) {
	if i := h.index(title(key)); i >= 0 {
		h.fields = append(h.fields[:i], h.fields[i+1:]...)
	}
}

// All gives the fields in the order in which they came, names in title case.
func (h *Header) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, f := range h.fields {
			if !yield(f.Key, f.Value) {
				return
			}
		}
	}
}

// Body is the body of a request. Read gives io.EOF only at its true end; a sender that
// stalls is an error with netfast.IsTimeout, one that went away or broke the framing
// any other.
type Body interface {
	io.Reader
	Length() int64 // declared, in bytes; -1 = unknown (chunks)
}

// NoBody is an empty body.
var NoBody Body = LimitBody(strings.NewReader(""), 0)

// LimitBody makes a body of declared length of the next n bytes of r. A reader that ends
// before is io.ErrUnexpectedEOF.
func LimitBody(r io.Reader, n int64) Body { return &limited{r: r, left: n, length: n} }

type limited struct {
	r            io.Reader
	left, length int64
}

func (l *limited) Length() int64 { return l.length }

func (l *limited) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err == io.EOF {
		err = nil
		if n == 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Request is one request, of a connection or of an SSYNC session.
type Request struct {
	Method string
	Path   string // unquoted, raw bytes: "/sda/1/a/c/ö"
	Query  string // behind the question mark, as it came
	Header Header
	Body   Body   // never nil
	Remote string // IP address of the peer

	served string // host:port it came to, for the referer of updates

	// group publishes a file together with those of other requests; nil: alone.
	group  func(p *diskfile.Publication)
	waited time.Duration // for those
}

// publish gives the file that the request has filled its name.
func (r *Request) publish(w *diskfile.Writer, meta *diskfile.Metadata, durable bool) error {
	p := &diskfile.Publication{Writer: w, Meta: meta, Durable: durable}
	if r.group != nil {
		r.group(p)
	} else {
		diskfile.PublishAll([]*diskfile.Publication{p})
	}
	return p.Err
}

// newRequest makes a request of what came in.
func newRequest(in *netfast.Incoming, served, remote string) *Request {
	path, query, _ := strings.Cut(in.Target, "?")
	return &Request{Method: in.Method, Path: unquote(path), Query: query, Header: NewHeader(in.Fields...),
		Body: in, Remote: remote, served: served}
}

// unquote undoes %XX and leaves a percent sign that starts none, as Python's unquote does.
func unquote(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+2 < len(s) && s[i] == '%' {
			if u, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(u)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// URL is the request's, for the referer of updates. Swift: common/swob.py, Request.url.
func (r *Request) URL() string {
	host := r.Header.Get("Host")
	if host == "" {
		host = r.served
	}
	url := "http://" + strings.TrimSuffix(host, ":80") + netfast.Quote(r.Path)
	if r.Query != "" {
		url += "?" + r.Query
	}
	return url
}

// timestamp is X-Timestamp, or the answer to a request without a good one.
// Swift: common/constraints.py, valid_timestamp.
func (r *Request) timestamp() (timestamp.Timestamp, error) {
	value, ok := r.Header.Lookup("X-Timestamp")
	if !ok {
		return timestamp.Timestamp{}, badRequest("Missing X-Timestamp header")
	}
	ts, err := timestamp.Parse(value)
	if err != nil {
		return timestamp.Timestamp{}, badRequest("Invalid X-Timestamp header")
	}
	return ts, nil
}

// replication says that the request is one daemon's to another: expired objects are
// opened, and the request line is logged at DEBUG.
func (r *Request) replication() bool { return r.Header.True("X-Backend-Replication") }

func badRequest(format string, args ...any) *Response {
	return answerText(400, "text/plain", fmt.Sprintf(format, args...))
}
