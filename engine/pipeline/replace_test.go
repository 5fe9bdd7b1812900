package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"imping/codec"
)

// spares is an Opener that has all archives but the wanted ones, in memory.
type spares struct {
	*job
	none   bool // it finds nothing
	same   bool // it finds the same archive again
	spoil  func(*source)
	failed []*SourceError
	dead   codec.Set
}

func (p *spares) Replace(_ context.Context, failed *SourceError, others codec.Set) (Source, error) {
	p.failed, p.dead = append(p.failed, failed), p.dead.With(failed.Source.Index())
	if p.none {
		return nil, errors.New("nobody left")
	}
	var want codec.Set
	for _, w := range p.spec.Want {
		want = want.With(w.Index)
	}
	for i := range p.code.N() {
		have := others.With(i)
		plan, err := p.code.Plan(have, want)
		if others.Has(i) || want.Has(i) || !p.same && p.dead.Has(i) || err != nil || p.same != (i == failed.Source.Index()) {
			continue
		}
		if p.spec.Parity && codec.SetOf(plan.In()...).Minus(p.code.Checked(have)) != codec.SetOf() {
			continue
		}
		s := p.archives.source(i)
		s.off = int(failed.Segment) * p.code.FragmentSize(p.segment)
		if p.spoil != nil {
			p.spoil(s)
		}
		p.sources = append(p.sources, s)
		return s, nil
	}
	return nil, errors.New("nobody left")
}

// parity makes the job one whose stripes are compared: all that is there is read.
func (j *job) parity() *job {
	j.spec.VerifyMD5, j.spec.Parity = false, true
	var have, want codec.Set
	for _, s := range j.sources {
		have = have.With(s.index)
	}
	for _, w := range j.spec.Want {
		want = want.With(w.Index)
	}
	offered := make([]int, j.code.N())
	for i := range offered {
		offered[i] = i
	}
	for _, i := range j.code.ChooseSpares(have, offered, want) {
		s := j.archives.source(i)
		j.sources, j.spec.Sources = append(j.sources, s), append(j.spec.Sources, s)
	}
	return j
}

// swappable is a job without MD5, from more archives than it needs where not any K are enough.
func (a *archives) swappable(parity bool) *job {
	j := a.job(2)
	if strings.HasPrefix(a.code.Scheme().Type, "flat") {
		s := a.source(6)
		j.sources, j.spec.Sources = append(j.sources, s), append(j.spec.Sources, s)
	}
	if parity {
		return j.parity()
	}
	j.spec.VerifyMD5 = false
	return j
}

// replaceable makes the job one in which sources are replaced.
func (j *job) replaceable() *spares {
	p := &spares{job: j}
	j.spec.Opener = p
	return p
}

var swapped = []codec.Scheme{
	{Type: "isa_l_rs_vand", K: 4, M: 3},
	{Type: "liberasurecode_rs_vand", K: 4, M: 3},
	{Type: "flat_xor_hd_3", K: 5, M: 5},
}

// rule 7: whichever source dies, at whichever segment, the object is rebuilt, and no other byte is read twice.
func TestASourceThatDiesIsReplacedWhereItStopped(t *testing.T) {
	for _, s := range swapped {
		code := newCode(t, s.Type, s.K, s.M)
		for _, size := range []int64{100, 3*segment + 17} {
			a := encode(code, segment, size)
			for _, parity := range []bool{false, true} {
				begin := func() (*job, *spares) {
					j := a.swappable(parity)
					return j, j.replaceable()
				}
				j, _ := begin()
				for dead := range j.sources {
					frag := code.FragmentSize(segment)
					for at := 0; at < len(a.frag[0]); at += frag {
						for _, more := range []int{0, 17, 80, frag - 1} {
							j, p := begin()
							d := j.sources[dead]
							if at+more >= len(d.data) {
								continue
							}
							d.data = d.data[:at+more]
							living := slices.Clone(j.sources)
							res, err := j.run(t, bg)
							if err != nil {
								if s.Type == "flat_xor_hd_3" && len(p.failed) == 1 {
									continue // no single other does
								}
								t.Fatalf("%v, parity %v, %d bytes, source %d ends at %d: %v", s, parity, size, dead, at+more, err)
							}
							if res.Replaced != 1 || len(p.failed) != 1 || p.failed[0].Segment != int64(at/frag) || p.failed[0].Corrupt {
								t.Fatalf("replaced %d, %v", res.Replaced, p.failed)
							}
							if want := int64(len(living)*len(a.frag[0]) + more); res.BytesIn != want {
								t.Fatalf("%v, source %d ends at %d: read %d bytes, want %d", s, dead, at+more, res.BytesIn, want)
							}
						}
					}
				}
			}
		}
	}
}

// rules 5 and 7: a header that is wrong is found before its stripe is handed on, with MD5 off.
func TestASourceWhoseHeaderIsWrongIsReplaced(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 3)
	for seg := range int64(4) {
		for _, parity := range []bool{false, true} {
			a := encode(code, segment, 3*segment+100)
			j := a.job(2)
			if j.spec.VerifyMD5 = false; parity {
				j.parity()
			}
			p := j.replaceable()
			d := j.sources[1]
			d.data = slices.Clone(d.data)
			d.data[seg*int64(code.FragmentSize(segment))+9] ^= 1
			res, err := j.run(t, bg)
			if err != nil || res.Replaced != 1 || !p.failed[0].Corrupt || p.failed[0].Segment != seg {
				t.Fatalf("segment %d: %+v, %v, %v", seg, res, p.failed, err)
			}
		}
	}
}

// A stripe may be made from others than the one before, and the one after.
func TestSourcesMayDieOneAfterTheOther(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 8)
	frag := code.FragmentSize(segment)
	for _, stripes := range []int{1, 2, 5} {
		for first := range 4 {
			for second := range 4 {
				j := encode(code, segment, 9*segment+7).job(3, 11)
				j.spec.VerifyMD5, j.spec.Stripes = false, stripes
				p := j.replaceable()
				j.sources[first].data = j.sources[first].data[:2*frag+5]
				dying := 0
				p.spoil = func(s *source) {
					if dying++; dying == 1 {
						s.data = s.data[:5*frag+1]
					}
				}
				if second != first {
					j.sources[second].data = j.sources[second].data[:3*frag]
				}
				res, err := j.run(t, bg)
				if want := len(p.failed); err != nil || res.Replaced != want || want < 2 {
					t.Fatalf("%d and %d die: %d replaced, %v", first, second, res.Replaced, err)
				}
			}
		}
	}
}

// rule 7: under md5 only the same archive goes on, hashed as one.
func TestUnderMD5OnlyTheSameArchiveGoesOn(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	frag := code.FragmentSize(segment)
	a := encode(code, segment, 4*segment)
	for seg := range 4 {
		begin := func() (*job, *spares) {
			j := a.job(5)
			j.sources[1].data = j.sources[1].data[:seg*frag+30]
			return j, j.replaceable()
		}
		j, p := begin()
		p.same = true
		if res, err := j.run(t, bg); err != nil || res.Replaced != 1 {
			t.Fatalf("segment %d: %+v, %v", seg, res, err)
		}

		j, p = begin() // another archive
		_, err := j.run(t, bg)
		var e *SourceError
		if !errors.As(err, &e) || e.Source.Index() != 1 || e.Corrupt || !strings.Contains(err.Error(), "can not take its place") {
			t.Fatalf("%v", err)
		}
		if last := p.sources[len(p.sources)-1]; last.closed != 1 {
			t.Fatal("what was refused is open")
		}

		j, p = begin() // the same, but it has rotted: whose part is wrong nobody knows
		p.same = true
		p.spoil = func(s *source) { s.data = slices.Clone(s.data); s.data[len(s.data)-1] ^= 1 }
		_, err = j.run(t, bg)
		if got := liars(t, err); !slices.Equal(got, []int{1, 1}) {
			t.Fatalf("%v: %v", got, err)
		}
	}
}

func TestWithNobodyLeftTheRunEndsWithTheSourceThatDied(t *testing.T) {
	for _, stripes := range []int{1, 3} {
		for _, size := range []int64{100, 8 * segment} {
			j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(5)
			j.spec.VerifyMD5, j.spec.Stripes = false, stripes
			p := j.replaceable()
			p.none = true
			j.sources[2].data = j.sources[2].data[:len(j.sources[2].data)-1]
			if size > segment {
				j.sources[0].stall, j.sources[0].at = make(chan struct{}), 7*j.code.FragmentSize(segment) // and another one's read ends, too
			}
			_, err := j.run(t, bg)
			var e *SourceError
			if !errors.As(err, &e) || e.Source.Index() != 2 || !strings.Contains(err.Error(), "nobody left") {
				t.Fatal(err)
			}
		}
	}
}

// The end of the run ends a search under way.
func TestCancelEndsAReplacement(t *testing.T) {
	why := errors.New("session broke")
	ctx, cancel := context.WithCancelCause(bg)
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 8*segment).job(5)
	j.spec.VerifyMD5 = false
	j.spec.Opener = openerFunc(func(ctx context.Context, _ *SourceError, _ codec.Set) (Source, error) {
		cancel(why)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	j.sources[1].data = j.sources[1].data[:100]
	if _, err := j.run(t, ctx); !errors.Is(err, why) {
		t.Fatal(err)
	}
}

type openerFunc func(context.Context, *SourceError, codec.Set) (Source, error)

func (f openerFunc) Replace(ctx context.Context, e *SourceError, others codec.Set) (Source, error) {
	return f(ctx, e, others)
}

// rule 5: with parity nothing of a stripe with a wrong byte is handed on, wherever the byte is.
func TestAWrongByteIsFoundByParityBeforeItsStripeIsHandedOn(t *testing.T) {
	for _, s := range swapped {
		code := newCode(t, s.Type, s.K, s.M)
		a := encode(code, segment, 2*segment+117)
		frag := code.FragmentSize(segment)
		for at := 0; at < len(a.frag[0]); at += 61 {
			if at%frag < codec.HeaderSize {
				continue
			}
			for liar := range a.swappable(true).sources {
				j := a.swappable(true)
				d := j.sources[liar]
				d.data = slices.Clone(d.data)
				d.data[at] ^= 0x10
				_, err := j.run(t, bg)
				doubt, ok := errors.AsType[*Inconsistent](err)
				switch {
				case ok && doubt.Segment != int64(at/frag):
					t.Fatalf("%v: byte %d: %v", s, at, err)
				case ok:
				case s.Type == "flat_xor_hd_3" && err == nil: // a source that is not needed, and which no other says anything of
				case s.Type == "flat_xor_hd_3" && slices.Equal(liars(t, err), []int{d.index}): // there is enough to tell
				default:
					t.Fatalf("%v: byte %d of %d: %v", s, at, d.index, err)
				}
				if err != nil && j.sinks[0].buf.Len() > at/frag*frag {
					t.Fatalf("%v: %d bytes were handed on, byte %d is wrong", s, j.sinks[0].buf.Len(), at)
				}
			}
		}
	}
}

// rule 5: with a second spare it is told who lies, also where its MD5 is right.
func TestParityWithTwoSparesNamesTheLiar(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 3)
	a := encode(code, segment, 3*segment)
	for _, md5 := range []bool{false, true} {
		for liar := range 6 {
			j := a.job(6)
			for _, i := range []int{4, 5} {
				s := a.source(i)
				j.sources, j.spec.Sources = append(j.sources, s), append(j.spec.Sources, s)
			}
			j.spec.VerifyMD5, j.spec.Parity, j.spec.Stripes = md5, true, 1
			d := j.sources[liar]
			d.data = slices.Clone(d.data)
			d.data[len(d.data)-3] ^= 1
			d.etag = sumOf(d.data)
			_, err := j.run(t, bg)
			if got := liars(t, err); !slices.Equal(got, []int{liar}) {
				t.Fatalf("MD5 %v: %v, %v", md5, got, err)
			}
		}
	}
}

// With MD5 beside it a contradiction that nobody can be blamed for is found at the end at the latest, and MD5 has the first word.
func TestMD5TellsWhoLiesWhereParityOnlySeesThatSomebodyDoes(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	a := encode(code, segment, 3*segment)
	for liar := range 5 {
		for _, rot := range []bool{true, false} {
			j := a.job(5).parity()
			j.spec.VerifyMD5 = true
			d := j.sources[liar]
			d.data = slices.Clone(d.data)
			d.data[100] ^= 1
			if !rot { // it was written so
				d.etag = sumOf(d.data)
			}
			_, err := j.run(t, bg)
			doubt, _ := errors.AsType[*Inconsistent](err)
			if got := liars(t, err); rot && !slices.Equal(got, []int{liar}) || !rot && (doubt == nil || doubt.Segment != 0) {
				t.Fatalf("rot %v: %v: %v", rot, got, err)
			}
		}
	}
}

func TestParityWithoutASpareIsRefusedBeforeAnyRead(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	a := encode(code, segment, 3*segment)
	for _, wanted := range []int{5, 0} {
		j := a.job(wanted)
		j.spec.VerifyMD5, j.spec.Parity = false, true
		if wanted == 0 { // a living copy
			s := a.source(0)
			j.sources, j.spec.Sources = []*source{s}, []Source{s}
		}
		if res, err := j.run(t, bg); !errors.Is(err, codec.ErrNoSpare) || res.BytesIn != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
}
