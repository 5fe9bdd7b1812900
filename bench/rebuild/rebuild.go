// Package rebuild measures reconstruction passes: devices of a cluster are wiped, and Swift's own reconstructor, imping, and a
// bare program that only moves the bytes (bench/limit) repair them in turn; every repair is compared with what was lost. It measures; what
// repairs and what serves is a command line to it.
package rebuild

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"imping/bench/limit"
	"imping/codec"
	"imping/lab/real"
	"imping/lab/scenario"
)

// Servers are who serves the objects.
type Servers string

const (
	Embedded Servers = "embedded" // imping's, a process per node, in a cluster that needs neither root nor Swift
	Own      Servers = "own"      // imping's replication servers in a cluster of Swift's
	Stock    Servers = "stock"    // Swift's
)

// Load is equal objects, and how many devices that hold archives of all of them are lost.
type Load struct {
	Servers Servers      `json:"servers"`
	Scheme  codec.Scheme `json:"scheme"`
	Size    int64        `json:"object_bytes"`
	Objects int          `json:"objects"`
	Losses  int          `json:"losses"` // 1 or 2

	// Partitions is how many partitions the objects lie in, if there are so many with the same neighbours: an SSYNC session each.
	Partitions int `json:"partitions"`
	// Validate is imping's servers' etag_validate_pct: 100, as Swift's is, or 0, to send without reading what is sent.
	Validate int `json:"etag_validate_pct"`
}

func (l Load) String() string {
	s := fmt.Sprintf("%s, %d x %s, %s servers", l.Scheme, l.Objects, Size(l.Size), l.Servers)
	if l.Servers != Stock && l.Validate == 0 {
		s += " without MD5"
	}
	if l.Losses > 1 {
		s += fmt.Sprintf(", %d lost", l.Losses)
	}
	return s
}

// Size is a number of bytes for people.
func Size(n int64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 1024 || n%1024 != 0 {
			return fmt.Sprintf("%d %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%d GiB", n)
}

// Engine is who repairs.
type Engine struct {
	Name   string // "stock", "limit", or imping's way to verify survivors: "off", "parity", "md5"
	Single bool   // one device after the other is lost and repaired; else all of the load are at once
}

// Engines that are none of imping.
const (
	EngineStock = "stock"
	EngineLimit = "limit"
)

func (e Engine) String() string {
	if e.Single {
		return e.Name + ", one by one"
	}
	return e.Name
}

// Options of a run.
type Options struct {
	Root   string // an empty folder for clusters
	Imping string // the program
	Rounds int    // of each load and engine
	Out    io.Writer

	// Request counts are made in a pass of its own, with what is repaired logged.
	Count bool
}

// Sample is one repair. CPU times are in seconds.
type Sample struct {
	Wall      float64 `json:"wall_seconds"`
	CPU       float64 `json:"cpu_seconds"` // of the reconstructor
	ServerCPU float64 `json:"server_cpu_seconds"`
	PeakRSS   int64   `json:"peak_rss_bytes"`
	BytesRead int64   `json:"survivor_bytes_read,omitempty"` // as imping counts them
	Deliver   float64 `json:"deliver_cpu_seconds,omitempty"` // of CPU, what it took to send archives, by imping's own profile

	// Stages is what imping tells of where time went.
	Stages json.RawMessage `json:"stages,omitempty"`
}

// Row is what was measured of one load with one engine.
type Row struct {
	Load     Load           `json:"load"`
	Engine   Engine         `json:"engine"`
	Archives int            `json:"archives"`      // that were lost
	Bytes    int64          `json:"bytes_rebuilt"` // in them
	Read     int64          `json:"survivor_bytes"`
	Depth    int            `json:"objects_in_flight,omitempty"` // of the limit
	Tried    []Tried        `json:"tried,omitempty"`             // before that was chosen
	Samples  []Sample       `json:"samples"`
	Requests map[string]int `json:"requests,omitempty"` // by verb, in a pass of its own
}

// Tried is the best wall time of a number of objects in flight.
type Tried struct {
	Depth int     `json:"objects_in_flight"`
	Wall  float64 `json:"wall_seconds"`
}

// Depths are the numbers of objects in flight that the limit is tried with.
var Depths = []int{1, 2, 4, 8}

// Run stores the load in a cluster of its own and lets the engines repair it in turn.
func Run(ctx context.Context, o Options, l Load, engines []Engine) (rows []*Row, err error) {
	c, end, err := newCluster(ctx, &o, &l)
	if err != nil {
		return nil, err
	}
	defer func() { end(err) }()
	f := &field{Options: &o, load: l, cluster: c}
	if err := f.prepare(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	for _, e := range engines {
		row := &Row{Load: l, Engine: e, Archives: f.archives, Bytes: f.bytes, Read: f.read}
		rows = append(rows, row)
		if e.Name == EngineLimit {
			if err := f.tryDepths(ctx, row); err != nil {
				return nil, fmt.Errorf("%s: %w", l, err)
			}
		}
	}
	for round := range o.Rounds {
		for _, row := range rows {
			s, err := f.repair(ctx, row.Engine, row.Depth)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", l, row.Engine, err)
			}
			row.Samples = append(row.Samples, s)
			fmt.Fprintf(o.Out, "%s, round %d, %s: wall %.3f s (%.2f GB/s of survivors), CPU %.3f s, servers' CPU %.3f s, peak RSS %d MiB\n",
				l, round+1, row.Engine, s.Wall, float64(row.Read)/s.Wall/1e9, s.CPU, s.ServerCPU, s.PeakRSS>>20)
		}
	}
	if o.Count {
		if err := f.count(ctx, rows); err != nil {
			return nil, fmt.Errorf("%s: %w", l, err)
		}
	}
	return rows, nil
}

// newCluster starts a cluster for a load in a folder of its own, which goes with it; a failure's logs are shown.
func newCluster(ctx context.Context, o *Options, l *Load) (_ cluster, end func(failed error), err error) {
	root, err := os.MkdirTemp(o.Root, "c")
	if err != nil {
		return nil, nil, err
	}
	if err = os.Chmod(root, 0o755); err == nil {
		var c cluster
		if c, err = start(ctx, o, l, filepath.Join(root, "c")); err == nil {
			return c, func(failed error) {
				if failed != nil && ctx.Err() == nil {
					c.DumpLogs(o.Out)
				}
				c.Stop()
				os.RemoveAll(root)
			}, nil
		}
	}
	os.RemoveAll(root)
	return nil, nil, err
}

// field is a cluster with its load.
type field struct {
	*Options
	load    Load
	cluster cluster
	place   *place
	before  []*scenario.Snapshot // of the victims
	plan    *limit.Plan

	archives    int
	bytes, read int64
}

// prepare stores the load and notes what the victims hold.
func (f *field) prepare(ctx context.Context) error {
	layout, err := scenario.NewLayout(f.cluster)
	if err != nil {
		return err
	}
	if f.place, err = choose(f.cluster, layout, f.load.Losses); err != nil {
		return err
	}
	fmt.Fprintf(f.Out, "%s: storing in %d partitions\n", f.load, min(f.load.Partitions, len(f.place.partitions)))
	last := time.Now()
	loaded, err := scenario.Load(ctx, f.cluster, scenario.LoadOptions{
		Seed: 1, Policies: []string{policyName}, Kinds: []scenario.Kind{}, Concurrency: 8,
		Partitions: f.load.Partitions,
		Sizes:      slices.Repeat([]int64{f.load.Size}, f.load.Objects),
		In:         f.place.has,
		Progress: func(n, all int, _ string) {
			if time.Since(last) > 10*time.Second {
				last = time.Now()
				fmt.Fprintf(f.Out, "  %d of %d\n", n, all)
			}
		},
	})
	if err != nil {
		return err
	}
	// Settled: every suffix hash is on disk, so that no engine pays for the other.
	for _, node := range f.cluster.Nodes() {
		if err := f.cluster.settle(ctx, node); err != nil {
			return err
		}
	}
	for _, victim := range f.place.victims {
		s, err := scenario.TakeSnapshot(f.cluster, victim, "")
		if err != nil {
			return err
		}
		f.before = append(f.before, s)
		f.archives += s.Archives()
		for _, file := range s.Files {
			f.bytes += file.Size
		}
	}
	if want := f.load.Objects * f.load.Losses; f.archives != want {
		return fmt.Errorf("%d archives of the load are on %s, not %d", f.archives, strings.Join(f.place.victims, " and "), want)
	}
	if f.plan, err = newPlan(f.place, loaded); err != nil {
		return err
	}
	for _, o := range f.plan.Objects {
		f.read += int64(o.Length) * int64(len(o.Sources))
		if o.Local != "" {
			f.read += int64(o.Length)
		}
	}
	return nil
}

// repair wipes the victims, lets the engine repair them from one device of one node, and compares.
func (f *field) repair(ctx context.Context, e Engine, depth int) (sum Sample, err error) {
	if !e.Single {
		return f.repairOf(ctx, e, depth, f.before)
	}
	for i := range f.before {
		s, err := f.repairOf(ctx, e, depth, f.before[i:i+1])
		if err != nil {
			return sum, err
		}
		sum.Wall, sum.CPU, sum.ServerCPU = sum.Wall+s.Wall, sum.CPU+s.CPU, sum.ServerCPU+s.ServerCPU
		sum.PeakRSS, sum.BytesRead, sum.Deliver = max(sum.PeakRSS, s.PeakRSS), sum.BytesRead+s.BytesRead, sum.Deliver+s.Deliver
	}
	return sum, nil
}

func (f *field) repairOf(ctx context.Context, e Engine, depth int, lost []*scenario.Snapshot) (s Sample, err error) {
	for _, before := range lost {
		if err := scenario.Wipe(f.cluster, before.Device); err != nil {
			return s, err
		}
	}
	argv, err := f.command(e, depth, lost)
	if err != nil {
		return s, err
	}
	s, out, err := run(ctx, f.cluster, argv)
	if err != nil {
		return s, err
	}
	switch e.Name {
	case EngineLimit:
		return s, f.arrived(lost)
	case EngineStock:
	default:
		if err := s.read(out); err != nil {
			return s, err
		}
		if f.profiled() {
			share, err := delivering(filepath.Join(f.Root, "cpu.pprof"))
			if err != nil {
				return s, err
			}
			s.Deliver = s.CPU * share
		}
	}
	for _, before := range lost {
		now, err := before.Retake()
		if err != nil {
			return s, err
		}
		if report := scenario.Compare(before, now); !report.OK() {
			return s, fmt.Errorf("%s differs from what was lost: %v", before.Device, report)
		}
	}
	return s, nil
}

// run measures one pass, and gives what it printed.
func run(ctx context.Context, c cluster, argv []string) (s Sample, output []byte, err error) {
	cpu, err := c.serversCPU()
	if err != nil {
		return s, nil, err
	}
	var out bytes.Buffer
	began := time.Now()
	exit, usage, err := real.Run(ctx, &out, argv...)
	s.Wall = time.Since(began).Seconds()
	if err != nil {
		return s, nil, err
	}
	if exit != 0 {
		return s, nil, fmt.Errorf("the pass ended with status %d:\n%s", exit, out.String())
	}
	after, err := c.serversCPU()
	s.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	s.ServerCPU = (after - cpu).Seconds()
	s.PeakRSS = usage.Maxrss << 10
	return s, out.Bytes(), err
}

// command is the engine's command line.
func (f *field) command(e Engine, depth int, lost []*scenario.Snapshot) ([]string, error) {
	conf := f.cluster.ReplicationConf(f.place.node)
	switch e.Name {
	case EngineStock:
		return []string{stockReconstructor, conf, "once", "-d", f.place.dev}, nil
	case EngineLimit:
		plan := *f.plan
		plan.InFlight, plan.Targets = depth, nil
		for i, before := range f.before {
			if slices.Contains(lost, before) {
				plan.Targets = append(plan.Targets, f.plan.Targets[i])
			}
		}
		b, err := json.Marshal(plan)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(f.Root, "plan.json")
		return []string{f.Imping, "bench", "limit", path}, os.WriteFile(path, b, 0o644)
	}
	argv := []string{f.Imping, "reconstruct", conf, "once", "-d", f.place.dev, "--swift-conf", f.cluster.SwiftConf(),
		"--json", "--verify-survivors", e.Name}
	if f.profiled() { // which is written into the current folder
		argv = append([]string{"/bin/sh", "-c", `cd "$0" && exec "$@"`, f.Root}, append(argv, "--profile", "cpu")...)
	}
	return argv, nil
}

// profiled tells of which loads it is asked what their parts cost.
func (f *field) profiled() bool { return f.load.Losses > 1 }

// delivering is which part of the samples of a CPU profile was taken in what sends archives.
func delivering(path string) (share float64, err error) {
	in, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	p, err := profile.Parse(in)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	var all, sent int64
	for _, s := range p.Sample {
		all += s.Value[0]
		if slices.ContainsFunc(s.Location, func(l *profile.Location) bool {
			return slices.ContainsFunc(l.Line, func(l profile.Line) bool { return strings.Contains(l.Function.Name, "imping/netfast/ssync.") })
		}) {
			sent += s.Value[0]
		}
	}
	return float64(sent) / float64(max(all, 1)), nil // a pass may be over before the first sample
}

const stockReconstructor = "/usr/bin/swift-object-reconstructor"

// read takes what imping tells of its pass: the JSON that its output ends with.
func (s *Sample) read(out []byte) error {
	at := bytes.Index(append([]byte("\n"), out...), []byte("\n{\n"))
	if at < 0 {
		return fmt.Errorf("no summary in %q", out)
	}
	var told struct {
		BytesRead int64           `json:"survivor_bytes_read"`
		Stages    json.RawMessage `json:"stages"`
	}
	if err := json.Unmarshal(out[at:], &told); err != nil {
		return fmt.Errorf("cannot read the summary %q: %w", out[at:], err)
	}
	s.BytesRead, s.Stages = told.BytesRead, told.Stages
	return nil
}

// arrived checks that the limit's archives, of other bytes, are where the lost ones were, and as long.
func (f *field) arrived(lost []*scenario.Snapshot) error {
	for _, before := range lost {
		for name, file := range before.Files {
			st, err := os.Stat(filepath.Join(before.Path, name))
			if err != nil {
				return fmt.Errorf("the limit's archives did not arrive: %w", err)
			}
			if st.Size() != file.Size {
				return fmt.Errorf("the limit sent %d bytes for %s, not %d", st.Size(), name, file.Size)
			}
		}
	}
	return nil
}

// tryDepths finds the number of objects in flight with which the limit is fastest.
func (f *field) tryDepths(ctx context.Context, row *Row) error {
	for _, depth := range Depths {
		t := Tried{Depth: depth}
		for range 2 {
			s, err := f.repair(ctx, row.Engine, depth)
			if err != nil {
				return err
			}
			if t.Wall == 0 || s.Wall < t.Wall {
				t.Wall = s.Wall
			}
		}
		row.Tried = append(row.Tried, t)
	}
	row.Depth = slices.MinFunc(row.Tried, func(a, b Tried) int { return cmp.Compare(a.Wall, b.Wall) }).Depth
	fmt.Fprintf(f.Out, "%s: the limit is fastest with %d objects in flight\n", f.load, row.Depth)
	return nil
}

// count repairs once more with each engine, with requests logged, and counts them.
func (f *field) count(ctx context.Context, rows []*Row) error {
	if err := f.cluster.logRequests(ctx); err != nil {
		return err
	}
	for _, row := range rows {
		mark, err := f.cluster.Mark()
		if err != nil {
			return err
		}
		if _, err := f.repair(ctx, row.Engine, row.Depth); err != nil {
			return fmt.Errorf("%s: %w", row.Engine, err)
		}
		lines, err := f.cluster.Log(mark)
		if err != nil {
			return err
		}
		if row.Requests = requests(lines); len(row.Requests) == 0 {
			return errors.New("the servers have logged no request")
		}
	}
	return nil
}
