package recon

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
)

const swiftMerges = `
import json, sys, tempfile, os, logging
from swift.common.utils import dump_recon_cache
answers = []
for case in json.load(sys.stdin):
    path = os.path.join(tempfile.mkdtemp(), 'object.recon')
    if case['Before'] is not None:
        open(path, 'w').write(case['Before'])
    for update in case['Updates']:
        dump_recon_cache(update, path, logging.getLogger())
    answers.append(open(path).read())
json.dump(answers, sys.stdout)
`

func TestUpdatesAreMergedAsSwiftMergesThem(t *testing.T) {
	text := func(s string) *string { return &s }
	type disks = map[string]any
	cases := []struct {
		Before  *string
		Updates []map[string]any
	}{
		{nil, []map[string]any{{"object_reconstruction_time": 0.25, "object_reconstruction_last": 1795390000.5}}},
		{text(""), []map[string]any{{"a": 1}}},
		{text("not JSON\n"), []map[string]any{{"a": 1}}},
		{text(`{"replication_last": 12345678901234567890, "b": {"c": {"d": 1}}}` + "\n"), []map[string]any{{"a": disks{"sdb": disks{"t": 1}}}}},
		{nil, []map[string]any{{"per_disk": disks{"sdb": disks{"t": 1}, "sdc": disks{"t": 2}}}, {"per_disk": disks{"sdb": disks{}}}}},
		{nil, []map[string]any{{"per_disk": disks{"sdb": disks{"t": 1}}}, {"per_disk": disks{}}}},
		{nil, []map[string]any{{"x": 1}, {"x": disks{"y": 2}}, {"x": 3}}},
		{nil, []map[string]any{{"per_disk": disks{"gone": disks{}}}}},
	}
	var want []string
	oracle.Ask(t, swiftMerges, cases, &want)
	for i, c := range cases {
		path := filepath.Join(t.TempDir(), ObjectFile)
		if c.Before != nil {
			if err := os.WriteFile(path, []byte(*c.Before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, u := range c.Updates {
			if err := Merge(t.Context(), path, u); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(want[i]), &b) != nil || !cmp.Equal(a, b) {
			t.Errorf("case %d: %s, Swift has %s", i, got, want[i])
		}
	}
}

func TestConcurrentUpdatesAllSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), ObjectFile)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := Merge(t.Context(), path, Entry{string(rune('a' + i)): i}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	e, err := Load(path)
	if err != nil || len(e) != 20 {
		t.Errorf("%d keys of 20 are there, %v", len(e), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "tmp*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestALockThatIsHeldIsNotWaitedForForEver(t *testing.T) {
	path := filepath.Join(t.TempDir(), ObjectFile)
	f, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Merge(ctx, path, Entry{"a": 1}); err == nil {
		t.Error("merged under somebody else's lock")
	}
}
