package native

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestRoutinesLeaveTheVectorRegistersClean reads the assembly: a routine that uses the
// upper halves of vector registers and returns without VZEROUPPER makes later SSE code of
// its thread two to three times as slow, which no result shows.
func TestRoutinesLeaveTheVectorRegistersClean(t *testing.T) {
	b, err := os.ReadFile("kernels_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	upper := regexp.MustCompile(`\b[YZ]\d+\b`)
	routines := strings.Split(string(b), "\nTEXT ")[1:]
	if len(routines) < 40 {
		t.Fatalf("only %d routines were found", len(routines))
	}
	for _, r := range routines {
		name, _, _ := strings.Cut(r, ",")
		if !upper.MatchString(r) {
			continue
		}
		last := ""
		for line := range strings.Lines(r) {
			line = strings.TrimSpace(line)
			if line == "RET" && last != "VZEROUPPER" {
				t.Errorf("%s returns after %q", name, last)
			}
			last = line
		}
	}
}
