package ring

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
)

const (
	// magic starts every ring file since 2012; before, rings were Python pickles.
	magic = "R1NG"

	// maxJSON bounds the description of the devices. 65536 devices (all that a uint16
	// can number) of 250 bytes are 16 MiB; the rest is room for long "meta" texts.
	maxJSON = 32 << 20

	// maxDevs is how many devices the rows can number.
	maxDevs = 1 << 16

	// maxRows is how many replicas there may be: a device each.
	maxRows = maxDevs

	// maxTable bounds the bytes of all rows: 2^24 partitions of 32 replicas, 16 times
	// the largest rings in use. It stays below the 2 GiB of RLIMIT_DATA that
	// swift-init sets.
	maxTable = 1 << 30

	// maxRatio is the most that deflate can compress: a file of n bytes never holds
	// more than n*maxRatio. A header that promises more lies, whatever follows.
	maxRatio = 1032
)

// Load reads a ring file of version 1. Every error names the file: one that is missing
// (errors.Is fs.ErrNotExist), truncated, corrupt (the gzip checksum is checked, which
// Swift does not), never rebalanced, of another version, or at odds with itself. At most
// maxTable bytes and five times maxJSON are held while reading.
// Swift: common/ring/ring.py, RingData.load and deserialize_v1.
func Load(path string) (*Ring, error) {
	r, err := load(path)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) && pathErr.Path == path {
			err = pathErr.Err // the path is told once
		}
		return nil, fmt.Errorf("cannot load ring %q: %w", path, err)
	}
	return r, nil
}

func load(path string) (*Ring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	r := &Ring{Path: path, ModTime: info.ModTime(), Size: info.Size()}
	if err := r.read(f); err != nil {
		return nil, err
	}
	r.number()
	return r, nil
}

// read reads the whole file; r.Size is its length.
func (r *Ring) read(file io.Reader) error {
	gz, err := gzip.NewReader(bufio.NewReaderSize(file, 64<<10))
	if err != nil {
		return fmt.Errorf("not a gzip file: %w", noEOF(err))
	}
	// Swift reads the first gzip member only.
	gz.Multistream(false)
	rowCount, order, err := r.readHeader(gz)
	if err != nil {
		return err
	}
	return r.readRows(gz, rowCount, order)
}

// readHeader reads all that stands before the rows. rowCount is -1 when the file does
// not tell it.
func (r *Ring) readHeader(in io.Reader) (rowCount int, order binary.ByteOrder, err error) {
	var head [10]byte
	if n, err := io.ReadFull(in, head[:6]); err != nil {
		return 0, nil, fmt.Errorf("truncated in the magic, after %d bytes: %w", n, noEOF(err))
	}
	if string(head[:4]) != magic {
		return 0, nil, fmt.Errorf("not a ring: it starts with %q instead of %q (pickled rings from before 2012 are not supported)", head[:4], magic)
	}
	if v := binary.BigEndian.Uint16(head[4:]); v != 1 {
		return 0, nil, fmt.Errorf("ring version %d is not supported yet", v)
	}
	if _, err := io.ReadFull(in, head[6:]); err != nil {
		return 0, nil, fmt.Errorf("truncated in the length of the JSON: %w", noEOF(err))
	}
	length := int64(binary.BigEndian.Uint32(head[6:]))
	if length > maxJSON {
		return 0, nil, fmt.Errorf("%d bytes of JSON are more than %d", length, maxJSON)
	}
	var text bytes.Buffer // grows with what is really there
	if n, err := io.CopyN(&text, in, length); err != nil {
		return 0, nil, fmt.Errorf("truncated after %d of %d bytes of JSON: %w", n, length, noEOF(err))
	}
	if rowCount, order, err = r.parseJSON(text.Bytes()); err != nil {
		return 0, nil, fmt.Errorf("bad JSON: %w", err)
	}
	return rowCount, order, nil
}

// parseJSON reads what stands before the rows: rowCount is -1 when it is left out, and
// the byte order of the rows this machine's, as before either was written.
func (r *Ring) parseJSON(text []byte) (rowCount int, order binary.ByteOrder, err error) {
	o, err := parseObject(text, "part_shift", "replica_count", "next_part_power", "version", "byteorder", "devs")
	if err != nil {
		return 0, nil, err
	}
	o.require("part_shift", "devs")
	r.PartShift = uint(o.integer("part_shift", 0, 0, 32))
	r.PartPower = 32 - r.PartShift
	r.NextPartPower = o.integer("next_part_power", -1, 0, 32)
	r.Version = int64(o.integer("version", 0, math.MinInt, math.MaxInt))
	rowCount = o.integer("replica_count", -1, 0, maxRows)
	switch name := o.text("byteorder", ""); name {
	case "":
		order = nativeOrder()
	case "little":
		order = binary.LittleEndian
	case "big":
		order = binary.BigEndian
	default:
		o.fail("byteorder is neither little nor big: %.40q", name)
	}
	if o.err != nil {
		return 0, nil, o.err
	}
	r.Devs, err = parseDevs(o.values["devs"])
	return rowCount, order, err
}

// parseDevs goes through the list member by member, so that a list of a million nulls
// ends at the first that is too much.
func parseDevs(raw json.RawMessage) ([]*Device, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return nil, errors.New("devs is not a list")
	}
	var devs []*Device
	for dec.More() {
		if len(devs) == maxDevs {
			return nil, fmt.Errorf("more than %d devices", maxDevs)
		}
		var member json.RawMessage
		if err := dec.Decode(&member); err != nil {
			return nil, err
		}
		d, err := parseDevice(member, len(devs))
		if err != nil {
			return nil, err
		}
		devs = append(devs, d)
	}
	return devs, nil
}

// nativeOrder is this machine's byte order, for files from before "byteorder".
func nativeOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
}

// readRows reads rowCount rows, or all that there are when rowCount is -1. The last may
// be short, even empty; nothing may follow it.
func (r *Ring) readRows(in io.Reader, rowCount int, order binary.ByteOrder) error {
	rowBytes := int64(2) << r.PartPower
	if rowCount == 0 {
		return errors.New("no partition is assigned to a device: was it rebalanced?")
	}
	if rowBytes > maxTable || int64(max(rowCount, 1)) > maxTable/rowBytes {
		return fmt.Errorf("%d rows of 2^%d partitions are more than %d bytes", max(rowCount, 1), r.PartPower, int64(maxTable))
	}
	if whole := int64(max(rowCount-1, 1)); whole*rowBytes > r.Size*maxRatio {
		return fmt.Errorf("truncated or corrupt: %d bytes of gzip can not hold %d rows of 2^%d partitions", r.Size, whole, r.PartPower)
	}
	limit := rowCount
	if rowCount < 0 {
		limit = int(min(maxTable/rowBytes, maxRows))
	}
	buf := make([]byte, min(rowBytes, 64<<10))
	for len(r.rows) < limit {
		row, err := r.readRow(in, order, buf)
		if err != nil {
			return err
		}
		short := len(row) < 1<<r.PartPower
		if short && (len(r.rows) == 0 || len(r.rows) < rowCount-1) {
			return fmt.Errorf("truncated: row %d of %d ends after %d of 2^%d partitions", len(r.rows), rowCount, len(row), r.PartPower)
		}
		if short && rowCount < 0 && len(row) == 0 {
			break
		}
		r.rows = append(r.rows, row)
		if short {
			break
		}
	}
	// Reading on to the end makes gzip check its checksum.
	n, err := io.ReadFull(in, buf[:1])
	if n > 0 {
		return fmt.Errorf("more data than its %d rows of 2^%d partitions", len(r.rows), r.PartPower)
	}
	if err != io.EOF {
		return fmt.Errorf("truncated or corrupt behind the last row: %w", noEOF(err))
	}
	return nil
}

// readRow reads one row, short if the data ends. buf is scratch space.
func (r *Ring) readRow(in io.Reader, order binary.ByteOrder, buf []byte) ([]uint16, error) {
	row := make([]uint16, 1<<r.PartPower)
	for done := 0; done < len(row); {
		chunk := buf[:min(len(buf), 2*(len(row)-done))]
		n, err := io.ReadFull(in, chunk)
		ended := err == io.EOF || err == io.ErrUnexpectedEOF && atEnd(in)
		if err != nil && !ended {
			return nil, fmt.Errorf("truncated or corrupt in row %d after %d partitions: %w", len(r.rows), done+n/2, noEOF(err))
		}
		if n%2 != 0 {
			return nil, fmt.Errorf("truncated: row %d ends in the middle of partition %d", len(r.rows), done+n/2)
		}
		for i := 0; i < n; i += 2 {
			id := order.Uint16(chunk[i:])
			if int(id) >= len(r.Devs) || r.Devs[id] == nil {
				return nil, fmt.Errorf("partition %d, replica %d is on device %d, which is not among the devices", done+i/2, len(r.rows), id)
			}
			row[done+i/2] = id
		}
		done += n / 2
		if ended {
			return row[:done:done], nil
		}
	}
	return row, nil
}

// atEnd tells a clean end of the data, checksum included, from a cut file: io.ReadFull
// reports both as io.ErrUnexpectedEOF once it has read something.
func atEnd(in io.Reader) bool {
	n, err := in.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

// noEOF makes an end of file that is none of the caller's business a truncation.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
