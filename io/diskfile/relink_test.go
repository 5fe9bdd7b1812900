package diskfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rule 39: of a device that is unmounted between the look at it and the lock of a partition, the lock makes nothing below the mount point.
func TestARelinkersLockStaysOnItsDevice(t *testing.T) {
	devices := t.TempDir()
	m := newManager(t, devices)
	point := filepath.Join(devices, "sda")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", point, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs root to mount a tmpfs: %v", err)
	}
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = unix.Unmount(point, unix.MNT_DETACH)
		}
	})
	if err := os.MkdirAll(filepath.Join(point, m.policy.DataDir(), "5"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := m.Relinker("sda", RelinkConfig{Power: 8, Tell: func(RelinkEvent) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// One that is not there is made.
	lock, err := r.lock(t.Context(), 11, m.PartitionPath("sda", 11))
	if err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	mounted = false
	for _, part := range []int{5, 12} {
		if _, err := r.lock(t.Context(), part, m.PartitionPath("sda", part)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("partition %d: %v", part, err)
		}
	}
	// And nothing is linked or removed without the lock, on a disk that somebody may mount again: its old hashes would stay.
	batch := []*relinking{{to: 12, old: "5/abc/x", new: "12/abc/x", links: []string{"file"}}}
	_, any, err := r.lockFor(t.Context(), 12, batch, func(o *relinking) string { return o.new }, func(*relinking) bool { return true })
	if gone := (*NotMountedError)(nil); any || !errors.As(err, &gone) {
		t.Errorf("%v, %v", any, err)
	}
	if left, err := os.ReadDir(point); err != nil || len(left) > 0 {
		t.Errorf("%v is there now, %v", left, err)
	}
}
