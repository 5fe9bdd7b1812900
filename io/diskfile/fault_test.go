package diskfile

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imping/io/batch"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// What the steps of a write are, in their order: nothing gets its name before every byte and
// attribute was synced and the suffix was invalidated, which is done around a commit (rule 21). In a directory that was made for an archive
// nothing is looked for that could have become obsolete.
func TestStepsOfAWriteComeInOrder(t *testing.T) {
	now := timestamp.FromTime(time.Now())
	const begin = "mkdir, open, allocate, "
	for _, c := range []struct {
		name       string
		replicated bool
		named      bool
		op         crashOp
		want       string
	}{
		{"fragment", false, false, crashOp{Kind: "publish", Content: "xx"}, begin + "write, write, setxattr, fsync, invalidate, link, fsync dir, fsync dir, fsync dir, fsync dir"},
		{"durable at once", false, false, crashOp{Kind: "put", Content: "xx"}, begin + "write, write, setxattr, fsync, invalidate, link, fsync dir, fsync dir, fsync dir, fsync dir, invalidate"},
		{"group", false, false, crashOp{Kind: "group", Content: "xx"}, begin + "write, " + begin + "write, " + begin + "write, " + begin + "write, setxattr, setxattr, setxattr, setxattr, write out, write out, write out, write out, fsync, fsync, fsync, fsync, " +
			"invalidate, link, link, link, link, invalidate, fsync dir, fsync dir, fsync dir, fsync dir, fsync dir, fsync dir, fsync dir, fsync dir, fsync dir, fsync dir, invalidate"},
		{"known, and durable", false, false, crashOp{Kind: "put", Content: "xx"}, begin + "write, write, setxattr, fsync, invalidate, link, link named, rename, fsync dir, invalidate, rename durable, fsync dir, invalidate, cleanup"},
		{"named", false, true, crashOp{Kind: "publish", Content: "xx"}, "mkdir, open, open named, allocate, write, write, setxattr, fsync, invalidate, rename, fsync dir, fsync dir, fsync dir, fsync dir"},
		{"commit", false, false, crashOp{Kind: "commit"}, "invalidate, rename durable, fsync dir, invalidate, cleanup"},
		{"replicated", true, false, crashOp{Kind: "publish", Content: "xx"}, begin + "write, write, setxattr, fsync, invalidate, link, fsync dir, fsync dir, fsync dir, fsync dir, cleanup"},
		{"again", false, false, crashOp{Kind: "publish", Content: "xx"}, begin + "write, write, setxattr, fsync, invalidate, link, link named, rename, fsync dir"},
		{"metadata", false, false, crashOp{Kind: "meta"}, begin + "setxattr, fsync, invalidate, link, fsync dir, cleanup"},
		{"tombstone", false, false, crashOp{Kind: "delete"}, "mkdir, open, setxattr, fsync, invalidate, link, fsync dir, cleanup"},
		{"rising power", false, false, crashOp{Kind: "delete", Next: testPartPower + 1}, "mkdir, open, setxattr, fsync, invalidate, link, fsync dir, link new, cleanup, cleanup"},
		{"rising power, commit", false, false, crashOp{Kind: "commit", Next: testPartPower + 1}, "invalidate, rename durable, fsync dir, rename new, link new, invalidate, cleanup, cleanup"},
		{"risen power", false, false, crashOp{Kind: "delete", Next: testPartPower}, "mkdir, open, setxattr, fsync, invalidate, link, fsync dir, cleanup, cleanup"},
		{"update", false, false, crashOp{Kind: "queue", Content: "xx"}, "open named, write, fsync, mkdir, rename, fsync dir, fsync dir, fsync dir"},
	} {
		p := crashPlan{Root: t.TempDir(), Replicated: c.replicated, Op: c.op}
		p.Op.Time, p.Op.Index = now, 1
		check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
		m := p.manager(t)
		if !c.named && !c.replicated && c.name != "fragment" && c.name != "group" && c.name != "durable at once" && c.name != "update" {
			first := p
			first.Op = crashOp{Kind: "publish", Time: now, Index: 1, Content: "xx"}
			if c.op.Kind == "meta" || c.op.Kind == "delete" {
				first.Op.Time = now.Add(-1)
			}
			check(t, first.do(m))
		}
		var steps []string
		m.fault = func(step string, do func() error) error {
			steps = append(steps, step)
			if c.named && step == "open" {
				return unix.EOPNOTSUPP
			}
			return do()
		}
		check(t, p.do(m))
		if got := strings.Join(steps, ", "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// What happens to one of a group happens to no other: who fails leaves nothing, and the others are there.
func TestOneOfAGroupFailsAlone(t *testing.T) {
	now := timestamp.FromTime(time.Now())
	for _, step := range []string{"setxattr", "write out", "fsync", "link", "invalidate", "fsync dir"} {
		for nth := range len(groupNames) {
			p := crashPlan{Root: t.TempDir(), Op: crashOp{Kind: "group", Time: now, Index: 1, Content: "content"}}
			check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
			m := p.manager(t)
			met := 0
			var synced []string
			intercepted(m, func(op *batch.Op, do func() error) error {
				if op.Kind == batch.SyncDir {
					synced = append(synced, op.Name)
				}
				return do()
			})
			m.fault = func(s string, do func() error) error {
				if s == step {
					if met++; met == nth+1 {
						return unix.EIO
					}
				}
				return do()
			}
			all, err := p.group(m)
			check(t, err)
			m.fault = nil
			failed := 0
			for i, one := range all {
				dir := m.hashPath("sda", p.partition(), nameHash(groupNames[i]))
				o, err := m.Open("sda", p.partition(), nameHash(groupNames[i]), -1, true)
				switch {
				case one.Err == nil && err == nil:
					if (o.Durable == o.Data) != (i < len(groupNames)-1) {
						t.Errorf("%s %d: %s is durable at %v", step, nth, groupNames[i], o.Durable)
					}
				case one.Err == nil:
					t.Errorf("%s %d: %s: %v", step, nth, groupNames[i], err)
				case step != "fsync dir" && !(step == "invalidate" && nth > 0) && (err == nil || exists(dir)):
					t.Errorf("%s %d: %s failed with %v, and is there", step, nth, groupNames[i], one.Err)
				}
				if err == nil {
					o.Close()
				}
				if one.Err != nil {
					failed++
				} else if !slices.Contains(synced, dir) || !slices.Contains(synced, filepath.Join(p.Root, "sda/objects-1")) {
					t.Errorf("%s %d: of the directories of %s only these were synced: %v", step, nth, groupNames[i], synced)
				}
			}
			want := 1
			if step == "invalidate" {
				want = []int{4, 4, 3, 0}[nth] // all of them, twice, and the durable ones once more
			}
			if failed != want {
				t.Errorf("%s %d: %d failed", step, nth, failed)
			}
			got, _, err := m.SuffixHashes("sda", p.partition(), nil, true)
			check(t, err)
			var suffixes []string
			for _, name := range groupNames {
				suffixes = append(suffixes, objhash.Suffix(nameHash(name)))
			}
			fresh, _, err := m.SuffixHashes("sda", p.partition(), suffixes, true)
			check(t, err)
			if !got.Equal(fresh) {
				t.Errorf("%s %d: stale hashes: %v, not %v", step, nth, got, fresh)
			}
		}
	}
}

// Another writer may publish the same fragment while one makes it durable at once: as after a rename there is one name of it, or the hash
// of the suffix would differ from all others' for ever.
func TestFragmentPublishedMeanwhileIsDurableUnderOneName(t *testing.T) {
	now := timestamp.FromTime(time.Now())
	p := crashPlan{Root: t.TempDir(), Op: crashOp{Kind: "put", Time: now, Index: 1, Content: "xx"}}
	check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
	m, other := p.manager(t), p.manager(t)
	m.fault = func(step string, do func() error) error {
		if step == "fsync" {
			meanwhile := p
			meanwhile.Op.Kind = "publish"
			check(t, meanwhile.do(other))
		}
		return do()
	}
	check(t, p.do(m))
	files, err := filepath.Glob(filepath.Join(p.Root, "sda/objects-1/*/*/*/*"))
	check(t, err)
	if len(files) != 1 || filepath.Base(files[0]) != now.Internal()+"#1#d.data" {
		t.Errorf("files: %q", files)
	}
}

// Hashing removes empty directories, at any moment between that in which a writer makes them and that in which it has a file in them.
func TestDirectoriesThatOthersRemoveAreMadeAgain(t *testing.T) {
	for _, step := range []string{"mkdir", "open", "link"} {
		p := crashPlan{Root: t.TempDir(), Op: crashOp{Kind: "put", Time: timestamp.FromTime(time.Now()), Index: 1, Content: "xx"}}
		check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
		m := p.manager(t)
		removed := 0
		m.fault = func(s string, do func() error) error {
			if s == step && removed < 2 {
				removed++
				if step == "mkdir" {
					return syscall.ENOENT // what mkdir(2) says when its parent is gone
				}
				check(t, os.RemoveAll(m.PartitionPath("sda", p.partition())))
			}
			return do()
		}
		check(t, p.do(m))
		if view := p.view(t, m, p.partition(), false); removed != 2 || !strings.HasSuffix(view, ": xx") {
			t.Errorf("removed %d times before %s: a reader sees %q", removed, step, view)
		}
	}
}

// Whatever step fails, the writer says so, a reader sees the old state, and nothing is left
// on the disk that was not there before: no file, no directory, no descriptor. Only where the new file was
// published already, and the directory could not be synced, it stays.
func TestFailedStepsLeaveTheOldState(t *testing.T) {
	now := timestamp.FromTime(time.Now())
	for _, mode := range []string{"", "named", "uring"} {
		named := mode == "named"
		for _, first := range []bool{true, false} {
			for _, kind := range []string{"publish", "put", "meta", "delete", "queue", "commit"} {
				if kind == "commit" && first {
					continue
				}
				for fail := 1; ; fail++ {
					p := crashPlan{Root: quickDir(t), URing: mode == "uring", Op: crashOp{Kind: kind, Time: now, Index: 1, Content: "content"}}
					check(t, os.MkdirAll(p.manager(t).PartitionPath("sda", p.partition()), 0o755))
					check(t, os.Mkdir(filepath.Join(p.Root, "sda/tmp-1"), 0o755))
					check(t, os.MkdirAll(filepath.Join(p.Root, "sda/async_pending-1"), 0o755))
					m := p.manager(t)
					m.engine("sda")                                     // which opens what it needs
					check(t, m.Invalidate("sda", p.partition(), "000")) // so that there are its files
					if !first {
						old := p
						old.Op = crashOp{Kind: "put", Time: now.Add(-10), Index: 2, Content: "old"}
						check(t, old.do(m))
						if kind == "commit" {
							old.Op = crashOp{Kind: "publish", Time: now, Index: 1, Content: "new"}
							check(t, old.do(m))
						}
					}
					descriptors := openFiles(t)
					before, view := withoutInvalid(fullTree(t, p.Root)), p.view(t, m, p.partition(), false)
					point, failed := 0, ""
					published := false
					m.fault = func(step string, do func() error) error {
						if named && step == "open" {
							return unix.EOPNOTSUPP
						}
						if point++; point == fail {
							failed = step
							return syscall.EIO
						}
						err := do()
						published = published || err == nil && slices.Contains([]string{"link", "rename", "rename durable"}, step)
						return err
					}
					err := p.do(m)
					m.fault = nil
					if failed == "" {
						check(t, err)
						break
					}
					if failed == "cleanup" {
						if err != nil {
							t.Errorf("%s fails at %s, when all is done: %v", kind, failed, err)
						}
						continue
					}
					if !errors.Is(err, syscall.EIO) {
						t.Fatalf("%s, step %d (%s) fails, and the error is %v", kind, fail, failed, err)
					}
					if now := openFiles(t); now != descriptors {
						t.Errorf("%s fails at %s: %d files are open, %d were", kind, failed, now, descriptors)
					}
					if published {
						continue
					}
					if after := withoutInvalid(fullTree(t, p.Root)); !slices.Equal(before, after) {
						t.Errorf("%s fails at %s: it was\n%s\nand is\n%s", kind, failed, strings.Join(before, "\n"), strings.Join(after, "\n"))
					}
					if now := p.view(t, m, p.partition(), false); now != view {
						t.Errorf("%s fails at %s: a reader saw %q, and sees %q", kind, failed, view, now)
					}
				}
			}
		}
	}
}

func withoutInvalid(tree []string) []string {
	return slices.DeleteFunc(tree, func(s string) bool { return strings.Contains(s, invalidFile) })
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(names)
}

// rule 21: suffixes that are hashed while a fragment is made durable are hashed again.
func TestHashingDuringACommitLeavesNoStaleHash(t *testing.T) {
	p := crashPlan{Root: t.TempDir(), Op: crashOp{Kind: "publish", Time: timestamp.FromTime(time.Now()), Index: 1, Content: "content"}}
	check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
	m := p.manager(t)
	check(t, p.do(m))
	m.fault = func(step string, do func() error) error {
		if step == "rename durable" {
			p.hashes(t, m, p.partition(), nil)
		}
		return do()
	}
	p.Op.Kind = "commit"
	check(t, p.do(m))
	suffix := filepath.Base(filepath.Dir(m.hashPath("sda", p.partition(), fmt.Sprintf("%x", testHasher.Object(crashName)))))
	if kept, fresh := p.hashes(t, m, p.partition(), nil), p.hashes(t, m, p.partition(), []string{suffix}); kept != fresh {
		t.Errorf("hashes are %s, and stale: %s", kept, fresh)
	}
}

// A partial write, a wrong length and wrong metadata are never published.
func TestWhatIsNotWholeIsNotPublished(t *testing.T) {
	p := crashPlan{Root: t.TempDir()}
	check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
	m := p.manager(t)
	now := timestamp.FromTime(time.Now()).Internal()
	for _, c := range []struct {
		size   int64
		fields [][2]string
		want   string
	}{
		{4, [][2]string{{"X-Timestamp", now}, {"Content-Length", "3"}}, "3 bytes of 4 were written"},
		{3, [][2]string{{"X-Timestamp", now}, {"Content-Length", "4"}}, `Content-Length is "4" and 3 bytes were written`},
		{3, [][2]string{{"X-Timestamp", now}}, `Content-Length is "" and 3 bytes were written`},
		{-1, [][2]string{{"Content-Length", "3"}}, "X-Timestamp"},
		{-1, [][2]string{{"X-Timestamp", now}, {"Content-Length", "3"}, {fragIndexKey, "6"}}, `"6" is no fragment index of a 4+2 policy`},
		{-1, [][2]string{{"X-Timestamp", now}, {"Content-Length", "3"}, {fragIndexKey, "-1"}}, "no fragment index"},
		{-1, [][2]string{{"X-Timestamp", now}, {"Content-Length", "3"}}, `"-1" is no fragment index`},
	} {
		w, err := m.Create(Place{Device: "sda", Partition: 7, Name: "/a/c/o", FragIndex: -1}, c.size)
		check(t, err)
		_, err = w.Write([]byte("abc"))
		check(t, err)
		if err := w.Publish(newMetadata(c.fields...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c, err)
		}
		if err := w.Publish(newMetadata(c.fields...)); err == nil {
			t.Errorf("%v: published twice", c)
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Errorf("%v: written to when aborted", c)
		}
		check(t, w.Commit()) // nothing was published
	}
	for _, bad := range []Place{{Device: "sda", Name: "/a/c"}, {Device: "sdb", Name: "/a/c/o"}, {Device: "sda", Name: "/a/c/o", Partition: -1}, {Device: "sda", Name: "/a/c/o", NextPartPower: 33}} {
		if _, err := m.Create(bad, 0); err == nil {
			t.Errorf("%+v is taken", bad)
		}
		if err := m.MakeDurable(bad, timestamp.Timestamp{Raw: 1}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if names, err := listDir(filepath.Join(p.Root, "sda/objects-1/7")); err != nil || len(names) != 0 {
		t.Errorf("there is %q, %v", names, err)
	}
}

// Writers of one object, hashing and deletions at once: everybody succeeds, a reader sees
// whole objects all the time, and the newest stays.
func TestManyWritersOfOneObject(t *testing.T) {
	for _, replicated := range []bool{false, true} {
		p := crashPlan{Root: quickDir(t), Replicated: replicated}
		check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
		now := timestamp.FromTime(time.Now())
		var writers, others sync.WaitGroup
		stop := make(chan struct{})
		failed := make(chan error, 100)
		for w := range 4 {
			writers.Go(func() {
				m := p.manager(nil)
				for i := range 30 {
					o := p
					o.Op = crashOp{Kind: []string{"put", "put", "delete", "meta"}[i%4], Time: now.Add(int64(i*4 + w - 200)), Index: w, Content: strings.Repeat("x", 100*i)}
					if i == 29 && w == 3 {
						o.Op = crashOp{Kind: "put", Time: now, Index: 3, Content: "the last"}
					}
					if err := o.do(m); err != nil {
						failed <- fmt.Errorf("%s: %w", o.Op.Kind, err)
					}
				}
			})
		}
		others.Go(func() {
			m := p.manager(nil)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := m.SuffixHashes("sda", p.partition(), nil, true); err != nil {
					failed <- err
				}
				o, err := m.Open("sda", p.partition(), fmt.Sprintf("%x", testHasher.Object(crashName)), -1, false)
				if err == nil {
					b := make([]byte, o.Length)
					if n, err := o.ReadAt(b, 0); err != nil && err != io.EOF || fmt.Sprintf("%x", md5.Sum(b[:n])) != o.DataMeta["ETag"] {
						failed <- fmt.Errorf("%s is not whole: %v", o.Path, err)
					}
					o.Close()
				} else if _, ok := errors.AsType[*DeletedError](err); !ok && !errors.Is(err, ErrNotExist) {
					failed <- err
				}
			}
		})
		writers.Wait()
		close(stop)
		others.Wait()
		close(failed)
		for err := range failed {
			t.Error(err)
		}
		m := p.manager(t)
		if got := p.view(t, m, p.partition(), false); !strings.HasPrefix(got, "data "+now.Internal()) || !strings.HasSuffix(got, ": the last") {
			t.Errorf("what stays is %q", got)
		}
	}
}

// Nor is a folder that others remove between two looks at it taken for something else of its name.
func TestMakeDirsAmidRemovals(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a")
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = syscall.Mkdir(dir, 0o777)
					_ = syscall.Rmdir(dir)
				}
			}
		})
	}
	for range 50_000 {
		if _, err := makeDirs(top, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
			break
		}
	}
	close(stop)
	others.Wait()
	check(t, os.WriteFile(filepath.Join(top, "file"), nil, 0o666))
	if _, err := makeDirs(top, filepath.Join(top, "file")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file in the place of a folder: %v", err)
	}
}
