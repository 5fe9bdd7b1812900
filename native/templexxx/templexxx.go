// Package templexxx is native's interface on github.com/templexxx/reedsolomon and
// xorsimd, for comparison: GF(2^8) and a plain exclusive or are the libraries', the rest
// is native's own best kernel. Importing it registers it.
package templexxx

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/templexxx/reedsolomon"
	"github.com/templexxx/xorsimd"

	"imping/native"
)

// Kernel is templexxx/reedsolomon.
var Kernel native.Kernel = kernel{native.Best()}

func init() { native.Register(Kernel) }

type kernel struct{ native.Kernel }

func (kernel) Name() string { return "templexxx" }

func (k kernel) XOR(inputs int) native.Program {
	p := newProgram(k.Kernel.XOR(inputs), 1, inputs)
	p.head = func(v [][]byte) error {
		xorsimd.Encode(v[inputs], v[:inputs])
		return nil
	}
	return p
}

func (k kernel) GF8(rows [][]byte) native.Program {
	own := k.Kernel.GF8(rows) // checks rows
	// The library's limit.
	if len(rows)+len(rows[0]) > 256 {
		return own
	}
	rs, err := reedsolomon.New(len(rows[0]), len(rows))
	if err != nil {
		panic(fmt.Sprintf("templexxx: %d inputs, %d outputs: %v", len(rows[0]), len(rows), err))
	}
	// The library has no matrix of the caller's. GenMatrix is what Encode multiplies by.
	copy(rs.GenMatrix, bytes.Join(rows, nil))
	p := newProgram(own, len(rows), len(rows[0]))
	p.head = rs.Encode
	return p
}

// granule is what the library's assembly works in. It does the whole last 16 KiB of
// other lengths byte by byte, so the rest of a length goes elsewhere.
const granule = 16

type program struct {
	outs, ins int
	head      func(vects [][]byte) error // any multiple of granule
	tail      native.Program             // the rest
	scratch   sync.Pool                  // of *[][]byte
}

func newProgram(tail native.Program, outs, ins int) *program {
	return &program{outs: outs, ins: ins, tail: tail}
}

func (p *program) Run(out, in [][]byte) {
	if len(in) != p.ins || len(out) != p.outs {
		panic(fmt.Sprintf("templexxx: program of %d inputs and %d outputs run with %d and %d", p.ins, p.outs, len(in), len(out)))
	}
	n := len(in[0])
	s, _ := p.scratch.Get().(*[][]byte)
	if s == nil {
		s = new([][]byte)
	}
	*s = (*s)[:0]
	for _, list := range [][][]byte{in, out} {
		for _, b := range list {
			if len(b) != n {
				panic(fmt.Sprintf("templexxx: a slice of %d bytes beside one of %d", len(b), n))
			}
			*s = append(*s, b[:n&^(granule-1)])
		}
	}
	if n >= granule {
		if err := p.head(*s); err != nil {
			panic(fmt.Sprintf("templexxx: %v", err))
		}
	}
	if n%granule != 0 {
		for i, b := range in {
			(*s)[i] = b[n&^(granule-1):]
		}
		for i, b := range out {
			(*s)[p.ins+i] = b[n&^(granule-1):]
		}
		p.tail.Run((*s)[p.ins:], (*s)[:p.ins])
	}
	clear(*s)
	p.scratch.Put(s)
}
