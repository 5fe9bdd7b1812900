package pass

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"imping/io/diskfile"
	"imping/io/slab"
	"imping/netfast/ssync"
	"imping/swift/ring"
	"imping/swift/suffix"
)

// revertLock is how long a REVERT waits for the lock that keeps sessions of other senders
// out of its partition. Swift: obj/reconstructor.py, _revert.
const revertLock = 200 * time.Millisecond

// revert is what makes a job a REVERT: the local fragments of one index are brought to all
// targets, and go from here when each has confirmed them.
type revert struct {
	targets   []*partner
	asksAgain bool                                // a receiver is to be offered once more what it has now
	asked     bool                                // that has been done
	confirmed map[*partner]map[string]ssync.Offer // in the sessions of this try, by hash
}

// offer remembers what the session's receiver was offered and wants of it. With plain it was told no offsets: that
// it does not want what has one does not say that it has that (rule 17).
func (s *session) offer(offers []ssync.Offer, plain bool) {
	s.plain = plain
	s.offered, s.unsent = make(map[string]ssync.Offer, len(offers)), make(map[string]bool, len(s.wanted))
	for _, o := range offers {
		s.offered[o.Hash] = o
		if plain && o.HasOffset() {
			s.unsent[o.Hash] = true
		}
	}
	for hash := range s.wanted {
		s.unsent[hash] = true
	}
}

// confirm takes note of what the receiver of a session that ended well has for certain: what
// it was offered and either did not want or was sent whole (rule 18).
func (r *revert) confirm(s *session) {
	if s.err != nil {
		return
	}
	r.asksAgain = r.asksAgain || s.asksAgain
	has := r.confirmed[s.partner]
	if has == nil {
		has = make(map[string]ssync.Offer)
		r.confirmed[s.partner] = has
	}
	for hash, o := range s.offered {
		if !s.unsent[hash] {
			has[hash] = o
		}
	}
}

// settled are the offers that all targets have confirmed, in the order of their hashes.
func (r *revert) settled() (all []ssync.Offer) {
	for hash, o := range r.confirmed[r.targets[0]] {
		if !slices.ContainsFunc(r.targets[1:], func(pr *partner) bool { return r.confirmed[pr][hash] != o }) {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b ssync.Offer) int { return strings.Compare(a.Hash, b.Hash) })
	return all
}

// limit keeps a session to max_objects_per_revert.
func (p *Pass) limit(j *job, offers []ssync.Offer) []ssync.Offer {
	n := p.cfg.MaxRevert
	if n <= 0 || len(offers) <= n {
		return offers
	}
	p.cfg.Log.Infof("ssync missing_check truncated after %d objects: device: %s, part: %d, policy: %d, last object hash: %s",
		n, j.dev.Device, j.part, j.pol.Index, offers[n-1].Hash)
	return offers[:n]
}

// tryRevert brings the targets what they miss, one after the other, and removes here what all
// of them have confirmed meanwhile. The partition is locked all the time against sessions of
// others: two that bring each other the same fragments would both remove them (rule 13;
// bug 1897177). What there is to move is read anew under the lock. The outcome has all
// targets.
func (p *Pass) tryRevert(ctx context.Context, j *job, targets []*partner) map[*partner]error {
	outcome := make(map[*partner]error, len(targets))
	fail := func(err error) map[*partner]error {
		for _, pr := range targets {
			outcome[pr] = err
		}
		return outcome
	}
	acct, err := p.pool.Open(ctx, j.reserve(j.segment, 1)) // while nothing is held (law 9)
	if err != nil {
		return fail(err)
	}
	defer acct.Close()
	defer whenStalled(ctx, acct.Abandon)()
	lock, err := j.files.LockPartition(ctx, j.dev.Device, j.part, "replication", revertLock)
	if _, timeout := errors.AsType[*diskfile.LockTimeoutError](err); timeout {
		p.revertLocked()
		p.cfg.Log.Infof("Unable to lock handoff partition %d for revert on device %s policy %d", j.part, j.dev.Device, j.pol.Index)
	}
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	hashes, n, err := j.files.SuffixHashes(j.dev.Device, j.part, nil, true)
	p.hashed(n)
	if err != nil {
		p.cfg.Log.Errorf("Unable to read the suffix hashes of %s: %v", j.partition, err)
		return fail(err)
	}
	suffixes := j.revertible(hashes)
	for _, pr := range targets {
		outcome[pr], pr.suffixes = nil, suffixes
	}
	j.revert.confirmed = make(map[*partner]map[string]ssync.Offer)
	if len(suffixes) > 0 {
		p.revertTo(ctx, acct, j, targets, outcome)
	}
	return outcome
}

// revertible are the suffixes that the job is about now.
func (j *job) revertible(hashes suffix.Hashes) []string {
	jobs, _ := assign(j.pol, j.ring.PartNodes(j.part), j.dev.ID, hashes, first)
	for _, a := range jobs {
		if a.revert && a.index == j.index {
			return a.suffixes
		}
	}
	return nil
}

func (p *Pass) revertTo(ctx context.Context, acct *slab.Account, j *job, targets []*partner, outcome map[*partner]error) {
	p.serve(ctx, acct, j, targets, outcome)
	for _, pr := range targets {
		if outcome[pr] != nil {
			return
		}
	}
	if ctx.Err() == nil {
		p.purge(j)
	}
	if j.longest > j.segment {
		// Objects of an earlier ec_object_segment_size were passed over: see try.
		j.segment = j.longest
		for _, pr := range targets {
			outcome[pr] = errLonger
		}
	} else if j.revert.asksAgain && !j.revert.asked {
		j.revert.asked = true
		for _, pr := range targets {
			outcome[pr] = errMetadata
		}
	}
}

// errMetadata asks for another try.
var errMetadata = errors.New("the metadata of objects that were sent is still to be compared")

// purge removes what all targets have confirmed, unless they are not the fragments' homes any
// more.
func (p *Pass) purge(j *job) {
	settled := j.revert.settled()
	if len(settled) == 0 {
		return
	}
	if changed, err := p.checkRing(j.place, 0); changed || err != nil {
		return
	}
	purges := make([]diskfile.Purge, len(settled))
	for i, o := range settled {
		purges[i] = diskfile.Purge{Hash: o.Hash, Data: o.Data, Meta: o.Meta, ContentType: o.CType, Durable: !o.NonDurable}
	}
	n, err := j.files.Purge(j.dev.Device, j.part, j.index, j.handoff, purges)
	p.Progress.Purged.Add(int64(n))
	if err != nil {
		p.unreadable(j, err)
	}
}

// revert sends an object to the one session that wants it: as it was offered, or not at all.
// What has changed since is the next pass's.
func (t *task) revert(acct *slab.Account) {
	j, s, w := t.j, t.wants[0].session, t.wants[0].parts
	offer := s.offered[t.hash]
	local, err := j.files.Open(j.dev.Device, j.part, t.hash, j.index, offer.NonDurable)
	deleted, corrupt := (*diskfile.DeletedError)(nil), (*diskfile.CorruptError)(nil)
	switch {
	case errors.As(err, &deleted) && deleted.Timestamp == offer.Data:
		if t.deleted(deleted); t.whole > 0 {
			delete(s.unsent, t.hash)
		}
		return
	case errors.As(err, &deleted), vanished(err):
		return
	case err != nil:
		t.p.cfg.Log.Errorf("Unable to revert the local archive: %v", err)
		j.leave(s.partner, t.hash, &Unrepaired{Reason: err.Error()})
		if errors.As(err, &corrupt) {
			j.mu.Lock()
			j.damaged[t.hash] = true
			j.mu.Unlock()
		}
		return
	}
	defer local.Close()
	if local.Data != offer.Data || local.Meta != offer.Meta || local.ContentType != offer.CType {
		return
	}
	if !t.rebuild(acct, local) || w.Data && t.whole == 0 || !t.myTurn() {
		return
	}
	if w.Meta && local.FileMeta != nil {
		n := s.metadata
		if t.metadata(local.Name, postFields(local.FileMeta)); s.metadata == n {
			return
		}
	}
	switch {
	case w.Data && !w.Meta && local.FileMeta != nil:
		// It may have compared the data alone, with an older tombstone: asked again, it compares the metadata.
		s.asksAgain = true
	case w.Data || !s.plain || !offer.HasOffset():
		delete(s.unsent, t.hash)
	}
}

// vacate looks at a partition of which something was to be moved: whether fragments stay
// that belong elsewhere, for whatever reason, and whether it can go. What is there besides is
// told, and stays (rule 19).
func (p *Pass) vacate(it *item) {
	if !it.vacant && !slices.ContainsFunc(it.jobs, func(j *job) bool { return j.revert != nil }) {
		return
	}
	hashes, n, err := it.files.SuffixHashes(it.dev.Device, it.part, nil, true)
	p.hashed(n)
	if err != nil {
		p.cfg.Log.Errorf("Unable to read the suffix hashes of %s: %v", it, err)
		it.misfits = true
		return
	}
	jobs, bad := assign(it.pol, it.ring.PartNodes(it.part), it.dev.ID, hashes, first)
	for s, entry := range hashes {
		if entry == nil { // whose its fragments are nobody can tell
			it.misfits = true
			p.leftovers.add(&Unrepaired{
				Policy: it.pol.Index, Partition: it.part, Index: -1, Device: it.dev.Device, Revert: true, Reason: fmt.Sprintf("suffix %s can not be hashed", s),
			})
		}
	}
	it.misfits = it.misfits || len(bad) > 0 || slices.ContainsFunc(jobs, func(a assignment) bool { return a.revert && a.index >= 0 })
	if len(jobs)+len(hashes) > 0 { // a suffix that could not be hashed is there, too
		return
	}
	path := it.files.PartitionPath(it.dev.Device, it.part)
	removed, unexpected, err := it.files.RemovePartition(it.ctx, it.dev.Device, it.part)
	for _, name := range unexpected {
		p.cfg.Log.Warnf("Unexpected entity in partition: %s: the partition is not removed", filepath.Join(path, name))
	}
	switch {
	case err != nil:
		p.cfg.Log.Warnf("Unable to remove partition %s: %v", path, err)
	case removed:
		p.cfg.Log.Infof("Removing partition: %s", path)
	}
}

// first is a sample for those who do not send to it.
func first(nodes []ring.Node, n int) []ring.Node { return nodes[:n] }

// sayHandoffs says at the end of a pass whether handoffs_only is still of use.
func (p *Pass) sayHandoffs() {
	if p.Progress.Handoffs.Load()+p.Progress.PartitionsLeft.Load() > 0 { // what can not be read may be one
		p.cfg.Log.Infof("Handoffs only mode still has handoffs remaining. Next pass will continue to revert handoffs.")
		return
	}
	p.cfg.Log.Warnf("Handoffs only mode found no handoffs remaining. You should disable handoffs_only once all nodes are reporting no handoffs remaining.")
}
