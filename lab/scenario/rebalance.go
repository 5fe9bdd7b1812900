package scenario

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imping/swift/policy"
	"imping/swift/ring"
)

// Rebalance gives the policies' rings the shape that they have after devices were added and
// weights changed: of every partition one fragment moves to a device that had none, if there
// is one, and of every other partition two of the devices change places. The same seed moves the same.
// undo puts the rings back as they were, which is another rebalance.
func (l *Layout) Rebalance(seed uint64, policies ...string) (undo func() error, err error) {
	var undos []func() error
	undo = func() error {
		for _, u := range slices.Backward(undos) {
			if err := u(); err != nil {
				return err
			}
		}
		return nil
	}
	chosen, err := l.policies(policies)
	if err != nil {
		return nil, err
	}
	for _, p := range chosen {
		old := l.rings[p.Index].Path
		before, err := os.ReadFile(old)
		if err == nil {
			err = l.rewrite(p, before, rand.New(rand.NewPCG(seed, uint64(p.Index))))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot rebalance the ring of %v: %w", p, err)
		}
		undos = append(undos, func() error { return l.replace(p, before) })
	}
	return undo, nil
}

// replace puts a ring in the place of the policy's.
func (l *Layout) replace(p *policy.Policy, file []byte) (err error) {
	where := l.rings[p.Index].Path
	if err := os.WriteFile(where+".new", file, 0o644); err != nil {
		return err
	}
	if err := os.Rename(where+".new", where); err != nil {
		return err
	}
	l.rings[p.Index], err = ring.Load(where)
	return err
}

func (l *Layout) rewrite(p *policy.Policy, before []byte, random *rand.Rand) error {
	z, err := gzip.NewReader(bytes.NewReader(before))
	if err != nil {
		return err
	}
	file, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	const fixed = 10 // R1NG, a version of two bytes, the length of the JSON
	if len(file) < fixed || string(file[:6]) != "R1NG\x00\x01" {
		return fmt.Errorf("a ring of another version")
	}
	rows := fixed + int(binary.BigEndian.Uint32(file[6:]))
	var head struct {
		Devs     []*struct{ ID int }
		Shift    uint `json:"part_shift"`
		Replicas int  `json:"replica_count"`
	}
	if err := json.Unmarshal(file[fixed:rows], &head); err != nil {
		return err
	}
	parts := 1 << (32 - head.Shift)
	for part := range parts {
		at := func(replica int) []byte { return file[rows+2*(replica*parts+part):] }
		used := map[uint16]bool{}
		for r := range head.Replicas {
			used[binary.LittleEndian.Uint16(at(r))] = true
		}
		var spare []uint16
		for _, d := range head.Devs {
			if d != nil && !used[uint16(d.ID)] {
				spare = append(spare, uint16(d.ID))
			}
		}
		if len(spare) > 0 {
			binary.LittleEndian.PutUint16(at(random.IntN(head.Replicas)), spare[random.IntN(len(spare))])
		}
		if part%2 == 0 {
			pair := random.Perm(head.Replicas)[:2]
			a, b := at(pair[0]), at(pair[1])
			x, y := binary.LittleEndian.Uint16(a), binary.LittleEndian.Uint16(b)
			binary.LittleEndian.PutUint16(a, y)
			binary.LittleEndian.PutUint16(b, x)
		}
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(file) // a buffer takes all
	w.Close()
	return l.replace(p, out.Bytes())
}

// Homes are the devices to which a snapshot's .data file of a policy belongs by the ring of
// now; nil for a file of another kind.
func (l *Layout) Homes(p *policy.Policy, name string) (devices []string, err error) {
	words := strings.Split(name, "/") // objects-1/PARTITION/SUFFIX/HASH/TIME#INDEX#d.data
	parts := strings.Split(path.Base(name), "#")
	if words[0] != p.DataDir() || filepath.Ext(name) != ".data" || len(words) < 2 || len(parts) < 2 {
		return nil, nil
	}
	part, err := strconv.Atoi(words[1])
	if err != nil {
		return nil, err
	}
	index, err := strconv.Atoi(strings.TrimSuffix(parts[1], ".data"))
	if err != nil {
		return nil, err
	}
	for _, n := range l.rings[p.Index].PartNodes(part) {
		if p.BackendIndex(n.Index) == index {
			devices = append(devices, n.Device.Device)
		}
	}
	return devices, nil
}
