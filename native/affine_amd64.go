package native

import "encoding/binary"

// bitMatrix returns the operand of GF2P8AFFINEQB that maps bit i of a byte to images[i]:
// its byte 7-r selects the bits that bit r of the result is the sum of.
func bitMatrix(images [8]byte) uint64 {
	var m uint64
	for i, v := range images {
		for r := range 8 {
			m |= uint64(v>>r&1) << (8*(7-r) + i)
		}
	}
	return m
}

// affine8 appends a bit matrix.
func affine8(table []byte, c byte) []byte {
	return binary.LittleEndian.AppendUint64(table, bitMatrix(images8(c)))
}

// affine16 appends four bit matrices: the low byte of a word to the low byte of the
// product, high to high, low to high, high to low.
func affine16(table []byte, c uint16) []byte {
	var lowLow, lowHigh, highLow, highHigh [8]byte
	for i, v := range images16(c) {
		if i < 8 {
			lowLow[i], lowHigh[i] = byte(v), byte(v>>8)
		} else {
			highLow[i-8], highHigh[i-8] = byte(v), byte(v>>8)
		}
	}
	for _, m := range [][8]byte{lowLow, highHigh, lowHigh, highLow} {
		table = binary.LittleEndian.AppendUint64(table, bitMatrix(m))
	}
	return table
}
