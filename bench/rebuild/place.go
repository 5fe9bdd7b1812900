package rebuild

import (
	"fmt"

	"imping/lab/scenario"
	"imping/swift/policy"
	"imping/swift/ring"
)

// place is where a load lies: in partitions in which the same device is a neighbour of the same victims, so that one pass over that
// device, as its node's daemon makes it, repairs all of them.
type place struct {
	layout     *scenario.Layout
	policy     *policy.Policy
	node       int    // that makes the pass
	dev        string // over this device of it
	victims    []string
	partitions map[int]bool
}

func (p *place) has(part int) bool { return p.partitions[part] }

// choose takes the neighbours that most partitions have: the device, the one right of it and, with two losses, the one left of it, each on
// another node.
func choose(c scenario.Cluster, layout *scenario.Layout, losses int) (*place, error) {
	pol := layout.Swift.ByName(policyName)
	if pol == nil {
		return nil, fmt.Errorf("the cluster has no policy %s", policyName)
	}
	if losses < 1 || losses > 2 {
		return nil, fmt.Errorf("%d losses: one device or both neighbours of one can be lost", losses)
	}
	r := layout.Ring(pol)
	found := map[[3]string]map[int]bool{}
	best := [3]string{}
	for part := range r.Partitions() {
		nodes := r.PartNodes(part)
		name := func(i int) string { return nodes[(i+len(nodes))%len(nodes)].Device.Device }
		for i := range nodes {
			key := [3]string{name(i), name(i + 1)}
			if losses == 2 {
				key[2] = name(i - 1)
			}
			if !apart(c, nodes, key) {
				continue
			}
			if found[key] == nil {
				found[key] = map[int]bool{}
			}
			found[key][part] = true
			if len(found[key]) > len(found[best]) {
				best = key
			}
		}
	}
	if best[0] == "" {
		return nil, fmt.Errorf("no partition of %s has neighbours on %d nodes", policyName, losses+1)
	}
	return &place{layout: layout, policy: pol, node: c.NodeOf(best[0]), dev: best[0], victims: best[1 : 1+losses], partitions: found[best]}, nil
}

func apart(c scenario.Cluster, nodes []ring.Node, devices [3]string) bool {
	if len(nodes) < 3 {
		return false
	}
	seen := map[int]bool{}
	for _, d := range devices {
		if d == "" {
			continue
		}
		if n := c.NodeOf(d); seen[n] {
			return false
		} else {
			seen[n] = true
		}
	}
	return true
}
