package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"imping/io/diskfile"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/conf"
	"imping/swift/objhash"
)

// receiving is one SSYNC request under way. Its memory is buf, a line, the head of one
// subrequest, those of a group, and what is wanted of the objects offered.
type receiving struct {
	s                 *Server
	r                 *Request
	st                *store
	device, partition string
	number            int // of the partition
	fragIndex         int // negative = none was told

	rc      ssync.Receiver
	buf     []byte
	pending []byte // of buf: not yet fed
	broken  error  // what ended the sender's bytes; nothing is read after it
	asked   string // the line of the subrequest under way
	told    bool   // of broken, in the line about the subrequest that it cut short
	group   []*grouped
}

// unread is the end of a sender's bytes in the middle of something: there is nobody to tell.
type unread struct{ err error }

func (u *unread) Error() string { return u.err.Error() }

// receiveSize is how much is read at once where lines are expected: network_chunk_size.
const receiveSize = 64 << 10

// ssync receives a partition's objects. Swift: obj/server.py, SSYNC; obj/ssync_receiver.py.
func (s *Server) ssync(r *Request) (*Response, error) {
	x, err := s.newReceiving(r)
	if err != nil {
		return nil, err
	}
	return (&Response{Status: 200, Duplex: x.run}).with("X-Backend-Accept-No-Commit", "True"), nil
}

// replication2013 is ssync as it was called before there were policies (rule 27).
func (s *Server) replication2013(r *Request) (*Response, error) {
	r.Header.Del("X-Backend-Storage-Policy-Index")
	r.Header.Del("X-Backend-Ssync-Frag-Index")
	if st := s.stores[0]; st == nil || st.fragments() {
		return nil, answerText(503, "text/plain", "No replicated policy with index 0")
	}
	x, err := s.newReceiving(r)
	if err != nil {
		return nil, err
	}
	x.rc.Old = true
	return &Response{Status: 200, Duplex: x.run}, nil
}

func (s *Server) newReceiving(r *Request) (*receiving, error) {
	st, err := s.store(r)
	if err != nil {
		return nil, err
	}
	segs, err := splitPath(r.Path, 2, 2)
	if err != nil {
		return nil, err
	}
	x := &receiving{s: s, r: r, st: st, device: segs[0], partition: segs[1], fragIndex: -1}
	x.rc.Threshold, x.rc.Ratio = s.conf.ReplicationFailureThreshold, s.conf.ReplicationFailureRatio
	if value := r.Header.Get("X-Backend-Ssync-Frag-Index"); value != "" {
		index, ok := conf.ParseInt(value)
		if !ok {
			return nil, &Response{Status: 400, Body: []byte("Invalid X-Backend-Ssync-Frag-Index " + ssync.Repr(value))}
		}
		x.fragIndex = index
	}
	if x.number, err = number(x.partition); err != nil {
		return nil, err
	}
	if _, err := st.DevicePath(x.device); err != nil {
		return nil, unavailable(x.device, err)
	}
	return x, nil
}

// run is the answer: whatever goes wrong is told in it, and then the connection is closed.
// Swift: Receiver.__call__.
func (x *receiving) run(w io.Writer) error {
	err := x.converse(w)
	if err == nil {
		return nil
	}
	said := (*ssync.Failure)(nil)
	locked, gone, answered := (*diskfile.LockTimeoutError)(nil), (*unread)(nil), (*Response)(nil)
	switch {
	case x.told && !x.s.conf.MasterTexts:
		// As in Swift 2.30 it is the subrequest that failed. Master reads on, and meets the same error.
	case errors.Is(err, ssync.Disconnected):
		x.s.errorf(x.r, "%s", x.text("ssync client disconnected", "client disconnected"))
	case errors.As(err, &gone):
		x.s.errorf(x.r, "%s: %v", x.text(x.who()+" read failed in ssync.Receiver", "read failed"), err)
	case errors.As(err, &locked):
		said = &ssync.Failure{Text: inSeconds(locked.Wait.Seconds(), false) + ": " + locked.Path}
		x.s.log.Debugf("%s: %s", x.text(x.who()+" SSYNC LOCK TIMEOUT", "LOCK TIMEOUT"), said.Text)
	case errors.As(err, &answered):
		answered.complete("SSYNC")
		said = &ssync.Failure{Code: answered.Status, Text: string(answered.Body)}
	case errors.As(err, &said) && said.Code == 408:
		x.s.errorf(x.r, "%s: %s", x.text(x.who()+" TIMEOUT in ssync.Receiver", "TIMEOUT"), said.Text)
	case said != nil && said.Code != 0:
	case x.broken != nil && x.rc.Left() > 0: // the body ended within a payload: as in Swift nobody is told
		x.s.errorf(x.r, "%s: %v", x.text(x.who()+" read failed in ssync.Receiver", "read failed"), err)
		said = nil
	default:
		if said == nil {
			said = &ssync.Failure{Text: err.Error()}
		}
		x.s.errorf(x.r, "%s: %s", x.text(x.who()+" EXCEPTION in ssync.Receiver", "EXCEPTION"), said.Text)
	}
	if said != nil {
		if _, writeErr := w.Write(said.Line()); writeErr == nil {
			// Closed over unread bytes the line would be lost.
			if in, ok := x.r.Body.(*netfast.Incoming); ok {
				in.Conn().HangUp(lingering, lingerBytes)
			}
		}
	}
	return err
}

// who is an exchange in the log of Swift 2.30.
func (x *receiving) who() string { return x.r.Remote + "/" + x.device + "/" + x.partition }

// text begins a log line, with 2.30's words or with master's (rule 37).
// Swift's master: obj/ssync_receiver.py, SsyncAnnotatedLogger.
func (x *receiving) text(old, master string) string {
	if x.s.conf.MasterTexts {
		return fmt.Sprintf("ssync receiver (remote_addr: %s, path: %s/%s) %s", x.r.Remote, x.device, x.partition, master)
	}
	return old
}

// inSeconds is a duration as Python's eventlet tells that of a timeout.
func inSeconds(seconds float64, isFloat bool) string {
	text := strconv.FormatFloat(seconds, 'f', -1, 64)
	if isFloat && !strings.Contains(text, ".") {
		text += ".0"
	}
	if seconds == 1 {
		return text + " second"
	}
	return text + " seconds"
}

// converse is the exchange, with semaphore and locks held no longer than it takes.
func (x *receiving) converse(w io.Writer) (err error) {
	if _, err := w.Write(x.rc.Begin()); err != nil {
		return &unread{err}
	}
	if !x.s.replication.tryAcquire() {
		return answer(503)
	}
	defer x.s.replication.release()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-x.s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-done }()
	release, err := x.st.LockReplication(ctx, x.device, x.number, x.s.conf.ReplicationLockTimeout, x.s.conf.ReplicationConcurrencyPerDevice)
	if err != nil {
		return unavailable(x.device, err)
	}
	defer release()
	defer func() { // while the lock is held
		if failed := x.publish(); err == nil {
			err = failed
		}
	}()
	x.buf = make([]byte, receiveSize)
	for {
		ev, err := x.next()
		if err == nil && ev.Kind != ssync.Asked {
			err = x.publish()
		}
		if err != nil {
			return err
		}
		switch ev.Kind {
		case ssync.Offered:
			err = x.check(ev.Offer)
		case ssync.OffersEnd:
			for piece := range x.rc.CheckAnswer() {
				if _, err = w.Write(piece); err != nil {
					return &unread{err}
				}
			}
		case ssync.Asked:
			err = x.subrequest(&ev.Subrequest)
		case ssync.Done:
			out, err := x.rc.UpdatesAnswer()
			if err != nil {
				return err
			}
			if _, err = w.Write(out); err != nil {
				return &unread{err}
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// next reads until something has come.
func (x *receiving) next() (ssync.Received, error) {
	for x.broken == nil {
		n, ev, err := x.rc.Feed(x.pending)
		x.pending = x.pending[n:]
		if err != nil {
			if failed := x.publish(); failed != nil { // what came before it counts first
				return ssync.Received{}, failed
			}
			x.broken = err
			break
		}
		if ev.Kind != ssync.More {
			return ev, nil
		}
		if len(x.group) > 0 && !x.comes() {
			if err := x.publish(); err != nil {
				return ssync.Received{}, err
			}
		}
		n, err = x.r.Body.Read(x.buf)
		x.pending = x.buf[:n]
		if n > 0 {
			continue // an error comes again
		}
		if err == io.EOF {
			if failed := x.publish(); failed != nil {
				return ssync.Received{}, failed
			}
			ev, err := x.rc.Close()
			if err != nil {
				x.broken = err
			}
			return ev, err
		}
		if err != nil {
			x.broken = x.cut(err, x.rc.Context())
		}
	}
	return ssync.Received{}, x.broken
}

// cut says what it means that the sender's bytes came to an end before their time, when something was waited for.
// Master names the subrequest whose payload it was.
func (x *receiving) cut(err error, waited string) error {
	if x.s.conf.MasterTexts && x.rc.Left() > 0 {
		waited = x.asked
	}
	if netfast.IsTimeout(err) {
		return &ssync.Failure{Code: 408, Text: inSeconds(x.s.conf.ClientTimeout.Seconds(), true) + ": " + waited}
	}
	return &unread{fmt.Errorf("%s: %w", waited, err)}
}

// check compares an offer with what is here. A fragment that is here and only lacks the mark
// of durability gets it. Swift: Receiver._check_local.
func (x *receiving) check(o ssync.Offer) error {
	have, err := x.held(o.Hash)
	if err != nil {
		return err
	}
	if (have.Durable.IsZero() || have.Durable.Before(o.Data)) && have.HasFragment(o.Data, x.fragIndex) {
		if o.NonDurable {
			have.Data = o.Data // nothing older is better
		} else if err := x.st.MakeHashDurable(x.device, x.number, o.Hash, x.fragIndex, o.Data); err != nil {
			// All of it is asked for then.
			dir := filepath.Join(x.st.PartitionPath(x.device, x.number), objhash.Suffix(o.Hash), o.Hash)
			x.s.errorf(x.r, "%s while attempting commit of %s: %v", x.text(x.who()+" EXCEPTION in ssync.Receiver", "EXCEPTION"), dir, err)
		} else if have, err = x.held(o.Hash); err != nil {
			return err
		}
	}
	return x.rc.Want(ssync.Compare(o, ssync.Local{Data: have.Data, Meta: have.Meta, CType: have.ContentType}))
}

func (x *receiving) held(hash string) (*diskfile.Held, error) {
	have, err := x.st.Held(x.device, x.number, hash, x.fragIndex)
	return have, unavailable(x.device, err)
}

// subrequest has a subrequest answered: a PUT of a short archive together with others.
func (x *receiving) subrequest(q *ssync.Subrequest) error {
	x.asked = q.Method + " " + q.Path
	path, query, _ := strings.Cut(q.Path, "?")
	r := &Request{Method: q.Method, Path: "/" + x.device + "/" + x.partition + unquote(path), Query: query,
		Body: &subrequestBody{x: x, length: q.Length}, Remote: "-", served: "localhost:80"}
	for _, f := range q.Fields {
		r.Header.Set(f.Key, f.Value)
	}
	r.Header.Set("X-Backend-Storage-Policy-Index", strconv.Itoa(x.st.policy.Index))
	r.Header.Set("X-Backend-Replication", "True")
	if x.fragIndex >= 0 {
		r.Header.Set("X-Backend-Ssync-Frag-Index", strconv.Itoa(x.fragIndex))
	}
	if names := q.ReplicationHeaders(); names != "" {
		r.Header.Set("X-Backend-Replication-Headers", names)
	}
	short := q.Method == "PUT" && q.Length <= groupBelow && headLength(q) <= groupBelow
	if !short || len(x.group) == groupMax || slices.ContainsFunc(x.group, func(g *grouped) bool { return g.r.Path == r.Path }) {
		if err := x.publish(); err != nil {
			return err
		}
	}
	if !short {
		return x.dealt(r, x.s.Do(r))
	}
	g := x.begin(r)
	var failed error
	for {
		switch pause, more := g.next(); {
		case !more: // it came to nothing
			if failed != nil {
				g.resp.close()
				return failed
			}
			if err := x.publish(); err != nil && x.broken == nil { // failures are counted in their order
				return err
			}
			return x.dealt(r, g.resp)
		case pause == starves:
			failed = x.publish()
			g.fed = failed
		case pause == isReady:
			x.group = append(x.group, g)
			return failed
		}
	}
}

// headLength is about how much memory the head of a subrequest takes.
func headLength(q *ssync.Subrequest) (n int) {
	for _, f := range q.Fields {
		n += len(f.Key) + len(f.Value)
	}
	return n + len(q.Path)
}

// dealt deals with the answer to the subrequest under way, and reads what that left of its payload.
func (x *receiving) dealt(r *Request, resp *Response) error {
	if err := x.answered(r, x.asked, resp); err != nil {
		return err
	}
	for x.rc.Left() > 0 {
		if _, err := x.next(); err != nil {
			return err
		}
	}
	return nil
}

// Short archives that come one after the other are published together (diskfile.PublishAll): to wait for the disk is most of what
// each costs. None of them waits for the sender: when nothing more of its bytes is here, they are published.
const (
	groupBelow = 64 << 10
	groupMax   = 16
)

// grouped is a PUT whose answering pauses until its file has been published with others.
type grouped struct {
	r     *Request
	asked string
	next  func() (pause, bool) // goes on to its next pause; false: there is resp
	file  *diskfile.Publication
	fed   error // what the publication of others came to, which it starved for
	resp  *Response
}

// pause is why a PUT does not go on.
type pause int

const (
	starves pause = iota // the rest of its payload has to be waited for: nothing else shall be
	isReady              // file is to be published
)

// begin has a PUT that is to be published with others answered, pause by pause: as a coroutine, since goroutines that take turns have the
// scheduler wake a processor for nothing at each turn.
func (x *receiving) begin(r *Request) *grouped {
	g := &grouped{r: r, asked: x.asked}
	g.next, _ = iter.Pull(func(yield func(pause) bool) {
		defer func() {
			if p := recover(); p != nil {
				x.s.bug(r, p)
				g.resp = answer(500)
			}
		}()
		r.group = func(p *diskfile.Publication) {
			begin := time.Now()
			g.file = p
			yield(isReady)
			r.waited = time.Since(begin)
		}
		r.Body.(*subrequestBody).starve = func() error {
			yield(starves)
			return g.fed
		}
		g.resp = x.s.Do(r)
	})
	return g
}

// publish publishes what is grouped, and has the answers.
func (x *receiving) publish() (err error) {
	if len(x.group) == 0 {
		return nil
	}
	group := x.group
	x.group = nil
	x.publishAll(group)
	for _, g := range group {
		if _, more := g.next(); more {
			panic("BUG: a PUT that was published pauses once more")
		}
		if failed := x.answered(g.r, g.asked, g.resp); err == nil {
			err = failed
		}
	}
	return err
}

func (x *receiving) publishAll(group []*grouped) {
	files := make([]*diskfile.Publication, len(group))
	for i, g := range group {
		files[i] = g.file
	}
	defer func() {
		if p := recover(); p != nil {
			x.s.bug(x.r, p)
		}
	}()
	diskfile.PublishAll(files)
}

// comes tells whether more of the sender's bytes is here.
func (x *receiving) comes() bool {
	in, ok := x.r.Body.(*netfast.Incoming)
	return ok && in.Comes()
}

// answered tells of a subrequest that failed, and counts.
func (x *receiving) answered(r *Request, asked string, resp *Response) error {
	resp.close()
	if (resp.Status < 200 || resp.Status > 299) && resp.Status != 404 {
		which := asked
		if !x.s.conf.MasterTexts {
			which = r.Method + " " + netfast.Quote(r.Path)
		}
		x.s.log.Warnf("%s with %d: %s (b%s)", x.text("ssync subrequest failed", "subrequest failed"), resp.Status, which, ssync.Repr(string(resp.Body)))
		x.told = x.broken != nil && resp.Status == 499
	}
	if x.broken != nil {
		return x.broken
	}
	return x.rc.Answered(resp.Status)
}

// subrequestBody is the payload of a subrequest.
type subrequestBody struct {
	x      *receiving
	length int64
	starve func() error // of a grouped one: what else is grouped is published
}

func (b *subrequestBody) Length() int64 { return b.length }

// Read reads straight into p where nothing was read ahead.
func (b *subrequestBody) Read(p []byte) (int, error) {
	x := b.x
	if x.broken != nil {
		return 0, io.ErrUnexpectedEOF
	}
	left := x.rc.Left()
	if left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left)]
	if len(x.pending) > 0 {
		n := copy(p, x.pending)
		x.rc.Feed(p[:n])
		x.pending = x.pending[n:]
		return n, nil
	}
	if b.starve != nil && len(x.group) > 0 && !x.comes() {
		if err := b.starve(); err != nil { // the session is at its end
			return 0, io.ErrUnexpectedEOF
		}
	}
	n, err := x.r.Body.Read(p)
	if n > 0 {
		x.rc.Feed(p[:n])
		return n, nil
	}
	if err == io.EOF {
		_, x.broken = x.rc.Close()
		return 0, io.ErrUnexpectedEOF
	}
	if err != nil {
		x.broken = x.cut(err, "updates line") // 2.30 waits for that after the PUT has failed
	}
	return 0, err
}
