package codec

import (
	"fmt"
	"math/bits"
)

// Choose says which fragments to read beside those held, so that want can be made: some of
// the offered ones, which are in the order in which the caller would like to read them,
// and are returned in that order; none when those held are enough. Offers that are wanted or held are
// passed over. With a flat XOR code the fewest possible are read in all, else K in all, the
// first ones. The error is *Insufficient when held and offered together are not enough, or
// that of Plan. What was chosen and held may be more than Plan uses.
func (c *Code) Choose(held Set, offered []int, want Set) ([]int, error) {
	var offers Set
	for _, i := range offered {
		if i < 0 || i >= c.N() {
			return nil, fmt.Errorf("fragment index %d: %v has only 0..%d", i, c.scheme, c.N()-1)
		}
		offers = offers.With(i)
	}
	if err := c.known(held, want); err != nil {
		return nil, err
	}
	held = held.Minus(want)
	offers = offers.Minus(want).Minus(held)
	var chosen Set
	enough := false
	switch {
	case c.mds:
		n := held.Len()
		for _, i := range offered {
			if n < c.K() && offers.Has(i) && !chosen.Has(i) {
				chosen = chosen.With(i)
				n++
			}
		}
		enough = n >= c.K()
	case c.backend.sparse:
		var rank [32]int
		for at, i := range offered {
			if rank[i] == 0 {
				rank[i] = at + 1
			}
		}
		inputs := c.fewest(held.Or(offers), want, func(s Set) (cost int) {
			for _, i := range s.Minus(held).Indexes() {
				cost += 1<<8 + rank[i]
			}
			return cost
		})
		chosen = inputs.Minus(held)
		enough = c.span(inputs).has(c, want)
	default:
		s := c.span(held)
		for _, i := range offered {
			if enough = s.has(c, want); enough {
				break
			}
			if offers.Has(i) && s.add(i, c.rows[i]) {
				chosen = chosen.With(i)
			}
		}
		enough = enough || s.has(c, want)
	}
	if !enough {
		return nil, c.insufficient(held.Or(offers), want)
	}
	var order []int
	for _, i := range offered {
		if chosen.Has(i) {
			order = append(order, i)
			chosen = chosen.Without(i)
		}
	}
	return order, nil
}

// has says whether all fragments in want are combinations of what is spanned.
func (s *span) has(c *Code, want Set) bool {
	for _, i := range want.Indexes() {
		if _, ok := s.combine(c.rows[i]); !ok {
			return false
		}
	}
	return true
}

// fewest returns the smallest part of have from which a flat XOR code makes want, of
// several the one of least cost, then that of fewest terms, then of lowest indexes; all of
// have, if that is not enough.
//
// A fragment is the sum of some of have in as many ways as there are sums in have that
// are zero. Of those there are at most 2^(M-w) with w fragments wanted, so that it takes
// no more than 512 trials.
func (c *Code) fewest(have, want Set, cost func(Set) int) Set {
	s := &span{f: c.backend.field(), k: c.K()}
	sum := func(index int) (uint32, bool) {
		of, ok := s.combine(c.rows[index])
		var m uint32
		for j, v := range of {
			m |= uint32(v) << s.members[j]
		}
		return m, ok
	}
	zeros := []uint32{0}
	for _, i := range have.Indexes() {
		if s.add(i, c.rows[i]) {
			continue
		}
		m, _ := sum(i)
		m |= 1 << i
		for _, z := range zeros {
			zeros = append(zeros, z^m)
		}
	}
	var one []uint32 // a way to make each
	for _, i := range want.Indexes() {
		m, ok := sum(i)
		if !ok {
			return have
		}
		one = append(one, m)
	}
	type price struct{ inputs, cost, terms, indexes int }
	less := func(a, b price) bool {
		switch {
		case a.inputs != b.inputs:
			return a.inputs < b.inputs
		case a.cost != b.cost:
			return a.cost < b.cost
		case a.terms != b.terms:
			return a.terms < b.terms
		}
		return a.indexes < b.indexes
	}
	best, cheapest := have, price{inputs: c.N() + 1}
	var try func(n int, union uint32, terms int)
	try = func(n int, union uint32, terms int) {
		if bits.OnesCount32(union) > cheapest.inputs {
			return
		}
		if n < len(one) {
			for _, z := range zeros {
				m := one[n] ^ z
				try(n+1, union|m, terms+bits.OnesCount32(m))
			}
			return
		}
		set := Set{uint64(union)}
		p := price{inputs: set.Len(), cost: cost(set), terms: terms, indexes: -int(bits.Reverse32(union))}
		if less(p, cheapest) {
			best, cheapest = set, p
		}
	}
	try(0, 0, 0)
	return best
}
