//go:build !amd64

package md5

// Available is false: there is no such assembly for this architecture.
func Available() bool { return false }

// Width is nothing without Available.
func Width() (width, step int) { return 0, 0 }

// Blocks must not be called without Available.
func Blocks([]*State, []*byte, int) { panic("md5: there are no lanes on this architecture") }
