package diskfile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// Preference asks for a fragment of a time, of any index but those excluded.
type Preference struct {
	Timestamp timestamp.Timestamp
	Exclude   []int
}

// FragmentSet is the fragments of one time in a directory.
type FragmentSet struct {
	Timestamp timestamp.Timestamp
	Indexes   []int // ascending
}

// View is how a request looks at an object.
type View struct {
	Name string // "/account/container/object", raw bytes
	// FragIndex is the wanted fragment's index, negative for the highest. Prefer, unless it
	// is nil, says which set is wanted, durable or not, and names indexes that are not; the
	// newest set is taken when no preference fits.
	FragIndex int
	Prefer    []Preference
	Expired   bool                // objects past their X-Delete-At are opened too
	Now       timestamp.Timestamp // and compared with this
}

// CollisionError tells that the hash directory of a name holds another one.
type CollisionError struct{ Name, Stored string }

func (e *CollisionError) Error() string {
	return fmt.Sprintf("Client path %s does not match path stored in object metadata %s", e.Name, e.Stored)
}

// ExpiredError tells that an object is past its X-Delete-At.
type ExpiredError struct {
	Timestamp timestamp.Timestamp // of the newest of its files
	Metadata  map[string]string
}

func (e *ExpiredError) Error() string {
	return "the object has expired at " + e.Metadata["X-Delete-At"]
}

// QuarantinedError tells that an object was damaged and has been moved away for it.
type QuarantinedError struct {
	Path   string // of the damaged file, as it was
	To     string // where its directory is now
	Reason string
}

func (e *QuarantinedError) Error() string {
	return fmt.Sprintf("quarantined object %s to %s: %s", e.Path, e.To, e.Reason)
}

// View opens an object by its name, as a server does for a request: nothing is cleaned up
// on the way, what is damaged is quarantined (and passed to Warn). Errors: ErrNotExist,
// *DeletedError, *ExpiredError, *CollisionError, *QuarantinedError, *CorruptError for what
// Swift would go on with and we do not, *NotMountedError, those of the file system.
// Swift: BaseDiskFile.open.
func (m *Manager) View(dev string, part string, v View) (*Object, error) {
	m.watch.Begin()
	defer m.watch.End()
	device, err := m.mountedPath(dev)
	if err != nil {
		return nil, err
	}
	hash := objhash.Hex(m.hasher.Object(v.Name))
	dir := filepath.Join(device, m.policy.DataDir(), part, objhash.Suffix(hash), hash)
	at, names, err := listOpen(dir)
	if err == nil {
		defer unix.Close(at)
	} else {
		if err := m.checkDir(dev, device); err != nil {
			return nil, err
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
	case errors.Is(err, syscall.ENOTDIR) && isDir(filepath.Dir(dir)), errors.Is(err, syscall.ENODATA):
		if err := m.quarantineBad(dir, err); err != nil {
			return nil, err
		}
		return nil, &QuarantinedError{Path: dir, Reason: "it could not be listed"}
	case err != nil:
		return nil, fmt.Errorf("cannot list object directory: %w", err)
	}
	slices.Sort(names)
	slices.Reverse(names)
	c := m.choose(dir, names, query{limit: m.policy.UniqueFragments(), index: max(v.FragIndex, -1), prefer: v.Prefer})
	var o *Object
	switch {
	case c.data != nil:
		o, err = m.open(at, dir, hash, c, &v)
	case c.tombstone != nil:
		err = tombstone(filepath.Join(dir, c.tombstone.name), v.Name)
	default:
		return nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
	}
	if corrupt := (*CorruptError)(nil); errors.As(err, &corrupt) && corrupt.Quarantine {
		return nil, m.condemn(device, corrupt.Path, corrupt.Reason)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// condemn quarantines the object directory of a damaged file; the error says that it did.
func (m *Manager) condemn(device, path, reason string) error {
	dir := filepath.Dir(path)
	to, err := m.quarantine(device, dir, filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("%s is damaged (%s): %w", path, reason, err)
	}
	m.warn("Quarantined object %s: %s", path, reason)
	return &QuarantinedError{Path: path, To: to, Reason: reason}
}

// Condemn quarantines an object that proved damaged while it was read; the error is a
// *QuarantinedError, or says why it could not be moved.
// Swift: BaseDiskFileReader._quarantine.
func (m *Manager) Condemn(o *Object, reason string) error {
	device := o.Path
	for range 5 { // DEVICE/objects/PART/SUFFIX/HASH/FILE
		device = filepath.Dir(device)
	}
	return m.condemn(device, o.Path, reason)
}

// tombstone is the error of an object that was deleted.
// Swift: BaseDiskFile._construct_exception_from_ts_file.
func tombstone(path, name string) error {
	meta, err := ReadMetadata(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	if err != nil {
		return err
	}
	at, err := timestamp.Parse(meta["X-Timestamp"])
	if err != nil {
		return &CorruptError{Path: path, Reason: fmt.Sprintf("X-Timestamp %.80q in metadata is none", meta["X-Timestamp"])}
	}
	return &DeletedError{Name: name, Timestamp: at}
}

// passed compares a number of seconds, in plain digits, with a time.
func passed(seconds string, now timestamp.Timestamp) bool {
	n, err := strconv.ParseInt(seconds, 10, 64)
	return err == nil && float64(n) <= now.Seconds()
}

// Newest is the time of the newest of the object's files.
func (o *Object) Newest() timestamp.Timestamp {
	if o.Meta.After(o.Data) {
		return o.Meta
	}
	return o.Data
}

// Metadata is what counts of both files: of the .data file all, or, if there is a .meta
// file, what a POST can not change, beside all of that one. It is not to be changed.
// Swift: BaseDiskFile._construct_from_data_file.
func (o *Object) Metadata() map[string]string {
	if o.FileMeta == nil {
		return o.DataMeta
	}
	meta := maps.Clone(o.FileMeta)
	for key, value := range o.DataMeta {
		if lower := strings.ToLower(key); key == "name" || fixedMetadata[lower] || len(key) > len(sysmeta) && strings.HasPrefix(lower, sysmeta) {
			meta[key] = value
		}
	}
	if _, ok := meta["X-Timestamp"]; !ok {
		meta["X-Timestamp"] = o.Newest().Internal()
	}
	if value, ok := o.DataMeta["Content-Type"]; ok {
		at, err := timestamp.Parse(o.FileMeta["Content-Type-Timestamp"])
		if _, given := o.FileMeta["Content-Type-Timestamp"]; !given || err == nil && o.Data.After(at) {
			meta["Content-Type"] = value
			delete(meta, "Content-Type-Timestamp")
		}
	}
	return meta
}

const sysmeta = "x-object-sysmeta-"

// fixedMetadata is what only a PUT sets, in lower case.
// Swift: obj/diskfile.py, RESERVED_DATAFILE_META and DATAFILE_SYSTEM_META.
var fixedMetadata = map[string]bool{"content-length": true, "deleted": true, "etag": true, "x-static-large-object": true}

// File is the open archive, for sendfile(2), until Close; its position belongs to the caller.
func (o *Object) File() *os.File { return o.file.std() }
