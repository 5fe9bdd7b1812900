package diskfile

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"imping/swift/pickle"
)

const (
	metadataKey = "user.swift.metadata"
	checksumKey = "user.swift.metadata_checksum"

	// maxPieces bounds a file's metadata: Swift writes pieces of 64 KiB, the most that Linux
	// keeps in one attribute, and its limits on headers leave a few KiB.
	maxPieces    = 16
	maxAttribute = 64 << 10
)

// CorruptError tells that a file of an object is not what Swift writes; the object
// directory is to be quarantined.
type CorruptError struct {
	Path   string // the file
	Reason string // "metadata checksum mismatch", ...
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%s: %s", e.Path, e.Reason) }

// ReadMetadata reads and decodes the metadata in a file's extended attributes, names and
// values as raw bytes. Metadata without a checksum (of old versions) is accepted.
// Errors: *CorruptError for metadata that is missing, does not match its checksum or can
// not be decoded; those of the file system. Swift: obj/diskfile.py, read_metadata.
func ReadMetadata(path string) (map[string]string, error) {
	return readMetadata(path, func(name string, b []byte) (int, error) { return unix.Getxattr(path, name, b) })
}

func readFileMetadata(f *os.File) (map[string]string, error) {
	return readMetadata(f.Name(), func(name string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, b) })
}

func readMetadata(path string, get func(name string, b []byte) (int, error)) (map[string]string, error) {
	var raw []byte
	buf := make([]byte, 4<<10)
	for piece := 0; ; piece++ {
		name := metadataKey
		if piece > 0 {
			name += strconv.Itoa(piece)
		}
		if piece == maxPieces {
			return nil, &CorruptError{path, fmt.Sprintf("metadata of more than %d pieces", maxPieces)}
		}
		b, err := attribute(get, name, &buf)
		if err == unix.ENODATA {
			break
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		raw = append(raw, b...)
	}
	if len(raw) == 0 {
		return nil, &CorruptError{path, "missing metadata"}
	}
	checksum, err := attribute(get, checksumKey, &buf)
	if err != nil && err != unix.ENODATA {
		return nil, &fs.PathError{Op: "getxattr " + checksumKey, Path: path, Err: err}
	}
	if err == nil && len(checksum) > 0 {
		sum := md5.Sum(raw)
		if computed := hex.AppendEncode(nil, sum[:]); !bytes.Equal(checksum, computed) {
			return nil, &CorruptError{path, fmt.Sprintf("metadata checksum mismatch: stored %.40q, computed %q", checksum, computed)}
		}
	}
	m, err := pickle.DecodeMetadata(raw)
	if err != nil {
		return nil, &CorruptError{path, "exception reading metadata: " + err.Error()}
	}
	return m, nil
}

// attribute reads one extended attribute into buf, which grows if it has to.
func attribute(get func(name string, b []byte) (int, error), name string, buf *[]byte) ([]byte, error) {
	for {
		n, err := get(name, *buf)
		switch {
		case err == unix.EINTR:
		case err == unix.ERANGE && len(*buf) < maxAttribute:
			*buf = make([]byte, maxAttribute)
		case err != nil:
			return nil, err
		default:
			return (*buf)[:n], nil
		}
	}
}
