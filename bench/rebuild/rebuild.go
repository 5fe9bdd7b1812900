// Package rebuild measures reconstruction passes on a real cluster: Swift's own
// reconstructor and imping repair the same wiped device in turn, and each repair is
// compared with what was lost. It measures; what repairs is a command line to it.
package rebuild

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"imping/lab/real"
	"imping/lab/scenario"
	"imping/swift/ring"
)

// Shape is a load of equal objects.
type Shape struct {
	Name    string
	Policy  string
	Objects int
	Size    int64
}

// Shapes are the loads that BENCHMARKS.md shows.
func Shapes() []Shape {
	return []Shape{
		{Name: "64 x 16 MiB", Policy: "isal104", Objects: 64, Size: 16 << 20},
		{Name: "2000 x 64 KiB", Policy: "isal104", Objects: 2000, Size: 64 << 10},
	}
}

// Idle is the name of the pass with nothing to do.
const Idle = "nothing to do"

// Options of a run.
type Options struct {
	Root   string // an empty folder for the cluster
	Imping string // the program, to be called as swift-object-reconstructor
	Rounds int    // of each shape and engine; medians are shown
	Shapes []Shape
	Out    io.Writer // progress, for people
}

// Engine is a reconstructor: stock or imping.
type Engine struct {
	Name    string
	Program string
}

// Sample is one pass.
type Sample struct {
	Wall, CPU, ServerCPU time.Duration
	PeakRSS              int64 // bytes
}

// Row is what was measured of one shape with one engine.
type Row struct {
	Shape, Engine string
	Archives      int
	Bytes         int64 // rebuilt
	Partitions    string
	Samples       []Sample
	Requests      map[string]int // by verb, in a pass of its own at log level DEBUG
}

const (
	victim = "sd5" // the device that is wiped
	user   = "swift"
)

// Run loads each shape into a cluster of its own and measures both engines in turn.
func Run(ctx context.Context, o Options) ([]*Row, error) {
	engines := []Engine{{"stock", "/usr/bin/swift-object-reconstructor"}, {"imping", o.Imping}}
	var rows []*Row
	for i, shape := range o.Shapes {
		part, err := runShape(ctx, o, shape, engines, i == len(o.Shapes)-1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", shape.Name, err)
		}
		rows = append(rows, part...)
	}
	return rows, nil
}

func runShape(ctx context.Context, o Options, shape Shape, engines []Engine, idle bool) (rows []*Row, err error) {
	root := filepath.Join(o.Root, shape.Policy)
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	options := real.Options{Root: root, User: user}
	c, err := real.Start(ctx, options)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			c.DumpLogs(o.Out)
		}
		c.Stop()
	}()
	fmt.Fprintf(o.Out, "%s: storing\n", shape.Name)
	last := time.Now()
	loaded, err := scenario.Load(ctx, c, scenario.LoadOptions{
		Seed: 1, Policies: []string{shape.Policy}, Victim: victim, Kinds: []scenario.Kind{},
		Sizes: slices.Repeat([]int64{shape.Size}, shape.Objects),
		Progress: func(n, all int, _ string) {
			if time.Since(last) > 10*time.Second {
				last = time.Now()
				fmt.Fprintf(o.Out, "  %d of %d\n", n, all)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	// Settled: every suffix hash is on disk, so that no engine pays for the other.
	for _, node := range c.Nodes() {
		if _, err := c.StockReconstructor(ctx, node); err != nil {
			return nil, err
		}
	}
	before, err := scenario.TakeSnapshot(c, victim, "")
	if err != nil {
		return nil, err
	}
	node, dev, err := leftOf(c, loaded)
	if err != nil {
		return nil, err
	}
	var bytes int64
	for _, f := range before.Files {
		bytes += f.Size
	}
	for _, e := range engines {
		rows = append(rows, &Row{Shape: shape.Name, Engine: e.Name, Archives: before.Archives(), Bytes: bytes})
	}
	for round := range o.Rounds {
		for i, e := range engines {
			s, _, err := repair(ctx, c, e, node, dev, before)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Name, err)
			}
			rows[i].Samples = append(rows[i].Samples, s)
			fmt.Fprintf(o.Out, "%s, round %d, %s: wall %.2f s, CPU %.2f s, servers' CPU %.2f s, peak RSS %d MiB\n",
				shape.Name, round+1, e.Name, s.Wall.Seconds(), s.CPU.Seconds(), s.ServerCPU.Seconds(), s.PeakRSS>>20)
		}
	}
	if idle {
		resting, err := runIdle(ctx, o, c, engines, node)
		if err != nil {
			return nil, err
		}
		rows = append(rows, resting...)
	}

	// The servers name the requests of reconstructors only at DEBUG, which costs CPU:
	// they are counted in passes of their own.
	c.Stop()
	options.LogLevel = "DEBUG"
	if c, err = real.Start(ctx, options); err != nil {
		return nil, err
	}
	for i, e := range engines {
		mark, err := c.Mark()
		if err != nil {
			return nil, err
		}
		if _, _, err := repair(ctx, c, e, node, dev, before); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		lines, err := c.Log(mark)
		if err != nil {
			return nil, err
		}
		rows[i].Requests = requests(lines)
	}
	return rows, nil
}

// repair wipes the victim, lets the engine repair it from one device of one node, and
// compares.
func repair(ctx context.Context, c *real.Cluster, e Engine, node int, dev string, before *scenario.Snapshot) (Sample, string, error) {
	if err := scenario.Wipe(c, victim); err != nil {
		return Sample{}, "", err
	}
	s, out, err := measure(ctx, c, e, c.ReplicationConf(node), "once", "-v", "-d", dev)
	if err != nil {
		return s, out, err
	}
	after, err := before.Retake()
	if err != nil {
		return s, out, err
	}
	if report := scenario.Compare(before, after); !report.OK() {
		return s, out, fmt.Errorf("the device differs from the lost one: %v", report)
	}
	return s, out, nil
}

// measure runs one pass. Its output holds the log lines.
func measure(ctx context.Context, c *real.Cluster, e Engine, args ...string) (Sample, string, error) {
	cpu, err := c.CPU(real.ReplicationServer)
	if err != nil {
		return Sample{}, "", err
	}
	var out bytes.Buffer
	began := time.Now()
	exit, usage, err := c.Run(ctx, &out, append([]string{e.Program}, args...)...)
	if err != nil {
		return Sample{}, "", err
	}
	s := Sample{Wall: time.Since(began), PeakRSS: usage.Maxrss << 10}
	if exit != 0 {
		return s, out.String(), fmt.Errorf("the pass ended with status %d:\n%s", exit, out.String())
	}
	s.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	after, err := c.CPU(real.ReplicationServer)
	s.ServerCPU = after - cpu
	return s, out.String(), err
}

var passLine = regexp.MustCompile(`(\d+)/\d+ \(100\.00%\) partitions reconstructed`)

func runIdle(ctx context.Context, o Options, c *real.Cluster, engines []Engine, node int) ([]*Row, error) {
	var rows []*Row
	for _, e := range engines {
		rows = append(rows, &Row{Shape: Idle, Engine: e.Name})
	}
	for round := range 2*o.Rounds + 1 {
		for i, e := range engines {
			s, out, err := measure(ctx, c, e, c.ReplicationConf(node), "once", "-v")
			if err != nil {
				return nil, err
			}
			if m := passLine.FindStringSubmatch(out); m != nil {
				rows[i].Partitions = m[1]
			}
			rows[i].Samples = append(rows[i].Samples, s)
			fmt.Fprintf(o.Out, "%s, round %d, %s: wall %.2f s, CPU %.2f s, servers' CPU %.2f s\n", Idle, round+1, e.Name, s.Wall.Seconds(), s.CPU.Seconds(), s.ServerCPU.Seconds())
		}
	}
	return rows, nil
}

// leftOf finds the node and device that are the victim's left partner in every partition
// of the load: one pass over that device repairs all.
func leftOf(c *real.Cluster, loaded *scenario.Loaded) (node int, dev string, err error) {
	for _, obj := range loaded.Objects {
		nodes := loaded.Layout.Primaries(obj)
		i := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == victim })
		left := nodes[(i-1+len(nodes))%len(nodes)].Device.Device
		if dev != "" && left != dev {
			return 0, "", fmt.Errorf("both %s and %s are left of %s: no single device repairs it", dev, left, victim)
		}
		dev = left
	}
	return c.NodeOf(dev), dev, nil
}

var requestLine = regexp.MustCompile(`^object-replication-\d+: .*"(GET|REPLICATE|SSYNC|PUT|HEAD) /sd`)

func requests(lines []string) map[string]int {
	n := make(map[string]int)
	for _, l := range lines {
		if m := requestLine.FindStringSubmatch(l); m != nil {
			n[m[1]]++
		}
	}
	return n
}

func median(samples []Sample, of func(Sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// Table is the rows as Markdown, with the ratio of imping to stock under each pair.
func Table(rows []*Row) string {
	var b strings.Builder
	b.WriteString("| load | engine | wall s | CPU s | CPU per GiB rebuilt, or per archive | object servers' CPU s | peak RSS MiB | requests per archive |\n|---|---|---|---|---|---|---|---|\n")
	for i, r := range rows {
		wall := median(r.Samples, func(s Sample) float64 { return s.Wall.Seconds() })
		cpu := median(r.Samples, func(s Sample) float64 { return s.CPU.Seconds() })
		servers := median(r.Samples, func(s Sample) float64 { return s.ServerCPU.Seconds() })
		rss := median(r.Samples, func(s Sample) float64 { return float64(s.PeakRSS) / (1 << 20) })
		per := "-"
		switch {
		case r.Archives > 0 && r.Bytes/int64(r.Archives) >= 1<<20:
			per = fmt.Sprintf("%.1f s/GiB", cpu/float64(r.Bytes)*(1<<30))
		case r.Archives > 0:
			per = fmt.Sprintf("%.2f ms", cpu/float64(r.Archives)*1000)
		case r.Partitions != "":
			per = r.Partitions + " partitions"
		}
		asked := "-"
		if r.Requests != nil && r.Archives > 0 {
			asked = fmt.Sprintf("%.2f GET", float64(r.Requests["GET"])/float64(r.Archives))
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f | %.3f | %s | %.2f | %.0f | %s |\n", r.Shape, r.Engine, wall, cpu, per, servers, rss, asked)
		if i%2 == 1 {
			stock := rows[i-1]
			ratio := func(of func(Sample) float64) float64 { return median(r.Samples, of) / median(stock.Samples, of) }
			fmt.Fprintf(&b, "| | **imping / stock** | %.2f | %.3f | | %.2f | %.2f | |\n",
				ratio(func(s Sample) float64 { return s.Wall.Seconds() }), ratio(func(s Sample) float64 { return s.CPU.Seconds() }),
				ratio(func(s Sample) float64 { return s.ServerCPU.Seconds() }), ratio(func(s Sample) float64 { return float64(s.PeakRSS) }))
		}
	}
	return b.String()
}
