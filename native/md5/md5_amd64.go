package md5

import "github.com/klauspost/cpuid/v2"

//go:generate sh -c "cd ../gen && go run ./md5 -out ../md5/kernels_amd64.s -stubs ../md5/kernels_amd64.go -pkg md5"

var (
	available = cpuid.CPU.Supports(cpuid.AVX, cpuid.AVX2)
	avx512    = available && cpuid.CPU.Supports(cpuid.AVX512F, cpuid.AVX512VL)
)

// Available tells whether this CPU can do what Blocks needs.
func Available() bool { return available }

// Width is how many streams at a time this CPU does best, and step how many cost clearly less than all: with AVX2 half as many cost half
// to two thirds, with AVX-512 a quarter as many cost four fifths.
func Width() (width, step int) {
	if avx512 {
		return Lanes, Lanes
	}
	return Lanes / 2, Lanes / 4
}

// Blocks adds n blocks to each of the streams, of which there are 1 to Lanes: to states[i] those that begin at data[i]. Streams are
// different ones. It needs Available, allocates nothing and keeps no pointer.
func Blocks(states []*State, data []*byte, n int) {
	if n <= 0 {
		return
	}
	data = data[:len(states)]
	if width, _ := Width(); len(states) > width {
		Blocks(states[:width], data[:width], n)
		Blocks(states[width:], data[width:], n)
		return
	}
	var lanes [4][Lanes]uint32
	var at [Lanes]*byte
	for i := range at {
		at[i] = data[0] // lanes that are not used do the first one's blocks once more
	}
	for i, s := range states {
		at[i] = data[i]
		for j := range s {
			lanes[j][i] = s[j]
		}
	}
	switch {
	case len(states) <= 8 && avx512:
		blocks8Avx512(&lanes, &at, n)
	case len(states) <= 8:
		blocks8Avx2(&lanes, &at, n)
	case len(states) <= 16 && avx512:
		blocks16Avx512(&lanes, &at, n)
	case len(states) <= 16:
		blocks16Avx2(&lanes, &at, n)
	default:
		blocks32Avx512(&lanes, &at, n)
	}
	for i, s := range states {
		for j := range s {
			s[j] = lanes[j][i]
		}
	}
}
