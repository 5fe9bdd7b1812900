package diskfile

import (
	"flag"
	"fmt"
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
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

var (
	partitions = flag.Int("partitions", 600, "how many random partitions are compared with Swift; each has about seven object directories")
	seed       = flag.Uint64("seed", 20, "of the random partitions")
)

// perRun bounds what lies on the disk and in Python's memory at a time.
const perRun = 800

// objectsBySuffix gives names of objects that share a suffix.
func objectsBySuffix() [][]string {
	by := map[string][]string{}
	for i := range 20_000 {
		name := fmt.Sprintf("/a/c/o%d", i)
		if i%5 == 0 {
			name = fmt.Sprintf("/AUTH_ä/c//%d/日 %%", i)
		}
		s := objhash.Suffix(objhash.Hex(testHasher.Object(name)))
		by[s] = append(by[s], name)
	}
	var all [][]string
	for _, s := range slices.Sorted(maps.Keys(by)) {
		if len(by[s]) >= 4 && s != "fff" { // kept for a file in a suffix's place
			all = append(all, by[s])
		}
	}
	return all
}

// testFile is a file of a random partition.
type testFile struct {
	Path    string // below the device
	Content string
	Meta    map[string]string
	Style   style
	MTime   time.Time
	Dir     bool
}

// style is how the metadata of a file is kept.
type style int

const (
	python3 style = iota
	noChecksum
	python2
	python2NoChecksum
	inPieces
	badChecksum
	noMetadata
	noPickle
	styles
)

func (f testFile) write(t testing.TB, device string) {
	t.Helper()
	path := filepath.Join(device, f.Path)
	if f.Dir {
		check(t, os.MkdirAll(path, 0o755))
		return
	}
	writeFile(t, path, f.Content, nil, f.MTime)
	if f.Meta == nil {
		return
	}
	switch raw := pickle.EncodeMetadata(f.Meta, nil); f.Style {
	case noChecksum:
		setMetadata(t, path, raw, false)
	case python2, python2NoChecksum:
		setMetadata(t, path, python2Pickle(f.Meta), f.Style == python2)
	case inPieces:
		for i := 0; len(raw) > 0; i++ {
			key, n := metadataKey, min(len(raw), 90)
			if i > 0 {
				key += strconv.Itoa(i)
			}
			check(t, unix.Setxattr(path, key, raw[:n], 0))
			raw = raw[n:]
		}
	case badChecksum:
		setMetadata(t, path, raw, false)
		check(t, unix.Setxattr(path, checksumKey, []byte(strings.Repeat("0", 32)), 0))
	case noMetadata:
	case noPickle:
		setMetadata(t, path, []byte("\x80\x02}q\x01("), true)
	default:
		setMetadata(t, path, raw, true)
	}
}

// python2Pickle is what Python 2 wrote: byte strings, now and then a unicode one.
func python2Pickle(m map[string]string) []byte {
	b := []byte("\x80\x02}q\x01(")
	for i, k := range slices.Sorted(maps.Keys(m)) {
		for _, s := range []string{k, m[k]} {
			switch {
			case s == "text/plain":
				b = append(append(b, 'X', byte(len(s)), 0, 0, 0), s...)
			case i%3 == 0:
				b = append(append(b, 'T', byte(len(s)), 0, 0, 0), s...)
			default:
				b = append(append(b, 'U', byte(len(s))), s...)
			}
			b = append(b, 'q', byte(i+2))
		}
	}
	return append(b, 'u', '.')
}

// world is what all of a random partition has in common.
type world struct {
	r            *rand.Rand
	now          time.Time
	reclaimAge   time.Duration
	commitWindow time.Duration
	damaged      bool // some metadata is
	replicated   bool // the policy is
	odd          bool // folders are in place of files
}

// randomDir fills an object directory from a small pool of times, so that files meet.
func (w *world) randomDir(dir, object string) []testFile {
	r := w.r
	pool := []timestamp.Timestamp{}
	for i := range 3 {
		pool = append(pool, timestamp.FromTime(w.now.Add(-time.Minute-time.Duration(i)*time.Second)))
		pool = append(pool, timestamp.FromTime(w.now.Add(-30*24*time.Hour-time.Duration(i)*time.Second)))
	}
	switch r.IntN(4) {
	case 0:
		pool[0].Offset = 0xab
		pool[3].Offset = 1
	case 1:
		// The edge of the reclaim age.
		at := timestamp.FromTime(w.now.Add(-w.reclaimAge))
		for i := range pool {
			pool[i] = at.Add(int64(i/2 - 1))
		}
	case 2:
		pool[1] = pool[0]
		pool[1].Offset = r.Uint64()
		pool[2] = timestamp.FromTime(w.now.Add(time.Hour))
	}
	if r.IntN(2) == 0 {
		r.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
		pool = pool[:1+r.IntN(len(pool))]
	}
	seen := map[string]bool{}
	var files []testFile
	for range r.IntN(8) {
		at := pool[r.IntN(len(pool))]
		f := testFile{Meta: map[string]string{"name": object, "X-Timestamp": at.Internal()}}
		var file string
		switch k := r.IntN(22); {
		case k < 10:
			index := r.IntN(3)
			if r.IntN(12) == 0 {
				index = 5 + r.IntN(3)
			}
			file = fmt.Sprintf("%s#%d.data", at.Internal(), index)
			if r.IntN(2) == 0 {
				file = fmt.Sprintf("%s#%d#d.data", at.Internal(), index)
			}
			if w.replicated && r.IntN(12) > 0 {
				file = at.Internal() + ".data"
			}
			f.Content = strings.Repeat("x", r.IntN(20))
			f.Meta["Content-Length"] = strconv.Itoa(len(f.Content))
			f.Meta["Content-Type"] = "text/plain"
			f.Meta["X-Object-Sysmeta-Ec-Frag-Index"] = strconv.Itoa(index)
			f.Meta["X-Object-Meta-Raw"] = "\xff\xc3\xa4\x00"
			if r.IntN(4) == 0 {
				f.Meta["X-Delete-At"] = "1"
			}
		case k < 12:
			file = at.Internal() + ".durable"
		case k < 14:
			file = at.Internal() + ".ts"
		case k < 16:
			file = at.Internal() + ".meta"
			f.Meta["X-Object-Meta-Color"] = strconv.Itoa(k)
		case k < 21:
			ctype := pool[r.IntN(len(pool))]
			if ctype.Raw != at.Raw || r.IntN(2) == 0 {
				ctype.Offset = 0
			}
			file = timestamp.EncodePair(at, ctype) + ".meta"
			f.Meta["Content-Type"] = "image/" + strconv.Itoa(r.IntN(100))
			f.Meta["Content-Type-Timestamp"] = ctype.Internal()
			if r.IntN(9) == 0 {
				delete(f.Meta, []string{"Content-Type", "Content-Type-Timestamp"}[r.IntN(2)])
			}
		default:
			file = []string{
				".1795342301.49613#1.data.Xy095a", "junk", "1795342301.49613", at.Internal() + ".data",
				at.Internal() + "#x.data", at.Internal() + "#1#x.data", at.Internal() + "#-1.data", "x.ts", at.Internal() + ".tmp", ".data",
				at.Internal() + "#+1.data", at.Internal() + "# 1_0 .data", "x+y.meta", at.Internal() + "+0+0.meta", at.Normal() + "_.ts",
			}[r.IntN(15)]
			f.Meta["Content-Length"] = "0"
		}
		if seen[file] {
			continue
		}
		seen[file] = true
		f.Path = filepath.Join(dir, file)
		f.Style = style(r.IntN(int(badChecksum)))
		if w.damaged && r.IntN(4) == 0 {
			if f.Style = style(r.IntN(int(styles))); f.Style < badChecksum {
				key := []string{"Content-Length", "X-Delete-At", "name", "X-Timestamp", "X-Object-Sysmeta-Ec-Frag-Index"}[r.IntN(5)]
				f.Meta[key] = []string{"7", "/a/c/x", "", "1_0"}[r.IntN(4)]
			}
		}
		f.Dir = w.odd && r.IntN(6) == 0
		switch r.IntN(3) {
		case 0:
			f.MTime = w.now.Add(-time.Hour)
		case 1:
			f.MTime = w.now.Add(-10 * time.Second)
		default:
			// The edge of the commit window.
			f.MTime = w.now.Add(-w.commitWindow + time.Duration(r.IntN(3)-1)*time.Microsecond)
		}
		files = append(files, f)
	}
	if r.IntN(12) == 0 {
		// A POST that only some nodes saw changed the content type, and a later one did not.
		at := func(minutes int) timestamp.Timestamp {
			return timestamp.FromTime(w.now.Add(time.Duration(-minutes) * time.Minute))
		}
		latest := map[string]map[string]string{
			at(4).Internal() + "#1#d.data":               {"Content-Length": "0", "Content-Type": "text/plain", "X-Timestamp": at(4).Internal()},
			timestamp.EncodePair(at(3), at(3)) + ".meta": {"Content-Type": "image/png", "Content-Type-Timestamp": at(3).Internal(), "X-Timestamp": at(3).Internal()},
			timestamp.EncodePair(at(2), at(4)) + ".meta": {"X-Object-Meta-Color": "red", "X-Timestamp": at(2).Internal()},
		}
		for _, name := range slices.Sorted(maps.Keys(latest)) {
			latest[name]["name"] = object
			files = append(files, testFile{Path: filepath.Join(dir, name), Meta: latest[name], Style: style(r.IntN(int(badChecksum))), MTime: w.now})
		}
	}
	return files
}

// randomHashes are hashes.pkl and hashes.invalid as someone left them.
func (w *world) randomHashes(suffixes []string) (files []testFile) {
	r := w.r
	add := func(name, content string) {
		files = append(files, testFile{Path: filepath.Join("objects-1/7", name), Content: content, MTime: w.now})
	}
	if r.IntN(2) == 0 {
		f := &suffix.File{Valid: r.IntN(5) > 0, Updated: 1.5, Hashes: suffix.Hashes{}}
		for _, s := range append([]string{"000", "fff"}, suffixes...) {
			switch r.IntN(4) {
			case 0:
				f.Hashes[s] = nil
			case 1:
				f.Hashes[s] = &suffix.Entry{}
			case 2:
				f.Hashes[s] = &suffix.Entry{None: strings.Repeat("a", 32), Frags: suffix.Frags{{Index: 1, Hash: strings.Repeat("b", 32)}}}
			}
		}
		content := string(f.Encode())
		switch r.IntN(8) {
		case 0:
			content = content[:len(content)/2]
		case 1:
			content = string(pickle.Encode(&pickle.Dict{Pairs: []pickle.Pair{{Key: "ABC", Value: nil}}}))
		case 2:
			content = string(pickle.Encode(&pickle.Dict{Pairs: []pickle.Pair{{Key: suffixes[0], Value: nil}}}))
		case 3:
			content = ""
		}
		add("hashes.pkl", content)
	}
	if r.IntN(2) == 0 {
		// For a line that names no suffix Swift hashes twice, and so forgets files that it
		// removed the first time: the result is another, until the next hashing.
		add("hashes.invalid", []string{"", suffixes[0] + "\n", suffixes[0] + "\n000\n", "000\n", "00f\r\n"}[r.IntN(5)])
	}
	return files
}

type op struct {
	Kind       string // "hashes", "yield", "open", "audit", "invalidate", "tree"
	Recalc     []string
	Listdir    bool
	Suffixes   []string
	Hash       string
	Index      int
	NonDurable bool
}

type question struct {
	Root         string
	Now          float64
	ReclaimAge   int
	CommitWindow float64
	Duplication  int
	Ops          []op

	files []testFile
	world world
}

func randomPartition(r *rand.Rand, groups [][]string, replicated bool) *question {
	w := world{
		r: r,
		// Half a second is exact in binary, so that edges are met.
		now:          time.Unix(1795342301, 5e8),
		reclaimAge:   []time.Duration{7 * 24 * time.Hour, 7 * 24 * time.Hour, time.Hour, time.Minute, 0}[r.IntN(5)],
		commitWindow: []time.Duration{time.Minute, time.Minute, 500 * time.Millisecond, 0}[r.IntN(4)],
		damaged:      r.IntN(5) == 0,
		replicated:   replicated,
	}
	w.odd = !w.damaged && r.IntN(8) == 0
	q := &question{Now: 1795342301.5, ReclaimAge: int(w.reclaimAge.Seconds()), CommitWindow: w.commitWindow.Seconds(), Duplication: 1 + r.IntN(2), world: w}
	var suffixes, hashes []string
	for range 1 + r.IntN(4) {
		group := groups[r.IntN(len(groups))]
		for _, name := range group[:1+r.IntN(3)] {
			h := objhash.Hex(testHasher.Object(name))
			dir := filepath.Join("objects-1/7", objhash.Suffix(h), h)
			if slices.Contains(hashes, h) {
				continue
			}
			hashes = append(hashes, h)
			q.files = append(q.files, w.randomDir(dir, name)...)
			switch r.IntN(16) {
			case 0, 1:
				q.files = append(q.files, testFile{Path: dir, Dir: true})
			case 2:
				q.files = append(q.files, testFile{Path: filepath.Join("quarantined/objects-1", h, "x"), Dir: true})
			}
			suffixes = append(suffixes, objhash.Suffix(h))
		}
	}
	slices.Sort(suffixes)
	suffixes = slices.Compact(suffixes)
	q.files = append(q.files, testFile{Path: "objects-1/7", Dir: true})
	if r.IntN(3) == 0 {
		q.files = append(q.files, w.randomHashes(suffixes)...)
	}
	if r.IntN(6) == 0 {
		// A file in place of an object directory, of a suffix; Swift's sender breaks on the
		// former, so it is hashed first, whatever hashes.pkl says.
		s := suffixes[0]
		q.files = append(q.files, testFile{Path: filepath.Join("objects-1/7", s, "0123456789abcdef0123456789abc"+s), MTime: w.now},
			testFile{Path: "objects-1/7/fff", MTime: w.now})
		q.Ops = append(q.Ops, op{Kind: "hashes", Recalc: []string{s, "fff"}, Index: -1}, op{Kind: "tree"})
	}
	open := "open"
	if w.damaged {
		open = "audit"
	}
	index := func() int { return r.IntN(4) - 1 }
	work := []op{
		{Kind: "hashes", Listdir: r.IntN(2) == 0, Index: -1},
		{Kind: "yield", Suffixes: suffixes, Index: index(), NonDurable: r.IntN(2) == 0},
		{Kind: "invalidate", Suffixes: suffixes[:1+r.IntN(len(suffixes))]},
		{Kind: "hashes", Recalc: suffixes[:r.IntN(len(suffixes)+1)], Index: -1},
		{Kind: "yield", Suffixes: suffixes[:r.IntN(len(suffixes)+1)], Index: -1},
	}
	if !w.odd {
		work = append(work,
			op{Kind: open, Hash: hashes[r.IntN(len(hashes))], Index: index(), NonDurable: r.IntN(2) == 0},
			op{Kind: open, Hash: hashes[0], Index: index()})
	}
	r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	for _, o := range work {
		q.Ops = append(q.Ops, o)
		if r.IntN(2) == 0 {
			q.Ops = append(q.Ops, op{Kind: "tree"})
		}
	}
	for _, h := range hashes {
		if !w.odd {
			q.Ops = append(q.Ops, op{Kind: open, Hash: h, Index: -1, NonDurable: true})
		}
	}
	q.Ops = append(q.Ops, op{Kind: "hashes", Listdir: true, Index: -1}, op{Kind: "tree"})
	return q
}

// The same random partition is given to Swift's own diskfile module and to this package:
// they choose the same files, compute the same hashes, quarantine the same directories and
// leave the same bytes behind. `go test -run RandomPartitions -partitions 100000 -seed 7
// -timeout 0` looks longer.
func TestRandomPartitionsAreTreatedAsSwiftDoes(t *testing.T) {
	compareAll(t, false, kinds...)
}

// The same of a policy that keeps whole objects.
func TestRandomReplicatedPartitionsAreTreatedAsSwiftDoes(t *testing.T) {
	compareAll(t, true, "deleted", "error", "file", "offers", "with ctype", "merged ctype", "quarantined", "refused", "directories")
}

func compareAll(t *testing.T, replicated bool, kinds ...string) {
	t.Parallel()
	syscall.Umask(0o022)
	r := rand.New(rand.NewPCG(*seed, 26))
	groups := objectsBySuffix()
	seen := map[string]int{}
	for done := 0; done < *partitions; done += perRun {
		compare(t, r, groups, replicated, min(perRun, *partitions-done), seen)
		if t.Failed() {
			return
		}
	}
	t.Log(seen)
	for _, kind := range kinds {
		if seen[kind] < min(10, *partitions/80) {
			t.Errorf("only %d of kind %q: the test has gone blind", seen[kind], kind)
		}
	}
}

// kinds are what random partitions must come to, each a few times.
var kinds = []string{
	"deleted", "error", "file", "offers", "quarantined", "refused", "tripped", "directories",
	// What is opened:
	"durable by a .durable file", "not durable", "duplicated", "time with offset", ".meta", "with ctype", "merged ctype",
	"metadata of Python 3", "metadata without checksum", "metadata of Python 2", "metadata of Python 2 without checksum", "metadata in pieces",
	".meta of Python 2", ".meta in pieces",
	// What is removed, and what is not:
	"newer .data makes .data obsolete", "newer .ts makes .data obsolete", "obsolete .meta", "obsolete .durable", "obsolete .ts",
	"reclaimed .ts", "reclaimed .data", "reclaimed .meta", "kept by the reclaim age", "kept by the commit window",
	// What is hashed:
	"broken hashes.pkl", "stale hashes.pkl", "hashes.invalid", "a file for a directory", "checksum mismatch", "no metadata", "metadata that is no pickle",
}

var styleNames = map[style]string{
	python3: "metadata of Python 3", noChecksum: "metadata without checksum", python2: "metadata of Python 2",
	python2NoChecksum: "metadata of Python 2 without checksum", inPieces: "metadata in pieces",
	badChecksum: "checksum mismatch", noMetadata: "no metadata", noPickle: "metadata that is no pickle",
}

// opened counts of what kinds the files of an opened object are, as Swift told of it.
func (q *question) opened(o op, w map[string]any, seen map[string]int) {
	in := func(name string) *testFile {
		path := filepath.Join("objects-1/7", objhash.Suffix(o.Hash), o.Hash, name)
		i := slices.IndexFunc(q.files, func(f testFile) bool { return f.Path == path })
		return &q.files[i]
	}
	name, data, meta := w["file"].(string), w["data"].(string), w["meta"].(string)
	seen[styleNames[in(name).Style]]++
	if q.Duplication > 1 {
		seen["duplicated"]++
	}
	switch {
	case w["durable"] != data:
		seen["not durable"]++
	case !strings.HasSuffix(name, "#d.data"):
		seen["durable by a .durable file"]++ // or by the name of another fragment
		if !slices.ContainsFunc(q.files, func(f testFile) bool { return f.Path == filepath.Join(filepath.Dir(in(name).Path), data+".durable") }) {
			seen["durable by a .durable file"]--
		}
	}
	if strings.Contains(data, "_") {
		seen["time with offset"]++
	}
	if meta == "" {
		return
	}
	seen[".meta"]++
	for _, f := range q.files {
		if filepath.Dir(f.Path) == filepath.Dir(in(name).Path) && strings.HasPrefix(filepath.Base(f.Path), meta) && strings.HasSuffix(f.Path, ".meta") {
			switch f.Style {
			case python2, python2NoChecksum:
				seen[".meta of Python 2"]++
			case inPieces:
				seen[".meta in pieces"]++
			}
		}
	}
	if w["ctype"] != "" {
		seen["with ctype"]++
		if m, ok := w["filemeta"].(map[string]any); ok && m["X-Object-Meta-Color"] != nil && m["Content-Type"] != nil {
			seen["merged ctype"]++
		}
	}
}

// left counts what became of the files: those that are there at the end, with no folder of
// theirs in quarantine, and those that are not.
func (q *question) left(root string, seen map[string]int) {
	for _, f := range q.files {
		dir, name := filepath.Split(f.Path)
		switch {
		case name == hashesFile:
			if file, err := suffix.DecodeFile([]byte(f.Content)); err != nil {
				seen["broken hashes.pkl"]++
			} else if len(file.Hashes) > 0 {
				seen["stale hashes.pkl"]++
			}
		case name == invalidFile && f.Content != "":
			seen["hashes.invalid"]++
		}
		if _, err := objhash.Parse(name); err == nil && !f.Dir {
			seen["a file for a directory"]++
		}
		if f.Style >= badChecksum && f.Meta != nil {
			seen[styleNames[f.Style]]++
		}
		t, err := parseName(name, 6)
		if err != nil || f.Dir || strings.Count(f.Path, "/") != 4 {
			continue
		}
		if _, err := os.Lstat(filepath.Join(root, "sda/quarantined/objects-1", filepath.Base(dir))); err == nil {
			continue
		}
		_, err = os.Lstat(filepath.Join(root, "sda", f.Path))
		old := q.Now-t.time.Seconds() > q.world.reclaimAge.Seconds()
		newer := func(ext string) bool {
			return slices.ContainsFunc(q.files, func(other testFile) bool {
				o, err := parseName(filepath.Base(other.Path), 6)
				return err == nil && filepath.Dir(other.Path)+"/" == dir && o.ext == ext && o.time.After(t.time)
			})
		}
		switch {
		case err == nil && old && t.ext == ".data" && !t.durable && q.world.now.Sub(f.MTime) < q.world.commitWindow:
			seen["kept by the commit window"]++
		case err == nil && !old && (t.ext == ".ts" || t.ext == ".data" && !t.durable):
			seen["kept by the reclaim age"]++
		case err == nil:
		case t.ext == ".data" && newer(".ts"):
			seen["newer .ts makes .data obsolete"]++
		case t.ext == ".data" && newer(".data"):
			seen["newer .data makes .data obsolete"]++
		case !newer(".data") && !newer(".ts") && !newer(t.ext) && old:
			seen["reclaimed "+t.ext]++
		default:
			seen["obsolete "+t.ext]++
		}
	}
}

// quickDir makes a folder in memory, if the kernel keeps users' attributes there (from
// version 6.6 on), else on the disk.
func quickDir(t testing.TB) string {
	if dir, err := os.MkdirTemp("/dev/shm", "diskfile"); err == nil {
		if unix.Setxattr(dir, "user.test", []byte("x"), 0) == nil {
			t.Cleanup(func() { os.RemoveAll(dir) })
			return dir
		}
		os.Remove(dir)
	}
	return t.TempDir()
}

func compare(t *testing.T, r *rand.Rand, groups [][]string, replicated bool, n int, seen map[string]int) {
	base := quickDir(t)
	defer os.RemoveAll(base)
	var questions []*question
	for i := range n {
		q := randomPartition(r, groups, replicated)
		q.Root = filepath.Join(base, "swift", strconv.Itoa(i))
		for _, f := range q.files {
			f.write(t, filepath.Join(q.Root, "sda"))
		}
		questions = append(questions, q)
	}
	var answers struct {
		Answers [][]any
		Tripped int
	}
	script := swiftScript
	if replicated {
		script = asReplicated(script)
	}
	oracle.Ask(t, script, questions, &answers)
	seen["tripped"] += answers.Tripped
	for i, q := range questions {
		root := filepath.Join(base, "ours", strconv.Itoa(i))
		dirs := map[string]bool{}
		for _, f := range q.files {
			f.write(t, filepath.Join(root, "sda"))
			dirs[filepath.Dir(f.Path)] = true
		}
		seen["directories"] += len(dirs)
		before := tree(t, root)
		m := newManager(t, root)
		m.policy.Duplication = q.Duplication
		if replicated {
			m.policy = replicatedPolicy()
		}
		m.warn = func(string, ...any) {}
		m.unsynced = true
		m.now = func() time.Time { return q.world.now }
		m.reclaimAge, m.commitWindow = q.world.reclaimAge, q.world.commitWindow
		for step, want := range answers.Answers[i] {
			o := q.Ops[step]
			got := run(t, m, root, o)
			w, _ := want.(map[string]any)
			if g, ok := got.(map[string]any); ok && g["refused"] != nil && w["error"] != "quarantined" {
				seen["refused"]++ // Swift does not look at it
				continue
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("partition %d, reclaim age %v, commit window %v, step %d %+v (-swift +ours):\n%s\nit began as\n%s",
					i, q.world.reclaimAge, q.world.commitWindow, step, o, diff, strings.Join(lines(before), "\n"))
			}
			seen[o.Kind]++
			for k := range w { // "file", "deleted", "error"
				seen[k]++
			}
			if w["error"] == "quarantined" {
				seen["quarantined"]++
			}
			if l, ok := want.([]any); ok && o.Kind == "yield" {
				seen["offers"] += len(l)
			}
			if w["file"] != nil {
				q.opened(o, w, seen)
			}
		}
		q.left(root, seen)
	}
}
