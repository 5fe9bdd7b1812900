//go:build isal

package isal

// #cgo LDFLAGS: -lisal
// #include <stdlib.h>
// #include <isa-l/erasure_code.h>
//
// // ISA-L 2.30 leaves the upper halves of the vector registers dirty, which makes later
// // SSE code of the thread two to three times as slow.
// #ifdef __x86_64__
// __attribute__((target("avx"))) static void clean(void) { __builtin_ia32_vzeroupper(); }
// static void encode(int len, int k, int rows, unsigned char *tab, unsigned char **v) {
// 	ec_encode_data(len, k, rows, tab, v, v + k);
// 	if (__builtin_cpu_supports("avx")) clean();
// }
// #else
// static void encode(int len, int k, int rows, unsigned char *tab, unsigned char **v) {
// 	ec_encode_data(len, k, rows, tab, v, v + k);
// }
// #endif
import "C"

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"imping/native"
)

// Kernel is ISA-L.
var Kernel native.Kernel = kernel{native.Best()}

func init() { native.Register(Kernel) }

type kernel struct{ native.Kernel }

func (kernel) Name() string { return "isal" }

func (k kernel) XOR(inputs int) native.Program {
	// Not xor_gen: that one wants aligned regions.
	return k.GF8([][]byte{bytes.Repeat([]byte{1}, inputs)})
}

func (k kernel) GF8(rows [][]byte) native.Program {
	k.Kernel.GF8(rows) // checks rows
	p := &program{outs: len(rows), ins: len(rows[0])}
	flat := bytes.Join(rows, nil)
	p.tables = make([]byte, 32*len(flat))
	C.ec_init_tables(C.int(p.ins), C.int(p.outs), (*C.uchar)(&flat[0]), (*C.uchar)(&p.tables[0]))
	return p
}

type program struct {
	outs, ins int
	tables    []byte
	calls     sync.Pool // of *call
}

// call is what one run hands to C: the addresses, in memory of Go's that holds no Go
// pointers as far as its type says, pinned for the time of the call.
type call struct {
	vects []uintptr
	pin   runtime.Pinner
}

func (p *program) Run(out, in [][]byte) {
	if len(in) != p.ins || len(out) != p.outs {
		panic(fmt.Sprintf("isal: program of %d inputs and %d outputs run with %d and %d", p.ins, p.outs, len(in), len(out)))
	}
	n := len(in[0])
	for _, list := range [][][]byte{in, out} {
		for _, b := range list {
			if len(b) != n {
				panic(fmt.Sprintf("isal: a slice of %d bytes beside one of %d", len(b), n))
			}
		}
	}
	if n == 0 {
		return
	}
	c, _ := p.calls.Get().(*call)
	if c == nil {
		c = &call{}
	}
	c.vects = c.vects[:0]
	for _, list := range [][][]byte{in, out} {
		for _, b := range list {
			c.pin.Pin(&b[0])
			c.vects = append(c.vects, uintptr(unsafe.Pointer(&b[0])))
		}
	}
	C.encode(C.int(n), C.int(p.ins), C.int(p.outs), (*C.uchar)(&p.tables[0]), (**C.uchar)(unsafe.Pointer(&c.vects[0])))
	c.pin.Unpin()
	p.calls.Put(c)
}
