package recon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// FuzzMerge updates caches that someone left: whatever they hold, the file is one JSON
// object afterwards, with the update in it.
func FuzzMerge(f *testing.F) {
	for _, seed := range []string{
		"", "{}\n", "null", "[1]", `{"a": 1, "object_reconstruction_time": 0.25}`, `{"object_reconstruction_per_disk": {"sda": {"pid": 1}}}`,
		`{"object_reconstruction_per_disk": 7}`, `{"n": 12345678901234567890, "e": 1e999}`, `{"a": "\ud800"}`, `{"a": 1} {"b"`, "{\"\xff\": 1}", `{"a": 1, "a": {"b": {}}}`,
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), ObjectFile)
	f.Fuzz(func(t *testing.T, before []byte) {
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := Load(path)
		if err != nil || loaded == nil {
			t.Fatalf("%v, %v", loaded, err)
		}
		update := Entry{"object_reconstruction_time": 1.5, "object_reconstruction_per_disk": map[string]any{"sdb": map[string]any{"pid": 2}}}
		if err := Merge(t.Context(), path, update); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || !json.Valid(data) {
			t.Fatalf("%q, %v", data, err)
		}
		after, err := Load(path)
		if err != nil || after["object_reconstruction_time"] != json.Number("1.5") {
			t.Fatalf("%v, %v", after, err)
		}
		disks, _ := after["object_reconstruction_per_disk"].(map[string]any)
		if _, ok := disks["sdb"]; !ok {
			t.Fatalf("%v", after)
		}
		for key := range loaded {
			if _, ok := after[key]; !ok {
				t.Fatalf("%q is lost: %q became %q", key, before, data)
			}
		}
	})
}
