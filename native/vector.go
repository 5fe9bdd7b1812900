//go:build amd64 || arm64

package native

import (
	"math"
	"sync"
	"unsafe"
)

//go:generate sh -c "cd gen && go run . -out ../kernels_amd64.s -stubs ../kernels_amd64.go -pkg native"
//go:generate sh -c "cd gen && go run ./neon ../kernels_arm64.s ../kernels_arm64.go"

// maxOutputs is how many outputs the assembly makes in one pass over the inputs; its sums
// stay in registers. A program of more makes as many passes, over chunks that stay in
// the cache.
const maxOutputs = 4

// routine makes the outputs of one pass from n bytes at pos of each slice, n being a
// multiple of its unit. table holds what it needs to know of the coefficients, an input's
// after another's, in each the outputs' one after another.
type routine func(n, pos int, in, out *[]byte, table *byte, ins int)

// maxSums is maxOutputs for exclusive ors: those of a fragment of jerasure_rs_cauchy.
const maxSums = 4

// sumRoutine makes n bytes of each packet of some rows of row bytes, the first at pos, n
// being a multiple of its unit, as words say (see sumPass).
type sumRoutine func(n, pos, rows, row int, in, out *[]byte, words *uint32, rounds int)

// packetRoutine makes n bytes of each packet of some rows of row bytes, n being a multiple of
// its unit: maxSums sums in each pass, as places and counts say (see sumsOfPackets).
type packetRoutine func(n, rows, row int, places *uintptr, counts *uint32, passes int)

// level is a kernel of assembly for one kind of CPU. It does whole units of bytes; the
// last bytes are covered by a unit that ends with the slices and overlaps the one before
// it, and slices shorter than a unit are left to plain.
type level struct {
	name string
	// By number of outputs, from one.
	xor               [maxSums]sumRoutine
	packets           packetRoutine // none: packets are left to xor
	gf8, gf16         [maxOutputs]routine
	xorUnit           int // bytes
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
	if inputs > maxInputs || w > 1 && size > math.MaxInt32/w {
		return plain{}.GF2(inputs, w, size, sums)
	}
	if w == 1 {
		size = 0 // places of packets are within slices
	}
	layout := packetsOf(inputs, w, size, sums)
	if w > 1 && l.packets != nil {
		if p := bySums(layout, l); len(p.places) <= maxPlaces {
			return p
		}
	}
	p := &addition{packets: layout, level: l}
	for first := 0; first < len(sums); first += maxSums {
		group := sums[first:min(first+maxSums, len(sums))]
		var places []uint32 // of the sums
		for l := first; l < first+len(group); l++ {
			places = append(places, uint32(l/w*sliceHeader), uint32(l%w*size))
		}
		words, rounds := byRounds(layout.members(group), places, w, size)
		p.passes = append(p.passes, sumPass{l.xor[len(group)-1], words, rounds})
	}
	return p
}

// members returns, by packet of the inputs, which of a group of sums it belongs to, bit by bit;
// twice is not at all.
func (p *packets) members(group [][]int) []uint32 {
	masks := make([]uint32, p.ins*p.w)
	for j, sum := range group {
		for _, packet := range sum {
			masks[packet] ^= 1 << j
		}
	}
	return masks
}

// addition is a program over GF(2): passes over the inputs, of a few sums each.
type addition struct {
	packets
	level  *level
	passes []sumPass
}

// sumPass is what a routine makes and how: places are told by slice and how far inside, a
// slice as 24 times its number, which is how far its header is in a [][]byte.
type sumPass struct {
	run    sumRoutine
	words  []uint32
	rounds int
}

// byRounds returns the words of a pass that goes through a block, a row, in rounds: what the
// first packets of all inputs give to all sums, then the second ones, and so on. So each
// input is read from its start to its end, which CPUs foresee; reading what one sum asks
// for and then what the next does takes three times as long from memory. A round is: the
// number of terms; 1 if they are added to what an earlier round left; how far inside the
// inputs they are; the sums' places; for each term the slice, and in the upper half which
// sums it belongs to, bit by bit.
func byRounds(masks, places []uint32, w, size int) (words []uint32, rounds int) {
	for x := range w {
		var terms []uint32
		for i := range len(masks) / w {
			if mask := masks[i*w+x]; mask != 0 {
				terms = append(terms, uint32(i*sliceHeader)|mask<<16)
			}
		}
		if x > 0 && len(terms) == 0 {
			continue
		}
		rounds++
		words = append(words, uint32(len(terms)), uint32(min(x, 1)), uint32(x*size))
		words = append(append(words, places...), terms...)
	}
	return words, rounds
}

const sliceHeader = 24

// maxInputs is how many headers the lower half of a word can tell apart.
const maxInputs = 1 << 16 / sliceHeader

func (p *addition) Run(out, in [][]byte) {
	n, size := p.check(out, in)
	if n == 0 {
		return
	}
	touch(out, in)
	unit := p.level.xorUnit
	// Packets are of 1024 bytes. Others that are no whole units could not be ended with a
	// unit that overlaps: it would add twice.
	if size < unit || p.w > 1 && size%unit != 0 {
		(*plainPackets)(&p.packets).Run(out, in)
		return
	}
	row := p.w * size
	rows, whole := n/row, size-size%unit
	if len(p.passes) == 1 {
		p.part(out, in, 0, whole, rows, row)
	} else { // the later passes find the inputs in the cache
		for base := 0; base < n; base += row {
			for pos := 0; pos < whole; pos += chunk {
				p.part(out, in, base+pos, min(chunk, whole-pos), 1, row)
			}
		}
	}
	if whole < size {
		p.part(out, in, size-unit, unit, 1, row)
	}
}

// part makes n bytes of each packet of some rows of row bytes, the first at pos.
func (p *addition) part(out, in [][]byte, pos, n, rows, row int) {
	for i := range p.passes {
		s := &p.passes[i]
		s.run(n, pos, rows, row, &in[0], &out[0], &s.words[0], s.rounds)
	}
}

// sumsOfPackets is a program over GF(2) whose terms are in groups by the sums, four at a time,
// that they belong to. A group is added up before it is given to its sums. With no sum taken up
// again it is half as fast again as rounds in the cache; but from memory only where a routine
// asks for each line ahead of time: else it is half as fast.
type sumsOfPackets struct {
	packets
	level *level
	// Per pass: of maxSums sums, the last one more than once if there are fewer; then of the
	// terms of each set of sums, in the order of setOrder.
	places []place
	counts []uint32 // per pass, by set of sums, how many terms: 1<<maxSums numbers, the first is nothing
}

// place is where a packet of the first row is: a sum in the outputs, a term in the inputs.
type place struct {
	slice, offset int
	sum           bool
}

// maxPlaces bounds what a sumsOfPackets can run: more than any plan of jerasure_rs_cauchy asks
// for, half of whose 16 fragments made from the other half are 288.
const maxPlaces = 400

// setOrder is the order in which a packetRoutine takes the sets of sums, bit by bit, so that
// what was added up for one is most of what the next asks for.
var setOrder = [...]uint32{15, 11, 7, 3, 13, 9, 5, 1, 14, 10, 6, 2, 12, 8, 4}

func bySums(p packets, l *level) *sumsOfPackets {
	s := &sumsOfPackets{packets: p, level: l}
	put := func(packet int, sum bool) {
		s.places = append(s.places, place{packet / p.w, packet % p.w * p.size, sum})
	}
	for first := 0; first < len(p.sums); first += maxSums {
		var group [maxSums][]int
		for j := range group {
			sum := min(first+j, len(p.sums)-1)
			group[j] = p.sums[sum]
			put(sum, true)
		}
		members := p.members(group[:])
		var counts [1 << maxSums]uint32
		for _, set := range setOrder {
			for packet, m := range members {
				if m == set {
					counts[set]++
					put(packet, false)
				}
			}
		}
		s.counts = append(s.counts, counts[:]...)
	}
	return s
}

func (s *sumsOfPackets) Run(out, in [][]byte) {
	n, size := s.check(out, in)
	if n == 0 {
		return
	}
	touch(out, in)
	if size%s.level.xorUnit != 0 { // the routine does whole units, and packets are of 1024 bytes
		(*plainPackets)(&s.packets).Run(out, in)
		return
	}
	places := placesPool.Get().(*[maxPlaces]unsafe.Pointer)
	for i, p := range s.places {
		from := in
		if p.sum {
			from = out
		}
		places[i] = unsafe.Pointer(&from[p.slice][p.offset])
	}
	row := s.w * size
	s.level.packets(size, n/row, row, (*uintptr)(unsafe.Pointer(&places[0])), &s.counts[0], len(s.counts)>>maxSums)
	clear(places[:len(s.places)])
	placesPool.Put(places)
}

var placesPool = sync.Pool{New: func() any { return new([maxPlaces]unsafe.Pointer) }}
