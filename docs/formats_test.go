// Package docs_test holds formats.md to the code and to the installed Swift: every
// example in it is derived anew from both.
package docs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/codec"
	"imping/io/diskfile"
	"imping/lab/oracle"
	"imping/netfast"
	"imping/netfast/fragment"
	"imping/netfast/replicate"
	"imping/netfast/ssync"
	"imping/netfast/stock"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

var rewrite = flag.Bool("rewrite", false, "write the text examples into formats.md instead of comparing; bytes have comments and are compared")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The story that the document tells.
const (
	name      = "/a/c/o"
	object    = "tail feather"
	segment   = 64 << 10
	index     = 4
	device    = "sda"
	partPower = 8
	partition = 60 // 0x3c, the first 8 bits of the hash
	dataTime  = "1795342301.49613"
	metaTime  = "1795342400.00000"
	peer      = "10.0.0.2:6200" // in place of the address that the test's server has

	libec = 0x010602 // Debian 12's liberasurecode, 1.6.2
)

var hasher = objhash.Hasher{Prefix: []byte("pre"), Suffix: []byte("suf")}

// document is formats.md: its examples are the fenced blocks, each behind a line
// <!-- NAME -->.
type document struct {
	text    string
	checked map[string]bool
}

const path = "formats.md"

func open(t *testing.T) *document {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &document{text: string(b), checked: map[string]bool{}}
}

// find gives the place of an example's lines.
func (d *document) find(t *testing.T, example string) (from, to int) {
	t.Helper()
	d.checked[example] = true
	mark := "<!-- " + example + " -->\n```\n"
	if strings.Count(d.text, mark) != 1 {
		t.Fatalf("%s has %d examples %s", path, strings.Count(d.text, mark), example)
	}
	from = strings.Index(d.text, mark) + len(mark)
	return from, from + strings.Index(d.text[from:], "```")
}

// same compares an example of text.
func (d *document) same(t *testing.T, example, want string) {
	t.Helper()
	from, to := d.find(t, example)
	if *rewrite {
		d.text = d.text[:from] + want + d.text[to:]
	} else if got := d.text[from:to]; got != want {
		t.Errorf("%s, example %s:\n%s\nbut it is\n%s", path, example, got, want)
	}
}

// bytes reads an example of bytes: pairs of hexadecimal digits and quoted text.
func (d *document) bytes(t *testing.T, example string) []byte {
	t.Helper()
	from, to := d.find(t, example)
	var all []byte
	for line := range strings.Lines(d.text[from:to]) {
		for rest := strings.TrimSpace(line); rest != "" && rest[0] != '|'; rest = strings.TrimLeft(rest, " ") {
			if rest[0] == '\'' {
				text, after, _ := strings.Cut(rest[1:], "'")
				text = strings.ReplaceAll(text, `"`, `\"`)
				text, err := strconv.Unquote(`"` + text + `"`)
				if err != nil {
					t.Fatalf("example %s: cannot read %s: %v", example, line, err)
				}
				all, rest = append(all, text...), after
				continue
			}
			b, err := hex.DecodeString(rest[:min(2, len(rest))])
			if err != nil {
				t.Fatalf("example %s: cannot read %q in %s: %v", example, rest, line, err)
			}
			all, rest = append(all, b...), rest[2:]
		}
	}
	return all
}

// sameBytes compares an example of bytes with what each of sources made.
func (d *document) sameBytes(t *testing.T, example string, sources map[string][]byte) {
	t.Helper()
	written := d.bytes(t, example)
	for source, b := range sources {
		if !bytes.Equal(written, b) {
			t.Errorf("%s, example %s:\n% x\n%s says\n% x\n%[5]q", path, example, written, source, b)
		}
	}
}

// complete fails for examples that nothing checks.
func (d *document) complete(t *testing.T) {
	for _, m := range regexp.MustCompile("(?m)^<!-- (.*) -->\n").FindAllStringSubmatch(d.text, -1) {
		if !d.checked[m[1]] {
			t.Errorf("%s: nothing checks example %s", path, m[1])
		}
	}
	if fences := strings.Count("\n"+d.text, "\n```"); fences != 2*len(d.checked) {
		t.Errorf("%s has %d lines of ``` for %d examples that are checked", path, fences, len(d.checked))
	}
	if *rewrite && !t.Failed() {
		if err := os.WriteFile(path, []byte(d.text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryExampleIsWhatTheCodeAndSwiftMake(t *testing.T) {
	d := open(t)
	swift := askSwift(t)
	d.fragments(t, swift)
	d.places(t, swift)
	d.tombstone(t, swift)
	d.suffixHashes(t, swift)
	d.hashesFile(t, swift)
	d.ring(t, swift)
	d.wire(t)
	d.lines(t)
	d.complete(t)
}

// answers is what the installed Swift and PyECLib make of the same story. Bytes are
// base64 in JSON.
type answers struct {
	Archive       []byte
	Lengths       [][2]int64 // per length of lengths(), in the order of schemes()
	FragmentSizes []int      // of whole segments of 1 MiB, per scheme
	Names         []string
	Path          string // of the object directory
	Tombstone     []byte
	Checksum      string
	Suffixes      []map[string]string // per case of suffixCases(); None is ""
	HashesFile    map[string]any
	Ring          []byte
}

func schemes() []string { return []string{"isa_l_rs_vand", "liberasurecode_rs_vand"} }

// lengths are the lengths of objects in the table of archives.
func lengths() []int64 { return []int64{0, 1, 65536, 1 << 20, 1<<20 + 1, 5 << 20, 100 << 20} }

func askSwift(t *testing.T) *answers {
	devices := t.TempDir()
	for i, c := range suffixCases() {
		dir := filepath.Join(devices, device, "objects-1", strconv.Itoa(i), "a1f", fmt.Sprintf("%x", hasher.Object(name)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range c.files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var a answers
	oracle.Ask(t, script, map[string]any{
		"devices": devices, "device": device, "partition": partition, "object": object, "index": index, "segment": segment,
		"data": dataTime, "meta": metaTime, "schemes": schemes(), "lengths": lengths(), "cases": len(suffixCases()),
		"hashes": exampleHashes().Encode(),
	}, &a)
	return &a
}

const script = `
import array, base64, io, json, os, sys
import xattr
from pyeclib.ec_iface import ECDriver
from swift.common import storage_policy, utils
from swift.common.utils import Timestamp
q = json.load(sys.stdin)
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'pre', b'suf'
def ec(name, **kw):
    return storage_policy.ECStoragePolicy(1, name, ec_type=kw['t'], ec_ndata=kw['k'], ec_nparity=kw['m'], ec_segment_size=kw['s'])
policy = ec('ec', t=q['schemes'][0], k=4, m=2, s=q['segment'])
storage_policy._POLICIES = storage_policy.StoragePolicyCollection([
    storage_policy.StoragePolicy(0, 'replicated', is_default=True), policy])
from swift.common.ring.ring import RingData
from swift.obj import diskfile
b64 = lambda b: base64.b64encode(b).decode()
a = {}
a['Archive'] = b64(policy.pyeclib_driver.encode(q['object'].encode())[q['index']])

wide = [ec('wide', t=t, k=10, m=4, s=1 << 20) for t in q['schemes']]
a['FragmentSizes'] = [p.fragment_size for p in wide]
def length(p, n):
    whole, rest = divmod(n, 1 << 20)
    return whole * p.fragment_size + (len(p.pyeclib_driver.encode(b'x' * rest)[0]) if rest else 0)
a['Lengths'] = [[length(p, n) for p in wide] for n in q['lengths']]

mgr = diskfile.ECDiskFileManager({'devices': q['devices'], 'mount_check': 'false', 'reclaim_age': str(10 ** 12)}, utils.get_logger({}))
data, meta = Timestamp(q['data']), Timestamp(q['meta'])
make = mgr.make_on_disk_filename
a['Names'] = [make(data, '.data', frag_index=4), make(data, '.data', frag_index=4, durable=True),
              make(Timestamp(q['data'], offset=0xab), '.data', frag_index=4, durable=True),
              make(meta, '.meta'), make(meta, '.meta', ctype_timestamp=Timestamp(q['data'], delta=1)), make(meta, '.ts')]

a['Suffixes'] = [{'' if k is None else str(k): v for k, v in mgr._hash_suffix(
    os.path.join(q['devices'], q['device'], 'objects-1', str(i), 'a1f'), policy=policy).items()} for i in range(q['cases'])]

df = mgr.get_diskfile(q['device'], q['partition'], 'a', 'c', 'o', policy)
df.delete(data)
a['Path'] = os.path.relpath(df._datadir, q['devices'])
deleted = os.path.join(df._datadir, make(data, '.ts'))
a['Tombstone'] = b64(xattr.getxattr(deleted, 'user.swift.metadata'))
a['Checksum'] = xattr.getxattr(deleted, 'user.swift.metadata_checksum').decode()

with open(os.path.join(q['devices'], 'hashes.pkl'), 'wb') as f:
    f.write(base64.b64decode(q['hashes']))
h = diskfile.read_hashes(q['devices'])
a['HashesFile'] = {k: {'' if i is None else str(i): s for i, s in v.items()} if isinstance(v, dict) else v for k, v in h.items()}

devs = [{'id': i, 'region': 1, 'zone': 1, 'ip': '10.0.0.%d' % (i + 1), 'port': 6200, 'device': 'sdb', 'weight': 100.0} for i in range(3)]
devs[1] = None
out = io.BytesIO()
class tofile(array.array):
    def tofile(self, f):
        f.write(self.tobytes())
RingData([tofile('H', [0, 2]), tofile('H', [2])], devs, 31, version=7).serialize_v1(out)
a['Ring'] = b64(out.getvalue())
json.dump(a, sys.stdout)
`

func stamp(t *testing.T, s string) timestamp.Timestamp {
	t.Helper()
	ts, err := timestamp.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

func code(t *testing.T, typ string, k, m int) *codec.Code {
	t.Helper()
	c, err := codec.New(codec.Scheme{Type: typ, K: k, M: m})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// archive is the story's archive as codec makes it.
func archive(t *testing.T) []byte {
	c := code(t, "isa_l_rs_vand", 4, 2)
	payloads := make([][]byte, c.N())
	for i := range payloads {
		payloads[i] = make([]byte, c.PayloadSize(len(object)))
	}
	c.Encode([]byte(object), payloads)
	h := c.Header(index, len(object))
	h.LibecVersion = libec
	b := make([]byte, codec.HeaderSize)
	h.Put(b, codec.Zlib)
	return append(b, payloads[index]...)
}

func (d *document) fragments(t *testing.T, swift *answers) {
	d.sameBytes(t, "archive", map[string][]byte{"codec": archive(t), "PyECLib": swift.Archive})
	h, err := codec.ParseHeader(d.bytes(t, "archive"))
	if err != nil {
		t.Fatal(err)
	}
	if c := code(t, "isa_l_rs_vand", 4, 2); c.CheckHeader(&h) != nil || h.Index != index || h.OrigDataSize != uint32(len(object)) {
		t.Errorf("the header says %+v", h)
	}

	table := fmt.Sprintf("%-20s", "object")
	for i, typ := range schemes() {
		table += fmt.Sprintf("  %s", typ)
		if got := code(t, typ, 10, 4).FragmentSize(1 << 20); got != swift.FragmentSizes[i] || got != 104938 {
			t.Errorf("%s: a fragment has %d bytes, Swift's %d", typ, got, swift.FragmentSizes[i])
		}
	}
	table += "\n"
	for i, n := range lengths() {
		table += fmt.Sprintf("%-20d", n)
		for j, typ := range schemes() {
			got := code(t, typ, 10, 4).ArchiveSize(n, 1<<20)
			if got != swift.Lengths[i][j] {
				t.Errorf("%s: an object of %d bytes has archives of %d, Swift's %d", typ, n, got, swift.Lengths[i][j])
			}
			table += fmt.Sprintf("  %*d", len(typ), got)
		}
		table += "\n"
	}
	d.same(t, "lengths", table)
}

func (d *document) places(t *testing.T, swift *answers) {
	hash := hasher.Object(name)
	if p := objhash.Partition(hash, partPower); p != partition {
		t.Errorf("partition %d", p)
	}
	dir := fmt.Sprintf("%s/objects-1/%d/%s/%x", device, partition, objhash.Suffix(hex.EncodeToString(hash[:])), hash)
	if dir != swift.Path {
		t.Errorf("Swift's path is %s", swift.Path)
	}
	d.same(t, "place", fmt.Sprintf("md5('pre' + '%s' + 'suf') = %x\npartition of power %d:        0x%x = %d\n%s/\n",
		name, hash, partPower, hash[0], partition, dir))

	data, meta := stamp(t, dataTime), stamp(t, metaTime)
	offset := data
	offset.Offset = 0xab
	ctype := data
	ctype.Raw++
	list := []struct{ name, meaning string }{
		{data.Internal() + "#4.data", "archive 4, not durable"},
		{data.Internal() + "#4#d.data", "archive 4, durable"},
		{offset.Internal() + "#4#d.data", "the same with an offset of 171"},
		{meta.Internal() + ".meta", "metadata of a POST"},
		{timestamp.EncodePair(meta, ctype) + ".meta", "with a content type of " + ctype.Internal()},
		{meta.Internal() + ".ts", "tombstone"},
	}
	var text string
	for i, l := range list {
		text += fmt.Sprintf("%-44s %s\n", l.name, l.meaning)
		if l.name != swift.Names[i] {
			t.Errorf("Swift's name is %s, ours %s", swift.Names[i], l.name)
		}
	}
	d.same(t, "names", text)
}

func (d *document) tombstone(t *testing.T, swift *answers) {
	ours := pickle.EncodeMetadata(map[string]string{"X-Timestamp": dataTime, "name": name}, []string{"X-Timestamp", "name"})
	d.sameBytes(t, "tombstone", map[string][]byte{"pickle": ours, "Swift": swift.Tombstone})
	m, err := pickle.DecodeMetadata(d.bytes(t, "tombstone"))
	if err != nil || !maps.Equal(m, map[string]string{"X-Timestamp": dataTime, "name": name}) {
		t.Errorf("it is read as %v, %v", m, err)
	}
	sum := fmt.Sprintf("%x", md5.Sum(ours))
	if sum != swift.Checksum {
		t.Errorf("Swift's checksum is %s", swift.Checksum)
	}
	d.same(t, "tombstone-checksum", fmt.Sprintf("%-29s %d bytes\n%-29s %s\n", "user.swift.metadata", len(ours), "user.swift.metadata_checksum", sum))
}

// suffixCase is an object directory and, per key of its suffix's dict, the text whose MD5
// is there; noKey is None.
type suffixCase struct {
	files []string
	texts map[int]string
}

const noKey = -1

func suffixCases() []suffixCase {
	return []suffixCase{
		{[]string{dataTime + "#4#d.data"}, map[int]string{4: dataTime, noKey: dataTime + ".durable"}},
		{[]string{dataTime + "#4.data"}, map[int]string{4: dataTime}},
		{[]string{dataTime + "#2#d.data", dataTime + "#4#d.data"}, map[int]string{2: dataTime, 4: dataTime, noKey: dataTime + ".durable"}},
		{[]string{dataTime + "#4#d.data", metaTime + ".meta"},
			map[int]string{4: dataTime, noKey: metaTime + ".meta" + dataTime + ".durable"}},
		{[]string{dataTime + "#4#d.data", metaTime + "-5.meta"},
			map[int]string{4: dataTime, noKey: metaTime + ".meta" + dataTime + ".durable" + "1795342399.99995_ctype"}},
		{[]string{metaTime + ".ts"}, map[int]string{noKey: metaTime + ".ts"}},
	}
}

func (d *document) suffixHashes(t *testing.T, swift *answers) {
	devices := t.TempDir()
	m := diskfile.NewManager(diskfile.Config{
		Devices: devices, Hasher: hasher, ReclaimAge: diskfile.DefaultReclaimAge,
		Policy: &policy.Policy{Index: 1, Type: policy.ErasureCoding, ECType: "isa_l_rs_vand", Data: 4, Parity: 2, SegmentSize: segment, Duplication: 1},
		Now:    func() time.Time { return stamp(t, metaTime).Time() },
	})
	var text string
	for i, c := range suffixCases() {
		dir := filepath.Join(devices, device, "objects-1", strconv.Itoa(i), "a1f", fmt.Sprintf("%x", hasher.Object(name)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range c.files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			text += f + "\n"
		}
		want := map[string]string{}
		entry := &suffix.Entry{}
		for _, key := range slices.Sorted(maps.Keys(c.texts)) {
			sum := fmt.Sprintf("%x", md5.Sum([]byte(c.texts[key])))
			if key == noKey {
				entry.None, want[""] = sum, sum
				text += "    None: "
			} else {
				entry.Frags.Set(key, sum)
				want[strconv.Itoa(key)] = sum
				text += fmt.Sprintf("    %d:    ", key)
			}
			text += fmt.Sprintf("%s = md5(%q)\n", sum, c.texts[key])
		}
		hashes, _, err := m.SuffixHashes(device, i, nil, true)
		if err != nil || !hashes.Equal(suffix.Hashes{"a1f": entry}) {
			t.Errorf("%v: diskfile says %+v, %v, want %+v", c.files, hashes["a1f"], err, entry)
		}
		if !maps.Equal(swift.Suffixes[i], want) {
			t.Errorf("%v: Swift says %v, want %v", c.files, swift.Suffixes[i], want)
		}
	}
	d.same(t, "suffix-hashes", text)

	// A change of a suffix is a line in hashes.invalid.
	for _, s := range []string{"a1f", "b20", "a1f"} {
		if err := m.Invalidate(device, 0, s); err != nil {
			t.Fatal(err)
		}
	}
	part := filepath.Join(devices, device, "objects-1", "0")
	invalid, err := os.ReadFile(filepath.Join(part, "hashes.invalid"))
	if err != nil {
		t.Fatal(err)
	}
	d.same(t, "hashes.invalid", string(invalid))
	if _, _, err := m.SuffixHashes(device, 0, nil, false); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(part, "hashes.invalid")); err != nil || info.Size() != 0 {
		t.Errorf("hashes.invalid afterwards: %v, %v", info, err)
	}
}

// exampleHashes is the hashes.pkl of the document: the first of suffixCases.
func exampleHashes() *suffix.File {
	c := suffixCases()[0]
	sum := func(key int) string { return fmt.Sprintf("%x", md5.Sum([]byte(c.texts[key]))) }
	return &suffix.File{Valid: true, Updated: 1795342301.5, Hashes: suffix.Hashes{"a1f": {None: sum(noKey), Frags: suffix.Frags{{Index: 4, Hash: sum(4)}}}}}
}

func (d *document) hashesFile(t *testing.T, swift *answers) {
	f := exampleHashes()
	d.sameBytes(t, "hashes.pkl", map[string][]byte{"suffix": f.Encode()})
	back, err := suffix.DecodeFile(d.bytes(t, "hashes.pkl"))
	if err != nil || !reflect.DeepEqual(back, f) {
		t.Errorf("it is read as %+v, %v", back, err)
	}
	e := f.Hashes["a1f"]
	want := map[string]any{"valid": true, "updated": f.Updated, "a1f": map[string]any{"": e.None, "4": e.Frags.Hash(4)}}
	if !reflect.DeepEqual(swift.HashesFile, want) {
		t.Errorf("Swift reads %v", swift.HashesFile)
	}
}

func (d *document) ring(t *testing.T, swift *answers) {
	d.sameBytes(t, "ring", map[string][]byte{"Swift": swift.Ring})
	r, err := ring.Load(gzipped(t, d.bytes(t, "ring")))
	if err != nil {
		t.Fatal(err)
	}
	if r.PartPower != 1 || r.Replicas() != 1.5 || r.Version != 7 || r.NextPartPower != -1 || r.Devs[1] != nil ||
		r.Devs[2].ReplicationIP != "10.0.0.3" || r.Devs[2].ReplicationPort != 6200 {
		t.Errorf("the ring is %+v", r)
	}
	for part, want := range [][]int{{0, 2}, {2}} {
		var ids []int
		for _, node := range r.PartNodes(part) {
			ids = append(ids, node.ID)
		}
		if !slices.Equal(ids, want) {
			t.Errorf("partition %d is on %v, want %v", part, ids, want)
		}
	}
}

// gzipped writes a file.
func gzipped(t *testing.T, content []byte) (path string) {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	if _, err := gz.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "object-1.ring.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// wire plays the story to an object server of Swift, and records it.
func (d *document) wire(t *testing.T) {
	srv := stock.Start(t, stock.Options{})
	target := func(rec *recorder) ssync.Target {
		return ssync.Target{Addr: rec.addr, Device: device, Partition: partition, Policy: 1, FragIndex: index}
	}
	client := func() *netfast.Client {
		c := netfast.NewClient(netfast.Options{ConnTimeout: 5 * time.Second, NodeTimeout: 20 * time.Second, UserAgent: "obj-reconstructor 4711"})
		t.Cleanup(c.Close)
		return c
	}
	ctx := context.Background()
	body := archive(t)

	rec := record(t, srv.Addr)
	s, err := ssync.Open(ctx, client(), target(rec), ssync.Timeouts{Conn: 5 * time.Second, Node: 20 * time.Second, HTTP: 60 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Offer(ctx, slices.Values([]ssync.Offer{{Hash: srv.Hash(name), Data: stamp(t, dataTime), Meta: stamp(t, metaTime)}})))
	wanted, err := s.Wanted(ctx)
	if err != nil || len(wanted) != 1 || !wanted[0].Data || !wanted[0].Meta {
		t.Fatalf("the receiver wants %v, %v", wanted, err)
	}
	put, err := s.Put(ssync.PutHead{Path: name, Length: int64(len(body)), Header: []ssync.Field{
		{Key: "X-Timestamp", Value: dataTime},
		{Key: "Content-Type", Value: "text/plain"},
		{Key: "X-Object-Meta-Bird", Value: "\xc3\xa9pervier"},
		{Key: "X-Object-Sysmeta-Ec-Etag", Value: fmt.Sprintf("%x", md5.Sum([]byte(object)))},
		{Key: "X-Object-Sysmeta-Ec-Content-Length", Value: strconv.Itoa(len(object))},
		{Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: strconv.Itoa(index)},
		{Key: "X-Object-Sysmeta-Ec-Scheme", Value: "isa_l_rs_vand 4+2"},
		{Key: "X-Object-Sysmeta-Ec-Segment-Size", Value: strconv.Itoa(segment)},
	}})
	must(err)
	must(put.WriteFragment(body))
	must(put.Commit(ctx))
	must(s.Post(name, []ssync.Field{{Key: "X-Timestamp", Value: metaTime}, {Key: "X-Object-Meta-Bird", Value: "kestrel"}}))
	must(s.Finish(ctx))
	d.same(t, "ssync", rec.session(t, body))
	must(s.Close())

	dir := filepath.Join(srv.Devices, device, "objects-1", strconv.Itoa(partition), "a1f", srv.Hash(name))
	var text string
	for _, file := range []string{dataTime + "#4#d.data", metaTime + ".meta"} {
		m, err := diskfile.ReadMetadata(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		text += file + "\n"
		for _, key := range slices.Sorted(maps.Keys(m)) {
			text += fmt.Sprintf("    %-35s %s\n", key, escaped(m[key]))
		}
	}
	d.same(t, "metadata", text)

	rec = record(t, srv.Addr)
	hashes, err := replicate.Hashes(ctx, client(), replicate.Target{Addr: rec.addr, Device: device, Partition: partition, Policy: 1}, 1<<20)
	must(err)
	sum := func(text string) string { return fmt.Sprintf("%x", md5.Sum([]byte(text))) }
	want := suffix.Hashes{"a1f": {Frags: suffix.Frags{{Index: 4, Hash: sum(dataTime)}}, None: sum(metaTime + ".meta" + dataTime + ".durable")}}
	if !hashes.Equal(want) {
		t.Errorf("the partition has %+v, want %+v", hashes["a1f"], want["a1f"])
	}
	asked, answered, answer := rec.exchange(t)
	d.same(t, "replicate", asked+answered)
	d.sameBytes(t, "replicate-body", map[string][]byte{"Swift": answer})

	rec = record(t, srv.Addr)
	resp, err := fragment.Get(ctx, client(), &fragment.Request{
		Addr: rec.addr, Device: device, Partition: partition, Name: name, Policy: 1, Timestamp: stamp(t, dataTime), Exclude: []int{2},
	})
	must(err)
	got := make([]byte, resp.Length)
	_, err = resp.ReadFragment(got)
	must(err)
	must(resp.Close())
	if resp.FragIndex != index || resp.ETag != sum(string(body)) || !bytes.Equal(got, body) {
		t.Errorf("the answer is %+v with % x", resp, got)
	}
	asked, answered, _ = rec.exchange(t)
	d.same(t, "get", asked+answered)
}

// lines are offers and errors, one by one.
func (d *document) lines(t *testing.T) {
	data := stamp(t, dataTime)
	meta, ctype, offset := stamp(t, metaTime), data, data
	ctype.Raw += 10
	offset.Offset = 0xab
	hash := fmt.Sprintf("%x", hasher.Object(name))
	var text string
	for _, o := range []ssync.Offer{
		{Hash: hash, Data: data},
		{Hash: hash, Data: data, Meta: meta, CType: ctype},
		{Hash: hash, Data: data, NonDurable: true},
		{Hash: hash, Data: data, Meta: meta, NonDurable: true},
		{Hash: hash, Data: offset},
	} {
		var s ssync.Sender
		begun, err := s.Offer(nil, ssync.Offer{Hash: strings.Repeat("0", 32), Data: data})
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.Offer(begun, o)
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ := strings.Cut(strings.TrimSuffix(string(all[len(begun):]), "\r\n"), "\r\n")
		text += "> " + visible(line)
	}
	d.same(t, "offers", text)

	text = ""
	for _, line := range []string{
		`:ERROR: 503 b'<html><h1>Service Unavailable</h1><p>The server is currently unavailable. Please try again at a later time.</p></html>'`,
		`:ERROR: 0 '15 seconds: /srv/node/sda/objects-1/60/.lock-replication'`,
		`:ERROR: 0 '14.99 seconds: /srv/node/sda/.lock'`,
		`:ERROR: 0 'Too many 100 failures to 0 successes'`,
		`:ERROR: 408 '60.0 seconds: updates content'`,
		`:ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 2 successes'`,
	} {
		var s ssync.Sender
		if _, err := s.OfferEnd(nil); err != nil {
			t.Fatal(err)
		}
		_, err := s.Feed([]byte(line + "\n"))
		var remote *ssync.RemoteError
		if !errors.As(err, &remote) {
			t.Fatalf("%s is read as %v", line, err)
		}
		verdict := "a failure"
		if remote.Retryable() {
			verdict = "busy: tried again"
		}
		text += fmt.Sprintf("< %s\\n\n      %s\n", line, verdict)
	}
	d.same(t, "errors", text)
}

// escaped shows the bytes that are no ASCII.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < 0x80 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// visible ends a line as the document does.
func visible(line string) string {
	return strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(line) + "\n"
}

// recorder is a proxy in front of a server that keeps what passes.
type recorder struct {
	addr           string
	server         string
	mu             sync.Mutex
	sent, answered bytes.Buffer
}

func record(t *testing.T, server string) *recorder {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: l.Addr().String(), server: server}
	var wg sync.WaitGroup
	var conns []net.Conn
	pass := func(from, to net.Conn, kept *bytes.Buffer) {
		defer wg.Done()
		defer to.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			r.mu.Lock()
			kept.Write(b[:n])
			r.mu.Unlock()
			if _, werr := to.Write(b[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				in.Close()
				continue
			}
			r.mu.Lock()
			conns = append(conns, in, out)
			r.mu.Unlock()
			wg.Add(2)
			go pass(in, out, &r.sent)
			go pass(out, in, &r.answered)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		r.mu.Unlock()
		wg.Wait()
	})
	return r
}

// both gives what was sent and answered so far, with what differs from run to run made
// equal.
func (r *recorder) both() (sent, answered string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	date := regexp.MustCompile(`Date: [^\r]*`)
	return strings.ReplaceAll(r.sent.String(), r.addr, peer), date.ReplaceAllString(r.answered.String(), "Date: Sun, 22 Nov 2026 10:13:21 GMT")
}

// side writes lines with a mark before them.
func side(mark, text string) string {
	var out string
	for line := range strings.Lines(text) {
		out += mark + " " + visible(line)
	}
	return out
}

// exchange is a request and its answer, whose body is given apart.
func (r *recorder) exchange(t *testing.T) (asked, answered string, body []byte) {
	sent, answer := r.both()
	head, rest, ok := strings.Cut(answer, "\r\n\r\n")
	if !ok {
		t.Fatalf("the answer is %q", answer)
	}
	return side(">", sent), side("<", head+"\r\n\r\n"), []byte(rest)
}

// session is an SSYNC session in the order of its turns.
func (r *recorder) session(t *testing.T, body []byte) string {
	sent, answered := r.both()
	sent = strings.ReplaceAll(sent, string(body), fmt.Sprintf("(%d bytes: the archive)", len(body)))
	cut := func(text *string, after string) string {
		turn, rest, ok := strings.Cut(*text, after)
		if !ok {
			t.Fatalf("no %q in %q", after, *text)
		}
		*text = rest
		return turn + after
	}
	return side(">", cut(&sent, "\r\n\r\n")) +
		side("<", cut(&answered, "\r\n\r\n")+cut(&answered, "2\r\n\r\n\r\n")) +
		side(">", cut(&sent, ":MISSING_CHECK: END\r\n\r\n")) +
		side("<", cut(&answered, ":MISSING_CHECK: END\r\n\r\n")) +
		side(">", cut(&sent, ":UPDATES: END\r\n\r\n")) +
		side("<", cut(&answered, ":UPDATES: END\r\n\r\n"))
}
