package codec

import (
	"bytes"
	"strings"
	"testing"
)

// altered returns a fragment with another header, its checksum right.
func altered(t testing.TB, fragment []byte, change func(*Header)) []byte {
	t.Helper()
	h, err := ParseHeader(fragment)
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(fragment)
	change(&h)
	h.Put(b, Zlib)
	return b
}

func TestTheOddFragmentOfAStripeIsNamed(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 4, 2)
	stripe := swifts(c, 777)
	stripe.ChecksumType = ChecksumCRC32
	all := sealed(c, randomBytes(1, 777), stripe, Zlib)[:5]
	other := fragments(c, randomBytes(1, 700), Zlib)
	flipped := bytes.Clone(all[1])
	flipped[HeaderSize+9] ^= 4
	for _, x := range []struct {
		odd   []byte
		words string
	}{
		{all[1][:79], "79 bytes"},
		{append([]byte{9}, all[1][1:]...), "checksum"},
		{flipped, "payload checksum"},
		{all[1][:len(all[1])-1], "payload of 194 bytes, header says 195"},
		{append(bytes.Clone(all[1]), 0), "payload of 196 bytes"},
		{other[1], "segment of 700 bytes"},
		{altered(t, all[1], func(h *Header) { h.Index = 6 }), "index 6"},
		{altered(t, all[1], func(h *Header) { h.BackendID = 6 }), "backend 6"},
		{altered(t, all[1], func(h *Header) { h.BackendMetadata = 32 }), "backend metadata"},
		{altered(t, all[1], func(h *Header) { h.Size-- }), "payload of 194"},
		{altered(t, all[1], func(h *Header) { h.OrigDataSize-- }), "segment of 776"},
		{altered(t, all[1], func(h *Header) { h.Index = 0 }), "index 0"},
	} {
		for _, known := range []bool{true, false} {
			given := append([][]byte(nil), all...)
			given[1] = x.odd
			indexes, segment := []int{0, 1, 2, 3, 4}, 777
			if !known {
				indexes, segment = nil, -1
			}
			got, faults := c.CheckStripe(given, indexes, segment, make([]Header, 5))
			if len(faults) != 1 || faults[0].Fragment != 1 || !strings.Contains(faults[0].Err.Error(), x.words) || got != stripe {
				t.Errorf("%s: known %v: %+v, %v", x.words, known, got, faults)
			}
		}
	}
}

func TestAStripeWhoseSegmentIsADrawHasNoGoodFragment(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 4, 2)
	a, b := fragments(c, randomBytes(1, 777), Zlib), fragments(c, randomBytes(1, 778), Zlib)
	_, faults := c.CheckStripe([][]byte{a[0], a[1], b[2], b[3]}, nil, -1, make([]Header, 4))
	if len(faults) != 4 {
		t.Errorf("%v", faults)
	}
	_, faults = c.CheckStripe([][]byte{a[0], a[1], b[2], a[3]}, nil, -1, make([]Header, 4))
	if len(faults) != 1 || faults[0].Fragment != 2 {
		t.Errorf("%v", faults)
	}
}

// Liberasurecode looks neither at the version of the backend nor at the type of checksum
// when it rebuilds: fragments that differ in them are no worse for it.
func TestRebuiltHeaderGetsWhatMostSurvivorsHave(t *testing.T) {
	c := mustNew(t, "liberasurecode_rs_vand", 4, 2)
	all := fragments(c, randomBytes(1, 777), Zlib)
	own := swifts(c, 777)
	summed := own
	summed.ChecksumType = ChecksumCRC32
	crc := sealed(c, randomBytes(1, 777), summed, Zlib)
	version := func(i int, v uint32) []byte {
		return altered(t, all[i], func(h *Header) { h.BackendVersion = v })
	}
	libec := func(i int, v uint32) []byte {
		return altered(t, all[i], func(h *Header) { h.LibecVersion = v })
	}
	for name, x := range map[string]struct {
		given  [][]byte
		change func(*Stripe)
	}{
		"all alike":                  {all[:4], func(*Stripe) {}},
		"one of another version":     {[][]byte{version(0, 7), all[1], all[2], all[3]}, func(*Stripe) {}},
		"most of another version":    {[][]byte{version(0, 7), version(1, 7), all[2], version(3, 7)}, func(s *Stripe) { s.BackendVersion = 7 }},
		"a draw":                     {[][]byte{version(0, 7), version(1, 7), all[2], all[3]}, func(*Stripe) {}},
		"a draw of others":           {[][]byte{version(0, 7), version(1, 7), version(2, 8), version(3, 8)}, func(s *Stripe) { s.BackendVersion = 7 }},
		"one with a checksum":        {[][]byte{crc[0], all[1], all[2], all[3]}, func(*Stripe) {}},
		"most with a checksum":       {[][]byte{crc[0], crc[1], crc[2], all[3]}, func(s *Stripe) { s.ChecksumType = ChecksumCRC32 }},
		"checksums, a draw":          {[][]byte{crc[0], crc[1], all[2], all[3]}, func(*Stripe) {}},
		"the lowest library, rule 8": {[][]byte{libec(0, 0x010800), libec(1, 0x010601), all[2], libec(3, 0x010601)}, func(s *Stripe) { s.LibecVersion = 0x010601 }},
	} {
		want := own
		x.change(&want)
		got, faults := c.CheckStripe(x.given, []int{0, 1, 2, 3}, 777, make([]Header, 4))
		if got != want || faults != nil {
			t.Errorf("%s: %+v, %v; want %+v", name, got, faults, want)
		}
		for _, flavour := range []CRC{Zlib, Legacy} {
			rebuilt := append(make([]byte, HeaderSize), all[5][HeaderSize:]...)
			c.Seal(rebuilt, 5, got, flavour)
			h, err := ParseHeader(rebuilt)
			if err != nil || h.Index != 5 || h.ChecksumType != want.ChecksumType || h.BackendVersion != want.BackendVersion ||
				h.LibecVersion != want.LibecVersion || c.CheckHeader(&h) != nil || h.CheckPayload(rebuilt[HeaderSize:]) != nil {
				t.Errorf("%s: %+v, %v", name, h, err)
			}
			if want.ChecksumType == ChecksumCRC32 && h.Checksum != flavour.Sum(rebuilt[HeaderSize:]) {
				t.Errorf("%s: payload checksum %08x is not of flavour %v", name, h.Checksum, flavour)
			}
		}
	}
}

func FuzzCheckStripe(f *testing.F) {
	c := mustNew(f, "liberasurecode_rs_vand", 2, 2)
	all := fragments(c, []byte("some bytes"), Zlib)
	f.Add(bytes.Join(all, nil), 10, true)
	f.Add(bytes.Join(all, nil), -1, false)
	f.Fuzz(func(t *testing.T, b []byte, segment int, known bool) {
		var given [][]byte
		for n := c.FragmentSize(10); len(b) > 0; {
			n = min(n, len(b))
			given, b = append(given, b[:n]), b[n:]
		}
		indexes := first(min(len(given), 200)).Indexes()
		given = given[:len(indexes)]
		if !known {
			indexes = nil
		}
		headers := make([]Header, len(given))
		s, faults := c.CheckStripe(given, indexes, segment, headers)
		bad := map[int]bool{}
		for _, fault := range faults {
			if bad[fault.Fragment] {
				t.Fatalf("fragment %d is named twice: %v", fault.Fragment, faults)
			}
			bad[fault.Fragment] = true
		}
		for i, f := range given {
			if h := headers[i]; !bad[i] && (int(h.OrigDataSize) != s.Segment || len(f) != c.FragmentSize(s.Segment) || h.LibecVersion < s.LibecVersion) {
				t.Fatalf("fragment %d: %+v in %+v", i, h, s)
			}
		}
	})
}
