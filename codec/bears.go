package codec

import (
	"cmp"
	"slices"
)

// maxLosses bounds how many sets of losses Bears tries, and maxTrials what all trials cost, in elements of the matrix: with a large code of which not all
// sets of K suffice they would take a minute, for each object that is verified.
const (
	maxLosses = 20000
	maxTrials = 1_000_000
)

// Bears returns how many of the fragments at hand may be lost, whichever they are, so that the data can still be decoded: copies
// has for each index how many there are of it. It is -1 where the data can not be decoded as it is. With a code of which not
// all sets of K fragments suffice, and so many fragments that not all losses can be tried, it is the number for a code of
// which they do.
func (c *Code) Bears(copies []int) int {
	var have Set
	var held []int
	for i, n := range copies[:c.N()] {
		if n > 0 {
			have = have.With(i)
			held = append(held, i)
		}
	}
	if !c.decodes(have) {
		return -1
	}
	slices.SortFunc(held, func(a, b int) int { return cmp.Compare(copies[a], copies[b]) })
	fatal := 0 // fewest losses that are too many
	for _, i := range held[:len(held)-c.K()+1] {
		fatal += copies[i]
	}
	if c.mds {
		return fatal - 1
	}
	tries := min(maxLosses, maxTrials/(c.K()*c.N()))
	var lose func(from Set, next, lost int)
	lose = func(from Set, next, lost int) {
		for at, i := range held[next:] {
			if lost+copies[i] >= fatal || tries == 0 { // the next ones have as many copies, or more
				return
			}
			tries--
			if rest := from.Without(i); !c.decodes(rest) {
				fatal = lost + copies[i]
				return
			} else {
				lose(rest, next+at+1, lost+copies[i])
			}
		}
	}
	lose(have, 0, 0)
	return fatal - 1
}

// decodes says whether all data fragments are in have, or can be made from it.
func (c *Code) decodes(have Set) bool {
	var lost Set
	for i := range c.K() {
		if !have.Has(i) {
			lost = lost.With(i)
		}
	}
	if lost == (Set{}) {
		return true
	}
	_, err := c.solve(have, lost)
	return err == nil
}
