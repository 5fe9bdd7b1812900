package diskfile

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imping/io/batch"
	"imping/io/batch/faults"
	"imping/swift/timestamp"
)

// intercepted has a manager's operations go through a hook.
func intercepted(m *Manager, hook faults.Hook) {
	under := m.engine
	m.engine = func(device string) batch.Engine { return &faults.Engine{Engine: under(device), Hook: hook} }
}

// Whichever engine, and whatever is written: a name is given when all that belongs to the file was synced behind the last change, and
// the directory of the name is synced too. Were the sync left out, this would be seen.
func TestNamesAreGivenToWhatIsOnTheDisk(t *testing.T) {
	now := timestamp.FromTime(time.Now())
	for _, uring := range []bool{false, true} {
		for _, replicated := range []bool{false, true} {
			for _, unsynced := range []bool{false, true} {
				p := crashPlan{Root: t.TempDir(), URing: uring, Replicated: replicated}
				check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
				var order faults.Order
				m := p.manager(t)
				m.unsynced = unsynced
				intercepted(m, order.Hook)
				for i, kind := range []string{"publish", "commit", "meta", "put", "publish and commit", "put", "group", "delete", "queue"} {
					at := now.Add(int64(i))
					if kind == "commit" {
						at = now
						if replicated {
							continue
						}
					}
					p.Op = crashOp{Kind: kind, Time: at, Index: 1, Content: strings.Repeat("x", 100_000)}
					check(t, p.do(m))
				}
				if wrong, unsaved := order.Wrong(), order.Unsaved(); (len(wrong) > 0) != unsynced || (len(unsaved) > 0) != unsynced {
					t.Errorf("uring %v, unsynced %v: too early: %q; directories not synced: %q", uring, unsynced, wrong, unsaved)
				}
			}
		}
	}
}

// A file system that takes little at a time gets all of it.
func TestShortWritesAreGoneOnWith(t *testing.T) {
	for _, uring := range []bool{false, true} {
		p := crashPlan{Root: t.TempDir(), URing: uring, Op: crashOp{Kind: "put", Time: timestamp.FromTime(time.Now()), Index: 1, Content: strings.Repeat("0123456789", 1000)}}
		check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
		m := p.manager(t)
		intercepted(m, faults.Short(777))
		check(t, p.do(m))
		o, err := m.Open("sda", p.partition(), fmt.Sprintf("%x", testHasher.Object(crashName)), -1, false)
		check(t, err)
		defer o.Close()
		b := make([]byte, o.Length)
		if _, err := o.ReadAt(b, 0); err != nil || fmt.Sprintf("%x", md5.Sum(b)) != o.DataMeta["ETag"] {
			t.Errorf("what is read is not what was written: %v", err)
		}
	}
}

// One that takes nothing, and does not say why, is not asked for ever.
func TestWritesOfNothingEnd(t *testing.T) {
	p := crashPlan{Root: t.TempDir(), Op: crashOp{Kind: "put", Time: timestamp.FromTime(time.Now()), Index: 1, Content: strings.Repeat("0123456789", 1000)}}
	check(t, os.MkdirAll(filepath.Join(p.Root, "sda/objects-1"), 0o755))
	m := p.manager(t)
	intercepted(m, faults.Short(0))
	if err := p.do(m); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the error is %v", err)
	}
}
