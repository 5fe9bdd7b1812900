package md5

import "testing"

// each runs a test in each way that this CPU has.
func each(t *testing.T, test func(t *testing.T)) {
	best := rotates
	defer func() { rotates = best }()
	rotates = false
	t.Run("avx2", test)
	if rotates = best; best {
		t.Run("avx512", test)
	}
}
