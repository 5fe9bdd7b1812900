package rebuild

import (
	"context"
	"errors"
	"fmt"

	"imping/codec"
	"imping/engine/pipeline"
	"imping/io/slab"
)

// replacer is the pipeline.Opener of one try: it finds what takes the place of a source
// that failed, from the segment on at which it did (rule 7).
type replacer struct {
	*Rebuilder
	object *Object
	peers  []Peer
	want   codec.Set
	spec   *pipeline.Spec
	opened []pipeline.Source
}

func (p *replacer) Replace(ctx context.Context, failed *pipeline.SourceError, others codec.Set) (pipeline.Source, error) {
	p.exclude(p.object, failed)
	offset := failed.Segment * int64(p.object.Code.FragmentSize(p.object.Segment))
	var s *survivor
	var err error
	if dead := failed.Source.(*survivor); p.spec.VerifyMD5 {
		s, err = p.elsewhere(ctx, dead, offset)
	} else {
		s, err = p.another(ctx, others, offset)
	}
	if err != nil {
		return nil, err
	}
	p.opened = append(p.opened, s)
	return s, nil
}

// elsewhere opens the same archive at another node: its parts are hashed as one.
func (p *replacer) elsewhere(ctx context.Context, dead *survivor, offset int64) (*survivor, error) {
	o := p.object
	same := func(s *survivor) bool { return s.index == dead.index && s.etag == dead.etag }
	if s := p.localArchive(o); s != nil && dead.peer != nil && same(s) {
		s.off = offset
		return s, nil
	}
	var rest codec.Set
	for i := range o.Code.N() {
		rest = rest.With(i)
	}
	rest = rest.Without(dead.index)
	for i := range p.peers {
		peer := &p.peers[i]
		if peer.Index%o.Code.N() != dead.index || o.avoid.peer(peer.ID) != nil || p.Client.Suspect(peer.Addr, peer.Device) != nil {
			continue
		}
		if s, _ := p.Rebuilder.ask(ctx, o, peer, offset, rest.Indexes(), same); s != nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no other node has the archive with ETag %s", dead.etag)
}

// another opens an archive that, with the others, makes what is wanted, and what proves it.
func (p *replacer) another(ctx context.Context, others codec.Set, offset int64) (*survivor, error) {
	o := p.object
	s := &search{Rebuilder: p.Rebuilder, o: o, want: p.want, held: others, offset: offset, replaces: true, report: &Insufficient{Object: o, Statuses: make(map[int]int)}}
	if p.spec.Parity {
		s.spares = p.Verify.Spares()
	}
	if local := p.localArchive(o); local != nil && !p.want.Has(local.index) && !others.Has(local.index) {
		local.off = offset // with a flat XOR code it may have been of no use before
		s.take(local)
	}
	s.ask(ctx, p.peers)
	var good *survivor
	for _, found := range s.found {
		if good == nil && p.suffices(others.With(found.index)) {
			good = found
		} else {
			closeAll([]*survivor{found})
		}
	}
	if good == nil {
		return nil, errors.New("no other archive suffices")
	}
	p.note(s.report.Answers)
	return good, nil
}

// suffices reports whether the archives make what is wanted, and can be compared if they have to be.
func (p *replacer) suffices(have codec.Set) bool {
	plan, err := p.object.Code.Plan(have, p.want)
	return err == nil && (!p.spec.Parity || codec.SetOf(plan.In()...).Minus(p.object.Code.Checked(have)) == codec.SetOf())
}

// unmask finds who is wrong of survivors that contradict each other: it reads them once more, with one more to tell if there is one, and compares their
// MD5s with their ETags. No byte of it goes anywhere. nil: there is no contradiction any more; *pipeline.Inconsistent: it can not be told.
func (r *Rebuilder) unmask(ctx context.Context, acct *slab.Account, o *Object, peers []Peer, want codec.Set, spare bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sources, etag, err := r.survivors(ctx, o, peers, want, 2)
	if err != nil || etag != "" {
		for _, s := range sources {
			closeAll([]*survivor{s.(*survivor)})
		}
		return err
	}
	spec := &pipeline.Spec{
		Code: o.Code, Segment: o.Segment, Size: o.Size, Sources: sources, Spare: spare, Stripes: 1, VerifyMD5: true, Parity: true,
		Want: []pipeline.Want{{Index: want.Indexes()[0], Sink: nowhere{}}},
	}
	_, err = pipeline.Run(ctx, acct, spec)
	return err
}

// nowhere is a sink that keeps nothing.
type nowhere struct{}

func (nowhere) WriteFragment([]byte) error   { return nil }
func (nowhere) Commit(context.Context) error { return nil }
func (nowhere) Abort(error)                  {}
