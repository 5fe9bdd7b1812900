package native_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"imping/native"
	_ "imping/native/isal"
	_ "imping/native/klauspost"
	_ "imping/native/templexxx"
)

// mul is multiplication by the definition: shift and reduce, bit by bit.
func mul(a, b, poly uint32, bits int) uint32 {
	var p uint32
	for ; b != 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		a <<= 1
		if a>>bits&1 == 1 {
			a ^= poly
		}
	}
	return p
}

func reference8(rows [][]byte, in [][]byte, n int) [][]byte {
	out := make([][]byte, len(rows))
	for i, r := range rows {
		out[i] = make([]byte, n)
		for j, c := range r {
			for x, b := range in[j] {
				out[i][x] ^= byte(mul(uint32(c), uint32(b), 0x11d, 8))
			}
		}
	}
	return out
}

func reference16(rows [][]uint16, in [][]byte, n int) [][]byte {
	out := make([][]byte, len(rows))
	for i, r := range rows {
		out[i] = make([]byte, n)
		for j, c := range r {
			for x := 0; x < n; x += 2 {
				w := uint32(in[j][x])
				if x+1 < n {
					w |= uint32(in[j][x+1]) << 8
				}
				p := mul(uint32(c), w, 0x1100b, 16)
				out[i][x] ^= byte(p)
				if x+1 < n {
					out[i][x+1] ^= byte(p >> 8)
				}
			}
		}
	}
	return out
}

// regions returns count random slices of n bytes, the first at offset off of its
// buffer, each next one byte further, and a function that says which byte beside them
// was written to.
func regions(rnd *rand.ChaCha8, count, n, off int) ([][]byte, func() error) {
	var all, saved, whole [][]byte
	for i := range count {
		at := (off + i) % 64
		b := make([]byte, at+n+64)
		rnd.Read(b)
		whole = append(whole, b)
		saved = append(saved, bytes.Clone(b))
		all = append(all, b[at:at+n:at+n])
	}
	return all, func() error {
		for i, b := range whole {
			at := (off + i) % 64
			if !bytes.Equal(b[:at], saved[i][:at]) || !bytes.Equal(b[at+n:], saved[i][at+n:]) {
				return fmt.Errorf("region %d: bytes beside it were changed", i)
			}
		}
		return nil
	}
}

// failer is a testing.T or a rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func checkRun(t failer, rnd *rand.ChaCha8, what string, p native.Program, outs, ins, n, off int, want func(in [][]byte) [][]byte) {
	t.Helper()
	in, inClean := regions(rnd, ins, n, off)
	out, outClean := regions(rnd, outs, n, off+ins)
	saved := make([][]byte, ins)
	for i := range in {
		saved[i] = bytes.Clone(in[i])
	}
	p.Run(out, in)
	for _, err := range []error{inClean(), outClean()} {
		if err != nil {
			t.Fatalf("%s, %d bytes at offset %d: %v", what, n, off, err)
		}
	}
	for i := range in {
		if !bytes.Equal(in[i], saved[i]) {
			t.Fatalf("%s, %d bytes at offset %d: input %d was changed", what, n, off, i)
		}
	}
	for i, w := range want(in) {
		if !bytes.Equal(out[i], w) {
			t.Fatalf("%s, %d bytes at offset %d: output %d is wrong", what, n, off, i)
		}
	}
}

func TestKernelsAgreeWithTheDefinitionOnAnyMatrixLengthAndAlignment(t *testing.T) {
	for _, k := range native.Kernels() {
		t.Logf("this machine runs kernel %s", k.Name())
		t.Run(k.Name(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				rnd := rand.NewChaCha8([32]byte{byte(rapid.Uint8().Draw(t, "seed"))})
				ins := rapid.IntRange(1, 24).Draw(t, "inputs")
				outs := rapid.IntRange(1, 6).Draw(t, "outputs")
				n := rapid.OneOf(rapid.IntRange(0, 70), rapid.IntRange(0, 3000)).Draw(t, "bytes")
				off := rapid.IntRange(0, 63).Draw(t, "offset")
				rows8 := make([][]byte, outs)
				rows16 := make([][]uint16, outs)
				for i := range outs {
					rows8[i] = rapid.SliceOfN(rapid.Byte(), ins, ins).Draw(t, "row8")
					rows16[i] = rapid.SliceOfN(rapid.Uint16(), ins, ins).Draw(t, "row16")
				}
				what := fmt.Sprintf("%d inputs, %d outputs", ins, outs)
				checkRun(t, rnd, "GF8 "+what, k.GF8(rows8), outs, ins, n, off, func(in [][]byte) [][]byte { return reference8(rows8, in, n) })
				checkRun(t, rnd, "GF16 "+what, k.GF16(rows16), outs, ins, n, off, func(in [][]byte) [][]byte { return reference16(rows16, in, n) })
				ones := bytes.Repeat([]byte{1}, ins)
				checkRun(t, rnd, "XOR "+what, k.XOR(ins), 1, ins, n, off, func(in [][]byte) [][]byte { return reference8([][]byte{ones}, in, n) })
			})
		})
	}
}

func TestKernelsAgreeOnEveryShortLengthAndAlignment(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{1})
	rows8, rows16 := [][]byte{{1, 0, 0x8e, 0xff, 2}}, [][]uint16{{1, 0, 0x8e53, 0xffff, 2}}
	for _, k := range native.Kernels() {
		gf8, gf16, xor := k.GF8(rows8), k.GF16(rows16), k.XOR(5)
		for n := range 140 {
			for _, off := range []int{0, 1, 2, 3, 7, 8, 15, 16, 31, 33, 63} {
				checkRun(t, rnd, k.Name()+" GF8", gf8, 1, 5, n, off, func(in [][]byte) [][]byte { return reference8(rows8, in, n) })
				checkRun(t, rnd, k.Name()+" GF16", gf16, 1, 5, n, off, func(in [][]byte) [][]byte { return reference16(rows16, in, n) })
				checkRun(t, rnd, k.Name()+" XOR", xor, 1, 5, n, off, func(in [][]byte) [][]byte { return reference8([][]byte{{1, 1, 1, 1, 1}}, in, n) })
			}
		}
	}
}

func TestKernelsAgreeOnLengthsAroundTheirBlocks(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{5})
	rows8, rows16 := [][]byte{{3, 1, 0x8e}, {0, 7, 1}, {0, 0, 0}}, [][]uint16{{3, 1, 0x8e53}, {0, 7, 1}, {0, 0, 0}}
	for _, k := range native.Kernels() {
		gf8, gf16 := k.GF8(rows8), k.GF16(rows16)
		for _, edge := range []int{1024, 2048, 8 << 10} {
			for n := edge - 9; n <= edge+9; n++ {
				checkRun(t, rnd, k.Name()+" GF8", gf8, 3, 3, n, n%64, func(in [][]byte) [][]byte { return reference8(rows8, in, n) })
				checkRun(t, rnd, k.Name()+" GF16", gf16, 3, 3, n, n%64, func(in [][]byte) [][]byte { return reference16(rows16, in, n) })
			}
		}
	}
}

func TestEveryCoefficientMultipliesRight(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{2})
	for _, k := range native.Kernels() {
		for c := range 256 {
			rows := [][]byte{{byte(c)}}
			checkRun(t, rnd, fmt.Sprintf("%s GF8 coefficient %d", k.Name(), c), k.GF8(rows), 1, 1, 301, 0, func(in [][]byte) [][]byte { return reference8(rows, in, 301) })
		}
		for c := 0; c < 1<<16; c += 37 {
			rows := [][]uint16{{uint16(c)}}
			checkRun(t, rnd, fmt.Sprintf("%s GF16 coefficient %d", k.Name(), c), k.GF16(rows), 1, 1, 70, 0, func(in [][]byte) [][]byte { return reference16(rows, in, 70) })
		}
	}
}

func TestRunOnWrongSlicesPanics(t *testing.T) {
	b := func(n int) []byte { return make([]byte, n) }
	for _, k := range native.Kernels() {
		for name, p := range map[string]native.Program{"XOR": k.XOR(2), "GF8": k.GF8([][]byte{{2, 3}}), "GF16": k.GF16([][]uint16{{2, 3}})} {
			for what, run := range map[string]func(){
				"too few inputs":        func() { p.Run([][]byte{b(8)}, [][]byte{b(8)}) },
				"too many outputs":      func() { p.Run([][]byte{b(8), b(8)}, [][]byte{b(8), b(8)}) },
				"a short input":         func() { p.Run([][]byte{b(8)}, [][]byte{b(8), b(7)}) },
				"a longer output":       func() { p.Run([][]byte{b(9)}, [][]byte{b(8), b(8)}) },
				"inputs without a byte": func() { p.Run([][]byte{b(9)}, [][]byte{nil, nil}) },
			} {
				func() {
					defer func() {
						if recover() == nil {
							t.Errorf("%s %s: %s was taken", k.Name(), name, what)
						}
					}()
					run()
				}()
			}
		}
	}
}

func BenchmarkPrograms(b *testing.B) {
	const ins, n = 10, 104858
	rnd := rand.NewChaCha8([32]byte{3})
	rows8, rows16 := [][]byte{make([]byte, ins)}, [][]uint16{make([]uint16, ins)}
	rnd.Read(rows8[0])
	for j := range ins {
		rows16[0][j] = uint16(rnd.Uint64())
	}
	in, _ := regions(rnd, ins, n, 0)
	out, _ := regions(rnd, 1, n, 0)
	for _, k := range native.Kernels() {
		for _, p := range []struct {
			name string
			native.Program
		}{{"XOR", k.XOR(ins)}, {"GF8", k.GF8(rows8)}, {"GF16", k.GF16(rows16)}} {
			b.Run(p.name+"/"+k.Name(), func(b *testing.B) {
				b.SetBytes(ins * n)
				for b.Loop() {
					p.Run(out, in)
				}
			})
		}
	}
}

func TestRunAllocatesNothing(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{4})
	in, _ := regions(rnd, 3, 6560, 0)
	out, _ := regions(rnd, 2, 6560, 0)
	for _, k := range native.Kernels() {
		switch k.Name() {
		case "klauspost", "templexxx", "isal":
			continue // what the libraries do is theirs
		}
		for name, p := range map[string]native.Program{
			"GF8":  k.GF8([][]byte{{2, 3, 4}, {1, 0, 255}}),
			"GF16": k.GF16([][]uint16{{2, 3, 4}, {1, 0, 65535}}),
			"GF2":  k.GF2(3, 2, 16, [][]int{{0, 1}, {2, 3, 4}, {5}, {}}),
		} {
			if n := testing.AllocsPerRun(20, func() { p.Run(out, in) }); n != 0 {
				t.Errorf("%s %s: %v allocations", k.Name(), name, n)
			}
		}
	}
}

// referencePackets is GF2 by its definition.
func referencePackets(w, size int, sums [][]int, in [][]byte, n int) [][]byte {
	if w == 1 {
		size = n
	}
	out := make([][]byte, len(sums)/w)
	for i := range out {
		out[i] = make([]byte, n)
	}
	for base := 0; base < n; base += w * size {
		for l, sum := range sums {
			dst := out[l/w][base+l%w*size:]
			for _, x := range sum {
				for b, v := range in[x/w][base+x%w*size:][:size] {
					dst[b] ^= v
				}
			}
		}
	}
	return out
}

func TestPacketsAreSummedByTheDefinition(t *testing.T) {
	for _, k := range native.Kernels() {
		t.Run(k.Name(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				rnd := rand.NewChaCha8([32]byte{byte(rapid.Uint8().Draw(t, "seed"))})
				ins := rapid.IntRange(1, 12).Draw(t, "inputs")
				outs := rapid.IntRange(1, 4).Draw(t, "outputs")
				w := rapid.IntRange(1, 8).Draw(t, "w")
				size := rapid.OneOf(rapid.IntRange(1, 70), rapid.Just(1024), rapid.IntRange(1, 2100)).Draw(t, "size")
				sums := make([][]int, outs*w)
				for l := range sums {
					sums[l] = rapid.SliceOfN(rapid.IntRange(0, ins*w-1), 0, 2*ins).Draw(t, "sum")
				}
				n := w * size * rapid.IntRange(0, 3).Draw(t, "blocks")
				if w == 1 {
					n = rapid.IntRange(0, 5000).Draw(t, "bytes")
				}
				off := rapid.IntRange(0, 63).Draw(t, "offset")
				checkRun(t, rnd, fmt.Sprintf("GF2 of %d inputs, %d outputs, %d packets of %d bytes", ins, outs, w, size),
					k.GF2(ins, w, size, sums), outs, ins, n, off, func(in [][]byte) [][]byte { return referencePackets(w, size, sums, in, n) })
			})
		})
	}
}
