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
	for _, typ := range bothTypes() {
		c := mustNew(t, typ, 10, 4)
		p, err := c.Plan(SetOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13), SetOf(0))
		if err != nil {
			t.Fatal(err)
		}
		if want := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}; !p.XOR() || !slices.Equal(p.In(), want) {
			t.Errorf("%s: lost 0: exclusive or: %v, inputs %v", typ, p.XOR(), p.In())
		}
		if p, err = c.Plan(SetOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), SetOf(10)); err != nil || !p.XOR() {
			t.Errorf("%s: the first parity is no exclusive or (%v)", typ, err)
		}
		if p, err = c.Plan(SetOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), SetOf(11)); err != nil || p.XOR() {
			t.Errorf("%s: the second parity is an exclusive or (%v)", typ, err)
		}
	}
}

// rule 3
func TestWantedFragmentIsNeverAnInput(t *testing.T) {
	for _, typ := range bothTypes() {
		c := mustNew(t, typ, 4, 2)
		p, err := c.Plan(SetOf(0, 1, 2, 3, 4, 5), SetOf(2))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(p.In(), 2) || len(p.In()) != 4 {
			t.Errorf("%s: fragment 2 from %v", typ, p.In())
		}
		if _, err := c.Plan(SetOf(0, 1, 2, 3), SetOf(2)); err == nil {
			t.Errorf("%s: fragment 2 was made from 0, 1 and 3, or from itself", typ)
		}
	}
}

func TestTooFewSurvivorsAreRefusedWithWhatHelps(t *testing.T) {
	for _, typ := range bothTypes() {
		c := mustNew(t, typ, 4, 2)
		_, err := c.Plan(SetOf(0, 3, 5), SetOf(1))
		var lack *Insufficient
		if !errors.As(err, &lack) || *lack != (Insufficient{SetOf(0, 3, 5), SetOf(1), SetOf(2, 4)}) {
			t.Errorf("%s: %v", typ, err)
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

func TestRunAllocatesNothing(t *testing.T) {
	for _, typ := range bothTypes() {
		c := mustNew(t, typ, 10, 4)
		for _, lost := range []Set{SetOf(0), SetOf(0, 11)} {
			for _, have := range []Set{SetOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12), SetOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 12)} {
				p, in, out := planned(t, c, have, lost, 65536)
				if n := testing.AllocsPerRun(20, func() { p.Run(out, in) }); n != 0 {
					t.Errorf("%s: %v from %v: %v allocations", typ, lost, have, n)
				}
				if n := testing.AllocsPerRun(20, func() { c.Plan(have, lost) }); n != 0 {
					t.Errorf("%s: a plan already made: %v allocations", typ, n)
				}
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
		typ := rapid.SampledFrom(bothTypes()).Draw(t, "type")
		k := rapid.IntRange(1, 20).Draw(t, "k")
		m := rapid.IntRange(1, 8).Draw(t, "m")
		c, err := New(Scheme{typ, k, m})
		if err != nil {
			t.Fatal(err)
		}
		size := rapid.IntRange(1, 9000).Draw(t, "segment")
		all := fragments(c, randomBytes(rapid.Byte().Draw(t, "seed"), size), rapid.SampledFrom([]CRC{Zlib, Legacy}).Draw(t, "crc"))
		order := rapid.Permutation(upTo(c.N())).Draw(t, "order")
		lost := rapid.IntRange(1, m).Draw(t, "lost")
		spare := rapid.IntRange(0, m-lost).Draw(t, "spare")
		want, have := SetOf(order[:lost]...), SetOf(order[lost:lost+k+spare]...)
		_, err = c.Plan(have, want)
		var lack *Insufficient
		if typ == "isa_l_rs_vand" && m > 3 && errors.As(err, &lack) {
			// Singular: what helps, all together, is enough, if there is any.
			for _, h := range lack.Helpful.Indexes() {
				have = have.With(h)
			}
			if lack.Helpful.Len() == 0 {
				return
			}
		}
		checkRebuild(t, c, all, have, want)
	})
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
		{Scheme{"jerasure_rs_vand", 4, 2}, []string{"jerasure_rs_vand", "not supported yet"}},
		{Scheme{"flat_xor_hd_3", 5, 5}, []string{"flat_xor_hd_3", "not supported yet"}},
		{Scheme{"isa_l_rs_cauchy", 4, 2}, []string{"isa_l_rs_cauchy", "not supported yet"}},
		{Scheme{"libphazr", 4, 2}, []string{"libphazr", "proprietary"}},
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
	for _, typ := range bothTypes() {
		mustNew(t, typ, 1, 1)
		mustNew(t, typ, 100, 156)
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
		for _, typ := range bothTypes() {
			c := mustNew(b, typ, 10, 4)
			for _, x := range []struct {
				name   string
				parity int
			}{{"general", 11}, {"xor", 10}} {
				b.Run(fmt.Sprintf("%s/%dKiB/%s", typ, segment>>10, x.name), func(b *testing.B) {
					p, in, out := planned(b, c, SetOf(1, 2, 3, 4, 5, 6, 7, 8, 9, x.parity), SetOf(0), segment)
					b.SetBytes(int64(len(in) * len(in[0])))
					b.ReportAllocs()
					for b.Loop() {
						p.Run(out, in)
					}
				})
			}
		}
		b.Run(fmt.Sprintf("memcpy/%dKiB", segment>>10), func(b *testing.B) {
			c := mustNew(b, "isa_l_rs_vand", 10, 4)
			_, in, _ := planned(b, c, SetOf(upTo(10)...), SetOf(10), segment)
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
