package rebuild

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"imping/bench/plot"
	"imping/codec"
)

// Case is a load and who repairs it.
type Case struct {
	Load    Load
	Engines []Engine
	Count   bool // requests, too
}

// Table is a section of BENCHMARKS.md.
type Table struct {
	Name  string // of its marks, behind "rebuild-"
	Cases []Case
	Idle  *IdleCase // in place of Cases

	format func(cases [][]*Row) string
}

// Scale says how much is measured.
type Scale struct {
	Rounds int
	Quick  bool     // two minutes in all: fewer schemes, fewer objects
	Verify []string // the ways to verify survivors
}

const mib = 1 << 20

const sizesName = "sizes"

// Tables are all of them. How many objects: a pass is to take about a second, so that its beginning and its end count little.
func Tables(s Scale) []Table {
	few := func(n, quick int) int {
		if s.Quick {
			return quick
		}
		return n
	}
	engines := func(names ...string) (list []Engine) {
		for _, n := range names {
			list = append(list, Engine{Name: n})
		}
		return list
	}
	vand104 := codec.Scheme{Type: "isa_l_rs_vand", K: 10, M: 4}
	lec104 := codec.Scheme{Type: "liberasurecode_rs_vand", K: 10, M: 4}
	load := func(servers Servers, scheme codec.Scheme, size int64, objects int) Load {
		return Load{Servers: servers, Scheme: scheme, Size: size, Objects: objects, Losses: 1, Partitions: 8}
	}

	limits := Table{Name: "limit", format: limitTable}
	for _, scheme := range schemes() {
		if s.Quick && scheme != vand104 {
			continue
		}
		// So many that what each pass begins with, once, is a few hundredths of it: a rate is asked for.
		limits.Cases = append(limits.Cases, Case{Load: load(Embedded, scheme, 16*mib, few(288, 24)), Engines: engines(append([]string{EngineLimit}, s.Verify...)...)})
	}
	small := Table{Name: "small", format: smallTable, Cases: []Case{
		{Load: load(Own, vand104, 64<<10, few(6000, 200)), Engines: engines(EngineLimit, EngineStock, "md5", "off")}}}
	stock := Table{Name: "stock", format: stockTable}
	for _, l := range []Load{load(Stock, vand104, 16*mib, few(48, 8)), load(Stock, lec104, 16*mib, few(48, 8)), load(Stock, vand104, 64<<10, few(1000, 100))} {
		stock.Cases = append(stock.Cases, Case{Load: l, Engines: engines(append([]string{EngineStock}, s.Verify...)...), Count: true})
	}
	losses := Table{Name: "losses", format: lossesTable}
	for _, scheme := range []codec.Scheme{vand104, {Type: "isa_l_rs_vand", K: 4, M: 2}} {
		l := load(Embedded, scheme, 16*mib, few(144, 16))
		l.Losses = 2
		losses.Cases = append(losses.Cases, Case{Load: l, Engines: []Engine{{Name: "off"}, {Name: "off", Single: true}, {Name: "md5"}, {Name: "md5", Single: true}}})
	}
	sizes := Table{Name: sizesName, format: sizesTable}
	for _, size := range []int64{64 << 10, 256 << 10, mib, 4 * mib, 16 * mib, 64 * mib, 512 * mib} {
		objects := int(min(1000, max(2, 512*mib/size)))
		if s.Quick {
			if objects /= 8; size > 64*mib {
				continue
			}
		}
		sizes.Cases = append(sizes.Cases, Case{Load: load(Embedded, vand104, size, max(objects, 2)), Engines: engines(EngineLimit, "off", "md5")})
	}
	counts := Table{Name: "counts", format: countsTable}
	for _, n := range []int{10, 100, 1000, 10_000, 100_000} {
		if s.Quick && n > 1000 {
			continue
		}
		l := load(Embedded, codec.Scheme{Type: "isa_l_rs_vand", K: 2, M: 1}, 4<<10, n)
		l.Partitions = max(l.Partitions, n/1000) // as many objects in each as real ones have
		counts.Cases = append(counts.Cases, Case{Load: l, Engines: engines("md5")})
	}
	idle := Table{Name: "idle", Idle: &IdleCase{Servers: Stock, Scheme: vand104, Partitions: few(1000, 100)}}
	return []Table{limits, small, stock, losses, idle, sizes, counts}
}

// schemes are every one at 10+4 and 4+2, the flat exclusive ors at 5+5.
func schemes() (list []codec.Scheme) {
	for _, typ := range codec.Types() {
		if strings.HasPrefix(typ, "flat_xor") {
			list = append(list, codec.Scheme{Type: typ, K: 5, M: 5})
			continue
		}
		list = append(list, codec.Scheme{Type: typ, K: 10, M: 4}, codec.Scheme{Type: typ, K: 4, M: 2})
	}
	return list
}

// NeedsRoot tells whether a cluster of Swift's is among the table's.
func (t *Table) NeedsRoot() bool {
	return t.Idle != nil && t.Idle.Servers != Embedded || slices.ContainsFunc(t.Cases, func(c Case) bool { return c.Load.Servers != Embedded })
}

// Result is a table that was measured.
type Result struct {
	Table string     `json:"table"`
	Rows  [][]*Row   `json:"cases,omitempty"` // by case
	Idle  []*IdleRow `json:"idle,omitempty"`

	Plots map[string]*plot.Plot `json:"-"` // by file name
	Text  string                `json:"-"` // Markdown
}

// Measure fills a table.
func (t *Table) Measure(ctx context.Context, o Options) (*Result, error) {
	r := &Result{Table: t.Name}
	if t.Idle != nil {
		rows, err := RunIdle(ctx, o, t.Idle)
		if err != nil {
			return nil, err
		}
		r.Idle, r.Text = rows, idleTable(rows)
		return r, nil
	}
	for _, c := range t.Cases {
		o.Count = c.Count
		rows, err := Run(ctx, o, c.Load, c.Engines)
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, rows)
	}
	r.Text = t.format(r.Rows)
	if t.Name == sizesName {
		r.Plots = map[string]*plot.Plot{"rate-by-size.svg": bySize(r.Rows), "rate-by-flight.svg": byFlight(r.Rows)}
	}
	return r, nil
}

func wall(s Sample) float64    { return s.Wall }
func cpu(s Sample) float64     { return s.CPU }
func servers(s Sample) float64 { return s.ServerCPU }
func allCPU(s Sample) float64  { return s.CPU + s.ServerCPU }
func rss(s Sample) float64     { return float64(s.PeakRSS) / mib }

// median of something of all rounds.
func (r *Row) median(of func(Sample) float64) float64 {
	m, _, _ := r.spread(func(i int) float64 { return of(r.Samples[i]) })
	return m
}

func (r *Row) spread(of func(round int) float64) (median, least, most float64) {
	var values []float64
	for i := range r.Samples {
		values = append(values, of(i))
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]
}

// ratio is the median, with the least and the most, of what is a over b in one round.
func ratio(a, b *Row, of func(Sample) float64) string { return ratioTo(a, b, 1, of) }

// ratioTo is that to a part of b.
func ratioTo(a, b *Row, part float64, of func(Sample) float64) string {
	m, least, most := a.spread(func(i int) float64 { return of(a.Samples[i]) / (of(b.Samples[i]) * part) })
	if len(a.Samples) == 1 {
		return fmt.Sprintf("%.2f", m)
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", m, least, most)
}

// named is the row of an engine, nil if it was not measured.
func named(rows []*Row, e Engine) *Row {
	for _, r := range rows {
		if r.Engine == e {
			return r
		}
	}
	return nil
}

func (r *Row) rate() float64     { return float64(r.Read) / r.median(wall) / 1e9 }
func (r *Row) archives() float64 { return float64(r.Archives) / r.median(wall) }

func what(l Load) string { return fmt.Sprintf("%s, %d x %s", l.Scheme, l.Objects, Size(l.Size)) }

// List is rows of any kind as Markdown.
func List(rows []*Row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| engine | GB/s of survivors | archives/s | wall s | CPU s | servers' CPU s | peak RSS MiB | GETs | PUTs |\n|---|---|---|---|---|---|---|---|---|\n", rows[0].Load)
	for _, r := range rows {
		gets, puts := "", ""
		if r.Requests != nil {
			gets, puts = fmt.Sprint(r.Requests["GET"]), fmt.Sprint(r.Requests["PUT"])
		}
		fmt.Fprintf(&b, "| %s | %.2f | %.1f | %.3f | %.3f | %.3f | %.0f | %s | %s |\n", r.Engine, r.rate(), r.archives(),
			r.median(wall), r.median(cpu), r.median(servers), r.median(rss), gets, puts)
	}
	return b.String()
}

// limitTable: how near imping comes to the bare program. A rate by the limit's is the limit's wall time by imping's.
func limitTable(cases [][]*Row) string {
	var b strings.Builder
	b.WriteString("| load | engine | GB/s of survivors | archives/s | wall s | CPU s | servers' CPU s | peak RSS MiB | rate / limit's | limit's CPU / all CPU |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, rows := range cases {
		bare := named(rows, Engine{Name: EngineLimit})
		for _, r := range rows {
			name, rate, used := "verify "+r.Engine.String(), "", ""
			if r == bare {
				name = fmt.Sprintf("limit, %d in flight", r.Depth)
			} else {
				rate, used = ratio(bare, r, wall), ratio(bare, r, allCPU)
			}
			fmt.Fprintf(&b, "| %s | %s | %.2f | %.1f | %.3f | %.3f | %.3f | %.0f | %s | %s |\n", what(r.Load), name, r.rate(), r.archives(),
				r.median(wall), r.median(cpu), r.median(servers), r.median(rss), rate, used)
		}
	}
	return b.String()
}

func smallTable(cases [][]*Row) string {
	var b strings.Builder
	b.WriteString("| load | engine | archives/s | wall s | CPU s | servers' CPU s | peak RSS MiB | archives/s / limit's | archives/s / stock's |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, rows := range cases {
		bare, stock := named(rows, Engine{Name: EngineLimit}), named(rows, Engine{Name: EngineStock})
		for _, r := range rows {
			name, toBare, toStock := "imping, verify "+r.Engine.String(), "", ""
			switch r {
			case bare:
				name = fmt.Sprintf("limit, %d in flight", r.Depth)
			case stock:
				name = "stock"
			default:
				toBare, toStock = ratio(bare, r, wall), ratio(stock, r, wall)
			}
			fmt.Fprintf(&b, "| %s | %s | %.0f | %.3f | %.3f | %.3f | %.0f | %s | %s |\n", what(r.Load), name, r.archives(),
				r.median(wall), r.median(cpu), r.median(servers), r.median(rss), toBare, toStock)
		}
	}
	return b.String()
}

func stockTable(cases [][]*Row) string {
	var b strings.Builder
	b.WriteString("| load | engine | wall s | CPU s | servers' CPU s | peak RSS MiB | GETs per archive | PUTs per archive | CPU / stock's | servers' CPU / stock's | wall / stock's |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, rows := range cases {
		stock := named(rows, Engine{Name: EngineStock})
		for _, r := range rows {
			name, c, s, w := "stock", "", "", ""
			if r != stock {
				name, c, s, w = "imping, verify "+r.Engine.String(), ratio(r, stock, cpu), ratio(r, stock, servers), ratio(r, stock, wall)
			}
			per := func(verb string) float64 { return float64(r.Requests[verb]) / float64(r.Archives) }
			fmt.Fprintf(&b, "| %s | %s | %.2f | %.3f | %.2f | %.0f | %.2f | %.2f | %s | %s | %s |\n", what(r.Load), name,
				r.median(wall), r.median(cpu), r.median(servers), r.median(rss), per("GET"), per("PUT"), c, s, w)
		}
	}
	return b.String()
}

func lossesTable(cases [][]*Row) string {
	var b strings.Builder
	b.WriteString("| load | engine | wall s | CPU s | servers' CPU s | survivors' bytes, times | all CPU / one by one's | CPU / one loss's | without delivery | wall / one by one's |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, rows := range cases {
		for _, r := range rows {
			single := named(rows, Engine{Name: r.Engine.Name, Single: true})
			total, one, fetched, w := "", "", "", ""
			if r != single {
				total, w = ratio(r, single, allCPU), ratio(r, single, wall)
				one = ratioTo(r, single, 0.5, cpu)
				fetched = ratioTo(r, single, 0.5, func(s Sample) float64 { return s.CPU - s.Deliver })
			}
			read := r.median(func(s Sample) float64 { return float64(s.BytesRead) / float64(r.Read) })
			fmt.Fprintf(&b, "| %s | verify %s | %.3f | %.3f | %.3f | %.2f | %s | %s | %s | %s |\n", what(r.Load), r.Engine, r.median(wall), r.median(cpu), r.median(servers), read, total, one, fetched, w)
		}
	}
	return b.String()
}

func sizesTable(cases [][]*Row) string {
	var b strings.Builder
	b.WriteString("| objects | limit, GB/s | verify off, GB/s | verify md5, GB/s | off / limit | md5 / limit | peak RSS MiB, off | md5 |\n|---|---|---|---|---|---|---|---|\n")
	for _, rows := range cases {
		bare, off, md5 := rows[0], rows[1], rows[2]
		fmt.Fprintf(&b, "| %d x %s | %.2f | %.2f | %.2f | %s | %s | %.0f | %.0f |\n", bare.Load.Objects, Size(bare.Load.Size), bare.rate(), off.rate(), md5.rate(),
			ratio(bare, off, wall), ratio(bare, md5, wall), off.median(rss), md5.median(rss))
	}
	return b.String()
}

func countsTable(cases [][]*Row) string {
	var b strings.Builder
	b.WriteString("| objects | archives/s | CPU s | peak RSS MiB |\n|---|---|---|---|\n")
	for _, rows := range cases {
		for _, r := range rows {
			fmt.Fprintf(&b, "| %d x %s | %.0f | %.3f | %.0f |\n", r.Load.Objects, Size(r.Load.Size), r.archives(), r.median(cpu), r.median(rss))
		}
	}
	return b.String()
}
