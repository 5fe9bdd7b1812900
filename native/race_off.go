//go:build !race && (amd64 || arm64)

package native

func touch(out, in [][]byte) {}
