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
	// Helpful are the fragments, neither held nor wanted, of which any one more is enough;
	// if no single one is, those that tell something that Have does not. It is empty when
	// all others together would not be enough.
	Helpful Set
}

func (e *Insufficient) Error() string {
	if e.Helpful == (Set{}) {
		return fmt.Sprintf("fragments %v can not be made from %v, whatever is added", e.Want, e.Have)
	}
	return fmt.Sprintf("fragments %v can not be made from %v; helpful: %v", e.Want, e.Have, e.Helpful)
}

type planKey struct{ have, want Set }

// maxPlans bounds the cache of a code. A cluster of 10+4 with one loss an object and a
// few unreachable nodes uses some hundreds; what peers answer can not make it grow
// without end. When it is full it starts anew.
const maxPlans = 4096

// Plan returns how to make the fragments in want from those in have. A wanted fragment is
// never an input, though it be in have (rule 3). The inputs are K or fewer: with a flat XOR
// code the fewest that suffice; else the lowest indexes of have that do, data before
// parity, so that one lost data fragment is an exclusive or where the first parity is one
// and is held. Where the lowest K are singular, as liberasurecode's choice can be with
// isa_l_rs_vand, others take their place. The error is *Insufficient, or another for an
// index that the scheme does not have and for an empty want.
func (c *Code) Plan(have, want Set) (*Plan, error) {
	key := planKey{have, want}
	c.mu.RLock()
	p := c.plans[key]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	if err := c.known(have, want); err != nil {
		return nil, err
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

// known says what is wrong with a question about have and want.
func (c *Code) known(have, want Set) error {
	if want == (Set{}) {
		return errors.New("no fragment is wanted")
	}
	if strange := have.Or(want).Minus(c.all); strange != (Set{}) {
		return fmt.Errorf("fragment index %d: %v has only 0..%d", strange.Indexes()[0], c.scheme, c.N()-1)
	}
	return nil
}

func (c *Code) solve(have, want Set) (*Plan, error) {
	have = have.Minus(want)
	if c.backend.sparse {
		have = c.fewest(have, want, func(s Set) int { return 0 })
	}
	s := c.span(have)
	p := &Plan{out: want.Indexes()}
	rows := make([][]uint16, len(p.out)) // over s.members
	used := make([]bool, len(s.members))
	for i, index := range p.out {
		row, ok := s.combine(c.rows[index])
		if !ok {
			return nil, c.insufficient(have, want)
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
	if p.xor = len(matrix) == 1 && allOnes(matrix[0]); p.xor {
		p.program = c.kernel.XOR(len(p.in))
	} else {
		p.program = c.backend.make(c.kernel, matrix)
	}
	return p, nil
}

func (c *Code) insufficient(have, want Set) *Insufficient {
	e := &Insufficient{Have: have, Want: want}
	others := c.all.Minus(have).Minus(want)
	all := c.span(have.Or(others))
	for _, i := range want.Indexes() {
		if _, ok := all.combine(c.rows[i]); !ok {
			return e
		}
	}
	s := c.span(have)
	var alone Set
	for _, h := range others.Indexes() {
		news, _ := s.reduce(c.rows[h])
		if isZero(news) {
			continue
		}
		e.Helpful = e.Helpful.With(h)
		enough := true
		for _, i := range want.Indexes() {
			lack, _ := s.reduce(c.rows[i])
			enough = enough && s.f.isMultiple(lack, news)
		}
		if enough {
			alone = alone.With(h)
		}
	}
	if alone != (Set{}) {
		e.Helpful = alone
	}
	return e
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
