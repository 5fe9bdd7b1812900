package md5

import "github.com/klauspost/cpuid/v2"

//go:generate sh -c "cd ../gen && go run ./md5 -out ../md5/kernels_amd64.s -stubs ../md5/kernels_amd64.go -pkg md5"

// Available tells whether this CPU can do what Blocks needs.
func Available() bool { return available }

var (
	available = cpuid.CPU.Supports(cpuid.AVX, cpuid.AVX2)
	// rotates tells whether it has a faster way, too.
	rotates = available && cpuid.CPU.Supports(cpuid.AVX512F, cpuid.AVX512VL)
)

// Blocks adds n blocks to each of the streams, of which there are 1 to Lanes: to states[i] those that begin at data[i]. Streams are
// different ones. It needs Available, allocates nothing and keeps no pointer.
func Blocks(states []*State, data []*byte, n int) {
	if n <= 0 {
		return
	}
	data = data[:len(states)]
	if len(states) <= Lanes/2 {
		var lanes [4][Lanes / 2]uint32
		var at [Lanes / 2]*byte
		for i := range at {
			at[i] = data[0] // lanes that are not used do the first one's blocks once more
		}
		for i, s := range states {
			at[i] = data[i]
			for j := range s {
				lanes[j][i] = s[j]
			}
		}
		if rotates {
			blocks8Avx512(&lanes, &at, n)
		} else {
			blocks8Avx2(&lanes, &at, n)
		}
		for i, s := range states {
			for j := range s {
				s[j] = lanes[j][i]
			}
		}
		return
	}
	var lanes [4][Lanes]uint32
	var at [Lanes]*byte
	for i := range at {
		at[i] = data[0]
	}
	for i, s := range states {
		at[i] = data[i]
		for j := range s {
			lanes[j][i] = s[j]
		}
	}
	if rotates {
		blocks16Avx512(&lanes, &at, n)
	} else {
		blocks16Avx2(&lanes, &at, n)
	}
	for i, s := range states {
		for j := range s {
			s[j] = lanes[j][i]
		}
	}
}
