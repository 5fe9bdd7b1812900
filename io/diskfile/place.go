package diskfile

import (
	"fmt"
	"path/filepath"

	"imping/swift/objhash"
)

// Place says where the files of an object go.
type Place struct {
	Device        string
	Partition     int
	Name          string // "/account/container/object", raw bytes; its hash names the directory
	FragIndex     int    // of an archive whose metadata does not tell it; negative = none
	NextPartPower int    // of a ring whose partition power is being raised, as requests tell it; 0 = it is not (rule 24)
	Unallocated   bool   // a short file whose only write finds the room as well: nobody waits to be told beforehand that there is none
}

// location is a Place on this machine.
type location struct {
	Place
	device string // path
	hash   string
	dir    string // object directory
}

// partition is the partition's directory.
func (l *location) partition() string { return filepath.Dir(filepath.Dir(l.dir)) }

// locate refuses devices that are not mounted, and names that are no object's.
func (m *Manager) locate(p Place) (*location, error) {
	device, err := m.DevicePath(p.Device)
	if err != nil {
		return nil, err
	}
	if !isObjectName(p.Name) {
		return nil, fmt.Errorf("name %.200q is not /account/container/object", p.Name)
	}
	if p.Partition < 0 {
		return nil, fmt.Errorf("%d is no partition", p.Partition)
	}
	if p.NextPartPower < 0 || p.NextPartPower > 32 {
		return nil, fmt.Errorf("next partition power %d is not within 0..32", p.NextPartPower)
	}
	hash := objhash.Hex(m.hasher.Object(p.Name))
	return &location{Place: p, device: device, hash: hash, dir: m.hashPath(p.Device, p.Partition, hash)}, nil
}

// invalidate notes that the suffix changes.
func (m *Manager) invalidateAt(at *location) error {
	return m.step("invalidate", func() error {
		return m.invalidate(at.device, at.partition(), filepath.Base(filepath.Dir(at.dir)))
	})
}

// under is the object directory in the partition that the object has under a partition
// power. Swift: common/utils, replace_partition_in_path.
func (m *Manager) under(at *location, power int) string {
	return m.hashPath(at.Device, objhash.Partition(m.hasher.Object(at.Name), uint(max(power, 0))), at.hash)
}

// newDir is the object directory in the partition that the object is going to have, and
// whether that is another one.
func (m *Manager) newDir(at *location) (dir string, moves bool) {
	if at.NextPartPower == 0 {
		return "", false
	}
	dir = m.under(at, at.NextPartPower)
	return dir, dir != at.dir
}

// tidy removes what has become obsolete, in the other partition of the object too while
// the partition power is raised: the one it is going to have or, once the ring has
// changed, the one it had. Swift: cleanup_ondisk_files and _part_power_cleanup.
func (m *Manager) tidy(at *location) {
	dirs := []string{at.dir}
	if at.NextPartPower > 0 {
		other, moves := m.newDir(at)
		if !moves {
			other = m.under(at, at.NextPartPower-1)
		}
		dirs = append(dirs, other)
	}
	for _, dir := range dirs {
		err := m.step("cleanup", func() error {
			_, _, err := m.cleanup(dir, anyDurable)
			return err
		})
		if err != nil {
			// The file is there, and the next hashing cleans up.
			m.warn("Problem cleaning up %s: %v", dir, err)
		}
	}
}
