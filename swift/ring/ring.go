// Package ring is Swift's ring read from its file: which devices hold a partition, and
// which stand in for them, in Swift's order. It builds no rings and watches no files.
package ring

import (
	"fmt"
	"os"
	"time"

	"imping/swift/objhash"
)

// Ring is one ring file in memory. It is never changed after Load, neither by this
// package nor by its callers, and is so goroutine-safe; a newer file is a new Ring.
// Swift: common/ring/ring.py, RingData and Ring.
type Ring struct {
	// Devs are the devices by id; nil where a device was removed.
	Devs []*Device
	// PartPower is the number of hash bits that make a partition, PartShift is
	// 32-PartPower.
	PartPower, PartShift uint
	// NextPartPower is the partition power that an increase leads to, -1 when none is
	// under way.
	NextPartPower int
	// Version is the builder's; 0 when the file does not tell, as old ones do not.
	Version int64
	// Path, ModTime and Size (bytes) are those of the file that was read.
	Path    string
	ModTime time.Time
	Size    int64

	// rows are the device ids. Every id in them has a device in Devs.
	rows table
	// tiers number what a device stands in, from the widest to the narrowest.
	tiers [numTiers]tier
}

// Name is the name of a policy's object ring; its file is Name+".ring.gz" in swift_dir.
// Swift: common/storage_policy.py, get_policy_string("object", index).
func Name(policyIndex int) string {
	if policyIndex == 0 {
		return "object"
	}
	return fmt.Sprintf("object-%d", policyIndex)
}

// Partitions is the number of partitions: 2^PartPower.
func (r *Ring) Partitions() int { return r.rows.partitions() }

// Replicas is the number of replicas; not whole when only some partitions have the
// last one.
func (r *Ring) Replicas() float64 { return r.rows.replicas() }

// Partition is the partition of an object's hash.
func (r *Ring) Partition(hash [16]byte) int { return objhash.Partition(hash, r.PartPower) }

// LocalDevices are the devices that isLocal picks, by id, whatever their weight:
// a drained device still has partitions to send away.
// Swift: obj/reconstructor.py, get_policy2devices.
func (r *Ring) LocalDevices(isLocal func(*Device) bool) []*Device {
	var local []*Device
	for _, d := range r.Devs {
		if d != nil && isLocal(d) {
			local = append(local, d)
		}
	}
	return local
}

// Changed reports whether the file has another modification time than it had at Load.
// Swift: common/ring/ring.py, Ring.has_changed.
func (r *Ring) Changed() (bool, error) {
	info, err := os.Stat(r.Path)
	if err != nil {
		return false, fmt.Errorf("cannot look for a newer ring: %w", err)
	}
	return !info.ModTime().Equal(r.ModTime), nil
}
