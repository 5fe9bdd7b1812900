package policy

import "testing"

// rule 34
func TestTwoSwiftConfsDifferWhereDaemonsWouldDisagree(t *testing.T) {
	base := func() *Swift {
		return &Swift{HashPrefix: []byte("a"), HashSuffix: []byte("b"), Path: "/x", Policies: []*Policy{{Index: 1, Name: "gold", Data: 4, Parity: 2}}}
	}
	for _, c := range []struct {
		name   string
		change func(*Swift)
		want   string
	}{
		{"nothing", func(*Swift) {}, ""},
		{"only the place", func(s *Swift) { s.Path = "/y" }, ""},
		{"prefix", func(s *Swift) { s.HashPrefix = nil }, "swift_hash_path_prefix"},
		{"suffix", func(s *Swift) { s.HashSuffix = []byte("c") }, "swift_hash_path_suffix"},
		{"a policy more", func(s *Swift) { s.Policies = append(s.Policies, &Policy{Index: 2}) }, "1 and 2 storage policies"},
		{"parity", func(s *Swift) { s.Policies[0].Parity = 3 }, "storage-policy:1"},
	} {
		other := base()
		c.change(other)
		if got := base().Differs(other); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
