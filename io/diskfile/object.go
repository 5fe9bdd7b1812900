package diskfile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// ErrNotExist tells that there is no such object, or not the wanted fragment of it.
var ErrNotExist = errors.New("object does not exist")

// DeletedError tells that there is a tombstone in place of the object.
type DeletedError struct {
	Name      string // "/account/container/object"
	Timestamp timestamp.Timestamp
}

func (e *DeletedError) Error() string {
	return fmt.Sprintf("object %q was deleted at %s", e.Name, e.Timestamp.Internal())
}

// Object is an open fragment archive. ReadAt and DropCache are goroutine-safe.
type Object struct {
	Path        string // of the .data file
	Name        string // "/account/container/object", raw bytes
	Hash        string
	FragIndex   int
	Data        timestamp.Timestamp
	Durable     timestamp.Timestamp // newest durable time in the directory, zero if none; equals Data if this fragment is durable
	Meta        timestamp.Timestamp // of the .meta file, zero if none
	ContentType timestamp.Timestamp // of a content type that is newer than the data, else zero
	DataMeta    map[string]string   // metadata of the .data file, raw bytes
	FileMeta    map[string]string   // metadata of the .meta files, without the name; nil if none
	Length      int64               // of the archive, in bytes

	file *os.File
}

// Open opens a fragment archive of the object in a hash directory: that of fragIndex, or
// of the highest index if fragIndex is negative, of the newest durable time, or of the
// newest time at all with nonDurable. Expired objects open too. Files that are
// obsolete are removed before, as Swift does. Errors: ErrNotExist, *DeletedError,
// *CorruptError (nothing is quarantined for it), *NotMountedError, those of the file
// system. A hash directory that is none is quarantined, and does not exist.
// Swift: BaseDiskFileManager.get_diskfile_from_hash and BaseDiskFile.open(open_expired=True).
func (m *Manager) Open(dev string, part int, hash string, fragIndex int, nonDurable bool) (*Object, error) {
	if _, err := m.DevicePath(dev); err != nil {
		return nil, err
	}
	if _, err := parseHash(hash); err != nil {
		return nil, fmt.Errorf("cannot open object: %w", err)
	}
	dir := m.hashPath(dev, part, hash)
	_, names, err := m.cleanup(dir, anyDurable)
	if err != nil {
		if err := m.quarantineBad(dir, err); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
	}
	c := m.choose(dir, names, query{limit: m.policy.UniqueFragments(), index: max(fragIndex, -1), nonDurable: nonDurable})
	if c.data == nil {
		if c.tombstone == nil {
			return nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
		}
		return nil, m.deleted(dir, hash, c.tombstone)
	}
	return m.open(dir, hash, c)
}

// parseHash refuses what is not the name of a hash directory: it becomes part of a path.
func parseHash(hash string) ([16]byte, error) {
	h, err := objhash.Parse(hash)
	if err != nil {
		return h, fmt.Errorf("%.80q is no object hash: %w", hash, err)
	}
	return h, nil
}

func (m *Manager) deleted(dir, hash string, ts *file) error {
	path := filepath.Join(dir, ts.name)
	meta, err := ReadMetadata(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	if err != nil {
		return err
	}
	if err := m.check(path, hash, ts, meta); err != nil {
		return err
	}
	return &DeletedError{Name: meta["name"], Timestamp: ts.time}
}

// check compares the metadata of a .data or .ts file with where the file is.
func (m *Manager) check(path, hash string, f *file, meta map[string]string) error {
	name, ok := meta["name"]
	if !ok {
		return &CorruptError{path, "missing name metadata"}
	}
	if parts := strings.SplitN(name, "/", 4); len(parts) != 4 || parts[0] != "" || parts[1] == "" || parts[2] == "" || parts[3] == "" {
		return &CorruptError{path, fmt.Sprintf("name %.200q is not /account/container/object", name)}
	}
	if objhash.Hex(m.hasher.Object(name)) != hash {
		return &CorruptError{path, fmt.Sprintf("hash of name in metadata (%.200q) does not match directory name", name)}
	}
	if t, err := timestamp.Parse(meta["X-Timestamp"]); err != nil || t != f.time {
		return &CorruptError{path, fmt.Sprintf("X-Timestamp %.80q in metadata does not match file name", meta["X-Timestamp"])}
	}
	return nil
}

func (m *Manager) open(dir, hash string, c *choice) (*Object, error) {
	path := filepath.Join(dir, c.data.name)
	// Nonblocking, so that a pipe can not hold us up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	if errors.Is(err, syscall.ENODATA) {
		return nil, &CorruptError{path, "failed to open: " + err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open fragment archive: %w", err)
	}
	o := &Object{Path: path, Hash: hash, FragIndex: c.data.index, Data: c.data.time, file: f}
	if c.durable != nil {
		o.Durable = c.durable[0].time
	}
	if err := m.load(o, dir, c); err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

func (m *Manager) load(o *Object, dir string, c *choice) (err error) {
	info, err := o.file.Stat()
	if err != nil {
		return fmt.Errorf("cannot stat fragment archive: %w", err)
	}
	if !info.Mode().IsRegular() {
		return &CorruptError{o.Path, "not a regular file"}
	}
	o.Length = info.Size()
	if o.DataMeta, err = readFileMetadata(o.file); err != nil {
		return err
	}
	if err := m.check(o.Path, o.Hash, c.data, o.DataMeta); err != nil {
		return err
	}
	o.Name = o.DataMeta["name"]
	if err := o.checkData(); err != nil {
		return err
	}
	if c.meta != nil {
		if err := o.loadMeta(dir, c); err != nil {
			return err
		}
	}
	deleteAt, ok := o.DataMeta["X-Delete-At"]
	if c.meta != nil {
		deleteAt, ok = o.FileMeta["X-Delete-At"]
	}
	if _, err := strconv.ParseInt(strings.TrimSpace(deleteAt), 10, 64); ok && err != nil {
		return &CorruptError{o.Path, fmt.Sprintf("bad metadata x-delete-at value %.80q", deleteAt)}
	}
	return nil
}

// checkData compares the archive's metadata with the file.
// Swift: BaseDiskFile._verify_data_file.
func (o *Object) checkData() error {
	length, ok := o.DataMeta["Content-Length"]
	if !ok {
		return &CorruptError{o.Path, "missing content-length in metadata"}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(length), 10, 64)
	if err != nil {
		return &CorruptError{o.Path, fmt.Sprintf("bad metadata content-length value %.80q", length)}
	}
	if n != o.Length {
		return &CorruptError{o.Path, fmt.Sprintf("metadata content-length %d does not match actual object size %d", n, o.Length)}
	}
	// Not checked by Swift, which answers GETs with this index.
	if index, ok := o.DataMeta["X-Object-Sysmeta-Ec-Frag-Index"]; ok {
		if n, err := parseIndex(index); err != nil || n != o.FragIndex {
			return &CorruptError{o.Path, fmt.Sprintf("fragment index %.80q in metadata does not match file name", index)}
		}
	}
	return nil
}

// loadMeta reads the .meta file and, if it is another one, that with the newest content
// type. Swift: BaseDiskFile._construct_from_data_file, _merge_content_type_metadata.
func (o *Object) loadMeta(dir string, c *choice) error {
	meta, err := readMetaFile(filepath.Join(dir, c.meta.name))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, c.meta.name)
	if meta["name"] != o.Name {
		return &CorruptError{path, fmt.Sprintf("name %.200q in metadata is not that of the data, %.200q", meta["name"], o.Name)}
	}
	if t, err := timestamp.Parse(meta["X-Timestamp"]); err != nil || t != c.meta.time {
		return &CorruptError{path, fmt.Sprintf("X-Timestamp %.80q in metadata does not match file name", meta["X-Timestamp"])}
	}
	o.Meta = c.meta.time
	o.FileMeta = maps.Clone(meta)
	delete(o.FileMeta, "name")
	if c.ctype == nil {
		return nil
	}
	o.ContentType = c.ctype.ctype
	if c.ctype == c.meta {
		return nil
	}
	const key, timeKey = "Content-Type", "Content-Type-Timestamp"
	newer, err := readMetaFile(filepath.Join(dir, c.ctype.name))
	if err != nil {
		return err
	}
	value, ok := newer[key]
	at, err := timestamp.Parse(newer[timeKey])
	if ok && err == nil && newer[timeKey] > meta[timeKey] && at.After(o.Data) {
		o.FileMeta[key], o.FileMeta[timeKey] = value, newer[timeKey]
	}
	return nil
}

// readMetaFile is ReadMetadata of a file that may be replaced at any moment: that is
// ErrNotExist, to be tried again, and not corrupt.
func readMetaFile(path string) (map[string]string, error) {
	meta, err := ReadMetadata(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	return meta, err
}

// ReadAt reads from the archive. Errors carry the path.
func (o *Object) ReadAt(p []byte, off int64) (int, error) { return o.file.ReadAt(p, off) }

// Close closes the archive. It is idempotent.
func (o *Object) Close() error {
	if err := o.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// DropCache tells the kernel that n bytes from off on need not stay in the page cache (n
// = 0: all from off on), so that the cache is left to the host's clients.
func (o *Object) DropCache(off, n int64) {
	if c, err := o.file.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), off, n, unix.FADV_DONTNEED) })
	}
}
