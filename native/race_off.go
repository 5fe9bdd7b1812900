//go:build !race

package native

func touch(out, in [][]byte) {}
