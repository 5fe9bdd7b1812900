//go:build race && (amd64 || arm64)

package native

import (
	"runtime"
	"unsafe"
)

// touch tells the race detector, which does not see into assembly, what a run reads and
// writes.
func touch(out, in [][]byte) {
	for _, b := range in {
		runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(b)), len(b))
	}
	for _, b := range out {
		runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(b)), len(b))
	}
}
