package native

import "testing"

func TestNeonIsChosenOnEveryArm64(t *testing.T) {
	if k, err := choose(""); err != nil || k.Name() != "neon" {
		t.Errorf("without a name: %v, %v", k, err)
	}
	if k := Best(); k.Name() != "neon" {
		t.Errorf("the best one is %s", k.Name())
	}
}
