package codec

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

// span returns that of the rows of some fragments, members of low index first.
func (c *Code) span(of Set) *span {
	s := &span{f: c.backend.field(), k: c.K()}
	for _, i := range of.Indexes() {
		s.add(i, c.rows[i])
	}
	return s
}

// add takes the fragment in unless the others already span it, and says whether it did.
func (s *span) add(index int, row []uint16) bool {
	if len(s.members) == s.k {
		return false
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
		return true
	}
	return false
}

// combine returns the row as coefficients over members, if it is in the span.
func (s *span) combine(row []uint16) ([]uint16, bool) {
	row, of := s.reduce(row)
	if !isZero(row) {
		return nil, false
	}
	return of, true
}

// reduce returns what is left of row without its part in the span, and that part as
// coefficients over members (in these fields plus is minus). What is left is zero at all
// pivots, and so the same for all rows that differ by something in the span.
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
