package codec

import (
	"errors"
	"fmt"

	"imping/native"
)

// Plan is how some fragments of any segment are made from some others: made once for a
// set of survivors and losses, shared, and safe for use by many goroutines.
type Plan struct {
	in, out []int
	program native.Program
	xor     bool
}

// Insufficient is the error of Plan when Want can not be made from Have.
type Insufficient struct {
	Have, Want Set
	// Helpful are the fragments, neither held nor wanted, of which any one more tells
	// something that Have does not. With isa_l_rs_vand and K survivors of a singular
	// set, any one of them is enough.
	Helpful Set
}

func (e *Insufficient) Error() string {
	return fmt.Sprintf("fragments %v can not be made from %v; helpful: %v", e.Want, e.Have, e.Helpful)
}

type planKey struct{ have, want Set }

// maxPlans bounds the cache of a code. A cluster of 10+4 with one loss an object and a
// few unreachable nodes uses some hundreds; what peers answer can not make it grow
// without end. When it is full it starts anew.
const maxPlans = 4096

// Plan returns how to make the fragments in want from those in have. A wanted fragment is
// never an input, though it be in have (rule 3). The inputs are the lowest indexes of
// have that suffice, K of them or fewer: data before parity, so that one lost data
// fragment is an exclusive or where the first parity is held. Where the lowest K are
// singular, as liberasurecode's choice can be with isa_l_rs_vand, others take their place.
// The error is *Insufficient, or another for an index that the scheme does not have and
// for an empty want.
func (c *Code) Plan(have, want Set) (*Plan, error) {
	key := planKey{have, want}
	c.mu.RLock()
	p := c.plans[key]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	if want == (Set{}) {
		return nil, errors.New("no fragment is wanted")
	}
	for _, s := range []Set{have, want} {
		for _, i := range s.Indexes() {
			if i >= c.N() {
				return nil, fmt.Errorf("fragment index %d: %v has only 0..%d", i, c.scheme, c.N()-1)
			}
		}
	}
	p, err := c.solve(have, want)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.plans[key]; q != nil {
		return q, nil
	}
	if len(c.plans) >= maxPlans {
		clear(c.plans)
	}
	c.plans[key] = p
	return p, nil
}

func (c *Code) solve(have, want Set) (*Plan, error) {
	s := span{f: c.backend.field(), k: c.K()}
	have = have.Minus(want)
	for _, i := range have.Indexes() {
		s.add(i, c.rows[i])
	}
	p := &Plan{out: want.Indexes()}
	rows := make([][]uint16, len(p.out)) // over s.members
	used := make([]bool, len(s.members))
	for i, index := range p.out {
		row, ok := s.combine(c.rows[index])
		if !ok {
			e := &Insufficient{Have: have, Want: want}
			for h := range c.N() {
				if !have.Has(h) && !want.Has(h) {
					if _, spanned := s.combine(c.rows[h]); !spanned {
						e.Helpful = e.Helpful.With(h)
					}
				}
			}
			return nil, e
		}
		rows[i] = row
		for j, v := range row {
			used[j] = used[j] || v != 0
		}
	}
	matrix := make([][]uint16, len(rows))
	for j, index := range s.members {
		if !used[j] {
			continue
		}
		p.in = append(p.in, index)
		for i := range rows {
			matrix[i] = append(matrix[i], rows[i][j])
		}
	}
	p.xor = len(matrix) == 1 && allOnes(matrix[0])
	p.program = c.backend.bind(c.kernel, matrix)
	return p, nil
}

// In returns the indexes of the inputs, ascending: the order of Run's in. The slice is
// the caller's to read only.
func (p *Plan) In() []int { return p.in }

// Out returns the indexes of the outputs, ascending: the order of Run's out. The slice is
// the caller's to read only.
func (p *Plan) Out() []int { return p.out }

// XOR says whether the plan is a plain exclusive or of its inputs.
func (p *Plan) XOR() bool { return p.xor }

// Run writes the payloads of the fragments Out from the payloads of the fragments In.
// All slices have one length; no output overlaps anything else. It allocates nothing. It
// panics when the number or the length of the slices is wrong.
func (p *Plan) Run(out, in [][]byte) { p.program.Run(out, in) }

// span is the space of all combinations of some rows of a generator matrix, held by an
// independent set of them, each added in turn.
type span struct {
	f       *field
	k       int
	members []int // fragment indexes of the independent rows
	reduced []reducedRow
}

// reducedRow is a combination of the members' rows, whose element at pivot is 1 and whose
// elements at the pivots of the earlier ones are zero.
type reducedRow struct {
	pivot int
	row   []uint16
	of    []uint16 // coefficients over members, as many as there were then
}

// add takes the fragment in unless the others already span it.
func (s *span) add(index int, row []uint16) {
	if len(s.members) == s.k {
		return
	}
	row, of := s.reduce(row)
	for pivot, v := range row {
		if v == 0 {
			continue
		}
		inv := s.f.inv(v)
		of = append(of[:len(s.members)], 1)
		for _, x := range [][]uint16{row, of} {
			for i := range x {
				x[i] = s.f.mul(x[i], inv)
			}
		}
		s.members = append(s.members, index)
		s.reduced = append(s.reduced, reducedRow{pivot, row, of})
		return
	}
}

// combine returns the row as coefficients over members, if it is in the span.
func (s *span) combine(row []uint16) ([]uint16, bool) {
	row, of := s.reduce(row)
	for _, v := range row {
		if v != 0 {
			return nil, false
		}
	}
	return of, true
}

// reduce returns what is left of row without its part in the span, and that part as
// coefficients over members (in these fields plus is minus).
func (s *span) reduce(row []uint16) (rest, of []uint16) {
	rest = append([]uint16(nil), row...)
	of = make([]uint16, len(s.members), len(s.members)+1)
	for _, r := range s.reduced {
		if c := rest[r.pivot]; c != 0 {
			s.f.addScaled(rest, r.row, c)
			s.f.addScaled(of, r.of, c)
		}
	}
	return rest, of
}
