package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// table is the rows of a ring, whatever the width of its device ids.
type table interface {
	partitions() int
	replicas() float64
	// assigned tells of each of so many devices whether it has a partition.
	assigned(devs int) []bool
	// nodes are the primaries of a partition that the ring has.
	nodes(part int, devs []*Device) []Node
	// look yields the devices of partitions from, from+inc, ... below to that are the
	// first of their region, zone, server or device, as t says. It reports whether more
	// are wanted.
	look(s *search, t, from, to, inc int, yield func(Node) bool) bool
}

// rows[replica][partition] is a device id; the last row may be shorter than the others
// (fractional replicas). Version 2 chooses between ids of two and of four bytes.
type rows[ID uint16 | uint32] [][]ID

func (rs rows[ID]) partitions() int { return len(rs[0]) }

func (rs rows[ID]) replicas() float64 {
	last := len(rs) - 1
	return float64(last) + float64(len(rs[last]))/float64(len(rs[0]))
}

func (rs rows[ID]) assigned(devs int) []bool {
	assigned := make([]bool, devs)
	for _, row := range rs {
		for _, id := range row {
			assigned[id] = true
		}
	}
	return assigned
}

func (rs rows[ID]) nodes(part int, devs []*Device) []Node {
	nodes := make([]Node, 0, len(rs))
replicas:
	for _, row := range rs {
		if part >= len(row) {
			break // the short last row
		}
		d := devs[row[part]]
		for i := range nodes {
			if nodes[i].Device == d {
				continue replicas
			}
		}
		nodes = append(nodes, Node{Device: d, Index: len(nodes)})
	}
	return nodes
}

func (rs rows[ID]) look(s *search, t, from, to, inc int, yield func(Node) bool) bool {
	for part := from; part < to; part += inc {
		for _, row := range rs {
			if s.touched[t] == s.ring.tiers[t].alive {
				return true
			}
			if part >= len(row) {
				break
			}
			id := int(row[part])
			if s.seen[t][s.ring.tiers[t].of[id]] {
				continue
			}
			s.mark(id)
			n := Node{Device: s.ring.Devs[id], Index: s.next, Handoff: true}
			s.next++
			if !yield(n) {
				return false
			}
		}
	}
	return true
}

// readRows reads rowCount rows, or all that there are when rowCount is -1. The last may
// be short, even empty; nothing may follow it.
func readRows[ID uint16 | uint32](r *Ring, in io.Reader, rowCount int, order binary.ByteOrder) (rows[ID], error) {
	rowBytes := int64(binary.Size(ID(0))) << r.PartPower
	if rowCount == 0 {
		return nil, errors.New("no partition is assigned to a device: was it rebalanced?")
	}
	if rowBytes > maxTable || int64(max(rowCount, 1)) > maxTable/rowBytes {
		return nil, fmt.Errorf("%d rows of 2^%d partitions are more than %d bytes", max(rowCount, 1), r.PartPower, int64(maxTable))
	}
	if whole := int64(max(rowCount-1, 1)); whole*rowBytes > r.Size*maxRatio {
		return nil, fmt.Errorf("truncated or corrupt: %d bytes of gzip can not hold %d rows of 2^%d partitions", r.Size, whole, r.PartPower)
	}
	limit := rowCount
	if rowCount < 0 {
		limit = int(min(maxTable/rowBytes, maxRows))
	}
	buf := make([]byte, min(rowBytes, 64<<10))
	var rs rows[ID]
	for len(rs) < limit {
		row := make([]ID, 1<<r.PartPower)
		n, err := readRow(in, order, row, buf)
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", len(rs), err)
		}
		row = row[:n:n]
		for part, id := range row {
			if int(id) >= len(r.Devs) || r.Devs[id] == nil {
				return nil, fmt.Errorf("partition %d, replica %d is on device %d, which is not among the devices", part, len(rs), id)
			}
		}
		short := n < 1<<r.PartPower
		if short && (len(rs) == 0 || len(rs) < rowCount-1) {
			return nil, fmt.Errorf("truncated: row %d of %d ends after %d of 2^%d partitions", len(rs), rowCount, n, r.PartPower)
		}
		if short && rowCount < 0 && n == 0 {
			break
		}
		rs = append(rs, row)
		if short {
			break
		}
	}
	// Reading on to the end makes gzip, or the section, check its checksum.
	n, err := io.ReadFull(in, buf[:1])
	if n > 0 {
		return nil, fmt.Errorf("more data than its %d rows of 2^%d partitions", len(rs), r.PartPower)
	}
	if err != io.EOF {
		return nil, fmt.Errorf("truncated or corrupt behind the last row: %w", noEOF(err))
	}
	return rs, nil
}

// readRow fills row, less of it if the data ends, and tells how far it came. buf is
// scratch space.
func readRow[ID uint16 | uint32](in io.Reader, order binary.ByteOrder, row []ID, buf []byte) (int, error) {
	size := binary.Size(ID(0))
	for done := 0; done < len(row); {
		chunk := buf[:min(len(buf), size*(len(row)-done))]
		n, err := io.ReadFull(in, chunk)
		ended := err == io.EOF || err == io.ErrUnexpectedEOF && atEnd(in)
		if err != nil && !ended {
			return 0, fmt.Errorf("truncated or corrupt after %d partitions: %w", done+n/size, noEOF(err))
		}
		if n%size != 0 {
			return 0, fmt.Errorf("truncated in the middle of partition %d", done+n/size)
		}
		decode(row[done:], chunk[:n], order)
		done += n / size
		if ended {
			return done, nil
		}
	}
	return len(row), nil
}

// decode reads all ids in b.
func decode[ID uint16 | uint32](row []ID, b []byte, order binary.ByteOrder) {
	switch row := any(row).(type) {
	case []uint16:
		for i := 0; i < len(b); i += 2 {
			row[i/2] = order.Uint16(b[i:])
		}
	case []uint32:
		for i := 0; i < len(b); i += 4 {
			row[i/4] = order.Uint32(b[i:])
		}
	}
}
