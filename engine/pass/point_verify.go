package pass

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"imping/codec"
	"imping/engine/rebuild"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/suffix"
)

// PointVerdict is what Verify found of the reference.
type PointVerdict struct {
	Good     int    `json:"good"`    // archives that are whole, and contradict no other
	Decodes  bool   `json:"decodes"` // the object was decoded, and its MD5 is its Ec-Etag
	Compared bool   `json:"compared"`
	Torn     int64  `json:"torn"`  // segments whose fragments contradict each other, and nobody can say which of them is wrong
	Bears    int    `json:"bears"` // how many good archives more may be lost, whichever they are; -1: it can not be decoded
	Why      string `json:"why,omitempty"`
}

// Verify looks at one object on all devices, as Repair does, and changes nothing: all archives of its newest version that can be
// decoded are read side by side, each is compared with its ETag and its headers, all with each other, segment by segment,
// and the object that they make with its own MD5. A stock server moves an archive aside that it has served whole and found to be bad.
// The state is PointWhole if all primaries have what belongs there and nothing is wrong with it.
func (p *Pass) Verify(ctx context.Context, r *PointRequest) (*PointReport, error) {
	return p.point(ctx, r, (*point).verify)
}

func (pt *point) verify(ctx context.Context) (*PointReport, error) {
	for _, n := range pt.nodes {
		n.describe()
	}
	v := &PointVerdict{Bears: -1}
	pt.report.Verdict = v
	if at, ok := pt.isDeleted(); ok {
		return pt.tellDeleted(pt.deletedAt(at), "a pass brings the tombstone here"), nil
	}
	if pt.ref = pt.agreed(); pt.ref == nil {
		return pt.verdict(pt.tooFew()), nil
	}
	pt.report.Reference = &PointReference{Timestamp: pt.ref.data.Internal(), ECEtag: pt.ref.ecEtag, Source: "the archives that agree on it"}
	for again := true; again; { // what was bad may be why others seemed to contradict each other
		again = pt.compare(ctx, v)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	pt.tellProved()
	copies := pt.copies() // what nothing is known against was read whole
	for _, n := range copies {
		v.Good += n
	}
	pt.report.Have = pt.ref.indexes().Len()
	v.Bears = pt.code.Bears(copies)
	switch {
	case v.Bears < 0:
		return pt.verdict("too few archives are whole: " + pt.tooFew()), nil
	case !v.Decodes:
		return pt.verdict("what the archives make is not the object: " + v.Why), nil
	}
	if _, _, _, err := pt.agree(); err != nil { // on metadata, and which is the newest
		pt.note("%v", err)
		pt.report.Left++
	}
	return pt.verdict(""), nil
}

// verdict ends a report of Verify. why is there if the object can not be decoded.
func (pt *point) verdict(why string) *PointReport {
	for _, n := range pt.nodes {
		r := n.report
		i := slices.IndexFunc(n.held, func(h *holding) bool { return h.problem != nil || h.odd })
		switch {
		case n.err != nil:
			r.Action, r.Left = n.unreachable(), !n.handoff
		case i >= 0 && n.held[i].problem != nil:
			r.Action, r.Left = n.held[i].problem.Error(), true
		case i >= 0:
			r.Action, r.Left = "its metadata is not that of the others", true
		case n.handoff && len(n.held) > 0:
			r.Action = "belongs elsewhere" // a pass brings it there
		case n.handoff:
		case len(n.held) == 0 && pt.ref != nil && n.deleted == pt.ref.data:
			r.Action, r.Left = tied, true
		case len(n.held) == 0 && !n.deleted.IsZero():
			r.Action, r.Left = "holds a tombstone", true
		case len(n.held) == 0:
			r.Action, r.Left = fmt.Sprintf("lacks fragment %d", n.Index), true
		case pt.ref == nil:
			r.Action, r.Left = "of no version that can be decoded", true
		case pt.complete(n):
			r.Action = "good"
		case slices.ContainsFunc(n.held, func(h *holding) bool { return pt.isRef(h) && h.index == n.Index && !h.durable }):
			r.Action, r.Left = "not durable", true
		case slices.ContainsFunc(n.held, func(h *holding) bool { return pt.isRef(h) && h.index == n.Index }):
			r.Action, r.Left = "lacks the newest metadata", true
		case slices.ContainsFunc(n.held, pt.isRef):
			r.Action, r.Left = fmt.Sprintf("lacks fragment %d", n.Index), true
		default:
			r.Action, r.Left = "other version", true
		}
	}
	if why != "" {
		pt.report.State, pt.report.Reason = PointHopeless, why
	}
	if v := pt.report.Verdict; v.Torn > 0 {
		pt.note("in %d segments the archives contradict each other, and nobody can say which is wrong", v.Torn)
		pt.report.Left++
	}
	return pt.finish()
}

// reading is an archive of the reference that is being compared with others.
type reading struct {
	*opened
	h    *holding
	sum  hash.Hash
	slot []byte
	now  []byte // the fragment of the present segment
	bad  error  // the first header that is wrong
}

// compare reads all archives that nothing is known against, and says what is wrong with each and with all of them together. again: one
// proved bad while others were compared with it, so that they have to be once more.
func (pt *point) compare(ctx context.Context, v *PointVerdict) (again bool) {
	var list []*reading
	defer func() {
		for _, r := range list {
			r.close()
		}
	}()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range pt.ref.held {
		if h.problem != nil {
			continue
		}
		wg.Go(func() {
			o, err := pt.open(ctx, h)
			if err != nil {
				h.problem = err
				return
			}
			mu.Lock()
			defer mu.Unlock()
			list = append(list, &reading{opened: o, h: h, sum: md5.New()})
		})
	}
	wg.Wait()
	*v = PointVerdict{Bears: -1}
	if len(list) == 0 {
		return false
	}
	slices.SortFunc(list, func(a, b *reading) int { return a.h.index - b.h.index }) // the order in which they came is nobody's
	o := usual(list)
	pt.report.Reference.Size = o.Size
	whole := md5.New()
	var buf []byte
	v.Decodes = true
	for off := int64(0); off < o.Size; off += int64(o.Segment) {
		segment := int(min(int64(o.Segment), o.Size-off))
		number := off / int64(o.Segment)
		for _, r := range list {
			wg.Go(func() { r.next(segment, number) })
		}
		wg.Wait()
		if ctx.Err() != nil {
			return false
		}
		if !slices.ContainsFunc(list, func(r *reading) bool { return r.h.problem == nil }) { // a size that is a lie would keep us here
			v.Decodes, v.Why = false, fmt.Sprintf("segment %d: no archive can be read", number)
			break
		}
		payloads, torn := make([][]byte, pt.code.N()), false
		for _, r := range list {
			switch p := payloads[r.h.index]; {
			case r.h.problem != nil || r.bad != nil:
			case p == nil:
				payloads[r.h.index] = r.now[codec.HeaderSize:]
			case !bytes.Equal(p, r.now[codec.HeaderSize:]):
				torn = true
			}
		}
		switch verdict, err := pt.code.Verify(payloads); {
		case err != nil: // none to spare
		case verdict.Consistent:
			v.Compared = true
		case verdict.Liars == (codec.Set{}):
			v.Compared, torn = true, true
		default:
			v.Compared = true
			for _, r := range list {
				if verdict.Liars.Has(r.h.index) && r.h.problem == nil {
					r.h.problem = fmt.Errorf("bad: segment %d contradicts the other archives", number)
					payloads[r.h.index] = nil
				}
			}
		}
		if torn {
			v.Torn++
		}
		if !v.Decodes {
			continue
		}
		if buf == nil {
			buf = make([]byte, pt.code.K()*pt.code.PayloadSize(segment))
		}
		data, err := pt.code.Decode(buf[:pt.code.K()*pt.code.PayloadSize(segment)], segment, payloads)
		if err != nil {
			v.Decodes, v.Why = false, fmt.Sprintf("segment %d: %v", number, err)
			continue
		}
		whole.Write(data)
	}
	for _, r := range list {
		if r.h.problem == nil {
			r.h.corrupt, r.h.problem = r.end()
			r.h.proved = r.h.problem == nil
		}
		again = again || r.h.problem != nil
	}
	if got := hex.EncodeToString(whole.Sum(nil)); v.Decodes && got != pt.ref.ecEtag {
		v.Decodes, v.Why = false, fmt.Sprintf("its MD5 is %s, Ec-Etag says %s", got, pt.ref.ecEtag)
	}
	return again && (v.Torn > 0 || !v.Decodes) && pt.code.Bears(pt.copies()) >= 0
}

// usual is what most archives say of the object's size and segments. Others have a problem.
func usual(list []*reading) *rebuild.Object {
	type shape struct {
		size    int64
		segment int
	}
	count, best := map[shape]int{}, list[0]
	for _, r := range list {
		of := shape{r.object.Size, r.object.Segment}
		count[of]++
		if count[of] > count[shape{best.object.Size, best.object.Segment}] {
			best = r
		}
	}
	for _, r := range list {
		if o := r.object; o.Size != best.object.Size || o.Segment != best.object.Segment {
			r.h.problem = fmt.Errorf("bad: its metadata is of %d bytes in segments of %d, that of others of %d and %d", o.Size, o.Segment, best.object.Size, best.object.Segment)
		}
	}
	return best.object
}

// copies counts the archives of the reference that nothing is known against, by index.
func (pt *point) copies() []int {
	list := make([]int, pt.code.N())
	for _, h := range pt.ref.held {
		if h.fit() {
			list[h.index]++
		}
	}
	return list
}

// next reads the fragment of the next segment.
func (r *reading) next(segment int, number int64) {
	if r.h.problem != nil {
		return
	}
	size := r.object.Code.FragmentSize(segment)
	if len(r.slot) < size {
		r.slot = make([]byte, size)
	}
	r.now = r.slot[:size]
	if _, err := r.read(r.now); err != nil {
		r.h.problem = fmt.Errorf("cannot be read: %w", err)
		return
	}
	r.sum.Write(r.now)
	if r.bad == nil {
		if err := proveHeader(r.object, r.h.index, segment, r.now); err != nil {
			r.bad = fmt.Errorf("bad: fragment header of segment %d: %w", number, err)
		}
	}
}

// end says what is wrong with an archive that was read to its end.
func (r *reading) end() (corrupt bool, err error) {
	if got := hex.EncodeToString(r.sum.Sum(nil)); got != r.h.etag {
		return true, fmt.Errorf("bad: MD5 is %s, ETag says %s", got, r.h.etag)
	}
	return r.bad != nil, r.bad
}

// Held gives the objects of which local devices hold something, each once: those of a policy (nil: of all erasure-code policies), of some
// devices (nil: of all) and some partitions (nil: of all). An error is what could not be listed; others follow. Nothing is
// cleaned up on the way.
func (p *Pass) Held(only *policy.Policy, devices []string, partitions []int) iter.Seq2[*PointRequest, error] {
	return func(yield func(*PointRequest, error) bool) {
		for _, pl := range p.policies {
			if only != nil && pl.pol != only {
				continue
			}
			var before []string // devices that were looked at
			for _, dev := range pl.local {
				if devices != nil && !slices.Contains(devices, dev.Device) {
					continue
				}
				if !pl.heldOn(dev.Device, before, partitions, yield) {
					return
				}
				before = append(before, dev.Device)
			}
		}
	}
}

// heldOn gives the objects of a device that none of those before has. It says whether to go on.
func (pl *place) heldOn(dev string, before []string, partitions []int, yield func(*PointRequest, error) bool) bool {
	parts, _, err := pl.files.Partitions(dev)
	if err != nil {
		return yield(nil, err)
	}
	for _, part := range parts {
		if partitions != nil && !slices.Contains(partitions, part) {
			continue
		}
		suffixes, err := os.ReadDir(pl.files.PartitionPath(dev, part))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !yield(nil, err) {
			return false
		}
		for _, s := range suffixes {
			if !suffix.Valid(s.Name()) {
				continue
			}
			hashes, err := os.ReadDir(filepath.Join(pl.files.PartitionPath(dev, part), s.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !yield(nil, err) {
				return false
			}
			for _, h := range hashes {
				if _, err := objhash.Parse(h.Name()); err != nil || objhash.Suffix(h.Name()) != s.Name() {
					continue
				}
				seen := slices.ContainsFunc(before, func(other string) bool {
					_, err := os.Lstat(filepath.Join(pl.files.PartitionPath(other, part), s.Name(), h.Name()))
					return err == nil
				})
				if !seen && !yield(&PointRequest{Hash: h.Name(), Policy: pl.pol}, nil) {
					return false
				}
			}
		}
	}
	return true
}
