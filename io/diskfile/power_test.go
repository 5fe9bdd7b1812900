package diskfile

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imping/io/batch"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// When the power fails in the middle of many writes, every object of which it was said that it is there is there, whole, and no file is
// short or without metadata. The disk is a file, copied while no operation is under way, though many objects are half written: what
// was not synced is not in the copy. Without syncs the copy shows it.
func TestPowerFailure(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts file systems")
	}
	for _, c := range []struct {
		name  string
		uring bool
		lost  batch.Kind // is not done
	}{
		{"plain", false, 0}, {"uring", true, 0},
		{"without fsync of files", false, batch.Sync}, {"without fsync of files, uring", true, batch.Sync},
		{"without fsync of directories", false, batch.SyncDir},
	} {
		t.Run(c.name, func(t *testing.T) {
			work := t.TempDir()
			image, mount := filepath.Join(work, "disk"), filepath.Join(work, "mount")
			f, err := os.Create(image)
			check(t, err)
			check(t, f.Truncate(256<<20))
			check(t, f.Close())
			command(t, "mkfs.ext4", "-q", "-F", image)
			// Nothing is written back by itself while the test lasts.
			mounted(t, image, mount, "loop,commit=600")
			p := crashPlan{Root: mount, URing: c.uring}
			check(t, os.MkdirAll(filepath.Join(mount, "sda/objects-1"), 0o755))
			unix.Sync()
			m := p.manager(t)
			var power sync.RWMutex // held by operations, and by the failure
			intercepted(m, func(op *batch.Op, do func() error) error {
				power.RLock()
				defer power.RUnlock()
				// The kernel begins to write what it is to forget, which would help.
				if op.Kind == c.lost || c.lost == batch.Sync && (op.Kind == batch.DropCache || op.Kind == batch.WriteOut) {
					return nil
				}
				return do()
			})
			var mu sync.Mutex
			acked := map[string]bool{}
			count := func() int {
				mu.Lock()
				defer mu.Unlock()
				return len(acked)
			}
			if c.lost != 0 {
				// One alone: syncs of others would help it, too.
				check(t, putNamed(m, []string{"/a/c/o"}, 50_000))
				command(t, "cp", "--sparse=always", image, image+".copy")
				if wrong := afterPowerFailure(t, image+".copy", filepath.Join(work, "after"), []string{"/a/c/o"}, false); wrong == 0 {
					t.Errorf("%v was left out, and nobody has seen it", c.lost)
				}
				return
			}
			stop := make(chan struct{})
			var writers sync.WaitGroup
			for g := range 8 {
				writers.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), 1))
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						names := []string{fmt.Sprintf("/a/c/%d-%d", g, i)}
						for g%2 == 0 && len(names) <= i%8 {
							names = append(names, fmt.Sprintf("%s-%d", names[0], len(names)))
						}
						if err := putNamed(m, names, r.IntN(50_000)); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						for _, name := range names {
							acked[name] = true
						}
						mu.Unlock()
					}
				})
			}
			for failure := range 3 {
				for count() < 20*(failure+1) && !t.Failed() {
					time.Sleep(time.Millisecond)
				}
				power.Lock()
				command(t, "cp", "--sparse=always", image, image+".copy")
				mu.Lock()
				said := make([]string, 0, len(acked))
				for name := range acked {
					said = append(said, name)
				}
				mu.Unlock()
				power.Unlock()
				afterPowerFailure(t, image+".copy", filepath.Join(work, "after"), said, true)
			}
			close(stop)
			writers.Wait()
		})
	}
}

func nameHash(name string) string { return objhash.Hex(testHasher.Object(name)) }

// putNamed writes objects together, each of which has its name as content, over and over, size bytes.
func putNamed(m *Manager, names []string, size int) error {
	var all []*Publication
	for _, name := range names {
		content := make([]byte, size)
		for i := range content {
			content[i] = name[i%len(name)]
		}
		w, err := m.Create(Place{Device: "sda", Partition: objhash.Partition(testHasher.Object(name), testPartPower), Name: name, FragIndex: 1}, int64(size))
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := w.Write(content); err != nil {
			return err
		}
		all = append(all, &Publication{Writer: w, Durable: true, Meta: newMetadata([2]string{"X-Timestamp", timestamp.FromTime(time.Now()).Internal()},
			[2]string{"Content-Length", strconv.Itoa(size)}, [2]string{"ETag", fmt.Sprintf("%x", md5.Sum(content))})})
	}
	PublishAll(all)
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Err)
	}
	return errors.Join(errs...)
}

// afterPowerFailure mounts a disk as it was left and counts what is wrong with it.
func afterPowerFailure(t *testing.T, image, mount string, said []string, tell bool) (wrong int) {
	t.Helper()
	mounted(t, image, mount, "loop")
	defer func() { check(t, unix.Unmount(mount, 0)) }()
	complain := func(format string, args ...any) {
		if wrong++; tell {
			t.Errorf(format, args...)
		}
	}
	there := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(mount, "sda/objects-1/*/*/*/*.data"))
	check(t, err)
	for _, path := range files {
		meta, err := ReadMetadata(path)
		if err != nil {
			complain("%v", err)
			continue
		}
		f, err := os.Open(path)
		check(t, err)
		sum := md5.New()
		n, err := io.Copy(sum, f)
		check(t, err)
		check(t, f.Close())
		if strconv.FormatInt(n, 10) != meta["Content-Length"] || fmt.Sprintf("%x", sum.Sum(nil)) != meta["ETag"] {
			complain("%s has %d bytes of %s, or others", path, n, meta["Content-Length"])
			continue
		}
		there[filepath.Base(filepath.Dir(path))] = true
	}
	for _, name := range said {
		if !there[nameHash(name)] {
			complain("%s was said to be there, and is not", name)
		}
	}
	return wrong
}

func mounted(t *testing.T, image, dir, options string) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	command(t, "mount", "-o", options, image, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
}

func command(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}
