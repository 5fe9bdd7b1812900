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
		return s.obj.path
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
	s.load.Add(-s.obj.Length)
	return s.resp.Close()
}

// loads counts the bytes of the archives that this process is reading from each peer.
type loads struct {
	mu sync.RWMutex
	m  map[[2]string]*atomic.Int64 // by address and device
}

func (l *loads) of(p *Peer) *atomic.Int64 {
	key := [2]string{p.Addr, p.Device}
	l.mu.RLock()
	load := l.m[key]
	l.mu.RUnlock()
	if load != nil {
		return load
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = make(map[[2]string]*atomic.Int64)
	}
	if l.m[key] == nil {
		l.m[key] = new(atomic.Int64)
	}
	return l.m[key]
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
// as it is, with its MD5 (rules 3 and 6), else enough survivors, so many of them to spare
// as are to be had.
func (r *Rebuilder) open(ctx context.Context, o *Object, peers []Peer, want codec.Set, spares int) (sources []pipeline.Source, etag string, err error) {
	if s := r.living(ctx, o, peers, want); s != nil {
		if o.Moves || r.decodable(ctx, o, peers, want) {
			return []pipeline.Source{s}, s.etag, nil
		}
		closeAll([]*survivor{s})
	}
	return r.survivors(ctx, o, peers, want, spares)
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
		if s, _ := r.ask(ctx, o, p, 0, nil, func(s *survivor) bool { return want.Has(s.index) && s.etag != "" }); s != nil {
			return s
		}
	}
	return nil
}

// decodable reports whether what is held, with archives that peers say they have, makes the object. An archive
// that is of no use would replace an older one at the receiver, which may be of some (rule 6).
func (r *Rebuilder) decodable(ctx context.Context, o *Object, peers []Peer, held codec.Set) bool {
	if s := r.localArchive(o); s != nil {
		held = held.With(s.index)
	}
	queue := r.candidates(o, peers, codec.Set{}, held, &Insufficient{Object: o, Statuses: make(map[int]int)})
	for !decodes(o.Code, held) {
		some := queue[:min(len(queue), max(1, o.Code.K()-held.Len()))]
		if queue = queue[len(some):]; len(some) == 0 || ctx.Err() != nil {
			return false
		}
		said := make([]*survivor, len(some))
		var wg sync.WaitGroup
		for i, p := range some {
			wg.Go(func() {
				resp, _, err := fragment.Head(ctx, r.Client, r.request(o, p, 0, nil))
				said[i], _, _ = r.judge(o, asked{peer: p, resp: resp, err: err}, codec.Set{}, codec.Set{})
			})
		}
		wg.Wait()
		for _, s := range said {
			if s != nil {
				held = held.With(s.index)
			}
		}
	}
	return true
}

// decodes reports whether fragments make the data.
func decodes(code *codec.Code, held codec.Set) bool {
	var lost codec.Set
	for i := range code.K() {
		if !held.Has(i) {
			lost = lost.With(i)
		}
	}
	if lost.Len() == 0 {
		return true
	}
	_, err := code.Plan(held, lost)
	return err == nil
}

// ask asks one peer for its archive from a byte on and takes what suits.
func (r *Rebuilder) ask(ctx context.Context, o *Object, p *Peer, offset int64, exclude []int, suits func(*survivor) bool) (s *survivor, why string) {
	load := r.loads.of(p)
	load.Add(o.Length)
	resp, err := r.get(ctx, o, p, offset, exclude)
	if s, _, why = r.judge(o, asked{peer: p, resp: resp, err: err}, codec.SetOf(), codec.SetOf()); s != nil && suits(s) {
		return s, ""
	}
	load.Add(-o.Length)
	if resp != nil {
		resp.Close()
	}
	return nil, why
}

func (r *Rebuilder) get(ctx context.Context, o *Object, p *Peer, offset int64, exclude []int) (*fragment.Response, error) {
	return fragment.Get(ctx, r.Client, r.request(o, p, offset, exclude))
}

func (r *Rebuilder) request(o *Object, p *Peer, offset int64, exclude []int) *fragment.Request {
	return &fragment.Request{
		Addr: p.Addr, Device: p.Device, Partition: o.Partition, Name: o.Name, Policy: o.Policy.Index,
		Timestamp: o.Data, Exclude: exclude, Offset: offset, Length: o.Length,
	}
}

// localArchive is the local archive as a survivor, or nil when it is none. Where bytes
// are verified one without an ETag is of no use; nothing proves that it is bad.
func (r *Rebuilder) localArchive(o *Object) *survivor {
	if o.local == nil {
		return nil
	}
	etag := o.local.DataMeta["ETag"]
	if o.LocalFault() != nil || etag == "" && r.Verify != VerifyOff {
		return nil
	}
	return &survivor{index: o.Index % o.Code.N(), etag: etag, obj: o}
}

// survivors opens archives of distinct index, none of them wanted, that the wanted ones
// can be made from: the local one first, then peers, fewest outstanding bytes first (with
// a flat XOR code those whose archives make the shortest sum), each refusal replaced at once by
// the next peer (rules 1 to 3). It asks no more peers than it needs, spares among them. Where one of them
// turns out to hold the wanted archive itself, that one is returned alone, with its MD5.
func (r *Rebuilder) survivors(ctx context.Context, o *Object, peers []Peer, want codec.Set, spares int) ([]pipeline.Source, string, error) {
	s := &search{Rebuilder: r, o: o, want: want, spares: spares, report: &Insufficient{Object: o, Want: want.Indexes()[0], Statuses: make(map[int]int)}}
	if o.LocalFault() != nil {
		s.report.Statuses[0]++
	} else if local := r.localArchive(o); local != nil && !want.Has(local.index) {
		s.take(local)
		s.report.OK++
	}
	s.ask(ctx, peers)
	s.report.Have = len(s.found)
	if s.living != nil {
		if decodes(o.Code, s.held.Or(want)) || r.decodable(ctx, o, peers, s.held.Or(want)) {
			closeAll(s.found)
			return []pipeline.Source{s.living}, s.living.etag, nil
		}
		closeAll([]*survivor{s.living})
	}
	plan, err := o.Code.Plan(s.held, want)
	if err != nil {
		closeAll(s.found)
		if err := ctx.Err(); err != nil {
			return nil, "", context.Cause(ctx)
		}
		s.report.Lack = err
		return nil, "", s.report
	}
	if len(plan.In()) < o.Code.K() && !r.decodable(ctx, o, peers, s.held) { // a flat exclusive or: see decodable
		closeAll(s.found)
		if err := ctx.Err(); err != nil {
			return nil, "", context.Cause(ctx)
		}
		return nil, "", s.report
	}
	r.note(s.report.Answers)
	needed := codec.SetOf(plan.In()...)
	if spares > 0 {
		needed = needed.Or(o.Code.Checked(s.held))
	}
	sources := make([]pipeline.Source, 0, len(s.found))
	for _, found := range s.found {
		if needed.Has(found.index) {
			sources = append(sources, found)
		} else {
			closeAll([]*survivor{found})
		}
	}
	return sources, "", nil
}

// search looks for archives that, with those held, the wanted ones can be made from.
type search struct {
	*Rebuilder
	o      *Object
	want   codec.Set
	held   codec.Set // indexes that are at hand
	spares int       // how many more than are needed are looked for
	offset int64     // of the first byte to be read of each

	replaces bool // what is found takes the place of a source that failed (rule 7): a living copy is of no use

	found  []*survivor
	living *survivor // holds the wanted archive itself
	report *Insufficient
}

// take holds an archive.
func (s *search) take(found *survivor) {
	s.held = s.held.With(found.index)
	s.found = append(s.found, found)
}

// ask asks peers, several at once, until what is held will do or all have been asked.
func (s *search) ask(ctx context.Context, peers []Peer) {
	o, want, report := s.o, s.want, s.report
	queue := s.candidates(o, peers, want, s.held, report)
	batch := fragment.NewBatch(ctx, s.Client, len(queue))
	var sent []asked
	ask := func(p *Peer, exclude []int, again bool) {
		s.loads.of(p).Add(o.Length)
		sent = append(sent, asked{peer: p, again: again})
		batch.Get(s.request(o, p, s.offset, exclude))
	}
	pending, asking := 0, make(map[*Peer]bool, len(queue))
	for {
		for s.living == nil && len(queue) > 0 && ctx.Err() == nil {
			next := nextPeers(o.Code, want, s.held, s.spares, asking, queue)
			if len(next) == 0 {
				break
			}
			for _, p := range next {
				ask(p, nil, false)
				asking[p] = true
				pending++
			}
			queue = slices.DeleteFunc(queue, func(p *Peer) bool { return asking[p] })
		}
		if pending == 0 {
			return
		}
		n, resp, err := batch.Next()
		pending--
		a := sent[n]
		a.resp, a.err = resp, err
		if err == nil {
			a.status = resp.Status
		}
		delete(asking, a.peer)
		found, duplicate, why := s.judge(o, a, want, s.held)
		switch {
		case found != nil:
			s.take(found)
			if !a.again {
				report.OK++
			}
			continue
		case duplicate && !s.replaces && want.Len() == 1 && want.Has(a.resp.FragIndex) && a.resp.ETag != "" && s.living == nil:
			s.living = s.survivorAt(o, a)
			continue
		case duplicate && !a.again && s.living == nil:
			report.OK++
			exclude := append(s.held.Indexes(), want.Indexes()...)
			ask(a.peer, exclude, true)
			asking[a.peer] = true
			pending++
		default:
			report.Answers = append(report.Answers, Answer{Peer: *a.peer, Status: a.status, Why: why})
			if !a.again { // stock asks once
				report.count(a)
			}
		}
		s.loads.of(a.peer).Add(-o.Length)
		if a.resp != nil {
			a.resp.Close()
		}
	}
}

// nextPeers says which peers of the queue to ask beside those that are being asked, none if
// what is held and what is expected of those will do. K archives in sight are waited for,
// since no plan needs more, and with them the spares. What a peer holds may be other than what it should (rule 2):
// where all that is expected would not do, peers are asked in their order.
func nextPeers(code *codec.Code, want, held codec.Set, spares int, asking map[*Peer]bool, queue []*Peer) []*Peer {
	room := code.K() + spares - held.Len() - len(asking)
	if len(asking) > 0 && room <= 0 {
		return nil
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
		return queue[:1]
	case len(chosen) == 0 && spares > 0:
		chosen = code.ChooseSpares(expected, offered, want)
		if len(chosen) == 0 && spares > 1 && expected.Len() < code.K()+spares { // one more, to tell which of them is wrong
			if i := slices.IndexFunc(offered, func(i int) bool { return !expected.Has(i) && !want.Has(i) }); i >= 0 {
				chosen = offered[i : i+1]
			}
		}
	}
	chosen = chosen[:min(len(chosen), max(room, 1))]
	next := make([]*Peer, len(chosen))
	for i, index := range chosen {
		next[i] = queue[slices.Index(offered, index)]
	}
	return next
}

// slack is how many more archives, of the length of the one that is asked for, than another a peer may be sending and still be
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
	bytes := slack * max(1, o.Length)
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].last != list[j].last {
			return list[j].last
		}
		if a, b := list[i].load/bytes, list[j].load/bytes; a != b {
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
	if a.resp.Status != 200 && a.resp.Status != 206 { // that only where it was asked for
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
	case resp.Total != o.Length:
		return nil, false, fmt.Sprintf("%d bytes, wanted %d", resp.Total, o.Length)
	case r.Verify != VerifyOff && resp.ETag == "":
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
