package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"imping/lab/real"
	"imping/lab/scenario"
	"imping/swift/ring"
)

// quiet makes passes on all nodes, one after the other, until a round leaves and does nothing.
func (c *either) quiet(at string) {
	c.Helper()
	const rounds = 12
	for round := range rounds {
		var did, left int64
		for _, node := range c.Nodes() {
			exit, s := c.pass(node)
			if exit == exitFailed {
				c.Fatalf("%s: node %d: %+v", at, node, s)
			}
			left += s.Left.Objects + s.Left.Partitions + s.Left.Devices + s.Left.Policies + s.Left.Handoffs
			did += s.Rebuilt + s.Reverted + s.Removed + s.Metadata + s.Tombstones
		}
		if left+did == 0 {
			c.Logf("%s: quiet after %d rounds", at, round)
			return
		}
	}
	c.Errorf("%s: not quiet after %d rounds", at, rounds)
}

func (c *either) snapshots() map[string]*scenario.Snapshot {
	all := map[string]*scenario.Snapshot{}
	for _, node := range c.Nodes() {
		for _, dev := range c.Devices(node) {
			all[dev] = c.snapshot(dev)
		}
	}
	return all
}

// After a rebalance passes of ours on all nodes bring every fragment home, as it was, and leave
// nothing where it does not belong; clients read everything all the while. Then the rings are
// as they were before, and so is, in the end, every device, file by file: the way back is Swift's own
// reconstructor's where there is one, which finds before that ours have left it nothing to do.
func TestScenarioARebalance(t *testing.T) {
	onBoth(t, func(c *either) {
		// But for names and metadata that are not ASCII, which Swift's own reverts change.
		loaded, err := scenario.Load(c.Context(), c, scenario.LoadOptions{
			Seed: 21, Policies: []string{"isal42", "lec104"}, Partitions: 4, Random: 2, Sizes: []int64{0, 1, segment - 1, segment, segment + 1, 3 << 20},
			Kinds: []scenario.Kind{scenario.Posted, scenario.Overwritten, scenario.Deleted, scenario.Expiring},
		})
		if err != nil {
			c.Fatal(err)
		}
		before := c.snapshots()
		policies := []string{"isal42", "lec104"}
		read := func(when string) {
			if err := scenario.VerifyGETs(c.Context(), c, loaded); err != nil {
				c.Errorf("%s: %v", when, err)
			}
		}
		undo, err := loaded.Layout.Rebalance(7, policies...)
		if err != nil {
			c.Fatal(err)
		}
		defer func() {
			if err := undo(); err != nil {
				c.Error(err)
			}
		}()
		read("after the rebalance")
		c.pass(1)
		read("after a pass")
		c.quiet("away")
		read("after all passes")

		moved := 0
		after := c.snapshots()
		for dev, s := range before {
			for name, file := range s.Files {
				for _, p := range loaded.Layout.Swift.Policies {
					homes, err := loaded.Layout.Homes(p, name)
					if err != nil {
						c.Fatal(err)
					}
					for _, home := range homes {
						now, ok := after[home].Files[name]
						if !ok || now.SHA256 != file.SHA256 || !maps.Equal(now.Metadata, file.Metadata) {
							c.Errorf("%s of %s is not on %s as it was", name, dev, home)
						}
						if home != dev {
							moved++
						}
					}
					if _, stays := after[dev].Files[name]; stays && len(homes) > 0 && !slices.Contains(homes, dev) {
						c.Errorf("%s is still on %s", name, dev)
					}
				}
			}
		}
		if moved < 20 {
			c.Errorf("only %d archives had to move", moved)
		}
		c.Logf("%d archives moved", moved)
		stock, real := c.Cluster.(scenario.Stock)
		if real {
			if err := scenario.ProveStockAgrees(c.Context(), stock, c.Nodes()...); err != nil {
				c.Error(err)
			}
		}
		if err := undo(); err != nil {
			c.Fatal(err)
		}
		if real {
			for range 2 {
				if err := scenario.Rebuild(c.Context(), c, true, func(ctx context.Context, node int) error {
					_, err := stock.StockReconstructor(ctx, node)
					return err
				}); err != nil {
					c.Fatal(err)
				}
			}
		}
		c.quiet("back")
		for _, s := range before {
			c.same(s)
		}
		read("in the end")
		if err := scenario.NothingQuarantined(c); err != nil {
			c.Error(err)
		}
	})
}

// move is an archive that a rebalance has given another home, or the same.
type move struct {
	name, from, to string
	sum            string
}

// moves are those of all archives of a snapshot, by the rings of now.
func (c *either) moves(loaded *scenario.Loaded, before map[string]*scenario.Snapshot) (moves []move) {
	c.Helper()
	for dev, s := range before {
		for name, file := range s.Files {
			homes, err := loaded.Layout.Homes(loaded.Layout.Swift.ByName("isal42"), name)
			if err != nil {
				c.Fatal(err)
			}
			for _, home := range homes {
				moves = append(moves, move{name, dev, home, file.SHA256})
			}
		}
	}
	slices.SortFunc(moves, func(a, b move) int { return strings.Compare(a.name+a.from, b.name+b.from) })
	return moves
}

// copies are the devices on which an archive is, whole; another one of its name is an error.
func (c *either) copies(m move) (devices []string) {
	c.Helper()
	for _, node := range c.Nodes() {
		for _, dev := range c.Devices(node) {
			b, err := os.ReadFile(filepath.Join(c.DevicePath(dev), m.name))
			switch {
			case os.IsNotExist(err):
			case err != nil:
				c.Error(err)
			case fmt.Sprintf("%x", sha256.Sum256(b)) != m.sum:
				c.Errorf("%s on %s is not what it was", m.name, dev)
			default:
				devices = append(devices, dev)
			}
		}
	}
	return devices
}

// allAtHome makes passes until nothing is left to do; then each archive is at its home alone, and clients read all.
func (c *either) allAtHome(moves []move, loaded *scenario.Loaded) {
	c.Helper()
	c.quiet("in the end")
	for _, m := range moves {
		if on := c.copies(m); !slices.Equal(on, []string{m.to}) {
			c.Errorf("%s is on %v, and belongs on %s", m.name, on, m.to)
		}
	}
	if err := scenario.VerifyGETs(c.Context(), c, loaded); err != nil {
		c.Error(err)
	}
}

// rebalance changes rings until the end of the test; the next one finds a proxy that has forgotten it.
func (c *either) rebalance(loaded *scenario.Loaded, seed uint64, policies ...string) {
	c.Helper()
	undo, err := loaded.Layout.Rebalance(seed, policies...)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		err := undo()
		if l, ok := c.Cluster.(*real.Cluster); ok && err == nil {
			err = l.RestartProxy(context.Background())
		}
		if err != nil {
			c.Error(err)
		}
	})
}

// alter is a node's conf with the rings of another folder, and lines more in the reconstructor's section.
func (c *either) alter(node int, rings string, more ...string) (conf string) {
	c.Helper()
	text, err := os.ReadFile(c.conf(node))
	if err != nil {
		c.Fatal(err)
	}
	const head = "[object-reconstructor]\n"
	altered := regexp.MustCompile(`(?m)^swift_dir = .*$`).ReplaceAllString(string(text), "swift_dir = "+rings)
	altered = strings.Replace(altered, head, head+strings.Join(append(more, ""), "\n"), 1)
	conf = filepath.Join(c.TempDir(), filepath.Base(c.conf(node)))
	if err := os.WriteFile(conf, []byte(altered), 0o644); err != nil {
		c.Fatal(err)
	}
	return conf
}

// The nodes do not agree on where fragments belong: every other one has the rings of before a rebalance. Each takes what is
// at home by the others' rings for misplaced, and brings it to one who does the same: all at once, over and over, also
// where both have it already and each would remove its own, since the other has one (bug 1897177). Those with the old rings are
// Swift's own reconstructors, too. At no time is an archive on no device, nor is an object not readable; when the new rings come to
// all, in the middle of passes, every archive goes to its home, and there is one of each.
func TestScenarioNodesWithDifferentRings(t *testing.T) { // rule 13
	onBoth(t, func(c *either) {
		if _, ok := c.Cluster.(*real.Cluster); ok {
			onlyInSoaks(c.T)
		}
		loaded, err := scenario.Load(c.Context(), c, scenario.LoadOptions{
			Seed: 5, Policies: []string{"isal42"}, Sizes: []int64{1000, segment, 2*segment + 1}, Kinds: []scenario.Kind{}, Random: 8, Partitions: 6})
		if err != nil {
			c.Fatal(err)
		}
		before := c.snapshots()
		etc := filepath.Dir(c.SwiftConf())
		old := etc + "-old" // which Swift's user can reach, too
		if err := os.CopyFS(old, os.DirFS(etc)); err != nil {
			c.Fatal(err)
		}
		defer os.RemoveAll(old)
		c.rebalance(loaded, 4, "isal42")
		newest := etc + "-new"
		if err := os.CopyFS(newest, os.DirFS(etc)); err != nil {
			c.Fatal(err)
		}
		defer os.RemoveAll(newest)
		moves := slices.DeleteFunc(c.moves(loaded, before), func(m move) bool { return m.from == m.to })
		ours, stock := map[int]string{}, map[int]string{}
		for _, node := range c.Nodes() {
			rings := etc
			if node%2 == 1 {
				rings = old
				stock[node] = c.alter(node, rings, "handoffs_only = yes") // a rebuild would hide a loss
			}
			ours[node] = c.alter(node, rings)
		}
		_, haveStock := c.Cluster.(scenario.Stock)
		rounds, twice := 8, 0
		if haveStock {
			rounds = 4 // in which Swift's programs wait for locks, mostly
		}
		for round := range rounds {
			if round%2 == 1 { // what one side has the other gets, too
				for _, m := range moves {
					have := c.copies(m)
					for _, dev := range []string{m.from, m.to} {
						if !slices.Contains(have, dev) && len(have) > 0 {
							c.copyArchive(m.name, have[0], dev)
							twice++
						}
					}
				}
			}
			var passes sync.WaitGroup
			for node, conf := range ours {
				cmd := c.command(node, "--only", "revert")
				cmd.Args[2] = conf
				if theirs := stock[node]; haveStock && theirs != "" && round >= rounds/2 {
					cmd = exec.CommandContext(c.Context(), "/usr/bin/swift-object-reconstructor", theirs, "once")
				}
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				passes.Go(func() {
					if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() != exitLeft {
						c.Errorf("node %d: %v\n%s", node, err, out.Bytes())
					}
				})
			}
			if round == rounds-1 {
				name := ring.Name(loaded.Layout.Swift.ByName("isal42").Index) + ".ring.gz"
				if err := os.Rename(filepath.Join(newest, name), filepath.Join(old, name)); err != nil {
					c.Error(err)
				}
			}
			read := make(chan error, 1)
			go func() { read <- scenario.VerifyGETs(c.Context(), c, loaded) }()
			passes.Wait()
			if err := <-read; err != nil {
				c.Errorf("round %d: while fragments moved: %v", round, err)
			}
			for _, m := range moves {
				if len(c.copies(m)) == 0 {
					c.Fatalf("round %d: %s is on no device", round, m.name)
				}
			}
		}
		c.Logf("%d archives that two homes claim; %d times both had one", len(moves), twice)
		if len(moves) < 20 || twice < 20 {
			c.Error("which is too few")
		}
		c.allAtHome(moves, loaded)
		if err := scenario.NothingQuarantined(c); err != nil {
			c.Error(err)
		}
	})
}

// onlyInSoaks is for what takes long, and was seen to work on an embedded cluster: `make soak` sets the variable.
func onlyInSoaks(t *testing.T) {
	t.Helper()
	if os.Getenv("IMPING_SCENARIOS") == "" {
		t.Skip("`make soak` plays this on a real cluster")
	}
}

// copyArchive puts a file onto another device as an object server would, its suffix being invalidated.
func (c *either) copyArchive(name, from, to string) {
	c.Helper()
	source, target := filepath.Join(c.DevicePath(from), name), filepath.Join(c.DevicePath(to), name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		c.Fatal(err)
	}
	if out, err := exec.CommandContext(c.Context(), "cp", "-a", source, target).CombinedOutput(); err != nil {
		c.Fatalf("%v: %s", err, out)
	}
	c.invalidate(filepath.Dir(target))
	// The servers may be another user's.
	partition := filepath.Join(c.DevicePath(to), strings.Join(strings.Split(name, "/")[:2], "/"))
	if out, err := exec.CommandContext(c.Context(), "chown", "-R", "--reference="+c.DevicePath(to), filepath.Dir(partition)).CombinedOutput(); err != nil {
		c.Fatalf("%v: %s", err, out)
	}
}

// invalidate says, as who changes something must, that the hash of an object directory's suffix is not true any more.
func (c *either) invalidate(dir string) {
	c.Helper()
	suffix := filepath.Dir(dir)
	invalid, err := os.OpenFile(filepath.Join(filepath.Dir(suffix), "hashes.invalid"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = invalid.WriteString(filepath.Base(suffix) + "\n")
		invalid.Close()
	}
	if err != nil {
		c.Fatal(err)
	}
}

// A server, ours or Swift's, is killed as soon as an archive begins to come to a device of its, over and over: what it has is whole or not
// seen, what it has not confirmed stays where it was, and when it is back all goes home.
func TestScenarioServersAreKilledWhileTheyReceiveReverts(t *testing.T) { // law 3
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		c, cluster := embeddedApart(t)
		c.killWhileReceiving(12, cluster.KillNode)
	})
	t.Run("real", func(t *testing.T) {
		onlyInSoaks(t)
		t.Parallel()
		l := startLab(t)
		l.either().killWhileReceiving(5, func(node int) error { return l.KillServer(node, real.ReplicationServer) })
	})
}

func (c *either) killWhileReceiving(most int, kill func(node int) error) {
	loaded, err := scenario.Load(c.Context(), c, scenario.LoadOptions{
		Seed: 9, Policies: []string{"isal42"}, Sizes: []int64{1000, 2*segment + 1, 4 << 20}, Kinds: []scenario.Kind{}, Random: 10, Partitions: 6})
	if err != nil {
		c.Fatal(err)
	}
	before := c.snapshots()
	c.rebalance(loaded, 6, "isal42")
	moves := slices.DeleteFunc(c.moves(loaded, before), func(m move) bool { return m.from == m.to })
	killed, cut := 0, 0
	for _, m := range moves {
		if on := c.copies(m); slices.Contains(on, m.to) || killed == most {
			continue
		}
		cmd := c.command(c.NodeOf(m.from), "--only", "revert", "-d", m.from)
		if err := cmd.Start(); err != nil {
			c.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		partition := strings.Join(strings.Split(m.name, "/")[:3], "/") // with the suffix, which comes with the first byte
		home := filepath.Join(c.DevicePath(m.to), partition)
		for over := false; !over; {
			select {
			case <-ended:
				ended <- nil
				over = true
			default:
				_, err := os.Stat(home)
				over = err == nil
			}
		}
		if err := kill(c.NodeOf(m.to)); err != nil {
			c.Fatal(err)
		}
		killed++
		if !slices.Contains(c.copies(m), m.to) {
			cut++
		}
		for _, m := range moves {
			on := c.copies(m)
			if len(on) == 0 { // it may have moved between two looks
				on = c.copies(m)
			}
			if len(on) == 0 {
				c.Fatalf("%s is on no device", m.name)
			}
		}
		if err := c.start(c.NodeOf(m.to)); err != nil {
			c.Fatal(err)
		}
		<-ended
		for _, m := range moves {
			if len(c.copies(m)) == 0 {
				c.Fatalf("%s is on no device", m.name)
			}
		}
	}
	c.Logf("servers were killed %d times, %d times before the archive was whole, for %d archives", killed, cut, len(moves))
	if killed < 5 {
		c.Error("which is too few")
	}
	c.allAtHome(moves, loaded)
}

// A pass is killed as soon as an archive has come to its new home, over and over, each time at
// another one: at every moment each archive is where it was or where it belongs, whole; in the end all is at home.
func TestScenarioPassesAreKilledWhileTheyRevert(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	loaded, err := scenario.Load(t.Context(), c, scenario.LoadOptions{
		Seed: 3, Policies: []string{"isal42"}, Sizes: []int64{1000, segment, 2*segment + 1}, Kinds: []scenario.Kind{}, Random: 12, Partitions: 6})
	if err != nil {
		t.Fatal(err)
	}
	before := c.snapshots()
	if _, err := loaded.Layout.Rebalance(4, "isal42"); err != nil {
		t.Fatal(err)
	}
	moves := c.moves(loaded, before)
	safe := func(when string) {
		now := c.snapshots()
		for _, m := range moves {
			old, stays := now[m.from].Files[m.name]
			came, there := now[m.to].Files[m.name]
			if !(stays && old.SHA256 == m.sum) && !(there && came.SHA256 == m.sum) {
				t.Errorf("%s: %s is neither on %s nor on %s", when, m.name, m.from, m.to)
			}
			if there && came.SHA256 != m.sum {
				t.Errorf("%s: %s on %s is not what it was", when, m.name, m.to)
			}
		}
	}
	killed := 0
	for _, m := range moves {
		home := filepath.Join(c.DevicePath(m.to), m.name)
		if _, err := os.Stat(home); err == nil || m.from == m.to {
			continue
		}
		cmd := c.command(c.NodeOf(m.from))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
	wait:
		for {
			select {
			case <-ended:
				ended <- nil
				break wait
			default:
			}
			if _, err := os.Stat(home); err == nil {
				killed++
				break
			}
		}
		cmd.Process.Kill()
		<-ended
		safe("killed at " + m.name)
	}
	t.Logf("%d passes were killed, for %d archives", killed, len(moves))
	if killed < 5 {
		t.Errorf("only %d passes were killed", killed)
	}
	c.quiet("in the end")
	for _, m := range moves {
		if _, err := os.Stat(filepath.Join(c.DevicePath(m.to), m.name)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(c.DevicePath(m.from), m.name)); m.from != m.to && err == nil {
			t.Errorf("%s is still on %s", m.name, m.from)
		}
	}
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err != nil {
		t.Error(err)
	}
}
