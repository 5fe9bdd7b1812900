package pass

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"imping/engine/rebuild"
	"imping/swift/recon"
)

// UnrepairedFile is the list of what a whole pass left, beside the recon cache: one JSON
// object a line, replaced whole at the end of each pass.
const UnrepairedFile = "unrepaired.jsonl"

// Unrepaired is something that a pass found amiss and could not repair: an archive, or,
// with no object, a partner that could not be compared or synced, or what could not be read here.
type Unrepaired struct {
	Object    string `json:"object,omitempty"` // /account/container/object
	Hash      string `json:"hash,omitempty"`
	Policy    int    `json:"policy"`
	Partition int    `json:"partition"`        // -1: of the whole device nothing was covered
	Target    string `json:"target,omitempty"` // replication address and device that misses it; none: the local device can not be read
	Index     int    `json:"fragment_index"`
	Device    string `json:"device"` // the local one
	Have      int    `json:"have,omitempty"`
	Need      int    `json:"need,omitempty"`
	Revert    bool   `json:"revert,omitempty"` // the target misses what lies here and belongs there
	Reason    string `json:"reason"`
	Nodes     []Node `json:"nodes,omitempty"` // what was heard of the others
}

// Node is what one node said when it was asked for a fragment archive.
type Node struct {
	Node   string `json:"node"`
	Status int    `json:"status,omitempty"`
	Why    string `json:"why"`
}

// maxUnrepaired bounds the list that one pass keeps in memory; the counters go on.
const maxUnrepaired = 100_000

// leftKey names an archive that somebody misses.
type leftKey struct{ hash, target string }

// leave remembers that an archive could not be rebuilt for a target. A later try of the
// job may still bring it.
func (j *job) leave(pr *partner, hash string, u *Unrepaired) {
	u.Hash, u.Policy, u.Partition = hash, j.pol.Index, j.part
	u.Target, u.Index, u.Device, u.Revert = pr.key(), pr.Index, j.dev.Device, j.revert != nil
	j.mu.Lock()
	defer j.mu.Unlock()
	j.left[leftKey{hash, u.Target}] = u
}

// served forgets what was left of an object for a target.
func (j *job) served(pr *partner, hash string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.left, leftKey{hash, pr.key()})
}

// forget drops what earlier tries left for a target, of those hashes for which it is known
// anew.
func (j *job) forget(pr *partner, known func(hash string) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k := range j.left {
		if k.target == pr.key() && known(k.hash) {
			delete(j.left, k)
		}
	}
}

// giveUp remembers that a partner could not be compared or synced.
func (j *job) giveUp(pr *partner, cause error) {
	j.failed = append(j.failed, &Unrepaired{
		Policy: j.pol.Index, Partition: j.part, Target: pr.key(), Index: pr.Index, Device: j.dev.Device, Reason: cause.Error(), Revert: j.revert != nil,
	})
}

// insufficient describes an object with too few survivors.
func insufficient(e *rebuild.Insufficient) *Unrepaired {
	u := &Unrepaired{Object: e.Object.Name, Have: e.Have, Need: e.Object.Code.K(), Reason: "too few survivors"}
	for _, a := range e.Answers {
		u.Nodes = append(u.Nodes, Node{Node: a.Peer.String(), Status: a.Status, Why: a.Why})
	}
	return u
}

// leftovers are what all jobs of a pass left.
type leftovers struct {
	mu   sync.Mutex
	list []*Unrepaired
	more int64 // beyond maxUnrepaired
}

func (l *leftovers) add(list ...*Unrepaired) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := max(0, maxUnrepaired-len(l.list))
	if len(list) > room {
		l.more += int64(len(list) - room)
		list = list[:room]
	}
	l.list = append(l.list, list...)
}

// account counts at an item's end what its jobs left: each archive, and once the
// partition of this device, however many of its partners were given up, or fragments stayed.
func (p *Pass) account(it *item) {
	stays, failed := it.misfits, false
	for _, j := range it.jobs {
		p.Progress.ObjectsLeft.Add(int64(len(j.left)))
		if j.revert == nil {
			failed = failed || len(j.failed) > 0
		} else {
			stays = stays || len(j.failed) > 0
		}
		for _, u := range j.left {
			p.leftovers.add(u)
		}
		p.leftovers.add(j.failed...)
	}
	if failed {
		p.Progress.PartitionsLeft.Add(1)
	}
	if stays {
		p.Progress.Handoffs.Add(1)
	}
}

// Unrepaired is what the pass left, in a settled order.
func (p *Pass) Unrepaired() []*Unrepaired {
	p.leftovers.mu.Lock()
	defer p.leftovers.mu.Unlock()
	list := slices.Clone(p.leftovers.list)
	slices.SortFunc(list, func(a, b *Unrepaired) int {
		if c := a.Policy - b.Policy; c != 0 {
			return c
		}
		if c := a.Partition - b.Partition; c != 0 {
			return c
		}
		if c := strings.Compare(a.Hash, b.Hash); c != 0 {
			return c
		}
		return strings.Compare(a.Target, b.Target)
	})
	return list
}

// WriteUnrepaired replaces the list in path.
func (p *Pass) WriteUnrepaired(path string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, u := range p.Unrepaired() {
		if err := enc.Encode(u); err != nil {
			return fmt.Errorf("cannot write %s: %w", path, err)
		}
	}
	if n := p.leftovers.more; n > 0 {
		fmt.Fprintf(&b, "{\"reason\":\"%d more are not listed\"}\n", n)
	}
	if err := recon.Replace(path, b.Bytes()); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
