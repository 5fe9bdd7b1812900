package codec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestLosingOneDataFragmentIsAnExclusiveOrWhereTheFirstParityIsHeld(t *testing.T) {
	ones := []string{"isa_l_rs_vand", "jerasure_rs_vand", "liberasurecode_rs_vand"} // whose first parity row is
	for _, typ := range Types() {
		if !exists(Scheme{typ, 10, 4}) {
			continue
		}
		c, xor := mustNew(t, typ, 10, 4), slices.Contains(ones, typ)
		p, err := c.Plan(SetOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13), SetOf(0))
		if err != nil {
			t.Fatal(err)
		}
		if want := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}; p.XOR() != xor || !slices.Equal(p.In(), want) {
			t.Errorf("%s: lost 0: exclusive or: %v, inputs %v", typ, p.XOR(), p.In())
		}
		if p, err = c.Plan(SetOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), SetOf(10)); err != nil || p.XOR() != xor {
			t.Errorf("%s: the first parity is an exclusive or: %v (%v)", typ, !xor, err)
		}
		if p, err = c.Plan(SetOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), SetOf(11)); err != nil || p.XOR() {
			t.Errorf("%s: the second parity is an exclusive or (%v)", typ, err)
		}
	}
}

// rule 3
func TestWantedFragmentIsNeverAnInput(t *testing.T) {
	for _, s := range samples() {
		c := newCode(t, s)
		p, err := c.Plan(c.all, SetOf(2))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(p.In(), 2) || c.mds && len(p.In()) != c.K() {
			t.Errorf("%v: fragment 2 from %v", s, p.In())
		}
		if _, err := c.Plan(first(c.K()), SetOf(2)); err == nil {
			t.Errorf("%v: data fragment 2 was made from other data, or from itself", s)
		}
	}
}

func TestTooFewSurvivorsAreRefusedWithWhatHelps(t *testing.T) {
	for _, x := range []struct {
		Scheme
		have, want, helpful Set
	}{
		{Scheme{"*", 4, 2}, SetOf(0, 3, 5), SetOf(1), SetOf(2, 4)},    // one more is enough
		{Scheme{"*", 4, 2}, SetOf(0, 3), SetOf(1), SetOf(2, 4, 5)},    // no single one is
		{Scheme{"*", 4, 2}, SetOf(0, 3, 5), SetOf(1, 2, 4), Set{}},    // nothing is
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(1), SetOf(0), SetOf(5)}, // P0 is 0 and 1
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(4), SetOf(0), SetOf(7)}, // P2 is 0 and 4
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(1, 4), SetOf(0), SetOf(5, 7)},
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(2), SetOf(0), SetOf(1, 3, 4, 5, 6, 7, 8, 9)},
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(1, 2, 3, 4), SetOf(0, 5, 7), Set{}},
	} {
		for _, typ := range Types() {
			s := x.Scheme
			if s.Type == "*" {
				s.Type = typ
			}
			if s.Type != typ || !exists(s) {
				continue
			}
			_, err := newCode(t, s).Plan(x.have, x.want)
			var lack *Insufficient
			if !errors.As(err, &lack) || *lack != (Insufficient{x.have, x.want, x.helpful}) {
				t.Errorf("%v: %v", s, err)
			}
		}
	}
}

func TestPlanRefusesIndexesThatTheSchemeLacks(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 4, 2)
	for _, q := range [][2]Set{
		{SetOf(0, 1, 2, 3), SetOf(6)},
		{SetOf(0, 1, 2, 3), SetOf(255)},
		{SetOf(0, 1, 2, 3, 200), SetOf(4)},
		{SetOf(0, 1, 2, 3), Set{}},
	} {
		if p, err := c.Plan(q[0], q[1]); err == nil {
			t.Errorf("%v from %v was planned: %v", q[1], q[0], p)
		}
	}
}

func TestPlanIsMadeOnceAndShared(t *testing.T) {
	c := mustNew(t, "liberasurecode_rs_vand", 10, 4)
	have, want := SetOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 11), SetOf(0)
	all := fragments(c, randomBytes(1, 70001), Zlib)
	const users = 8
	plans := make([]*Plan, users)
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			p, err := c.Plan(have, want)
			if err != nil {
				t.Error(err)
				return
			}
			plans[u] = p
			var in [][]byte
			for _, i := range p.In() {
				in = append(in, all[i][HeaderSize:])
			}
			out := make([]byte, len(in[0]))
			for range 3 {
				clear(out)
				p.Run([][]byte{out}, in)
				if !bytes.Equal(out, all[0][HeaderSize:]) {
					t.Error("a shared plan made a wrong payload")
				}
			}
		})
	}
	wg.Wait()
	for _, p := range plans {
		if p != plans[0] {
			t.Error("a plan was made twice")
		}
	}
}

func TestPlansKeptAreBounded(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 8, 8)
	n := 0
	subsets(c.N()-1, c.K(), func(have Set) {
		if n++; n > maxPlans+100 {
			return
		}
		if _, err := c.Plan(have, SetOf(15)); err != nil {
			var lack *Insufficient
			if !errors.As(err, &lack) {
				t.Error(err)
			}
		}
	})
	if n <= maxPlans || len(c.plans) > maxPlans {
		t.Errorf("%d plans are kept after %d questions", len(c.plans), n)
	}
}

func TestASegmentAllocatesNothing(t *testing.T) {
	for _, s := range samples() {
		c := newCode(t, s)
		const size = 9001
		segment := randomBytes(1, size)
		all := fragments(c, segment, Zlib)
		payloads := make([][]byte, c.N())
		for i := range all {
			payloads[i] = all[i][HeaderSize:]
		}
		lossy := slices.Clone(payloads)
		lossy[1] = nil
		indexes, headers := c.all.Indexes(), make([]Header, c.N())
		stripe := swifts(c, size)
		stripe.ChecksumType = ChecksumCRC32
		spare := slices.Clone(all[0])
		padded := make([]byte, c.K()*c.PayloadSize(size))
		for what, f := range map[string]func(){
			"encode": func() { c.Encode(segment, payloads) },
			"decode": func() { c.Decode(padded, size, lossy) },
			"verify": func() { c.Verify(payloads) },
			"check":  func() { c.CheckStripe(all, indexes, size, headers) },
			"seal":   func() { c.Seal(spare, 0, stripe, Zlib) },
		} {
			if n := testing.AllocsPerRun(5, f); n != 0 && !raceEnabled { // the detector empties pools
				t.Errorf("%v: %s: %v allocations", s, what, n)
			}
		}
		for _, lost := range []Set{SetOf(0), SetOf(c.K()), SetOf(0, c.K()+1)} {
			have := c.all.Minus(lost)
			p, in, out := planned(t, c, have, lost, size)
			if n := testing.AllocsPerRun(5, func() { p.Run(out, in) }); n != 0 {
				t.Errorf("%v: %v from %v: %v allocations", s, lost, have, n)
			}
			if n := testing.AllocsPerRun(5, func() { c.Plan(have, lost) }); n != 0 {
				t.Errorf("%v: a plan already made: %v allocations", s, n)
			}
		}
	}
}

func planned(t testing.TB, c *Code, have, want Set, segment int) (p *Plan, in, out [][]byte) {
	t.Helper()
	p, err := c.Plan(have, want)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.In() {
		in = append(in, randomBytes(byte(i), c.PayloadSize(segment)))
	}
	for range p.Out() {
		out = append(out, make([]byte, c.PayloadSize(segment)))
	}
	return p, in, out
}

func TestAnyLossThatLeavesEnoughIsRebuilt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCode(t)
		size := rapid.IntRange(1, 9000).Draw(t, "segment")
		all := fragments(c, randomBytes(rapid.Byte().Draw(t, "seed"), size), rapid.SampledFrom([]CRC{Zlib, Legacy}).Draw(t, "crc"))
		order := rapid.Permutation(upTo(c.N())).Draw(t, "order")
		lost := rapid.IntRange(1, c.M()).Draw(t, "lost")
		spare := rapid.IntRange(0, c.M()-lost).Draw(t, "spare")
		want, have := SetOf(order[:lost]...), SetOf(order[lost:lost+c.K()+spare]...)
		_, err := c.Plan(have, want)
		var lack *Insufficient
		if !c.mds && errors.As(err, &lack) {
			// What helps, all together, is enough, if there is any.
			if have = have.Or(lack.Helpful); lack.Helpful == (Set{}) {
				return
			}
		}
		checkRebuild(t, c, all, have, want)
	})
}

// drawCode draws a code of any type, of up to 20 and 8 fragments.
func drawCode(t *rapid.T) *Code {
	typ := rapid.SampledFrom(Types()).Draw(t, "type")
	s := rapid.SampledFrom(schemes(typ, 20, 8)).Draw(t, "scheme")
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestFewerThanKSurvivorsAreNeverEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(2, 12).Draw(t, "k")
		c, err := New(Scheme{"liberasurecode_rs_vand", k, rapid.IntRange(1, 6).Draw(t, "m")})
		if err != nil {
			t.Fatal(err)
		}
		order := rapid.Permutation(upTo(c.N())).Draw(t, "order")
		have, want := SetOf(order[:k-1]...), SetOf(order[k-1])
		_, err = c.Plan(have, want)
		var lack *Insufficient
		if !errors.As(err, &lack) {
			t.Fatalf("%v from %v: %v", want, have, err)
		}
		if others := SetOf(order[k:]...); lack.Helpful != others {
			t.Fatalf("helpful: %v, not %v", lack.Helpful, others)
		}
	})
}

func TestSetHoldsWhatWasPutIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfDistinct(rapid.IntRange(0, 255), rapid.ID[int]).Draw(t, "indexes")
		s := SetOf(in...)
		slices.Sort(in)
		if !slices.Equal(s.Indexes(), in) || s.Len() != len(in) {
			t.Fatalf("%v has %v, %d of them", in, s.Indexes(), s.Len())
		}
		for i := -1; i < 260; i++ {
			if s.Has(i) != slices.Contains(in, i) {
				t.Fatalf("%v: has %d: %v", in, i, s.Has(i))
			}
		}
		for _, i := range in {
			if s = s.Without(i); s.Has(i) {
				t.Fatalf("%d is still there", i)
			}
		}
		if s != (Set{}) {
			t.Fatalf("%v is left", s)
		}
	})
	if s := SetOf(13, 0, 200).String(); s != "{0 13 200}" {
		t.Error(s)
	}
}

func TestNewRefusesByNameAndReason(t *testing.T) {
	for _, x := range []struct {
		s     Scheme
		words []string
	}{
		{Scheme{"libphazr", 4, 2}, []string{"libphazr", "proprietary"}},
		{Scheme{"shss", 4, 2}, []string{"shss", "proprietary"}},
		{Scheme{"isa_l_rs_lrc", 4, 2}, []string{"isa_l_rs_lrc", "local parities"}},
		{Scheme{"null", 4, 2}, []string{"null", "protects nothing"}},
		{Scheme{"flat_xor_hd", 5, 5}, []string{"flat_xor_hd", "flat_xor_hd_3"}},
		{Scheme{"flat_xor_hd_3", 10, 4}, []string{"flat_xor_hd_3 10+4", "3+3, 5..10+5 and 6..15+6"}},
		{Scheme{"flat_xor_hd_3", 16, 6}, []string{"16+6", "no such code"}},
		{Scheme{"flat_xor_hd_4", 3, 3}, []string{"3+3", "no such code"}},
		{Scheme{"jerasure_rs_cauchy", 13, 4}, []string{"jerasure_rs_cauchy 13+4", "16"}},
		{Scheme{"no_such", 4, 2}, []string{"no_such", "unknown"}},
		{Scheme{"", 4, 2}, []string{`""`, "unknown"}},
		{Scheme{"isa_l_rs_vand", 0, 2}, []string{"isa_l_rs_vand 0+2", "at least one"}},
		{Scheme{"isa_l_rs_vand", 4, 0}, []string{"4+0"}},
		{Scheme{"isa_l_rs_vand", -1, 2}, []string{"-1+2"}},
		{Scheme{"isa_l_rs_vand", 200, 57}, []string{"200+57", "256"}},
		{Scheme{"isa_l_rs_vand", int(^uint(0) >> 1), 1}, []string{"256"}},
	} {
		_, err := New(x.s)
		for _, w := range x.words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v: %v, without %q", x.s, err, w)
			}
		}
	}
	for _, typ := range Types() {
		for _, s := range []Scheme{{typ, 1, 1}, {typ, 60, 68}} {
			if exists(s) {
				newCode(t, s)
			}
		}
	}
}

// The numbers were seen with Swift's policy.fragment_size and PyECLib.
func TestSizesAreThoseOfSwift(t *testing.T) {
	for _, x := range []struct {
		typ           string
		k, m, segment int
		fragment      int
	}{
		{"isa_l_rs_vand", 10, 4, 1 << 20, 104938},
		{"liberasurecode_rs_vand", 10, 4, 1 << 20, 104938},
		{"isa_l_rs_vand", 4, 2, 1 << 20, 262224},
		{"isa_l_rs_vand", 10, 4, 1, 81},
		{"liberasurecode_rs_vand", 10, 4, 1, 82},
		{"isa_l_rs_vand", 10, 4, 65536, 6634},
		{"liberasurecode_rs_vand", 10, 4, 65536, 6634},
		{"isa_l_rs_cauchy", 10, 4, 1 << 20, 104938},
		{"isa_l_rs_vand_inv", 10, 4, 1, 81},
		{"jerasure_rs_vand", 10, 4, 1 << 20, 104938},
		{"jerasure_rs_vand", 10, 4, 1, 82},
		{"jerasure_rs_cauchy", 10, 4, 1 << 20, 106576},
		{"jerasure_rs_cauchy", 10, 4, 65536, 8272},
		{"jerasure_rs_cauchy", 10, 4, 1, 4176},
		{"flat_xor_hd_3", 10, 5, 1 << 20, 104940},
		{"flat_xor_hd_4", 10, 5, 65536, 6636},
		{"flat_xor_hd_3", 10, 5, 1, 84},
	} {
		if got := mustNew(t, x.typ, x.k, x.m).FragmentSize(x.segment); got != x.fragment {
			t.Errorf("%s %d+%d, segment %d: fragment of %d bytes, not %d", x.typ, x.k, x.m, x.segment, got, x.fragment)
		}
	}
	c := mustNew(t, "liberasurecode_rs_vand", 10, 4)
	for _, x := range []struct{ object, archive int64 }{
		{0, 0}, {1, 82}, {1<<20 - 1, 104938}, {1 << 20, 104938}, {1<<20 + 1, 104938 + 82}, {5 << 20, 5 * 104938}, {5 << 40, 5 << 20 * 104938},
	} {
		if got := c.ArchiveSize(x.object, 1<<20); got != x.archive {
			t.Errorf("object of %d bytes: archive of %d, not %d", x.object, got, x.archive)
		}
	}
}

func TestEncodeIntoWrongSlicesPanics(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 2, 1)
	for _, out := range [][][]byte{nil, {{0}, {0}}, {{0}, {0}, {0, 0}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v was taken", out)
				}
			}()
			c.Encode([]byte{1, 2}, out)
		}()
	}
}

func BenchmarkRun(b *testing.B) {
	for _, segment := range []int{1 << 20, 64 << 10} {
		for _, typ := range Types() {
			s := Scheme{typ, 10, 4}
			if !exists(s) {
				s.M = 5
			}
			c := newCode(b, s)
			for _, x := range []struct {
				name string
				lost Set
			}{{"0", SetOf(0)}, {"0 without the first parity", SetOf(0, 10)}, {"two", SetOf(0, 1)}} {
				b.Run(fmt.Sprintf("%v/%dKiB/%s", s, segment>>10, x.name), func(b *testing.B) {
					want := x.lost.Without(10)
					p, in, out := planned(b, c, c.all.Minus(x.lost), want, segment)
					b.SetBytes(int64(len(in) * len(in[0])))
					b.ReportAllocs()
					for b.Loop() {
						p.Run(out, in)
					}
				})
			}
		}
		c := mustNew(b, "isa_l_rs_vand", 10, 4)
		_, in, _ := planned(b, c, first(10), SetOf(10), segment)
		b.Run(fmt.Sprintf("memcpy/%dKiB", segment>>10), func(b *testing.B) {
			out := make([][]byte, len(in))
			for i := range out {
				out[i] = make([]byte, len(in[i]))
			}
			b.SetBytes(int64(len(in) * len(in[0])))
			for b.Loop() {
				for i := range in {
					copy(out[i], in[i])
				}
			}
		})
	}
}

func BenchmarkHeaders(b *testing.B) {
	c := mustNew(b, "liberasurecode_rs_vand", 10, 4)
	all := fragments(c, randomBytes(1, 1<<20), Zlib)[:10]
	indexes, headers := first(10).Indexes(), make([]Header, 10)
	spare := make([]byte, len(all[0]))
	b.ReportAllocs()
	for b.Loop() {
		s, faults := c.CheckStripe(all, indexes, 1<<20, headers)
		if faults != nil {
			b.Fatal(faults)
		}
		c.Seal(spare, 10, s, Zlib)
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, typ := range []string{"isa_l_rs_vand", "liberasurecode_rs_vand"} {
		b.Run(typ, func(b *testing.B) {
			c := mustNew(b, typ, 10, 4)
			payloads := make([][]byte, c.N())
			for i, f := range fragments(c, randomBytes(1, 1<<20), Zlib)[:11] {
				payloads[i] = f[HeaderSize:]
			}
			b.SetBytes(int64(11 * len(payloads[0])))
			b.ReportAllocs()
			for b.Loop() {
				if v, err := c.Verify(payloads); err != nil || !v.Consistent {
					b.Fatal(v, err)
				}
			}
		})
	}
}
