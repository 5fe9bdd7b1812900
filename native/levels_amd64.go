package native

import "github.com/klauspost/cpuid/v2"

// vectorKernels returns the levels that this CPU has, the best first. A level asks for
// all that its routines use: what avo lists in kernels_amd64.s.
func vectorKernels() []Kernel {
	var out []Kernel
	for _, l := range []struct {
		*level
		needs []cpuid.FeatureID
	}{
		{&gfni512, []cpuid.FeatureID{cpuid.GFNI, cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL, cpuid.AVX512VBMI}},
		{&gfni256, []cpuid.FeatureID{cpuid.GFNI, cpuid.AVX, cpuid.AVX2}},
		{&avx512, []cpuid.FeatureID{cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL}},
		{&avx2, []cpuid.FeatureID{cpuid.AVX, cpuid.AVX2}},
		{&ssse3, []cpuid.FeatureID{cpuid.SSE2, cpuid.SSSE3}},
	} {
		if cpuid.CPU.Supports(l.needs...) {
			out = append(out, l.level)
		}
	}
	return out
}

var (
	xorAvx512 = [...]sumRoutine{xorx1Avx512, xorx2Avx512, xorx3Avx512, xorx4Avx512}
	xorAvx2   = [...]sumRoutine{xorx1Avx2, xorx2Avx2, xorx3Avx2, xorx4Avx2}
	xorSsse3  = [...]sumRoutine{xorx1Ssse3, xorx2Ssse3, xorx3Ssse3, xorx4Ssse3}
)

var gfni512 = level{
	name:    "gfni512",
	packets: packetsAvx512, xor: xorAvx512, xorUnit: 64,
	gf8: [...]routine{gf8x1Gfni512, gf8x2Gfni512, gf8x3Gfni512, gf8x4Gfni512}, gf8Unit: 64,
	gf16: [...]routine{gf16x1Gfni512, gf16x2Gfni512, gf16x3Gfni512, gf16x4Gfni512}, gf16Unit: 64,
	table8: affine8, table16: affine16,
}

var gfni256 = level{
	name: "gfni256",
	xor:  xorAvx2, xorUnit: 32,
	gf8: [...]routine{gf8x1Gfni256, gf8x2Gfni256, gf8x3Gfni256, gf8x4Gfni256}, gf8Unit: 32,
	gf16: [...]routine{gf16x1Gfni256, gf16x2Gfni256, gf16x3Gfni256, gf16x4Gfni256}, gf16Unit: 32,
	table8: affine8, table16: affine16,
}

var avx512 = level{
	name:    "avx512",
	packets: packetsAvx512, xor: xorAvx512, xorUnit: 64,
	gf8: [...]routine{gf8x1Avx512, gf8x2Avx512, gf8x3Avx512, gf8x4Avx512}, gf8Unit: 64,
	gf16: [...]routine{gf16x1Avx512, gf16x2Avx512, gf16x3Avx512, gf16x4Avx512}, gf16Unit: 128,
	table8: nibbles8, table16: nibbles16,
}

var avx2 = level{
	name: "avx2",
	xor:  xorAvx2, xorUnit: 32,
	gf8: [...]routine{gf8x1Avx2, gf8x2Avx2, gf8x3Avx2, gf8x4Avx2}, gf8Unit: 32,
	gf16: [...]routine{gf16x1Avx2, gf16x2Avx2, gf16x3Avx2, gf16x4Avx2}, gf16Unit: 64,
	table8: nibbles8, table16: nibbles16,
}

var ssse3 = level{
	name: "ssse3",
	xor:  xorSsse3, xorUnit: 16,
	gf8: [...]routine{gf8x1Ssse3, gf8x2Ssse3, gf8x3Ssse3, gf8x4Ssse3}, gf8Unit: 16,
	gf16: [...]routine{gf16x1Ssse3, gf16x2Ssse3, gf16x3Ssse3, gf16x4Ssse3}, gf16Unit: 32,
	table8: nibbles8, table16: nibbles16,
}
