// Package pipeline moves the bytes of one object: it reads fragments from sources into stripes, checks them, decodes the wanted fragments
// and hands them to sinks. It knows no job, no ring and no SSYNC, and it neither chooses sources nor begins anew.
//
// The laws that it keeps: a stripe is acquired whole before its first read (memory is bounded by what the account holds); the last
// fragment of a rebuilt archive is handed to a sink only after every source proved to be what its ETag says; each sink ends in exactly
// one Commit or Abort, each source in one Close.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imping/codec"
	"imping/io/slab"
)

// Source is one survivor: a fragment archive opened at its first fragment. ReadFragment and Close are called by one goroutine at a time;
// Interrupt by another one while a read may be blocked, at most once, never after Close.
type Source interface {
	Index() int                            // fragment index, of the archive as it was proved by whoever opened it
	ETag() string                          // expected MD5 of the whole archive, hex; "" = unknown
	ReadFragment(slot []byte) (int, error) // fills the slot with the next fragment, header first; n == len(slot) or an error
	Interrupt(cause error)                 // makes a blocked read, and each later one, return an error
	Close() error                          // after the last read has ended. After Interrupt it must not wait for the peer
	String() string                        // for people: which node, device or file
}

// Sink takes one rebuilt archive, fragment by fragment. Its methods are called by one goroutine at a time (not always the same one), and
// it ends with exactly one of Commit and Abort, even if WriteFragment was never called.
//
// WriteFragment may block for long, for instance until another object is through; reads then stall with full stripes. It must
// return when the context that Run was given ends: Run has no other way to reach it. It must not keep the slot.
type Sink interface {
	WriteFragment(slot []byte) error  // header and payload of the next fragment
	Commit(ctx context.Context) error // all fragments were written; on an error the sink has cleaned up itself
	Abort(cause error)                // nothing may be published. Called after a failed WriteFragment, too
}

// Opener finds what takes the place of a source that failed (rule 7).
type Opener interface {
	// Replace opens an archive at segment failed.Segment, of an index that neither others has, which are still being read, nor is wanted,
	// and that makes them enough; with Spec.VerifyMD5 the same archive elsewhere: its index, its ETag. One call at a time. The context governs
	// the source, too. On an error the run ends with what failed.
	Replace(ctx context.Context, failed *SourceError, others codec.Set) (Source, error)
}

// Want is one archive to be rebuilt. Two Wants may have the same Index: it is decoded once and written to both.
type Want struct {
	Index int
	Sink  Sink
}

// Spec says what to rebuild from what.
type Spec struct {
	Code      *codec.Code
	Segment   int      // bytes of a segment, the policy's ec_object_segment_size
	Size      int64    // bytes of the object
	Sources   []Source // exactly what the plan and Parity need, opened at segment 0
	Opener    Opener   // nil: a source that fails ends the run
	Want      []Want
	CRC       codec.CRC // flavour of the checksums in rebuilt headers
	VerifyMD5 bool      // hash each archive and compare it with its ETag (rule 5)
	Parity    bool      // each stripe has to agree with a spare source before it is handed on; with VerifyMD5, all before the last one is
	Stripes   int       // segments in flight; 0: one that is read, one that is written and, with VerifyMD5 or Parity, one that is checked
	Spare     bool      // prefetch: take stripes from spare bytes only, all of them or none (ErrNoSpare)
}

// Result tells what became of a Spec.
type Result struct {
	Sinks    []error // per Want; nil = committed
	BytesIn  int64   // read from sources
	BytesOut int64   // written to sinks
	Stripes  int64   // decoded
	Replaced int     // sources that failed and in whose place others were read
	Times    Times
}

// Stage is what one stage of a run did with its time.
type Stage struct{ Busy, Wait time.Duration }

// Times says where a run's time went. The stages overlap.
type Times struct {
	Fetch   Stage // of all sources together: in reads; waiting for a stripe to be free
	Verify  Stage // in checks of headers, MD5s and parity; waiting for full stripes, where it has a goroutine of its own
	Decode  Stage // in kernels; the writing goroutine waiting for a stripe to be read and checked
	Deliver Stage // Busy: in sinks, whatever they wait for
}

// Add adds what another run did.
func (t *Times) Add(u Times) {
	for _, p := range []struct {
		to   *Stage
		from Stage
	}{{&t.Fetch, u.Fetch}, {&t.Verify, u.Verify}, {&t.Decode, u.Decode}, {&t.Deliver, u.Deliver}} {
		p.to.Busy += p.from.Busy
		p.to.Wait += p.from.Wait
	}
}

// Inconsistent is the error of a stripe whose fragments contradict each other, though it can not be told which is wrong.
type Inconsistent struct{ Segment int64 }

func (e *Inconsistent) Error() string {
	return fmt.Sprintf("the fragments of segment %d contradict each other", e.Segment)
}

// SinksError is the error of a run that had no sink left. What they failed of may be another run's errors: sinks of one
// session fail together.
type SinksError struct{ Sinks []error }

func (e *SinksError) Error() string {
	if len(e.Sinks) == 1 {
		return fmt.Sprintf("the sink failed: %v", e.Sinks[0])
	}
	return fmt.Sprintf("all sinks failed: %v", errors.Join(e.Sinks...))
}

func (e *SinksError) Unwrap() []error { return e.Sinks }

// ErrNoSpare is returned for a Spec with Spare set when there are not enough free bytes. Nothing was read.
var ErrNoSpare = errors.New("no spare memory for a prefetch")

// SourceError is the failure of one source. Several may be joined in one error.
type SourceError struct {
	Source  Source
	Segment int64 // -1: the archive as a whole
	Corrupt bool  // proved bad, by header or MD5; otherwise it could not be read
	Err     error
}

func (e *SourceError) Error() string {
	if e.Segment < 0 {
		return fmt.Sprintf("fragment archive #%d from %s: %v", e.Source.Index(), e.Source, e.Err)
	}
	return fmt.Sprintf("fragment archive #%d from %s, segment %d: %v", e.Source.Index(), e.Source, e.Segment, e.Err)
}

func (e *SourceError) Unwrap() error { return e.Err }

const (
	defaultStripes = 3 // at most

	// inlineBelow is the slot size in bytes up to which the sources of a one-stripe object are read one after another in the caller's
	// goroutine. All requests are under way when Run starts and so few bytes fit the socket's first window (64 KiB), so reading in turn waits no
	// longer than reading at once, and saves k goroutines per small object.
	inlineBelow = 32 << 10
)

// segmentBytes returns how many object bytes segment seg has.
func (s *Spec) segmentBytes(seg int64) int {
	return int(min(int64(s.Segment), s.Size-seg*int64(s.Segment)))
}

// stripes is how many segments may be in flight. More than there are stages cost cache and bring nothing.
func (s *Spec) stripes() int {
	switch {
	case s.Stripes > 0:
		return s.Stripes
	case s.VerifyMD5 || s.Parity:
		return defaultStripes
	}
	return defaultStripes - 1
}

func (s *Spec) segments() int64 {
	return (s.Size + int64(s.Segment) - 1) / int64(s.Segment)
}

// check finds what is wrong with a Spec before anything is read.
func (s *Spec) check() error {
	switch {
	case s.Code == nil:
		return errors.New("pipeline: no code")
	case s.Segment <= 0:
		return fmt.Errorf("pipeline: segment size is %d, want more than 0", s.Segment)
	case s.Size < 0:
		return fmt.Errorf("pipeline: object size is %d, want 0 or more", s.Size)
	case s.Stripes < 0:
		return fmt.Errorf("pipeline: %d stripes, want 0 or more", s.Stripes)
	case len(s.Want) == 0:
		return errors.New("pipeline: nothing is wanted")
	}
	for _, w := range s.Want {
		if w.Index < 0 || w.Index >= s.Code.N() {
			return fmt.Errorf("pipeline: fragment index %d is wanted, want 0 to %d", w.Index, s.Code.N()-1)
		}
	}
	if s.Size == 0 {
		return nil
	}
	var have codec.Set
	for _, src := range s.Sources {
		i := src.Index()
		switch {
		case i < 0 || i >= s.Code.N():
			return fmt.Errorf("pipeline: source %s has fragment index %d, want 0 to %d", src, i, s.Code.N()-1)
		case have.Has(i):
			return fmt.Errorf("pipeline: source %s has fragment index %d, which another source has", src, i)
		case s.VerifyMD5 && src.ETag() == "":
			return fmt.Errorf("pipeline: source %s has no ETag to verify it by", src)
		}
		for _, w := range s.Want {
			if w.Index == i && len(s.Sources) > 1 { // rule 3: alone it is carried over
				return fmt.Errorf("pipeline: source %s has fragment index %d, which is wanted", src, i)
			}
		}
		have = have.With(i)
	}
	return nil
}

// Run rebuilds one object. Its error is nil when at least one sink committed; Result.Sinks tells for each. Otherwise it is what stopped it: one
// or more *SourceError, *Inconsistent, the context's cause, a mistake in the Spec, codec.ErrNoSpare (the sources are too few for Parity), ErrNoSpare, or the
// sinks' errors when none was left. When Run returns all
// sources are closed, whatever happened, and no goroutine of it is left.
func Run(ctx context.Context, acct *slab.Account, spec *Spec) (Result, error) {
	r := newRun(ctx, spec)
	defer r.cancel(nil)
	err := spec.check()
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && spec.Size > 0 {
		err = r.move(acct)
	}
	r.closeSources(err)
	return r.end(err)
}
