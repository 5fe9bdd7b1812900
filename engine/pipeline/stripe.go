package pipeline

import (
	"context"
	"fmt"
	"sync/atomic"

	"imping/codec"
	"imping/io/slab"
)

// headGap is what precedes each slot so that the payload behind its 80-byte header is on a 64-byte boundary: kernels lose a tenth and more on
// payloads that are 16 off. It also keeps the slots of a power-of-two payload from sharing cache sets.
const headGap = (slab.Align - codec.HeaderSize%slab.Align) % slab.Align

// stride is the distance of two slots of a stripe.
func stride(payload int) int {
	return (headGap + codec.HeaderSize + payload + slab.Align - 1) / slab.Align * slab.Align
}

// StripeSize returns the bytes that one stripe takes from an account, for objects of one segment or more and so many slots beside K, one per
// want and spare source: a job that moves one object at a time reserves two of them.
func StripeSize(code *codec.Code, segment int, slots int) int64 {
	return int64(slab.Round((code.K() + slots) * stride(code.PayloadSize(segment))))
}

// PrefetchSize returns the spare bytes that Run takes at most for an object with Spec.Spare set.
func PrefetchSize(code *codec.Code, segment int, size int64, slots int) int64 {
	segments := (size + int64(segment) - 1) / int64(segment)
	return min(segments, defaultStripes) * StripeSize(code, int(min(int64(segment), size)), slots)
}

// stripe is the room for one segment: a slot per source and one per fragment that is decoded. A slot is header and payload.
type stripe struct {
	slab    *slab.Slab
	in, out [][]byte     // slots of a full segment
	from    []*input     // what each of in was read from
	payIn   [][]byte     // payloads, cut to the segment that is in the stripe: those that the plan uses, in its order
	payOut  [][]byte     // likewise
	pending atomic.Int32 // sources that have not yet filled their slot
	seg     content
}

// content is what is in a stripe.
type content struct {
	no      int64
	bytes   int // of the object
	payload int // of each of its fragments

	plan   *codec.Plan  // nil: the only fragment is what is wanted
	common codec.Stripe // as rebuilt headers get it
}

// newStripes takes n stripes at most, at least one, for in sources and the inputs and outputs of a plan, if there is one.
func newStripes(ctx context.Context, acct *slab.Account, spec *Spec, n, in int, plan *codec.Plan) ([]*stripe, error) {
	payload := spec.Code.PayloadSize(spec.segmentBytes(0))
	out := 0
	if plan != nil {
		out = len(plan.Out())
	}
	step := stride(payload)
	size := (in + out) * step
	var all []*stripe
	for len(all) < n {
		var s *slab.Slab
		var ok bool
		var err error
		switch {
		case spec.Spare:
			if s, ok = acct.Spare(size); !ok {
				release(all)
				return nil, ErrNoSpare
			}
		case len(all) == 0:
			s, err = acct.Head(ctx, size)
		default: // with fewer stripes there is less overlap, but never a deadlock of two runs on one account
			if s, ok = acct.TryHead(size); !ok {
				return all, nil
			}
		}
		if err != nil {
			release(all)
			return nil, fmt.Errorf("cannot take stripe %d of %d: %w", len(all)+1, n, err)
		}
		st := &stripe{slab: s, from: make([]*input, in)}
		slots := make([][]byte, in+out+in+out)
		st.in, slots = slots[:in:in], slots[in:]
		st.out, slots = slots[:out:out], slots[out:]
		st.payIn, st.payOut = slots[:0:in], slots[in:]
		b := s.Bytes()
		for i := range st.in {
			st.in[i] = b[i*step+headGap:][: codec.HeaderSize+payload : step-headGap]
		}
		for i := range st.out {
			st.out[i] = b[(in+i)*step+headGap:][: codec.HeaderSize+payload : step-headGap]
		}
		st.pending.Store(int32(in))
		all = append(all, st)
	}
	return all, nil
}

func release(stripes []*stripe) {
	for _, s := range stripes {
		s.slab.Release()
	}
}

// slot returns the slot of a source, as long as a fragment of so many bytes of payload.
func (s *stripe) slot(i, payload int) []byte { return s.in[i][:codec.HeaderSize+payload] }

// cut gives slots and payloads the length of the segment that has been read, and makes the stripe ready to be filled once more. used says
// which slots the plan uses.
func (s *stripe) cut(seg content, used []int) {
	s.seg = seg
	for i := range s.in {
		s.in[i] = s.slot(i, seg.payload)
	}
	s.payIn = s.payIn[:0]
	for _, slot := range used {
		s.payIn = append(s.payIn, s.in[slot][codec.HeaderSize:])
	}
	for i := range s.out {
		s.out[i] = s.out[i][:codec.HeaderSize+seg.payload]
		s.payOut[i] = s.out[i][codec.HeaderSize:]
	}
	s.pending.Store(int32(len(s.in)))
}
