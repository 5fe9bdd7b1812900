package diskfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"imping/io/batch"
	"imping/swift/objhash"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

// Purge is what a revert has brought away of an object.
type Purge struct {
	Hash    string
	Data    timestamp.Timestamp // of the fragment or the tombstone
	Durable bool                // the fragment is durable, whatever its name says

	Meta, ContentType timestamp.Timestamp // of the .meta files, zero if none
}

// Purge removes what was brought away: of each object the fragment of that time and index,
// unless it is durable only since, or the tombstone of that time; object directories and suffixes in which nothing is left
// go, too. A fragment that is not durable stays for the commit window, since its PUT may
// not be over. On a handoff, which is no primary of the partition, .meta files go with the
// last fragment (Swift leaves those that have a content type), and tombstones go; a primary keeps both. The suffixes are invalidated before, so that a
// process that ends in between leaves no stale hash, and again after (rule 21). removed counts
// files. The first error is returned when all that could be removed is.
// Swift: obj/reconstructor.py, delete_reverted_objs; ECDiskFile.purge.
func (m *Manager) Purge(dev string, part, fragIndex int, handoff bool, objects []Purge) (removed int, err error) {
	m.watch.Begin()
	defer m.watch.End()
	device, err := m.DevicePath(dev)
	if err != nil {
		return 0, err
	}
	path := m.PartitionPath(dev, part)
	bySuffix := make(map[string][]Purge)
	for _, o := range objects {
		if _, err := parseHash(o.Hash); err != nil {
			return 0, fmt.Errorf("cannot purge: %w", err)
		}
		s := objhash.Suffix(o.Hash)
		bySuffix[s] = append(bySuffix[s], o)
	}
	keep := func(e error) {
		if err == nil && e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}
	for s, list := range bySuffix {
		invalidate := func() error { return m.invalidate("", path, s) }
		if e := m.step("invalidate", invalidate); e != nil {
			keep(e)
			continue
		}
		for some := range slices.Chunk(list, purgeBatch) {
			n, e := m.purge(dev, filepath.Join(path, s), some, fragIndex, handoff)
			removed += n
			keep(e)
		}
		keep(m.step("invalidate", invalidate))
		_ = m.do(device, &batch.Op{Kind: batch.Rmdir, Name: filepath.Join(path, s)}) // unless there is something in it
	}
	return removed, err
}

// purgeBatch is of how many objects files are removed at once.
const purgeBatch = 64

// purge removes files of objects of a suffix: the fragments and tombstones of all first, then metadata and directories.
func (m *Manager) purge(dev, suffixPath string, objects []Purge, fragIndex int, handoff bool) (removed int, err error) {
	var files, rest []batch.Op
	for _, o := range objects {
		m.watch.Step()
		dir := filepath.Join(suffixPath, o.Hash)
		data, metas, e := m.doomed(dir, o, fragIndex, handoff)
		if e != nil {
			err = cmp.Or(err, fmt.Errorf("cannot list what is to be purged of %s: %w", dir, e))
			continue
		}
		for _, name := range data {
			files = append(files, batch.Op{Kind: batch.Unlink, Name: filepath.Join(dir, name)})
		}
		for _, name := range metas {
			rest = append(rest, batch.Op{Kind: batch.Unlink, Name: filepath.Join(dir, name), Then: true})
		}
		rest = append(rest, batch.Op{Kind: batch.Rmdir, Name: dir}) // if nothing is left in it
	}
	failed := map[string]bool{} // object directories
	for _, ops := range [][]batch.Op{files, rest} {
		// Metadata of what stays stays.
		ops = slices.DeleteFunc(ops, func(op batch.Op) bool {
			return failed[op.Name] || op.Kind == batch.Unlink && failed[filepath.Dir(op.Name)]
		})
		m.watch.Step()
		e := m.step("purge", func() error { return m.engine(dev).Do(context.Background(), ops) })
		if e != nil && !slices.ContainsFunc(ops, func(op batch.Op) bool { return op.Err != nil }) {
			return removed, cmp.Or(err, fmt.Errorf("cannot purge %s: %w", suffixPath, e)) // nothing was begun
		}
		for _, op := range ops {
			switch {
			case op.Kind == batch.Rmdir:
			case op.Err == nil:
				removed++
			case !errors.Is(op.Err, fs.ErrNotExist) && op.Err != batch.ErrCut:
				failed[filepath.Dir(op.Name)] = true
				err = cmp.Or(err, fmt.Errorf("cannot purge %s: %w", op.Name, op.Err))
			}
		}
	}
	return removed, err
}

// doomed are the names of an object that its purge removes: fragments or tombstones, and metadata.
func (m *Manager) doomed(dir string, o Purge, fragIndex int, handoff bool) (data, metas []string, err error) {
	_, names, err := m.cleanup(dir, anyDurable)
	if err != nil {
		return nil, nil, err
	}
	fragments, others := 0, 0
	for _, name := range names {
		f, err := parseName(name, 0)
		switch {
		case err != nil:
		case f.ext == ".ts" && f.time == o.Data && handoff:
			data = append(data, name)
		case f.ext == ".meta" && !f.time.After(o.Meta) && (!f.ctype.After(o.ContentType) || !f.ctype.After(o.Data)):
			metas = append(metas, name)
		case f.ext == ".data":
			fragments++
			// One made durable since would take that word with it: the other side has been told of none.
			if f.time == o.Data && f.index == fragIndex && (o.Durable || !f.durable && m.committed(filepath.Join(dir, name))) {
				data = append(data, name)
			} else {
				others++
			}
		}
	}
	if !handoff || fragments != 1 || others > 0 {
		metas = nil
	}
	return data, metas, nil
}

// partitionFiles are what a partition holds besides its suffixes, in the order in which they
// are removed with it: a lock file last.
var partitionFiles = []string{hashesFile, invalidFile, ".lock", ".lock-replication"}

// partitionLock is how long the removal of a partition waits for each of its locks.
const partitionLock = 200 * time.Millisecond

// RemovePartition removes a partition that has no suffix. If there is one, or anything else
// that Swift keeps in no partition, nothing is touched; unexpected are names of the latter.
// It holds both locks of the partition, that of replication first, but anybody may write there
// without them: that the folder is empty the kernel finds (rule 19).
// Swift: obj/reconstructor.py, delete_partition, which removes whatever is there.
func (m *Manager) RemovePartition(ctx context.Context, dev string, part int) (removed bool, unexpected []string, err error) {
	m.watch.Begin()
	defer m.watch.End()
	if _, err := m.DevicePath(dev); err != nil {
		return false, nil, err
	}
	path := m.PartitionPath(dev, part)
	look := func() (empty bool, err error) {
		names, err := listDir(path)
		for _, name := range names {
			switch {
			case suffix.Valid(name):
				return false, nil
			case !slices.Contains(partitionFiles, name):
				unexpected = append(unexpected, name)
			}
		}
		return err == nil && len(unexpected) == 0, err
	}
	// Locks are files: one that is not removed is not locked, either.
	if empty, err := look(); !empty {
		return false, unexpected, gone(err)
	}
	for _, name := range []string{"replication", ""} {
		lock, err := m.lockDir(ctx, "", path, name, partitionLock)
		if err != nil {
			return false, nil, gone(err)
		}
		defer lock.Unlock()
	}
	if empty, err := look(); !empty {
		return false, unexpected, gone(err)
	}
	for _, name := range partitionFiles {
		m.watch.Step()
		if err := syscall.Unlink(filepath.Join(path, name)); err != nil && err != syscall.ENOENT {
			return false, nil, fmt.Errorf("cannot remove %s of an empty partition: %w", name, err)
		}
	}
	switch err := syscall.Rmdir(path); err {
	case nil:
		return true, nil, nil
	case syscall.ENOTEMPTY, syscall.EEXIST, syscall.ENOENT: // something came
		return false, nil, nil
	default:
		return false, nil, fmt.Errorf("cannot remove an empty partition: %w", err)
	}
}

// gone is no error where something is no longer there.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
