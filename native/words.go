package native

import "encoding/binary"

// Loops over words of eight bytes, little-endian on every machine, for the plain kernel.
// Whole blocks are arrays and not slices: the compiler then drops the bounds checks, and
// the loops are four times as fast.

// block is the number of bytes of each region worked on at once: the sums and the inputs
// of 10+4 stay in a first-level cache of 32 KiB. At a quarter of it the calls weigh; what
// is left behind the last whole block goes through the slower loop of part.
const block = 1024

type sums [block / 8]uint64

func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// double8 doubles eight elements of GF(2^8) per word.
func double8(s []uint64) {
	for i, v := range s {
		top := v & 0x8080808080808080
		s[i] = (v^top)<<1 ^ (top>>7)*0x1d
	}
}

// double16 doubles four elements of GF(2^16) per word.
func double16(s []uint64) {
	for i, v := range s {
		top := v & 0x8000800080008000
		s[i] = (v^top)<<1 ^ (top>>15)*0x100b
	}
}

func add1(s *sums, a *[block]byte) {
	for i := range s {
		o := 8 * i
		s[i] ^= u64(a[o : o+8])
	}
}

func add2(s *sums, a, b *[block]byte) {
	for i := range s {
		o := 8 * i
		s[i] ^= u64(a[o:o+8]) ^ u64(b[o:o+8])
	}
}

func add4(s *sums, a, b, c, d *[block]byte) {
	for i := range s {
		o := 8 * i
		s[i] ^= u64(a[o:o+8]) ^ u64(b[o:o+8]) ^ u64(c[o:o+8]) ^ u64(d[o:o+8])
	}
}

// store writes the sums of one whole block.
func store(dst *[block]byte, s *sums) {
	for i, v := range s {
		o := 8 * i
		binary.LittleEndian.PutUint64(dst[o:o+8], v)
	}
}

// addPart adds less than a block; a last partial word is padded with zeros.
func addPart(s []uint64, a []byte) {
	i := 0
	for ; len(a) >= 8; i++ {
		s[i] ^= u64(a)
		a = a[8:]
	}
	for b, v := range a {
		s[i] ^= uint64(v) << (8 * b)
	}
}

// storePart writes less than a block; of a last partial word, the low bytes.
func storePart(dst []byte, s []uint64) {
	for i := 0; len(dst) > 0; i++ {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], s[i])
		dst = dst[copy(dst, word[:]):]
	}
}
