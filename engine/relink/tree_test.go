package relink

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imping/swift/objhash"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

// grower makes the same random disks at several places.
type grower struct {
	r        *rand.Rand
	now      time.Time
	sites    []*site
	parts    []int    // in which most objects are
	suffixes []string // that objects share
	objects  []object
	count    int
}

type object struct {
	device, dataDir string
	hash            string
	ec              bool
}

func newGrower(seed uint64, now time.Time, sites ...*site) *grower {
	g := &grower{r: rand.New(rand.NewPCG(seed, 9)), now: now, sites: sites}
	for range 3 + g.r.IntN(6) {
		g.parts = append(g.parts, g.r.IntN(1<<power))
	}
	g.parts = append(g.parts, 0, 1)
	for range 3 {
		g.suffixes = append(g.suffixes, fmt.Sprintf("%03x", g.r.IntN(4096)))
	}
	return g
}

func (g *grower) chance(percent int) bool { return g.r.IntN(100) < percent }

// hash gives an object's hash in a partition of the old power.
func (g *grower) hash(part int) string {
	var h [16]byte
	for i := range h {
		h[i] = byte(g.r.Uint32())
	}
	top := uint32(part)<<(32-power) | g.r.Uint32()>>power
	h[0], h[1], h[2], h[3] = byte(top>>24), byte(top>>16), byte(top>>8), byte(top)
	text := objhash.Hex(h)
	if g.chance(60) {
		text = text[:29] + g.suffixes[g.r.IntN(len(g.suffixes))]
	}
	return text
}

func partitionOf(hash string, power uint) int {
	h, err := objhash.Parse(hash)
	if err != nil {
		panic(err)
	}
	return objhash.Partition(h, power)
}

// each does something at every site.
func (g *grower) each(t testing.TB, do func(devices string) error) {
	t.Helper()
	for _, s := range g.sites {
		check(t, do(s.devices))
	}
}

// write makes a file of a content that is unlike all others. Times of its age are far from any limit.
func (g *grower) write(t testing.TB, path string, old bool) {
	t.Helper()
	g.count++
	content := fmt.Sprintf("file %d", g.count)
	at := g.now
	if old {
		at = at.Add(-time.Hour)
	}
	g.each(t, func(devices string) error {
		path := filepath.Join(devices, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
		return os.Chtimes(path, at, at)
	})
}

func (g *grower) link(t testing.TB, from, to string) {
	t.Helper()
	g.each(t, func(devices string) error {
		to := filepath.Join(devices, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.Link(filepath.Join(devices, from), to)
	})
}

func (o object) dir(part int) string {
	return filepath.Join(o.device, o.dataDir, strconv.Itoa(part), objhash.Suffix(o.hash), o.hash)
}

// name draws a file's name. Where times may be beyond the reclaim age there is no .durable: Swift stumbles over some of both.
func (g *grower) name(o object, reclaimable bool) string {
	at := timestamp.Timestamp{Raw: (g.now.Unix() - int64(1000*(1+g.r.IntN(4)))) * 100_000}
	if reclaimable && g.chance(25) {
		at.Raw -= 30 * 86400 * 100_000
	}
	switch n := g.r.IntN(20); {
	case n < 10 && o.ec:
		name := fmt.Sprintf("%s#%d", at.Internal(), g.r.IntN(6))
		if g.chance(70) {
			name += "#d"
		}
		return name + ".data"
	case n < 10:
		return at.Internal() + ".data"
	case n < 14:
		return at.Internal() + ".meta"
	case n < 18:
		return at.Internal() + ".ts"
	case n == 18 && o.ec && !reclaimable:
		return at.Internal() + ".durable"
	case n == 18:
		return "." + at.Internal() + ".data.AbCd12"
	default:
		return []string{"garbage", "x.data", at.Internal() + ".data.part"}[g.r.IntN(3)]
	}
}

// object makes an object in whatever state.
func (g *grower) object(t testing.TB, device, dataDir string) {
	o := object{device: device, dataDir: dataDir, ec: dataDir != "objects"}
	part := g.parts[g.r.IntN(len(g.parts))]
	o.hash = g.hash(part)
	g.objects = append(g.objects, o)
	old, new := o.dir(part), o.dir(partitionOf(o.hash, power+1))
	if g.chance(3) { // of an increase before, that was never cleaned up
		old = o.dir(partitionOf(o.hash, power-1))
	}
	if g.chance(3) { // where nothing would look for it
		old = o.dir(g.r.IntN(1 << power))
	}
	if old == new {
		return
	}
	if g.chance(4) {
		g.each(t, func(devices string) error { return os.MkdirAll(filepath.Join(devices, old), 0o755) })
	}
	if g.chance(4) {
		g.each(t, func(devices string) error { return os.MkdirAll(filepath.Join(devices, new), 0o755) })
	}
	names := map[string]bool{}
	reclaimable := g.chance(50)
	for range 1 + g.r.IntN(4) {
		names[g.name(o, reclaimable)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		aged := g.chance(30)
		switch n := g.r.IntN(100); {
		case n < 60:
			g.write(t, old+"/"+name, aged)
		case n < 80:
			g.write(t, old+"/"+name, aged)
			g.link(t, old+"/"+name, new+"/"+name)
		case n < 92:
			g.write(t, new+"/"+name, aged)
		default:
			g.write(t, old+"/"+name, aged)
			if n > 96 || strings.HasSuffix(name, ".ts") {
				g.write(t, new+"/"+name, aged)
			}
		}
	}
}

// foreign makes what Swift would not.
func (g *grower) foreign(t testing.TB, device, dataDir string) {
	for _, f := range []struct {
		percent int
		name    string
	}{
		{30, "auditor_status_ALL.json"}, {20, "stray"}, {15, fmt.Sprint(g.parts[0]) + "/stray"}, {10, fmt.Sprint(g.parts[1]) + "/abc"},
		{10, strconv.Itoa(g.parts[2]) + "/fff/" + strings.Repeat("0f", 15) + "0f"[:2]},
	} {
		if g.chance(f.percent) {
			path := filepath.Join(device, dataDir, f.name)
			if _, err := os.Lstat(filepath.Join(g.sites[0].devices, path)); err != nil {
				g.write(t, path, false)
			}
		}
	}
	for _, d := range []string{"none", fmt.Sprint(g.r.IntN(1 << power)), fmt.Sprintf("%d/%s", g.r.IntN(1<<power), g.suffixes[0]), fmt.Sprint(1<<power + g.r.IntN(1<<power))} {
		if g.chance(15) {
			g.each(t, func(devices string) error { return os.MkdirAll(filepath.Join(devices, device, dataDir, d), 0o755) })
		}
	}
}

func (g *grower) grow(t testing.TB) {
	t.Helper()
	for _, device := range []string{"sda", "sdb"} {
		g.each(t, func(devices string) error { return os.MkdirAll(filepath.Join(devices, device), 0o755) })
		for _, dataDir := range []string{"objects", "objects-1"} {
			if g.chance(10) {
				continue
			}
			for range 10 + g.r.IntN(30) {
				g.object(t, device, dataDir)
			}
			g.foreign(t, device, dataDir)
		}
	}
	if g.chance(50) {
		for _, s := range g.sites {
			s.stock.ask("hash", s.devices)
		}
	}
}

// meanwhile is what clients do between relinking and cleanup: in the new place, or in both.
func (g *grower) meanwhile(t testing.TB) {
	for _, o := range g.objects {
		if !g.chance(15) {
			continue
		}
		new := o.dir(partitionOf(o.hash, power+1))
		name := timestamp.Timestamp{Raw: (g.now.Unix() - 500) * 100_000}.Internal() + []string{".ts", ".meta"}[g.r.IntN(2)]
		if g.chance(50) {
			g.each(t, func(devices string) error { return os.RemoveAll(filepath.Join(devices, new)) })
			continue
		}
		if _, err := os.Lstat(filepath.Join(g.sites[0].devices, new, name)); err != nil {
			g.write(t, new+"/"+name, false)
		}
	}
}

// snapshot tells all that is in a folder of devices: of a file its content and all its names, so that links are told from copies;
// of Swift's own files what they mean. Where a partition has no suffix any more but holds what is foreign, Swift removes the files
// around its hashes, and imping does not: hashes of nothing are left out.
func snapshot(t testing.TB, devices string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	names := map[uint64][]string{}
	check(t, filepath.WalkDir(devices, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, base := strings.TrimPrefix(path, devices+"/"), filepath.Base(path)
		if path == devices {
			return nil
		}
		if d.IsDir() {
			tree[at] = "directory"
			return nil
		}
		if strings.HasPrefix(base, ".lock") {
			return nil // who took it last leaves it
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch {
		case base == "hashes.pkl":
			f, err := suffix.DecodeFile(data)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("valid %v", f.Valid)
			for _, s := range slices.Sorted(maps.Keys(f.Hashes)) {
				e := f.Hashes[s]
				if e == nil {
					text += " " + s + " unknown"
				} else {
					text += fmt.Sprintf(" %s %+v", s, *e)
				}
			}
			if len(f.Hashes) > 0 {
				tree[at] = text
			}
		case base == "hashes.invalid":
			// The file in an object directory's place goes to quarantine when its suffix is hashed, which invalidates the suffix once
			// more; whether that is looked at again is a matter of when.
			lines := slices.DeleteFunc(strings.Fields(string(data)), func(s string) bool { return s == "fff" })
			slices.Sort(lines)
			if len(lines) > 0 {
				tree[at] = strings.Join(slices.Compact(lines), " ")
			}
		case strings.HasPrefix(base, "relink.") && strings.HasSuffix(base, ".json"):
			var v any
			if err := json.Unmarshal(data, &v); err != nil {
				return err
			}
			text, _ := json.Marshal(v) // keys sorted
			tree[at] = string(text)
		case strings.HasPrefix(base, ".relink."):
		default:
			info, err := d.Info()
			if err != nil {
				return err
			}
			ino := info.Sys().(*syscall.Stat_t).Ino
			names[ino] = append(names[ino], at)
			tree[at] = fmt.Sprintf("%x", md5.Sum(data))
		}
		return nil
	}))
	for _, all := range names {
		for _, name := range all {
			tree[name] += " " + strings.Join(all, " ")
		}
	}
	return tree
}

// lowerHalf is what there is to see where a cleanup was begun and goes on: Swift forgets then which partitions are new ones, and visits
// the upper half, too, where nothing is to be done but hashing (which removes what is obsolete, or empty).
func lowerHalf(tree map[string]string) map[string]string {
	lower := map[string]string{}
	for at, what := range tree {
		words := strings.Split(at, "/")
		if len(words) >= 3 {
			if part, _ := strconv.Atoi(words[2]); part >= 1<<power {
				continue
			}
		}
		if strings.HasSuffix(at, ".json") && len(words) == 2 {
			var s state
			if json.Unmarshal([]byte(what), &s) == nil {
				s.PrevPartPower = nil
				maps.DeleteFunc(s.Done, func(part string, _ bool) bool {
					n, err := strconv.Atoi(part)
					return err == nil && n >= 1<<power
				})
				text, _ := json.Marshal(s)
				what = string(text)
			}
		}
		lower[at] = what
	}
	return lower
}
