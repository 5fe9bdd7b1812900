package codec

// flatXOR holds liberasurecode's flat XOR codes, by Hamming distance and parity
// fragments: bit j of word i says that data fragment j is in parity fragment i. The codes
// of fewer data fragments are the same without the last ones. (The tables were read off
// what PyECLib encodes; the tests compare all codes with it.)
var flatXOR = map[[2]int]struct {
	from, to int // data fragments
	parity   []uint32
}{
	{3, 3}: {3, 3, []uint32{0x5, 0x6, 0x3}},
	{3, 5}: {5, 10, []uint32{0x0a3, 0x12c, 0x151, 0x246, 0x298}},
	{3, 6}: {6, 15, []uint32{0x1243, 0x2470, 0x42a4, 0x1898, 0x4509, 0x2906}},
	{4, 5}: {5, 10, []uint32{0x167, 0x1b9, 0x2ae, 0x2d3, 0x35c}},
	{4, 6}: {6, 20, []uint32{0x55547, 0xa9578, 0x56a78, 0xa698b, 0x9a695, 0x69aa6}},
}

// flatXOR12 is the one that is not cut from the others: distance 4, 12+6.
var flatXOR12 = []uint32{0x671, 0xca3, 0x947, 0x2ce, 0x59c, 0xb38}

// flatXORParity returns the parity rows of a code, nil if there is no such code.
func flatXORParity(distance, k, m int) [][]uint16 {
	t := flatXOR[[2]int{distance, m}]
	if k < t.from || k > t.to || t.parity == nil {
		return nil
	}
	words := t.parity
	if distance == 4 && k == 12 {
		words = flatXOR12
	}
	rows := make([][]uint16, m)
	for i, w := range words {
		rows[i] = make([]uint16, k)
		for j := range k {
			rows[i][j] = uint16(w >> j & 1)
		}
	}
	return rows
}
