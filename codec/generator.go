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
		rows[i] = make([]uint16, k)
		v := uint16(1)
		for j := range rows[i] {
			rows[i][j] = v
			v = f.mul(v, base)
		}
		base = f.mul(base, 2)
	}
	return rows
}

// rsVandParity is liberasurecode_rs_vand's: a Vandermonde matrix over GF(2^16), row i the
// powers of i, whose first K rows are made the identity by operations on columns; then
// each column of the rest is scaled so that the first parity row is all ones.
func rsVandParity(k, m int) [][]uint16 {
	f := field16()
	v := make([][]uint16, k+m)
	for i := range v {
		v[i] = make([]uint16, k)
		p := uint16(1)
		for j := range v[i] {
			v[i][j] = p
			p = f.mul(p, uint16(i))
		}
	}
	for i := 1; i < k; i++ {
		// Bring a row with a non-zero element in column i to row i.
		for r := i; v[i][i] == 0 && r < k+m; r++ {
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
