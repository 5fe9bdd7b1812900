package diskfile

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/objhash"
	"imping/swift/suffix"
)

// RelinkConfig says how a Relinker works.
type RelinkConfig struct {
	Power   int  // the partition power that objects get: the next one of the ring
	Cleanup bool // the old places go, once all that counts has its link in the new ones
	Clobber bool // another file that has a link's name goes to quarantine (or, in cleanup, is taken for the link)
	DryRun  bool // nothing is changed, only counted
	Verbose bool // files that were linked and removed are told, too
	// Pace is called before each object directory, and may wait; its error ends the work.
	Pace func(context.Context) error
	Tell func(RelinkEvent)
}

// RelinkCounts are what a Relinker has done; in a dry run, what it would do.
type RelinkCounts struct {
	HashDirs   int64 // directories that belong into another partition
	Files      int64 // in them, that count
	Linked     int64
	Removed    int64
	Collisions int64 // another file had a link's name, and was no tombstone
	Errors     int64 // collisions among them, unless they are clobbered
}

// Add adds what another has done.
func (c *RelinkCounts) Add(o RelinkCounts) {
	c.HashDirs += o.HashDirs
	c.Files += o.Files
	c.Linked += o.Linked
	c.Removed += o.Removed
	c.Collisions += o.Collisions
	c.Errors += o.Errors
}

// Since is what was done since then.
func (c RelinkCounts) Since(then RelinkCounts) RelinkCounts {
	c.Add(RelinkCounts{-then.HashDirs, -then.Files, -then.Linked, -then.Removed, -then.Collisions, -then.Errors})
	return c
}

// RelinkKind is what has happened to a file or directory.
type RelinkKind int

const (
	RelinkLinked      RelinkKind = iota // Old is New, too
	RelinkTolerated                     // two tombstones of the same time
	RelinkClobbered                     // New went to To; or, in cleanup, was taken for the link
	RelinkFailed                        // Old could not be linked to New
	RelinkUnreadable                    // Old, a directory, is passed over
	RelinkRemoved                       // Old is gone
	RelinkNotRemoved                    // Old could not be removed
	RelinkInvalid                       // the suffix of Old could not be invalidated
	RelinkNotExpected                   // Old is nothing that Swift would keep there
)

// RelinkEvent is told to RelinkConfig.Tell. Paths are absolute.
type RelinkEvent struct {
	Kind         RelinkKind
	Old, New, To string
	Err          error
}

// Relinker gives the objects of a device their places under another partition power. It is
// for one goroutine; another one may be at other partitions of the device.
//
// An object's directories are cleaned up as hashing would do, the new place first, so that the old one never has a file less.
// Of the files of both those that count, and those that can not be read, must be at the new place; only then does cleanup
// remove the old ones. Suffixes are invalidated before they change, and stay locked until they have: a hash computed
// meanwhile is computed again (rule 21). Swift: cli/relinker.py, process_location; obj/diskfile.py, relink_paths.
type Relinker struct {
	RelinkCounts
	m       *Manager
	c       RelinkConfig
	dev     string
	device  string // path
	base    string // path of the data directory
	dir     int    // the data directory; -1: there is none
	list    lister
	pending map[int][]*relinking // by new partition
	linked  map[int]bool         // partitions that have got links
	emptied map[string]bool      // suffixes, below the data directory, of which a file was removed
	again   []*relinking         // to whose old place something came meanwhile
}

// relinking is an object directory that was looked at.
type relinking struct {
	to       int
	old, new string   // below the data directory
	files    []string // that are there, at the old place
	links    []string // of those, what the new place lacks
	missing  int      // links that could not be made
}

// relinkBatch is how many objects are linked or removed while the lock of a partition is held: enough that locking costs
// nothing, few enough that on a slow disk a PUT, which waits for the lock for ten seconds, gets it. Under a Pace it is one:
// between the look at an object and what is done to it there is no long wait.
const relinkBatch = 64

// relinkLooks is how often an old place is looked at to which something comes while cleanup is there: the name of a fragment
// that becomes durable, or a PUT of a server that does not know the new ring yet.
const relinkLooks = 3

// errAlias is the error of an object directory that has two names by a symbolic link or a mount.
var errAlias = errors.New("it is the directory in the new partition, too")

// Relinker opens a device. Errors: *NotMountedError, those of the file system.
func (m *Manager) Relinker(dev string, c RelinkConfig) (*Relinker, error) {
	device, err := m.DevicePath(dev)
	if err != nil {
		return nil, err
	}
	r := &Relinker{m: m, c: c, dev: dev, device: device, base: filepath.Join(device, m.policy.DataDir()), dir: -1}
	fd, err := unix.Open(r.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return r, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.base, Err: err}
	}
	r.dir = fd
	return r, nil
}

// Close gives back what Relinker took.
func (r *Relinker) Close() {
	if r.dir >= 0 {
		unix.Close(r.dir)
	}
}

// Partitions lists the partitions, ascending. Unlike Manager.Partitions it makes nothing.
func (r *Relinker) Partitions() ([]int, error) {
	if r.dir < 0 {
		return nil, nil
	}
	entries, err := r.list.read(r.dir, ".")
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.base, Err: err}
	}
	var parts []int
	for _, e := range entries {
		if n, ok := partitionNumber(e.name); ok {
			parts = append(parts, n)
		}
	}
	slices.Sort(parts)
	return parts, nil
}

// partitionNumber reads the name of a partition. A number that is not written as Swift writes it would be another folder.
func partitionNumber(name string) (int, bool) {
	n, err := strconv.Atoi(name)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == name
}

// Partition deals with all objects of a partition that belong into another one; one that is not there has none. linked are the
// partitions, ascending, into which links were made. What goes wrong with an object is told and counted, and the others
// follow; the error is ctx's or Pace's, that the partition can not be listed, or *NotMountedError.
func (r *Relinker) Partition(ctx context.Context, part int) (linked []int, err error) {
	r.m.watch.Begin()
	defer r.m.watch.End()
	r.pending, r.linked, r.emptied, r.again = map[int][]*relinking{}, map[int]bool{}, map[string]bool{}, nil
	err = r.walk(ctx, part)
	err = cmp.Or(r.flushAll(ctx, part), err)
	for look := 1; len(r.again) > 0 && err == nil; look++ {
		again := r.again
		r.again = nil
		for _, o := range again {
			if look == relinkLooks {
				r.notRemoved(o.old, unix.ENOTEMPTY)
			} else if err = r.object(ctx, part, o.to, o.old); err != nil {
				break
			}
		}
		err = cmp.Or(r.flushAll(ctx, part), err)
	}
	for s := range r.emptied {
		_ = unix.Unlinkat(r.dir, s, unix.AT_REMOVEDIR) // unless something is left
	}
	return sortedKeys(r.linked), err
}

func (r *Relinker) flushAll(ctx context.Context, part int) error {
	for _, to := range sortedKeys(r.pending) {
		if err := r.flush(ctx, part, to); err != nil {
			return err
		}
	}
	return nil
}

// present refuses a device that is mounted no more, or another one: what is there by that path, most often the disk of the system,
// is not written to. Names below the data directory are asked of what was opened, whatever became of it; locks, hashes and
// quarantine have paths.
func (r *Relinker) present() error {
	var then, now unix.Stat_t
	if err := unix.Fstat(r.dir, &then); err != nil {
		return &fs.PathError{Op: "stat", Path: r.base, Err: err}
	}
	if err := unix.Stat(r.base, &now); err != nil || now.Dev != then.Dev || now.Ino != then.Ino {
		return &NotMountedError{r.dev, r.device, "is not mounted any more"}
	}
	return nil
}

func sortedKeys[V any](m map[int]V) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *Relinker) walk(ctx context.Context, part int) error {
	if r.dir < 0 {
		return nil
	}
	if err := r.present(); err != nil {
		return err
	}
	at := strconv.Itoa(part)
	suffixes, err := r.list.read(r.dir, at)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Join(r.base, at), Err: err}
	}
	// In the order of their inodes a disk's arm goes one way.
	for _, s := range byInode(suffixes) {
		if s.file {
			continue
		}
		at := at + "/" + s.name
		if !suffix.Valid(s.name) {
			r.c.Tell(RelinkEvent{Kind: RelinkNotExpected, Old: r.path(at)})
			continue
		}
		hashes, err := r.list.read(r.dir, at)
		if err != nil {
			if err != unix.ENOTDIR && err != unix.ENOENT {
				r.unreadable(at, err)
			}
			continue
		}
		for _, h := range byInode(hashes) {
			if h.file {
				continue
			}
			at := at + "/" + h.name
			hash, err := objhash.Parse(h.name)
			if err != nil {
				r.c.Tell(RelinkEvent{Kind: RelinkNotExpected, Old: r.path(at)})
				continue
			}
			to := objhash.Partition(hash, uint(r.c.Power))
			if to == part {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if r.c.Pace != nil {
				if err := r.c.Pace(ctx); err != nil {
					return err
				}
			}
			if err := r.object(ctx, part, to, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// object looks at an object and puts what is to be done to the rest. Its error is that the work has to end.
func (r *Relinker) object(ctx context.Context, part, to int, old string) error {
	r.m.watch.Step()
	o := &relinking{to: to, old: old, new: strconv.Itoa(to) + old[strings.IndexByte(old, '/'):]}
	there, odd, err := r.cleanup(o.new)
	if err != nil {
		r.HashDirs++
		r.unreadable(o.new, err)
		return nil
	}
	self := r.list.self
	here, oddHere, err := r.cleanup(old)
	if err == unix.ENOTDIR {
		return nil // a file in an object directory's place holds nothing
	}
	r.HashDirs++
	if err != nil {
		r.unreadable(old, err)
		return nil
	}
	if self != 0 && self == r.list.self && r.alias(o) {
		r.notRemoved(old, errAlias)
		return nil
	}
	o.files = here
	wanted := r.wanted(here, there, odd || oddHere)
	if r.compare(o, wanted, there) {
		// All of the new place was moved, and what had its link there needs another one.
		r.compare(o, wanted, nil)
	}
	r.Files += int64(len(wanted))
	if len(o.links) == 0 && (!r.c.Cleanup || o.missing > 0 || len(o.files) == 0) {
		return nil
	}
	r.pending[to] = append(r.pending[to], o)
	if len(r.pending[to]) < relinkBatch && r.c.Pace == nil {
		return nil
	}
	return r.flush(ctx, part, to)
}

// alias tells whether an object's directories are one.
func (r *Relinker) alias(o *relinking) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(r.dir, o.old, &a, 0) == nil && unix.Fstatat(r.dir, o.new, &b, 0) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// compare finds out what the new place lacks. It is clobbered, at most, if it is not empty.
func (r *Relinker) compare(o *relinking, wanted, there []string) (clobbered bool) {
	o.links = nil
	for _, name := range wanted {
		how, err := lacking, error(nil)
		if slices.Contains(there, name) {
			how, err = r.bond(o.old, o.new, name)
		}
		switch {
		case err != nil:
			r.failed(o, name, err)
		case how == lacking:
			o.links = append(o.links, name)
		case how == linked || !r.collides(o, name):
		case r.c.Clobber:
			if err := r.clobber(o, name); err != nil {
				r.failed(o, name, err)
				continue
			}
			return true
		default:
			r.failed(o, name, unix.EEXIST)
		}
	}
	return false
}

// cleanup is Manager.cleanup in a directory below the data directory, which is neither there nor odd if it is missing; odd
// tells of names that could not be read.
func (r *Relinker) cleanup(dir string) (names []string, odd bool, err error) {
	entries, err := r.list.read(r.dir, dir)
	if err == unix.ENOENT {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	names = entryNames(entries)
	if len(names) == 1 && r.m.lasting(names[0]) {
		return names, false, nil
	}
	c, left, doomed := r.m.judge(r.path(dir), names, anyDurable)
	if r.c.DryRun {
		return left, len(c.unexpected) > 0, nil
	}
	for _, name := range doomed {
		_ = unix.Unlinkat(r.dir, dir+"/"+name, 0) // else it stays to the next time
	}
	if len(left) == 0 {
		_ = unix.Unlinkat(r.dir, dir, unix.AT_REMOVEDIR)
	}
	return left, len(c.unexpected) > 0, nil
}

// lasting tells a file that stays where there is no other, whatever its age: most object directories hold one such.
func (m *Manager) lasting(name string) bool {
	if !strings.HasSuffix(name, ".data") {
		return false
	}
	if m.replicated() {
		_, err := parseReplicated(name)
		return err == nil
	}
	f, err := parseName(name, anyDurable.limit)
	return err == nil && f.durable
}

// wanted are those of the old place's files that count among the files of both.
func (r *Relinker) wanted(here, there []string, odd bool) []string {
	if !odd && len(here) <= 1 && (len(there) == 0 || slices.Equal(here, there)) {
		return here // none makes another obsolete
	}
	union := slices.Concat(here, there)
	slices.Sort(union)
	union = slices.Compact(union)
	slices.Reverse(union)
	c := r.m.choose("", union, anyDurable)
	return slices.DeleteFunc(slices.Clone(here), func(name string) bool {
		return slices.ContainsFunc(c.obsolete, func(f *file) bool { return f.name == name })
	})
}

// bond is what two names have in common.
type bond int

const (
	linked  bond = iota // one file, or the old one is gone
	lacking             // there is no new one
	foreign             // two files
)

// bond follows no symbolic link: one to the old name is no second name.
func (r *Relinker) bond(old, new, name string) (bond, error) {
	var a, b unix.Stat_t
	if err := unix.Fstatat(r.dir, old+"/"+name, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return linked, nil
		}
		return foreign, err
	}
	if err := unix.Fstatat(r.dir, new+"/"+name, &b, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return lacking, nil
		}
		return foreign, err
	}
	if a.Ino == b.Ino && a.Dev == b.Dev {
		return linked, nil
	}
	return foreign, nil
}

// collides is for two files of one name: tombstones of the same time are as good as one, and in cleanup the operator may say so
// of others.
func (r *Relinker) collides(o *relinking, name string) bool {
	if strings.HasSuffix(name, ".ts") {
		r.tell(RelinkTolerated, o.old, o.new, name)
		return false
	}
	r.Collisions++
	if r.c.Clobber && r.c.Cleanup {
		r.tell(RelinkClobbered, o.old, o.new, name)
		return false
	}
	return true
}

// clobber moves the new place to quarantine.
func (r *Relinker) clobber(o *relinking, name string) error {
	if r.c.DryRun {
		return nil
	}
	if err := r.present(); err != nil {
		return err
	}
	from := r.path(o.new)
	to, err := r.m.quarantine(r.device, from, filepath.Dir(from))
	if err == nil {
		r.c.Tell(RelinkEvent{Kind: RelinkClobbered, Old: r.path(o.old + "/" + name), New: from + "/" + name, To: to})
	}
	return err
}

// flush makes the links that are missing in a partition, and in cleanup removes the old names.
func (r *Relinker) flush(ctx context.Context, part, to int) error {
	batch := r.pending[to]
	delete(r.pending, to)
	r.m.watch.Step()
	if err := r.present(); err != nil {
		return err
	}
	unlock, any, err := r.lockFor(ctx, to, batch, func(o *relinking) string { return o.new }, func(o *relinking) bool { return len(o.links) > 0 })
	if err != nil {
		return err
	}
	if any {
		for _, o := range batch {
			for _, name := range o.links {
				r.makeLink(to, o, name)
			}
		}
		unlock()
	}
	if !r.c.Cleanup {
		return nil
	}
	done := func(o *relinking) bool { return o.missing == 0 && len(o.files) > 0 }
	if unlock, any, err = r.lockFor(ctx, part, batch, func(o *relinking) string { return o.old }, done); err != nil {
		return err
	}
	if any {
		for _, o := range batch {
			if done(o) {
				r.remove(o)
			}
		}
		unlock()
	}
	return nil
}

// lockFor invalidates the suffixes of the objects that are meant, and keeps the partition's lock. Without the lock the work is
// done all the same, as by Swift, but on a device that is not there any more: it would keep the old hashes.
func (r *Relinker) lockFor(ctx context.Context, part int, batch []*relinking, place func(*relinking) string, meant func(*relinking) bool) (unlock func(), any bool, err error) {
	var lines []string
	var first string
	for _, o := range batch {
		if meant(o) {
			first = place(o)
			lines = append(lines, filepath.Base(filepath.Dir(first))+"\n")
		}
	}
	if len(lines) == 0 {
		return nil, false, nil
	}
	if r.c.DryRun {
		return func() {}, true, nil
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	path := r.m.PartitionPath(r.dev, part)
	lock, err := r.lock(ctx, part, path)
	if err == nil {
		if err = r.m.noteInvalid(path, strings.Join(lines, "")); err == nil {
			return lock.Unlock, true, nil
		}
		lock.Unlock()
	}
	if gone := r.present(); gone != nil {
		return nil, false, gone
	}
	r.c.Tell(RelinkEvent{Kind: RelinkInvalid, Old: r.path(first), Err: err})
	return func() {}, true, nil
}

// lock takes a partition's lock. The partition is made below what was opened: by its path it could be made on the disk of the system,
// once the device is not mounted any more.
func (r *Relinker) lock(ctx context.Context, part int, path string) (lock *Lock, err error) {
	for range linkTries { // others remove partitions while they are empty
		if err = r.makeDir(strconv.Itoa(part)); err != nil {
			return nil, err
		}
		// What has begun is brought to its end: the wait for the lock is short.
		if lock, err = r.m.lockDir(context.WithoutCancel(ctx), "", path, "", hashesLockTimeout); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return lock, err
}

func (r *Relinker) makeLink(to int, o *relinking, name string) {
	if r.c.DryRun {
		r.Linked++
		return
	}
	err := r.link(o.old, o.new, name)
	if err == unix.EEXIST { // somebody was faster
		var how bond
		if how, err = r.bond(o.old, o.new, name); err == nil && how == lacking { // and has removed it again
			err = r.link(o.old, o.new, name)
		} else if err == nil && how == foreign && r.collides(o, name) {
			err = unix.EEXIST
		} else if err == nil {
			r.linked[to] = true // its suffix was invalidated: that who was faster has hashed it since is not known
			return
		}
	}
	switch err {
	case nil:
		r.Linked++
		r.linked[to] = true
		r.tell(RelinkLinked, o.old, o.new, name)
	case unix.ENOENT: // the old one is gone
	default:
		r.failed(o, name, err)
	}
}

// link makes a link and the directories for it. ENOENT: there is no such file.
func (r *Relinker) link(old, new, name string) error {
	err := r.makeDir(new)
	for range linkTries { // others remove directories while they are empty
		if err != nil {
			return err
		}
		if err = unix.Linkat(r.dir, old+"/"+name, r.dir, new+"/"+name, 0); err != unix.ENOENT {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(r.dir, old+"/"+name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		err = r.makeDir(new)
	}
	return unix.EBUSY
}

// makeDir makes a directory below the data directory, and those above it.
func (r *Relinker) makeDir(dir string) error {
	for range linkTries {
		switch err := unix.Mkdirat(r.dir, dir, 0o777); {
		case err == nil || err == unix.EEXIST:
			return nil
		case err != unix.ENOENT || !strings.Contains(dir, "/"):
			return err
		}
		if err := r.makeDir(dir[:strings.LastIndexByte(dir, '/')]); err != nil {
			return err
		}
	}
	return unix.EBUSY
}

// remove removes the old names of an object, and its directory.
func (r *Relinker) remove(o *relinking) {
	left := false
	for _, name := range o.files {
		if r.c.DryRun {
			r.Removed++
			continue
		}
		switch err := unix.Unlinkat(r.dir, o.old+"/"+name, 0); err {
		case nil:
			r.Removed++
			r.tell(RelinkRemoved, o.old, o.new, name)
		case unix.ENOENT:
		default:
			left = true
			r.notRemoved(o.old+"/"+name, err)
		}
	}
	if r.c.DryRun {
		return
	}
	if err := unix.Unlinkat(r.dir, o.old, unix.AT_REMOVEDIR); (err == unix.ENOTEMPTY || err == unix.EEXIST) && !left {
		r.again = append(r.again, o)
	}
	r.emptied[o.old[:strings.LastIndexByte(o.old, '/')]] = true
}

func (r *Relinker) path(at string) string { return r.base + "/" + at }

// tell is for what goes well.
func (r *Relinker) tell(kind RelinkKind, old, new, name string) {
	if r.c.Verbose {
		r.c.Tell(RelinkEvent{Kind: kind, Old: r.path(old + "/" + name), New: r.path(new + "/" + name)})
	}
}

func (r *Relinker) failed(o *relinking, name string, err error) {
	r.Errors++
	o.missing++
	r.c.Tell(RelinkEvent{Kind: RelinkFailed, Old: r.path(o.old + "/" + name), New: r.path(o.new + "/" + name), Err: err})
}

func (r *Relinker) notRemoved(at string, err error) {
	r.Errors++
	r.c.Tell(RelinkEvent{Kind: RelinkNotRemoved, Old: r.path(at), Err: err})
}

func (r *Relinker) unreadable(dir string, err error) {
	r.Errors++
	r.c.Tell(RelinkEvent{Kind: RelinkUnreadable, Old: r.path(dir), Err: err})
}

// AwaitsHashing tells that suffixes of a partition were invalidated since it was last hashed.
func (m *Manager) AwaitsHashing(dev string, part int) bool {
	var st syscall.Stat_t
	err := syscall.Stat(filepath.Join(m.PartitionPath(dev, part), invalidFile), &st)
	return err == nil && st.Size > 0
}

// entry is a name in a directory.
type entry struct {
	name string
	ino  uint64
	file bool // it is certainly no directory
}

func entryNames(entries []entry) []string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.name
	}
	return names
}

// lister reads directories with as few system calls and bytes of memory as it takes.
type lister struct {
	buf     []byte
	entries []entry
	self    uint64 // the inode of the directory that was read last; 0: there was none, or it did not tell
}

var listers = sync.Pool{New: func() any { return &lister{} }}

// listBuffer holds the names of some hundred objects.
const listBuffer = 32 << 10

// read gives the names in a directory, until the next call.
func (l *lister) read(at int, dir string) ([]entry, error) {
	l.self = 0
	fd, err := openat(at, dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return l.readAll(fd)
}

// readAll is read of an open directory.
func (l *lister) readAll(fd int) ([]entry, error) {
	if l.buf == nil {
		l.buf = make([]byte, listBuffer)
	}
	l.self, l.entries = 0, l.entries[:0]
	for {
		n, err := unix.Getdents(fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return l.entries, nil
		}
		for rest := l.buf[:n]; len(rest) > 0; {
			var e entry
			e, rest = parseEntry(rest)
			switch e.name {
			case ".":
				l.self = e.ino
			case "..":
			default:
				l.entries = append(l.entries, e)
			}
		}
	}
}

func openat(at int, dir string) (int, error) {
	for {
		fd, err := unix.Openat(at, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// byInode is a copy in the order of inodes.
func byInode(entries []entry) []entry {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b entry) int {
		switch {
		case a.ino < b.ino:
			return -1
		case a.ino > b.ino:
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	return entries
}

// parseEntry reads a struct linux_dirent64: inode, offset, length, type, name and NUL.
func parseEntry(b []byte) (e entry, rest []byte) {
	const typeAt, nameAt = 18, 19
	length := int(binary.NativeEndian.Uint16(b[16:]))
	name := b[nameAt:length]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	kind := b[typeAt]
	return entry{
		name: string(name),
		ino:  binary.NativeEndian.Uint64(b),
		file: kind != unix.DT_DIR && kind != unix.DT_LNK && kind != unix.DT_UNKNOWN,
	}, b[length:]
}
