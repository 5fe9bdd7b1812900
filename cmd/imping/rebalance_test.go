package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imping/lab/scenario"
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
	type move struct {
		name, from, to string
		sum            string
	}
	var moves []move
	for dev, s := range before {
		for name, file := range s.Files {
			homes, err := loaded.Layout.Homes(loaded.Layout.Swift.ByName("isal42"), name)
			if err != nil {
				t.Fatal(err)
			}
			for _, home := range homes {
				moves = append(moves, move{name, dev, home, file.SHA256})
			}
		}
	}
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
