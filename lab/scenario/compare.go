package scenario

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Report is how two snapshots of a device differ. Each entry is a sentence that begins
// with the file's name.
type Report struct {
	Files    int // in the first snapshot
	Archives int // .data files among them
	Same     int // archives that are in both, equal in every way

	Missing  []string // in the first only
	Extra    []string // in the second only
	Bytes    []string // other content
	Metadata []string // other metadata, or none that can be read
	Owner    []string // another owner, group or mode
}

// OK says whether nothing differs.
func (r *Report) OK() bool {
	return len(r.Missing)+len(r.Extra)+len(r.Bytes)+len(r.Metadata)+len(r.Owner) == 0
}

func (r *Report) String() string {
	if r.OK() {
		return fmt.Sprintf("all %d files (%d fragment archives) are the same", r.Files, r.Archives)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d fragment archives are the same; of %d files", r.Same, r.Archives, r.Files)
	for _, part := range []struct {
		name    string
		entries []string
	}{{"missing", r.Missing}, {"extra", r.Extra}, {"of other bytes", r.Bytes},
		{"of other metadata", r.Metadata}, {"of another owner", r.Owner}} {
		if len(part.entries) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%d %s:", len(part.entries), part.name)
		for i, e := range part.entries {
			if i == maxProblems {
				fmt.Fprintf(&b, "\n  and %d more", len(part.entries)-i)
				break
			}
			b.WriteString("\n  " + e)
		}
	}
	return b.String()
}

// Compare says how after differs from before. Names, sizes, bytes, decoded metadata
// (not the order of its keys), owners and modes must be the same.
func Compare(before, after *Snapshot) *Report {
	r := &Report{Files: len(before.Files), Archives: before.Archives()}
	for _, name := range slices.Sorted(maps.Keys(before.Files)) {
		want := before.Files[name]
		got, ok := after.Files[name]
		if !ok {
			r.Missing = append(r.Missing, name)
			continue
		}
		same := true
		report := func(list *[]string, format string, args ...any) {
			same = false
			*list = append(*list, name+": "+fmt.Sprintf(format, args...))
		}
		if want.Size != got.Size {
			report(&r.Bytes, "%d bytes, was %d", got.Size, want.Size)
		} else if want.SHA256 != got.SHA256 {
			report(&r.Bytes, "SHA-256 %s, was %s%s", got.SHA256, want.SHA256, firstDifference(before, after, name))
		}
		if got.Problem != "" {
			report(&r.Metadata, "%s", got.Problem)
		} else if want.Problem == "" && !maps.Equal(want.Metadata, got.Metadata) {
			report(&r.Metadata, "%s", metadataDifference(want.Metadata, got.Metadata))
		}
		if want.UID != got.UID || want.GID != got.GID || want.Mode != got.Mode {
			report(&r.Owner, "%d:%d %o, was %d:%d %o", got.UID, got.GID, got.Mode, want.UID, want.GID, want.Mode)
		}
		if same && strings.HasSuffix(name, ".data") {
			r.Same++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after.Files)) {
		if _, ok := before.Files[name]; !ok {
			r.Extra = append(r.Extra, name)
		}
	}
	return r
}

func metadataDifference(want, got Metadata) string {
	var parts []string
	keys := maps.Clone(want)
	maps.Copy(keys, got)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		w, inWant := want[k]
		g, inGot := got[k]
		switch {
		case !inGot:
			parts = append(parts, fmt.Sprintf("%s is gone, was %q", k, w))
		case !inWant:
			parts = append(parts, fmt.Sprintf("%s is %q, was not there", k, g))
		case w != g:
			parts = append(parts, fmt.Sprintf("%s is %q, was %q", k, g, w))
		}
	}
	return strings.Join(parts, "; ")
}

// firstDifference names the first byte that differs, when the bytes of before were
// saved and those of after are still there.
func firstDifference(before, after *Snapshot, name string) string {
	if before.Saved == "" {
		return ""
	}
	a, err := os.Open(filepath.Join(before.Saved, name))
	if err != nil {
		return ""
	}
	defer a.Close()
	b, err := os.Open(filepath.Join(after.Path, name))
	if err != nil {
		return ""
	}
	defer b.Close()
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, _ := io.ReadFull(a, bufA)
		m, _ := io.ReadFull(b, bufB)
		if n == 0 && m == 0 {
			return ""
		}
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			for i := range min(n, m) {
				if bufA[i] != bufB[i] {
					return fmt.Sprintf(", first at byte %d", at+int64(i))
				}
			}
			return fmt.Sprintf(", first at byte %d", at+int64(min(n, m)))
		}
		at += int64(n)
	}
}
