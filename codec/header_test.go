package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func sampleHeader(t testing.TB) []byte {
	c := mustNew(t, "isa_l_rs_vand", 4, 2)
	h := c.Header(5, 777)
	h.LibecVersion = libecInstalled
	b := make([]byte, HeaderSize)
	h.Put(b, Zlib)
	return b
}

func TestHeaderIsReadBackAsWritten(t *testing.T) {
	want := Header{Index: 255, Size: 104858, BackendMetadata: 7, OrigDataSize: 1 << 20, ChecksumType: ChecksumCRC32, Checksum: 0xfedcba98,
		Mismatch: 1, BackendID: 6, BackendVersion: 0x010203, LibecVersion: 0x010800}
	for _, crc := range []CRC{Zlib, Legacy} {
		b := bytes.Repeat([]byte{0xff}, HeaderSize+1)
		want.Put(b, crc)
		if b[HeaderSize] != 0xff {
			t.Error("a byte behind the header was written")
		}
		want.CRC = crc
		if got, err := ParseHeader(b); err != nil || got != want {
			t.Errorf("%v: %+v, %v", crc, got, err)
		}
	}
}

func TestAnyFlippedBitOfTheCoveredBytesIsFound(t *testing.T) {
	for bit := range 8 * 71 {
		b := sampleHeader(t)
		b[bit/8] ^= 1 << (bit % 8)
		_, err := ParseHeader(b)
		if at := bit / 8; at >= offLibec && at < offMetaCRC {
			continue // the library's version is not covered
		}
		var he *HeaderError
		if !errors.As(err, &he) {
			t.Errorf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
	}
}

func TestHeaderIsRefusedWithAReason(t *testing.T) {
	sealed := func(change func(b []byte)) []byte {
		b := sampleHeader(t)
		change(b)
		binary.LittleEndian.PutUint32(b[offMetaCRC:], Zlib.Sum(b[:metaSize]))
		return b
	}
	put := func(off int, v uint32) []byte {
		return sealed(func(b []byte) { binary.LittleEndian.PutUint32(b[off:], v) })
	}
	for _, x := range []struct {
		b    []byte
		word string
	}{
		{nil, "0 bytes"},
		{sampleHeader(t)[:79], "79 bytes"},
		{put(offMagic, 0xcc5e0c0b), "big-endian"},
		{put(offMagic, 0), "magic 00000000"},
		{put(offLibec, 0), "version 0"},
		{put(offIndex, 256), "index 256"},
		{put(offIndex, 0xffffffff), "index 4294967295"},
		{put(offSize, 1<<31), "payload of 2147483648"},
		{put(offBackendMeta, 1<<31), "metadata of 2147483648"},
		{put(offOrigSize, 1<<31), "segment of 2147483648"},
		{put(offOrigSize+4, 1), "segment of 42949"},
		{sealed(func(b []byte) { b[offChksumType] = 0 }), "checksum type 0"},
		{sealed(func(b []byte) { b[offChksumType] = 4 }), "checksum type 4"},
	} {
		_, err := ParseHeader(x.b)
		var he *HeaderError
		if !errors.As(err, &he) || !strings.Contains(err.Error(), x.word) {
			t.Errorf("%v, without %q", err, x.word)
		}
	}
}

func TestHeaderOfAWriterBeforeChecksumsIsTaken(t *testing.T) {
	c := mustNew(t, "liberasurecode_rs_vand", 4, 2)
	h := c.Header(1, 100)
	h.LibecVersion = 0x010101
	b := make([]byte, HeaderSize)
	h.Put(b, Zlib)
	if binary.LittleEndian.Uint32(b[offMetaCRC:]) != 0 {
		t.Error("a checksum was written into padding")
	}
	if got, err := ParseHeader(b); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestHeaderOfAnotherSchemeDoesNotFit(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 4, 2)
	for word, change := range map[string]func(*Header){
		"backend 6":              func(h *Header) { h.BackendID = 6 },
		"index 6":                func(h *Header) { h.Index = 6 },
		"index -1":               func(h *Header) { h.Index = -1 },
		"backend metadata of 32": func(h *Header) { h.BackendMetadata = 32 },
		"payload of 194":         func(h *Header) { h.Size = 194 },
		"segment of 781":         func(h *Header) { h.OrigDataSize = 781 },
	} {
		h := c.Header(5, 777)
		if err := c.CheckHeader(&h); err != nil {
			t.Fatal(err)
		}
		h.BackendVersion++ // does not count
		if err := c.CheckHeader(&h); err != nil {
			t.Fatal(err)
		}
		change(&h)
		if err := c.CheckHeader(&h); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v, without %q", err, word)
		}
	}
}

func TestWrongPayloadIsFoundWhereItHasAChecksum(t *testing.T) {
	payload := []byte("some payload\xff")
	for _, crc := range []CRC{Zlib, Legacy} {
		h := Header{Size: uint32(len(payload)), ChecksumType: ChecksumCRC32, Checksum: crc.Sum(payload)}
		if err := h.CheckPayload(payload); err != nil {
			t.Errorf("%v: %v", crc, err)
		}
		if h.CheckPayload(payload[1:]) == nil || h.CheckPayload(append([]byte("S"), payload[1:]...)) == nil {
			t.Errorf("%v: a wrong payload was taken", crc)
		}
	}
}

func TestSiblingsAreTakenOnlyWhereParseHeaderTakesThem(t *testing.T) {
	model := sampleHeader(t)
	h, err := ParseHeader(model)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, HeaderSize)
	for index := range MaxFragments {
		want := h
		want.Index = index
		want.Put(b, Zlib)
		if !h.isSibling(model, b) {
			t.Fatalf("index %d: not taken", index)
		}
		for bit := range 8 * HeaderSize {
			b[bit/8] ^= 1 << (bit % 8)
			if h.isSibling(model, b) {
				want.Index = int(b[offIndex])
				if got, err := ParseHeader(b); err != nil || got != want {
					t.Fatalf("index %d, bit %d flipped: taken as %+v, but it is %+v, %v", index, bit, want, got, err)
				}
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		if h.isSibling(model, b[:HeaderSize-1]) {
			t.Fatalf("index %d: a header that is cut off was taken", index)
		}
	}
	for _, other := range []struct {
		crc   CRC
		libec uint32
	}{{Legacy, h.LibecVersion}, {Zlib, firstCheckedVersion - 1}} {
		h.LibecVersion = other.libec
		h.Put(model, other.crc)
		if h, err = ParseHeader(model); err != nil {
			t.Fatal(err)
		}
		if h.isSibling(model, model) {
			t.Errorf("%v, version %x: taken", other.crc, other.libec)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(sampleHeader(f))
	legacy := sampleHeader(f)
	h, err := ParseHeader(legacy)
	if err != nil {
		f.Fatal(err)
	}
	h.Put(legacy, Legacy)
	f.Add(legacy)
	old := sampleHeader(f)
	h.LibecVersion = 0x010101
	h.Put(old, Zlib)
	f.Add(old)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			var he *HeaderError
			if !errors.As(err, &he) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		again := make([]byte, HeaderSize)
		h.Put(again, h.CRC)
		g, err := ParseHeader(again)
		if err == nil && h.CRC != g.CRC { // where both flavours agree, zlib is named
			g.CRC = h.CRC
		}
		if err != nil || g != h {
			t.Fatalf("%+v was read back as %+v, %v", h, g, err)
		}
		h.Index ^= 5
		h.Put(again, Zlib)
		if g, err := ParseHeader(again); err == nil {
			if g.isSibling(again, b) {
				g.Index = int(b[offIndex])
				if p, err := ParseHeader(b); err != nil || g != p {
					t.Fatalf("as a sibling it is %+v, else %+v, %v", g, p, err)
				}
			}
		}
	})
}

// What liberasurecode's get_metadata takes is sound, though ParseHeader may have no use for it: seen with 1.6.2, for both byte orders.
func TestSoundHeadersAreThoseOfLiberasurecode(t *testing.T) {
	for _, c := range []struct {
		order   binary.ByteOrder
		version uint32
		crc     CRC
		damage  uint32 // to the checksum
		change  func(order binary.ByteOrder, b []byte)
		want    bool
	}{
		{order: binary.LittleEndian, version: 0x010602, want: true},
		{order: binary.LittleEndian, version: 0x010602, crc: Legacy, want: true},
		{order: binary.LittleEndian, version: 0x010602, damage: 1},
		{order: binary.LittleEndian, version: 0x010100, damage: 1, want: true},
		{order: binary.LittleEndian, version: 0},
		{order: binary.BigEndian, version: 0x010602, want: true},
		{order: binary.BigEndian, version: 0x010602, crc: Legacy, want: true},
		{order: binary.BigEndian, version: 0x010602, damage: 1},
		{order: binary.BigEndian, version: 0x010100, damage: 1, want: true},
		{order: binary.LittleEndian, version: 0x010602, change: func(order binary.ByteOrder, b []byte) { order.PutUint32(b[offIndex:], 300) }, want: true},
		{order: binary.LittleEndian, version: 0x010602, change: func(_ binary.ByteOrder, b []byte) { b[offChksumType] = 9 }, want: true},
		{order: binary.LittleEndian, version: 0x010602, change: func(order binary.ByteOrder, b []byte) { order.PutUint32(b[offMagic:], 1) }},
	} {
		b := make([]byte, HeaderSize)
		h := mustNew(t, "isa_l_rs_vand", 4, 2).Header(5, 777)
		c.order.PutUint32(b[offIndex:], uint32(h.Index))
		c.order.PutUint32(b[offSize:], h.Size)
		c.order.PutUint64(b[offOrigSize:], uint64(h.OrigDataSize))
		b[offChksumType], b[offBackendID] = h.ChecksumType, h.BackendID
		c.order.PutUint32(b[offBackendVer:], h.BackendVersion)
		c.order.PutUint32(b[offMagic:], magic)
		c.order.PutUint32(b[offLibec:], c.version)
		if c.change != nil {
			c.change(c.order, b)
		}
		c.order.PutUint32(b[offMetaCRC:], c.crc.Sum(b[:metaSize])^c.damage)
		if got := IsSound(b); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
		if IsSound(b[:HeaderSize-1]) {
			t.Error("a short header is sound")
		}
	}
}
