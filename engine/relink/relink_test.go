package relink

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/io/diskfile"
	"imping/swift/policy"
	"imping/swift/recon"
)

// Hashes in partition 40 of power 6, which is 80 and 81 of power 7, and in partition 3, which is 6 and 7.
const (
	high = "a0000000000000000000000000000abc" // 40, then 80
	low  = "0e000000000000000000000000000abc" // 3, then 7
)

func (h *site) path(dev, dataDir string, part int, hash, name string) string {
	return filepath.Join(h.devices, dev, dataDir, fmt.Sprint(part), hash[29:], hash, name)
}

func (h *site) put(t *testing.T, path, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(content), 0o644))
}

func linkedTo(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}

func content(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

var now = fmt.Sprintf("%d.00000", time.Now().Unix()-100)

// rule 39: status 2 without a policy in that step, 1 with errors; what is not mounted or can not be listed is one; a device that is
// named and not there is none. Recon has the worker's status.
func TestExitStatusAndReconOfStock(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	file := h.path("sda", "objects", 40, high, now+".data")
	h.put(t, file, "x")
	worker := func(wanted any) {
		t.Helper()
		e, err := recon.Load(filepath.Join(h.root, "cache", reconFile))
		check(t, err)
		w, _ := e["workers"].(map[string]any)[fmt.Sprint(os.Getpid())].(map[string]any)
		if got, want := fmt.Sprintf("%v %v", w["return_code"], w["devices"]), fmt.Sprintf("%v [sda]", wanted); got != want {
			t.Errorf("recon has worker %v, want %v", got, want)
		}
	}
	status, book := h.run(t, "relink")
	if status != NoPolicy || !book.has("warn No policy found to increase the partition power.") {
		t.Errorf("status %d:\n%s", status, book)
	}
	worker(NoPolicy)
	h.step(t, "relink")
	if status, _ := h.run(t, "cleanup"); status != NoPolicy {
		t.Errorf("cleanup in the middle of relinking ended with %d", status)
	}
	status, book = h.run(t, "relink", func(c *Config) { c.MountCheck = true })
	if status != Failed || !book.has("warn Skipping sda as it is not mounted") || !book.has("warn 2 disks were unmounted") {
		t.Errorf("status %d:\n%s", status, book)
	}
	worker(Failed)
	status, book = h.run(t, "relink", func(c *Config) { c.Names = []string{"none"} })
	if status != Success || !book.has("info 0 hash dirs processed (cleanup=False) (0 files, 0 linked, 0 removed, 0 errors)") {
		t.Errorf("status %d:\n%s", status, book)
	}
	h.put(t, filepath.Join(h.devices, "sda", "objects-1"), "a file")
	status, book = h.run(t, "relink")
	if status != Failed || !book.has(fmt.Sprintf("warn Skipping %[1]s because [Errno 20] Not a directory: '%[1]s'", h.devices+"/sda/objects-1")) ||
		!book.has("warn There were 1 errors listing partition directories") {
		t.Errorf("status %d:\n%s", status, book)
	}
	if !linkedTo(file, h.path("sda", "objects", 80, high, now+".data")) {
		t.Error("one policy's trouble was another's")
	}
	e, err := recon.Load(filepath.Join(h.root, "cache", reconFile))
	check(t, err)
	var dev struct {
		Policies map[string]struct {
			Step            string
			Parts_done      int
			Total_parts     int
			Part_power      int
			Total_time      *float64
			Stats           map[string]int
			Next_part_power int
		}
		Stats map[string]int
	}
	text, err := json.Marshal(e["devices"].(map[string]any)["sda"])
	check(t, err)
	check(t, json.Unmarshal(text, &dev))
	p := dev.Policies["0"]
	want := map[string]int{"hash_dirs": 1, "files": 1, "linked": 1, "removed": 0, "errors": 0}
	if p.Step != "relink" || p.Parts_done != 1 || p.Total_parts != 1 || p.Part_power != 6 || p.Next_part_power != 7 || p.Total_time == nil || !cmp.Equal(p.Stats, want) {
		t.Errorf("recon has %s", text)
	}
	want["unlistable_partitions"] = 1
	if !cmp.Equal(dev.Stats, want) {
		t.Errorf("recon has %s", text)
	}
}

// A dry run tells what a run does, and changes nothing.
func TestADryRunTellsAndChangesNothing(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	h.put(t, h.path("sda", "objects", 40, high, now+".data"), "x")
	h.put(t, h.path("sda", "objects", 3, low, now+".data"), "one")
	h.put(t, h.path("sda", "objects", 7, low, now+".data"), "another")
	h.step(t, "relink")
	before := snapshot(t, h.devices)
	plan := func(action string) (plans []*Plan) {
		c, err := h.config(action, &logBook{})
		check(t, err)
		c.DryRun = true
		r, err := New(*c)
		check(t, err)
		_, err = r.Run(context.Background())
		check(t, err)
		for _, p := range r.Plans() {
			if p.HashDirs > 0 {
				plans = append(plans, p)
			}
		}
		return plans
	}
	want := []*Plan{{Device: "sda", Policy: "gold", RelinkCounts: diskfile.RelinkCounts{HashDirs: 2, Files: 2, Linked: 1, Collisions: 1, Errors: 1}}}
	if diff := cmp.Diff(want, plan("relink")); diff != "" {
		t.Errorf("relink: %s", diff)
	}
	h.step(t, "cleanup")
	want[0].Removed = 1
	if diff := cmp.Diff(want, plan("cleanup")); diff != "" {
		t.Errorf("cleanup: %s", diff)
	}
	if diff := cmp.Diff(before, snapshot(t, h.devices)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	if names, err := filepath.Glob(filepath.Join(h.devices, "sda", ".relink*")); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := os.Stat(filepath.Join(h.root, "cache", reconFile)); !os.IsNotExist(err) {
		t.Errorf("recon was written: %v", err)
	}
}

// rule 41: what has a link's name goes to quarantine, with the rest of its directory; what was linked before it is linked anew.
func TestCollisionsAreClobberedOnRequest(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	later := fmt.Sprintf("%d.00000", time.Now().Unix()-50)
	data, meta := h.path("sda", "objects", 40, high, now+".data"), h.path("sda", "objects", 40, high, later+".meta")
	newData, newMeta := h.path("sda", "objects", 80, high, now+".data"), h.path("sda", "objects", 80, high, later+".meta")
	h.put(t, data, "right")
	h.put(t, meta, "meta")
	h.put(t, newData, "wrong")
	check(t, os.Link(meta, newMeta))
	h.step(t, "relink")
	status, book := h.run(t, "relink")
	if status != Failed || content(newData) != "wrong" ||
		!book.has(fmt.Sprintf("warn Error relinking: failed to relink %s to %s: [Errno 17] File exists: '%s' -> '%s'", data, newData, data, newData)) {
		t.Errorf("status %d:\n%s", status, book)
	}
	status, book = h.run(t, "relink", func(c *Config) { c.Clobber = true })
	quarantine := filepath.Join(h.devices, "sda", "quarantined", "objects", high)
	if status != Success || !book.has("info Relinking: clobbering hardlink collision: "+newData+" moved to "+quarantine) {
		t.Errorf("status %d:\n%s", status, book)
	}
	if !linkedTo(data, newData) || !linkedTo(meta, newMeta) || content(filepath.Join(quarantine, now+".data")) != "wrong" {
		t.Errorf("%v", snapshot(t, h.devices))
	}
	check(t, os.Remove(newData))
	h.put(t, newData, "written since")
	h.step(t, "cleanup")
	if status, book := h.run(t, "cleanup"); status != Failed || content(data) != "right" || content(meta) != "meta" {
		t.Errorf("status %d:\n%s", status, book)
	}
	status, book = h.run(t, "cleanup", func(c *Config) { c.Clobber = true })
	if status != Success || content(newData) != "written since" || !book.has("debug Relinking: tolerating hardlink collision: "+data+" to "+newData) {
		t.Errorf("status %d:\n%s", status, book)
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(filepath.Dir(data)))); !os.IsNotExist(err) {
		t.Errorf("the old partition is still there: %v", err)
	}
}

// rule 21: a suffix is invalidated before it changes, so that no crash and no hashing at the same time leaves an old hash.
func TestSuffixesAreInvalidatedBeforeLinksAreMade(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	old, new := h.path("sda", "objects", 3, low, now+".data"), h.path("sda", "objects", 7, low, now+".data")
	h.put(t, old, "x")
	partition := filepath.Join(h.devices, "sda", "objects", "7")
	check(t, os.MkdirAll(partition, 0o755))
	// Who holds the lock sees neither.
	lock, err := os.Create(filepath.Join(partition, ".lock"))
	check(t, err)
	defer lock.Close()
	check(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	h.step(t, "relink")
	ended := make(chan int)
	go func() {
		status, _ := h.run(t, "relink")
		ended <- status
	}()
	for waits := 0; waits == 0; {
		select {
		case <-ended:
			t.Fatal("did not wait for the lock")
		case <-time.After(5 * time.Millisecond):
		}
		waiting, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", os.Getpid()))
		check(t, err)
		for _, fd := range waiting {
			if to, err := os.Readlink(fd); err == nil && to == lock.Name() {
				waits++
			}
		}
		waits-- // ours
	}
	if _, err := os.Stat(new); !os.IsNotExist(err) {
		t.Errorf("linked without the lock: %v", err)
	}
	lock.Close()
	if status := <-ended; status != Success || !linkedTo(old, new) || content(filepath.Join(partition, "hashes.invalid")) != "abc\n" {
		t.Errorf("status %d, %q", status, content(filepath.Join(partition, "hashes.invalid")))
	}
}

// rule 39: the state has all partitions, whatever a run is narrowed to; those with errors are not done; those that came meanwhile
// are, when relinking.
func TestStatesAreOfAllPartitions(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	h.put(t, h.path("sda", "objects", 40, high, now+".data"), "x")
	h.put(t, h.path("sda", "objects", 3, low, now+".data"), "one")
	h.put(t, h.path("sda", "objects", 7, low, now+".data"), "another")
	h.step(t, "relink")
	file := filepath.Join(h.devices, "sda", "relink.objects.json")
	is := func(want string) {
		t.Helper()
		if got := content(file); got != want {
			t.Errorf("state %s, want %s", got, want)
		}
	}
	h.run(t, "relink", func(c *Config) { c.Partitions = []int{40} })
	is(`{"part_power":6,"next_part_power":7,"state":{"3":false,"40":true,"7":false}}`)
	check(t, os.Mkdir(filepath.Join(h.devices, "sda", "objects", "12"), 0o755))
	if status, _ := h.run(t, "relink"); status != Failed {
		t.Errorf("status %d", status)
	}
	is(`{"part_power":6,"next_part_power":7,"state":{"12":true,"3":false,"40":true,"7":true}}`)
	h.step(t, "cleanup")
	h.run(t, "cleanup", func(c *Config) { c.Partitions = []int{40} })
	is(`{"part_power":7,"next_part_power":7,"prev_part_power":6,"state":{"12":false,"3":false,"40":true,"7":false}}`)
}

// States that are none are begun anew, and whatever the file holds is no reason to fail.
func TestBadStatesAreBegunAnew(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "relink.objects.json")
	for text, prev := range map[string]int{
		"":                  -1,
		"NOT JSON":          -1,
		"[]":                -1,
		`{"part_power": 6}`: -1,
		`{"part_power": 5, "next_part_power": 6, "state": {"1": true}}`:             -1,
		`{"part_power": 6, "next_part_power": 7, "state": null}`:                    -1,
		`{"part_power": 6, "next_part_power": 7, "state": {"1": true, "x": true}}`:  -1,
		`{"part_power": 6, "next_part_power": 7, "state": {"1": true, "-3": true}}`: -1,
		`{"part_power": 5, "next_part_power": 7, "state": {"1": true}}`:             5,
	} {
		check(t, os.WriteFile(path, []byte(text), 0o644))
		s := openedState(t, dir, 6, 7)
		if len(s.Done) > 0 || (s.PrevPartPower == nil) != (prev < 0) || prev >= 0 && *s.PrevPartPower != prev {
			t.Errorf("%s: %+v", text, s)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there", text)
		}
	}
	check(t, os.WriteFile(path, []byte(`{"state": {"1": true, "2": 0, "3": 1}, "part_power": 6.0, "next_part_power": 7, "prev_part_power": 5}`), 0o644))
	s := openedState(t, dir, 6, 7)
	if diff := cmp.Diff(map[string]bool{"1": true, "2": false, "3": true}, s.Done); diff != "" || *s.PrevPartPower != 5 {
		t.Error(diff)
	}
}

// files_per_second counts object directories; what was due in the last five seconds may be made up for.
func TestPaceLetsSoManyThrough(t *testing.T) {
	p := pace{rate: 10}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, want := range []time.Duration{0, 100, 200, 300} {
		if got := p.take(at); got != want*time.Millisecond {
			t.Errorf("the %d. waits %v", i, got)
		}
	}
	at = at.Add(2 * time.Second)
	made := 0
	for p.take(at) == 0 {
		made++
	}
	if made != 17 {
		t.Errorf("%d are made up for", made)
	}
	at = at.Add(time.Hour)
	if p.take(at) != 0 || p.take(at) == 0 {
		t.Error("an hour's are made up for")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p = pace{rate: 0.001, next: time.Now().Add(time.Hour)}
	if err := p.wait(ctx); err != context.Canceled {
		t.Errorf("%v", err)
	}
}

func TestTimesArePythons(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0:00:00", 1500 * time.Millisecond: "0:00:01.500000", 25*time.Hour + 61*time.Second: "1 day, 1:01:01", 49 * time.Hour: "2 days, 1:00:00",
	} {
		if got := elapsed(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	if got := clock(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)); got != "05:06:07 03/04/26 GMT" {
		t.Error(got)
	}
}

// What no Swift program could have made is told and left; it hinders nothing.
func TestForeignEntriesAreToldAndLeft(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	file := h.path("sda", "objects", 40, high, now+".data")
	h.put(t, file, "x")
	odd := []string{"objects/40/abc/nohash/file", "objects/40/extra/" + high + "/file", "objects/3/stray"}
	for _, name := range odd {
		h.put(t, filepath.Join(h.devices, "sda", name), "mine")
	}
	h.step(t, "relink")
	if status, book := h.run(t, "relink"); status != Success || !linkedTo(file, h.path("sda", "objects", 80, high, now+".data")) ||
		!book.has("warn Unexpected entity is left alone: "+h.devices+"/sda/objects/40/abc/nohash") || !book.has("warn Unexpected entity is left alone: "+h.devices+"/sda/objects/40/extra") {
		t.Errorf("status %d:\n%s", status, book)
	}
	h.step(t, "cleanup")
	if status, book := h.run(t, "cleanup"); status != Success || !book.has("warn Partition "+h.devices+"/sda/objects/3 stays because of stray") {
		t.Errorf("status %d:\n%s", status, book)
	}
	for _, name := range odd {
		if got := content(filepath.Join(h.devices, "sda", name)); got != "mine" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := content(file); !strings.Contains(got, "no such file") {
		t.Errorf("the old file: %s", got)
	}
}

// A display has the whole from the beginning, also where devices wait for their turn; another relinker at a device is waited for,
// which is told.
func TestProgressHasTheWholeFromTheBeginning(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	for _, dev := range []string{"sda", "sdb", "sdc"} {
		h.put(t, h.path(dev, "objects", 40, high, now+".data"), "x")
		h.put(t, h.path(dev, "objects", 3, low, now+".data"), "y")
		h.put(t, h.path(dev, "objects", 80, "a0000000000000000000000000000abd", now+".data"), "new")
	}
	h.step(t, "relink")
	other, err := os.Create(filepath.Join(h.devices, "sda", ".relink.objects.lock"))
	check(t, err)
	check(t, syscall.Flock(int(other.Fd()), syscall.LOCK_EX))
	var r *Relinker
	var seen []string
	book := &logBook{}
	book.heard = func(line string) {
		switch {
		case strings.HasPrefix(line, "info Waiting for another relinker that holds "):
			other.Close()
		case strings.HasPrefix(line, "info Step: "):
			seen = append(seen, fmt.Sprintf("%d/%d", r.PartitionsDone.Load(), r.Partitions.Load()))
		}
	}
	c, err := h.config("relink", book)
	check(t, err)
	c.Workers, c.PartitionsPerDevice = 1, 1
	r, err = New(*c)
	check(t, err)
	status, err := r.Run(context.Background())
	check(t, err)
	if want := []string{"1/6", "2/6", "3/6", "4/6", "5/6", "6/6"}; status != Success || !cmp.Equal(seen, want) {
		t.Errorf("status %d, %v, want %v:\n%s", status, seen, want, book)
	}
}

// A partition of the lower half is hashed in its own turn and in that of the one whose files come there, whichever comes first: once, unless
// something has changed in between.
func TestAPartitionIsHashedOnceThoughTwoAskForIt(t *testing.T) {
	h := newSite(t, newStock(t))
	dir := filepath.Dir(h.path("sda", "objects", 7, low, now+".data"))
	h.put(t, filepath.Join(dir, "nonsense"), "") // is told of whenever the suffix is hashed, which of a suffix with nothing else it always is
	told := 0
	d := &device{name: "sda", m: diskfile.NewManager(diskfile.Config{
		Devices: h.devices, Policy: &policy.Policy{Type: policy.ErasureCoding, Data: 4, Parity: 2, Duplication: 1}, ReclaimAge: time.Hour, Warn: func(string, ...any) { told++ },
	})}
	for i, want := range []int{1, 1, 2, 2} {
		if i == 2 {
			check(t, d.m.Invalidate("sda", 7, low[29:]))
		}
		if n, err := d.hash(7); n != 1 || err != nil || told != want {
			t.Errorf("%d: %d suffixes, %v, hashed %d times, want %d", i, n, err, told, want)
		}
	}
}
