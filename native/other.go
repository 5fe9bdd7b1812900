//go:build !amd64 && !arm64

package native

// vectorKernels returns none: this architecture has no assembly yet.
func vectorKernels() []Kernel { return nil }
