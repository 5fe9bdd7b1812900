package limit_test

import (
	"os/exec"
	"strings"
	"testing"
)

// What is compared with the engine has nothing of it.
func TestThereIsNoEngineInIt(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "imping/bench/limit").CombinedOutput()
	if err != nil {
		t.Fatalf("cannot list what is imported: %v\n%s", err, out)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 10 {
		t.Fatalf("only %q", deps)
	}
	for _, dep := range deps {
		if strings.HasPrefix(dep, "imping/engine") || strings.HasPrefix(dep, "imping/codec") || strings.HasPrefix(dep, "imping/io/") {
			t.Errorf("it imports %s", dep)
		}
	}
}
