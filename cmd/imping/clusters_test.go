package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"imping/engine/pass"
	"imping/lab/embedded"
	"imping/lab/real"
	"imping/lab/scenario"
	"imping/swift/ring"
)

// either is a cluster of either kind: what is said of it holds for both.
type either struct {
	scenario.Cluster
	*testing.T
	conf        func(node int) string
	stop, start func(node int) error // of the server that partners talk to
}

// onBoth runs a scenario on a cluster in this process, and on one of Swift's own servers. The
// first needs no root. Both at once: while one waits for a node that is down, the other works.
func onBoth(t *testing.T, play func(*either)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		play(startEmbedded(t))
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		play(startLab(t).either())
	})
}

func (l *lab) either() *either {
	return &either{l.Cluster, l.T, l.ReplicationConf,
		func(node int) error { return l.StopServer(node, real.ReplicationServer) },
		func(node int) error { return l.StartServer(l.Context(), node, real.ReplicationServer) }}
}

// startEmbedded is for what does not depend on who serves the nodes, too. A failed test shows the cluster's logs.
func startEmbedded(t *testing.T) *either {
	t.Helper()
	c, err := embedded.Start(embedded.Options{Root: t.TempDir(), Server: map[string]string{"replication_lock_timeout": "3"}}) // as startLab
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.DumpLogs(os.Stderr)
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return &either{c, t, c.Conf, c.StopNode, c.StartNode}
}

// embeddedApart is startEmbedded with a process for each node.
func embeddedApart(t *testing.T) (*either, *embedded.Cluster) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := embedded.Start(embedded.Options{Root: t.TempDir(), Serve: func(conf, swiftConf string) *exec.Cmd {
		cmd := exec.Command(exe, "serve", conf, "--swift-conf", swiftConf)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		return cmd
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			cluster.DumpLogs(os.Stderr)
		}
		if err := cluster.Remove(); err != nil {
			t.Error(err)
		}
	})
	return &either{cluster, t, cluster.Conf, cluster.StopNode, cluster.StartNode}, cluster
}

// command is a pass that is yet to be made.
func (c *either) command(node int, args ...string) *exec.Cmd {
	c.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.CommandContext(c.Context(), exe, append([]string{"reconstruct", c.conf(node), "once", "--json", "--swift-conf", c.SwiftConf()}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// pass makes a pass of `imping reconstruct` on a node, as an operator does.
func (c *either) pass(node int, args ...string) (int, summary) {
	c.Helper()
	cmd := c.command(node, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	var s summary
	if broken := json.Unmarshal(out.Bytes(), &s); broken != nil {
		c.Fatalf("node %d: %v, %v\n%s%s", node, err, broken, out.Bytes(), problems.Bytes())
	}
	return cmd.ProcessState.ExitCode(), s
}

// passes makes one on every node; none may leave anything.
func (c *either) passes() (rebuilt int64) {
	c.Helper()
	for _, node := range c.Nodes() {
		exit, s := c.pass(node)
		if exit != exitDone || s.Left.Any() {
			c.Errorf("node %d: status %d, %+v", node, exit, s)
		}
		rebuilt += s.Rebuilt
	}
	return rebuilt
}

func (c *either) snapshot(dev string) *scenario.Snapshot {
	c.Helper()
	s, err := scenario.TakeSnapshot(c, dev, "")
	if err != nil {
		c.Fatal(err)
	}
	return s
}

func (c *either) wipe(dev string) {
	c.Helper()
	if err := scenario.Wipe(c, dev); err != nil {
		c.Fatal(err)
	}
}

func (c *either) same(before *scenario.Snapshot) {
	c.Helper()
	after, err := before.Retake()
	if err != nil {
		c.Fatal(err)
	}
	if report := scenario.Compare(before, after); !report.OK() {
		c.Errorf("%s: %v", before.Device, report)
	}
}

func (c *either) load() *scenario.Loaded {
	c.Helper()
	loaded, err := scenario.Load(c.Context(), c, scenario.LoadOptions{
		Seed: 21, Policies: []string{"isal42", "lec104"}, Victim: wiped, Partitions: 4, Random: 2,
		Sizes: []int64{0, 1, segment - 1, segment, segment + 1, 3 << 20},
	})
	if err != nil {
		c.Fatal(err)
	}
	return loaded
}

// A wiped device comes back, byte for byte, whoever serves the nodes; then there is nothing to
// do, and clients read what they stored.
func TestScenarioAWipedDevice(t *testing.T) {
	onBoth(t, func(c *either) {
		loaded := c.load()
		before := c.snapshot(wiped)
		c.wipe(wiped)
		if n := c.passes(); n < int64(before.Archives()) {
			c.Errorf("%d archives were rebuilt, and %d were lost", n, before.Archives())
		}
		c.same(before)
		if n := c.passes(); n != 0 {
			c.Errorf("second passes have rebuilt %d archives", n)
		}
		if err := scenario.VerifyGETs(c.Context(), c, loaded); err != nil {
			c.Error(err)
		}
		if err := scenario.NothingQuarantined(c); err != nil {
			c.Error(err)
		}
	})
}

// neighbour is a partner of the wiped device for the object's partition, on another node.
func (c *either) neighbour(l *scenario.Layout, o *scenario.Object) (dev, part string) {
	c.Helper()
	primaries := l.Primaries(o)
	at := slices.IndexFunc(primaries, func(n ring.Node) bool { return n.Device.Device == wiped })
	// A node has two devices: only one of the two beside it can be its own.
	for _, side := range []int{1, len(primaries) - 1} {
		dev = primaries[(at+side)%len(primaries)].Device.Device
		if c.NodeOf(dev) != c.NodeOf(wiped) {
			return dev, strconv.Itoa(l.Partition(o))
		}
	}
	c.Fatalf("%v has no partner on another node", o)
	return "", ""
}

// A survivor that has rotted is found while a wiped device is rebuilt: the archive is made of
// others, the rotten one quarantined and, by another pass, rebuilt too.
func TestScenarioARottenSurvivor(t *testing.T) {
	onBoth(t, func(c *either) {
		loaded := c.load()
		o := loaded.Objects[slices.IndexFunc(loaded.Objects, func(o *scenario.Object) bool { return o.Policy.Name == "lec104" && o.Size == 3<<20 })]
		rotten, part := c.neighbour(loaded.Layout, o)
		archive, err := loaded.Layout.Archive(o, rotten)
		if err != nil {
			c.Fatal(err)
		}
		before, survivor := c.snapshot(wiped), c.snapshot(rotten)
		if _, err := scenario.FlipPayloadByte(archive, 3); err != nil {
			c.Fatal(err)
		}
		c.wipe(wiped)
		// Its own archive is the first that a pass takes.
		if exit, s := c.pass(c.NodeOf(rotten), "-p", part, "-d", rotten); exit == exitFailed || s.Quarantined != 1 {
			c.Errorf("status %d, %+v", exit, s)
		}
		if _, err := os.Stat(archive); !os.IsNotExist(err) {
			c.Errorf("the rotten archive is where it was: %v", err)
		}
		c.passes()
		c.same(before)
		c.same(survivor)
		if err := scenario.VerifyGETs(c.Context(), c, loaded); err != nil {
			c.Error(err)
		}
	})
}

// What a node that is down misses is left, and said to be; once it is back a pass completes
// it. One partition is enough: each is tried for a while.
func TestScenarioANodeThatIsDown(t *testing.T) {
	onBoth(t, func(c *either) {
		loaded := c.load()
		before := c.snapshot(wiped)
		partner, part := c.neighbour(loaded.Layout, loaded.Objects[0])
		c.wipe(wiped)
		if err := c.stop(c.NodeOf(wiped)); err != nil {
			c.Fatal(err)
		}
		if exit, s := c.pass(c.NodeOf(partner), "-p", part); exit != exitLeft || !s.Left.Any() {
			c.Errorf("the partner that is away: status %d, %+v", exit, s)
		}
		if again := c.snapshot(wiped); len(again.Files) > 0 {
			c.Errorf("%d files were written on the node that is down", len(again.Files))
		}
		if err := c.start(c.NodeOf(wiped)); err != nil {
			c.Fatal(err)
		}
		c.passes()
		c.same(before)
	})
}

// Peers that lie spoil only their own part: the left, right and far partner of a partition each
// answer in a way of their own, in Swift's place, and each is left and named.
func TestHostilePeersAreLeftAndCounted(t *testing.T) {
	t.Parallel() // a pass lets such peers be between its tries: most of this is waiting
	c := startEmbedded(t)
	loaded, err := scenario.Load(t.Context(), c, scenario.LoadOptions{
		Seed: 5, Policies: []string{"isal42"}, Victim: wiped, Sizes: []int64{1000, 2000, segment + 1}, Kinds: []scenario.Kind{}})
	if err != nil {
		t.Fatal(err)
	}
	says := []struct{ name, say, reason string }{
		{"a pickle that would run a program", "HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n\x80\x02cposix\nsystem\nU\x02idR.....", "is not allowed"},
		{"an answer that ends early", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n\x80\x02}q", "broke off at byte 4 of 1000"},
		{"no HTTP", "SSH-2.0-OpenSSH_9.2\r\n", "the head broke off"},
	}
	nodes := loaded.Layout.Primaries(loaded.Objects[0])
	at := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == wiped })
	own := map[int]bool{c.NodeOf(wiped): true}
	var partners []ring.Node
	for i, offset := range []int{len(nodes) - 1, 1, len(nodes) / 2} {
		n := nodes[(at+offset)%len(nodes)]
		node := c.NodeOf(n.Device.Device)
		if own[node] {
			t.Fatalf("%s, a partner of %s, is on a node that %q has already", n.Device.Device, wiped, says[i].name)
		}
		own[node] = true
		partners = append(partners, n)
	}
	part := loaded.Layout.Partition(loaded.Objects[0])
	var stops []func()
	for i, n := range partners {
		if err := c.stop(c.NodeOf(n.Device.Device)); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, liar(t, ringAddress(n), says[i].say))
	}
	exit, s := c.pass(c.NodeOf(wiped), "-d", wiped, "-p", strconv.Itoa(part))
	for _, stop := range stops {
		stop()
	}
	for _, n := range partners {
		if err := c.start(c.NodeOf(n.Device.Device)); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range partners {
		t.Run(says[i].name, func(t *testing.T) {
			named := slices.ContainsFunc(s.Unrepaired, func(u *pass.Unrepaired) bool {
				return u.Partition == part && u.Target == ringAddress(n)+"/"+n.Device.Device && strings.Contains(u.Reason, says[i].reason)
			})
			if exit != exitLeft || s.Left.Partitions == 0 || !named {
				t.Errorf("status %d, %+v: a partner that can't be compared is something left, because %s", exit, s, says[i].reason)
				for _, u := range s.Unrepaired {
					t.Logf("%+v", u)
				}
			}
		})
	}
	c.passes()
}

// runDemo runs `imping demo` as a user does.
func runDemo(t *testing.T, args ...string) (exit int, out, problems string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, append([]string{"demo", "--dir", t.TempDir()}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

func TestDemoEndsWithItsProof(t *testing.T) {
	exit, out, problems := runDemo(t, "--objects", "4", "--losses", "2", "--policy", "isa_l_rs_vand 4+2, flat_xor_hd_3 3+3")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var n, all int
	if _, err := fmt.Sscanf(lines[len(lines)-1], "rebuilt %d of %d fragment archives, all byte-identical", &n, &all); err != nil || exit != exitDone || n != all || n < 20 {
		t.Errorf("status %d, %v\n%s%s", exit, err, out, problems)
	}
	for _, text := range []string{"wiped sd5, sd11, with ", "archives/s", "limited by "} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in\n%s", text, out)
		}
	}
}

func TestDemoFailsWhenAByteIsWrong(t *testing.T) {
	exit, out, problems := runDemo(t, "--objects", "1", "--policy", "isa_l_rs_vand 2+1", "--corrupt-one")
	if exit != exitFailed || !strings.Contains(problems, "what was rebuilt differs from what was lost") || !strings.Contains(problems, "1 of other bytes:") ||
		strings.Contains(out, "byte-identical") || !strings.Contains(out, "flipped byte ") {
		t.Errorf("status %d\n%s%s", exit, out, problems)
	}
}

func TestDemoTellsMachinesToo(t *testing.T) {
	exit, out, problems := runDemo(t, "--objects", "3", "--policy", "isa_l_rs_vand 2+1", "--nodes", "3", "--devices", "1", "--size", "1MiB", "--json", "--keep")
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || exit != exitDone {
		t.Fatalf("status %d, %v\n%s%s", exit, err, out, problems)
	}
	if r.Archives != 3 || r.Rebuilt < 3 || r.Bytes < 3*(512<<10) || r.ObjectBytes != 3<<20 || r.Rounds < 1 || r.Sessions < 1 || !r.Identical || r.Seconds <= 0 || r.CPU <= 0 || r.Share > 1 || r.LimitedBy == "" {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(r.Folder + "/etc/swift.conf"); err != nil {
		t.Errorf("--keep: %v", err)
	}
}

func TestDemoRefusesNonsense(t *testing.T) {
	for args, want := range map[string]string{
		"--nodes 3":                              "have 6: raise --nodes or --devices",
		"--losses 5":                             "survives the loss of 4 at most",
		"--losses 0":                             "nothing to rebuild",
		"--policy raid":                          "not a scheme such as",
		"--policy foo~4+2":                       "types are flat_xor_hd_3,",
		"--policy isa_l_rs_vand~2+1,":            "not a scheme such as",
		"--policy isa_l_rs_vand~300+1":           "more than 256 fragments",
		"--policy isa_l_rs_vand~4+5":             "can lose data",
		"--policy flat_xor_hd_3~5+5 --losses 3":  "no others make them",
		"--size much":                            "not a size such as",
		"--size 6GiB":                            "is 5GiB",
		"--objects 0":                            "--objects 0",
		"--nodes 201":                            "--nodes 201",
		"--devices 0":                            "--devices 0",
		"--objects 10000000 --size 5GiB":         "has room for",
		"--dir /proc --objects 1":                "--dir or TMPDIR",
		"unexpected":                             "unexpected",
		"--policy isa_l_rs_vand~2+1 --nodes two": "--nodes",
	} {
		var argv []string
		for _, a := range strings.Fields(args) {
			argv = append(argv, strings.ReplaceAll(a, "~", " "))
		}
		exit, out, problems := runDemo(t, argv...)
		if exit != exitFailed || !strings.Contains(problems, want) || strings.Contains(out, "stored") {
			t.Errorf("%s: status %d, not %q\n%s%s", args, exit, want, out, problems)
		}
	}
}

// What limited a run is told from what was measured, and nothing is made up.
func TestLimitIsJudgedByWhatWasMeasured(t *testing.T) {
	p := func(f float64) *float64 { return &f }
	for _, c := range []struct {
		load load
		want string
	}{
		{load{Processors: 2, Share: 0.9, ForCPU: p(0.9), ForDisk: p(0.9)}, "the processors: nodes and passes had 90 % of 2"},
		{load{Processors: 1, Share: 1}, "the processors: nodes and passes had 100 % of the one there is"},
		{load{Processors: 2, Share: 0.3}, "something else than the processors, of which nodes and passes had 30 % of 2; this kernel tells no more"},
		{load{Processors: 2, Share: 0.3, ForCPU: p(0.2), ForDisk: p(0.8)}, "the disk: somebody on this machine waited for it 80 % of the time"},
		{load{Processors: 2, Share: 0.3, ForCPU: p(0.8), ForDisk: p(0.2)}, "the processors, which others use too"},
		{load{Processors: 2, Share: 0.3, ForCPU: p(0.2), ForDisk: p(0.2)}, "nothing alone"},
	} {
		if got := c.load.judge(); !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: %q, not %q", c.load, got, c.want)
		}
	}
	w := startLoad()
	if l := w.end(); l.Seconds <= 0 || l.Processors < 1 || l.Share < 0 || l.Share > 1 || l.LimitedBy == "" {
		t.Errorf("%+v", l)
	}
}

func TestDemoLeavesNothingAfterASignal(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), exe, "demo", "--dir", dir)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems bytes.Buffer
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "serving ") {
		t.Errorf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if exit := cmd.ProcessState.ExitCode(); exit != exitFailed || !strings.Contains(problems.String(), "ended early by a signal") {
		t.Errorf("status %d\n%s", exit, problems.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
