package real_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/codec"
	"imping/io/diskfile"
	"imping/lab/embedded"
	"imping/lab/real"
	"imping/lab/scenario"
)

// times are those in file names: of the file and of its content type.
var times = regexp.MustCompile(`\d{10}\.\d{5}`)

// lies is how an object lies on one of its primaries: a line per file of the partition.
func lies(t *testing.T, l *scenario.Layout, o *scenario.Object, dev string) []string {
	t.Helper()
	dir := l.HashDir(o, dev)
	part := filepath.Dir(filepath.Dir(dir))
	var lines []string
	for _, folder := range []string{part, filepath.Dir(dir), dir} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(folder, e.Name())
			if e.IsDir() && !strings.HasPrefix(dir+"/", path+"/") {
				continue // another object's
			}
			line := fmt.Sprintf("%s %v", times.ReplaceAllString(strings.TrimPrefix(path, part), "TIME"), info.Mode())
			if folder == dir {
				body, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				meta, err := diskfile.ReadMetadata(path)
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range []string{"X-Timestamp", "Content-Type-Timestamp", "X-Delete-At"} {
					if _, ok := meta[key]; ok {
						meta[key] = times.ReplaceAllString(meta[key], "TIME")
					}
				}
				if _, ok := meta["X-Delete-At"]; ok {
					meta["X-Delete-At"] = fmt.Sprintf("%d digits", len(meta["X-Delete-At"]))
				}
				line += fmt.Sprintf(" %x %q", sha256.Sum256(body), meta)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// An object lies on the disks of the embedded cluster as Swift's own proxy and object servers
// leave it: the same files with the same bytes, modes and metadata, but for the times.
func TestTheEmbeddedClusterStoresAsSwiftDoes(t *testing.T) {
	policies := []embedded.Policy{
		{Name: "isal42", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2}, SegmentSize: 4096},
		{Name: "lec104", Scheme: codec.Scheme{Type: "liberasurecode_rs_vand", K: 10, M: 4}},
		{Name: "isal21dup2", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 2, M: 1}, Duplication: 2, SegmentSize: 4096},
		{Name: "jcauchy42", Scheme: codec.Scheme{Type: "jerasure_rs_cauchy", K: 4, M: 2}, SegmentSize: 4096},
		{Name: "xor3", Scheme: codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}, SegmentSize: 4096},
	}
	var swifts []real.Policy
	for i, p := range policies {
		swifts = append(swifts, real.Policy{Index: i, Name: p.Name, ECType: p.Scheme.Type, Data: p.Scheme.K, Parity: p.Scheme.M,
			Duplication: p.Duplication, SegmentSize: p.SegmentSize})
	}
	theirs := start(t, real.Options{Policies: swifts})
	ours, err := embedded.Start(embedded.Options{Root: t.TempDir(), Policies: policies})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Stop()
	load := func(c scenario.Cluster) *scenario.Loaded {
		loaded, err := scenario.Load(t.Context(), c, scenario.LoadOptions{Seed: 1, Sizes: []int64{0, 1, 4095, 4096, 4097, 70_000}, Random: 1})
		if err != nil {
			t.Fatal(err)
		}
		return loaded
	}
	want, got := load(theirs), load(ours)
	compared := 0
	for i, o := range want.Objects {
		wantNodes, gotNodes := want.Layout.Primaries(o), got.Layout.Primaries(got.Objects[i])
		if o.Name != got.Objects[i].Name || len(wantNodes) != len(gotNodes) {
			t.Fatalf("%v is not %v", got.Objects[i], o)
		}
		for j := range wantNodes {
			compared++
			diff := cmp.Diff(lies(t, want.Layout, o, wantNodes[j].Device.Device), lies(t, got.Layout, got.Objects[i], gotNodes[j].Device.Device))
			if diff != "" {
				t.Fatalf("%v, primary %d: Swift's (-) is not ours (+)\n%s", o, j, diff)
			}
		}
	}
	if compared < 12*(6+14+6+6+10) {
		t.Errorf("only %d archives were compared", compared)
	}
	if err := scenario.VerifyGETs(t.Context(), ours, got); err != nil {
		t.Error(err)
	}
}
