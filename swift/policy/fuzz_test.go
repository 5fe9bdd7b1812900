package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad reads swift.conf: policies that are taken can be worked with.
func FuzzLoad(f *testing.F) {
	const rs = "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 4\nec_num_parity_fragments = 2\n"
	for _, seed := range []string{
		salted, ec(1, rs), ec(2, rs+"ec_duplication_factor = 2\nec_object_segment_size = 1_000\naliases = a, b,,a\n"),
		ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 10\nec_num_parity_fragments = 5\ndeprecated = no\n"),
		ec(1, "ec_type = jerasure_rs_cauchy\nec_num_data_fragments = 99999999999999999999\nec_num_parity_fragments = -1\n"),
		"[swift-hash]\nswift_hash_path_prefix = \xff%%\n", "[storage-policy:0]\nname = %(x)s\nx = %(name)s\n" + salted, salted + "[storage-policy: 1 ]\nname=x",
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "swift.conf")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Load(path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("error without the file: %v", err)
			}
			return
		}
		if len(s.HashPrefix)+len(s.HashSuffix) == 0 || s.Default() == nil || s.ByIndex(0) == nil {
			t.Fatalf("%+v", s)
		}
		for i, p := range s.Policies {
			if i > 0 && p.Index <= s.Policies[i-1].Index || s.ByName(strings.ToUpper(p.Name)) != p {
				t.Fatalf("policy %v among %v", p, s.Policies)
			}
			if p.Type == ErasureCoding && (p.Data < 1 || p.Parity < 1 || p.UniqueFragments() > maxFragments || p.SegmentSize < 1 || p.Duplication < 1 || p.Replicas() < 2) {
				t.Fatalf("%+v", p)
			}
		}
		if diff := s.Differs(s); diff != "" {
			t.Fatalf("it differs from itself: %s", diff)
		}
	})
}
