package ring

import (
	_ "embed"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imping/lab/oracle"
	"imping/swift/objhash"
)

// swiftRings writes random rings into a folder and tells what Swift's Ring makes of them.
//
//go:embed testdata/rings.py
var swiftRings string

type swiftRing struct {
	Path      string
	Parts     int
	Replicas  float64
	PartPower uint   `json:"part_power"`
	NextPower *int   `json:"next_part_power"`
	Version   *int64 `json:"version"`
	IDBytes   int    `json:"dev_id_bytes"`
	DevCount  int    `json:"dev_count"`
	Devs      map[int]*swiftDevice
	Object    [3]string
	HashPart  int              `json:"hash_part"`
	Nodes     map[int][][2]int // partition -> device id, index
	Handoffs  map[int][][2]int // partition -> device id, handoff_index
}

type swiftDevice struct {
	ID, Region, Zone int
	Weight           float64
	IP               string
	Port             int
	ReplicationIP    string `json:"replication_ip"`
	ReplicationPort  int    `json:"replication_port"`
	Device, Meta     string
}

func TestNodesAndHandoffsAreSwiftsOnRandomRings(t *testing.T) {
	folder := t.TempDir()
	var answers []swiftRing
	oracle.Ask(t, swiftRings, map[string]any{"folder": folder, "seed": 1, "built": 200, "thrown": 300, "large": 3}, &answers)
	handoffs := checkRings(t, answers)
	if len(answers) != 503 || handoffs < 10000 {
		t.Errorf("%d rings with %d handoffs: the test no longer tests", len(answers), handoffs)
	}
}

// checkRings compares every ring with what Swift made of it, and counts the handoffs.
func checkRings(t *testing.T, answers []swiftRing) (handoffs int) {
	t.Helper()
	for i, want := range answers {
		r, err := Load(want.Path)
		if err != nil {
			t.Errorf("ring %d: %v", i, err)
			continue
		}
		checkPlainValues(t, r, &want)
		for part, nodes := range want.Nodes {
			got := r.PartNodes(part)
			if plain := pairs(t, r, got, false); !slices.Equal(plain, nodes) {
				t.Errorf("ring %d, partition %d of %d: nodes %v, Swift: %v", i, part, want.Parts, plain, nodes)
			}
		}
		for part, nodes := range want.Handoffs {
			seq := r.MoreNodes(part)
			got := slices.Collect(seq)
			if plain := pairs(t, r, got, true); !slices.Equal(plain, nodes) {
				t.Errorf("ring %d, partition %d of %d: handoffs %v, Swift: %v", i, part, want.Parts, plain, nodes)
			}
			if again := slices.Collect(seq); !slices.Equal(again, got) {
				t.Errorf("ring %d, partition %d: a second range over the handoffs gives others", i, part)
			}
			handoffs += len(got)
		}
	}
	return handoffs
}

func checkPlainValues(t *testing.T, r *Ring, want *swiftRing) {
	t.Helper()
	if r.Partitions() != want.Parts || r.Replicas() != want.Replicas || r.PartPower != want.PartPower || r.PartShift != 32-want.PartPower {
		t.Errorf("%s: %d partitions, %v replicas, power %d, shift %d; Swift: %d, %v, %d", r.Path, r.Partitions(), r.Replicas(), r.PartPower, r.PartShift, want.Parts, want.Replicas, want.PartPower)
	}
	next, version := -1, int64(0)
	if want.NextPower != nil {
		next = *want.NextPower
	}
	if want.Version != nil {
		version = *want.Version
	}
	if r.NextPartPower != next || r.Version != version {
		t.Errorf("%s: next power %d, version %d; Swift: %d, %d", r.Path, r.NextPartPower, r.Version, next, version)
	}
	idBytes := 2
	if _, wide := r.rows.(rows[uint32]); wide {
		idBytes = 4
	}
	if idBytes != want.IDBytes {
		t.Errorf("%s: ids of %d bytes, Swift: %d", r.Path, idBytes, want.IDBytes)
	}
	if len(r.Devs) != want.DevCount {
		t.Errorf("%s: %d devices, Swift: %d", r.Path, len(r.Devs), want.DevCount)
		return
	}
	for id, d := range r.Devs {
		if w := want.Devs[id]; (d == nil) != (w == nil) || d != nil && *d != Device(*w) {
			t.Errorf("%s: device %d: %+v, Swift: %+v", r.Path, id, d, w)
		}
	}
	h := objhash.Hasher{Suffix: []byte("changeme")}
	o := want.Object
	if part := r.Partition(h.Path(o[0], o[1], o[2])); part != want.HashPart {
		t.Errorf("%s: %q in partition %d, Swift: %d", r.Path, o, part, want.HashPart)
	}
}

func pairs(t *testing.T, r *Ring, nodes []Node, handoff bool) [][2]int {
	t.Helper()
	var plain [][2]int
	for _, n := range nodes {
		if n.Handoff != handoff || n.Device != r.Devs[n.ID] {
			t.Errorf("%s: node %+v is not in its role", r.Path, n)
		}
		plain = append(plain, [2]int{n.ID, n.Index})
	}
	return plain
}

func TestHandoffsAreFoundOnlyAsTheyAreAskedFor(t *testing.T) {
	r := mustLoad(t, testRing{devs: 50, power: 12, rows: 3})
	n := 0
	for node := range r.MoreNodes(7) {
		if node.Index != n {
			t.Fatalf("handoff %d has index %d", n, node.Index)
		}
		if n++; n == 2 {
			break
		}
	}
	// One for the set of what was seen, a few for the nodes and the digest.
	if allocs := testing.AllocsPerRun(20, func() {
		for range r.MoreNodes(7) {
			break
		}
	}); allocs > 8 {
		t.Errorf("%v allocations for the first handoff", allocs)
	}
}

func TestNoNodesForPartitionsThatTheRingDoesNotHave(t *testing.T) {
	r := mustLoad(t, testRing{devs: 4, power: 3, rows: 2})
	for _, part := range []int{-1, 8, 1 << 40} {
		if nodes := r.PartNodes(part); nodes != nil {
			t.Errorf("partition %d: %v", part, nodes)
		}
		if n := len(slices.Collect(r.MoreNodes(part))); n != 4 {
			t.Errorf("partition %d: %d handoffs", part, n)
		}
	}
}

func TestRingIsGoroutineSafe(t *testing.T) {
	r := mustLoad(t, testRing{devs: 9, power: 5, rows: 3})
	want := slices.Collect(r.MoreNodes(3))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if got := slices.Collect(r.MoreNodes(3)); !slices.Equal(got, want) || len(r.PartNodes(3)) == 0 {
					t.Error("other nodes while others look")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestNamesOfRings(t *testing.T) {
	for index, want := range map[int]string{0: "object", 1: "object-1", 27: "object-27"} {
		if got := Name(index); got != want {
			t.Errorf("Name(%d) = %s", index, got)
		}
	}
}

func TestLocalDevicesAreThoseThatWerePicked(t *testing.T) {
	r := mustLoad(t, testRing{devs: 6, power: 3, rows: 2, removed: []int{5}})
	var ids []int
	for _, d := range r.LocalDevices(func(d *Device) bool { return d.ID%2 == 1 }) {
		ids = append(ids, d.ID)
	}
	if !slices.Equal(ids, []int{1, 3}) {
		t.Errorf("local devices %v", ids)
	}
}

func TestChangedSeesAnotherModificationTime(t *testing.T) {
	r := mustLoad(t, testRing{devs: 1, power: 1, rows: 1})
	if changed, err := r.Changed(); changed || err != nil {
		t.Errorf("Changed() = %v, %v at once", changed, err)
	}
	later := r.ModTime.Add(time.Second)
	if err := os.Chtimes(r.Path, later, later); err != nil {
		t.Fatal(err)
	}
	if changed, err := r.Changed(); !changed || err != nil {
		t.Errorf("Changed() = %v, %v", changed, err)
	}
	if err := os.Remove(r.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Changed(); err == nil || !strings.Contains(err.Error(), r.Path) {
		t.Errorf("Changed() without a file: %v", err)
	}
}

func BenchmarkLoad(b *testing.B) {
	path := testRing{devs: 500, power: 20, rows: 14}.write(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(path); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMoreNodes(b *testing.B) {
	r := mustLoad(b, testRing{devs: 500, power: 16, rows: 14})
	b.ReportAllocs()
	part := 0
	for b.Loop() {
		n := 0
		for range r.MoreNodes(part % r.Partitions()) {
			if n++; n == 14 {
				break
			}
		}
		part++
	}
}
