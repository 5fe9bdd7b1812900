package codec

// A generator matrix has a row for each fragment: what combination of the K data
// fragments it is. The first K rows are the identity: all supported codes are systematic.

func generator(k, m int, parity func(k, m int) [][]uint16) [][]uint16 {
	rows := make([][]uint16, k, k+m)
	for i := range rows {
		rows[i] = make([]uint16, k)
		rows[i][i] = 1
	}
	return append(rows, parity(k, m)...)
}

// isalVandParity is isa_l_rs_vand's: row i is the powers of 2^i over GF(2^8). Some of its
// survivor sets are singular (see Plan).
func isalVandParity(k, m int) [][]uint16 {
	f := field8()
	rows := make([][]uint16, m)
	base := uint16(1)
	for i := range rows {
		rows[i] = powers(f, base, k)
		base = f.mul(base, 2)
	}
	return rows
}

// isalCauchyParity is isa_l_rs_cauchy's: 1/(i xor j) over GF(2^8), i the fragment's index.
func isalCauchyParity(k, m int) [][]uint16 {
	return inverses(field8(), k, m, func(i, j int) int { return (k + i) ^ j })
}

// jerasureCauchyParity is jerasure_rs_cauchy's: 1/(i xor (m+j)) over GF(2^4), i the number
// of the parity fragment. What such an element does to bytes is in sums.
func jerasureCauchyParity(k, m int) [][]uint16 {
	return inverses(field4(), k, m, func(i, j int) int { return i ^ (m + j) })
}

func inverses(f *field, k, m int, of func(i, j int) int) [][]uint16 {
	rows := make([][]uint16, m)
	for i := range rows {
		rows[i] = make([]uint16, k)
		for j := range rows[i] {
			rows[i][j] = f.inv(uint16(of(i, j)))
		}
	}
	return rows
}

// powers is row i of a Vandermonde matrix: base^0, base^1, ...
func powers(f *field, base uint16, k int) []uint16 {
	row := make([]uint16, k)
	v := uint16(1)
	for j := range row {
		row[j] = v
		v = f.mul(v, base)
	}
	return row
}

// isalVandInvParity is isa_l_rs_vand_inv's: over GF(2^8) a Vandermonde matrix whose row i
// is the powers of 2^(i+1), times the inverse of its first K rows.
func isalVandInvParity(k, m int) [][]uint16 {
	f := field8()
	s := span{f: f, k: k}
	rows := make([][]uint16, m)
	for i, base := 0, uint16(2); i < k+m; i, base = i+1, f.mul(base, 2) {
		v := powers(f, base, k)
		if i < k {
			s.add(i, v)
		} else {
			rows[i-k], _ = s.combine(v) // the first K rows span everything
		}
	}
	return rows
}

// rsVandParity is liberasurecode_rs_vand's: a Vandermonde matrix over GF(2^16), row i the
// powers of i, made systematic, and each column of the parity scaled so that the first
// row is all ones.
func rsVandParity(k, m int) [][]uint16 {
	v := make([][]uint16, k+m)
	for i := range v {
		v[i] = powers(field16(), uint16(i), k)
	}
	return systematic(v)
}

// jerasureVandParity is jerasure_rs_vand's: as rsVandParity, but the last row of the
// Vandermonde matrix is 0, ..., 0, 1, and in the end each row is scaled to begin with 1.
func jerasureVandParity(k, m int) [][]uint16 {
	f := field16()
	v := make([][]uint16, k+m)
	for i := range v {
		v[i] = powers(f, uint16(i), k)
	}
	last := v[k+m-1]
	clear(last)
	last[k-1] = 1
	parity := systematic(v)
	for _, row := range parity[1:] {
		scale := f.inv(row[0])
		for j := range row {
			row[j] = f.mul(row[j], scale)
		}
	}
	return parity
}

// systematic makes the first rows of v, a matrix over GF(2^16), the identity by operations
// on columns, scales each column of the rest so that its first row is all ones, and
// returns the rest.
func systematic(v [][]uint16) [][]uint16 {
	f, k := field16(), len(v[0])
	for i := 1; i < k; i++ {
		// Bring a row with a non-zero element in column i to row i.
		for r := i; v[i][i] == 0 && r < len(v); r++ {
			if v[r][i] != 0 {
				v[i], v[r] = v[r], v[i]
			}
		}
		scale := f.inv(v[i][i])
		for _, row := range v {
			row[i] = f.mul(row[i], scale)
		}
		for j := range k {
			if c := v[i][j]; j != i && c != 0 {
				for _, row := range v {
					row[j] ^= f.mul(c, row[i])
				}
			}
		}
	}
	parity := v[k:]
	for j := range k {
		scale := f.inv(parity[0][j])
		for _, row := range parity {
			row[j] = f.mul(row[j], scale)
		}
	}
	return parity
}
