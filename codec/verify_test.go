package codec

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// payloadsOf returns the payloads of a segment's fragments, nil for those not in have.
func payloadsOf(c *Code, segment []byte, have Set) [][]byte {
	all := make([][]byte, c.N())
	for i, f := range fragments(c, segment, Zlib) {
		if have.Has(i) {
			all[i] = f[HeaderSize:]
		}
	}
	return all
}

// lies are ways to be wrong: one bit, and all bytes.
func lie(b []byte, rnd *rand.Rand) {
	if rnd.IntN(2) == 0 {
		b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
		return
	}
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
}

func verify(t testing.TB, c *Code, payloads [][]byte) Verdict {
	t.Helper()
	v, err := c.Verify(payloads)
	if err != nil {
		t.Fatalf("%v: %v", c.Scheme(), err)
	}
	return v
}

func TestOneSpareTellsThatAFragmentLies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for _, s := range samples() {
		c := mustNew(t, s.Type, s.K, s.M)
		if !c.mds {
			continue
		}
		for i := range 3 {
			have := some(c, c.K()+1, rnd)
			payloads := payloadsOf(c, randomBytes(1, []int{1, 777, (piece + 2000) * c.K()}[i]), have) // of the last a second piece
			if v := verify(t, c, payloads); v != (Verdict{Checked: have, Consistent: true}) {
				t.Errorf("%v, %v: %+v", s, have, v)
			}
			lie(payloads[have.Indexes()[rnd.IntN(c.K()+1)]], rnd)
			if v := verify(t, c, payloads); v != (Verdict{Checked: have}) { // not located
				t.Errorf("%v, %v: %+v", s, have, v)
			}
		}
	}
}

func TestTwoSparesOfAnMDSCodeTellWhichFragmentLies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for _, s := range samples() {
		c := mustNew(t, s.Type, s.K, s.M)
		if !c.mds {
			continue
		}
		have := some(c, c.K()+2, rnd)
		for _, liar := range have.Indexes() {
			payloads := payloadsOf(c, randomBytes(2, 1+rnd.IntN(5000)), have)
			if liar == 0 { // beyond the first piece, too
				payloads = payloadsOf(c, randomBytes(2, (piece+2000)*c.K()), have)
			}
			lie(payloads[liar], rnd)
			if v := verify(t, c, payloads); v != (Verdict{Checked: have, Liars: SetOf(liar)}) {
				t.Errorf("%v: %d of %v lies: %+v", s, liar, have, v)
			}
		}
	}
}

func TestMoreSparesTellMoreLiars(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	for _, typ := range []string{"isa_l_rs_cauchy", "liberasurecode_rs_vand", "jerasure_rs_cauchy"} {
		c := mustNew(t, typ, 10, 4)
		for range 3 {
			liars := some(c, 2, rnd)
			payloads := payloadsOf(c, randomBytes(2, 10_000), c.all)
			for _, i := range liars.Indexes() {
				lie(payloads[i], rnd)
			}
			if v := verify(t, c, payloads); v != (Verdict{Checked: c.all, Liars: liars}) {
				t.Errorf("%s: %v lie: %+v", typ, liars, v)
			}
			for _, i := range first(10).Minus(liars).Indexes()[:3] { // five liars of fourteen
				lie(payloads[i], rnd)
			}
			if v := verify(t, c, payloads); v != (Verdict{Checked: c.all}) {
				t.Errorf("%s: five lie: %+v", typ, v)
			}
		}
	}
}

func TestAllOfAFlatXORCodeTellWhichFragmentLies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 14))
	for _, s := range flatXORSchemes() {
		c := mustNew(t, s.Type, s.K, s.M)
		for liar := range c.N() {
			payloads := payloadsOf(c, randomBytes(2, 999), c.all)
			lie(payloads[liar], rnd)
			if v := verify(t, c, payloads); v != (Verdict{Checked: c.all, Liars: SetOf(liar)}) {
				t.Errorf("%v: %d lies: %+v", s, liar, v)
			}
		}
	}
}

func TestVerifySaysWhatItCouldNotCheck(t *testing.T) {
	c := mustNew(t, "flat_xor_hd_3", 5, 5) // P0 is 0 and 1, P1 2 and 3
	segment := randomBytes(3, 1000)
	payloads := payloadsOf(c, segment, SetOf(0, 1, 2, 5))
	if v := verify(t, c, payloads); v != (Verdict{Checked: SetOf(0, 1, 5), Consistent: true}) {
		t.Errorf("%+v", v)
	}
	payloads[1][7] ^= 1
	if v := verify(t, c, payloads); v != (Verdict{Checked: SetOf(0, 1, 5)}) { // any of three
		t.Errorf("%+v", v)
	}
	for _, have := range []Set{SetOf(0, 1, 2, 3, 4), SetOf(5), {}} {
		if _, err := c.Verify(payloadsOf(c, segment, have)); !errors.Is(err, ErrNoSpare) {
			t.Errorf("%v: %v", have, err)
		}
	}
}

func TestVerifyRefusesWhatIsNoStripe(t *testing.T) {
	c := mustNew(t, "liberasurecode_rs_vand", 2, 1)
	for word, payloads := range map[string][][]byte{
		"2 payloads":         {{1, 2}, {1, 2}},
		"1 has 2 bytes":      {{1, 2, 3, 4}, {1, 2}, {1, 2, 3, 4}},
		"multiples of 2":     {{1}, {1}, {1}},
		"2 has 0 bytes, tha": {{1, 2}, {1, 2}, {}},
	} {
		if v, err := c.Verify(payloads); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v: %+v, %v", payloads, v, err)
		}
	}
	if v, err := c.Verify([][]byte{{}, {}, {}}); err != nil || !v.Consistent {
		t.Errorf("nothing is inconsistent: %+v, %v", v, err)
	}
}

// FuzzVerify: what is consistent is said to be; a change is found if anything covers it;
// who is named when one fragment was changed is that one.
func FuzzVerify(f *testing.F) {
	f.Add(byte(0), byte(4), byte(2), uint32(0x3f), byte(1), []byte("x"))
	f.Add(byte(1), byte(10), byte(5), uint32(0x7fff), byte(1), []byte("\x00\x01"))
	f.Add(byte(5), byte(4), byte(3), uint32(0x5f), byte(1), []byte("abc"))
	f.Fuzz(func(t *testing.T, typ, k, m byte, have uint32, liar byte, change []byte) {
		all := Types()
		c, err := New(Scheme{all[int(typ)%len(all)], int(k) % 20, int(m) % 7})
		if err != nil {
			return
		}
		set := Set{uint64(have)}
		set = set.Minus(set.Minus(c.all))
		payloads := payloadsOf(c, randomBytes(k, 100), set)
		v, err := c.Verify(payloads)
		if err != nil {
			if !errors.Is(err, ErrNoSpare) || len(c.span(set).members) != set.Len() {
				t.Fatalf("%v, %v: %v", c.Scheme(), set, err)
			}
			return
		}
		if !v.Consistent || v.Liars != (Set{}) {
			t.Fatalf("%v, %v: %+v", c.Scheme(), set, v)
		}
		l := int(liar) % c.N()
		if payloads[l] == nil {
			return
		}
		before := bytes.Clone(payloads[l])
		for i, b := range change[:min(len(change), len(before))] {
			payloads[l][i] ^= b
		}
		w := verify(t, c, payloads)
		switch {
		case bytes.Equal(before, payloads[l]) || !v.Checked.Has(l):
			if w != v {
				t.Fatalf("%v, %v: %+v, then %+v", c.Scheme(), set, v, w)
			}
		case w.Consistent || w.Liars != (Set{}) && w.Liars != SetOf(l):
			t.Fatalf("%v, %v: %d lies: %+v", c.Scheme(), set, l, w)
		case c.mds && set.Len() >= c.K()+2 && w.Liars == (Set{}):
			t.Fatalf("%v, %v: %d lies and is not found", c.Scheme(), set, l)
		}
	})
}

// With an MDS code one spare checks all; with a flat XOR code as many as make a sum that is zero with what is read.
func TestChooseSparesTakesTheFewestThatCheckAllThatIsRead(t *testing.T) {
	for _, s := range []Scheme{{"isa_l_rs_vand", 4, 2}, {"liberasurecode_rs_vand", 10, 4}, {"isa_l_rs_vand", 6, 5}, {"flat_xor_hd_3", 5, 5}, {"flat_xor_hd_4", 10, 5}} {
		c := mustNew(t, s.Type, s.K, s.M)
		for lost := range c.N() {
			want := SetOf(lost)
			var offered []int
			for i := range c.N() {
				offered = append(offered, c.N()-1-i) // the wanted one among them
			}
			chosen, err := c.Choose(Set{}, offered, want)
			if err != nil {
				t.Fatal(err)
			}
			have := SetOf(chosen...)
			spares := c.ChooseSpares(have, offered, want)
			if len(spares) == 0 && s.Type == "flat_xor_hd_4" {
				continue // for some losses K+1 are not enough
			}
			if len(spares) == 0 || c.mds && len(spares) != 1 || slices.Contains(spares, lost) || slices.ContainsFunc(spares, have.Has) {
				t.Fatalf("%v: %v beside %v for %d", s, spares, have, lost)
			}
			all := have.Or(SetOf(spares...))
			if p, err := c.Plan(all, want); err != nil || SetOf(p.In()...).Minus(c.Checked(all)) != (Set{}) || all.Len() > c.K()+1 {
				t.Fatalf("%v: %v checks %v, %v", s, all, c.Checked(all), err)
			}
			if again := c.ChooseSpares(all, offered, want); again != nil {
				t.Errorf("%v: %v beside %v, which is checked", s, again, all)
			}
			if none := c.ChooseSpares(have, have.Indexes(), want); none != nil || c.Checked(have) != (Set{}) && c.mds {
				t.Errorf("%v: %v of nothing, %v checked", s, none, c.Checked(have))
			}
		}
		if c.ChooseSpares(SetOf(0), []int{1}, SetOf(2)) != nil {
			t.Error("something is checked that can not be made")
		}
	}
}
