package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
