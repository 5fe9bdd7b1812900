package native

// vectorKernels returns the one level of this architecture: every arm64 has these
// instructions.
func vectorKernels() []Kernel { return []Kernel{&neon} }

var neon = level{
	name: "neon",
	xor:  [...]sumRoutine{xorx1Neon, xorx2Neon, xorx3Neon, xorx4Neon}, xorUnit: 16,
	gf8: [...]routine{gf8x1Neon, gf8x2Neon, gf8x3Neon, gf8x4Neon}, gf8Unit: 16,
	gf16: [...]routine{gf16x1Neon, gf16x2Neon, gf16x3Neon, gf16x4Neon}, gf16Unit: 32,
	table8: nibbles8, table16: nibbles16,
}
