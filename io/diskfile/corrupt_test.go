package diskfile

import (
	"errors"
	"fmt"
	"maps"
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
	"imping/swift/timestamp"
)

// damage is what went wrong with an object of a durable fragment, a .meta file and an
// older .meta file with a newer content type.
type damage struct {
	data, meta, ctype func(m map[string]string) // change the metadata of a file
	after             func(t *testing.T, data, meta, ctype string)
	bare              bool                      // no .meta files
	tombstone         func(m map[string]string) // a tombstone is in place of all others
	disk              unix.Errno                // what the disk answers to getxattr of the fragment
	want              string                    // in our reason, "" if we take the object
}

func without(key string) func(map[string]string) {
	return func(m map[string]string) { delete(m, key) }
}

func with(key, value string) func(map[string]string) {
	return func(m map[string]string) { m[key] = value }
}

func damages() map[string]damage {
	raw := func(s string) func(*testing.T, string, string, string) {
		return func(t *testing.T, data, _, _ string) { setMetadata(t, data, []byte(s), true) }
	}
	d := map[string]damage{
		"sound":                           {},
		"sound, bare":                     {bare: true},
		"sound tombstone":                 {tombstone: func(map[string]string) {}},
		"no name":                         {data: without("name"), bare: true, want: "missing name metadata"},
		"no name, .meta has":              {data: without("name"), want: "is not that of the .meta file"},
		"other name":                      {data: with("name", "/a/c/p"), bare: true, want: "does not match directory name"},
		"other name, .meta right":         {data: with("name", "/a/c/p"), want: "is not that of the .meta file"},
		"short name":                      {data: with("name", "/a/c"), bare: true, want: "does not match directory name"},
		"name without a slash":            {data: with("name", "a/c/o"), bare: true, want: "is not /account/container/object"},
		"name of two slashes":             {data: with("name", "//a/c/o"), bare: true, want: "is not /account/container/object"},
		"no length":                       {data: without("Content-Length"), want: "missing content-length"},
		"no time":                         {data: without("X-Timestamp"), bare: true, want: `X-Timestamp "" in metadata`},
		"no time, and a bad length, bare": {bare: true, want: "does not match actual object size", data: func(m map[string]string) { m["X-Timestamp"], m["Content-Length"] = "", "9" }},
		"no time, and a bad length":       {want: `X-Timestamp "" in metadata`, data: func(m map[string]string) { m["X-Timestamp"], m["Content-Length"] = "", "9" }},
		"wrong time, and a bad length":    {want: "does not match actual object size", data: func(m map[string]string) { m["X-Timestamp"], m["Content-Length"] = "1.00000", "9" }},
		"wrong time":                      {data: with("X-Timestamp", "1.00000"), want: `X-Timestamp "1.00000" in metadata`},
		"wrong index":                     {data: with("X-Object-Sysmeta-Ec-Frag-Index", "2"), want: `fragment index "2" in metadata`},
		"no index":                        {data: without("X-Object-Sysmeta-Ec-Frag-Index")},
		"truncated":                       {after: func(t *testing.T, p, _, _ string) { check(t, os.Truncate(p, 3)) }, want: "does not match actual object size 3"},
		"grown":                           {after: func(t *testing.T, p, _, _ string) { check(t, os.Truncate(p, 30)) }, want: "does not match actual object size 30"},
		"no metadata":                     {after: func(t *testing.T, p, _, _ string) { check(t, unix.Removexattr(p, metadataKey)) }, want: "missing metadata"},
		"flipped bit":                     {after: func(t *testing.T, p, _, _ string) { flip(t, p) }, want: "checksum mismatch"},
		"flipped bit, no checksum": {after: func(t *testing.T, p, _, _ string) {
			setMetadata(t, p, []byte("\x80\x02}q\x00(c_codecs\nencode\nq\x01X\x04\x00\x00\x00nam"), false)
			check(t, unix.Removexattr(p, checksumKey))
		}, want: "exception reading metadata"},
		"no checksum":          {after: func(t *testing.T, p, _, _ string) { check(t, unix.Removexattr(p, checksumKey)) }},
		"empty checksum":       {after: func(t *testing.T, p, _, _ string) { check(t, unix.Setxattr(p, checksumKey, nil, 0)) }},
		"wrong checksum":       {after: func(t *testing.T, p, _, _ string) { check(t, unix.Setxattr(p, checksumKey, []byte("abc"), 0)) }, want: "checksum mismatch"},
		"not a pickle":         {after: raw("hello"), want: "exception reading metadata"},
		"pickle of no dict":    {after: raw("N."), want: "not a dict"},
		"pickle of protocol 4": {after: raw("\x80\x04}\x94."), want: "protocol 4"},
		"many pieces":          {after: pieces(maxPieces), bare: true},
		"too many pieces":      {after: pieces(maxPieces + 1), bare: true, want: "pieces"},
		"hole in the pieces": {after: func(t *testing.T, p, meta, ctype string) {
			pieces(4)(t, p, meta, ctype)
			check(t, unix.Removexattr(p, metadataKey+"2"))
		}, bare: true, want: "checksum mismatch"},
		"directory for data": {after: func(t *testing.T, p, _, _ string) { check(t, os.Remove(p)); check(t, os.Mkdir(p, 0o755)) }, want: "not a regular file"},

		".meta of no name":        {meta: without("name"), want: "missing name metadata"},
		".meta of another name":   {meta: with("name", "/a/c/p"), want: "does not match directory name"},
		".meta of another time":   {meta: with("X-Timestamp", "1.00000"), want: `X-Timestamp "1.00000"`},
		".meta flipped":           {after: func(t *testing.T, _, p, _ string) { flip(t, p) }, want: "checksum mismatch"},
		".meta without metadata":  {after: func(t *testing.T, _, p, _ string) { check(t, unix.Removexattr(p, metadataKey)) }, want: "missing metadata"},
		"content type flipped":    {after: func(t *testing.T, _, _, p string) { flip(t, p) }, want: "checksum mismatch"},
		"content type missing":    {ctype: without("Content-Type")},
		"content type of no time": {ctype: without("Content-Type-Timestamp")},
		"content type too old":    {ctype: with("Content-Type-Timestamp", "0000000001.00000")},

		"tombstone flipped":          {tombstone: func(map[string]string) {}, after: func(t *testing.T, p, _, _ string) { flip(t, p) }, want: "checksum mismatch"},
		"tombstone without metadata": {tombstone: func(map[string]string) {}, after: func(t *testing.T, p, _, _ string) { check(t, unix.Removexattr(p, metadataKey)) }, want: "missing metadata"},
		"tombstone of another name":  {tombstone: with("name", "/a/c/p"), want: "does not match directory name"},
		"tombstone of another time":  {tombstone: with("X-Timestamp", "1.00000"), want: `X-Timestamp "1.00000"`},

		"EIO for metadata":     {disk: unix.EIO, want: "input/output error"},
		"EUCLEAN for metadata": {disk: unix.EUCLEAN, want: "structure needs cleaning"},
	}
	for _, value := range []string{"soon", "", "1.5", "0x5", "5 6", "1__0", "_5"} {
		d["delete-at "+value] = damage{meta: with("X-Delete-At", value), want: "bad metadata x-delete-at"}
		d["delete-at of the data "+value] = damage{data: with("X-Delete-At", value), bare: true, want: "bad metadata x-delete-at"}
		d["length "+value] = damage{data: with("Content-Length", value), want: "bad metadata content-length"}
	}
	for _, value := range []string{"5", "1_0", " 5\t", "-1", "+5", "99999999999999999999999999", "0"} {
		d["delete-at "+value] = damage{meta: with("X-Delete-At", value)}
		d["delete-at of the data "+value] = damage{data: with("X-Delete-At", value), bare: true}
	}
	d["delete-at of the data only"] = damage{data: with("X-Delete-At", "soon")}
	for _, value := range []string{"05", "0_5", " 5", "+5"} {
		d["length "+value] = damage{data: with("Content-Length", value)}
	}
	for _, value := range []string{"-5", "6", "99999999999999999999999999"} {
		d["length "+value] = damage{data: with("Content-Length", value), want: "does not match actual object size 5"}
	}
	return d
}

// pieces cuts a file's metadata into n pieces.
func pieces(n int) func(t *testing.T, path, _, _ string) {
	return func(t *testing.T, path, _, _ string) {
		b := make([]byte, 4096)
		size, err := unix.Getxattr(path, metadataKey, b)
		check(t, err)
		for i := range n {
			key := metadataKey
			if i > 0 {
				key += strconv.Itoa(i)
			}
			check(t, unix.Setxattr(path, key, b[i*size/n:(i+1)*size/n], 0))
		}
	}
}

// make lays the object out below a device and returns the path of what is damaged.
func (d damage) make(t *testing.T, device, name string, now time.Time) (path string) {
	hash := objhash.Hex(testHasher.Object(name))
	dir := filepath.Join(device, "objects-1/7", objhash.Suffix(hash), hash)
	t1, t2, t3 := timestamp.FromTime(now.Add(-3*time.Hour)), timestamp.FromTime(now.Add(-2*time.Hour)), timestamp.FromTime(now.Add(-time.Hour))
	write := func(file, content string, change func(map[string]string), m map[string]string) string {
		m["name"] = name
		if change != nil {
			change(m)
		}
		path := filepath.Join(dir, file)
		writeFile(t, path, content, m, now)
		return path
	}
	if d.tombstone != nil {
		path = write(t1.Internal()+".ts", "", d.tombstone, map[string]string{"X-Timestamp": t1.Internal()})
		if d.after != nil {
			d.after(t, path, "", "")
		}
		return path
	}
	var meta, ctype string
	if !d.bare {
		// The content type came at t2 and the metadata at t3.
		meta = write(t3.Internal()+".meta", "", d.meta, map[string]string{"X-Timestamp": t3.Internal(), "X-Object-Meta-Color": "red"})
		ctype = write(timestamp.EncodePair(t2, t2)+".meta", "", d.ctype, map[string]string{
			"X-Timestamp": t2.Internal(), "Content-Type": "image/png", "Content-Type-Timestamp": t2.Internal(), "X-Object-Meta-Color": "blue",
		})
	}
	path = write(t1.Internal()+"#1#d.data", "12345", d.data, map[string]string{
		"X-Timestamp": t1.Internal(), "Content-Length": "5", "ETag": "x", "Content-Type": "text/plain", "X-Object-Sysmeta-Ec-Frag-Index": "1",
	})
	if d.after != nil {
		d.after(t, path, meta, ctype)
	}
	return path
}

type quarantineAnswer struct {
	Quarantined bool
	Raised      string // name of the exception, "" if the object was opened
	Tree        []string
	FileMeta    map[string]string
}

func (a quarantineAnswer) String() string {
	switch {
	case a.Quarantined:
		return "quarantined, " + a.Raised
	case a.Raised == "":
		return "opened"
	}
	return a.Raised
}

// Law 4: what imping finds wrong with an object on opening it is quarantined exactly if
// one of Swift's two ways to open it does: by name, as for a GET, or by directory, as the
// auditor. (The sender of SSYNC has a third: it reads the name from the file that sorts
// first and passes over the object, without quarantine, when that file is damaged.)
func TestCorruptObjectsSayWhetherSwiftQuarantines(t *testing.T) {
	syscall.Umask(0o022)
	const name = "/a/c/o"
	hash := objhash.Hex(testHasher.Object(name))
	now := time.Now()
	base := t.TempDir()
	all := damages()
	whats := slices.Sorted(maps.Keys(all))
	type question struct {
		Root, Way string
		Disk      int
	}
	var questions []question
	ways := []string{"name", "directory", "sender"}
	for n, what := range whats {
		for _, way := range ways {
			root := filepath.Join(base, way, strconv.Itoa(n))
			all[what].make(t, filepath.Join(root, "sda"), name, now)
			questions = append(questions, question{root, way, int(all[what].disk)})
		}
	}
	var answers []quarantineAnswer
	oracle.Ask(t, swiftSetup+`
import xattr
getxattr = xattr.getxattr
out = []
for q in json.load(sys.stdin):
    mgr = diskfile.ECDiskFileManager({'devices': q['Root'], 'mount_check': 'false'}, logger)
    def broken(f, key, *a):
        if hasattr(f, 'name') or f.endswith('.data'):
            raise OSError(q['Disk'], 'disk')
        return getxattr(f, key, *a)
    diskfile.xattr.getxattr = broken if q['Disk'] else getxattr
    hash = utils.hash_path('a', 'c', 'o')
    a = {'Raised': ''}
    try:
        if q['Way'] == 'name':
            df = mgr.get_diskfile('sda', 7, 'a', 'c', 'o', ec, frag_index=1, open_expired=True)
        elif q['Way'] == 'directory':
            df = diskfile.ECDiskFile(mgr, q['Root'] + '/sda', 7, policy=ec, frag_index=1, open_expired=True,
                _datadir=q['Root'] + '/sda/objects-1/7/%s/%s' % (hash[-3:], hash))
        else:
            df = mgr.get_diskfile_from_hash('sda', 7, hash, ec, frag_index=1, open_expired=True)
        with df.open():
            a['FileMeta'] = df.get_metafile_metadata()
    except Exception as e:
        a['Raised'] = type(e).__name__
    diskfile.xattr.getxattr = getxattr
    a['Tree'] = tree(q['Root'] + '/sda')
    a['Quarantined'] = os.path.exists(q['Root'] + '/sda/quarantined')
    out.append(a)
json.dump(out, sys.stdout)
`, questions, &answers)
	quarantined := 0
	for n, what := range whats {
		d := all[what]
		root := filepath.Join(base, "ours", strconv.Itoa(n))
		path := d.make(t, filepath.Join(root, "sda"), name, now)
		m := newManager(t, root)
		byName, byDir, sender := answers[3*n], answers[3*n+1], answers[3*n+2]
		var o *Object
		var err error
		if d.disk != 0 {
			_, err = readMetadata(path, func(string, []byte) (int, error) { return 0, d.disk })
		} else if o, err = m.Open("sda", 7, hash, 1, false); o != nil {
			o.Close()
		}
		if _, deleted := errors.AsType[*DeletedError](err); deleted {
			err = nil
		}
		e, corrupt := errors.AsType[*CorruptError](err)
		if corrupt != (d.want != "") || corrupt && !strings.Contains(e.Reason, d.want) || err != nil && !corrupt {
			t.Errorf("%s: %v, want a CorruptError with %q", what, err, d.want)
			continue
		}
		if d.disk != 0 && !errors.Is(err, d.disk) {
			t.Errorf("%s: %v does not say what the disk answered", what, err)
		}
		t.Logf("%-28q by name: %-35v by directory: %-35v sender: %v", what, byName, byDir, sender)
		ours := corrupt && e.Quarantine
		if want := byName.Quarantined || byDir.Quarantined; ours != want {
			t.Errorf("%s: Quarantine is %v (%v); Swift quarantines: %v", what, ours, err, want)
			continue
		}
		if ours {
			quarantined++
			if _, err := m.Quarantine("sda", 7, hash); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			want := byName.Tree
			if !byName.Quarantined {
				want = byDir.Tree
			}
			if diff := cmp.Diff(want, lines(tree(t, filepath.Join(root, "sda")))); diff != "" {
				t.Errorf("%s: (-swift +ours)\n%s", what, diff)
			}
		}
		if o != nil && byName.Raised == "" {
			if diff := cmp.Diff(byName.FileMeta, o.FileMeta); diff != "" {
				t.Errorf("%s: metadata of the .meta files (-swift +ours)\n%s", what, diff)
			}
		}
	}
	t.Logf("%d of %d kinds of damage are quarantined for", quarantined, len(whats))
	if quarantined < 20 {
		t.Error("the test has gone blind")
	}
}

func lines(all []any) (out []string) {
	for _, l := range all {
		out = append(out, fmt.Sprint(l))
	}
	return out
}

// What is in the place of an object directory and can not be listed is moved away as Swift
// moves it: a file alone, a directory on bad sectors (ENODATA), or, if that can not be
// moved, its suffix.
func TestUnlistableDirectoriesAreQuarantinedAsSwiftDoes(t *testing.T) {
	syscall.Umask(0o022)
	hash := objhash.Hex(testHasher.Object("/a/c/o"))
	suffixDir := filepath.Join("sda/objects-1/7", objhash.Suffix(hash))
	layout := func(root, what string) {
		check(t, os.MkdirAll(filepath.Join(root, suffixDir, "0123456789abcdef0123456789abc"+objhash.Suffix(hash)), 0o755))
		switch dir := filepath.Join(root, suffixDir, hash); what {
		case "file":
			check(t, os.WriteFile(dir, []byte("x"), 0o600))
		case "bad sectors":
			check(t, os.Mkdir(dir, 0o755))
		case "name taken":
			check(t, os.Mkdir(dir, 0o755))
			check(t, os.MkdirAll(filepath.Join(root, "sda/quarantined/objects-1", hash, "x"), 0o755))
		}
	}
	type question struct{ Root, How, What, Hash, Suffix string }
	var questions []question
	base := t.TempDir()
	for _, how := range []string{"hashed", "opened"} {
		for _, what := range []string{"file", "bad sectors", "name taken", "can not be moved"} {
			if what == "can not be moved" && how == "hashed" {
				continue // it is missing, which is how it is made, and so not come across
			}
			q := question{filepath.Join(base, how, what, "theirs"), how, what, hash, suffixDir}
			layout(q.Root, what)
			questions = append(questions, q)
		}
	}
	var trees [][]string
	oracle.Ask(t, swiftSetup+`
import errno
sound = os.listdir
out = []
for q in json.load(sys.stdin):
    mgr = diskfile.ECDiskFileManager({'devices': q['Root'], 'mount_check': 'false'}, logger)
    def bad(path):
        if path.endswith(q['Hash']) and not os.path.isfile(path):
            raise OSError(errno.ENODATA, 'bad sectors')
        return sound(path)
    os.listdir = bad
    try:
        if q['How'] == 'hashed':
            mgr._hash_suffix(q['Root'] + '/' + q['Suffix'], ec)
        else:
            mgr.get_diskfile_from_hash('sda', 7, q['Hash'], ec)
    except (DiskFileNotExist, PathNotDir):
        pass
    out.append(tree(q['Root'] + '/sda'))
json.dump(out, sys.stdout)
`, questions, &trees)
	for i, q := range questions {
		root := filepath.Join(base, q.How, q.What, "ours")
		layout(root, q.What)
		m := newManager(t, root)
		m.warn = func(string, ...any) {}
		dir := filepath.Join(root, suffixDir, hash)
		switch {
		case q.What == "file" && q.How == "opened":
			if _, err := m.Open("sda", 7, hash, -1, false); !errors.Is(err, ErrNotExist) {
				t.Errorf("%v", err)
			}
		case q.What != "file":
			check(t, m.quarantineBad(dir, &os.PathError{Op: "readdirent", Path: dir, Err: syscall.ENODATA}))
			fallthrough
		default:
			if q.How == "hashed" {
				_, err := m.hashSuffix(filepath.Dir(dir)) // the other directory is empty and goes
				check(t, err)
			}
		}
		if diff := cmp.Diff(trees[i], lines(tree(t, filepath.Join(root, "sda")))); diff != "" {
			t.Errorf("%s, %s (-swift +ours)\n%s", q.What, q.How, diff)
		}
		if err := m.quarantineBad(dir, &os.PathError{Op: "open", Path: dir, Err: syscall.EIO}); !errors.Is(err, syscall.EIO) {
			t.Errorf("EIO is quarantined for: %v", err)
		}
	}
}

// Swift's own writer makes pieces of 64 KiB, which file systems in memory keep.
func TestMetadataInPiecesOf64KiBIsRead(t *testing.T) {
	path := filepath.Join(quickDir(t), "f")
	check(t, os.WriteFile(path, nil, 0o600))
	var pieces int
	oracle.Ask(t, `
import sys, json, errno, logging
logging.disable(logging.CRITICAL)
from swift.obj import diskfile
path = json.load(sys.stdin)
try:
    diskfile.write_metadata(path, {'name': '/a/c/o', 'X-Object-Meta-A': 'x' * 60000, 'X-Object-Meta-B': '\xe4' * 14000})
except diskfile.DiskFileNoSpace:
    json.dump(0, sys.stdout)  # ext4 keeps 4 KiB
    raise SystemExit
json.dump(len([k for k in diskfile.xattr.listxattr(path) if 'checksum' not in (k if isinstance(k, str) else k.decode())]), sys.stdout)
`, path, &pieces)
	if pieces == 0 {
		t.Log("no file system for long attributes is here")
		return
	}
	if pieces < 2 {
		t.Fatalf("Swift wrote %d pieces", pieces)
	}
	meta, err := ReadMetadata(path)
	check(t, err)
	if len(meta["X-Object-Meta-A"]) != 60000 || meta["X-Object-Meta-B"] != strings.Repeat("ä", 14000) || meta["name"] != "/a/c/o" {
		t.Errorf("%d values, %d and %d bytes", len(meta), len(meta["X-Object-Meta-A"]), len(meta["X-Object-Meta-B"]))
	}
}
