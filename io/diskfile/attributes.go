package diskfile

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"imping/io/batch"
	"imping/swift/pickle"
)

// Metadata is what is to be kept with a file: names and values as raw bytes, in the order
// in which they were first set. The zero value is empty.
type Metadata struct {
	names  []string
	values map[string]string
}

// Set sets or replaces a value; a name that was there keeps its place.
func (m *Metadata) Set(name, value string) {
	if m.values == nil {
		m.values = map[string]string{}
	}
	if _, ok := m.values[name]; !ok {
		m.names = append(m.names, name)
	}
	m.values[name] = value
}

// Get gives a value and whether it is there; names differ by case.
func (m *Metadata) Get(name string) (value string, ok bool) {
	value, ok = m.values[name]
	return value, ok
}

// All gives names and values in their order.
func (m *Metadata) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, name := range m.names {
			if !yield(name, m.values[name]) {
				return
			}
		}
	}
}

func (m *Metadata) clone() *Metadata {
	c := &Metadata{names: slices.Clone(m.names), values: make(map[string]string, len(m.values)+2)}
	for name, value := range m.values {
		c.values[name] = value
	}
	return c
}

// encode is the pickle that Swift keeps (rule 31).
func (m *Metadata) encode() []byte { return pickle.EncodeMetadata(m.values, m.names) }

// NoAttributesError tells that a file system keeps no extended attributes.
type NoAttributesError struct{ Path string }

func (e *NoAttributesError) Error() string {
	return fmt.Sprintf("file system at %s does not support xattr", e.Path)
}

// writeMetadata keeps a pickle of metadata in the extended attributes of the file, with its
// checksum. path is for messages. Swift: obj/diskfile.py, write_metadata.
func (t *temporary) writeMetadata(path string, raw []byte) error {
	sum := md5.Sum(raw)
	set := func(name string, value []byte) error {
		switch err := t.do(&batch.Op{Kind: batch.SetXattr, File: t.fd, Name: name, Buf: value}); err {
		case unix.ENOTSUP:
			return &NoAttributesError{path}
		default:
			return noSpace(err, path, "cannot write %d bytes of metadata of %s to %s", len(raw), path, name)
		}
	}
	piece := 0
	for value := range slices.Chunk(raw, maxAttribute) {
		if piece == maxPieces {
			// It could not be read back.
			return &NoSpaceError{path, fmt.Errorf("metadata of %d bytes", len(raw))}
		}
		name := metadataKey
		if piece > 0 {
			name += strconv.Itoa(piece)
		}
		if err := set(name, value); err != nil {
			return err
		}
		piece++
	}
	return set(checksumKey, hex.AppendEncode(nil, sum[:]))
}
