package relink

import (
	"crypto/md5"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/objhash"
)

// Bare does a step of an increase with the calls that it takes at least, on data directories side by side: it looks after nothing, and
// is what a relinker can be compared with. relink lists partition, suffix, and hash directories, and the new hash directory, makes the
// directories that lack, links, notes the suffix that changes, and lists and hashes those of the upper half. cleanup lists the same,
// looks at both names, removes the old one and what is empty, and hashes what relink left, in the lower half.
func Bare(dirs []string, power int, cleanup bool) error {
	errs := make([]error, len(dirs))
	var wg sync.WaitGroup
	for i, dir := range dirs {
		wg.Go(func() {
			b := &bare{dir: dir, power: power, cleanup: cleanup, buf: make([]byte, 32<<10)}
			errs[i] = b.run()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

type bare struct {
	dir     string
	power   int
	cleanup bool
	buf     []byte
}

func (b *bare) list(path string) (names []string, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.ReadDirent(fd, b.buf)
		if n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(b.buf[:n], -1, names)
	}
}

func (b *bare) run() error {
	names, err := b.list(b.dir)
	if err != nil {
		return err
	}
	var parts []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n < 1<<b.power {
			parts = append(parts, n)
		}
	}
	slices.Sort(parts)
	slices.Reverse(parts)
	for _, part := range parts {
		if err := b.partition(part); err != nil {
			return err
		}
	}
	return nil
}

func (b *bare) partition(part int) error {
	path := b.dir + "/" + strconv.Itoa(part)
	suffixes, err := b.list(path)
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	for _, suffix := range suffixes {
		if len(suffix) != 3 {
			continue
		}
		hashes, err := b.list(path + "/" + suffix)
		if err != nil {
			return err
		}
		for _, hash := range hashes {
			h, err := objhash.Parse(hash)
			if err != nil {
				return err
			}
			to := objhash.Partition(h, uint(b.power)+1)
			if to == part {
				continue
			}
			new := b.dir + "/" + strconv.Itoa(to) + "/" + suffix
			if err := b.object(path+"/"+suffix+"/"+hash, new, hash); err != nil {
				return err
			}
			changed[new] = true
		}
		if b.cleanup {
			_ = unix.Rmdir(path + "/" + suffix)
		}
	}
	if b.cleanup {
		for _, name := range []string{"hashes.pkl", "hashes.invalid", ".lock", ".lock-replication"} {
			_ = unix.Unlink(path + "/" + name)
		}
		_ = unix.Rmdir(path)
	}
	for suffix := range changed {
		if b.cleanup == (part < 1<<(b.power-1)) {
			if err := b.hash(suffix); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bare) object(old, newSuffix, hash string) error {
	new := newSuffix + "/" + hash
	files, err := b.list(old)
	if err != nil {
		return err
	}
	there, err := b.list(new)
	if err != nil && err != unix.ENOENT {
		return err
	}
	for _, f := range files {
		if b.cleanup {
			var x, y unix.Stat_t
			if err := errors.Join(unix.Stat(old+"/"+f, &x), unix.Stat(new+"/"+f, &y)); err != nil {
				return err
			}
			if x.Ino != y.Ino || !slices.Contains(there, f) {
				return errors.New(old + " is not linked")
			}
			if err := unix.Unlink(old + "/" + f); err != nil {
				return err
			}
			continue
		}
		for _, dir := range []string{filepath.Dir(newSuffix), newSuffix, new} {
			if err := unix.Mkdir(dir, 0o755); err != nil && err != syscall.EEXIST {
				return err
			}
		}
		if err := unix.Link(old+"/"+f, new+"/"+f); err != nil {
			return err
		}
		if err := invalidate(filepath.Dir(newSuffix), filepath.Base(newSuffix)); err != nil {
			return err
		}
	}
	if b.cleanup {
		return unix.Rmdir(old)
	}
	return nil
}

// invalidate notes a suffix as Swift does: under a lock.
func invalidate(partition, suffix string) error {
	lock, err := unix.Open(partition+"/.lock", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(lock)
	if err := unix.Flock(lock, unix.LOCK_EX); err != nil {
		return err
	}
	f, err := unix.Open(partition+"/hashes.invalid", unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	_, err = unix.Write(f, []byte(suffix+"\n"))
	return err
}

// hash lists a suffix and sums up the names in it.
func (b *bare) hash(suffix string) error {
	hashes, err := b.list(suffix)
	if err != nil {
		return err
	}
	sum := md5.New()
	for _, h := range hashes {
		files, err := b.list(suffix + "/" + h)
		if err != nil {
			return err
		}
		for _, f := range files {
			sum.Write([]byte(f))
		}
	}
	return nil
}
