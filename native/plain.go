package native

// plain is Go without assembly: it runs everywhere, and the other kernels are tested
// beside it.
//
// A product by a constant is the sum of the constant's bits times powers of x, so a
// combination of inputs is, by Horner, for each bit from the highest: double the sum,
// then add the inputs whose coefficient has that bit. Doubling takes a few operations on
// a word of eight bytes, for all its elements at once and for all inputs together: no
// tables, and three times as fast as looking bytes up.
type plain struct{}

func (plain) Name() string { return "plain" }

func (plain) XOR(inputs int) Program { return plain{}.GF8([][]byte{ones(inputs)}) }

func (plain) GF2(inputs, w, size int, sums [][]int) Program {
	p := packetsOf(inputs, w, size, sums)
	return (*plainPackets)(&p)
}

func (plain) GF8(rows [][]byte) Program { return horner8(rows) }

func (plain) GF16(rows [][]uint16) Program { return horner16(rows) }

func horner8(rows [][]byte) *horner {
	return &horner{shape: shapeOf(rows), rows: planes(rows, 8)}
}

func horner16(rows [][]uint16) *horner {
	return &horner{shape: shapeOf(rows), rows: planes(rows, 16), wide: true}
}

// horner is a program as additions and doublings.
type horner struct {
	shape
	wide bool // GF(2^16), not GF(2^8)
	// rows has, per output and per bit from the highest that any of its coefficients
	// has, the inputs whose coefficient has it.
	rows [][][]int
}

func planes[E byte | uint16](rows [][]E, bits int) [][][]int {
	out := make([][][]int, len(rows))
	for i, row := range rows {
		for b := bits - 1; b >= 0; b-- {
			var with []int
			for j, c := range row {
				if c>>b&1 == 1 {
					with = append(with, j)
				}
			}
			if with != nil || out[i] != nil {
				out[i] = append(out[i], with)
			}
		}
	}
	return out
}

func (p *horner) Run(out, in [][]byte) { p.part(out, in, 0, p.check(out, in)) }

// part makes the bytes from from to end of the outputs. Of a wide field, from is even.
func (p *horner) part(out, in [][]byte, from, end int) {
	var all sums
	for ; from < end; from += block {
		s := all[:min(block, end-from+7)/8]
		for i, planes := range p.rows {
			clear(s)
			for b, with := range planes {
				if b > 0 {
					p.double(s)
				}
				if from+block <= end {
					add(&all, in, with, from)
					continue
				}
				for _, j := range with {
					addPart(s, in[j][from:end])
				}
			}
			if from+block <= end {
				store((*[block]byte)(out[i][from:]), &all)
			} else {
				storePart(out[i][from:end], s)
			}
		}
	}
}

func (p *horner) double(s []uint64) {
	if p.wide {
		double16(s)
	} else {
		double8(s)
	}
}

// add adds the block at from of each of the inputs in with.
func add(s *sums, in [][]byte, with []int, from int) {
	at := func(i int) *[block]byte { return (*[block]byte)(in[with[i]][from:]) }
	for ; len(with) >= 4; with = with[4:] {
		add4(s, at(0), at(1), at(2), at(3))
	}
	if len(with) >= 2 {
		add2(s, at(0), at(1))
		with = with[2:]
	}
	if len(with) == 1 {
		add1(s, at(0))
	}
}

type plainPackets packets

func (p *plainPackets) Run(out, in [][]byte) {
	n, size := (*packets)(p).check(out, in)
	var s sums
	for base := 0; base < n; base += p.w * size {
		for from := 0; from < size; from += block {
			for l, sum := range p.sums {
				clear(s[:])
				for _, x := range sum {
					a := in[x/p.w][base+x%p.w*size+from : base+x%p.w*size+size]
					if len(a) >= block {
						add1(&s, (*[block]byte)(a))
					} else {
						addPart(s[:], a)
					}
				}
				dst := out[l/p.w][base+l%p.w*size+from : base+l%p.w*size+size]
				if len(dst) >= block {
					store((*[block]byte)(dst), &s)
				} else {
					storePart(dst, s[:])
				}
			}
		}
	}
}
