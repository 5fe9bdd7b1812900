package server

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imping/io/digest"
	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/conf"
	"imping/swift/timestamp"
)

// present is what there is of an object before a request changes it.
type present struct {
	object *diskfile.Object    // closed; nil if there is none, or an expired one
	at     timestamp.Timestamp // of the data, of the tombstone, of the newest file of an expired object; zero if there is nothing
	meta   map[string]string   // as on disk; of an expired object too
	gone   error               // why there is no object
}

// present opens an object for a change. What is damaged makes room: it is as if there was
// nothing.
func (s *Server) present(r *Request, p *place, v diskfile.View) (*present, error) {
	v.Name = p.name()
	o, err := p.View(p.device, p.partition, v)
	if err == nil {
		defer o.Close()
		return &present{object: o, at: o.Data, meta: o.Metadata()}, nil
	}
	is := &present{gone: err}
	switch {
	case isA[*diskfile.QuarantinedError](err):
		s.statsd.Increment("quarantines")
	case errors.Is(err, diskfile.ErrNotExist), isA[*diskfile.CorruptError](err):
	case isA[*diskfile.DeletedError](err):
		e, _ := errors.AsType[*diskfile.DeletedError](err)
		is.at = e.Timestamp
	case isA[*diskfile.ExpiredError](err):
		e, _ := errors.AsType[*diskfile.ExpiredError](err)
		is.at, is.meta = e.Timestamp, e.Metadata
	case isA[*diskfile.CollisionError](err):
		s.errorf(r, "%v", err)
		return nil, answer(403)
	case errors.Is(err, unix.ENOTSUP):
		return nil, insufficientStorage(p.device)
	default:
		return nil, unavailable(p.device, err)
	}
	return is, nil
}

// location is where the files of the object go.
func (p *place) location(r *Request, fragIndex int) (diskfile.Place, error) {
	partition, err := number(p.partition)
	if err != nil {
		return diskfile.Place{}, err
	}
	next, err := r.nextPartPower()
	return diskfile.Place{Device: p.device, Partition: partition, Name: p.name(), FragIndex: fragIndex, NextPartPower: next}, err
}

// unwritable turns the errors of a device that has no room, or can not be used, into its
// answer.
func (s *Server) unwritable(r *Request, device string, err error) error {
	if isA[*diskfile.NoSpaceError](err) || isA[*diskfile.NoAttributesError](err) {
		s.errorf(r, "%v", err)
		return insufficientStorage(device)
	}
	return unavailable(device, err)
}

// put keeps an object, or a fragment archive of one. Swift: obj/server.py, PUT.
func (s *Server) put(r *Request) (*Response, error) {
	p, err := s.object(r)
	if err != nil {
		return nil, err
	}
	now, err := r.timestamp()
	if err != nil {
		return nil, err
	}
	if err := s.checkCreation(r, p.object, now); err != nil {
		return nil, err
	}
	size := r.Body.Length()
	if value, ok := r.Header.Lookup("X-Backend-Obj-Content-Length"); ok && size < 0 {
		if size, ok = wholeSeconds(value); !ok {
			return nil, badRequest("invalid literal for int() with base 10: '%s'", value)
		}
		if size < 0 {
			return nil, answer(499) // no body has that length
		}
	}
	// A sender of SSYNC says which fragment it sends: others of the same time do not count.
	fragIndex := -1
	if value, ok := r.Header.Lookup("X-Backend-Ssync-Frag-Index"); ok && p.fragments() {
		n, ok := conf.ParseInt(value)
		if !ok || n < 0 {
			return nil, fmt.Errorf("Bad fragment index: %.40q", value) //lint:ignore ST1005 Swift's words
		}
		fragIndex = n
	}
	where, err := p.location(r, fragIndex)
	if err != nil {
		return nil, err
	}
	is, err := s.present(r, p, diskfile.View{FragIndex: fragIndex, Now: now})
	if err != nil {
		return nil, err
	}
	if is.gone != nil {
		is.meta = nil // the ETag of what has expired matches nothing
	}
	if tags := r.Header.Get("If-None-Match"); tags != "" && is.meta != nil && (matches(tags, "*") || matches(tags, diskfile.Wire(is.meta["ETag"]))) {
		return nil, answer(412)
	}
	if !is.at.Before(now) {
		return nil, answer(409).with("X-Backend-Timestamp", is.at.Internal())
	}

	where.Unallocated = r.group != nil // who asks whether to go on shall hear of a full disk before he sends; in a session nobody does
	w, err := p.Create(where, size)
	if err != nil {
		return nil, s.unwritable(r, p.device, err)
	}
	defer w.Abort()
	docs, err := documentsOf(r)
	if err != nil {
		return nil, err
	}
	body := io.Reader(r.Body)
	if docs != nil {
		r.group = nil // more of the body may be read when the file has been published
		defer docs.close()
		if body, err = docs.next("object"); err != nil {
			return nil, err
		}
	}
	etag, err := s.receive(body, p, w, size, r)
	if err != nil {
		return nil, err
	}
	meta := s.newMetadata(r, now, w.Size(), etag)
	var footers Header
	sent := r.Header.Get("Etag")
	if docs != nil && docs.footer {
		if footers, err = docs.readFooter(); err != nil {
			return nil, err
		}
		for key, value := range footers.All() {
			if hasPrefix(key, keptPrefixes...) {
				meta.Set(key, value)
			}
		}
		if etag := strings.ToLower(footers.Get("Etag")); etag != "" {
			sent = etag
		}
	}
	if sent = bare(sent); sent != "" && sent != etag {
		return nil, answer(422)
	}
	commit := !r.Header.True("X-Backend-No-Commit")
	if err := r.publish(w, meta, commit && (docs == nil || !docs.commit)); err != nil {
		return nil, s.unwritable(r, p.device, err)
	}
	if docs != nil && docs.commit {
		if err := docs.awaitCommit(); err != nil {
			return nil, err
		}
		if commit {
			if err := w.Commit(); err != nil {
				return nil, s.unwritable(r, p.device, err)
			}
		}
	}
	if err := s.updateAfterPut(r, p, now, is, meta, footers); err != nil {
		return nil, err
	}
	return answer(201).with("Etag", `"`+etag+`"`), nil
}

// receive writes what is read of an object's bytes and gives their MD5. Swift: obj/server.py, _stage_obj_data.
func (s *Server) receive(body io.Reader, p *place, w *diskfile.Writer, size int64, r *Request) (etag string, err error) {
	memory := takePiece(size)
	defer memory.giveBack()
	piece := *memory
	sum := digest.New(size)
	defer sum.Close()
	end := s.now().Add(s.conf.MaxUploadTime)
	writing := time.Duration(0)
	for {
		n, err := body.Read(piece)
		if n > 0 {
			start := s.now()
			if start.After(end) {
				s.statsd.Increment("PUT.timeouts")
				return "", answer(408)
			}
			if err := sum.Begin(piece[:n]); err != nil { // beside the writing
				return "", err
			}
			if _, err := w.Write(piece[:n]); err != nil {
				return "", s.unwritable(r, p.device, err)
			}
			sum.Wait()
			writing += s.now().Sub(start)
		}
		switch {
		case err == nil:
		case err == io.EOF && (size < 0 || size == w.Size()):
			s.statsd.Transfer("PUT."+p.device+".timing", writing, w.Size())
			return sum.Sum(), nil
		default:
			return "", cutShort(err)
		}
	}
}

// cutShort is the answer to one whose body could not be read to its end.
func cutShort(err error) error {
	if err != io.EOF && netfast.IsTimeout(err) {
		return answer(408)
	}
	return answer(499)
}

// newMetadata is what is kept with an object, in the order in which Swift keeps it.
// Swift: obj/server.py, _get_request_metadata.
func (s *Server) newMetadata(r *Request, at timestamp.Timestamp, size int64, etag string) *diskfile.Metadata {
	meta := &diskfile.Metadata{}
	meta.Set("X-Timestamp", at.Internal())
	meta.Set("Content-Type", diskfile.Stored(r.Header.Get("Content-Type")))
	meta.Set("Content-Length", strconv.FormatInt(size, 10))
	meta.Set("ETag", etag)
	s.copyHeaders(r, meta, keptPrefixes...)
	return meta
}

// keptPrefixes begin the names of what a PUT brings to be kept with the object.
var keptPrefixes = []string{"x-object-meta-", "x-object-sysmeta-", "x-object-transient-sysmeta-"}

// copyHeaders keeps the fields that begin so, those that a daemon wants to have kept, and
// those that the conf allows.
func (s *Server) copyHeaders(r *Request, meta *diskfile.Metadata, prefixes ...string) {
	for key, value := range r.Header.All() {
		if hasPrefix(key, prefixes...) {
			meta.Set(diskfile.Stored(key), diskfile.Stored(value))
		}
	}
	names := append(strings.Fields(r.Header.Get("X-Backend-Replication-Headers")), slices.Sorted(maps.Keys(s.conf.AllowedHeaders))...)
	for _, name := range names {
		if value, ok := r.Header.Lookup(name); ok {
			meta.Set(diskfile.Stored(title(name)), diskfile.Stored(value))
		}
	}
}

// hasPrefix tells whether a name begins so, in any case, and goes on.
func hasPrefix(key string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if len(key) > len(prefix) && strings.EqualFold(key[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}

// updateAfterPut tells the expirer's queue and the container.
// Swift: obj/server.py, _post_commit_updates.
func (s *Server) updateAfterPut(r *Request, p *place, at timestamp.Timestamp, was *present, meta *diskfile.Metadata, footers Header) error {
	if err := s.updateExpirer(r, p, at, was.meta["X-Delete-At"], r.Header.Get("X-Delete-At")); err != nil {
		return err
	}
	row := Header{}
	for _, key := range [][2]string{{"X-Size", "Content-Length"}, {"X-Content-Type", "Content-Type"}, {"X-Timestamp", "X-Timestamp"}, {"X-Etag", "ETag"}} {
		value, _ := meta.Get(key[1])
		row.Set(key[0], diskfile.Wire(value))
	}
	overrideRow(&row, func(yield func(string, string) bool) {
		for key, value := range r.Header.All() {
			if !yield(key, value) {
				return
			}
		}
		for key, value := range footers.All() {
			if !yield(key, diskfile.Wire(value)) {
				return
			}
		}
	})
	return s.updateContainer(r, p, "PUT", row)
}
