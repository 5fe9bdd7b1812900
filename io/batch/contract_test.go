package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// contract runs a test under each engine of this machine, and under the ring as an older kernel would have it.
func contract(t *testing.T, f func(t *testing.T, e Engine, dir string)) {
	engines := map[string]func(t *testing.T) Engine{
		"plain":        func(*testing.T) Engine { return newPlain(4) },
		"uring":        func(t *testing.T) Engine { return ringOf(t, false) },
		"uring of 6.1": func(t *testing.T) Engine { return ringOf(t, true) },
	}
	r, w, err := os.Pipe() // the runtime opens what it polls with
	must(t, err)
	r.Close()
	w.Close()
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			e := start(t)
			f(t, e, t.TempDir())
			e.Close()
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors are open, %d were", after, before)
			}
		})
	}
}

func ringOf(t *testing.T, old bool) *uring {
	t.Helper()
	u, err := newURing(workers, old)
	if err != nil {
		if os.Getenv(forbiddenEnv) == "" {
			t.Fatalf("this machine should have io_uring: %v", err)
		}
		t.SkipNow() // the test of the refusal has seen to it
	}
	return u
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fileOps fills a temporary file in dir.
func fileOps(dir string, content ...[]byte) []Op {
	ops := []Op{{Kind: Open, Then: true, Name: dir, Flags: unix.O_TMPFILE | unix.O_RDWR, Mode: 0o640}}
	size := int64(0)
	for _, b := range content {
		ops = append(ops, Op{Kind: Write, Then: true, File: Opened, Buf: b, Off: size})
		size += int64(len(b))
	}
	return append(ops, Op{Kind: SetXattr, Then: true, File: Opened, Name: "user.swift.metadata", Buf: []byte("value")}, Op{Kind: Sync, File: Opened})
}

// hasAttributes tells whether the file system of a folder takes user attributes (tmpfs before 6.6 does not).
func hasAttributes(dir string) bool { return unix.Setxattr(dir, "user.test", nil, 0) == nil }

func TestAFileIsMadeAndNamed(t *testing.T) {
	contract(t, func(t *testing.T, e Engine, dir string) {
		ctx := t.Context()
		content := [][]byte{bytes.Repeat([]byte("a"), 70_000), nil, []byte("the end")}
		ops := fileOps(dir, content...)
		if !hasAttributes(dir) {
			ops = append(ops[:4], ops[5])
		}
		ops = append(ops, Op{Kind: Mkdir, Then: true, Name: dir + "/d", Mode: 0o750}, Op{Kind: SyncDir, Name: dir})
		must(t, e.Do(ctx, ops))
		fd := ops[0].File
		if ops[1].N != 70_000 || ops[2].N != 0 || ops[3].N != 7 {
			t.Errorf("%d, %d and %d bytes were written", ops[1].N, ops[2].N, ops[3].N)
		}
		must(t, e.Do(ctx, []Op{{Kind: Allocate, Then: true, File: fd, Flags: unix.FALLOC_FL_KEEP_SIZE, Size: 1 << 20}, {Kind: WriteOut, Then: true, File: fd}, {Kind: SyncData, Then: true, File: fd}, {Kind: DropCache, Then: true, File: fd, Size: 70_000}, {Kind: DropCache, Then: true, File: fd}, {Kind: Truncate, Then: true, File: fd, Size: 70_003}, {Kind: Sync, File: fd}}))
		must(t, e.Do(ctx, []Op{{Kind: Link, Then: true, File: fd, To: dir + "/d/x"}, {Kind: SyncDir, Then: true, Name: dir + "/d"}, {Kind: SyncDir, Then: true, Name: dir}, {Kind: Close, File: fd}}))
		var st unix.Statx_t
		must(t, e.Do(ctx, []Op{{Kind: Rename, Then: true, Name: dir + "/d/x", To: dir + "/d/y"}, {Kind: Stat, Name: dir + "/d/y", Stat: &st}}))
		must(t, e.Do(ctx, []Op{{Kind: HardLink, Name: dir + "/d/y", To: dir + "/z"}}))
		b, err := os.ReadFile(dir + "/z")
		must(t, err)
		if !bytes.Equal(b, append(content[0], "the"...)) {
			t.Errorf("the file has %d bytes, and is not what was written", len(b))
		}
		var is unix.Stat_t
		must(t, unix.Stat(dir+"/z", &is))
		if st.Ino != is.Ino || st.Size != 70_003 || is.Nlink != 2 || is.Mode&0o777 != 0o640&^umask() {
			t.Errorf("the file is %+v, and was said to be %+v", is, st)
		}
		if hasAttributes(dir) {
			value := make([]byte, 10)
			if n, err := unix.Getxattr(dir+"/z", "user.swift.metadata", value); err != nil || string(value[:n]) != "value" {
				t.Errorf("its attribute: %q, %v", value[:max(n, 0)], err)
			}
		}
		must(t, e.Do(ctx, []Op{{Kind: Unlink, Then: true, Name: dir + "/d/y"}, {Kind: Unlink, Then: true, Name: dir + "/z"}, {Kind: Rmdir, Name: dir + "/d"}}))
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Errorf("there is %v, %v", names, err)
		}
	})
}

func umask() uint32 {
	m := unix.Umask(0o022)
	unix.Umask(m)
	return uint32(m)
}

// Whatever fails, the error is that of the system call, and nothing behind it in its chain changes a name or closes a descriptor.
func TestAFailureCutsTheChain(t *testing.T) {
	contract(t, func(t *testing.T, e Engine, dir string) {
		file := filepath.Join(dir, "file")
		must(t, os.WriteFile(file, []byte("x"), 0o644))
		must(t, os.Mkdir(dir+"/full", 0o755))
		must(t, os.WriteFile(dir+"/full/x", nil, 0o644))
		f, err := os.Open(file)
		must(t, err)
		defer f.Close()
		tmp := []Op{{Kind: Open, Name: dir, Flags: unix.O_TMPFILE | unix.O_WRONLY, Mode: 0o600}}
		must(t, e.Do(t.Context(), tmp))
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		defer w.Close()
		ro, pipe := int(f.Fd()), int(w.Fd())
		for _, c := range []struct {
			op   Op
			want unix.Errno
		}{
			{Op{Kind: Open, Name: dir + "/missing/file", Flags: unix.O_RDONLY}, unix.ENOENT},
			{Op{Kind: Open, Name: file, Flags: unix.O_TMPFILE | unix.O_WRONLY, Mode: 0o600}, unix.ENOTDIR},
			{Op{Kind: Allocate, File: ro, Size: 1}, unix.EBADF},
			{Op{Kind: Allocate, File: tmp[0].File}, unix.EINVAL},
			{Op{Kind: Write, File: ro, Buf: []byte("x")}, unix.EBADF},
			{Op{Kind: Truncate, File: ro}, unix.EINVAL},
			{Op{Kind: SetXattr, File: ro, Name: "nonsense.x", Buf: []byte("x")}, unix.EOPNOTSUPP},
			{Op{Kind: Sync, File: pipe}, unix.EINVAL},
			{Op{Kind: SyncData, File: pipe}, unix.EINVAL},
			{Op{Kind: WriteOut, File: pipe}, unix.ESPIPE},
			{Op{Kind: DropCache, File: pipe}, unix.ESPIPE},
			{Op{Kind: Close, File: 1 << 20}, unix.EBADF},
			{Op{Kind: Link, File: tmp[0].File, To: file}, unix.EEXIST},
			{Op{Kind: Link, File: tmp[0].File, To: dir + "/missing/x"}, unix.ENOENT},
			{Op{Kind: Rename, Name: dir + "/missing", To: file}, unix.ENOENT},
			{Op{Kind: Rename, Name: file, To: dir + "/full"}, unix.EISDIR},
			{Op{Kind: Rename, Name: file, To: dir + "/full", Flags: unix.RENAME_NOREPLACE}, unix.EEXIST},
			{Op{Kind: HardLink, Name: file, To: dir + "/full/x"}, unix.EEXIST},
			{Op{Kind: Unlink, Name: dir + "/missing"}, unix.ENOENT},
			{Op{Kind: Unlink, Name: dir + "/full"}, unix.EISDIR},
			{Op{Kind: Mkdir, Name: dir + "/full", Mode: 0o755}, unix.EEXIST},
			{Op{Kind: Rmdir, Name: dir + "/full"}, unix.ENOTEMPTY},
			{Op{Kind: Stat, Name: dir + "/missing", Stat: &unix.Statx_t{}}, unix.ENOENT},
			{Op{Kind: SyncDir, Name: dir + "/missing"}, unix.ENOENT},
			{Op{Kind: SyncDir, Name: file}, unix.ENOTDIR},
		} {
			for _, behind := range []Op{
				{Kind: Unlink, Name: file}, {Kind: Mkdir, Name: dir + "/new", Mode: 0o755}, {Kind: Rmdir, Name: dir + "/empty"},
				{Kind: Close, File: tmp[0].File}, {Kind: Sync, File: tmp[0].File}, {Kind: SyncDir, Name: dir},
			} {
				_ = os.Mkdir(dir+"/empty", 0o755)
				ops := []Op{c.op, behind, {Kind: Close, File: tmp[0].File}}
				ops[0].Then, ops[1].Then = true, true
				if err := e.Do(t.Context(), ops); err != c.want || ops[0].Err != c.want || ops[1].Err != ErrCut || ops[2].Err != ErrCut {
					t.Errorf("%v, then %v: %v; %v, then %v and %v, and not %v", c.op.Kind, behind.Kind, err, ops[0].Err, ops[1].Err, ops[2].Err, c.want)
				}
				_, gone := os.Stat(file)
				_, made := os.Stat(dir + "/new")
				_, removed := os.Stat(dir + "/empty")
				if _, closed := unix.FcntlInt(uintptr(tmp[0].File), unix.F_GETFD, 0); gone != nil || made == nil || removed != nil || closed != nil {
					t.Fatalf("%v failed, and %v was done: %v %v %v %v", c.op.Kind, behind.Kind, gone, made, removed, closed)
				}
			}
		}
		must(t, e.Do(t.Context(), []Op{{Kind: Close, File: tmp[0].File}}))
	})
}

// A failure in the middle does not spare the operations before it, nor what other chains do.
func TestChainsFailAlone(t *testing.T) {
	contract(t, func(t *testing.T, e Engine, dir string) {
		ops := fileOps(dir, []byte("abc"))
		ops[2].Name = "nonsense.x"
		ops = append(ops, Op{Kind: Mkdir, Name: dir + "/other", Mode: 0o755})
		if err := e.Do(t.Context(), ops); err != unix.EOPNOTSUPP || ops[0].Err != nil || ops[1].Err != nil || ops[3].Err != ErrCut || ops[4].Err != nil {
			t.Errorf("%v, of %+v", err, ops)
		}
		must(t, e.Do(t.Context(), []Op{{Kind: Close, File: ops[0].File}, {Kind: Rmdir, Name: dir + "/other"}}))
	})
}

func TestNonsenseIsRefusedAsAWhole(t *testing.T) {
	contract(t, func(t *testing.T, e Engine, dir string) {
		do := Op{Kind: Mkdir, Name: dir + "/made", Mode: 0o755}
		long := strings.Repeat("x", nameSize)
		for want, ops := range map[string][]Op{
			"operation 2 of 2 (operation 0) is none":                                 {do, {Name: "x"}},
			"operation 2 of 2 (operation 99) is none":                                {do, {Kind: 99, Name: "x"}},
			"operation 3 of 3 (link) gives a name and is not the first of its chain": {do, {Kind: Sync, Then: true, File: 1}, {Kind: Link, File: 1, To: "x"}},
			"operation 3 of 3 (rename) gives a name and is not":                      {do, {Kind: Close, Then: true, File: 1}, {Kind: Rename, Name: "y", To: "x"}},
			"operation 3 of 3 (hard link) gives a name and is not":                   {do, {Kind: Unlink, Then: true, Name: "x"}, {Kind: HardLink, Name: "y", To: "x"}},
			"(open) is not the first of its chain":                                   {do, {Kind: Unlink, Then: true, Name: "x"}, {Kind: Open, Name: "y"}},
			"(fsync) has the descriptor -1":                                          {do, {Kind: Open, Name: dir}, {Kind: Sync, File: Opened}},
			"(close) has the descriptor -2":                                          {do, {Kind: Close, File: -2}},
			`(write) has the name "x"`:                                               {do, {Kind: Write, File: 1, Name: "x"}},
			`(unlink) has the name ""`:                                               {do, {Kind: Unlink}},
			`(setxattr) has the name ""`:                                             {do, {Kind: SetXattr, File: 1}},
			`(link) has the new name ""`:                                             {do, {Kind: Link, File: 1}},
			`(unlink) has the new name "y"`:                                          {do, {Kind: Unlink, Name: "x", To: "y"}},
			"has a name with a NUL":                                                  {do, {Kind: Unlink, Name: "x\x00y"}},
			"(unlink): file name too long":                                           {do, {Kind: Unlink, Name: long}},
			"(rename): file name too long":                                           {do, {Kind: Rename, Name: "x", To: long}},
			"is of 0 bytes at offset -1":                                             {do, {Kind: Write, File: 1, Off: -1}},
			"(stat) has nowhere to tell":                                             {do, {Kind: Stat, Name: "x"}},
			"is the last and is not the end of its chain":                            {do, {Kind: Stat, Then: true, Name: "x", Stat: &unix.Statx_t{}}},
		} {
			if err := e.Do(t.Context(), ops); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, and not %q", err, want)
			}
		}
		if _, err := os.Stat(do.Name); err == nil {
			t.Error("part of a refused list was done")
		}
		must(t, e.Do(t.Context(), nil))
	})
}

// ending is a context that has ended when it is looked at for the n-th time.
type ending struct {
	context.Context
	n atomic.Int32
}

func (c *ending) Err() error {
	if c.n.Add(-1) > 0 {
		return nil
	}
	return context.Canceled
}

func (c *ending) Value(any) any { return nil }

// What has begun when the context ends is done, and nothing else is.
func TestNothingBeginsAfterTheContext(t *testing.T) {
	contract(t, func(t *testing.T, e Engine, dir string) {
		for begun := range 3 {
			ctx := &ending{Context: context.Background()}
			ctx.n.Store(int32(begun) + 1)
			ops := []Op{{Kind: Mkdir, Then: true, Name: dir + "/0", Mode: 0o755}, {Kind: Mkdir, Then: true, Name: dir + "/1", Mode: 0o755},
				{Kind: Mkdir, Then: true, Name: dir + "/2", Mode: 0o755}, {Kind: Mkdir, Name: dir + "/3", Mode: 0o755}}
			if err := e.Do(ctx, ops); !errors.Is(err, context.Canceled) {
				t.Errorf("%d begun: %v", begun, err)
			}
			for i, op := range ops {
				done := os.Remove(op.Name) == nil
				if done != (i < begun) || (op.Err == nil) != done || i == begun && op.Err != context.Canceled || i > begun && op.Err != ErrCut {
					t.Errorf("%d begun, the operation %d: done %v, %v", begun, i, done, op.Err)
				}
			}
		}
	})
}

// Many callers, lists longer than the ring and chains longer than it: all is done, and nothing is mixed up.
func TestManyCallers(t *testing.T) {
	contract(t, func(t *testing.T, e Engine, dir string) {
		attributes := hasAttributes(dir)
		var callers sync.WaitGroup
		for g := range 48 {
			callers.Go(func() {
				for i := range 6 {
					name := fmt.Sprintf("%s/%d-%d", dir, g, i)
					var ops []Op
					for j := range 5 {
						one := fileOps(dir, []byte(name), fmt.Append(nil, j))
						if !attributes {
							one = append(one[:3], one[4])
						}
						ops = append(ops, one...)
					}
					if err := e.Do(context.Background(), ops); err != nil {
						t.Error(err)
						return
					}
					var names []Op
					for j := range 5 {
						fd := ops[j*len(ops)/5].File
						names = append(names, Op{Kind: Link, Then: true, File: fd, To: fmt.Sprint(name, ".", j)}, Op{Kind: SyncDir, Then: true, Name: dir}, Op{Kind: Close, File: fd})
					}
					if err := e.Do(context.Background(), names); err != nil {
						t.Error(err)
					}
				}
			})
		}
		callers.Wait()
		for g := range 48 {
			for i := range 6 {
				for j := range 5 {
					name := fmt.Sprintf("%s/%d-%d", dir, g, i)
					if b, err := os.ReadFile(fmt.Sprint(name, ".", j)); string(b) != fmt.Sprint(name, j) {
						t.Fatalf("%s.%d holds %q: %v", name, j, b, err)
					}
				}
			}
		}
		stats := make([]Op, 3*depth)
		for i := range stats {
			stats[i] = Op{Kind: Stat, Name: fmt.Sprintf("%s/%d-%d.%d", dir, i%48, i%6, i%5), Stat: &unix.Statx_t{}}
		}
		must(t, e.Do(t.Context(), stats))
		for _, op := range stats {
			if op.Stat.Size == 0 {
				t.Fatalf("%s was not looked at", op.Name)
			}
		}
		long := make([]Op, 2*depth+10)
		var want []byte
		for i := range long {
			b := fmt.Appendf(nil, "%06d", i)
			long[i] = Op{Kind: Write, Then: i < len(long)-1, File: Opened, Buf: b, Off: int64(len(want))}
			want = append(want, b...)
		}
		long = append([]Op{{Kind: Open, Then: true, Name: dir + "/long", Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o644}}, long...)
		must(t, e.Do(t.Context(), long))
		must(t, e.Do(t.Context(), []Op{{Kind: Close, File: long[0].File}}))
		if b, err := os.ReadFile(dir + "/long"); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%d bytes of %d, or others: %v", len(b), len(want), err)
		}
	})
}

// What does not fit is told, and cuts. (The folder is a tmpfs of 1 MiB where the test of file systems runs this.)
func TestAShortWriteCuts(t *testing.T) {
	if os.Getenv(smallEnv) == "" {
		t.SkipNow() // TestOnEveryFileSystem sets it
	}
	contract(t, func(t *testing.T, e Engine, dir string) {
		ops := []Op{{Kind: Open, Then: true, Name: dir, Flags: unix.O_TMPFILE | unix.O_WRONLY, Mode: 0o600},
			{Kind: Write, Then: true, File: Opened, Buf: make([]byte, 2<<20)}, {Kind: Sync, File: Opened}}
		if err := e.Do(t.Context(), ops); err != io.ErrShortWrite || ops[1].N <= 0 || ops[1].N >= 2<<20 || ops[2].Err != ErrCut {
			t.Errorf("%v: %d bytes of %d were written, then %v", err, ops[1].N, 2<<20, ops[2].Err)
		}
		ops[1] = Op{Kind: Write, File: ops[0].File, Off: int64(ops[1].N), Buf: make([]byte, 1<<20)}
		if err := e.Do(t.Context(), ops[1:2]); err != unix.ENOSPC {
			t.Errorf("and then: %v", err)
		}
		must(t, e.Do(t.Context(), []Op{{Kind: Close, File: ops[0].File}}))
	})
}
