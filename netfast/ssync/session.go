package ssync

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"imping/netfast"
	"imping/swift/timestamp"
)

const (
	// flushAt is how many bytes of offers are gathered for one write: some 500 lines.
	flushAt = 32 << 10
	// lastWords is how long a receiver that hung up is listened to: what it said is
	// mostly there already, and a pass must not wait for it.
	lastWords = 500 * time.Millisecond
	// maxLastWords bounds the lines that are read then.
	maxLastWords = 16
)

// Target is one partition on one peer's device.
type Target struct {
	Addr      string // replication host:port
	Device    string
	Partition int
	Policy    int
	FragIndex int  // of the archives that the target is to hold; < 0: not an EC policy
	NoOffsets bool // see Dialect
}

// Timeouts of a session. Conn bounds the dial, Node the answer's head and each write's
// standstill, HTTP each write as a whole and the silence while the receiver works (Swift:
// conn_timeout, node_timeout, http_timeout). Empty lines do not end a silence.
type Timeouts struct{ Conn, Node, HTTP time.Duration }

// Session is one SSYNC request on a connection of its own. It is used by one goroutine
// at a time, in the order Offer, Wanted, any number of Put, Post and Delete, Finish,
// Close; Cut may come at any time from anywhere. After an error other than a refused
// argument the session is over and every call returns that error.
type Session struct {
	target Target
	conn   *netfast.Conn
	resp   *netfast.Response
	in     *bufio.Reader // lines out of the response's chunks
	stop   func() bool
	sender Sender

	out  []byte // control bytes about to be written
	long []byte // a line longer than in's buffer

	silence    time.Duration // longest, of the receiver
	writeLimit time.Duration
	vec        [4][]byte
	bufs       net.Buffers

	put  *Put // not yet committed or aborted
	over atomic.Pointer[error]
}

// Open dials t, sends the head of the request and reads that of the answer. ctx
// governs the whole session: its end interrupts what is under way. An answer other
// than 200 is a *StatusError.
func Open(ctx context.Context, c *netfast.Client, t Target, to Timeouts) (*Session, error) {
	req := &netfast.Request{
		Method: "SSYNC",
		Path:   netfast.Quote("/" + t.Device + "/" + strconv.Itoa(t.Partition)),
		Header: []netfast.Field{
			{Key: "Transfer-Encoding", Value: "chunked"},
			{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(t.Policy)},
		},
	}
	if t.FragIndex >= 0 {
		index := strconv.Itoa(t.FragIndex)
		req.Header = append(req.Header,
			netfast.Field{Key: "X-Backend-Ssync-Frag-Index", Value: index},
			netfast.Field{Key: "X-Backend-Ssync-Node-Index", Value: index}) // for receivers of 2.4 to 2.20
	}
	s := &Session{target: t}
	conn, err := c.Dial(ctx, t.Addr, to.Conn, to.Node)
	if err != nil {
		return nil, s.wrap(err)
	}
	s.conn, s.stop = conn, conn.InterruptOn(ctx)
	err = conn.Send(req, c.UserAgent())
	if err == nil {
		s.resp, err = conn.Receive(req)
	}
	if err == nil && s.resp.Status != 200 {
		err = s.resp.Refuse()
	}
	if err != nil {
		s.stop()
		conn.Close()
		return nil, s.wrap(err)
	}
	conn.SetTimeouts(to.HTTP, to.Node)
	s.silence, s.writeLimit = to.HTTP, to.HTTP
	s.sender.Dialect = Dialect{NoOffsets: t.NoOffsets, DurableOnly: !isTrue(s.resp.Header("X-Backend-Accept-No-Commit"))}
	s.in = bufio.NewReaderSize(s.resp, 4096)
	return s, nil
}

// isTrue: Swift's config_true_value.
func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on", "t", "y":
		return true
	}
	return false
}

func (s *Session) wrap(err error) error {
	return fmt.Errorf("ssync to %s/%s/%d: %w", s.target.Addr, s.target.Device, s.target.Partition, err)
}

// Target is what the session was opened with.
func (s *Session) Target() Target { return s.target }

// Withheld is how many offers were not made, of archives that are not durable: the
// receiver can not take one without making it durable (rule 16).
func (s *Session) Withheld() int { return s.sender.Withheld }

// DurableOnly says that the receiver makes durable whatever it is sent.
func (s *Session) DurableOnly() bool { return s.sender.Dialect.DurableOnly }

// Offer sends the whole missing check, but for what the receiver can not take: see
// Withheld.
func (s *Session) Offer(ctx context.Context, offers iter.Seq[Offer]) error {
	return s.during(ctx, func() error {
		out := s.out[:0]
		var err error
		for o := range offers {
			if out, err = s.sender.Offer(out, o); err != nil {
				return err
			}
			if len(out) >= flushAt {
				if err = s.write(out); err != nil {
					return err
				}
				out = out[:0]
			}
		}
		if out, err = s.sender.OfferEnd(out); err != nil {
			return err
		}
		s.out = out
		return s.write(out)
	})
}

// Wanted reads what the receiver wants of the offers. It waits for the receiver's
// semaphore and locks, and while it looks at its own files; a caller that can do
// without bounds that by ctx (rule 12). Busy receivers are a *RemoteError that is
// Retryable.
func (s *Session) Wanted(ctx context.Context) ([]Wanted, error) {
	var wanted []Wanted
	err := s.during(ctx, func() error {
		for {
			ev, err := s.await()
			switch {
			case err != nil:
				return err
			case ev.Kind == CheckEnd:
				return nil
			case ev.Kind == Want:
				wanted = append(wanted, ev.Wanted)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return wanted, nil
}

// LimitWrites bounds each write from now on, a fragment or a subrequest without a body:
// one that takes longer ends the session with netfast.ErrSlow, though the receiver makes
// progress. 0: no limit.
func (s *Session) LimitWrites(d time.Duration) { s.writeLimit = d }

// limit starts the time of a write.
func (s *Session) limit() {
	if s.writeLimit > 0 {
		s.conn.WriteBy(time.Now().Add(s.writeLimit))
	} else {
		s.conn.WriteBy(time.Time{})
	}
}

// Put begins a PUT subrequest. Nothing is sent before its first fragment, with which
// the head leaves in one write; until then Abort costs nothing. One Put at a time.
func (s *Session) Put(h PutHead) (*Put, error) {
	if err := s.ready("PUT " + h.Path); err != nil {
		return nil, err
	}
	// A bad head is refused here, while that is harmless. The state machine is a value:
	// the copy that made the head takes over when the head is sent, and an aborted one
	// leaves no trace.
	next := s.sender
	out, err := next.PutHead(s.out[:0], h)
	if err != nil {
		return nil, s.wrap(err)
	}
	s.out = out
	s.put = &Put{s: s, path: h.Path, length: h.Length, owes: h.Length, next: next}
	return s.put, nil
}

// Post sends a POST subrequest: the metadata of a .meta file, X-Timestamp included.
func (s *Session) Post(path string, header []Field) error {
	if err := s.ready("POST " + path); err != nil {
		return err
	}
	return s.subrequest(s.sender.PostHead(s.out[:0], path, header))
}

// Delete sends a DELETE subrequest: a tombstone.
func (s *Session) Delete(path string, ts timestamp.Timestamp) error {
	if err := s.ready("DELETE " + path); err != nil {
		return err
	}
	return s.subrequest(s.sender.DeleteHead(s.out[:0], path, ts))
}

func (s *Session) subrequest(out []byte, err error) error {
	if err != nil {
		return s.wrap(err) // a refused argument: nothing was sent
	}
	s.out = out
	if err := s.write(out); err != nil {
		return s.end(err)
	}
	return nil
}

// Finish ends the updates and reads the receiver's verdict. nil means a clean
// :UPDATES: END: every subrequest of this session succeeded. That, and nothing less,
// is success.
func (s *Session) Finish(ctx context.Context) error {
	if err := s.ready("finish"); err != nil {
		return err
	}
	return s.during(ctx, func() error {
		out, err := s.sender.UpdatesEnd(s.out[:0])
		if err != nil {
			return err
		}
		s.out = out
		if err := s.write(out); err != nil {
			return err
		}
		for {
			ev, err := s.await()
			if err != nil || ev.Kind == UpdatesEnd {
				return err
			}
		}
	})
}

// Cut ends the session at once: the receiver never sees the rest of what was being
// sent, and drops the object that it was receiving. Every later call returns cause.
func (s *Session) Cut(cause error) {
	if cause == nil {
		cause = errors.New("cut")
	}
	wrapped := s.wrap(cause)
	s.over.CompareAndSwap(nil, &wrapped)
	if errors.Is(cause, netfast.ErrSlow) {
		s.conn.Drop() // megabytes may wait for a receiver that is slow: it would hold its locks until it has read them
	}
	s.conn.Interrupt(cause)
	s.conn.Close()
}

// Close ends the session: in good order where that is possible, else by a cut. It
// does not wait for the receiver. Closing twice does nothing.
func (s *Session) Close() error {
	if s.over.Load() == nil && s.put == nil {
		if out, err := s.sender.Terminate(s.out[:0]); err == nil {
			s.write(out) // a courtesy: it may have hung up already
		}
	}
	s.Cut(net.ErrClosed)
	s.stop()
	return s.resp.Close()
}

// Err is why the session is over, or nil.
func (s *Session) Err() error {
	if p := s.over.Load(); p != nil {
		return *p
	}
	return nil
}

func (s *Session) ready(to string) error {
	if err := s.Err(); err != nil {
		return err
	}
	if s.put != nil {
		return s.wrap(fmt.Errorf("cannot %s: the PUT of %s is not finished", to, s.put.path))
	}
	return nil
}

// during runs f, interrupted by the end of ctx; its error ends the session.
func (s *Session) during(ctx context.Context, f func() error) error {
	if err := s.Err(); err != nil {
		return err
	}
	stop := s.conn.InterruptOn(ctx)
	defer stop()
	if err := f(); err != nil {
		return s.end(err)
	}
	return nil
}

// end cuts the session because of err and returns why it is over: err, unless
// someone else came first.
func (s *Session) end(err error) error {
	s.Cut(err)
	return s.Err()
}

func (s *Session) write(p []byte) error {
	s.limit()
	if _, err := s.conn.Write(p); err != nil {
		return s.reason(err)
	}
	return nil
}

// reason listens to what a receiver that hung up may have said before (Swift:
// ssync_receiver.py, __call__: an :ERROR: line, then shutdown), so that the cause is
// known and not only "broken pipe".
func (s *Session) reason(err error) error {
	if s.conn.Interrupted() != nil || netfast.IsTimeout(err) {
		return err
	}
	s.conn.ReadBy(time.Now().Add(lastWords))
	for range maxLastWords {
		_, said := s.next()
		var remote *RemoteError
		if errors.As(said, &remote) {
			return fmt.Errorf("%w (%v)", said, err)
		}
		if said != nil {
			break
		}
	}
	return err
}

// await is the event of the next line that says something. A receiver that keeps sending
// empty ones is silent.
func (s *Session) await() (Event, error) {
	if s.silence > 0 {
		s.conn.ReadBy(time.Now().Add(s.silence))
		defer s.conn.ReadBy(time.Time{})
	}
	for {
		ev, err := s.next()
		if err != nil || ev.Kind != Nothing {
			return ev, err
		}
	}
}

// next is the event of the next line.
func (s *Session) next() (Event, error) {
	line, err := s.line()
	if err != nil {
		return Event{}, err
	}
	return s.sender.Feed(line)
}

// line reads one line of at most maxLine bytes; the last one of a response that ends in
// good order need not have an end.
func (s *Session) line() ([]byte, error) {
	line, err := s.in.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	s.long = append(s.long[:0], line...)
	for err == bufio.ErrBufferFull && len(s.long) <= maxLine {
		line, err = s.in.ReadSlice('\n')
		s.long = append(s.long, line...)
	}
	switch {
	case err == nil || err == bufio.ErrBufferFull: // Feed refuses what is too long
		return s.long, nil
	case err == io.EOF && len(s.long) > 0:
		return s.long, nil
	case err == io.EOF:
		return nil, fmt.Errorf("the receiver hung up while we were %s: %w", s.sender.phase, io.ErrUnexpectedEOF)
	}
	return nil, err
}

// Put is one PUT subrequest under way. It takes exactly the declared number of bytes.
type Put struct {
	s            *Session
	path         string
	length, owes int64  // in bytes of payload
	next         Sender // the session's state once the head, which waits in its out, is sent
	sent         bool   // the head
	over         bool   // committed or aborted
}

// WriteFragment sends slot as one HTTP chunk, straight from the caller's memory, which
// is his again on return. The first call sends the head too. More bytes than were
// declared are refused, and nothing of them is sent.
func (p *Put) WriteFragment(slot []byte) error {
	s := p.s
	if err := p.ready(); err != nil {
		return err
	}
	if int64(len(slot)) > p.owes {
		return s.wrap(fmt.Errorf("cannot PUT %s: %d bytes, but only %d of %d are left to send",
			p.path, len(slot), p.owes, p.length))
	}
	if len(slot) == 0 {
		return nil
	}
	vec := s.vec[:0]
	if !p.sent {
		s.sender, p.sent = p.next, true
		vec = append(vec, s.out)
	}
	head, tail, err := s.sender.Frame(len(slot))
	if err != nil {
		return s.end(err)
	}
	p.owes -= int64(len(slot))
	s.bufs = append(vec, head, slot, tail)
	s.limit()
	_, err = s.conn.Writev(&s.bufs)
	clear(s.vec[:]) // the slot is not ours to keep
	if err != nil {
		return s.end(s.reason(err))
	}
	return nil
}

// Commit ends the subrequest: all its bytes were written. Whether the receiver took
// them is known from Finish only. With bytes missing it aborts instead, and fails.
func (p *Put) Commit(ctx context.Context) error {
	s := p.s
	if err := p.ready(); err != nil {
		return err
	}
	if p.owes > 0 {
		err := fmt.Errorf("cannot commit %s: %d of %d bytes were not written", p.path, p.owes, p.length)
		p.Abort(err)
		return s.wrap(err)
	}
	if !p.sent { // an empty archive
		s.sender, p.sent = p.next, true
		if err := s.during(ctx, func() error { return s.write(s.out) }); err != nil {
			return err
		}
	}
	p.over, s.put = true, nil
	return nil
}

// Abort withdraws the object: silently if nothing was sent, else by cutting the
// session. After Commit, or a second time, it does nothing.
func (p *Put) Abort(cause error) {
	if p.over {
		return
	}
	p.over, p.s.put = true, nil
	if p.sent {
		p.s.Cut(cause)
	}
}

func (p *Put) ready() error {
	if err := p.s.Err(); err != nil {
		return err
	}
	if p.over {
		return p.s.wrap(fmt.Errorf("the PUT of %s is over", p.path))
	}
	return nil
}
