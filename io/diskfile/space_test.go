package diskfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imping/lab/oracle"
	"imping/swift/timestamp"
)

func TestReserveIsReadAsSwiftDoes(t *testing.T) {
	values := []string{"1%", "0", "10737418240", "0.5%", "-1", "1 %", "%", "", "1.5", "x", " 7 ", "1e2%", "1_000"}
	var answers []any
	oracle.Ask(t, `
import sys, json
from swift.common.utils import config_fallocate_value
out = []
for v in json.load(sys.stdin):
    try:
        out.append(list(config_fallocate_value(v)))
    except Exception:
        out.append(None)
json.dump(out, sys.stdout)
`, values, &answers)
	for i, v := range values {
		got, err := ParseReserve(v)
		want, ok := answers[i].([]any)
		if v == "1_000" {
			ok = false // only Python 3 reads it
		}
		if (err == nil) != ok {
			t.Errorf("%q: %v, Swift says %v", v, err, answers[i])
		} else if ok && (got.Value != want[0] || got.Percent != want[1]) {
			t.Errorf("%q is %+v, Swift says %v", v, got, want)
		}
	}
}

// smallDiskEnv names the folder of devices in a process that has a small ext4 there.
const smallDiskEnv = "IMPING_TEST_SMALL_DISK"

// A device without room, and metadata for which ext4 has none, are *NoSpaceError; a device
// that can not be written on is an error; nothing is left of what failed, and other
// writers go on. Tombstones ignore the reserve (rule 26).
func TestFullDevicesRefuseAndKeepNothing(t *testing.T) {
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "devices")
	check(t, os.Mkdir(mount, 0o755))
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, 8<<20))
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-N", "256", image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -o loop "$1" "$2" && exec "$0"`, os.Args[0], image, mount)
	cmd.Env = append(os.Environ(), smallDiskEnv+"="+mount)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// smallDisk is what the process in the namespace does.
func smallDisk(root string) error {
	device := filepath.Join(root, "sda")
	if err := errors.Join(os.Mkdir(device, 0o755), os.Mkdir(device+"/objects-1", 0o755)); err != nil {
		return err
	}
	c := Config{Devices: root, Policy: testPolicy(), Hasher: testHasher, ReclaimAge: reclaimAge, CommitWindow: time.Minute}
	m := NewManager(c)
	c.Reserve = Reserve{Value: 99, Percent: true}
	reserved := NewManager(c)
	now := timestamp.FromTime(time.Now())
	at := func(name string) Place {
		return Place{Device: "sda", Partition: 7, Name: "/a/c/" + name, FragIndex: 1}
	}
	meta := func(size int) *Metadata {
		return newMetadata([2]string{"X-Timestamp", now.Internal()}, [2]string{"Content-Length", "3"}, [2]string{"X-Object-Meta-Long", strings.Repeat("x", size)})
	}
	// Locks and directories of suffixes in which something is stay.
	if err := errors.Join(putFile(m, at("old"), "old", meta(0), true), m.Invalidate("sda", 7, "000")); err != nil {
		return err
	}
	write := func(m *Manager, name string, announced, size int64) error {
		w, err := m.Create(at(name), announced)
		if err != nil {
			return err
		}
		defer w.Abort()
		for block := make([]byte, 64<<10); w.Size() < size; {
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
		return errors.New("all was written")
	}
	full := func(err error) bool { _, ok := errors.AsType[*NoSpaceError](err); return ok }
	for _, f := range []struct {
		name string
		do   func() error
		want func(error) bool
	}{
		{"metadata too long for ext4", func() error { return putFile(m, at("a"), "abc", meta(5000), true) }, full},
		{"metadata of a .meta file too long", func() error { return m.WriteMeta(at("old"), meta(5000)) }, full},
		{"announced size", func() error { return write(m, "b", 7<<20, 0) }, full},
		{"unknown size", func() error { return write(m, "c", -1, 7<<20) }, full},
		{"reserve", func() error { return write(reserved, "d", 3, 0) }, full},
		{"reserve, unknown size", func() error { return write(reserved, "d", -1, 0) }, full},
		{"reserve, metadata", func() error { return reserved.WriteMeta(at("old"), meta(0)) }, full},
		{"no inodes", func() error {
			var files []string
			for {
				name := fmt.Sprintf("%s/filler%d", device, len(files))
				if err := os.WriteFile(name, nil, 0o600); err != nil {
					break
				}
				files = append(files, name)
			}
			err := putFile(m, at("e"), "abc", meta(0), true)
			for _, name := range files {
				err = errors.Join(err, os.Remove(name))
			}
			return err
		}, full},
		{"read-only", func() error {
			if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return err
			}
			err := putFile(m, at("e"), "abc", meta(0), true)
			if again := unix.Mount("", root, "", unix.MS_REMOUNT, ""); again != nil {
				return again
			}
			return err
		}, func(err error) bool { return errors.Is(err, syscall.EROFS) }},
	} {
		before := everyName(root)
		if err := f.do(); err == nil || !f.want(err) {
			return fmt.Errorf("%s: the error is %v", f.name, err)
		}
		if after := everyName(root); !slices.Equal(before, after) {
			return fmt.Errorf("%s: there was %q, and there is %q", f.name, before, after)
		}
		if err := putFile(m, at("other"), "abc", meta(0), true); err != nil {
			return fmt.Errorf("after %s: %w", f.name, err)
		}
		if err := os.RemoveAll(m.hashPath("sda", 7, fmt.Sprintf("%x", testHasher.Object("/a/c/other")))); err != nil {
			return err
		}
	}
	return reserved.Delete(at("old"), now.Add(1))
}

func everyName(root string) (names []string) {
	_ = filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		names = append(names, path)
		return err
	})
	return names
}
