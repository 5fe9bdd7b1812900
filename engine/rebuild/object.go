package rebuild

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"imping/codec"
	"imping/io/diskfile"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// Object is what the local fragment archive (in a point repair also a peer's) says of an
// object: the reference that every survivor has to agree with (rule 1).
type Object struct {
	Code      *codec.Code
	Policy    *policy.Policy
	Partition int
	Hash      string              // hex
	Name      string              // /account/container/object, UTF-8
	Data      timestamp.Timestamp // of the .data file, offset included
	Durable   bool
	ECEtag    string // MD5 of the object, as the proxy computed it
	Size      int64  // bytes of the object
	Segment   int    // bytes of a segment
	Length    int64  // bytes of each fragment archive
	Index     int    // fragment index of the local archive

	local *diskfile.Object
	// Moves says that the local archive is to be brought to its home as it is: nobody asks for others.
	Moves bool

	path  string // of the local archive, for people
	avoid avoid
}

// NewObject reads the erasure-code metadata of an open local archive. The archive
// stays the caller's: he closes it after the last rebuild from it. The error names the
// file and the key that is missing or contradicts another.
func NewObject(code *codec.Code, pol *policy.Policy, partition int, local *diskfile.Object) (*Object, error) {
	o := &Object{
		Code: code, Policy: pol, Partition: partition,
		Hash: local.Hash, Name: local.Name, Data: local.Data, Length: local.Length, Index: local.FragIndex,
		Durable: local.Durable.Compare(local.Data) == 0,
		local:   local, path: local.Path,
	}
	if err := o.read(local.Path, local.DataMeta); err != nil {
		return nil, err
	}
	return o, nil
}

// Describe fills an Object that has no local archive from the metadata of one that a peer
// holds: Size, Segment and ECEtag. What was known before, Code, Index and Length among it,
// must fit. Errors are NewObject's.
func (o *Object) Describe(peer string, meta map[string]string) error { return o.read(peer, meta) }

// read takes what is told about the whole object from the metadata of an archive.
func (o *Object) read(path string, meta map[string]string) error {
	bad := func(key, value, why string) error {
		return fmt.Errorf("%s: metadata %s = %q: %s", path, key, value, why)
	}
	number := func(key string) (int64, error) {
		v, ok := meta[key]
		if !ok {
			return 0, fmt.Errorf("%s: metadata %s is missing", path, key)
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return 0, bad(key, v, "not a size")
		}
		return n, nil
	}
	var err error
	if o.Size, err = number(keySize); err != nil {
		return err
	}
	segment, err := number(keySegment)
	if err != nil {
		return err
	}
	if segment < 1 || segment > maxSegment {
		return bad(keySegment, strconv.FormatInt(segment, 10), "out of bounds")
	}
	o.Segment = int(segment)
	if o.ECEtag = meta[keyEtag]; o.ECEtag == "" {
		return fmt.Errorf("%s: metadata %s is missing", path, keyEtag)
	}
	index, err := number(KeyFragIndex)
	if err != nil {
		return err
	}
	if int(index)%o.Code.N() != o.Index%o.Code.N() {
		return bad(KeyFragIndex, meta[KeyFragIndex], fmt.Sprintf("the file name says %d", o.Index))
	}
	if want := o.Code.ArchiveSize(o.Size, o.Segment); want != o.Length {
		return fmt.Errorf("%s: %d bytes, but an object of %d bytes in segments of %d makes archives of %d bytes", path, o.Length, o.Size, o.Segment, want)
	}
	return nil
}

// Metadata keys of an erasure-coded .data file (Swift: proxy/controllers/obj.py).
const (
	KeyFragIndex = "X-Object-Sysmeta-Ec-Frag-Index"
	keySize      = "X-Object-Sysmeta-Ec-Content-Length"
	keyEtag      = "X-Object-Sysmeta-Ec-Etag"
	keySegment   = "X-Object-Sysmeta-Ec-Segment-Size"
)

// ECKeys are the keys of an archive's metadata that an Object is made from.
var ECKeys = []string{keySize, keySegment, keyEtag, KeyFragIndex}

// maxSegment bounds what one stripe may ask of the memory budget; Swift's default
// segment is 1 MiB.
const maxSegment = 256 << 20

// Peer is a device that may hold a fragment archive of the object.
type Peer struct {
	ID     int    // of the device in the ring
	Addr   string // replication_ip:replication_port
	Device string
	Index  int // the fragment index that belongs there
}

// NewPeer names a ring node as a peer of a policy.
func NewPeer(pol *policy.Policy, n ring.Node) Peer {
	addr := net.JoinHostPort(n.ReplicationIP, strconv.Itoa(n.ReplicationPort))
	return Peer{ID: n.ID, Addr: addr, Device: n.Device.Device, Index: pol.BackendIndex(n.Index)}
}

func (p Peer) String() string { return p.Addr + "/" + p.Device }

// avoid remembers the archives of one object that proved bad, over all tries.
type avoid struct {
	mu     sync.Mutex
	local  error
	peers  map[int]error // by device id
	all    error         // they contradict each other, and who is wrong can not be told
	doubts int           // contradictions that were not found again
}

func (a *avoid) despair(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = cause
}

// maxDoubts is how often survivors may contradict each other without that it is found out which of them lies.
const maxDoubts = 3

// doubt counts a contradiction that was not there any more when it was looked for. It reports that there were too
// many: the object is hopeless then, too.
func (a *avoid) doubt(cause error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.doubts++; a.doubts < maxDoubts {
		return false
	}
	a.all = cause
	return true
}

// add takes note of an archive, and reports whether it is news.
func (a *avoid) add(s *survivor, cause error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.peer == nil {
		known := a.local != nil
		a.local = cause
		return !known
	}
	if a.peers == nil {
		a.peers = make(map[int]error)
	}
	known := a.peers[s.peer.ID] != nil
	a.peers[s.peer.ID] = cause
	return !known
}

func (a *avoid) peer(id int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.peers[id]
}

// Prove reads an archive of the object from disk and says what is wrong with it, as
// Swift's server would when it serves it: bytes that can not be read, a fragment header
// that is none or not of this archive, an MD5 that is not the ETag. nil: nothing is.
// Swift: obj/diskfile.py, ECDiskFileReader.
func (o *Object) Prove(local *diskfile.Object) error {
	sum := md5.New()
	if _, err := io.CopyBuffer(sum, io.NewSectionReader(local, 0, local.Length), make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("%s: %w", local.Path, err)
	}
	if etag, ok := local.DataMeta["ETag"]; ok && !strings.EqualFold(etag, hex.EncodeToString(sum.Sum(nil))) {
		return fmt.Errorf("%s: MD5 is %x, ETag says %s", local.Path, sum.Sum(nil), etag)
	}
	head := make([]byte, codec.HeaderSize)
	for off := int64(0); off < local.Length; off += int64(o.Code.FragmentSize(o.Segment)) {
		if _, err := local.ReadAt(head, off); err != nil {
			return fmt.Errorf("%s: cannot read the fragment header at %d: %w", local.Path, off, err)
		}
		h, err := codec.ParseHeader(head)
		if err == nil && h.Index != o.Index%o.Code.N() {
			err = fmt.Errorf("index %d, want %d", h.Index, o.Index%o.Code.N())
		}
		if err != nil {
			return fmt.Errorf("%s: fragment header at %d: %w", local.Path, off, err)
		}
	}
	return nil
}

// LocalFault is why the local archive is no survivor, or nil. After the job the
// caller quarantines such an archive, if it is still there and Prove agrees (rule 4).
func (o *Object) LocalFault() error {
	o.avoid.mu.Lock()
	defer o.avoid.mu.Unlock()
	return o.avoid.local
}

// hopeless is why nothing can be made of the survivors, or nil.
func (o *Object) hopeless() error {
	o.avoid.mu.Lock()
	defer o.avoid.mu.Unlock()
	return o.avoid.all
}

// Avoiding reports how many archives of the object proved bad so far.
func (o *Object) Avoiding() int {
	o.avoid.mu.Lock()
	defer o.avoid.mu.Unlock()
	n := len(o.avoid.peers)
	if o.avoid.local != nil {
		n++
	}
	return n
}

// Faults says what was wrong with the archives of the object that proved bad.
func (o *Object) Faults() string {
	o.avoid.mu.Lock()
	defer o.avoid.mu.Unlock()
	var list []string
	if o.avoid.local != nil {
		list = append(list, o.avoid.local.Error())
	}
	for _, id := range slices.Sorted(maps.Keys(o.avoid.peers)) {
		list = append(list, o.avoid.peers[id].Error())
	}
	return strings.Join(list, "; ")
}

// Forget lets go of the local archive, after the last rebuild, and reports whether anything was learned of the
// object's archives that is worth to be kept for the next one.
func (o *Object) Forget() (learned bool) {
	o.local = nil
	return o.Avoiding() > 0 || o.hopeless() != nil || o.avoid.doubts > 0
}

// Inherit takes over what an earlier session learned of the same object's archives.
func (o *Object) Inherit(earlier *Object) {
	if earlier == nil || earlier.Data.Compare(o.Data) != 0 {
		return
	}
	earlier.avoid.mu.Lock()
	defer earlier.avoid.mu.Unlock()
	o.avoid.local = earlier.avoid.local
	o.avoid.peers = earlier.avoid.peers
	o.avoid.all = earlier.avoid.all
	o.avoid.doubts = earlier.avoid.doubts
}

// Insufficient is the error of an object that can not be rebuilt now: too few
// survivors agree with the local archive. Its numbers are those of the lines that stock
// writes then, but that the local archive and those that proved bad take part, too
// (Swift: obj/reconstructor.py, _handle_fragment_response, reconstruct_fa).
type Insufficient struct {
	Object   *Object
	Want     int         // the wanted index
	Have     int         // distinct useful indexes, the local one included
	OK       int         // answers 200 at the local timestamp, useful or not, the local archive included
	Others   []Bucket    // answers 200 at other timestamps, ascending
	Statuses map[int]int // other answers: how many of each status; 0 is no or an unusable answer
	Answers  []Answer
	Lack     error // of the code: which further fragments would help
}

// Bucket is what answered with one timestamp that is not the local one.
type Bucket struct {
	Data    timestamp.Timestamp
	ECEtag  string // of the first answer
	Have    int    // distinct indexes of this Ec-Etag, without the wanted one
	OK      int    // answers
	Durable bool   // someone says so

	held codec.Set
}

// count takes one answer that is no survivor.
func (e *Insufficient) count(a asked) {
	resp := a.resp
	if a.err != nil || resp.Status != 200 {
		e.Statuses[a.status]++
		return
	}
	if resp.FragIndex < 0 || resp.FragIndex >= e.Object.Code.N() || resp.Data.IsZero() || resp.ECEtag == "" {
		e.Statuses[0]++
		return
	}
	if resp.Data.Compare(e.Object.Data) == 0 {
		e.OK++
		return
	}
	i, found := slices.BinarySearchFunc(e.Others, resp.Data, func(b Bucket, t timestamp.Timestamp) int { return b.Data.Compare(t) })
	if !found {
		e.Others = slices.Insert(e.Others, i, Bucket{Data: resp.Data, ECEtag: resp.ECEtag})
	}
	b := &e.Others[i]
	b.OK++
	if resp.ECEtag != b.ECEtag {
		return
	}
	b.Durable = b.Durable || resp.Durable.Compare(resp.Data) == 0
	if resp.FragIndex != e.Want && !b.held.Has(resp.FragIndex) {
		b.held = b.held.With(resp.FragIndex)
		b.Have++
	}
}

func (e *Insufficient) Unwrap() error { return e.Lack }

func (e *Insufficient) Error() string {
	if e.Have >= e.Object.Code.K() {
		return fmt.Sprintf("%s: %d survivors, which do not make fragment %d", e.Object.Name, e.Have, e.Want)
	}
	return fmt.Sprintf("%s: %d of %d survivors for fragment %d", e.Object.Name, e.Have, e.Object.Code.K(), e.Want)
}

// Answer is what one peer said when asked for a fragment archive.
type Answer struct {
	Peer   Peer
	Status int    // HTTP status, 0 when there was none
	Why    string // why it is no survivor
}

// IsInsufficient reports whether err is one, and which.
func IsInsufficient(err error) (*Insufficient, bool) {
	var e *Insufficient
	ok := errors.As(err, &e)
	return e, ok
}
