package native

import (
	"strings"
	"testing"
)

func TestAKernelIsChosenByName(t *testing.T) {
	for _, want := range Kernels() {
		k, err := choose(want.Name())
		if err != nil || k.Name() != want.Name() {
			t.Errorf("%s: %v, %v", want.Name(), k, err)
		}
	}
	if k, err := choose(""); err != nil || k.Name() != Kernels()[0].Name() {
		t.Errorf("without a name: %v, %v", k, err)
	}
}

func TestAKernelThatIsNotThereIsRefusedAndTheOthersAreNamed(t *testing.T) {
	_, err := choose("mmx")
	if err == nil || !strings.Contains(err.Error(), `"mmx"`) || !strings.Contains(err.Error(), "plain") {
		t.Errorf("choose: %v", err)
	}
}
