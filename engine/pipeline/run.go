package pipeline

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imping/codec"
	"imping/io/digest"
	"imping/io/slab"
)

// input is one source and what was learnt of it.
type input struct {
	Source
	index  int
	before *input // what the slot was read from in earlier segments; nil: nothing else

	alone struct { // the last fragment, for the check of its header by itself
		fragment [1][]byte
		index    [1]int
		header   [1]codec.Header
	}

	mu                  sync.Mutex // guards these, so that Interrupt never meets a closed source, whose connection may be someone else's by then
	interrupted, closed bool
}

// run is one Run under way.
//
// An object of several segments has a goroutine per source, which fills slots; one that checks and hashes full stripes (only with
// VerifyMD5); and Run's own, which decodes and writes. Stripes go round: readers -> full -> checked -> written -> readers. An object of one
// segment is moved by Run's own goroutine, with readers only when its slots are large.
//
// Where a source fails, its reader puts another one in its place and goes on: which source a slot of a stripe was filled from stands in the stripe,
// and a stripe that has others than the one before gets a plan of its own.
type run struct {
	spec    *Spec
	ctx     context.Context // ends with the run
	cancel  context.CancelCauseFunc
	inputs  []*input         // by slot: what it is read from now. A slot's reader alone changes it, holding swap and mu
	swap    sync.Mutex       // held while a source is replaced: whoever chooses one has to know the others
	md5     []*digest.Stream // by slot, none without VerifyMD5
	outSlot []int            // per Want

	// What the checks of stripes, one after the other, go by.
	planned  []*input // what the plan was made for, by slot; the first ones by index, ascending
	indexes  []int    // theirs
	plan     *codec.Plan
	used     []int          // slots that the plan reads, in its order
	headers  []codec.Header // of the fragments that are being checked
	payloads [][]byte       // by index, for Parity
	doubt    error          // Parity and VerifyMD5: the first stripe that was inconsistent

	stripes []*stripe
	nseg    int64

	readers sync.WaitGroup
	bytesIn atomic.Int64
	reading atomic.Int64 // ns, of all sources together
	stalled atomic.Int64 // ns, likewise: for want of a free stripe

	full    chan struct{} // one per stripe that all sources have filled, in order
	checked chan struct{} // one per stripe that may be decoded
	failed  chan struct{} // closed by fail

	mu      sync.Mutex
	cause   error      // first failure
	freed   int64      // stripes that were written, so far
	release *sync.Cond // freed grew, or the run failed

	sinks  []error // per Want: why it was dropped
	live   int
	result Result
}

func newRun(ctx context.Context, spec *Spec) *run {
	r := &run{spec: spec, failed: make(chan struct{}), sinks: make([]error, len(spec.Want)), live: len(spec.Want)}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.release = sync.NewCond(&r.mu)
	all := make([]input, len(spec.Sources))
	r.inputs = make([]*input, len(spec.Sources))
	for i, s := range spec.Sources {
		all[i].Source, all[i].index = s, s.Index()
		r.inputs[i] = &all[i]
	}
	slices.SortFunc(r.inputs, func(a, b *input) int { return a.index - b.index })
	r.indexes, r.headers, r.outSlot = make([]int, len(all)), make([]codec.Header, len(all)), make([]int, len(spec.Want))
	return r
}

// fail ends the run: the first cause stays, and everything that waits is woken.
func (r *run) fail(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cause != nil {
		return
	}
	r.cause = cause
	r.cancel(cause)
	close(r.failed)
	r.release.Broadcast()
	for _, in := range r.inputs {
		in.interrupt(cause)
	}
}

func (r *run) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cause
}

func (in *input) interrupt(cause error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.closed && !in.interrupted {
		in.interrupted = true
		in.Interrupt(cause)
	}
}

// close closes the source once. Its error says nothing about bytes that were read before, so nobody asks for it.
func (in *input) close() {
	in.mu.Lock()
	was := in.closed
	in.closed = true
	in.mu.Unlock()
	if !was {
		in.Close()
	}
}

// closeSources closes what no reader has closed. After a failure the sources are interrupted first, so that none of them waits for its peer.
func (r *run) closeSources(err error) {
	for _, in := range r.inputs {
		if err != nil {
			in.interrupt(err)
		}
		in.close()
	}
	for _, d := range r.md5 {
		d.Close()
	}
}

// end commits what was written whole, or aborts it all.
func (r *run) end(err error) (res Result, _ error) {
	r.result.Sinks = r.sinks
	r.result.BytesIn = r.bytesIn.Load()
	r.result.Times.Fetch = Stage{Busy: time.Duration(r.reading.Load()), Wait: time.Duration(r.stalled.Load())}
	if err != nil {
		for i, w := range r.spec.Want {
			if r.sinks[i] == nil {
				r.sinks[i] = err
				w.Sink.Abort(err)
			}
		}
		return r.result, err
	}
	begin := time.Now()
	defer func() { res.Times.Deliver.Busy += time.Since(begin) }()
	commit := func(i int) { r.sinks[i] = r.spec.Want[i].Sink.Commit(r.ctx) }
	if len(r.spec.Want) == 1 {
		commit(0)
	} else {
		var wg sync.WaitGroup
		for i := range r.spec.Want {
			if r.sinks[i] == nil {
				wg.Go(func() { commit(i) })
			}
		}
		wg.Wait()
	}
	if !slices.Contains(r.sinks, nil) {
		return r.result, &SinksError{r.sinks}
	}
	return r.result, nil
}

// move takes the object from its sources to its sinks, up to the commit.
func (r *run) move(acct *slab.Account) error {
	spec := r.spec
	if err := r.makePlan(r.inputs); err != nil {
		return err
	}
	var err error

	r.nseg = spec.segments()
	n := int(min(int64(spec.stripes()), r.nseg))
	if r.stripes, err = newStripes(r.ctx, acct, spec, n, len(r.inputs), r.plan); err != nil {
		return err
	}
	defer release(r.stripes)

	if spec.VerifyMD5 {
		expected := spec.Code.ArchiveSize(spec.Size, spec.Segment)
		for range r.inputs {
			r.md5 = append(r.md5, digest.New(expected))
		}
	}

	interrupted := make(chan struct{})
	stop := context.AfterFunc(r.ctx, func() {
		r.fail(context.Cause(r.ctx))
		close(interrupted)
	})
	err = r.stream()
	if err != nil {
		r.fail(err)
	}
	r.readers.Wait()
	if !stop() {
		<-interrupted
	}
	if err != nil {
		return r.failure() // the first cause: what came after it may be its echo
	}
	return nil
}

// makePlan decides how outputs come from what the slots of a stripe were read from. A single source of the wanted index needs no plan: its
// archive goes through as it is.
func (r *run) makePlan(from []*input) (err error) {
	var have, want codec.Set
	for slot, in := range from {
		r.indexes[slot] = in.index
		have = have.With(in.index)
	}
	for _, w := range r.spec.Want {
		want = want.With(w.Index)
	}
	first := r.planned == nil
	if first {
		r.planned, r.used = make([]*input, 0, len(from)), make([]int, 0, len(from))
	}
	r.planned = append(r.planned[:0], from...)
	if len(from) == 1 && have == want {
		if r.spec.Parity && !r.spec.VerifyMD5 {
			return codec.ErrNoSpare
		}
		return nil
	}
	if r.plan, err = r.spec.Code.Plan(have, want); err != nil {
		return err
	}
	r.used = r.used[:0]
	for _, index := range r.plan.In() {
		r.used = append(r.used, slices.Index(r.indexes, index))
	}
	if first { // it is the same for all plans
		for i, w := range r.spec.Want {
			r.outSlot[i] = slices.Index(r.plan.Out(), w.Index)
		}
	}
	if r.spec.Parity {
		if r.payloads == nil {
			r.payloads = make([][]byte, r.spec.Code.N())
		}
		if !r.spec.VerifyMD5 && codec.SetOf(r.plan.In()...).Minus(r.spec.Code.Checked(have)) != (codec.Set{}) {
			return codec.ErrNoSpare
		}
	}
	return nil
}

// stream starts the readers and writes what they read.
func (r *run) stream() error {
	if r.nseg == 1 {
		return r.single()
	}
	r.full = make(chan struct{}, len(r.stripes))
	for slot := range r.inputs {
		r.readers.Go(func() { r.read(slot) })
	}
	ready, check := r.full, r.check // a check of headers only is 80 bytes per fragment, not worth a goroutine
	if r.spec.VerifyMD5 || r.spec.Parity {
		r.checked = make(chan struct{}, len(r.stripes))
		r.readers.Go(r.verify)
		ready, check = r.checked, func(int64) error { return nil }
	}
	if r.spec.Spare && r.nseg <= int64(len(r.stripes)) {
		// Read the whole object before the first sink is called: a prefetch goes to where sinks queue with nothing left to do but write.
		for range r.nseg {
			if err := r.wait(ready, &r.result.Times.Decode); err != nil {
				return err
			}
		}
		ready = nil
	}
	for no := range r.nseg {
		if ready != nil {
			if err := r.wait(ready, &r.result.Times.Decode); err != nil {
				return err
			}
		}
		if err := check(no); err != nil {
			return err
		}
		if err := r.write(no); err != nil {
			return err
		}
	}
	return nil
}

// wait takes one from a channel, on a stage's account; a failure goes first.
func (r *run) wait(c <-chan struct{}, stage *Stage) error {
	begin := time.Now()
	select {
	case <-c:
	case <-r.failed:
	}
	stage.Wait += time.Since(begin)
	return r.failure()
}

// single moves an object of one segment.
func (r *run) single() error {
	if len(r.stripes[0].in[0]) <= inlineBelow {
		for slot := range r.inputs {
			if err := r.fill(slot, 0); err != nil {
				return err
			}
			r.inputs[slot].close()
		}
	} else {
		for slot := range r.inputs {
			r.readers.Go(func() { r.read(slot) })
		}
		begin := time.Now()
		r.readers.Wait()
		r.result.Times.Decode.Wait = time.Since(begin)
	}
	if err := r.failure(); err != nil {
		return err
	}
	if err := r.check(0); err != nil {
		return err
	}
	return r.write(0)
}

// read is a reader: it fills one slot of each stripe in turn, and closes the source after its last read.
func (r *run) read(slot int) {
	defer func() { r.inputs[slot].close() }()
	for no := range r.nseg {
		if !r.awaitRelease(no) {
			return
		}
		if err := r.fill(slot, no); err != nil {
			r.fail(err)
			return
		}
		if r.stripe(no).pending.Add(-1) == 0 && r.full != nil {
			r.full <- struct{}{} // there is room: one per stripe
		}
	}
}

// awaitRelease waits until the stripe of segment no is free to be read into; false means that the run has failed.
func (r *run) awaitRelease(no int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if no >= r.freed+int64(len(r.stripes)) {
		begin := time.Now()
		for r.cause == nil && no >= r.freed+int64(len(r.stripes)) {
			r.release.Wait()
		}
		r.stalled.Add(int64(time.Since(begin)))
	}
	return r.cause == nil
}

// verify takes full stripes through their checks, beside the writing of the one before.
func (r *run) verify() {
	for no := range r.nseg {
		if r.wait(r.full, &r.result.Times.Verify) != nil {
			return
		}
		if err := r.check(no); err != nil {
			r.fail(err)
			return
		}
		r.checked <- struct{}{}
	}
}

func (r *run) stripe(no int64) *stripe { return r.stripes[no%int64(len(r.stripes))] }

// fill reads one fragment into its slot, from another source if the slot's own fails.
func (r *run) fill(slot int, no int64) error {
	for {
		failed := r.fillFrom(r.inputs[slot], slot, no)
		if failed == nil {
			return nil
		}
		if err := r.replace(slot, failed); err != nil {
			return err
		}
	}
}

func (r *run) fillFrom(in *input, slot int, no int64) *SourceError {
	s := r.stripe(no)
	bytes := r.spec.segmentBytes(no)
	b := s.slot(slot, r.spec.Code.PayloadSize(bytes))
	begin := time.Now()
	n, err := in.ReadFragment(b)
	r.reading.Add(int64(time.Since(begin)))
	r.bytesIn.Add(int64(max(n, 0)))
	if err == nil && n != len(b) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return &SourceError{Source: in.Source, Segment: no, Err: fmt.Errorf("cannot read a fragment, got %d of %d bytes: %w", n, len(b), err)}
	}
	s.from[slot] = in
	if r.spec.Opener == nil || r.spec.VerifyMD5 { // then the check of the whole stripe is early enough
		return nil
	}
	a := &in.alone
	a.fragment[0], a.index[0] = b, in.index
	if _, faults := r.spec.Code.CheckStripe(a.fragment[:], a.index[:], bytes, a.header[:]); len(faults) > 0 {
		return &SourceError{Source: in.Source, Segment: no, Corrupt: true, Err: faults[0].Err}
	}
	return nil
}

// replace puts another source in the place of one that failed; what the others read stays (rule 7).
func (r *run) replace(slot int, failed *SourceError) error {
	if r.spec.Opener == nil {
		return failed
	}
	r.swap.Lock()
	defer r.swap.Unlock()
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	old := r.inputs[slot]
	old.interrupt(failed)
	old.close()
	var others, earlier codec.Set
	for i, in := range r.inputs {
		if i == slot {
			continue
		}
		others = others.With(in.index)
		for in = in.before; in != nil; in = in.before {
			earlier = earlier.With(in.index) // maybe in a stripe that this slot has yet to fill
		}
	}
	source, err := r.spec.Opener.Replace(r.ctx, failed, others)
	switch {
	case r.ctx.Err() != nil && err != nil:
		return context.Cause(r.ctx)
	case err != nil:
		failed.Err = fmt.Errorf("%w; nothing takes its place: %v", failed.Err, err)
		return failed
	}
	in := &input{Source: source, index: source.Index(), before: old}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.cause != nil:
	case r.spec.VerifyMD5 && (in.index != old.index || in.ETag() != old.ETag()), in.index < 0, in.index >= r.spec.Code.N(), others.Or(earlier).Has(in.index):
		failed.Err = fmt.Errorf("%w; %s, fragment %d, can not take its place", failed.Err, source, in.index)
	default:
		r.inputs[slot] = in
		r.result.Replaced++
		return nil
	}
	in.interrupt(failed)
	in.close()
	return failed
}

// write decodes a stripe that was checked, hands its output to the sinks and frees it.
func (r *run) write(no int64) error {
	s := r.stripe(no)
	out := s.in
	begin := time.Now()
	if plan := s.seg.plan; plan != nil {
		out = s.out
		plan.Run(s.payOut, s.payIn)
		for i, index := range plan.Out() {
			r.spec.Code.Seal(s.out[i], index, s.seg.common, r.spec.CRC)
		}
	}
	r.result.Stripes++
	decoded := time.Now()
	r.result.Times.Decode.Busy += decoded.Sub(begin)
	defer func() { r.result.Times.Deliver.Busy += time.Since(decoded) }()
	for i, w := range r.spec.Want {
		if r.sinks[i] != nil {
			continue
		}
		slot := out[r.outSlot[i]]
		if err := w.Sink.WriteFragment(slot); err != nil {
			r.sinks[i] = err
			r.live--
			w.Sink.Abort(err)
			continue
		}
		r.result.BytesOut += int64(len(slot))
	}
	if r.live == 0 {
		return &SinksError{r.sinks}
	}
	r.mu.Lock()
	r.freed++
	r.release.Broadcast()
	r.mu.Unlock()
	return nil
}
