package pass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"imping/engine/rebuild"
	"imping/netfast"
	"imping/swift/objhash"
	"imping/swift/ring"
)

// pointTarget is a device that is to get something.
type pointTarget struct {
	node *pointNode // the primary
	to   *pointNode // the same, or the handoff that stands in for it
	pr   *partner
	done bool // nobody is to get anything: the report says why
}

// send offers the reference to every primary that is not whole, as a job of one object
// whose partners they all are, and asks them again afterwards.
func (pt *point) send(ctx context.Context, whole func(*pointNode) bool) (*PointReport, error) {
	dev := &ring.Device{}
	if pt.here != nil {
		dev = pt.here.dev
	}
	j := newJob(&partition{place: pt.place, dev: dev, part: pt.part, files: pt.files}, 0)
	j.point = pt.source
	if o := pt.source.object; o != nil {
		j.segment, j.peers = o.Segment, pt.survivors()
	}
	var targets []*pointTarget
	for _, n := range pt.nodes {
		if n.handoff {
			continue
		}
		if t := pt.target(j, n, whole); t != nil {
			targets = append(targets, t)
			j.waiting = append(j.waiting, t.pr)
		}
	}
	pt.p.cfg.Log.Infof("%s: %d primaries lack something", pt.name, len(targets))
	failed := pt.p.sendPoint(ctx, j, func(pr *partner) bool {
		for _, t := range targets {
			if t.pr == pr {
				t.done = !pt.stepDown(j, t, whole)
				return !t.done
			}
		}
		return false
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, t := range targets {
		if !t.done {
			pt.settle(ctx, j, t, failed[t.pr], whole)
		}
	}
	for _, n := range pt.nodes {
		pt.remark(n)
	}
	return pt.finish(), nil
}

// survivors are the devices of which an archive of the reference was read whole.
func (pt *point) survivors() (list []rebuild.Peer) {
	for _, n := range pt.nodes {
		if pt.here != nil && n.ID == pt.here.dev.ID {
			continue // read from disk
		}
		peer, found := n.Peer, false
		for _, h := range n.held {
			if !pt.isRef(h) {
				continue
			}
			if !h.fit() || h.file != nil {
				found = false
				break
			}
			if !found {
				peer.Index, found = h.index, true
			}
		}
		if found {
			list = append(list, peer)
		}
	}
	return list
}

// target decides whether a primary is to get something, and who takes it in its place.
// Otherwise its report says why not.
func (pt *point) target(j *job, n *pointNode, whole func(*pointNode) bool) *pointTarget {
	r := n.report
	t := &pointTarget{node: n, to: n, pr: &partner{Peer: n.Peer, suffixes: []string{objhash.Suffix(pt.hash)}}}
	switch {
	case n.status == 507:
		if !pt.stepDown(j, t, whole) {
			return nil
		}
	case n.err != nil:
		r.Action, r.Left = n.unreachable(), true
		return nil
	case whole(n):
		r.Action = "has it"
		return nil
	}
	return t
}

// stepDown takes the next handoff for a device that is not mounted (rule 9). It reports
// whether there is one that lacks the archive.
func (pt *point) stepDown(j *job, t *pointTarget, whole func(*pointNode) bool) bool {
	r := t.node.report
	peer, ok := pt.p.handoff(j, t.pr)
	if !ok {
		r.Action, r.Left = "not mounted, and no handoff to take its place", true
		return false
	}
	i := slices.IndexFunc(pt.nodes, func(n *pointNode) bool { return n.ID == peer.ID })
	if i < 0 { // farther away than those that were asked
		i = len(pt.nodes)
		n := &pointNode{Peer: peer, handoff: true}
		n.describe()
		pt.nodes = append(pt.nodes, n)
	}
	t.pr.Peer, t.to = peer, pt.nodes[i]
	switch {
	case t.to.status == 507:
		return pt.stepDown(j, t, whole)
	case whole(t.to):
		r.Action = "not mounted: handoff " + peer.String() + " has it"
		return false
	}
	return true
}

// sendPoint serves those who wait until each has got what it wants or failed for good
// (rule 10), and says who failed. Nothing is compared first: a receiver says in its session
// what it misses. stepDown finds a handoff for one that is not mounted any more.
func (p *Pass) sendPoint(ctx context.Context, j *job, stepDown func(*partner) bool) map[*partner]error {
	failed := make(map[*partner]error)
	for len(j.waiting) > 0 {
		waiting := slices.Clone(j.waiting)
		outcome := p.serveOnce(ctx, j, waiting)
		if ctx.Err() != nil {
			break
		}
		var moved []*partner
		for _, pr := range waiting {
			failed[pr] = outcome[pr]
			var answer *netfast.StatusError
			if errors.As(outcome[pr], &answer) && answer.Status == 507 {
				outcome[pr], failed[pr] = nil, nil
				if stepDown(pr) {
					moved = append(moved, pr)
				}
			}
		}
		j.tries++
		wait := p.judge(ctx, j, outcome)
		j.waiting = append(j.waiting, moved...)
		if wait {
			d := p.firstWait << min(j.pauses, maxDoublings)
			j.pauses++
			if pause(ctx, max(d, time.Until(j.notBefore))) != nil {
				break
			}
		}
	}
	return failed
}

func (p *Pass) serveOnce(ctx context.Context, j *job, todo []*partner) map[*partner]error {
	outcome := make(map[*partner]error, len(todo))
	acct, err := p.pool.Open(ctx, j.reserve(j.segment, len(todo)))
	if err != nil {
		for _, pr := range todo {
			outcome[pr] = err
		}
		return outcome
	}
	defer acct.Close()
	todo = slices.Clone(todo)
	for len(todo) > 0 && ctx.Err() == nil {
		tried := p.group(ctx, acct, j, todo, outcome)
		todo = slices.DeleteFunc(todo, func(pr *partner) bool { return slices.Contains(tried, pr) })
	}
	return outcome
}

// settle asks a target again, and says what became of it.
func (pt *point) settle(ctx context.Context, j *job, t *pointTarget, cause error, whole func(*pointNode) bool) {
	r := t.node.report
	had := slices.ContainsFunc(t.to.held, func(h *holding) bool { return pt.belongs(h, t.node.Index) && h.fit() })
	before, stays := "", false
	for _, h := range t.to.held {
		stays = stays || pt.belongs(h, t.node.Index) && !h.fit() && !h.gone
		if h.report.Problem != "" {
			before = h.report.Problem + ", "
		}
	}
	durable := slices.ContainsFunc(t.to.held, func(h *holding) bool { return h.durable && pt.belongs(h, t.node.Index) })
	other := slices.ContainsFunc(t.to.held, func(h *holding) bool { return pt.ref != nil && h.data.After(pt.ref.data) })
	pt.ask(ctx, t.to)
	if t.to != t.node {
		before = "not mounted: handoff " + t.to.String() + ": "
		t.to.report.Action = "stands in for " + t.node.String()
	}
	has := slices.ContainsFunc(t.to.held, func(h *holding) bool { return pt.belongs(h, t.node.Index) && h.durable })
	done := "rebuilt"
	switch {
	case pt.source.deleted != nil:
		done = "tombstone sent"
	case had && !durable:
		done = "made durable"
	case had:
		done = "metadata sent"
	}
	if whole(t.to) && !stays {
		r.Action = before + done
		pt.report.Repaired++
		return
	}
	r.Left = true
	u := j.left[leftKey{pt.hash, t.pr.key()}]
	switch {
	case has && !had && !stays && pt.unsent != "":
		r.Action = before + "rebuilt, but " + pt.unsent
		pt.report.Repaired++
	case pt.unsent != "" && had:
		r.Action = pt.unsent
	case t.to.err != nil && cause == nil:
		r.Action = fmt.Sprintf("%soffered, and %s afterwards", before, t.to.unreachable())
	case cause != nil:
		r.Action = fmt.Sprintf("%snot repaired: %v", before, cause)
	case u != nil:
		r.Action = fmt.Sprintf("%snot repaired: %s", before, u.Reason)
		if u.Need > 0 {
			r.Action += fmt.Sprintf(" (%d of %d)", u.Have, u.Need)
		}
	case pt.ref != nil && t.to.deleted == pt.ref.data:
		r.Action = before + tied
	case other:
		r.Action = before + "holds another version, which is newer, and did not take this one"
	default:
		r.Action = before + "did not take what it was offered"
	}
}

// belongs reports whether the archive is the reference's of an index.
func (pt *point) belongs(h *holding, index int) bool {
	return pt.ref != nil && pt.isRef(h) && h.index == index
}

// remark says something of those that were nobody's target.
func (pt *point) remark(n *pointNode) {
	r := n.report
	switch {
	case r.Action != "":
	case n.err != nil:
		r.Action = n.unreachable()
	case slices.ContainsFunc(n.held, func(h *holding) bool { return h.problem != nil }):
		r.Action = "no survivor"
	case pt.ref != nil && slices.ContainsFunc(n.held, pt.isRef):
		r.Action = "survivor"
	case len(n.held) > 0:
		r.Action = "other version"
	case !n.deleted.IsZero():
		r.Action = "holds a tombstone"
	}
}
