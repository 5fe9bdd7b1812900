//go:build invariants

package slab

import "fmt"

// poisonByte fills released slabs. It is no valid start of a fragment, an HTTP response or a pickle.
const poisonByte = 0xdb

func poison(r region) {
	for i := range r {
		r[i] = poisonByte
	}
}

// checkPoison finds a write through a slice that outlived its slab.
func checkPoison(r region) {
	for i := range r {
		if r[i] != poisonByte {
			panic(fmt.Sprintf("BUG: byte %d of a free slab of %d bytes was written after Release", i, len(r)))
		}
	}
}
