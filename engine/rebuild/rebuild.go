// Package rebuild repairs one object: it picks survivors, runs the pipeline from them
// into the sinks of those who miss an archive, and judges the result. It does not decide
// which objects need repair, and knows nothing of the protocol behind a sink.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// Verify is how the bytes of survivors are proved (rule 5).
type Verify int

const (
	VerifyMD5    Verify = iota // each archive's MD5 is its ETag, before the last fragment is sent
	VerifyParity               // each stripe agrees with a spare survivor, before it is sent; MD5 where none is to be had, and to find who lies
	VerifyOff                  // fragment headers only
)

var verifyWords = []string{"md5", "parity", "off"}

func (v Verify) String() string { return verifyWords[v] }

// ParseVerify reads a Verify as people write it.
func ParseVerify(word string) (Verify, error) {
	i := slices.Index(verifyWords, word)
	if i < 0 {
		return 0, fmt.Errorf("%q: md5, parity and off are known", word)
	}
	return Verify(i), nil
}

// Spares is how many slots of a stripe are for sources that are not needed.
func (v Verify) Spares() int {
	if v == VerifyParity {
		return 1
	}
	return 0
}

// Rebuilder holds what rebuilds share: connections, the peers' loads, how to verify.
// It is safe for concurrent use.
type Rebuilder struct {
	Client *netfast.Client
	Verify Verify    // rule 5
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
// (pipeline.StripeSize for targets and spares), better two; with spare only spare memory is used and pipeline.ErrNoSpare
// says that there is none. A source that fails is excluded, and replaced where it stopped if that can be done (rule 7). Else,
// before anything was sent, the object is begun anew; once a target was started the error is final for the session
// that carries it, and the exclusion is remembered in the object.
//
// Errors: *Insufficient; *pipeline.SourceError; *pipeline.Inconsistent; pipeline.ErrNoSpare; the context's cause;
// a target's own error. With several targets Run succeeds when one of them did: each
// learned its own fate from its sink.
func (r *Rebuilder) Run(ctx context.Context, acct *slab.Account, o *Object, peers []Peer, targets []Target, spare bool) (pipeline.Result, error) {
	var want codec.Set
	for _, t := range targets {
		want = want.With(t.Index())
	}
	for try := 1; ; try++ {
		if err := o.hopeless(); err != nil {
			return pipeline.Result{}, err
		}
		res, err := r.once(ctx, acct, o, peers, targets, want, spare)
		started := slices.ContainsFunc(targets, Target.Started)
		_, again := errors.AsType[*pipeline.Inconsistent](err)
		if _, other := errors.AsType[*pipeline.SinksError](err); other {
			again = false // of another object of the session
		}
		if again && ctx.Err() == nil {
			liars := r.unmask(ctx, acct, o, peers, want, spare && !started)
			if _, still := errors.AsType[*pipeline.Inconsistent](liars); still {
				o.avoid.despair(liars)
				return res, liars
			}
			if liars != nil {
				err, again = liars, false
			}
		}
		blamed := r.exclude(o, err)
		if again && !blamed && o.avoid.doubt(err) {
			return res, err
		}
		if again = again || blamed || res.Replaced > 0 && unplanned(err); !again || started || ctx.Err() != nil {
			return res, err
		}
		if try == maxTries {
			return res, fmt.Errorf("given up after %d tries: %w", try, err)
		}
	}
}

// unplanned reports that what took the place of failed sources does not suffice together.
func unplanned(err error) bool {
	_, few := errors.AsType[*codec.Insufficient](err)
	return few || errors.Is(err, codec.ErrNoSpare)
}

// exclude remembers the sources that err blames. It reports whether there was one. What broke a session while another object was sent, and
// so the sink, too, is no fault of this one's sources.
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
			if s, ok := se.Source.(*survivor); ok && s.obj == o {
				if o.avoid.add(s, se) && s.peer != nil {
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
	if spare && !acct.HasSpare(pipeline.PrefetchSize(o.Code, o.Segment, o.Size, want.Len()+r.Verify.Spares())) {
		return pipeline.Result{}, pipeline.ErrNoSpare // before K peers are asked for nothing
	}
	if o.Size > 0 || !o.Moves {
		var err error
		if sources, etag, err = r.open(ctx, o, peers, want, r.Verify.Spares()); err != nil {
			return pipeline.Result{}, err
		}
	}
	if o.Size == 0 {
		// Its archives hold nothing to make one of: the others had to be there, or a fragment that a deletion has missed would bring the object back.
		for _, s := range sources {
			closeAll([]*survivor{s.(*survivor)})
		}
		sources, etag = nil, ""
	}
	spec := r.spec(o, sources, want, spare)
	swap := &replacer{Rebuilder: r, object: o, peers: peers, want: want, spec: spec}
	if o.Size > 0 {
		spec.Opener = swap
	}
	for _, t := range targets {
		spec.Want = append(spec.Want, pipeline.Want{Index: t.Index(), Sink: t.Sink(etag)})
	}
	res, err := pipeline.Run(ctx, acct, spec)
	if err == nil {
		for _, source := range append(sources, swap.opened...) {
			if s := source.(*survivor); s.peer != nil && o.avoid.peer(s.peer.ID) == nil {
				r.trust.prove(s.peer)
			}
		}
	}
	return res, err
}

// spec is what the pipeline is told but who wants what.
func (r *Rebuilder) spec(o *Object, sources []pipeline.Source, want codec.Set, spare bool) *pipeline.Spec {
	spec := &pipeline.Spec{
		Code: o.Code, Segment: o.Segment, Size: o.Size, Sources: sources, CRC: r.CRC, Spare: spare,
		VerifyMD5: r.Verify == VerifyMD5, Parity: r.Verify == VerifyParity,
	}
	if spec.Parity {
		var have codec.Set
		for _, s := range sources {
			have = have.With(s.Index())
		}
		plan, err := o.Code.Plan(have, want)
		if err != nil || codec.SetOf(plan.In()...).Minus(o.Code.Checked(have)) != codec.SetOf() {
			spec.Parity, spec.VerifyMD5 = false, true // nothing to compare with, or a living copy
		}
	}
	return spec
}
