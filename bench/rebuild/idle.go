package rebuild

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"imping/codec"
	"imping/lab/scenario"
)

// IdleCase is a node where nothing is lost.
type IdleCase struct {
	Servers    Servers
	Scheme     codec.Scheme
	Partitions int // of the node's devices together
}

// IdleRow is what passes over it cost with one engine.
type IdleRow struct {
	Engine     string         `json:"engine"`
	Partitions int            `json:"partitions"`
	Samples    []Sample       `json:"samples"`
	Requests   map[string]int `json:"requests"`
}

var passLine = regexp.MustCompile(`(\d+)/\d+ \(100\.00%\) partitions reconstructed`)

// RunIdle measures passes over a node with nothing to do, of Swift's reconstructor and of imping.
func RunIdle(ctx context.Context, o Options, ic *IdleCase) (rows []*IdleRow, err error) {
	// An object in each partition, of which every device of the cluster has an archive if there are as many as archives.
	each := ic.Partitions / devicesPerNode
	if ic.Scheme.K+ic.Scheme.M != nodes*devicesPerNode || each > 1<<partPower {
		return nil, fmt.Errorf("%d partitions of %s: %d at most, of as many archives as devices (%d)", ic.Partitions, ic.Scheme, devicesPerNode<<partPower, nodes*devicesPerNode)
	}
	l := &Load{Servers: ic.Servers, Scheme: ic.Scheme, Size: 1024, Objects: each, Losses: 1}
	c, end, err := newCluster(ctx, &o, l)
	if err != nil {
		return nil, err
	}
	defer func() { end(err) }()
	fmt.Fprintf(o.Out, "nothing to do, %s, %d partitions, %s servers: storing\n", ic.Scheme, ic.Partitions, ic.Servers)
	taken := map[int]bool{}
	_, err = scenario.Load(ctx, c, scenario.LoadOptions{Seed: 1, Policies: []string{policyName}, Kinds: []scenario.Kind{}, Concurrency: 8,
		Sizes: slices.Repeat([]int64{l.Size}, each),
		In: func(part int) bool { // it is asked until it says yes
			was := taken[part]
			taken[part] = true
			return !was
		}})
	if err != nil {
		return nil, err
	}
	for _, node := range c.Nodes() {
		if err := c.settle(ctx, node); err != nil {
			return nil, err
		}
	}
	conf := c.ReplicationConf(1)
	argvs := map[string][]string{
		EngineStock: {stockReconstructor, conf, "once", "-v"},
		"imping":    {o.Imping, "reconstruct", conf, "once", "-v", "--swift-conf", c.SwiftConf()},
	}
	pass := func(r *IdleRow) (Sample, error) {
		s, out, err := run(ctx, c, argvs[r.Engine])
		if err != nil {
			return s, fmt.Errorf("%s: %w", r.Engine, err)
		}
		want := fmt.Sprint(ic.Partitions)
		if m := passLine.FindSubmatch(out); m == nil || string(m[1]) != want {
			return s, fmt.Errorf("%s did not look at %s partitions:\n%s", r.Engine, want, out)
		}
		return s, nil
	}
	rows = []*IdleRow{{Engine: EngineStock, Partitions: ic.Partitions}, {Engine: "imping", Partitions: ic.Partitions}}
	for round := range o.Rounds {
		for _, r := range rows {
			s, err := pass(r)
			if err != nil {
				return nil, err
			}
			r.Samples = append(r.Samples, s)
			fmt.Fprintf(o.Out, "nothing to do, round %d, %s: wall %.3f s, CPU %.3f s, servers' CPU %.3f s\n", round+1, r.Engine, s.Wall, s.CPU, s.ServerCPU)
		}
	}
	if err := c.logRequests(ctx); err != nil {
		return nil, err
	}
	for _, r := range rows {
		mark, err := c.Mark()
		if err != nil {
			return nil, err
		}
		if _, err := pass(r); err != nil {
			return nil, err
		}
		lines, err := c.Log(mark)
		if err != nil {
			return nil, err
		}
		r.Requests = requests(lines)
	}
	return rows, nil
}

func idleTable(rows []*IdleRow) string {
	var b strings.Builder
	b.WriteString("| engine | partitions | wall s | CPU s | servers' CPU s | peak RSS MiB | REPLICATE requests | CPU / stock's | servers' CPU / stock's |\n|---|---|---|---|---|---|---|---|---|\n")
	stock := &Row{Samples: rows[0].Samples}
	for _, i := range rows {
		r, c, s := &Row{Samples: i.Samples}, "", ""
		if i != rows[0] {
			c, s = ratio(r, stock, cpu), ratio(r, stock, servers)
		}
		fmt.Fprintf(&b, "| %s | %d | %.2f | %.3f | %.2f | %.0f | %d | %s | %s |\n", i.Engine, i.Partitions,
			r.median(wall), r.median(cpu), r.median(servers), r.median(rss), i.Requests["REPLICATE"], c, s)
	}
	return b.String()
}
