package codec

import (
	"fmt"
	"math/bits"
	"strings"
)

// Set is a set of fragment indexes, 0 to 255. It is a value and can be compared and used
// as a key.
type Set [4]uint64

// SetOf returns the set of the given indexes. It panics on one outside of 0..255: an
// index from outside is compared with Code.N first.
func SetOf(indexes ...int) Set {
	var s Set
	for _, i := range indexes {
		s = s.With(i)
	}
	return s
}

// first returns the set of the n lowest indexes.
func first(n int) (s Set) {
	for i := range n {
		s = s.With(i)
	}
	return s
}

// Has says whether i is in s; an index outside of 0..255 never is.
func (s Set) Has(i int) bool {
	return i >= 0 && i < MaxFragments && s[i>>6]>>(i&63)&1 == 1
}

// With returns s and i. It panics if i is outside of 0..255.
func (s Set) With(i int) Set {
	mustIndex(i)
	s[i>>6] |= 1 << (i & 63)
	return s
}

// Without returns s without i. It panics if i is outside of 0..255.
func (s Set) Without(i int) Set {
	mustIndex(i)
	s[i>>6] &^= 1 << (i & 63)
	return s
}

// Minus returns what is in s and not in t.
func (s Set) Minus(t Set) Set {
	for w := range s {
		s[w] &^= t[w]
	}
	return s
}

// Or returns what is in s or in t.
func (s Set) Or(t Set) Set {
	for w := range s {
		s[w] |= t[w]
	}
	return s
}

// Len returns how many indexes s has.
func (s Set) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Indexes returns the indexes of s, ascending.
func (s Set) Indexes() []int {
	out := make([]int, 0, s.Len())
	for w, v := range s {
		for ; v != 0; v &= v - 1 {
			out = append(out, w<<6+bits.TrailingZeros64(v))
		}
	}
	return out
}

// String returns the indexes between braces: {0 1 13}.
func (s Set) String() string {
	return "{" + strings.Trim(fmt.Sprint(s.Indexes()), "[]") + "}"
}

func mustIndex(i int) {
	if i < 0 || i >= MaxFragments {
		panic(fmt.Sprintf("codec: fragment index %d is not within 0..%d", i, MaxFragments-1))
	}
}
