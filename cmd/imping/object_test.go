package main

import (
	"crypto/md5"
	"encoding/hex"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"imping/io/diskfile"
	"imping/lab/scenario"
	"imping/swift/pickle"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

func TestRangesOfObjects(t *testing.T) {
	for _, c := range []struct {
		span           string
		size, first, n int64
		say            string
	}{
		{"", 100, 0, 100, ""}, {"", 0, 0, 0, ""},
		{"0-0", 100, 0, 1, ""}, {"bytes=10-19", 100, 10, 10, ""}, {"90-", 100, 90, 10, ""}, {"90-1000", 100, 90, 10, ""},
		{"-10", 100, 90, 10, ""}, {"bytes=-1000", 100, 0, 100, ""}, {"99-99", 100, 99, 1, ""},
		{"100-", 100, 0, 0, "has 100 bytes"}, {"100-200", 100, 0, 0, "has 100 bytes"}, {"-0", 100, 0, 0, "has 100 bytes"}, {"0-0", 0, 0, 0, "has 0 bytes"},
		{"20-10", 100, 0, 0, "has 100 bytes"}, {"-9223372036854775807", 100, 0, 100, ""}, {"0-9223372036854775807", 100, 0, 100, ""},
		{"-", 100, 0, 0, "not first-last"}, {"10", 100, 0, 0, "not first-last"}, {"a-b", 100, 0, 0, "not first-last"}, {"--5", 100, 0, 0, "not first-last"},
		{"1-2,4-5", 100, 0, 0, "not first-last"}, {"5--7", 100, 0, 0, "not first-last"}, {"+1-2", 100, 0, 0, "not first-last"},
	} {
		first, n, err := spanOf(c.span, c.size)
		if c.say == "" && (err != nil || first != c.first || n != c.n) || c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)) {
			t.Errorf("%q of %d: %d, %d, %v", c.span, c.size, first, n, err)
		}
	}
}

func TestHeadersThatAnObjectMayHave(t *testing.T) {
	for _, c := range []struct {
		header  string
		updates bool
		say     string
	}{
		{"X-Object-Meta-Color: red", false, ""}, {"x-object-meta-a:b:c", false, ""}, {"Content-Encoding: gzip", false, ""},
		{"X-Delete-After: 60", true, ""}, {"X-Delete-After: 60", false, "give --update-container"}, {"x-delete-at: 2000000000", false, "give --update-container"},
		{"X-Object-Meta-Color", false, "not Name: value"}, {": red", false, "not Name: value"},
		{"etag: 0", false, "not a client's to give"}, {"X-Backend-Replication: yes", false, "not a client's to give"}, {"X-Object-Sysmeta-Ec-Etag: 0", false, "not a client's to give"},
		{"X-Container-Host: a", false, "not a client's to give"}, {"X-Delete-At-Host: a", true, "not a client's to give"},
	} {
		o := objectOptions{headers: []string{c.header}, updates: c.updates, timestamp: "1000.5"}
		list, at, err := o.fields()
		if c.say == "" && (err != nil || len(list) != 1 || at != timestamp.Timestamp{Raw: 1000_50000}) || c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)) {
			t.Errorf("%q: %v, %v", c.header, list, err)
		}
	}
}

// A file gets its name in the end, or is not there; a pipe or a device is written to, not replaced.
func TestWhereAnObjectGoes(t *testing.T) {
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, whole := range []bool{false, true} {
		out, publish, abort, err := (&objectOptions{output: file}).open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, "new"); err != nil {
			t.Fatal(err)
		}
		want := "old"
		if whole {
			want = "new"
			if err := publish(); err != nil {
				t.Fatal(err)
			}
		}
		abort()
		if b, err := os.ReadFile(file); err != nil || string(b) != want {
			t.Errorf("whole %v: %q, %v", whole, b, err)
		}
	}
	read := make(chan string)
	go func() {
		b, err := os.ReadFile(pipe)
		if err != nil {
			t.Error(err)
		}
		read <- string(b)
	}()
	out, publish, abort, err := (&objectOptions{output: pipe}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer abort()
	if _, err := io.WriteString(out, "through"); err != nil {
		t.Fatal(err)
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "through" {
		t.Errorf("the pipe had %q", got)
	}
	if st, err := os.Lstat(pipe); err != nil || st.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe is %v, %v", st, err)
	}
	if _, _, _, err := (&objectOptions{output: dir}).open(); err == nil {
		t.Error("a folder is no place for an object")
	}
	if names, _ := filepath.Glob(filepath.Join(dir, ".*")); names != nil {
		t.Errorf("left: %q", names)
	}
}

// An archive that is of other bytes than it was, and has their MD5, is named. A file has the right bytes nevertheless; what went to standard output is no
// object, and no file is left half written.
func TestABadArchiveIsNamedAndDoneWithout(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	swift, err := policy.Load(c.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(swift.Policies, func(p *policy.Policy) bool { return p.Type == policy.ErasureCoding && p.Parity > 1 })
	pol := swift.Policies[i]
	const name = "/a/c/o"
	work := t.TempDir()
	file, to := filepath.Join(work, "file"), filepath.Join(work, "got")
	want := strings.Repeat("imping ", 1000)
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
	object := func(verb string, more ...string) (int, string, string) {
		t.Helper()
		return runImping(t, append([]string{"object", verb, "--swift-conf", c.SwiftConf(), "--policy", pol.Name, name}, more...)...)
	}
	if status, out, problems := object("put", file); status != exitDone {
		t.Fatalf("status %d: %s%s", status, out, problems)
	}
	var archive, dev string
	for _, node := range c.Nodes() {
		for _, d := range c.Devices(node) {
			found, _ := filepath.Glob(filepath.Join(c.DevicePath(d), pol.DataDir(), "*", "*", "*", "*#1#d.data"))
			if len(found) > 0 {
				archive, dev = found[0], d
			}
		}
	}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := diskfile.ReadMetadata(archive)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	sum := md5.Sum(b)
	meta["ETag"] = hex.EncodeToString(sum[:])
	if err := os.WriteFile(archive, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := scenario.SetMetadata(archive, pickle.EncodeMetadata(meta, slices.Sorted(maps.Keys(meta)))); err != nil {
		t.Fatal(err)
	}
	bad := "/" + dev + ", fragment 1: the archive contradicts the others"
	status, _, problems := object("get", "-o", to)
	if got, err := os.ReadFile(to); status != exitDone || err != nil || string(got) != want || !strings.Contains(problems, bad) {
		t.Errorf("status %d, %d bytes, %v: %s", status, len(got), err, problems)
	}
	if status, _, problems := object("get"); status != exitFailed || !strings.Contains(problems, bad) || !strings.Contains(problems, "what was written is no object") {
		t.Errorf("status %d: %s", status, problems)
	}
	if status, out, problems := object("get", "--range", "0-99"); status != exitDone || len(out) != 100 {
		t.Errorf("status %d, %d bytes: %s", status, len(out), problems)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}
