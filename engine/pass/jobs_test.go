package pass

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
	"imping/netfast/fake"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/suffix"
)

// Each block of testdata/jobs.txt is a partition on a device: a policy, by data and parity
// fragments and how often each is kept, the device's number, primaries being 0, 1, 2 and so
// on in the ring's order ("twice 2": number 2 has two of the places), and suffixes with
// the fragment indexes that hashes.pkl has for them: "-" is none but Python's None, "?" a suffix that
// could not be hashed. Behind the dashes stand the jobs. A sample is the first ones.
func TestJobs(t *testing.T) {
	path := filepath.Join("testdata", "jobs.txt")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(strings.TrimSpace(string(file)), "\n\n")
	for i, block := range blocks {
		in, want, _ := strings.Cut(block+"\n", "\n----\n")
		title, line, _ := strings.Cut(in, "\n")
		t.Run(strings.TrimPrefix(title, "# "), func(t *testing.T) {
			got := jobs(t, line)
			if got != strings.TrimSuffix(want, "\n") && !*rewrite {
				t.Errorf("%s\n----\n%s\n\nwant\n%s", in, got, want)
			}
			blocks[i] = in + "\n----\n" + got
		})
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(strings.Join(blocks, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func jobs(t *testing.T, line string) string {
	what, list, _ := strings.Cut(line, ":")
	words := strings.Fields(what)
	pol := &policy.Policy{Type: policy.ErasureCoding, Duplication: 1}
	if _, err := fmt.Sscanf(words[0], "%d+%dx%d", &pol.Data, &pol.Parity, &pol.Duplication); err != nil && pol.Parity == 0 {
		t.Fatalf("%q: %v", line, err)
	}
	dev, err := strconv.Atoi(words[len(words)-1])
	if err != nil {
		t.Fatal(err)
	}
	var nodes []ring.Node
	for i := range pol.UniqueFragments() * pol.Duplication {
		if words[1] != "twice" || words[2] != strconv.Itoa(i-1) {
			nodes = append(nodes, ring.Node{Device: &ring.Device{ID: i, Device: fmt.Sprint("sd", i)}, Index: len(nodes)})
		}
	}
	const sum = "0123456789abcdef0123456789abcdef"
	hashes := suffix.Hashes{}
	for _, word := range strings.Fields(list) {
		s, indexes, _ := strings.Cut(word, "=")
		hashes[s] = nil
		if indexes == "?" {
			continue
		}
		hashes[s] = &suffix.Entry{None: sum}
		for index := range strings.SplitSeq(strings.Trim(indexes, "-"), ",") {
			if n, err := strconv.Atoi(index); err == nil {
				hashes[s].Frags.Set(n, sum)
			}
		}
	}
	var out []string
	planned, bad := assign(pol, nodes, dev, hashes, first)
	for _, a := range planned {
		var to []string
		for _, n := range a.targets {
			to = append(to, n.Device.Device)
		}
		what := fmt.Sprintf("SYNC %d with %s", a.index, strings.Join(to, " "))
		if a.revert {
			what = fmt.Sprintf("REVERT %d of %s to %s", a.index, strings.Join(a.suffixes, " "), strings.Join(to, " "))
		}
		out = append(out, what)
	}
	for _, index := range slices.Sorted(maps.Keys(bad)) {
		out = append(out, fmt.Sprintf("bad index %d in %s", index, strings.Join(bad[index], " ")))
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, "\n")
}

func TestASampleIsOfDistinctNodes(t *testing.T) {
	var nodes []ring.Node
	for i := range 6 {
		nodes = append(nodes, ring.Node{Device: &ring.Device{ID: i}})
	}
	for n := range 7 {
		seen := map[int]bool{}
		for _, node := range pick(nodes, n) {
			seen[node.ID] = true
		}
		if len(seen) != n {
			t.Errorf("%d distinct nodes of %d", len(seen), n)
		}
	}
}

// A partner that has nothing of a partition under a new ring is about to get it by reverts.
func TestAPartitionThatMovedIsNotRebuiltAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.SyncDelay = time.Hour
	l.only(left, right)
	l.agree(far)
	o := l.object(0, "/a/c/o", single, left, right)
	p := l.object(0, "/a/c/p", single, left)
	disk := peers.Disk{Root: t.TempDir(), Device: "sda", Policy: l.pol, Hasher: hasher}
	disk.Put(t, 0, p, right, nil) // something is there, and this is missing
	hashes := l.hashes(disk)
	l.peers[right].Hashes(func(int, *fake.Conn) []byte { return peers.OK(hashes.Encode()) })
	l.want(l.run(bg), "rebuilt=1 left.partitions=1")
	l.received(right, o)
	if u := l.pass.Unrepaired(); len(u) != 1 || u[0].Target != l.peers[left].Addr+"/sd0" || !strings.Contains(u[0].Reason, "imping_sync_delay_after_part_move") {
		t.Errorf("listed %+v", u)
	}
	ring := filepath.Join(l.cfg.SwiftDir, "object-1.ring.gz")
	if err := os.Chtimes(ring, time.Now(), time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	l.agree(right)
	l.want(l.run(bg), "rebuilt=2")
	l.received(left, o, p)
}
