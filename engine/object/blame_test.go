package object_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imping/engine/object"
	"imping/swift/policy"
	"imping/swift/ring"
)

// whole copies an object to an output that can be begun anew.
func whole(t *testing.T, o *object.Object) (got []byte, bad []string, err error) {
	t.Helper()
	var b bytes.Buffer
	bad, err = o.CopyWhole(t.Context(), func() (io.Writer, error) {
		b.Reset()
		return &b, nil
	})
	return b.Bytes(), bad, err
}

// firstOf is the archive of a fragment that is read before its duplicates.
func (l *lab) firstOf(pol *policy.Policy, name string, index int) string {
	l.Helper()
	r, err := ring.Load(filepath.Join(l.SwiftDir(), ring.Name(pol.Index)+".ring.gz"))
	if err != nil {
		l.Fatal(err)
	}
	files := l.files(pol, name)
	for _, n := range r.PartNodes(r.Partition(l.Swift.Hasher().Object(name))) {
		for _, path := range files {
			if strings.HasPrefix(path, l.DevicePath(n.Device.Device)+"/") && strings.Contains(path, fmt.Sprintf("#%d#", index)) {
				return path
			}
		}
	}
	l.Fatalf("nobody has fragment %d: %q", index, files)
	return ""
}

// An archive that is whole, and of other bytes than it was, is found by what the others say or, where there is only one to spare, by the object's MD5;
// and the object is read without it. Without one to spare it is damaged.
func TestTheArchiveAtFaultIsFoundAndDoneWithout(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy int
		liars  []int // fragments; of several devices that have one, the first
		lost   []int
		say    string // of the archives at fault; empty: that can not be told
	}{
		{"two to spare", 1, []int{0}, nil, "contradicts the others"},
		{"one to spare", 1, []int{2}, []int{4}, "without the archive the object has its MD5"},
		{"one to spare, parity is read", 1, []int{4}, []int{1}, "without the archive the object has its MD5"},
		{"none to spare", 1, []int{2}, []int{4, 5}, ""},
		{"two of fourteen", 0, []int{1, 8}, nil, "contradicts the others"},
		{"with a copy of it", 8, []int{1}, nil, "contradicts the others"},
		{"with copies of all, and none to spare", 8, []int{1}, []int{3, 4}, "without the archive the object has its MD5"},
		{"exclusive or", 6, []int{3}, nil, "contradicts the others"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := start(t, policies()[c.policy])
			pol := l.Swift.Policies[0]
			const name = "/a/c/o"
			want := content(3*segment + 100)
			if _, err := l.Put(t.Context(), pol, name, bytes.NewReader(want), object.PutOptions{Size: -1}); err != nil {
				t.Fatal(err)
			}
			for _, path := range l.files(pol, name) {
				if slices.ContainsFunc(c.lost, func(i int) bool { return strings.Contains(path, fmt.Sprintf("#%d#", i)) }) {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, index := range c.liars {
				l.damage(l.firstOf(pol, name, index), 2*80+int64(segment/pol.Data)+7, true) // in the second segment
			}
			o, err := l.Find(t.Context(), pol, name)
			if err != nil {
				t.Fatal(err)
			}
			got, bad, err := whole(t, o)
			if c.say == "" {
				var damaged *object.DamagedError
				if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "can not be told") || len(bad) > 0 {
					t.Errorf("%d bytes, %q, %v", len(got), bad, err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, want) || len(bad) != len(c.liars) {
				t.Fatalf("%d bytes, %q, %v", len(got), bad, err)
			}
			for i, index := range c.liars {
				if !strings.Contains(bad[i], c.say) || !slices.ContainsFunc(bad, func(s string) bool { return strings.Contains(s, fmt.Sprintf(", fragment %d: ", index)) }) {
					t.Errorf("at fault are %q", bad)
				}
			}
			// What can not be begun anew is told what was at fault.
			if o, err = l.Find(t.Context(), pol, name); err != nil {
				t.Fatal(err)
			}
			begun := false
			var b bytes.Buffer
			bad, err = o.CopyWhole(t.Context(), func() (io.Writer, error) {
				if begun {
					return nil, io.ErrClosedPipe
				}
				begun = true
				return &b, nil
			})
			var damaged *object.DamagedError
			if !errors.As(err, &damaged) || !errors.Is(err, io.ErrClosedPipe) || len(bad) != len(c.liars) {
				t.Errorf("%q, %v", bad, err)
			}
		})
	}
}
