package pass

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/engine/rebuild"
	"imping/engine/rebuild/peers"
	"imping/netfast/fake"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

var bg = context.Background()

func TestWhatPartnersMissIsRebuiltOnceForAll(t *testing.T) { // rule 12
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	var objects []*peers.Object
	var bytes int64
	for i, size := range []int64{0, 1, single, segment, multi, single, multi, single} {
		o := l.object(i%3, fmt.Sprintf("/account/container/object %d", i), size, left, right)
		objects = append(objects, o)
		bytes += int64(len(o.Frags[own]))
	}
	l.want(l.run(bg), "rebuilt=16 wanted=16 synced=24 sessions=9")
	l.received(left, objects...)
	l.received(right, objects...)
	if n := l.pass.Progress.BytesRead.Load(); n != 4*bytes {
		t.Errorf("read %d bytes, want %d: four archives of each object, once for both targets", n, 4*bytes)
	}
	if n := l.pass.Progress.BytesRebuilt.Load(); n != 2*bytes {
		t.Errorf("rebuilt %d bytes, want %d", n, 2*bytes)
	}
	for i, p := range l.peers {
		if p == nil {
			continue
		}
		want := len(objects)
		if i == left || i == right {
			want = 0
		}
		if n := len(p.Gets()); n != want {
			t.Errorf("peer %d was asked for %d archives, want %d", i, n, want)
		}
	}
	for _, p := range []*peers.Peer{l.peers[left], l.peers[right]} {
		for _, s := range p.Sessions() {
			if !s.Ended || s.Partly != "" {
				t.Errorf("a session did not come to its end: %+v", s)
			}
		}
	}
}

func TestASecondPassFindsNothingToDo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.object(0, "/a/c/o", multi)
	l.agree(left, right, far)
	l.want(l.run(bg), "sessions=0")
}

func TestSubrequestsAreStocks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/with meta", single, segment, at(10))
	l.disk.Put(t, 0, o, own, func(m map[string]string) { m["X-Object-Meta-Color"] = "red" })
	l.disk.PutMeta(t, 0, o.Name, at(20), map[string]string{"X-Object-Meta-Color": "blue"})
	l.hold(o, left)
	l.disk.PutTombstone(t, 0, "/a/c/gone", at(30))
	l.want(l.run(bg), "rebuilt=1 metadata=1 tombstones=1 wanted=2")
	l.received(left, o)
	got := make(map[string]map[string]string)
	for _, r := range l.peers[left].Stored() {
		got[r.Method+" "+r.Path] = r.Fields
	}
	put, post, del := got["PUT /a/c/with%20meta"], got["POST /a/c/with%20meta"], got["DELETE /a/c/gone"]
	if put["X-Timestamp"] != at(10).Internal() || put["X-Object-Meta-Color"] != "red" || put["Content-Length"] != strconv.Itoa(len(o.Frags[left])) ||
		put["ETag"] != "" || put["name"] != "" || put["X-Backend-No-Commit"] != "" {
		t.Errorf("PUT with %v", put)
	}
	if !maps.Equal(post, map[string]string{"X-Timestamp": at(20).Internal(), "X-Object-Meta-Color": "blue"}) {
		t.Errorf("POST with %v", post)
	}
	if !maps.Equal(del, map[string]string{"X-Timestamp": at(30).Internal()}) {
		t.Errorf("DELETE with %v", del)
	}
	head := l.peers[left].Sessions()[0].Head
	if peers.Field(head, "X-Backend-Ssync-Frag-Index") != "0" || !strings.HasPrefix(head, "SSYNC /sd0/0 ") {
		t.Errorf("head %q", head)
	}
}

func TestOnlyWhatIsWantedIsSent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ parts, counts string }{
		{"d", "rebuilt=1 tombstones=1"}, {"m", "metadata=1"}, {"dm", "rebuilt=1 metadata=1 tombstones=1"}, {"", ""},
	} {
		l := newLab(t)
		l.only(left)
		o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", single, segment, at(10))
		l.disk.Put(t, 0, o, own, nil)
		l.disk.PutMeta(t, 0, o.Name, at(20), nil)
		l.hold(o, left)
		l.disk.PutTombstone(t, 0, "/a/c/gone", at(30))
		l.peers[left].Want(func(*peers.Session, string) string { return c.parts })
		l.want(l.run(bg), c.counts)
	}
}

// scripts of receivers that are in trouble, once or always.
func refuse(text string) func(*peers.Session) {
	return func(s *peers.Session) {
		s.Greet()
		s.Say(text)
	}
}

func TestABusyReceiverIsTriedAgain(t *testing.T) { // rule 10
	t.Parallel()
	for name, script := range map[string]func(*peers.Session){
		"no slot":                 refuse(":ERROR: 503 b'<html><h1>Service Unavailable</h1></html>'\r\n"),
		"no lock":                 refuse(":ERROR: 0 '15.0 seconds: /srv/node/sd0/.lock-replication'\r\n"),
		"HTTP 503":                func(s *peers.Session) { s.Conn.Write(peers.Status(503)) },
		"HTTP 529":                func(s *peers.Session) { s.Conn.Write(peers.Status(529)) },
		"hangs up at once":        func(s *peers.Session) {},
		"hangs up after the head": func(s *peers.Session) { s.Greet() },
		"hangs up after the offers": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
		},
		"hangs up before the verdict": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
		},
		"hangs up in the middle of an archive": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.Conn.Await("PUT ")
			s.Conn.Await("\r\n\r\n")
			s.Conn.SetLinger(0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only(left, right)
			o := l.object(0, "/a/c/o", multi, left, right)
			l.peers[left].Script(func(s *peers.Session) {
				if s.N < 2 {
					script(s)
					return
				}
				s.Serve()
			})
			counts := "rebuilt=2"
			if name == "hangs up before the verdict" {
				counts = "rebuilt=1" // what was never confirmed is not counted, though the receiver has it
			}
			l.want(l.run(bg), counts)
			l.received(left, o)
			l.received(right, o)
			if n := len(l.peers[right].Sessions()); n != 1 {
				t.Errorf("the other receiver had %d sessions, want its own only", n)
			}
		})
	}
}

func TestAReceiverThatStaysInTroubleIsGivenUpAfterFiveTries(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	o := l.object(0, "/a/c/o", multi, left, right)
	l.peers[left].Script(func(s *peers.Session) { s.Greet(); s.ReadOffers() }) // and hangs up
	l.want(l.run(bg), "rebuilt=1 retried=4 left.partitions=1")
	l.received(right, o)
	if n := len(l.peers[left].Sessions()); n != 5 {
		t.Errorf("%d sessions, want 5", n)
	}
	if u := l.pass.Unrepaired(); len(u) != 1 || u[0].Target != l.peers[left].Addr+"/sd0" || u[0].Object != "" {
		t.Errorf("unrepaired %+v", u)
	}
}

// A peer that seems to work is waited for no longer than one that is silent.
func TestAPeerThatTricklesIsGivenUp(t *testing.T) { // rule 10
	t.Parallel()
	const often = 5 * time.Millisecond
	for name, script := range map[string]func(p *peers.Peer){
		"its hashes": func(p *peers.Peer) {
			p.Hashes(func(_ int, c *fake.Conn) []byte {
				c.Say("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
				c.Trickle("x", often)
				return nil
			})
		},
		"the head of the answer to REPLICATE": func(p *peers.Peer) {
			p.Hashes(func(_ int, c *fake.Conn) []byte { c.Trickle("H", often); return nil })
		},
		"the list of what it wants": func(p *peers.Peer) {
			p.Script(func(s *peers.Session) {
				s.Greet()
				s.ReadOffers()
				s.Say(":MISSING_CHECK: START\r\n")
				s.Conn.Trickle("2\r\n\r\n\r\n", often)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.cfg.HTTPTimeout = 500 * time.Millisecond
			l.only(left)
			l.agree(right, far)
			l.object(0, "/a/c/o", multi, left)
			script(l.peers[left])
			l.want(l.run(bg), "retried=4 left.partitions=1")
		})
	}
}

// The answers of a job's partners are read one after the other.
func TestAPartnerThatIsSilentDoesNotCostTheOthersTheirAnswers(t *testing.T) { // law 7
	t.Parallel()
	l := newLab(t)
	l.cfg.HTTPTimeout = 500 * time.Millisecond
	l.only(right, far)
	o := l.object(0, "/a/c/o", multi, left, right)
	l.agree(far)
	l.peers[left].Hashes(func(_ int, c *fake.Conn) []byte { c.Hang(); return nil })
	l.want(l.run(bg), "rebuilt=1 left.partitions=1")
	l.received(right, o)
	if n := l.peers[right].Asked(); n != 1 {
		t.Errorf("the other one was asked %d times for its hashes", n)
	}
}

// What was asked ahead and is too old when its turn comes is asked anew (rule 15).
func TestAnOldAnswerIsNotBelieved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.agree(left, right, far)
	l.object(0, "/a/c/o", multi)
	p, err := New(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	peer := rebuild.Peer{Addr: l.peers[left].Addr, Device: l.peers[left].Device}
	j := &job{partition: &partition{place: p.policies[0]}, waiting: []*partner{{Peer: peer}}}
	for i, age := range []time.Duration{answerAge / 2, 2 * answerAge, 0} {
		p.askAll(bg, j, j.waiting)
		j.waiting[0].asked = time.Now().Add(-age)
		want := []int{1, 1, 2}[i]
		for range 100 {
			if l.peers[left].Asked() >= want {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := l.peers[left].Asked(); n != want {
			t.Errorf("%d: it was asked %d times, want %d", i, n, want)
		}
	}
	if hashes, err := p.remoteHashes(bg, j, j.waiting[0]); err != nil || len(hashes) != 1 || l.peers[left].Asked() != 2 {
		t.Errorf("%v, %v after it was asked %d times", hashes, err, l.peers[left].Asked())
	}
}

func TestFinalRefusalsAreNotTriedAgain(t *testing.T) { // rule 10
	t.Parallel()
	for name, script := range map[string]func(*peers.Session){
		"unmounted":   func(s *peers.Session) { s.Conn.Write(peers.Status(507)) },
		"bad request": func(s *peers.Session) { s.Conn.Write(peers.Status(400)) },
		"no such":     func(s *peers.Session) { s.Conn.Write(peers.Status(404)) },
		"failed subrequests": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.ReadUpdates()
			s.Say(":ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 0 successes'\r\n")
		},
		"too many failures": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.Say(":ERROR: 0 'Too many 1 failures to 0 successes'\r\n")
			s.Conn.Hang()
		},
		"nonsense": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Say("hello\r\n")
			s.Conn.Hang()
		},
		"wants what it was not offered": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Say(":MISSING_CHECK: START\r\n" + strings.Repeat("0", 32) + " dm\r\n:MISSING_CHECK: END\r\n")
			s.Conn.Hang()
		},
		"a path for a hash": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			s.Say(":MISSING_CHECK: START\r\n../../../../etc/passwd dm\r\n:MISSING_CHECK: END\r\n")
			s.Conn.Hang()
		},
		"wants it twice": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			hash := s.Offers[0][:32]
			s.Say(":MISSING_CHECK: START\r\n" + hash + " d\r\n" + hash + " d\r\n:MISSING_CHECK: END\r\n")
			s.Conn.Hang()
		},
		"an endless line": func(s *peers.Session) {
			s.Greet()
			s.ReadOffers()
			for range 100 {
				s.Say(strings.Repeat("x", 1024))
			}
			s.Conn.Hang()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only(left, right)
			o := l.object(0, "/a/c/o", multi, left, right)
			l.peers[left].Script(script)
			l.want(l.run(bg), "rebuilt=1 retried=0 left.partitions=1")
			l.received(right, o)
			if n := len(l.peers[left].Sessions()); n != 1 {
				t.Errorf("%d sessions, want 1", n)
			}
		})
	}
}

func TestASessionCutBecauseOfALiarIsTriedAgainWithoutHim(t *testing.T) { // rule 5, law 2
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	var objects []*peers.Object
	for i := range 5 {
		name := fmt.Sprintf("/a/c/o%d", i)
		o := peers.NewObject(t, l.code, l.pol, name, multi)
		objects = append(objects, o)
		l.disk.Put(t, 0, o, own, nil)
		for _, i := range []int{left, 3, far, 5} { // one more than it takes
			if i == left {
				continue
			}
			a := o.Archive(i)
			if i == 3 && name == "/a/c/o2" {
				a.Body[len(a.Body)-1] ^= 1
			}
			l.peers[i].Hold(a)
		}
	}
	// With left and right both wanting there is no archive to spare: right wants all but
	// the one with the liar, and holds that.
	bad := objhash.Hex(hasher.Object("/a/c/o2"))
	l.peers[right].Want(func(s *peers.Session, hash string) string {
		if hash == bad || l.stored(right, hash) {
			return ""
		}
		return "d"
	})
	l.peers[right].Hold(objects[2].Archive(right))
	before := 0 // objects that left was sent in the session that was cut: never confirmed, thus not counted
	for _, o := range objects {
		if objhash.Hex(hasher.Object(o.Name)) < bad {
			before++
		}
	}
	l.want(l.run(bg), fmt.Sprintf("rebuilt=%d", 9-before))
	l.received(left, objects...)
	l.received(right, append(slices.Clone(objects[:2]), objects[3:]...)...)
	sessions := l.peers[left].Sessions()
	if len(sessions) != 2 || sessions[0].Partly != "/a/c/o2" || sessions[0].Ended || !sessions[1].Ended {
		t.Errorf("%d sessions: %+v; want one that was cut within the object, and one more", len(sessions), sessions)
	}
	if n := l.pass.Progress.SessionsRetried.Load(); n != 1 {
		t.Errorf("retried %d times", n)
	}
}

// A pass ends: sessions that are cut because of ever new bad survivors are tried again no
// longer than others.
func TestSessionsThatAreCutForLiarsAreTriedAgainOnlyAsLongAsThereIsTime(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.limit = time.Nanosecond
	l.only(left)
	o := peers.NewObject(t, l.code, l.pol, "/a/c/o", multi)
	l.disk.Put(t, 0, o, own, nil)
	for i, p := range l.peers {
		if p == nil || i == left {
			continue
		}
		a := o.Archive(i)
		a.Body[len(a.Body)-1] ^= 1
		p.Hold(a)
	}
	l.want(l.run(bg), "retried=0 left.partitions=1")
	if n := len(l.peers[left].Sessions()); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
	if u := l.pass.Unrepaired(); len(u) != 1 || u[0].Target != l.peers[left].Addr+"/sd0" || !strings.Contains(u[0].Reason, "MD5") {
		t.Errorf("unrepaired %+v", u)
	}
}

// A partner's disk that rots, or any other one, costs a few sessions and no object.
func TestAPeerThatIsBadThroughoutCostsFewSessions(t *testing.T) { // rule 5
	t.Parallel()
	l := newLab(t)
	l.only(left)
	var objects []*peers.Object
	for i := range 30 {
		o := peers.NewObject(t, l.code, l.pol, fmt.Sprintf("/a/c/o%d", i), 12*segment)
		objects = append(objects, o)
		l.disk.Put(t, 0, o, own, nil)
		for i, p := range l.peers {
			if p == nil || i == left {
				continue
			}
			a := o.Archive(i)
			if i == 3 {
				a.Body[len(a.Body)-1] ^= 1
			}
			p.Hold(a)
		}
	}
	l.want(l.run(bg), fmt.Sprintf("rebuilt=%d", 30-l.unconfirmed(left)))
	l.received(left, objects...)
	if n := len(l.peers[left].Sessions()); n > 4 {
		t.Errorf("%d sessions, want one for each of the first three cuts at most, and one more", n)
	}
}

// unconfirmed is how many archives a peer was sent in sessions that were cut.
func (l *lab) unconfirmed(index int) (n int) {
	for _, s := range l.peers[index].Sessions() {
		if !s.Ended {
			n += len(s.Got)
		}
	}
	return n
}

// stored reports whether a peer was sent the archive already.
func (l *lab) stored(index int, hash string) bool {
	return slices.ContainsFunc(l.peers[index].Stored(), func(r peers.Subrequest) bool {
		return objhash.Hex(hasher.Object(strings.ReplaceAll(r.Path, "%20", " "))) == hash
	})
}

func TestAnObjectWithTooFewSurvivorsIsLeftAndTheOthersAreServed(t *testing.T) { // law 7
	t.Parallel()
	l := newLab(t)
	l.only(left)
	a := l.object(0, "/a/c/a", multi, left)
	l.object(0, "/a/c/b", multi, left, right, 3) // far, 5 and the local one are left
	c := l.object(0, "/a/c/c", multi, left)
	l.want(l.run(bg), "rebuilt=2 wanted=3 left.objects=1")
	l.received(left, a, c)
	for _, text := range []string{
		"Unable to get enough responses (3/4 from 3 ok responses) to reconstruct durable " + l.peers[left].Addr + "/sd0/0/a/c/b policy#1 frag#0 with ETag ",
		"Unable to get enough responses (2 x 404 error responses) to reconstruct durable " + l.peers[left].Addr + "/sd0/0/a/c/b policy#1 frag#0",
	} {
		if !l.logged(text) {
			t.Errorf("the log has no line with %q:\n%s", text, l.log)
		}
	}
	u := l.pass.Unrepaired()
	if len(u) != 1 || u[0].Object != "/a/c/b" || u[0].Have != 3 || u[0].Need != 4 || u[0].Index != left || len(u[0].Nodes) != 2 {
		t.Errorf("unrepaired %+v", u)
	}
}

// A session that broke takes nothing off the account of another one.
func TestAnObjectLeftForOneTargetIsCountedWhenAnothersSessionBreaks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	// In hash order: one that breaks left's session, and one with too few survivors.
	names := []string{"/a/c/a", "/a/c/b"}
	slices.SortFunc(names, func(a, b string) int {
		return strings.Compare(objhash.Hex(hasher.Object(a)), objhash.Hex(hasher.Object(b)))
	})
	first := peers.NewObject(t, l.code, l.pol, names[0], multi)
	l.disk.Put(t, 0, first, own, nil)
	broken := make(chan struct{})
	for _, i := range []int{3, far, 5} {
		a := first.Archive(i)
		if i == 5 { // the last segments wait until the session is broken
			a.Say = func(c *fake.Conn, a *peers.Archive) {
				c.Say(a.Head())
				c.Write(a.Body[:len(a.Body)/2])
				<-broken
				c.Write(a.Body[len(a.Body)/2:])
			}
		}
		l.peers[i].Hold(a)
	}
	l.object(0, names[1], multi, left, right, 3)
	l.peers[left].Script(func(s *peers.Session) {
		if s.N > 0 {
			s.Conn.Write(peers.Status(507))
			return
		}
		s.Greet()
		s.ReadOffers()
		s.Answer()
		s.Conn.Await("PUT ")
		s.Conn.SetLinger(0)
		s.Conn.Close()
		close(broken)
	})
	l.want(l.run(bg), "rebuilt=1 left.objects=1 left.partitions=1")
	l.received(right, first)
}

func TestACorruptLocalObjectIsCountedAndTheOthersAreServed(t *testing.T) { // law 7
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"metadata gone":    func(path string) error { return unix.Removexattr(path, "user.swift.metadata") },
		"metadata changed": func(path string) error { return unix.Setxattr(path, "user.swift.metadata", []byte("hello"), 0) },
		"truncated":        func(path string) error { return os.Truncate(path, 100) },
		"checksum changed": func(path string) error { return unix.Setxattr(path, "user.swift.metadata_checksum", []byte("x"), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only(left)
			a, c := l.object(0, "/a/c/a", multi, left), l.object(0, "/a/c/c", single, left)
			b := peers.NewObject(t, l.code, l.pol, "/a/c/b", multi)
			if err := spoil(l.disk.Put(t, 0, b, own, nil)); err != nil {
				t.Fatal(err)
			}
			l.want(l.run(bg), "rebuilt=2 wanted=3 left.objects=1 corrupt=1") // and put away, as Swift does
			l.received(left, a, c)
		})
	}
}

func TestMetadataThatCanNotBeSentHurtsOnlyItsObject(t *testing.T) { // law 7
	t.Parallel()
	for name, spoil := range map[string]func(m map[string]string){
		"a line break in a value": func(m map[string]string) { m["X-Object-Meta-Evil"] = "a\r\nX-Injected: yes" },
		"a colon in a name":       func(m map[string]string) { m["X-Object-Meta:Evil"] = "a" },
		"size is nonsense":        func(m map[string]string) { m["X-Object-Sysmeta-Ec-Content-Length"] = "99999999999999999999" },
		"size does not fit":       func(m map[string]string) { m["X-Object-Sysmeta-Ec-Content-Length"] = "7" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only(left)
			a, c := l.object(0, "/a/c/a", multi, left), l.object(0, "/a/c/c", single, left)
			b := peers.NewObject(t, l.code, l.pol, "/a/c/b", multi)
			l.disk.Put(t, 0, b, own, spoil)
			l.disk.PutMeta(t, 0, b.Name, at(3600), nil) // not to be sent without the data
			l.hold(b, left)
			l.want(l.run(bg), "rebuilt=2 wanted=3 retried=0 left.objects=1")
			l.received(left, a, c)
			for _, s := range l.peers[left].Sessions() {
				for _, r := range s.Got {
					if r.Fields["X-Injected"] != "" {
						t.Error("a header was injected")
					}
				}
			}
		})
	}
	t.Run("in a .meta file", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.only(left)
		a, c := l.object(0, "/a/c/a", multi, left), l.object(0, "/a/c/c", single, left)
		b := peers.NewObjectAt(t, l.code, l.pol, "/a/c/b", multi, segment, at(10))
		l.disk.Put(t, 0, b, own, nil)
		l.disk.PutMeta(t, 0, b.Name, at(20), map[string]string{"X-Object-Meta-Evil": "a\nb"})
		l.hold(b, left)
		l.want(l.run(bg), "rebuilt=3 retried=0 left.objects=1")
		l.received(left, a, b, c)
	})
}

// A .meta file needs no survivors: it is sent to whom misses no more, whatever becomes of
// the archives of others.
func TestMetadataIsSentThoughAnothersArchiveCanNotBeRebuilt(t *testing.T) { // law 7
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	l.agree(far)
	o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", single, segment, at(10))
	l.disk.Put(t, 0, o, own, nil)
	l.disk.PutMeta(t, 0, o.Name, at(20), nil)
	l.hold(o, left, 3, far)
	l.peers[right].Want(func(s *peers.Session, _ string) string {
		if len(s.Peer.Stored()) > 0 {
			return ""
		}
		return "m"
	})
	l.want(l.run(bg), "metadata=1 left.objects=1")
	if stored := l.peers[right].Stored(); len(stored) != 1 || stored[0].Method != "POST" {
		t.Errorf("the other was sent %+v, want the metadata", stored)
	}
	if stored := l.peers[left].Stored(); len(stored) != 0 {
		t.Errorf("metadata without an archive was sent: %+v", stored)
	}
}

func TestAnObjectThatVanishedIsNoFailure(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	a := l.object(0, "/a/c/a", multi, left)
	l.object(0, "/a/c/b", multi, left)
	l.peers[left].Want(func(_ *peers.Session, hash string) string {
		if err := os.RemoveAll(l.disk.Dir(0, "/a/c/b")); err != nil {
			t.Error(err)
		}
		return "dm"
	})
	l.want(l.run(bg), "rebuilt=1 wanted=2 retried=0")
	l.received(left, a)
}

// What hashes.pkl says of a suffix of which nothing is to be offered any more is corrected, and costs no session.
func TestASuffixThatProvesEmptyIsHashedAnew(t *testing.T) { // rule 15
	for name, empty := range map[string]func(l *lab){
		"tombstone that was reclaimed": func(l *lab) { l.cfg.ReclaimAge = time.Minute },
		"object that is gone": func(l *lab) {
			if err := os.RemoveAll(l.disk.Dir(0, "/a/c/gone")); err != nil {
				t.Fatal(err)
			}
		},
		"suffix that is gone": func(l *lab) {
			if err := os.RemoveAll(filepath.Dir(l.disk.Dir(0, "/a/c/gone"))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only()
			l.disk.PutTombstone(t, 0, "/a/c/gone", timestamp.FromTime(time.Now().Add(-time.Hour)))
			if h, n, err := l.files.SuffixHashes("sda", 0, nil, true); err != nil || n != 1 || len(h) != 1 {
				t.Fatal(h, n, err)
			}
			empty(l)
			l.want(l.run(bg), "sessions=0 synced=0")
			if n := l.pass.Progress.Suffixes.Load(); n != 0 {
				t.Errorf("%d suffixes differ", n)
			}
			if h, n, err := l.files.SuffixHashes("sda", 0, nil, true); err != nil || n != 0 || len(h) != 0 {
				t.Error(h, n, err)
			}
			l.object(0, "/a/c/o", multi) // of another suffix: the sessions are for that one
			if err := l.files.Invalidate("sda", 0, filepath.Base(filepath.Dir(l.disk.Dir(0, "/a/c/o")))); err != nil {
				t.Fatal(err)
			}
			l.want(l.run(bg), "sessions=3 synced=3")
			if n := l.pass.Progress.Suffixes.Load(); n != 3 {
				t.Errorf("%d suffixes differ", n)
			}
		})
	}
}

func TestAnObjectThatWasDeletedMeanwhileIsSentAsATombstone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	l.object(0, "/a/c/b", multi, left)
	l.peers[left].Want(func(*peers.Session, string) string {
		if err := os.RemoveAll(l.disk.Dir(0, "/a/c/b")); err != nil {
			t.Error(err)
		}
		l.disk.PutTombstone(t, 0, "/a/c/b", at(3600))
		return "dm"
	})
	l.want(l.run(bg), "tombstones=1 wanted=1")
}

func TestALocalArchiveThatProvesBadIsRebuiltFromTheOthersAndQuarantined(t *testing.T) { // rule 4
	t.Parallel()
	for _, size := range []int64{single, multi} {
		l := newLab(t)
		l.only(left)
		o := peers.NewObject(t, l.code, l.pol, "/a/c/o", size)
		path := l.disk.Put(t, 0, o, own, nil)
		flip(t, path, int64(len(o.Frags[own]))-1)
		l.hold(o, left)
		l.want(l.run(bg), "rebuilt=1 corrupt=1")
		l.received(left, o)
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
		moved := filepath.Join(l.disk.Root, "sda", "quarantined", "objects-1", filepath.Base(filepath.Dir(path)), filepath.Base(path))
		if _, err := os.Stat(moved); err != nil || !l.logged("Quarantined object "+path+": ") {
			t.Errorf("not quarantined: %v", err)
		}
		invalid, err := os.ReadFile(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.invalid"))
		if suffix := filepath.Base(filepath.Dir(filepath.Dir(path))); err != nil || !strings.Contains(string(invalid), suffix) {
			t.Errorf("suffix %s was not invalidated: %q, %v", suffix, invalid, err)
		}
	}
}

// rule 4: what is quarantined is what proved bad, not what has come in its place.
func TestNewerDataThatCameMeanwhileIsNotQuarantined(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", single, segment, at(0))
	path := l.disk.Put(t, 0, o, own, nil)
	flip(t, path, int64(len(o.Frags[own]))-1)
	l.hold(o, left)
	newer := peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", multi, 1000, at(100)) // other segments, too
	var put string
	l.peers[left].Script(func(s *peers.Session) {
		s.Greet()
		s.ReadOffers()
		s.Answer()
		if s.ReadUpdates() {
			put = l.disk.Put(t, 0, newer, own, nil)
			s.Verdict()
		}
		s.Conn.Hang()
	})
	l.want(l.run(bg), "rebuilt=1 corrupt=0")
	if _, err := os.Stat(put); err != nil {
		t.Errorf("the client's newer archive is gone: %v", err)
	}
}

// Liberasurecode takes its backend's version on trust when it rebuilds, so archives of
// one object may differ in it; that one differs does not prove it bad.
func TestALocalArchiveOfAnotherBackendVersionIsNotQuarantined(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	o := peers.NewObject(t, l.code, l.pol, "/a/c/o", multi)
	l.hold(o, left)
	frag := l.code.FragmentSize(segment)
	for off := 0; off < len(o.Frags[own]); off += frag {
		h, err := codec.ParseHeader(o.Frags[own][off:])
		if err != nil {
			t.Fatal(err)
		}
		h.BackendVersion++
		h.Put(o.Frags[own][off:], codec.Zlib)
	}
	path := l.disk.Put(t, 0, o, own, nil)
	l.want(l.run(bg), "rebuilt=1 corrupt=0")
	l.received(left, o)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("an archive that matches its ETag is gone: %v", err)
	}
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at] ^ 0x20}, at); err != nil {
		t.Fatal(err)
	}
}

func TestASecondReceiverThatDoesNotGrantInTimeIsServedAfterwards(t *testing.T) { // rule 12
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	objects := []*peers.Object{l.object(0, "/a/c/a", multi, left, right), l.object(0, "/a/c/b", single, left, right)}
	served := make(chan struct{})
	l.peers[left].Script(func(s *peers.Session) {
		s.Greet()
		s.ReadOffers()
		s.Answer()
		if s.ReadUpdates() {
			close(served) // before the verdict, on which the sender may go on at once
			s.Verdict()
		}
		s.Conn.Hang()
	})
	var early atomic.Bool
	l.peers[right].Script(func(s *peers.Session) {
		if s.N == 0 {
			s.Greet()
			s.ReadOffers()
			s.Conn.Hang() // never grants
			return
		}
		select {
		case <-served:
		default:
			early.Store(true)
		}
		s.Serve()
	})
	l.want(l.run(bg), "rebuilt=4 sessions=4 retried=0") // one of them far's
	l.received(left, objects...)
	l.received(right, objects...)
	if early.Load() {
		t.Error("the second receiver was asked again while the first one's locks were held")
	}
}

func TestATargetHasOneSessionAtATime(t *testing.T) { // rule 11
	t.Parallel()
	l := newLab(t)
	l.cfg.Concurrency = 4
	l.only(left, right)
	var objects []*peers.Object
	for i := range 12 {
		objects = append(objects, l.object(i%3, fmt.Sprintf("/a/c/o%d", i), single, left, right))
	}
	var mu sync.Mutex
	open := make(map[*peers.Peer]int)
	for _, i := range []int{left, right} {
		l.peers[i].Script(func(s *peers.Session) {
			count := func(by int) {
				mu.Lock()
				defer mu.Unlock()
				if open[s.Peer] += by; open[s.Peer] > 1 {
					t.Errorf("%d sessions at once", open[s.Peer])
				}
			}
			count(1)
			s.Greet()
			ok := s.ReadOffers()
			s.Answer()
			ok = ok && s.ReadUpdates()
			count(-1)
			if ok {
				s.Verdict()
			}
			s.Conn.Hang()
		})
	}
	l.want(l.run(bg), "rebuilt=24")
	l.received(left, objects...)
	l.received(right, objects...)
}

func TestAHandoffTakesThePlaceOfAnUnmountedDevice(t *testing.T) { // rule 9
	t.Parallel()
	unmounted := func(int, *fake.Conn) []byte { return peers.Status(507) }
	for _, c := range []struct {
		name     string
		handoffs int
		away     int
		spareToo bool
		asked    int // how often the spare is
		counts   string
	}{
		{"the one for its index", -1, left, false, 1, "rebuilt=2"},
		{"as many as are allowed", 1, left, false, 1, "rebuilt=2"},
		{"unless none is allowed", 0, left, false, 0, "rebuilt=1 left.partitions=1"},
		{"unless it is away, too", -1, left, true, 1, "rebuilt=1 left.partitions=1"},
		{"unless it is for another index", -1, right, false, 0, "rebuilt=1 left.partitions=1"},
	} {
		l := newLab(t)
		l.cfg.Handoffs = c.handoffs
		l.only(left, right)
		o := l.object(0, "/a/c/o", multi, left, right)
		l.peers[c.away].Hashes(unmounted)
		if c.spareToo {
			l.spare.Hashes(unmounted)
		}
		l.want(l.run(bg), c.counts)
		if n := l.spare.Asked(); n != c.asked {
			t.Errorf("%s: the handoff was asked %d times, want %d", c.name, n, c.asked)
		}
		if n := len(l.peers[c.away].Sessions()); n != 0 {
			t.Errorf("%s: the unmounted device had %d sessions", c.name, n)
		}
		got := l.spare.Stored()
		if c.asked == 1 && !c.spareToo {
			if len(got) != 1 || string(got[0].Body) != string(o.Frags[left]) || got[0].Fields["X-Object-Sysmeta-Ec-Frag-Index"] != "0" {
				t.Errorf("%s: the handoff got %+v, want fragment 0", c.name, got)
			}
		} else if len(got) != 0 {
			t.Errorf("%s: the handoff got %+v", c.name, got)
		}
		if !l.logged(l.peers[c.away].Addr + "/" + l.peers[c.away].Device + "/0 policy#1 responded as unmounted") {
			t.Errorf("%s: nothing is said of the unmounted device:\n%s", c.name, l.log)
		}
	}
}

func TestAnUnmountedDeviceIsLeft(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.object(0, "/a/c/o", multi)
	l.cfg.MountCheck = true
	l.want(l.run(bg), "left.devices=1")
	if !l.logged("sda is not mounted") {
		t.Error(l.log)
	}
	l.cfg.MountCheck = false
	if err := os.RemoveAll(filepath.Join(l.disk.Root, "sda")); err != nil {
		t.Fatal(err)
	}
	l.want(l.run(bg), "left.devices=1")
	if _, err := os.Stat(filepath.Join(l.disk.Root, "sda")); err == nil {
		t.Error("an unmounted device was written on")
	}
}

func TestABusyReceiverIsAskedAgainAsLongAsThereIsTime(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.limit = time.Hour
	l.only(left)
	o := l.object(0, "/a/c/o", multi, left)
	refused := 0
	l.peers[left].Script(func(s *peers.Session) {
		if refused++; refused <= 12 {
			refuse(":ERROR: 503 b''\r\n")(s)
			return
		}
		s.Serve()
	})
	l.want(l.run(bg), "rebuilt=1 retried=12")
	l.received(left, o)

	l = newLab(t)
	l.limit = 50 * time.Millisecond
	l.only(left)
	l.object(0, "/a/c/o", multi, left)
	l.peers[left].Script(refuse(":ERROR: 503 b''\r\n"))
	if result := l.run(bg); result.Partitions != 1 {
		t.Errorf("left %+v after the time was over", result)
	}
}

func TestADeviceThatGoesAwayInTheMiddleIsLeft(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	l.object(0, "/a/c/o", multi, left)
	l.peers[left].Script(func(s *peers.Session) {
		s.Greet()
		s.ReadOffers()
		if err := os.RemoveAll(filepath.Join(l.disk.Root, "sda")); err != nil {
			t.Error(err)
		}
		s.Say(":ERROR: 503 b''\r\n")
	})
	l.want(l.run(bg), "left.partitions=1")
}

func TestStrangeEntriesAreLeftAlone(t *testing.T) { // rule 19
	t.Parallel()
	l := newLab(t)
	o := l.object(0, "/a/c/o", multi)
	data := filepath.Join(l.disk.Root, "sda", "objects-1")
	for _, dir := range []string{"abc", "-1", "007", "99999999999999999999", "4", "1000", "0x1", "1 ", "lost+found", "2/zzz", "2/ABC", "2/12345"} {
		if err := os.MkdirAll(filepath.Join(data, dir, "5f3"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(data, "abc", "5f3", "precious"), []byte("data"))
	write(t, filepath.Join(data, "4", "5f3", "precious"), []byte("data"))
	write(t, filepath.Join(data, "2", "notes.txt"), []byte("data"))
	write(t, filepath.Join(data, "file"), []byte("data"))
	write(t, filepath.Join(data, "1"), []byte("a file in a partition's place"))
	write(t, filepath.Join(data, "auditor_status_ALL.json"), []byte("{}"))
	if err := os.Symlink("/nowhere", filepath.Join(data, "3")); err != nil {
		t.Fatal(err)
	}
	before := tree(t, l.disk.Root)
	l.only()
	result := l.run(bg)
	if after := tree(t, l.disk.Root); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	for _, name := range []string{"abc", "-1", "007", "4", "1000", "file", "lost+found"} {
		if !l.logged("'" + filepath.Join(data, name) + "'") {
			t.Errorf("nothing is said of %s:\n%s", name, l.log)
		}
	}
	if l.logged("auditor_status") {
		t.Error("the auditor's file is no stranger")
	}
	l.want(result, "left.partitions="+strconv.Itoa(int(result.Partitions)))
	if result.Partitions == 0 || len(l.pass.Unrepaired()) != int(result.Partitions) {
		t.Errorf("a partition that is a file can't be compared: %d left, listed %+v", result.Partitions, l.pass.Unrepaired())
	}
	_ = o
}

func TestTheEndOfTheContextEndsAPassInOrder(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(s *peers.Session, cancel func()){
		"while a receiver does not grant": func(s *peers.Session, cancel func()) {
			s.Greet()
			s.ReadOffers()
			cancel()
		},
		"in the middle of an archive": func(s *peers.Session, cancel func()) {
			s.Greet()
			s.ReadOffers()
			s.Answer()
			s.Conn.Await("PUT ")
			cancel()
		},
		"before the verdict": func(s *peers.Session, cancel func()) {
			s.Greet()
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
			l := newLab(t)
			l.only(left)
			for i := range 6 {
				l.object(i%3, fmt.Sprintf("/a/c/o%d", i), 300*segment, left)
			}
			l.agree(right, far)
			l.peers[left].Script(func(s *peers.Session) {
				script(s, cancel)
				s.Conn.Hang()
			})
			l.want(l.run(ctx), "left.partitions=1 interrupted=1")
			if n := l.pass.Progress.PartitionsDone.Load(); n != 1 {
				t.Errorf("%d partitions were begun, want the one that was interrupted", n)
			}
		})
	}
	t.Run("while REPLICATE is not answered", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		l := newLab(t)
		l.object(0, "/a/c/o", multi, left)
		l.peers[left].Hashes(func(_ int, c *fake.Conn) []byte {
			time.AfterFunc(50*time.Millisecond, cancel) // it is waited for by then, most likely
			c.Hang()
			return nil
		})
		if result := l.run(ctx); !result.Interrupted || result.Partitions > 1 {
			t.Errorf("%+v", result)
		}
	})
	t.Run("while a job waits for another try", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		l := newLab(t)
		l.only(left)
		l.object(0, "/a/c/o", multi, left)
		l.peers[left].Script(func(s *peers.Session) { s.Conn.Write(peers.Status(503)) })
		p, err := New(l.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.firstWait = time.Hour
		l.pass = p
		done := make(chan Left)
		go func() { done <- p.Run(ctx) }()
		for !l.logged("will be tried again") {
			time.Sleep(time.Millisecond)
		}
		cancel()
		l.want(<-done, "left.partitions=1 interrupted=1")
	})
}

func TestOnlyTheNamedDevicesAndPartitionsAreLookedAt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		devices    []string
		partitions []int
		want       int64
	}{{nil, nil, 3}, {[]string{"sda"}, nil, 3}, {[]string{"sdb"}, nil, 0}, {nil, []int{1}, 1}, {nil, []int{1, 9}, 1}, {[]string{"sda", "sdb"}, []int{0, 2}, 2}} {
		l := newLab(t)
		l.only()
		for part := range 3 {
			l.object(part, fmt.Sprintf("/a/c/o%d", part), 10)
		}
		l.cfg.OnlyDevices, l.cfg.OnlyPartitions = c.devices, c.partitions
		l.want(l.run(bg), "")
		if n := l.pass.Progress.PartitionsDone.Load(); n != c.want || l.pass.Progress.Partitions.Load() != n {
			t.Errorf("-d %v -p %v: %d partitions, want %d", c.devices, c.partitions, n, c.want)
		}
	}
}

func TestPoliciesThatCanNotBeCoveredAreLeft(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.object(0, "/a/c/o", 10)
	l.writeRing(func(ring map[string]any) { ring["next_part_power"] = power + 1 })
	before := tree(t, l.disk.Root)
	l.want(l.run(bg), "left.policies=1")
	if after := tree(t, l.disk.Root); after != before || l.peers[left].Asked() > 0 || !l.logged("W next_part_power set in policy 'ec'. Skipping") {
		t.Errorf("before\n%s\nafter\n%s\nlog\n%s", before, after, l.log)
	}

	l = newLab(t)
	l.object(0, "/a/c/o", 10)
	l.pol.ECType = "shss"
	l.want(l.run(bg), "left.policies=1")

	l = newLab(t)
	l.cfg.Swift = &policy.Swift{Policies: []*policy.Policy{{Name: "replicated", Type: policy.Replication}}}
	l.want(l.run(bg), "")
}

func TestAPassThatCanNotBeMadeSaysWhy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.writeRing(func(ring map[string]any) { ring["replica_count"] = 5 })
	if _, err := New(l.cfg); err == nil || !strings.Contains(err.Error(), "object-1.ring.gz") || !strings.Contains(err.Error(), "policy 1") {
		t.Errorf("a ring of 5 replicas: %v", err)
	}
	if err := os.Remove(filepath.Join(l.cfg.SwiftDir, "object-1.ring.gz")); err != nil {
		t.Fatal(err)
	}
	if _, err := New(l.cfg); err == nil || !strings.Contains(err.Error(), "object-1.ring.gz") {
		t.Errorf("no ring: %v", err)
	}
}

// Objects keep the segment size that they were written with.
func TestObjectsOfOtherSegmentSizesAreRebuilt(t *testing.T) {
	t.Parallel()
	for _, budget := range []int64{1, 64 << 20} {
		l := newLab(t)
		l.cfg.MemoryBudget = budget
		l.only(left)
		var objects []*peers.Object
		for i, seg := range []int{segment, 1000, 4 * segment, 16 * segment} {
			for _, size := range []int64{single, 40 * segment} {
				o := peers.NewObjectAt(t, l.code, l.pol, fmt.Sprintf("/a/c/o%d-%d", i, size), size, seg, peers.Yesterday())
				l.disk.Put(t, 0, o, own, nil)
				l.hold(o, left)
				objects = append(objects, o)
			}
		}
		l.want(l.run(bg), "rebuilt=8")
		l.received(left, objects...)
	}
}

func TestASmallMemoryBudgetDelaysAndLosesNothing(t *testing.T) { // law 9
	t.Parallel()
	l := newLab(t)
	l.cfg.MemoryBudget = 1
	l.cfg.Concurrency = 3
	l.only(left, right)
	var objects []*peers.Object
	for i := range 9 {
		objects = append(objects, l.object(i%3, fmt.Sprintf("/a/c/o%d", i), multi, left, right))
	}
	l.want(l.run(bg), "rebuilt=18")
	l.received(left, objects...)
	l.received(right, objects...)
}

func TestWithoutLocalDevicesThereIsNothingToDo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.Port = 3
	l.want(l.run(bg), "")
	if !l.logged("Nothing reconstructed for ") || len(l.pass.LocalDevices()) != 0 {
		t.Errorf("%v\n%s", l.pass.LocalDevices(), l.log)
	}
}
