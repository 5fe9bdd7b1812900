package diskfile

import (
	"fmt"
	"path/filepath"

	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// QueueUpdate leaves a pickled container update to the object updater, in the device's
// folder async_pending: pickled is about the object of that name and time, and replaces an
// update of the same time. Errors: *NotMountedError, *NoSpaceError, those of the file
// system. Swift: BaseDiskFileManager.pickle_async_update; common/utils, write_pickle.
func (m *Manager) QueueUpdate(dev, name string, at timestamp.Timestamp, pickled []byte) error {
	device, err := m.DevicePath(dev)
	if err != nil {
		return err
	}
	hash := objhash.Hex(m.hasher.Object(name))
	target := filepath.Join(device, m.policy.AsyncDir(), objhash.Suffix(hash), hash+"-"+at.Internal())
	t := m.temporaryFor(device, filepath.Dir(target))
	defer t.drop()
	if err := m.step("open named", func() error { return t.openNamed(".tmp") }); err != nil {
		return noSpace(err, target, "cannot queue a container update")
	}
	if _, err := t.write(pickled); err != nil {
		return noSpace(err, target, "cannot queue a container update")
	}
	if err := t.fsync(); err != nil {
		return noSpace(err, target, "cannot sync a container update")
	}
	if err := t.makeDirs(); err != nil {
		return noSpace(err, target, "cannot queue a container update")
	}
	if err := t.link(target); err != nil {
		return noSpace(err, target, "cannot queue a container update")
	}
	if err := t.syncDirs(make(map[string]bool)); err != nil {
		return fmt.Errorf("container update %s is queued and perhaps not on the disk: %w", target, err)
	}
	return nil
}
