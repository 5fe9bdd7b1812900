package pass

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
	"imping/swift/objhash"
	"imping/swift/suffix"
)

// reverting is a lab in which partners have nothing to be synced, so that what is sent is
// what is reverted. Partition 3 does not belong to the local device: archives 0 to 5 of an
// object there belong to the peers of these numbers, but 1, which is the spare's.
func reverting(t testing.TB) *lab {
	l := newLab(t)
	l.agree(left, right, far)
	return l
}

const away = 3 // a partition of others

// misplace puts the archive of an index where it does not belong.
func (l *lab) misplace(part int, name string, size int64, index int) *peers.Object {
	l.t.Helper()
	o := peers.NewObject(l.t, l.code, l.pol, name, size)
	l.disk.Put(l.t, part, o, index, nil)
	return o
}

// filesLeft are those below the device's data directory, but for those that hashing keeps.
func (l *lab) filesLeft() string {
	l.t.Helper()
	var names []string
	data := filepath.Join(l.disk.Root, "sda", l.pol.DataDir())
	for line := range strings.Lines(tree(l.t, data)) {
		path, mode, _ := strings.Cut(line, " ")
		if name, _ := filepath.Rel(data, path); name != "." {
			if strings.HasPrefix(mode, "d") && strings.Count(name, "/") == 0 {
				names = append(names, name)
			} else if !strings.HasPrefix(mode, "d") {
				names = append(names, strings.SplitN(name, "/", 2)[0]+"/"+filepath.Base(name))
			}
		}
	}
	return strings.Join(names, " ")
}

func TestWhatBelongsElsewhereIsBroughtThereAndGoes(t *testing.T) { // rules 13 and 18
	t.Parallel()
	l := reverting(t)
	o := l.misplace(away, "/a/c/o", multi, 4)
	l.misplace(away, "/a/c/empty", 0, 4)
	l.disk.PutMeta(t, away, o.Name, at(90_000), map[string]string{"X-Object-Meta-Color": "blue"})
	l.disk.PutTombstone(t, away, "/a/c/gone", at(5))
	l.misplace(away, "/a/c/p", single, 5)
	own := l.misplace(away, "/a/c/spare", single, own)
	mine := l.object(0, "/a/c/mine", single)
	l.disk.Put(t, 0, mine, 2, nil)
	l.want(l.run(bg), "reverted=5 metadata=1 tombstones=1 purged=7")
	got := make(map[string]map[string]string)
	for _, r := range l.peers[4].Stored() {
		got[r.Method+" "+r.Path] = r.Fields
		if r.Path == o.Name && r.Method == "PUT" && string(r.Body) != string(o.Frags[4]) {
			t.Error("other bytes were sent")
		}
	}
	put := got["PUT /a/c/o"]
	if put["ETag"] != o.Metadata(4)["ETag"] || put["X-Object-Sysmeta-Ec-Frag-Index"] != "4" || put["X-Backend-No-Commit"] != "" ||
		put["X-Timestamp"] != o.Data.Internal() {
		t.Errorf("PUT with %v", put) // the source's ETag: the receiver finds rot by itself
	}
	if post := got["POST /a/c/o"]; post["X-Object-Meta-Color"] != "blue" || got["PUT /a/c/empty"] == nil {
		t.Errorf("POST with %v, all: %v", post, got)
	}
	if s := l.peers[4].Sessions(); len(s) != 1 || peers.Field(s[0].Head, "X-Backend-Ssync-Frag-Index") != "4" || s[0].Part != away {
		t.Errorf("sessions %+v", s)
	}
	if s := l.spare.Stored(); len(s) != 2 || s[0].Method != "DELETE" || s[0].Fields["X-Timestamp"] != at(5).Internal() || string(s[1].Body) != string(own.Frags[1]) {
		t.Errorf("the spare was sent %+v", s) // the tombstone rides on the first job
	}
	if left := l.filesLeft(); left != "0 0/"+mine.Data.Internal()+"#1#d.data" {
		t.Errorf("left are %s", left)
	}
	if n := len(l.peers[right].Stored()); n != 1 {
		t.Errorf("the primary of the stray archive was sent %d", n)
	}
}

// What the receiver has is not sent, and goes.
func TestWhatIsThereAlreadyGoesWithoutBeingSent(t *testing.T) { // rule 18
	t.Parallel()
	l := reverting(t)
	l.only()
	l.misplace(away, "/a/c/o", multi, 4)
	l.want(l.run(bg), "purged=1")
	if left := l.filesLeft(); left != "" {
		t.Errorf("left are %s", left)
	}
}

// Whatever a receiver does but to confirm in order, nothing is removed.
func TestNothingGoesThatWasNotConfirmed(t *testing.T) { // law 3, rule 18
	t.Parallel()
	for name, script := range map[string]func(*peers.Session){
		"busy":                      refuse(":ERROR: 503 b'<html><h1>Service Unavailable</h1></html>'\r\n"),
		"hangs up at once":          func(s *peers.Session) {},
		"hangs up after the head":   func(s *peers.Session) { s.Greet() },
		"hangs up after the offers": func(s *peers.Session) { s.Greet(); s.ReadOffers() },
		"hangs up in the list": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Say(":MISSING_CHECK: START\r\n")
		},
		"hangs up after an empty list": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Say(":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n")
		},
		"hangs up within the archive": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.Conn.Await("PUT ")
			s.Conn.SetLinger(0)
		},
		"hangs up before the verdict": func(s *peers.Session) { s.Greet(); s.ReadOffers(); s.Answer(); s.ReadUpdates() },
		"hangs up within the verdict": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
			s.Say(":UPDATES: START\r\n")
		},
		"a verdict that is cut": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
			s.Say(":UPDATES: START\r\n:UPDATES: EN")
		},
		"a failure": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
			s.Say(":ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 0 successes'\r\n")
		},
		"a failure before the verdict": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
			s.Say(":UPDATES: START\r\n:ERROR: 0 'Too many 1 failures to 0 successes'\r\n:UPDATES: END\r\n")
		},
		"wants what it was not offered": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Say(":MISSING_CHECK: START\r\n" + strings.Repeat("0", 32) + " dm\r\n:MISSING_CHECK: END\r\n")
			s.Conn.Hang()
		},
		"no list":   func(s *peers.Session) { s.Greet(); s.ReadOffers(); s.Verdict(); s.Conn.Hang() },
		"unmounted": func(s *peers.Session) { s.Conn.Write(peers.Status(507)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := reverting(t)
			l.limit, l.cfg.HTTPTimeout = 100*time.Millisecond, 500*time.Millisecond
			l.misplace(away, "/a/c/o", multi, 4)
			l.misplace(away, "/a/c/p", single, 4)
			l.disk.PutTombstone(t, away, "/a/c/gone", at(5))
			l.peers[4].Script(script)
			before := tree(t, l.disk.Root)
			left := l.run(bg)
			if left.Handoffs != 1 || left.Partitions != 0 || l.pass.Progress.Purged.Load()+l.pass.Progress.Reverted.Load() != 0 {
				t.Errorf("left %+v, purged %d, reverted %d", left, l.pass.Progress.Purged.Load(), l.pass.Progress.Reverted.Load())
			}
			if after := tree(t, l.disk.Root); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
			if u := l.pass.Unrepaired(); len(u) != 1 || u[0].Target != l.peers[4].Addr+"/sd4" || u[0].Index != 4 {
				t.Errorf("listed %+v", u)
			}
		})
	}
}

func TestARevertIsTriedAgainWithinThePass(t *testing.T) { // rules 10 and 13
	t.Parallel()
	l := reverting(t)
	o := l.misplace(away, "/a/c/o", multi, 4)
	var come *peers.Object
	l.peers[4].Script(func(s *peers.Session) {
		switch s.N {
		case 0:
			refuse(":ERROR: 503 b'no'\r\n")(s)
		case 1: // while nobody holds the lock something comes
			come = l.misplace(away, "/a/c/new", single, 4)
			s.Greet()
			s.ReadOffers()
		default:
			s.Serve()
		}
	})
	l.want(l.run(bg), "reverted=2 purged=2 retried=2")
	l.received(4, o, come)
	if left := l.filesLeft(); left != "" {
		t.Errorf("left are %s", left)
	}
}

// The lock keeps sessions of others out until the last file has gone.
func TestThePartitionIsLockedThroughTheSessionAndWhileFilesGo(t *testing.T) { // rule 13
	t.Parallel()
	l := reverting(t)
	l.misplace(away, "/a/c/o", multi, 4)
	path := filepath.Join(l.files.PartitionPath("sda", away), ".lock-replication")
	held := func() bool {
		f, err := os.Open(path)
		if err != nil {
			return false
		}
		defer f.Close()
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == syscall.EWOULDBLOCK
	}
	l.peers[4].Script(func(s *peers.Session) {
		if s.N == 0 {
			if s.Greet(); !held() {
				t.Error("not locked when the session begins")
			}
			return // the lock must be free during the pause
		}
		s.Greet()
		s.ReadOffers()
		s.Answer()
		s.ReadUpdates()
		if !held() {
			t.Error("not locked when the session ends")
		}
		s.Verdict()
		s.Conn.Hang()
	})
	l.want(l.run(bg), "reverted=1 purged=1")
}

func TestALockedPartitionIsLeftInPeaceAndTriedAgain(t *testing.T) { // rules 10 and 13
	t.Parallel()
	for _, released := range []bool{true, false} {
		l := reverting(t)
		l.limit = time.Minute
		l.misplace(away, "/a/c/o", multi, 4)
		lock, err := l.files.LockPartition(bg, "sda", away, "replication", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Unlock()
		if released {
			go func() {
				await(t, "it is locked", func() bool { return l.logged("Unable to lock handoff partition 3 for revert on device sda policy 1") })
				lock.Unlock()
			}()
			l.want(l.run(bg), "reverted=1 purged=1")
			continue
		}
		l.limit = time.Nanosecond
		before := tree(t, l.disk.Root)
		l.want(l.run(bg), "left.handoffs=1")
		if n := len(l.peers[4].Sessions()); n != 0 || tree(t, l.disk.Root) != before {
			t.Errorf("%d sessions", n)
		}
	}
}

func TestNothingGoesUnderAnOlderRing(t *testing.T) { // bug 1897177
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"a newer ring": func(path string) error { return os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)) },
		"no ring":      os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := reverting(t)
			l.cfg.RingCheck = time.Hour
			l.misplace(away, "/a/c/o", multi, 4)
			l.peers[4].Script(func(s *peers.Session) {
				if err := change(filepath.Join(l.cfg.SwiftDir, "object-1.ring.gz")); err != nil {
					t.Error(err)
				}
				s.Serve()
			})
			counts := "reverted=1 left.handoffs=1"
			if name == "a newer ring" {
				counts += " left.policies=1"
			}
			before := tree(t, l.disk.Root)
			l.want(l.run(bg), counts)
			if after := tree(t, l.disk.Root); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// With duplicates each of an index's homes has to confirm.
func TestOnlyWhatAllHomesConfirmGoes(t *testing.T) { // rule 18
	t.Parallel()
	for name, c := range map[string]struct {
		script func(*peers.Session)
		counts string
		left   int // files
	}{
		"all well":       {(*peers.Session).Serve, "reverted=4 purged=2", 0},
		"one is missing": {func(s *peers.Session) { s.Conn.Write(peers.Status(507)) }, "reverted=2 left.handoffs=1", 2},
		"one comes later": {func(s *peers.Session) {
			if s.N > 0 {
				s.Serve()
			}
		}, "reverted=4 purged=2 retried=1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.twice()
			l.only(4, 10)
			l.misplace(0, "/a/c/o", multi, 4)
			l.misplace(0, "/a/c/p", single, 4)
			l.peers[10].Script(c.script)
			l.want(l.run(bg), c.counts)
			if n := strings.Count(l.filesLeft(), ".data"); n != c.left {
				t.Errorf("%d files are left, want %d", n, c.left)
			}
			if c.left > 0 && len(l.peers[4].Stored()) != 2 {
				t.Error("the other home was not served")
			}
		})
	}
}

// An archive that rots is neither sent whole nor removed: it is put aside, and the others go.
func TestALocalArchiveThatProvesBadIsQuarantinedAndNotMoved(t *testing.T) { // rule 4
	t.Parallel()
	for name, size := range map[string]int64{"of one segment": single, "of several": multi} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := reverting(t)
			bad := peers.NewObject(t, l.code, l.pol, "/a/c/bad", size)
			path := l.disk.Put(t, away, bad, 4, nil)
			flip(t, path, int64(len(bad.Frags[4]))-1)
			o, p := l.misplace(away, "/a/c/o", multi, 4), l.misplace(away, "/a/c/p", single, 4)
			l.want(l.run(bg), fmt.Sprintf("reverted=%d purged=2 corrupt=1 left.objects=1", 2-l.unconfirmed(4)))
			l.received(4, o, p)
			moved := filepath.Join(l.disk.Root, "sda", "quarantined", "objects-1", filepath.Base(filepath.Dir(path)), filepath.Base(path))
			if _, err := os.Stat(moved); err != nil || !l.logged("Quarantined object "+path+": ") {
				t.Errorf("not quarantined: %v", err)
			}
			if left := l.filesLeft(); left != "" {
				t.Errorf("left are %s", left)
			}
		})
	}
}

// What comes while the session lasts was not offered: neither is it sent in place of what
// was, nor does it go with it.
func TestWhatChangesMeanwhileStays(t *testing.T) { // rule 18
	t.Parallel()
	for name, c := range map[string]struct {
		change func(l *lab, o *peers.Object)
		counts string
		files  []string
	}{
		"newer data": {func(l *lab, o *peers.Object) {
			l.disk.Put(l.t, away, peers.NewObjectAt(l.t, l.code, l.pol, o.Name, single, segment, at(50_000)), 4, nil)
		}, "left.handoffs=1", []string{at(50_000).Internal() + "#4#d.data"}},
		"newer metadata": {func(l *lab, o *peers.Object) {
			l.disk.PutMeta(l.t, away, o.Name, at(50_000), nil)
		}, "left.handoffs=1", []string{"#4#d.data", at(50_000).Internal() + ".meta"}},
		"a tombstone": {func(l *lab, o *peers.Object) {
			l.disk.PutTombstone(l.t, away, o.Name, at(50_000))
		}, "", []string{at(50_000).Internal() + ".ts"}},
		"nothing any more": {func(l *lab, o *peers.Object) {
			os.RemoveAll(l.disk.Dir(away, o.Name))
		}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := reverting(t)
			o := l.misplace(away, "/a/c/o", multi, 4)
			l.peers[4].Want(func(s *peers.Session, hash string) string {
				c.change(l, o)
				if err := l.files.Invalidate("sda", away, objhash.Suffix(hash)); err != nil {
					t.Error(err)
				}
				return "dm"
			})
			l.want(l.run(bg), c.counts)
			left := l.filesLeft()
			for _, name := range c.files {
				if !strings.Contains(left, name) {
					t.Errorf("left are %q, without %s", left, name)
				}
			}
			if n := len(l.peers[4].Stored()); n != 0 {
				t.Errorf("%d subrequests were sent", n)
			}
		})
	}
}

// An archive that is not durable is brought as such, and goes when its PUT can not be under
// way any more.
func TestArchivesThatAreNotDurableAreMovedAsSuch(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{false, true} {
		l := reverting(t)
		o := peers.NewObject(t, l.code, l.pol, "/a/c/o", multi)
		path := l.disk.Put(t, away, o, 4, nil)
		rename(t, path, strings.Replace(path, "#d.data", ".data", 1))
		path = strings.Replace(path, "#d.data", ".data", 1)
		counts := "reverted=1 left.handoffs=1"
		if !fresh {
			hour := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path, hour, hour); err != nil {
				t.Fatal(err)
			}
			counts = "reverted=1 purged=1"
		}
		l.want(l.run(bg), counts)
		if put := l.peers[4].Stored(); len(put) != 1 || put[0].Fields["X-Backend-No-Commit"] != "True" {
			t.Errorf("sent %+v", put)
		}
		if _, err := os.Stat(path); fresh != (err == nil) {
			t.Errorf("fresh: %v, and: %v", fresh, err)
		}
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// A receiver that would make everything durable is offered the older archive that is.
func TestAnOldReceiverGetsDurableArchivesOnly(t *testing.T) { // rule 16
	t.Parallel()
	l := reverting(t)
	o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", multi, segment, at(1))
	l.disk.Put(t, away, o, 4, nil)
	newer := l.disk.Put(t, away, peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", multi, segment, at(2)), 4, nil)
	rename(t, newer, strings.Replace(newer, "#d.data", ".data", 1))
	l.peers[4].Script(func(s *peers.Session) {
		s.Conn.Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		if s.ReadOffers() {
			s.Answer()
			s.ReadUpdates()
			s.Verdict()
			s.Conn.Hang()
		}
	})
	l.want(l.run(bg), "reverted=1 purged=1 left.handoffs=1")
	if put := l.peers[4].Stored(); len(put) != 1 || put[0].Fields["X-Timestamp"] != at(1).Internal() {
		t.Errorf("sent %+v", put)
	}
	if left := l.filesLeft(); !strings.HasSuffix(left, at(2).Internal()+"#4.data") || strings.Contains(left, at(1).Internal()) {
		t.Errorf("left are %s", left)
	}
	if !l.logged("does not accept non-durable fragments") {
		t.Error(l.log)
	}
}

func TestMetadataGoesWithTheLastArchiveOfAHandoffOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		part    int
		another bool
		left    string
	}{
		"a handoff":                       {away, false, ""},
		"one with another archive":        {away, true, ".meta"}, // which is on its way in the same pass, and takes it along
		"a primary without its own":       {0, false, ".meta"},
		"a primary that has its own, too": {0, true, ".meta"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := reverting(t)
			o := l.misplace(c.part, "/a/c/o", single, 4)
			if c.another {
				l.disk.Put(t, c.part, o, own, nil)
				l.spare.Script(func(s *peers.Session) { s.Conn.Write(peers.Status(507)) })
			}
			l.disk.PutMeta(t, c.part, o.Name, at(90_000), nil)
			l.run(bg)
			if left := l.filesLeft(); strings.Contains(left, ".meta") != (c.left != "") || strings.Contains(left, "#4#d") {
				t.Errorf("left are %s", left)
			}
		})
	}
}

// A .meta file with a content type has its time in its name.
func TestMetadataWithAContentTypeGoesToo(t *testing.T) {
	t.Parallel()
	l := reverting(t)
	o := l.misplace(away, "/a/c/o", single, 4)
	dir := l.disk.Dir(away, o.Name)
	meta := func(at, ctype string) map[string]string {
		return map[string]string{"name": o.Name, "X-Timestamp": at, "Content-Type": "text/x", "Content-Type-Timestamp": ctype}
	}
	later, latest := o.Data.Add(100_000), o.Data.Add(300_000)
	l.disk.Write(t, filepath.Join(dir, later.Internal()+"+0.meta"), nil, meta(later.Internal(), later.Internal()))
	l.disk.Write(t, filepath.Join(dir, latest.Internal()+".meta"), nil, map[string]string{"name": o.Name, "X-Timestamp": latest.Internal()})
	l.want(l.run(bg), "reverted=1 metadata=1 purged=3")
	if left := l.filesLeft(); left != "" {
		t.Errorf("left are %s", left)
	}
}

// A tombstone on a primary is at home.
func TestATombstoneThatRidesFromAPrimaryStays(t *testing.T) {
	t.Parallel()
	l := reverting(t)
	l.misplace(0, "/a/c/o", single, 4)
	hash := objhash.Hex(hasher.Object("/a/c/o"))
	name := "/a/c/other"
	for i := 0; objhash.Suffix(objhash.Hex(hasher.Object(name))) != objhash.Suffix(hash); i++ {
		name = fmt.Sprint("/a/c/other", i)
	}
	l.disk.PutTombstone(t, 0, name, at(5))
	l.want(l.run(bg), "reverted=1 tombstones=1 purged=1")
	if left := l.filesLeft(); left != "0 0/"+at(5).Internal()+".ts" {
		t.Errorf("left are %s", left)
	}
}

func TestTombstonesAloneGoToASample(t *testing.T) {
	t.Parallel()
	l := reverting(t)
	l.disk.PutTombstone(t, away, "/a/c/o", at(5))
	l.disk.PutTombstone(t, away, "/a/c/p", at(6))
	l.want(l.run(bg), "tombstones=6 purged=2")
	asked := 0
	for _, p := range append([]*peers.Peer{l.spare}, l.peers...) {
		if p != nil && len(p.Stored()) == 2 {
			asked++
		}
	}
	if left := l.filesLeft(); left != "" || asked != 3 { // 6 - 4 + 1
		t.Errorf("left are %q, %d were sent both", left, asked)
	}
}

func TestMaxObjectsPerRevertLimitsAJob(t *testing.T) {
	t.Parallel()
	l := reverting(t)
	l.cfg.MaxRevert = 2
	for i := range 5 {
		l.misplace(away, fmt.Sprint("/a/c/o", i), single, 4)
	}
	for _, counts := range []string{"reverted=2 purged=2 left.handoffs=1", "reverted=2 purged=2 left.handoffs=1", "reverted=1 purged=1"} {
		l.want(l.run(bg), counts)
	}
	if left := l.filesLeft(); left != "" || !l.logged("ssync missing_check truncated after 2 objects: device: sda, part: 3, policy: 1, last object hash: ") {
		t.Errorf("left are %q\n%s", left, l.log)
	}
}

func TestHandoffsOnlyPassesOverPrimaries(t *testing.T) { // rule 38
	t.Parallel()
	l := reverting(t)
	l.cfg.HandoffsOnly = true
	o := l.object(0, "/a/c/mine", single, left)
	l.disk.Put(t, 0, o, 4, nil)
	l.misplace(away, "/a/c/o", single, 4)
	l.peers[4].Script(func(s *peers.Session) { s.Conn.Write(peers.Status(507)) })
	l.want(l.run(bg), "left.handoffs=1")
	if !l.logged("I Handoffs only mode still has handoffs remaining. Next pass will continue to revert handoffs.") {
		t.Error(l.log)
	}
	l.peers[4].Script((*peers.Session).Serve)
	l.want(l.run(bg), "reverted=1 purged=1")
	if !l.logged("W Handoffs only mode found no handoffs remaining. You should disable handoffs_only once all nodes are reporting no handoffs remaining.") {
		t.Error(l.log)
	}
	if l.peers[left].Asked() != 0 || strings.Count(l.filesLeft(), "0/") != 2 {
		t.Errorf("primaries were not passed over: left are %s", l.filesLeft())
	}
}

func TestOnlyOneKindOfJobs(t *testing.T) {
	t.Parallel()
	for only, counts := range map[Only]string{"": "rebuilt=1 reverted=1 purged=1", OnlySync: "rebuilt=1 left.handoffs=1", OnlyRevert: "reverted=1 purged=1"} {
		l := newLab(t)
		l.only(left, 4)
		l.cfg.Only = only
		l.object(0, "/a/c/mine", single, left)
		l.agree(right, far)
		l.misplace(away, "/a/c/o", single, 4)
		l.want(l.run(bg), counts)
	}
}

func TestBadIndexesAreToldAndLeft(t *testing.T) {
	t.Parallel()
	l := reverting(t)
	o := peers.NewObject(t, l.code, l.pol, "/a/c/o", single)
	path := l.disk.Put(t, away, o, 4, nil)
	hashes, _, err := l.files.SuffixHashes("sda", away, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range hashes {
		e.Frags = suffix.Frags{{Index: 9, Hash: e.Frags.Hash(4)}}
	}
	write(t, filepath.Join(l.files.PartitionPath("sda", away), "hashes.pkl"), (&suffix.File{Valid: true, Updated: 1, Hashes: hashes}).Encode())
	l.want(l.run(bg), "left.handoffs=1")
	if _, err := os.Stat(path); err != nil || !l.logged("W Bad fragment index 9 for suffixes ") {
		t.Errorf("%v\n%s", err, l.log)
	}
}

func TestAnEmptyPartitionGoesOnlyWhereItDoesNotBelong(t *testing.T) { // rule 19
	t.Parallel()
	l := reverting(t)
	for _, part := range []int{0, away} {
		if err := os.MkdirAll(filepath.Join(l.files.PartitionPath("sda", part), "abc"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.want(l.run(bg), "")
	if left := l.filesLeft(); left != "0" || !l.logged("I Removing partition: "+l.files.PartitionPath("sda", away)) {
		t.Errorf("left are %s\n%s", left, l.log)
	}
}

func TestWhatIsStrangeInAPartitionIsToldAndStays(t *testing.T) { // rule 19
	t.Parallel()
	l := reverting(t)
	path := filepath.Join(l.files.PartitionPath("sda", away), "letter")
	write(t, path, []byte("dear"))
	l.misplace(away, "/a/c/o", single, 4)
	l.want(l.run(bg), "reverted=1 purged=1")
	if _, err := os.Stat(path); err != nil || !l.logged("W Unexpected entity in partition: "+path) {
		t.Errorf("%v\n%s", err, l.log)
	}
}

// An object that makes the receiver fail holds up no other.
func TestAnObjectThatBreaksSessionsIsLeftWhereItIs(t *testing.T) { // rule 10
	t.Parallel()
	l := reverting(t)
	for i := range 4 {
		l.misplace(away, fmt.Sprint("/a/c/o", i), single, 4)
	}
	l.peers[4].Poison(func(_ *peers.Session, _, path string) (string, bool) { return "", path != "/a/c/o2" })
	left := l.run(bg)
	if left.Handoffs != 1 || left.Objects != 1 || l.pass.Progress.Purged.Load() != 3 {
		t.Errorf("left %v, purged %d\n%s", left, l.pass.Progress.Purged.Load(), l.log)
	}
	if files := strings.Fields(l.filesLeft()); len(files) != 2 {
		t.Errorf("left are %v", files)
	}
}

// Objects of an earlier segment size need more memory, which is only waited for while nothing
// is held.
func TestRevertsOfLongerSegments(t *testing.T) {
	t.Parallel()
	l := reverting(t)
	o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/long", 10*segment, 4*segment, peers.Yesterday())
	l.disk.Put(t, away, o, 4, nil)
	p := l.misplace(away, "/a/c/o", multi, 4)
	l.want(l.run(bg), "reverted=2 purged=2")
	l.received(4, o, p)
}

func TestTheEndOfTheContextEndsARevertInOrder(t *testing.T) { // law 3
	t.Parallel()
	for name, when := range map[string]func(s *peers.Session, cancel func()){
		"before the list": func(s *peers.Session, cancel func()) { s.ReadOffers(); cancel() },
		"within an archive": func(s *peers.Session, cancel func()) {
			s.ReadOffers()
			s.Answer()
			s.Conn.Await("PUT ")
			cancel()
		},
		"before the verdict": func(s *peers.Session, cancel func()) {
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			l := reverting(t)
			l.misplace(away, "/a/c/o", multi, 4)
			l.peers[4].Script(func(s *peers.Session) {
				s.Greet()
				when(s, cancel)
				s.Conn.Hang()
			})
			before := tree(t, l.disk.Root)
			l.want(l.run(ctx), "interrupted=1 left.handoffs=1")
			if after := tree(t, l.disk.Root); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// loop puts a symbolic link to itself, which nobody can read, in the place of a directory.
func loop(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(dir), dir); err != nil {
		t.Fatal(err)
	}
}

// Whose the fragments of a suffix are that can not be hashed nobody can tell: the partition stays, and is told.
func TestAHandoffWithASuffixThatCanNotBeHashedIsLeft(t *testing.T) { // law 5
	t.Parallel()
	for _, more := range []bool{false, true} {
		l := reverting(t)
		o := l.misplace(away, "/a/c/o", single, 4)
		counts := "left.handoffs=1"
		if more {
			other := "/a/c/other"
			for i := 0; objhash.Suffix(objhash.Hex(hasher.Object(other))) == objhash.Suffix(objhash.Hex(hasher.Object(o.Name))); i++ {
				other = fmt.Sprint("/a/c/other", i)
			}
			l.misplace(away, other, single, 4)
			counts = "reverted=1 purged=1 left.handoffs=1"
		}
		loop(t, filepath.Dir(l.disk.Dir(away, o.Name)))
		l.want(l.run(bg), counts)
		u := l.pass.Unrepaired()
		if len(u) != 1 || !u[0].Revert || u[0].Partition != away || !strings.Contains(u[0].Reason, "can not be hashed") {
			t.Errorf("listed %+v", u)
		}
	}
}

// A receiver with nothing but an older tombstone compares the data alone. It is asked once more, before .meta files go.
func TestMetadataIsComparedAgainWhereTheReceiverHadATombstone(t *testing.T) { // rule 18
	t.Parallel()
	for _, lacks := range []bool{true, false} {
		l := reverting(t)
		o := l.misplace(away, "/a/c/o", single, 4)
		l.disk.PutMeta(t, away, o.Name, at(90_000), map[string]string{"X-Object-Meta-Color": "blue"})
		l.peers[4].Want(func(s *peers.Session, _ string) string {
			switch {
			case s.N == 0:
				return "d"
			case lacks && s.N == 1:
				return "m"
			}
			return ""
		})
		counts := "reverted=1 metadata=1 purged=2 sessions=2 retried=1"
		if !lacks { // it had the metadata all along
			counts = "reverted=1 metadata=0 purged=2 sessions=2 retried=1"
		}
		l.want(l.run(bg), counts)
		if left := l.filesLeft(); left != "" {
			t.Errorf("left are %s", left)
		}
	}
	l := reverting(t) // one that always says so
	o := l.misplace(away, "/a/c/o", single, 4)
	l.disk.PutMeta(t, away, o.Name, at(90_000), nil)
	l.peers[4].Want(func(*peers.Session, string) string { return "d" })
	l.want(l.run(bg), "reverted=2 metadata=0 purged=0 sessions=2 left.handoffs=1")
}

// What was told without its offset is not there for certain.
func TestWhatAnOldReceiverDoesNotWantStaysIfItHasAnOffset(t *testing.T) { // rules 17 and 18
	t.Parallel()
	for want, gone := range map[string]bool{"": false, "m": false, "dm": true} {
		l := reverting(t)
		o := l.misplace(away, "/a/c/o", single, 4)
		meta := at(90_000)
		meta.Offset = 0xab
		l.disk.PutMeta(t, away, o.Name, meta, map[string]string{"X-Object-Meta-Color": "blue"})
		l.misplace(away, "/a/c/even", single, 4)
		even := objhash.Hex(hasher.Object("/a/c/even"))
		l.peers[4].Want(func(_ *peers.Session, hash string) string {
			if hash == even {
				return ""
			}
			return want
		})
		l.peers[4].Script(knowsNoOffsets(":ERROR: 0 \"invalid literal for int() with base 16: '0__ab'\"\r\n"))
		l.run(bg)
		left := l.filesLeft()
		if gone != (left == "") || !gone && (!strings.Contains(left, "#4#d.data") || !strings.Contains(left, ".meta") || strings.Count(left, ".data") != 1) {
			t.Errorf("wanted %q, left are %q", want, left)
		}
	}
}

// A REVERT, which keeps others out of its partition, does not wait for ever for a session with a device that others have.
func TestARevertLetsGoOfItsPartitionWhileItsTargetIsTaken(t *testing.T) { // rules 12 and 13
	t.Parallel()
	l := reverting(t)
	l.misplace(away, "/a/c/o", single, 4)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	j := &job{revert: &revert{}}
	pr := &partner{}
	pr.Addr, pr.Device = "127.0.0.1:1", "sdz"
	p := new(Pass)
	release, err := p.wait(ctx, j, pr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.wait(ctx, j, pr); !busy(err) {
		t.Error(err)
	}
	release()
	if release, err = p.wait(ctx, j, pr); err != nil {
		t.Fatal(err)
	}
	release()
}

// What can not be read here is no reason to give up a receiver that is busy.
func TestABusyReceiverIsAskedAgainThoughSomethingHereCanNotBeRead(t *testing.T) { // rule 10
	t.Parallel()
	l := reverting(t)
	l.misplace(away, "/a/c/o", single, 4)
	bad := l.misplace(away, "/a/c/bad", single, 4)
	if _, _, err := l.files.SuffixHashes("sda", away, nil, true); err != nil {
		t.Fatal(err)
	}
	loop(t, l.disk.Dir(away, bad.Name))
	l.peers[4].Script(func(s *peers.Session) {
		if s.N == 0 {
			refuse(":ERROR: 503 b'no'\r\n")(s)
			return
		}
		s.Serve()
	})
	l.want(l.run(bg), "reverted=1 purged=1 left.handoffs=1")
}
