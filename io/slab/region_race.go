//go:build race

package slab

import "unsafe"

// region is on the Go heap: the race detector does not see other memory.
type region []byte

func mapRegion(n int) (region, error) {
	b := make([]byte, n+Align)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (Align - 1))
	return b[off : off+n : off+n], nil
}

func unmapRegion(region) {}
