package codec

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// flatXORSchemes returns all 38.
func flatXORSchemes() []Scheme {
	return append(schemes("flat_xor_hd_3", 32, 32), schemes("flat_xor_hd_4", 32, 32)...)
}

// words returns what data is in each fragment of a flat XOR code.
func words(c *Code) []uint32 {
	all := make([]uint32, c.N())
	for i, row := range c.rows {
		for j, v := range row {
			all[i] |= uint32(v) << j
		}
	}
	return all
}

// spans says whether target is a sum of some of the words: by trying, not by the
// planner's arithmetic.
func spans(words []uint32, target uint32) bool {
	var basis [32]uint32
	reduce := func(w uint32) uint32 {
		for w != 0 && basis[bits.Len32(w)-1] != 0 {
			w ^= basis[bits.Len32(w)-1]
		}
		return w
	}
	for _, w := range words {
		if w = reduce(w); w != 0 {
			basis[bits.Len32(w)-1] = w
		}
	}
	return reduce(target) == 0
}

// fewestByTrying returns how many of have are needed for want, -1 if all are not enough.
func fewestByTrying(c *Code, have, want Set) int {
	all := words(c)
	for n := range have.Len() + 1 {
		none := eachSubset(have.Indexes(), n, func(s Set) bool {
			var w []uint32
			for _, i := range s.Indexes() {
				w = append(w, all[i])
			}
			for _, i := range want.Indexes() {
				if !spans(w, all[i]) {
					return true
				}
			}
			return false
		})
		if !none {
			return n
		}
	}
	return -1
}

func TestFlatXORPlanReadsTheFewestFragments(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, s := range []Scheme{{"flat_xor_hd_3", 3, 3}, {"flat_xor_hd_3", 5, 5}, {"flat_xor_hd_4", 6, 6}, {"flat_xor_hd_3", 10, 5}} {
		c := newCode(t, s)
		fewer := 0
		for range 40 {
			want := some(c, 1+rnd.IntN(3), rnd)
			have := some(c, 1+rnd.IntN(c.N()), rnd).Minus(want)
			fewest := fewestByTrying(c, have, want)
			p, err := c.Plan(have, want)
			if err != nil {
				if fewest >= 0 {
					t.Errorf("%v: %v from %v: %d are enough: %v", s, want, have, fewest, err)
				}
				continue
			}
			if len(p.In()) != fewest {
				t.Errorf("%v: %v from %v: from %v, but %d are enough", s, want, have, p.In(), fewest)
			}
			if fewest < c.K() {
				fewer++
			}
		}
		if fewer == 0 {
			t.Errorf("%v: never fewer than K", s)
		}
	}
}

func TestFlatXORSurvivesFewerLossesThanItsDistance(t *testing.T) {
	for _, s := range flatXORSchemes() {
		c := newCode(t, s)
		distance := int(s.Type[len(s.Type)-1] - '0')
		for n := 1; n < distance; n++ {
			eachSubset(c.all.Indexes(), n, func(lost Set) bool {
				if _, err := c.solve(c.all.Minus(lost), lost); err != nil {
					t.Errorf("%v: %v", s, err)
				}
				return true
			})
		}
		if n := len(c.rows); n != s.K+s.M {
			t.Errorf("%v: %d rows", s, n)
		}
	}
	if n := len(flatXORSchemes()); n != 38 {
		t.Errorf("%d codes", n)
	}
}

// Any K fragments of what is taken for an MDS code make all others, and where
// isa_l_rs_vand is not taken for one some do not.
func TestAnyKFragmentsOfAnMDSCodeAreEnough(t *testing.T) {
	var all []Scheme
	for _, typ := range Types() {
		all = append(all, schemes(typ, 6, 5)...)
	}
	all = append(all, Scheme{"isa_l_rs_vand", 21, 4}, Scheme{"isa_l_rs_vand", 22, 4}, Scheme{"isa_l_rs_vand", 4, 6}, Scheme{"isa_l_rs_vand", 5, 6}, Scheme{"isa_l_rs_vand", 6, 5})
	for _, s := range all {
		c := newCode(t, s)
		enough := eachSubset(c.all.Indexes(), c.K(), func(have Set) bool { return len(c.span(have).members) == c.K() })
		if enough != c.mds {
			t.Errorf("%v: any %d are enough: %v, taken for it: %v", s, s.K, enough, c.mds)
		}
	}
}

func TestChooseTakesTheFirstOffersThatSuffice(t *testing.T) {
	for _, x := range []struct {
		Scheme
		held    Set
		offered []int
		want    Set
		chosen  []int
	}{
		{Scheme{"isa_l_rs_vand", 4, 2}, SetOf(), []int{5, 3, 1, 0, 2}, SetOf(4), []int{5, 3, 1, 0}},
		{Scheme{"isa_l_rs_vand", 4, 2}, SetOf(3), []int{5, 3, 1, 4, 1, 0, 2}, SetOf(4), []int{5, 1, 0}},
		{Scheme{"isa_l_rs_vand", 4, 2}, SetOf(0, 1, 2, 3), []int{5}, SetOf(4), nil},
		{Scheme{"isa_l_rs_vand", 6, 5}, SetOf(1, 2, 4, 6, 7), []int{10, 8, 9}, SetOf(0), []int{8}}, // 10 tells nothing new
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(), []int{9, 8, 7, 6, 5, 4, 3, 2, 1}, SetOf(0), []int{7, 4}},
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(1), []int{9, 8, 7, 6, 5, 4, 3, 2}, SetOf(0), []int{5}},
		{Scheme{"flat_xor_hd_3", 5, 5}, SetOf(1, 5), []int{7, 4}, SetOf(0), nil},
	} {
		got, err := newCode(t, x.Scheme).Choose(x.held, x.offered, x.want)
		if err != nil || !slices.Equal(got, x.chosen) {
			t.Errorf("%v: %v beside %v, offered %v: %v, %v; want %v", x.Scheme, x.want, x.held, x.offered, got, err, x.chosen)
		}
	}
	c := mustNew(t, "isa_l_rs_vand", 4, 2)
	for _, x := range []struct {
		held    Set
		offered []int
		want    Set
	}{
		{SetOf(0), []int{1, 2}, SetOf(3)},
		{SetOf(0), []int{1, 2, 3, 4}, Set{}},
		{SetOf(0), []int{1, 2, 3, 6}, SetOf(4)},
		{SetOf(0), []int{1, 2, 3, -1}, SetOf(4)},
		{SetOf(0, 6), []int{1, 2, 3}, SetOf(4)},
	} {
		if got, err := c.Choose(x.held, x.offered, x.want); err == nil {
			t.Errorf("%+v: %v", x, got)
		}
	}
}

func TestWhatIsChosenIsEnoughAndOffered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCode(t)
		index := rapid.IntRange(0, c.N()-1)
		held := SetOf(rapid.SliceOf(index).Draw(t, "held")...)
		offered := rapid.SliceOf(index).Draw(t, "offered")
		want := SetOf(rapid.SliceOfN(index, 1, 3).Draw(t, "want")...)
		both := held.Or(SetOf(offered...))
		_, planErr := c.Plan(both, want)
		chosen, err := c.Choose(held, offered, want)
		var lack *Insufficient
		if (err == nil) != (planErr == nil) || err != nil && !errors.As(err, &lack) {
			t.Fatalf("%v: %v of %v beside %v: %v, plan: %v", c.Scheme(), want, offered, held, err, planErr)
		}
		if err != nil {
			return
		}
		at := -1
		for _, i := range chosen {
			next := slices.Index(offered, i)
			if next <= at || held.Minus(want).Has(i) || want.Has(i) {
				t.Fatalf("%v: %v of %v beside %v: %v", c.Scheme(), want, offered, held, chosen)
			}
			at = next
		}
		p, err := c.Plan(held.Or(SetOf(chosen...)), want)
		if err != nil {
			t.Fatalf("%v: %v of %v beside %v: %v: %v", c.Scheme(), want, offered, held, chosen, err)
		}
		if c.backend.sparse {
			if best, _ := c.Plan(both, want); len(best.In()) != len(p.In()) {
				t.Fatalf("%v: %v of %v beside %v: reads %v, not %v", c.Scheme(), want, offered, held, p.In(), best.In())
			}
		} else if n := held.Minus(want).Len(); len(chosen) > max(0, c.K()-len(c.span(held.Minus(want)).members)) {
			t.Fatalf("%v: %v of %v beside %d: %v", c.Scheme(), want, offered, n, chosen)
		}
	})
}

// FuzzPlan: whatever is asked of any scheme, a plan makes what was lost, and what is
// refused can not be made: the span of what is held does not grow by what is wanted, or
// it can be made from what is said to help.
func FuzzPlan(f *testing.F) {
	f.Add(byte(0), byte(4), byte(2), uint32(0x1e), uint32(1))
	f.Add(byte(3), byte(10), byte(5), uint32(0x7ffe), uint32(1))
	f.Add(byte(4), byte(6), byte(5), uint32(1<<1|1<<2|1<<4|1<<6|1<<7|1<<10), uint32(1))
	f.Fuzz(func(t *testing.T, typ, k, m byte, have, want uint32) {
		all := Types()
		c, err := New(Scheme{all[int(typ)%len(all)], int(k) % 24, int(m) % 9})
		if err != nil {
			return
		}
		h, w := Set{uint64(have)}, Set{uint64(want)}
		_, err = c.Plan(h, w)
		inside := h.Or(w).Minus(c.all) == (Set{}) && w != (Set{})
		var lack *Insufficient
		switch {
		case err == nil && inside:
			checkRebuild(t, c, fragments(c, randomBytes(k, 4*int(k)+1), Zlib), h, w)
		case err == nil:
			t.Fatalf("%v: %v from %v was planned", c.Scheme(), w, h)
		case !inside:
		case !errors.As(err, &lack):
			t.Fatalf("%v: %v", c.Scheme(), err)
		default:
			held := c.span(h.Minus(w))
			if both := c.span(h.Or(w)); len(both.members) == len(held.members) {
				t.Fatalf("%v: refused, but nothing is new: %v", c.Scheme(), err)
			}
			if _, err := c.Plan(h.Or(lack.Helpful), w); (err == nil) != (lack.Helpful != Set{}) {
				t.Fatalf("%v: %v, and then %v", c.Scheme(), lack, err)
			}
		}
	})
}
