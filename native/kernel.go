// Package native holds the kernels under the erasure codes: linear combinations of
// byte regions over GF(2), GF(2^8) and GF(2^16), in liberasurecode's fields and byte
// order. It knows no scheme, no fragment and no header: what to combine is decided by
// package codec.
//
// On amd64 there are five levels of assembly, the best first, by what the CPU has: gfni512
// (AVX-512 with GFNI), gfni256 (AVX2 with GFNI), avx512, avx2 and ssse3. On arm64 there is
// one, neon, which every such CPU has. Those with GFNI multiply by matrices of bits, the
// others look nibbles up. plain is Go and runs everywhere. The packages isal (by build tag),
// klauspost and templexxx make kernels of libraries, for comparison.
package native

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
)

// A Kernel makes programs for one way of computing (plain Go, a library, assembly for
// one level of CPU). It is stateless and safe for use by many goroutines. All kernels
// make programs with equal results; they differ in speed alone.
type Kernel interface {
	// Name is how a person chooses the kernel: "plain", "avx2", "klauspost".
	Name() string
	// XOR makes a program of one output: the exclusive or of that many inputs (at
	// least one).
	XOR(inputs int) Program
	// GF2 makes a program of exclusive ors over several outputs, of whole regions or of
	// the packets of a bit matrix (jerasure). Each region is a run of blocks of w packets
	// of size bytes; packet x of input i has the number i*w+x, packet l of output j the
	// number j*w+l. sums[l] lists the input packets whose exclusive or output packet l is;
	// of none it is zeros. len(sums) is a multiple of w. With w = 1 a region is one packet
	// of any length and size is not looked at; else Run panics when the length is no
	// multiple of w*size.
	GF2(inputs, w, size int, sums [][]int) Program
	// GF8 makes a program over GF(2^8) with polynomial 0x11d: rows[i][j] is the
	// coefficient of input j in output i. There is at least one row and one column,
	// and all rows are as long as each other.
	GF8(rows [][]byte) Program
	// GF16 makes a program over GF(2^16) with polynomial 0x1100b, on little-endian
	// words. A last odd byte is the low half of a word whose high half is zero, of
	// whose product the low half is kept (liberasurecode: region_multiply).
	GF16(rows [][]uint16) Program
}

// A Program is a matrix bound to a kernel, ready to run on any number of stripes by
// any number of goroutines.
type Program interface {
	// Run overwrites out with the combinations of in. All slices have one length (of
	// any number of bytes, zero too) and any alignment; no output overlaps anything
	// else. Once warm it allocates nothing. It panics when the number or the
	// length of the slices is wrong: that is an error of the program, not of its input.
	Run(out, in [][]byte)
}

// Register adds a kernel that lives in a package of its own; such packages call it in
// their init.
func Register(k Kernel) { registered = append(registered, k) }

var registered []Kernel

// Kernels returns every kernel that this process can run on this machine, the best first:
// the assembly of this package, the registered ones, plain. (Where there is no assembly of
// ours, the libraries' is better than none.)
func Kernels() []Kernel {
	return append(append(vectorKernels(), registered...), plain{})
}

// Best returns the kernel of this package that is the fastest on this machine.
func Best() Kernel { return append(vectorKernels(), plain{})[0] }

// Forced is the environment variable that names the kernel to use.
const Forced = "IMPING_KERNEL"

// Chosen returns the kernel to use: the best one, or the one that IMPING_KERNEL names.
// The error names what there is when there is no such kernel. It is decided once.
func Chosen() (Kernel, error) { return chosen() }

var chosen = sync.OnceValues(func() (Kernel, error) { return choose(os.Getenv(Forced)) })

func choose(name string) (Kernel, error) {
	all := Kernels()
	if name == "" {
		return all[0], nil
	}
	var names []string
	for _, k := range all {
		if k.Name() == name {
			return k, nil
		}
		names = append(names, k.Name())
	}
	return nil, fmt.Errorf("%s=%q: this machine has no such kernel, only %s", Forced, name, strings.Join(names, ", "))
}

// shape is the number of outputs and inputs of a program.
type shape struct{ outs, ins int }

// check returns the common length of the slices, and panics unless there is one.
func (s shape) check(out, in [][]byte) int {
	if len(out) != s.outs || len(in) != s.ins {
		panic(fmt.Sprintf("native: program of %d inputs and %d outputs run with %d and %d", s.ins, s.outs, len(in), len(out)))
	}
	n := len(out[0])
	for _, b := range out {
		if len(b) != n {
			panic(fmt.Sprintf("native: output of %d bytes beside one of %d", len(b), n))
		}
	}
	for _, b := range in {
		if len(b) != n {
			panic(fmt.Sprintf("native: input of %d bytes, output of %d", len(b), n))
		}
	}
	return n
}

// shapeOf checks a matrix and returns its shape.
func shapeOf[E byte | uint16](rows [][]E) shape {
	if len(rows) == 0 || len(rows[0]) == 0 {
		panic("native: empty matrix")
	}
	for _, r := range rows {
		if len(r) != len(rows[0]) {
			panic(fmt.Sprintf("native: matrix row of %d coefficients beside one of %d", len(r), len(rows[0])))
		}
	}
	return shape{len(rows), len(rows[0])}
}

// ones returns a row of ones.
func ones(n int) []byte {
	if n < 1 {
		panic("native: exclusive or of nothing")
	}
	return bytes.Repeat([]byte{1}, n)
}

// packets is the layout of a program over GF(2).
type packets struct {
	shape
	w, size int
	sums    [][]int
}

func packetsOf(inputs, w, size int, sums [][]int) packets {
	if inputs < 1 || w < 1 || w > 1 && size < 1 || len(sums) == 0 || len(sums)%w != 0 {
		panic(fmt.Sprintf("native: %d sums of %d inputs by %d packets of %d bytes", len(sums), inputs, w, size))
	}
	for _, s := range sums {
		for _, p := range s {
			if p < 0 || p >= inputs*w {
				panic(fmt.Sprintf("native: packet %d of %d inputs by %d", p, inputs, w))
			}
		}
	}
	return packets{shape{len(sums) / w, inputs}, w, size, sums}
}

// check returns the length of the slices and that of a packet.
func (p *packets) check(out, in [][]byte) (n, size int) {
	n = p.shape.check(out, in)
	if p.w == 1 {
		return n, n
	}
	if n%(p.w*p.size) != 0 {
		panic(fmt.Sprintf("native: %d bytes are not blocks of %d packets of %d", n, p.w, p.size))
	}
	return n, p.size
}
