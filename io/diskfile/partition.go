package diskfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"imping/swift/suffix"
)

// partitionFiles are what a partition holds besides its suffixes, in the order in which they
// are removed with it: lock files last.
var partitionFiles = []string{hashesFile, invalidFile, ".lock", ".lock-replication"}

// partitionLock is how long the removal of a partition waits for each of its locks.
const partitionLock = 200 * time.Millisecond

// RemovePartition removes a partition that has no suffix. If there is one, or anything else
// that Swift keeps in no partition, nothing is touched; unexpected are names of the latter.
// It holds both locks of the partition, that of replication first, but anybody may write there
// without them: that the folder is empty the kernel finds (rule 19).
// Swift: cli/relinker.py, hook_post_partition.
func (m *Manager) RemovePartition(ctx context.Context, dev string, part int) (removed bool, unexpected []string, err error) {
	m.watch.Begin()
	defer m.watch.End()
	if _, err := m.DevicePath(dev); err != nil {
		return false, nil, err
	}
	path := m.PartitionPath(dev, part)
	if unexpected, err = emptyBut(path); err != nil || len(unexpected) > 0 {
		return false, unexpected, notEmpty(err)
	}
	for _, name := range []string{"replication", ""} {
		lock, err := m.lockDir(ctx, "", path, name, partitionLock)
		if err != nil {
			return false, nil, notEmpty(err)
		}
		defer lock.Unlock()
	}
	if unexpected, err = emptyBut(path); err != nil || len(unexpected) > 0 {
		return false, unexpected, notEmpty(err)
	}
	for _, name := range partitionFiles {
		m.watch.Step()
		if err := syscall.Unlink(filepath.Join(path, name)); err != nil && err != syscall.ENOENT {
			return false, nil, fmt.Errorf("cannot remove %s of an empty partition: %w", name, err)
		}
	}
	if err := notEmpty(syscall.Rmdir(path)); err != nil {
		return false, nil, fmt.Errorf("cannot remove an empty partition: %w", err)
	}
	return !exists(path), nil, nil
}

// emptyBut gives the names in a partition that Swift keeps in none; a suffix is ENOTEMPTY.
func emptyBut(path string) (unexpected []string, err error) {
	names, err := listDir(path)
	for _, name := range names {
		switch {
		case suffix.Valid(name):
			return nil, syscall.ENOTEMPTY
		case !slices.Contains(partitionFiles, name):
			unexpected = append(unexpected, name)
		}
	}
	return unexpected, err
}

// notEmpty is no error where something has come, or all is gone.
func notEmpty(err error) error {
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
