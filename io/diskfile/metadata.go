package diskfile

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
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

func readFileMetadata(path string, fd int) (map[string]string, error) {
	return readMetadata(path, func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

func readMetadata(path string, get func(name string, b []byte) (int, error)) (map[string]string, error) {
	pooled := attributeBuffers.Get().(*[]byte)
	defer attributeBuffers.Put(pooled)
	buf := *pooled
	var raw []byte
	// next adds a piece of the metadata, and is false after the last one.
	pieces := 0
	next := func() (bool, error) {
		name := metadataKey
		if pieces > 0 {
			name += strconv.Itoa(pieces)
		}
		b, err := attribute(get, name, &buf)
		switch {
		case err == unix.ENODATA:
			return false, nil
		case badDisk(err):
			return false, &CorruptError{Path: path, Reason: fmt.Sprintf("cannot read metadata: getxattr %s: %v", name, err), Quarantine: true, Err: err}
		case err != nil:
			return false, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		case pieces == maxPieces:
			return false, &CorruptError{Path: path, Reason: fmt.Sprintf("metadata of more than %d pieces", maxPieces)}
		}
		raw = append(raw, b...)
		pieces++
		return true, nil
	}
	more, err := next()
	if err != nil {
		return nil, err
	}
	if !more {
		return nil, &CorruptError{Path: path, Reason: "missing metadata", Quarantine: true}
	}
	checksum, err := attribute(get, checksumKey, &buf)
	if err != nil && err != unix.ENODATA {
		return nil, &fs.PathError{Op: "getxattr " + checksumKey, Path: path, Err: err}
	}
	stored := string(checksum)
	computed := func() string { sum := md5.Sum(raw); return hex.EncodeToString(sum[:]) }
	// What has the checksum is all of it, so that of a single piece, as nearly all is, no second one is asked for.
	if stored == "" || len(raw) == 0 || stored != computed() {
		for more {
			if more, err = next(); err != nil {
				return nil, err
			}
		}
		if len(raw) == 0 {
			return nil, &CorruptError{Path: path, Reason: "missing metadata", Quarantine: true}
		}
		if sum := computed(); stored != "" && stored != sum {
			return nil, &CorruptError{Path: path, Reason: fmt.Sprintf("metadata checksum mismatch: stored %.40q, computed %q", stored, sum), Quarantine: true}
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
