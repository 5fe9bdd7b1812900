//go:build !race && amd64

package native

func touch(out, in [][]byte) {}
