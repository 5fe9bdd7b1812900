package ssync

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"strings"

	"imping/swift/timestamp"
)

const (
	// maxHead bounds the head of a subrequest. A line is bounded by maxLine; all the metadata
	// that Swift lets an object have is some hundred KiB at most.
	maxHead = 1 << 20
	// maxHeadFields is as many as a request on a connection may have.
	maxHeadFields = 1000
	// maxWants bounds what is remembered of a missing check, 17 bytes an object. One more is an
	// error: a sender that reverts removes what was offered and not wanted.
	maxWants = 1 << 22
	// wantsPiece is how much of the wanted list is written at once.
	wantsPiece = 64 << 10
	// flushWidth is how many spaces made eventlet send what it held in 2013.
	flushWidth = 4096
)

// Failure is what a receiver says before it hangs up: a line of the form ":ERROR: code repr".
type Failure struct {
	Code int // an HTTP status, or 0 for what has none
	Text string
}

func (e *Failure) Error() string { return e.Text }

// Line is the failure as Swift's receiver writes it: the repr of an answer's bytes, or of an
// exception's text. Swift: ssync_receiver.py, Receiver.__call__.
func (e *Failure) Line() []byte {
	repr := Repr(e.Text)
	if e.Code != 0 && e.Code != 408 {
		repr = "b" + repr
	}
	return fmt.Appendf(nil, ":ERROR: %d %s\n", e.Code, repr)
}

// Repr is Python's repr() of a text in ASCII; of other bytes it is that of bytes without the b.
func Repr(s string) string {
	quote := byte('\'')
	if strings.IndexByte(s, '\'') >= 0 && strings.IndexByte(s, '"') < 0 {
		quote = '"'
	}
	b := []byte{quote}
	for i := range len(s) {
		switch c := s[i]; {
		case c == quote || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < 0x20 || c >= 0x7f:
			b = fmt.Appendf(b, `\x%02x`, c)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, quote))
}

// failed is a failure that is an exception in Swift.
func failed(format string, args ...any) *Failure {
	return &Failure{Text: fmt.Sprintf(format, args...)}
}

// Disconnected is the error of a sender that ended its body where something had to follow.
var Disconnected = fmt.Errorf("ssync client disconnected") //lint:ignore ST1012 it is Swift's word

// Local is what a receiver has of an object that is offered. Zero times are none: a tombstone
// has only Data, what is not there has nothing.
type Local struct{ Data, Meta, CType timestamp.Timestamp }

// Compare says what a receiver wants of an offer; nothing if neither part is set.
// Swift: ssync_receiver.py, encode_wanted.
func Compare(o Offer, have Local) Wanted {
	w := Wanted{Hash: o.Hash}
	if have.Data.IsZero() {
		w.Data, w.Meta = true, true
		return w
	}
	w.Data = o.Data.After(have.Data)
	w.Meta = !have.Meta.IsZero() && o.Meta.After(have.Meta) ||
		!have.CType.IsZero() && o.CType.After(have.CType) && o.CType.After(o.Data)
	return w
}

// Subrequest is the head of a PUT, POST or DELETE. Of fields with the same name the last one
// counts; names are in lower case, values raw bytes.
type Subrequest struct {
	Method, Path string // the path as it came, quoted; it begins with a slash
	Fields       []Field
	Length       int64 // of the payload that follows, 0 for POST and DELETE
}

// ReplicationHeaders is what X-Backend-Replication-Headers tells: the fields whose names end up
// in the metadata. The ETag is set by the server itself, and the other is none.
func (s *Subrequest) ReplicationHeaders() string {
	var names []string
	for _, f := range s.Fields {
		if f.Key != "etag" && f.Key != "x-backend-no-commit" {
			names = append(names, f.Key)
		}
	}
	return strings.Join(names, " ")
}

// ReceivedKind is what bytes of a sender meant.
type ReceivedKind uint8

const (
	More      ReceivedKind = iota // nothing yet: all was taken
	Offered                       // a line of the missing check: Want is called, or not
	OffersEnd                     // the receiver's turn: CheckAnswer
	Asked                         // a subrequest: its Payload follows, then Answered is called
	Payload                       // some of it
	Done                          // the receiver's turn: UpdatesAnswer
)

func (k ReceivedKind) String() string {
	return [...]string{"more", "offered", "offers-end", "asked", "payload", "done"}[k]
}

// Received is what came of some bytes.
type Received struct {
	Kind       ReceivedKind
	Offer      Offer      // of Offered: Meta and CType are never zero
	Subrequest Subrequest // of Asked
	Data       []byte     // of Payload: a part of what was fed
}

type stage uint8

const (
	checkStart stage = iota
	checkLine
	updatesStart
	updatesLine
	headLine
	payload
	finished
	refused
)

// Receiver is the receiver's side of one SSYNC exchange as a state machine: no socket, no
// clock, no disk. What a sender sends, HTTP chunks taken off, goes into Feed; what is to be
// said comes from CheckAnswer and UpdatesAnswer. Nothing is guessed: the first thing that
// does not belong where it stands is a *Failure, after which nothing more is taken, so that
// no part of a payload is ever understood as a subrequest (bug 2115991). Threshold, Ratio and
// Old are set before the first call.
//
// Swift: obj/ssync_receiver.py.
type Receiver struct {
	Threshold int     // how many failed subrequests end the exchange
	Ratio     float64 // if they are more than so many times those that succeeded
	// Old is the dialect of 2013 (rule 27): PUT and DELETE only, times of data only, bare hashes,
	// and answers that are followed by enough spaces to flush any buffer.
	Old bool

	stage stage
	line  []byte // the beginning of a line that is not complete
	sub   Subrequest
	head  int   // bytes of the head so far
	sized bool  // it had a Content-Length
	left  int64 // bytes that the payload still owes
	wants []want

	failures, successes int
}

// want is a Wanted in little room.
type want struct {
	hash  [16]byte
	parts uint8 // 1 data, 2 meta
}

// Context says what is waited for, in Swift's words.
func (r *Receiver) Context() string {
	switch r.stage {
	case checkStart:
		return "missing_check start"
	case checkLine:
		return "missing_check line"
	case updatesStart:
		return "updates start"
	case payload:
		return "updates content"
	}
	return "updates line"
}

// Left is how many bytes of payload are still owed.
func (r *Receiver) Left() int64 { return r.left }

// Feed takes bytes of the sender up to the next thing that they mean, and says how many it took:
// all, if that is More. An error is a *Failure, and final.
func (r *Receiver) Feed(p []byte) (n int, ev Received, err error) {
	if r.stage == payload {
		n = int(min(r.left, int64(len(p))))
		if r.left -= int64(n); r.left == 0 {
			r.stage = updatesLine
		}
		if n > 0 {
			return n, Received{Kind: Payload, Data: p[:n]}, nil
		}
	}
	for n < len(p) && err == nil && ev.Kind == More {
		if r.stage == finished || r.stage == refused {
			return n, Received{}, failed("%d bytes behind the end", len(p)-n)
		}
		line := p[n:]
		end := bytes.IndexByte(line, '\n')
		if end >= 0 {
			line = line[:end+1]
		}
		if len(r.line)+len(line) > maxLine {
			r.stage, r.line = refused, nil
			return n, Received{}, failed("a line of more than %d bytes", maxLine)
		}
		n += len(line)
		if end < 0 {
			r.line = append(r.line, line...)
			break
		}
		if len(r.line) > 0 {
			line = append(r.line, line...)
			r.line = line[:0]
		}
		ev, err = r.take(line)
		if cap(r.line) > 4096 {
			r.line = nil // long ones are rare
		}
	}
	if err != nil {
		r.stage = refused
	}
	return n, ev, err
}

// Close tells that the sender's body has ended as it should. As in Swift that can stand for
// either END; an exchange that had to go on is Disconnected.
func (r *Receiver) Close() (Received, error) {
	was := r.stage
	r.stage = refused
	if len(r.line) > 0 {
		return Received{}, failed("the body ended within a line: %s", r.Context())
	}
	switch was {
	case checkLine:
		r.stage = updatesStart
		return Received{Kind: OffersEnd}, nil
	case updatesLine, finished:
		r.stage = finished
		return Received{Kind: Done}, nil
	case headLine:
		return Received{}, failed("Got no headers for %s %s", r.sub.Method, r.sub.Path)
	case payload:
		return Received{}, failed("Early termination for %s %s", r.sub.Method, r.sub.Path)
	}
	return Received{}, Disconnected
}

// take understands a whole line. The line is not kept.
func (r *Receiver) take(raw []byte) (Received, error) {
	line := bytes.Trim(raw, " \t\n\r\v\f")
	switch r.stage {
	case checkStart, updatesStart:
		want := ":MISSING_CHECK: START"
		if r.stage == updatesStart {
			want = ":UPDATES: START"
		}
		if string(line) != want {
			return Received{}, failed("Looking for %s got b%s", want, Repr(string(raw[:min(len(raw), 1024)])))
		}
		r.stage++
	case checkLine:
		if string(line) == ":MISSING_CHECK: END" {
			r.stage = updatesStart
			return Received{Kind: OffersEnd}, nil
		}
		o, err := r.offer(string(line))
		return Received{Kind: Offered, Offer: o}, err
	case updatesLine:
		if string(line) == ":UPDATES: END" {
			r.stage = finished
			return Received{Kind: Done}, nil
		}
		method, path, ok := strings.Cut(string(line), " ")
		if !ok || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \r\x00") {
			return Received{}, failed("no subrequest: %s", Repr(string(line[:min(len(line), 1024)])))
		}
		if method != "PUT" && method != "DELETE" && (method != "POST" || r.Old) {
			return Received{}, failed("Invalid subrequest method %.1024s", method)
		}
		r.sub = Subrequest{Method: method, Path: path}
		r.head, r.sized, r.stage = len(raw), false, headLine
	case headLine:
		if len(line) == 0 {
			return r.asked()
		}
		if r.head += len(raw); r.head > maxHead || len(r.sub.Fields) == maxHeadFields {
			return Received{}, failed("more than %d bytes or %d fields in the head of %s %.1024s", maxHead, maxHeadFields, r.sub.Method, r.sub.Path)
		}
		return Received{}, r.field(string(line))
	}
	return Received{}, nil
}

func (r *Receiver) field(line string) error {
	key, value, ok := strings.Cut(line, ":")
	key, value = strings.ToLower(strings.Trim(key, " \t\v\f")), strings.Trim(value, " \t\v\f")
	if !ok || key == "" || strings.ContainsAny(line, "\r\x00") || strings.ContainsAny(key, " \t") {
		return failed("no header line: %s", Repr(line[:min(len(line), 1024)]))
	}
	if key == "content-length" {
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || r.sized && int64(n) != r.sub.Length {
			return failed("invalid content-length for %s %.1024s: %.100q", r.sub.Method, r.sub.Path, value)
		}
		r.sub.Length, r.sized = int64(n), true
	}
	for i := range r.sub.Fields {
		if r.sub.Fields[i].Key == key {
			r.sub.Fields[i].Value = value
			return nil
		}
	}
	r.sub.Fields = append(r.sub.Fields, Field{Key: key, Value: value})
	return nil
}

func (r *Receiver) asked() (Received, error) {
	s := r.sub
	switch {
	case s.Method != "PUT" && s.Length != 0:
		return Received{}, failed("%s subrequest with content-length %s", s.Method, s.Path)
	case s.Method == "PUT" && !r.sized:
		return Received{}, failed("No content-length sent for %s %s", s.Method, s.Path)
	}
	r.stage = updatesLine
	if r.left = s.Length; r.left > 0 {
		r.stage = payload
	}
	r.sub.Fields = nil
	return Received{Kind: Asked, Subrequest: s}, nil
}

// offer reads "hash data [k:v,...]". Deltas count from the data's time without its offset; an
// offset of their own stands behind two underscores (rule 17). Keys that are not known are
// passed over. Swift: ssync_receiver.py, decode_missing.
func (r *Receiver) offer(line string) (o Offer, err error) {
	bad := func(why any) (Offer, error) {
		return Offer{}, failed("no offer: %s: %v", Repr(line[:min(len(line), 1024)]), why)
	}
	parts := strings.Fields(line)
	if len(parts) < 2 {
		return bad("a hash and a time are missing")
	}
	if o.Hash = unquote(parts[0]); !isHash(o.Hash) {
		return bad("not an object hash")
	}
	if o.Data, err = timestamp.Parse(unquote(parts[1])); err != nil {
		return bad(err)
	}
	o.Meta, o.CType = o.Data, o.Data
	if len(parts) < 3 || r.Old {
		return o, nil
	}
	for item := range strings.SplitSeq(unquote(parts[2]), ",") {
		key, value, ok := strings.Cut(item, ":")
		switch {
		case !ok:
		case strings.Contains(value, ":"):
			return bad("too many colons")
		case key == "m":
			o.Meta, err = shifted(o.Data, value)
		case key == "t":
			o.CType, err = shifted(o.Data, value)
		case key == "durable":
			o.NonDurable = !isTrue(value)
		}
		if err != nil {
			return bad(err)
		}
	}
	return o, nil
}

func shifted(data timestamp.Timestamp, value string) (timestamp.Timestamp, error) {
	delta, offset, has := strings.Cut(value, "__")
	n, err := strconv.ParseInt(delta, 16, 64)
	if err != nil {
		return data, err
	}
	t, err := timestamp.Timestamp{Raw: data.Raw}.Shift(n)
	if err == nil && has {
		t.Offset, err = strconv.ParseUint(offset, 16, 64)
	}
	return t, err
}

// unquote undoes %XX; in what Swift sends here there is none.
func unquote(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// Want remembers what is wanted of an offer; nothing is not.
func (r *Receiver) Want(w Wanted) error {
	entry := want{}
	if w.Data {
		entry.parts |= 1
	}
	if w.Meta {
		entry.parts |= 2
	}
	if entry.parts == 0 || r.Old && !w.Data {
		return nil
	}
	if _, err := hex.Decode(entry.hash[:], []byte(w.Hash)); err != nil {
		return failed("cannot want %.100q: not an object hash", w.Hash)
	}
	if len(r.wants) == maxWants {
		r.stage = refused
		return failed("more than %d objects are wanted: offer fewer at a time", maxWants)
	}
	r.wants = append(r.wants, entry)
	return nil
}

// CheckAnswer is the answer to the missing check, in pieces to be written one after the other
// (each is overwritten by the next one). What was remembered is given up.
func (r *Receiver) CheckAnswer() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		out := []byte(":MISSING_CHECK: START\r\n")
		for i, w := range r.wants {
			if i > 0 {
				out = append(out, crlf...)
			}
			if len(out) > wantsPiece {
				if !yield(out) {
					return
				}
				out = out[:0]
			}
			out = hex.AppendEncode(out, w.hash[:])
			if !r.Old {
				out = append(out, [...]string{"", " d", " m", " dm"}[w.parts]...)
			}
		}
		r.wants = nil
		out = append(out, "\r\n:MISSING_CHECK: END\r\n"...)
		yield(r.flush(out))
	}
}

// flush makes sure, in the dialect of 2013, that what was said arrives.
func (r *Receiver) flush(out []byte) []byte {
	if r.Old {
		out = append(append(out, bytes.Repeat([]byte{' '}, flushWidth)...), crlf...)
	}
	return out
}

// Begin is what is sent before anything is waited for, so that the head of the answer arrives
// (rule 26).
func (r *Receiver) Begin() []byte {
	if r.Old {
		return r.flush(nil)
	}
	return crlf
}

// Answered counts the status with which a subrequest was answered. What is not there any more
// needs no tombstone: 404 is a success (rule 26). Too many failures are a *Failure.
func (r *Receiver) Answered(status int) error {
	if status >= 200 && status < 300 || status == 404 {
		r.successes++
	} else {
		r.failures++
	}
	if r.failures >= r.Threshold && (r.successes == 0 || float64(r.failures)/float64(r.successes) > r.Ratio) {
		r.stage = refused
		return failed("Too many %d failures to %d successes", r.failures, r.successes)
	}
	return nil
}

// UpdatesAnswer is the answer to the subrequests: an end, if none failed.
func (r *Receiver) UpdatesAnswer() ([]byte, error) {
	if r.failures > 0 {
		return nil, &Failure{500, fmt.Sprintf("ERROR: With :UPDATES: %d failures to %d successes", r.failures, r.successes)}
	}
	return r.flush([]byte(":UPDATES: START\r\n:UPDATES: END\r\n")), nil
}
