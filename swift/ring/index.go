package ring

import (
	"bytes"
	"compress/flate"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
)

const (
	// tailSize is how far from its end a file of version 2 has the deflate block with the
	// place of the index: a stored block of 8 bytes (13), an empty one (5), the empty
	// last one (5), CRC and length of gzip (8).
	tailSize = 31

	// gzipTrailer is the length of CRC and length at the end of a gzip file.
	gzipTrailer = 8

	// maxIndex bounds the index, and the metadata: some 7000 sections. Swift has three.
	maxIndex = 1 << 20
)

// index tells where the sections of a ring of version 2 are. The deflate stream was
// flushed before each, thus it can be entered there.
// Swift: common/ring/io.py, RingReader.
type index struct {
	file    io.ReaderAt
	size    int64 // of the file
	entries *object
}

// readIndex reads the last section, which describes the others.
func readIndex(file io.ReaderAt, size int64) (*index, error) {
	x := &index{file: file, size: size}
	if size < tailSize {
		return nil, fmt.Errorf("%d bytes are too few", size)
	}
	start, err := x.readTail()
	if err != nil {
		return nil, fmt.Errorf("no place of the index: %w", err)
	}
	if start >= uint64(size) {
		return nil, fmt.Errorf("it should be at %d in a file of %d bytes", start, size)
	}
	in := x.inflate(int64(start))
	length, err := readSize(in)
	if err != nil {
		return nil, err
	}
	if length > maxIndex {
		return nil, fmt.Errorf("%d bytes are more than %d", length, maxIndex)
	}
	var text bytes.Buffer // grows with what is really there
	if n, err := io.CopyN(&text, in, int64(length)); err != nil {
		return nil, fmt.Errorf("it ends after %d of %d bytes: %w", n, length, noEOF(err))
	}
	x.entries, err = parseObject(text.Bytes(), "swift/ring/metadata", "swift/ring/devices", "swift/ring/assignments")
	return x, err
}

// readTail reads the place of the index, and makes sure that the file ends where it
// should: in one that lacks five bytes the tail would still be found.
func (x *index) readTail() (start uint64, err error) {
	var b [tailSize]byte
	if _, err := x.file.ReadAt(b[:], x.size-tailSize); err != nil {
		return 0, noEOF(err)
	}
	tail := bytes.NewReader(b[:])
	in := flate.NewReader(tail) // takes no more of a bytes.Reader than it needs
	if start, err = readSize(in); err != nil {
		return 0, err
	}
	if n, err := io.Copy(io.Discard, in); err != nil {
		return 0, err
	} else if n > 0 {
		return 0, fmt.Errorf("%d bytes behind it", n)
	}
	if tail.Len() != gzipTrailer {
		return 0, fmt.Errorf("%d bytes of gzip's trailer instead of %d", tail.Len(), gzipTrailer)
	}
	return start, nil
}

// inflate enters the deflate stream at a place in the file.
func (x *index) inflate(start int64) io.Reader {
	return flate.NewReader(io.NewSectionReader(x.file, start, x.size-start))
}

// readSize reads one of the numbers that stand before the data of sections.
func readSize(in io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return 0, noEOF(err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// read gives a section of at most limit bytes to parse, which may not believe length
// before it has read as much. What parse makes of a section whose checksum is wrong, error
// or not, does not count.
func (x *index) read(name string, limit int64, parse func(in io.Reader, length int64) error) error {
	s, err := x.open(name, limit)
	if err == nil {
		err = parse(s, s.left)
		if _, bad := io.Copy(io.Discard, s); bad != nil {
			err = bad
		}
	}
	if err != nil {
		return fmt.Errorf("section %q: %w", name, err)
	}
	return nil
}

// open goes to a section that is in the index.
func (x *index) open(name string, limit int64) (*section, error) {
	raw, ok := x.entries.values[name]
	if !ok {
		return nil, errors.New("not in the index")
	}
	e, err := parseEntry(raw, x.size)
	if err != nil {
		return nil, fmt.Errorf("bad entry in the index: %w", err)
	}
	s := &section{in: x.inflate(e.start), sum: e.sum, want: e.want}
	length, err := readSize(s.in)
	if err != nil {
		return nil, fmt.Errorf("truncated or corrupt in its length: %w", err)
	}
	if e.length >= 0 && (e.length < 8 || length != uint64(e.length)-8) {
		return nil, fmt.Errorf("its length of 8+%d bytes is %d in the index", length, e.length)
	}
	if length > uint64(limit) {
		return nil, fmt.Errorf("%d bytes are more than %d", length, limit)
	}
	if length > uint64(x.size)*maxRatio {
		return nil, fmt.Errorf("truncated or corrupt: %d bytes of gzip can not hold %d", x.size, length)
	}
	binary.Write(s.sum, binary.BigEndian, length) // a hash takes all
	s.left = int64(length)
	return s, nil
}

// entry is what the index tells of one section.
type entry struct {
	start  int64 // in the file
	length int64 // inflated and with the eight bytes of its length; -1 when it is not told
	sum    hash.Hash
	want   string // in hexadecimal
}

// parseEntry reads a list of six. A checksum is necessary: it is all that tells a good
// section from a corrupt one.
func parseEntry(raw json.RawMessage, size int64) (*entry, error) {
	keys := []string{"compressed start", "uncompressed start", "compressed end", "uncompressed end", "checksum method", "checksum value"}
	var fields []json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || len(fields) != len(keys) {
		return nil, fmt.Errorf("not a list of %d: %.80s", len(keys), raw)
	}
	o := &object{values: make(map[string]json.RawMessage)}
	for i, key := range keys {
		if string(fields[i]) != "null" {
			o.values[key] = fields[i]
		}
	}
	o.require("compressed start", "checksum method", "checksum value")
	e := &entry{
		start:  int64(o.integer("compressed start", 0, 0, int(size))),
		length: -1,
		want:   o.text("checksum value", ""),
	}
	from := o.integer("uncompressed start", -1, 0, math.MaxInt)
	if to := o.integer("uncompressed end", -1, max(from, 0), math.MaxInt); from >= 0 && to >= 0 {
		e.length = int64(to - from)
	}
	switch method := o.text("checksum method", ""); method {
	case "md5":
		e.sum = md5.New()
	case "sha1":
		e.sum = sha1.New()
	case "sha256":
		e.sum = sha256.New()
	case "sha512":
		e.sum = sha512.New()
	default:
		o.fail("checksum method %.40q is not supported", method)
	}
	return e, o.err
}

// section reads the data of one section. Its end, io.EOF, comes only when all of it was
// read and has the checksum of the index.
type section struct {
	in   io.Reader
	left int64
	sum  hash.Hash
	want string
	err  error // every read after the first error fails the same
}

func (s *section) Read(p []byte) (int, error) {
	if s.err == nil && s.left == 0 {
		s.err = io.EOF
		if got := hex.EncodeToString(s.sum.Sum(nil)); got != s.want {
			s.err = fmt.Errorf("corrupt: its checksum is %s, in the index %.128q", got, s.want)
		}
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.in.Read(p[:min(int64(len(p)), s.left)])
	s.sum.Write(p[:n]) // a hash takes all
	if s.left -= int64(n); err != nil && s.left > 0 {
		s.err = fmt.Errorf("truncated or corrupt with %d bytes to come: %w", s.left, noEOF(err))
	}
	return n, s.err
}
