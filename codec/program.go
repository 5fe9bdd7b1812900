package codec

import "imping/native"

// How the rows of a plan become a program, for each kind of arithmetic. A single row of
// ones has become an exclusive or before.

func gf8(kernel native.Kernel, rows [][]uint16) native.Program {
	narrow := make([][]byte, len(rows))
	for i, r := range rows {
		narrow[i] = make([]byte, len(r))
		for j, c := range r {
			narrow[i][j] = byte(c)
		}
	}
	return kernel.GF8(narrow)
}

func gf16(kernel native.Kernel, rows [][]uint16) native.Program { return kernel.GF16(rows) }

// exclusiveOrs is for rows of zeros and ones.
func exclusiveOrs(kernel native.Kernel, rows [][]uint16) native.Program {
	sums := make([][]int, len(rows))
	for i, r := range rows {
		for j, c := range r {
			if c == 1 {
				sums[i] = append(sums[i], j)
			}
		}
	}
	return kernel.GF2(len(rows[0]), 1, 0, sums)
}

// A payload of jerasure_rs_cauchy is a run of blocks of cauchyWord packets of cauchyPacket
// bytes. Packet x of a block holds bit x of its 8192 words.
const (
	cauchyWord   = 4
	cauchyPacket = 1024
)

// packets is for rows over GF(2^4) in jerasure_rs_cauchy's layout: times e, bit x of a word
// becomes the bits of e*2^x, so packet l of an output is the exclusive or of those packets
// x of each input for whose element bit l of e*2^x is set.
func packets(kernel native.Kernel, rows [][]uint16) native.Program {
	f := field4()
	var sums [][]int
	for _, r := range rows {
		for l := range cauchyWord {
			var sum []int
			for j, e := range r {
				for x := range cauchyWord {
					if f.mul(e, 1<<x)>>l&1 == 1 {
						sum = append(sum, j*cauchyWord+x)
					}
				}
			}
			sums = append(sums, sum)
		}
	}
	return kernel.GF2(len(rows[0]), cauchyWord, cauchyPacket, sums)
}

func allOnes(row []uint16) bool {
	for _, c := range row {
		if c != 1 {
			return false
		}
	}
	return true
}
