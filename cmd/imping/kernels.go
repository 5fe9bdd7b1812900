package main

// Libraries that IMPING_KERNEL may name beside native's own kernels.
import (
	_ "imping/native/isal"
	_ "imping/native/klauspost"
	_ "imping/native/templexxx"
)
