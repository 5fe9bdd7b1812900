package diskfile

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/io/batch"
)

// Quarantine moves an object directory to DEVICE/quarantined/DATADIR, by rename only, and
// invalidates its suffix before. If the name is taken there, "-" and a random hexadecimal
// name are added. It returns where the directory is now.
// Swift: obj/diskfile.py, quarantine_renamer.
func (m *Manager) Quarantine(dev string, part int, hash string) (to string, err error) {
	m.watch.Begin()
	defer m.watch.End()
	device, err := m.DevicePath(dev)
	if err != nil {
		return "", err
	}
	if _, err := parseHash(hash); err != nil {
		return "", fmt.Errorf("cannot quarantine: %w", err)
	}
	from := m.hashPath(dev, part, hash)
	return m.quarantine(device, from, filepath.Dir(from))
}

// quarantine moves an object directory of suffixDir, or suffixDir itself.
func (m *Manager) quarantine(device, from, suffixDir string) (to string, err error) {
	if err := m.invalidate(device, filepath.Dir(suffixDir), filepath.Base(suffixDir)); err != nil {
		return "", err
	}
	m.watch.Step()
	folder := filepath.Join(device, "quarantined", m.policy.DataDir())
	to = filepath.Join(folder, filepath.Base(from))
	if err = m.renameNew(device, from, to); err == syscall.EEXIST || err == syscall.ENOTEMPTY {
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		to += "-" + hex.EncodeToString(random[:])
		err = m.renameNew(device, from, to)
	}
	if err != nil {
		return "", fmt.Errorf("cannot quarantine %s to %s: %w", from, to, err)
	}
	return to, nil
}

// renameNew renames to a name that must not be there yet (Swift's rename would replace a
// file or an empty directory), making the folders on the way below top.
func (m *Manager) renameNew(top, from, to string) error {
	var err error
	for range 2 { // the folder may be removed in between
		if _, err = makeDirs(top, filepath.Dir(to)); err != nil {
			continue
		}
		err = m.do(top, &batch.Op{Kind: batch.Rename, Name: from, To: to, Flags: unix.RENAME_NOREPLACE})
		if err == unix.EINVAL || err == unix.ENOSYS {
			// The file system does not know the flag.
			if _, statErr := os.Lstat(to); statErr == nil {
				return syscall.EEXIST
			}
			err = m.do(top, &batch.Op{Kind: batch.Rename, Name: from, To: to})
		}
		if err == nil || err == unix.EEXIST {
			return err
		}
	}
	return err
}
