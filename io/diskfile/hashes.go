package diskfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/suffix"
)

const (
	hashesFile  = "hashes.pkl"
	invalidFile = "hashes.invalid"

	// maxHashesFile bounds what is read of hashes.pkl; suffix.DecodeFile refuses before.
	maxHashesFile = 64 << 20
	// hashesTries bounds how often the hashes of a partition that others keep changing are
	// computed anew; Swift's recursion ends at a thousand.
	hashesTries = 100
)

// SuffixHashes gives the suffix hashes of a partition and how many suffixes were hashed
// for it: those that hashes.pkl does not know, those that hashes.invalid names and those
// of recalculate. listdir looks for suffixes that hashes.pkl does not name. Hashing
// removes files that are obsolete or older than the reclaim age and empty directories, and
// quarantines what should be an object directory and is none. A suffix that could not be
// read is passed to Warn and stays a nil entry. A partition that does not exist has no
// hashes and is not made. Errors: *NotMountedError, *LockTimeoutError, those of the file
// system (syscall.ENOTDIR: the partition is no directory).
// Swift: BaseDiskFileManager._get_hashes.
func (m *Manager) SuffixHashes(dev string, part int, recalculate []string, listdir bool) (hashes suffix.Hashes, hashed int, err error) {
	m.watch.Begin()
	defer m.watch.End()
	if _, err := m.DevicePath(dev); err != nil {
		return nil, 0, err
	}
	path := m.PartitionPath(dev, part)
	for range hashesTries {
		m.watch.Step()
		var done bool
		hashes, hashed, done, err = m.tryHashes(path, recalculate, &listdir)
		if errors.Is(err, fs.ErrNotExist) {
			if !exists(path) {
				return suffix.Hashes{}, 0, nil
			}
			continue // a writer has made the partition in between
		}
		if err != nil {
			return nil, 0, fmt.Errorf("cannot get suffix hashes of %s: %w", path, err)
		}
		if done {
			return hashes, hashed, nil
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot get suffix hashes of %s: %w", path, err)
	}
	return nil, 0, fmt.Errorf("cannot get suffix hashes of %s: %s changed %d times meanwhile", path, hashesFile, hashesTries)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// HasSuffix tells whether there is a directory of a suffix.
func (m *Manager) HasSuffix(dev string, part int, suffix string) bool {
	m.watch.Begin()
	defer m.watch.End()
	return exists(m.PartitionPath(dev, part) + "/" + suffix)
}

// tryHashes is done unless someone else has changed hashes.pkl since it was read.
func (m *Manager) tryHashes(path string, recalculate []string, listdir *bool) (h suffix.Hashes, hashed int, done bool, err error) {
	f, before, err := m.consolidate(path)
	if _, ok := errors.AsType[*LockTimeoutError](err); ok || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, 0, false, err
	}
	if err != nil {
		m.warn("Unable to read %s: %v", filepath.Join(path, hashesFile), err)
		before = rawHashes(path)
		f = &suffix.File{}
	}
	h = f.Hashes
	if !f.Valid {
		*listdir = true
		h = suffix.Hashes{}
	}
	known := maps.Clone(h)
	if *listdir {
		names, err := listDir(path)
		if err != nil {
			return nil, 0, false, err
		}
		for _, name := range names {
			if len(name) != 3 {
				continue
			}
			if !suffix.Valid(name) {
				m.warn("Unexpected entity in partition: %s", filepath.Join(path, name))
				continue
			}
			if _, ok := h[name]; !ok {
				h[name] = nil
			}
		}
	}
	for _, s := range recalculate {
		if suffix.Valid(s) {
			h[s] = nil
		}
	}
	for _, s := range slices.Sorted(maps.Keys(h)) {
		if !h[s].Empty() {
			continue
		}
		m.watch.Step()
		entry, err := m.hashSuffix(filepath.Join(path, s))
		if _, ok := errors.AsType[*LockTimeoutError](err); ok {
			return nil, 0, false, err
		}
		switch {
		case err != nil:
			m.warn("Error hashing suffix %s: %v", filepath.Join(path, s), err)
		case entry == nil:
			delete(h, s)
		default:
			h[s] = entry
			hashed++
		}
	}
	if f.Valid && h.Equal(known) {
		// Swift would write the file after every listing, only to renew 'updated', which no
		// one reads: two syncs of the disk for each partition of a pass with nothing to do. Where
		// nothing was hashed either, it is what was there under the lock: as good as any answer.
		return h, hashed, hashed == 0 || rawHashes(path) == before, nil
	}

	lock, err := m.lockDir(context.Background(), "", path, "", hashesLockTimeout)
	if err != nil {
		return nil, 0, false, err
	}
	defer lock.Unlock()
	if rawHashes(path) != before {
		return nil, 0, false, nil
	}
	_, err = m.writeHashes(path, &suffix.File{Valid: true, Hashes: h})
	return h, hashed, err == nil, err
}

// consolidate brings hashes.invalid into hashes.pkl, under the partition's lock, and
// returns what is in hashes.pkl now, decoded and as it is.
// Swift: obj/diskfile.py, consolidate_hashes.
func (m *Manager) consolidate(path string) (f *suffix.File, raw string, err error) {
	lock, err := m.lockDir(context.Background(), "", path, "", hashesLockTimeout)
	if err != nil {
		return nil, "", err
	}
	defer lock.Unlock()
	m.watch.Step()
	f, raw = readHashes(path)
	m.watch.Step()

	name := filepath.Join(path, invalidFile)
	var st unix.Stat_t
	if stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0 {
		return f, raw, nil // as every consolidation leaves it
	}
	invalid, err := open(name, unix.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return f, raw, nil
	}
	if err != nil {
		return nil, "", err
	}
	defer invalid.Close()
	found := false
	lines := bufio.NewScanner(invalid)
	for lines.Scan() {
		found = true
		if s := strings.TrimSpace(lines.Text()); suffix.Valid(s) {
			f.Hashes[s] = nil
		} else {
			f.Valid = false // something was changed and it is not known what
		}
	}
	if lines.Err() == bufio.ErrTooLong {
		found, f.Valid = true, false
	} else if lines.Err() != nil {
		return nil, "", lines.Err()
	}
	if !found {
		return f, raw, nil
	}
	if raw, err = m.writeHashes(path, f); err != nil {
		return nil, "", err
	}
	// Only now that hashes.pkl says it.
	if err := os.Truncate(name, 0); err != nil {
		return nil, "", err
	}
	return f, raw, nil
}

// readHashes reads hashes.pkl; a file that is missing or wrong is an empty one that is
// not valid. Swift: obj/diskfile.py, read_hashes.
func readHashes(path string) (f *suffix.File, raw string) {
	raw = rawHashes(path)
	f, err := suffix.DecodeFile([]byte(raw))
	if err != nil {
		f = &suffix.File{Hashes: suffix.Hashes{}}
	}
	return f, raw
}

// rawHashes is the content of hashes.pkl, empty if it can not be read.
func rawHashes(path string) string {
	fd, err := openFD(filepath.Join(path, hashesFile), unix.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var room [4096]byte // for some 25 suffixes; more of them take memory of the heap
	b := room[:0]
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
		case err != nil || len(b)+n > maxHashesFile:
			return ""
		case n == 0:
			return string(b)
		default:
			b = b[:len(b)+n]
		}
	}
}

// writeHashes replaces hashes.pkl and returns its content; the partition's lock is held.
// The file has mode 0600, as Swift's temporary files have.
// Swift: obj/diskfile.py, write_hashes; common/utils, write_pickle.
func (m *Manager) writeHashes(path string, f *suffix.File) (raw string, err error) {
	f.Updated = float64(m.now().UnixNano()) / 1e9
	b := f.Encode()
	m.watch.Step()
	tmp, err := os.CreateTemp(path, "tmp*.tmp")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = syscall.Unlink(tmp.Name())
		}
	}()
	defer tmp.Close()
	if _, err := tmp.Write(b); err != nil {
		return "", err
	}
	if err := m.sync(tmp); err != nil {
		return "", err
	}
	m.watch.Step()
	if err := os.Rename(tmp.Name(), filepath.Join(path, hashesFile)); err != nil {
		return "", err
	}
	d, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer d.Close()
	m.watch.Step()
	return string(b), m.sync(d)
}

func (m *Manager) sync(f *os.File) error {
	if m.unsynced {
		return nil
	}
	return f.Sync()
}

// Invalidate notes in hashes.invalid that a suffix has changed. A missing partition is
// made. Swift: obj/diskfile.py, invalidate_hash.
func (m *Manager) Invalidate(dev string, part int, suffix string) error {
	m.watch.Begin()
	defer m.watch.End()
	top, err := m.DevicePath(dev)
	if err != nil {
		return err
	}
	return m.invalidate(top, m.PartitionPath(dev, part), suffix)
}

func (m *Manager) invalidate(top, path string, suffixes ...string) error {
	err := m.appendInvalid(top, path, strings.Join(suffixes, "\n"))
	if err != nil {
		return fmt.Errorf("cannot invalidate suffix %s of %s: %w", strings.Join(suffixes, ", "), path, err)
	}
	return nil
}

func (m *Manager) appendInvalid(top, path, lines string) error {
	lock, err := m.lockDir(context.Background(), top, path, "", hashesLockTimeout)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	return m.noteInvalid(path, lines+"\n")
}

// noteInvalid appends lines to hashes.invalid; the partition's lock is held.
func (m *Manager) noteInvalid(path, lines string) error {
	m.watch.Step()
	f, err := open(filepath.Join(path, invalidFile), unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o666)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(lines); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
