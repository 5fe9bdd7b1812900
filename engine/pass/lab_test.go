package pass

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/codec"
	"imping/engine/rebuild/peers"
	"imping/io/diskfile"
	"imping/netfast/fake"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var hasher = objhash.Hasher{Suffix: []byte("salt")}

const (
	segment = 4096
	single  = 3000            // bytes of an object of one segment
	multi   = 4*segment + 100 // and of several
	power   = 2               // partitions 0 to 3
	own     = 1               // fragment index of the local device; left, right and far are 0, 2 and 4

	left, right, far = 0, 2, 4
)

// lab is one node with one device, sda, and a peer for every other place of a 4+2
// partition. Partition 3 does not belong to the local device.
type lab struct {
	limit time.Duration // of a job's tries, unless 0
	stall time.Duration // patience with disks, unless 0
	over  chan struct{} // of stalled_test.go: nothing hangs any more
	slow  time.Duration // slowLimit, unless 0
	t     testing.TB
	code  *codec.Code
	pol   *policy.Policy
	cfg   Config
	disk  peers.Disk
	files *diskfile.Manager
	peers []*peers.Peer // by index; nil: the local device
	spare *peers.Peer   // the only handoff, thus the first: for fragment 0
	log   *recorder
	pass  *Pass       // of the last run
	begun func(*Pass) // called before each run, unless nil
}

func newLab(t testing.TB) *lab {
	t.Helper()
	code, err := codec.New(codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, code: code, log: &recorder{}, peers: make([]*peers.Peer, code.N())}
	l.pol = &policy.Policy{Index: 1, Name: "ec", Type: policy.ErasureCoding, ECType: "isa_l_rs_vand", Data: 4, Parity: 2, SegmentSize: segment, Duplication: 1, Default: true}
	l.disk = peers.Disk{Root: t.TempDir(), Device: "sda", Policy: l.pol, Hasher: hasher}
	if err := os.MkdirAll(filepath.Join(l.disk.Root, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.files = diskfile.NewManager(diskfile.Config{Devices: l.disk.Root, Policy: l.pol, Hasher: hasher, ReclaimAge: diskfile.DefaultReclaimAge, CommitWindow: time.Minute})
	for i := range l.peers {
		if i != own {
			l.peers[i] = peers.New(t, fmt.Sprintf("sd%d", i), hasher)
		}
	}
	l.spare = peers.New(t, "spare", hasher)
	l.cfg = Config{
		SwiftDir: t.TempDir(), Devices: l.disk.Root, RingIP: "127.0.0.1", Port: 1,
		Swift:       &policy.Swift{HashSuffix: hasher.Suffix, Policies: []*policy.Policy{l.pol}},
		Concurrency: 1, ConnTimeout: 10 * time.Second, NodeTimeout: 10 * time.Second, HTTPTimeout: 20 * time.Second,
		ReclaimAge: diskfile.DefaultReclaimAge, CommitWindow: time.Minute, StatsInterval: time.Hour,
		MemoryBudget: 64 << 20, Log: l.log,
	}
	l.writeRing(nil)
	return l
}

// writeRing writes the policy's ring: device i has the fragments i, the local one is the
// own-th, and the spare device replaces it in partition 3.
func (l *lab) writeRing(change func(ring map[string]any)) {
	l.t.Helper()
	n := len(l.peers)
	var devs []any
	for i, p := range append(slices.Clone(l.peers), l.spare) {
		d := map[string]any{"id": i, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": 1, "device": "sda", "meta": ""}
		if p != nil {
			host, port, _ := net.SplitHostPort(p.Addr)
			number, _ := strconv.Atoi(port)
			d["ip"], d["port"], d["device"] = host, number, p.Device
		}
		devs = append(devs, d)
	}
	ring := map[string]any{"byteorder": "little", "devs": devs, "part_shift": 32 - power, "replica_count": n}
	if change != nil {
		change(ring)
	}
	text, err := json.Marshal(ring)
	if err != nil {
		l.t.Fatal(err)
	}
	b := binary.BigEndian.AppendUint16([]byte("R1NG"), 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	for i := range ring["replica_count"].(int) {
		for part := range 1 << power {
			id := i
			if i == own && part == 3 {
				id = n
			}
			b = binary.LittleEndian.AppendUint16(b, uint16(id))
		}
	}
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	gz.Write(b) // a buffer takes all
	gz.Close()
	if err := os.WriteFile(filepath.Join(l.cfg.SwiftDir, "object-1.ring.gz"), out.Bytes(), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// object puts an object's archives on the local disk and on all peers but the missing.
func (l *lab) object(part int, name string, size int64, missing ...int) *peers.Object {
	l.t.Helper()
	o := peers.NewObject(l.t, l.code, l.pol, name, size)
	l.disk.Put(l.t, part, o, own, nil)
	l.hold(o, missing...)
	return o
}

func (l *lab) hold(o *peers.Object, missing ...int) {
	for i, p := range l.peers {
		if p != nil && !slices.Contains(missing, i) {
			p.Hold(o.Archive(i))
		}
	}
}

// only leaves these peers as they are; all others want nothing.
func (l *lab) only(wanting ...int) {
	for i, p := range l.peers {
		if p != nil && !slices.Contains(wanting, i) {
			p.Want(func(*peers.Session, string) string { return "" })
		}
	}
}

// agree makes peers answer REPLICATE with what the local device has, each of its own
// index: there is nothing to sync with them.
func (l *lab) agree(indexes ...int) {
	for _, i := range indexes {
		l.peers[i].Hashes(func(part int, _ *fake.Conn) []byte {
			hashes, _, err := l.files.SuffixHashes("sda", part, nil, true)
			if err != nil {
				l.t.Error(err)
			}
			for _, e := range hashes {
				if sum := e.Frags.Hash(own); sum != "" {
					e.Frags = suffix.Frags{{Index: i, Hash: sum}}
				}
			}
			return peers.OK(hashes.Encode())
		})
	}
}

func (l *lab) run(ctx context.Context) Left {
	l.t.Helper()
	p, err := New(l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	defer p.Close()
	p.firstWait = time.Millisecond
	if l.limit > 0 {
		p.jobLimit = l.limit
	}
	if l.stall > 0 {
		p.stallAfter, p.stallAtEnd = l.stall, l.stall
	}
	if l.slow > 0 {
		p.slowLimit = l.slow
	}
	l.pass = p
	if l.begun != nil {
		l.begun(p)
	}
	result := p.Run(ctx)
	if l.stall > 0 {
		return result // what hangs may hold what it held: see idle
	}
	l.idle()
	return result
}

// idle checks that the last pass holds nothing any more.
func (l *lab) idle() {
	l.t.Helper()
	p := l.pass
	if st := p.pool.Stats(); st.InUse != 0 || st.Promised != 0 || st.Waiting != 0 {
		l.t.Errorf("memory is still held: %+v", st)
	}
	for target, c := range p.targets.m {
		if len(c) != 0 {
			l.t.Errorf("%s is still locked", target)
		}
	}
}

// want checks what a run left and counted: "rebuilt=2 left.objects=1"; what is not named
// must be 0, unless it is one of those that say how much was looked at.
func (l *lab) want(result Left, counts string) {
	l.t.Helper()
	g := &l.pass.Progress
	got := map[string]int64{
		"reverted": g.Reverted.Load(), "purged": g.Purged.Load(),
		"rebuilt": g.Rebuilt.Load(), "metadata": g.Metadata.Load(), "tombstones": g.Tombstones.Load(),
		"retried": g.SessionsRetried.Load(), "corrupt": g.Corrupt.Load(), "refused": g.Refused.Load(),
		"wanted": g.ObjectsWanted.Load(), "synced": g.SuffixesSynced.Load(), "sessions": g.Sessions.Load(),
		"left.objects": result.Objects, "left.partitions": result.Partitions, "left.devices": result.Devices,
		"left.policies": result.Policies, "left.handoffs": result.Handoffs,
	}
	if result.Interrupted {
		got["interrupted"] = 1
	}
	expected := make(map[string]int64)
	for _, f := range strings.Fields(counts) {
		k, v, _ := strings.Cut(f, "=")
		n, err := strconv.ParseInt(v, 10, 64)
		if _, ok := got[k]; err != nil || !ok && k != "interrupted" {
			l.t.Fatalf("no count: %q", f)
		}
		expected[k] = n
	}
	optional := []string{"wanted", "synced", "sessions", "retried", "refused"}
	bad := false
	for k, n := range got {
		if m, ok := expected[k]; n != m && (ok || !slices.Contains(optional, k)) {
			l.t.Errorf("%s is %d, want %d", k, n, m)
			bad = true
		}
	}
	if expected["interrupted"] == 1 && !result.Interrupted {
		l.t.Error("not interrupted")
	}
	if bad {
		l.t.Logf("log:\n%s", l.log)
	}
}

// received checks that a peer has exactly these archives, byte for byte.
func (l *lab) received(index int, objects ...*peers.Object) {
	l.t.Helper()
	got := make(map[string][]byte)
	for _, r := range l.peers[index].Stored() {
		if r.Method == "PUT" {
			if r.Fields["X-Object-Sysmeta-Ec-Frag-Index"] != strconv.Itoa(index) {
				l.t.Errorf("peer %d was sent %s with %v", index, r.Path, r.Fields)
			}
			got[r.Path] = r.Body
		}
	}
	for _, o := range objects {
		path := quoted(o.Name)
		if body, ok := got[path]; !ok {
			l.t.Errorf("peer %d was not sent %s", index, path)
		} else if !bytes.Equal(body, o.Frags[index]) {
			l.t.Errorf("peer %d was sent other bytes of %s", index, path)
		}
		delete(got, path)
	}
	for path := range got {
		l.t.Errorf("peer %d was sent %s too", index, path)
	}
}

func quoted(name string) string { return strings.ReplaceAll(name, " ", "%20") }

// at is a time some seconds after yesterday.
func at(seconds int) timestamp.Timestamp {
	return timestamp.Timestamp{Raw: base.Raw + int64(seconds)*1e5}
}

var base = peers.Yesterday()

func (l *lab) logged(text string) bool { return strings.Contains(l.log.String(), text) }

// recorder keeps what is logged, one line each, the level's letter first.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) add(level, format string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, level+" "+fmt.Sprintf(format, args...))
}
func (r *recorder) Debugf(format string, args ...any) { r.add("D", format, args) }
func (r *recorder) Infof(format string, args ...any)  { r.add("I", format, args) }
func (r *recorder) Warnf(format string, args ...any)  { r.add("W", format, args) }
func (r *recorder) Errorf(format string, args ...any) { r.add("E", format, args) }
func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// tree lists all below a folder with sizes, but for the files that hashing keeps.
func tree(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if name == "hashes.pkl" || name == "hashes.invalid" || strings.HasPrefix(name, ".lock") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		size := info.Size()
		if d.IsDir() {
			size = 0
		}
		fmt.Fprintf(&b, "%s %v %d\n", path, info.Mode(), size)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
