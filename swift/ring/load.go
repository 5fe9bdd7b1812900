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

	// maxDevs is how many devices two-byte ids can number.
	maxDevs = 1 << 16

	// maxWideDevs is how many devices a ring of version 2 may have. Its ids could number
	// 2^32; a million disks are 16 times what version 1 allows.
	maxWideDevs = 1 << 20

	// maxWideJSON bounds the devices of version 2, as maxJSON does: 250 bytes each. It is
	// not held as a whole.
	maxWideJSON = 256 << 20

	// maxDevice bounds the JSON of one device, nearly all of which could be "meta".
	maxDevice = 1 << 20

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

// Load reads a ring file of version 1 or 2. Every error names the file: one that is
// missing (errors.Is fs.ErrNotExist), truncated, corrupt (of version 1 the gzip checksum
// is checked, which Swift does not, of version 2 those of the sections), never
// rebalanced, of another version, or at odds with itself. While reading, at most
// maxTable bytes are held, with five times maxJSON in version 1, twice maxWideJSON in
// version 2. Swift: common/ring/ring.py, RingData.load.
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

// read reads the whole file, of r.Size bytes.
func (r *Ring) read(file io.ReaderAt) error {
	gz, err := gzip.NewReader(bufio.NewReaderSize(io.NewSectionReader(file, 0, r.Size), 64<<10))
	if err != nil {
		return fmt.Errorf("not a gzip file: %w", noEOF(err))
	}
	// Swift reads the first gzip member only.
	gz.Multistream(false)
	var head [6]byte
	if n, err := io.ReadFull(gz, head[:]); err != nil {
		return fmt.Errorf("truncated in the magic, after %d bytes: %w", n, noEOF(err))
	}
	if string(head[:4]) != magic {
		return fmt.Errorf("not a ring: it starts with %q instead of %q (pickled rings from before 2012 are not supported)", head[:4], magic)
	}
	switch v := binary.BigEndian.Uint16(head[4:]); v {
	case 1:
		return r.readVersion1(gz)
	case 2:
		return r.readVersion2(file)
	default:
		return fmt.Errorf("ring version %d is not supported, only 1 and 2", v)
	}
}

// readVersion1 reads what follows the magic: the length of a JSON object, the object,
// and rows of two-byte ids. Swift: common/ring/ring.py, RingData.deserialize_v1.
func (r *Ring) readVersion1(in io.Reader) error {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return fmt.Errorf("truncated in the length of the JSON: %w", noEOF(err))
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if length > maxJSON {
		return fmt.Errorf("%d bytes of JSON are more than %d", length, maxJSON)
	}
	var text bytes.Buffer // grows with what is really there
	if n, err := io.CopyN(&text, in, length); err != nil {
		return fmt.Errorf("truncated after %d of %d bytes of JSON: %w", n, length, noEOF(err))
	}
	rowCount, order, err := r.parseJSON(text.Bytes())
	if err != nil {
		return fmt.Errorf("bad JSON: %w", err)
	}
	r.rows, err = readRows[uint16](r, in, rowCount, order)
	return err
}

// parseJSON reads what stands before the rows: rowCount is -1 when it is left out, and
// the byte order of the rows this machine's, as before either was written.
func (r *Ring) parseJSON(text []byte) (rowCount int, order binary.ByteOrder, err error) {
	o, err := parseObject(text, "part_shift", "replica_count", "next_part_power", "version", "byteorder", "devs")
	if err != nil {
		return 0, nil, err
	}
	o.require("part_shift", "devs")
	r.setNumbers(o)
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
	r.Devs, err = parseDevs(bytes.NewReader(o.values["devs"]), maxDevs)
	return rowCount, order, err
}

// setNumbers takes the numbers that both versions have.
func (r *Ring) setNumbers(o *object) {
	r.PartShift = uint(o.integer("part_shift", 0, 0, 32))
	r.PartPower = 32 - r.PartShift
	r.NextPartPower = o.integer("next_part_power", -1, 0, 32)
	r.Version = int64(o.integer("version", 0, math.MinInt, math.MaxInt))
}

// readVersion2 reads the three sections that make a ring, wherever they are; others in
// the file are nobody's here. Swift: common/ring/ring.py, RingData.deserialize_v2.
func (r *Ring) readVersion2(file io.ReaderAt) error {
	x, err := readIndex(file, r.Size)
	if err != nil {
		return fmt.Errorf("cannot read the index at its end (is it truncated, or was it recompressed?): %w", err)
	}
	idBytes := 0
	err = x.read("swift/ring/metadata", maxIndex, func(in io.Reader, _ int64) error {
		idBytes, err = r.parseMetadata(in)
		return err
	})
	if err != nil {
		return err
	}
	err = x.read("swift/ring/devices", maxWideJSON, func(in io.Reader, _ int64) error {
		r.Devs, err = parseDevs(in, maxWideDevs)
		return err
	})
	if err != nil {
		return err
	}
	return x.read("swift/ring/assignments", maxTable, func(in io.Reader, length int64) error {
		rowBytes := int64(idBytes) << r.PartPower
		rowCount := (length + rowBytes - 1) / rowBytes
		if rowCount > maxRows {
			return fmt.Errorf("%d replicas are more than %d", rowCount, maxRows)
		}
		if idBytes == 2 {
			r.rows, err = readRows[uint16](r, in, int(rowCount), binary.BigEndian)
		} else {
			r.rows, err = readRows[uint32](r, in, int(rowCount), binary.BigEndian)
		}
		return err
	})
}

// parseMetadata reads the section "swift/ring/metadata"; idBytes is 2 or 4. The count of
// replicas in it is of no use: it is the length of the rows that counts.
func (r *Ring) parseMetadata(in io.Reader) (idBytes int, err error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return 0, err
	}
	o, err := parseObject(text, "part_shift", "dev_id_bytes", "next_part_power", "version")
	if err != nil {
		return 0, err
	}
	o.require("part_shift", "dev_id_bytes")
	r.setNumbers(o)
	idBytes = o.integer("dev_id_bytes", 0, 0, 8)
	if idBytes != 2 && idBytes != 4 {
		o.fail("dev_id_bytes is neither 2 nor 4: %d", idBytes)
	}
	return idBytes, o.err
}

// parseDevs goes through the list member by member, so that a list of a million nulls
// ends at the first that is too much, and nothing is held but the devices. It reads in
// to its end.
func parseDevs(in io.Reader, limit int) ([]*Device, error) {
	rationed := &ration{in: in, left: maxDevice}
	dec := json.NewDecoder(rationed)
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return nil, errors.New("devs is not a list")
	}
	var devs []*Device
	var member json.RawMessage // one memory for all
	for dec.More() {
		if len(devs) == limit {
			return nil, fmt.Errorf("more than %d devices", limit)
		}
		if err := dec.Decode(&member); err != nil {
			return nil, fmt.Errorf("device %d: %w", len(devs), noEOF(err))
		}
		d, err := parseDevice(member, len(devs))
		if err != nil {
			return nil, err
		}
		devs = append(devs, d)
		rationed.left = maxDevice
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return nil, noEOF(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the list of devices")
	}
	return devs, nil
}

// ration is a reader that gives no more than left bytes.
type ration struct {
	in   io.Reader
	left int
}

func (r *ration) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, fmt.Errorf("more than %d bytes", maxDevice)
	}
	n, err := r.in.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// nativeOrder is this machine's byte order, for files from before "byteorder".
func nativeOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
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
