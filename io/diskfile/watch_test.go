package diskfile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"imping/swift/objhash"
)

// counter is a Watch.
type counter struct{ underWay, begun, steps atomic.Int64 }

func (c *counter) Begin() { c.begun.Add(1); c.underWay.Add(1) }
func (c *counter) Step()  { c.steps.Add(1) }
func (c *counter) End()   { c.underWay.Add(-1) }

func TestCallsToTheDiskAreToldToTheWatch(t *testing.T) { // rule 42
	const objects = 50
	root := t.TempDir()
	var hashes []string
	for i := range objects {
		name := fmt.Sprintf("/a/c/o%d", i)
		h := objhash.Hex(testHasher.Object(name))
		hashes = append(hashes, h)
		writeFile(t, filepath.Join(root, "sda/objects-1/7", objhash.Suffix(h), h, "1795342301.49613#1#d.data"), "data",
			map[string]string{"name": name, "X-Timestamp": "1795342301.49613", "Content-Length": "4"}, time.Now())
		writeFile(t, filepath.Join(root, "sda/tmp-1", name), "", nil, time.Now())
	}
	w := &counter{}
	m := newManager(t, root).Watched(w)
	m.now = func() time.Time { return time.Unix(1795342400, 0) }
	for what, call := range map[string]func(){
		"Partitions": func() {
			parts, _, err := m.Partitions("sda")
			check(t, err)
			if len(parts) != 1 {
				t.Errorf("partitions %v", parts)
			}
		},
		"SuffixHashes": func() {
			before := w.steps.Load()
			_, hashed, err := m.SuffixHashes("sda", 7, nil, true)
			check(t, err)
			if n := w.steps.Load() - before; hashed == 0 || n < objects {
				t.Errorf("%d steps for %d objects in %d suffixes", n, objects, hashed)
			}
		},
		"YieldHashes": func() {
			n := 0
			for _, err := range m.YieldHashes("sda", 7, nil, 1, false) {
				check(t, err)
				if n++; w.underWay.Load() != 0 {
					t.Fatal("what the caller does with an offer is taken for a call")
				}
			}
			if n != objects {
				t.Errorf("%d offers", n)
			}
		},
		"ReadAt": func() {
			o, err := m.Open("sda", 7, hashes[0], 1, false)
			check(t, err)
			defer o.Close()
			before := w.begun.Load()
			_, err = o.ReadAt(make([]byte, 4), 0)
			check(t, err)
			if w.begun.Load() != before+1 {
				t.Error("a read of an object is no call")
			}
		},
		"a lock that others hold": func() {
			other, err := newManager(t, root).LockPartition(context.Background(), "sda", 7, "", time.Second)
			check(t, err)
			defer other.Unlock()
			before := w.steps.Load()
			_, err = m.LockPartition(context.Background(), "sda", 7, "", 200*time.Millisecond)
			if _, timeout := errors.AsType[*LockTimeoutError](err); !timeout || w.steps.Load()-before < 5 {
				t.Errorf("%v after %d steps", err, w.steps.Load()-before)
			}
		},
		"CleanTemporaries": func() { check(t, m.CleanTemporaries("sda")) },
		"Invalidate":       func() { check(t, m.Invalidate("sda", 7, "abc")) },
		"Quarantine": func() {
			_, err := m.Quarantine("sda", 7, hashes[1])
			check(t, err)
			writeFile(t, filepath.Join(root, "sda/objects-1/7", objhash.Suffix(hashes[1]), hashes[1], "1795342301.49613#1#d.data"), "data", nil, time.Now())
		},
	} {
		before := w.begun.Load()
		call()
		if w.begun.Load() == before || w.underWay.Load() != 0 {
			t.Errorf("%s: %d calls were begun, %d have not ended", what, w.begun.Load()-before, w.underWay.Load())
		}
	}
}
