package pass

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"imping/engine/rebuild"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/suffix"
)

// assignment is a job as the ring has it: which suffixes of a partition concern whom.
type assignment struct {
	revert   bool
	index    int      // of the fragments: for SYNC the device's own; -1: a REVERT of what belongs to no fragment
	suffixes []string // for REVERT; SYNC compares all that there are
	targets  []ring.Node
}

// assign plans the jobs of a partition of the device: SYNC where it is a primary, and
// REVERT for each other fragment index that it holds, to all primaries of that index: the
// index of the fewest suffixes first. Suffixes in which there is no fragment ride on the
// first job; where there is none, they go to as many primaries, picked by sample, as it
// takes to share one with any data quorum. bad are indexes that nobody has a place for, with
// their suffixes. A suffix that could not be hashed is nobody's. No job: the partition
// does not belong here, and nothing is known to be in it.
// Swift: obj/reconstructor.py, _get_part_jobs.
func assign(pol *policy.Policy, nodes []ring.Node, dev int, hashes suffix.Hashes, sample func([]ring.Node, int) []ring.Node) (jobs []assignment, bad map[int][]string) {
	var bare []string
	holders := make(map[int][]string)
	for _, s := range slices.Sorted(maps.Keys(hashes)) {
		e := hashes[s]
		if e.Empty() {
			continue
		}
		if len(e.Frags) == 0 {
			bare = append(bare, s)
		}
		for _, f := range e.Frags {
			holders[f.Index] = append(holders[f.Index], s)
		}
	}
	if i := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.ID == dev }); i >= 0 {
		index := pol.BackendIndex(nodes[i].Index)
		jobs = append(jobs, assignment{index: index, targets: partners(i, nodes)})
		delete(holders, index)
	}
	indexes := slices.SortedFunc(maps.Keys(holders), func(a, b int) int {
		return cmp.Or(len(holders[a])-len(holders[b]), a-b)
	})
	for _, index := range indexes {
		homes := slices.DeleteFunc(slices.Clone(nodes), func(n ring.Node) bool { return pol.BackendIndex(n.Index) != index })
		if len(homes) < pol.Duplication { // a ring of too few devices, too
			if bad == nil {
				bad = make(map[int][]string)
			}
			bad[index] = holders[index]
			continue
		}
		jobs = append(jobs, assignment{revert: true, index: index, suffixes: holders[index], targets: homes})
	}
	switch {
	case len(bare) == 0:
	case len(jobs) == 0:
		n := pol.UniqueFragments()*pol.Duplication - pol.Data + 1
		jobs = append(jobs, assignment{revert: true, index: -1, suffixes: bare, targets: sample(nodes, min(n, len(nodes)))})
	case jobs[0].revert:
		jobs[0].suffixes = slices.Sorted(slices.Values(append(jobs[0].suffixes, bare...)))
	}
	return jobs, bad
}

// job makes a job of its assignment.
func (pt *partition) job(a assignment, nodes []ring.Node, hashes suffix.Hashes) *job {
	j := newJob(pt, a.index)
	j.hashes, j.read = hashes, time.Now()
	for _, node := range a.targets {
		pr := &partner{Peer: rebuild.NewPeer(pt.pol, node)}
		if a.revert {
			pr.single = true // each is asked for itself what it has: nothing is decoded that they could share
		}
		j.waiting = append(j.waiting, pr)
	}
	if a.revert {
		j.revert = &revert{targets: slices.Clone(j.waiting)}
	}
	return j
}

// others are the other primaries of a partition.
func (pt *partition) others() (peers []rebuild.Peer) {
	for _, node := range pt.ring.PartNodes(pt.part) {
		if node.ID != pt.dev.ID {
			peers = append(peers, rebuild.NewPeer(pt.pol, node))
		}
	}
	return peers
}
