package differential

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"imping/io/diskfile"
	"imping/lab/real"
	"imping/swift/timestamp"
)

// oracle knows what is true of the objects, and looks at the devices after each round.
type oracle struct {
	w       *world
	cluster *real.Cluster
	verdict *Verdict
	byHash  map[string]*object
	round   int
	said    map[int]*outcome // in the last round
	before  tree             // the last round
	first   map[*object][]place
	lost    []loss
}

func newOracle(w *world, c *real.Cluster, v *Verdict) *oracle {
	o := &oracle{w: w, cluster: c, verdict: v, byHash: map[string]*object{}}
	for _, obj := range w.objects {
		o.byHash[obj.hash] = obj
	}
	return o
}

// loss is a version that could be decoded before a round, and not after it.
type loss struct {
	*object
	at    timestamp.Timestamp
	round int
	left  []place
}

// held is one file of an object's folder.
type held struct {
	at      timestamp.Timestamp
	ext     string // .data, .meta, .ts, .durable
	index   int    // of .data
	durable bool   // of .data, by its name
}

// parse reads a file's name as far as the generator writes such names.
func parse(name string) (h held, ok bool) {
	h.ext = path.Ext(name)
	stem := strings.TrimSuffix(name, h.ext)
	switch h.ext {
	case ".data":
		parts := strings.Split(stem, "#")
		if len(parts) < 2 || len(parts) > 3 {
			return h, false
		}
		index, err := strconv.Atoi(parts[1])
		if err != nil {
			return h, false
		}
		h.index, h.durable = index, len(parts) == 3 && parts[2] == "d"
		stem = parts[0]
	case ".meta":
		at, _, _, err := timestamp.DecodePair(stem)
		h.at = at
		return h, err == nil
	case ".ts", ".durable":
	default:
		return h, false
	}
	at, err := timestamp.Parse(stem)
	h.at = at
	return h, err == nil
}

// place is where a file of an object lies.
type place struct {
	dev, name string
	held
}

func (p place) String() string { return p.dev + "/" + p.name }

// files are those of each object, from a tree; damaged ones are not among them.
func (o *oracle) files(t tree) map[*object][]place {
	all := map[*object][]place{}
	for at, n := range t {
		dev, rest, _ := strings.Cut(at, "/")
		obj := o.byHash[path.Base(path.Dir(rest))]
		if n.Dir || obj == nil || path.Dir(rest) != obj.dir() {
			continue
		}
		if h, ok := parse(path.Base(rest)); ok && obj.sound(h, n) {
			all[obj] = append(all[obj], place{dev, path.Base(rest), h})
		}
	}
	return all
}

func (o *object) version(at timestamp.Timestamp) *version {
	for _, v := range o.versions {
		if v.at == at {
			return v
		}
	}
	return nil
}

// sound says whether a file is what it is to be.
func (o *object) sound(h held, n node) bool {
	switch h.ext {
	case ".durable":
		return true
	case ".data":
		v := o.version(h.at)
		return v != nil && h.index < len(v.sums) && n.SHA256 == v.sums[h.index] && n.Problem == "" && maps.Equal(n.Metadata, v.metadata[h.index])
	}
	return n.Problem == "" && n.Metadata["name"] == o.name
}

// state is what a cluster has of an object.
type state struct {
	tombstone timestamp.Timestamp // the newest
	indexes   map[timestamp.Timestamp]map[int]bool
	durable   map[timestamp.Timestamp]bool
}

func stateOf(files []place) *state {
	s := &state{indexes: map[timestamp.Timestamp]map[int]bool{}, durable: map[timestamp.Timestamp]bool{}}
	for _, f := range files {
		switch f.ext {
		case ".ts":
			if f.at.After(s.tombstone) {
				s.tombstone = f.at
			}
		case ".data":
			if s.indexes[f.at] == nil {
				s.indexes[f.at] = map[int]bool{}
			}
			s.indexes[f.at][f.index] = true
			if f.durable {
				s.durable[f.at] = true
			}
		case ".durable":
			s.durable[f.at] = true
		}
	}
	return s
}

// decodable is the newest durable version that can be decoded, no tombstone against it.
func (s *state) decodable(o *object) (newest timestamp.Timestamp) {
	for at, set := range s.indexes {
		if s.durable[at] && len(set) >= o.Policy.Data && at.After(newest) && at.After(s.tombstone) {
			newest = at
		}
	}
	return newest
}

func (o *oracle) wrong(format string, args ...any) {
	o.verdict.wrong("after round %d of imping: %s", o.round, fmt.Sprintf(format, args...))
}

// look judges a round.
func (o *oracle) look(before, now tree, said map[int]*outcome) {
	o.round++
	o.said = said
	was, is := o.files(before), o.files(now)
	if o.first == nil {
		o.first = was
	}
	for _, obj := range o.w.objects {
		b, n := stateOf(was[obj]), stateOf(is[obj])
		v := b.decodable(obj)
		if v.IsZero() {
			continue
		}
		if after := n.decodable(obj); after.Before(v) && !n.tombstone.After(v) && !b.tombstone.After(v) {
			o.lost = append(o.lost, loss{obj, v, o.round, is[obj]})
		}
	}
	for at, gone := range before {
		if _, there := now[at]; there || gone.Dir {
			continue
		}
		if why := o.mayGo(at, gone, before, now, was, is); why != "" {
			o.wrong("%s was removed: %s", at, why)
		}
	}
	o.before = before
	o.compareWords(was, is, !o.changed(before, now))
}

// mayGo says why a file that was removed ought to be there still; "" if it may be gone.
func (o *oracle) mayGo(at string, gone node, before, now tree, was, is map[*object][]place) string {
	dev, rest, _ := strings.Cut(at, "/")
	obj := o.byHash[path.Base(path.Dir(rest))]
	if obj == nil || path.Dir(rest) != obj.dir() {
		if strings.Contains(rest, "/") && strings.HasPrefix(rest, "tmp") && path.Base(rest) == "old" {
			return ""
		}
		if o.byHash[path.Base(rest)] != nil { // a file in place of a folder: quarantined
			if o.quarantined(now, dev, path.Base(rest)) {
				return ""
			}
		}
		return "it is no object's"
	}
	h, ok := parse(path.Base(rest))
	if !ok || !obj.sound(h, gone) {
		if !ok { // strange, but its name may begin with a time
			name := path.Base(rest)
			h.at, _ = timestamp.Parse(name[:len(name)-len(path.Ext(name))])
		}
		if o.quarantined(now, dev, obj.hash) || !h.at.IsZero() && o.obsolete(h, obj, dev, before, now) {
			return ""
		}
		return "it was damaged, and is not in quarantine"
	}
	if o.obsolete(h, obj, dev, before, now) {
		return ""
	}
	if h.ext == ".durable" && !slices.ContainsFunc(was[obj], func(f place) bool { return f.dev == dev && f.ext == ".data" && f.at == h.at }) {
		return "" // of nothing
	}
	if o.quarantined(now, dev, obj.hash) && obj.spoiled {
		return "" // with the damaged one, in one folder
	}
	if slices.ContainsFunc(o.named(now, obj, dev), func(f held) bool { return f.standsFor(h) }) {
		return "" // it became durable
	}
	if h.ext == ".meta" && len(stateOf(was[obj]).durable) == 0 {
		return "" // a POST to what is not durable is answered 404, which counts as done (rule 26)
	}
	// Reverted: a fragment is at all its homes, all else at a primary, or something newer is. What
	// is damaged counts, for a receiver goes by names.
	homes, have := 0, 0
	for _, n := range obj.primaries {
		home := n.Device.Device
		if home == dev || h.ext == ".data" && obj.index(home) != h.index {
			continue
		}
		homes++
		if slices.ContainsFunc(o.named(now, obj, home), func(f held) bool { return f.standsFor(h) }) {
			have++
		}
	}
	if homes > 0 && have > 0 && (h.ext != ".data" || have == homes && obj.index(dev) != h.index) {
		return ""
	}
	return fmt.Sprintf("it is not obsolete, and %d of %d that are to have it do; there is %v", have, homes, is[obj])
}

// standsFor says whether who has f needs no g any more.
func (f held) standsFor(g held) bool {
	switch {
	case f.at == g.at && g.ext == ".data":
		return f.ext == ".ts" || f.ext == ".data" && f.index == g.index && (f.durable || !g.durable) || f.ext == ".durable"
	case f.at == g.at:
		return f.ext == g.ext || f.ext == ".data" && f.durable
	}
	return f.at.After(g.at) && (f.ext == ".ts" || f.ext == ".durable" || f.ext == ".data" && f.durable || f.ext == ".meta" && g.ext == ".meta")
}

func (o *oracle) quarantined(now tree, dev, hash string) bool {
	for at := range now {
		if strings.HasPrefix(at, dev+"/quarantined/") && strings.HasPrefix(path.Base(at), hash) {
			return true
		}
	}
	return false
}

// obsolete says whether Swift itself removes the file: something newer lies, or came to lie, in its
// folder, or it is of a kind that goes with its age.
func (o *oracle) obsolete(h held, obj *object, dev string, before, now tree) bool {
	if o.old(h) {
		return true
	}
	for _, t := range []tree{before, now} {
		for name := range t {
			d, rest, _ := strings.Cut(name, "/")
			if d != dev || path.Dir(rest) != obj.dir() {
				continue
			}
			other, ok := parse(path.Base(rest))
			if !ok {
				continue
			}
			switch {
			case other.ext == ".data" && other.durable || other.ext == ".ts" || other.ext == ".durable":
				if other.at.After(h.at) || other.at == h.at && (h.ext != ".data" || other.ext == ".ts") && other.ext != h.ext {
					return true
				}
			case other.ext == ".meta" && h.ext == ".meta" && other.at.After(h.at):
				return true
			}
		}
	}
	return false
}

// old says whether a file is of a kind that goes with its age, and has reached it.
func (o *oracle) old(h held) bool {
	return o.w.now.Sub(h.at.Time()) > diskfile.DefaultReclaimAge && (h.ext != ".data" || !h.durable)
}

// changed says whether a round changed anything but what never comes to rest.
func (o *oracle) changed(before, now tree) bool {
	list := compare(before, now)
	slices.Reverse(list) // folders after what lies in them
	restless := map[string]bool{}
	for _, d := range list {
		if o.restless(d) {
			for at := d.name; at != "."; at = path.Dir(at) {
				restless[at] = true
			}
		} else if !restless[d.name] {
			return true
		}
	}
	return false
}

// restless says whether a difference is a tombstone that comes and goes on a handoff, as with stock: while a
// primary is not mounted, its partners bring it there, and it goes on to a random sample of primaries,
// and from the handoff if that primary is not among them. Its empty folder goes a pass later.
func (o *oracle) restless(d difference) bool {
	dev, rest, _ := strings.Cut(d.name, "/")
	obj, h := o.object(d.name)
	if folder := o.byHash[path.Base(rest)]; folder != nil && rest == folder.dir() {
		obj, h.ext = folder, ".ts"
	}
	return obj != nil && h.ext == ".ts" && obj.index(dev) < 0 && (d.stock == nil || d.ours == nil) &&
		slices.ContainsFunc(obj.primaryDevices(), func(p string) bool { return o.w.draft[p] == nil })
}

// compareWords holds what the passes said against what is there.
func (o *oracle) compareWords(was, is map[*object][]place, quiet bool) {
	type entry struct{ hash, target string }
	listed, partitions := map[entry]bool{}, map[string]bool{}
	for node, out := range o.said {
		if (out.Exit == 2) != out.Left.Any() || out.Exit == 2 && len(out.Unrepaired) == 0 && out.Left.Handoffs == 0 {
			o.wrong("node %d: exit status %d, left %+v, %d entries in the list", node, out.Exit, out.Left, len(out.Unrepaired))
		}
		for _, u := range out.Unrepaired {
			_, target, _ := strings.Cut(u.Target, "/")
			switch obj := o.byHash[u.Hash]; {
			case u.Hash == "":
				partitions[fmt.Sprintf("%d/%d/%s", u.Policy, u.Partition, u.Device)] = true
			case obj == nil:
				o.wrong("node %d: %s is listed as left, and there is no such object", node, u.Hash)
			default:
				listed[entry{u.Hash, target}] = true
				if quiet && o.complete(obj, is[obj], target) {
					o.wrong("node %d: %s for %s is listed as left (%s), and %s lacks nothing", node, obj.name, target, u.Reason, target)
				}
			}
		}
	}
	for _, obj := range o.w.objects {
		for _, miss := range o.promised(obj, was[obj]) {
			if listed[entry{obj.hash, miss.target}] || partitions[fmt.Sprintf("%d/%d/%s", obj.Policy.Index, obj.part, miss.partner)] {
				continue
			}
			if !slices.ContainsFunc(is[obj], func(f place) bool { return f.dev == miss.target && f.ext == ".data" && !f.at.Before(miss.at) }) {
				o.wrong("%s of %s is missing on %s, whose partner %s has it, and is not listed as left", obj.name, miss.at, miss.target, miss.partner)
			}
		}
	}
}

// complete says whether a device has the newest of all that there is of an object.
func (o *oracle) complete(obj *object, files []place, dev string) bool {
	newest := map[string]timestamp.Timestamp{}
	here := map[string]timestamp.Timestamp{}
	for _, f := range files {
		if f.ext == ".data" && !f.durable {
			continue
		}
		if f.at.After(newest[f.ext]) {
			newest[f.ext] = f.at
		}
		if f.dev == dev && f.at.After(here[f.ext]) && (f.ext != ".data" || f.index == obj.index(dev)) {
			here[f.ext] = f.at
		}
	}
	return maps.Equal(newest, here)
}

// missing is an archive that a pass has to bring, or to list.
type missing struct {
	target, partner string
	at              timestamp.Timestamp
}

// promised are those of an object that every round has to deal with: the device has nothing of
// that version nor anything newer, a partner has it, and neither has hashes that may be out of date.
func (o *oracle) promised(obj *object, files []place) (list []missing) {
	s := stateOf(files)
	at := s.decodable(obj)
	if at.IsZero() || !s.tombstone.IsZero() {
		return nil
	}
	for other := range s.indexes {
		if other.After(at) {
			return nil
		}
	}
	n := len(obj.primaries)
	known := func(dev string) bool {
		dir := o.w.partition(obj)
		d := o.w.draft[dev]
		return d != nil && d[path.Join(dir, "hashes.pkl")] == nil && d[obj.dir()] == nil
	}
	for i, p := range obj.primaries {
		target := p.Device.Device
		if !known(target) || slices.ContainsFunc(o.named(o.before, obj, target), func(h held) bool { return !h.at.Before(at) }) {
			continue
		}
		for _, j := range []int{(i + 1) % n, (i + n - 1) % n} {
			partner := obj.primaries[j].Device.Device
			if known(partner) && slices.ContainsFunc(files, func(f place) bool {
				return f.dev == partner && f.at == at && f.durable && f.index == obj.index(partner)
			}) {
				list = append(list, missing{target, partner, at})
				break
			}
		}
	}
	return list
}

// named are the object's files on a device by their names: damaged ones, too.
func (o *oracle) named(t tree, obj *object, dev string) (list []held) {
	for at := range t {
		if other, h := o.object(at); other == obj && strings.HasPrefix(at, dev+"/") {
			list = append(list, h)
		}
	}
	return list
}
