// Command gen writes native's assembly for amd64: run "go generate ./native".
//
// Every routine has the same frame. A block of a few vectors of every region is finished
// before the next block: an accumulator per output and vector stays in a register, the
// inner loop goes over the inputs. Over a field the coefficients of an input are broadcast
// once per block. Blocks of several vectors come first, then single ones; the caller sees to
// what is left (native/vector.go).
package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// sliceHeader is the size of a []byte in a [][]byte.
const sliceHeader = 24

// maxOutputs is how many outputs a pass over the inputs makes (native/vector.go).
const maxOutputs = 4

// maxSums is the same for exclusive ors.
const maxSums = 4

func main() {
	gfni512, avx512 := zmm("Gfni512"), zmm("Avx512")
	gfni256, avx2 := ymm("Gfni256"), ymm("Avx2")
	ssse3 := xmm("Ssse3")

	// The number of vectors of a block, per number of outputs: as many as registers
	// allow, up to four; more where a vector costs but an instruction or two.
	for m := 1; m <= maxSums; m++ {
		xor(avx512, m, [...]int{8, 8, 4, 4}[m-1])
		xor(avx2, m, [...]int{8, 4, 4, 3}[m-1])
		xor(ssse3, m, [...]int{8, 4, 3, 3}[m-1])
	}
	packets(avx512, 4)
	for m := 1; m <= maxOutputs; m++ {
		gf8Affine(gfni512, m, [...]int{8, 8, 6, 4}[m-1])
		gf8Affine(gfni256, m, [...]int{4, 4, 2, 2}[m-1])
		gf8Shuffle(avx512, m, [...]int{4, 4, 4, 2}[m-1])
		gf8Shuffle(avx2, m, [...]int{4, 3, 2, 1}[m-1])
		gf8Shuffle(ssse3, m, [...]int{2, 2, 2, 1}[m-1])
		gf16Affine(gfni512, m, [...]int{8, 4, 2, 1}[m-1])
		gf16Affine(gfni256, m, [...]int{4, 2, 1, 1}[m-1])
		// Here the unit is a pair of vectors.
		gf16Shuffle(avx512, m, [...]int{2, 2, 2, 1}[m-1])
		gf16Shuffle(avx2, m, [...]int{2, 1, 1, 1}[m-1])
		gf16Shuffle(ssse3, m, [...]int{2, 1, 1, 1}[m-1])
	}
	Generate()
}

// args are the registers of a routine's arguments.
type args struct{ n, pos, in, out, table, ins, ahead reg.Register }

// routine frames a function for m outputs. bytes is the size of the unit that it works
// in; body is called for blocks of units of them and then for single units, and makes all
// outputs of one block at pos.
func routine(name, doc string, a isa, m, units, bytes int, body func(r args, units int)) {
	TEXT(fmt.Sprintf("%sx%d%s", name, m, a.name), attr.NOSPLIT, "func(n, pos int, in, out *[]byte, table *byte, ins int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%sx%d%s %s", name, m, a.name, doc))
	r := args{
		n: Load(Param("n"), GP64()), pos: Load(Param("pos"), GP64()), in: Load(Param("in"), GP64()),
		out: Load(Param("out"), GP64()), table: Load(Param("table"), GP64()), ins: Load(Param("ins"), GP64()),
	}
	r.ahead = a.distance(r.ins)
	blocks(r.n, r.pos, units, bytes, func(units int) { body(r, units) })
	a.leave()
}

// blocks emits the loops over blocks of units units of bytes bytes, then of single ones.
func blocks(n, pos reg.Register, units, bytes int, body func(units int)) {
	loop := func(name string, units int, next string) {
		Label(name)
		CMPQ(n, U32(units*bytes))
		JLT(LabelRef(next))
		body(units)
		ADDQ(U32(units*bytes), pos)
		SUBQ(U32(units*bytes), n)
		JMP(LabelRef(name))
	}
	if units > 1 {
		loop("wide", units, "narrow")
	}
	loop("narrow", 1, "done")
	Label("done")
}

// onStack is where an argument is that gets no register.
func onStack(name string) Mem {
	p, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return p.Addr
}

// input is one of those that the body of a loop takes at a time: the vectors of its block, to
// be loaded once each (isa.vectors), and its coefficients.
type input struct {
	vector func(u int) Mem
	table  Mem
}

// inputs emits the inner loop over a block of units vectors of each input, whose coefficients
// are bytes long. body takes several inputs at a time if it can: as many as group, then
// single ones.
func (a isa) inputs(r args, units, bytes, group int, body func(in []input)) {
	label := fmt.Sprintf("inputs%d", units)
	in, table, left := GP64(), GP64(), GP64()
	MOVQ(r.in, in)
	MOVQ(r.table, table)
	MOVQ(r.ins, left)
	loop := func(label string, group int, next string) {
		if group > 1 {
			CMPQ(left, U32(group))
			JLT(LabelRef(next))
		}
		Label(label)
		var taken []input
		for i := range group {
			p := GP64()
			MOVQ(Mem{Base: in, Disp: i * sliceHeader}, p)
			taken = append(taken, input{a.vectors(p, r.pos, r.ahead), Mem{Base: table, Disp: i * bytes}})
		}
		body(taken)
		ADDQ(U32(group*sliceHeader), in)
		ADDQ(U32(group*bytes), table)
		SUBQ(U32(group), left)
		if group > 1 {
			CMPQ(left, U32(group))
			JGE(LabelRef(label))
			Label(next)
		} else {
			JNZ(LabelRef(label))
		}
	}
	if group > 1 {
		loop(label+"_group", group, label+"_rest")
		TESTQ(left, left)
		JZ(LabelRef(label + "_end"))
	}
	loop(label, 1, "")
	Label(label + "_end")
}

// output loads the address of the block in output j.
func output(r args, j int) Mem {
	p := GP64()
	MOVQ(Mem{Base: r.out, Disp: j * sliceHeader}, p)
	return Mem{Base: p, Index: r.pos, Scale: 1}
}

// xor writes the routine of m exclusive ors, driven by a list (native/vector.go). An input
// that has been loaded is added to each sum that asks for it: the branches repeat with
// every block, so they are foreseen. All loops are in here: when memory is the limit, each
// return costs as much as 200 bytes.
func xor(a isa, m, vectors int) {
	name := fmt.Sprintf("xorx%d%s", m, a.name)
	TEXT(name, attr.NOSPLIT, "func(n, pos, rows, row int, in, out *[]byte, rounds *uint32, count int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s makes n bytes, a multiple of %d, of each packet of some rows.", name, a.width))
	start := Load(Param("pos"), GP64())
	in, out := Load(Param("in"), GP64()), Load(Param("out"), GP64())
	rowsLeft := onStack("rows")
	Label("row")
	round, roundsLeft := Load(Param("rounds"), GP64()), Load(Param("count"), GP64())
	Label("round")
	n, pos, src, term := Load(Param("n"), GP64()), GP64(), GP64(), GP64()
	MOVL(Mem{Base: round, Disp: 8}, src.As32())
	MOVQ(start, pos)
	ADDQ(pos, src)
	blocks(n, pos, vectors, a.width, func(units int) {
		label := func(name string) string { return fmt.Sprintf("%s%d", name, units) }
		sum := func(j int) Mem {
			slice, p := GP64(), GP64()
			MOVL(Mem{Base: round, Disp: 12 + 8*j}, slice.As32())
			MOVL(Mem{Base: round, Disp: 16 + 8*j}, p.As32())
			ADDQ(Mem{Base: out, Index: slice, Scale: 1}, p)
			return Mem{Base: p, Index: pos, Scale: 1}
		}
		acc := a.zeros(m * units)
		CMPL(Mem{Base: round, Disp: 4}, Imm(0))
		JEQ(LabelRef(label("zeros")))
		for j := range m {
			from := sum(j)
			for u := range units {
				a.load(from.Offset(u*a.width), acc[j*units+u])
			}
		}
		Label(label("zeros"))
		left := GP64()
		MOVL(Mem{Base: round}, left.As32())
		ahead := a.distance(left)
		LEAQ(Mem{Base: round, Disp: 12 + 8*m}, term)
		TESTQ(left, left)
		JZ(LabelRef(label("store")))
		Label(label("term"))
		what, p := GP32(), GP64()
		MOVL(Mem{Base: term}, what)
		MOVWQZX(what.As16(), p)
		MOVQ(Mem{Base: in, Index: p, Scale: 1}, p)
		from := a.vectors(p, src, ahead)
		if m == 1 {
			for u := range units {
				a.xorMem(from(u), acc[u])
			}
		} else {
			v := a.vecs(units)
			for u := range units {
				a.load(from(u), v[u])
			}
			for j := range m {
				skip := label(fmt.Sprintf("not%d_", j))
				TESTL(U32(1<<(16+j)), what)
				JZ(LabelRef(skip))
				for u := range units {
					a.xor(v[u], acc[j*units+u])
				}
				Label(skip)
			}
		}
		ADDQ(Imm(4), term)
		DECQ(left)
		JNZ(LabelRef(label("term")))
		Label(label("store"))
		for j := range m {
			to := sum(j)
			for u := range units {
				a.store(acc[j*units+u], to.Offset(u*a.width))
			}
		}
		ADDQ(U32(units*a.width), src)
	})
	MOVQ(term, round)
	DECQ(roundsLeft)
	JNZ(LabelRef("round"))
	row := Load(Param("row"), GP64())
	ADDQ(row, start)
	DECQ(rowsLeft)
	JNZ(LabelRef("row"))
	a.leave()
}

// packets writes the routine of exclusive ors of packets, maxSums of them in a pass, driven by
// where the sums and their terms are and by how many terms belong to each set of sums
// (native/vector.go). Of each place in the packets all passes are made before the next place:
// no sum is taken up again, and the later passes find in the cache what the first one read. That
// is as many streams as there are packets in a row, too many for a CPU to foresee: of its terms
// the first pass asks for each line one block before its turn, at the end of a row in the next
// one (of packets that are whole blocks). From memory it is the faster the fewer instructions
// there are: so more of a block are in flight. Only AVX-512 has registers enough.
func packets(a isa, vectors int) {
	if a.width != 64 {
		panic("packets of " + a.name)
	}
	TEXT("packets"+a.name, attr.NOSPLIT, "func(n, rows, row int, places *uintptr, counts *uint32, passes int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("packets%s makes n bytes, a multiple of %d, of each packet of some rows.", a.name, a.width))
	rowsLeft := onStack("rows")
	wrap := Load(Param("row"), GP64()) // from the end of a packet to the same packet of the next row
	length := Load(Param("n"), GP64())
	SUBQ(length, wrap)
	start := GP64()
	XORQ(start, start)
	Label("row")
	n, pos := Load(Param("n"), GP64()), GP64()
	MOVQ(start, pos)
	blocks(n, pos, vectors, a.width, func(units int) {
		soon, next := GP64(), GP64() // where the line is that is asked for
		LEAQ(Mem{Base: pos, Disp: units * a.width}, soon)
		LEAQ(Mem{Base: soon, Index: wrap, Scale: 1}, next)
		CMPQ(n, U32(units*a.width))
		CMOVQEQ(next, soon)
		place, count, left := Load(Param("places"), GP64()), Load(Param("counts"), GP64()), Load(Param("passes"), GP64())
		first, more, end := fmt.Sprintf("first%d", units), fmt.Sprintf("more%d", units), fmt.Sprintf("end%d", units)
		a.sumPackets(first, place, count, pos, soon, units)
		DECQ(left)
		JZ(LabelRef(end))
		Label(more)
		a.sumPackets(more, place, count, pos, nil, units)
		DECQ(left)
		JNZ(LabelRef(more))
		Label(end)
	})
	row := Load(Param("row"), GP64())
	ADDQ(row, start)
	DECQ(rowsLeft)
	JNZ(LabelRef("row"))
	a.leave()
}

// sumPackets makes a block of units vectors at pos of maxSums sums of packets. place and count
// point to what is said of this pass, and then to what is said of the next; soon, if it is not
// nil, is asked for of each term.
func (a isa) sumPackets(name string, place, count, pos, soon reg.Register, units int) {
	label := func(what string, set int) string { return fmt.Sprintf("%s_%s%d", name, what, set) }
	sums := GP64()
	MOVQ(place, sums)
	ADDQ(Imm(8*maxSums), place)
	var rare []func()
	// add adds the terms of a set to what is there, or to nothing.
	add := func(set int, to []reg.VecVirtual, nothing bool) {
		left, end := GP64(), GP64() // of the terms; left is negative
		MOVL(Mem{Base: count, Disp: 4 * set}, left.As32())
		LEAQ(Mem{Base: place, Index: left, Scale: 8}, end)
		MOVQ(end, place)
		NEGQ(left)
		term := func(do func(m Mem, dst reg.Register)) {
			p := GP64()
			MOVQ(Mem{Base: end, Index: left, Scale: 8}, p)
			for u := range units {
				if soon != nil {
					PREFETCHT0(Mem{Base: p, Index: soon, Scale: 1, Disp: u * a.width})
				}
				do(Mem{Base: p, Index: pos, Scale: 1, Disp: u * a.width}, to[u])
			}
			INCQ(left)
		}
		if nothing {
			JZ(LabelRef(label("none", set)))
			rare = append(rare, func() {
				Label(label("none", set))
				for _, r := range to { // avo would keep a register of its own for this through all loops
					VPXORQ(reg.Z31, reg.Z31, r)
				}
				JMP(LabelRef(label("done", set)))
			})
			term(a.load)
		}
		JZ(LabelRef(label("done", set)))
		Label(label("term", set))
		term(a.xorMem)
		JNZ(LabelRef(label("term", set)))
		Label(label("done", set))
	}
	each := func(do func(u int)) {
		for u := range units {
			do(u)
		}
	}
	sum := make([][]reg.VecVirtual, maxSums)
	var both []reg.VecVirtual               // what belongs both to sum 0 and to sum 1
	for _, low := range []int{3, 1, 2, 0} { // the order of setOrder (native/vector.go)
		// Of the sets that have these of the sums 0 and 1: what belongs to sum 2, and the rest.
		two, rest := a.vecs(units), a.vecs(units)
		add(low|12, two, true)
		add(low|8, rest, true)
		if low == 3 {
			sum[3] = a.vecs(units)
			each(func(u int) { VPXORQ(two[u], rest[u], sum[3][u]) })
		} else {
			each(func(u int) { a.xor3(two[u], rest[u], sum[3][u]) })
		}
		add(low|4, two, false)
		if low != 0 {
			add(low, rest, false)
		}
		switch low {
		case 3:
			each(func(u int) { a.xor(two[u], rest[u]) })
			both, sum[2] = rest, two
			continue
		case 1, 2:
			each(func(u int) { a.xor3(two[u], both[u], rest[u]) })
			sum[low-1] = rest
		}
		each(func(u int) { a.xor(two[u], sum[2][u]) })
	}
	for j := range sum {
		p := GP64()
		MOVQ(Mem{Base: sums, Disp: 8 * j}, p)
		each(func(u int) { a.store(sum[j][u], Mem{Base: p, Index: pos, Scale: 1, Disp: u * a.width}) })
	}
	ADDQ(U32(4<<maxSums), count)
	JMP(LabelRef(name + "_out"))
	for _, f := range rare {
		f()
	}
	Label(name + "_out")
}

// gf8Affine writes the routine over GF(2^8) by GFNI: a product by a constant is a matrix
// of 8 by 8 bits, a quadword per coefficient.
func gf8Affine(a isa, m, vectors int) {
	routine("gf8", fmt.Sprintf("makes n bytes, a multiple of %d.", a.width), a, m, vectors, a.width, func(r args, units int) {
		acc := a.zeros(m * units)
		a.inputs(r, units, 8*m, a.group(), func(in []input) {
			matrix := make([][]reg.VecVirtual, len(in))
			for i := range in {
				matrix[i] = a.vecs(m)
				for j := range m {
					a.broadcast8(in[i].table.Offset(8*j), matrix[i][j])
				}
			}
			for u := range units {
				src := a.vecs(len(in))
				for i := range in {
					a.load(in[i].vector(u), src[i])
				}
				for j := range m {
					t := a.vecs(len(in))
					for i := range in {
						a.affine(matrix[i][j], src[i], t[i])
					}
					a.addAll(t, acc[j*units+u])
				}
			}
		})
		for j := range m {
			dst := output(r, j)
			for u := range units {
				a.store(acc[j*units+u], dst.Offset(u*a.width))
			}
		}
	})
}

// gf8Shuffle writes the routine over GF(2^8) by looking up nibbles: two tables of 16 bytes
// per coefficient, the low nibble's first.
func gf8Shuffle(a isa, m, vectors int) {
	routine("gf8", fmt.Sprintf("makes n bytes, a multiple of %d.", a.width), a, m, vectors, a.width, func(r args, units int) {
		acc := a.zeros(m * units)
		low := a.constant("low", lowNibbles)
		a.inputs(r, units, 32*m, 1, func(in []input) {
			lo, hi := a.vecs(units), a.vecs(units)
			for u := range units {
				a.load(in[0].vector(u), lo[u])
				a.nibbles(low, lo[u], hi[u])
			}
			for j := range m {
				a.lookUp(in[0].table.Offset(32*j), lo, hi, acc[j*units:][:units])
			}
		})
		for j := range m {
			dst := output(r, j)
			for u := range units {
				a.store(acc[j*units+u], dst.Offset(u*a.width))
			}
		}
	})
}

// gf16Affine writes the routine over GF(2^16) by GFNI. A vector is shuffled so that each
// 16 bytes are the low bytes of eight words, then their high bytes. An affine
// transformation takes a matrix per eight bytes: [low to low, high to high] makes the
// straight part of a product, [low to high, high to low] the crossed part. Both are summed
// over the inputs; at the end the halves of the crossed sum change places, and the words
// are put together again.
func gf16Affine(a isa, m, vectors int) {
	routine("gf16", fmt.Sprintf("makes n bytes, a multiple of %d.", a.width), a, m, vectors, a.width, func(r args, units int) {
		straight, crossed := a.zeros(m*units), a.zeros(m*units)
		split := a.within16("split", splitWords)
		a.inputs(r, units, 32*m, a.group(), func(in []input) {
			// A register for each matrix, unless it is asked for only once.
			matrix := func(i, j int) reg.Register {
				r := a.vec()
				a.broadcast16(in[i].table.Offset(16*j), r)
				return r
			}
			if units > 1 {
				var all []reg.Register
				for i := range in {
					for j := range 2 * m {
						all = append(all, matrix(i, j))
					}
				}
				matrix = func(i, j int) reg.Register { return all[2*m*i+j] }
			}
			for u := range units {
				src := a.vecs(len(in))
				for i := range in {
					a.loadShuffled(split, in[i].vector(u), src[i])
				}
				for j := range m {
					for part, acc := range [][]reg.VecVirtual{straight, crossed} {
						t := a.vecs(len(in))
						for i := range in {
							a.affine(matrix(i, 2*j+part), src[i], t[i])
						}
						a.addAll(t, acc[j*units+u])
					}
				}
			}
		})
		join := a.constant("join", joinWords)
		for j := range m {
			dst := output(r, j)
			for u := range units {
				s, c := straight[j*units+u], crossed[j*units+u]
				a.swapHalves(c)
				a.xor(c, s)
				a.shuffle(join, s, s)
				a.store(s, dst.Offset(u*a.width))
			}
		}
	})
}

// gf16Shuffle writes the routine over GF(2^16) by looking up nibbles. Of each pair of
// vectors the low bytes of all words come into one register and the high bytes into
// another, by shifts: CPUs have fewer units for shuffles. A coefficient has eight tables of
// 16 bytes: for the low byte of the product those of the word's nibbles from the lowest,
// then the same for the high byte.
func gf16Shuffle(a isa, m, pairs int) {
	routine("gf16", fmt.Sprintf("makes n bytes, a multiple of %d.", 2*a.width), a, m, pairs, 2*a.width, func(r args, units int) {
		acc := a.zeros(2 * m * units) // per output: low bytes, high bytes
		a.inputs(r, 2*units, 128*m, 1, func(in []input) {
			n := make([][]reg.VecVirtual, 4) // nibbles, from the lowest
			for i := range n {
				n[i] = a.vecs(units)
			}
			for u := range units {
				x, y := a.vec(), a.vec()
				a.load(in[0].vector(2*u), x)
				a.load(in[0].vector(2*u+1), y)
				a.transpose(x, y, n[0][u], n[2][u])
				low := a.constant("low", lowNibbles)
				a.nibbles(low, n[0][u], n[1][u])
				a.nibbles(low, n[2][u], n[3][u])
			}
			for j := range 2 * m {
				for half := range 2 {
					a.lookUp(in[0].table.Offset(64*j+32*half), n[2*half], n[2*half+1], acc[j*units:][:units])
				}
			}
		})
		for j := range m {
			dst := output(r, j)
			for u := range units {
				x, y := a.vec(), a.vec()
				a.transpose(acc[2*j*units+u], acc[(2*j+1)*units+u], x, y)
				a.store(x, dst.Offset(2*u*a.width))
				a.store(y, dst.Offset((2*u+1)*a.width))
			}
		}
	})
}
