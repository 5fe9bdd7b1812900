package codec

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"imping/codec"
	"imping/native"
	_ "imping/native/klauspost"
)

func TestEveryKernelIsMeasuredOnEverySchemeAndItsResultsCompared(t *testing.T) {
	var progress bytes.Buffer
	o := Options{Types: codec.Types(), Segments: []int{64 << 10}, Rounds: 1, Window: time.Microsecond, Arena: 1, Out: &progress}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range o.Types {
		for _, scheme := range shapes(typ) {
			for _, l := range losses(scheme.K) {
				for _, stream := range []bool{false, true} {
					for _, engine := range append(r.Kernels, XOR, Memcpy) {
						row := r.find(Row{Type: typ, K: scheme.K, M: scheme.M, Segment: 64 << 10, Loss: l.name, Stream: stream, Engine: engine})
						switch {
						case row == nil && engine == "klauspost" && !strings.HasPrefix(typ, "isa_"):
						case row == nil:
							t.Errorf("%v, %s lost, streaming %v: nothing of %s", scheme, l.name, stream, engine)
						case row.GBps <= 0 || row.ToXOR <= 0 || row.ToMemcpy <= 0:
							t.Errorf("%+v", *row)
						}
					}
				}
			}
			if r.find(Row{Type: typ, K: scheme.K, M: scheme.M, Segment: 64 << 10, Loss: "d0", Engine: Headers}) == nil {
				t.Errorf("%v: headers were not measured", scheme)
			}
		}
	}
	chosen, err := native.Chosen()
	if err != nil {
		t.Fatal(err)
	}
	table := r.Table()
	for _, want := range append([]string{chosen.Name(), "64 KiB, in cache"}, o.Types...) {
		if !strings.Contains(table, want) {
			t.Errorf("the table does not mention %q", want)
		}
	}
}
