// Package slab holds pooled, 64-byte aligned, off-heap buffers under one memory budget, and admits jobs to it in order of arrival.
// It does not know what is in the buffers, and it does not bound memory that is taken elsewhere.
//
// A Slab is mapped once and handed out again and again, the one released last first (its bytes are the ones still in cache). It is
// never unmapped while someone holds it. Blocking happens in one place, Open, while the caller holds nothing: an admitted Account owns
// its reserve until Close, so whoever works on the reserve can always go on.
package slab

import (
	"fmt"
	"sync/atomic"
)

// Align is the alignment in bytes of the first byte of each Slab: a cache line, and the widest vector register.
const Align = 64

// Slab is one buffer of a Pool, held by exactly one owner until Release.
type Slab struct {
	mem      region // the whole mapping; its length is the size class
	n        int    // bytes that were asked for
	acct     *Account
	spare    bool // paid from spare bytes, not from the account's reserve
	released atomic.Bool
}

// Bytes returns the buffer: as long as was asked for, starting on an Align boundary, contents undefined. After Release it returns nil.
func (s *Slab) Bytes() []byte {
	if s.released.Load() {
		return nil
	}
	return s.mem[:s.n:s.n]
}

// Size returns the bytes that the slab takes from the budget: its size class.
func (s *Slab) Size() int { return len(s.mem) }

// Release gives the slab back. No read or write of its bytes may be in flight. A second Release panics: two owners of one buffer would
// publish each other's bytes.
func (s *Slab) Release() {
	if s.released.Swap(true) {
		panic(fmt.Sprintf("BUG: slab of %d bytes released twice", s.n))
	}
	poison(s.mem)
	s.acct.give(s)
}

// classSteps is the number of size classes per doubling: at most an eighth of a slab is waste. More classes would leave more free lists
// that no longer fit anyone; a process has few layouts, so this is seldom seen at all.
const classSteps = 8

// minClass is the smallest slab: a page, below which mapping makes no sense.
const minClass = 4096

// maxSize bounds a single slab (1 TiB), so that rounding can not overflow.
const maxSize = 1 << 40

// Round returns the size class of n: the bytes that a slab of n bytes takes from the budget. Reserves are sums of rounded sizes.
func Round(n int) int {
	if n <= minClass {
		return minClass
	}
	step := minClass
	for step*classSteps*2 < n {
		step *= 2
	}
	return (n + step - 1) / step * step
}
