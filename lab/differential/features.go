package differential

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"imping/swift/timestamp"
)

// Feature is a way in which a cluster can be broken, by name.
type Feature string

// way breaks one object, or what is around it. False: there was nothing to break.
type way struct {
	Feature
	early bool // before all others: it is about what was before
	apply func(w *world, o *object, r *rand.Rand) bool
}

// loose is how many archives an object can lose.
func (o *object) spare() int { return o.Policy.Parity }

func (o *object) handoff(r *rand.Rand) string {
	return o.handoffs[r.IntN(len(o.handoffs))].Device.Device
}

// rename changes the names of an object's archives on some devices.
func renameOn(w *world, o *object, devs []string, other func(string) string) bool {
	done := false
	for _, dev := range devs {
		done = w.rename(o, dev, other) || done
	}
	return done
}

func notDurable(name string) string { return strings.Replace(name, "#d.data", ".data", 1) }

// long is far longer than the reclaim age.
const long = 20 * 24 * time.Hour

func (w *world) partition(o *object) string { return path.Dir(path.Dir(o.dir())) }

// spoil damages an archive of the object.
func (w *world) spoil(o *object, r *rand.Rand, damage func(l *leaf) *leaf) bool {
	devs := some(r, w.holders(o, ".data"), 1)
	if len(devs) == 0 || o.spoiled { // one at a time: what is decodable is to stay so
		return false
	}
	for _, f := range w.files(o, devs[0]) {
		name := path.Join(o.dir(), f)
		if l := w.draft[devs[0]][name]; strings.HasSuffix(f, ".data") && len(l.body) > 80 {
			w.draft[devs[0]][name] = damage(l)
			o.spoiled = true
			return true
		}
	}
	return false
}

var ways = []way{
	{Feature: "hashes.pkl of what was before", early: true, apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.keepHashes(o, some(r, o.primaryDevices(), 2))
	}},
	{Feature: "archives lost", apply: func(w *world, o *object, r *rand.Rand) bool {
		lost := some(r, w.holders(o, ""), o.spare())
		for _, dev := range lost {
			w.clear(o, dev)
		}
		return len(lost) > 0
	}},
	{Feature: "too many archives lost", apply: func(w *world, o *object, r *rand.Rand) bool {
		left := 1 + r.IntN(o.Policy.Data-1)
		held := w.holders(o, "")
		r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		for _, dev := range held[min(left, len(held)):] {
			w.clear(o, dev)
		}
		return len(held) > left
	}},
	{Feature: "device lost", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] || len(w.gone) > 1 {
			return false
		}
		w.gone[dev], w.draft[dev] = true, map[string]*leaf{}
		return true
	}},
	{Feature: "device not mounted", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] || len(w.gone) > 0 {
			return false
		}
		w.gone[dev], w.draft[dev] = true, nil
		return true
	}},
	{Feature: "partition lost", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, w.holders(o, ""), 1)
		if dev == nil {
			return false
		}
		w.removeUnder(dev[0], w.partition(o))
		return true
	}},
	{Feature: "archive corrupt", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.spoil(o, r, func(l *leaf) *leaf {
			c := *l
			c.body = slices.Clone(l.body)
			c.body[80+r.IntN(len(c.body)-80)] ^= 1 << r.IntN(8)
			return &c
		})
	}},
	{Feature: "archive truncated", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.spoil(o, r, func(l *leaf) *leaf {
			c := *l
			c.body = l.body[:r.IntN(len(l.body))]
			return &c
		})
	}},
	{Feature: "metadata corrupt", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.spoil(o, r, func(l *leaf) *leaf {
			c := *l
			c.checksum = "0123456789abcdef0123456789abcdef"
			return &c
		})
	}},
	{Feature: "metadata lost", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.spoil(o, r, func(l *leaf) *leaf {
			c := *l
			c.raw = nil
			return &c
		})
	}},
	{Feature: "commit missed", apply: func(w *world, o *object, r *rand.Rand) bool {
		return renameOn(w, o, some(r, w.holders(o, "#d.data"), 2), notDurable)
	}},
	{Feature: "never committed", apply: func(w *world, o *object, r *rand.Rand) bool {
		return renameOn(w, o, w.holders(o, "#d.data"), notDurable)
	}},
	{Feature: "newer, not durable", apply: func(w *world, o *object, r *rand.Rand) bool {
		v := w.again(o, r)
		for _, dev := range some(r, o.primaryDevices(), len(o.primaries)) {
			w.put(o, v, dev, o.index(dev), false)
		}
		return true
	}},
	{Feature: "older, not durable, past reclaim age", apply: func(w *world, o *object, r *rand.Rand) bool {
		v := w.versionAt(o, r, o.earlier(long))
		for _, dev := range some(r, o.primaryDevices(), 2) {
			w.put(o, v, dev, o.index(dev), false)
		}
		return true
	}},
	{Feature: "overwriting missed", apply: func(w *world, o *object, r *rand.Rand) bool {
		missed := map[string]bool{}
		for _, dev := range some(r, o.primaryDevices(), o.spare()) {
			missed[dev] = true
		}
		w.putAll(o, w.again(o, r), missed)
		return true
	}},
	{Feature: "overwriting half done", apply: func(w *world, o *object, r *rand.Rand) bool {
		v := w.again(o, r) // durable on so many that nobody knows which is to stay
		for _, dev := range some(r, o.primaryDevices(), len(o.primaries)) {
			w.clear(o, dev)
			w.put(o, v, dev, o.index(dev), true)
		}
		return true
	}},
	{Feature: "older version beside", apply: func(w *world, o *object, r *rand.Rand) bool {
		v := w.versionAt(o, r, o.earlier(time.Hour))
		for _, dev := range some(r, o.primaryDevices(), 3) {
			w.put(o, v, dev, o.index(dev), true)
		}
		return true
	}},
	{Feature: "deletion missed", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		got := some(r, o.primaryDevices(), len(o.primaries))
		for _, dev := range got {
			w.clear(o, dev)
			w.tombstone(o, dev, at)
		}
		return true
	}},
	{Feature: "stale tombstone", apply: func(w *world, o *object, r *rand.Rand) bool {
		for _, dev := range some(r, o.primaryDevices(), 3) {
			w.tombstone(o, dev, o.born.Add(-time.Minute))
		}
		return true
	}},
	{Feature: "tombstone past reclaim age", apply: func(w *world, o *object, r *rand.Rand) bool {
		for _, dev := range some(r, o.primaryDevices(), 3) {
			w.clear(o, dev)
			w.tombstone(o, dev, o.born.Add(-long))
		}
		return true
	}},
	{Feature: "tombstone everywhere", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		for _, dev := range o.primaryDevices() {
			w.clear(o, dev)
			w.tombstone(o, dev, at)
		}
		return true
	}},
	{Feature: ".meta everywhere", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		for _, dev := range w.holders(o, ".data") {
			w.meta(o, dev, at, time.Time{}, "everywhere")
		}
		return true
	}},
	{Feature: ".meta missed", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		some := some(r, w.holders(o, ".data"), len(o.primaries)-1)
		for _, dev := range some {
			w.meta(o, dev, at, time.Time{}, "missed")
		}
		return len(some) > 0
	}},
	{Feature: ".meta older elsewhere", apply: func(w *world, o *object, r *rand.Rand) bool {
		older, newer := o.later(), o.later()
		held := w.holders(o, ".data")
		for i, dev := range held {
			if r.IntN(2) == 0 && i > 0 {
				w.meta(o, dev, newer, time.Time{}, "newer")
			} else {
				w.meta(o, dev, older, time.Time{}, "older")
			}
		}
		return len(held) > 0
	}},
	{Feature: ".meta with content type", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		some := some(r, w.holders(o, ".data"), len(o.primaries))
		for _, dev := range some {
			w.meta(o, dev, at, at, "typed")
		}
		return len(some) > 0
	}},
	{Feature: ".meta with older content type", apply: func(w *world, o *object, r *rand.Rand) bool {
		typed, at := o.later(), o.later()
		some := some(r, w.holders(o, ".data"), len(o.primaries))
		for _, dev := range some {
			w.meta(o, dev, at, typed, "typed-before")
		}
		return len(some) > 0
	}},
	{Feature: ".meta older than the data", apply: func(w *world, o *object, r *rand.Rand) bool {
		some := some(r, w.holders(o, ".data"), 2)
		for _, dev := range some {
			w.meta(o, dev, o.born.Add(-time.Minute), time.Time{}, "obsolete")
		}
		return len(some) > 0
	}},
	{Feature: ".meta alone", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		if r.IntN(2) == 0 {
			at = o.born.Add(-long)
		}
		for _, dev := range some(r, o.primaryDevices(), 2) {
			w.clear(o, dev)
			w.meta(o, dev, at, time.Time{}, "alone")
		}
		return true
	}},
	{Feature: ".durable", apply: func(w *world, o *object, r *rand.Rand) bool {
		done := false
		for _, dev := range some(r, w.holders(o, "#d.data"), len(o.primaries)) {
			for _, f := range w.files(o, dev) {
				if at, _, ok := strings.Cut(f, "#"); ok && strings.HasSuffix(f, "#d.data") {
					w.rename(o, dev, func(name string) string {
						if name == f {
							return notDurable(name)
						}
						return name
					})
					w.draft[dev][path.Join(o.dir(), at+".durable")] = &leaf{written: o.born}
					done = true
				}
			}
		}
		return done
	}},
	{Feature: ".durable alone", apply: func(w *world, o *object, r *rand.Rand) bool {
		at := o.later()
		if r.IntN(2) == 0 {
			at = o.born.Add(-long)
		}
		for _, dev := range some(r, o.primaryDevices(), 2) {
			if !w.gone[dev] {
				w.clear(o, dev)
				w.draft[dev][path.Join(o.dir(), timestamp.FromTime(at).Internal()+".durable")] = &leaf{written: at}
			}
		}
		return true
	}},
	{Feature: "empty object folder", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.emptyFolder(o, r, o.dir())
	}},
	{Feature: "empty suffix folder", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.emptyFolder(o, r, path.Join(w.partition(o), fmt.Sprintf("%03x", r.IntN(1<<12))))
	}},
	{Feature: "empty partition", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.removeUnder(dev, w.partition(o))
		w.draft[dev][w.partition(o)] = &leaf{dir: true}
		return true
	}},
	{Feature: "no folder of objects", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if len(w.gone) > 0 {
			return false
		}
		w.removeUnder(dev, o.Policy.DataDir())
		return true
	}},
	{Feature: "strange file in an object folder", apply: func(w *world, o *object, r *rand.Rand) bool {
		devs := some(r, w.holders(o, ""), 1)
		names := []string{"strange", "strange.data", o.newest().at.Internal() + ".data", o.newest().at.Internal() + "#x#d.data", o.newest().at.Internal() + ".tmp"}
		for _, dev := range devs {
			w.draft[dev][path.Join(o.dir(), names[r.IntN(len(names))])] = &leaf{body: []byte("strange"), written: o.born}
		}
		return len(devs) > 0
	}},
	{Feature: "bad fragment index", apply: func(w *world, o *object, r *rand.Rand) bool {
		devs := some(r, w.holders(o, ".data"), 1)
		v := o.newest()
		for _, dev := range devs {
			w.draft[dev][path.Join(o.dir(), dataName(v.at, []int{6, 14, 99}[r.IntN(3)], true))] = &leaf{body: v.archives[0], raw: v.raw[0], written: o.born}
		}
		return len(devs) > 0
	}},
	{Feature: "file in place of an object folder", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.clear(o, dev)
		w.draft[dev][o.dir()] = &leaf{body: []byte("strange"), written: o.born}
		return true
	}},
	{Feature: "strange name in a partition", apply: func(w *world, o *object, r *rand.Rand) bool {
		devs := some(r, w.holders(o, ""), 1)
		for _, dev := range devs {
			name := []string{"strange", "xyz", "0123"}[r.IntN(3)]
			w.draft[dev][path.Join(w.partition(o), name)] = &leaf{dir: r.IntN(2) == 0, written: o.born}
		}
		return len(devs) > 0
	}},
	{Feature: "strange name beside partitions", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.draft[dev][path.Join(o.Policy.DataDir(), []string{"strange", "12x", "lost+found/some/file"}[r.IntN(3)])] = &leaf{body: []byte("strange"), written: o.born}
		return true
	}},
	{Feature: "auditor's status", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.draft[dev][path.Join(o.Policy.DataDir(), "auditor_status_ALL.json")] = &leaf{body: []byte("{}"), written: o.born}
		return true
	}},
	{Feature: "temporary files", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.draft[dev][path.Join(o.Policy.TmpDir(), "old")] = &leaf{body: []byte("old"), written: w.now.Add(-long)}
		w.draft[dev][path.Join(o.Policy.TmpDir(), "new")] = &leaf{body: []byte("new"), written: w.now.Add(-time.Minute)}
		return true
	}},
	{Feature: "hashes.invalid", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.draft[dev][path.Join(w.partition(o), "hashes.invalid")] = &leaf{body: []byte(path.Base(path.Dir(o.dir())) + "\nfff\n")}
		return true
	}},
	{Feature: "hashes.pkl corrupt", apply: func(w *world, o *object, r *rand.Rand) bool {
		dev := some(r, o.primaryDevices(), 1)[0]
		if w.gone[dev] {
			return false
		}
		w.draft[dev][path.Join(w.partition(o), "hashes.pkl")] = &leaf{body: []byte("no pickle")}
		return true
	}},

	{Feature: "archive on a handoff", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.misplace(o, r, ".data", false)
	}},
	{Feature: "archive on a handoff and at home", apply: func(w *world, o *object, r *rand.Rand) bool {
		return w.misplace(o, r, ".data", true)
	}},
	{Feature: "tombstone on a handoff", apply: func(w *world, o *object, r *rand.Rand) bool {
		if at := o.later(); len(w.holders(o, ".ts")) == 0 {
			for _, dev := range some(r, o.primaryDevices(), len(o.primaries)) {
				w.clear(o, dev)
				w.tombstone(o, dev, at)
			}
		}
		return w.misplace(o, r, ".ts", r.IntN(2) == 0)
	}},
	{Feature: ".meta on a handoff", apply: func(w *world, o *object, r *rand.Rand) bool {
		if at := o.later(); len(w.holders(o, ".meta")) == 0 {
			for _, dev := range some(r, w.holders(o, ".data"), len(o.primaries)) {
				w.meta(o, dev, at, time.Time{}, "misplaced")
			}
		}
		return w.misplace(o, r, ".meta", r.IntN(2) == 0)
	}},
	{Feature: "all tombstones on handoffs", apply: func(w *world, o *object, r *rand.Rand) bool {
		to, at := o.handoff(r), o.later()
		if w.gone[to] {
			return false
		}
		w.clear(o, to)
		w.tombstone(o, to, at)
		return true
	}},
	{Feature: "newer .meta on a handoff", apply: func(w *world, o *object, r *rand.Rand) bool {
		to := o.handoff(r)
		if !w.moveSome(o, r, to, ".data", true) {
			return false
		}
		w.meta(o, to, o.later(), time.Time{}, "handoff")
		return true
	}},
	{Feature: "not durable on a handoff", apply: func(w *world, o *object, r *rand.Rand) bool {
		to := o.handoff(r)
		v := o.newest()
		if r.IntN(2) == 0 {
			v = w.again(o, r)
		}
		w.put(o, v, to, r.IntN(o.code.N()), false)
		return !w.gone[to]
	}},
	{Feature: "stale version on a handoff", apply: func(w *world, o *object, r *rand.Rand) bool {
		v := w.versionAt(o, r, o.earlier(time.Hour))
		to := o.handoff(r)
		w.put(o, v, to, r.IntN(o.code.N()), true)
		return !w.gone[to]
	}},
	{Feature: "newest version on handoffs only", apply: func(w *world, o *object, r *rand.Rand) bool {
		v := w.again(o, r)
		first := r.IntN(o.code.N())
		for i := range o.Policy.Data {
			w.put(o, v, o.handoffs[i%len(o.handoffs)].Device.Device, (first+i)%o.code.N(), true)
		}
		return true
	}},
	{Feature: "many indexes in one folder", apply: func(w *world, o *object, r *rand.Rand) bool {
		to := o.handoff(r)
		if r.IntN(2) == 0 {
			to = some(r, o.primaryDevices(), 1)[0]
		}
		for range 2 + r.IntN(2) {
			w.put(o, o.newest(), to, r.IntN(o.code.N()), true)
		}
		return !w.gone[to]
	}},
	{Feature: "archives swapped", apply: func(w *world, o *object, r *rand.Rand) bool {
		held := w.holders(o, ".data")
		if len(held) < 2 {
			return false
		}
		r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		a, b := held[0], held[1]
		for _, f := range append(w.files(o, a), w.files(o, b)...) {
			name := path.Join(o.dir(), f)
			w.draft[a][name], w.draft[b][name] = w.draft[b][name], w.draft[a][name]
			for _, dev := range []string{a, b} {
				if w.draft[dev][name] == nil {
					delete(w.draft[dev], name)
				}
			}
		}
		return true
	}},
	{Feature: "partition rebalanced", apply: func(w *world, o *object, r *rand.Rand) bool {
		from, to := some(r, o.primaryDevices(), 1)[0], o.handoff(r)
		if w.gone[from] || w.gone[to] {
			return false
		}
		moved := false
		for name, l := range w.draft[from] {
			if strings.HasPrefix(name, w.partition(o)+"/") {
				w.draft[to][name], moved = l, true
			}
		}
		w.removeUnder(from, w.partition(o))
		return moved
	}},
}

// moveSome moves what one primary has of the object, if it has such a file, or copies it.
func (w *world) moveSome(o *object, r *rand.Rand, to, end string, keep bool) bool {
	from := some(r, w.holders(o, end), 1)
	return from != nil && from[0] != to && w.move(o, from[0], to, keep)
}

func (w *world) misplace(o *object, r *rand.Rand, end string, keep bool) bool {
	return w.moveSome(o, r, o.handoff(r), end, keep)
}

func (w *world) emptyFolder(o *object, r *rand.Rand, folder string) bool {
	dev := some(r, o.primaryDevices(), 1)[0]
	if w.gone[dev] {
		return false
	}
	w.removeUnder(dev, folder)
	w.draft[dev][folder] = &leaf{dir: true}
	return true
}

// again is one more version, newer than all that was.
func (w *world) again(o *object, r *rand.Rand) *version { return w.versionAt(o, r, o.later()) }

func (w *world) versionAt(o *object, r *rand.Rand, at time.Time) *version {
	size := o.newest().size // mostly: versions must not be mixed up that only times tell apart
	if r.IntN(3) == 0 {
		size = sizes[r.IntN(len(sizes))]
	}
	v := w.newVersion(o, r, size, at, map[string]string{"X-Object-Meta-Plume": fmt.Sprint(r.IntN(1000))})
	o.versions = append(o.versions, v)
	slices.SortFunc(o.versions, func(a, b *version) int { return a.at.Compare(b.at) })
	return v
}
