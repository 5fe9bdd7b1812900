package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"imping/codec"
)

// DefaultLibec is the version of liberasurecode, 1.6.2, that encoded fragments name unless told otherwise: Debian 12's.
const DefaultLibec = 0x010602

// EncodeOptions say what archives Encode makes.
type EncodeOptions struct {
	Scheme   codec.Scheme
	Segment  int       // 0: DefaultSegment
	Libec    uint32    // 0: DefaultLibec
	CRC      codec.CRC // of headers
	Progress *Progress // may be nil
}

// Encode writes all archives of an object, as Swift's proxy would, as DIR/frag-N: all of them, or none.
func Encode(ctx context.Context, path, dir string, o EncodeOptions) ([]string, error) {
	code, err := codec.New(o.Scheme)
	if err != nil {
		return nil, err
	}
	if o.Segment == 0 {
		o.Segment = DefaultSegment
	}
	if o.Segment < 1 || o.Segment > math.MaxInt32 {
		return nil, fmt.Errorf("segments of %d bytes: liberasurecode takes 1 to %d", o.Segment, math.MaxInt32)
	}
	if o.Libec == 0 {
		o.Libec = DefaultLibec
	}
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	o.Progress.expect(st.Size())
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	var sinks []*File
	defer func() {
		for _, s := range sinks {
			s.Abort()
		}
	}()
	var written []string
	for i := range code.N() {
		to := archiveName(dir, i)
		if old, err := os.Stat(to); err == nil && os.SameFile(old, st) {
			return nil, fmt.Errorf("%s: the file to be encoded is not replaced: choose another place", to)
		}
		s, err := Create(to)
		if err != nil {
			return nil, err
		}
		sinks, written = append(sinks, s), append(written, to)
	}
	most := int(min(int64(o.Segment), st.Size()))
	segment := make([]byte, most)
	fragments, payloads := make([][]byte, code.N()), make([][]byte, code.N())
	for i := range fragments {
		fragments[i] = make([]byte, code.FragmentSize(most))
	}
	for left := st.Size(); left > 0; {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		n := int(min(left, int64(most)))
		if _, err := io.ReadFull(in, segment[:n]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("it became shorter while it was read")
			}
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		size := code.FragmentSize(n)
		for i, f := range fragments {
			payloads[i] = f[codec.HeaderSize:size]
		}
		code.Encode(segment[:n], payloads)
		for i, f := range fragments {
			h := code.Header(i, n)
			h.LibecVersion = o.Libec
			h.Put(f, o.CRC)
			if _, err := sinks[i].Write(f[:size]); err != nil {
				return nil, err
			}
		}
		left -= int64(n)
		o.Progress.done(int64(n))
	}
	return written, Publish(sinks...)
}
