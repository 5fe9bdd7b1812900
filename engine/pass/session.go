package pass

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imping/engine/pipeline"
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/io/slab"
	"imping/netfast"
	"imping/netfast/ssync"
)

// session is one partner's SSYNC session within a group. Only the task whose turn it is
// writes to it.
type session struct {
	partner *partner
	conn    *ssync.Session
	release func()                  // of the target
	wanted  map[string]ssync.Wanted // still to be served
	touched time.Time               // when something was last written

	rebuilt, bytes, metadata, tombstones int64 // written; counted when the session ended well
	done                                 bool  // finished, well or badly
	err                                  error // final when drive has returned

	sent []update // objects of which something was sent, in order
	cut  bool     // by us, not because it was broken

	// Of a REVERT: what was offered, by hash, which of it was wanted and not sent whole, and
	// whether it was told without offsets.
	offered map[string]ssync.Offer
	unsent  map[string]bool
	plain   bool

	asksAgain bool // the receiver may lack metadata of what it has now
}

// sends remembers that something of an object has left.
func (s *session) sends(hash, name string) {
	if n := len(s.sent); n == 0 || s.sent[n-1].hash != hash {
		s.sent = append(s.sent, update{hash, strings.Clone(name)}) // name is a part of all of the object's metadata
	}
}

// refused reports whether an update failed because of what it is: nothing of it was sent,
// and the session goes on without it. Otherwise the session has failed.
func (s *session) refused(err error) bool {
	if s.conn.Err() == nil {
		return true
	}
	s.fail(err)
	return false
}

// fail ends a session that can not go on.
func (s *session) fail(err error) {
	if !s.done {
		s.done, s.err = true, err
		s.conn.Cut(err)
	}
}

// Prefetch and fairness inside a group.
const (
	// lookahead is how many objects of a group are fetched and decoded at once; only the
	// first writes. It hides the latency of the peers' answers for small objects.
	lookahead = 4
	// shortAhead is lookahead where the archives are short. Half of them are begun at once, so that requests to one peer go
	// out together.
	shortAhead = 16
	// pipedAhead is shortAhead where all peers that were asked answer requests on shared connections: more of them are written and read at a time then.
	pipedAhead = 32
	// staleAfter is when a prefetched object gives its connections back: a server closes
	// after client_timeout, 60 s, without progress (rule 14).
	staleAfter = 20 * time.Second
	// idleLimit is when a session of the group is served out of hash order, so that its
	// receiver does not hang up: a sixth of client_timeout (rule 12).
	idleLimit = 10 * time.Second
)

// drive serves the objects that the group's sessions want, in hash order, each decoded
// once for all who want it, and ends the sessions. Outcomes are in session.err.
func (p *Pass) drive(ctx context.Context, acct *slab.Account, j *job, sessions []*session) {
	var hashes []string
	for _, s := range sessions {
		for h := range s.wanted {
			hashes = append(hashes, h)
		}
	}
	sort.Strings(hashes)
	hashes = slices.Compact(hashes)

	tasks := make(chan *task) // to goroutines that have done one and whose stacks have grown
	defer close(tasks)
	var running []*task
	var ending sync.WaitGroup // verdicts, which may take their time while others are served
	defer func() {
		defer p.Progress.Times.since(Deliver, time.Now())
		ending.Wait()
	}()
	defer func() {
		for _, t := range running {
			t.cancel(context.Canceled)
			<-t.done
		}
	}()
	ahead := lookahead
	for len(hashes) > 0 || len(running) > 0 {
		p.finish(ctx, sessions, &ending)
		for more := len(running) <= ahead/2; more && len(running) < ahead && len(hashes) > 0; {
			i := next(hashes, sessions)
			t := p.newTask(ctx, j, hashes[i], sessions)
			hashes = slices.Delete(hashes, i, i+1)
			if t == nil {
				continue
			}
			running = append(running, t)
			select {
			case tasks <- t:
			default:
				go work(acct, t, tasks)
			}
		}
		if len(running) == 0 {
			break
		}
		p.pace(sessions)
		t := running[0]
		begin := time.Now()
		close(t.turn)
		<-t.done
		p.Progress.Times.object(time.Since(begin), t.delivered, t.times)
		t.cancel(context.Canceled)
		running = running[1:]
		ahead = p.ahead(j, t.short)
		for _, w := range t.wants {
			delete(w.session.wanted, t.hash)
		}
	}
	for _, s := range sessions {
		s.wanted = nil
	}
	p.finish(ctx, sessions, &ending)
}

// ahead is how many objects of a job are fetched at once.
func (p *Pass) ahead(j *job, short bool) int {
	switch {
	case !short:
		return lookahead
	case len(j.peers) == 0 || slices.ContainsFunc(j.peers, func(peer rebuild.Peer) bool { return p.client.OneByOne(peer.Addr) }):
		return shortAhead
	}
	return pipedAhead
}

// pace keeps a slow receiver from holding up others beyond the time after which theirs hang
// up (rule 12). Alone it may take its time.
func (p *Pass) pace(sessions []*session) {
	live := 0
	for _, s := range sessions {
		if !s.done {
			live++
		}
	}
	for _, s := range sessions {
		switch {
		case s.done:
		case live > 1:
			s.conn.LimitWrites(p.slowLimit)
		default:
			s.conn.LimitWrites(p.cfg.HTTPTimeout)
		}
	}
}

// next picks the object to serve: the first in hash order, or the first that a session
// wants which has been idle for too long.
func next(hashes []string, sessions []*session) int {
	if len(sessions) > 1 {
		for _, s := range sessions {
			if s.done || time.Since(s.touched) < idleLimit {
				continue
			}
			for i, h := range hashes {
				if _, ok := s.wanted[h]; ok {
					return i
				}
			}
		}
	}
	return 0
}

// finish ends those sessions that want nothing more, so that their receivers' locks are
// free while others go on.
func (p *Pass) finish(ctx context.Context, sessions []*session, ending *sync.WaitGroup) {
	for _, s := range sessions {
		if s.done || len(s.wanted) > 0 {
			continue
		}
		s.done = true
		ending.Go(func() {
			if s.err = s.conn.Finish(ctx); s.err != nil {
				return
			}
			if s.offered != nil {
				p.Progress.Reverted.Add(s.rebuilt)
			} else {
				p.Progress.Rebuilt.Add(s.rebuilt)
				p.Progress.BytesRebuilt.Add(s.bytes)
			}
			p.Progress.Metadata.Add(s.metadata)
			p.Progress.Tombstones.Add(s.tombstones)
		})
	}
}

// task serves one object to the sessions that want it.
type task struct {
	p     *Pass
	j     *job
	hash  string
	wants []want
	turn  chan struct{} // closed when its predecessors have been written
	done  chan struct{}
	ctx   context.Context

	cancel context.CancelCauseFunc
	stale  atomic.Bool       // the prefetch gave up; its sinks agree on that, whenever the turn comes
	failed map[*session]bool // those that did not get the archive, and live
	whole  int               // how many got it, or the tombstone
	alone  bool              // there is no other archive of the object
	short  bool              // its archives are: several come in one packet

	times     pipeline.Times
	delivered time.Duration // spent in writes to receivers
}

// want is what one session wants of the object.
type want struct {
	session *session
	parts   ssync.Wanted
}

// newTask makes a task, or returns nil when no living session wants the object.
func (p *Pass) newTask(ctx context.Context, j *job, hash string, sessions []*session) *task {
	t := &task{p: p, j: j, hash: hash, turn: make(chan struct{}), done: make(chan struct{})}
	for _, s := range sessions {
		if w, ok := s.wanted[hash]; ok && !s.done {
			t.wants = append(t.wants, want{session: s, parts: w})
		}
	}
	if len(t.wants) == 0 {
		return nil
	}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	return t
}

// work does a task, and further ones until there are no more.
func work(acct *slab.Account, t *task, more <-chan *task) {
	for ok := true; ok; t, ok = <-more {
		t.run(acct)
		close(t.done)
	}
}

// myTurn waits until the task may write.
func (t *task) myTurn() bool {
	select {
	case <-t.turn:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// openTries is how often an object that was offered is looked for before it is taken for
// gone.
const openTries = 4

// run does the task. It decides alone about its object: an object that can't be rebuilt
// is counted and logged, and the sessions go on (law 7).
func (t *task) run(acct *slab.Account) {
	j, log := t.j, t.p.cfg.Log
	if j.point != nil {
		t.fromPoint(acct)
		return
	}
	if j.revert != nil {
		t.revert(acct)
		return
	}
	local, err := j.files.Open(j.dev.Device, j.part, t.hash, j.index, false)
	for try := 1; try < openTries && vanished(err); try++ {
		// A file that is replaced while we look is gone for a moment: a POST, a PUT.
		local, err = j.files.Open(j.dev.Device, j.part, t.hash, j.index, false)
	}
	var deleted *diskfile.DeletedError
	switch {
	case errors.As(err, &deleted):
		t.deleted(deleted)
		return
	case vanished(err):
		for _, w := range t.wants {
			j.served(w.session.partner, t.hash)
		}
		return
	case err != nil:
		log.Errorf("Unable to reconstruct from the local archive: %v", err)
		var corrupt *diskfile.CorruptError
		if errors.As(err, &corrupt) {
			j.mu.Lock()
			j.damaged[t.hash] = true
			j.mu.Unlock()
		}
		for _, w := range t.wants {
			j.leave(w.session.partner, t.hash, &Unrepaired{Reason: err.Error()})
		}
		return
	}
	defer local.Close()
	t.short = local.Length <= netfast.ShortAnswer
	if t.rebuild(acct, local) && local.FileMeta != nil {
		t.metadata(local.Name, postFields(local.FileMeta))
	}
	if t.alone {
		t.p.putAside(j, local)
	}
}

// fromPoint does the task of a point repair, whose reference is at hand.
func (t *task) fromPoint(acct *slab.Account) {
	pt := t.j.point
	if pt.deleted != nil {
		t.deleted(pt.deleted)
		return
	}
	if t.serve(acct, pt.object, pt.put) && pt.post != nil {
		t.metadata(pt.object.Name, pt.post)
	}
}

// deleted sends a tombstone.
func (t *task) deleted(d *diskfile.DeletedError) {
	if !t.myTurn() {
		return
	}
	for _, w := range t.wants {
		if w.session.done || !w.parts.Data {
			continue
		}
		w.session.touched = time.Now()
		err := w.session.conn.Delete(d.Name, d.Timestamp)
		if err != nil && w.session.refused(err) {
			t.leave(w.session.partner, d.Name, err)
			continue
		}
		w.session.sends(t.hash, d.Name)
		if err == nil {
			w.session.tombstones++
			t.whole++
		}
	}
}

// metadata sends the .meta file to those who want it (Swift: send_post).
func (t *task) metadata(name string, fields []ssync.Field) {
	if !t.myTurn() {
		return
	}
	for _, w := range t.wants {
		if w.session.done || !w.parts.Meta || t.failed[w.session] {
			continue
		}
		w.session.touched = time.Now()
		err := w.session.conn.Post(name, fields)
		if err != nil && w.session.refused(err) {
			t.leave(w.session.partner, name, err)
			continue
		}
		w.session.sends(t.hash, name)
		if err == nil {
			w.session.metadata++
		}
	}
}

// leave logs and remembers what could not be sent to a partner.
func (t *task) leave(pr *partner, name string, cause error) {
	t.p.cfg.Log.Errorf("Error trying to rebuild %s policy#%d frag#%d: %v", name, t.j.pol.Index, pr.Index, cause)
	t.j.leave(pr, t.hash, &Unrepaired{Object: name, Reason: cause.Error()})
}

// rebuild sends the rebuilt archive to those who want it. It reports whether anything may
// follow for the others and those who got it: false when the task came to nothing.
func (t *task) rebuild(acct *slab.Account, local *diskfile.Object) bool {
	if !slices.ContainsFunc(t.wants, func(w want) bool { return w.parts.Data }) {
		return true
	}
	j := t.j
	o, err := rebuild.NewObject(j.code, j.pol, j.part, local)
	if err != nil {
		t.p.cfg.Log.Errorf("Unable to reconstruct from %v", err)
		t.failed = make(map[*session]bool)
		for _, w := range t.wants {
			if w.parts.Data {
				t.failed[w.session] = true
				j.leave(w.session.partner, t.hash, &Unrepaired{Object: local.Name, Reason: err.Error()})
			}
		}
		return true
	}
	j.mu.Lock()
	if o.Segment > j.segment {
		j.longest = max(j.longest, o.Segment)
		j.mu.Unlock()
		return false
	}
	o.Moves = j.revert != nil
	o.Inherit(j.objects[t.hash])
	delete(j.objects, t.hash)
	j.mu.Unlock()
	served := t.serve(acct, o, func(index int) []ssync.Field { return putFields(local.DataMeta, index) })
	// Of most there is nothing to remember, and there may be very many.
	if o.Forget() {
		j.mu.Lock()
		j.objects[t.hash] = o
		j.mu.Unlock()
	}
	return served
}

// serve rebuilds the archives of those who want one; header gives that of the archive of an
// index, without an ETag. It reports what rebuild does.
func (t *task) serve(acct *slab.Account, o *rebuild.Object, header func(index int) []ssync.Field) bool {
	j, log := t.j, t.p.cfg.Log
	var sinks []*sink
	var targets []rebuild.Target
	for _, w := range t.wants {
		if w.parts.Data {
			s := &sink{task: t, session: w.session, header: header(w.session.partner.Index)}
			s.fields = ssync.PutHead{Path: o.Name, Length: o.Length, NoCommit: !o.Durable}
			sinks = append(sinks, s)
			targets = append(targets, s)
		}
	}
	if len(sinks) == 0 {
		return true
	}
	peers := t.peers(sinks)
	before := o.Avoiding()
	res, err := t.p.rebuilder.Run(t.ctx, acct, o, peers, targets, !t.isTurn())
	t.times.Add(res.Times)
	if !t.myTurn() { // from here on the sessions are this task's
		return false
	}
	if errors.Is(err, pipeline.ErrNoSpare) || errors.Is(err, errStale) {
		t.stale.Store(false)
		res, err = t.p.rebuilder.Run(t.ctx, acct, o, peers, targets, false)
		t.times.Add(res.Times)
	}
	if _, few := rebuild.IsInsufficient(err); few && len(sinks) > 1 {
		res, err = t.singly(acct, o, sinks)
	}
	t.p.Progress.BytesRead.Add(res.BytesIn)
	for _, s := range sinks {
		t.delivered += s.delivered
	}
	if after := o.Avoiding(); after > before {
		log.Warnf("%s: %d survivors were excluded while it was rebuilt (%s)", o.Name, after-before, o.Faults())
	}
	for _, s := range sinks {
		if s.committed {
			s.session.rebuilt++
			t.whole++
			t.p.Progress.Sent.Add(1)
			s.session.bytes += o.Length
			j.served(s.session.partner, t.hash)
		}
	}
	if t.ctx.Err() != nil {
		return false
	}
	t.failed = make(map[*session]bool)
	for i, s := range sinks {
		if s.committed || s.session.done {
			continue // whether a session that broke is tried again, the job decides
		}
		t.failed[s.session] = true
		cause := err
		if i < len(res.Sinks) && res.Sinks[i] != nil {
			cause = res.Sinks[i]
		}
		if fault := o.LocalFault(); fault != nil && j.revert != nil {
			cause = fault // there are no other archives to speak of
		}
		if e, ok := rebuild.IsInsufficient(cause); ok {
			alone := t.p.solitary(t.ctx, j, e) // asked for each target: what it is told is in the log
			t.alone = t.alone || alone
			t.p.logInsufficient(j, s.session.partner, e)
			j.leave(s.session.partner, t.hash, insufficient(e))
		} else {
			t.leave(s.session.partner, o.Name, cause)
		}
	}
	return true
}

// peers are those that may have survivors for the sinks.
func (t *task) peers(sinks []*sink) []rebuild.Peer {
	if t.j.point != nil { // all were seen to hold an archive, maybe one that belongs elsewhere
		return t.j.peers
	}
	return slices.DeleteFunc(slices.Clone(t.j.peers), func(peer rebuild.Peer) bool {
		return slices.ContainsFunc(sinks, func(s *sink) bool { return s.session.partner.ID == peer.ID })
	})
}

// singly rebuilds for each sink alone what is too much for all at once: a duplicate of what
// one of them misses, or an archive that it holds though it belongs elsewhere, is a
// survivor for the others (rule 3).
func (t *task) singly(acct *slab.Account, o *rebuild.Object, sinks []*sink) (all pipeline.Result, err error) {
	failed := 0
	for i, s := range sinks {
		res, e := t.p.rebuilder.Run(t.ctx, acct, o, t.peers(sinks[i:i+1]), []rebuild.Target{s}, false)
		if e != nil {
			failed, err = failed+1, e
		}
		all.BytesIn += res.BytesIn
		t.times.Add(res.Times)
		all.Sinks = append(all.Sinks, e)
	}
	if failed < len(sinks) {
		err = nil
	}
	return all, err
}

func (t *task) isTurn() bool {
	select {
	case <-t.turn:
		return true
	default:
		return false
	}
}

// errStale ends a prefetch whose turn did not come in time.
var errStale = errors.New("prefetched too early")

// sink carries one rebuilt archive into a session: a pipeline.Sink behind a gate that
// opens when the task's turn has come, and a rebuild.Target.
type sink struct {
	task      *task
	session   *session
	put       *ssync.Put
	fields    ssync.PutHead
	header    []ssync.Field // without an ETag
	committed bool
	delivered time.Duration // spent in writes
	mu        sync.Mutex    // Abort may come from another goroutine than WriteFragment
}

func (s *sink) Index() int { return s.session.partner.Index }
func (s *sink) Sink(etag string) pipeline.Sink {
	s.fields.Header = s.header
	if etag != "" {
		s.fields.Header = append(slices.Clone(s.header), ssync.Field{Key: "ETag", Value: etag})
	}
	return s
}
func (s *sink) Started() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put != nil
}

// begin waits for the turn and sends the head of the subrequest.
func (s *sink) begin() error {
	if s.put != nil {
		return nil
	}
	if s.task.stale.Load() {
		return errStale
	}
	select {
	case <-s.task.turn:
	default:
		stale := time.NewTimer(staleAfter)
		defer stale.Stop()
		select {
		case <-s.task.turn:
		case <-s.task.ctx.Done():
			return context.Cause(s.task.ctx)
		case <-stale.C:
			s.task.stale.Store(true)
			return errStale
		}
	}
	if s.session.done {
		if s.session.err != nil {
			return s.session.err
		}
		return context.Canceled
	}
	defer s.took(time.Now())
	put, err := s.session.conn.Put(s.fields)
	if err != nil {
		s.session.refused(err)
		return err
	}
	s.mu.Lock()
	s.put = put
	s.mu.Unlock()
	return nil
}

// took counts a write as delivery. Commits of several sinks are made at once.
func (s *sink) took(begin time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delivered += time.Since(begin)
}

// WriteFragment sends one fragment, header and payload.
func (s *sink) WriteFragment(slot []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	s.session.touched = time.Now()
	defer s.took(s.session.touched)
	s.session.sends(s.task.hash, s.fields.Path)
	err := s.put.WriteFragment(slot)
	if err == nil {
		s.task.p.Progress.BytesSent.Add(int64(len(slot)))
	}
	return err
}

// Commit ends the archive: all its bytes were written.
func (s *sink) Commit(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.took(time.Now())
	s.session.sends(s.task.hash, s.fields.Path) // an empty archive: its head leaves only now
	if err := s.put.Commit(ctx); err != nil {
		s.session.fail(err)
		return err
	}
	s.committed = true
	return nil
}

// Abort makes sure that the receiver can not finish the archive: once its head was sent
// the session is cut (law 2).
func (s *sink) Abort(cause error) {
	s.mu.Lock()
	put := s.put
	s.mu.Unlock()
	if put == nil {
		return
	}
	s.session.cut = s.session.cut || s.session.conn.Err() == nil
	put.Abort(cause)
	s.session.fail(cause)
}
