package native

import "github.com/klauspost/reedsolomon"

// klauspost runs XOR and GF(2^8) on the kernels of klauspost/reedsolomon, which chooses
// among AVX2, SSSE3, NEON and plain Go by itself. Its GF(2^16) is another field in
// another layout, so that one stays plain.
//
// It uses the LowLevel functions, one coefficient at a time over a block that stays in
// the cache. An Encoder with a custom matrix is up to 2.5 times as fast in the cache (its
// GFNI kernels) and no faster out of it, but allocates on each call.
type klauspost struct{ plain }

func (klauspost) Name() string { return "klauspost" }

func (k klauspost) XOR(inputs int) Program {
	if inputs < 1 {
		panic("native: exclusive or of nothing")
	}
	ones := make([]byte, inputs)
	for i := range ones {
		ones[i] = 1
	}
	return k.GF8([][]byte{ones})
}

func (klauspost) GF8(rows [][]byte) Program {
	p := &lowLevel{shape: shapeOf(rows)}
	for _, r := range rows {
		var terms []term
		for j, c := range r {
			if c != 0 {
				terms = append(terms, term{j, c})
			}
		}
		p.rows = append(p.rows, terms)
	}
	return p
}

type lowLevel struct {
	shape
	rows [][]term
}

// term is an input and its coefficient, not zero.
type term struct {
	input int
	c     byte
}

// lowLevelBlock is how much of an output is finished before the next block: small enough
// for a first-level cache beside the input, large enough that calls do not weigh (40
// GB/s of input at 8 and 16 KiB, 34 at 2 KiB).
const lowLevelBlock = 8 << 10

func (p *lowLevel) Run(out, in [][]byte) {
	n := p.check(out, in)
	var gf reedsolomon.LowLevel
	for from := 0; from < n; from += lowLevelBlock {
		to := min(from+lowLevelBlock, n)
		for i, terms := range p.rows {
			dst := out[i][from:to]
			if len(terms) == 0 {
				clear(dst)
				continue
			}
			gf.GalMulSlice(terms[0].c, in[terms[0].input][from:to], dst)
			for _, t := range terms[1:] {
				gf.GalMulSliceXor(t.c, in[t.input][from:to], dst)
			}
		}
	}
}
