package digest

import (
	"crypto/md5"
	"encoding"
	"encoding/binary"
	"fmt"
	"sync"

	lanes "imping/native/md5"
)

// scalars are hashes of crypto/md5 whose states are set.
var scalars = sync.Pool{New: func() any { return &scalar{hash: md5.New().(stateful)} }}

type stateful interface {
	Write([]byte) (int, error)
	encoding.BinaryUnmarshaler
	encoding.BinaryAppender
}

// scalar has room for what crypto/md5 makes of its state: four bytes of magic, the state, a block that is not used here, the length.
type scalar struct {
	hash stateful
	b    [4 + md5.Size + md5.BlockSize + 8]byte
}

// alone adds whole blocks to a state.
func alone(state *lanes.State, p []byte) {
	s := scalars.Get().(*scalar)
	defer scalars.Put(s)
	clear(s.b[:])
	copy(s.b[:], "md5\x01")
	for i, v := range state {
		binary.BigEndian.PutUint32(s.b[4+4*i:], v)
	}
	// Its length tells no more than that no block is begun.
	if err := s.hash.UnmarshalBinary(s.b[:]); err != nil {
		panic(fmt.Sprintf("BUG: crypto/md5 does not take its state: %v", err))
	}
	s.hash.Write(p)
	out, err := s.hash.AppendBinary(s.b[:0])
	if err != nil {
		panic(fmt.Sprintf("BUG: crypto/md5 does not give its state: %v", err))
	}
	for i := range state {
		state[i] = binary.BigEndian.Uint32(out[4+4*i:])
	}
}

// finish pads the stream and gives its MD5 (RFC 1321, 3.1 to 3.5).
func (s *Stream) finish(sum *[md5.Size]byte) {
	var last [2 * blockSize]byte
	n := copy(last[:], s.carry[:s.nc])
	last[n] = 0x80
	end := blockSize
	if n+9 > blockSize {
		end = 2 * blockSize
	}
	binary.LittleEndian.PutUint64(last[end-8:], s.done<<3)
	alone(&s.state, last[:end])
	for i, v := range s.state {
		binary.LittleEndian.PutUint32(sum[4*i:], v)
	}
}
