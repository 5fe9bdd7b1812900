// Package md5 does the blocks of MD5 for many streams at once, in the lanes of AVX2; with
// what AVX-512 has for the same vectors a quarter faster, and for twice as many. It keeps no
// stream together and pads nothing: io/digest does.
package md5

const (
	// BlockSize is the length in bytes of a block.
	BlockSize = 64
	// Lanes is the largest number of streams that Blocks takes.
	Lanes = 32
)

// State is that of one stream: the sum of its blocks so far (RFC 1321: A, B, C, D).
type State [4]uint32

// Init is the state of a stream that has no block yet.
var Init = State{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
