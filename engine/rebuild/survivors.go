package rebuild

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"imping/codec"
	"imping/engine/pipeline"
	"imping/netfast/fragment"
)

// survivor is a fragment archive that was proved to belong to the object. It is a
// pipeline.Source: the local archive from disk, a peer's over HTTP.
type survivor struct {
	index int
	etag  string
	peer  *Peer // nil: the local archive
	obj   *Object
	off   int64 // next byte of the local archive
	resp  *fragment.Response
	load  *atomic.Int64
}

func (s *survivor) Index() int   { return s.index }
func (s *survivor) ETag() string { return s.etag }

func (s *survivor) String() string {
	if s.peer == nil {
		return s.obj.local.Path
	}
	return fmt.Sprintf("%s/%d%s", s.peer, s.obj.Partition, s.obj.Name)
}

func (s *survivor) ReadFragment(slot []byte) (int, error) {
	if s.resp != nil {
		return s.resp.ReadFragment(slot)
	}
	n, err := s.obj.local.ReadAt(slot, s.off)
	s.off += int64(n)
	if n == len(slot) {
		err = nil
	}
	return n, err
}

// Interrupt makes a blocked read of a peer return; reads from disk are short.
func (s *survivor) Interrupt(cause error) {
	if s.resp != nil {
		s.resp.Interrupt(cause)
	}
}

// Close ends the response. The local archive stays open: it is the object's.
func (s *survivor) Close() error {
	if s.resp == nil {
		return nil
	}
	s.load.Add(-1)
	return s.resp.Close()
}

// loads counts the reads that this process has outstanding at each peer.
type loads struct{ m sync.Map } // addr/device -> *atomic.Int64

func (l *loads) of(p *Peer) *atomic.Int64 {
	v, ok := l.m.Load(p.String())
	if !ok {
		v, _ = l.m.LoadOrStore(p.String(), new(atomic.Int64))
	}
	return v.(*atomic.Int64)
}

// asked is one peer's answer, on its way to the goroutine that picks.
type asked struct {
	peer   *Peer
	again  bool // asked a second time, duplicates excluded
	resp   *fragment.Response
	status int
	err    error
}

// open opens what the pipeline needs: a living copy of the wanted archive, to be streamed
// as it is, with its MD5 (rules 3 and 6), else enough survivors.
func (r *Rebuilder) open(ctx context.Context, o *Object, peers []Peer, want codec.Set) (sources []pipeline.Source, etag string, err error) {
	if s := r.living(ctx, o, peers, want); s != nil {
		return []pipeline.Source{s}, s.etag, nil
	}
	return r.survivors(ctx, o, peers, want)
}

// living looks for the wanted archive where the ring says that a duplicate of it is: with
// ec_duplication_factor on the local disk, or at a peer. One fragment is moved then
// instead of K.
func (r *Rebuilder) living(ctx context.Context, o *Object, peers []Peer, want codec.Set) *survivor {
	if want.Len() != 1 {
		return nil
	}
	if s := r.localArchive(o); s != nil && want.Has(s.index) && s.etag != "" {
		return s
	}
	for i := range peers {
		p := &peers[i]
		if !want.Has(p.Index) || o.avoid.peer(p.ID) != nil || r.Client.Suspect(p.Addr, p.Device) != nil || r.trust.last(p) {
			continue
		}
		load := r.loads.of(p)
		load.Add(1)
		resp, err := fragment.Get(ctx, r.Client, &fragment.Request{
			Addr: p.Addr, Device: p.Device, Partition: o.Partition, Name: o.Name, Policy: o.Policy.Index, Timestamp: o.Data,
		})
		if s, _, _ := r.judge(o, asked{peer: p, resp: resp, err: err}, codec.SetOf(), codec.SetOf()); s != nil && want.Has(s.index) && s.etag != "" {
			return s
		}
		load.Add(-1)
		if resp != nil {
			resp.Close()
		}
	}
	return nil
}

// localArchive is the local archive as a survivor, or nil when it is none. Where bytes
// are verified one without an ETag is of no use; nothing proves that it is bad.
func (r *Rebuilder) localArchive(o *Object) *survivor {
	if o.local == nil {
		return nil
	}
	etag := o.local.DataMeta["ETag"]
	if o.LocalFault() != nil || etag == "" && r.Verify {
		return nil
	}
	return &survivor{index: o.Index % o.Code.N(), etag: etag, obj: o}
}

// survivors opens archives of distinct index, none of them wanted, that the wanted ones
// can be made from: the local one first, then peers, fewest outstanding reads first (with
// a flat XOR code those whose archives make the shortest sum), each refusal replaced at once by
// the next peer (rules 1 to 3). It asks no more peers than it needs. Where one of them
// turns out to hold the wanted archive itself, that one is returned alone, with its MD5.
func (r *Rebuilder) survivors(ctx context.Context, o *Object, peers []Peer, want codec.Set) ([]pipeline.Source, string, error) {
	held := codec.SetOf()
	list := make([]*survivor, 0, o.Code.K())
	report := &Insufficient{Object: o, Want: want.Indexes()[0], Statuses: make(map[int]int)}
	if o.LocalFault() != nil {
		report.Statuses[0]++
	} else if local := r.localArchive(o); local != nil && !want.Has(local.index) {
		held = held.With(local.index)
		list = append(list, local)
		report.OK++
	}
	var living *survivor

	queue := r.candidates(o, peers, want, held, report)
	results := make(chan asked, len(queue)+1) // never blocks a goroutine that outlives us
	ask := func(p *Peer, exclude []int, again bool) {
		r.loads.of(p).Add(1)
		go func() {
			resp, err := fragment.Get(ctx, r.Client, &fragment.Request{
				Addr: p.Addr, Device: p.Device, Partition: o.Partition, Name: o.Name, Policy: o.Policy.Index,
				Timestamp: o.Data, Exclude: exclude,
			})
			a := asked{peer: p, again: again, resp: resp, err: err}
			if err == nil {
				a.status = resp.Status
			}
			results <- a
		}()
	}
	pending, asking := 0, make(map[*Peer]bool, len(queue))
	for {
		for living == nil && len(queue) > 0 {
			next := nextPeer(o.Code, want, held, asking, queue)
			if next < 0 {
				break
			}
			ask(queue[next], nil, false)
			asking[queue[next]] = true
			queue = slices.Delete(queue, next, next+1)
			pending++
		}
		if pending == 0 {
			break
		}
		a := <-results
		pending--
		delete(asking, a.peer)
		s, duplicate, why := r.judge(o, a, want, held)
		switch {
		case s != nil:
			held = held.With(s.index)
			list = append(list, s)
			if !a.again {
				report.OK++
			}
			continue
		case duplicate && want.Len() == 1 && want.Has(a.resp.FragIndex) && a.resp.ETag != "" && living == nil:
			living = r.survivorAt(o, a)
			continue
		case duplicate && !a.again && living == nil:
			report.OK++
			exclude := append(held.Indexes(), want.Indexes()...)
			ask(a.peer, exclude, true)
			asking[a.peer] = true
			pending++
		default:
			report.Answers = append(report.Answers, Answer{Peer: *a.peer, Status: a.status, Why: why})
			if !a.again { // stock asks once
				report.count(a)
			}
		}
		r.loads.of(a.peer).Add(-1)
		if a.resp != nil {
			a.resp.Close()
		}
	}
	report.Have = len(list)
	if living != nil {
		closeAll(list)
		return []pipeline.Source{living}, living.etag, nil
	}
	plan, err := o.Code.Plan(held, want)
	if err != nil {
		closeAll(list)
		if err := ctx.Err(); err != nil {
			return nil, "", context.Cause(ctx)
		}
		report.Lack = err
		return nil, "", report
	}
	r.note(report.Answers)
	sources := make([]pipeline.Source, 0, len(list))
	for _, s := range list {
		if slices.Contains(plan.In(), s.index) {
			sources = append(sources, s)
		} else {
			closeAll([]*survivor{s})
		}
	}
	return sources, "", nil
}

// nextPeer says which peer of the queue to ask beside those that are being asked, -1 if
// what is held and what is expected of those will do. K archives in sight are waited for,
// since no plan needs more. What a peer holds may be other than what it should (rule 2):
// where all that is expected would not do, peers are asked in their order.
func nextPeer(code *codec.Code, want, held codec.Set, asking map[*Peer]bool, queue []*Peer) int {
	if len(asking) > 0 && held.Len()+len(asking) >= code.K() {
		return -1
	}
	expected := held
	for p := range asking {
		expected = expected.With(p.Index)
	}
	offered := make([]int, len(queue))
	for i, p := range queue {
		offered[i] = p.Index
	}
	chosen, err := code.Choose(expected, offered, want)
	switch {
	case err != nil:
		return 0
	case len(chosen) == 0:
		return -1
	}
	return slices.Index(offered, chosen[0])
}

// slack is how many more outstanding reads than another a peer may have and still be
// taken for its index: low indexes (data, then the parity that is a plain XOR) make the
// cheapest plans, and over the partitions of a ring they are spread over all devices.
const slack = 4

// candidates are the peers worth asking: the least busy first, among equals those of low
// index; peers whose index is wanted or held come last, since they most likely have
// nothing new, and so do those that were in trouble lately.
func (r *Rebuilder) candidates(o *Object, peers []Peer, want, held codec.Set, report *Insufficient) []*Peer {
	type candidate struct {
		p    *Peer
		last bool // asked only when all others have been
		load int64
	}
	var list []candidate
	seen := held
	for i := range peers {
		p := &peers[i]
		if cause := o.avoid.peer(p.ID); cause != nil {
			report.Answers = append(report.Answers, Answer{Peer: *p, Why: cause.Error()})
			report.Statuses[0]++
			continue
		}
		last := want.Has(p.Index) || seen.Has(p.Index) || r.Client.Suspect(p.Addr, p.Device) != nil || r.trust.last(p)
		list = append(list, candidate{p: p, last: last, load: r.loads.of(p).Load()})
		if !last {
			seen = seen.With(p.Index)
		}
	}
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].last != list[j].last {
			return list[j].last
		}
		if a, b := list[i].load/slack, list[j].load/slack; a != b {
			return a < b
		}
		return list[i].p.Index < list[j].p.Index
	})
	queue := make([]*Peer, len(list))
	for i, c := range list {
		queue[i] = c.p
	}
	return queue
}

// judge decides whether an answer is a survivor (rule 1): same data timestamp, same
// Ec-Etag, same length, an index of the code that is neither wanted nor held (rules 2, 3).
func (r *Rebuilder) judge(o *Object, a asked, want, held codec.Set) (s *survivor, duplicate bool, why string) {
	if a.err != nil {
		return nil, false, a.err.Error()
	}
	if a.resp.Status == 507 {
		r.trust.unmounted(a.peer)
	}
	if a.resp.Status != 200 {
		return nil, false, fmt.Sprintf("status %d", a.resp.Status)
	}
	resp, n := a.resp, o.Code.N()
	switch {
	case resp.Data.Compare(o.Data) != 0:
		return nil, false, fmt.Sprintf("timestamp %s, wanted %s", resp.Data.Internal(), o.Data.Internal())
	case resp.ECEtag != o.ECEtag:
		return nil, false, fmt.Sprintf("mixed Etag: %s, wanted %s", resp.ECEtag, o.ECEtag)
	case resp.FragIndex < 0 || resp.FragIndex >= n:
		return nil, false, fmt.Sprintf("invalid X-Object-Sysmeta-Ec-Frag-Index %d", resp.FragIndex)
	case resp.Length != o.Length:
		return nil, false, fmt.Sprintf("%d bytes, wanted %d", resp.Length, o.Length)
	case r.Verify && resp.ETag == "":
		return nil, false, "no ETag"
	case want.Has(resp.FragIndex) || held.Has(resp.FragIndex):
		return nil, true, fmt.Sprintf("fragment %d is wanted or held already", resp.FragIndex)
	}
	return r.survivorAt(o, a), false, ""
}

// survivorAt is an answer that was proved.
func (r *Rebuilder) survivorAt(o *Object, a asked) *survivor {
	return &survivor{index: a.resp.FragIndex, etag: a.resp.ETag, peer: a.peer, obj: o, resp: a.resp, load: r.loads.of(a.peer)}
}

func closeAll(list []*survivor) {
	for _, s := range list {
		s.Interrupt(context.Canceled)
		s.Close()
	}
}
