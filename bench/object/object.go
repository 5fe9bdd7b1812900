// Package object measures PUTs and GETs of objects: through Swift's proxy and by engine/object without one, with Swift's object
// servers and with imping's, in turn on one cluster. CPU time is counted of who encodes and decodes, and of the object servers.
package object

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	engine "imping/engine/object"
	"imping/lab/process"
	"imping/lab/real"
	"imping/netfast"
	"imping/swift/policy"
)

// Options of a run.
type Options struct {
	Root   string    // an empty folder for the cluster
	Server []string  // the command line of our server, without its conf
	Policy string    // of the lab
	Rounds int       // per load, way and kind of server; medians are shown
	Scale  float64   // of the numbers of objects; 1 is what BENCHMARKS.md shows
	Load   string    // only loads with this in their name
	Out    io.Writer // progress, for people
}

// Row is a load, the way that it took, and who served.
type Row struct {
	Load     string
	Objects  int
	Size     int // bytes of each
	Proxy    bool
	Imping   bool // servers; else stock
	Samples  []Sample
	baseline *Row // through the proxy, with stock's servers; nil: it is that
}

// Sample is what one round took.
type Sample struct {
	Wall, Front, Servers time.Duration // Front is CPU time of the proxy, or of who does without
}

const (
	container = "bench"
	patience  = time.Minute // as long as the lab's proxy waits
)

// run is a cluster and the two ways to its objects.
type run struct {
	Options
	*real.Cluster
	direct *engine.Client
	policy *policy.Policy
	data   []byte
}

// load is one thing that is asked for.
type load struct {
	verb            string
	size            int // bytes of each object
	objects, atOnce int
}

func (l *load) name() string {
	return fmt.Sprintf("%s %d x %d KiB, %d at once", l.verb, l.objects, l.size>>10, l.atOnce)
}

// Run measures every load.
func Run(ctx context.Context, o Options) (rows []*Row, err error) {
	c, err := real.Start(ctx, real.Options{Root: o.Root})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			c.DumpLogs(o.Out)
		}
		c.Stop()
	}()
	r := &run{Options: o, Cluster: c, data: make([]byte, 16<<20)}
	rand.NewChaCha8([32]byte{5}).Read(r.data)
	swift, err := policy.Load(c.SwiftConf())
	if err != nil {
		return nil, err
	}
	if r.policy = swift.ByName(o.Policy); r.policy == nil {
		return nil, fmt.Errorf("the lab has no policy %q", o.Policy)
	}
	client := netfast.NewClient(netfast.Options{ConnTimeout: patience, NodeTimeout: patience, UserAgent: "imping"})
	defer client.Close()
	r.direct = &engine.Client{Swift: swift, Dir: c.SwiftDir(), HTTP: client, ConnTimeout: patience, NodeTimeout: patience, UpdateContainers: true}
	if err := c.Client().CreateContainer(ctx, container, o.Policy); err != nil {
		return nil, err
	}
	var loads []*load
	for _, l := range []*load{
		{verb: "PUT", size: 64 << 10, objects: 200, atOnce: 8}, {verb: "GET", size: 64 << 10, objects: 400, atOnce: 8},
		{verb: "PUT", size: 16 << 20, objects: 8, atOnce: 2}, {verb: "GET", size: 16 << 20, objects: 12, atOnce: 2},
	} {
		l.objects = max(l.atOnce, int(float64(l.objects)*o.Scale))
		if strings.Contains(l.name(), o.Load) {
			loads = append(loads, l)
		}
	}
	if loads == nil {
		return nil, fmt.Errorf("no load has %q in its name", o.Load)
	}
	return r.measure(ctx, loads)
}

// measure takes every load through both ways, with both kinds of servers, round by round.
func (r *run) measure(ctx context.Context, loads []*load) (rows []*Row, err error) {
	for _, l := range loads {
		if l.verb == "GET" {
			fmt.Fprintf(r.Out, "%s: storing\n", l.name())
			if err := r.each(ctx, l, func(i int) error { return r.viaProxy(ctx, "PUT", name("GET", l, i), l.size) }); err != nil {
				return nil, err
			}
		}
		base := &Row{Load: l.name(), Objects: l.objects, Size: l.size, Proxy: true}
		rows = append(rows, base)
		for _, other := range []Row{{Proxy: true, Imping: true}, {}, {Imping: true}} {
			rows = append(rows, &Row{Load: base.Load, Objects: base.Objects, Size: base.Size, Proxy: other.Proxy, Imping: other.Imping, baseline: base})
		}
	}
	for round := range r.Rounds + 1 {
		for _, imping := range []bool{false, true} {
			if err := r.serve(ctx, imping); err != nil {
				return nil, err
			}
			for i, row := range rows {
				if row.Imping != imping {
					continue
				}
				l := loads[i/4]
				s, err := r.sample(ctx, l, row, round)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", l.name(), row, err)
				}
				if round == 0 { // what only happens once has happened
					continue
				}
				row.Samples = append(row.Samples, *s)
				fmt.Fprintf(r.Out, "%s, %s, round %d: wall %.3f s, CPU %.3f s, servers' %.3f s\n", l.name(), row, round, s.Wall.Seconds(), s.Front.Seconds(), s.Servers.Seconds())
			}
		}
	}
	return rows, nil
}

func (r *Row) String() string {
	way, servers := "imping object", "stock servers"
	if r.Proxy {
		way = "proxy"
	}
	if r.Imping {
		servers = "imping's servers"
	}
	return way + ", " + servers
}

// serve starts object servers of a kind on all nodes.
func (r *run) serve(ctx context.Context, imping bool) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range r.Nodes() {
		group.Go(func() error {
			if err := r.StopServer(node, real.ObjectServer); err != nil {
				return err
			}
			var argv []string
			if imping {
				argv = append(slices.Clone(r.Server), r.Conf(node))
			}
			return r.StartServer(ctx, node, real.ObjectServer, argv...)
		})
	}
	return group.Wait()
}

// name is that of an object; what is put gets a new one each time.
func name(what string, l *load, i int) string {
	return fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(what, " ", "-"), l.size, i)
}

// sample does a load once.
func (r *run) sample(ctx context.Context, l *load, row *Row, round int) (*Sample, error) {
	object := func(i int) string { return name("GET", l, i) }
	if l.verb == "PUT" {
		prefix := fmt.Sprintf("PUT-%d-%s", round, strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(row.String()))
		object = func(i int) string { return name(prefix, l, i) }
	}
	do := func(i int) error { return r.without(ctx, l.verb, object(i), l.size) }
	front := func() (time.Duration, error) { return process.CPU(os.Getpid()) }
	if row.Proxy {
		do = func(i int) error { return r.viaProxy(ctx, l.verb, object(i), l.size) }
		front = r.ProxyCPU
	}
	frontBefore, err := front()
	if err != nil {
		return nil, err
	}
	serversBefore, err := r.CPU(real.ObjectServer)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := r.each(ctx, l, do); err != nil {
		return nil, err
	}
	s := &Sample{Wall: time.Since(began)}
	if s.Front, err = front(); err != nil {
		return nil, err
	}
	if s.Servers, err = r.CPU(real.ObjectServer); err != nil {
		return nil, err
	}
	s.Front -= frontBefore
	s.Servers -= serversBefore
	return s, nil
}

// each does something with every object of a load, as many at once as it says.
func (r *run) each(ctx context.Context, l *load, do func(i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(l.atOnce)
	for i := range l.objects {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(i)
		})
	}
	return group.Wait()
}

func (r *run) viaProxy(ctx context.Context, verb, object string, size int) error {
	if verb == "PUT" {
		_, err := r.Client().Put(ctx, container, object, http.Header{"Content-Type": {"application/octet-stream"}}, bytes.NewReader(r.data[:size]), int64(size))
		return err
	}
	resp, err := r.Client().Get(ctx, container, object, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && n != int64(size) {
		err = fmt.Errorf("%d bytes came of an object of %d", n, size)
	}
	return err
}

func (r *run) without(ctx context.Context, verb, object string, size int) error {
	object = "/" + r.Account() + "/" + container + "/" + object
	if verb == "PUT" {
		stored, err := r.direct.Put(ctx, r.policy, object, bytes.NewReader(r.data[:size]), engine.PutOptions{
			Size: int64(size), Fields: []netfast.Field{{Key: "Content-Type", Value: "application/octet-stream"}}})
		if err == nil && len(stored.Failed) > 0 {
			err = fmt.Errorf("PUT of %s: not on %q", object, stored.Failed)
		}
		return err
	}
	found, err := r.direct.Find(ctx, r.policy, object)
	if err != nil {
		return err
	}
	return found.Copy(ctx, io.Discard, 0, int64(size))
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// of is the median of a figure of all samples.
func (r *Row) of(figure func(s *Sample) time.Duration) float64 {
	var list []float64
	for i := range r.Samples {
		list = append(list, figure(&r.Samples[i]).Seconds())
	}
	return median(list)
}

// beside is the median of a figure's ratio to the baseline's in the same round.
func (r *Row) beside(figure func(s *Sample) time.Duration) string {
	if r.baseline == nil {
		return ""
	}
	var list []float64
	for i := range r.Samples {
		list = append(list, float64(figure(&r.Samples[i]))/float64(figure(&r.baseline.Samples[i])))
	}
	return fmt.Sprintf("%.2f", median(list))
}

// Table is the rows as Markdown.
func Table(rows []*Row) string {
	wall, front, servers := func(s *Sample) time.Duration { return s.Wall }, func(s *Sample) time.Duration { return s.Front }, func(s *Sample) time.Duration { return s.Servers }
	var b strings.Builder
	b.WriteString("| load | by | MiB/s | objects/s | its CPU, ms per object | servers' CPU, ms per object | wall / first's | its CPU / first's | servers' CPU / first's |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		n, seconds := float64(r.Objects), r.of(wall)
		fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f | %.2f | %.2f | %s | %s | %s |\n", r.Load, r, n*float64(r.Size)/(1<<20)/seconds, n/seconds,
			1000*r.of(front)/n, 1000*r.of(servers)/n, r.beside(wall), r.beside(front), r.beside(servers))
	}
	return b.String()
}
