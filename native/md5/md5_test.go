package md5

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// scalar is the state after b, a number of blocks, by the standard library.
func scalar(t testing.TB, b []byte) (s State) {
	h := md5.New()
	h.Write(b)
	raw, err := h.(interface{ MarshalBinary() ([]byte, error) }).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for i := range s {
		s[i] = binary.BigEndian.Uint32(raw[4+4*i:])
	}
	return s
}

func TestAnyNumberOfStreamsEndsAsEachAlone(t *testing.T) {
	if !Available() {
		t.Skip("this CPU has no AVX2")
	}
	each(t, testAnyNumberOfStreams)
}

func testAnyNumberOfStreams(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{1})
	for lanes := 1; lanes <= Lanes; lanes++ {
		for _, n := range []int{1, 2, 3, 17} {
			states, data := make([]*State, lanes), make([]*byte, lanes)
			streams := make([][]byte, lanes)
			for i := range streams {
				// At the end of its memory, and on any alignment.
				b := make([]byte, i+2*n*BlockSize)
				rnd.Read(b)
				streams[i] = b[i:]
				s := Init
				states[i], data[i] = &s, &streams[i][0]
			}
			for half := range 2 {
				for i := range data {
					data[i] = &streams[i][half*n*BlockSize]
				}
				Blocks(states, data, n)
			}
			for i, s := range states {
				if want := scalar(t, streams[i]); *s != want {
					t.Fatalf("stream %d of %d, %d blocks twice: %x, want %x", i, lanes, n, *s, want)
				}
			}
		}
	}
}

func TestBlocksAllocatesNothing(t *testing.T) {
	if !Available() {
		t.Skip("this CPU has no AVX2")
	}
	each(t, func(t *testing.T) {
		states, data, _ := benchStreams(Lanes)
		if n := testing.AllocsPerRun(10, func() { Blocks(states, data, 4) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

const benchBlocks = 256

func benchStreams(lanes int) (states []*State, data []*byte, bytes int64) {
	for range lanes {
		s := Init
		b := make([]byte, benchBlocks*BlockSize+lanes*320)
		states, data = append(states, &s), append(data, &b[len(states)*320])
	}
	return states, data, int64(lanes * benchBlocks * BlockSize)
}

func BenchmarkBlocks(b *testing.B) {
	for _, lanes := range []int{1, 8, 10, 16, 32} {
		b.Run(fmt.Sprint(lanes), func(b *testing.B) {
			states, data, bytes := benchStreams(lanes)
			b.SetBytes(bytes)
			for b.Loop() {
				Blocks(states, data, benchBlocks)
			}
		})
	}
	b.Run("crypto/md5", func(b *testing.B) {
		p := make([]byte, benchBlocks*BlockSize)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			md5.Sum(p)
		}
	})
}
