package md5

import "testing"

// each runs a test in each way that this CPU has.
func each(t *testing.T, test func(t *testing.T)) {
	best := avx512
	defer func() { avx512 = best }()
	avx512 = false
	t.Run("avx2", test)
	if avx512 = best; best {
		t.Run("avx512", test)
	}
}
