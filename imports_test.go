// Package imping_test keeps the rooms of the project in their order: imports go down only.
package imping_test

import (
	"os/exec"
	"strings"
	"testing"
)

// floor is how high a room lies; a package imports only what lies below it, or its own
// room.
var floor = map[string]int{
	"docs": 8, "cmd": 7, "bench": 6, "lab": 5, "engine": 4, "netfast": 3, "daemon": 3, "io": 2, "codec": 2, "native": 1, "swift": 1,
}

// besides lists who may import daemon, and what may be imported inside a room that
// otherwise imports nothing of ours.
var (
	usesDaemon = []string{"cmd/imping", "engine/pass", "engine/relink", "netfast/server"}
	alone      = []string{"io/slab", "io/batch", "native"}
)

func room(pkg string) string { return strings.SplitN(pkg, "/", 2)[0] }

func TestImportsGoDownOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{range .Imports}} {{.}}{{end}}`, "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("cannot list the packages: %v\n%s", err, out)
	}
	checked := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		path, imports, _ := strings.Cut(line, ":")
		pkg := strings.TrimPrefix(path, "imping/")
		if pkg == "imping" {
			continue // this test
		}
		level, known := floor[room(pkg)]
		if !known {
			t.Errorf("%s lies in no room of the design", pkg)
			continue
		}
		for _, imp := range strings.Fields(imports) {
			imp, ours := strings.CutPrefix(imp, "imping/")
			if !ours {
				continue
			}
			checked++
			switch {
			case contains(alone, pkg):
				t.Errorf("%s imports %s, and may import nothing of ours", pkg, imp)
			case room(imp) == "daemon" && !contains(usesDaemon, pkg):
				t.Errorf("%s imports daemon: only %v do", pkg, usesDaemon)
			case pkg == "lab/embedded" && room(imp) == "engine":
				t.Errorf("%s imports %s, and may not", pkg, imp)
			case room(imp) == "daemon": // beside netfast
			case room(imp) != room(pkg) && floor[room(imp)] >= level:
				t.Errorf("%s imports %s, which does not lie below it", pkg, imp)
			}
		}
	}
	if checked == 0 {
		t.Fatal("no import was looked at")
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
