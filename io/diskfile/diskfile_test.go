package diskfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imping/lab/oracle"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

// device makes DEVICES/sda and a Manager of it that collects what it is warned of.
func device(t *testing.T) (m *Manager, root string, warned func() string) {
	t.Helper()
	syscall.Umask(0o022)
	root = t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	m = newManager(t, root)
	var mu sync.Mutex
	var all strings.Builder
	m.warn = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&all, format+"\n", args...)
	}
	return m, root, func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// put writes an object's durable fragment of index 1 and returns its path and hash.
func put(t testing.TB, root string, part int, name, content string, change func(meta map[string]string)) (path, hash string) {
	t.Helper()
	at := timestamp.FromTime(time.Now().Add(-time.Hour))
	hash = objhash.Hex(testHasher.Object(name))
	path = filepath.Join(root, "sda/objects-1", strconv.Itoa(part), objhash.Suffix(hash), hash, at.Internal()+"#1#d.data")
	meta := map[string]string{
		"name": name, "X-Timestamp": at.Internal(), "Content-Length": strconv.Itoa(len(content)),
		"ETag": "x", "Content-Type": "text/plain", "X-Object-Sysmeta-Ec-Frag-Index": "1",
	}
	if change != nil {
		change(meta)
	}
	writeFile(t, path, content, meta, time.Now())
	return path, hash
}

func TestDamagedArchivesAreCorruptAndNameTheTrouble(t *testing.T) {
	m, root, _ := device(t)
	const name = "/a/c/o"
	for what, c := range map[string]struct {
		change func(map[string]string)
		after  func(path string)
		want   string
	}{
		"no name":            {change: func(m map[string]string) { delete(m, "name") }, want: "missing name metadata"},
		"other name":         {change: func(m map[string]string) { m["name"] = "/a/c/p" }, want: "does not match directory name"},
		"short name":         {change: func(m map[string]string) { m["name"] = "/a/c" }, want: "does not match directory name"},
		"no length":          {change: func(m map[string]string) { delete(m, "Content-Length") }, want: "missing content-length"},
		"length no number":   {change: func(m map[string]string) { m["Content-Length"] = "x" }, want: "bad metadata content-length"},
		"truncated":          {after: func(p string) { check(t, os.Truncate(p, 3)) }, want: "content-length 5 does not match actual object size 3"},
		"grown":              {after: func(p string) { check(t, os.Truncate(p, 30)) }, want: "does not match actual object size 30"},
		"wrong time":         {change: func(m map[string]string) { m["X-Timestamp"] = "1.00000" }, want: "X-Timestamp \"1.00000\" in metadata"},
		"no time":            {change: func(m map[string]string) { delete(m, "X-Timestamp") }, want: "X-Timestamp \"\" in metadata"},
		"wrong index":        {change: func(m map[string]string) { m["X-Object-Sysmeta-Ec-Frag-Index"] = "2" }, want: "fragment index \"2\" in metadata"},
		"delete-at":          {change: func(m map[string]string) { m["X-Delete-At"] = "soon" }, want: "bad metadata x-delete-at"},
		"no metadata":        {after: func(p string) { check(t, unix.Removexattr(p, metadataKey)) }, want: "missing metadata"},
		"flipped bit":        {after: func(p string) { flip(t, p) }, want: "metadata checksum mismatch"},
		"not a pickle":       {after: func(p string) { setMetadata(t, p, []byte("hello"), true) }, want: "exception reading metadata"},
		"hostile pickle":     {after: func(p string) { setMetadata(t, p, []byte("cos\nsystem\n(S'true'\ntR."), true) }, want: "not allowed"},
		"keys of no text":    {after: func(p string) { setMetadata(t, p, []byte("}I1\nVx\ns."), true) }, want: "key of type int"},
		"wrong checksum":     {after: func(p string) { check(t, unix.Setxattr(p, checksumKey, []byte("abc"), 0)) }, want: "checksum mismatch"},
		"directory for data": {after: func(p string) { check(t, os.Remove(p)); check(t, os.Mkdir(p, 0o755)) }, want: "not a regular file"},
		"pipe for data":      {after: func(p string) { check(t, os.Remove(p)); check(t, syscall.Mkfifo(p, 0o644)) }, want: "not a regular file"},
	} {
		path, hash := put(t, root, 7, name, "12345", c.change)
		if c.after != nil {
			c.after(path)
		}
		o, err := m.Open("sda", 7, hash, 1, false)
		if e, ok := errors.AsType[*CorruptError](err); !ok || e.Path != path || !strings.Contains(e.Reason, c.want) {
			t.Errorf("%s: Open gives %v, %v; want a CorruptError with %q", what, o, err, c.want)
		}
		check(t, os.Remove(path))
	}
}

// Metadata that match their checksum are whole, whatever else was left on the file.
func TestMetadataEndWhereTheirChecksumSays(t *testing.T) { // rule 31
	m, root, _ := device(t)
	path, hash := put(t, root, 7, "/a/c/o", "12345", nil)
	check(t, unix.Setxattr(path, metadataKey+"1", []byte("of something else"), 0))
	o, err := m.Open("sda", 7, hash, 1, false)
	check(t, err)
	defer o.Close()
	if o.Name != "/a/c/o" {
		t.Errorf("the name is %q", o.Name)
	}
	check(t, unix.Removexattr(path, checksumKey))
	if _, err := ReadMetadata(path); err != nil { // behind a pickle's end nothing is read
		t.Error(err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func flip(t testing.TB, path string) {
	t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Getxattr(path, metadataKey, b)
	check(t, err)
	b[n/2] ^= 1
	check(t, unix.Setxattr(path, metadataKey, b[:n], 0))
}

func TestOpenArchiveIsAlsoAFile(t *testing.T) {
	m, root, _ := device(t)
	_, hash := put(t, root, 7, "/a/c/o", "0123456789", nil)
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(list)
	}
	before := descriptors()
	o, err := m.View("sda", "7", View{Name: "/a/c/o", FragIndex: -1})
	check(t, err)
	if o.Hash != hash {
		t.Fatal(o.Hash)
	}
	b := make([]byte, 4)
	if n, err := o.ReadAt(b, 8); n != 2 || err != io.EOF || string(b[:n]) != "89" {
		t.Errorf("beyond the end: %d, %v, %q", n, err, b)
	}
	if n, err := o.ReadAt(b, -1); n != 0 || err == nil || !strings.Contains(err.Error(), o.Path) {
		t.Errorf("before the beginning: %d, %v", n, err)
	}
	if n, err := o.ReadAt(nil, 3); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	f := o.File()
	if all, err := io.ReadAll(f); err != nil || string(all) != "0123456789" || o.File() != f || f.Name() != o.Path {
		t.Errorf("%v, %q of %s", err, all, f.Name())
	}
	if n, err := o.ReadAt(b, 3); n != 4 || err != nil || string(b) != "3456" {
		t.Errorf("beside the file: %d, %v, %q", n, err, b)
	}
	check(t, o.Close())
	check(t, o.Close())
	if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file outlives its archive: %v", err)
	}
	o.DropCache(0, 0)
	if _, err := o.ReadAt(b, 0); !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), o.Path) {
		t.Errorf("a closed archive is read: %v", err)
	}
	again, err := m.View("sda", "7", View{Name: "/a/c/o", FragIndex: -1})
	check(t, err)
	check(t, again.Close())
	if f := again.File(); f != nil {
		t.Error("a closed archive has a file")
	}
	if _, err := m.View("sda", "7", View{Name: "/a/c/other", FragIndex: -1}); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors, there were %d", after, before)
	}
}

func TestOpenArchiveIsReadAtAnyPlace(t *testing.T) {
	m, root, _ := device(t)
	path, hash := put(t, root, 7, "/a/c/ä", "0123456789", func(m map[string]string) {
		m["X-Delete-At"] = "1"
		m["X-Object-Meta-\xff"] = "\x00\xfe"
	})
	o, err := m.Open("sda", 7, hash, -1, false)
	check(t, err)
	b := make([]byte, 4)
	if n, err := o.ReadAt(b, 3); n != 4 || err != nil || string(b) != "3456" {
		t.Fatalf("%d, %v, %q", n, err, b)
	}
	o.DropCache(0, 10)
	if o.Path != path || o.Name != "/a/c/ä" || o.FragIndex != 1 || o.Length != 10 || o.Durable != o.Data || !o.Meta.IsZero() || o.FileMeta != nil {
		t.Fatalf("%+v", o)
	}
	if o.DataMeta["X-Object-Meta-\xff"] != "\x00\xfe" {
		t.Fatalf("raw bytes were changed: %q", o.DataMeta)
	}
	meta, err := ReadMetadata(path)
	check(t, err)
	if diff := cmp.Diff(o.DataMeta, meta); diff != "" {
		t.Fatal(diff)
	}
	check(t, o.Close())
	check(t, o.Close())
	if _, err := o.ReadAt(b, 0); err == nil {
		t.Fatal("a closed archive is read")
	}
	if _, err := m.Open("sda", 7, hash, 2, false); !errors.Is(err, ErrNotExist) {
		t.Fatalf("a fragment that is not there: %v", err)
	}
	if _, err := m.Open("sda", 8, hash, 1, false); !errors.Is(err, ErrNotExist) {
		t.Fatalf("a partition that is not there: %v", err)
	}
	if _, err := m.Open("sda", 7, "../../../etc", 1, false); err == nil {
		t.Fatal("a path is taken for a hash")
	}
}

func TestTombstoneGivesNameAndTime(t *testing.T) {
	m, root, _ := device(t)
	at := timestamp.FromTime(time.Now())
	at.Offset = 3
	hash := objhash.Hex(testHasher.Object("/a/c/o"))
	path := filepath.Join(root, "sda/objects-1/7", objhash.Suffix(hash), hash, at.Internal()+".ts")
	writeFile(t, path, "", map[string]string{"name": "/a/c/o", "X-Timestamp": at.Internal()}, time.Now())
	_, err := m.Open("sda", 7, hash, 1, false)
	if e, ok := errors.AsType[*DeletedError](err); !ok || e.Name != "/a/c/o" || e.Timestamp != at {
		t.Fatalf("%v", err)
	}
	check(t, unix.Removexattr(path, metadataKey))
	_, err = m.Open("sda", 7, hash, 1, false)
	if e, ok := errors.AsType[*CorruptError](err); !ok || e.Path != path {
		t.Fatalf("%v", err)
	}
}

// Swift writes pieces of 64 KiB, which need a file system that ext4 is not; its own
// function can be told to write smaller ones.
func TestMetadataInPiecesIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	check(t, os.WriteFile(path, nil, 0o600))
	var sizes map[string]int
	oracle.Ask(t, `
import sys, json, xattr
from swift.obj import diskfile
path = json.load(sys.stdin)
diskfile.write_metadata(path, {'name': '/a/c/\xe4\u65e5', 'ETag': 'x' * 700, 'Empty': '', 'n': '1'}, xattr_size=100)
json.dump({k: len(xattr.getxattr(path, k)) for k in xattr.listxattr(path)}, sys.stdout)
`, path, &sizes)
	if len(sizes) < 9 {
		t.Fatalf("Swift wrote only %v", sizes)
	}
	want := map[string]string{"name": "/a/c/ä日", "ETag": strings.Repeat("x", 700), "Empty": "", "n": "1"}
	got, err := ReadMetadata(path)
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	stale := metadataKey + strconv.Itoa(len(sizes)-1)
	check(t, unix.Setxattr(path, stale, []byte("what an earlier one had"), 0)) // Swift refuses it, and quarantines
	if _, err = ReadMetadata(path); err == nil {
		t.Fatal("a piece more of many is read")
	}
	check(t, unix.Removexattr(path, stale))
	check(t, unix.Removexattr(path, checksumKey)) // as old versions left it
	if got, err = ReadMetadata(path); err != nil || !maps.Equal(got, want) {
		t.Fatalf("without checksum: %v, %v", got, err)
	}
	check(t, unix.Removexattr(path, metadataKey+"3"))
	if _, err = ReadMetadata(path); err == nil {
		t.Fatal("metadata with a hole is read")
	}
	if _, err = ReadMetadata(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
}

func TestEndlessMetadataIsRefused(t *testing.T) {
	piece := strings.Repeat("x", 100)
	_, err := readMetadata("f", func(name string, b []byte) (int, error) { return copy(b, piece), nil })
	if e, ok := errors.AsType[*CorruptError](err); !ok || !strings.Contains(e.Reason, "pieces") {
		t.Fatalf("%v", err)
	}
	// A piece larger than the first buffer.
	raw := string(pickle.EncodeMetadata(map[string]string{"k": strings.Repeat("v", 60_000)}, nil))
	got, err := readMetadata("f", func(name string, b []byte) (int, error) {
		if name != metadataKey {
			return 0, unix.ENODATA
		}
		if len(b) < len(raw) {
			return 0, unix.ERANGE
		}
		return copy(b, raw), nil
	})
	if err != nil || len(got["k"]) != 60_000 {
		t.Fatalf("%v", err)
	}
	_, err = readMetadata("f", func(name string, b []byte) (int, error) { return 0, unix.EACCES })
	if _, ok := errors.AsType[*CorruptError](err); ok || !errors.Is(err, unix.EACCES) {
		t.Fatalf("a missing permission is taken for a corrupt object: %v", err)
	}
}

func TestQuarantineRenamesAndInvalidates(t *testing.T) {
	m, root, _ := device(t)
	var tos []string
	for range 2 {
		_, hash := put(t, root, 7, "/a/c/o", "x", nil)
		to, err := m.Quarantine("sda", 7, hash)
		check(t, err)
		tos = append(tos, to)
		want := filepath.Join(root, "sda/quarantined/objects-1", hash)
		if len(tos) == 1 && to != want || len(tos) == 2 && (!strings.HasPrefix(to, want+"-") || len(to) != len(want)+33) {
			t.Fatalf("quarantined to %s", to)
		}
		names, err := listDir(to)
		if err != nil || len(names) != 1 {
			t.Fatalf("%v, %v", names, err)
		}
		if _, err := m.Open("sda", 7, hash, 1, false); !errors.Is(err, ErrNotExist) {
			t.Fatalf("%v", err)
		}
		b, err := os.ReadFile(filepath.Join(root, "sda/objects-1/7/hashes.invalid"))
		if s := objhash.Suffix(hash) + "\n"; err != nil || string(b) != strings.Repeat(s, len(tos)) {
			t.Fatalf("hashes.invalid is %q, %v", b, err)
		}
		if _, err := m.Quarantine("sda", 7, hash); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%v", err)
		}
		check(t, os.Truncate(filepath.Join(root, "sda/objects-1/7/hashes.invalid"), int64(4*len(tos))))
	}
	if h, _, err := m.SuffixHashes("sda", 7, nil, true); err != nil || len(h) != 0 {
		t.Fatalf("%v, %v", h, err)
	}
}

// rule 38
func TestPartitionsAreTheNumbersInTheDataDirectory(t *testing.T) {
	m, root, _ := device(t)
	parts, unexpected, err := m.Partitions("sda")
	if err != nil || len(parts) != 0 || len(unexpected) != 0 {
		t.Fatalf("%v, %v, %v", parts, unexpected, err)
	}
	data := filepath.Join(root, "sda/objects-1")
	if !isDir(data) {
		t.Fatal("the data directory was not made")
	}
	for _, name := range []string{"10", "9", "0", "007", "-1", "x", "99999999999999999999", "auditor_status_ALL.json", "auditor_status_ALL"} {
		check(t, os.Mkdir(filepath.Join(data, name), 0o755))
	}
	parts, unexpected, err = m.Partitions("sda")
	if err != nil || !slices.Equal(parts, []int{0, 9, 10}) {
		t.Fatalf("%v, %v", parts, err)
	}
	if want := []string{"-1", "007", "99999999999999999999", "auditor_status_ALL", "x"}; !slices.Equal(unexpected, want) {
		t.Fatalf("%q, want %q", unexpected, want)
	}
}

func TestDevicesAreCheckedAsSwiftDoes(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"sda", "stub", "bad name", "up"} {
		check(t, os.Mkdir(filepath.Join(root, name), 0o755))
	}
	check(t, os.WriteFile(filepath.Join(root, "stub/.ismount"), nil, 0o644))
	check(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o644))
	check(t, os.Symlink("sda", filepath.Join(root, "link")))
	check(t, os.Symlink("stub", filepath.Join(root, "stublink")))
	check(t, os.Symlink("/proc", filepath.Join(root, "proclink")))
	devs := []string{"sda", "stub", "bad name", "file", "link", "stublink", "proclink", "absent", "a/b", "s%d", "s~a", "ä"}
	var answer map[string][]string
	const script = `
import sys, json
from swift.common.constraints import check_drive
q = json.load(sys.stdin)
out = {}
for check in ('true', 'false'):
    out[check] = []
    for d in q['Devs']:
        try:
            out[check].append(check_drive(q['Root'], d, check == 'true'))
        except ValueError as e:
            out[check].append('')
json.dump(out, sys.stdout)
`
	for _, c := range []struct {
		root string
		devs []string
	}{{root, devs}, {"/", []string{"proc", "tmp", "root", "dev"}}} {
		oracle.Ask(t, script, map[string]any{"Root": c.root, "Devs": c.devs}, &answer)
		for _, check := range []bool{true, false} {
			m := NewManager(Config{Devices: c.root, MountCheck: check, Policy: testPolicy()})
			for i, d := range c.devs {
				got, err := m.DevicePath(d)
				if want := answer[strconv.FormatBool(check)][i]; got != want {
					t.Errorf("mount_check %v: device %q is %q (%v), Swift's is %q", check, d, got, err, want)
				}
				if _, ok := errors.AsType[*NotMountedError](err); ok != (got == "") {
					t.Errorf("device %q: error %v", d, err)
				}
			}
		}
	}
	m := NewManager(Config{Devices: root, MountCheck: true, Policy: testPolicy()})
	_, _, err1 := m.Partitions("sda")
	_, _, err2 := m.SuffixHashes("sda", 7, nil, true)
	_, err3 := m.Open("sda", 7, strings.Repeat("0", 32), 1, false)
	_, err4 := m.Quarantine("sda", 7, strings.Repeat("0", 32))
	_, err5 := m.LockPartition(context.Background(), "sda", 7, "", time.Second)
	err6 := m.Invalidate("sda", 7, "abc")
	var err7 error
	for _, err := range m.YieldHashes("sda", 7, nil, 1, false) {
		err7 = err
	}
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7} {
		if _, ok := errors.AsType[*NotMountedError](err); !ok {
			t.Errorf("call %d on an unmounted device: %v", i+1, err)
		}
	}
	if names, _ := listDir(filepath.Join(root, "sda")); len(names) != 0 {
		t.Errorf("an unmounted device was written on: %v", names)
	}
}

// Law 4: the same locks as Swift, on the same files.
func TestLocksExcludeSwiftAndEachOther(t *testing.T) {
	m, root, _ := device(t)
	ask := func() (free map[string]bool) {
		t.Helper()
		oracle.Ask(t, `
import sys, json
from swift.common.utils import lock_path
from swift.common.exceptions import LockTimeout
part = json.load(sys.stdin)
out = {}
for name in ('', 'replication'):
    try:
        with lock_path(part, timeout=0.1, name=name):
            out[name] = True
    except LockTimeout:
        out[name] = False
json.dump(out, sys.stdout)
`, m.PartitionPath("sda", 7), &free)
		return free
	}
	ctx := context.Background()
	l, err := m.LockPartition(ctx, "sda", 7, "replication", time.Second)
	check(t, err)
	if l.Path != filepath.Join(root, "sda/objects-1/7/.lock-replication") {
		t.Fatal(l.Path)
	}
	if free := ask(); !free[""] || free["replication"] {
		t.Fatalf("Swift gets %v", free)
	}
	if _, err := m.LockPartition(ctx, "sda", 7, "replication", 30*time.Millisecond); !isLockTimeout(err, l.Path) {
		t.Fatalf("%v", err)
	}
	plain, err := m.LockPartition(ctx, "sda", 7, "", time.Second)
	check(t, err)
	l.Unlock()
	l.Unlock()
	if free := ask(); free[""] || !free["replication"] {
		t.Fatalf("Swift gets %v", free)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := m.LockPartition(cancelled, "sda", 7, "", time.Minute); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	plain.Unlock()
	info, err := os.Stat(plain.Path)
	check(t, err)
	if info.Mode().Perm() != 0o755 {
		t.Fatalf("the lock file has mode %o", info.Mode().Perm())
	}
}

func isLockTimeout(err error, path string) bool {
	e, ok := errors.AsType[*LockTimeoutError](err)
	return ok && e.Path == path && e.Timeout()
}

// rule 19: after taking a lock file, the inode of the descriptor and of the name are
// compared.
func TestLockOfAnUnlinkedFileIsTakenAnew(t *testing.T) {
	m, _, _ := device(t)
	ctx := context.Background()
	first, err := m.LockPartition(ctx, "sda", 7, "", time.Second)
	check(t, err)
	got := make(chan *Lock)
	go func() {
		l, err := m.LockPartition(ctx, "sda", 7, "", time.Minute)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	// Whether or not the other waits already: the lock that it gets is of the new file.
	check(t, os.Remove(first.Path))
	first.Unlock()
	l := <-got
	if l == nil {
		t.FailNow()
	}
	defer l.Unlock()
	if !sameFile(l.fd, l.Path) {
		t.Fatal("the lock is held on a file without a name")
	}
}

func TestManyWritersLoseNoInvalidation(t *testing.T) {
	m, root, _ := device(t)
	var wg sync.WaitGroup
	var suffixes []string
	for i := range 40 {
		name := "/a/c/" + strconv.Itoa(i)
		_, hash := put(t, root, 7, name, "x", nil)
		suffixes = append(suffixes, objhash.Suffix(hash))
	}
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				s := suffixes[w*10+i]
				dir := filepath.Join(root, "sda/objects-1/7", s)
				names, err := listDir(dir)
				if err != nil || len(names) == 0 {
					t.Errorf("%v, %v", names, err)
					return
				}
				at := timestamp.FromTime(time.Now())
				file := filepath.Join(dir, names[0], at.Internal()+"#2#d.data")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := m.Invalidate("sda", 7, s); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 4 {
				if _, _, err := m.SuffixHashes("sda", 7, nil, w%2 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, _, err := m.SuffixHashes("sda", 7, nil, false)
	check(t, err)
	check(t, os.Remove(filepath.Join(root, "sda/objects-1/7/hashes.pkl")))
	want, hashed, err := m.SuffixHashes("sda", 7, nil, false)
	check(t, err)
	if !got.Equal(want) || hashed != len(want) {
		t.Fatalf("kept hashes differ from fresh ones:\n%s", cmp.Diff(want, got))
	}
}

func TestHashesAreReadOnceAndKept(t *testing.T) {
	m, root, _ := device(t)
	_, hash := put(t, root, 7, "/a/c/o", "x", nil)
	s := objhash.Suffix(hash)
	part := m.PartitionPath("sda", 7)
	for i, c := range []struct {
		listdir bool
		recalc  []string
		before  func()
		hashed  int
	}{
		{false, nil, nil, 1},
		{false, nil, nil, 0},
		{true, nil, nil, 0},
		{false, []string{s, "../x", "ABC"}, nil, 1},
		{false, nil, func() { check(t, m.Invalidate("sda", 7, s)) }, 1},
		{false, nil, func() { check(t, os.WriteFile(part+"/hashes.pkl", []byte("junk"), 0o600)) }, 1},
		{false, nil, func() { check(t, os.WriteFile(part+"/hashes.invalid", []byte("what?\n"), 0o600)) }, 1},
		{false, nil, func() { check(t, os.WriteFile(part+"/hashes.invalid", []byte(strings.Repeat("x", 1<<17)), 0o600)) }, 1},
		{false, nil, func() {
			check(t, os.WriteFile(part+"/hashes.pkl", (&suffix.File{Hashes: suffix.Hashes{"001": {None: strings.Repeat("0", 32)}}}).Encode(), 0o600))
		}, 1},
		{true, nil, func() { check(t, os.Mkdir(part+"/ABC", 0o755)) }, 0},
	} {
		if c.before != nil {
			c.before()
		}
		h, hashed, err := m.SuffixHashes("sda", 7, c.recalc, c.listdir)
		if err != nil || hashed != c.hashed || len(h) != 1 || h[s].Empty() {
			t.Fatalf("step %d: %v, %d hashed, want %d, %v", i, h, hashed, c.hashed, err)
		}
		if info, err := os.Stat(part + "/hashes.invalid"); err == nil && info.Size() != 0 {
			t.Fatalf("step %d: hashes.invalid was not emptied", i)
		}
	}
	if h, hashed, err := m.SuffixHashes("sda", 8, []string{"abc"}, true); err != nil || len(h) != 0 || hashed != 0 || exists(m.PartitionPath("sda", 8)) {
		t.Fatalf("a partition that is not there: %v, %d, %v", h, hashed, err)
	}
	check(t, os.WriteFile(m.PartitionPath("sda", 9), nil, 0o600))
	if _, _, err := m.SuffixHashes("sda", 9, nil, true); !errors.Is(err, syscall.ENOTDIR) {
		t.Fatalf("a file for a partition: %v", err)
	}
}

func TestUnchangedHashesAreNotWrittenAgain(t *testing.T) {
	m, root, _ := device(t)
	put(t, root, 7, "/a/c/o", "x", nil)
	var last []byte
	for i := range 3 {
		_, _, err := m.SuffixHashes("sda", 7, nil, true)
		check(t, err)
		b, err := os.ReadFile(filepath.Join(root, "sda/objects-1/7/hashes.pkl"))
		check(t, err)
		if i > 0 && string(b) != string(last) {
			t.Fatalf("hashes.pkl was rewritten:\n%q\n%q", last, b)
		}
		last = b
	}
}

func TestWhatCanNotBeListedIsPassedToWarn(t *testing.T) {
	m, root, warned := device(t)
	_, hash := put(t, root, 7, "/a/c/o", "x", nil)
	s := objhash.Suffix(hash)
	bad := filepath.Join(root, "sda/objects-1/7", s, "0123456789abcdef0123456789abc"+s)
	check(t, os.WriteFile(bad, nil, 0o600))
	check(t, os.Mkdir(filepath.Join(root, "sda/objects-1/7", s, "junk"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "sda/objects-1/7/fff"), nil, 0o600))
	var got []string
	for o, err := range m.YieldHashes("sda", 7, nil, 1, false) {
		check(t, err)
		got = append(got, o.Hash)
	}
	if !slices.Equal(got, []string{hash}) {
		t.Fatalf("%v", got)
	}
	for _, want := range []string{bad, "/junk", "/fff"} {
		if !strings.Contains(warned(), want) {
			t.Errorf("nothing was said of %s:\n%s", want, warned())
		}
	}
	for range m.YieldHashes("sda", 7, nil, 1, false) {
		break
	}
}

func TestOldTemporaryFilesAreRemoved(t *testing.T) {
	m, root, _ := device(t)
	check(t, m.CleanTemporaries("sda"))
	old := filepath.Join(root, "sda/tmp-1/old")
	writeFile(t, old, "", nil, time.Now().Add(-8*24*time.Hour))
	fresh := filepath.Join(root, "sda/tmp-1/fresh")
	writeFile(t, fresh, "", nil, time.Now())
	check(t, os.Mkdir(filepath.Join(root, "sda/tmp-1/dir"), 0o755))
	check(t, m.CleanTemporaries("sda"))
	if exists(old) || !exists(fresh) {
		t.Fatal("wrong files were removed")
	}
}
