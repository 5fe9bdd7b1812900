package rescue

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"

	"imping/codec"
	"imping/io/slab"
)

// outcome is what one try says of what it wrote.
type outcome struct {
	hashed  bool   // the object was decoded, in every segment
	sum     string // then its MD5
	agreed  bool   // every segment agrees with a fragment that was not needed
	doubtAt int64  // else the first that does not, or of which nothing is known
	contra  bool   // it does not
}

// maxTries bounds how many sets of archives are left out, one after the other, until the object is the one that its ETag names: each
// try reads the object's archives once. All pairs of eleven are among so many.
const maxTries = 66

// prove fills the sinks until what is in them is proved. Without Unverified, what can not be proved is an error.
func (j *job) prove(ctx context.Context) error {
	if err := j.room(ctx); err != nil {
		return err
	}
	j.proof = Unproved
	proved := func() bool {
		switch {
		case j.etag != "" && j.last.hashed:
			if j.last.sum == j.etag {
				j.proof = ProvedByETag
			}
		case j.last.agreed:
			j.proof = ProvedBySpare
		}
		return j.proof != Unproved
	}
	if j.etag != "" {
		// The least that has to be read; what was found damaged is not used.
		if err := j.try(ctx, false, nil); err != nil || proved() {
			return err
		}
	}
	// All that is there is compared.
	if err := j.try(ctx, true, nil); err != nil || proved() {
		return err
	}
	first := j.last
	if j.etag != "" && first.hashed {
		found, err := j.leaveOut(ctx, proved)
		if err != nil || found {
			return err
		}
		if j.o.Unverified {
			if err := j.try(ctx, true, nil); err != nil {
				return err
			}
		}
	}
	switch {
	case first.contra:
		j.doubt = fmt.Sprintf("the archives contradict each other in segment %d, and too few are to spare to tell which of them is wrong", first.doubtAt)
	case j.etag != "" && first.hashed:
		j.doubt = fmt.Sprintf("the object's MD5 is %s, but metadata says %s", first.sum, j.etag)
	case j.etag != "":
		j.doubt = "the object can not be decoded and compared with its ETag, and no archive is to spare that the others could be compared with"
	default:
		j.doubt = "no metadata says the object's MD5, and no archive is to spare that the others could be compared with"
	}
	if !j.o.Unverified {
		return fmt.Errorf("not proved: %s (--unverified writes it nevertheless)", j.doubt)
	}
	return nil
}

// leaveOut tries without one archive, then without two, until the object is right.
func (j *job) leaveOut(ctx context.Context, proved func() bool) (bool, error) {
	tries := 0
	var next func(from, n int, without map[*archive]bool) (bool, error)
	next = func(from, n int, without map[*archive]bool) (bool, error) {
		if n == 0 {
			if tries++; tries > maxTries {
				return false, nil
			}
			err := j.try(ctx, false, without)
			if _, few := errors.AsType[*shortError](err); few {
				return false, nil
			}
			if err != nil || !proved() {
				return false, err
			}
			for _, a := range j.archives {
				if without[a] {
					a.problem("its content is damaged: without it the object is right")
				}
			}
			return true, nil
		}
		for i := from; i <= len(j.archives)-n && tries <= maxTries; i++ {
			a := j.archives[i]
			if j.want.Has(a.index) {
				continue
			}
			without[a] = true
			if found, err := next(i+1, n-1, without); found || err != nil {
				return found, err
			}
			delete(without, a)
		}
		return false, nil
	}
	for n := 1; n < len(j.archives) && tries <= maxTries; n++ {
		if found, err := next(0, n, map[*archive]bool{}); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// slotHead is where a fragment begins in its slot, so that its payload does at a multiple of slab.Align.
const slotHead = 2*slab.Align - codec.HeaderSize

// room takes the memory for one segment: a slot for each fragment.
func (j *job) room(ctx context.Context) error {
	payload := j.code.PayloadSize(j.segment)
	slot := 2*slab.Align + (payload+slab.Align-1)/slab.Align*slab.Align
	size := int64(slab.Round(slot * j.code.N()))
	var err error
	if j.account, err = slab.New(size).Open(ctx, size); err != nil {
		return err
	}
	if j.slab, err = j.account.Head(ctx, slot*j.code.N()); err != nil {
		return err
	}
	for i := range j.code.N() {
		j.slots = append(j.slots, j.slab.Bytes()[i*slot+slotHead:][:codec.HeaderSize+payload])
	}
	return nil
}

// recipe is how a segment is made from the fragments at hand.
type recipe struct {
	plans []*codec.Plan // one after the other
	reads codec.Set
	whole bool // all data is there then, else only what is wanted
	err   error
}

func (r *recipe) add(plan func(have, want codec.Set) (*codec.Plan, error), have, want codec.Set) {
	if r.err != nil || want == (codec.Set{}) {
		return
	}
	var p *codec.Plan
	if p, r.err = plan(have, want); r.err == nil {
		r.plans = append(r.plans, p)
		r.reads = r.reads.Or(codec.SetOf(p.In()...))
	}
}

// recipeOf is asked of the same set for segment after segment.
func (j *job) recipeOf(have codec.Set) recipe {
	if j.have == have && (j.recipe.reads != (codec.Set{}) || j.recipe.err != nil) {
		return j.recipe
	}
	var data codec.Set
	for i := range j.code.K() {
		data = data.With(i)
	}
	r := recipe{whole: true, reads: data.Minus(data.Minus(have))}
	r.add(j.code.Plan, have, data.Minus(have))
	// What is wanted is made of the data, so that it is right when the object is: from a parity fragment that the object was not made of, it
	// might not be.
	r.add(j.code.Plan, data, j.want.Minus(data))
	if _, few := errors.AsType[*codec.Insufficient](r.err); few && j.want != (codec.Set{}) {
		r = recipe{}
		r.add(j.code.Plan, have, j.want)
	}
	r.reads = r.reads.Minus(r.reads.Minus(have))
	j.have, j.recipe = have, r
	return r
}

// shortError tells that a segment has too few good fragments.
type shortError struct {
	segment int64
	scheme  codec.Scheme
	have    codec.Set
	helpful codec.Set // any one of these would be enough
}

func (e *shortError) Error() string {
	text := fmt.Sprintf("too few good fragments of segment %d: %v of %v", e.segment, e.have, e.scheme)
	if e.helpful != (codec.Set{}) {
		text += fmt.Sprintf("; one more of %v would be enough", e.helpful)
	}
	return text
}

// short is the error when these are too few. (What codec.Insufficient calls helpful leaves out what is to be made, which would help as well.)
func (j *job) short(seg int64, have codec.Set) error {
	e := &shortError{segment: seg, scheme: j.code.Scheme(), have: have}
	for i := range j.code.N() {
		if !have.Has(i) && !j.want.Has(i) && j.suffices(j.code, have.With(i)) {
			e.helpful = e.helpful.With(i)
		}
	}
	return e
}

// holders are the fragments of a segment that may be used: those of good archives, or also the good ones of others.
func (j *job) holders(seg int64, second bool, without map[*archive]bool) (codec.Set, []*archive) {
	var have codec.Set
	by := make([]*archive, j.code.N())
	at, segment := j.place(seg)
	end := at + int64(j.code.FragmentSize(segment))
	for _, tier := range []bool{false, true} {
		if tier && !second {
			break
		}
		for _, a := range j.archives {
			if a.second == tier && by[a.index] == nil && !a.bad[seg] && a.stat.Size() >= end && !without[a] && !j.want.Has(a.index) {
				by[a.index] = a
				have = have.With(a.index)
			}
		}
	}
	return have, by
}

// try fills the sinks once. With compare, all good fragments are read and compared with each other, and those that prove wrong are left out.
func (j *job) try(ctx context.Context, compare bool, without map[*archive]bool) error {
	for _, s := range j.sinks {
		if err := s.restart(); err != nil {
			return err
		}
	}
	j.o.Progress.expect(j.size)
	j.last = outcome{hashed: true, agreed: compare && j.segments > 0, doubtAt: -1}
	sum := md5.New()
	for seg := range j.segments {
		for again := true; again; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			var err error
			if again, err = j.stripe(ctx, seg, compare, without, sum); err != nil {
				return err
			}
		}
		_, segment := j.place(seg)
		j.o.Progress.done(int64(segment))
	}
	if j.last.hashed {
		j.last.sum = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}

// stripe makes one segment. It is to be called again when a fragment proved bad, which is not used any more then.
func (j *job) stripe(ctx context.Context, seg int64, compare bool, without map[*archive]bool, sum hash.Hash) (again bool, err error) {
	have, by := j.holders(seg, false, without)
	r := j.recipeOf(have)
	if r.err != nil {
		have, by = j.holders(seg, true, without)
		if r = j.recipeOf(have); r.err != nil {
			return false, j.short(seg, have)
		}
	}
	reads := r.reads
	if compare {
		reads = have
	}
	at, segment := j.place(seg)
	common, crc, bad := j.fetch(ctx, reads, by, at, segment)
	if len(bad) > 0 {
		for i, err := range bad {
			by[i].spoil(seg, bare(err))
		}
		return true, nil
	}
	payload := j.code.PayloadSize(segment)
	if compare {
		v := j.compare(have, payload, r)
		if !v.proved && v.liars == (codec.Set{}) {
			// What is good of damaged archives may be to spare, if nothing else is.
			if more, others := j.holders(seg, true, without); more != have {
				if _, _, bad := j.fetch(ctx, more.Minus(have), others, at, segment); len(bad) > 0 {
					for i, err := range bad {
						others[i].spoil(seg, bare(err))
					}
					return true, nil
				}
				if w := j.compare(more, payload, r); w.proved || w.liars != (codec.Set{}) {
					v, by = w, others
				}
			}
		}
		for _, i := range v.liars.Indexes() {
			by[i].spoil(seg, "its content is damaged: it contradicts the other archives")
		}
		if v.liars != (codec.Set{}) {
			return true, nil
		}
		r = v.use
		if !v.proved {
			if j.last.agreed || v.contra && !j.last.contra {
				j.last.doubtAt, j.last.contra = seg, v.contra
			}
			j.last.agreed = false
		}
	}
	for _, plan := range r.plans {
		in, out := make([][]byte, len(plan.In())), make([][]byte, len(plan.Out()))
		for n, i := range plan.In() {
			in[n] = j.slots[i][codec.HeaderSize:][:payload]
		}
		for n, i := range plan.Out() {
			out[n] = j.slots[i][codec.HeaderSize:][:payload]
		}
		plan.Run(out, in)
	}
	if !r.whole {
		j.last.hashed = false
	}
	left := segment
	for i := 0; i < j.code.K() && r.whole; i++ {
		b := j.slots[i][codec.HeaderSize:][:min(payload, left)]
		left -= len(b)
		sum.Write(b)
		if j.indexes == nil {
			if _, err := j.sinks[0].Write(b); err != nil {
				return false, err
			}
		}
	}
	for n, i := range j.want.Indexes() {
		fragment := j.slots[i][:codec.HeaderSize+payload]
		j.code.Seal(fragment, i, common, crc)
		if _, err := j.sinks[n].Write(fragment); err != nil {
			return false, err
		}
	}
	return false, nil
}

// parallelFrom is the length in bytes of a fragment from which reading several at a time pays.
const parallelFrom = 64 << 10

// fetch reads fragments of one segment into their slots and checks their headers: what they have in common, which checksum most headers
// have, and which fragments are bad, by index.
func (j *job) fetch(ctx context.Context, set codec.Set, by []*archive, at int64, segment int) (codec.Stripe, codec.CRC, map[int]error) {
	length := j.code.FragmentSize(segment)
	indexes := set.Indexes()
	fragments, failed := make([][]byte, len(indexes)), make([]error, len(indexes))
	group, _ := errgroup.WithContext(ctx)
	if length < parallelFrom {
		group.SetLimit(1)
	}
	for n, i := range indexes {
		fragments[n] = j.slots[i][:length]
		group.Go(func() error {
			_, err := by[i].file.ReadAt(fragments[n], at)
			if err == io.EOF {
				err = errors.New("it became shorter while it was read")
			}
			failed[n] = err
			return nil
		})
	}
	group.Wait()
	bad := map[int]error{}
	for n, err := range failed {
		if err != nil {
			bad[indexes[n]] = err
		}
	}
	if len(bad) > 0 {
		return codec.Stripe{}, 0, bad
	}
	headers := make([]codec.Header, len(indexes))
	common, faults := j.code.CheckStripe(fragments, indexes, segment, headers)
	for _, f := range faults {
		bad[indexes[f.Fragment]] = f.Err
	}
	legacy := 0
	for _, h := range headers {
		if h.CRC == codec.Legacy {
			legacy++
		}
	}
	crc := codec.Zlib
	if 2*legacy > len(headers) {
		crc = codec.Legacy
	}
	return common, crc, bad
}

// comparison is what the fragments of a segment say of each other.
type comparison struct {
	proved bool
	contra bool      // something is wrong, and it can not be told what
	liars  codec.Set // these are wrong
	use    recipe    // the given one, or one of fragments that were compared
}

func (j *job) compare(have codec.Set, payload int, r recipe) comparison {
	payloads := make([][]byte, j.code.N())
	for _, i := range have.Indexes() {
		payloads[i] = j.slots[i][codec.HeaderSize:][:payload]
	}
	verdict, err := j.code.Verify(payloads)
	switch {
	case err != nil: // nothing to compare with
		return comparison{use: r}
	case !verdict.Consistent:
		return comparison{use: r, liars: verdict.Liars, contra: verdict.Liars == codec.Set{}}
	case r.reads.Minus(verdict.Checked) == (codec.Set{}):
		return comparison{use: r, proved: true}
	}
	if other := j.recipeOf(verdict.Checked); other.err == nil && other.whole == r.whole {
		return comparison{use: other, proved: true}
	}
	return comparison{use: r}
}
