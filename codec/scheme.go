// Package codec holds the erasure codes of Swift's policies, byte-identical with
// liberasurecode: fragment headers, generator matrices, and plans that rebuild lost
// fragments from survivors. It reads no file and no socket, and its inner loops are those
// of package native.
package codec

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"imping/native"
)

// MaxFragments is the most data and parity fragments of a scheme: liberasurecode's limit
// from 1.8.0 on (32 before), and of a Set.
const MaxFragments = 256

// Scheme is what a policy says of its erasure code.
type Scheme struct {
	Type string // Swift: ec_type
	K    int    // Swift: ec_num_data_fragments
	M    int    // Swift: ec_num_parity_fragments
}

// String returns "liberasurecode_rs_vand 10+4", as Swift stores it in
// X-Object-Sysmeta-Ec-Scheme.
func (s Scheme) String() string { return fmt.Sprintf("%s %d+%d", s.Type, s.K, s.M) }

// backend is what liberasurecode knows of a type.
type backend struct {
	id      byte
	version uint32
	word    int // a payload is a multiple of so many bytes
	field   func() *field
	make    func(native.Kernel, [][]uint16) native.Program // of rows over field
	parity  func(k, m int) [][]uint16
	has     func(k, m int) bool // nil: all
	only    string              // what has takes
	mds     func(k, m int) bool // whether any K fragments make all others; nil: always
	sparse  bool                // rows are zeros and ones, and some fragments need few others
}

var backends = map[string]backend{
	"jerasure_rs_vand":   {id: 1, version: 0x020000, word: 2, field: field16, make: gf16, parity: jerasureVandParity},
	"jerasure_rs_cauchy": {id: 2, version: 0x020000, word: cauchyWord * cauchyPacket, field: field4, make: packets, parity: jerasureCauchyParity, has: upTo16, only: "up to 16 fragments"},
	"flat_xor_hd_3":      flatXORBackend(3, "3+3, 5..10+5 and 6..15+6"),
	"flat_xor_hd_4":      flatXORBackend(4, "5..10+5 and 6..20+6"),
	"isa_l_rs_vand":      {id: 4, version: 0x020d00, word: 1, field: field8, make: gf8, parity: isalVandParity, mds: isalVandIsMDS},
	"liberasurecode_rs_vand": {
		id: 6, version: 0x010000, word: 2, field: field16, make: gf16, parity: rsVandParity},
	"isa_l_rs_cauchy":   {id: 7, version: 0x020e01, word: 1, field: field8, make: gf8, parity: isalCauchyParity},
	"isa_l_rs_vand_inv": {id: 9, version: 0x010000, word: 1, field: field8, make: gf8, parity: isalVandInvParity, mds: upTo255},
}

func flatXORBackend(distance int, only string) backend {
	return backend{
		id: 3, version: 0x010000, word: 4, field: field8, make: exclusiveOrs, only: only,
		parity: func(k, m int) [][]uint16 { return flatXORParity(distance, k, m) },
		has:    func(k, m int) bool { return flatXORParity(distance, k, m) != nil },
		mds:    func(k, m int) bool { return false },
		sparse: true,
	}
}

// upTo16: jerasure_rs_cauchy has words of 4 bits, of which each fragment needs its own.
func upTo16(k, m int) bool { return k+m <= 16 }

// upTo255: with one more the last row of isa_l_rs_vand_inv's matrix is the first again,
// and the last parity fragment a copy of the first of data.
func upTo255(k, m int) bool { return k+m <= 255 }

// isalVandIsMDS says where no square part of isa_l_rs_vand's matrix is singular, as
// ISA-L's header has it, too; beyond, some sets of K survivors do not make the others.
func isalVandIsMDS(k, m int) bool {
	switch {
	case m <= 3:
		return true
	case m == 4:
		return k <= 21
	case m == 5:
		return k <= 5
	case m <= 21:
		return k <= 4
	}
	return k <= 3
}

// unsupported are the other types of PyECLib and liberasurecode, and why each is refused.
var unsupported = map[string]string{
	"flat_xor_hd":  "not supported: Swift's names are flat_xor_hd_3 and flat_xor_hd_4",
	"isa_l_rs_lrc": "not supported: Swift has no way to say its number of local parities",
	"shss":         "not supported: a proprietary library, whose code is not public",
	"libphazr":     "not supported: a proprietary library, whose code is not public",
	"null":         "not supported: it protects nothing",
}

// Types returns the supported values of Scheme.Type, sorted.
func Types() []string { return slices.Sorted(maps.Keys(backends)) }

// Code is an erasure code ready to use. It is safe for use by many goroutines.
type Code struct {
	scheme  Scheme
	backend backend
	kernel  native.Kernel
	rows    [][]uint16 // generator matrix, N rows of K
	mds     bool       // any K fragments make all others
	data    Set        // the first K
	all     Set        // all N

	mu     sync.RWMutex
	plans  map[planKey]*Plan
	checks map[Set]*check
}

// New returns the code of a scheme. It refuses types that it does not know or support,
// naming them, and numbers of fragments that liberasurecode refuses.
func New(s Scheme) (*Code, error) {
	kernel, err := native.Chosen()
	if err != nil {
		return nil, err
	}
	return NewOn(kernel, s)
}

// NewOn is New with a kernel other than the chosen one.
func NewOn(kernel native.Kernel, s Scheme) (*Code, error) {
	b, ok := backends[s.Type]
	if !ok {
		if why, known := unsupported[s.Type]; known {
			return nil, fmt.Errorf("ec_type %q: %s", s.Type, why)
		}
		return nil, fmt.Errorf("ec_type %q: unknown", s.Type)
	}
	if s.K < 1 || s.M < 1 {
		return nil, fmt.Errorf("%v: at least one data and one parity fragment are needed", s)
	}
	if s.K > MaxFragments || s.M > MaxFragments-s.K {
		return nil, fmt.Errorf("%v: more than %d fragments", s, MaxFragments)
	}
	if b.has != nil && !b.has(s.K, s.M) {
		return nil, fmt.Errorf("%v: there is no such code, only %s", s, b.only)
	}
	return &Code{
		scheme: s, backend: b, kernel: kernel,
		rows: generator(s.K, s.M, b.parity),
		mds:  b.mds == nil || b.mds(s.K, s.M),
		data: first(s.K), all: first(s.K + s.M),
		plans: map[planKey]*Plan{}, checks: map[Set]*check{},
	}, nil
}

// K returns the number of data fragments, indexes 0 to K-1.
func (c *Code) K() int { return c.scheme.K }

// M returns the number of parity fragments, indexes K to N-1.
func (c *Code) M() int { return c.scheme.M }

// N returns the number of fragments, K+M. Swift: ec_n_unique_fragments.
func (c *Code) N() int { return c.scheme.K + c.scheme.M }

// Scheme returns what the code was made of.
func (c *Code) Scheme() Scheme { return c.scheme }

// PayloadSize returns the bytes of one fragment's payload for a segment of that many
// bytes; all fragments of a segment have the same. A segment of no bytes has payloads of none.
func (c *Code) PayloadSize(segment int) int {
	if segment <= 0 {
		return 0
	}
	word := c.backend.word
	words := (segment-1)/(c.scheme.K*word) + 1
	return words * word
}

// FragmentSize returns HeaderSize + PayloadSize(segment). Of the policy's segment size
// it is Swift's policy.fragment_size.
func (c *Code) FragmentSize(segment int) int { return HeaderSize + c.PayloadSize(segment) }

// ArchiveSize returns the length in bytes of each fragment archive of an object of that
// many bytes, cut into segments of segment bytes, of which the last may be shorter. An
// object of no bytes has empty archives.
func (c *Code) ArchiveSize(object int64, segment int) int64 {
	if object <= 0 || segment <= 0 {
		return 0
	}
	size := object / int64(segment) * int64(c.FragmentSize(segment))
	if rest := object % int64(segment); rest > 0 {
		size += int64(c.FragmentSize(int(rest)))
	}
	return size
}

// Encode writes the payloads of all N fragments of a segment: out has N slices of
// PayloadSize(len(segment)) bytes, none of which overlaps segment. Data is padded with
// zeros at its end. It panics when out is of another shape.
func (c *Code) Encode(segment []byte, out [][]byte) {
	c.mustPayloads(out, c.PayloadSize(len(segment)), false)
	for _, b := range out[:c.K()] {
		n := copy(b, segment)
		clear(b[n:])
		segment = segment[n:]
	}
	plan, err := c.Plan(c.data, c.all.Minus(c.data))
	if err != nil {
		panic(fmt.Sprintf("codec: %v: parity from all data: %v", c.scheme, err)) // every row is a combination of the data rows
	}
	s := getSlots(len(plan.out), len(plan.in))
	for j, i := range plan.out {
		s.out[j] = out[i]
	}
	for j, i := range plan.in {
		s.in[j] = out[i]
	}
	plan.Run(s.out, s.in)
	s.put()
}

// Decode writes a segment of the given length into dst from the payloads of some of its
// fragments: payloads has N slices, nil for those that are lost. dst has room for the
// padded data, K times PayloadSize(segment), and overlaps no payload; its first segment
// bytes are returned. Fragments at hand that are not needed are not read. The error is
// *Insufficient. It panics when dst or payloads are of another shape.
func (c *Code) Decode(dst []byte, segment int, payloads [][]byte) ([]byte, error) {
	size := c.PayloadSize(segment)
	if len(dst) < c.K()*size {
		panic(fmt.Sprintf("codec: %v decodes a segment of %d bytes into %d, not %d", c.scheme, segment, len(dst), c.K()*size))
	}
	c.mustPayloads(payloads, size, true)
	var have, want Set
	for i, b := range payloads {
		switch {
		case b != nil:
			have = have.With(i)
		case i < c.K():
			want = want.With(i)
		}
	}
	if want != (Set{}) {
		plan, err := c.Plan(have, want)
		if err != nil {
			return nil, err
		}
		s := getSlots(len(plan.out), len(plan.in))
		for j, i := range plan.out {
			s.out[j] = dst[i*size:][:size]
		}
		for j, i := range plan.in {
			s.in[j] = payloads[i]
		}
		plan.Run(s.out, s.in)
		s.put()
	}
	for i, b := range payloads[:c.K()] {
		if b != nil {
			copy(dst[i*size:], b)
		}
	}
	return dst[:segment], nil
}

// mustPayloads panics unless there is a payload of the right size, or nil where one may be
// lost, for each fragment.
func (c *Code) mustPayloads(payloads [][]byte, size int, lost bool) {
	if len(payloads) != c.N() {
		panic(fmt.Sprintf("codec: %d payloads of %v", len(payloads), c.scheme))
	}
	for i, b := range payloads {
		if len(b) != size && !(lost && b == nil) {
			panic(fmt.Sprintf("codec: %v: payload %d has %d bytes, not %d", c.scheme, i, len(b), size))
		}
	}
}

// slots are the arguments of a Run, kept for the next one.
type slots struct{ out, in [][]byte }

var slotPool = sync.Pool{New: func() any { return new(slots) }}

func getSlots(out, in int) *slots {
	s := slotPool.Get().(*slots)
	s.grow(out, in)
	return s
}

func (s *slots) put() {
	s.clear()
	slotPool.Put(s)
}

func (s *slots) grow(out, in int) {
	s.out, s.in = slices.Grow(s.out[:0], out)[:out], slices.Grow(s.in[:0], in)[:in]
}

// clear forgets the payloads, so that the pool does not hold them.
func (s *slots) clear() {
	clear(s.out)
	clear(s.in)
}
