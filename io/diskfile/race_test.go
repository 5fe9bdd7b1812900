package diskfile

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// swiftPartition begins scripts that work on partition 7 of the device sda below the
// folder that they are asked about.
const swiftPartition = swiftSetup + `
root = json.load(sys.stdin)
part = root + '/sda/objects-1/7'
mgr = diskfile.ECDiskFileManager({'devices': root, 'mount_check': 'false', 'reclaim_age': 7 * 86400, 'commit_window': 60}, logger)
def plain(hashes):
    return {s: {str(k): v for k, v in (h or {}).items()} for s, h in hashes.items()}
def change(s, i):
    """A client's PUT: a fragment comes into the suffix, which is invalidated before."""
    d = '%s/%s/%s' % (part, s, os.listdir(part + '/' + s)[0])
    mgr.invalidate_hash(part + '/' + s)
    open('%s/%.5f#%d.data' % (d, time.time(), i), 'w').close()
    mgr.invalidate_hash(part + '/' + s)
`

// fresh hashes the partition anew, as if there were no hashes.pkl.
func fresh(t *testing.T, m *Manager, root string) map[string]any {
	t.Helper()
	check(t, os.Remove(filepath.Join(root, "sda/objects-1/7/hashes.pkl")))
	h, hashed, err := m.SuffixHashes("sda", 7, nil, false)
	check(t, err)
	if hashed != len(h) {
		t.Fatalf("%d of %d suffixes were hashed", hashed, len(h))
	}
	return plain(h)
}

// manySuffixes puts an object into each of some suffixes and returns them.
func manySuffixes(t *testing.T, root string, n int) (suffixes []string) {
	t.Helper()
	groups := objectsBySuffix()
	for i := range n {
		_, hash := put(t, root, 7, groups[i][0], "x", nil)
		suffixes = append(suffixes, objhash.Suffix(hash))
	}
	return suffixes
}

// rule 21: what another process invalidates while a suffix is being hashed here is not
// lost, whether or not that process hashes the partition too.
func TestInvalidationByOthersWhileHashingIsKept(t *testing.T) {
	for _, c := range []struct {
		known bool   // hashes.pkl is there, and one suffix is hashed anew
		then  string // what Swift does after it changed and invalidated all suffixes
	}{
		{false, ""},
		{false, "mgr.consolidate_hashes(part)"},
		{false, "mgr._get_hashes('sda', 7, ec)"},
		{true, ""},
		{true, "mgr._get_hashes('sda', 7, ec)"},
	} {
		m, root, _ := device(t)
		suffixes := manySuffixes(t, root, 3)
		var recalculate []string
		if c.known {
			_, _, err := m.SuffixHashes("sda", 7, nil, true)
			check(t, err)
			recalculate = suffixes[1:2]
		}
		// For a stray fragment the time is asked when its suffix is hashed.
		dir := filepath.Join(root, "sda/objects-1/7", suffixes[1])
		hash, err := listDir(dir)
		check(t, err)
		for i, age := range []time.Duration{time.Minute, 2 * time.Minute} {
			at := timestamp.FromTime(time.Now().Add(-age))
			writeFile(t, filepath.Join(dir, hash[0], fmt.Sprintf("%s#%d.data", at.Internal(), i)), "", nil, time.Now())
		}
		asked := false
		m.now = func() time.Time {
			if !asked {
				asked = true
				oracle.Ask(t, swiftPartition+`
for i, s in enumerate([s for s in sorted(os.listdir(part)) if len(s) == 3]): change(s, i)
`+c.then+`
json.dump(None, sys.stdout)
`, root, new(any))
			}
			return time.Now()
		}
		_, _, err = m.SuffixHashes("sda", 7, recalculate, false)
		check(t, err)
		if !asked {
			t.Fatalf("%+v: nothing happened while the partition was hashed", c)
		}
		h, _, err := m.SuffixHashes("sda", 7, nil, false)
		check(t, err)
		if diff := cmp.Diff(fresh(t, m, root), plain(h)); diff != "" {
			t.Errorf("%+v: an invalidation was lost (-fresh +kept)\n%s", c, diff)
		}
	}
}

// The same with parts exchanged: Swift hashes, and we invalidate and hash meanwhile.
func TestOurInvalidationWhileSwiftHashesIsKept(t *testing.T) {
	for what, hash := range map[string]bool{"invalidated": false, "hashed": true} {
		m, root, _ := device(t)
		suffixes := manySuffixes(t, root, 3)
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for !exists(filepath.Join(root, "hashing")) {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
			for _, s := range suffixes {
				names, err := listDir(filepath.Join(root, "sda/objects-1/7", s))
				if err != nil || len(names) == 0 {
					t.Errorf("%v, %v", names, err)
					return
				}
				file := filepath.Join(root, "sda/objects-1/7", s, names[0], timestamp.FromTime(time.Now()).Internal()+"#2#d.data")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := m.Invalidate("sda", 7, s); err != nil {
					t.Error(err)
				}
			}
			if hash {
				if _, _, err := m.SuffixHashes("sda", 7, nil, true); err != nil {
					t.Error(err)
				}
			}
			if err := os.WriteFile(filepath.Join(root, "go"), nil, 0o600); err != nil {
				t.Error(err)
			}
		}()
		var hashes map[string]any
		oracle.Ask(t, swiftPartition+`
hash_suffix = mgr._hash_suffix
calls = 0
def slow(path, policy=None):
    global calls
    calls += 1
    answer = hash_suffix(path, policy)
    if calls == 2:
        open(root + '/hashing', 'w').close()
        while not os.path.exists(root + '/go'): time.sleep(0.005)
    return answer
mgr._hash_suffix = slow
mgr._get_hashes('sda', 7, ec)
json.dump(plain(mgr._get_hashes('sda', 7, ec)[1]), sys.stdout)
`, root, &hashes)
		close(stop)
		<-done
		h, _, err := m.SuffixHashes("sda", 7, nil, false)
		check(t, err)
		want := fresh(t, m, root)
		if diff := cmp.Diff(want, plain(h)); diff != "" {
			t.Errorf("%s: we keep other hashes (-fresh +kept)\n%s", what, diff)
		}
		if diff := cmp.Diff(want, hashes); diff != "" {
			t.Errorf("%s: Swift keeps other hashes (-fresh +kept)\n%s", what, diff)
		}
	}
}

// Both hash, change and invalidate the same partition at once, in several processes and
// goroutines; in the end no change is unknown to either.
func TestSwiftAndWeHashAPartitionAtOnce(t *testing.T) {
	m, root, _ := device(t)
	m.unsynced = true
	suffixes := manySuffixes(t, root, 12)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	rounds := 0
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				s := suffixes[(i*3+w)%len(suffixes)]
				switch names, err := listDir(filepath.Join(root, "sda/objects-1/7", s)); {
				case err != nil || len(names) == 0:
					t.Errorf("%v, %v", names, err)
				case w == 0:
					at := timestamp.FromTime(time.Now())
					if err := os.WriteFile(filepath.Join(root, "sda/objects-1/7", s, names[0], at.Internal()+"#3#d.data"), nil, 0o600); err != nil {
						t.Error(err)
					}
					if err := m.Invalidate("sda", 7, s); err != nil {
						t.Error(err)
					}
				default:
					if w == 1 {
						rounds++
					}
					if _, _, err := m.SuffixHashes("sda", 7, []string{s}, i%3 == 0); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	oracle.Ask(t, swiftPartition+`
import random
random.seed(1)
suffixes = [s for s in sorted(os.listdir(part)) if len(s) == 3]
if os.fork() == 0:  # a second process only changes
    for i in range(150): change(random.choice(suffixes), i % 2)
    os._exit(0)
for i in range(60):
    change(random.choice(suffixes), 4)
    mgr._get_hashes('sda', 7, ec, recalculate=random.sample(suffixes, i % 2), do_listdir=i % 5 == 0)
if os.wait()[1]: raise SystemExit('the second process failed')
json.dump(None, sys.stdout)
`, root, new(any))
	close(stop)
	wg.Wait()
	var swift map[string]any
	oracle.Ask(t, swiftPartition+`json.dump(plain(mgr._get_hashes('sda', 7, ec)[1]), sys.stdout)`, root, &swift)
	h, _, err := m.SuffixHashes("sda", 7, nil, false)
	check(t, err)
	want := fresh(t, m, root)
	if diff := cmp.Diff(want, plain(h)); diff != "" {
		t.Errorf("an invalidation was lost (-fresh +kept)\n%s", diff)
	}
	if diff := cmp.Diff(want, swift); diff != "" {
		t.Errorf("Swift keeps other hashes (-fresh +kept)\n%s", diff)
	}
	if t.Logf("%d rounds", rounds); rounds < 3 {
		t.Error("the test has gone blind")
	}
}
