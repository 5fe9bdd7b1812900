// Command md5 writes native/md5's assembly for amd64: run "go generate ./native/md5".
//
// A vector holds one word of eight streams. A block of each stream is first turned on its
// side, so that a vector is word i of all of them; then the 64 steps of MD5 (RFC 1321) are
// done once for all. Each step needs the one before, so a CPU with wide vectors waits more
// than it works: two sets of eight streams at a time fill the gaps. AVX-512 has what makes
// a step shorter, any function of three words and rotations, and registers for four sets.
package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	most  = 32 // streams: Lanes in native/md5
	lanes = 8  // words in a vector
	words = 16 // words in a block
	width = 32 // bytes of a vector
)

// shifts are by how much the rounds' steps rotate.
var shifts = [4][4]uint64{{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}}

// word is which word of the block a step takes.
func word(step int) int {
	switch step / 16 {
	case 0:
		return step
	case 1:
		return (5*step + 1) % words
	case 2:
		return (3*step + 5) % words
	}
	return 7 * step % words
}

func main() {
	table := GLOBL("sines", attr.RODATA|attr.NOPTR)
	for step := range 64 {
		sine := math.Floor(math.Abs(math.Sin(float64(step+1))) * (1 << 32))
		if step >= 48 {
			sine-- // see mix
		}
		for lane := range lanes {
			DATA(step*width+4*lane, U32(sine))
		}
	}
	for _, sets := range []int{1, 2} {
		blocks(avx2, sets, table)
	}
	for _, sets := range []int{1, 2, 4} {
		blocks(avx512, sets, table)
	}
	Generate()
}

// isa is what the routines for one kind of CPU are called by, and have to work with.
type isa string

const (
	avx2   isa = "Avx2"
	avx512 isa = "Avx512"
)

// set is eight streams.
type set struct {
	a, b, c, d reg.VecVirtual
	block      Mem // word after word, of all streams
}

func blocks(a isa, sets int, table Mem) {
	name := fmt.Sprintf("blocks%d%s", sets*lanes, a)
	TEXT(name, 0, fmt.Sprintf("func(state *[4][%d]uint32, data *[%d]*byte, n int)", most, most))
	Pragma("noescape")
	Doc(fmt.Sprintf("%s does n blocks, at least one, of each of the first %d streams.", name, sets*lanes))
	state, data, n := Load(Param("state"), GP64()), Load(Param("data"), GP64()), Load(Param("n"), GP64())
	sines := GP64()
	LEAQ(table, sines)
	local := AllocLocal(sets*words*width + width)
	begin := GP64()
	LEAQ(local.Offset(width-1), begin)
	ANDQ(I8(-width), begin)
	offset := GP64()
	XORQ(offset, offset)

	all := make([]set, sets)
	for i := range all {
		all[i].block = Mem{Base: begin, Disp: i * words * width}
	}
	Label("block")
	for i, s := range all {
		turn(data, i*lanes, offset, s.block)
	}
	for i := range all {
		s := &all[i]
		s.a, s.b, s.c, s.d = YMM(), YMM(), YMM(), YMM()
		for j, r := range []reg.VecVirtual{s.a, s.b, s.c, s.d} {
			VMOVDQU(stateAt(state, i, j), r)
		}
	}
	for step := range 64 {
		// Step by step, so that the sets are done side by side.
		sums := make([]reg.VecVirtual, sets)
		for i := range all {
			sums[i] = a.mix(&all[i], step/16)
		}
		for i := range all {
			s := &all[i]
			VPADDD(s.block.Offset(word(step)*width), s.a, s.a)
			VPADDD(Mem{Base: sines, Disp: step * width}, s.a, s.a)
		}
		for i := range all {
			if step < 48 {
				VPADDD(sums[i], all[i].a, all[i].a)
			} else {
				VPSUBD(sums[i], all[i].a, all[i].a)
			}
		}
		shift := shifts[step/16][step%4]
		for i := range all {
			s := &all[i]
			if a == avx512 {
				VPROLD(Imm(shift), s.a, s.a)
				continue
			}
			VPSLLD(Imm(shift), s.a, sums[i])
			VPSRLD(Imm(32-shift), s.a, s.a)
			VPOR(sums[i], s.a, s.a)
		}
		for i := range all {
			s := &all[i]
			VPADDD(s.b, s.a, s.a)
			s.a, s.b, s.c, s.d = s.d, s.a, s.b, s.c
		}
	}
	for i, s := range all {
		for j, r := range []reg.VecVirtual{s.a, s.b, s.c, s.d} {
			at := stateAt(state, i, j)
			VPADDD(at, r, r)
			VMOVDQU(r, at)
		}
	}
	ADDQ(Imm(64), offset)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// stateAt is word number word of a set's streams.
func stateAt(state reg.Register, set, word int) Mem {
	return Mem{Base: state, Disp: 4*most*word + width*set}
}

// mix is the function of b, c and d that a round adds, or, in the last one, subtracts.
func (a isa) mix(s *set, round int) reg.VecVirtual {
	t := YMM()
	if a == avx512 {
		// A bit for each value of d, c and b, d the highest: the same functions.
		VMOVDQA32(s.d, t)
		VPTERNLOGD(Imm([]uint64{0xd8, 0xac, 0x96, 0x9c}[round]), s.b, s.c, t)
		return t
	}
	switch round {
	case 0: // b ? c : d
		VPXOR(s.c, s.d, t)
		VPAND(s.b, t, t)
		VPXOR(s.d, t, t)
	case 1: // d ? b : c, whose halves have no bit in common; c's is added first, since b comes last
		VPANDN(s.c, s.d, t)
		VPADDD(t, s.a, s.a)
		t = YMM()
		VPAND(s.b, s.d, t)
	case 2:
		VPXOR(s.c, s.d, t)
		VPXOR(s.b, t, t)
	default: // c ^ (b | ^d) is the complement of this: -1 - it
		VPANDN(s.d, s.b, t)
		VPXOR(s.c, t, t)
	}
	return t
}

// turn writes the next block of eight streams, the first of which is number first, word
// after word to block.
func turn(data reg.Register, first int, offset reg.Register, block Mem) {
	for quarter := range 4 {
		rows := make([]reg.VecVirtual, 4) // of streams i and i+4
		for i := range rows {
			rows[i] = YMM()
			low, high := GP64(), GP64()
			MOVQ(Mem{Base: data, Disp: 8 * (first + i)}, low)
			MOVQ(Mem{Base: data, Disp: 8 * (first + i + 4)}, high)
			VBROADCASTI128(Mem{Base: low, Index: offset, Scale: 1, Disp: 16 * quarter}, rows[i])
			VINSERTI128(Imm(1), Mem{Base: high, Index: offset, Scale: 1, Disp: 16 * quarter}, rows[i], rows[i])
		}
		t := []reg.VecVirtual{YMM(), YMM(), YMM(), YMM()}
		VPUNPCKLDQ(rows[1], rows[0], t[0])
		VPUNPCKHDQ(rows[1], rows[0], t[1])
		VPUNPCKLDQ(rows[3], rows[2], t[2])
		VPUNPCKHDQ(rows[3], rows[2], t[3])
		VPUNPCKLQDQ(t[2], t[0], rows[0])
		VPUNPCKHQDQ(t[2], t[0], rows[1])
		VPUNPCKLQDQ(t[3], t[1], rows[2])
		VPUNPCKHQDQ(t[3], t[1], rows[3])
		for i, r := range rows {
			VMOVDQU(r, block.Offset((4*quarter+i)*width))
		}
	}
}
