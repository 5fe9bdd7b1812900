package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func load(t *testing.T, text string) (*Swift, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "swift.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestPoliciesAreFoundByIndexAndByAnyNameInAnyCase(t *testing.T) {
	s, err := load(t, salted+"[storage-policy:3]\nname = Silver\naliases = grey\n[storage-policy:0]\nname = gold\ndefault = yes\n")
	if err != nil {
		t.Fatal(err)
	}
	if p := s.ByIndex(3); p == nil || p != s.ByName("silver") || p != s.ByName("GREY") || p != s.Policies[1] {
		t.Errorf("ByIndex(3) = %v", p)
	}
	if s.ByIndex(1) != nil || s.ByName("bronze") != nil {
		t.Error("a policy is found that is not there")
	}
	if s.Default() != s.ByIndex(0) {
		t.Errorf("Default() = %v", s.Default())
	}
	if h := s.Hasher(); string(h.Suffix) != "end" || h.Prefix != nil {
		t.Errorf("Hasher() = %q", h)
	}
}

func TestNamesOnDiskCarryTheIndexUnlessItIsZero(t *testing.T) {
	zero, three := &Policy{}, &Policy{Index: 3}
	if zero.DataDir() != "objects" || zero.TmpDir() != "tmp" || zero.AsyncDir() != "async_pending" || zero.RingName() != "object" {
		t.Error(zero.DataDir(), zero.TmpDir(), zero.RingName())
	}
	if three.DataDir() != "objects-3" || three.TmpDir() != "tmp-3" || three.AsyncDir() != "async_pending-3" || three.RingName() != "object-3" {
		t.Error(three.DataDir(), three.TmpDir(), three.RingName())
	}
}

func TestBackendIndexRepeatsWithEachDuplicate(t *testing.T) {
	p := &Policy{Name: "ec", Type: ErasureCoding, ECType: "isa_l_rs_vand", Data: 4, Parity: 2, Duplication: 2}
	for node, want := range map[int]int{0: 0, 5: 5, 6: 0, 11: 5, 12: 0} {
		if got := p.BackendIndex(node); got != want {
			t.Errorf("BackendIndex(%d) = %d, want %d", node, got, want)
		}
	}
	if got := (&Policy{Type: Replication}).BackendIndex(7); got != 7 {
		t.Errorf("BackendIndex(7) of a replicated policy = %d", got)
	}
	if p.Scheme() != "isa_l_rs_vand 4+2" || p.UniqueFragments() != 6 {
		t.Error(p.Scheme(), p.UniqueFragments())
	}
	if p.CheckReplicas(12) != nil || p.CheckReplicas(6) == nil || p.CheckReplicas(12.5) == nil {
		t.Error("CheckReplicas must take 12 replicas only")
	}
}

func TestErrorsNameFileSectionAndReason(t *testing.T) {
	_, err := load(t, salted+"[storage-policy:0]\nname = a b\n")
	if err == nil || !strings.Contains(err.Error(), "swift.conf") || !strings.Contains(err.Error(), "[storage-policy:0]") || !strings.Contains(err.Error(), `"a b"`) {
		t.Errorf("the error is %v", err)
	}
	if _, err := Load("/no/such/swift.conf"); err == nil || !strings.Contains(err.Error(), "/no/such/swift.conf") {
		t.Errorf("the error of a missing file is %v", err)
	}
}

// rule 34: bug 1639691
func TestHarmfulSchemesAreWarnedAbout(t *testing.T) {
	s, err := load(t, ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 10\nec_num_parity_fragments = 5\ndeprecated = yes\n"))
	if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "policy ec ") {
		t.Errorf("the warnings are %q, %v", s.Warnings, err)
	}
}
