package server

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inCache is how many bytes of a file are in the page cache.
func inCache(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	there := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&there[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, page := range there {
		n += int(page & 1)
	}
	return n * os.Getpagesize()
}

// What keep_cache_size and keep_cache_private do not keep is gone from the page cache once it was sent, also where the client is
// slower than the disk: what waits in the socket must be no page of the file. Swift: BaseDiskFileReader.__iter__, _drop_cache.
func TestWhatWasSentDoesNotStayInTheCache(t *testing.T) {
	devices := t.TempDir()
	content := randomBytes(12<<20 + 17)
	path := filepath.Join(devices, hashDir(testSwift().Policies[0], 7, "/a/c/o"), t2+".data")
	writeObjectFile(t, path, content, metadata("/a/c/o", t2, content))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	empty := func() int {
		if err := f.Sync(); err != nil { // what is dirty can not be dropped
			t.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		return inCache(t, path)
	}
	if n := empty(); n > 0 {
		t.Skipf("this file system keeps %d bytes of %d in the cache", n, len(content))
	}
	s := ours(t, devices, nil)
	for _, header := range []string{"A: b", "Range: bytes=1-"} { // looked at, and not
		empty()
		w := dial(t, s.addr)
		if _, err := io.WriteString(w, request("GET", "/sda/7/a/c/o", header, "Connection: close")); err != nil {
			t.Fatal(err)
		}
		total := 0
		buf := make([]byte, 64<<10)
		for {
			n, err := w.Read(buf)
			if total += n; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if total < len(content) {
			t.Fatalf("%s: only %d bytes came", header, total)
		}
		waitFor(t, "the connection to end", func() bool { return s.count() == 0 })
		if n := inCache(t, path); n > 512<<10 {
			t.Errorf("%s: %d bytes of %d are still in the page cache", header, n, len(content))
		}
	}
}
