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

// checkHeaders compares the headers of a stripe with what they must be and with each other, and keeps what they have in common for the
// rebuilt ones.
func (r *run) checkHeaders(s *stripe) error {
	var faults []codec.Fault
	s.seg.common, faults = r.spec.Code.CheckStripe(s.in, r.indexes, s.seg.bytes, r.headers)
	var liars []error
	for _, f := range faults {
		liars = append(liars, &SourceError{Source: r.inputs[f.Fragment].Source, Segment: s.seg.no, Corrupt: true, Err: f.Err})
	}
	return errors.Join(liars...)
}
