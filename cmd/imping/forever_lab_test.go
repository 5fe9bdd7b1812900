package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imping/lab/scenario"
	"imping/swift/recon"
	"imping/swift/ring"
)

// heard is what a statsd has heard: how often each name, by kind.
type heard map[string]int

// statsd listens until done is called, which returns what came.
func statsd(t *testing.T) (port int, done func() heard) {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.LocalAddr().(*net.UDPAddr).Port
	const end = "the end"
	result := make(chan heard)
	go func() {
		all := heard{}
		for buf := make([]byte, 2000); ; {
			n, _, err := l.ReadFrom(buf)
			if err != nil || string(buf[:n]) == end {
				result <- all
				return
			}
			name, value, _ := strings.Cut(string(buf[:n]), ":")
			_, kind, _ := strings.Cut(value, "|")
			all[name+" "+kind]++
		}
	}()
	return port, func() heard {
		c, err := net.Dial("udp", l.LocalAddr().String())
		if err == nil {
			_, err = c.Write([]byte(end))
			c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		all := <-result
		l.Close()
		return all
	}
}

// numbers are what differs in log lines from one run to the next.
var numbers = regexp.MustCompile(`\d+(\.\d+)?`)

// One and the same pass, whether it rebuilds, reverts, quarantines or finds all well, is told to statsd, syslog and recon under the same
// names and in the same words by Swift's reconstructor and by ours (rules 37 and 38); swift-recon understands both, with and without workers.
func TestDashboardsSeeNoDifference(t *testing.T) {
	l := startLab(t)
	l.load(scenario.LoadOptions{Seed: 3, Policies: []string{"isal42", "lec42"}, Victim: wiped, Partitions: 3, Random: 1, Sizes: []int64{0, 1, segment + 1}})
	node := l.Nodes()[0]
	if node == l.NodeOf(wiped) {
		node = l.Nodes()[1]
	}
	cachePath := filepath.Join(l.ReconPath(node), recon.ObjectFile)
	e := l.either()
	homes := e.snapshots()
	here := l.Devices(node)[0]
	type copied struct{ name, from string }
	var strays []copied // whose partitions do not belong to the device
	for _, dev := range slices.Sorted(maps.Keys(homes)) {
		for _, name := range slices.Sorted(maps.Keys(homes[dev].Files)) {
			_, err := os.Stat(filepath.Join(l.DevicePath(here), strings.Join(strings.Split(name, "/")[:2], "/")))
			if dev != wiped && filepath.Ext(name) == ".data" && os.IsNotExist(err) && len(strays) < 5 {
				strays = append(strays, copied{name, dev})
			}
		}
	}
	misplace := func() {
		for _, s := range strays {
			e.copyArchive(s.name, s.from, here)
		}
	}
	// An archive, and the device of this node that is to be the only one to have any of its object, and of that so many bytes.
	var single, keeper string
	for _, dev := range l.Devices(node) {
		for _, name := range slices.Sorted(maps.Keys(homes[dev].Files)) {
			if filepath.Ext(name) == ".data" && homes[dev].Files[name].Size > 0 {
				single, keeper = name, dev
			}
		}
	}
	kept := filepath.Join(shared.root, "kept")
	shell := func(command string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), command, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	alone := func(bytes int64) func() {
		return func() {
			path := filepath.Join(l.DevicePath(keeper), single)
			if _, err := os.Stat(kept); err != nil {
				shell("cp", "-a", path, kept)
			}
			for dev := range homes {
				dir := filepath.Join(l.DevicePath(dev), filepath.Dir(single))
				if _, err := os.Stat(filepath.Dir(filepath.Dir(dir))); err == nil {
					e.invalidate(dir)
				}
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			shell("mkdir", "-p", filepath.Dir(path))
			shell("cp", "-a", kept, path)
			if err := os.Truncate(path, bytes); err != nil {
				t.Fatal(err)
			}
			shell("chown", "-R", "--reference="+l.DevicePath(keeper), filepath.Join(l.DevicePath(keeper), strings.Split(single, "/")[0]))
		}
	}
	whole := homes[keeper].Files[single].Size
	for _, c := range []struct {
		workers int
		option  string
		prepare func()
	}{
		{0, "", func() { l.wipe(wiped) }}, {2, "", func() { l.wipe(wiped) }}, {0, "handoffs_only = yes", misplace}, {0, "", misplace}, {0, "", func() {}},
		{0, "quarantine_threshold = 1\nquarantine_age = 0", alone(whole)}, {0, "", alone(10)},
	} {
		workers := c.workers
		told, lines, keys := map[string]heard{}, map[string][]string{}, map[string][]string{}
		for _, program := range []string{"/usr/bin/swift-object-reconstructor", l.swift} {
			c.prepare()
			os.Remove(cachePath)
			port, done := statsd(t)
			conf := l.confWith(l.ReplicationConf(node), "dashboards.conf", "object-reconstructor",
				"log_statsd_host = 127.0.0.1", fmt.Sprintf("log_statsd_port = %d", port), "log_statsd_metric_prefix = dc1", fmt.Sprintf("reconstructor_workers = %d", workers), c.option)
			mark := l.mark()
			if exit, out := l.run(program, conf, "once"); exit != 0 {
				t.Fatalf("%s: status %d\n%s", program, exit, out)
			}
			told[program] = done()
			for _, line := range l.logged(mark, fmt.Sprintf("reconstructor-%d: ", node)) {
				_, text, _ := strings.Cut(line, ": ")
				text = regexp.MustCompile(`^\[worker \d+/\d+ pid=\d+\] `).ReplaceAllString(text, "")
				lines[program] = append(lines[program], numbers.ReplaceAllString(text, "N"))
			}
			cache, err := recon.Load(cachePath)
			if err != nil {
				t.Fatal(err)
			}
			keys[program] = slices.Sorted(maps.Keys(cache))
			disks, _ := cache["object_reconstruction_per_disk"].(map[string]any)
			for _, dev := range slices.Sorted(maps.Keys(disks)) {
				keys[program] = append(keys[program], dev+": "+strings.Join(slices.Sorted(maps.Keys(disks[dev].(map[string]any))), " "))
			}
			// It asks each host that the ring names for its figures, and this one has new ones.
			exit, out := l.run("/usr/bin/swift-recon", "object", "--reconstruction", "--swiftdir", l.SwiftDir(), "--policy", "isal42", "-v")
			if exit != 0 || !regexp.MustCompile(`127\.0\.0\.`+fmt.Sprint(node)+`:\d+/recon/reconstruction/object: \{.*'object_reconstruction_last': \d+\.\d+, 'object_reconstruction_time': \d+\.\d+`).MatchString(out) {
				t.Errorf("%d workers, %s, %s: swift-recon says %d\n%s", workers, c.option, program, exit, out)
			}
		}
		stock, ours := "/usr/bin/swift-object-reconstructor", l.swift
		if len(told[stock]) < 3 || len(strays) != 5 {
			t.Errorf("%d workers, %s: Swift told %v", workers, c.option, told[stock])
		}
		for _, name := range slices.Sorted(maps.Keys(told[stock])) {
			if told[ours][name] == 0 {
				t.Errorf("%d workers, %s: Swift tells statsd %s, ours does not", workers, c.option, name)
			}
			if strings.Contains(name, ".count.") && told[ours][name] != told[stock][name] {
				t.Errorf("%d workers, %s: %s: %d, Swift tells %d", workers, c.option, name, told[ours][name], told[stock][name])
			}
		}
		for name := range told[ours] {
			if told[stock][name] == 0 {
				t.Errorf("%d workers, %s: ours tells statsd %s, Swift does not", workers, c.option, name)
			}
		}
		if !slices.Equal(keys[stock], keys[ours]) {
			t.Errorf("%d workers, %s: recon has %q, Swift's %q", workers, c.option, keys[ours], keys[stock])
		}
		want := unique(lines[stock])
		got := slices.DeleteFunc(unique(lines[ours]), func(line string) bool {
			return strings.HasPrefix(line, "Time of all partitions") || strings.HasPrefix(line, "Unable to reconstruct from the local archive: ") || // ours alone
				strings.HasPrefix(line, "Removing partition: ") // Swift finds them empty in the next pass
		})
		if !slices.Equal(got, want) || len(want) < 5 {
			t.Errorf("%d workers, %s: the log has\n%s\n\nand Swift's\n%s", workers, c.option, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// unique sorts lines and drops what is there twice: each of Swift's workers says the same.
func unique(lines []string) []string {
	lines = slices.Clone(lines)
	slices.Sort(lines)
	return slices.Compact(lines)
}

// swiftInit runs a command of Swift's manager, which is all that swift-init is.
const swiftInit = `
import sys
from swift.common import manager
manager.SWIFT_DIR, run_dir, command = sys.argv[1:4]
sys.exit(manager.Manager(['object-reconstructor'], run_dir=run_dir).run_command(command, run_dir=run_dir))
`

// Swift's manager starts, finds, reloads and stops it like its own (rule 35).
func TestReconstructorObeysSwiftInit(t *testing.T) {
	l := startLab(t)
	dir := filepath.Join(shared.root, "init")
	confs, run, bin := filepath.Join(dir, "swift"), filepath.Join(dir, "run"), filepath.Join(dir, "bin")
	for _, d := range []string{filepath.Join(confs, "object-server"), run, bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(l.swift, filepath.Join(bin, swiftReconstructor)); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	configure := func(node int) {
		t.Helper()
		from := l.confWith(l.ReplicationConf(node), "init.conf", "object-reconstructor", "interval = 3600")
		if err := os.Rename(from, filepath.Join(confs, "object-server", "1.conf")); err != nil {
			t.Fatal(err)
		}
	}
	configure(l.Nodes()[0])
	manage := func(command string, want int) string {
		t.Helper()
		var out bytes.Buffer
		exit, _, err := l.Cluster.Run(t.Context(), &out, "/usr/bin/env", asProgram+"=1", "PATH="+bin+":/usr/bin:/bin",
			"/usr/bin/python3", "-c", swiftInit, confs, run, command)
		if err != nil || exit != want {
			t.Fatalf("%s: status %d, %v\n%s", command, exit, err, out.String())
		}
		return out.String()
	}
	mark := l.mark()
	logged := func(text string, times int) {
		t.Helper()
		l.until(text, func() error {
			if n := len(l.logged(mark, text)); n != times {
				return fmt.Errorf("%q was logged %d times", text, n)
			}
			return nil
		})
	}
	if out := manage("start", 0); !strings.Contains(out, "Starting object-reconstructor...(") {
		t.Error(out)
	}
	logged(completed, 1)
	if out := manage("status", 0); !strings.Contains(out, "object-reconstructor running (") {
		t.Error(out)
	}
	pid, err := os.ReadFile(filepath.Join(run, "object-reconstructor", "1.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if cmdline, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline"); err != nil || !bytes.Contains(cmdline, []byte(swiftReconstructor)) {
		t.Errorf("%q %v", cmdline, err)
	}
	began := time.Now()
	if out := manage("stop", 0); !strings.Contains(out, "Signal object-reconstructor  pid: ") || !strings.Contains(out, "object-reconstructor (") || strings.Contains(out, "Waited") {
		t.Errorf("after %v: %s", time.Since(began), out)
	}
	logged("SIGTERM received ("+strings.TrimSpace(string(pid))+")", 1)
	manage("status", 1)
	// Once, and waiting for it.
	mark = l.mark()
	manage("once", 0)
	logged("Object reconstruction complete (once). (", 1)

	// Stopped in the middle of a pass, it leaves nothing that Swift's own would not go on from.
	var sizes []int64
	for n := range int64(8) {
		sizes = append(sizes, 20<<20+n)
	}
	loaded := l.load(scenario.LoadOptions{Seed: 4, Policies: []string{"isal42"}, Victim: wiped, Partitions: 1, Sizes: sizes, Kinds: []scenario.Kind{}})
	primaries := loaded.Layout.Primaries(loaded.Objects[0])
	at := slices.IndexFunc(primaries, func(n ring.Node) bool { return n.Device.Device == wiped })
	configure(l.NodeOf(primaries[(at+1)%len(primaries)].Device.Device))
	before := l.snapshot(wiped)
	l.wipe(wiped)
	manage("start", 0)
	archives := func() (names []string) {
		names, _ = filepath.Glob(filepath.Join(l.DevicePath(wiped), loaded.Objects[0].Policy.DataDir(), "*", "*", "*", "*.data"))
		return names
	}
	l.until("the first archive", func() error {
		if len(archives()) == 0 {
			return errors.New("none is there")
		}
		return nil
	})
	// At once: Swift's manager needs longer to load than the rest of the pass takes.
	pid, err = os.ReadFile(filepath.Join(run, "object-reconstructor", "1.pid"))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err == nil {
		err = syscall.Kill(number, syscall.SIGTERM)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.until("its end", func() error {
		if err := syscall.Kill(number, 0); !errors.Is(err, syscall.ESRCH) && !zombie(number) {
			return errors.New("it still runs")
		}
		return nil
	})
	t.Logf("%d of %d archives were there when it was stopped", len(archives()), len(loaded.Objects))
	for _, node := range l.Nodes() {
		if node == l.NodeOf(wiped) {
			continue
		}
		if _, err := l.StockReconstructor(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	l.same(before)
	if err := scenario.NothingQuarantined(l); err != nil {
		t.Error(err)
	}
}
