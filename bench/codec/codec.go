// Package codec measures how fast lost fragments are rebuilt from survivors in memory: by
// each of native's kernels, by other libraries, and by liberasurecode itself, beside a
// plain exclusive or and a copy of the same survivors. It reads no disk and no socket.
package codec

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/native"
)

// Options of a run.
type Options struct {
	Types    []string      // ec_types
	Segments []int         // bytes
	Rounds   int           // windows per engine and case; medians are shown
	Window   time.Duration // of CPU time
	Arena    int           // bytes of survivors that streaming goes through; 0: eight times the last-level cache
	Out      io.Writer     // progress, for people
}

// DefaultOptions are those of BENCHMARKS.md.
func DefaultOptions() Options {
	return Options{Types: codec.Types(), Segments: []int{1 << 20, 64 << 10}, Rounds: 9, Window: 3 * time.Millisecond, Out: io.Discard}
}

// Engines that are no kernels.
const (
	XOR            = "xor"    // the exclusive or of the survivors, by the best kernel
	Memcpy         = "memcpy" // a copy of the survivors
	Headers        = "headers"
	Liberasurecode = "liberasurecode"
)

// Row is what was measured of one engine in one case.
type Row struct {
	Type    string
	K, M    int
	Segment int    // bytes
	Loss    string // "d0 d1", "d0 (no P0)"
	Stream  bool   // out of the last-level cache; else one stripe over and over
	Engine  string
	Inputs  int
	// Nanoseconds of CPU time per segment, and what follows for the survivors read: 10^9
	// bytes a second, and the medians of the ratios, round by round, to XOR and Memcpy.
	// Headers has the first alone.
	NanosPerSegment float64
	GBps            float64 `json:",omitempty"`
	ToXOR           float64 `json:",omitempty"`
	ToMemcpy        float64 `json:",omitempty"`
}

// Report is a whole run.
type Report struct {
	CPU     string
	LLC     int // bytes of the last-level cache
	Default string
	Kernels []string
	Rounds  int
	Window  time.Duration
	Rows    []Row
}

// loss is what is missing, and what is asked for of it.
type loss struct {
	name         string
	gone, wanted codec.Set
}

func losses(k int) []loss {
	return []loss{
		{"d0", codec.SetOf(0), codec.SetOf(0)},
		{"d0 (no P0)", codec.SetOf(0, k), codec.SetOf(0)},
		{"P1", codec.SetOf(k + 1), codec.SetOf(k + 1)},
		{"d0 d1", codec.SetOf(0, 1), codec.SetOf(0, 1)},
	}
}

func shapes(typ string) []codec.Scheme {
	if typ == "flat_xor_hd_3" || typ == "flat_xor_hd_4" {
		return []codec.Scheme{{Type: typ, K: 10, M: 5}, {Type: typ, K: 5, M: 5}}
	}
	return []codec.Scheme{{Type: typ, K: 10, M: 4}, {Type: typ, K: 4, M: 2}}
}

// Run measures every case. Each engine's result is compared with what was lost before it
// is timed.
func Run(ctx context.Context, o Options) (*Report, error) {
	// CPU time is a thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	chosen, err := native.Chosen()
	if err != nil {
		return nil, err
	}
	llc := max(cpuid.CPU.Cache.L3, cpuid.CPU.Cache.L2)
	if cpuid.CPU.Cache.L3 <= 0 { // as in virtual machines that hide it
		llc = 32 << 20
	}
	r := &Report{CPU: cpuid.CPU.BrandName, LLC: llc, Default: chosen.Name(), Rounds: o.Rounds, Window: o.Window}
	for _, k := range native.Kernels() {
		r.Kernels = append(r.Kernels, k.Name())
	}
	if o.Arena == 0 {
		o.Arena = 8 * llc
	}
	arena, err := newArena(o.Arena)
	if err != nil {
		return nil, err
	}
	defer arena.free()
	for _, typ := range o.Types {
		stock, err := startStock(typ)
		if err != nil {
			fmt.Fprintf(o.Out, "%s: without liberasurecode: %v\n", typ, err)
		}
		for _, scheme := range shapes(typ) {
			for _, segment := range o.Segments {
				for _, l := range losses(scheme.K) {
					for _, stream := range []bool{false, true} {
						if err := ctx.Err(); err != nil {
							stock.stop()
							return nil, err
						}
						c := &bench{Options: o, arena: arena, scheme: scheme, segment: segment, loss: l, stream: stream, stock: stock}
						rows, err := c.run()
						if err != nil {
							stock.stop()
							return nil, fmt.Errorf("%v, segments of %d bytes, %s lost: %w", scheme, segment, l.name, err)
						}
						r.Rows = append(r.Rows, rows...)
					}
				}
				fmt.Fprintf(o.Out, "%v, segments of %d bytes\n", scheme, segment)
			}
		}
		stock.stop()
	}
	return r, nil
}

// bench is one case.
type bench struct {
	Options
	arena   *arena
	scheme  codec.Scheme
	segment int
	loss    loss
	stream  bool
	stock   *stock

	in, out [][]byte // of the stripe at hand
	sink    [][]byte // where memcpy copies to
	stride  int      // from a slot to the next
	payload int
}

// engine does stripes until d is over, and says how many and in what CPU time.
type engine struct {
	name   string
	window func(d time.Duration) (stripes int, spent time.Duration, err error)
}

func (b *bench) run() ([]Row, error) {
	engines, err := b.engines()
	if err != nil {
		return nil, err
	}
	nanos := make([][]float64, len(engines)) // per round
	for round := range b.Rounds + 1 {
		for i, e := range engines {
			n, spent, err := e.window(b.Window)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
			if round > 0 { // the first one warms up
				nanos[i] = append(nanos[i], float64(spent)/float64(n))
			}
		}
	}
	rows := make([]Row, len(engines))
	for i, e := range engines {
		rows[i] = Row{
			Type: b.scheme.Type, K: b.scheme.K, M: b.scheme.M, Segment: b.segment, Loss: b.loss.name,
			Stream: b.stream, Engine: e.name, Inputs: len(b.in), NanosPerSegment: median(nanos[i]),
		}
		if e.name != Headers {
			rows[i].GBps = float64(len(b.in)*b.payload) / rows[i].NanosPerSegment
			rows[i].ToXOR, rows[i].ToMemcpy = ratio(nanos[0], nanos[i]), ratio(nanos[1], nanos[i])
		}
	}
	return rows, nil
}

// engines makes what is compared; the exclusive or and the copy come first.
func (b *bench) engines() ([]engine, error) {
	first, err := codec.New(b.scheme)
	if err != nil {
		return nil, err
	}
	var have codec.Set
	for i := range first.N() {
		if !b.loss.gone.Has(i) {
			have = have.With(i)
		}
	}
	plan, err := first.Plan(have, b.loss.wanted)
	if err != nil {
		return nil, err
	}
	b.payload = first.PayloadSize(b.segment)
	b.in, b.out, b.sink = make([][]byte, len(plan.In())), make([][]byte, len(plan.Out())), make([][]byte, len(plan.In()))
	b.stride = stride(b.payload)

	// The first stripe holds a real segment.
	data := make([]byte, b.segment)
	rand.NewChaCha8([32]byte{1}).Read(data)
	all := make([][]byte, first.N())
	for i := range all {
		all[i] = make([]byte, b.payload)
	}
	first.Encode(data, all)
	b.place(0)
	for i, index := range plan.In() {
		copy(b.in[i], all[index])
	}

	best := native.Best()
	xor := best.XOR(len(b.in))
	engines := []engine{
		{XOR, b.timed(func() { xor.Run(b.out[:1], b.in) })},
		{Memcpy, b.timed(func() {
			for i := range b.in {
				copy(b.sink[i], b.in[i])
			}
		})},
	}
	for _, kernel := range native.Kernels() {
		if !worksOn(kernel, b.scheme.Type) {
			continue
		}
		code, err := codec.NewOn(kernel, b.scheme)
		if err != nil {
			return nil, err
		}
		p, err := code.Plan(have, b.loss.wanted)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(p.In(), plan.In()) {
			return nil, fmt.Errorf("kernel %s plans %v, not %v", kernel.Name(), p.In(), plan.In())
		}
		b.place(0)
		p.Run(b.out, b.in)
		for i, index := range p.Out() {
			if !bytes.Equal(b.out[i], all[index]) {
				return nil, fmt.Errorf("kernel %s: fragment %d is wrong", kernel.Name(), index)
			}
		}
		engines = append(engines, engine{kernel.Name(), b.timed(func() { p.Run(b.out, b.in) })})
	}
	if b.loss.name == "d0" && !b.stream {
		headers, err := b.headers(first, plan)
		if err != nil {
			return nil, err
		}
		engines = append(engines, engine{Headers, b.timedBy(batchHeaders, headers)})
	}
	if b.stock != nil {
		window, err := b.stock.prepare(b.scheme, data, all, plan.In(), have.Indexes(), plan.Out(), b.stream, b.Arena)
		if err != nil {
			return nil, fmt.Errorf("liberasurecode: %w", err)
		}
		if window != nil {
			engines = append(engines, engine{Liberasurecode, window})
		}
	}
	return engines, nil
}

// worksOn says whether a kernel computes the scheme itself: the libraries know nothing but
// GF(2^8), and leave the rest to the best kernel.
func worksOn(kernel native.Kernel, typ string) bool {
	switch kernel.Name() {
	case "klauspost", "templexxx", "isal":
		return len(typ) > 4 && typ[:4] == "isa_"
	}
	return true
}

// headers returns what one stripe asks for beside its payloads: the survivors' headers
// read and checked, the outputs' written, as the pipeline does it.
func (b *bench) headers(code *codec.Code, plan *codec.Plan) (func(), error) {
	in, out := make([][]byte, len(plan.In())), make([][]byte, len(plan.Out()))
	slot := func(i int) []byte {
		return b.arena.survivors[i*b.stride+slotHead-codec.HeaderSize:][:codec.HeaderSize+b.payload]
	}
	for i, index := range plan.In() {
		in[i] = slot(i)
		h := code.Header(index, b.segment)
		h.LibecVersion = 0x010602
		h.Put(in[i], codec.Zlib)
	}
	for i := range out {
		out[i] = slot(len(in) + i)
	}
	parsed := make([]codec.Header, len(in))
	work := func() error {
		stripe, faults := code.CheckStripe(in, plan.In(), b.segment, parsed)
		if len(faults) > 0 {
			return faults[0].Err
		}
		for i, index := range plan.Out() {
			code.Seal(out[i], index, stripe, codec.Zlib)
		}
		return nil
	}
	return func() {
		if err := work(); err != nil {
			panic(err) // work was seen to succeed
		}
	}, work()
}

// batchBytes is how many bytes of survivors are read between two looks at the clock: 100
// microseconds and more, against 0.2 of the clock, or 2 in some virtual machines.
const batchBytes = 8 << 20

// batchHeaders is the number of segments whose headers are, for which no survivors are read.
const batchHeaders = 1000

// timed makes a window of a function that does the stripe at hand.
func (b *bench) timed(do func()) func(time.Duration) (int, time.Duration, error) {
	return b.timedBy(max(1, batchBytes/(len(b.in)*b.payload)), do)
}

// timedBy is timed with so many stripes between two looks at the clock.
func (b *bench) timedBy(batch int, do func()) func(time.Duration) (int, time.Duration, error) {
	return func(d time.Duration) (int, time.Duration, error) {
		if !b.stream {
			b.place(0)
			do() // into the cache
		}
		n := 0
		start := threadTime()
		for {
			for range batch {
				if b.stream {
					b.next()
				}
				do()
			}
			n += batch
			if spent := threadTime() - start; spent >= d {
				return n, spent, nil
			}
		}
	}
}

// threadTime is the CPU time of this thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(fmt.Sprintf("cannot read the thread's clock: %v", err)) // it exists since Linux 2.6.12
	}
	return time.Duration(ts.Nano())
}

// next goes to the next stripe of the arena, and after the last one to the first. Cases
// follow each other, so that each starts with what was not read for long.
func (b *bench) next() {
	size := (len(b.in) + len(b.out)) * b.stride
	if b.arena.at+size > len(b.arena.survivors) {
		b.arena.at = 0
	}
	b.place(b.arena.at)
	b.arena.at += size
}

// place makes the stripe at base the one at hand: a slot after another, payloads on 64
// bytes behind the room of a header, as in the program.
func (b *bench) place(base int) {
	for i := range b.in {
		b.in[i] = b.arena.survivors[base+i*b.stride+slotHead:][:b.payload]
		b.sink[i] = b.arena.copies[base+i*b.stride+slotHead:][:b.payload]
	}
	for i := range b.out {
		b.out[i] = b.arena.survivors[base+(len(b.in)+i)*b.stride+slotHead:][:b.payload]
	}
}

const slotHead = 128

func stride(payload int) int { return slotHead + (payload+63)&^63 }

// arena is memory off the heap, in huge pages where the kernel gives them.
type arena struct {
	survivors, copies []byte
	at                int // where the next stripe of streaming is
}

func newArena(size int) (*arena, error) {
	// At least room for one stripe of any case.
	size = max(size, 32<<20)
	a := &arena{}
	for _, m := range []*[]byte{&a.survivors, &a.copies} {
		b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
		if err != nil {
			a.free()
			return nil, fmt.Errorf("cannot map %d bytes: %w", size, err)
		}
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a wish
		*m = b
		rnd := rand.NewChaCha8([32]byte{2})
		rnd.Read(b[:1<<20])
		for from := 1 << 20; from < size; from += 1 << 20 {
			copy(b[from:], b[:1<<20])
		}
	}
	return a, nil
}

func (a *arena) free() {
	for _, b := range [][]byte{a.survivors, a.copies} {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
}

// median returns the middle of the values.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratio returns the median of how many times as fast b is as a, in the same round.
func ratio(a, b []float64) float64 {
	v := make([]float64, len(a))
	for i := range v {
		v[i] = a[i] / b[i]
	}
	return median(v)
}
