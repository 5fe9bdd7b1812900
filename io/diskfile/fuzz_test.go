package diskfile

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/suffix"
)

// attributes answers getxattr from memory as Linux does.
type attributes map[string]string

func (a attributes) get(name string, b []byte) (int, error) {
	value, ok := a[name]
	switch {
	case !ok:
		return 0, unix.ENODATA
	case len(b) < len(value):
		return 0, unix.ERANGE
	}
	return copy(b, value), nil
}

// cut lays raw out in pieces of size bytes.
func cut(raw string, size int) attributes {
	a := attributes{}
	for i := 0; i == 0 || raw != ""; i++ {
		key, n := metadataKey, min(size, len(raw))
		if i > 0 {
			key += strconv.Itoa(i)
		}
		a[key], raw = raw[:n], raw[n:]
	}
	return a
}

func sum(raw string) string {
	s := md5.Sum([]byte(raw))
	return hex.EncodeToString(s[:])
}

// Metadata as it may come from a disk: in pieces of any size, with any checksum. Nothing
// but a CorruptError comes of it; what is read is written back to the same; and a pickle
// that the decoder merely refuses never sends an object to quarantine.
func FuzzReadMetadata(f *testing.F) {
	sound := map[string]string{"name": "/a/c/ä", "Content-Length": "12", "ETag": "", "\xff": "\x00"}
	seeds := []string{
		string(pickle.EncodeMetadata(sound, nil)), string(python2Pickle(sound)), "", "hello", "}.", "N.", "\x80\x04}.",
		"cos\nsystem\n(S'true'\ntR.", "(dp1\nS'name'\np2\nS'/a/c/o'\np3\ns.", "\x80\x02}X\x04\x00\x00\x00name\x8a\x09123456789s.",
	}
	for i, s := range seeds {
		f.Add(s, uint16(65535), sum(s))
		f.Add(s, uint16(len(s)/(i+1)+1), "")
		f.Add(s, uint16(1), strings.Repeat("0", 32))
	}
	f.Fuzz(func(t *testing.T, raw string, size uint16, checksum string) {
		a := cut(raw, int(size)+1)
		pieces := len(a)
		if checksum != "" {
			a[checksumKey] = checksum
		}
		got, err := readMetadata("f", a.get)
		if err != nil {
			e, ok := errors.AsType[*CorruptError](err)
			if !ok || e.Path != "f" || e.Reason == "" {
				t.Fatalf("%v", err)
			}
			_, decodeErr := pickle.DecodeMetadata([]byte(raw))
			_, refused := errors.AsType[*pickle.RefusedError](decodeErr)
			bad := raw == "" || checksum != "" && checksum != sum(raw) || decodeErr != nil && !refused
			if pieces <= maxPieces && e.Quarantine != bad {
				t.Fatalf("%v: Quarantine is %v", err, e.Quarantine)
			}
			return
		}
		if pieces > maxPieces || checksum != "" && checksum != sum(raw) {
			t.Fatalf("%d pieces with checksum %q were read", pieces, checksum)
		}
		again := string(pickle.EncodeMetadata(got, nil))
		a = cut(again, max(len(again)/maxPieces+1, 100))
		a[checksumKey] = sum(again)
		if back, err := readMetadata("f", a.get); err != nil || !maps.Equal(got, back) {
			t.Fatalf("%q was read and %q written back: %v", got, back, err)
		}
	})
}

// FuzzHashesFiles hashes a partition in which someone left hashes.pkl and hashes.invalid:
// what is known afterwards is the truth of every suffix that these files do not vouch for,
// and is known without another look.
func FuzzHashesFiles(f *testing.F) {
	name := "/a/c/o"
	hash := objhash.Hex(testHasher.Object(name))
	s := objhash.Suffix(hash)
	wrong := &suffix.File{Valid: true, Updated: 1, Hashes: suffix.Hashes{s: {None: sum("wrong")}, "000": {}, "fff": nil, "abc": {Frags: suffix.Frags{{Index: 1, Hash: sum("x")}}}}}
	for _, invalid := range []string{"", s + "\n", "000\n" + s + "\n", "\r\n", "junk", s, strings.Repeat("x", 70_000), "\xff\n" + s + "\n"} {
		f.Add(wrong.Encode(), []byte(invalid))
		f.Add([]byte{}, []byte(invalid))
	}
	f.Add([]byte("\x80\x02}U\x05validK\x00s."), []byte("fff\n"))
	f.Add([]byte("(dp1\nS'"+s+"'\nN."), []byte{})
	f.Add(pickle.Encode(&pickle.Dict{Pairs: []pickle.Pair{{Key: "ABC", Value: nil}}}), []byte{})
	now := time.Unix(1795342301, 0)
	f.Fuzz(func(t *testing.T, pkl, invalid []byte) {
		root := quickDir(t)
		m := newManager(t, root)
		m.warn, m.unsynced, m.now = func(string, ...any) {}, true, func() time.Time { return now }
		part := filepath.Join(root, "sda/objects-1/7")
		testFile{Path: filepath.Join("objects-1/7", s, hash, "1795342300.00000#1#d.data"), Meta: map[string]string{"name": name}, MTime: now}.write(t, filepath.Join(root, "sda"))
		truth, _, err := m.SuffixHashes("sda", 7, []string{s}, true)
		if err != nil || truth[s].Empty() {
			t.Fatalf("%v, %v", truth, err)
		}
		check(t, os.WriteFile(filepath.Join(part, hashesFile), pkl, 0o600))
		check(t, os.WriteFile(filepath.Join(part, invalidFile), invalid, 0o600))
		known, _ := readHashes(part)
		vouched := known.Valid && known.Hashes[s] != nil && !known.Hashes[s].Empty()
		for line := range strings.Lines(string(invalid)) {
			if line = strings.TrimSpace(line); line == s || !suffix.Valid(line) {
				vouched = false
			}
		}
		got, _, err := m.SuffixHashes("sda", 7, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if !vouched && !(suffix.Hashes{s: got[s]}).Equal(suffix.Hashes{s: truth[s]}) {
			t.Fatalf("%+v, want %+v", got[s], truth[s])
		}
		if left, err := os.ReadFile(filepath.Join(part, invalidFile)); err != nil || len(left) > 0 {
			t.Fatalf("hashes.invalid still has %q, %v", left, err)
		}
		if after, _ := readHashes(part); !after.Valid || !after.Hashes.Equal(got) {
			t.Fatalf("told %v, and wrote %v", got, after)
		}
		again, hashed, err := m.SuffixHashes("sda", 7, nil, true)
		if err != nil || hashed > 0 || !again.Equal(got) {
			t.Fatalf("a second look hashes %d: %v, %v", hashed, again, err)
		}
	})
}

// FuzzChoose sorts out directories with any names in them: a file that counts is there,
// and is not among those that can go.
func FuzzChoose(f *testing.F) {
	for i := range len(names) {
		f.Add(strings.Join(names[i:min(i+6, len(names))], "\n"), i%7-1, i%2 == 0, i%9)
	}
	f.Add("1795342301.49613#1.data\n1795342301.49613#2#d.data\n1795342301.49613.durable\n1795342302.00000-1f.meta\n1795342300.00000.ts", 1, true, 6)
	f.Add("1795342301.49613#1.data\n1795342301.49613#2#d.data\n1795352301.49613.durable", 1, true, 6)
	f.Add("1795342301.00000#3.data\n1795342302.00000-1f.meta", -1, true, 6)
	f.Fuzz(func(t *testing.T, text string, index int, nonDurable bool, limit int) {
		list := strings.Split(text, "\n")
		slices.Sort(list)
		list = slices.Compact(list)
		slices.Reverse(list)
		q := query{limit: max(limit, 0), index: max(index, -1), nonDurable: nonDurable}
		c := choose(list, q, func(string, error) {})
		for _, got := range []*file{c.data, c.meta, c.ctype, c.tombstone} {
			if got == nil {
				continue
			}
			gone := func(f *file) bool { return f.name == got.name }
			// As in Swift, metadata beside data that is not durable goes with it once both are
			// old, and a .durable file ends all that is older, be it alone.
			stray := slices.ContainsFunc(c.strays, gone) && (got.ext != ".meta" || c.durable != nil)
			ended := c.durable == nil && strings.Contains(text, ".durable")
			if !slices.Contains(list, got.name) || slices.ContainsFunc(c.obsolete, gone) && !ended || stray {
				t.Fatalf("%s is chosen of %q, and to go", got.name, list)
			}
		}
		if c.data != nil {
			if c.tombstone != nil || q.index >= 0 && c.data.index != q.index || q.limit > 0 && c.data.index >= q.limit || !c.data.durable && !nonDurable {
				t.Fatalf("%+v is chosen of %q", c.data, list)
			}
		} else if c.meta != nil || c.ctype != nil {
			t.Fatalf("metadata without data: %q", list)
		}
		if c.tombstone != nil && c.tombstone.ext != ".ts" || c.meta != nil && c.meta.ext != ".meta" {
			t.Fatalf("%+v", c)
		}
		for _, name := range c.unexpected {
			if slices.ContainsFunc(c.obsolete, func(f *file) bool { return f.name == name }) {
				t.Fatalf("%q could not be read, and is to go", name)
			}
		}
	})
}
