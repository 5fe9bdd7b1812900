// Package native holds the kernels under the erasure codes: linear combinations of
// byte regions over GF(2), GF(2^8) and GF(2^16), in liberasurecode's fields and byte
// order. It knows no scheme, no fragment and no header: what to combine is decided by
// package codec.
package native

import "fmt"

// A Kernel makes programs for one way of computing (plain Go, a library, assembly for
// one level of CPU). It is stateless and safe for use by many goroutines. All kernels
// make programs with equal results; they differ in speed alone.
type Kernel interface {
	// Name is how a person chooses the kernel: "plain", "klauspost".
	Name() string
	// XOR makes a program of one output: the exclusive or of that many inputs (at
	// least one).
	XOR(inputs int) Program
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
	// else. It allocates nothing and panics when the number or the
	// length of the slices is wrong: that is an error of the program, not of its input.
	Run(out, in [][]byte)
}

// Kernels returns every kernel that this machine can run, the best first.
func Kernels() []Kernel { return []Kernel{klauspost{}, plain{}} }

// Chosen returns the kernel to use: the best that this machine can run.
func Chosen() Kernel { return chosen }

var chosen = Kernels()[0]

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
