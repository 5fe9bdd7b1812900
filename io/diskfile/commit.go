package diskfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"imping/io/batch"
	"imping/swift/timestamp"
)

// MakeDurable commits the fragment of p.FragIndex at that time, which is there and not
// durable: it is renamed, and what it makes obsolete is removed. It is a success if someone
// else has done so, or has written something newer. Errors: *NotMountedError,
// *NoSpaceError, *LockTimeoutError, ErrNotExist (there is no such fragment), those of the
// file system. Swift: ECDiskFileWriter.commit and _finalize_durable.
func (m *Manager) MakeDurable(p Place, at timestamp.Timestamp) error {
	l, err := m.locate(p)
	if err != nil {
		return fmt.Errorf("cannot make a fragment durable: %w", err)
	}
	if m.replicated() {
		return nil
	}
	if p.FragIndex < 0 || p.FragIndex >= m.policy.UniqueFragments() {
		return fmt.Errorf("cannot make a fragment durable: %d is no fragment index of a %d+%d policy", p.FragIndex, m.policy.Data, m.policy.Parity)
	}
	if !isDir(l.dir) {
		return fmt.Errorf("cannot make a fragment durable: %s: %w", l.dir, ErrNotExist) // and no partition is made for it
	}
	return m.makeDurable(l, at, p.FragIndex)
}

func (m *Manager) makeDurable(at *location, ts timestamp.Timestamp, index int) error {
	f := file{time: ts, ext: ".data", index: index}
	from := f.format()
	f.durable = true
	to := f.format()
	path := filepath.Join(at.dir, to)

	if !exists(filepath.Join(at.dir, from)) {
		return m.overtaken(at, f, path)
	}
	// Before, so that a process that ends in between leaves no stale hash, and again after:
	// hashing may have happened since (rule 21).
	if err := m.invalidateAt(at); err != nil {
		return noSpace(err, path, "cannot make %s durable", path)
	}
	err := m.step("rename durable", func() error {
		return m.do(at.device, &batch.Op{Kind: batch.Rename, Name: filepath.Join(at.dir, from), To: path})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return m.overtaken(at, f, path)
	}
	if err != nil {
		return noSpace(err, path, "cannot make %s durable", path)
	}
	if err := m.step("fsync dir", func() error { return m.syncDir(at.device, at.dir) }); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is durable and perhaps not on the disk: %w", path, err)
	}
	if err := m.renameNewDurable(at, from, to); err != nil {
		return err
	}
	if err := m.invalidateAt(at); err != nil {
		return noSpace(err, path, "cannot invalidate for %s", path)
	}
	m.tidy(at)
	return nil
}

// overtaken finds out whether a fragment is gone because something newer has come, or it has
// been made durable by someone else. (Swift means to, but trips over its own check unless the newer
// fragment is of the same index; and of the same time it would take any index.)
func (m *Manager) overtaken(at *location, f file, path string) error {
	names, err := listDir(at.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot make %s durable: %w", path, err)
	}
	slices.Sort(names)
	slices.Reverse(names)
	c := m.choose(at.dir, names, query{limit: m.policy.UniqueFragments(), index: -1})
	if c.tombstone != nil && c.tombstone.time.After(f.time) || c.durable != nil && c.durable[0].time.After(f.time) {
		return nil
	}
	if slices.ContainsFunc(c.durable, func(d *file) bool { return d.time == f.time && d.index == f.index }) {
		return nil
	}
	return fmt.Errorf("cannot make %s durable: %w", path, ErrNotExist)
}

// linkNew gives a published file its name in the partition that the object is going to have
// (rule 24). A failure is told only: the relinker finds it.
// Swift: obj/diskfile.py, relink_paths.
func (m *Manager) linkNew(at *location, name string) {
	dir, moves := m.newDir(at)
	if !moves {
		return
	}
	if err := m.step("link new", func() error { return relink(at.device, filepath.Join(at.dir, name), filepath.Join(dir, name)) }); err != nil {
		m.warn("Relinking %s to %s failed: %v", filepath.Join(at.dir, name), dir, err)
	}
}

// relink makes a second link to a file. It is done if that is there, or the file is gone.
func relink(top, from, to string) error {
	if _, err := makeDirs(top, filepath.Dir(to)); err != nil {
		return err
	}
	err := os.Link(from, to)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !exists(from):
		return nil
	case errors.Is(err, fs.ErrExist):
		old, statErr := os.Stat(from)
		if errors.Is(statErr, fs.ErrNotExist) {
			return nil
		}
		if there, statErr2 := os.Stat(to); statErr == nil && statErr2 == nil && os.SameFile(old, there) {
			return nil
		}
	}
	return err
}

// renameNewDurable makes a fragment durable in the partition that the object is going to have. If
// it has no name there, it is given the durable one (2.30.1 only logs it, master fails).
func (m *Manager) renameNewDurable(at *location, from, to string) error {
	dir, moves := m.newDir(at)
	if !moves {
		return nil
	}
	err := m.step("rename new", func() error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) })
	if errors.Is(err, syscall.ENOENT) {
		err = m.step("link new", func() error { return relink(at.device, filepath.Join(at.dir, to), filepath.Join(dir, to)) })
	}
	if err != nil {
		return noSpace(err, dir, "cannot make %s durable in the next partition", filepath.Join(at.dir, to))
	}
	return nil
}
