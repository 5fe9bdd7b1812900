// Package isal is native's interface on Intel's ISA-L through cgo, for comparison:
// GF(2^8) and a plain exclusive or are the library's, the rest is native's own best
// kernel. Importing it registers it, if it was built with the tag isal (Debian:
// libisal-dev); else it is empty.
package isal
