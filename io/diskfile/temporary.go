package diskfile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/io/batch"
)

// temporary is a file that no one sees until link gives it its name. Its system calls are those of the device's engine, but
// for making directories and closing, which wait for no disk in the usual case.
type temporary struct {
	m      *Manager
	device string // path of the device: nothing is made above it
	dir    string // directory of the file to be
	made   string // the topmost of the directories that were made for it, "" if none were
	fd     int    // -1 if it is not open
	size   int64  // bytes written
	name   string // path of a file that has one, "" under O_TMPFILE
}

// linkTries bounds how often a directory that others remove is made again.
const linkTries = 5

// step does one of the operations that lead to a file. Tests fail operations by name, and
// end the process before and after them.
func (m *Manager) step(name string, do func() error) error {
	if m.fault == nil {
		return do()
	}
	return m.fault(name, do)
}

// Intercept has f do each step of every write from now on, for tests of what becomes of one that
// fails or ends there. Not while the manager is in use.
func (m *Manager) Intercept(f func(step string, do func() error) error) { m.fault = f }

// do does one operation on a device, whose path is given.
func (m *Manager) do(device string, op *batch.Op) error {
	ops := [1]batch.Op{*op}
	err := m.engine(filepath.Base(device)).Do(context.Background(), ops[:])
	*op = ops[0]
	return err
}

func (t *temporary) do(op *batch.Op) error { return t.m.do(t.device, op) }

// syncDir puts the names in a directory on the disk.
func (m *Manager) syncDir(device, path string) error {
	m.watch.Step()
	op := batch.Op{Kind: batch.SyncDir, Name: path}
	if m.unsynced {
		op = batch.Op{Kind: batch.Stat, Name: path, Stat: &unix.Statx_t{}}
	}
	return m.do(device, &op)
}

func (m *Manager) temporaryFor(device, dir string) *temporary {
	return &temporary{m: m, device: device, dir: dir, fd: -1}
}

// newTemporary makes the directories down to dir and opens a file in the last one, where
// XFS then keeps its inode and data; or, if the file system has no O_TMPFILE, a named one in
// the folder of temporary files. Swift: BaseDiskFileWriter._get_tempfile.
func (m *Manager) newTemporary(device, dir string) (t *temporary, err error) {
	t = m.temporaryFor(device, dir)
	for range linkTries {
		if err = t.makeDirs(); err == nil {
			err = m.step("open", t.open)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		// Someone removed the empty directory, or the one above.
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		err = m.step("open named", func() error { return t.openNamed("") })
	}
	if err != nil {
		t.drop()
		return nil, noSpace(err, dir, "cannot open a temporary file for %s", dir)
	}
	return t, nil
}

func (t *temporary) makeDirs() error {
	return t.m.step("mkdir", func() error {
		made, err := makeDirs(t.device, t.dir)
		if made != "" && (t.made == "" || len(made) < len(t.made)) {
			t.made = made
		}
		return err
	})
}

func (t *temporary) open() error {
	// The mode is that of Python's os.open, less umask.
	op := batch.Op{Kind: batch.Open, Name: t.dir, Flags: unix.O_TMPFILE | unix.O_WRONLY, Mode: 0o777}
	if err := t.do(&op); err != nil {
		return &fs.PathError{Op: "open O_TMPFILE", Path: t.dir, Err: err}
	}
	t.fd = op.File
	return nil
}

// openNamed opens a file in the folder of temporary files, with mkstemp's mode.
func (t *temporary) openNamed(ext string) error {
	name, err := t.temporaryName(ext)
	if err != nil {
		return err
	}
	op := batch.Op{Kind: batch.Open, Name: name, Flags: unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, Mode: 0o600}
	if err := t.do(&op); err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	t.fd, t.name = op.File, name
	return nil
}

// temporaryName is a name that is not taken, in the folder of temporary files.
func (t *temporary) temporaryName(ext string) (string, error) {
	folder := filepath.Join(t.device, t.m.policy.TmpDir())
	_, err := makeDirs(t.device, folder)
	return filepath.Join(folder, "tmp"+rand.Text()+ext), err
}

func (t *temporary) write(b []byte) (int, error) {
	n := 0
	err := t.m.step("write", func() error {
		for {
			op := batch.Op{Kind: batch.Write, File: t.fd, Buf: b[n:], Off: t.size}
			err := t.do(&op)
			n += op.N
			t.size += int64(op.N)
			if err != io.ErrShortWrite || op.N == 0 { // a file system that takes nothing would be asked for ever
				return err // which tells why the one before was short
			}
		}
	})
	return n, err
}

// fdatasync is for large files on the way: what was written since from is synced and leaves
// the page cache.
func (t *temporary) fdatasync(from, n int64) error {
	return t.m.step("fdatasync", func() error {
		err := t.do(&batch.Op{Kind: batch.SyncData, File: t.fd})
		if err == nil {
			t.dropCache(from, n)
		}
		return err
	})
}

// writeOut has the disk begin with what was written; nothing is waited for. When the first of some files is synced,
// the journal's commit is good for the others. An error may be told here and nowhere else: where room is found only
// when bytes go out, ext4 drops those that it finds none for.
func (t *temporary) writeOut() error {
	return t.m.step("write out", func() error {
		if t.m.unsynced {
			return nil
		}
		err := t.do(&batch.Op{Kind: batch.WriteOut, File: t.fd})
		if err == unix.ESPIPE || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP {
			return nil // not to be had here: the sync does it all
		}
		return err
	})
}

func (t *temporary) fsync() error {
	return t.m.step("fsync", func() error {
		if t.m.unsynced {
			return nil
		}
		return t.do(&batch.Op{Kind: batch.Sync, File: t.fd})
	})
}

func (t *temporary) dropCache(off, n int64) {
	_ = t.do(&batch.Op{Kind: batch.DropCache, File: t.fd, Off: off, Size: n})
}

// link gives the file its name, in place of any file that has it: at no moment there is
// none (stock unlinks the old one first). A directory that was removed in the meantime is made again.
// Swift: common/utils, link_fd_to_path and renamer.
func (t *temporary) link(target string) error {
	var err error
	for range linkTries {
		if t.name != "" {
			err = t.m.step("rename", func() error { return t.do(&batch.Op{Kind: batch.Rename, Name: t.name, To: target}) })
		} else {
			err = t.m.step("link", func() error { return t.linkTo(target) })
		}
		switch err {
		case nil:
			t.name = ""
			return nil
		case unix.ENOENT:
			if err := t.makeDirs(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		case unix.EEXIST:
			if err := t.m.step("link named", t.giveName); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return err
}

func (t *temporary) linkTo(path string) error {
	return t.do(&batch.Op{Kind: batch.Link, File: t.fd, To: path})
}

// giveName makes a named temporary file of an unnamed one, since only rename replaces.
func (t *temporary) giveName() error {
	name, err := t.temporaryName("")
	if err != nil {
		return err
	}
	if err := t.linkTo(name); err != nil {
		return err
	}
	t.name = name
	return nil
}

// syncDirs syncs the directory of the file and the parents of all that were made for it, but for those that have been since
// the files got their names. A
// directory that is gone was emptied by someone who has found the file obsolete.
func (t *temporary) syncDirs(synced map[string]bool) error {
	for dir := t.dir; ; dir = filepath.Dir(dir) {
		var err error
		if !synced[dir] {
			err = t.m.step("fsync dir", func() error { return t.m.syncDir(t.device, dir) })
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot sync directory %s: %w", dir, err)
		}
		synced[dir] = true
		if t.made == "" || dir == filepath.Dir(t.made) || dir == t.device {
			t.made = ""
			return nil
		}
	}
}

// close closes the file, which keeps its name if it has been linked.
func (t *temporary) close() {
	if t.fd >= 0 {
		_ = unix.Close(t.fd)
		t.fd = -1
	}
}

// drop removes the file and the object directory and suffix that were made for it, unless
// there is something in them by now. (Stock leaves the directories.)
func (t *temporary) drop() {
	t.close()
	if t.name != "" {
		_ = syscall.Unlink(t.name)
		t.name = ""
	}
	dir := t.dir
	for range 2 {
		if t.made == "" || len(dir) < len(t.made) || syscall.Rmdir(dir) != nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	t.made = ""
}
