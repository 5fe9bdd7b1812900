package ring

import (
	"crypto/md5"
	"encoding/binary"
	"iter"
	"strconv"
)

// Node is a device in its role for one partition.
type Node struct {
	*Device
	// Index is the place among the primaries (for erasure codes: the fragment's, before
	// duplication is taken into account), or the handoff_index: the place among the
	// handoffs, from 0.
	Index int
	// Handoff tells a stand-in from a primary.
	Handoff bool
}

// A tier is a level of failure: region, zone, server (ip, whatever the port), device.
const (
	tierRegion = iota
	tierZone
	tierIP
	tierDevice
	numTiers
)

// tier numbers the members of one level.
type tier struct {
	of    []int32 // device id -> member it stands in
	size  int     // how many members there are
	alive int     // how many have a partition assigned
}

// number numbers regions, zones, servers and devices. A zone is one of its region, a
// server one of its zone. Swift: common/ring/ring.py, Ring._update_bookkeeping.
func (r *Ring) number() {
	assigned := r.rows.assigned(len(r.Devs))
	type place struct {
		region, zone int
		ip           string
		id           int
	}
	for t := range r.tiers {
		members := make(map[place]int32)
		var alive []bool
		of := make([]int32, len(r.Devs))
		for id, d := range r.Devs {
			if d == nil {
				continue
			}
			p := place{region: d.Region}
			if t >= tierZone {
				p.zone = d.Zone
			}
			if t >= tierIP {
				p.ip = d.IP
			}
			if t >= tierDevice {
				p.id = id
			}
			m, known := members[p]
			if !known {
				m = int32(len(alive))
				members[p] = m
				alive = append(alive, false)
			}
			of[id] = m
			if assigned[id] && !alive[m] {
				alive[m] = true
				r.tiers[t].alive++
			}
		}
		r.tiers[t].of, r.tiers[t].size = of, len(alive)
	}
}

// PartNodes are the primaries of a partition, each device once however many replicas it
// holds, with Index counting the devices. A partition that the ring does not have has
// none. Swift: common/ring/ring.py, Ring.get_part_nodes.
func (r *Ring) PartNodes(part int) []Node {
	if part < 0 || part >= r.Partitions() {
		return nil
	}
	return r.rows.nodes(part, r.Devs)
}

// MoreNodes are the handoffs of a partition, found one by one as they are asked for:
// all devices with partitions that are not primaries. First come those in regions that
// the primaries and the handoffs before do not touch, then those in new zones, then
// those on new servers, then the rest; within each group in the order in which they
// hold other partitions, from one chosen by the MD5 of the partition's number. Each
// range over the result starts anew. Swift: common/ring/ring.py, Ring.get_more_nodes.
func (r *Ring) MoreNodes(part int) iter.Seq[Node] {
	return func(yield func(Node) bool) {
		s := r.newSearch()
		for _, n := range r.PartNodes(part) {
			s.mark(n.ID)
		}
		parts := r.Partitions()
		sum := md5.Sum(strconv.AppendInt(nil, int64(part), 10))
		start := int(binary.BigEndian.Uint32(sum[:]) >> r.PartShift)
		// In large rings only every inc-th partition is looked at, 65536 in all.
		inc := max(parts/65536, 1)
		for t := range r.tiers {
			if !r.rows.look(s, t, start, parts, inc, yield) {
				return
			}
			// Not from 0 but from where the steps come out after a turn around the ring
			// (inc when they hit its end): what Swift does is what must be met.
			if !r.rows.look(s, t, inc-(parts-start)%inc, start, inc, yield) {
				return
			}
		}
	}
}

// search is the state of one MoreNodes.
type search struct {
	ring    *Ring
	seen    [numTiers][]bool
	touched [numTiers]int // how many of seen are true
	next    int           // handoff_index
}

func (r *Ring) newSearch() *search {
	total := 0
	for t := range r.tiers {
		total += r.tiers[t].size
	}
	all := make([]bool, total)
	s := &search{ring: r}
	for t := range r.tiers {
		s.seen[t], all = all[:r.tiers[t].size], all[r.tiers[t].size:]
	}
	return s
}

// mark counts a device, and all that it stands in, as used.
func (s *search) mark(id int) {
	for t := range s.seen {
		if m := s.ring.tiers[t].of[id]; !s.seen[t][m] {
			s.seen[t][m] = true
			s.touched[t]++
		}
	}
}
