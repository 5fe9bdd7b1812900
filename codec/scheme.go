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
	word    int  // a payload is a multiple of so many bytes
	wide    bool // GF(2^16), not GF(2^8)
	field   func() *field
	parity  func(k, m int) [][]uint16
}

var backends = map[string]backend{
	"isa_l_rs_vand":          {id: 4, version: 0x020d00, word: 1, field: field8, parity: isalVandParity},
	"liberasurecode_rs_vand": {id: 6, version: 0x010000, word: 2, wide: true, field: field16, parity: rsVandParity},
}

// unsupported are the other types of PyECLib and liberasurecode, and why each is refused.
var unsupported = map[string]string{
	"jerasure_rs_vand":   "not supported yet",
	"jerasure_rs_cauchy": "not supported yet",
	"flat_xor_hd":        "not supported yet",
	"flat_xor_hd_3":      "not supported yet",
	"flat_xor_hd_4":      "not supported yet",
	"isa_l_rs_cauchy":    "not supported yet",
	"isa_l_rs_vand_inv":  "not supported yet",
	"isa_l_rs_lrc":       "not supported yet: Swift has no way to say its local parities",
	"shss":               "not supported: a proprietary library, whose code is not public",
	"libphazr":           "not supported: a proprietary library, whose code is not public",
	"null":               "not supported: it protects nothing",
}

// Code is an erasure code ready to use. It is safe for use by many goroutines.
type Code struct {
	scheme  Scheme
	backend backend
	rows    [][]uint16 // generator matrix, N rows of K
	kernel  native.Kernel

	mu    sync.RWMutex
	plans map[planKey]*Plan
}

// Types returns the supported ec_types, sorted.
func Types() []string { return slices.Sorted(maps.Keys(backends)) }

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
	return &Code{scheme: s, backend: b, rows: generator(s.K, s.M, b.parity), kernel: kernel, plans: map[planKey]*Plan{}}, nil
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
	size := c.PayloadSize(len(segment))
	if len(out) != c.N() {
		panic(fmt.Sprintf("codec: %v encodes into %d slices, not %d", c.scheme, c.N(), len(out)))
	}
	for i, b := range out {
		if len(b) != size {
			panic(fmt.Sprintf("codec: payload %d of a segment of %d bytes has %d bytes, not %d", i, len(segment), size, len(b)))
		}
	}
	var have, want Set
	for i := range c.N() {
		if i < c.K() {
			n := copy(out[i], segment)
			clear(out[i][n:])
			segment = segment[n:]
			have = have.With(i)
		} else {
			want = want.With(i)
		}
	}
	plan, err := c.Plan(have, want)
	if err != nil {
		panic(fmt.Sprintf("codec: %v: parity from all data: %v", c.scheme, err)) // every row is a combination of the data rows
	}
	in := make([][]byte, len(plan.in))
	for i, index := range plan.in {
		in[i] = out[index]
	}
	plan.Run(out[c.K():], in)
}

// bind makes a program of rows of coefficients: an exclusive or where they are all ones.
func (b backend) bind(kernel native.Kernel, rows [][]uint16) native.Program {
	if len(rows) == 1 && allOnes(rows[0]) {
		return kernel.XOR(len(rows[0]))
	}
	if b.wide {
		return kernel.GF16(rows)
	}
	narrow := make([][]byte, len(rows))
	for i, r := range rows {
		narrow[i] = make([]byte, len(r))
		for j, c := range r {
			narrow[i][j] = byte(c)
		}
	}
	return kernel.GF8(narrow)
}

func allOnes(row []uint16) bool {
	for _, c := range row {
		if c != 1 {
			return false
		}
	}
	return true
}
