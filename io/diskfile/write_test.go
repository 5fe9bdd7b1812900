package diskfile

import (
	"crypto/md5"
	"encoding/hex"
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
	"imping/swift/timestamp"
)

const swiftWriteScript = swiftSetup + `
Names.tripped = 0

def text(s):
    """A latin-1 character stands for a byte."""
    return s.encode('latin1').decode('utf8', 'surrogateescape')

def full(root):
    out = []
    for d, dirs, files in os.walk(root):
        for n in dirs + files:
            p = os.path.join(d, n)
            st = os.lstat(p)
            what = ''
            if n == 'hashes.pkl':
                what = known(d)
            elif n == 'hashes.invalid':
                what = ' '.join(sorted(set(open(p).read().split())))
            elif stat.S_ISREG(st.st_mode):
                what = hashlib.md5(open(p, 'rb').read()).hexdigest()
                for k in sorted(os.listxattr(p)):
                    what += ' %s=%s' % (k, os.getxattr(p, k).hex())
            out.append(('%s %o %d:%d %s' % (os.path.relpath(p, root), st.st_mode & 0o7777, st.st_uid, st.st_gid, what)).rstrip())
    return sorted(out)

def run(mgr, root, op):
    kind = op['Kind']
    if kind == 'tree':
        return full(root + '/sda')
    if kind == 'hashes':
        if not os.path.isdir(root + '/sda/objects-1/%d' % op['Partition']):
            return None
        hashed, hashes = mgr._get_hashes('sda', op['Partition'], ec, recalculate=op['Recalc'], do_listdir=True)
        return None
    a, c, o = text(op['Name'])[1:].split('/', 2)
    df = mgr.get_diskfile('sda', op['Partition'], a, c, o, ec, frag_index=op['Index'], next_part_power=op['Next'] or None)
    meta = {text(k): text(v) for k, v in op['Meta'] or ()}
    try:
        if kind == 'put':
            if hasattr(ec, 'ec_ndata'):
                meta.setdefault('X-Object-Sysmeta-Ec-Frag-Index', str(op['Index']))
            with df.create(len(op['Content'])) as w:
                w.write(op['Content'].encode('latin1'))
                w.put(meta)
                if op['Commit']: w.commit(utils.Timestamp(op['Time']))
        elif kind == 'commit':
            if not os.path.isdir(df._datadir):
                raise DiskFileError()  # Swift would make the directory and fail after
            with df.create() as w:
                w.commit(utils.Timestamp(op['Time']))
        elif kind == 'meta':
            df.write_metadata(meta)
        elif kind == 'delete':
            df.delete(utils.Timestamp(op['Time']))
    except DiskFileError as e:
        return 'refused'
    return 'done'

out = []
for q in json.load(sys.stdin):
    time.time = lambda: q['Now']
    mgr = diskfile.ECDiskFileManager({'devices': q['Root'], 'mount_check': 'false',
        'reclaim_age': q['ReclaimAge'], 'commit_window': q['CommitWindow']}, logger)
    mgr.use_linkat = not q['Named']
    out.append([run(mgr, q['Root'], op) for op in q['Ops']])
json.dump(out, sys.stdout)
`

// fullTree lists a device with all that a writer decides: names, modes, owners, bytes,
// attributes, and the hashes and invalid suffixes as sets.
func fullTree(t testing.TB, root string) []string {
	t.Helper()
	out := []string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case d.Name() == hashesFile:
			what = known(filepath.Dir(path))
		case d.Name() == invalidFile:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			suffixes := strings.Fields(string(b))
			slices.Sort(suffixes)
			what = strings.Join(slices.Compact(suffixes), " ")
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what = fmt.Sprintf("%x", md5.Sum(b))
			for _, key := range attributeNames(t, path) {
				value := make([]byte, 1<<16)
				n, err := unix.Getxattr(path, key, value)
				if err != nil {
					return err
				}
				what += " " + key + "=" + hex.EncodeToString(value[:n])
			}
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, path)
		out = append(out, strings.TrimRight(fmt.Sprintf("%s %o %d:%d %s", rel, st.Mode&0o7777, st.Uid, st.Gid, what), " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func attributeNames(t testing.TB, path string) []string {
	t.Helper()
	b := make([]byte, 1<<16)
	n, err := unix.Listxattr(path, b)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return slices.DeleteFunc(names, func(s string) bool { return s == "" })
}

type writeOp struct {
	Kind      string // "put", "commit", "meta", "delete", "hashes", "tree"
	Name      string // latin-1
	Partition int
	Next      int
	Index     int
	Time      string
	Content   string
	Meta      [][2]string // latin-1
	Commit    bool
	Recalc    []string
}

type writeQuestion struct {
	Root         string
	Now          float64
	ReclaimAge   int
	CommitWindow float64
	Named        bool // the file system has no O_TMPFILE
	Ops          []writeOp

	files []testFile
	world world
}

const testPartPower = 3

// randomWrites are operations on a few objects whose directories are in any state.
func randomWrites(r *rand.Rand, groups [][]string, replicated bool) *writeQuestion {
	w := world{
		r: r, now: time.Unix(1795342301, 5e8), replicated: replicated,
		reclaimAge:   []time.Duration{7 * 24 * time.Hour, time.Hour}[r.IntN(2)],
		commitWindow: []time.Duration{time.Minute, 0}[r.IntN(2)],
	}
	q := &writeQuestion{Now: 1795342301.5, ReclaimAge: int(w.reclaimAge.Seconds()), CommitWindow: w.commitWindow.Seconds(), Named: r.IntN(4) == 0, world: w}
	q.files = append(q.files, testFile{Path: "objects-1", Dir: true})
	next := []int{0, 0, testPartPower, testPartPower + 1}[r.IntN(4)]
	type object struct {
		name string
		part int
	}
	var objects []object
	var parts []int
	recalc := map[int][]string{}
	for _, name := range groups[r.IntN(len(groups))][:2] {
		sum := testHasher.Object(name)
		o := object{name, objhash.Partition(sum, testPartPower)}
		objects = append(objects, o)
		h := objhash.Hex(sum)
		for _, power := range []uint{testPartPower, testPartPower - 1, testPartPower + 1} {
			part := objhash.Partition(sum, power)
			parts = append(parts, part)
			recalc[part] = append(recalc[part], objhash.Suffix(h))
			// In the partitions of other powers there may be links to the same files.
			if part == o.part && r.IntN(3) > 0 && power == testPartPower {
				q.files = append(q.files, w.randomDir(fmt.Sprintf("objects-1/%d/%s/%s", part, objhash.Suffix(h), h), name)...)
			}
		}
	}
	slices.Sort(parts)
	parts = slices.Compact(parts)
	times := []timestamp.Timestamp{timestamp.FromTime(w.now), timestamp.FromTime(w.now.Add(-time.Minute)), timestamp.FromTime(w.now.Add(-2 * time.Second)),
		timestamp.FromTime(w.now.Add(-30 * 24 * time.Hour))}
	times[1].Offset = 0x1f
	for range 2 + r.IntN(6) {
		o := objects[r.IntN(len(objects))]
		at := times[r.IntN(len(times))]
		op := writeOp{Name: latin1(o.name), Partition: o.part, Next: next, Index: r.IntN(3), Time: at.Internal(), Meta: [][2]string{{"X-Timestamp", at.Internal()}}}
		add := func(k, v string) { op.Meta = append(op.Meta, [2]string{k, latin1(v)}) }
		switch k := r.IntN(12); {
		case k < 5:
			op.Kind, op.Commit = "put", r.IntN(3) > 0
			op.Content = strings.Repeat("y", r.IntN(30))
			add("Content-Type", "text/plain")
			add("Content-Length", strconv.Itoa(len(op.Content)))
			add("ETag", fmt.Sprintf("%x", md5.Sum([]byte(op.Content))))
			add("X-Object-Meta-Raw", "\xff\xc3\xa4")
			add("X-Object-Meta-Empty", "")
			add("X-Object-Meta-One", "1")
			if r.IntN(2) == 0 {
				add("X-Object-Sysmeta-Ec-Frag-Index", strconv.Itoa(op.Index))
				add("X-Object-Sysmeta-Ec-Etag", "abc")
			}
			if r.IntN(8) == 0 {
				add("X-Object-Meta-Long", strings.Repeat("z", 40_000))
				add("X-Object-Meta-Longer", strings.Repeat("a", 30_000))
			}
		case k < 7 && !replicated:
			op.Kind = "commit"
		case k < 9:
			op.Kind = "meta"
			add("X-Object-Meta-Color", "blue")
			if r.IntN(2) == 0 {
				ctype := times[r.IntN(len(times))]
				add("Content-Type", "image/png")
				add("Content-Type-Timestamp", ctype.Internal())
			}
		case k < 11:
			op.Kind = "delete"
		default:
			op.Kind, op.Recalc = "hashes", recalc[o.part]
		}
		q.Ops = append(q.Ops, op)
		if r.IntN(4) == 0 && op.Kind != "commit" {
			q.Ops = append(q.Ops, writeOp{Kind: "tree"})
		}
	}
	q.Ops = append(q.Ops, writeOp{Kind: "tree"})
	for _, part := range parts {
		q.Ops = append(q.Ops, writeOp{Kind: "hashes", Partition: part, Recalc: recalc[part]})
	}
	q.Ops = append(q.Ops, writeOp{Kind: "tree"})
	return q
}

// durableAfter tells whether there is a durable fragment or a tombstone that is newer.
func durableAfter(t *testing.T, q *writeQuestion, root string, o writeOp) bool {
	t.Helper()
	at, err := timestamp.Parse(o.Time)
	check(t, err)
	hash := objhash.Hex(testHasher.Object(fromLatin1(o.Name)))
	names, err := listDir(filepath.Join(root, "sda/objects-1", strconv.Itoa(o.Partition), objhash.Suffix(hash), hash))
	check(t, err)
	for _, name := range names {
		f, err := parseName(name, 6)
		if err == nil && f.time.After(at) && (f.durable || f.ext == ".ts" || f.ext == ".durable") {
			return true
		}
	}
	return false
}

func newMetadata(pairs ...[2]string) *Metadata {
	m := &Metadata{}
	for _, p := range pairs {
		m.Set(p[0], p[1])
	}
	return m
}

// fromLatin1 is the reverse of latin1.
func fromLatin1(s string) string {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

func runWrite(t testing.TB, m *Manager, root string, o writeOp) any {
	t.Helper()
	p := Place{Device: "sda", Partition: o.Partition, Name: fromLatin1(o.Name), FragIndex: o.Index, NextPartPower: o.Next}
	at, err := timestamp.Parse(o.Time)
	if err != nil && o.Time != "" {
		t.Fatal(err)
	}
	meta := &Metadata{}
	for _, kv := range o.Meta {
		meta.Set(fromLatin1(kv[0]), fromLatin1(kv[1]))
	}
	err = nil
	switch o.Kind {
	case "tree":
		return fullTree(t, root+"/sda")
	case "hashes":
		if _, _, err := m.SuffixHashes("sda", o.Partition, o.Recalc, true); err != nil {
			t.Fatal(err)
		}
		return nil
	case "put":
		err = putFile(m, p, o.Content, meta, o.Commit)
	case "commit":
		err = m.MakeDurable(p, at)
	case "meta":
		err = m.WriteMeta(p, meta)
	case "delete":
		err = m.Delete(p, at)
	}
	if errors.Is(err, ErrNotExist) {
		return "refused"
	}
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return "done"
}

func putFile(m *Manager, p Place, content string, meta *Metadata, commit bool) error {
	w, err := m.Create(p, int64(len(content)))
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write([]byte(content)); err != nil {
		return err
	}
	if err := w.Publish(meta); err != nil {
		return err
	}
	if commit {
		return w.Commit()
	}
	return nil
}

// Swift's module and ours do the same to the same directories: names, bytes, attributes,
// modes, owners and, once hashed, hashes are the same (rules 21, 24 and 31).
func TestRandomWritesLeaveWhatSwiftLeaves(t *testing.T) { compareWrites(t, false) }

// The same of a policy that keeps whole objects.
func TestRandomReplicatedWritesLeaveWhatSwiftLeaves(t *testing.T) { compareWrites(t, true) }

func compareWrites(t *testing.T, replicated bool) {
	t.Parallel()
	syscall.Umask(0o022)
	r := rand.New(rand.NewPCG(*seed, 27))
	groups := objectsBySuffix()
	base := quickDir(t)
	seen := map[string]int{}
	var questions []*writeQuestion
	for i := range min(*partitions, perRun) {
		q := randomWrites(r, groups, replicated)
		q.Root = filepath.Join(base, "swift", strconv.Itoa(i))
		for _, f := range q.files {
			f.write(t, filepath.Join(q.Root, "sda"))
		}
		questions = append(questions, q)
	}
	script := swiftWriteScript
	if replicated {
		script = asReplicated(script)
	}
	var answers [][]any
	oracle.Ask(t, script, questions, &answers)
	for i, q := range questions {
		root := filepath.Join(base, "ours", strconv.Itoa(i))
		for _, f := range q.files {
			f.write(t, filepath.Join(root, "sda"))
		}
		before := fullTree(t, root)
		m := newManager(t, root)
		if replicated {
			m.policy = replicatedPolicy()
		}
		m.warn = func(string, ...any) {}
		m.unsynced = true
		m.now = func() time.Time { return q.world.now }
		m.reclaimAge, m.commitWindow = q.world.reclaimAge, q.world.commitWindow
		if q.Named {
			m.fault = func(step string, do func() error) error {
				if step == "open" {
					return unix.EOPNOTSUPP
				}
				return do()
			}
		}
		// The folder of temporary files is used to replace a file. What is told again at a commit
		// differs on purpose; the hashes at the end do not.
		comparable := func(lines []string) []string {
			return slices.DeleteFunc(lines, func(s string) bool {
				return strings.HasPrefix(s, "tmp-1 ") || !replicated && (strings.Contains(s, invalidFile) || strings.Contains(s, "/.lock "))
			})
		}
		for step, want := range answers[i] {
			o := q.Ops[step]
			got := runWrite(t, m, root, o)
			if l, ok := want.([]any); ok {
				var lines []string
				for _, x := range l {
					lines = append(lines, x.(string))
				}
				want = comparable(lines)
				got = comparable(got.([]string))
			}
			if o.Kind == "commit" && want == "refused" && got == "done" {
				// Swift's check of its own choice trips where the newer fragment is of another index.
				if newer := durableAfter(t, q, root, o); !newer {
					t.Fatalf("question %d, step %d: a fragment that is not there was made durable", i, step)
				}
				seen["overtaken"]++
				continue
			}
			if diff := cmp.Diff(want, got); diff != "" {
				var ops []string
				for _, o := range q.Ops {
					ops = append(ops, fmt.Sprintf("%s %s %d/%d #%d %s commit=%v %.500v", o.Kind, o.Name, o.Partition, o.Next, o.Index, o.Time, o.Commit, o.Meta))
				}
				t.Fatalf("question %d, step %d (-swift +ours):\n%s\n%s\nit began as\n%s", i, step, diff, strings.Join(ops, "\n"), strings.Join(before, "\n"))
			}
			seen[o.Kind+map[bool]string{true: " refused"}[want == "refused"]]++
		}
	}
	t.Log(seen)
	for _, kind := range slices.Sorted(maps.Keys(seen)) {
		if seen[kind] < min(20, *partitions/30) {
			t.Errorf("only %d of kind %q: the test has gone blind", seen[kind], kind)
		}
	}
}

// What a durable archive costs, at the size of small objects and of large ones.
func BenchmarkDurableArchive(b *testing.B) {
	for _, size := range []int{6500, 64 << 10, 1600 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			root := b.TempDir()
			check(b, os.MkdirAll(filepath.Join(root, "sda/objects-1"), 0o755))
			m := newManager(b, root)
			content := strings.Repeat("x", size)
			at := timestamp.FromTime(time.Now()).Internal()
			meta := newMetadata([2]string{"X-Timestamp", at}, [2]string{"Content-Length", strconv.Itoa(size)}, [2]string{"ETag", strings.Repeat("0", 32)})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				check(b, putFile(m, Place{Device: "sda", Partition: i % 64, Name: "/a/c/" + strconv.Itoa(i), FragIndex: 1}, content, meta, true))
			}
		})
	}
}
