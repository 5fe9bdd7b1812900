package differential

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Mutants are imping with a mistake, each a patch in testdata/mutants: what the comparison and the
// oracle are for is to catch them, with few clusters of the kind that they are about.
var mutants = []struct {
	patch    string
	objects  int
	features []Feature
}{
	{"meta-dropped", 3, []Feature{".meta missed"}},
	{"stale-hash", 4, []Feature{"hashes.pkl of what was before", "overwriting missed", "archives lost"}},
	{"busy-is-done", 8, []Feature{"archives lost"}},
	{"times-merged", 6, []Feature{"overwriting half done"}},
	{"union", 6, []Feature{"device not mounted", "many indexes in one folder"}},
}

// maxSeeds is how many clusters a mutant may take to be caught.
const maxSeeds = 3

// maxMutants is how many are played unless IMPING_MUTANTS is set: building and playing each takes a while.
const maxMutants = 1

func TestMutantsOfImpingAreCaught(t *testing.T) {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	var overlays []string
	for _, m := range mutants {
		overlays = append(overlays, overlay(t, strings.TrimSpace(string(module)), m.patch))
	}
	l, right := start(t), build(t, "")
	for i, m := range mutants {
		if i == maxMutants && os.Getenv("IMPING_MUTANTS") == "" {
			break
		}
		program := build(t, overlays[i])
		caught := false
		for seed := uint64(1); seed <= maxSeeds && !caught; seed++ {
			plan := planOf(seed, m.objects, m.features...)
			v, err := l.Play(t.Context(), plan, program)
			if err != nil {
				t.Fatal(err)
			}
			if caught = len(v.Problems) > 0; caught {
				t.Logf("%s: seed %d catches it (%d): %.300s", m.patch, seed, len(v.Problems), v.Problems[0])
				if v, err = l.Play(t.Context(), plan, right); err != nil {
					t.Fatal(err)
				} else if len(v.Problems) > 0 {
					t.Errorf("%s: imping itself differs, too: %v", m.patch, v)
				}
			}
		}
		if !caught {
			t.Errorf("%s: %d clusters do not catch it", m.patch, maxSeeds)
		}
	}
}

var patched = regexp.MustCompile(`(?m)^\+\+\+ b/(.*)$`)

// overlay applies a patch to copies of the files that it names, and gives what `go build
// -overlay` takes. A patch that does not apply any more is to be made anew.
func overlay(t *testing.T, module, name string) string {
	t.Helper()
	patch, err := filepath.Abs(filepath.Join("testdata", "mutants", name+".patch"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for _, m := range patched.FindAllSubmatch(text, -1) {
		file := string(m[1])
		b, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(module, file)] = to
	}
	cmd := exec.Command("git", "apply", patch)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_DIR="+filepath.Join(dir, "none"), "GIT_CEILING_DIRECTORIES="+dir)
	if out, err := cmd.CombinedOutput(); err != nil || len(replace) == 0 {
		t.Fatalf("%s does not apply: %v\n%s", patch, err, out)
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
