// Package rebuild repairs one object: it picks survivors, runs the pipeline from them
// into the sinks of those who miss an archive, and judges the result. It does not decide
// which objects need repair, and knows nothing of the protocol behind a sink.
package rebuild

import (
	"context"
	"errors"
	"fmt"

	"imping/codec"
	"imping/engine/pipeline"
	"imping/io/slab"
	"imping/netfast"
)

// Target is someone who misses a fragment archive of the object.
type Target interface {
	Index() int // the wanted fragment index
	// Sink is for one try; after an Abort with nothing sent a new one is asked for. etag,
	// unless it is "", is the MD5 that the archive is known to have, since it is a copy of
	// a living one: the receiver is to be told, so that it finds rot by itself (rule 6).
	Sink(etag string) pipeline.Sink
	Started() bool // whether anything of the archive has been sent: then a failed try can not be repeated
}

// Rebuilder holds what rebuilds share: connections, the peers' loads, how to verify.
// It is safe for concurrent use.
type Rebuilder struct {
	Client *netfast.Client
	Verify bool      // rule 5: every survivor's MD5 before the last byte is sent
	CRC    codec.CRC // flavour of the checksums that rebuilt headers get
	// Note is told of answers that were refused although the object was rebuilt. Optional.
	Note func([]Answer)

	loads loads
	trust trust
}

func (r *Rebuilder) note(a []Answer) {
	if r.Note != nil && len(a) > 0 {
		r.Note(a)
	}
}

// maxTries bounds how often one object is begun anew because a source proved bad or
// broke: with every try at least one archive is excluded, and an object that loses this
// many is left to the next pass.
const maxTries = 8

// Run rebuilds the object's archives for the targets from the local archive and peers
// (the targets' own devices not among them). The account must have a stripe reserved
// (pipeline.StripeSize); with spare only spare memory is used and pipeline.ErrNoSpare
// says that there is none. A source that fails before anything was sent is excluded and
// the object begun anew; once a target was started the error is final for the session
// that carries it, and the exclusion is remembered in the object.
//
// Errors: *Insufficient; *pipeline.SourceError; pipeline.ErrNoSpare; the context's cause;
// a target's own error. With several targets Run succeeds when one of them did: each
// learned its own fate from its sink.
func (r *Rebuilder) Run(ctx context.Context, acct *slab.Account, o *Object, peers []Peer, targets []Target, spare bool) (pipeline.Result, error) {
	var want codec.Set
	for _, t := range targets {
		want = want.With(t.Index())
	}
	for try := 1; ; try++ {
		res, err := r.once(ctx, acct, o, peers, targets, want, spare)
		if err == nil || ctx.Err() != nil || !r.exclude(o, err) {
			return res, err
		}
		for _, t := range targets {
			if t.Started() {
				return res, err
			}
		}
		if try == maxTries {
			return res, fmt.Errorf("given up after %d tries: %w", try, err)
		}
	}
}

// exclude remembers the sources that err blames. It reports whether there was one.
func (r *Rebuilder) exclude(o *Object, err error) bool {
	blamed := false
	var walk func(error)
	walk = func(err error) {
		var se *pipeline.SourceError
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
		} else if errors.As(err, &se) {
			// A session that was cut says why to all who had something for it, too.
			if s, ok := se.Source.(*survivor); ok && s.obj == o {
				o.avoid.add(s, se)
				if s.peer != nil {
					r.trust.blame(s.peer)
				}
				blamed = true
			}
		}
	}
	walk(err)
	return blamed
}

func (r *Rebuilder) once(ctx context.Context, acct *slab.Account, o *Object, peers []Peer, targets []Target, want codec.Set, spare bool) (pipeline.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sources []pipeline.Source
	var etag string
	if spare && !acct.HasSpare(pipeline.PrefetchSize(o.Code, o.Segment, o.Size, want.Len())) {
		return pipeline.Result{}, pipeline.ErrNoSpare // before K peers are asked for nothing
	}
	if o.Size > 0 {
		var err error
		if sources, etag, err = r.open(ctx, o, peers, want); err != nil {
			return pipeline.Result{}, err
		}
	}
	spec := &pipeline.Spec{
		Code: o.Code, Segment: o.Segment, Size: o.Size, Sources: sources,
		CRC: r.CRC, VerifyMD5: r.Verify, Spare: spare,
	}
	for _, t := range targets {
		spec.Want = append(spec.Want, pipeline.Want{Index: t.Index(), Sink: t.Sink(etag)})
	}
	res, err := pipeline.Run(ctx, acct, spec)
	if err == nil {
		for _, source := range sources {
			if s := source.(*survivor); s.peer != nil {
				r.trust.prove(s.peer)
			}
		}
	}
	return res, err
}
