package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"imping/engine/pass"
	"imping/lab/real"
	"imping/lab/scenario"
	"imping/swift/recon"
	"imping/swift/ring"
)

// The tests of this package run this very program, under either of its names, in a real
// Swift cluster: with asProgram in its environment the test binary is imping.
const asProgram = "IMPING_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	if os.Geteuid() == 0 { // else only what needs no real cluster can run
		real.Enter()
	}
	status := m.Run()
	stopShared()
	os.Exit(status)
}

// stopShared stops the cluster of all tests; the next one that needs it starts another.
func stopShared() {
	if shared.cluster != nil {
		shared.cluster.Stop()
		os.RemoveAll(shared.root)
		shared.cluster = nil
		clear(ourServers)
	}
}

// lab is one cluster for all tests of the package, started by the first.
type lab struct {
	*real.Cluster
	*testing.T
	self  string // the program as imping
	swift string // the program as swift-object-reconstructor
}

var shared struct {
	cluster *real.Cluster
	root    string
}

// rarePolicies are of the other schemes that Debian's liberasurecode has.
var rarePolicies = []real.Policy{
	{Index: 6, Name: "isalc42", ECType: "isa_l_rs_cauchy", Data: 4, Parity: 2},
	{Index: 7, Name: "jvand42", ECType: "jerasure_rs_vand", Data: 4, Parity: 2},
	{Index: 8, Name: "jcauchy42", ECType: "jerasure_rs_cauchy", Data: 4, Parity: 2},
	{Index: 9, Name: "xor3", ECType: "flat_xor_hd_3", Data: 5, Parity: 5},
	{Index: 10, Name: "xor4", ECType: "flat_xor_hd_4", Data: 5, Parity: 5},
}

// usualPolicies are the erasure-code policies but those, by name.
var usualPolicies = []string{"isal42", "lec42", "isal104", "lec104", "isal42dup2"}

func rareNames() (names []string) {
	for _, p := range rarePolicies {
		names = append(names, p.Name)
	}
	return names
}

// startLab hands out the cluster, emptied. A failed test shows its logs.
func startLab(t *testing.T) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the lab; `make test` runs it")
	}
	if !real.Inside() {
		t.Fatal("the real cluster needs root")
	}
	if shared.cluster == nil {
		root, err := os.MkdirTemp("", "lab")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		shared.root = root
		if shared.cluster, err = real.Start(context.Background(), real.Options{
			Root: filepath.Join(root, "c"), User: "swift", ReplicationLockTimeout: 3, Policies: slices.Concat(real.DefaultPolicies(), []real.Policy{
				{Index: 5, Name: "isal42dup2", ECType: "isa_l_rs_vand", Data: 4, Parity: 2, Duplication: 2},
			}, rarePolicies),
		}); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Cluster: shared.cluster, T: t}
	for name, where := range map[string]*string{"imping": &l.self, swiftReconstructor: &l.swift} {
		*where = filepath.Join(shared.root, name)
		if err := os.Symlink(exe, *where); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.DumpLogs(os.Stderr)
		}
	})
	l.serveStock()
	l.empty()
	return l
}

// empty removes all objects from all devices: what other tests have left makes each pass longer.
func (l *lab) empty() {
	l.Helper()
	var group errgroup.Group
	for _, node := range l.Nodes() {
		for _, dev := range l.Devices(node) {
			group.Go(func() error { return scenario.Wipe(l, dev) })
		}
	}
	if err := group.Wait(); err != nil {
		l.Fatal(err)
	}
}

// with is the lab of a subtest.
func (l *lab) with(t *testing.T) *lab {
	return &lab{Cluster: l.Cluster, T: t, self: l.self, swift: l.swift}
}

// run runs the program and returns its exit status and output.
func (l *lab) run(program string, args ...string) (int, string) {
	l.Helper()
	var out bytes.Buffer
	argv := append([]string{"/usr/bin/env", asProgram + "=1", program}, args...)
	exit, _, err := l.Cluster.Run(l.Context(), &out, argv...)
	if err != nil {
		l.Fatalf("%v: %v\n%s", args, err, out.String())
	}
	if strings.Contains(out.String(), "panic:") || strings.Contains(out.String(), "DATA RACE") {
		l.Fatalf("%v:\n%s", args, out.String())
	}
	return exit, out.String()
}

// pass runs one pass of `imping reconstruct` on a node and returns its summary.
func (l *lab) pass(node int, args ...string) (int, summary) {
	l.Helper()
	return l.passWith(l.ReplicationConf(node), args...)
}

func (l *lab) passWith(conf string, args ...string) (int, summary) {
	l.Helper()
	exit, out := l.run(l.self, append([]string{"reconstruct", conf, "once", "--json"}, args...)...)
	var s summary
	i := strings.Index(out, "{\n")
	if i < 0 {
		l.Fatalf("no summary; exit status %d:\n%s", exit, out)
	}
	if err := json.Unmarshal([]byte(out[i:]), &s); err != nil {
		l.Fatalf("%v:\n%s", err, out)
	}
	return exit, s
}

func (l *lab) load(o scenario.LoadOptions) *scenario.Loaded {
	l.Helper()
	loaded, err := scenario.Load(l.Context(), l, o)
	if err != nil {
		l.Fatal(err)
	}
	return loaded
}

func (l *lab) snapshot(dev string) *scenario.Snapshot {
	l.Helper()
	saved, err := os.MkdirTemp(shared.root, "saved")
	if err != nil {
		l.Fatal(err)
	}
	s, err := scenario.TakeSnapshot(l, dev, saved)
	if err != nil {
		l.Fatal(err)
	}
	return s
}

func (l *lab) wipe(dev string) {
	l.Helper()
	if err := scenario.Wipe(l, dev); err != nil {
		l.Fatal(err)
	}
}

// same fails the test when the device is not as it was.
func (l *lab) same(before *scenario.Snapshot) {
	l.Helper()
	after, err := before.Retake()
	if err != nil {
		l.Fatal(err)
	}
	if report := scenario.Compare(before, after); !report.OK() {
		l.Errorf("%v", report)
	}
}

// logged returns the lines since mark that contain text.
func (l *lab) logged(mark int64, text string) []string {
	l.Helper()
	lines, err := l.Log(mark)
	if err != nil {
		l.Fatal(err)
	}
	return slices.DeleteFunc(lines, func(s string) bool { return !strings.Contains(s, text) })
}

func (l *lab) mark() int64 {
	l.Helper()
	m, err := l.Mark()
	if err != nil {
		l.Fatal(err)
	}
	return m
}

const (
	segment = 1 << 20 // of all policies of the lab
	wiped   = "sd5"
)

// The whole of it, in the daemon's place: the program is found under Swift's name, reads
// the node's own configuration, becomes Swift's user.
func TestAWipedDeviceComesBackByteForByte(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{
		Seed: 1, Policies: usualPolicies, Victim: wiped, Partitions: 4, Random: 2,
		Sizes: []int64{0, 1, segment - 1, segment, segment + 1, 5 << 20},
	})
	big := l.load(scenario.LoadOptions{Seed: 1, Policies: []string{"isal104"}, Victim: wiped, Sizes: []int64{100 << 20}, Kinds: []scenario.Kind{}})
	loaded.Objects = append(loaded.Objects, big.Objects...)
	rare := l.load(scenario.LoadOptions{
		Seed: 1, Policies: rareNames(), Victim: wiped, Partitions: 2, Sizes: []int64{0, 1, segment + 1}, Kinds: []scenario.Kind{scenario.Posted}})
	before := l.snapshot(wiped)
	l.wipe(wiped)
	mark := l.mark()
	for _, node := range l.Nodes() {
		if exit, out := l.run(l.swift, l.ReplicationConf(node), "once"); exit != 0 || out != "" {
			t.Fatalf("node %d: status %d, output %q", node, exit, out)
		}
	}
	l.same(before)
	for _, text := range []string{
		"Running object reconstructor in script mode.", "(100.00%) partitions reconstructed in ",
		"suffixes checked - 0.00% hashed, ", "Partition times: max ", "Object reconstruction complete (once). (",
		"Starting ", "Exited ",
	} {
		if len(l.logged(mark, text)) == 0 {
			t.Errorf("Swift's log line %q is not there", text)
		}
	}
	for _, node := range l.Nodes() {
		cache, err := recon.Load(filepath.Join(l.ReconPath(node), recon.ObjectFile))
		if err != nil || cache["object_reconstruction_last"] == nil || cache["object_reconstruction_time"] == nil {
			t.Errorf("node %d: recon cache %v, %v", node, cache, err)
		}
	}
	for _, obj := range rare.Objects {
		if strings.HasPrefix(obj.Policy.ECType, "flat_xor") {
			l.decodes(rare.Layout, obj) // the stock proxy can not: it asks liberasurecode, with any K archives
		} else {
			loaded.Objects = append(loaded.Objects, obj)
		}
	}
	if err := scenario.VerifyGETs(t.Context(), l, loaded); err != nil {
		t.Error(err)
	}
	if err := scenario.ProveStockAgrees(t.Context(), l, l.NodeOf(wiped)); err != nil {
		t.Error(err)
	}
	for _, node := range l.Nodes() {
		if exit, s := l.pass(node); exit != exitDone || s.Rebuilt != 0 || s.Synced != 0 || s.Left.Any() {
			t.Errorf("node %d: a second pass is not idle: status %d, %+v", node, exit, s)
		}
	}
}

// rule 10: receivers of four slots, one session per device, and seven nodes with eight jobs
// each: what is refused is tried again, and nothing is missing after one pass, but for what a
// receiver trips over.
func TestConcurrencyAboveTheReceiversLimitLosesNothing(t *testing.T) {
	l := startLab(t)
	sizes := []int64{3 << 20, 3<<20 + 1}
	for i := range int64(16) {
		sizes = append(sizes, 4000*i+1)
	}
	l.load(scenario.LoadOptions{Seed: 8, Policies: []string{"isal42", "isal104"}, Victim: wiped, Sizes: sizes, Kinds: []scenario.Kind{}})
	before := l.snapshot(wiped)
	l.wipe(wiped)
	mark := l.mark()
	var retries atomic.Int64
	tripped := make(chan string, len(l.Nodes())) // confs
	err := scenario.Rebuild(t.Context(), l, true, func(_ context.Context, node int) error {
		conf := l.confWith(l.ReplicationConf(node), fmt.Sprintf("eager-%d.conf", node), "object-reconstructor", "concurrency = 8")
		exit, s := l.passWith(conf)
		retries.Add(s.Retries)
		switch {
		case exit == exitLeft && s.Left == (pass.Left{Objects: s.Left.Objects, Partitions: s.Left.Partitions}):
			tripped <- conf
		case exit != exitDone:
			return fmt.Errorf("status %d: %+v", exit, s)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// Stock's receiver removes a suffix that is empty while it hashes, though it may be making one in it, and answers that PUT with 500:
	// the sender leaves what that session was about to its next pass.
	close(tripped)
	trips := l.logged(mark, "FileNotFoundError: [Errno 2] No such file or directory")
	trips = slices.DeleteFunc(trips, func(line string) bool { return !strings.Contains(line, "/"+wiped+"/objects") })
	if len(tripped) > len(trips) {
		t.Errorf("%d nodes have left something, and receivers have tripped %d times", len(tripped), len(trips))
	}
	for conf := range tripped {
		if exit, s := l.passWith(conf); exit != exitDone {
			t.Errorf("once more: status %d: %+v", exit, s)
		}
	}
	if retries.Load() == 0 {
		t.Error("no receiver has refused anything: the test has gone blind")
	}
	l.same(before)
}

// rule 9
func TestAnUnmountedDevicesFragmentsGoToHandoffs(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{
		Seed: 9, Policies: []string{"isal42"}, Victim: wiped, Sizes: []int64{1234, segment + 1}, Kinds: []scenario.Kind{}})
	path := l.DevicePath(wiped)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	mark := l.mark()
	for _, node := range l.Nodes() {
		if node == l.NodeOf(wiped) {
			continue
		}
		_, s := l.pass(node)
		for _, u := range s.Unrepaired {
			if !u.Revert { // the handoff would bring it there
				t.Errorf("node %d: what went to a handoff is not left: %+v", node, u)
			}
		}
	}
	if len(l.logged(mark, "responded as unmounted")) == 0 {
		t.Error("the log does not say that a device is not mounted")
	}
	astray := map[int]bool{} // nodes with something on handoffs
	for _, obj := range loaded.Objects {
		nodes := loaded.Layout.Primaries(obj)
		index := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == wiped })
		found := 0
		for _, node := range l.Nodes() {
			for _, dev := range l.Devices(node) {
				if slices.ContainsFunc(nodes, func(n ring.Node) bool { return n.Device.Device == dev }) {
					continue
				}
				names, err := filepath.Glob(filepath.Join(loaded.Layout.HashDir(obj, dev), fmt.Sprintf("*#%d#d.data", index)))
				if err != nil {
					t.Fatal(err)
				}
				if found += len(names); len(names) > 0 {
					astray[node] = true
				}
			}
		}
		if found != 1 {
			t.Errorf("fragment %d of %s lies on %d handoffs, want 1", index, obj.Name, found)
		}
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	// Stock takes what lies on handoffs home, and finds it there already.
	// On a busy machine one of its passes may leave some to the next, as in the field.
	var misplaced int64
	for round := 1; round <= 8; round++ {
		misplaced = 0
		for node := range astray {
			if _, err := l.StockReconstructor(t.Context(), node); err != nil {
				t.Fatal(err)
			}
		}
		clear(astray)
		for _, node := range l.Nodes() {
			_, s := l.pass(node)
			if s.Left.Handoffs > 0 {
				astray[node] = true
			}
			if misplaced += s.Left.Handoffs; s.Left.Objects+s.Left.Partitions+s.Left.Devices+s.Left.Policies > 0 {
				t.Errorf("afterwards node %d is not well: %+v", node, s)
			}
		}
		if misplaced == 0 {
			break
		}
	}
	if misplaced > 0 {
		t.Errorf("%d partitions still hold fragments that belong elsewhere", misplaced)
	}
}

// rules 4 and 5: whichever archive has rotted, the wiped one comes back right. Each case has an object
// of its own; what was quarantined comes back to all of them at the end.
func TestARottenSurvivorIsFoundAndTheObjectRebuiltFromOthers(t *testing.T) {
	l := startLab(t)
	type trouble struct {
		name       string
		local      bool
		loaded     *scenario.Loaded
		obj        *scenario.Object
		left, liar string
	}
	var cases []trouble
	before := map[string]*scenario.Snapshot{}
	for _, c := range []struct {
		name   string
		size   int64
		policy string
	}{
		{"one segment", 100_000, "isal42"},
		{"many segments", 5<<20 + 17, "isal104"},
		{"many segments, GF(2^16)", 5<<20 + 17, "lec42"},
	} {
		loaded := l.load(scenario.LoadOptions{
			Seed: 2, Policies: []string{c.policy}, Victim: wiped, Sizes: []int64{c.size, c.size}, Kinds: []scenario.Kind{}})
		if loaded.Layout.Partition(loaded.Objects[0]) == loaded.Layout.Partition(loaded.Objects[1]) {
			t.Fatalf("the objects of %s share a partition, and a pass over one would repair both", c.policy)
		}
		for i, where := range []string{"local", "remote"} {
			obj := loaded.Objects[i]
			nodes := loaded.Layout.Primaries(obj)
			at := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == wiped })
			left := nodes[(at-1+len(nodes))%len(nodes)].Device.Device
			// Data fragment 0 is read by every rebuild, unless it is one of the two.
			liar := left
			if where == "remote" {
				for _, n := range nodes {
					if liar = n.Device.Device; liar != left && liar != wiped {
						break
					}
				}
			}
			cases = append(cases, trouble{c.name + ", " + where, where == "local", loaded, obj, left, liar})
		}
	}
	for _, dev := range []string{wiped, cases[0].liar, cases[1].liar, cases[2].liar, cases[3].liar, cases[4].liar, cases[5].liar} {
		if before[dev] == nil {
			before[dev] = l.snapshot(dev)
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := l.with(t)
			archive, err := c.loaded.Layout.Archive(c.obj, c.liar)
			if err != nil {
				t.Fatal(err)
			}
			flip, err := scenario.FlipPayloadByte(archive, 3)
			if err != nil {
				t.Fatal(err)
			}
			l.lose(c.loaded, c.obj, wiped) // only this object's archive
			mark := l.mark()
			exit, s := l.pass(l.NodeOf(c.left), "-d", c.left, "-p", strconv.Itoa(c.loaded.Layout.Partition(c.obj)))
			if exit != exitDone || s.Rebuilt != 1 {
				t.Errorf("status %d, %+v", exit, s)
			}
			l.same(before[wiped])
			if len(l.logged(mark, "were excluded while it was rebuilt")) == 0 {
				t.Errorf("nobody noticed %v", flip)
			}
			if c.local && s.Quarantined != 1 {
				t.Errorf("%d local archives were quarantined, want 1", s.Quarantined)
			}
			// The rotten one is quarantined now, by us or by its server.
			if _, err := os.Stat(archive); err == nil {
				t.Errorf("%s is still in its place", archive)
			}
		})
	}
	// Partners bring back what was quarantined.
	for _, node := range l.Nodes() {
		l.pass(node)
	}
	for _, s := range before {
		l.same(s)
	}
}

// Beyond what the code can bear nothing is written; what is left is counted, listed and
// logged as stock logs it.
func TestWhatIsBeyondRepairIsCountedListedAndLogged(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{
		Seed: 6, Policies: []string{"isal42"}, Victim: wiped, Sizes: []int64{4321}, Kinds: []scenario.Kind{}})
	obj := loaded.Objects[0]
	nodes := loaded.Layout.Primaries(obj)
	var saved []*scenario.Snapshot
	lost := map[string]bool{}
	for i := range 3 {
		dev := nodes[i].Device.Device
		saved = append(saved, l.snapshot(dev))
		lost[dev] = true
		l.wipe(dev)
	}
	holder := nodes[3].Device.Device
	mark := l.mark()
	exit, s := l.pass(l.NodeOf(holder))
	if exit != exitLeft || s.Left.Objects == 0 {
		t.Errorf("status %d, %+v: objects without enough survivors are something left", exit, s)
	}
	for dev := range lost {
		if archive, err := loaded.Layout.Archive(obj, dev); err == nil {
			t.Errorf("%s was written from too few survivors", archive)
		}
	}
	if len(l.logged(mark, "Unable to get enough responses (3/4 from 3 ok responses) to reconstruct durable ")) == 0 {
		t.Error("Swift's log line is not there")
	}
	list, err := os.ReadFile(filepath.Join(l.ReconPath(l.NodeOf(holder)), pass.UnrepairedFile))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(list)) {
		var u pass.Unrepaired
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			t.Fatal(err)
		}
		if u.Object == "/"+l.Account()+"/"+obj.Container+"/"+obj.Name {
			found++
			if u.Have != 3 || u.Need != 4 || len(u.Nodes) == 0 || u.Policy != obj.Policy.Index || u.Reason != "too few survivors" {
				t.Errorf("listed as %s", line)
			}
		}
	}
	if found == 0 {
		t.Errorf("%s is not in the list:\n%s", obj.Name, list)
	}
	for _, before := range saved {
		restore(t, before)
	}
	for _, node := range l.Nodes() {
		if exit, s := l.pass(node); exit != exitDone {
			t.Errorf("afterwards node %d is not well: status %d, %+v", node, exit, s)
		}
	}
	list, err = os.ReadFile(filepath.Join(l.ReconPath(l.NodeOf(holder)), pass.UnrepairedFile))
	if err != nil || len(list) > 0 {
		t.Errorf("the list of the next pass is not empty: %v\n%s", err, list)
	}
}

// Something is wrong with archives of the nodes that run the passes; these say so, each of them, and
// everything else is served.
func TestDamageIsNamedAndTheRestIsServed(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{
		Seed: 4, Policies: []string{"isal42"}, Victim: wiped, Sizes: []int64{1000, 2000, 3000, 4000, 5000, 6000}, Kinds: []scenario.Kind{}})
	cases := []struct {
		name  string
		spoil func(t *testing.T, archive string)
		want  string // in the log
	}{
		{"wrong xattrs", func(t *testing.T, archive string) { setXattr(t, archive, []byte("\x80\x02cos\nsystem\nU\x02idR.")) }, "metadata"},
		{"header with a bad CRC", func(t *testing.T, archive string) { flipAt(t, archive, 5) }, "header"},
		{"truncated", func(t *testing.T, archive string) { truncate(t, archive) }, "does not match actual object size"},
	}
	lost := l.snapshot(wiped)
	var lefts []string
	for i, c := range cases {
		nodes := loaded.Layout.Primaries(loaded.Objects[i])
		at := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == wiped })
		left := nodes[(at-1+len(nodes))%len(nodes)].Device.Device
		archive, err := loaded.Layout.Archive(loaded.Objects[i], left)
		if err != nil {
			t.Fatal(err)
		}
		c.spoil(t, archive)
		lefts = append(lefts, left)
	}
	l.wipe(wiped)
	mark := l.mark()
	slices.Sort(lefts)
	for _, left := range slices.Compact(slices.Clone(lefts)) {
		l.pass(l.NodeOf(left), "-d", left)
	}
	for _, node := range l.Nodes() {
		l.pass(node)
	}
	// Others hold enough: whoever is asked next rebuilds what these nodes could not.
	l.same(lost)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := l.with(t)
			hash := filepath.Base(loaded.Layout.HashDir(loaded.Objects[i], wiped))
			lines := l.logged(mark, c.want)
			if !slices.ContainsFunc(lines, func(s string) bool { return strings.Contains(s, hash) }) {
				lines, _ := l.Log(mark)
				t.Errorf("the log does not say %q of %s:\n%s", c.want, hash, strings.Join(lines, "\n"))
			}
		})
	}
}

// restore puts a device's files back from the saved copy.
func restore(t *testing.T, s *scenario.Snapshot) {
	t.Helper()
	for name, f := range s.Files {
		var out bytes.Buffer
		to := filepath.Join(s.Path, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		exit, _, err := real.Run(t.Context(), &out, "cp", "-a", "--", filepath.Join(s.Saved, name), to)
		if err != nil || exit != 0 {
			t.Fatalf("cannot restore %s: %v %s", to, err, out.String())
		}
		if err := os.Chmod(to, fs.FileMode(f.Mode)); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(s.Path, func(p string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(p, swiftID(t, s), swiftGroup(t, s))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func swiftID(t *testing.T, s *scenario.Snapshot) int {
	for _, f := range s.Files {
		return int(f.UID)
	}
	t.Fatal("an empty snapshot")
	return 0
}

func swiftGroup(_ *testing.T, s *scenario.Snapshot) int {
	for _, f := range s.Files {
		return int(f.GID)
	}
	return 0
}

func TestWhatCanNotRunSaysWhy(t *testing.T) {
	l := startLab(t)
	conf, err := os.ReadFile(l.ReplicationConf(3))
	if err != nil {
		t.Fatal(err)
	}
	etc, err := os.MkdirTemp(shared.root, "etc")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	ringFile, err := os.ReadFile(filepath.Join(l.SwiftDir(), "object-1.ring.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		conf    func(string) string
		swift   func(string) string // of swift.conf
		ring    func([]byte) []byte
		args    []string
		want    string
		missing bool
	}{
		{name: "no configuration", missing: true, want: "none.conf"},
		{name: "no section", conf: func(s string) string { return strings.Replace(s, "[object-reconstructor]", "[other]", 1) }, want: "object-reconstructor"},
		{name: "a bad option", conf: func(s string) string {
			return strings.Replace(s, "[object-reconstructor]", "[object-reconstructor]\nconcurrency = many", 1)
		}, want: "concurrency"},
		{name: "an unknown user", conf: func(s string) string { return strings.ReplaceAll(s, "user = swift", "user = nobody-of-that-name") }, want: "nobody-of-that-name"},
		{name: "no ring", ring: func([]byte) []byte { return nil }, want: "object-1.ring.gz"},
		{name: "a truncated ring", ring: func(b []byte) []byte { return b[:len(b)/2] }, want: "object-1.ring.gz"},
		{name: "a ring that is none", ring: func([]byte) []byte { return []byte("hello") }, want: "object-1.ring.gz"},
		{name: "swift.conf without a salt", swift: func(s string) string { return strings.ReplaceAll(s, "swift_hash_path", "other") }, want: "swift.conf"},
		{name: "swift.conf with another policy", swift: func(s string) string {
			return strings.Replace(s, "ec_num_parity_fragments = 2", "ec_num_parity_fragments = 3", 1)
		}, want: "replicas"},
		{name: "swift.conf of two minds", conf: func(s string) string { return s }, swift: func(s string) string {
			return strings.Replace(s, "swift_hash_path_suffix = ", "swift_hash_path_suffix = x", 1)
		}, args: []string{"two"}, want: "differ"},
		{name: "a daemon without a ring", ring: func([]byte) []byte { return nil }, args: []string{"forever"}, want: "object-1.ring.gz"},
		{name: "devices without once", args: []string{"forever", "-d", "sd5"}, want: "once"},
		{name: "another node's device", args: []string{"-d", "sd14"}, want: "sd14"},
		{name: "a partition that is no number", args: []string{"-p", "x"}, want: "x"},
		{name: "a size that is none", args: []string{"--memory-budget", "much"}, want: "memory-budget"},
		{name: "an unknown option of ours", conf: func(s string) string {
			return strings.Replace(s, "[object-reconstructor]", "[object-reconstructor]\nimping_speed = high", 1)
		}, want: "imping_speed"},
		{name: "no local device", conf: func(s string) string { return strings.Replace(s, "bind_port = ", "bind_port = 1", 1) }, want: "replication address"},
		{name: "an unknown word", args: []string{"twice"}, want: "twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := l.with(t)
			dir, err := os.MkdirTemp(etc, "e")
			if err != nil {
				t.Fatal(err)
			}
			os.Chmod(dir, 0o755)
			entries, err := filepath.Glob(filepath.Join(l.SwiftDir(), "*.ring.gz"))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range append(entries, l.SwiftConf()) {
				b, err := os.ReadFile(e)
				if err != nil {
					t.Fatal(err)
				}
				if filepath.Base(e) == "object-1.ring.gz" {
					b = ringFile
					if c.ring != nil {
						if b = c.ring(b); b == nil {
							continue
						}
					}
				}
				if filepath.Base(e) == "swift.conf" && c.swift != nil {
					b = []byte(c.swift(string(b)))
				}
				if err := os.WriteFile(filepath.Join(dir, filepath.Base(e)), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text := strings.ReplaceAll(string(conf), "swift_dir = "+l.SwiftDir(), "swift_dir = "+dir)
			if c.conf != nil {
				text = c.conf(text)
			}
			path := filepath.Join(dir, "node.conf")
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if c.missing {
				path = filepath.Join(dir, "none.conf")
			}
			args := []string{"reconstruct", path}
			rest := c.args
			if len(rest) == 0 || rest[0] != "forever" {
				args = append(args, "once")
			} else {
				rest = rest[1:]
			}
			if len(c.args) > 0 && c.args[0] == "two" {
				rest = nil
			} else if c.swift != nil {
				args = append(args, "--swift-conf", filepath.Join(dir, "swift.conf"))
			}
			exit, out := l.run(l.self, append(args, rest...)...)
			if exit != exitFailed || !strings.Contains(out, c.want) || strings.Count(out, "\n") > 3 {
				t.Errorf("status %d, want 1 and a line with %q:\n%s", exit, c.want, out)
			}
		})
	}
}

// Devices that can not be read spoil only their own part.
func TestUnreadableDevicesAreLeftAndCounted(t *testing.T) {
	l := startLab(t)
	l.load(scenario.LoadOptions{
		Seed: 5, Policies: []string{"isal42"}, Victim: wiped, Sizes: []int64{1000, 2000, segment + 1}, Kinds: []scenario.Kind{}})
	objects := filepath.Join(l.DevicePath(wiped), "objects-1")
	if err := os.Chmod(objects, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(objects, 0o755)
	mark := l.mark()
	exit, s := l.pass(l.NodeOf(wiped))
	if exit != exitLeft || s.Left.Devices != 1 {
		t.Errorf("status %d, %+v", exit, s)
	}
	if len(l.logged(mark, "Unable to list partitions in '"+objects+"'")) == 0 {
		t.Error("the log does not name the device")
	}
	if err := os.Chmod(objects, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, node := range l.Nodes() {
		if exit, s := l.pass(node); exit != exitDone {
			t.Errorf("afterwards node %d is not well: status %d, %+v", node, exit, s)
		}
	}
}

func ringAddress(n ring.Node) string {
	return fmt.Sprintf("%s:%d", n.ReplicationIP, n.ReplicationPort)
}
