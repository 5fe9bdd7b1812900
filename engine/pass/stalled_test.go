package pass

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"imping/engine/rebuild/peers"
	"imping/io/diskfile"
	"imping/netfast/fake"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/suffix"
)

// newLabOfTwo is a lab with a second local device, sdb, that has the local place in
// partition 3; and with little patience with both.
func newLabOfTwo(t *testing.T) *lab {
	l := newLab(t)
	l.stall, l.over = 300*time.Millisecond, make(chan struct{})
	l.writeRing(func(ring map[string]any) {
		spare := ring["devs"].([]any)[len(l.peers)].(map[string]any)
		spare["ip"], spare["port"], spare["device"] = "127.0.0.1", 1, "sdb"
	})
	return l
}

// onSdb puts an object's archives on sdb, in partition 3, and on all peers but the missing.
func (l *lab) onSdb(name string, size int64, missing ...int) *peers.Object {
	l.t.Helper()
	o := peers.NewObject(l.t, l.code, l.pol, name, size)
	disk := l.disk
	disk.Device = "sdb"
	disk.Put(l.t, 3, o, own, nil)
	l.hold(o, missing...)
	return o
}

// pipe puts a pipe in a file's place: who opens it hangs in the kernel, until free puts an
// empty file there. quiet comes behind that.
func (l *lab) pipe(path string) (free func()) {
	l.t.Helper()
	other := filepath.Join(l.t.TempDir(), "other name") // by which it is found again
	if err := errors.Join(unix.Mkfifo(path, 0o600), os.Link(path, other), os.WriteFile(other+".file", nil, 0o600)); err != nil {
		l.t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := os.Rename(other+".file", path); err != nil {
			l.t.Error(err)
		}
		go func() {
			for { // who is just about to open it needs this, too
				both, err := os.OpenFile(other, os.O_RDWR, 0) // never hangs
				if err != nil {
					return // the test is over
				}
				both.Close()
				select {
				case <-l.over:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
	})
}

// quiet waits until what hung has ended, and holds nothing.
func (l *lab) quiet() {
	l.t.Helper()
	l.pass.queue.all.Wait()
	close(l.over)
	l.idle()
}

func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 20_000 {
		if f() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestAStalledDeviceIsLeftAndTheOthersAreServed(t *testing.T) { // laws 5 and 7
	t.Parallel()
	l := newLabOfTwo(t)
	l.only(left)
	l.object(0, "/a/c/o0", multi, left)
	l.object(1, "/a/c/o1", multi, left)
	o := l.onSdb("/a/c/o3", multi, left)
	free0 := l.pipe(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.pkl"))
	free1 := l.pipe(filepath.Join(l.files.PartitionPath("sda", 1), "hashes.pkl"))
	l.want(l.run(bg), "rebuilt=1 left.devices=1 left.partitions=2")
	l.received(left, o)
	var parts []int
	for _, u := range l.pass.Unrepaired() {
		if u.Device != "sda" || !strings.Contains(u.Reason, "stalled") {
			t.Errorf("listed %+v", u)
		}
		parts = append(parts, u.Partition)
	}
	if !slices.Equal(parts, []int{0, 1}) {
		t.Errorf("partitions %v are listed", parts)
	}
	if n := strings.Count(l.log.String(), "sda is stalled"); n != 1 {
		t.Errorf("it is said %d times that the device is stalled:\n%s", n, l.log)
	}
	free0()
	free1()
	l.quiet()
}

// A job that hangs in the middle of a session holds a target, memory and the receiver's
// locks, for which others wait.
func TestAJobThatHangsInASessionGivesBackWhatOthersWaitFor(t *testing.T) { // laws 9 and 10, rule 11
	t.Parallel()
	l := newLabOfTwo(t)
	l.cfg.MemoryBudget = 1 // raised to what one job needs
	l.cfg.Concurrency = 2
	l.only(left)
	bad := l.object(0, "/a/c/o0", multi, left)
	o := l.onSdb("/a/c/o3", multi, left)
	hash := objhash.Hex(hasher.Object(bad.Name))
	dir := filepath.Join(l.files.PartitionPath("sda", 0), objhash.Suffix(hash), hash)
	var free func()
	hangs := make(chan struct{})
	l.peers[left].Script(func(s *peers.Session) {
		if s.Part != 0 {
			s.Serve()
			return
		}
		s.Greet()
		s.ReadOffers()
		// A file in the directory's place goes to quarantine, for which hashes.invalid is opened.
		if err := os.Rename(dir, dir+".old"); err != nil {
			t.Error(err)
		}
		write(t, dir, nil)
		os.Remove(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.invalid"))
		free = l.pipe(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.invalid"))
		s.Answer()
		close(hangs)
		if s.ReadUpdates() {
			t.Error("the session of a job that hangs came to an end")
		}
	})
	l.peers[left].Hashes(func(part int, c *fake.Conn) []byte {
		if part == 3 {
			<-hangs
		}
		return peers.OK(suffix.Hashes{}.Encode())
	})
	l.want(l.run(bg), "rebuilt=1 left.devices=1 left.partitions=1")
	l.received(left, o)
	if free == nil {
		t.Fatal("nothing hung")
	}
	free()
	l.quiet()
}

func TestADeviceThatComesBackIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	l := newLabOfTwo(t)
	l.cfg.Concurrency = 2
	l.only(left)
	objects := []*peers.Object{l.object(0, "/a/c/o0", multi, left), l.onSdb("/a/c/o3", multi, left)}
	free := l.pipe(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.pkl"))
	l.peers[left].Script(func(s *peers.Session) {
		if s.Part == 3 {
			await(t, "sda is stalled", func() bool { return l.logged("sda is stalled") })
			free()
			await(t, "sda is back", func() bool { return l.logged("sda is no longer stalled") })
		}
		s.Serve()
	})
	l.want(l.run(bg), "rebuilt=2")
	l.received(left, objects...)
	if n := l.pass.Progress.PartitionsDone.Load(); n != 2 {
		t.Errorf("%d partitions were done, want each of two to be counted once", n)
	}
	l.quiet()
}

func TestTheEndDoesNotWaitForAStalledDevice(t *testing.T) {
	t.Parallel()
	l := newLabOfTwo(t)
	l.cfg.OnlyDevices = []string{"sda"}
	l.object(0, "/a/c/o0", multi, left)
	free := l.pipe(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.pkl"))
	p, err := New(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.stallAtEnd = l.stall // with the usual patience before the end
	l.pass = p
	ctx, cancel := context.WithCancel(bg)
	done := make(chan Left)
	go func() { done <- p.Run(ctx) }()
	await(t, "the partition is begun", func() bool { return p.Progress.PartitionsDone.Load() == 1 })
	cancel()
	l.want(<-done, "left.devices=1 left.partitions=1 interrupted=1")
	free()
	l.quiet()
}

// What a device holds whose listing hangs, nobody knows.
func TestADeviceThatCanNotEvenBeListedIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := &place{pol: &policy.Policy{Index: 1}, local: []*ring.Device{{Device: "sda"}, {Device: "sdb"}}}
		other := &place{pol: &policy.Policy{Index: 2}, local: []*ring.Device{{Device: "sdb"}}}
		p := &Pass{cfg: Config{Log: &recorder{}}, policies: []*place{pl, other}}
		q := newQueue(t.Context())
		q.note = p.noteStalled
		free := make(chan struct{})
		q.list(map[string]func(diskfile.Watch) []*partition{"sda": func(w diskfile.Watch) []*partition { w.Begin(); <-free; return numbered(1) }})
		p.leaveStalled(q.run(1, stallAfter, stallAtEnd))
		close(free)
		list := p.Unrepaired()
		if p.Progress.DevicesLeft.Load() != 1 || p.Progress.PartitionsLeft.Load() != 0 || len(list) != 1 || list[0].Device != "sda" || list[0].Policy != 1 || list[0].Partition != -1 {
			t.Errorf("%d devices left, listed %+v", p.Progress.DevicesLeft.Load(), list)
		}
	})
}
