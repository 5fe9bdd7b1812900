package native

// maxOutputs is how many outputs the assembly makes in one pass over the inputs; its sums
// stay in registers. A program of more makes as many passes, over chunks that stay in
// the cache.
const maxOutputs = 4

// routine makes the outputs of one pass from n bytes at pos of each slice, n being a
// multiple of its unit. table holds what it needs to know of the coefficients, an input's
// after another's, in each the outputs' one after another.
type routine func(n, pos int, in, out *[]byte, table *byte, ins int)

// level is a kernel of assembly for one kind of CPU. It does whole units of bytes; the
// last bytes are covered by a unit that ends with the slices and overlaps the one before
// it, and slices shorter than a unit are left to plain.
type level struct {
	name string
	// xor makes n bytes at pos of count sums (see terms), n being a multiple of xorUnit.
	xor               func(n, pos int, in, out *[]byte, sums *uint64, count int)
	gf8, gf16         [maxOutputs]routine // by number of outputs, from one
	xorUnit           int                 // bytes
	gf8Unit, gf16Unit int
	table8            func(table []byte, c byte) []byte // append what the routines know of c
	table16           func(table []byte, c uint16) []byte
}

func (l *level) Name() string { return l.name }

func (l *level) GF8(rows [][]byte) Program {
	return newMatrix(horner8(rows), rows, l.gf8, l.gf8Unit, 1, l.table8)
}

func (l *level) GF16(rows [][]uint16) Program {
	return newMatrix(horner16(rows), rows, l.gf16, l.gf16Unit, 2, l.table16)
}

// matrix is a program over GF(2^8) or GF(2^16).
type matrix struct {
	shape
	passes []pass
	unit   int     // bytes that the routines work in
	word   int     // bytes of an element
	rest   *horner // for what is less than a unit
}

type pass struct {
	outs  int
	run   routine
	table []byte
}

func newMatrix[E byte | uint16](rest *horner, rows [][]E, routines [maxOutputs]routine, unit, word int, table func([]byte, E) []byte) *matrix {
	m := &matrix{shape: shapeOf(rows), unit: unit, word: word, rest: rest}
	for len(rows) > 0 {
		p := pass{outs: min(len(rows), maxOutputs)}
		p.run = routines[p.outs-1]
		for j := range rows[0] {
			for _, row := range rows[:p.outs] {
				p.table = table(p.table, row[j])
			}
		}
		m.passes = append(m.passes, p)
		rows = rows[p.outs:]
	}
	return m
}

// chunk is how much of each region is finished before the next when there are several
// passes, so that the later ones find the inputs in the cache: of 10+4 80 KiB, a small
// part of a second-level cache; much less costs calls and the prefetcher's stride.
const chunk = 8 << 10

func (m *matrix) Run(out, in [][]byte) {
	n := m.check(out, in)
	touch(out, in)
	whole := n - n%m.unit
	if whole == 0 {
		m.rest.part(out, in, 0, n)
		return
	}
	step := whole
	if len(m.passes) > 1 {
		step = chunk
	}
	for pos := 0; pos < whole; pos += step {
		m.part(out, in, pos, min(step, whole-pos))
	}
	// An odd byte of a wide field is an element of its own, so the unit that covers the
	// last bytes ends before it.
	even := n - n%m.word
	if whole < even {
		m.part(out, in, even-m.unit, m.unit)
	}
	if even < n {
		m.rest.part(out, in, even, n)
	}
}

func (m *matrix) part(out, in [][]byte, pos, n int) {
	for i := range m.passes {
		p := &m.passes[i]
		p.run(n, pos, &in[0], &out[0], &p.table[0], len(in))
		out = out[p.outs:]
	}
}

func (l *level) XOR(inputs int) Program {
	sum := make([]int, inputs)
	for i := range sum {
		sum[i] = i
	}
	return l.GF2(inputs, 1, 0, [][]int{sum})
}

func (l *level) GF2(inputs, w, size int, sums [][]int) Program {
	p := &addition{packets: packetsOf(inputs, w, size, sums), level: l}
	for i, sum := range sums {
		if len(sum) == 0 {
			p.empty = append(p.empty, i)
			continue
		}
		p.count++
		p.terms = append(p.terms, uint64(len(sum)), p.term(i))
		for _, x := range sum {
			p.terms = append(p.terms, p.term(x))
		}
	}
	return p
}

// addition is a program over GF(2).
type addition struct {
	packets
	level *level
	// terms lists the sums that are not empty: the number of summands, where the sum
	// goes, the summands. A place is 24 times the number of the slice, which is how far
	// its header is in a [][]byte, and in the upper half how far inside the slice.
	terms []uint64
	count int
	empty []int
}

func (p *addition) term(x int) uint64 {
	if p.w == 1 {
		return uint64(x) * sliceHeader
	}
	return uint64(x/p.w)*sliceHeader | uint64(x%p.w*p.size)<<32
}

const sliceHeader = 24

// column is how much of each packet is finished before the next: of the 40 packets of
// 10 inputs in a first-level cache of 32 KiB, 20 KiB.
const column = 512

func (p *addition) Run(out, in [][]byte) {
	n, size := p.check(out, in)
	if n == 0 {
		return
	}
	touch(out, in)
	unit := p.level.xorUnit
	if size < unit {
		(*plainPackets)(&p.packets).Run(out, in)
		return
	}
	for base := 0; base < n; base += p.w * size {
		for _, x := range p.empty {
			clear(out[x/p.w][base+x%p.w*size:][:size])
		}
	}
	if p.count == 0 {
		return
	}
	whole := size - size%unit
	step := whole
	if p.w > 1 {
		step = column
	} else if p.count > 1 {
		step = chunk
	}
	for base := 0; base < n; base += p.w * size {
		for pos := 0; pos < whole; pos += step {
			p.level.xor(min(step, whole-pos), base+pos, &in[0], &out[0], &p.terms[0], p.count)
		}
		if whole < size {
			p.level.xor(unit, base+size-unit, &in[0], &out[0], &p.terms[0], p.count)
		}
	}
}
