package codec

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
)

// HeaderSize is the length in bytes of the header in front of each fragment's payload.
const HeaderSize = 80

// Where things are in a header. It is little-endian as Swift's machines write it; the
// first metaSize bytes are what its checksum covers.
const (
	offIndex       = 0
	offSize        = 4
	offBackendMeta = 8
	offOrigSize    = 12
	offChksumType  = 20
	offChksum      = 21
	offMismatch    = 53
	offBackendID   = 54
	offBackendVer  = 55
	metaSize       = 59
	offMagic       = 59
	offLibec       = 63
	offMetaCRC     = 67

	magic = 0x0b0c5ecc
)

// Values of Header.ChecksumType.
const (
	ChecksumNone  = 1 // what Swift asks for
	ChecksumCRC32 = 2
	ChecksumMD5   = 3 // known to liberasurecode, which writes no sum for it
)

// firstCheckedVersion is the version of liberasurecode from which headers have a
// checksum (1.2.0); in older ones those bytes are padding.
const firstCheckedVersion = 0x010200

// CRC is a flavour of checksum. Readers from liberasurecode 1.6.0 on take both; which one
// is written depends on the writer's version and environment.
type CRC byte

const (
	Zlib   CRC = iota // CRC-32 of zlib
	Legacy            // liberasurecode's own, which shifts a signed word
)

func (c CRC) String() string {
	if c == Legacy {
		return "legacy"
	}
	return "zlib"
}

// Sum returns the checksum of b.
func (c CRC) Sum(b []byte) uint32 {
	if c == Zlib {
		return crc32.ChecksumIEEE(b)
	}
	crc := ^uint32(0)
	for _, v := range b {
		crc = crc32.IEEETable[byte(crc)^v] ^ uint32(int32(crc)>>8)
	}
	return ^crc
}

// Header is a fragment's header. Its padding and the seven words behind the checksum,
// zero in all that liberasurecode writes, are neither checked nor kept.
type Header struct {
	Index           int    // 0..255, data first
	Size            uint32 // bytes of payload
	BackendMetadata uint32 // bytes behind the payload; 0 for all supported types
	OrigDataSize    uint32 // bytes of the segment, without padding
	ChecksumType    byte   // ChecksumNone for Swift's
	Checksum        uint32 // of the payload, with ChecksumCRC32
	Mismatch        byte   // 0 on disk
	BackendID       byte
	BackendVersion  uint32
	LibecVersion    uint32 // of the writing library: 1.6.2 is 0x010602. Rule 8 says which one a rebuilt header gets
	CRC             CRC    // flavour of the header's checksum, as ParseHeader found it
}

// HeaderError says what is wrong with a fragment header.
type HeaderError struct{ Reason string }

func (e *HeaderError) Error() string { return "fragment header: " + e.Reason }

func headerErrorf(format string, args ...any) error {
	return &HeaderError{fmt.Sprintf(format, args...)}
}

// ParseHeader reads the header at the start of b and checks its magic, its checksum in
// both flavours and its sizes; whether it fits a scheme is Code.CheckHeader's to say.
// The error is a *HeaderError.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, headerErrorf("%d bytes, not %d", len(b), HeaderSize)
	}
	le := binary.LittleEndian
	switch m := le.Uint32(b[offMagic:]); {
	case m == bits.ReverseBytes32(magic):
		return Header{}, headerErrorf("written by a big-endian machine, which is not supported")
	case m != magic:
		return Header{}, headerErrorf("magic %08x, not %08x", m, uint32(magic))
	}
	h := Header{
		Size:            le.Uint32(b[offSize:]),
		BackendMetadata: le.Uint32(b[offBackendMeta:]),
		ChecksumType:    b[offChksumType],
		Checksum:        le.Uint32(b[offChksum:]),
		Mismatch:        b[offMismatch],
		BackendID:       b[offBackendID],
		BackendVersion:  le.Uint32(b[offBackendVer:]),
		LibecVersion:    le.Uint32(b[offLibec:]),
	}
	if h.LibecVersion == 0 {
		return Header{}, headerErrorf("liberasurecode version 0")
	}
	if h.LibecVersion >= firstCheckedVersion {
		switch stored := le.Uint32(b[offMetaCRC:]); stored {
		case Zlib.Sum(b[:metaSize]):
		case Legacy.Sum(b[:metaSize]):
			h.CRC = Legacy
		default:
			return Header{}, headerErrorf("checksum %08x, not %08x (zlib) nor %08x (legacy)",
				stored, Zlib.Sum(b[:metaSize]), Legacy.Sum(b[:metaSize]))
		}
	}
	index, orig := le.Uint32(b[offIndex:]), le.Uint64(b[offOrigSize:])
	switch {
	case index >= MaxFragments:
		return Header{}, headerErrorf("fragment index %d", index)
	case h.Size > math.MaxInt32:
		return Header{}, headerErrorf("payload of %d bytes", h.Size)
	case h.BackendMetadata > math.MaxInt32:
		return Header{}, headerErrorf("backend metadata of %d bytes", h.BackendMetadata)
	case orig > math.MaxInt32: // liberasurecode reads it back into an int
		return Header{}, headerErrorf("segment of %d bytes", orig)
	case h.ChecksumType < ChecksumNone || h.ChecksumType > ChecksumMD5:
		return Header{}, headerErrorf("checksum type %d", h.ChecksumType)
	}
	h.Index, h.OrigDataSize = int(index), uint32(orig)
	return h, nil
}

// IsSound reports whether liberasurecode takes the header at the start of b for one: its magic is right, in the byte order of any machine,
// and so is its checksum where the writer knew of one. What ParseHeader refuses beyond that is of no use to us, but nothing is wrong with it.
func IsSound(b []byte) bool {
	if len(b) < HeaderSize {
		return false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(b[offMagic:]) == bits.ReverseBytes32(magic) {
		order = binary.BigEndian
	}
	version, sum := order.Uint32(b[offLibec:]), order.Uint32(b[offMetaCRC:])
	if order.Uint32(b[offMagic:]) != magic || version == 0 {
		return false
	}
	return version < firstCheckedVersion || sum == Zlib.Sum(b[:metaSize]) || sum == Legacy.Sum(b[:metaSize])
}

// indexByte has, for the exclusive or of the low bytes of two indexes, that of the zlib checksums of headers which differ in nothing
// else: a checksum is linear in what is summed, but for a constant.
var indexByte = func() (table [256]uint32) {
	var b [metaSize]byte
	zeros := Zlib.Sum(b[:])
	for i := range table {
		b[offIndex] = byte(i)
		table[i] = Zlib.Sum(b[:]) ^ zeros
	}
	return table
}()

// isSibling says whether a header differs from another one, which ParseHeader took and read as h, in the low byte of its index and in its
// checksum alone, and is right, as those of one segment are. It costs a fourth of ParseHeader; where it is false, that one has to look.
func (h *Header) isSibling(other, b []byte) bool {
	le := binary.LittleEndian
	return h.CRC == Zlib && h.LibecVersion >= firstCheckedVersion && len(b) >= HeaderSize &&
		string(b[offIndex+1:offMetaCRC]) == string(other[offIndex+1:offMetaCRC]) &&
		le.Uint32(b[offMetaCRC:])^le.Uint32(other[offMetaCRC:]) == indexByte[b[offIndex]^other[offIndex]]
}

// Put writes the header into the first HeaderSize bytes of dst, with its own checksum in
// the given flavour; headers of writers before 1.2.0 have none.
func (h *Header) Put(dst []byte, crc CRC) {
	dst = dst[:HeaderSize]
	clear(dst)
	le := binary.LittleEndian
	le.PutUint32(dst[offIndex:], uint32(h.Index))
	le.PutUint32(dst[offSize:], h.Size)
	le.PutUint32(dst[offBackendMeta:], h.BackendMetadata)
	le.PutUint64(dst[offOrigSize:], uint64(h.OrigDataSize))
	dst[offChksumType] = h.ChecksumType
	le.PutUint32(dst[offChksum:], h.Checksum)
	dst[offMismatch] = h.Mismatch
	dst[offBackendID] = h.BackendID
	le.PutUint32(dst[offBackendVer:], h.BackendVersion)
	le.PutUint32(dst[offMagic:], magic)
	le.PutUint32(dst[offLibec:], h.LibecVersion)
	if h.LibecVersion >= firstCheckedVersion {
		le.PutUint32(dst[offMetaCRC:], crc.Sum(dst[:metaSize]))
	}
}

// CheckPayload compares the payload with the header's size and, where it has one, with
// its checksum, in both flavours. Swift's fragments have none.
func (h *Header) CheckPayload(payload []byte) error {
	if uint64(len(payload)) != uint64(h.Size) {
		return headerErrorf("fragment %d: payload of %d bytes, header says %d", h.Index, len(payload), h.Size)
	}
	if h.ChecksumType == ChecksumCRC32 && h.Checksum != Zlib.Sum(payload) && h.Checksum != Legacy.Sum(payload) {
		return headerErrorf("fragment %d: payload checksum %08x, header says %08x", h.Index, Zlib.Sum(payload), h.Checksum)
	}
	return nil
}

// Header returns the header that liberasurecode would write for Swift: without a payload
// checksum, for the fragment index of a segment of that many bytes. LibecVersion is left
// to the caller.
func (c *Code) Header(index, segment int) Header {
	return Header{
		Index:          index,
		Size:           uint32(c.PayloadSize(segment)),
		OrigDataSize:   uint32(segment),
		ChecksumType:   ChecksumNone,
		BackendID:      c.backend.id,
		BackendVersion: c.backend.version,
	}
}

// CheckHeader says whether a header fits the scheme: its backend, index and sizes. The
// version of the backend does not count: liberasurecode does not look at it when it
// rebuilds. The error is a *HeaderError.
func (c *Code) CheckHeader(h *Header) error {
	switch want := c.PayloadSize(int(h.OrigDataSize)); {
	case h.BackendID != c.backend.id:
		return headerErrorf("backend %d, but %v is %d", h.BackendID, c.scheme, c.backend.id)
	case h.Index < 0 || h.Index >= c.N():
		return headerErrorf("fragment index %d in %v", h.Index, c.scheme)
	case h.BackendMetadata != 0:
		return headerErrorf("backend metadata of %d bytes in %v", h.BackendMetadata, c.scheme)
	case uint64(h.Size) != uint64(want):
		return headerErrorf("payload of %d bytes for a segment of %d, but %v has %d", h.Size, h.OrigDataSize, c.scheme, want)
	}
	return nil
}
