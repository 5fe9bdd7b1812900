package rebuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"imping/engine/pipeline"
	"imping/io/digest"
	"imping/io/diskfile"
)

// Disk is a Target on a device of this node: the archive is written as an object server would write it (rule 21), and nobody sees
// any of it before its last byte is proved and on the disk.
type Disk struct {
	Files  *diskfile.Manager
	Object *Object
	Place  diskfile.Place    // its FragIndex is the wanted one
	Meta   map[string]string // of any archive of the object, as its .data file has it
}

// Index is the wanted one.
func (d *Disk) Index() int { return d.Place.FragIndex }

// Started says that a failed try can always be repeated.
func (d *Disk) Started() bool { return false }

// Sink begins a file. etag, unless it is "", is the MD5 that it must have.
func (d *Disk) Sink(etag string) pipeline.Sink { return &diskSink{d: d, etag: etag} }

// diskSink writes the archive into a file that has no name before Commit.
type diskSink struct {
	d    *Disk
	etag string

	mu   sync.Mutex // Abort may come from another goroutine
	w    *diskfile.Writer
	sum  *digest.Stream
	over error // why nothing more is written
}

func (s *diskSink) begin() (err error) {
	if s.over != nil || s.w != nil {
		return s.over
	}
	if s.w, err = s.d.Files.Create(s.d.Place, s.d.Object.Length); err == nil {
		s.sum = digest.New(s.d.Object.Length)
	}
	return err
}

func (s *diskSink) WriteFragment(slot []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.begin(); err != nil {
		return err
	}
	if _, err := s.w.Write(slot); err != nil {
		return err
	}
	_, err := s.sum.Write(slot)
	return err
}

// Commit gives the archive its metadata and its name.
func (s *diskSink) Commit(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.end(err) }()
	if err := s.begin(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	sum := s.sum.Sum()
	if s.etag != "" && !strings.EqualFold(s.etag, sum) {
		return fmt.Errorf("%s: the MD5 of the copied archive #%d is %s, its ETag says %s", s.d.Place.Name, s.d.Index(), sum, s.etag)
	}
	if s.w.Size() != s.d.Object.Length {
		return fmt.Errorf("%s: %d bytes of archive #%d, not %d", s.d.Place.Name, s.w.Size(), s.d.Index(), s.d.Object.Length)
	}
	var meta diskfile.Metadata
	for _, key := range slices.Sorted(maps.Keys(s.d.Meta)) {
		if key != "name" {
			meta.Set(key, s.d.Meta[key])
		}
	}
	meta.Set("ETag", sum)
	meta.Set("Content-Length", strconv.FormatInt(s.w.Size(), 10))
	meta.Set(KeyFragIndex, strconv.Itoa(s.d.Index()))
	if s.d.Object.Durable {
		return s.w.PublishDurable(&meta)
	}
	return s.w.Publish(&meta)
}

// Abort leaves nothing behind.
func (s *diskSink) Abort(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(cause)
}

var errDiskOver = errors.New("write to an archive that is whole")

func (s *diskSink) end(cause error) {
	if s.over = cause; cause == nil {
		s.over = errDiskOver
	}
	if s.w != nil {
		s.w.Abort()
		s.w = nil
	}
	if s.sum != nil {
		s.sum.Close()
		s.sum = nil
	}
}
