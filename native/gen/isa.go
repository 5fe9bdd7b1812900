package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is a set of instructions under one name for each: on 64 bytes (AVX-512), 32 (AVX2)
// or 16 (SSE, of two operands).
type isa struct {
	name  string
	width int
	vec   func() reg.VecVirtual
}

func zmm(name string) isa { return isa{name, 64, ZMM} }
func ymm(name string) isa { return isa{name, 32, YMM} }
func xmm(name string) isa { return isa{name, 16, XMM} }

func (a isa) vecs(n int) []reg.VecVirtual {
	out := make([]reg.VecVirtual, n)
	for i := range out {
		out[i] = a.vec()
	}
	return out
}

func (a isa) zeros(n int) []reg.VecVirtual {
	out := a.vecs(n)
	if a.width == 64 { // of which avo does not know that it asks for nothing
		any := ZMM()
		for _, r := range out {
			VPXORQ(any, any, r)
		}
		return out
	}
	for _, r := range out {
		a.xor(r, r)
	}
	return out
}

// leave returns. Dirty upper halves would slow down later SSE code of the thread.
func (a isa) leave() {
	if a.width > 16 {
		VZEROUPPER()
	}
	RET()
}

func (a isa) load(m Mem, dst reg.Register) {
	switch a.width {
	case 64:
		VMOVDQU64(m, dst)
	case 32:
		VMOVDQU(m, dst)
	default:
		MOVOU(m, dst)
	}
}

func (a isa) store(src reg.Register, m Mem) {
	switch a.width {
	case 64:
		VMOVDQU64(src, m)
	case 32:
		VMOVDQU(src, m)
	default:
		MOVOU(src, m)
	}
}

// distance returns how many bytes ahead inputs are asked for, by the number of inputs: if
// all are much more than what a block reads, they push each other out of a first-level
// cache. It is nil where nothing is asked for.
func (a isa) distance(ins reg.Register) reg.Register {
	if a.width < 64 {
		return nil
	}
	d, far := GP64(), GP64()
	MOVQ(U32(512), d)
	MOVQ(U32(1024), far)
	CMPQ(ins, Imm(6))
	CMOVQLT(far, d)
	return d
}

// vectors returns what names the vectors of the block at base+pos, to be loaded once each, in
// their order: with each, memory is asked for the one distance bytes behind it, mapped or not.
// Asking for all of a block at once would keep other loads waiting: that is 2 to 5 % slower
// from memory. The more a kernel has to do per byte the fewer bytes a CPU sees coming by
// itself: from memory Zen 5 runs GF(2^16) a quarter to a third faster for being asked, Zen 3
// with its shorter vectors no faster.
func (a isa) vectors(base, pos reg.Register, distance reg.Register) func(u int) Mem {
	var ahead reg.Register
	if a.width == 64 {
		ahead = GP64()
		LEAQ(Mem{Base: base, Index: distance, Scale: 1}, ahead)
	}
	return func(u int) Mem {
		if ahead != nil {
			PREFETCHT0(Mem{Base: ahead, Index: pos, Scale: 1, Disp: u * a.width})
		}
		return Mem{Base: base, Index: pos, Scale: 1, Disp: u * a.width}
	}
}

// xor: dst ^= src.
func (a isa) xor(src, dst reg.Register) {
	switch a.width {
	case 64:
		VPXORQ(src, dst, dst)
	case 32:
		VPXOR(src, dst, dst)
	default:
		PXOR(src, dst)
	}
}

// xor3: dst ^= x ^ y. It may change x.
func (a isa) xor3(x, y, dst reg.Register) {
	if a.width == 64 {
		VPTERNLOGQ(Imm(0x96), x, y, dst)
		return
	}
	a.xor(x, dst)
	a.xor(y, dst)
}

// group is how many inputs a routine takes at a time: two, where their products and the sum
// are added by one instruction.
func (a isa) group() int {
	if a.width == 64 {
		return 2
	}
	return 1
}

// addAll: dst ^= each of group vectors. It may change the first.
func (a isa) addAll(v []reg.VecVirtual, dst reg.Register) {
	if len(v) == 2 {
		a.xor3(v[0], v[1], dst)
		return
	}
	a.xor(v[0], dst)
}

// xorMem: dst ^= m.
func (a isa) xorMem(m Mem, dst reg.Register) {
	switch a.width {
	case 64:
		VPXORQ(m, dst, dst)
	case 32:
		VPXOR(m, dst, dst)
	default: // an operand of PXOR would have to be aligned
		t := XMM()
		MOVOU(m, t)
		PXOR(t, dst)
	}
}

// broadcast8 and broadcast16 fill dst with the 8 or 16 bytes at m.
func (a isa) broadcast8(m Mem, dst reg.Register) { VPBROADCASTQ(m, dst) }

func (a isa) broadcast16(m Mem, dst reg.Register) {
	switch a.width {
	case 64:
		VBROADCASTI32X4(m, dst)
	case 32:
		VBROADCASTI128(m, dst)
	default:
		MOVOU(m, dst)
	}
}

// affine: each byte of dst is the byte of src times its quadword's bit matrix.
func (a isa) affine(matrix, src, dst reg.Register) { VGF2P8AFFINEQB(Imm(0), matrix, src, dst) }

// shuffle: dst is src with its bytes as index says, within each 16.
func (a isa) shuffle(index, src, dst reg.Register) {
	if a.width > 16 {
		VPSHUFB(index, src, dst)
		return
	}
	if src != dst {
		MOVO(src, dst)
	}
	PSHUFB(index, dst)
}

// loadShuffled: dst is what is at m with its bytes as index, of within16, says.
func (a isa) loadShuffled(index reg.Register, m Mem, dst reg.Register) {
	if a.width == 64 { // an instruction less than to load and to shuffle
		VPERMB(m, index, dst)
		return
	}
	a.load(m, dst)
	a.shuffle(index, dst, dst)
}

// nibbles: v keeps its low nibbles, hi gets the high ones.
func (a isa) nibbles(low, v, hi reg.Register) {
	switch a.width {
	case 64:
		VPSRLQ(Imm(4), v, hi)
		VPANDQ(low, hi, hi)
		VPANDQ(low, v, v)
	case 32:
		VPSRLQ(Imm(4), v, hi)
		VPAND(low, hi, hi)
		VPAND(low, v, v)
	default:
		MOVO(v, hi)
		PSRLQ(Imm(4), hi)
		PAND(low, hi)
		PAND(low, v)
	}
}

// lookUp adds to acc what the two tables at m say of the low and the high nibbles.
func (a isa) lookUp(m Mem, lo, hi, acc []reg.VecVirtual) {
	if a.width == 16 {
		for u := range acc {
			for half, index := range []reg.Register{lo[u], hi[u]} {
				t := a.vec()
				a.load(m.Offset(16*half), t)
				PSHUFB(index, t)
				PXOR(t, acc[u])
			}
		}
		return
	}
	if a.width == 32 {
		for half, index := range [][]reg.VecVirtual{lo, hi} {
			table, t := a.vec(), a.vec()
			a.broadcast16(m.Offset(16*half), table)
			for u := range acc {
				a.shuffle(index[u], table, t)
				a.xor(t, acc[u])
			}
		}
		return
	}
	tl, th := a.vec(), a.vec()
	a.broadcast16(m, tl)
	a.broadcast16(m.Offset(16), th)
	for u := range acc {
		x, y := a.vec(), a.vec()
		a.shuffle(lo[u], tl, x)
		a.shuffle(hi[u], th, y)
		a.xor3(x, y, acc[u])
	}
}

// swapHalves changes the places of the quadwords of each 16 bytes.
func (a isa) swapHalves(r reg.Register) { VPSHUFD(Imm(0x4e), r, r) }

// transpose takes x and y as pairs of a low and a high byte: lo gets the low bytes of
// both, those of x in low places, and hi the high bytes. It is its own inverse. It may
// change x.
func (a isa) transpose(x, y, lo, hi reg.Register) {
	mask := a.constant("lowBytes", lowBytes)
	switch a.width {
	case 64:
		VPSRLW(Imm(8), x, hi)
		VPSLLW(Imm(8), y, lo)
		VPTERNLOGQ(Imm(0xe2), y, mask, hi) // mask ? hi : y
		VPTERNLOGQ(Imm(0xb8), x, mask, lo) // mask ? x : lo
	case 32:
		VPSRLW(Imm(8), x, hi)
		VPSLLW(Imm(8), y, lo)
		VPAND(mask, x, x)
		VPOR(x, lo, lo)
		VPANDN(y, mask, mask)
		VPOR(mask, hi, hi)
	default:
		MOVO(x, hi)
		PSRLW(Imm(8), hi)
		MOVO(y, lo)
		PSLLW(Imm(8), lo)
		PAND(mask, x)
		POR(x, lo)
		PANDN(y, mask)
		POR(mask, hi)
	}
}

// Constants of 16 bytes.
var (
	lowNibbles = [2]uint64{0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f}
	lowBytes   = [2]uint64{0x00ff00ff00ff00ff, 0x00ff00ff00ff00ff}
	splitWords = [2]uint64{0x0e0c0a0806040200, 0x0f0d0b0907050301}
	joinWords  = [2]uint64{0x0b030a0209010800, 0x0f070e060d050c04}
)

var constants = map[string]Mem{}

// constant returns a register filled with the value.
func (a isa) constant(name string, value [2]uint64) reg.Register {
	m, ok := constants[name]
	if !ok {
		m = GLOBL(fmt.Sprintf("%sConst", name), attr.RODATA|attr.NOPTR)
		DATA(0, U64(value[0]))
		DATA(8, U64(value[1]))
		constants[name] = m
	}
	r := a.vec()
	a.broadcast16(m, r)
	return r
}

// within16 returns a register with an index for loadShuffled that does the same to each 16
// bytes.
func (a isa) within16(name string, index [2]uint64) reg.Register {
	if a.width < 64 {
		return a.constant(name, index)
	}
	name += "All"
	m, ok := constants[name]
	if !ok {
		m = GLOBL(fmt.Sprintf("%sConst", name), attr.RODATA|attr.NOPTR)
		for i := range 8 {
			DATA(8*i, U64(index[i%2]+uint64(i/2)*0x1010101010101010))
		}
		constants[name] = m
	}
	r := a.vec()
	a.load(m, r)
	return r
}
