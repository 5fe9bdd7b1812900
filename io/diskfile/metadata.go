package diskfile

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

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

// CorruptError tells that a file of an object is not what Swift writes. The object is of
// no use to a caller then, whether or not Quarantine is set.
type CorruptError struct {
	Path   string // the file
	Reason string // "metadata checksum mismatch", ...
	// Quarantine tells that Swift's DiskFile.open quarantines the object directory for it,
	// when the object is opened by name or, as the auditor does, by directory. It is false for
	// what Swift does not look at and for what only limits of this package refuse.
	// Swift: BaseDiskFile.open, _failsafe_read_metadata, _verify_name_matches_hash,
	// _verify_data_file.
	Quarantine bool
	Err        error // what the disk answered, nil if it is the content that is wrong
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%s: %s", e.Path, e.Reason) }

func (e *CorruptError) Unwrap() error { return e.Err }

// badDisk reports errors by which a disk tells that it lost what was written, for which
// Swift takes the metadata for missing. It does so for any other too; but a missing
// permission must not send a device's objects to quarantine.
func badDisk(err error) bool {
	return err == unix.EIO || err == unix.EUCLEAN || err == unix.EBADMSG
}

// ReadMetadata reads and decodes the metadata in a file's extended attributes, names and
// values as raw bytes. Metadata without a checksum (of old versions) is accepted.
// Errors: *CorruptError for metadata that is missing, lost by the disk, does not match its
// checksum or can not be decoded; those of the file system.
// Swift: obj/diskfile.py, read_metadata.
func ReadMetadata(path string) (map[string]string, error) {
	return readMetadata(path, func(name string, b []byte) (int, error) { return unix.Getxattr(path, name, b) })
}

func readFileMetadata(f *os.File) (map[string]string, error) {
	return readMetadata(f.Name(), func(name string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, b) })
}

func readMetadata(path string, get func(name string, b []byte) (int, error)) (map[string]string, error) {
	var raw []byte
	pooled := attributeBuffers.Get().(*[]byte)
	defer attributeBuffers.Put(pooled)
	buf := *pooled
	for piece := 0; ; piece++ {
		name := metadataKey
		if piece > 0 {
			name += strconv.Itoa(piece)
		}
		b, err := attribute(get, name, &buf)
		if err == unix.ENODATA {
			break
		}
		if badDisk(err) {
			return nil, &CorruptError{Path: path, Reason: fmt.Sprintf("cannot read metadata: getxattr %s: %v", name, err), Quarantine: true, Err: err}
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		if piece == maxPieces {
			return nil, &CorruptError{Path: path, Reason: fmt.Sprintf("metadata of more than %d pieces", maxPieces)}
		}
		raw = append(raw, b...)
	}
	if len(raw) == 0 {
		return nil, &CorruptError{Path: path, Reason: "missing metadata", Quarantine: true}
	}
	checksum, err := attribute(get, checksumKey, &buf)
	if err != nil && err != unix.ENODATA {
		return nil, &fs.PathError{Op: "getxattr " + checksumKey, Path: path, Err: err}
	}
	if err == nil && len(checksum) > 0 {
		sum := md5.Sum(raw)
		if computed := hex.AppendEncode(nil, sum[:]); !bytes.Equal(checksum, computed) {
			return nil, &CorruptError{Path: path, Reason: fmt.Sprintf("metadata checksum mismatch: stored %.40q, computed %q", checksum, computed), Quarantine: true}
		}
	}
	m, err := pickle.DecodeMetadata(raw)
	if err != nil {
		_, refused := errors.AsType[*pickle.RefusedError](err)
		return nil, &CorruptError{Path: path, Reason: "exception reading metadata: " + err.Error(), Quarantine: !refused}
	}
	return m, nil
}

// attributeBuffers hold what most attributes fit into.
var attributeBuffers = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

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
