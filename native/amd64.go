package native

// vectorKernels returns the levels that this CPU has, the best first.
func vectorKernels() []Kernel { return nil }
