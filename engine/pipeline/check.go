package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"imping/codec"
	"imping/io/digest"
)

// check proves a full stripe: each fragment's header says that it is what the source stands for; with Parity all agree with each other; and, with
// the last stripe, each archive's MD5 is its ETag (rule 5). The error joins a *SourceError per liar.
func (r *run) check(no int64) error {
	s := r.stripe(no)
	begin := time.Now()
	defer func() { r.result.Times.Verify.Busy += time.Since(begin) }()
	if !slices.Equal(s.from, r.planned) { // a source was replaced
		if err := r.makePlan(s.from); err != nil {
			return fmt.Errorf("segment %d can not be made from fragments %v: %w", no, r.indexes, err)
		}
	}
	bytes := r.spec.segmentBytes(no)
	s.cut(content{no: no, bytes: bytes, payload: r.spec.Code.PayloadSize(bytes), plan: r.plan}, r.used)
	if err := r.checkHeaders(s); err != nil {
		return err
	}
	if r.spec.Parity {
		if err := r.compare(s); err != nil {
			return err
		}
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
	for i, in := range s.from {
		sum := r.md5[i].Sum()
		if strings.EqualFold(sum, in.ETag()) {
			continue
		}
		for ; in != nil; in = in.before { // whose part is wrong nobody knows
			liars = append(liars, &SourceError{Source: in.Source, Segment: -1, Corrupt: true, Err: fmt.Errorf("MD5 is %s, ETag says %s", sum, in.ETag())})
		}
	}
	if len(liars) == 0 {
		return r.doubt
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
		liars = append(liars, &SourceError{Source: s.from[f.Fragment].Source, Segment: s.seg.no, Corrupt: true, Err: f.Err})
	}
	return errors.Join(liars...)
}

// compare proves the payloads of a stripe by each other. One that contradicts the others is named where there are enough to tell; else, with VerifyMD5,
// that is left to the end.
func (r *run) compare(s *stripe) error {
	clear(r.payloads)
	for i, index := range r.indexes {
		r.payloads[index] = s.in[i][codec.HeaderSize:]
	}
	v, err := r.spec.Code.Verify(r.payloads)
	switch {
	case errors.Is(err, codec.ErrNoSpare) && r.spec.VerifyMD5, err == nil && v.Consistent:
		return nil
	case err != nil:
		return err
	case v.Liars == (codec.Set{}):
		err := &Inconsistent{Segment: s.seg.no}
		if !r.spec.VerifyMD5 {
			return err
		}
		if r.doubt == nil {
			r.doubt = err
		}
		return nil
	}
	var liars []error
	for i, index := range r.indexes {
		if v.Liars.Has(index) {
			liars = append(liars, &SourceError{Source: s.from[i].Source, Segment: s.seg.no, Corrupt: true, Err: errors.New("it contradicts the others")})
		}
	}
	return errors.Join(liars...)
}
