package embedded

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// device is a member of a ring's list, under Swift's names.
type device struct {
	ID              int     `json:"id"`
	Region          int     `json:"region"`
	Zone            int     `json:"zone"`
	Weight          float64 `json:"weight"`
	IP              string  `json:"ip"`
	Port            int     `json:"port"`
	ReplicationIP   string  `json:"replication_ip"`
	ReplicationPort int     `json:"replication_port"`
	Device          string  `json:"device"`
	Meta            string  `json:"meta"`
}

// writeRings deals and writes the ring of each policy. Zones are nodes.
func (c *Cluster) writeRings(listeners []net.Listener) error {
	var devices []device
	for i, l := range listeners {
		for _, name := range c.Devices(i + 1) {
			devices = append(devices, device{
				ID: len(devices), Region: 1, Zone: i + 1, Weight: 100, Device: name,
				IP: nodeIP(i + 1), Port: port(l), ReplicationIP: nodeIP(i + 1), ReplicationPort: port(l)})
		}
	}
	for i, p := range c.opts.Policies {
		// Policies have rings of their own, as an operator's builders would give.
		rows := deal(devices, p.replicas(), c.opts.PartPower, uint64(i))
		data, err := ringFile(devices, rows, c.opts.PartPower)
		if err == nil {
			err = os.WriteFile(c.ringPath(i), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("cannot write the ring of policy %s: %w", p.Name, err)
		}
	}
	return nil
}

// deal gives each partition as many different devices as there are replicas, each time one
// of the zone that has the fewest of the partition, and of those one that has the fewest
// partitions: no zone has more of a partition than it must, and devices are about equally
// full. rows[replica][partition] is a device's id. The same seed deals the same.
func deal(devices []device, replicas, partPower int, seed uint64) [][]uint16 {
	random := rand.New(rand.NewPCG(seed, 0))
	rows := make([][]uint16, replicas)
	load := make([]int, len(devices))
	for part := range 1 << partPower {
		inZone := map[int]int{}
		used := make([]bool, len(devices))
		for r := range rows {
			best := -1
			for _, id := range random.Perm(len(devices)) {
				if used[id] {
					continue
				}
				if best < 0 || less([2]int{inZone[devices[id].Zone], load[id]}, [2]int{inZone[devices[best].Zone], load[best]}) {
					best = id
				}
			}
			used[best] = true
			load[best]++
			inZone[devices[best].Zone]++
			rows[r] = append(rows[r], uint16(best))
		}
		// The last of a partition are those of the fullest zones: which fragments these have
		// must not be always the same.
		random.Shuffle(replicas, func(i, j int) { rows[i][part], rows[j][part] = rows[j][part], rows[i][part] })
	}
	return rows
}

func less(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// ringFile is a ring file of version 1 (docs/formats.md).
// Swift: common/ring/ring.py, RingData.serialize_v1.
func ringFile(devices []device, rows [][]uint16, partPower int) ([]byte, error) {
	head, err := json.Marshal(map[string]any{
		"byteorder": "little", "devs": devices, "part_shift": 32 - partPower, "replica_count": len(rows), "version": 1,
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte("R1NG\x00\x01"))
	binary.Write(z, binary.BigEndian, uint32(len(head)))
	z.Write(head)
	for _, row := range rows {
		binary.Write(z, binary.LittleEndian, row)
	}
	// A bytes.Buffer takes everything: what Close says is for all of them.
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
