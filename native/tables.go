//go:build amd64 || arm64

package native

// What the assembly knows of a coefficient: the product by it is linear, so the images of
// the powers of x tell everything.

// images8 returns c times 1, x, ..., x^7 in GF(2^8).
func images8(c byte) (out [8]byte) {
	for i := range out {
		out[i] = c
		top := c >> 7
		c = c<<1 ^ top*0x1d
	}
	return out
}

// images16 returns c times 1, x, ..., x^15 in GF(2^16).
func images16(c uint16) (out [16]uint16) {
	for i := range out {
		out[i] = c
		top := c >> 15
		c = c<<1 ^ top*0x100b
	}
	return out
}

// nibbles8 appends the products by the 16 values of a byte's low nibble, then by those of
// its high nibble.
func nibbles8(table []byte, c byte) []byte {
	images := images8(c)
	for _, half := range [][]byte{images[:4], images[4:]} {
		for v := range 16 {
			table = append(table, span(half, v))
		}
	}
	return table
}

// nibbles16 appends the low bytes of the products by the 16 values of each of a word's
// nibbles from the lowest, then the high bytes.
func nibbles16(table []byte, c uint16) []byte {
	images := images16(c)
	for shift := 0; shift <= 8; shift += 8 {
		for nibble := 0; nibble < 16; nibble += 4 {
			for v := range 16 {
				table = append(table, byte(span(images[nibble:nibble+4], v)>>shift))
			}
		}
	}
	return table
}

// span returns the sum of the images of the bits of v.
func span[E byte | uint16](images []E, v int) (sum E) {
	for i, image := range images {
		if v>>i&1 == 1 {
			sum ^= image
		}
	}
	return sum
}
