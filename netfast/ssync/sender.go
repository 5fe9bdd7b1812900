// Package ssync speaks the sender's side of SSYNC, Swift's replication protocol: the
// protocol as a pure state machine (Sender) and a session around it that owns a
// connection (Session). It opens no files and decides nothing about objects: what is
// offered, and with which bytes a wish is met, comes from its caller.
package ssync

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"imping/netfast"
	"imping/swift/timestamp"
)

const (
	// maxLine bounds a line in either direction: Swift reads lines with
	// network_chunk_size, 64 KiB, and would take the rest of a longer one for a line
	// of its own.
	maxLine = 64 << 10
	// maxBlank bounds the empty lines of one session. Receivers send two or three.
	maxBlank = 1024
)

// Field is one header field of a subrequest. Both are raw bytes: user metadata goes
// out as the client's own bytes.
type Field = netfast.Field

// Offer is what the sender has of one object.
type Offer struct {
	Hash       string              // 32 lower-case hex digits
	Data       timestamp.Timestamp // of the .data file or the tombstone
	Meta       timestamp.Timestamp // of the .meta file; zero if there is none
	CType      timestamp.Timestamp // of the content type in the .meta file; zero if none
	NonDurable bool
}

// HasOffset says that a .meta file's time is told with an offset, in a form that
// receivers before 2.32 do not know (see Dialect).
func (o Offer) HasOffset() bool {
	return o.hasMeta() && (o.Meta.Offset > 0 || o.hasCType() && o.CType.Offset > 0)
}

func (o Offer) hasMeta() bool  { return !o.Meta.IsZero() && o.Meta != o.Data }
func (o Offer) hasCType() bool { return !o.CType.IsZero() && o.CType != o.Data }

// Dialect is what a receiver does not know; the zero value knows all.
type Dialect struct {
	// NoOffsets: a .meta file's times come without offset. Receivers before 2.32 raise
	// on the form that has them, and end the session (rule 17; bug 2007643).
	NoOffsets bool
	// DurableOnly: there is no X-Backend-No-Commit, so that whatever is sent becomes
	// durable; what is not is not offered (rule 16).
	DurableOnly bool
}

// Wanted is what the receiver wants of one object that was offered.
type Wanted struct {
	Hash       string
	Data, Meta bool
}

// PutHead is the head of a PUT subrequest. Header takes the metadata of the .data
// file as it is: `name` and `Content-Length` in it are passed over, as Swift does, and
// the fields are sent sorted.
type PutHead struct {
	Path     string // "/a/c/o", utf-8, not quoted
	Length   int64  // of the archive, in bytes
	Header   []Field
	NoCommit bool // the archive is not durable, and must not become so
}

// EventKind is what a line of the receiver meant.
type EventKind uint8

const (
	Nothing      EventKind = iota // an empty line, which only flushes
	CheckStart                    // :MISSING_CHECK: START
	Want                          // a wanted line
	CheckEnd                      // :MISSING_CHECK: END
	UpdatesStart                  // :UPDATES: START
	UpdatesEnd                    // :UPDATES: END: all subrequests succeeded
)

func (k EventKind) String() string {
	return [...]string{"nothing", "check-start", "want", "check-end", "updates-start", "updates-end"}[k]
}

// Event is what came of one line; Wanted is set for Want only.
type Event struct {
	Kind   EventKind
	Wanted Wanted
}

type phase uint8

const (
	offering  phase = iota // the sender's turn: offers
	asked                  // the receiver's: :MISSING_CHECK: START
	listening              // and wanted lines, up to :MISSING_CHECK: END
	sending                // the sender's: subrequests
	ending                 // the receiver's: :UPDATES: START
	closing                // and :UPDATES: END
	done
	broken
)

func (p phase) String() string {
	return [...]string{"offering", "awaiting :MISSING_CHECK: START", "awaiting wanted lines",
		"sending updates", "awaiting :UPDATES: START", "awaiting :UPDATES: END", "done", "broken"}[p]
}

// Sender is the sender's side of one SSYNC exchange as a state machine: no socket, no
// clock, no goroutine. Its methods append what is to be sent, HTTP chunks included, to
// dst; lines that were received go into Feed. Payload never enters it. The zero value
// is ready, for a receiver that knows all; Dialect is set before the first call.
//
// Swift: obj/ssync_sender.py, obj/ssync_receiver.py.
type Sender struct {
	Dialect  Dialect
	Withheld int // offers that were not made: not durable, to a receiver that would make them so

	phase   phase
	offered map[string]bool // hash -> already wanted
	begun   bool            // :MISSING_CHECK: START was written
	updates bool            // :UPDATES: START was written
	left    int64           // payload bytes that the current PUT still owes
	blank   int
	msg     []byte   // a message under construction
	frame   [18]byte // a payload chunk's head: 16 digits and \r\n
}

var crlf = []byte("\r\n")

// chunk appends s.msg as one HTTP chunk.
func (s *Sender) chunk(dst []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(s.msg)), 16)
	dst = append(dst, crlf...)
	dst = append(dst, s.msg...)
	return append(dst, crlf...)
}

// say appends a line as one HTTP chunk.
func say(dst []byte, line string) []byte {
	dst = strconv.AppendInt(dst, int64(len(line)+len(crlf)), 16)
	dst = append(dst, crlf...)
	dst = append(dst, line...)
	dst = append(dst, crlf...)
	return append(dst, crlf...)
}

func (s *Sender) mustBe(p phase, doing string) error {
	if s.phase != p {
		return fmt.Errorf("cannot %s while %s", doing, s.phase)
	}
	if s.left > 0 {
		return fmt.Errorf("cannot %s: a PUT still owes %d bytes", doing, s.left)
	}
	return nil
}

// Offer appends the line that offers o, and before the first one the start of the
// missing check.
//
// Timestamps are written as Swift does (ssync_sender.py, encode_missing): the data
// timestamp in full, those of the .meta file as the difference to it, offsets left out of
// the account, in units of 1e-5 s, and their own offset behind two underscores (rule 17).
func (s *Sender) Offer(dst []byte, o Offer) ([]byte, error) {
	if err := s.mustBe(offering, "offer"); err != nil {
		return dst, err
	}
	if !isHash(o.Hash) {
		return dst, fmt.Errorf("cannot offer %.100q: not an object hash", o.Hash)
	}
	dst = s.start(dst)
	if o.NonDurable && s.Dialect.DurableOnly {
		s.Withheld++
		return dst, nil
	}
	s.offered[o.Hash] = false

	m := append(s.msg[:0], o.Hash...)
	m = append(m, ' ')
	m = append(m, o.Data.Internal()...)
	sep := byte(' ')
	if o.hasMeta() {
		m = s.delta(append(m, sep, 'm', ':'), o.Meta, o.Data)
		sep = ','
		if o.hasCType() {
			m = s.delta(append(m, sep, 't', ':'), o.CType, o.Data)
		}
	}
	if o.NonDurable {
		m = append(m, sep)
		m = append(m, "durable:False"...)
	}
	s.msg = append(m, crlf...)
	return s.chunk(dst), nil
}

// delta appends how much later than data t is.
func (s *Sender) delta(m []byte, t, data timestamp.Timestamp) []byte {
	m = strconv.AppendInt(m, t.Raw-data.Raw, 16)
	if t.Offset > 0 && !s.Dialect.NoOffsets {
		m = append(m, "__"...)
		m = strconv.AppendUint(m, t.Offset, 16)
	}
	return m
}

func (s *Sender) start(dst []byte) []byte {
	if s.begun {
		return dst
	}
	s.begun = true
	s.offered = make(map[string]bool)
	return say(dst, ":MISSING_CHECK: START")
}

// OfferEnd appends the end of the missing check: the receiver's turn.
func (s *Sender) OfferEnd(dst []byte) ([]byte, error) {
	if err := s.mustBe(offering, "end the offers"); err != nil {
		return dst, err
	}
	dst = say(s.start(dst), ":MISSING_CHECK: END")
	s.phase = asked
	return dst, nil
}

// Feed takes one line from the receiver, with or without its end. The errors are
// *RemoteError and *ProtocolError; after either the exchange is over.
func (s *Sender) Feed(line []byte) (Event, error) {
	if s.phase == broken {
		return Event{}, unexpected("the exchange is over", line)
	}
	ev, err := s.feed(line)
	if err != nil {
		s.phase = broken
	}
	return ev, err
}

func (s *Sender) feed(line []byte) (Event, error) {
	if len(line) > maxLine {
		return Event{}, unexpected("at most 65536 bytes", line)
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		if s.blank++; s.blank > maxBlank {
			return Event{}, unexpected(fmt.Sprintf("at most %d empty lines", maxBlank), line)
		}
		return Event{}, nil
	}
	if e := parseRemote(line); e != nil {
		return Event{}, e
	}
	switch s.phase {
	case asked:
		return s.expect(line, ":MISSING_CHECK: START", listening, CheckStart)
	case listening:
		if string(line) == ":MISSING_CHECK: END" {
			s.phase = sending
			return Event{Kind: CheckEnd}, nil
		}
		return s.wanted(line)
	case ending:
		return s.expect(line, ":UPDATES: START", closing, UpdatesStart)
	case closing:
		return s.expect(line, ":UPDATES: END", done, UpdatesEnd)
	}
	return Event{}, unexpected("none while "+s.phase.String(), line)
}

func (s *Sender) expect(line []byte, want string, next phase, kind EventKind) (Event, error) {
	if string(line) != want {
		return Event{}, unexpected(want, line)
	}
	s.phase = next
	return Event{Kind: kind}, nil
}

// wanted reads "hash dm". A receiver that knows no parts answers bare hashes and takes
// PUTs only (Swift: ssync_sender.py, decode_wanted).
func (s *Sender) wanted(line []byte) (Event, error) {
	hash, parts, _ := strings.Cut(string(line), " ")
	answered, ok := s.offered[hash]
	if !ok {
		return Event{}, unexpected("a hash that was offered", line)
	}
	if answered {
		return Event{}, unexpected("each hash at most once", line)
	}
	s.offered[hash] = true
	parts, _, _ = strings.Cut(strings.TrimLeft(parts, " "), " ")
	w := Wanted{Hash: hash, Data: strings.Contains(parts, "d"), Meta: strings.Contains(parts, "m")}
	if !w.Data && !w.Meta {
		w.Data = true
	}
	return Event{Kind: Want, Wanted: w}, nil
}

// PutHead appends the head of a PUT subrequest. From here on exactly h.Length bytes of
// payload must follow, in Frames.
func (s *Sender) PutHead(dst []byte, h PutHead) ([]byte, error) {
	if h.Length < 0 {
		return dst, fmt.Errorf("cannot PUT %s: length %d", h.Path, h.Length)
	}
	if h.NoCommit && s.Dialect.DurableOnly {
		return dst, fmt.Errorf("cannot PUT %s: the receiver would make it durable", h.Path)
	}
	fields := make([]Field, 0, len(h.Header)+2)
	fields = append(fields, Field{Key: "Content-Length", Value: strconv.FormatInt(h.Length, 10)})
	if h.NoCommit {
		fields = append(fields, Field{Key: "X-Backend-No-Commit", Value: "True"})
	}
	for _, f := range h.Header {
		if f.Key != "name" && f.Key != "Content-Length" {
			fields = append(fields, f)
		}
	}
	dst, err := s.subrequest(dst, "PUT", h.Path, fields)
	if err == nil {
		s.left = h.Length
	}
	return dst, err
}

// PostHead appends a POST subrequest, which is a head only: the metadata of a .meta
// file.
func (s *Sender) PostHead(dst []byte, path string, header []Field) ([]byte, error) {
	return s.subrequest(dst, "POST", path, append([]Field(nil), header...))
}

// DeleteHead appends a DELETE subrequest, which is a head only: a tombstone.
func (s *Sender) DeleteHead(dst []byte, path string, ts timestamp.Timestamp) ([]byte, error) {
	return s.subrequest(dst, "DELETE", path, []Field{{Key: "X-Timestamp", Value: ts.Internal()}})
}

// subrequest appends a head as one chunk, and before the first one the start of the
// updates. It sorts fields.
func (s *Sender) subrequest(dst []byte, method, path string, fields []Field) ([]byte, error) {
	if err := s.mustBe(sending, "send a "+method); err != nil {
		return dst, err
	}
	if !strings.HasPrefix(path, "/") {
		return dst, fmt.Errorf("cannot %s %.100q: not an object's name", method, path)
	}
	sortFields(fields)
	m := append(s.msg[:0], method...)
	m = append(m, ' ')
	m = append(m, netfast.Quote(path)...)
	m = append(m, crlf...)
	var err error
	for _, f := range fields {
		if len(f.Key)+len(f.Value)+4 > maxLine {
			return dst, fmt.Errorf("cannot %s %s: header %.100q has %d bytes", method, path, f.Key, len(f.Value))
		}
		if m, err = netfast.AppendField(m, f); err != nil {
			return dst, fmt.Errorf("cannot %s %s: %w", method, path, err)
		}
	}
	s.msg = append(m, crlf...)
	return s.chunk(s.startUpdates(dst)), nil
}

func (s *Sender) startUpdates(dst []byte) []byte {
	if s.updates {
		return dst
	}
	s.updates = true
	return say(dst, ":UPDATES: START")
}

// Frame is what goes before and after n bytes of payload to make them one HTTP chunk.
// head is valid until the next call. n must be at least 1 (a chunk of 0 ends the
// request) and at most what the PUT owes.
func (s *Sender) Frame(n int) (head, tail []byte, err error) {
	if s.phase != sending {
		return nil, nil, fmt.Errorf("cannot send a chunk while %s", s.phase)
	}
	if n < 1 || int64(n) > s.left {
		return nil, nil, fmt.Errorf("cannot send a chunk of %d bytes: the PUT owes %d", n, s.left)
	}
	s.left -= int64(n)
	return append(strconv.AppendInt(s.frame[:0], int64(n), 16), crlf...), crlf, nil
}

// MustCut is true between a PUT's head and its last payload byte: the only way to
// withdraw such an object is to cut the connection.
func (s *Sender) MustCut() bool { return s.left > 0 }

// Owes is how many payload bytes the current PUT still has to send.
func (s *Sender) Owes() int64 { return s.left }

// UpdatesEnd appends the end of the updates: the receiver's last turn.
func (s *Sender) UpdatesEnd(dst []byte) ([]byte, error) {
	if err := s.mustBe(sending, "end the updates"); err != nil {
		return dst, err
	}
	dst = say(s.startUpdates(dst), ":UPDATES: END")
	s.phase = ending
	return dst, nil
}

// Terminate appends the end of the request's body. It refuses within a PUT.
func (s *Sender) Terminate(dst []byte) ([]byte, error) {
	if s.left > 0 {
		return dst, errors.New("cannot end the request within a PUT")
	}
	s.phase = broken
	return append(dst, "0\r\n\r\n"...), nil
}

func isHash(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// sortFields orders by key as Python's sorted(headers.items()) does: by code points,
// which is the order of utf-8 bytes.
func sortFields(fields []Field) {
	for i := 1; i < len(fields); i++ {
		for j := i; j > 0 && fields[j].Key < fields[j-1].Key; j-- {
			fields[j], fields[j-1] = fields[j-1], fields[j]
		}
	}
}
