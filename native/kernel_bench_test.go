package native_test

import (
	"math/rand/v2"
	"testing"

	"imping/native"
)

// BenchmarkKernels runs each kernel on ten inputs that stay in the cache: that is
// arithmetic (lab/instructions counts it). What memory makes of it `imping bench codec`
// measures.
func BenchmarkKernels(b *testing.B) {
	const ins, n = 10, 4 << 10
	rnd := rand.NewChaCha8([32]byte{1})
	coefficients := make([]byte, 4*ins)
	rnd.Read(coefficients)
	row8 := func(i int) []byte { return coefficients[i*ins : (i+1)*ins] }
	row16 := func(i int) (row []uint16) {
		for j := range ins {
			row = append(row, uint16(row8(2 * i)[j])<<8|uint16(row8(2*i + 1)[j]))
		}
		return row
	}
	// Blocks of four packets, as jerasure's; half of all in each sum.
	packets := make([][]int, 8)
	for l := range packets {
		for x := range 4 * ins {
			if rnd.Uint64()%2 == 0 {
				packets[l] = append(packets[l], x)
			}
		}
	}
	for _, k := range native.Kernels() {
		for _, x := range []struct {
			name string
			outs int
			make func() native.Program
		}{
			{"XOR", 1, func() native.Program { return k.XOR(ins) }},
			{"GF8", 1, func() native.Program { return k.GF8([][]byte{row8(0)}) }},
			{"GF8x2", 2, func() native.Program { return k.GF8([][]byte{row8(0), row8(1)}) }},
			{"GF16", 1, func() native.Program { return k.GF16([][]uint16{row16(0)}) }},
			{"GF16x2", 2, func() native.Program { return k.GF16([][]uint16{row16(0), row16(1)}) }},
			{"packets", 1, func() native.Program { return k.GF2(ins, 4, n/4, packets[:4]) }},
			{"packetsx2", 2, func() native.Program { return k.GF2(ins, 4, n/4, packets) }},
		} {
			b.Run(k.Name()+"/"+x.name, func(b *testing.B) {
				in, _ := regions(rnd, ins, n, 0)
				out, _ := regions(rnd, x.outs, n, 0)
				p := x.make()
				b.SetBytes(ins * n)
				for range b.N {
					p.Run(out, in)
				}
			})
		}
	}
}
