package pipeline

import (
	"errors"
	"fmt"
	"strings"

	"imping/codec"
	"imping/io/digest"
)

// check proves a full stripe: each fragment's header says that it is what the source stands for, and, with the last stripe, each archive's
// MD5 is its ETag (rule 5). The error joins a *SourceError per liar.
func (r *run) check(no int64) error {
	s := r.stripe(no)
	bytes := r.spec.segmentBytes(no)
	s.cut(content{no: no, bytes: bytes, payload: r.spec.Code.PayloadSize(bytes)}, r.used)
	if err := r.checkHeaders(s); err != nil {
		return err
	}
	if !r.spec.VerifyMD5 {
		return nil
	}
	if err := digest.WriteAll(r.md5, s.in); err != nil {
		return fmt.Errorf("cannot hash segment %d: %w", no, err)
	}
	if no < r.nseg-1 {
		return nil
	}
	var liars []error
	for i, in := range r.inputs {
		if sum := r.md5[i].Sum(); !strings.EqualFold(sum, in.ETag()) {
			liars = append(liars, &SourceError{Source: in.Source, Segment: -1, Corrupt: true, Err: fmt.Errorf("MD5 is %s, ETag says %s", sum, in.ETag())})
		}
	}
	return errors.Join(liars...)
}

// checkHeaders compares the headers of a stripe with what they must be and with each other, and keeps for the rebuilt ones the
// backend version of all and the lowest library version (rule 8).
func (r *run) checkHeaders(s *stripe) error {
	var liars []error
	lies := func(in *input, err error) {
		liars = append(liars, &SourceError{Source: in.Source, Segment: s.seg.no, Corrupt: true, Err: err})
	}
	for i, in := range r.inputs {
		var err error
		if in.header, err = codec.ParseHeader(s.in[i]); err == nil {
			err = r.checkHeader(&in.header, in.index, s, s.in[i][codec.HeaderSize:])
		}
		if err != nil {
			lies(in, err)
		}
	}
	if liars != nil {
		return errors.Join(liars...)
	}
	version := r.backendVersion()
	libec := r.inputs[0].header.LibecVersion
	for _, in := range r.inputs {
		if v := in.header.BackendVersion; v != version {
			lies(in, fmt.Errorf("fragment header: backend version %06x, that of the other sources is %06x", v, version))
		}
		libec = min(libec, in.header.LibecVersion)
	}
	s.seg.backendVersion, s.seg.libecVersion = version, libec
	return errors.Join(liars...)
}

func (r *run) checkHeader(h *codec.Header, index int, s *stripe, payload []byte) error {
	want := r.spec.Code.Header(index, s.seg.bytes)
	switch {
	case h.Index != want.Index:
		return fmt.Errorf("fragment header: index %d, want %d", h.Index, want.Index)
	case h.OrigDataSize != want.OrigDataSize:
		return fmt.Errorf("fragment header: segment of %d bytes, want %d", h.OrigDataSize, want.OrigDataSize)
	case h.Size != want.Size:
		return fmt.Errorf("fragment header: payload of %d bytes, want %d", h.Size, want.Size)
	case h.BackendMetadata != want.BackendMetadata:
		return fmt.Errorf("fragment header: backend metadata of %d bytes, want %d", h.BackendMetadata, want.BackendMetadata)
	case h.BackendID != want.BackendID:
		return fmt.Errorf("fragment header: backend %d, but %v is %d", h.BackendID, r.spec.Code.Scheme(), want.BackendID)
	}
	return h.CheckPayload(payload)
}

// backendVersion returns the version that most headers have; of several, the code's own, else the one met first.
func (r *run) backendVersion() uint32 {
	own := r.spec.Code.Header(0, 1).BackendVersion
	best, most := uint32(0), 0
	for i, in := range r.inputs {
		v := in.header.BackendVersion
		n := 0
		for _, other := range r.inputs {
			if other.header.BackendVersion == v {
				n++
			}
		}
		if i == 0 && n == len(r.inputs) {
			return v
		}
		if n > most || n == most && v == own {
			best, most = v, n
		}
	}
	return best
}
