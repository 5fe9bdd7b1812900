package differential

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/lab/real"
)

func TestMain(m *testing.M) {
	real.Enter()
	goleak.VerifyTestMain(m)
}

// start starts a lab that ends with the test.
func start(t *testing.T) *Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	root, err := os.MkdirTemp("", "diff")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	l, err := Start(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// build makes imping, with an overlay if one is given.
func build(t *testing.T, overlay string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "imping")
	args := []string{"build", "-o", program}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, "imping/cmd/imping")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build imping: %v\n%s", err, out)
	}
	return program
}

// seeds are played by every run of the tests; `make soak` plays many more.
var seeds = []uint64{1, 2, 3}

func TestStockAndImpingMakeTheSameOfRandomClusters(t *testing.T) {
	l := start(t)
	program := build(t, "")
	for _, seed := range seeds {
		begin := time.Now()
		v, err := l.Play(t.Context(), NewPlan(seed), program)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d: %v, rounds %v, took %v, allowed %v", seed, time.Since(begin), v.Rounds, v.Took, v.Allowed)
		if len(v.Problems) > 0 {
			t.Errorf("%v\n%s", v, strings.Join(v.Log, "\n"))
		}
	}
}

func TestWhatIsLaidIntoAFolderTakesThePlaceOfAFile(t *testing.T) {
	d := draft{"sda": {"objects/1/abc/hash": {}, "objects/1/abc/hash/1.data": {}, "objects/2": {dir: true}, "objects/2/abc": {}}, "sdb": nil}
	d.settle()
	if got, want := slices.Sorted(maps.Keys(d["sda"])), []string{"objects/1/abc/hash/1.data", "objects/2", "objects/2/abc"}; !slices.Equal(got, want) {
		t.Errorf("%q is left, not %q", got, want)
	}
}
