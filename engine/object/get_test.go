package object

import (
	"slices"
	"strings"
	"testing"

	"imping/codec"
	"imping/swift/policy"
)

// What a server sends as a fragment is one of this index, segment and scheme, or is no fragment, whatever the head of its answer says.
func TestFragmentsAreProvenByTheirHeaders(t *testing.T) {
	pol := &policy.Policy{Type: policy.ErasureCoding, ECType: "isa_l_rs_vand", Data: 4, Parity: 2, Duplication: 1, SegmentSize: 1000}
	of := func(kind string) (*place, [][]byte) {
		code, err := codec.New(codec.Scheme{Type: kind, K: pol.Data, M: pol.Parity})
		if err != nil {
			t.Fatal(err)
		}
		into := make([][]byte, code.N())
		for i := range into {
			into[i] = make([]byte, code.FragmentSize(pol.SegmentSize))
		}
		pl := &place{pol: pol, code: code}
		return pl, (&put{Client: &Client{}, place: pl}).encode(slices.Repeat([]byte("0123456789"), 100), into)
	}
	pl, fragments := of(pol.ECType)
	_, others := of("isa_l_rs_cauchy")
	r := &reader{Object: &Object{place: pl, Policy: pol}}
	flipped := func(at int) []byte {
		f := slices.Clone(fragments[2])
		f[at] ^= 1
		return f
	}
	for _, c := range []struct {
		name     string
		fragment []byte
		length   int
		say      string
	}{
		{"the right one", fragments[2], 1000, ""},
		{"a neighbour's", fragments[3], 1000, "index 3, want 2"},
		{"of another segment", fragments[2], 999, "segment of 1000 bytes, want 999"},
		{"of another scheme", others[2], 1000, "isa_l_rs"},
		{"a flipped bit in the header", flipped(4), 1000, "checksum"},
		{"no header", make([]byte, len(fragments[2])), 1000, "magic"},
	} {
		err := r.proven(c.fragment, 2, c.length)
		if (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
