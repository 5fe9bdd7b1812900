// Package serve measures what object servers cost: Swift's own and imping answer the same requests in turn, on the same
// node of a real cluster. It measures the servers' CPU time alone; who asks is as cheap as it can be and is not counted.
package serve

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"imping/bench/limit"
	"imping/codec"
	"imping/lab/real"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// Options of a run.
type Options struct {
	Root   string    // an empty folder for the cluster
	Server []string  // the command line of our server, without its conf
	Rounds int       // per load and engine; medians are shown
	Scale  float64   // of the numbers of requests; 1 is what BENCHMARKS.md shows
	Load   string    // only loads with this in their name
	Out    io.Writer // progress, for people
}

// Row is what one load cost.
type Row struct {
	Load   string
	Unit   string // what CPU is counted per
	Units  float64
	Stock  []time.Duration // server's CPU time, per round
	Imping []time.Duration
	// Wall times, of requests that are asked for one after another only.
	StockWall, ImpingWall []time.Duration
}

// Stored archives: those of 10+4, of objects of 64 KiB and of 16 MiB.
const (
	node      = 1
	policyAt  = 3 // isal104 of the lab
	index     = 2 // of the archives
	getPart   = 5 // where the archives to GET lie
	putPart   = 6 // where archives arrive
	small     = 64 << 10
	large     = 16 << 20
	smallMany = 200
	largeMany = 24
)

// archive is an object's archive to store and to ask for.
type archive struct {
	path     string // /account/container/object
	hash     string
	fragment []byte // of which it consists, over and over
	head     ssync.PutHead
}

var stamp = timestamp.Timestamp{Raw: 176_000_000_000_000}

// run is a cluster, the node's replication server, and what is stored there.
type run struct {
	Options
	*real.Cluster
	client *netfast.Client
	addr   string
	dev    string
	hasher objhash.Hasher
	small  []archive
	large  []archive
	fresh  []archive // to PUT
	confs  map[string]string
}

// load is one thing that a server is asked to do.
type load struct {
	name, unit string
	units      float64
	validate   string // etag_validate_pct
	alone      bool   // requests one after another: wall time counts, too
	ready      func(context.Context) error
	do         func(context.Context) error
}

// Run measures every load.
func Run(ctx context.Context, o Options) (rows []*Row, err error) {
	c, err := real.Start(ctx, real.Options{Root: o.Root, Nodes: 7})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			c.DumpLogs(o.Out)
		}
		c.Stop()
	}()
	r := &run{Options: o, Cluster: c, confs: map[string]string{}, dev: c.Devices(node)[0]}
	r.client = netfast.NewClient(netfast.Options{ConnTimeout: 5 * time.Second, NodeTimeout: time.Minute, UserAgent: "obj-reconstructor 1"})
	defer r.client.Close()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	for _, l := range r.loads() {
		if !strings.Contains(l.name, o.Load) {
			continue
		}
		row := &Row{Load: l.name, Unit: l.unit, Units: l.units}
		for round := range o.Rounds + 1 {
			for i, argv := range [][]string{{"/usr/bin/swift-object-server"}, o.Server} {
				cpu, wall, err := r.measure(ctx, argv, l)
				if err != nil {
					return nil, fmt.Errorf("%s, by %s: %w", l.name, argv[len(argv)-1], err)
				}
				if round == 0 { // what only happens once has happened
					continue
				}
				to, walls := &row.Stock, &row.StockWall
				if i == 1 {
					to, walls = &row.Imping, &row.ImpingWall
				}
				*to = append(*to, cpu)
				if l.alone {
					*walls = append(*walls, wall)
				}
			}
		}
		fmt.Fprintf(o.Out, "%s: %.3f of stock's CPU time\n", l.name, row.Ratio())
		rows = append(rows, row)
	}
	if rows == nil {
		return nil, fmt.Errorf("no load has %q in its name", o.Load)
	}
	return rows, nil
}

// prepare stores what will be asked for and makes the confs.
func (r *run) prepare(ctx context.Context) error {
	swift, err := policy.Load(r.SwiftConf())
	if err != nil {
		return err
	}
	r.hasher = objhash.Hasher{Prefix: swift.HashPrefix, Suffix: swift.HashSuffix}
	conf, err := os.ReadFile(r.ReplicationConf(node))
	if err != nil {
		return err
	}
	bind := func(name string) string {
		for line := range strings.Lines(string(conf)) {
			if v, ok := strings.CutPrefix(line, name+" = "); ok {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	r.addr = net.JoinHostPort(bind("bind_ip"), bind("bind_port"))
	const app = "[app:object-server]\n"
	for _, validate := range []string{"100", "0"} {
		text := strings.Replace(string(conf), app, app+"set etag_validate_pct = "+validate+"\n", 1)
		path := filepath.Join(r.Cluster.Root(), "validate-"+validate+".conf")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		r.confs[validate] = path
	}
	code, err := codec.New(codec.Scheme{Type: "isa_l_rs_vand", K: 10, M: 4})
	if err != nil {
		return err
	}
	r.small, r.large = r.archives(code, "small", small, smallMany), r.archives(code, "large", large, largeMany)
	r.fresh = r.archives(code, "fresh", small, int(1000*r.Scale))
	fmt.Fprintln(r.Out, "storing")
	if err := r.put(ctx, getPart, r.small); err != nil {
		return err
	}
	return r.put(ctx, getPart, r.large)
}

// archives makes up that many objects of that size; all have the same bytes.
func (r *run) archives(code *codec.Code, name string, size, many int) []archive {
	const segment = 1 << 20
	data := make([]byte, min(size, segment))
	rand.NewChaCha8([32]byte{3}).Read(data)
	payloads := make([][]byte, code.N())
	for i := range payloads {
		payloads[i] = make([]byte, code.PayloadSize(len(data)))
	}
	code.Encode(data, payloads)
	fragment := append(make([]byte, codec.HeaderSize), payloads[index]...)
	code.Seal(fragment, index, codec.Stripe{Segment: len(data), ChecksumType: codec.ChecksumNone,
		BackendVersion: code.Header(index, len(data)).BackendVersion, LibecVersion: 0x010602}, codec.Zlib)
	whole := bytes.Repeat(fragment, max(1, size/segment))
	etag := fmt.Sprintf("%x", md5.Sum(bytes.Repeat(data, max(1, size/segment))))
	out := make([]archive, many)
	for i := range out {
		path := fmt.Sprintf("/AUTH_bench/c/%s-%d", name, i)
		out[i] = archive{path: path, hash: fmt.Sprintf("%x", r.hasher.Object(path)), fragment: fragment, head: ssync.PutHead{
			Path: path, Length: int64(len(whole)), Header: []ssync.Field{
				{Key: "X-Timestamp", Value: stamp.Internal()}, {Key: "Content-Type", Value: "application/octet-stream"},
				{Key: "ETag", Value: fmt.Sprintf("%x", md5.Sum(whole))},
				{Key: "X-Object-Sysmeta-Ec-Etag", Value: etag}, {Key: "X-Object-Sysmeta-Ec-Content-Length", Value: strconv.Itoa(size)},
				{Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: strconv.Itoa(index)}, {Key: "X-Object-Sysmeta-Ec-Scheme", Value: "isa_l_rs_vand 10+4"},
				{Key: "X-Object-Sysmeta-Ec-Segment-Size", Value: strconv.Itoa(segment)},
			}}}
	}
	return out
}

// put sends archives of one size by one SSYNC session.
func (r *run) put(ctx context.Context, part int, archives []archive) error {
	session := limit.Session{Target: ssync.Target{Addr: r.addr, Device: r.dev, Partition: part, Policy: policyAt, FragIndex: index}}
	for i := range archives {
		session.Puts = append(session.Puts, limit.Put{Hash: archives[i].hash, Stamp: stamp, Head: archives[i].head})
	}
	return limit.Send(ctx, r.client, &session, archives[0].fragment)
}

// get asks for many archives, in turn, over that many connections at once.
func (r *run) get(ctx context.Context, archives []archive, many, conns int) error {
	group, ctx := errgroup.WithContext(ctx)
	for c := range conns {
		group.Go(func() error {
			conn, err := limit.Dial(ctx, r.addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			for i := c; i < many; i += conns {
				a := &archives[i%len(archives)]
				if err := conn.Get(&limit.Source{Addr: r.addr, Device: r.dev, Partition: getPart, Policy: policyAt, Path: a.path}, int(a.head.Length)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// loads are those of BENCHMARKS.md.
func (r *run) loads() []load {
	gets := func(name, unit, validate string, archives []archive, many, conns int, perUnit float64) load {
		many = max(conns, int(float64(many)*r.Scale))
		get := func(ctx context.Context) error { return r.get(ctx, archives, many, conns) }
		return load{name: name, unit: unit, units: float64(many) / perUnit, validate: validate, alone: conns == 1,
			ready: func(ctx context.Context) error { return r.get(ctx, archives, max(conns, many/2), conns) }, do: get}
	}
	perGiB := float64(1<<30) / float64(r.large[0].head.Length)
	// Each time in another partition, and nothing is removed in between: ext4 looks at what was deleted lately whenever it makes a file.
	part := putPart
	another := func(context.Context) error {
		part++
		return nil
	}
	return []load{
		gets("GET 6.5 KiB archives, 16 at once", "1000 GETs", "100", r.small, 8000, 16, 1000),
		gets("GET 6.5 KiB archives, one after another", "1000 GETs", "100", r.small, 8000, 1, 1000),
		{name: "SSYNC PUT 6.5 KiB archives", unit: "1000 PUTs", units: float64(len(r.fresh)) / 1000, validate: "100", ready: another,
			do: func(ctx context.Context) error { return r.put(ctx, part, r.fresh) }},
		gets("GET 1.6 MiB archives, 16 at once, MD5 on", "GiB", "100", r.large, 1280, 16, perGiB),
		gets("GET 1.6 MiB archives, 16 at once, etag_validate_pct = 0", "GiB", "0", r.large, 1280, 16, perGiB),
		gets("GET 1.6 MiB archives, one after another, MD5 on", "GiB", "100", r.large, 640, 1, perGiB),
	}
}

// measure starts the server, does the load, and stops it.
func (r *run) measure(ctx context.Context, argv []string, l load) (cpu, wall time.Duration, err error) {
	if err := r.StopServer(node, real.ReplicationServer); err != nil {
		return 0, 0, err
	}
	if err := r.StartServer(ctx, node, real.ReplicationServer, append(slices.Clone(argv), r.confs[l.validate])...); err != nil {
		return 0, 0, err
	}
	if err := l.ready(ctx); err != nil {
		return 0, 0, err
	}
	before, err := r.CPU(real.ReplicationServer)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := l.do(ctx); err != nil {
		return 0, 0, err
	}
	wall = time.Since(began)
	after, err := r.CPU(real.ReplicationServer)
	return after - before, wall, err
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return (d[(len(d)-1)/2] + d[len(d)/2]) / 2
}

// Ratio is our CPU time by stock's, of the medians.
func (r *Row) Ratio() float64 { return float64(median(r.Imping)) / float64(median(r.Stock)) }

// Table is the rows as Markdown.
func Table(rows []*Row) string {
	var b strings.Builder
	b.WriteString("| load | per | stock, CPU s | imping, CPU s | imping / stock | wall, imping / stock |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		wall := "-"
		if r.StockWall != nil {
			wall = fmt.Sprintf("%.2f", float64(median(r.ImpingWall))/float64(median(r.StockWall)))
		}
		fmt.Fprintf(&b, "| %s | %s | %.3f | %.3f | **%.3f** | %s |\n", r.Load, r.Unit, median(r.Stock).Seconds()/r.Units, median(r.Imping).Seconds()/r.Units, r.Ratio(), wall)
	}
	return b.String()
}
