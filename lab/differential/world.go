package differential

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"imping/codec"
	"imping/engine/rescue"
	"imping/lab/scenario"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// world is a cluster that is being drafted, and the truth about its objects.
type world struct {
	layout  *scenario.Layout
	now     time.Time // of the draft
	devices []string  // all of them
	draft   draft
	objects []*object
	gone    map[string]bool // devices that nothing more is to be done to
	scratch string          // a folder
	err     error           // what kept a step from being done
}

// object is one object and all that was ever stored of it.
type object struct {
	*scenario.Object
	code      *codec.Code
	name      string // /account/container/object
	hash      string
	part      int
	primaries []ring.Node
	handoffs  []ring.Node // all other devices, in the ring's order
	born      time.Time
	versions  []*version // oldest first
	spoiled   bool       // an archive of it was damaged
	touched   int        // for times that come only once
}

// version is what one PUT stored.
type version struct {
	at       timestamp.Timestamp
	size     int      // of the object
	archives [][]byte // by index
	sums     []string // SHA-256 of each
	metadata []map[string]string
	raw      [][]byte
}

const account = "AUTH_test"

// dir is the object's folder under a device.
func (o *object) dir() string {
	return path.Join(o.Policy.DataDir(), strconv.Itoa(o.part), objhash.Suffix(o.hash), o.hash)
}

func (o *object) newest() *version { return o.versions[len(o.versions)-1] }

// later is a time after all that befell the object so far.
func (o *object) later() time.Time {
	o.touched++
	return o.born.Add(time.Duration(o.touched) * time.Minute)
}

// earlier is a time before the object's, by d at least.
func (o *object) earlier(d time.Duration) time.Time {
	o.touched++
	return o.born.Add(-d - time.Duration(o.touched)*time.Second)
}

// dataName is the name of an archive.
func dataName(at timestamp.Timestamp, index int, durable bool) string {
	if durable {
		return fmt.Sprintf("%s#%d#d.data", at.Internal(), index)
	}
	return fmt.Sprintf("%s#%d.data", at.Internal(), index)
}

// newVersion encodes a body of that many bytes.
func (w *world) newVersion(o *object, r *rand.Rand, size int, when time.Time, user map[string]string) *version {
	segment := o.Policy.SegmentSize
	body := make([]byte, size)
	random := rand.NewChaCha8(sha256.Sum256(binarySeed(r.Uint64())))
	random.Read(body)
	sum := md5.Sum(body)
	v := &version{at: timestamp.FromTime(when), size: size}
	code := o.code
	v.archives = make([][]byte, code.N())
	fragments, payloads := make([][]byte, code.N()), make([][]byte, code.N())
	for rest := body; len(rest) > 0; {
		n := min(len(rest), segment)
		for i := range fragments {
			fragments[i] = make([]byte, code.FragmentSize(n))
			payloads[i] = fragments[i][codec.HeaderSize:]
		}
		code.Encode(rest[:n], payloads)
		for i, f := range fragments {
			h := code.Header(i, n)
			h.LibecVersion = rescue.DefaultLibec
			h.Put(f, codec.Zlib)
			v.archives[i] = append(v.archives[i], f...)
		}
		rest = rest[n:]
	}
	for i, a := range v.archives {
		archive := md5.Sum(a)
		order := []string{"X-Timestamp", "Content-Type", "Content-Length", "ETag", "name"}
		m := map[string]string{
			"X-Timestamp": v.at.Internal(), "Content-Type": "application/x-plume", "Content-Length": strconv.Itoa(len(a)),
			"ETag": hex.EncodeToString(archive[:]), "name": o.name,
			"X-Object-Sysmeta-Ec-Content-Length": strconv.Itoa(size),
			"X-Object-Sysmeta-Ec-Etag":           hex.EncodeToString(sum[:]),
			"X-Object-Sysmeta-Ec-Frag-Index":     strconv.Itoa(i),
			"X-Object-Sysmeta-Ec-Scheme":         o.Policy.Scheme(),
			"X-Object-Sysmeta-Ec-Segment-Size":   strconv.Itoa(segment),
		}
		for k, v := range user {
			m[k] = v
		}
		v.sums = append(v.sums, fingerprint(a))
		v.metadata = append(v.metadata, m)
		v.raw = append(v.raw, pickle.EncodeMetadata(m, order))
	}
	return v
}

func fingerprint(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func binarySeed(n uint64) []byte { return []byte(strconv.FormatUint(n, 16)) }

// put lays an archive down.
func (w *world) put(o *object, v *version, dev string, index int, durable bool) {
	if w.gone[dev] {
		return
	}
	w.draft[dev][path.Join(o.dir(), dataName(v.at, index, durable))] = &leaf{body: v.archives[index], raw: v.raw[index], written: v.at.Time()}
}

// putAll lays a version down where it belongs, in place of all that is older.
func (w *world) putAll(o *object, v *version, except map[string]bool) {
	for _, n := range o.primaries {
		if dev := n.Device.Device; !except[dev] {
			w.clear(o, dev)
			w.put(o, v, dev, o.Policy.BackendIndex(n.Index), true)
		}
	}
}

// tombstone lays one down.
func (w *world) tombstone(o *object, dev string, at time.Time) {
	t := timestamp.FromTime(at)
	m := map[string]string{"X-Timestamp": t.Internal(), "name": o.name}
	w.leave(o, dev, t.Internal()+".ts", m)
}

// meta lays a .meta file down; a content type has a time of its own.
func (w *world) meta(o *object, dev string, at time.Time, contentType time.Time, value string) {
	t := timestamp.FromTime(at)
	m := map[string]string{"X-Timestamp": t.Internal(), "name": o.name, "X-Object-Meta-Plume": value}
	name := t.Internal() + ".meta"
	if !contentType.IsZero() {
		c := timestamp.FromTime(contentType)
		m["Content-Type"], m["Content-Type-Timestamp"] = "application/x-"+value, c.Internal()
		name = timestamp.EncodePair(t, c) + ".meta"
	}
	w.leave(o, dev, name, m)
}

func (w *world) leave(o *object, dev, name string, m map[string]string) {
	if !w.gone[dev] {
		at, _ := timestamp.Parse(m["X-Timestamp"])
		w.draft[dev][path.Join(o.dir(), name)] = &leaf{raw: pickle.EncodeMetadata(m, []string{"X-Timestamp", "name"}), written: at.Time()}
	}
}

// clear removes what a device has of the object.
func (w *world) clear(o *object, dev string) { w.removeUnder(dev, o.dir()) }

func (w *world) removeUnder(dev, folder string) {
	for name := range w.draft[dev] {
		if name == folder || strings.HasPrefix(name, folder+"/") {
			delete(w.draft[dev], name)
		}
	}
}

// files are the names of the object's files on a device, in order.
func (w *world) files(o *object, dev string) []string {
	var list []string
	for name, l := range w.draft[dev] {
		if path.Dir(name) == o.dir() && !l.dir {
			list = append(list, path.Base(name))
		}
	}
	slices.Sort(list)
	return list
}

// move takes what one device has of the object, or only the named files, to another.
func (w *world) move(o *object, from, to string, keep bool) bool {
	files := w.files(o, from)
	if len(files) == 0 || w.gone[to] {
		return false
	}
	for _, f := range files {
		name := path.Join(o.dir(), f)
		w.draft[to][name] = w.draft[from][name]
	}
	if !keep {
		w.clear(o, from)
	}
	return true
}

// holders are the devices of primaries that have something of the object that ends so, in the ring's order.
func (w *world) holders(o *object, end string) []string {
	var list []string
	for _, n := range o.primaries {
		dev := n.Device.Device
		if slices.ContainsFunc(w.files(o, dev), func(f string) bool { return strings.HasSuffix(f, end) }) {
			list = append(list, dev)
		}
	}
	return list
}

// some are 1 to most of the list, in any order.
func some(r *rand.Rand, list []string, most int) []string {
	list = slices.Clone(list)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if len(list) == 0 {
		return nil
	}
	return list[:1+r.IntN(min(most, len(list)))]
}

func (o *object) primaryDevices() []string {
	var list []string
	for _, n := range o.primaries {
		list = append(list, n.Device.Device)
	}
	return list
}

// index is the fragment index that belongs to a primary's device.
func (o *object) index(dev string) int {
	for _, n := range o.primaries {
		if n.Device.Device == dev {
			return o.Policy.BackendIndex(n.Index)
		}
	}
	return -1
}

// replace gives the files of an object on a device other names.
func (w *world) rename(o *object, dev string, other func(name string) string) (any bool) {
	for _, f := range w.files(o, dev) {
		if to := other(f); to != f {
			w.draft[dev][path.Join(o.dir(), to)] = w.draft[dev][path.Join(o.dir(), f)]
			delete(w.draft[dev], path.Join(o.dir(), f))
			any = true
		}
	}
	return any
}
