package pass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"imping/engine/pipeline"
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/io/slab"
	"imping/netfast"
	"imping/netfast/fragment"
	"imping/netfast/replicate"
	"imping/netfast/ssync"
	"imping/swift/objhash"
	"imping/swift/ring"
	"imping/swift/suffix"
)

// job is one job of a partition: SYNC, with all partners of a primary, or REVERT, with all
// whom the fragments of one index are to be brought.
type job struct {
	*partition
	index    int     // of the local fragments
	revert   *revert // nil: SYNC
	hashes   suffix.Hashes
	read     time.Time                  // when hashes was
	believed map[string]bool            // suffixes that differ though they were not hashed in this try
	peers    []rebuild.Peer             // all other primaries, as soon as there is something to rebuild
	objects  map[string]*rebuild.Object // of which earlier tries learned something, by hash
	damaged  map[string]bool            // hashes of objects that can not be opened, under mu
	mu       sync.Mutex                 // over objects

	segment int // bytes of a segment that memory is reserved for
	longest int // longest segment seen: over `segment` after a try, it needs another one

	point *pointSource // of a point repair: what to offer and to send; nil: what the local device has

	left   map[leftKey]*Unrepaired // archives that could not be rebuilt, under mu
	failed []*Unrepaired           // partners that were given up

	waiting       []*partner // those still to be served
	notBefore     time.Time  // until when a peer that it waits for is left alone
	due           time.Time  // when those that wait may be tried again
	spent         time.Duration
	tries, pauses int       // of the job; pauses grow
	begun         time.Time // later by the time in which sessions were driven
}

func newJob(pt *partition, index int) *job {
	return &job{
		partition: pt, index: index, objects: make(map[string]*rebuild.Object), left: make(map[leftKey]*Unrepaired),
		damaged: make(map[string]bool), begun: time.Now(), segment: pt.pol.SegmentSize,
	}
}

// Retries of a job's sessions (rule 10).
const (
	maxTries  = 5
	jobLimit  = 10 * time.Minute // no new try after this, the time in which sessions carry something not counted
	firstWait = 500 * time.Millisecond
	// maxDoublings bounds the pause, to 8 s: a receiver that is busy has a free slot again
	// when one of its sessions ends.
	maxDoublings = 4
	// grantLimit is how long a second session may wait for its receiver's locks while a
	// first one holds its own (rule 12): long enough for an idle Python server, short
	// against the 15 s that a receiver itself waits for a lock.
	grantLimit = 2 * time.Second
)

// partner is one partner's part of a job: a peer that may miss something.
type partner struct {
	rebuild.Peer
	suffixes []string
	handoffs []rebuild.Peer // devices that may take its place; nil: not looked up yet

	question *replicate.Question // whose answer is to be read; nil: it has not been asked
	asked    time.Time           // since when

	faults int  // tries in a row that ended in a refused or broken connection and brought nothing
	single bool // too slow to be served beside others (rule 12)
	suspicion

	// What its next session is for, unless for all that it may want: objects with offsets
	// (rule 17), or one alone.
	offsets bool
	alone   string
	odd     map[string]bool // hashes of objects with offsets, which the last session left for one of their own

	provoked map[string]bool // hashes of objects that it was asked for since its receiver raised
}

func (pr *partner) target(j *job) ssync.Target {
	return ssync.Target{Addr: pr.Addr, Device: pr.Device, Partition: j.part, Policy: j.pol.Index, FragIndex: pr.Index}
}

// takes reports whether an object belongs into the partner's next session. Those with
// offsets are noted if they do not.
func (pr *partner) takes(o ssync.Offer, plain bool) bool {
	switch {
	case pr.alone != "":
		return o.Hash == pr.alone
	case pr.isPutOff(o.Hash):
		return false
	case pr.offsets:
		return pr.odd[o.Hash]
	case plain || !o.HasOffset():
		return true
	}
	if pr.odd == nil {
		pr.odd = make(map[string]bool)
	}
	pr.odd[o.Hash] = true
	return false
}

// learns reports whether what the next session's list of wanted objects says of a hash is
// all that there is to know of it.
func (pr *partner) learns(hash string) bool {
	switch {
	case pr.alone != "":
		return hash == pr.alone
	case pr.offsets:
		return pr.odd[hash]
	}
	return !pr.odd[hash] && !pr.isPutOff(hash)
}

// key names the device of a partner over all policies.
func (pr *partner) key() string { return pr.Peer.String() }

// node is a peer's device in the log. 2.30's has no brackets around an IPv6 address, unlike master's (rule 37).
// Swift: obj/reconstructor.py, _full_path; its master: common/utils, node_to_string.
func (p *Pass) node(peer rebuild.Peer) string {
	if p.cfg.MasterTexts {
		return peer.String()
	}
	return bare(peer.Addr) + "/" + peer.Device
}

// bare takes the brackets off. Swift: obj/ssync_sender.py, node_addr, in master, too.
func bare(addr string) string { return strings.NewReplacer("[", "", "]", "").Replace(addr) }

func (p *Pass) path(pr *partner, j *job) string { return fmt.Sprintf("%s/%d", p.node(pr.Peer), j.part) }

// step tries a job once. When partners still wait for what can be tried again, it says
// so, and how long to let them be: the worker takes other jobs in the meantime, so that a
// peer that is down holds up nobody.
func (p *Pass) step(ctx context.Context, j *job) (wait time.Duration, again bool) {
	for {
		if j.tries > 0 {
			p.Progress.SessionsRetried.Add(1)
		}
		if j.revert == nil && (j.tries > 0 || time.Since(j.read) > answerAge) {
			hashes, n, err := j.files.SuffixHashes(j.dev.Device, j.part, nil, false)
			p.hashed(n)
			if err != nil {
				p.cfg.Log.Errorf("Unable to read the suffix hashes of %s: %v", j.partition, err)
				for _, pr := range j.waiting {
					j.giveUp(pr, err)
				}
				j.waiting = nil
				return 0, false
			}
			j.hashes, j.read = hashes, time.Now()
		}
		j.tries++
		attempt := p.try
		if j.revert != nil {
			attempt = p.tryRevert
		}
		if pause := p.judge(ctx, j, attempt(ctx, j, j.waiting)); len(j.waiting) == 0 || pause || ctx.Err() != nil {
			break
		}
	}
	if len(j.waiting) == 0 {
		return 0, false
	}
	if ctx.Err() != nil {
		for _, pr := range j.waiting {
			j.giveUp(pr, context.Cause(ctx))
		}
		j.waiting = nil
		return 0, false
	}
	wait = p.firstWait << min(j.pauses, maxDoublings)
	j.pauses++
	wait = wait/2 + rand.N(wait) // jittered: peers retry against each other too
	wait = max(wait, time.Until(j.notBefore))
	p.Progress.Times.held[Locks].Add(int64(wait))
	return wait, true
}

// judge sorts the outcome of a try: what is left waits in the job, what failed for good
// is logged and counted. It reports whether what waits should wait for a while.
func (p *Pass) judge(ctx context.Context, j *job, outcome map[*partner]error) (pause bool) {
	waiting := j.waiting
	j.waiting = nil
	for _, pr := range waiting {
		err := outcome[pr]
		var source *pipeline.SourceError
		var doubt *pipeline.Inconsistent
		switch {
		case err == nil:
		case errors.Is(err, errMoved):
			j.giveUp(pr, err)
			p.cfg.Log.Debugf("%s is not synced: %v", p.path(pr, j), err)
		case ctx.Err() != nil:
			j.waiting = append(j.waiting, pr)
		case (errors.Is(err, errLonger) || errors.Is(err, errMetadata) || errors.As(err, &source) || errors.As(err, &doubt)) && time.Since(j.begun) < p.jobLimit:
			// Longer segments, metadata to be compared, or cut because a survivor proved bad, which is excluded
			// now, as is an object of which all contradict each other: tried at once, as long as there is time.
			j.waiting = append(j.waiting, pr)
		case !errors.As(err, &source) && retryable(err) && (busy(err) || pr.faults < maxTries-1) && time.Since(j.begun) < p.jobLimit:
			if !busy(err) {
				pr.faults++
			}
			var suspect *netfast.SuspectError
			if errors.As(err, &suspect) && suspect.Until.After(j.notBefore) {
				j.notBefore = suspect.Until
			}
			p.cfg.Log.Debugf("%s %v: will be tried again", p.path(pr, j), err)
			pause = true
			j.waiting = append(j.waiting, pr)
		default:
			j.giveUp(pr, err)
			var unmounted *replicate.StatusError
			if !errors.As(err, &unmounted) || unmounted.Status != 507 { // that one has been logged
				p.cfg.Log.Errorf("%s %v", p.path(pr, j), err)
			}
		}
	}
	if j.revert != nil && len(j.waiting) > 0 {
		// Nothing goes before all have confirmed it in one and the same try.
		j.waiting = nil
		if !slices.ContainsFunc(j.failed, func(u *Unrepaired) bool { return u.Target != "" }) {
			j.waiting = slices.Clone(j.revert.targets)
		}
	}
	return pause
}

// retryable tells work still to do from work that failed (law 5, rule 10).
func retryable(err error) bool {
	var raised *raisedError
	if busy(err) || errors.As(err, &raised) {
		return true
	}
	var remote *ssync.RemoteError
	var status *netfast.StatusError
	var proto *ssync.ProtocolError
	var answer *replicate.AnswerError
	if errors.As(err, &remote) || errors.As(err, &status) || errors.As(err, &proto) || errors.As(err, &answer) {
		return false
	}
	return true // refused, reset, timed out
}

// busy is the answer of a peer that is well and has too much to do: no free slot, a lock
// held. It is not counted against the job; only its time is (rule 10).
func busy(err error) bool {
	var remote *ssync.RemoteError
	if errors.As(err, &remote) {
		return remote.Retryable()
	}
	var status *netfast.StatusError
	var locked *diskfile.LockTimeoutError
	return errors.Is(err, errTaken) || errors.As(err, &locked) || errors.As(err, &status) && status.Retryable()
}

// try compares the waiting partners and syncs those that differ. The outcome has every
// partner that was waiting: nil when it is in sync or was brought there.
func (p *Pass) try(ctx context.Context, j *job, waiting []*partner) map[*partner]error {
	times := &p.Progress.Times
	begin := time.Now()
	outcome := make(map[*partner]error, len(waiting))
	remote := make([]suffix.Hashes, len(waiting))
	errs := make([]error, len(waiting))
	p.askAll(ctx, j, waiting)
	deadline, cancel := context.WithTimeout(ctx, p.cfg.HTTPTimeout)
	for i, pr := range waiting {
		if deadline.Err() != nil && ctx.Err() == nil { // one took it all: the others may have answered long ago
			cancel()
			deadline, cancel = context.WithTimeout(ctx, min(p.cfg.NodeTimeout, p.cfg.HTTPTimeout))
		}
		remote[i], errs[i] = p.remoteHashes(deadline, j, pr)
	}
	cancel()

	// What differs is hashed anew before it is believed: the stored hashes may be older
	// than the files (rule 15). Not what is here, by its directory, and a partner has nothing of: the listing tells more.
	var differ, anew []string
	for i, pr := range waiting {
		if errs[i] != nil {
			outcome[pr] = fmt.Errorf("cannot get the remote suffix hashes: %w", errs[i])
			continue
		}
		delta := suffix.Delta(j.hashes, j.index, remote[i], pr.Index)
		if len(delta) > 0 && len(remote[i]) == 0 && p.tooEarly(j.ring) {
			errs[i], outcome[pr] = errMoved, errMoved
			continue
		}
		outcome[pr] = nil
		differ = append(differ, delta...)
		for _, s := range delta {
			if _, there := remote[i][s]; there || j.hashes[s] == nil {
				anew = append(anew, s)
			}
		}
	}
	if len(differ) == 0 {
		times.since(Compare, begin)
		return outcome
	}
	slices.Sort(differ)
	slices.Sort(anew)
	anew = slices.Compact(anew)
	j.believed = make(map[string]bool)
	for _, s := range slices.Compact(differ) {
		if _, hashed := slices.BinarySearch(anew, s); !hashed {
			j.believed[s] = true
		}
	}
	for s := range j.believed {
		if !j.files.HasSuffix(j.dev.Device, j.part, s) {
			anew = append(anew, s)
			delete(j.believed, s)
		}
	}
	err := p.rehash(j, anew)
	times.since(Compare, begin)
	if err != nil {
		for _, pr := range waiting {
			outcome[pr] = err
		}
		return outcome
	}
	var todo []*partner
	for i, pr := range waiting {
		if errs[i] == nil {
			if pr.suffixes = suffix.Delta(j.hashes, j.index, remote[i], pr.Index); len(pr.suffixes) > 0 {
				todo = append(todo, pr)
			} else {
				j.forget(pr, func(string) bool { return true })
			}
		}
	}
	if len(todo) == 0 {
		return outcome
	}
	defer func() { // when it is known what was wrongly believed
		for _, pr := range todo {
			p.Progress.Suffixes.Add(int64(len(pr.suffixes)))
		}
	}()

	if j.peers == nil {
		j.peers = j.others()
	}

	// Admission: the only place that blocks on memory, while nothing is held (law 9).
	begin = time.Now()
	acct, err := p.pool.Open(ctx, j.reserve(j.segment, len(waiting)))
	times.since(Memory, begin)
	if err != nil {
		for _, pr := range todo {
			outcome[pr] = err
		}
		return outcome
	}
	defer acct.Close()
	defer whenStalled(ctx, acct.Abandon)()
	p.serve(ctx, acct, j, todo, outcome)
	if j.longest > j.segment {
		// Objects of an earlier ec_object_segment_size were passed over: more memory has
		// to be reserved, which may only be waited for while nothing is held.
		j.segment = j.longest
		for pr, err := range outcome {
			if err == nil && len(pr.suffixes) > 0 {
				outcome[pr] = errLonger
			}
		}
	}
	return outcome
}

// errMoved is why a partner is not served yet.
var errMoved = errors.New("nothing of the partition is there, and the ring is younger than imping_sync_delay_after_part_move")

// tooEarly says whether to wait before a partner gets what it misses: one that has nothing at
// all of the partition, under a ring that is new, is most likely about to get it by reverts,
// fragment by fragment as they are. The ring's file tells neither which partitions moved nor
// when; its own age must do.
func (p *Pass) tooEarly(r *ring.Ring) bool {
	return p.cfg.SyncDelay > 0 && time.Since(r.ModTime) < p.cfg.SyncDelay
}

// serve brings the partners what they miss: first all but what may break a session, then,
// to those that this went well with, objects with offsets, whose form an old receiver
// raises on (rule 17), and at last, alone, each object that broke sessions (rule 10).
func (p *Pass) serve(ctx context.Context, acct *slab.Account, j *job, todo []*partner, outcome map[*partner]error) {
	p.sessions(ctx, acct, j, todo, outcome)

	var odd []*partner
	differ := make(map[*partner][]string) // suffixes
	for _, pr := range todo {
		if differ[pr] = pr.suffixes; outcome[pr] == nil && len(pr.odd) > 0 {
			pr.offsets, pr.suffixes = true, suffixesOf(slices.Collect(maps.Keys(pr.odd)))
			odd = append(odd, pr)
		}
	}
	p.sessions(ctx, acct, j, odd, outcome)
	for _, pr := range odd {
		pr.offsets = false
	}

	for _, pr := range todo {
		for _, u := range pr.putOff {
			suffixes := suffixesOf([]string{u.hash})
			if outcome[pr] != nil || pr.lost[u.hash] || !slices.Contains(differ[pr], suffixes[0]) {
				continue
			}
			pr.alone, pr.suffixes = u.hash, suffixes
			p.sessions(ctx, acct, j, []*partner{pr}, outcome)
			pr.alone = ""
		}
		pr.suffixes = differ[pr]
	}
}

// suffixesOf are those that the hashes lie in, sorted.
func suffixesOf(hashes []string) []string {
	list := make([]string, len(hashes))
	for i, h := range hashes {
		list[i] = objhash.Suffix(h)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// sessions gives each partner a session, together where that is possible.
func (p *Pass) sessions(ctx context.Context, acct *slab.Account, j *job, todo []*partner, outcome map[*partner]error) {
	todo = slices.Clone(todo)
	for len(todo) > 0 {
		if ctx.Err() != nil {
			for _, pr := range todo {
				outcome[pr] = context.Cause(ctx)
			}
			return
		}
		tried := p.group(ctx, acct, j, todo, outcome)
		todo = slices.DeleteFunc(todo, func(pr *partner) bool { return slices.Contains(tried, pr) })
	}
}

// askAll sends those partners of a job the question that remoteHashes has the answer to, so that
// they work at it at once.
func (p *Pass) askAll(ctx context.Context, j *job, waiting []*partner) {
	for _, pr := range waiting {
		if pr.question != nil && time.Since(pr.asked) > answerAge {
			pr.drop()
		}
		if pr.question == nil && p.client.Suspect(pr.Addr, pr.Device) == nil {
			pr.question = p.question(ctx, j, pr)
		}
	}
}

// answerAge is how long ago a partner may have been asked what an answer says (rule 15).
const answerAge = 30 * time.Second

// drop has nobody wait for the answer.
func (pr *partner) drop() {
	if pr.question != nil {
		pr.question.Drop()
		pr.question = nil
	}
}

func (p *Pass) question(ctx context.Context, j *job, pr *partner) *replicate.Question {
	pr.asked = time.Now()
	return replicate.Ask(ctx, p.client, replicate.Target{Addr: pr.Addr, Device: pr.Device, Partition: j.part, Policy: j.pol.Index})
}

// remoteHashes are a partner's suffix hashes. Where it answers that the device is
// not mounted, a handoff takes its place: only one whose place in the ring's order of
// handoffs is that of the wanted index, and each only after a further 507, so that
// fragments do not pile up anywhere (rule 9; Swift: _iter_nodes_for_frag).
func (p *Pass) remoteHashes(ctx context.Context, j *job, pr *partner) (suffix.Hashes, error) {
	for {
		if err := p.client.Suspect(pr.Addr, pr.Device); err != nil {
			pr.drop()
			return nil, err
		}
		if pr.question == nil {
			pr.question = p.question(ctx, j, pr)
		}
		hashes, err := pr.question.Hashes(ctx, maxHashes)
		pr.question = nil
		var answer *replicate.StatusError
		if !errors.As(err, &answer) || answer.Status != 507 {
			return hashes, err
		}
		p.cfg.Log.Errorf("%s policy#%d responded as unmounted", p.path(pr, j), j.pol.Index)
		next, ok := p.handoff(j, pr)
		if !ok {
			return nil, err
		}
		pr.Peer, pr.suspicion, pr.single = next, suspicion{}, false
	}
}

// handoff is the next device that may hold what belongs on the partner's.
func (p *Pass) handoff(j *job, pr *partner) (rebuild.Peer, bool) {
	if pr.handoffs == nil {
		pr.handoffs = []rebuild.Peer{}
		for node := range j.ring.MoreNodes(j.part) {
			if p.cfg.Handoffs >= 0 && len(pr.handoffs) >= p.cfg.Handoffs {
				break
			}
			if peer := rebuild.NewPeer(j.pol, node); peer.Index == pr.Index {
				pr.handoffs = append(pr.handoffs, peer)
			}
		}
	}
	if len(pr.handoffs) == 0 {
		return rebuild.Peer{}, false
	}
	next := pr.handoffs[0]
	pr.handoffs = pr.handoffs[1:]
	return next, true
}

// errLonger asks for another try with more memory.
var errLonger = errors.New("objects of longer segments are still to be served")

// maxHashes bounds a REPLICATE answer: 4096 suffixes of some 30 fragment indexes each.
const maxHashes = 16 << 20

// group serves the first partner, and with it those others whose receivers grant a
// session at once, from one decode (rule 12). It returns the partners that it served,
// well or badly.
func (p *Pass) group(ctx context.Context, acct *slab.Account, j *job, todo []*partner, outcome map[*partner]error) (tried []*partner) {
	var sessions []*session
	defer func() {
		for _, s := range sessions {
			s.conn.Close()
			s.release()
			if p.queue != nil { // nil: a point repair
				p.queue.outdate(j.partition, s.partner.key()) // rule 15
			}
			p.Progress.UnderWay.Add(-1)
		}
	}()
	var offers []ssync.Offer
	if j.revert == nil { // else each session has its own
		var err error
		if offers, err = p.offers(j, todo, false); err != nil {
			for _, pr := range todo {
				outcome[pr] = err
			}
			return todo
		}
		var settled []*partner
		todo, settled = j.settle(todo)
		defer func() { tried = append(tried, settled...) }()
	}
	opening := time.Now()
	for _, pr := range todo {
		first := len(tried) == 0
		if pr.single && !first || len(tried) == 1 && tried[0].single {
			continue // too slow to hold up others
		}
		release, ok := p.targets.try(pr.key())
		if !ok && !first {
			continue
		}
		if !ok {
			var err error
			if release, err = p.wait(ctx, j, pr); err != nil {
				outcome[pr] = err
				return []*partner{pr}
			}
		}
		s, err := p.open(ctx, j, pr, offers, !first)
		if err != nil {
			release()
			if !first && errors.Is(err, context.DeadlineExceeded) {
				continue // not granted at once: served singly, later
			}
			outcome[pr] = err
			tried = append(tried, pr)
			continue
		}
		s.release = release
		defer whenStalled(ctx, func() { s.conn.Cut(errStalled); release() })()
		sessions = append(sessions, s)
		p.Progress.UnderWay.Add(1)
		tried = append(tried, pr)
	}
	begin := time.Now()
	p.Progress.Times.since(Locks, opening)
	p.drive(ctx, acct, j, sessions)
	j.begun = j.begun.Add(time.Since(begin)) // what breaks after an hour of work is tried again
	for _, s := range sessions {
		s.blame()
		outcome[s.partner] = s.err
		if len(sessions) > 1 && errors.Is(s.err, netfast.ErrSlow) {
			p.cfg.Log.Debugf("%s %v: will be served singly", p.path(s.partner, j), s.err)
			s.partner.single = true
			tried = slices.DeleteFunc(tried, func(pr *partner) bool { return pr == s.partner })
			continue
		}
		if s.partner.alone != "" && s.broke() && ctx.Err() == nil {
			p.lose(j, s.partner, s.sent[0], s.err)
			outcome[s.partner] = nil
		}
		if j.revert != nil {
			j.revert.confirm(s)
			continue
		}
		if s.err == nil && s.partner.alone == "" && !s.partner.offsets {
			readable := 0
			for _, s := range s.partner.suffixes {
				if j.hashes[s] != nil {
					readable++
				}
			}
			p.synced(readable)
		}
	}
	return tried
}

// settle sorts out the partners that want nothing since suffixes were hashed that there was nothing to offer of.
func (j *job) settle(partners []*partner) (rest, settled []*partner) {
	if j.point != nil { // which offers it without a look at hashes
		return partners, nil
	}
	for _, pr := range partners {
		pr.suffixes = slices.DeleteFunc(slices.Clone(pr.suffixes), func(s string) bool {
			_, there := j.hashes[s]
			return !there
		})
		if len(pr.suffixes) == 0 {
			j.forget(pr, func(string) bool { return true })
			settled = append(settled, pr)
		} else {
			rest = append(rest, pr)
		}
	}
	return rest, settled
}

// errTaken is why a REVERT lets go of its partition: others are at its target.
var errTaken = errors.New("this process has another session with the device")

// wait waits for a partner's device; a REVERT, which keeps other senders out of its partition meanwhile, no longer
// than grantLimit.
func (p *Pass) wait(ctx context.Context, j *job, pr *partner) (release func(), err error) {
	if j.revert != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, grantLimit, errTaken)
		defer cancel()
	}
	return p.targets.lock(ctx, pr.key())
}

// offers reads once what any of the partners may want, whether it is durable or not if the
// receiver can take that.
func (p *Pass) offers(j *job, todo []*partner, nonDurable bool) ([]ssync.Offer, error) {
	if j.point != nil {
		return []ssync.Offer{j.point.offer}, nil
	}
	var suffixes []string
	for _, pr := range todo {
		suffixes = append(suffixes, pr.suffixes...)
	}
	slices.Sort(suffixes)
	suffixes = slices.Compact(suffixes)
	var offers []ssync.Offer
	offered := make(map[string]bool)
	for o, err := range j.files.YieldHashes(j.dev.Device, j.part, suffixes, j.index, nonDurable) {
		var unmounted *diskfile.NotMountedError
		switch {
		case errors.As(err, &unmounted):
			return nil, fmt.Errorf("cannot list the objects of %s: %w", j.partition, err)
		case err != nil:
			p.unreadable(j, err)
		case j.index < 0 && !o.Tombstone: // a fragment that came only now: the next pass knows its home
		default:
			offers = append(offers, offer(o))
			offered[objhash.Suffix(o.Hash)] = true
		}
	}
	if j.believed != nil { // what was reclaimed since it was hashed would differ in every pass
		suffixes = slices.DeleteFunc(suffixes, func(s string) bool { return offered[s] || !j.believed[s] })
		for _, s := range suffixes {
			delete(j.believed, s)
		}
		if err := p.rehash(j, suffixes); err != nil {
			return nil, err
		}
	}
	return offers, nil
}

// rehash hashes suffixes of a job anew, if there are any.
func (p *Pass) rehash(j *job, suffixes []string) error {
	if len(suffixes) == 0 {
		return nil
	}
	hashes, n, err := j.files.SuffixHashes(j.dev.Device, j.part, suffixes, false)
	p.hashed(n)
	if err != nil {
		p.cfg.Log.Errorf("Unable to hash suffixes of %s: %v", j.partition, err)
		return err
	}
	j.hashes = hashes
	for _, s := range suffixes {
		if entry, ok := hashes[s]; ok && entry == nil {
			p.unreadable(j, fmt.Errorf("%s: suffix %s can not be hashed", j.partition, s))
		}
	}
	return nil
}

// unreadable counts, once per job, something of the local device that can not be read: its
// objects could not even be offered.
func (p *Pass) unreadable(j *job, err error) {
	for _, u := range j.failed {
		if u.Target == "" && u.Reason == err.Error() {
			return
		}
	}
	p.cfg.Log.Errorf("%v", err)
	j.failed = append(j.failed, &Unrepaired{Policy: j.pol.Index, Partition: j.part, Index: j.index, Device: j.dev.Device, Reason: err.Error(), Revert: j.revert != nil})
}

func offer(o diskfile.Offer) ssync.Offer {
	return ssync.Offer{Hash: o.Hash, Data: o.Data, Meta: o.Meta, CType: o.ContentType, NonDurable: !o.Durable}
}

// open starts a partner's session up to its list of wanted objects. Where another session
// is held already it waits for the receiver's grant no longer than grantLimit. A receiver
// that raises on offsets is asked again without (rule 17).
func (p *Pass) open(ctx context.Context, j *job, pr *partner, offers []ssync.Offer, hurry bool) (*session, error) {
	_, plain := p.noOffsets.Load(pr.Addr)
	s, err := p.ask(ctx, j, pr, offers, hurry, plain)
	if _, refused := errors.AsType[*offsetsError](err); refused {
		if _, known := p.noOffsets.LoadOrStore(pr.Addr, true); !known {
			p.cfg.Log.Warnf("ssync receiver %s does not know timestamp offsets: metadata is offered without them (%v)", pr.Addr, err)
		}
		s, err = p.ask(ctx, j, pr, offers, hurry, true)
	}
	if raised(err) && p.provoke(ctx, j, pr, err) {
		_, plain = p.noOffsets.Load(pr.Addr)
		s, err = p.ask(ctx, j, pr, offers, hurry, plain)
	}
	return s, err
}

// hashes32 finds what may be a hash directory's name in a text.
var hashes32 = regexp.MustCompile(`/([0-9a-f]{32})/`)

// provoke has a receiver's server look at an object of whose files the receiver's exception speaks. Metadata that can not be
// read is quarantined when the object is asked for; a receiver that comes upon it raises, in every session, and
// none of the partition's objects could be brought. Once per object; it reports whether it is worth another session.
// Swift: obj/ssync_receiver.py, missing_check; obj/diskfile.py, get_diskfile_from_hash, _failsafe_read_metadata.
func (p *Pass) provoke(ctx context.Context, j *job, pr *partner, cause error) bool {
	found := hashes32.FindStringSubmatch(cause.Error())
	if found == nil || j.point != nil || pr.provoked[found[1]] {
		return false
	}
	local, err := j.files.Open(j.dev.Device, j.part, found[1], j.index, true)
	if err != nil {
		return false // nothing of ours: it was not offered
	}
	local.Close()
	if pr.provoked == nil {
		pr.provoked = make(map[string]bool)
	}
	pr.provoked[local.Hash] = true
	limited, cancel := context.WithTimeout(ctx, p.cfg.HTTPTimeout)
	defer cancel()
	resp, _, err := fragment.Head(limited, p.client, &fragment.Request{
		Addr: pr.Addr, Device: pr.Device, Partition: j.part, Name: local.Name, Policy: j.pol.Index, Timestamp: local.Data,
	})
	if err != nil {
		return false
	}
	p.cfg.Log.Warnf("%s has something wrong of %s, was asked for it and said %d (%v)", p.path(pr, j), local.Name, resp.Status, cause)
	return true
}

// offsetsError is how a receiver ended a session in which it was told offsets.
type offsetsError struct{ error }

func (e *offsetsError) Unwrap() error { return e.error }

// ask is one attempt at open; plain tells no offsets of metadata.
func (p *Pass) ask(ctx context.Context, j *job, pr *partner, offers []ssync.Offer, hurry, plain bool) (*session, error) {
	p.Progress.Sessions.Add(1)
	target := pr.target(j)
	target.NoOffsets = plain
	if j.revert != nil { // read before the receiver waits for them
		var err error
		if offers, err = p.offers(j, []*partner{pr}, true); err != nil {
			return nil, err
		}
	}
	conn, err := ssync.Open(ctx, p.client, target, p.timeouts())
	if err != nil {
		return nil, err
	}
	if j.revert != nil && conn.DurableOnly() { // older durable fragments are offered in place of newer ones that are not
		p.cfg.Log.Warnf("ssync receiver %s does not accept non-durable fragments", bare(pr.Addr))
		if offers, err = p.offers(j, []*partner{pr}, false); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if !pr.offsets {
		pr.odd = nil
	}
	mine := make([]ssync.Offer, 0, len(offers))
	told := false
	for _, o := range offers {
		// A point repair has one object: there is nothing to keep it from.
		if _, ok := slices.BinarySearch(pr.suffixes, objhash.Suffix(o.Hash)); ok && (j.point != nil || pr.takes(o, plain)) {
			mine = append(mine, o)
			told = told || o.HasOffset() && !plain
		}
	}
	if j.revert != nil {
		mine = p.limit(j, mine)
	}
	limit := max(p.jobLimit, p.cfg.HTTPTimeout) // an exchange of lists that moves on all the time
	if hurry {
		limit = grantLimit
	}
	grant, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var wanted []ssync.Wanted
	if err = conn.Offer(grant, slices.Values(mine)); err == nil {
		wanted, err = conn.Wanted(grant)
	}
	if err != nil {
		conn.Close()
		switch {
		case hurry && grant.Err() != nil && ctx.Err() == nil:
			return nil, context.DeadlineExceeded
		case told && grant.Err() == nil && (raised(err) || hungUp(err)):
			return nil, &offsetsError{err}
		}
		return nil, err
	}
	if conn.Withheld() > 0 {
		p.cfg.Log.Warnf("ssync receiver %s does not accept non-durable fragments", bare(pr.Addr))
	}
	s := &session{partner: pr, conn: conn, wanted: make(map[string]ssync.Wanted, len(wanted)), touched: time.Now()}
	for _, w := range wanted {
		s.wanted[w.Hash] = w
	}
	if j.revert != nil {
		s.offer(mine, plain)
	}
	p.Progress.ObjectsWanted.Add(int64(len(wanted)))
	p.review(j, pr, s.wanted)
	return s, nil
}

// review compares what a partner wants with what it was sent before.
func (p *Pass) review(j *job, pr *partner, wanted map[string]ssync.Wanted) {
	j.forget(pr, pr.learns) // what is still missing is in this list
	if pr.alone != "" || j.point != nil || pr.offsets != pr.sentOdd {
		return
	}
	before := len(pr.putOff)
	if pr.learn(wanted) {
		pr.faults, j.pauses = 0, 0
	}
	for _, u := range pr.putOff[before:] {
		p.cfg.Log.Warnf("%s %s broke %d sessions: it will be sent last, alone", p.path(pr, j), u.name, maxBroken)
		delete(wanted, u.hash)
	}
}

// raised reports an exception of the receiver.
func raised(err error) bool {
	remote, ok := errors.AsType[*ssync.RemoteError](err)
	return ok && remote.Raised()
}

// hungUp reports a connection that the other side ended without a word.
func hungUp(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// quarantine moves local archives aside that proved bad during the job (rule 4). It
// comes last, so that the object was still offered and rebuilt from the others.
func (p *Pass) quarantine(j *job) {
	suspects := make(map[string]*rebuild.Object)
	for hash := range j.damaged {
		suspects[hash] = nil
	}
	for hash, o := range j.objects {
		if o.LocalFault() != nil {
			suspects[hash] = o
		}
	}
	for hash, o := range suspects {
		cause, err := p.condemn(j, hash, o)
		if err == nil && cause == nil {
			continue
		}
		if err == nil {
			_, err = j.files.Quarantine(j.dev.Device, j.part, hash)
		}
		if err != nil {
			p.cfg.Log.Errorf("Unable to quarantine %s/%s/%s: %v", j.partition, objhash.Suffix(hash), hash, err)
			continue
		}
		p.putAway()
		p.cfg.Log.Warnf("Quarantined object %v", cause) // which begins with the path, as in Swift
	}
}

// condemn looks again at an archive that was no survivor, since what is quarantined is
// the whole directory of the object: newer data may have come in the meantime, and an
// archive that differs from the others, as in the version of the library that wrote it,
// need not be bad. It says why the archive is to go; nil: it stays.
//
// o is nil for one that could not even be opened: it goes if it still can not, and Swift
// would put it away, too.
func (p *Pass) condemn(j *job, hash string, o *rebuild.Object) (cause, err error) {
	local, err := j.files.Open(j.dev.Device, j.part, hash, j.index, j.revert != nil)
	var corrupt *diskfile.CorruptError
	var deleted *diskfile.DeletedError
	switch {
	case errors.As(err, &corrupt):
		if !corrupt.Quarantine {
			return nil, nil
		}
		return err, nil
	case errors.As(err, &deleted), vanished(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer local.Close()
	if o == nil || local.Data.Compare(o.Data) != 0 {
		return nil, nil
	}
	if cause = o.Prove(local); cause == nil {
		p.cfg.Log.Warnf("%s is not quarantined: it is what its metadata says (%v)", local.Path, o.LocalFault())
	}
	return cause, nil
}

// noteRefused logs answers that were no survivors although the object was rebuilt.
func (p *Pass) noteRefused(answers []rebuild.Answer) {
	for _, a := range answers {
		p.Progress.Refused.Add(1)
		if a.Status != 404 {
			p.cfg.Log.Warnf("Invalid response from %s: %s", p.node(a.Peer), a.Why)
		}
	}
}

// logInsufficient writes what Swift writes when too few survivors answer.
func (p *Pass) logInsufficient(j *job, pr *partner, e *rebuild.Insufficient) {
	o := e.Object
	path := fmt.Sprintf("%s%s policy#%d", p.path(pr, j), o.Name, j.pol.Index)
	buckets := append(slices.Clone(e.Others), rebuild.Bucket{Data: o.Data, ECEtag: o.ECEtag, Have: e.Have, OK: e.OK, Durable: o.Durable})
	slices.SortFunc(buckets, func(a, b rebuild.Bucket) int { return a.Data.Compare(b.Data) })
	for _, b := range buckets {
		if b.OK > 0 {
			p.cfg.Log.Errorf("Unable to get enough responses (%d/%d from %d ok responses) to reconstruct %s %s frag#%d with ETag %s and timestamp %s",
				b.Have, o.Code.K(), b.OK, durability(b.Durable), path, pr.Index, b.ECEtag, b.Data.Internal())
		}
	}
	if len(e.Statuses) > 0 {
		p.cfg.Log.Errorf("Unable to get enough responses (%s error responses) to reconstruct %s %s frag#%d",
			statuses(e.Statuses), durability(o.Durable), path, pr.Index)
	}
	for _, a := range e.Answers {
		if a.Status != 404 {
			p.cfg.Log.Warnf("%s is no survivor of %s: %s", p.node(a.Peer), o.Name, a.Why)
		}
	}
}

func durability(durable bool) string {
	if durable {
		return "durable"
	}
	return "non-durable"
}

func statuses(m map[int]int) string {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Ints(keys)
	var list []string
	for _, k := range keys {
		name := fmt.Sprint(k)
		if k == 0 {
			name = "unknown"
		}
		list = append(list, fmt.Sprintf("%d x %s", m[k], name))
	}
	return strings.Join(list, ", ")
}

// vanished reports an object that was offered and is gone: a DELETE, an expirer or
// another reconstructor was quicker, which is no failure.
func vanished(err error) bool {
	return errors.Is(err, diskfile.ErrNotExist) || errors.Is(err, syscall.ENOENT)
}

// UserAgent is what stock's reconstructor calls itself.
func UserAgent() string { return fmt.Sprintf("obj-reconstructor %d", os.Getpid()) }
