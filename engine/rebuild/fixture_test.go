package rebuild

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/codec"
	"imping/engine/pipeline"
	"imping/engine/rebuild/peers"
	"imping/io/diskfile"
	"imping/io/slab"
	"imping/netfast"
	"imping/swift/objhash"
	"imping/swift/policy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var hasher = objhash.Hasher{Suffix: []byte("salt")}

const (
	segment = 4096
	part    = 3
	name    = "/a/c/an öbject"

	single = segment - 100      // bytes of an object of one segment
	multi  = 6*segment + 17     // and of several
	large  = 3*(96<<10) + 12345 // with lgSegment: slots too large to be read in turn, archives longer than socket buffers
)

var (
	isal  = codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2}
	plain = codec.Scheme{Type: "liberasurecode_rs_vand", K: 4, M: 2}
	wide  = codec.Scheme{Type: "isa_l_rs_vand", K: 10, M: 4}
)

// lab is one object whose archives are on a local disk and on peers.
type lab struct {
	t       testing.TB
	code    *codec.Code
	pol     *policy.Policy
	obj     *peers.Object
	disk    peers.Disk
	files   *diskfile.Manager
	path    string // of the local archive
	local   *diskfile.Object
	object  *Object
	nodes   []*peers.Peer // by index; nil: the local one
	targets []*target
	r       *Rebuilder
	pool    *slab.Pool
	notes   []Answer
	cutBy   int64 // for TestAnArchiveIsProvedAgain
}

func policyOf(s codec.Scheme) *policy.Policy {
	return &policy.Policy{Index: 1, Name: "ec", Type: policy.ErasureCoding, ECType: s.Type, Data: s.K, Parity: s.M, SegmentSize: segment, Duplication: 1}
}

// newLab puts the archive of index local on a disk and each other, but those that are
// wanted, on a peer of its own. The peers of the wanted ones hold nothing.
func newLab(t testing.TB, s codec.Scheme, size int64, local int, wanted ...int) *lab {
	t.Helper()
	l := newLabWith(t, s, size, local, nil, wanted...)
	l.open()
	return l
}

// newLabWith may spoil the metadata of the local archive, which it does not open.
func newLabWith(t testing.TB, s codec.Scheme, size int64, local int, spoil func(map[string]string), wanted ...int) *lab {
	t.Helper()
	code, err := codec.New(s)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, code: code, pol: policyOf(s)}
	l.obj = peers.NewObject(t, code, l.pol, name, size)
	l.disk = peers.Disk{Root: t.TempDir(), Device: "sda", Policy: l.pol, Hasher: hasher}
	l.path = l.disk.Put(t, part, l.obj, local, spoil)
	l.files = diskfile.NewManager(diskfile.Config{Devices: l.disk.Root, Policy: l.pol, Hasher: hasher, ReclaimAge: diskfile.DefaultReclaimAge})
	client := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 10 * time.Second})
	t.Cleanup(client.Close)
	l.r = &Rebuilder{Client: client}
	var mu sync.Mutex
	l.r.Note = func(a []Answer) {
		mu.Lock()
		defer mu.Unlock()
		l.notes = append(l.notes, a...)
	}
	l.pool = slab.New(16 << 20)
	l.nodes = make([]*peers.Peer, code.N())
	for i := range l.nodes {
		if i == local {
			continue
		}
		l.nodes[i] = peers.New(t, "sdb", hasher)
		if !slices.Contains(wanted, i) {
			l.nodes[i].Hold(l.obj.Archive(i))
		}
	}
	for _, i := range wanted {
		l.targets = append(l.targets, &target{index: i})
	}
	return l
}

// open opens the local archive and makes the Object.
func (l *lab) open() {
	l.t.Helper()
	local, err := l.files.Open("sda", part, l.hash(), -1, false)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { local.Close() }) // each that was opened, not the last one over and over
	l.local = local
	if l.object, err = NewObject(l.code, l.pol, part, l.local); err != nil {
		l.t.Fatal(err)
	}
}

// peer is the node of an index as Run is given it.
func (l *lab) peer(index int) Peer {
	return Peer{ID: 100 + index, Addr: l.nodes[index].Addr, Device: l.nodes[index].Device, Index: index}
}

// peers are all nodes but the targets'.
func (l *lab) peers() []Peer {
	var list []Peer
	for i, n := range l.nodes {
		if n != nil && !slices.ContainsFunc(l.targets, func(t *target) bool { return t.index == i }) {
			list = append(list, l.peer(i))
		}
	}
	return list
}

// spoil replaces the archive of a node by a changed one.
func (l *lab) spoil(index int, change func(a *peers.Archive)) {
	a := l.obj.Archive(index)
	change(a)
	p := peers.New(l.t, "sdb", hasher)
	p.Hold(a)
	l.nodes[index] = p
}

// asked is how many GETs the nodes were sent.
func (l *lab) asked() (n int) {
	for _, p := range l.nodes {
		if p != nil {
			n += len(p.Gets())
		}
	}
	return n
}

func (l *lab) run(ctx context.Context) (pipeline.Result, error) {
	l.t.Helper()
	targets := make([]Target, len(l.targets))
	for i, t := range l.targets {
		targets[i] = t
	}
	return l.runFor(ctx, l.peers(), targets, false)
}

// runFor is a Run after which nothing may be held any more.
func (l *lab) runFor(ctx context.Context, from []Peer, targets []Target, spare bool) (pipeline.Result, error) {
	l.t.Helper()
	reserve := 2 * pipeline.StripeSize(l.code, max(segment, l.obj.Segment), 2)
	acct, err := l.pool.Open(context.Background(), reserve)
	if err != nil {
		l.t.Fatal(err)
	}
	res, err := l.r.Run(ctx, acct, l.object, from, targets, spare)
	acct.Close()
	if st := l.pool.Stats(); st.InUse != 0 || st.Promised != 0 {
		l.t.Errorf("memory is still held: %+v", st)
	}
	for peer, load := range l.r.loads.m {
		if n := load.Load(); n != 0 {
			l.t.Errorf("%d bytes are still counted at peer %v", n, peer)
		}
	}
	return res, err
}

// good checks that each target has the original archive, committed once.
func (l *lab) good() {
	l.t.Helper()
	for _, t := range l.targets {
		if !t.committed {
			l.t.Errorf("fragment %d was not committed: aborted with %v", t.index, t.aborts)
		} else if !bytes.Equal(t.buf, l.obj.Frags[t.index]) {
			l.t.Errorf("fragment %d: %d bytes committed that are not the original %d", t.index, len(t.buf), len(l.obj.Frags[t.index]))
		}
	}
}

// bad checks that no target has anything whole.
func (l *lab) bad() {
	l.t.Helper()
	for _, t := range l.targets {
		if t.committed {
			l.t.Errorf("fragment %d was committed", t.index)
		}
		if l.obj.Size > 0 && len(t.buf) >= len(l.obj.Frags[t.index]) {
			l.t.Errorf("all %d bytes of fragment %d were handed out", len(t.buf), t.index)
		}
	}
}

// again makes new targets and a new Object that inherits from the old one, as the next
// session has them.
func (l *lab) again() {
	l.t.Helper()
	earlier := l.object
	l.open()
	l.object.Inherit(earlier)
	for i, t := range l.targets {
		l.targets[i] = &target{index: t.index}
	}
}

// target records what one sink after the other was given.
type target struct {
	index     int
	failAt    int    // the write, from 1, that fails
	commit    error  // of Commit
	gate      func() // before each write
	buf       []byte
	writes    int
	sinks     int
	etag      string // as the last sink was asked for
	started   bool
	committed bool
	aborts    []error
}

var errTarget = errors.New("the target is gone")

func (t *target) Index() int    { return t.index }
func (t *target) Started() bool { return t.started }
func (t *target) Sink(etag string) pipeline.Sink {
	t.sinks++
	t.etag = etag
	return &memory{target: t}
}

type memory struct {
	*target
	over bool
}

func (m *memory) WriteFragment(slot []byte) error {
	if m.over || m.committed {
		panic("a write after the end")
	}
	if m.gate != nil {
		m.gate()
	}
	if m.writes++; m.writes == m.failAt {
		return errTarget
	}
	m.started = true
	m.buf = append(m.buf, slot...)
	return nil
}

func (m *memory) Commit(context.Context) error {
	if m.over || m.committed {
		panic("two ends")
	}
	m.over = true
	if m.target.commit != nil {
		return m.target.commit
	}
	m.started, m.committed = true, true
	return nil
}

func (m *memory) Abort(cause error) {
	if m.over || m.committed {
		panic("two ends")
	}
	m.over = true
	m.aborts = append(m.aborts, cause)
}

// flip changes one byte of a file and leaves its metadata alone.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at] ^ 0x20}, at); err != nil {
		t.Fatal(err)
	}
}

func mentions(answers []Answer, p Peer, why string) bool {
	return slices.ContainsFunc(answers, func(a Answer) bool { return a.Peer == p && strings.Contains(a.Why, why) })
}

// again0 is again for a local archive that does not open any more.
func (l *lab) again0() {
	for i, t := range l.targets {
		l.targets[i] = &target{index: t.index}
	}
}

// run0 is run without the check of the loads.
func (l *lab) run0(ctx context.Context) (pipeline.Result, error) {
	acct, err := l.pool.Open(bg, 2*pipeline.StripeSize(l.code, segment, 2))
	if err != nil {
		l.t.Fatal(err)
	}
	defer acct.Close()
	return l.r.Run(ctx, acct, l.object, l.peers(), []Target{l.targets[0]}, false)
}

// hurry makes the client give up soon.
func (l *lab) hurry() {
	l.r.Client = netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 300 * time.Millisecond})
	l.t.Cleanup(l.r.Client.Close)
}

func newPool(budget int64) *slab.Pool { return slab.New(budget) }

// cut shortens a file.
func cut(t testing.TB, path string, by int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-by); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) hash() string { return objhash.Hex(hasher.Object(name)) }
