package diskfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/objhash"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

// Offer is an object's state as a sender of SSYNC offers it.
type Offer struct {
	Hash        string
	Data        timestamp.Timestamp // of the .data or .ts file
	Meta        timestamp.Timestamp // of the .meta file, zero if none
	ContentType timestamp.Timestamp // of a content type newer than the data, zero if none
	Durable     bool                // the fragment is durable; true for tombstones
	Tombstone   bool
}

// YieldHashes gives the objects in the suffixes (nil: in all of the partition) that have a
// tombstone or the wanted fragment, in the order of their hashes; fragIndex and
// nonDurable as with Open. Files that are obsolete are removed on the way, as Swift does,
// and suffixes in which nothing is left are invalidated. A directory that can not be read
// is an error with no offer, and others follow (Swift only logs it); one that is a file
// holds nothing and is passed to Warn. A *NotMountedError is the only pair. Swift: BaseDiskFileManager.yield_hashes.
func (m *Manager) YieldHashes(dev string, part int, suffixes []string, fragIndex int, nonDurable bool) iter.Seq2[Offer, error] {
	return func(give func(Offer, error) bool) {
		m.watch.Begin()
		defer m.watch.End()
		yield := func(o Offer, err error) bool {
			m.watch.End() // what the caller does with it is none of the disk's
			defer m.watch.Begin()
			return give(o, err)
		}
		if _, err := m.DevicePath(dev); err != nil {
			yield(Offer{}, err)
			return
		}
		path := m.PartitionPath(dev, part)
		if suffixes == nil {
			var err error
			if suffixes, err = m.list(path); err != nil {
				yield(Offer{}, err)
				return
			}
		}
		at, err := openat(unix.AT_FDCWD, path) // all ways begin here
		switch {
		case err == nil:
			defer unix.Close(at)
		case errors.Is(err, fs.ErrNotExist):
			return
		case errors.Is(err, syscall.ENOTDIR):
			m.warn("ERROR: Skipping %s due to error with listdir attempt: %v", path, err)
			return
		default:
			yield(Offer{}, fmt.Errorf("cannot open partition %s: %w", path, err))
			return
		}
		hashes, left, found, unread := m.listHashes(at, path, suffixes)
		for _, err := range unread {
			if !yield(Offer{}, err) {
				return
			}
		}
		q := query{index: max(fragIndex, -1), nonDurable: nonDurable}
		for _, h := range hashes {
			m.watch.Step()
			hash := objhash.Hex(h)
			s := objhash.Suffix(hash)
			dir := s + "/" + hash
			c, names, err := m.cleanupAt(at, dir, path+"/"+dir, q)
			if err != nil {
				found[s] = true
				if errors.Is(err, syscall.ENOTDIR) {
					m.warn("Cannot list object directory: %v", err) // a stray file holds no object
				} else if !yield(Offer{}, fmt.Errorf("cannot list an object directory: %w", err)) {
					return
				}
			} else if len(names) > 0 {
				found[s] = true
			}
			if err == nil {
				if o, ok := offer(hash, c); ok && !yield(o, nil) {
					return
				}
			}
			if left[s]--; left[s] == 0 && !found[s] {
				m.emptied(path, s)
			}
		}
	}
}

// list is a listing; what is not there is empty, and so is what is no directory.
func (m *Manager) list(path string) ([]string, error) { return m.listAt(unix.AT_FDCWD, path, path) }

func (m *Manager) listAt(at int, name, path string) ([]string, error) {
	names, err := listDirAt(at, name, path)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return names, nil
	case errors.Is(err, syscall.ENOTDIR):
		m.warn("ERROR: Skipping %s due to error with listdir attempt: %v", path, err)
		return nil, nil
	}
	return nil, fmt.Errorf("skipping %s due to error with listdir attempt: %w", path, err)
}

// listHashes gives the hash directories of the suffixes of a partition, open as at, ascending, and how many there
// are in each suffix; found has the suffixes that hold something else besides, unread says
// which could not be listed. Suffixes that hold nothing are invalidated.
func (m *Manager) listHashes(at int, path string, suffixes []string) (hashes [][16]byte, left map[string]int, found map[string]bool, unread []error) {
	found = map[string]bool{}
	left = make(map[string]int, len(suffixes))
	for _, s := range suffixes {
		if _, again := left[s]; again || !suffix.Valid(s) {
			continue
		}
		left[s] = 0
		m.watch.Step()
		names, err := m.listAt(at, s, path+"/"+s)
		if err != nil {
			unread = append(unread, err)
			found[s] = true
			continue
		}
		for _, name := range names {
			h, err := objhash.Parse(name)
			if err != nil || objhash.Suffix(name) != s {
				// No request could ever name it.
				m.warn("Unexpected entity in suffix directory: %s", filepath.Join(path, s, name))
				found[s] = true
				continue
			}
			hashes = append(hashes, h)
			left[s]++
		}
		if left[s] == 0 && !found[s] {
			m.emptied(path, s)
		}
	}
	slices.SortFunc(hashes, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	return hashes, left, found, unread
}

// emptied invalidates a suffix in which nothing is left, so that the next hashing removes
// it. The partition is not made for it.
func (m *Manager) emptied(path, s string) {
	if !exists(path) {
		return
	}
	if err := m.invalidate("", path, s); err != nil {
		m.warn("%v", err)
	}
}

func offer(hash string, c *choice) (Offer, bool) {
	o := Offer{Hash: hash}
	switch {
	case c.data != nil:
		o.Data, o.Durable = c.data.time, c.data.durable
	case c.tombstone != nil:
		o.Data, o.Durable, o.Tombstone = c.tombstone.time, true, true
	default:
		return o, false
	}
	if c.meta != nil {
		o.Meta = c.meta.time
	}
	if c.ctype != nil {
		o.ContentType = c.ctype.ctype
	}
	return o, true
}
