package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"imping/codec"
	"imping/io/digest"
	"imping/io/slab"
)

// input is one source and what was learnt of it.
type input struct {
	Source
	index int

	mu                  sync.Mutex // guards these, so that Interrupt never meets a closed source, whose connection may be someone else's by then
	interrupted, closed bool
}

// run is one Run under way.
//
// An object of several segments has a goroutine per source, which fills slots; one that checks and hashes full stripes (only with
// VerifyMD5); and Run's own, which decodes and writes. Stripes go round: readers -> full -> checked -> written -> readers. An object of one
// segment is moved by Run's own goroutine, with readers only when its slots are large.
type run struct {
	spec    *Spec
	ctx     context.Context
	inputs  []*input         // by index, ascending: the order of a stripe's slots
	indexes []int            // theirs
	headers []codec.Header   // of the fragments that are being checked
	md5     []*digest.Stream // one per input, none without VerifyMD5
	plan    *codec.Plan      // nil: the only source is what is wanted
	used    []int            // slots that the plan reads, in its order
	outSlot []int            // per Want
	stripes []*stripe
	nseg    int64

	readers sync.WaitGroup
	bytesIn atomic.Int64

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
	r := &run{spec: spec, ctx: ctx, failed: make(chan struct{}), sinks: make([]error, len(spec.Want)), live: len(spec.Want)}
	r.release = sync.NewCond(&r.mu)
	all := make([]input, len(spec.Sources))
	r.inputs = make([]*input, len(spec.Sources))
	for i, s := range spec.Sources {
		all[i].Source, all[i].index = s, s.Index()
		r.inputs[i] = &all[i]
	}
	slices.SortFunc(r.inputs, func(a, b *input) int { return a.index - b.index })
	r.indexes, r.headers = make([]int, len(all)), make([]codec.Header, len(all))
	for i, in := range r.inputs {
		r.indexes[i] = in.index
	}
	return r
}

// fail ends the run: the first cause stays, and everything that waits is woken.
func (r *run) fail(cause error) {
	r.mu.Lock()
	first := r.cause == nil
	if first {
		r.cause = cause
		close(r.failed)
		r.release.Broadcast()
	}
	r.mu.Unlock()
	if first {
		for _, in := range r.inputs {
			in.interrupt(cause)
		}
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
func (r *run) end(err error) (Result, error) {
	r.result.Sinks = r.sinks
	r.result.BytesIn = r.bytesIn.Load()
	if err != nil {
		for i, w := range r.spec.Want {
			if r.sinks[i] == nil {
				r.sinks[i] = err
				w.Sink.Abort(err)
			}
		}
		return r.result, err
	}
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
		return r.result, noSinkLeft(r.sinks)
	}
	return r.result, nil
}

func noSinkLeft(sinks []error) error {
	if len(sinks) == 1 {
		return fmt.Errorf("the sink failed: %w", sinks[0])
	}
	return fmt.Errorf("all sinks failed: %w", errors.Join(sinks...))
}

// move takes the object from its sources to its sinks, up to the commit.
func (r *run) move(acct *slab.Account) error {
	spec := r.spec
	if err := r.makePlan(); err != nil {
		return err
	}
	var err error

	r.nseg = spec.segments()
	n := spec.Stripes
	if n == 0 {
		n = defaultStripes
	}
	n = int(min(int64(n), r.nseg))
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

// makePlan decides how outputs come from inputs. A single source of the wanted index needs
// no plan: its archive goes through as it is.
func (r *run) makePlan() (err error) {
	r.outSlot = make([]int, len(r.spec.Want))
	if len(r.inputs) == 1 && !slices.ContainsFunc(r.spec.Want, func(w Want) bool { return w.Index != r.inputs[0].index }) {
		return nil
	}
	var have, want codec.Set
	for _, in := range r.inputs {
		have = have.With(in.index)
	}
	for _, w := range r.spec.Want {
		want = want.With(w.Index)
	}
	if r.plan, err = r.spec.Code.Plan(have, want); err != nil {
		return err
	}
	r.used = make([]int, 0, len(r.inputs))
	for slot, in := range r.inputs {
		if slices.Contains(r.plan.In(), in.index) {
			r.used = append(r.used, slot)
		}
	}
	for i, w := range r.spec.Want {
		r.outSlot[i] = slices.Index(r.plan.Out(), w.Index)
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
	ready, check := r.full, r.check // without MD5 a check is 80 bytes per fragment, not worth a goroutine
	if r.spec.VerifyMD5 {
		r.checked = make(chan struct{}, len(r.stripes))
		r.readers.Go(r.verify)
		ready, check = r.checked, func(int64) error { return nil }
	}
	if r.spec.Spare && r.nseg <= int64(len(r.stripes)) {
		// Read the whole object before the first sink is called: a prefetch goes to where sinks queue with nothing left to do but write.
		for range r.nseg {
			if err := r.wait(ready); err != nil {
				return err
			}
		}
		ready = nil
	}
	for no := range r.nseg {
		if ready != nil {
			if err := r.wait(ready); err != nil {
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

// wait takes one from a channel; a failure goes first.
func (r *run) wait(c <-chan struct{}) error {
	select {
	case <-c:
	case <-r.failed:
	}
	return r.failure()
}

// single moves an object of one segment.
func (r *run) single() error {
	if len(r.stripes[0].in[0]) <= inlineBelow {
		for slot, in := range r.inputs {
			if err := r.fill(slot, 0); err != nil {
				return err
			}
			in.close()
		}
	} else {
		for slot := range r.inputs {
			r.readers.Go(func() { r.read(slot) })
		}
		r.readers.Wait()
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
	defer r.inputs[slot].close()
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
	for r.cause == nil && no >= r.freed+int64(len(r.stripes)) {
		r.release.Wait()
	}
	return r.cause == nil
}

// verify takes full stripes through their checks, beside the writing of the one before.
func (r *run) verify() {
	for no := range r.nseg {
		if r.wait(r.full) != nil {
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

// fill reads one fragment into its slot.
func (r *run) fill(slot int, no int64) error {
	in := r.inputs[slot]
	b := r.stripe(no).slot(slot, r.spec.Code.PayloadSize(r.spec.segmentBytes(no)))
	n, err := in.ReadFragment(b)
	r.bytesIn.Add(int64(max(n, 0)))
	if err == nil && n != len(b) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return &SourceError{Source: in.Source, Segment: no, Err: fmt.Errorf("cannot read a fragment, got %d of %d bytes: %w", n, len(b), err)}
	}
	return nil
}

// write decodes a stripe that was checked, hands its output to the sinks and frees it.
func (r *run) write(no int64) error {
	s := r.stripe(no)
	out := s.in
	if r.plan != nil {
		out = s.out
		r.plan.Run(s.payOut, s.payIn)
		for i, index := range r.plan.Out() {
			r.spec.Code.Seal(s.out[i], index, s.seg.common, r.spec.CRC)
		}
	}
	r.result.Stripes++
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
		return noSinkLeft(r.sinks)
	}
	r.mu.Lock()
	r.freed++
	r.release.Broadcast()
	r.mu.Unlock()
	return nil
}
