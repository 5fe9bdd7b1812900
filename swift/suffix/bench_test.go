package suffix

import (
	"fmt"
	"testing"
)

// A REPLICATE answer of few suffixes is what a pass with nothing to do reads over and over, one
// of many is what a full device gives.
func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		h := Hashes{}
		for i := range n {
			h[fmt.Sprintf("%03x", i)] = &Entry{Frags: Frags{{i % 14, sum}}, None: sum}
		}
		text := h.Encode()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := Decode(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
