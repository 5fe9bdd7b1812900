//go:build !race

package slab

import "golang.org/x/sys/unix"

// region is one mapping outside the Go heap: the garbage collector neither scans nor moves nor counts it (GOMEMLIMIT does not see it,
// RLIMIT_DATA does), and a system call may write into it without pinning.
type region []byte

func mapRegion(n int) (region, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
}

func unmapRegion(r region) {
	if err := unix.Munmap(r); err != nil {
		panic("BUG: cannot unmap a slab: " + err.Error())
	}
}
