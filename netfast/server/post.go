package server

import (
	"errors"
	"iter"
	"maps"
	"regexp"
	"slices"

	"imping/io/diskfile"
	"imping/swift/timestamp"
)

// post replaces a user's metadata, and the content type. Swift: obj/server.py, POST.
func (s *Server) post(r *Request) (*Response, error) {
	p, err := s.object(r)
	if err != nil {
		return nil, err
	}
	now, err := r.timestamp()
	if err != nil {
		return nil, err
	}
	deleteAt, ok := wholeSeconds(r.Header.Get("X-Delete-At"))
	if !ok && r.Header.Get("X-Delete-At") != "" {
		return nil, badRequest("Non-integer X-Delete-At")
	}
	if deleteAt != 0 && float64(deleteAt) < now.Seconds() {
		return nil, badRequest("X-Delete-At in past")
	}
	where, err := p.location(r, -1)
	if err != nil {
		return nil, err
	}
	is, err := s.present(r, p, diskfile.View{FragIndex: -1, Expired: r.replication(), Now: now})
	if err != nil {
		return nil, err
	}
	if is.object == nil {
		return nil, answer(404)
	}
	newest := is.object.Newest()
	typeAt, err := contentTypeTime(is)
	if err != nil {
		return nil, err
	}
	newTypeAt := timestamp.Timestamp{}
	newType := r.Header.Get("Content-Type")
	if newType != "" {
		newTypeAt = now
		if value, ok := r.Header.Lookup("Content-Type-Timestamp"); ok {
			if newTypeAt, err = timestamp.Parse(value); err != nil {
				return nil, badRequest("Invalid Content-Type-Timestamp header")
			}
		}
	}
	if !newest.Before(now) && !typeAt.Before(newTypeAt) {
		return nil, answer(409).with("X-Backend-Timestamp", newest.Internal())
	}

	meta := &diskfile.Metadata{}
	if now.After(newest) {
		meta.Set("X-Timestamp", now.Internal())
		s.copyHeaders(r, meta, "x-object-meta-", "x-object-transient-sysmeta-")
		if err := s.updateExpirer(r, p, now, is.meta["X-Delete-At"], r.Header.Get("X-Delete-At")); err != nil {
			return nil, err
		}
	} else {
		// Only the content type is new.
		if is.object.FileMeta == nil {
			return nil, errors.New("a content type newer than the data came with a timestamp that is not")
		}
		for _, key := range slices.Sorted(maps.Keys(is.object.FileMeta)) {
			meta.Set(key, is.object.FileMeta[key])
		}
	}
	contentType := is.meta["Content-Type"]
	isNew := newTypeAt.After(typeAt)
	if isNew {
		contentType, typeAt = diskfile.Stored(newType), newTypeAt
	}
	ofData := typeAt == is.object.Data
	if isNew || !ofData {
		meta.Set("Content-Type", contentType)
		meta.Set("Content-Type-Timestamp", typeAt.Internal())
	}
	if err := p.WriteMeta(where, meta); err != nil {
		return nil, s.unwritable(r, p.device, err)
	}

	contentType = diskfile.Wire(contentType)
	if !ofData {
		// What a middleware noted with the data's goes on to the container.
		if bytes, ok := swiftBytes(diskfile.Wire(is.object.DataMeta["Content-Type"])); ok {
			contentType += ";swift_bytes=" + bytes
		}
	}
	if err := s.updateAfterPost(r, p, is, meta, contentType, typeAt); err != nil {
		return nil, err
	}
	resp := answer(202).with("X-Backend-Content-Type", contentType)
	for key, value := range sortedWire(is.meta) {
		if hasPrefix(key, "x-object-sysmeta-") {
			resp.with(title(key), value)
		}
	}
	return resp, nil
}

// contentTypeTime is the time of an object's content type.
// Swift: BaseDiskFile.content_type_timestamp.
func contentTypeTime(is *present) (timestamp.Timestamp, error) {
	if value, ok := is.meta["Content-Type-Timestamp"]; ok {
		return timestamp.Parse(value)
	}
	return is.object.Data, nil
}

// updateAfterPost tells the container.
func (s *Server) updateAfterPost(r *Request, p *place, was *present, meta *diskfile.Metadata, contentType string, typeAt timestamp.Timestamp) error {
	row := Header{}
	row.Set("X-Size", diskfile.Wire(was.meta["Content-Length"]))
	row.Set("X-Content-Type", contentType)
	row.Set("X-Timestamp", was.object.Data.Internal())
	row.Set("X-Content-Type-Timestamp", typeAt.Internal())
	at, _ := meta.Get("X-Timestamp")
	row.Set("X-Meta-Timestamp", at)
	row.Set("X-Etag", diskfile.Wire(was.meta["ETag"]))
	// The row of an erasure-coded object is about the object, not about this archive.
	if etag, ok := was.meta["X-Object-Sysmeta-Ec-Etag"]; ok {
		row.Set("X-Etag", diskfile.Wire(etag))
	}
	if size, ok := was.meta["X-Object-Sysmeta-Ec-Content-Length"]; ok {
		row.Set("X-Size", diskfile.Wire(size))
	}
	overrideRow(&row, sortedWire(was.meta))
	return s.updateContainer(r, p, "PUT", row)
}

// sortedWire gives metadata as clients sent it.
func sortedWire(meta map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, key := range slices.Sorted(maps.Keys(meta)) {
			if !yield(diskfile.Wire(key), diskfile.Wire(meta[key])) {
				return
			}
		}
	}
}

// parameter matches a parameter of a content type.
// Swift: common/utils.py, _rfc_extension_pattern.
var parameter = regexp.MustCompile(`\s*;\s*([^()<>@,;:\\"/\[\]?={}\x00-\x20\x7f]+)\s*(?:=\s*([^()<>@,;:\\"/\[\]?={}\x00-\x20\x7f]+|"(?:[^"\\]|\\.)*"))?`)

// swiftBytes is the parameter swift_bytes of a content type.
// Swift: common/utils.py, extract_swift_bytes.
func swiftBytes(contentType string) (value string, ok bool) {
	for _, m := range parameter.FindAllStringSubmatch(contentType, -1) {
		if m[1] == "swift_bytes" {
			value, ok = m[2], true
		}
	}
	return value, ok && value != ""
}
