package codec

import "sync"

// field is the arithmetic of a binary field of up to 2^16 elements, for the small
// matrices of plans; package native does the bytes of fragments.
type field struct {
	exp []uint16 // powers of x, twice round
	log []int32
}

// The fields of liberasurecode's backends; x generates each.
var (
	field4  = sync.OnceValue(func() *field { return newField(4, 0x13) })
	field8  = sync.OnceValue(func() *field { return newField(8, 0x11d) })
	field16 = sync.OnceValue(func() *field { return newField(16, 0x1100b) })
)

func newField(bits int, poly uint32) *field {
	size := 1 << bits
	f := &field{exp: make([]uint16, 2*(size-1)), log: make([]int32, size)}
	v := uint32(1)
	for i := range size - 1 {
		f.exp[i], f.exp[i+size-1] = uint16(v), uint16(v)
		f.log[v] = int32(i)
		if v <<= 1; v >= uint32(size) {
			v ^= poly
		}
	}
	return f
}

func (f *field) mul(a, b uint16) uint16 {
	if a == 0 || b == 0 {
		return 0
	}
	return f.exp[f.log[a]+f.log[b]]
}

// inv returns 1/a; a is not zero.
func (f *field) inv(a uint16) uint16 {
	return f.exp[int32(len(f.log))-1-f.log[a]]
}

// addScaled adds c times src to dst.
func (f *field) addScaled(dst, src []uint16, c uint16) {
	if c == 0 {
		return
	}
	for i, v := range src {
		dst[i] ^= f.mul(c, v)
	}
}

// isMultiple says whether a is b, which is not zero, times something.
func (f *field) isMultiple(a, b []uint16) bool {
	p := 0
	for b[p] == 0 {
		p++
	}
	c := f.mul(a[p], f.inv(b[p]))
	for i := range a {
		if a[i] != f.mul(b[i], c) {
			return false
		}
	}
	return true
}

func isZero(row []uint16) bool {
	for _, v := range row {
		if v != 0 {
			return false
		}
	}
	return true
}
