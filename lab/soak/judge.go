package soak

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"imping/engine/pass"
	"imping/lab/faults"
	"imping/lab/scenario"
	"imping/swift/ring"
)

type flip = scenario.Flip

// Report is what became of a case.
type Report struct {
	Case         string
	Took, Passed time.Duration // in all; until the passes under faults had ended
	Rebuilt      int64
	Struck       map[faults.Kind]int64
	Whole        bool // all was as before after the passes under faults
	Healing      int  // passes that it took without them
	Unnoticed    int  // bytes that rotted and that nobody read
	Excused      int  // entries about peers with nothing wrong that are true, and not the pass's doing: see excused
	Left         int  // objects that could not be brought back under the faults, and were not to be
	WrongBytes   int
	Problems     []string

	extras []string // partitions on handoffs
}

func (r *Report) wrong(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// fate is what a pass can do about one archive that is missing.
type fate int

const (
	sure       fate = iota // it comes back
	possible               // it may come back: it depends on who asks whom, and when
	impossible             // it can not
)

// expected is what has to be true after the passes of a case.
type expected struct {
	*Case
	field *Field
	// by device
	wiped  map[string]bool
	faults map[string][]*faults.Fault
	parts  map[Part]bool
	rot    map[string]bool // device/name
	// archives that are missing, by device and folder of the object
	fates map[string]map[string]fate
	// partners that can not be compared: they have to be listed, by node
	must map[int]map[listed]bool
	// what the servers logged during the passes
	logged []string
}

// listed is an entry of the list of what was left that is about a partner.
type listed struct {
	policy, part   int
	device, target string
}

func (f *Field) expect(c *Case) *expected {
	e := &expected{Case: c, field: f, wiped: map[string]bool{}, faults: map[string][]*faults.Fault{}, parts: map[Part]bool{},
		rot: map[string]bool{}, fates: map[string]map[string]fate{}, must: map[int]map[listed]bool{}}
	for _, d := range c.Wipe {
		e.wiped[d] = true
	}
	for _, p := range c.Parts {
		e.parts[p] = true
	}
	for _, r := range c.Rot {
		e.rot[r.Device+"/"+r.Name] = true
	}
	for _, fault := range c.Faults {
		on := []string{fault.Device}
		if fault.Kind == faults.Down {
			on = f.Devices(f.NodeOf(fault.Device))
		}
		for _, d := range on {
			e.faults[d] = append(e.faults[d], fault)
		}
	}
	for place, o := range f.places {
		e.expectObject(place, o)
		e.expectPartners(place, o)
	}
	return e
}

// lost says whether what the device had of the object is gone or rotten.
func (e *expected) lost(dev, place string) bool {
	if e.wiped[dev] || e.parts[Part{dev, partitionOf(place)}] {
		return true
	}
	for name := range e.field.before[dev].Files {
		if path.Dir(name) == place && e.rot[dev+"/"+name] {
			return true
		}
	}
	return false
}

// partitionOf is objects-1/23 of objects-1/23/abc/HASH.
func partitionOf(place string) string { return path.Dir(path.Dir(place)) }

func (e *expected) lossy(dev string, always bool) bool {
	return slices.ContainsFunc(e.faults[dev], func(f *faults.Fault) bool {
		return lossy(f.Kind) && (f.Method == "" || f.Method == "GET") && (!always || f.Times == 0)
	})
}

// expectObject decides what has to become of an object's archives that are lost.
func (e *expected) expectObject(place string, o *scenario.Object) {
	nodes := e.field.loaded.Layout.Primaries(o)
	set := func(dev string, what fate) {
		if e.fates[dev] == nil {
			e.fates[dev] = map[string]fate{}
		}
		e.fates[dev][place] = what
	}
	for i, n := range nodes {
		dev := n.Device.Device
		if !e.lost(dev, place) {
			if slices.ContainsFunc(e.faults[dev], func(f *faults.Fault) bool { return f.Kind == faults.Unmounted }) {
				for _, handoff := range e.handoffs(o, n) { // it may get there, in this device's place
					set(handoff, possible)
				}
			}
			continue
		}
		want := o.Policy.BackendIndex(n.Index)
		if !e.Lax && o.Kind == scenario.Deleted {
			set(dev, sure)
			continue
		}
		// What peers give for certain, and what they may give at best.
		certain, best := map[int]bool{}, map[int]bool{}
		for j, m := range nodes {
			d := m.Device.Device
			if j == i || e.lost(d, place) {
				continue
			}
			if !e.lossy(d, false) {
				certain[o.Policy.BackendIndex(m.Index)] = true
			}
			if !e.lossy(d, true) {
				best[o.Policy.BackendIndex(m.Index)] = true
			}
		}
		fate := impossible
		if e.Lax {
			fate = possible
		} else if enough(certain, want, o.Policy.Data) {
			fate = sure
		} else if o.Size == 0 { // of no bytes none can be flipped or cut off
			fate = possible
		} else {
			// Each node reads its own archive itself, whatever its server does.
			for _, m := range partners(n.Index, nodes) {
				d := m.Device.Device
				own := maps.Clone(best)
				if !e.lost(d, place) {
					own[o.Policy.BackendIndex(m.Index)] = true
				}
				if enough(own, want, o.Policy.Data) {
					fate = possible
				}
			}
			// What one pass brings back helps the next: several lost ones, of which one is
			// not beyond repair, are not told apart further.
			if len(e.Wipe)+len(e.Parts)+len(e.Rot) > 1 && fate == impossible {
				fate = possible
			}
		}
		set(dev, fate)
	}
}

// enough says whether archives of these indexes make the wanted one.
func enough(have map[int]bool, want, k int) bool {
	if have[want] { // a duplicate
		return true
	}
	return len(have) >= k
}

// partners are the nodes that have the one at index for a left, right or far partner.
func partners(index int, nodes []ring.Node) []ring.Node {
	n := len(nodes)
	var list []ring.Node
	for i := range nodes {
		if i == index {
			continue
		}
		if (i+1)%n == index || (i-1+n)%n == index || (i+n/2)%n == index {
			list = append(list, nodes[i])
		}
	}
	return list
}

// expectPartners finds who is compared with whom in the object's partition, and can not
// be.
func (e *expected) expectPartners(place string, o *scenario.Object) {
	layout := e.field.loaded.Layout
	nodes, part := layout.Primaries(o), layout.Partition(o)
	for _, n := range nodes {
		target := n.Device.Device
		if !slices.ContainsFunc(e.faults[target], func(f *faults.Fault) bool { return mute(f.Kind) && f.Times == 0 && f.Method == "" }) {
			continue
		}
		unmounted := slices.ContainsFunc(e.faults[target], func(f *faults.Fault) bool { return f.Kind == faults.Unmounted })
		if unmounted && len(e.handoffs(o, n)) > 0 {
			continue
		}
		for _, m := range partners(n.Index, nodes) {
			dev := m.Device.Device
			if e.wiped[dev] || e.parts[Part{dev, partitionOf(place)}] {
				continue // the partition is not there when the pass begins
			}
			node := e.field.NodeOf(dev)
			if e.must[node] == nil {
				e.must[node] = map[listed]bool{}
			}
			e.must[node][listed{o.Policy.Index, part, dev, target}] = true
		}
	}
}

// handoffs are the devices that take what belongs to a primary that answers 507 (rule 9).
func (e *expected) handoffs(o *scenario.Object, primary ring.Node) []string {
	layout := e.field.loaded.Layout
	var list []string
	for node := range layout.Ring(o.Policy).MoreNodes(layout.Partition(o)) {
		if o.Policy.BackendIndex(node.Index) == o.Policy.BackendIndex(primary.Index) {
			list = append(list, node.Device.Device)
		}
	}
	return list[:min(len(list), 2)] // rebuild_handoff_node_count
}

// deviceOf is sd5 of 127.0.0.3:6235/sd5.
func deviceOf(target string) string { return target[strings.LastIndexByte(target, '/')+1:] }

func describe(list []*pass.Unrepaired) string {
	var words []string
	for i, u := range list {
		if i == 5 {
			words = append(words, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		words = append(words, fmt.Sprintf("policy %d, partition %d, %s for %s: %s%s (%d/%d)", u.Policy, u.Partition, u.Device, u.Target, u.Object, u.Reason, u.Have, u.Need))
	}
	return strings.Join(words, "; ")
}

// judgeWords checks that what a node's pass says agrees with itself and with the truth.
func (f *Field) judgeWords(e *expected, node int, o *Outcome, r *Report) {
	if (o.Exit != 0) != o.Left.Any() || o.Exit != 0 && o.Exit != 2 {
		r.wrong("node %d: exit status %d, but left %+v", node, o.Exit, o.Left)
	}
	objects := int64(0)
	type partition struct {
		policy, part int
		device       string
	}
	partitions := map[partition]bool{} // each counts once
	must := maps.Clone(e.must[node])
	for _, u := range o.Unrepaired {
		dev := deviceOf(u.Target)
		if u.Hash == "" && u.Revert { // counted by their partitions, below
			if len(e.faults[dev]) == 0 && late(u.Reason) {
				r.Excused++
			} else if len(e.faults[dev]) == 0 {
				r.wrong("node %d could not bring %s what belongs there, and nothing is wrong with it: %s", node, u.Target, u.Reason)
			}
			continue
		}
		if u.Hash == "" {
			partitions[partition{u.Policy, u.Partition, u.Device}] = true
			delete(must, listed{u.Policy, u.Partition, u.Device, dev})
			// Handoffs stand in for primaries: their own faults count.
			if u.Target != "" && len(e.faults[dev]) == 0 && (late(u.Reason) || e.vanished(u)) {
				r.Excused++
			} else if u.Target != "" && len(e.faults[dev]) == 0 {
				r.wrong("node %d gave up on %s, with which nothing is wrong: %s", node, u.Target, u.Reason)
			}
			if u.Target == "" && len(e.Rot) == 0 {
				r.wrong("node %d can not read %s: %s", node, u.Device, u.Reason)
			}
			continue
		}
		objects++
		if u.Have >= u.Need && u.Need > 0 {
			r.wrong("node %d left %s with %d of %d survivors", node, u.Object, u.Have, u.Need)
		}
		place := e.place(u)
		fate, missing := e.fates[dev][place]
		local := len(e.Rot) > 0 && e.lost(u.Device, place) // its own archive has rotted
		if (!missing || fate == sure) && !local && e.slow(u) {
			r.Excused++
		} else if (!missing || fate == sure) && !local {
			r.wrong("node %d left fragment %d of %s for %s, which can be rebuilt: %s", node, u.Index, u.Object, u.Target, describe([]*pass.Unrepaired{u}))
		}
	}
	if objects != o.Left.Objects || int64(len(partitions)) != o.Left.Partitions {
		r.wrong("node %d counts %+v and lists %d objects and %d partitions", node, o.Left, objects, len(partitions))
	}
	for l := range must {
		r.wrong("node %d does not list that %s could not be compared with %s: policy %d, partition %d", node, l.device, l.target, l.policy, l.part)
	}
	reverts := slices.ContainsFunc(o.Unrepaired, func(u *pass.Unrepaired) bool { return u.Revert })
	if o.Left.Handoffs > 0 && !reverts && !e.has(faults.Unmounted) {
		r.wrong("node %d has %d partitions to revert", node, o.Left.Handoffs)
	}
	if o.Left.Devices+o.Left.Policies > 0 || o.Left.Interrupted {
		r.wrong("node %d left %+v", node, o.Left)
	}
	if o.Quarantined > 0 && len(e.Rot) == 0 {
		r.wrong("node %d quarantined %d archives, and none has rotted", node, o.Quarantined)
	}
}

// Two things happen to peers with nothing wrong, and a pass that lists them tells the truth.
// On a busy machine they are late. And a server's write fails with 500 when the object's new
// folder, still empty, is removed between its making and its use by whoever hashes the
// suffix (Swift: obj/diskfile.py, _get_tempfile and _hash_suffix_dir).

// vanished looks for the second in the log of the servers.
func (e *expected) vanished(u *pass.Unrepaired) bool {
	if !strings.Contains(u.Reason, ":UPDATES: ") {
		return false
	}
	folder := fmt.Sprintf(" /%s/%d/", deviceOf(u.Target), u.Partition)
	return slices.ContainsFunc(e.logged, func(line string) bool {
		_, rest, ok := strings.Cut(line, "ssync subrequest failed with 500: ") // PUT, POST or DELETE
		return ok && strings.Contains(rest[:min(len(rest), 40)], folder) && strings.Contains(line, "_get_tempfile") && strings.Contains(line, "FileNotFoundError")
	})
}

// late says that a peer did not answer in time, or had not a moment ago.
func late(why string) bool {
	return strings.Contains(why, "no progress") || strings.Contains(why, "timeout") || strings.Contains(why, "deadline exceeded") || strings.Contains(why, "left alone")
}

// slow says that an object was left because peers with nothing wrong were late. On a busy
// machine that is no fault of the pass, which told the truth.
func (e *expected) slow(u *pass.Unrepaired) bool {
	return late(u.Reason) || slices.ContainsFunc(u.Nodes, func(n pass.Node) bool { return len(e.faults[deviceOf(n.Node)]) == 0 && late(n.Why) })
}

func (e *expected) has(k faults.Kind) bool {
	return slices.ContainsFunc(e.Faults, func(f *faults.Fault) bool { return f.Kind == k })
}

// place is the folder of an unrepaired object under a device.
func (e *expected) place(u *pass.Unrepaired) string {
	for place, o := range e.field.places {
		if o.Policy.Index == u.Policy && path.Base(place) == u.Hash {
			return place
		}
	}
	return ""
}

// judgeList wants each archive that is beyond repair in somebody's list.
func (e *expected) judgeList(outcomes map[int]*Outcome, r *Report) {
	type key struct{ dev, place string }
	found := map[key]bool{}
	for _, o := range outcomes {
		for _, u := range o.Unrepaired {
			if u.Hash != "" {
				found[key{deviceOf(u.Target), e.place(u)}] = true
			}
		}
	}
	for dev, m := range e.fates {
		for place, fate := range m {
			if fate == impossible {
				r.Left++
				if !found[key{dev, place}] {
					r.wrong("%s on %s is beyond repair, and nobody lists it", place, dev)
				}
			}
		}
	}
}

// judgeBytes compares every device with what it was, and says whether all is whole.
func (f *Field) judgeBytes(e *expected, r *Report) (whole bool, err error) {
	whole = true
	var mu sync.Mutex
	err = f.eachDevice(func(dev string) error {
		before := f.before[dev]
		after, err := before.Retake()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for name := range before.Files {
			if e.rot[dev+"/"+name] {
				whole = false // whatever became of it
			}
		}
		report := scenario.Compare(before, after)
		for _, name := range report.Missing {
			whole = false
			place := path.Dir(name)
			if fate, ok := e.fates[dev][place]; !ok || fate == sure && !f.rotten(e, dev, place) && r.Excused == 0 {
				r.wrong("missing on %s: %s", dev, name)
			}
		}
		for _, list := range [][]string{report.Bytes, report.Metadata, report.Owner} {
			for _, sentence := range list {
				whole = false
				name, _, _ := strings.Cut(sentence, ": ")
				if !e.rot[dev+"/"+name] {
					r.WrongBytes++
					r.wrong("wrong on %s: %s", dev, sentence)
				}
			}
		}
		for name, file := range after.Files {
			place := path.Dir(name)
			if _, was := before.Files[name]; was {
				if e.fates[dev] != nil {
					if fate, ok := e.fates[dev][place]; ok && fate == impossible {
						r.wrong("written although it was beyond repair: %s on %s", name, dev)
					}
				}
				continue
			}
			whole = false
			f.judgeExtra(e, dev, name, file, r)
		}
		quarantined, err := fs.Glob(os.DirFS(before.Path), "quarantined/*/*")
		if err != nil {
			return err
		}
		for _, q := range quarantined {
			whole = false
			if !e.mayQuarantine(dev) || !e.rotHash(dev, path.Base(q)) {
				r.wrong("quarantined on %s without a reason: %s", dev, q)
			}
		}
		return nil
	})
	return whole, err
}

func (f *Field) rotten(e *expected, dev, place string) bool {
	for name := range f.before[dev].Files {
		if path.Dir(name) == place && e.rot[dev+"/"+name] {
			return true
		}
	}
	return false
}

func (e *expected) mayQuarantine(dev string) bool {
	return slices.ContainsFunc(e.Rot, func(r Rot) bool { return r.Device == dev })
}

// rotHash: a quarantined folder is named by the object's hash; a second one of the same
// name gets something behind it.
func (e *expected) rotHash(dev, base string) bool {
	return slices.ContainsFunc(e.Rot, func(r Rot) bool {
		return r.Device == dev && strings.HasPrefix(base, path.Base(path.Dir(r.Name)))
	})
}

// judgeExtra wants a file that was not there to be what a primary has, on a handoff, for
// a device that answered 507.
func (f *Field) judgeExtra(e *expected, dev, name string, file scenario.File, r *Report) {
	o := f.places[path.Dir(name)]
	if o == nil {
		r.WrongBytes++
		r.wrong("new on %s, and of no object: %s", dev, name)
		return
	}
	primary := slices.ContainsFunc(f.loaded.Layout.Primaries(o), func(n ring.Node) bool { return n.Device.Device == dev })
	if !e.has(faults.Unmounted) || primary {
		r.wrong("new on %s: %s", dev, name)
		return
	}
	r.extras = append(r.extras, filepath.Join(f.DevicePath(dev), partitionOf(path.Dir(name))))
	for _, s := range f.before {
		if same, ok := s.Files[name]; ok {
			if same.SHA256 != file.SHA256 || !maps.Equal(same.Metadata, file.Metadata) {
				r.WrongBytes++
				r.wrong("%s on the handoff %s is not what %s has", name, dev, s.Device)
			}
			return
		}
	}
	r.WrongBytes++
	r.wrong("%s on the handoff %s is on no primary", name, dev)
}
