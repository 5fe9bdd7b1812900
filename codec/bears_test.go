package codec

import (
	"testing"
)

// Losses that an object bears, whichever they are: compared with trying all.
func TestBearsIsWhatTryingAllLossesSays(t *testing.T) {
	for _, s := range []Scheme{
		{"isa_l_rs_vand", 4, 2}, {"liberasurecode_rs_vand", 3, 3}, {"jerasure_rs_cauchy", 2, 1}, {"flat_xor_hd_3", 3, 3}, {"flat_xor_hd_3", 5, 5}, {"flat_xor_hd_4", 5, 5}, {"isa_l_rs_vand", 10, 5},
	} {
		code, err := New(s)
		if err != nil {
			t.Fatal(err)
		}
		full := make([]int, code.N())
		for i := range full {
			full[i] = 1
		}
		gaps, twice := append([]int(nil), full...), append([]int(nil), full...)
		gaps[0], gaps[code.N()-1] = 0, 0
		twice[0], twice[1], twice[2] = 2, 3, 2
		for _, copies := range [][]int{full, gaps, twice, make([]int, code.N())} {
			if got, want := code.Bears(copies), bearsAll(code, copies); got != want {
				t.Errorf("%v of %v: %d, want %d", copies, s, got, want)
			}
		}
	}
}

// Where all losses would take a minute to try, the number is that of an MDS code.
func TestBearsOfALargeCodeIsThatOfAnMDSCode(t *testing.T) {
	code, err := New(Scheme{"isa_l_rs_vand", 30, 10})
	if err != nil {
		t.Fatal(err)
	}
	copies := make([]int, code.N())
	for i := range copies {
		copies[i] = 2
	}
	if got, want := code.Bears(copies), 2*11-1; got != want {
		t.Errorf("%d, want %d", got, want)
	}
}

// bearsAll tries all sets of indexes that could be lost as a whole.
func bearsAll(c *Code, copies []int) int {
	fatal := 1 << 30
	for lost := range 1 << c.N() {
		n, have := 0, Set{}
		for i, of := range copies {
			if lost>>i&1 == 1 {
				n += of
			} else if of > 0 {
				have = have.With(i)
			}
		}
		if n < fatal && !c.decodes(have) {
			fatal = n
		}
	}
	return fatal - 1
}
