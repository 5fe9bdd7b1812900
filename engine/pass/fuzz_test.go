package pass

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imping/io/diskfile"
	"imping/netfast/ssync"
	"imping/swift/recon"
	"imping/swift/timestamp"
)

// FuzzFields turns metadata from a disk into header fields: what can be sent at all has
// the client's bytes, and breaks nothing.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{"red", "\u00c3\u00a4", "\u65e5", "\xff\x80", "a\r\nX-Evil: 1", "", "\x00", "\u00c3\u00a4\ufffd", "\u0100"} {
		f.Add("X-Object-Meta-Color", seed)
		f.Add(seed, "value")
	}
	s := updating(f)
	head, err := s.PostHead(nil, "/a/c/o", nil)
	if err != nil {
		f.Fatal(err)
	}
	empty := string(head)
	f.Fuzz(func(t *testing.T, key, value string) {
		fields := postFields(map[string]string{key: value, "name": "/a/c/o", "X-Timestamp": timestamp.Timestamp{Raw: 1}.Internal()})
		for _, s := range []string{key, value} {
			// What is written as Swift writes it comes back to itself.
			latin1 := func(bytes string) string {
				var b strings.Builder
				for _, c := range []byte(bytes) {
					b.WriteRune(rune(c))
				}
				return b.String()
			}
			if got := diskfile.Wire(latin1(s)); got != s {
				t.Fatalf("%q was kept as %q and sent as %q", s, latin1(s), got)
			}
			if got := diskfile.Wire(s); got != s && latin1(got) != s {
				t.Fatalf("%q is sent as %q", s, got)
			}
		}
		s := updating(t)
		head, err := s.PostHead(nil, "/a/c/o", fields)
		if err == nil && strings.Count(string(head), "\n") != strings.Count(empty, "\n")+len(fields) {
			t.Fatalf("%q has lines of its own: %q", fields, head)
		}
	})
}

// updating is a sender that may send subrequests.
func updating(t testing.TB) ssync.Sender {
	var s ssync.Sender
	if _, err := s.OfferEnd(nil); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{":MISSING_CHECK: START\r\n", ":MISSING_CHECK: END\r\n"} {
		if _, err := s.Feed([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// FuzzAggregate derives the node's recon figures from whatever the devices left.
func FuzzAggregate(f *testing.F) {
	for _, seed := range []string{
		`{"object_reconstruction_per_disk": {"sda": {"object_reconstruction_last": 1e9, "object_reconstruction_time": 0.5}, "gone": {}}}`,
		`{"object_reconstruction_per_disk": {"sda": {"object_reconstruction_last": 1e308, "object_reconstruction_time": -1e308}}}`,
		`{"object_reconstruction_per_disk": {"sda": {"object_reconstruction_last": 1e999, "object_reconstruction_time": "x"}, "sdb": 7}}`,
		`{"object_reconstruction_per_disk": []}`, "", "null",
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), recon.ObjectFile)
	f.Fuzz(func(t *testing.T, before []byte) {
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := aggregate(t.Context(), path, []string{"sda"}); err != nil {
			t.Fatal(err)
		}
		e, err := recon.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		disks, _ := e["object_reconstruction_per_disk"].(map[string]any)
		for d := range disks {
			if d != "sda" {
				t.Fatalf("device %q is gone and still in %v", d, e)
			}
		}
	})
}
