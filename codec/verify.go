package codec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Verdict is what the fragments of one segment say of each other.
type Verdict struct {
	// Checked are the fragments that could be compared with what others say of them. About
	// the rest nothing is known. (All are, but with flat XOR codes and few others.)
	Checked Set
	// Consistent says that all that could be compared agrees.
	Consistent bool
	// Liars are the fragments that contradict the others, provided that no more are wrong
	// than so many. It is empty where that can not be told, for instance with one
	// fragment to spare: "inconsistent, not located".
	Liars Set
}

// ErrNoSpare is the error of Verify when no fragment can be compared with others.
var ErrNoSpare = errors.New("no fragment to spare that the others could be compared with")

// maxSuspects bounds how many sets of fragments Verify suspects one after another: all
// pairs of 32 fragments are among so many, and it takes less than half a second.
const maxSuspects = 600

// Verify compares the payloads of a segment's fragments with each other: payloads has N
// slices of one length, nil for those that are not at hand. With one fragment to spare it
// tells whether they are consistent; with two of an MDS code, or with all of a flat XOR
// code, which one lies; with more to spare, half as many. A consistent segment costs no
// allocation. The error is ErrNoSpare, or says what is wrong with the number or length of
// the payloads.
func (c *Code) Verify(payloads [][]byte) (Verdict, error) {
	if len(payloads) != c.N() {
		return Verdict{}, fmt.Errorf("%d payloads of %v", len(payloads), c.scheme)
	}
	var have Set
	size := -1
	for i, b := range payloads {
		if b == nil {
			continue
		}
		if size < 0 {
			size = len(b)
		}
		if len(b) != size {
			return Verdict{}, fmt.Errorf("payload of fragment %d has %d bytes, that of another %d", i, len(b), size)
		}
		have = have.With(i)
	}
	if size > 0 && size%c.backend.word != 0 {
		return Verdict{}, fmt.Errorf("payloads of %d bytes, but those of %v are multiples of %d", size, c.scheme, c.backend.word)
	}
	k := c.checkOf(have)
	if k == nil {
		return Verdict{}, ErrNoSpare
	}
	bad := k.firstBad(payloads, 0, size)
	if bad < 0 {
		return Verdict{Checked: k.covers, Consistent: true}, nil
	}
	return Verdict{Checked: k.covers, Liars: c.liars(have, k, payloads, bad, size)}, nil
}

// Checked returns those of some fragments that Verify can compare with others: a wrong one of them, alone, is noticed.
func (c *Code) Checked(have Set) Set {
	k := c.checkOf(have)
	if k == nil {
		return Set{}
	}
	return k.covers
}

// ChooseSpares says which fragments to read beside have, which suffices for want, so that Verify checks all that Plan reads: the fewest, one for an MDS code, of the offered ones,
// which are in the order in which the caller would like to read them. nil: it is checked without, or can not be with so few that they and what Plan reads are K+1.
func (c *Code) ChooseSpares(have Set, offered []int, want Set) []int {
	p, err := c.Plan(have, want)
	if err != nil {
		return nil
	}
	in := SetOf(p.in...)
	proved := func(s Set) bool { return in.Minus(c.Checked(s)) == (Set{}) }
	if proved(have) {
		return nil
	}
	var offers []int
	for _, i := range offered {
		if !have.Has(i) && !want.Has(i) && !slices.Contains(offers, i) {
			offers = append(offers, i)
		}
	}
	var chosen []int
	for n := 1; n <= min(c.K()+1-in.Len(), len(offers)) && chosen == nil; n++ {
		eachSubset(offers, n, func(s Set) bool {
			if proved(have.Or(s)) {
				for _, i := range offers {
					if s.Has(i) {
						chosen = append(chosen, i)
					}
				}
			}
			return chosen == nil
		})
	}
	return chosen
}

// check makes the spare ones of a set of fragments from the others, to be compared.
type check struct {
	plan   *Plan
	spares int
	covers Set
}

// checkOf returns the check of a set of fragments, nil if none is to spare.
func (c *Code) checkOf(have Set) *check {
	c.mu.RLock()
	k, known := c.checks[have]
	c.mu.RUnlock()
	if known {
		return k
	}
	k = c.newCheck(have)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.checks) >= maxPlans {
		clear(c.checks)
	}
	c.checks[have] = k
	return k
}

func (c *Code) newCheck(have Set) *check {
	basis := SetOf(c.span(have).members...)
	spare := have.Minus(basis)
	if spare == (Set{}) {
		return nil
	}
	p, err := c.solve(basis, spare)
	if err != nil {
		panic(fmt.Sprintf("codec: %v: %v", c.scheme, err)) // what is spare is in the span of the basis
	}
	return &check{plan: p, spares: spare.Len(), covers: SetOf(p.in...).Or(spare)}
}

// piece is how many bytes of each payload are compared at a time: few enough that what
// was made of them is still in the cache, and a multiple of every type's word.
const piece = 32 << 10

type scratch struct {
	slots
	bytes []byte
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// firstBad returns where the first piece between from and to begins that is inconsistent,
// or -1.
func (k *check) firstBad(payloads [][]byte, from, to int) int {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	in, out := k.plan.in, k.plan.out
	s.bytes = slices.Grow(s.bytes[:0], len(out)*piece)[:len(out)*piece]
	s.grow(len(out), len(in))
	defer s.clear()
	for ; from < to; from += piece {
		end := min(from+piece, to)
		for j, i := range in {
			s.in[j] = payloads[i][from:end]
		}
		for j := range out {
			s.out[j] = s.bytes[j*piece:][:end-from]
		}
		k.plan.Run(s.out, s.in)
		for j, i := range out {
			if !bytes.Equal(s.out[j], payloads[i][from:end]) {
				return from
			}
		}
	}
	return -1
}

// liars returns the smallest set of fragments without which the rest is consistent, if
// there is just one of its size. As many fragments as are suspected are left to spare,
// so that the rest does not agree by chance. bad is where a piece is inconsistent.
func (c *Code) liars(have Set, k *check, payloads [][]byte, bad, size int) Set {
	all := have.Indexes()
	tried := 0
	for n := 1; 2*n <= k.spares; n++ {
		var found []Set
		complete := eachSubset(all, n, func(suspects Set) bool {
			if tried++; tried > maxSuspects {
				return false
			}
			rest := c.newCheck(have.Minus(suspects))
			if rest == nil || rest.firstBad(payloads, bad, min(bad+piece, size)) < 0 && rest.firstBad(payloads, 0, size) < 0 {
				found = append(found, suspects)
			}
			return len(found) < 2
		})
		switch {
		case !complete:
			return Set{}
		case len(found) == 1:
			return found[0]
		}
	}
	return Set{}
}

// eachSubset calls f with each set of n of the indexes until it returns false, and says
// whether it never did.
func eachSubset(of []int, n int, f func(Set) bool) bool {
	var next func(s Set, rest []int, n int) bool
	next = func(s Set, rest []int, n int) bool {
		if n == 0 {
			return f(s)
		}
		for i := range len(rest) - n + 1 {
			if !next(s.With(rest[i]), rest[i+1:], n-1) {
				return false
			}
		}
		return true
	}
	return next(Set{}, of, n)
}
