package rescue

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"

	"imping/codec"
)

// Report is what one file says of itself and what is wrong with it.
type Report struct {
	Path      string            `json:"path"`
	Size      int64             `json:"bytes"`
	MD5       string            `json:"md5,omitempty"` // of the file, if all of it could be read
	Index     int               `json:"fragment_index"`
	Scheme    string            `json:"scheme,omitempty"` // as metadata or the caller says
	Object    int64             `json:"object_bytes"`     // -1 when it can not be told
	Segment   int               `json:"segment_bytes"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Fragments []Fragment        `json:"fragments"`
	Problems  []string          `json:"problems"`
}

// Fragment is a fragment's header, and where it is.
type Fragment struct {
	Segment int64           `json:"segment"`
	Offset  int64           `json:"offset"`
	Bytes   int             `json:"bytes"` // of the file, header included; fewer than the header says at a file's end
	Header  *FragmentFields `json:"header,omitempty"`
	Error   string          `json:"error,omitempty"` // why there is none
}

// FragmentFields are the fields of a header.
type FragmentFields struct {
	Index          int    `json:"index"`
	Payload        uint32 `json:"payload_bytes"`
	Segment        uint32 `json:"segment_bytes"`
	ChecksumType   byte   `json:"checksum_type"`
	Checksum       string `json:"checksum,omitempty"`
	Backend        byte   `json:"backend"`
	BackendVersion string `json:"backend_version"`
	LibecVersion   string `json:"libec_version"`
	HeaderCRC      string `json:"header_crc"` // its flavour
}

func version(v uint32) string { return fmt.Sprintf("%d.%d.%d", v>>16, v>>8&0xff, v&0xff) }

func fields(h codec.Header) *FragmentFields {
	f := &FragmentFields{
		Index: h.Index, Payload: h.Size, Segment: h.OrigDataSize, ChecksumType: h.ChecksumType,
		Backend: h.BackendID, BackendVersion: version(h.BackendVersion), LibecVersion: version(h.LibecVersion), HeaderCRC: h.CRC.String(),
	}
	if h.ChecksumType != codec.ChecksumNone {
		f.Checksum = fmt.Sprintf("%08x", h.Checksum)
	}
	return f
}

// Inspect reads a file whole. Without a scheme, from metadata or options, headers are only compared with each other. What is wrong with
// the file is in the report; the error is that of ctx, or of options that make no scheme.
func Inspect(ctx context.Context, path string, o Options) (*Report, error) {
	a := openArchive(path)
	j := &job{o: o, given: []*archive{a}}
	defer j.close()
	r := &Report{Path: path, Index: -1, Object: -1, Fragments: []Fragment{}}
	finish := func(err error) (*Report, error) {
		r.Index = a.index
		if r.Problems = a.reasons; r.Problems == nil {
			r.Problems = []string{}
		}
		if a.meta != nil {
			r.Metadata = a.meta.all
		}
		return r, err
	}
	if a.file != nil {
		r.Size = a.stat.Size()
	}
	if a.dropped {
		return finish(nil)
	}
	stride := int64(0)
	switch {
	case a.meta != nil || o.Scheme != (codec.Scheme{}) && a.shape != (shape{}):
		if err := j.settle(); err != nil {
			if a.meta == nil {
				return finish(err)
			}
			a.problem("%v", err)
			return finish(nil)
		}
		if a.dropped {
			return finish(nil)
		}
		r.Scheme, r.Object, r.Segment = j.code.Scheme().String(), j.size, j.segment
		if err := j.read(ctx, a); err != nil {
			return finish(err)
		}
		stride = int64(j.code.FragmentSize(j.segment))
	default:
		if a.shape != (shape{}) {
			r.Object, r.Segment = a.shape.size, a.shape.segment
		}
		if a.head != nil {
			stride = codec.HeaderSize + int64(a.head.Size)
		}
		if err := j.readBare(ctx, a, stride); err != nil {
			return finish(err)
		}
	}
	r.MD5 = a.sum
	if stride == 0 && r.Size > 0 {
		stride = r.Size
	}
	for at := int64(0); at < r.Size; at += stride {
		f := Fragment{Segment: at / stride, Offset: at, Bytes: int(min(stride, r.Size-at))}
		if h, err := a.header(at); err != nil {
			f.Error = bare(err)
		} else {
			f.Header = fields(h)
		}
		r.Fragments = append(r.Fragments, f)
	}
	return finish(nil)
}

// readBare reads a file of which no scheme is known, in fragments of the first one's length.
func (j *job) readBare(ctx context.Context, a *archive, length int64) error {
	size := a.stat.Size()
	j.o.Progress.expect(size)
	if a.head == nil {
		_, err := a.header(0)
		a.problem("segment 0: %s", bare(err))
		j.o.Progress.done(size)
		return nil
	}
	sum, whole := md5.New(), true
	buf := make([]byte, min(length, size))
	for at := int64(0); at < size; at += length {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		b := buf[:min(length, size-at)]
		n, err := a.file.ReadAt(b, at)
		j.o.Progress.done(int64(len(b)))
		seg := at / length
		if err != nil && err != io.EOF || n < len(b) {
			whole = false
			a.spoil(seg, bare(err))
			continue
		}
		sum.Write(b)
		h, err := codec.ParseHeader(b)
		last := at+length >= size
		switch {
		case err != nil && last && len(b) < codec.HeaderSize:
			a.problem("truncated: %d bytes of a fragment at its end", len(b))
		case err != nil:
			a.spoil(seg, err.Error())
		case last && int64(len(b)) < codec.HeaderSize+int64(h.Size):
			a.problem("truncated: %d bytes of a fragment of %d at its end", len(b), codec.HeaderSize+int64(h.Size))
		case h.Index != a.head.Index:
			a.spoil(seg, fmt.Sprintf("fragment header: index %d, the first has %d", h.Index, a.head.Index))
		case h.BackendID != a.head.BackendID:
			a.spoil(seg, fmt.Sprintf("fragment header: backend %d, the first has %d", h.BackendID, a.head.BackendID))
		case h.OrigDataSize > a.head.OrigDataSize || !last && h.OrigDataSize != a.head.OrigDataSize:
			a.spoil(seg, fmt.Sprintf("fragment header: segment of %d bytes, the first has %d", h.OrigDataSize, a.head.OrigDataSize))
		default:
			if err := h.CheckPayload(b[codec.HeaderSize:]); err != nil {
				a.spoil(seg, err.Error())
			}
		}
	}
	if a.faults > 0 {
		a.problem("%d more segments are bad", a.faults)
	}
	if whole {
		a.sum = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}
