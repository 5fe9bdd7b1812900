package relink

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	seed  = flag.Uint64("seed", 1, "of the first random disks")
	seeds = flag.Int("seeds", 3, "how many random disks are relinked by Swift's program and ours")
)

// Whoever does a step, the disks are the same afterwards, and so is the exit status.
func TestRandomDisksAreRelinkedAsSwiftDoes(t *testing.T) {
	s := newStock(t)
	var done struct{ Seeds int }
	resume(t, "seeds.json", &done)
	for ; done.Seeds < *seeds && !t.Failed(); keep(t, "seeds.json", &done) {
		n := *seed + uint64(done.Seeds)
		if t.Run(fmt.Sprint(n), func(t *testing.T) { compare(t, s, n) }) {
			done.Seeds++
		}
	}
}

// compare has disks relinked and cleaned up by stock alone, by imping alone, and by one after the other.
func compare(t *testing.T, s *stock, seed uint64) {
	// All four see the same disks. At the first place stock works alone, at the second imping.
	sites := []*site{newSite(t, s), newSite(t, s), newSite(t, s), newSite(t, s)}
	ours := [][2]bool{{false, false}, {true, true}, {false, true}, {true, false}}
	g := newGrower(seed, time.Now(), sites...)
	g.grow(t)
	for i := range sites[1:] {
		same(t, "the start", sites[0], sites[i+1], whole)
	}
	atOnce := int(1 + seed%4)
	statuses := func(what, action string, words []string, ours func(i int) bool, view func(map[string]string) map[string]string) {
		t.Helper()
		var status [4]int
		var said [4]fmt.Stringer
		for i, h := range sites {
			if ours(i) {
				status[i], said[i] = h.run(t, action, narrow(t, words), func(c *Config) { c.PartitionsPerDevice = atOnce })
			} else {
				status[i] = h.runStock(t, action, words...)
			}
		}
		for i, h := range sites[1:] {
			if status[i+1] != status[0] {
				t.Errorf("%s at place %d: exit status %d, stock's is %d", what, i+1, status[i+1], status[0])
			}
			same(t, fmt.Sprintf("%s at place %d", what, i+1), sites[0], h, view)
			if t.Failed() {
				t.Fatalf("seed %d: imping said:\n%v", seed, said[i+1])
			}
		}
	}
	first := func(i int) bool { return ours[i][0] }
	second := func(i int) bool { return ours[i][1] }

	for _, h := range sites {
		h.step(t, "relink")
	}
	if g.chance(50) { // some partitions first: at places 2 and 3 another program goes on
		words := []string{"--partition", fmt.Sprint(g.parts[0]), "--partition", fmt.Sprint(g.parts[1])}
		statuses("the first part of relink", "relink", words, first, whole)
		statuses("the rest of relink", "relink", nil, second, whole)
	} else {
		statuses("relink", "relink", nil, first, whole)
	}
	g.meanwhile(t)
	ring := "cleanup"
	if g.chance(20) {
		ring = "cancelled"
		atOnce = 1 // two partitions may have files for one: which of them is first counts, then
	}
	for _, h := range sites {
		h.step(t, ring)
	}
	statuses(ring, "cleanup", nil, second, whole)
	statuses("cleanup once more", "cleanup", nil, first, lowerHalf)
}

// narrow takes "--partition" words.
func narrow(t *testing.T, words []string) func(*Config) {
	return func(c *Config) {
		for i := 0; i+1 < len(words); i += 2 {
			var n int
			_, err := fmt.Sscan(words[i+1], &n)
			check(t, err)
			c.Partitions = append(c.Partitions, n)
		}
	}
}

func whole(tree map[string]string) map[string]string { return tree }

func same(t *testing.T, what string, a, b *site, view func(map[string]string) map[string]string) {
	t.Helper()
	if diff := cmp.Diff(view(snapshot(t, a.devices)), view(snapshot(t, b.devices))); diff != "" {
		t.Errorf("%s: (-stock +this)\n%s", what, diff)
	}
}
