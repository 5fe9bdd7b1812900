//go:build invariants

package slab

import "testing"

func TestReleasedSlabIsPoisonedAndLateWritesAreFound(t *testing.T) {
	a := open(t, New(1<<20), 8192)
	defer a.Close()
	s := head(t, a, 100)
	b := s.Bytes()
	b[5] = 1
	s.Release()
	if b[5] != poisonByte {
		t.Fatalf("released byte is %#x", b[5])
	}
	b[7] = 2
	defer func() {
		if recover() == nil {
			t.Fatal("a write after Release was not found")
		}
	}()
	a.TryHead(100)
}
