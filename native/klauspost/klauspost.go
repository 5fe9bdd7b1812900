// Package klauspost is native's interface on github.com/klauspost/reedsolomon, for
// comparison: GF(2^8) and a plain exclusive or are the library's, the rest is native's
// own best kernel. Importing it registers it. Its programs allocate on each run.
package klauspost

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"

	"imping/native"
)

// Kernel is klauspost/reedsolomon.
var Kernel native.Kernel = kernel{native.Best()}

func init() { native.Register(Kernel) }

type kernel struct{ native.Kernel }

func (kernel) Name() string { return "klauspost" }

func (k kernel) XOR(inputs int) native.Program {
	return k.GF8([][]byte{bytes.Repeat([]byte{1}, inputs)})
}

func (k kernel) GF8(rows [][]byte) native.Program {
	own := k.Kernel.GF8(rows) // checks rows
	// The encoder's limit.
	if len(rows)+len(rows[0]) > 256 {
		return own
	}
	enc, err := reedsolomon.New(len(rows[0]), len(rows), reedsolomon.WithCustomMatrix(rows),
		reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
	if err != nil {
		panic(fmt.Sprintf("klauspost: %d inputs, %d outputs: %v", len(rows[0]), len(rows), err))
	}
	return &program{enc: enc, ins: len(rows[0]), outs: len(rows)}
}

type program struct {
	enc       reedsolomon.Encoder
	ins, outs int
	shards    sync.Pool // of *[][]byte
}

func (p *program) Run(out, in [][]byte) {
	if len(in) != p.ins || len(out) != p.outs {
		panic(fmt.Sprintf("klauspost: program of %d inputs and %d outputs run with %d and %d", p.ins, p.outs, len(in), len(out)))
	}
	s, _ := p.shards.Get().(*[][]byte)
	if s == nil {
		s = new([][]byte)
	}
	*s = append(append((*s)[:0], in...), out...)
	err := p.enc.Encode(*s)
	if err == reedsolomon.ErrShardNoData && len(in[0]) == 0 {
		err = nil // nothing to do
		for _, b := range *s {
			if len(b) != 0 {
				err = reedsolomon.ErrShardSize
			}
		}
	}
	clear(*s)
	p.shards.Put(s)
	if err != nil {
		panic(fmt.Sprintf("klauspost: %v", err))
	}
}
