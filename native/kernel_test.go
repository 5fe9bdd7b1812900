package native_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
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

// program is one to compare kernels by: any number of bytes, made by any kernel.
type program struct {
	name      string
	outs, ins int
	libraries bool // compute it too; else they hand it to the best kernel
	make      func(native.Kernel) native.Program
}

// kernels returns those that compute the program themselves, but plain.
func (p *program) kernels() []native.Kernel {
	return slices.DeleteFunc(native.Kernels(), func(k native.Kernel) bool {
		return k.Name() == "plain" || isLibrary(k) && !p.libraries
	})
}

func isLibrary(k native.Kernel) bool {
	return slices.Contains([]string{"klauspost", "templexxx", "isal"}, k.Name())
}

// samples are programs of one to six outputs in each field, and of up to ten exclusive
// ors: more than four take a second pass.
func samples(rnd *rand.ChaCha8) []program {
	out := []program{{"XOR", 1, 5, true, func(k native.Kernel) native.Program { return k.XOR(5) }}}
	for outs := 1; outs <= 10; outs++ {
		ins := 2 + outs%3
		rows8, rows16 := make([][]byte, outs), make([][]uint16, outs)
		sums := make([][]int, outs)
		for i := range outs {
			rows8[i] = make([]byte, ins)
			rnd.Read(rows8[i])
			for j := range ins {
				rows16[i] = append(rows16[i], uint16(rnd.Uint64()))
				if rnd.Uint64()%3 > 0 {
					sums[i] = append(sums[i], j)
				}
			}
		}
		out = append(out, program{fmt.Sprintf("GF2 with %d outputs", outs), outs, ins, false, func(k native.Kernel) native.Program { return k.GF2(ins, 1, 0, sums) }})
		if outs <= 6 {
			out = append(out,
				program{fmt.Sprintf("GF8 with %d outputs", outs), outs, ins, true, func(k native.Kernel) native.Program { return k.GF8(rows8) }},
				program{fmt.Sprintf("GF16 with %d outputs", outs), outs, ins, false, func(k native.Kernel) native.Program { return k.GF16(rows16) }})
		}
	}
	return out
}

// plain is the kernel that the others are compared with; it is compared with the
// definition itself.
func plain(t testing.TB) native.Kernel {
	t.Helper()
	for _, k := range native.Kernels() {
		if k.Name() == "plain" {
			return k
		}
	}
	t.Fatal("there is no plain kernel")
	return nil
}

// compare runs a program of each kernel on regions of n bytes at the offset.
func compare(t *testing.T, rnd *rand.ChaCha8, s program, lengths, offsets []int) {
	t.Helper()
	want := s.make(plain(t))
	programs := map[string]native.Program{}
	for _, k := range s.kernels() {
		programs[k.Name()] = s.make(k)
	}
	most := slices.Max(lengths)
	pool, poolClean := regions(rnd, s.ins, 64+most, 0)
	saved := make([][]byte, s.ins)
	for i := range pool {
		saved[i] = bytes.Clone(pool[i])
	}
	in, expected, scratch := make([][]byte, s.ins), newScratch(s.outs, most), newScratch(s.outs, most)
	for i, n := range lengths {
		off := offsets[i%len(offsets)]
		for j := range in {
			at := (off + j) % 64
			in[j] = pool[j][at : at+n : at+n]
		}
		right := expected.outputs(n, 0)
		want.Run(right, in)
		for name, p := range programs {
			out := scratch.outputs(n, off+s.ins)
			p.Run(out, in)
			for j := range out {
				if !bytes.Equal(out[j], right[j]) {
					t.Fatalf("%s %s, %d bytes at offset %d: output %d is not as plain makes it", name, s.name, n, off, j)
				}
			}
			if err := scratch.clean(); err != nil {
				t.Fatalf("%s %s, %d bytes at offset %d: %v", name, s.name, n, off, err)
			}
		}
		if err := expected.clean(); err != nil {
			t.Fatalf("plain %s, %d bytes: %v", s.name, n, err)
		}
		for j := range in {
			if !bytes.Equal(in[j], saved[j][(off+j)%64:][:n]) {
				t.Fatalf("%s, %d bytes at offset %d: input %d was changed", s.name, n, off, j)
			}
		}
	}
	if err := poolClean(); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
}

// scratch is room for outputs, with 64 bytes and more beside each.
type scratch struct {
	whole  [][]byte
	blank  []byte
	n, off int
}

func newScratch(outs, most int) *scratch {
	s := &scratch{blank: bytes.Repeat([]byte{0xa5}, 64+64+most+64)}
	for range outs {
		s.whole = append(s.whole, bytes.Clone(s.blank))
	}
	return s
}

// outputs returns slices of n bytes, the first at offset off of 64, each next one byte
// further.
func (s *scratch) outputs(n, off int) [][]byte {
	s.n, s.off = n, off
	var out [][]byte
	for i, b := range s.whole {
		copy(b, s.blank[:64+64+n+64])
		at := 64 + (off+i)%64
		out = append(out, b[at:at+n:at+n])
	}
	return out
}

// clean says whether bytes beside the outputs were written to.
func (s *scratch) clean() error {
	for i, b := range s.whole {
		at := 64 + (s.off+i)%64
		for _, beside := range [][]byte{b[:at], b[at+s.n : 64+64+s.n+64]} {
			if !bytes.Equal(beside, s.blank[:len(beside)]) {
				return fmt.Errorf("bytes beside output %d were written to", i)
			}
		}
	}
	return nil
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func TestKernelsAgreeWithPlainOnEveryLength(t *testing.T) {
	lengths := upTo(4097)
	if raceEnabled {
		lengths = upTo(600)
	}
	for i, s := range samples(rand.NewChaCha8([32]byte{1})) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			// 61 is no divisor of anything here: lengths and offsets meet in all ways.
			compare(t, rand.NewChaCha8([32]byte{byte(i)}), s, lengths, upTo(61))
		})
	}
}

func TestKernelsAgreeWithPlainOnEveryAlignment(t *testing.T) {
	for i, s := range samples(rand.NewChaCha8([32]byte{2})) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for off := range 64 {
				compare(t, rand.NewChaCha8([32]byte{byte(i)}), s, []int{1, 16, 31, 63, 64, 65, 127, 128, 255, 257, 511, 514, 1025}, []int{off})
			}
		})
	}
}

func TestKernelsAgreeWithPlainOnLongRegions(t *testing.T) {
	var lengths []int
	for _, edge := range []int{8 << 10, 16 << 10, 104858, 128 << 10} {
		lengths = append(lengths, edge-65, edge-1, edge, edge+1, edge+2, edge+63, edge+130)
	}
	if raceEnabled {
		lengths = lengths[:14]
	}
	for i, s := range samples(rand.NewChaCha8([32]byte{3})) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			compare(t, rand.NewChaCha8([32]byte{byte(i)}), s, lengths, []int{0, 16, 1, 48, 33})
		})
	}
}

// TestKernelsTouchNothingBesideTheirRegions places regions against pages that can not be
// read: at their ends, then at their starts.
func TestKernelsTouchNothingBesideTheirRegions(t *testing.T) {
	page := os.Getpagesize()
	areas := guarded(t, 4+10, page) // inputs and outputs of a sample
	for _, s := range samples(rand.NewChaCha8([32]byte{4})) {
		for _, k := range append(s.kernels(), plain(t)) {
			p := s.make(k)
			for n := range 700 {
				for _, atEnd := range []bool{true, false} {
					var all [][]byte
					for _, a := range areas[:s.ins+s.outs] {
						if atEnd {
							all = append(all, a[page-n:])
						} else {
							all = append(all, a[:n:n])
						}
					}
					p.Run(all[s.ins:], all[:s.ins]) // a fault ends the process
				}
			}
		}
	}
}

// guarded returns areas of whole pages between pages that must not be touched.
func guarded(t *testing.T, count, size int) [][]byte {
	page := os.Getpagesize()
	var areas [][]byte
	for range count {
		b, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(b) })
		for _, guard := range [][]byte{b[:page], b[page+size:]} {
			if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
				t.Fatal(err)
			}
		}
		areas = append(areas, b[page:page+size])
	}
	return areas
}

// Packets of sizes that are blocks of all routines, of some and of none, in few rows and in
// several passes, between pages that must not be touched.
func TestPacketsOfManySizesAgreeWithPlain(t *testing.T) {
	const most = 1 << 18
	rnd := rand.New(rand.NewChaCha8([32]byte{7}))
	areas := guarded(t, 32+4, most)
	for _, area := range areas {
		fillRandom(rnd, area)
	}
	for _, size := range []int{16, 64, 96, 128, 192, 256, 320, 448, 576, 1024, 1088, 8192, 8256, 16448} {
		for _, w := range []int{2, 4, 7} {
			for outs := 1; outs <= 4; outs++ {
				ins, rows := []int{1, 3, 10, 32}[rnd.IntN(4)], 1+rnd.IntN(min(3, most/(w*size)))
				n := rows * w * size
				sums := make([][]int, outs*w)
				one := 2 << rnd.IntN(4) // in so many packets belongs to a sum
				for l := range sums {
					for p := range ins * w {
						if rnd.IntN(one) == 0 {
							sums[l] = append(sums[l], p)
						}
					}
					if len(sums[l]) > 2 && rnd.IntN(4) == 0 { // twice is not at all
						sums[l] = append(sums[l], sums[l][1])
					}
				}
				var slices, right [][]byte
				for _, area := range areas[:ins+outs] {
					if rnd.IntN(2) == 0 {
						area = area[len(area)-n:]
					}
					slices = append(slices, area[:n:n])
				}
				in, out := slices[:ins], slices[ins:]
				plain(t).GF2(ins, w, size, sums).Run(out, in)
				for _, o := range out {
					right = append(right, bytes.Clone(o))
				}
				for _, k := range native.Kernels() {
					for _, o := range out {
						fillRandom(rnd, o)
					}
					k.GF2(ins, w, size, sums).Run(out, in) // a fault ends the process
					for j := range out {
						if !bytes.Equal(out[j], right[j]) {
							t.Errorf("%s: %d inputs, %d outputs, %d rows of %d packets of %d bytes: output %d is not as plain makes it",
								k.Name(), ins, outs, rows, w, size, j)
						}
					}
				}
			}
		}
	}
}

func fillRandom(rnd *rand.Rand, b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rnd.Uint64())
	}
}

// FuzzKernels compares all kernels with plain on matrices, contents, lengths and offsets.
func FuzzKernels(f *testing.F) {
	f.Add([]byte{1, 1, 2, 3}, 3, 1, 0, 100, uint64(1))
	f.Add([]byte{0, 255, 0x8e, 7, 1, 9}, 10, 5, 13, 9001, uint64(2))
	f.Fuzz(func(t *testing.T, coefficients []byte, ins, outs, off, n int, seed uint64) {
		if ins < 1 || ins > 40 || outs < 1 || outs > 9 || off < 0 || n < 0 || n > 40000 || len(coefficients) == 0 {
			t.Skip()
		}
		rows8, rows16, sums := make([][]byte, outs), make([][]uint16, outs), make([][]int, outs)
		at := 0
		next := func() byte {
			at++
			return coefficients[at%len(coefficients)] + byte(at/len(coefficients))
		}
		for i := range outs {
			for j := range ins {
				c := next()
				rows8[i] = append(rows8[i], c)
				rows16[i] = append(rows16[i], uint16(c)<<8|uint16(next()))
				if c&1 == 1 {
					sums[i] = append(sums[i], j)
				}
			}
		}
		rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
		in, _ := regions(rnd, ins, n, off%64)
		for _, make := range []func(native.Kernel) native.Program{
			func(k native.Kernel) native.Program { return k.GF8(rows8) },
			func(k native.Kernel) native.Program { return k.GF16(rows16) },
			func(k native.Kernel) native.Program { return k.GF2(ins, 1, 0, sums) },
		} {
			want, _ := regions(rnd, outs, n, 0)
			make(plain(t)).Run(want, in)
			for _, k := range native.Kernels() {
				out, clean := regions(rnd, outs, n, off%64+1)
				make(k).Run(out, in)
				if err := clean(); err != nil {
					t.Fatalf("%s: %v", k.Name(), err)
				}
				for i := range out {
					if !bytes.Equal(out[i], want[i]) {
						t.Fatalf("%s: output %d is not as plain makes it", k.Name(), i)
					}
				}
			}
		}
	})
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

func TestRunAllocatesNothing(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{4})
	in, _ := regions(rnd, 3, 6<<10, 0)
	out, _ := regions(rnd, 2, 6<<10, 0)
	for _, k := range native.Kernels() {
		if isLibrary(k) {
			continue // what the libraries do is theirs
		}
		for name, p := range map[string]native.Program{
			"GF8":  k.GF8([][]byte{{2, 3, 4}, {1, 0, 255}}),
			"GF16": k.GF16([][]uint16{{2, 3, 4}, {1, 0, 65535}}),
			"GF2":  k.GF2(3, 2, 1024, [][]int{{0, 1}, {2, 3, 4}, {5}, {}}),
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
