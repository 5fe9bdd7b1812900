package diskfile

import (
	"errors"
	"fmt"
	"strconv"

	"imping/swift/timestamp"
)

const fragIndexKey = "X-Object-Sysmeta-Ec-Frag-Index"

// Writer writes one file of an object: Create, Write any number of times, Publish, Commit.
// Until Publish no one sees anything, and Abort leaves nothing behind; a Writer that was
// not published must be aborted. Abort after Publish or twice does nothing, so that it may
// be deferred. Not goroutine-safe. Swift: obj/diskfile.py, BaseDiskFileWriter.
type Writer struct {
	m       *Manager
	at      *location
	ext     string
	tmp     *temporary // nil once published or aborted
	size    int64      // announced, negative if unknown
	written int64
	synced  int64 // bytes of which the disk has been told already

	data  timestamp.Timestamp // of a published fragment that is not durable yet
	index int
}

// Create begins the .data file of an object: an archive, or all of it where the policy is
// replicated. Room for size bytes is allocated; a negative size is unknown. Errors:
// *NotMountedError, *NoSpaceError, those of the file system.
func (m *Manager) Create(p Place, size int64) (*Writer, error) {
	return m.create(p, ".data", size)
}

func (m *Manager) create(p Place, ext string, size int64) (*Writer, error) {
	at, err := m.locate(p)
	if err != nil {
		return nil, fmt.Errorf("cannot write: %w", err)
	}
	w := &Writer{m: m, at: at, ext: ext, size: size}
	if w.tmp, err = m.newTemporary(at.device, at.dir); err != nil {
		return nil, err
	}
	// A full disk must not refuse to have things deleted (rule 26).
	if ext != ".ts" {
		if err := m.step("allocate", func() error { return w.tmp.allocate(size, p.Unallocated) }); err != nil {
			w.Abort()
			return nil, noSpace(err, at.dir, "cannot allocate")
		}
	}
	return w, nil
}

// Write appends to the file. After an error the Writer is of no use but for Abort.
func (w *Writer) Write(b []byte) (int, error) {
	if w.tmp == nil {
		return 0, errors.New("cannot write to a file that is published or aborted")
	}
	n, err := w.tmp.write(b)
	w.written += int64(n)
	if err != nil {
		return n, noSpace(err, w.at.dir, "cannot write %d bytes at offset %d of a new file in %s", len(b), w.written-int64(n), w.at.dir)
	}
	if w.written-w.synced >= w.m.bytesPerSync {
		if err := w.tmp.fdatasync(w.synced, w.written-w.synced); err != nil {
			return n, noSpace(err, w.at.dir, "cannot sync a new file in %s", w.at.dir)
		}
		w.synced = w.written
	}
	return n, nil
}

// Size is how many bytes were written.
func (w *Writer) Size() int64 { return w.written }

// Publish keeps the metadata with the file and gives it its name: every byte is on the disk
// before anyone sees it, and the name is when Publish returns nil. meta must hold
// X-Timestamp and, for data, the Content-Length that was written; the object's name and,
// of an archive, its index are added. A fragment is not durable before Commit; everything
// else is final, and what it makes obsolete is removed. After an error nothing was
// published, but for one that only the syncing of directories met; the Writer is aborted
// either way. Errors: *NoSpaceError, *NoAttributesError, *LockTimeoutError (of the partition's lock), those of the file system.
// Swift: BaseDiskFileWriter._put and _finalize_put, ECDiskFileWriter.put.
func (w *Writer) Publish(meta *Metadata) error {
	p := Publication{Writer: w, Meta: meta}
	PublishAll([]*Publication{&p})
	return p.Err
}

// PublishDurable is Publish and Commit. Where no one has seen the fragment yet it gets its durable name at once, which spares a
// rename and a sync of the disk: it is whole before it has any name.
func (w *Writer) PublishDurable(meta *Metadata) error {
	p := Publication{Writer: w, Meta: meta, Durable: true}
	PublishAll([]*Publication{&p})
	return p.Err
}

// file is what the name of the file is going to say.
func (w *Writer) file(meta *Metadata) (*file, error) {
	f := &file{ext: w.ext, index: -1}
	text, _ := meta.Get("X-Timestamp")
	var err error
	if f.time, err = timestamp.Parse(text); err != nil {
		return nil, fmt.Errorf("X-Timestamp: %w", err)
	}
	switch w.ext {
	case ".meta":
		if text, ok := meta.Get("Content-Type-Timestamp"); ok && text != "" {
			if f.ctype, err = timestamp.Parse(text); err != nil {
				return nil, fmt.Errorf("Content-Type-Timestamp: %w", err)
			}
		}
	case ".data":
		if w.size >= 0 && w.size != w.written {
			return nil, fmt.Errorf("%d bytes of %d were written", w.written, w.size)
		}
		length, _ := meta.Get("Content-Length")
		if n, err := strconv.ParseInt(length, 10, 64); err != nil || n != w.written {
			return nil, fmt.Errorf("Content-Length is %.40q and %d bytes were written", length, w.written)
		}
		if w.m.replicated() {
			break
		}
		if _, ok := meta.Get(fragIndexKey); !ok {
			meta.Set(fragIndexKey, strconv.Itoa(w.at.FragIndex))
		}
		text, _ := meta.Get(fragIndexKey)
		if f.index, err = parseIndex(text); err != nil || f.index < 0 || f.index >= w.m.policy.UniqueFragments() {
			return nil, fmt.Errorf("%.40q is no fragment index of a %d+%d policy", text, w.m.policy.Data, w.m.policy.Parity)
		}
	}
	return f, nil
}

// Commit makes a published fragment durable; where the policy is replicated there is
// nothing to do. Errors as MakeDurable.
func (w *Writer) Commit() error {
	if w.data.IsZero() {
		return nil
	}
	return w.m.makeDurable(w.at, w.data, w.index)
}

// Abort gives the file up unless it has been published.
func (w *Writer) Abort() {
	if w.tmp != nil {
		w.tmp.drop()
		w.tmp = nil
	}
}
