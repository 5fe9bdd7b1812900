package diskfile

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/suffix"
)

// hashSuffix cleans up a suffix directory and hashes what its object directories hold. It
// is nil without an error if there is no such directory (any more).
// Swift: BaseDiskFileManager._hash_suffix_dir, ECDiskFileManager._update_suffix_hashes
// and DiskFileManager's, which keeps one sum for a suffix.
func (m *Manager) hashSuffix(path string) (*suffix.Entry, error) {
	// Object directories are asked of the suffix's descriptor, without their path: most of the time goes into listing them.
	dir, err := openat(unix.AT_FDCWD, path)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(dir)
	list := listers.Get().(*lister)
	defer listers.Put(list)
	entries, err := list.readAll(dir)
	if err != nil {
		return nil, &fs.PathError{Op: "readdirent", Path: path, Err: err}
	}
	names := entryNames(entries)
	slices.Sort(names)
	sums := sums{}
	if m.replicated() {
		sums[noIndex] = md5.New() // an empty sum where nothing counts
	}
	for _, name := range names {
		m.watch.Step()
		object := path + "/" + name
		entries, err := list.read(dir, name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			if err := m.quarantineBad(object, &fs.PathError{Op: "open", Path: object, Err: err}); err != nil {
				return nil, err
			}
			continue
		}
		c, left := m.settle(object, entryNames(entries), query{limit: m.policy.UniqueFragments(), index: -1})
		if len(left) > 0 {
			sums.add(c)
		}
	}
	switch err := syscall.Rmdir(path); err {
	case nil, syscall.ENOENT:
		return nil, nil
	}
	e := sums.entry()
	if m.replicated() {
		e.Plain, e.None = e.None, ""
	}
	return e, nil
}

// noIndex is the key of what belongs to no fragment: Python's None.
const noIndex = -1

type sums map[int]hash.Hash

// add hashes what would change if the object were opened; files that have no effect on
// its state are left out.
func (s sums) add(c *choice) {
	if c.meta != nil {
		s.write(noIndex, c.meta.time.Internal()+c.meta.ext)
	}
	if c.tombstone != nil {
		s.write(noIndex, c.tombstone.time.Internal()+c.tombstone.ext)
	}
	for _, set := range c.sets {
		for _, f := range set {
			s.write(f.index, f.time.Internal())
		}
	}
	if c.data != nil && c.data.index < 0 {
		s.write(noIndex, c.data.time.Internal()+c.data.ext)
	} else if c.data != nil {
		// The same whether a .durable file or the name of the data says so.
		s.write(noIndex, c.durable[0].time.Internal()+".durable")
	}
	if c.ctype != nil {
		s.write(noIndex, c.ctype.ctype.Internal()+"_ctype")
	}
}

func (s sums) write(key int, text string) {
	h, ok := s[key]
	if !ok {
		h = md5.New()
		s[key] = h
	}
	h.Write([]byte(text))
}

func (s sums) entry() *suffix.Entry {
	e := &suffix.Entry{}
	for key, h := range s {
		sum := hex.EncodeToString(h.Sum(nil))
		if key == noIndex {
			e.None = sum
			continue
		}
		e.Frags.Set(key, sum)
	}
	return e
}

// quarantineBad quarantines an object directory that could not be listed for err, if it
// is one of the errors for which Swift does; any other is returned. A file in its place
// goes itself. ENODATA is what bad sectors answer; when the object directory can not be
// moved for it, the whole suffix goes.
func (m *Manager) quarantineBad(dir string, err error) error {
	device := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(dir))))
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		to, err := m.quarantine(device, dir, filepath.Dir(dir))
		if err != nil {
			return err
		}
		m.warn("Quarantined %s to %s because it is not a directory", dir, to)
	case errors.Is(err, syscall.ENODATA):
		from, suffixDir := dir, filepath.Dir(dir)
		to, err := m.quarantine(device, from, suffixDir)
		if err != nil {
			from = suffixDir
			if to, err = m.quarantine(device, from, suffixDir); err != nil {
				return err
			}
		}
		m.warn("Quarantined %s to %s because it could not be listed", from, to)
	default:
		return fmt.Errorf("cannot list object directory: %w", err)
	}
	return nil
}
