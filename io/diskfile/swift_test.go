package diskfile

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

func replicatedPolicy() *policy.Policy {
	return &policy.Policy{Index: 1, Name: "ec", Type: policy.Replication}
}

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

// asReplicated makes of a script that asks about the erasure-coded policy of swiftSetup one
// that asks about a replicated policy of the same index.
func asReplicated(script string) string {
	return strings.NewReplacer(
		`[storage_policy.ECStoragePolicy(1, name='ec', ec_type='liberasurecode_rs_vand', ec_ndata=4, ec_nparity=2,
                                      ec_duplication_factor=n) for n in (1, 2)]`, "[storage_policy.StoragePolicy(1, name='ec')] * 2",
		"ECDiskFile", "DiskFile",
	).Replace(script)
}

// swiftSetup begins the scripts that ask Swift about the devices of this test.
const swiftSetup = `
import sys, json, os, re, stat, time, hashlib, logging
logging.disable(logging.CRITICAL)
logger = logging.getLogger()
logger.increment = lambda name: None
from swift.common import utils, storage_policy
from swift.common.exceptions import *
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'before', b'after'
ecs = [storage_policy.ECStoragePolicy(1, name='ec', ec_type='liberasurecode_rs_vand', ec_ndata=4, ec_nparity=2,
                                      ec_duplication_factor=n) for n in (1, 2)]
ec = ecs[0]
storage_policy._POLICIES = storage_policy.StoragePolicyCollection(
    [storage_policy.StoragePolicy(0, name='zero', is_default=True), ec])
from swift.obj import diskfile
os.umask(0o022)
os.fsync = lambda fd: None  # only slow here
# Swift's open() takes files of equal time in the order of the directory listing, which
# is any; cleanup sorts it, and so do we.
listdir = os.listdir
class Names(list):
    """cleanup removes a stray fragment below a lone .durable file from the list of names
    twice, and trips over it; the files that it leaves are not touched by that."""
    def remove(self, name):
        if name in self: super().remove(name)
        else: Names.tripped += 1
os.listdir = lambda path: Names(sorted(listdir(path), reverse=True))

def by_index(h):
    return {'plain': h} if isinstance(h, str) else h or {}

def known(part):
    """What hashes.pkl says, but for the time."""
    h = diskfile.read_hashes(part)
    h.pop('updated', None)
    if not h.pop('valid'):
        return 'invalid'
    return ' '.join(['valid'] + ['%s:%s' % (s, ','.join('%s=%s' % e for e in sorted(
        (-1 if k is None else k, v) for k, v in by_index(h[s]).items()))) for s in sorted(h)])

def tree(root):
    out = []
    for d, dirs, files in os.walk(root):
        for n in dirs + files:
            p = os.path.join(d, n)
            st = os.lstat(p)
            mode = st.st_mode & 0o7777 if n in ('.lock', 'hashes.pkl', 'hashes.invalid', 'quarantined') else 0
            what = ''
            if n == 'hashes.pkl':
                what = known(d)
            elif n == 'hashes.invalid':  # in any order
                what = '%r' % sorted(open(p, 'rb').read().decode('latin1').split('\n'))
            elif stat.S_ISREG(st.st_mode):
                what = hashlib.md5(open(p, 'rb').read()).hexdigest()
            out.append(('%s %o %s' % (re.sub('-[0-9a-f]{32}', '-uuid', os.path.relpath(p, root)), mode, what)).rstrip())
    return sorted(out)

def raw(m):
    """Metadata as bytes, each as a latin-1 character."""
    f = lambda s: s.encode('utf8', 'surrogateescape').decode('latin1')
    return None if m is None else {f(k): f(v) for k, v in m.items()}
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
        return {'hashed': hashed, 'hashes': {s: {str(k): v for k, v in by_index(h).items()} for s, h in hashes.items()}}
    if kind == 'yield':
        out = []
        for h, t in mgr.yield_hashes('sda', 7, ec, op['Suffixes'], frag_index=index, frag_prefs=prefs):
            out.append([h, stamp(t['ts_data']), stamp(t.get('ts_meta')), stamp(t.get('ts_ctype')), t.get('durable', True)])
        return sorted(out)
    if kind == 'open' or kind == 'audit':
        df = None
        try:
            if kind == 'audit':
                path = root + '/sda/objects-1/7/%s/%s' % (op['Hash'][-3:], op['Hash'])
                mgr.cleanup_ondisk_files(path)
                df = diskfile.ECDiskFile(mgr, root + '/sda', 7, policy=ec, frag_index=index, frag_prefs=prefs,
                    open_expired=True, _datadir=path)
            else:
                df = mgr.get_diskfile_from_hash('sda', 7, op['Hash'], ec, frag_index=index, frag_prefs=prefs, open_expired=True)
            with df.open():
                info = df._ondisk_info
                return {'file': os.path.basename(df._data_file), 'name': raw({'': df._name})[''], 'length': df.content_length,
                        'data': stamp(df.data_timestamp), 'durable': stamp(df.durable_timestamp),
                        'meta': stamp(info.get('meta_info', {}).get('timestamp')),
                        'ctype': stamp(info.get('ctype_info', {}).get('ctype_timestamp')),
                        'datameta': raw(df.get_datafile_metadata()), 'filemeta': raw(df.get_metafile_metadata())}
        except DiskFileDeleted as e:
            return {'deleted': e.timestamp.internal}
        except (DiskFileNotExist, DiskFileQuarantined) as e:
            return {'error': 'quarantined' if df and df._quarantined_dir else 'not exist'}
        except Exception as e:
            if kind != 'audit':
                raise
            return {'error': type(e).__name__}

out = {'Answers': [], 'Tripped': 0}
for q in json.load(sys.stdin):
    time.time = lambda: q['Now']
    ec = ecs[q['Duplication'] - 1]
    mgr = diskfile.ECDiskFileManager({'devices': q['Root'], 'mount_check': 'false',
        'reclaim_age': q['ReclaimAge'], 'commit_window': q['CommitWindow']}, logger)
    Names.tripped = 0
    out['Answers'].append([run(mgr, q['Root'], op) for op in q['Ops']])
    out['Tripped'] += Names.tripped > 0
json.dump(out, sys.stdout)
`

// randomName is what is added to the name of a directory that was quarantined before.
var randomName = regexp.MustCompile("-[0-9a-f]{32}")

// tree lists a device: the modes of the files that both programs make, the contents of all.
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
		mode, what := fs.FileMode(0), ""
		switch d.Name() {
		case ".lock", "hashes.pkl", "hashes.invalid", "quarantined":
			mode = info.Mode().Perm()
		}
		if d.Name() == "hashes.pkl" {
			what = known(filepath.Dir(path))
		} else if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if d.Name() == "hashes.invalid" { // in any order
				suffixes := strings.Split(string(b), "\n")
				slices.Sort(suffixes)
				what = "['" + strings.ReplaceAll(strings.Join(suffixes, "', '"), "\r", `\r`) + "']"
			} else {
				what = fmt.Sprintf("%x", md5.Sum(b))
			}
		}
		rel, _ := filepath.Rel(root, path)
		rel = randomName.ReplaceAllString(rel, "-uuid")
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%s %o %s", rel, mode, what), " "))
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

// known is what hashes.pkl says, but for the time.
func known(part string) string {
	f, _ := readHashes(part)
	if !f.Valid {
		return "invalid"
	}
	words := []string{"valid"}
	for _, s := range slices.Sorted(maps.Keys(f.Hashes)) {
		var sums []string
		if e := f.Hashes[s]; e != nil {
			if e.Plain != "" {
				sums = append(sums, "plain="+e.Plain)
			}
			if e.None != "" {
				sums = append(sums, "-1="+e.None)
			}
			for _, f := range e.Frags {
				sums = append(sums, fmt.Sprintf("%d=%s", f.Index, f.Hash))
			}
		}
		words = append(words, s+":"+strings.Join(sums, ","))
	}
	return strings.Join(words, " ")
}

func plain(h suffix.Hashes) map[string]any {
	out := map[string]any{}
	for s, e := range h {
		m := map[string]any{}
		if e != nil {
			if e.Plain != "" {
				m["plain"] = e.Plain
			}
			if e.None != "" {
				m["None"] = e.None
			}
			for _, f := range e.Frags {
				m[strconv.Itoa(f.Index)] = f.Hash
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

// latin1 is each byte as a character.
func latin1(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func anyMap(m map[string]string) any {
	if m == nil {
		return nil
	}
	out := map[string]any{}
	for k, v := range m {
		out[latin1(k)] = latin1(v)
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
	if e, ok := errors.AsType[*CorruptError](err); ok && !e.Quarantine {
		return map[string]any{"refused": e.Reason}
	} else if ok {
		if _, err := m.Quarantine("sda", 7, o.Hash); err != nil {
			t.Fatal(err)
		}
		return map[string]any{"error": "quarantined"}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ob.Close()
	return map[string]any{
		"file": filepath.Base(ob.Path), "name": latin1(ob.Name), "length": float64(ob.Length),
		"data": stamp(ob.Data), "durable": stamp(ob.Durable), "meta": stamp(ob.Meta), "ctype": stamp(ob.ContentType),
		"datameta": anyMap(ob.DataMeta), "filemeta": anyMap(ob.FileMeta),
	}
}
