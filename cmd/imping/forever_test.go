package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imping/engine/pass"
	"imping/lab/embedded"
	"imping/lab/scenario"
	"imping/lab/soak"
	"imping/swift/recon"
)

// embeddedWith is an embedded cluster whose reconstructors have more options.
func embeddedWith(t *testing.T, options map[string]string) *either {
	t.Helper()
	c, err := embedded.Start(embedded.Options{Root: t.TempDir(), Reconstructor: options})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return &either{c, t, c.Conf, c.StopNode, c.StartNode}
}

// running is a reconstructor that goes on.
type running struct {
	*testing.T
	cmd *exec.Cmd

	mu    sync.Mutex
	lines []string // of its log
	ended chan struct{}
}

// runForever starts `imping reconstruct` without once.
func (c *either) runForever(node int, environment ...string) *running {
	c.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.CommandContext(c.Context(), exe, "reconstruct", c.conf(node), "-v", "--swift-conf", c.SwiftConf())
	cmd.Args[0] = "imping"
	cmd.Env = append(append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0"), environment...)
	return start(c.T, cmd)
}

func start(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{T: t, cmd: cmd, ended: make(chan struct{})}
	problems, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		for lines := bufio.NewScanner(problems); lines.Scan(); {
			r.mu.Lock()
			r.lines = append(r.lines, lines.Text())
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", r.text())
		}
	})
	return r
}

func (r *running) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// await waits until a text was logged so many times.
func (r *running) await(text string, times int) {
	r.Helper()
	for end := time.Now().Add(time.Minute); strings.Count(r.text(), text) < times; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("%q was not logged %d times", text, times)
		}
	}
}

func (r *running) signal(sig os.Signal) {
	r.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.Fatal(err)
	}
}

// holds counts the descriptors that the process has open.
func (r *running) holds() int {
	r.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
	if err != nil {
		r.Fatal(err)
	}
	return len(entries)
}

// end sends a signal and returns the exit status.
func (r *running) end(sig os.Signal) int {
	r.Helper()
	r.signal(sig)
	<-r.ended
	if err := r.cmd.Wait(); err != nil && r.cmd.ProcessState == nil {
		r.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

const completed = "Object reconstruction complete. ("

// rules 35 and 38
func TestADaemonGoesOnUntilItIsEnded(t *testing.T) {
	t.Parallel()
	c := embeddedWith(t, map[string]string{"run_pause": "3600", "log_level": "DEBUG", "reconstructor_workers": "2"})
	loaded := c.load()
	before := c.snapshot(wiped)
	node := c.Nodes()[0]
	r := c.runForever(node)
	r.await(completed, 1)
	r.await("reconstruction sleeping for 3600 seconds.", 1)
	for _, want := range []string{
		"Starting " + fmt.Sprint(r.cmd.Process.Pid), "Option object-reconstructor/run_pause is deprecated and will be removed",
		"Starting object reconstructor in daemon mode.", "Starting object reconstruction pass.", "partitions reconstructed in",
	} {
		if strings.Count(r.text(), want) != 1 {
			t.Errorf("want one line with %q", want)
		}
	}
	cache, err := recon.Load(filepath.Join(c.Cluster.(*embedded.Cluster).ReconPath(node), recon.ObjectFile))
	disks, _ := cache["object_reconstruction_per_disk"].(map[string]any)
	if err != nil || len(disks) != len(c.Devices(node)) || cache["object_reconstruction_last"] == nil || cache["object_reconstruction_time"] == nil {
		t.Errorf("recon has %v, %v", cache, err)
	}
	r.signal(syscall.SIGUSR1)
	r.await("No pass is under way", 1)
	settled := r.holds()

	// SIGHUP ends the pause, and what the conf says by then counts.
	c.wipe(wiped)
	c.changeConf(node, "run_pause = 3600", "interval = 0.01")
	r.signal(syscall.SIGHUP)
	r.await("SIGHUP received (", 1)
	r.await(completed, 4)
	r.await("reconstruction sleeping for 0.01 seconds.", 2)
	if loaded.Objects == nil {
		t.Fatal("nothing was loaded")
	}
	for _, other := range c.Nodes()[1:] {
		if other != c.NodeOf(wiped) {
			c.pass(other)
		}
	}
	c.same(before)

	// However many passes there were, the process is as it was.
	r.await(completed, 30)
	c.changeConf(node, "interval = 0.01", "interval = 1800")
	r.await("reconstruction sleeping for 1800 seconds.", 1)
	if now := r.holds(); now > settled {
		t.Errorf("%d descriptors are open, and were %d after the first pass", now, settled)
	}

	// A conf that is wrong stops nobody.
	c.changeConf(node, "interval = 1800", "interval = soon")
	r.signal(syscall.SIGHUP)
	r.await("Options cannot be read anew, those of before count: ", 1)
	r.signal(syscall.SIGHUP)
	r.await("Options cannot be read anew, those of before count: ", 2)
	if status := r.end(syscall.SIGTERM); status != exitDone {
		t.Errorf("exit status %d", status)
	}
	lines := strings.Split(r.text(), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(r.text(), fmt.Sprintf("SIGTERM received (%d)", r.cmd.Process.Pid)) || strings.Contains(last, "Exited") {
		t.Errorf("the last line is %q", last)
	}
}

func (c *either) changeConf(node int, from, to string) {
	c.Helper()
	b, err := os.ReadFile(c.conf(node))
	if err != nil || !bytes.Contains(b, []byte(from)) {
		c.Fatalf("%v %s", err, b)
	}
	temporary := c.conf(node) + ".new"
	if err := os.WriteFile(temporary, bytes.Replace(b, []byte(from), []byte(to), 1), 0o644); err != nil {
		c.Fatal(err)
	}
	if err := os.Rename(temporary, c.conf(node)); err != nil {
		c.Fatal(err)
	}
}

// A signal in the middle of a pass ends its sessions in order.
func TestADaemonEndsInTheMiddleOfAPass(t *testing.T) {
	t.Parallel()
	c := embeddedWith(t, map[string]string{"node_timeout": "300", "http_timeout": "300", "log_level": "DEBUG"})
	c.load()
	c.wipe(wiped)
	node := c.Nodes()[0]
	if node == c.NodeOf(wiped) {
		node = c.Nodes()[1]
	}
	// Whoever is asked says nothing, for as long as it takes.
	for _, other := range c.Nodes() {
		if other != node {
			if err := c.stop(other); err != nil {
				t.Fatal(err)
			}
		}
	}
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	r := c.runForever(node, "NOTIFY_SOCKET="+systemd.LocalAddr().String(), "WATCHDOG_USEC=60000000", "WATCHDOG_PID=")
	r.await("will be tried again", 1)
	r.signal(syscall.SIGUSR1)
	r.await("sessions under way", 1)
	if status := r.end(syscall.SIGTERM); status != exitDone || strings.Contains(r.text(), completed) {
		t.Errorf("exit status %d", status)
	}
	for _, want := range []string{"READY=1", "WATCHDOG=1", "STOPPING=1"} {
		buf := make([]byte, 100)
		systemd.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := systemd.Read(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("systemd hears %q, %v, want %s", buf[:n], err, want)
		}
	}
}

// rule 38: -d and -p say nothing to a daemon under Swift's name, and are wrong under our own.
func TestADaemonCoversAllDevices(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	o := &reconstructOptions{conf: c.conf(1), swiftConf: c.SwiftConf(), devices: []string{"sd1"}, partitions: []string{"1"}, swiftName: true}
	_, cfg, log, err := prepareReconstruct(o)
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	if o.once || len(cfg.OnlyDevices)+len(cfg.OnlyPartitions) > 0 {
		t.Errorf("once %v, narrowed to %q and %d", o.once, cfg.OnlyDevices, cfg.OnlyPartitions)
	}
	for _, word := range []string{"--devices=sd1", "--partitions=1", "--json"} {
		if status, _, problems := runImping(t, "reconstruct", c.conf(1), word, "--swift-conf", c.SwiftConf()); status != exitFailed || !strings.Contains(problems, "the word `once`") {
			t.Errorf("%s: status %d, %s", word, status, problems)
		}
	}
}

// A pass over partitions that are not here has done nothing, and says so.
func TestPartitionsThatAreNotHereAreAnError(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	c.load()
	status, _, problems := runImping(t, "reconstruct", c.conf(1), "once", "-p", "999999", "--swift-conf", c.SwiftConf())
	if status != exitFailed || !strings.Contains(problems, "none of the partitions given with -p is on a device that the pass covers (sd1, sd2)") {
		t.Errorf("status %d, %s", status, problems)
	}
	var here string
	for _, dir := range []string{"objects", "objects-1"} {
		entries, _ := os.ReadDir(filepath.Join(c.DevicePath("sd1"), dir))
		for _, e := range entries {
			here = e.Name()
		}
	}
	status, out, problems := runImping(t, "reconstruct", c.conf(1), "once", "-p", "999999,"+here, "--swift-conf", c.SwiftConf())
	if status != exitDone || !strings.Contains(out, "partition 999999 is on none of the devices\n") {
		t.Errorf("status %d, %s%s", status, out, problems)
	}
}

// Nothing may pile up in a daemon that makes a pass every half minute for years: over and over a little is lost, rots, lies where it does
// not belong, or a server comes anew. IMPING_PASSES is how many passes are made.
func TestPassesLeaveNothingBehind(t *testing.T) {
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = memProfileRate // as in the daemon
	c, _ := embeddedApart(t)
	loaded, err := scenario.Load(t.Context(), c, scenario.LoadOptions{
		Seed: 8, Policies: []string{"isal42"}, Sizes: []int64{1000, segment, 2*segment + 1}, Kinds: []scenario.Kind{scenario.Posted, scenario.Deleted}, Random: 8, Partitions: 6})
	if err != nil {
		t.Fatal(err)
	}
	before := c.snapshots()
	archives := c.moves(loaded, before)
	number := 30
	if text := os.Getenv("IMPING_PASSES"); text != "" {
		if number, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const here = 1
	o := &reconstructOptions{conf: c.alter(here, filepath.Dir(c.SwiftConf()), "interval = 0"), swiftConf: c.SwiftConf(), swiftName: true}
	sec, cfg, log, err := prepareReconstruct(o)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cfg.Kept = new(pass.Kept)
	// Before each pass the daemon waits until something has been broken.
	begins, broke, ended := make(chan *pass.Progress), make(chan bool), make(chan error, 1)
	o.watch = func(p *pass.Progress) func() {
		begins <- p
		<-broke
		return func() {}
	}
	go func() { ended <- reconstructForever(sec, cfg, log, o) }()
	defer func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case <-begins: // of passes until it has heard
			case broke <- true:
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
	}()

	random := rand.New(rand.NewPCG(1, 2))
	samples := make([]soak.Sample, 0, number)
	var done int64
	broken := map[string]string{} // path by object, of archives that may not be repaired yet
	progress := <-begins
	for begin, n := time.Now(), 0; n < number; n++ {
		m := archives[random.IntN(len(archives))]
		for object := filepath.Dir(m.name); (c.NodeOf(m.to) == here) != (n%4 == 2) || broken[object] != ""; object = filepath.Dir(m.name) {
			m = archives[random.IntN(len(archives))]
		}
		path := filepath.Join(c.DevicePath(m.to), m.name)
		dir := filepath.Dir(path)
		switch {
		case n%40 == 39:
			node := 2 + random.IntN(len(c.Nodes())-1)
			if err := c.stop(node); err != nil {
				t.Fatal(err)
			}
			if err := c.start(node); err != nil {
				t.Fatal(err)
			}
		case n%4 == 2: // here it rots
			broken[filepath.Dir(m.name)] = path
			_, err = scenario.FlipPayloadByte(path, uint64(n))
		case n%2 == 0: // elsewhere it is lost, or its whole suffix
			broken[filepath.Dir(m.name)] = path
			c.invalidate(dir)
			if n%8 == 4 {
				dir = filepath.Dir(dir)
			}
			err = os.RemoveAll(dir)
		default: // a copy of it at one who holds it for others
			for _, dev := range c.Devices(here) {
				if !slices.ContainsFunc(archives, func(o move) bool { return o.to == dev && filepath.Dir(o.name) == filepath.Dir(m.name) }) {
					c.copyArchive(m.name, m.to, dev)
					break
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		broke <- true
		next := <-begins
		s := summarise(progress, pass.Left{})
		done += s.Rebuilt + s.Reverted + s.Removed
		progress = next
		if n%10 == 9 {
			for object, path := range broken { // rot that nobody has come upon is lost now
				if c.NodeOf(filepath.Base(strings.TrimSuffix(path, "/"+object+"/"+filepath.Base(path)))) == here {
					c.invalidate(filepath.Dir(path))
					if err := os.RemoveAll(filepath.Dir(path)); err != nil {
						t.Fatal(err)
					}
				}
			}
			clear(broken)
			for _, node := range c.Nodes()[1:] {
				c.pass(node)
			}
		}
		sample, err := soak.TakeSample(begin)
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, sample)
	}
	t.Logf("%d passes; %d archives rebuilt, moved or removed by them", number, done)
	if done < int64(number)/3 {
		t.Error("which is too few")
	}
	for n := 50; n <= number; n += 50 {
		t.Logf("after pass %d: %+v", n, samples[n-1])
	}
	for _, s := range soak.Slopes(samples) {
		if t.Log(s); s.Grows {
			t.Error("it grows")
		}
	}
	c.allAtHome(archives, loaded)
}
