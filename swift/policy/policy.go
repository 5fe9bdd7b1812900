// Package policy holds what swift.conf says to every daemon of a cluster: the salts of the
// object hash and the storage policies. It holds no rings and no codes.
package policy

import (
	"fmt"
	"slices"
	"strings"

	"imping/swift/objhash"
)

// Type is how a policy keeps its objects.
type Type string

// The types that Swift has.
const (
	Replication   Type = "replication"
	ErasureCoding Type = "erasure_coding"
)

// Policy is one storage policy. The fields from ECType on are zero unless Type is
// ErasureCoding. Swift: common/storage_policy.py.
type Policy struct {
	Index      int
	Name       string
	Aliases    []string // further names, without Name
	Type       Type
	Default    bool
	Deprecated bool

	ECType       string // "isa_l_rs_vand"
	Data, Parity int    // fragments of each kind, both >= 1
	SegmentSize  int    // bytes of an object that are encoded at a time
	Duplication  int    // how many archives of each index there are, >= 1
}

// UniqueFragments is the number of different fragment indexes, 0 for replication.
func (p *Policy) UniqueFragments() int { return p.Data + p.Parity }

// Replicas is the number of replicas that the ring of an erasure-coded policy must have,
// 0 for replication, where any will do.
func (p *Policy) Replicas() int { return p.UniqueFragments() * p.Duplication }

// BackendIndex is the fragment index that belongs to the node of that index (of a primary:
// its place in the ring's row; of a handoff: its handoff_index). Under replication it is
// nodeIndex. Swift: ECStoragePolicy.get_backend_index.
func (p *Policy) BackendIndex(nodeIndex int) int {
	if p.Type != ErasureCoding {
		return nodeIndex
	}
	return nodeIndex % p.UniqueFragments()
}

// CheckReplicas refuses a ring that does not fit an erasure-coded policy. Swift:
// ECStoragePolicy.validate_ring_data.
func (p *Policy) CheckReplicas(replicas float64) error {
	if p.Type == ErasureCoding && replicas != float64(p.Replicas()) {
		return fmt.Errorf("the ring of policy %s must have %d replicas, %d for each of %d fragments, and has %v",
			p, p.Replicas(), p.Duplication, p.UniqueFragments(), replicas)
	}
	return nil
}

// Scheme is the short form that Swift keeps in X-Object-Sysmeta-Ec-Scheme, such as
// "isa_l_rs_vand 10+4". Swift: ECStoragePolicy.ec_scheme_description.
func (p *Policy) Scheme() string { return fmt.Sprintf("%s %d+%d", p.ECType, p.Data, p.Parity) }

// DataDir is the folder of the policy's objects on a device: "objects", "objects-1".
func (p *Policy) DataDir() string { return indexed("objects", p.Index) }

// TmpDir is the folder of the policy's unfinished files on a device: "tmp", "tmp-1".
func (p *Policy) TmpDir() string { return indexed("tmp", p.Index) }

// AsyncDir is the folder of the policy's container updates that wait on a device:
// "async_pending", "async_pending-1".
func (p *Policy) AsyncDir() string { return indexed("async_pending", p.Index) }

// RingName is the name of the policy's ring: "object", "object-1".
func (p *Policy) RingName() string { return indexed("object", p.Index) }

// String is for messages: the name and the index.
func (p *Policy) String() string { return fmt.Sprintf("%s (index %d)", p.Name, p.Index) }

// indexed is Swift's get_zero_indexed_base_string.
func indexed(base string, index int) string {
	if index == 0 {
		return base
	}
	return fmt.Sprintf("%s-%d", base, index)
}

// Swift is a swift.conf.
type Swift struct {
	HashPrefix, HashSuffix []byte    // never both empty
	Policies               []*Policy // by ascending index; indexes may be missing between
	Constraints            Constraints
	Path                   string
	Warnings               []string // what a person should be told once
}

// ByIndex returns nil for a policy that is not there.
func (s *Swift) ByIndex(index int) *Policy {
	for _, p := range s.Policies {
		if p.Index == index {
			return p
		}
	}
	return nil
}

// ByName finds a policy by its name or an alias, in any case; nil when there is none.
func (s *Swift) ByName(name string) *Policy {
	for _, p := range s.Policies {
		if strings.EqualFold(p.Name, name) || slices.ContainsFunc(p.Aliases, func(alias string) bool {
			return strings.EqualFold(alias, name)
		}) {
			return p
		}
	}
	return nil
}

// Default returns the policy of containers that ask for none.
func (s *Swift) Default() *Policy {
	for _, p := range s.Policies {
		if p.Default {
			return p
		}
	}
	return nil
}

// Hasher hashes names as this cluster does.
func (s *Swift) Hasher() objhash.Hasher {
	return objhash.Hasher{Prefix: s.HashPrefix, Suffix: s.HashSuffix}
}
