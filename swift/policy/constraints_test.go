package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
)

// rule 34
func TestConstraintsAreReadAsSwiftDoes(t *testing.T) {
	for name, section := range map[string]string{
		"none":      "",
		"empty":     "[swift-constraints]\n",
		"some":      "[swift-constraints]\nmax_file_size = 1000\nMAX_META_COUNT = 7\nmax_meta_value_length=  12 \nother = x\n",
		"all":       "[swift-constraints]\nmax_file_size = 1\nmax_meta_name_length = 2\nmax_meta_value_length = 3\nmax_meta_count = 4\nmax_meta_overall_size = 5\nmax_header_size = 6\nmax_object_name_length = 7\n",
		"no number": "[swift-constraints]\nmax_meta_count = many\n",
	} {
		path := filepath.Join(t.TempDir(), "swift.conf")
		if err := os.WriteFile(path, []byte("[swift-hash]\nswift_hash_path_suffix = x\n"+section), 0o644); err != nil {
			t.Fatal(err)
		}
		var want *Constraints
		oracle.Ask(t, `
import sys, json
from swift.common import utils, constraints
utils.SWIFT_CONF_FILE = json.load(sys.stdin)
try:
    constraints.reload_constraints()
    json.dump({k.title().replace('_', ''): v for k, v in constraints.EFFECTIVE_CONSTRAINTS.items()}, sys.stdout)
except ValueError:
    json.dump(None, sys.stdout)
`, path, &want)
		s, err := Load(path)
		if want == nil {
			if err == nil || !strings.Contains(err.Error(), "max_meta_count") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(*want, s.Constraints); diff != "" {
			t.Errorf("%s (-swift +ours):\n%s", name, diff)
		}
	}
}
