// Package fragment GETs fragment archives from object servers into slots that the
// caller owns. It does not judge what comes: whether an answer is a survivor
// (rules 1 and 2), and whether its bytes are what its ETag says, is decided above.
package fragment

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"imping/netfast"
	"imping/swift/timestamp"
)

// drainLimit is how much of an unwelcome answer's body is read to keep the connection;
// longer ones cost it.
const drainLimit = 64 << 10

// Request asks one device for its best fragment archive of one object.
type Request struct {
	Addr      string // replication host:port
	Device    string
	Partition int
	Name      string // "/a/c/o", utf-8, not quoted
	Policy    int

	// Timestamp is that of the wanted .data file, offset included; zero prefers
	// none, and the newest set of the peer answers, durable or not.
	Timestamp timestamp.Timestamp
	Exclude   []int // fragment indexes that are of no use
	Offset    int64 // > 0: the archive from this byte on (Range)
	Length    int64 // of the archive, as far as is known; 0: it may be long
}

// Response is the answer to a Request. Fields that the peer did not send, or sent
// unreadable, have their zero value (FragIndex: -1).
type Response struct {
	Status    int
	Addr      string
	Data      timestamp.Timestamp // X-Backend-Data-Timestamp; old servers: X-Backend-Timestamp
	Durable   timestamp.Timestamp // X-Backend-Durable-Timestamp; zero: nothing here is durable
	Timestamp timestamp.Timestamp // X-Backend-Timestamp: newest of .data and .meta; on a 404, of the tombstone
	ECEtag    string              // X-Object-Sysmeta-Ec-Etag, of the whole object
	ETag      string              // MD5 of this archive: unquoted, lower case
	FragIndex int                 // X-Object-Sysmeta-Ec-Frag-Index; -1 = none or invalid
	Length    int64               // bytes that ReadFragment can give in all
	Offset    int64               // of the first of these in the archive
	Total     int64               // length of the whole archive

	Fragments string // X-Backend-Fragments: JSON of timestamp -> fragment indexes on that device

	body *netfast.Response // nil unless 2xx
}

// Get sends r and reads the head of the answer. An answer that is not 2xx is no error:
// its Status is set, its body drained and closed. ctx governs the body too; its end
// interrupts a read under way.
//
// Swift: obj/reconstructor.py, _get_response; obj/server.py, GET.
func Get(ctx context.Context, c *netfast.Client, r *Request) (*Response, error) {
	b := NewBatch(ctx, c, 1)
	b.Get(r)
	_, resp, err := b.Next()
	return resp, err
}

// Batch is Get of several, by one goroutine.
type Batch struct {
	netfast *netfast.Batch
	asked   []*Request
}

// NewBatch makes a batch of which at most so many requests are under way at a time.
func NewBatch(ctx context.Context, c *netfast.Client, most int) *Batch {
	return &Batch{netfast: c.Batch(ctx, most)}
}

// Get adds a request; Next is to be called once for each.
func (b *Batch) Get(r *Request) {
	b.asked = append(b.asked, r)
	b.netfast.Ask(r.Addr, r.head("GET"), 0 < r.Length && r.Length <= netfast.ShortAnswer)
}

// Next waits for an answer, and says to which request: the n-th, from 0 on. For the rest it is Get.
func (b *Batch) Next() (n int, resp *Response, err error) {
	n, body, err := b.netfast.Next()
	if err != nil {
		return n, nil, err
	}
	if resp, err = read(b.asked[n], "GET", body); err == nil && resp.body == nil {
		body.Drain(drainLimit)
		body.Close()
	}
	return n, resp, err
}

// Head is Get without the archive: what the peer would answer with, and all fields of its
// head. There is nothing to close.
func Head(ctx context.Context, c *netfast.Client, r *Request) (*Response, []netfast.Field, error) {
	body, err := c.Do(ctx, r.Addr, r.head("HEAD"))
	if err != nil {
		return nil, nil, err
	}
	resp, err := read(r, "HEAD", body)
	if err != nil {
		return nil, nil, err
	}
	resp.body = nil
	body.Close()
	return resp, body.Fields(), nil
}

// head is the request as it is sent.
func (r *Request) head(method string) *netfast.Request {
	req := &netfast.Request{
		Method: method,
		Path:   r.path(),
		Header: []netfast.Field{
			{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(r.Policy)},
			{Key: "X-Backend-Replication", Value: "True"},
			{Key: "X-Backend-Fragment-Preferences", Value: preferences(r.Timestamp, r.Exclude)},
		},
	}
	if r.Offset > 0 {
		req.Header = append(req.Header, netfast.Field{Key: "Range", Value: "bytes=" + strconv.FormatInt(r.Offset, 10) + "-"})
	}
	return req
}

func (r *Request) path() string {
	return netfast.Quote("/" + r.Device + "/" + strconv.Itoa(r.Partition) + r.Name)
}

// preferences is the JSON that Swift's proxy and reconstructor send: with a list, even
// an empty one, fragments need not be durable (Swift: obj/diskfile.py,
// _choose_wanted_frags and _get_ondisk_files' frag_prefs).
func preferences(ts timestamp.Timestamp, exclude []int) string {
	if ts.IsZero() {
		return "[]"
	}
	b := []byte(`[{"timestamp": "`)
	b = append(b, ts.Internal()...) // Swift's normal form unless there is an offset
	b = append(b, `", "exclude": [`...)
	for i, x := range exclude {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(x), 10)
	}
	return string(append(b, "]}]"...))
}

// read takes the answer's head apart. It closes an answer that makes no sense.
func read(r *Request, method string, body *netfast.Response) (*Response, error) {
	resp, err := r.parse(body)
	if err != nil {
		body.Close()
		return nil, fmt.Errorf("%s %s from %s: %w", method, r.path(), r.Addr, err)
	}
	return resp, nil
}

// Header fields of an answer that count.
const (
	newest = iota
	durable
	ecEtag
	etag
	fragments
	data
	fragIndex
	contentRange
)

var fields = []string{
	newest: "X-Backend-Timestamp", durable: "X-Backend-Durable-Timestamp", ecEtag: "X-Object-Sysmeta-Ec-Etag", etag: "Etag",
	fragments: "X-Backend-Fragments", data: "X-Backend-Data-Timestamp", fragIndex: "X-Object-Sysmeta-Ec-Frag-Index", contentRange: "Content-Range",
}

func (r *Request) parse(body *netfast.Response) (*Response, error) {
	var field [contentRange + 1]string
	there := body.Several(fields, field[:])
	resp := &Response{
		Status:    body.Status,
		Addr:      body.Addr,
		Timestamp: stamp(field[newest]),
		Durable:   stamp(field[durable]),
		ECEtag:    field[ecEtag],
		ETag:      strings.ToLower(strings.Trim(field[etag], `"`)),
		FragIndex: -1,
		Fragments: field[fragments],
	}
	if body.Status < 200 || body.Status > 299 {
		return resp, nil
	}
	resp.Data = resp.Timestamp
	if there&(1<<data) != 0 {
		resp.Data = stamp(field[data])
	}
	// 255 is the highest index that codec.Set can hold; Swift's policies stay below.
	if n, err := strconv.ParseUint(field[fragIndex], 10, 8); err == nil {
		resp.FragIndex = int(n)
	}
	resp.Length = body.Length()
	if resp.Length < 0 {
		return nil, fmt.Errorf("the answer (%d) does not declare its length", body.Status)
	}
	resp.body, resp.Total = body, resp.Length
	if r.Offset <= 0 {
		if body.Status != 200 {
			return nil, fmt.Errorf("the answer to a plain GET is %d", body.Status)
		}
		return resp, nil
	}
	// Rule 7: the parts of one archive are only put together if they are certain to
	// be its parts.
	if body.Status != 206 {
		return nil, fmt.Errorf("asked for the bytes from %d on and was answered %d", r.Offset, body.Status)
	}
	first, last, total, err := parseRange(field[contentRange])
	if err != nil {
		return nil, err
	}
	if first != r.Offset || last != total-1 || last-first+1 != resp.Length {
		return nil, fmt.Errorf("asked for the bytes from %d on and was answered %q with %d bytes",
			r.Offset, field[contentRange], resp.Length)
	}
	resp.Offset, resp.Total = first, total
	return resp, nil
}

// stamp parses a timestamp header; what is missing or unreadable is zero, which equals
// no object's.
func stamp(s string) timestamp.Timestamp {
	if s == "" {
		return timestamp.Timestamp{}
	}
	ts, err := timestamp.Parse(s)
	if err != nil {
		return timestamp.Timestamp{}
	}
	return ts
}

// parseRange parses "bytes 100-199/200".
func parseRange(s string) (first, last, total int64, err error) {
	bad := fmt.Errorf("bad Content-Range %.100q", s)
	span, all, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	from, to, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, 0, bad
	}
	for _, f := range []struct {
		text string
		to   *int64
	}{{from, &first}, {to, &last}, {all, &total}} {
		n, err := strconv.ParseUint(f.text, 10, 63)
		if err != nil {
			return 0, 0, 0, bad
		}
		*f.to = int64(n)
	}
	return first, last, total, nil
}

// ReadFragment fills slot with the next bytes of the archive: n == len(slot), or an
// error. The error is io.EOF exactly at the declared end, and wraps
// io.ErrUnexpectedEOF, naming peer and offset, if the body ends before it or within
// the slot. One goroutine reads at a time.
func (r *Response) ReadFragment(slot []byte) (int, error) {
	if r.body == nil {
		return 0, fmt.Errorf("cannot read a fragment from %s: it answered %d", r.Addr, r.Status)
	}
	if len(slot) == 0 && r.body.Offset() == r.Length {
		return 0, io.EOF
	}
	return r.body.ReadFull(slot)
}

// Interrupt makes the read under way and all later ones fail with cause; it may be
// called from any goroutine.
func (r *Response) Interrupt(cause error) {
	if r.body != nil {
		r.body.Interrupt(cause)
	}
}

// Close returns only after the last read has ended: the slot is the caller's again.
// The connection is kept if the archive was read to its end.
func (r *Response) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
