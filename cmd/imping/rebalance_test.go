package main

import (
	"context"
	"maps"
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
		loaded := c.load()
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
