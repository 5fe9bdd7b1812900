package peers

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// Object is an object and all its fragment archives.
type Object struct {
	Name    string
	Data    timestamp.Timestamp
	Policy  *policy.Policy
	Segment int
	Size    int64
	ECEtag  string
	Frags   [][]byte // by index
}

// libec is the version that the archives' headers name: liberasurecode 1.6.2.
const libec = 0x010602

// NewObject encodes size random bytes, the same for the same name, in segments of the
// policy. It is of yesterday, so that neither reclaim age nor commit window touch it.
func NewObject(t testing.TB, code *codec.Code, pol *policy.Policy, name string, size int64) *Object {
	t.Helper()
	return NewObjectAt(t, code, pol, name, size, pol.SegmentSize, Yesterday())
}

// NewObjectAt is NewObject with a segment size and a time of its own.
func NewObjectAt(t testing.TB, code *codec.Code, pol *policy.Policy, name string, size int64, segment int, at timestamp.Timestamp) *Object {
	t.Helper()
	body := make([]byte, size)
	r := rand.NewChaCha8(md5twice(name + at.Internal()))
	r.Read(body) // never fails
	sum := md5.Sum(body)
	o := &Object{
		Name: name, Data: at, Policy: pol, Segment: segment, Size: size,
		ECEtag: hex.EncodeToString(sum[:]), Frags: make([][]byte, code.N()),
	}
	for len(body) > 0 {
		seg := body[:min(segment, len(body))]
		body = body[len(seg):]
		out := make([][]byte, code.N())
		for i := range out {
			slot := make([]byte, code.FragmentSize(len(seg)))
			h := code.Header(i, len(seg))
			h.LibecVersion = libec
			h.Put(slot, codec.Zlib)
			out[i] = slot[codec.HeaderSize:]
			o.Frags[i] = append(o.Frags[i], slot...)
		}
		code.Encode(seg, out)
		for i := range out {
			frag := o.Frags[i]
			copy(frag[len(frag)-len(out[i]):], out[i])
		}
	}
	return o
}

func md5twice(s string) (seed [32]byte) {
	a := md5.Sum([]byte(s))
	b := md5.Sum(a[:])
	copy(seed[:16], a[:])
	copy(seed[16:], b[:])
	return seed
}

// Yesterday is a time a day ago.
func Yesterday() timestamp.Timestamp { return timestamp.FromTime(time.Now().Add(-24 * time.Hour)) }

// Metadata is what Swift keeps with the archive of an index.
func (o *Object) Metadata(index int) map[string]string {
	sum := md5.Sum(o.Frags[index])
	return map[string]string{
		"name": o.Name, "X-Timestamp": o.Data.Internal(), "Content-Type": "application/octet-stream",
		"Content-Length": strconv.Itoa(len(o.Frags[index])), "ETag": hex.EncodeToString(sum[:]),
		"X-Object-Sysmeta-Ec-Etag": o.ECEtag, "X-Object-Sysmeta-Ec-Content-Length": strconv.FormatInt(o.Size, 10),
		"X-Object-Sysmeta-Ec-Frag-Index": strconv.Itoa(index), "X-Object-Sysmeta-Ec-Scheme": o.Policy.Scheme(),
		"X-Object-Sysmeta-Ec-Segment-Size": strconv.Itoa(o.Segment),
	}
}

// Disk is a device as Swift lays it out.
type Disk struct {
	Root, Device string // the device is Root/Device
	Policy       *policy.Policy
	Hasher       objhash.Hasher
}

// Dir is the hash directory of a name.
func (d Disk) Dir(part int, name string) string {
	hash := objhash.Hex(d.Hasher.Object(name))
	return filepath.Join(d.Root, d.Device, d.Policy.DataDir(), strconv.Itoa(part), objhash.Suffix(hash), hash)
}

// Put writes the durable archive of an index and returns its path. change may spoil its
// metadata.
func (d Disk) Put(t testing.TB, part int, o *Object, index int, change func(meta map[string]string)) (path string) {
	t.Helper()
	meta := o.Metadata(index)
	if change != nil {
		change(meta)
	}
	path = filepath.Join(d.Dir(part, o.Name), fmt.Sprintf("%s#%d#d.data", o.Data.Internal(), index))
	d.Write(t, path, o.Frags[index], meta)
	return path
}

// PutTombstone writes a tombstone.
func (d Disk) PutTombstone(t testing.TB, part int, name string, at timestamp.Timestamp) {
	t.Helper()
	d.Write(t, filepath.Join(d.Dir(part, name), at.Internal()+".ts"), nil, map[string]string{"name": name, "X-Timestamp": at.Internal()})
}

// PutMeta writes a .meta file.
func (d Disk) PutMeta(t testing.TB, part int, name string, at timestamp.Timestamp, meta map[string]string) {
	t.Helper()
	all := map[string]string{"name": name, "X-Timestamp": at.Internal()}
	for k, v := range meta {
		all[k] = v
	}
	d.Write(t, filepath.Join(d.Dir(part, name), at.Internal()+".meta"), nil, all)
}

// Write writes a file with metadata in its extended attributes.
func (d Disk) Write(t testing.TB, path string, content []byte, meta map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	raw := pickle.EncodeMetadata(meta, nil)
	if err := unix.Setxattr(path, "user.swift.metadata", raw, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, "user.swift.metadata_checksum", fmt.Appendf(nil, "%x", md5.Sum(raw)), 0); err != nil {
		t.Fatal(err)
	}
}
