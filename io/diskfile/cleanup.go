package diskfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cleanup chooses among the files of an object directory, removes those that Swift
// removes, and the directory if nothing is left. left are the names that stay, in
// descending order. A directory that does not exist is an empty one.
// Swift: BaseDiskFileManager.cleanup_ondisk_files.
func (m *Manager) cleanup(dir string, q query) (*choice, []string, error) {
	return m.cleanupAt(unix.AT_FDCWD, dir, dir, q)
}

// cleanupAt is cleanup of dir, which is called name in the open directory at.
func (m *Manager) cleanupAt(at int, name, dir string, q query) (*choice, []string, error) {
	names, err := listDirAt(at, name, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &choice{}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	c, left := m.settle(dir, names, q)
	return c, left, nil
}

// settle is cleanup of a directory that holds these names.
func (m *Manager) settle(dir string, names []string, q query) (*choice, []string) {
	c, left, doomed := m.judge(dir, names, q)
	for _, name := range doomed {
		m.watch.Step()
		// Like Swift's, a failed unlink leaves the file to the next time.
		_ = syscall.Unlink(filepath.Join(dir, name))
	}
	if len(left) == 0 {
		_ = syscall.Rmdir(dir) // what came into it in the meantime keeps it
	}
	return c, left
}

// judge chooses among the names in an object directory, and parts those that stay, in descending
// order, from those that Swift removes.
func (m *Manager) judge(dir string, names []string, q query) (c *choice, left, doomed []string) {
	slices.Sort(names)
	slices.Reverse(names)
	c = m.choose(dir, names, q)
	remove := func(f *file) {
		if i := slices.Index(names, f.name); i >= 0 {
			doomed = append(doomed, f.name)
			names = slices.Delete(names, i, i+1)
		}
	}
	for _, f := range c.strays {
		if m.reclaimable(f) && (f.ext != ".data" || f.durable || m.committed(filepath.Join(dir, f.name))) {
			c.obsolete = append(c.obsolete, f)
		}
	}
	for _, f := range c.obsolete {
		remove(f)
	}
	if c.tombstone != nil && m.reclaimable(c.tombstone) {
		remove(c.tombstone) // last: what it hides must not come back if something ends in between
		c.tombstone = nil
	}
	return c, names, doomed
}

// choose passes what it can not read to Warn.
func (m *Manager) choose(dir string, names []string, q query) *choice {
	q.replicated = m.replicated()
	return choose(names, q, func(name string, err error) {
		m.warn("Unexpected file %s: %v", filepath.Join(dir, name), err)
	})
}

func (m *Manager) reclaimable(f *file) bool {
	now := m.now()
	return float64(now.UnixNano())/1e9-f.time.Seconds() > m.reclaimAge.Seconds()
}

// committed reports that a fragment was written long enough ago that its PUT can not be
// waiting for the commit any more. Swift: common/utils, is_file_older.
func (m *Manager) committed(path string) bool {
	if m.commitWindow <= 0 {
		return true
	}
	info, err := os.Stat(path)
	return err == nil && m.age(info.ModTime()) > m.commitWindow
}

func (m *Manager) age(t time.Time) time.Duration { return m.now().Sub(t) }
