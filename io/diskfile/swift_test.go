package diskfile

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imping/lab/oracle"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/policy"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

var testHasher = objhash.Hasher{Prefix: []byte("before"), Suffix: []byte("after")}

func testPolicy() *policy.Policy {
	return &policy.Policy{Index: 1, Name: "ec", Type: policy.ErasureCoding, ECType: "liberasurecode_rs_vand", Data: 4, Parity: 2, SegmentSize: 1 << 20, Duplication: 1}
}

const reclaimAge = 7 * 24 * time.Hour

func newManager(t testing.TB, devices string) *Manager {
	return NewManager(Config{
		Devices: devices, Policy: testPolicy(), Hasher: testHasher,
		ReclaimAge: reclaimAge, CommitWindow: time.Minute,
		Warn: func(format string, args ...any) { t.Logf(format, args...) },
	})
}

// writeFile makes a file with metadata in its extended attributes and a time.
func writeFile(t testing.TB, path, content string, meta map[string]string, mtime time.Time) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if meta != nil {
		setMetadata(t, path, pickle.EncodeMetadata(meta, nil), true)
	}
	if err := os.Chtimes(path, mtime, mtime); err != nil {
		t.Fatal(err)
	}
}

func setMetadata(t testing.TB, path string, raw []byte, checksum bool) {
	t.Helper()
	if err := unix.Setxattr(path, metadataKey, raw, 0); err != nil {
		t.Fatal(err)
	}
	if checksum {
		if err := unix.Setxattr(path, checksumKey, fmt.Appendf(nil, "%x", md5.Sum(raw)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// objectsBySuffix gives names of objects that share a suffix.
func objectsBySuffix() [][]string {
	by := map[string][]string{}
	for i := range 20_000 {
		name := fmt.Sprintf("/a/c/o%d", i)
		s := objhash.Suffix(objhash.Hex(testHasher.Object(name)))
		by[s] = append(by[s], name)
	}
	var all [][]string
	for _, s := range slices.Sorted(maps.Keys(by)) {
		if len(by[s]) >= 4 {
			all = append(all, by[s])
		}
	}
	return all
}

type testFile struct {
	Path    string // below the device
	Content string
	Meta    map[string]string
	MTime   time.Time
	Dir     bool
}

type op struct {
	Kind       string // "hashes", "yield", "open", "invalidate", "tree"
	Recalc     []string
	Listdir    bool
	Suffixes   []string
	Hash       string
	Index      int
	NonDurable bool
}

// randomDir fills an object directory from a small pool of times, so that files meet.
func randomDir(r *rand.Rand, dir, name string, now time.Time) []testFile {
	pool := []timestamp.Timestamp{}
	for i := range 3 {
		pool = append(pool, timestamp.FromTime(now.Add(-time.Hour-time.Duration(i)*time.Second)))
		pool = append(pool, timestamp.FromTime(now.Add(-30*24*time.Hour-time.Duration(i)*time.Second)))
	}
	if r.IntN(4) == 0 {
		pool[0].Offset = 0xab
		pool[3].Offset = 1
	}
	if r.IntN(2) == 0 {
		pool = pool[:1+r.IntN(len(pool))]
	}
	seen := map[string]bool{}
	var files []testFile
	for range r.IntN(7) {
		at := pool[r.IntN(len(pool))]
		meta := map[string]string{"name": name, "X-Timestamp": at.Internal()}
		content := ""
		var file string
		switch k := r.IntN(20); {
		case k < 10:
			index := r.IntN(3)
			if r.IntN(12) == 0 {
				index = 5 + r.IntN(3)
			}
			file = fmt.Sprintf("%s#%d.data", at.Internal(), index)
			if r.IntN(2) == 0 {
				file = fmt.Sprintf("%s#%d#d.data", at.Internal(), index)
			}
			content = strings.Repeat("x", r.IntN(20))
			meta["Content-Length"] = strconv.Itoa(len(content))
			meta["Content-Type"] = "text/plain"
			meta["X-Object-Sysmeta-Ec-Frag-Index"] = strconv.Itoa(index)
		case k < 12:
			file = at.Internal() + ".durable"
		case k < 14:
			file = at.Internal() + ".ts"
		case k < 16:
			file = at.Internal() + ".meta"
			meta["X-Object-Meta-Color"] = strconv.Itoa(k)
		case k < 19:
			ctype := pool[r.IntN(len(pool))]
			ctype.Offset = 0
			file = timestamp.EncodePair(at, ctype) + ".meta"
			meta["Content-Type"] = "image/" + strconv.Itoa(r.IntN(100))
			meta["Content-Type-Timestamp"] = ctype.Internal()
		default:
			file = []string{
				".1795342301.49613#1.data.Xy095a", "junk", "1795342301.49613", at.Internal() + ".data",
				at.Internal() + "#x.data", at.Internal() + "#1#x.data", at.Internal() + "#-1.data", "x.ts", at.Internal() + ".tmp", ".data",
				at.Internal() + "#+1.data", at.Internal() + "# 1_0 .data", "x+y.meta",
			}[r.IntN(13)]
			meta["Content-Length"] = "0"
		}
		if seen[file] {
			continue
		}
		seen[file] = true
		mtime := now.Add(-10 * time.Second)
		if r.IntN(2) == 0 {
			mtime = now.Add(-time.Hour)
		}
		files = append(files, testFile{Path: filepath.Join(dir, file), Content: content, Meta: meta, MTime: mtime})
	}
	return files
}

// swiftSetup begins the scripts that ask Swift about the devices of this test.
const swiftSetup = `
import sys, json, os, stat, logging
logging.disable(logging.CRITICAL)
logger = logging.getLogger()
logger.increment = lambda name: None
from swift.common import utils, storage_policy
from swift.common.exceptions import *
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'before', b'after'
ec = storage_policy.ECStoragePolicy(1, name='ec', ec_type='liberasurecode_rs_vand', ec_ndata=4, ec_nparity=2)
storage_policy._POLICIES = storage_policy.StoragePolicyCollection(
    [storage_policy.StoragePolicy(0, name='zero', is_default=True), ec])
from swift.obj import diskfile
os.umask(0o022)
os.fsync = lambda fd: None  # only slow here
# Swift's open() takes files of equal time in the order of the directory listing, which
# is any; cleanup sorts it, and so do we.
listdir = os.listdir
os.listdir = lambda path: sorted(listdir(path), reverse=True)

def tree(root):
    out = []
    for d, dirs, files in os.walk(root):
        for n in dirs + files:
            p = os.path.join(d, n)
            st = os.lstat(p)
            out.append('%s %o' % (os.path.relpath(p, root), st.st_mode & 0o7777 if n in
                       ('.lock', 'hashes.pkl', 'hashes.invalid', 'quarantined') else 0))
    return sorted(out)
`

const swiftScript = swiftSetup + `
def stamp(ts): return ts.internal if ts else ''

def run(mgr, root, op):
    kind = op['Kind']
    prefs = [] if op['NonDurable'] else None
    index = None if op['Index'] < 0 else op['Index']
    if kind == 'tree':
        return tree(root + '/sda')
    if kind == 'invalidate':
        for s in op['Suffixes']:
            mgr.invalidate_hash(root + '/sda/objects-1/7/' + s)
        return None
    if kind == 'hashes':
        hashed, hashes = mgr._get_hashes('sda', 7, ec, recalculate=op['Recalc'], do_listdir=op['Listdir'])
        return {'hashed': hashed, 'hashes': {s: {str(k): v for k, v in (h or {}).items()} for s, h in hashes.items()}}
    if kind == 'yield':
        out = []
        for h, t in mgr.yield_hashes('sda', 7, ec, op['Suffixes'], frag_index=index, frag_prefs=prefs):
            out.append([h, stamp(t['ts_data']), stamp(t.get('ts_meta')), stamp(t.get('ts_ctype')), t.get('durable', True)])
        return sorted(out)
    if kind == 'open':
        try:
            df = mgr.get_diskfile_from_hash('sda', 7, op['Hash'], ec, frag_index=index, frag_prefs=prefs, open_expired=True)
            with df.open():
                info = df._ondisk_info
                return {'file': os.path.basename(df._data_file), 'name': df._name, 'length': df.content_length,
                        'data': stamp(df.data_timestamp), 'durable': stamp(df.durable_timestamp),
                        'meta': stamp(info.get('meta_info', {}).get('timestamp')),
                        'ctype': stamp(info.get('ctype_info', {}).get('ctype_timestamp')),
                        'datameta': df.get_datafile_metadata(), 'filemeta': df.get_metafile_metadata()}
        except DiskFileDeleted as e:
            return {'deleted': e.timestamp.internal}
        except DiskFileNotExist:
            return {'error': 'not exist'}
        except DiskFileQuarantined as e:
            return {'error': 'quarantined'}

out = []
for q in json.load(sys.stdin):
    mgr = diskfile.ECDiskFileManager({'devices': q['Root'], 'mount_check': 'false',
        'reclaim_age': q['ReclaimAge'], 'commit_window': 60}, logger)
    answers = []
    for op in q['Ops']:
        try:
            answers.append(run(mgr, q['Root'], op))
        except ValueError as e:
            answers.append({'bug': str(e)})
            break
    out.append(answers)
json.dump(out, sys.stdout)
`

// tree lists a device with the modes of the files that both programs make.
func tree(t testing.TB, root string) []any {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0)
		switch d.Name() {
		case ".lock", "hashes.pkl", "hashes.invalid", "quarantined":
			mode = info.Mode().Perm()
		}
		rel, _ := filepath.Rel(root, path)
		lines = append(lines, fmt.Sprintf("%s %o", rel, mode))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	all := []any{}
	for _, l := range lines {
		all = append(all, l)
	}
	return all
}

func plain(h suffix.Hashes) map[string]any {
	out := map[string]any{}
	for s, e := range h {
		m := map[string]any{}
		if e != nil {
			if e.None != "" {
				m["None"] = e.None
			}
			for i, sum := range e.Frags {
				m[strconv.Itoa(i)] = sum
			}
		}
		out[s] = m
	}
	return out
}

func stamp(ts timestamp.Timestamp) string {
	if ts.IsZero() {
		return ""
	}
	return ts.Internal()
}

func anyMap(m map[string]string) any {
	if m == nil {
		return nil
	}
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func run(t testing.TB, m *Manager, root string, o op) any {
	t.Helper()
	switch o.Kind {
	case "tree":
		return tree(t, root+"/sda")
	case "invalidate":
		for _, s := range o.Suffixes {
			if err := m.Invalidate("sda", 7, s); err != nil {
				t.Fatal(err)
			}
		}
		return nil
	case "hashes":
		h, hashed, err := m.SuffixHashes("sda", 7, o.Recalc, o.Listdir)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]any{"hashed": float64(hashed), "hashes": plain(h)}
	case "yield":
		out := []any{}
		last := ""
		for of, err := range m.YieldHashes("sda", 7, o.Suffixes, o.Index, o.NonDurable) {
			if err != nil {
				t.Fatal(err)
			}
			if of.Hash <= last {
				t.Fatalf("%s is yielded after %s", of.Hash, last)
			}
			last = of.Hash
			out = append(out, []any{of.Hash, stamp(of.Data), stamp(of.Meta), stamp(of.ContentType), of.Durable})
		}
		return out
	}
	ob, err := m.Open("sda", 7, o.Hash, o.Index, o.NonDurable)
	if d, ok := errors.AsType[*DeletedError](err); ok {
		return map[string]any{"deleted": d.Timestamp.Internal()}
	}
	if errors.Is(err, ErrNotExist) {
		return map[string]any{"error": "not exist"}
	}
	if _, ok := errors.AsType[*CorruptError](err); ok {
		t.Log(err)
		return map[string]any{"error": "quarantined"}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ob.Close()
	return map[string]any{
		"file": filepath.Base(ob.Path), "name": ob.Name, "length": float64(ob.Length),
		"data": stamp(ob.Data), "durable": stamp(ob.Durable), "meta": stamp(ob.Meta), "ctype": stamp(ob.ContentType),
		"datameta": anyMap(ob.DataMeta), "filemeta": anyMap(ob.FileMeta),
	}
}

// The same random partition is given to Swift's own diskfile module and to this package:
// they choose the same files, compute the same hashes and leave the same files behind.
func TestRandomPartitionsAreTreatedAsSwiftDoes(t *testing.T) {
	syscall.Umask(0o022)
	r := rand.New(rand.NewPCG(20, 26))
	now := time.Now()
	groups := objectsBySuffix()
	type question struct {
		Root       string
		ReclaimAge int
		Ops        []op
		files      []testFile
	}
	var questions []question
	base := t.TempDir()
	for n := range 250 {
		q := question{Root: filepath.Join(base, "swift", strconv.Itoa(n)), ReclaimAge: int(reclaimAge.Seconds())}
		var suffixes, hashes []string
		for range 1 + r.IntN(3) {
			group := groups[r.IntN(len(groups))]
			for _, name := range group[:1+r.IntN(3)] {
				h := objhash.Hex(testHasher.Object(name))
				dir := filepath.Join("objects-1/7", objhash.Suffix(h), h)
				if slices.Contains(hashes, h) {
					continue
				}
				hashes = append(hashes, h)
				q.files = append(q.files, randomDir(r, dir, name, now)...)
				if r.IntN(8) == 0 {
					q.files = append(q.files, testFile{Path: dir, Dir: true})
				}
				suffixes = append(suffixes, objhash.Suffix(h))
			}
		}
		slices.Sort(suffixes)
		suffixes = slices.Compact(suffixes)
		q.files = append(q.files, testFile{Path: "objects-1/7", Dir: true})
		listdir := r.IntN(2) == 0
		if r.IntN(6) == 0 {
			// A file in place of an object directory, of a suffix; Swift's sender breaks on the
			// former, so it is hashed first.
			h := suffixes[0]
			q.files = append(q.files, testFile{Path: filepath.Join("objects-1/7", h, "0123456789abcdef0123456789abc"+h), MTime: now},
				testFile{Path: "objects-1/7/fff", MTime: now})
			q.Ops = append(q.Ops, op{Kind: "hashes", Index: -1}, op{Kind: "tree"})
		}
		index := func() int { return r.IntN(4) - 1 }
		work := []op{
			{Kind: "hashes", Listdir: listdir, Index: -1},
			{Kind: "yield", Suffixes: suffixes, Index: index(), NonDurable: r.IntN(2) == 0},
			{Kind: "open", Hash: hashes[r.IntN(len(hashes))], Index: index(), NonDurable: r.IntN(2) == 0},
			{Kind: "open", Hash: hashes[0], Index: index()},
			{Kind: "invalidate", Suffixes: suffixes[:1+r.IntN(len(suffixes))]},
			{Kind: "hashes", Recalc: suffixes[:r.IntN(len(suffixes)+1)], Index: -1},
			{Kind: "yield", Suffixes: suffixes[:r.IntN(len(suffixes)+1)], Index: -1},
		}
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		for _, o := range work {
			q.Ops = append(q.Ops, o, op{Kind: "tree"})
		}
		for _, h := range hashes {
			q.Ops = append(q.Ops, op{Kind: "open", Hash: h, Index: -1, NonDurable: true})
		}
		q.Ops = append(q.Ops, op{Kind: "hashes", Index: -1}, op{Kind: "tree"})
		questions = append(questions, q)
	}
	build := func(root string, files []testFile) {
		for _, f := range files {
			path := filepath.Join(root, "sda", f.Path)
			if f.Dir {
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
				continue
			}
			writeFile(t, path, f.Content, f.Meta, f.MTime)
		}
	}
	for n, q := range questions {
		build(q.Root, q.files)
		build(filepath.Join(base, "ours", strconv.Itoa(n)), q.files)
	}
	var answers [][]any
	oracle.Ask(t, swiftScript, questions, &answers)
	seen := map[string]int{}
	for n, q := range questions {
		root := filepath.Join(base, "ours", strconv.Itoa(n))
		before := tree(t, root)
		m := newManager(t, root)
		m.warn = func(string, ...any) {}
		for i, want := range answers[n] {
			o := q.Ops[i]
			if w, ok := want.(map[string]any); ok && w["bug"] != nil {
				// Swift removes a stray fragment below a lone .durable file twice and trips.
				seen["bug"]++
				break
			}
			got := run(t, m, root, o)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("partition %d, step %d %+v (-swift +ours):\n%s\nit began as\n%v", n, i, o, diff, before)
			}
			seen[o.Kind]++
			if w, ok := want.(map[string]any); ok {
				for k := range w {
					seen[k]++
				}
				if w["error"] == "quarantined" {
					seen["quarantined"]++
				}
			}
			if l, ok := want.([]any); ok && o.Kind == "yield" {
				seen["offers"] += len(l)
			}
			if w, ok := want.(map[string]any); ok && o.Kind == "open" && w["ctype"] != nil && w["ctype"] != "" {
				seen["with ctype"]++
			}
		}
	}
	t.Log(seen)
	for _, kind := range []string{"deleted", "error", "file", "offers", "with ctype"} {
		if seen[kind] < 10 {
			t.Errorf("only %d answers of kind %s: the test has gone blind", seen[kind], kind)
		}
	}
}
