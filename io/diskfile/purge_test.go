package diskfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"imping/io/batch"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// Names are of the times t1 to t9, a second apart; what is gone in the end is marked by "-". The
// offer is of fragment 1 at t5, with a .meta file of t7.
func TestPurgeRemovesWhatWasBroughtAwayAndNothingElse(t *testing.T) { // rule 18
	base := timestamp.FromTime(time.Now().Add(-time.Hour))
	at := func(n int) timestamp.Timestamp { return base.Add(int64(n) * 100_000) }
	for name, c := range map[string]struct {
		files   string
		purge   Purge
		index   int
		primary bool
		fresh   bool // written just now
	}{
		"a fragment":                          {files: "-t5#1#d.data", purge: Purge{Durable: true}},
		"one of an old name":                  {files: "-t5#1.data -t5.durable", purge: Purge{Durable: true}, fresh: true},
		"one that is not durable":             {files: "-t5#1.data"},
		"and may be on its way":               {files: "t5#1.data", fresh: true},
		"made durable since":                  {files: "t5#1#d.data"},
		"of another index":                    {files: "-t5#1#d.data t5#2#d.data", purge: Purge{Durable: true}},
		"newer":                               {files: "-t5#1#d.data t6#1.data", purge: Purge{Durable: true}},
		"older":                               {files: "t3#1#d.data -t5#1.data"},
		"gone":                                {files: "t5#2#d.data", purge: Purge{Durable: true}},
		"metadata":                            {files: "-t5#1#d.data -t7.meta", purge: Purge{Durable: true, Meta: at(7)}},
		"newer metadata":                      {files: "-t5#1#d.data t8.meta", purge: Purge{Durable: true, Meta: at(7)}},
		"metadata that was not offered":       {files: "-t5#1#d.data t7.meta", purge: Purge{Durable: true}},
		"metadata that others need":           {files: "-t5#1#d.data t5#2#d.data t7.meta", purge: Purge{Durable: true, Meta: at(7)}},
		"metadata of a newer one":             {files: "-t5#1#d.data t6#1.data t7.meta", purge: Purge{Durable: true, Meta: at(7)}},
		"metadata of one that stays":          {files: "t5#1.data t7.meta", purge: Purge{Meta: at(7)}, fresh: true},
		"metadata with a content type":        {files: "-t5#1#d.data -t7-30d40.meta", purge: Purge{Durable: true, Meta: at(7), ContentType: at(5)}},
		"a content type of its own":           {files: "-t5#1#d.data -t6+0.meta -t7.meta", purge: Purge{Durable: true, Meta: at(7), ContentType: at(6)}},
		"a content type that came since":      {files: "-t5#1#d.data t7+0.meta", purge: Purge{Durable: true, Meta: at(7), ContentType: at(6)}},
		"on a primary":                        {files: "-t5#1#d.data t7.meta", purge: Purge{Durable: true, Meta: at(7)}, primary: true},
		"a tombstone":                         {files: "-t5.ts", purge: Purge{Durable: true}},
		"one of a job without an index":       {files: "-t5.ts", purge: Purge{Durable: true}, index: -1},
		"one on a primary":                    {files: "t5.ts", purge: Purge{Durable: true}, primary: true},
		"a newer one":                         {files: "t6.ts", purge: Purge{Durable: true}},
		"fragments of a job without an index": {files: "t5#1#d.data", purge: Purge{Durable: true}, index: -1},
	} {
		t.Run(name, func(t *testing.T) {
			m, _, _ := device(t)
			m.unsynced = true
			hash := objhash.Hex(testHasher.Object("/a/c/o"))
			dir := m.hashPath("sda", 7, hash)
			written := time.Now().Add(-10 * time.Minute)
			if c.fresh {
				written = time.Now()
			}
			var want []string
			n := 0
			for _, word := range strings.Fields(c.files) {
				stays := !strings.HasPrefix(word, "-")
				word = strings.TrimPrefix(word, "-")
				file := at(int(word[1]-'0')).Internal() + word[2:]
				writeFile(t, filepath.Join(dir, file), "x", map[string]string{"name": "/a/c/o"}, written)
				if !stays && !strings.HasSuffix(file, ".durable") {
					n++
				}
				if stays {
					want = append(want, file)
				}
			}
			before, _, err := m.SuffixHashes("sda", 7, nil, true)
			check(t, err)
			p := c.purge
			p.Hash, p.Data = hash, at(5)
			index := c.index
			if index == 0 {
				index = 1
			}
			removed, err := m.Purge("sda", 7, index, !c.primary, []Purge{p})
			check(t, err)
			left, err := listDir(dir)
			if len(want) > 0 || strings.Contains(c.files, ".durable") { // of no account now; it goes when the suffix is hashed
				check(t, err)
			} else if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
				t.Errorf("the suffix is still there: %v", err)
			}
			left = slices.DeleteFunc(left, func(name string) bool { return strings.HasSuffix(name, ".durable") })
			slices.Sort(left)
			slices.Sort(want)
			if !slices.Equal(left, want) || removed != n {
				t.Errorf("removed %d files, want %d; left are %v, want %v", removed, n, left, want)
			}
			now, _, err := m.SuffixHashes("sda", 7, nil, true)
			check(t, err)
			if anew, _, err := m.SuffixHashes("sda", 7, []string{objhash.Suffix(hash)}, true); err != nil || !anew.Equal(now) {
				t.Errorf("the hash is stale: %v, and in truth %v (%v)", now, anew, err)
			}
			if n > 0 && now.Equal(before) {
				t.Error("the hash has not changed")
			}
		})
	}
}

// Wherever a purge ends early, no hash says that what has gone is there.
func TestAPurgeThatIsCutShortLeavesNoStaleHash(t *testing.T) { // rule 21
	for stop := 0; ; stop++ {
		m, root, _ := device(t)
		m.unsynced = true
		var purges []Purge
		for i := range 3 {
			path, hash := put(t, root, 7, fmt.Sprint("/a/c/o", i), "x", nil)
			f, err := parseName(filepath.Base(path), 0)
			check(t, err)
			purges = append(purges, Purge{Hash: hash, Data: f.time, Durable: true})
		}
		_, _, err := m.SuffixHashes("sda", 7, nil, true)
		check(t, err)
		step, ended := 0, errors.New("the process is gone")
		m.fault = func(name string, do func() error) error {
			if step++; step > stop {
				return ended
			}
			return do()
		}
		removed, err := m.Purge("sda", 7, 1, true, purges)
		m.fault = nil
		if step <= stop {
			check(t, err)
			if removed != 3 {
				t.Errorf("%d removed", removed)
			}
			return
		}
		if !errors.Is(err, ended) {
			t.Errorf("after %d steps: %v", stop, err)
		}
		now, _, err := m.SuffixHashes("sda", 7, nil, true)
		check(t, err)
		var all []string
		for _, p := range purges {
			all = append(all, objhash.Suffix(p.Hash))
		}
		if anew, _, err := m.SuffixHashes("sda", 7, all, true); err != nil || !anew.Equal(now) {
			t.Errorf("after %d steps the hashes are stale: %v, and in truth %v (%v)", stop, now, anew, err)
		}
	}
}

func TestAPartitionGoesOnlyWhenNothingIsInIt(t *testing.T) { // rule 19
	for name, c := range map[string]struct {
		before     func(t *testing.T, m *Manager, path string)
		gone       bool
		unexpected string
		locked     bool
	}{
		"empty": {before: func(*testing.T, *Manager, string) {}, gone: true},
		"with all that Swift keeps there": {before: func(t *testing.T, m *Manager, path string) {
			for _, name := range partitionFiles {
				writeFile(t, filepath.Join(path, name), "x", nil, time.Now())
			}
		}, gone: true},
		"with a suffix": {before: func(t *testing.T, m *Manager, path string) {
			check(t, os.Mkdir(filepath.Join(path, "abc"), 0o755))
		}},
		"with something strange": {before: func(t *testing.T, m *Manager, path string) {
			writeFile(t, filepath.Join(path, "letter"), "x", nil, time.Now())
		}, unexpected: "letter"},
		"with a folder": {before: func(t *testing.T, m *Manager, path string) {
			check(t, os.Mkdir(filepath.Join(path, "folder"), 0o755))
		}, unexpected: "folder"},
		"while a session brings something": {before: func(t *testing.T, m *Manager, path string) {
			lock, err := m.lockDir(t.Context(), "", path, "replication", 0)
			check(t, err)
			t.Cleanup(lock.Unlock)
		}, locked: true},
		"while it is being hashed": {before: func(t *testing.T, m *Manager, path string) {
			lock, err := m.lockDir(t.Context(), "", path, "", 0)
			check(t, err)
			t.Cleanup(lock.Unlock)
		}, locked: true},
		"into which something comes": {before: func(t *testing.T, m *Manager, path string) {
			m.watch = &between{func() { _ = os.Mkdir(filepath.Join(path, "abc"), 0o755) }}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m, _, _ := device(t)
			path := m.PartitionPath("sda", 7)
			check(t, os.MkdirAll(path, 0o755))
			c.before(t, m, path)
			removed, unexpected, err := m.RemovePartition(t.Context(), "sda", 7)
			if timeout := (*LockTimeoutError)(nil); errors.As(err, &timeout) != c.locked || err != nil && !c.locked {
				t.Error(err)
			}
			_, err = os.Stat(path)
			if removed != c.gone || os.IsNotExist(err) != c.gone || strings.Join(unexpected, " ") != c.unexpected {
				t.Errorf("removed: %v; %v; unexpected %v", removed, err, unexpected)
			}
		})
	}
	m, _, _ := device(t)
	if removed, _, err := m.RemovePartition(t.Context(), "sda", 8); removed || err != nil || exists(m.PartitionPath("sda", 8)) {
		t.Errorf("a partition that is not there: %v, %v", removed, err)
	}
}

// between does something while calls to the disk are under way.
type between struct{ do func() }

func (b *between) Begin() {}
func (b *between) Step()  { b.do() }
func (b *between) End()   {}

// Who has waited for the lock of a partition that is removed must not take the file that is
// gone for the lock.
func TestWhoWaitsForALockFindsThePartitionGone(t *testing.T) { // rule 19
	m, _, _ := device(t)
	path := m.PartitionPath("sda", 7)
	check(t, os.MkdirAll(path, 0o755))
	old, err := os.OpenFile(filepath.Join(path, ".lock"), os.O_CREATE|os.O_WRONLY, 0o777)
	check(t, err)
	defer old.Close()
	if removed, _, err := m.RemovePartition(t.Context(), "sda", 7); !removed || err != nil {
		t.Fatal(err)
	}
	check(t, syscall.Flock(int(old.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)) // excludes nobody
	lock, err := m.LockPartition(t.Context(), "sda", 7, "", time.Second)
	check(t, err)
	lock.Unlock()
}

// Whatever of it fails, and whoever makes the calls: metadata stays with its fragment, and what is told to have gone has.
func TestAPurgeOfWhichSomethingFails(t *testing.T) { // rule 18
	for _, uring := range []bool{false, true} {
		for stop := 0; ; stop++ {
			p := crashPlan{Root: t.TempDir(), URing: uring}
			check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
			m := p.manager(t)
			m.unsynced = true
			base := timestamp.FromTime(time.Now().Add(-time.Hour))
			var purges []Purge
			for i := range 3 {
				hash := objhash.Hex(testHasher.Object(fmt.Sprint("/a/c/o", i)))
				dir := m.hashPath("sda", 7, hash)
				writeFile(t, filepath.Join(dir, base.Internal()+"#1#d.data"), "x", nil, base.Time())
				writeFile(t, filepath.Join(dir, base.Add(5).Internal()+".meta"), "", nil, base.Time())
				purges = append(purges, Purge{Hash: hash, Data: base, Durable: true, Meta: base.Add(5)})
			}
			n := 0
			intercepted(m, func(op *batch.Op, do func() error) error {
				if op.Kind != batch.Unlink {
					return do()
				}
				if n++; n-1 == stop {
					return syscall.EIO
				}
				return do()
			})
			removed, err := m.Purge("sda", 7, 1, true, purges)
			there := 0
			for _, o := range purges {
				dir := m.hashPath("sda", 7, o.Hash)
				names, _ := listDir(dir)
				if there += len(names); len(names) == 1 && strings.HasSuffix(names[0], ".data") {
					t.Errorf("uring %v, %d: the metadata has gone, and the fragment has not", uring, stop)
				}
			}
			if removed != 6-there || (err != nil) != (n > stop) {
				t.Errorf("uring %v, %d: %d files removed, %d are there; %v", uring, stop, removed, there, err)
			}
			if n <= stop {
				break
			}
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("uring %v, %d: %v", uring, stop, err)
			}
		}
	}
}

// What can not be listed stays, and is told of; the others go.
func TestAPurgeOfWhatCanNotBeListed(t *testing.T) { // rule 18
	m, _, _ := device(t)
	base := timestamp.FromTime(time.Now().Add(-time.Hour))
	var purges []Purge
	for i := range 3 {
		hash := objhash.Hex(testHasher.Object(fmt.Sprint("/a/c/o", i)))
		dir := m.hashPath("sda", 7, hash)
		if purges = append(purges, Purge{Hash: hash, Data: base, Durable: true}); i == 1 {
			writeFile(t, dir, "no directory", nil, base.Time())
			continue
		}
		writeFile(t, filepath.Join(dir, base.Internal()+"#1#d.data"), "x", nil, base.Time())
	}
	removed, err := m.Purge("sda", 7, 1, true, purges)
	if removed != 2 || !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), purges[1].Hash) {
		t.Errorf("%d files removed: %v", removed, err)
	}
	for i, p := range purges {
		if _, err := os.Stat(m.hashPath("sda", 7, p.Hash)); (err == nil) != (i == 1) {
			t.Errorf("object %d: %v", i, err)
		}
	}
}
