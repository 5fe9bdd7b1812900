package diskfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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

// Object is an open fragment archive, or a whole object where the policy is replicated.
// ReadAt and DropCache are goroutine-safe.
type Object struct {
	Path        string // of the .data file
	Name        string // "/account/container/object", raw bytes
	Hash        string
	FragIndex   int // -1 where the policy is replicated
	Data        timestamp.Timestamp
	Durable     timestamp.Timestamp // newest durable time in the directory, zero if none; equals Data if this fragment is durable
	Meta        timestamp.Timestamp // of the .meta file, zero if none
	ContentType timestamp.Timestamp // of a content type that is newer than the data, else zero
	DataMeta    map[string]string   // metadata of the .data file, raw bytes
	FileMeta    map[string]string   // metadata of the .meta files, without the name; nil if none
	Length      int64               // of the archive, in bytes
	Sets        []FragmentSet       // all fragments in the directory but those older than Durable, newest first; none where the policy is replicated

	file  archive
	watch Watch
}

// Open opens a fragment archive of the object in a hash directory: that of fragIndex, or
// of the highest index if fragIndex is negative, of the newest durable time, or of the
// newest time at all with nonDurable; both count for nothing where the policy is
// replicated. Expired objects open too. Files that are
// obsolete are removed before, as Swift does. Errors: ErrNotExist, *DeletedError,
// *CorruptError (nothing is quarantined for it here; its field Quarantine says whether
// Swift would), *NotMountedError, those of the file system. A hash directory that is none is quarantined, and does not exist.
// Swift: BaseDiskFileManager.get_diskfile_from_hash and BaseDiskFile.open(open_expired=True).
func (m *Manager) Open(dev string, part int, hash string, fragIndex int, nonDurable bool) (*Object, error) {
	o, _, err := m.openHash(dev, part, hash, fragIndex, nonDurable)
	return o, err
}

// openHash is Open, and gives the names that stay in the hash directory, in descending order.
func (m *Manager) openHash(dev string, part int, hash string, fragIndex int, nonDurable bool) (o *Object, names []string, err error) {
	m.watch.Begin()
	defer m.watch.End()
	if _, err := m.DevicePath(dev); err != nil {
		return nil, nil, err
	}
	if _, err := parseHash(hash); err != nil {
		return nil, nil, fmt.Errorf("cannot open object: %w", err)
	}
	dir := m.hashPath(dev, part, hash)
	m.watch.Step()
	at, names, err := listOpen(dir)
	switch {
	case err == nil:
		defer unix.Close(at)
		_, names = m.settle(dir, names, anyDurable)
	case !errors.Is(err, fs.ErrNotExist):
		if err := m.quarantineBad(dir, err); err != nil {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("%s: %w", dir, ErrNotExist)
	}
	c := m.choose(dir, names, query{limit: m.policy.UniqueFragments(), index: max(fragIndex, -1), nonDurable: nonDurable})
	switch {
	case c.data != nil:
		o, err = m.open(at, dir, hash, c, nil)
	case c.tombstone != nil:
		err = m.deleted(dir, hash, c.tombstone)
	default:
		err = fmt.Errorf("%s: %w", dir, ErrNotExist)
	}
	return o, names, err
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
	m.watch.Step()
	meta, err := ReadMetadata(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	if err != nil {
		return err
	}
	// Swift takes the time from the metadata and the name from no one.
	name := meta["name"]
	if !isObjectName(name) || objhash.Hex(m.hasher.Object(name)) != hash {
		return &CorruptError{Path: path, Reason: fmt.Sprintf("name %.200q in metadata does not match directory name", name)}
	}
	if err := checkTime(path, ts, meta); err != nil {
		return err
	}
	return &DeletedError{Name: name, Timestamp: ts.time}
}

// checkTime compares the time in a file's metadata with that in its name, which Swift
// takes to be the same.
func checkTime(path string, f *file, meta map[string]string) error {
	if t, err := timestamp.Parse(meta["X-Timestamp"]); err != nil || t != f.time {
		return &CorruptError{Path: path, Reason: fmt.Sprintf("X-Timestamp %.80q in metadata does not match file name", meta["X-Timestamp"])}
	}
	return nil
}

// isObjectName reports "/account/container/object".
func isObjectName(name string) bool {
	parts := strings.SplitN(name, "/", 4)
	return len(parts) == 4 && parts[0] == "" && parts[1] != "" && parts[2] != "" && parts[3] != ""
}

// open opens what was chosen; view is nil for callers that know the hash only. at is the directory.
func (m *Manager) open(at int, dir, hash string, c *choice, view *View) (*Object, error) {
	path := dir + "/" + c.data.name
	m.watch.Step()
	// Nonblocking, so that a pipe can not hold us up.
	fd, err := openFDAt(at, c.data.name, path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	if errors.Is(err, syscall.ENODATA) {
		return nil, &CorruptError{Path: path, Reason: "failed to open: " + err.Error(), Quarantine: true, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open fragment archive: %w", err)
	}
	o := &Object{Path: path, Hash: hash, FragIndex: c.data.index, Data: c.data.time, file: archive{fd: fd, path: path}, watch: m.watch}
	if c.durable != nil {
		o.Durable = c.durable[0].time
	}
	if err := m.load(o, dir, c, view); err != nil {
		o.file.close()
		return nil, err
	}
	if !m.replicated() {
		o.Sets = c.fragmentSets()
	}
	return o, nil
}

func (m *Manager) load(o *Object, dir string, c *choice, view *View) (err error) {
	var st unix.Stat_t
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Fstat(o.file.fd, &st)
	}
	if err != nil {
		return fmt.Errorf("cannot stat fragment archive: %w", &fs.PathError{Op: "stat", Path: o.Path, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &CorruptError{Path: o.Path, Reason: "not a regular file"}
	}
	o.Length = st.Size
	m.watch.Step()
	if o.DataMeta, err = readFileMetadata(o.Path, o.file.fd); err != nil {
		return err
	}
	// The name and the expiry that Swift looks at are those of the newest .meta file.
	path, newest := o.Path, o.DataMeta
	if c.meta != nil {
		path = filepath.Join(dir, c.meta.name)
		if newest, err = o.loadMeta(path, dir, c); err != nil {
			return err
		}
		// Swift compares the times of content types here, and trips over a time that is none
		// before it gets to look at anything else.
		if _, err := timestamp.Parse(o.DataMeta["X-Timestamp"]); err != nil {
			return checkTime(o.Path, c.data, o.DataMeta)
		}
	}
	if err := m.checkAsSwift(o, path, newest, view); err != nil {
		return err
	}
	return o.checkFurther(path, newest, c)
}

// checkAsSwift finds what Swift finds and quarantines.
// Swift: BaseDiskFile._verify_name_matches_hash, _verify_data_file.
func (m *Manager) checkAsSwift(o *Object, path string, newest map[string]string, view *View) error {
	bad := func(path, format string, args ...any) error {
		return &CorruptError{Path: path, Reason: fmt.Sprintf(format, args...), Quarantine: true}
	}
	name, ok := newest["name"]
	if !ok {
		return bad(path, "missing name metadata")
	}
	if view != nil && name != view.Name {
		return &CollisionError{Name: view.Name, Stored: name}
	}
	if view == nil && objhash.Hex(m.hasher.Object("/"+strings.TrimLeft(name, "/"))) != o.Hash {
		return bad(path, "hash of name in metadata (%.200q) does not match directory name", name)
	}
	if deleteAt, ok := newest["X-Delete-At"]; ok {
		number, negative, ok := wholeNumber(deleteAt)
		if !ok {
			return bad(path, "bad metadata x-delete-at value %.80q", deleteAt)
		}
		if view != nil && !view.Expired && (negative || passed(number, view.Now)) {
			return &ExpiredError{o.Newest(), o.Metadata()}
		}
	}
	length, ok := o.DataMeta["Content-Length"]
	if !ok {
		return bad(o.Path, "missing content-length in metadata")
	}
	n, negative, ok := wholeNumber(length)
	if !ok {
		return bad(o.Path, "bad metadata content-length value %.80q", length)
	}
	if n != strconv.FormatInt(o.Length, 10) || negative && o.Length > 0 {
		return bad(o.Path, "metadata content-length %.40s does not match actual object size %d", length, o.Length)
	}
	return nil
}

// checkFurther finds what Swift does not look at but goes on with: a fragment of the wrong
// index or time must not become a survivor.
func (o *Object) checkFurther(path string, newest map[string]string, c *choice) error {
	if o.Name = newest["name"]; !isObjectName(o.Name) {
		return &CorruptError{Path: path, Reason: fmt.Sprintf("name %.200q is not /account/container/object", o.Name)}
	}
	if err := checkTime(o.Path, c.data, o.DataMeta); err != nil {
		return err
	}
	if index, ok := o.DataMeta["X-Object-Sysmeta-Ec-Frag-Index"]; ok && o.FragIndex >= 0 {
		if n, err := parseIndex(index); err != nil || n != o.FragIndex {
			return &CorruptError{Path: o.Path, Reason: fmt.Sprintf("fragment index %.80q in metadata does not match file name", index)}
		}
	}
	if c.meta == nil {
		return nil
	}
	if name, ok := o.DataMeta["name"]; !ok || name != o.Name {
		return &CorruptError{Path: o.Path, Reason: fmt.Sprintf("name %.200q in metadata is not that of the .meta file, %.200q", name, o.Name)}
	}
	return checkTime(path, c.meta, newest)
}

// loadMeta reads the .meta file of that path into FileMeta, with the content type of
// another one if that is newer, and returns what it holds with the name.
// Swift: BaseDiskFile._construct_from_data_file, _merge_content_type_metadata.
func (o *Object) loadMeta(path, dir string, c *choice) (map[string]string, error) {
	o.watch.Step()
	meta, err := readMetaFile(path)
	if err != nil {
		return nil, err
	}
	o.Meta = c.meta.time
	o.FileMeta = maps.Clone(meta)
	delete(o.FileMeta, "name")
	if c.ctype == nil {
		return meta, nil
	}
	o.ContentType = c.ctype.ctype
	if c.ctype == c.meta {
		return meta, nil
	}
	const key, timeKey = "Content-Type", "Content-Type-Timestamp"
	o.watch.Step()
	newer, err := readMetaFile(filepath.Join(dir, c.ctype.name))
	if err != nil {
		return nil, err
	}
	value, ok := newer[key]
	at, err := timestamp.Parse(newer[timeKey])
	if ok && err == nil && newer[timeKey] > meta[timeKey] && at.After(o.Data) {
		o.FileMeta[key], o.FileMeta[timeKey] = value, newer[timeKey]
	}
	return meta, nil
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
func (o *Object) ReadAt(p []byte, off int64) (int, error) {
	o.watch.Begin()
	defer o.watch.End()
	return o.file.readAt(p, off)
}

// Close closes the archive, once no read is under way. It is idempotent.
func (o *Object) Close() error { return o.file.close() }

// DropCache tells the kernel that n bytes from off on need not stay in the page cache (n
// = 0: all from off on), so that the cache is left to the host's clients.
func (o *Object) DropCache(off, n int64) {
	o.file.mu.RLock()
	defer o.file.mu.RUnlock()
	if o.file.fd >= 0 {
		_ = unix.Fadvise(o.file.fd, off, n, unix.FADV_DONTNEED)
	}
}

// archive is the descriptor of an open archive. An os.File would cost small objects two system calls and a finalizer each.
type archive struct {
	path string

	mu   sync.RWMutex // read-locked where fd is used
	fd   int          // -1: closed
	file *os.File     // owns fd, once there is one
}

// readAt is os.File's.
func (a *archive) readAt(p []byte, off int64) (n int, err error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.fd < 0 {
		return 0, &fs.PathError{Op: "read", Path: a.path, Err: os.ErrClosed}
	}
	for n < len(p) {
		m, err := unix.Pread(a.fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, &fs.PathError{Op: "read", Path: a.path, Err: err}
		case m == 0:
			return n, io.EOF
		default:
			n += m
		}
	}
	return n, nil
}

// std is the archive as an os.File, which close closes. None is made once that was called.
func (a *archive) std() *os.File {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil && a.fd >= 0 {
		a.file = os.NewFile(uintptr(a.fd), a.path)
	}
	return a.file
}

// close is idempotent.
func (a *archive) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	fd := a.fd
	a.fd = -1
	switch {
	case fd < 0 || a.path == "":
		return nil
	case a.file != nil:
		return a.file.Close()
	}
	if err := unix.Close(fd); err != nil && err != unix.EINTR { // closed it is even so
		return &fs.PathError{Op: "close", Path: a.path, Err: err}
	}
	return nil
}
