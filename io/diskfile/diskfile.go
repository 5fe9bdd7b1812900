// Package diskfile is Swift's object directories on a local device: which
// files of a directory count, their metadata, the suffix hashes of a partition, locks
// and quarantine. It moves no object data over the network and logs nothing: what an
// operator should know goes to Config.Warn.
package diskfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"imping/io/batch"
	"imping/swift/objhash"
	"imping/swift/policy"
)

// Swift's defaults for the options of the same names.
// Swift: obj/diskfile.py, DEFAULT_RECLAIM_AGE, DEFAULT_COMMIT_WINDOW and mb_per_sync.
const (
	DefaultReclaimAge   = 7 * 24 * time.Hour
	DefaultCommitWindow = 60 * time.Second
	DefaultBytesPerSync = 512 << 20
)

// Config says where the objects of one policy are, how old they must be to be cleaned up,
// and how they are written. No field has a default but Engine, BytesPerSync, Now and Warn: zero ages are zero ages.
type Config struct {
	Devices      string // parent folder of the devices, such as /srv/node
	MountCheck   bool   // devices must be mount points
	Policy       *policy.Policy
	Hasher       objhash.Hasher
	ReclaimAge   time.Duration                    // tombstones and strays older than this are removed
	CommitWindow time.Duration                    // fragments that are not durable stay at least this long
	Reserve      Reserve                          // fallocate_reserve
	NoFallocate  bool                             // disable_fallocate: neither is room allocated nor the reserve looked at
	Engine       func(device string) batch.Engine // who makes the system calls of writes to a device; nil = batch.Plain
	BytesPerSync int64                            // mb_per_sync, in bytes: large files are synced so often on the way; 0 = DefaultBytesPerSync
	Now          func() time.Time
	Warn         func(format string, args ...any) // findings that are no errors of the caller; may be called from any goroutine
}

// Manager gives access to the objects of one policy on the local devices. It keeps no
// state but its Config and is goroutine-safe. Swift: obj/diskfile.py, ECDiskFileManager and
// DiskFileManager.
type Manager struct {
	devices      string
	mountCheck   bool
	policy       *policy.Policy
	hasher       objhash.Hasher
	reclaimAge   time.Duration
	commitWindow time.Duration
	now          func() time.Time
	warn         func(format string, args ...any)
	reserve      Reserve
	noFallocate  bool
	bytesPerSync int64
	engine       func(device string) batch.Engine
	unsynced     bool                                     // in tests that have no time for it
	fault        func(step string, do func() error) error // nil but in tests
	watch        Watch
}

// NewManager makes a Manager for a policy of either type.
func NewManager(c Config) *Manager {
	m := &Manager{
		devices: c.Devices, mountCheck: c.MountCheck, policy: c.Policy, hasher: c.Hasher,
		reclaimAge: c.ReclaimAge, commitWindow: c.CommitWindow, now: c.Now, warn: c.Warn,
		reserve: c.Reserve, noFallocate: c.NoFallocate, bytesPerSync: c.BytesPerSync,
		engine: c.Engine, watch: nobody{},
	}
	if m.bytesPerSync <= 0 {
		m.bytesPerSync = DefaultBytesPerSync
	}
	if m.engine == nil {
		m.engine = func(string) batch.Engine { return batch.Plain() }
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.warn == nil {
		m.warn = func(string, ...any) {}
	}
	return m
}

// replicated tells that the policy keeps whole objects.
func (m *Manager) replicated() bool { return m.policy.Type == policy.Replication }

// NotMountedError says why a device can not be used.
type NotMountedError struct{ Device, Path, Reason string }

func (e *NotMountedError) Error() string {
	return fmt.Sprintf("device %s (%s) %s", e.Device, e.Path, e.Reason)
}

// DevicePath is the folder of a device, after it was seen to be a mount point or, without
// MountCheck, a directory. Errors: *NotMountedError.
// Swift: common/constraints.py, check_drive.
func (m *Manager) DevicePath(dev string) (string, error) {
	path, err := m.mountedPath(dev)
	if err == nil {
		err = m.checkDir(dev, path)
	}
	if err != nil {
		return "", err
	}
	return path, nil
}

// mountedPath is DevicePath without a look at a folder that needs no mount: whoever finds something in it knows that it is there, and
// asks checkDir otherwise.
func (m *Manager) mountedPath(dev string) (string, error) {
	path := filepath.Join(m.devices, dev)
	switch {
	case !validDevice(dev):
		return "", &NotMountedError{dev, path, "is not a valid drive name"}
	case m.mountCheck && !isMount(path):
		return "", &NotMountedError{dev, path, "is not mounted"}
	}
	return path, nil
}

func (m *Manager) checkDir(dev, path string) error {
	if !m.mountCheck && !isDir(path) {
		return &NotMountedError{dev, path, "is not a directory"}
	}
	return nil
}

// validDevice takes names that URL quoting leaves alone.
func validDevice(dev string) bool {
	if dev == "" || dev == "." || dev == ".." {
		return false
	}
	return strings.IndexFunc(dev, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("_.-~", r)
	}) < 0
}

func isDir(path string) bool {
	var st unix.Stat_t
	return stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// isMount reports a mount point, or what a file .ismount in it declares to be one.
// Swift: common/utils, ismount_raw.
func isMount(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		up, err := os.Lstat(path + "/..") // not cleaned: the real parent
		if err != nil {
			return false
		}
		s, u := info.Sys().(*syscall.Stat_t), up.Sys().(*syscall.Stat_t)
		if s.Dev != u.Dev || s.Ino == u.Ino {
			return true
		}
	}
	stub, err := os.Stat(filepath.Join(path, ".ismount"))
	return err == nil && stub.Mode().IsRegular()
}

// PartitionPath is the folder of a partition, which need not exist.
func (m *Manager) PartitionPath(dev string, part int) string {
	return filepath.Join(m.devices, dev, m.policy.DataDir(), strconv.Itoa(part))
}

func (m *Manager) hashPath(dev string, part int, hash string) string {
	return filepath.Join(m.PartitionPath(dev, part), objhash.Suffix(hash), hash)
}

// Partitions lists a device's partitions of the policy, ascending, and the names beside
// them that are none (status files of the auditor are not told). A missing data
// directory is made, and empty (rule 38). Swift: obj/reconstructor.py, collect_parts.
func (m *Manager) Partitions(dev string) (parts []int, unexpected []string, err error) {
	m.watch.Begin()
	defer m.watch.End()
	path, err := m.DevicePath(dev)
	if err != nil {
		return nil, nil, err
	}
	path = filepath.Join(path, m.policy.DataDir())
	names, err := listDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, nil, fmt.Errorf("cannot make the data directory: %w", err)
		}
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list partitions: %w", err)
	}
	for _, name := range names {
		// A number that is not written as Swift writes it would be another folder.
		if n, err := strconv.Atoi(name); err == nil && n >= 0 && strconv.Itoa(n) == name {
			parts = append(parts, n)
		} else if !strings.HasPrefix(name, "auditor_status_") || !strings.HasSuffix(name, ".json") {
			unexpected = append(unexpected, name)
		}
	}
	slices.Sort(parts)
	slices.Sort(unexpected)
	return parts, unexpected, nil
}

// CleanTemporaries removes the files of the device's folder of temporary files that were
// not touched for the reclaim age; what can not be removed stays.
// Swift: common/utils, unlink_older_than.
func (m *Manager) CleanTemporaries(dev string) error {
	m.watch.Begin()
	defer m.watch.End()
	path, err := m.DevicePath(dev)
	if err != nil {
		return err
	}
	path = filepath.Join(path, m.policy.TmpDir())
	names, err := listDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot list temporary files: %w", err)
	}
	for _, name := range names {
		m.watch.Step()
		file := filepath.Join(path, name)
		if info, err := os.Stat(file); err == nil && m.now().Sub(info.ModTime()) > m.reclaimAge {
			_ = syscall.Unlink(file)
		}
	}
	return nil
}

// listDir gives the names in a directory, unsorted. What is no directory is ENOTDIR,
// a pipe too.
func listDir(path string) ([]string, error) { return listDirAt(unix.AT_FDCWD, path, path) }

// listDirAt is listDir of what is called name in the open directory at; path is for people.
func listDirAt(at int, name, path string) ([]string, error) {
	fd, names, err := listOpenAt(at, name, path)
	if err == nil {
		unix.Close(fd)
	}
	return names, err
}

// listOpen is listDir, and leaves the directory open: who goes on with its files finds them without the way to it.
func listOpen(path string) (fd int, names []string, err error) {
	return listOpenAt(unix.AT_FDCWD, path, path)
}

func listOpenAt(at int, name, path string) (fd int, names []string, err error) {
	if fd, err = openat(at, name); err != nil {
		return -1, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	list := listers.Get().(*lister)
	defer listers.Put(list)
	entries, err := list.readAll(fd)
	if err != nil {
		unix.Close(fd)
		return -1, nil, &fs.PathError{Op: "readdirent", Path: path, Err: err}
	}
	return fd, entryNames(entries), nil
}

// open is os.OpenFile for files and directories: it does not try whether they can be polled, which costs four system calls more than
// the rest.
func open(path string, flags int, mode uint32) (*os.File, error) {
	fd, err := openFD(path, flags, mode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openFD gives the bare descriptor, for what is closed in the function that opens it.
func openFD(path string, flags int, mode uint32) (int, error) {
	return openFDAt(unix.AT_FDCWD, path, path, flags, mode)
}

// openFDAt is openFD of a name in an open directory; path is for errors.
func openFDAt(at int, name, path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, mode)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// stat follows links. The error is bare.
func stat(path string, st *unix.Stat_t) error {
	for {
		if err := unix.Stat(path, st); err != unix.EINTR {
			return err
		}
	}
}

// makeDirs makes the folders on the way from top, which must exist, down to path: an
// unmounted device must not be written on. Modes are Swift's: what umask leaves. made is
// the first of those that were missing, "" if none was. Others may remove them while they are empty.
func makeDirs(top, path string) (made string, err error) {
	for range linkTries {
		switch err = os.Mkdir(path, 0o777); {
		case err == nil && made == "":
			return path, nil
		case err == nil:
			return made, nil
		case errors.Is(err, fs.ErrExist):
			info, statErr := os.Stat(path)
			if statErr == nil && info.IsDir() {
				return made, nil
			}
			if !errors.Is(statErr, fs.ErrNotExist) {
				return made, err // something else has its name
			}
			err = statErr // it was there, and is gone
			continue
		}
		parent := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || len(parent) <= len(top) {
			return made, err
		}
		above, err := makeDirs(top, parent)
		if made == "" {
			made = above
		}
		if err != nil {
			return made, err
		}
	}
	return made, err
}
