package pass

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/engine/pipeline"
	"imping/engine/rebuild/peers"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/objhash"
)

// hangsUpAt is a receiver that certain objects make fall over.
func hangsUpAt(names ...string) func(*peers.Session, string, string) (string, bool) {
	return func(_ *peers.Session, _, path string) (string, bool) { return "", !slices.Contains(names, path) }
}

// inOrder are n objects that left and right miss, as they are sent.
func (l *lab) inOrder(n int) []*peers.Object {
	l.t.Helper()
	var objects []*peers.Object
	for i := range n {
		objects = append(objects, l.object(0, fmt.Sprintf("/a/c/o%d", i), single, left, right))
	}
	slices.SortFunc(objects, func(a, b *peers.Object) int {
		return strings.Compare(objhash.Hex(hasher.Object(a.Name)), objhash.Hex(hasher.Object(b.Name)))
	})
	return objects
}

// An object that makes a receiver fall over costs itself, and neither the others nor the
// other partner.
func TestAPoisonObjectIsSentLastAloneAndLeft(t *testing.T) { // rule 10
	t.Parallel()
	for _, c := range []struct {
		name   string
		poison []int
		word   string
	}{
		{"first", []int{0}, ""},
		{"in the middle", []int{5}, ""},
		{"last", []int{11}, ""},
		{"several", []int{1, 2, 7, 11}, ""},
		{"all", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, ""},
		{"the receiver raises", []int{3, 4}, ":ERROR: 0 'not enough values to unpack'\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only(left, right)
			l.agree(far)
			objects := l.inOrder(12)
			var names []string
			var good []*peers.Object
			for i, o := range objects {
				if slices.Contains(c.poison, i) {
					names = append(names, o.Name)
				} else {
					good = append(good, o)
				}
			}
			bad := hangsUpAt(names...)
			l.peers[left].Poison(func(s *peers.Session, method, path string) (string, bool) {
				_, ok := bad(s, method, path)
				return c.word, ok
			})
			result := l.run(bg)
			n := len(c.poison)
			sessions := l.peers[left].Sessions()
			confirmed := len(objects) // right's
			for _, s := range sessions {
				if s.Ended {
					confirmed += len(s.Got)
				}
			}
			l.want(result, fmt.Sprintf("rebuilt=%d left.objects=%d retried=%d", confirmed, n, 2*n))
			l.received(left, good...)
			l.received(right, objects...)
			// Two for each that it broke, one for the others, one for each alone.
			if len(sessions) != 2*n+1+n || len(l.peers[right].Sessions()) != 1 {
				t.Errorf("%d and %d sessions", len(sessions), len(l.peers[right].Sessions()))
			}
			for _, s := range sessions[2*n+1:] {
				if len(s.Offers) != 1 || len(s.Got) != 0 {
					t.Errorf("offered %q, got %d: want an object alone", s.Offers, len(s.Got))
				}
			}
			var left []string
			for _, u := range l.pass.Unrepaired() {
				if u.Target != l.peers[0].Addr+"/sd0" || !strings.Contains(u.Reason, "it broke 2 sessions and the one in which it was sent alone") {
					t.Errorf("unrepaired %+v", u)
				}
				left = append(left, u.Object)
			}
			if d := cmp.Diff(names, left); d != "" { // both by hash
				t.Error(d)
			}
		})
	}
}

func TestAnObjectThatBreaksSessionsOnlyAmongOthersIsServedAlone(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.only(left)
	objects := l.inOrder(5)
	l.peers[left].Poison(func(s *peers.Session, _, path string) (string, bool) {
		return "", path != objects[2].Name || len(s.Offers) == 1
	})
	l.want(l.run(bg), "rebuilt=3 retried=2") // those before it came in the first session, unconfirmed
	l.received(left, objects...)
	if n := len(l.peers[left].Sessions()); n != 4 {
		t.Errorf("%d sessions, want two that broke, one for the others, and one more", n)
	}
}

// A .meta file may be the poison, too.
func TestAPoisonousMetadataFileIsSentLastAloneAndLeft(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.only(left)
	l.agree(right, far)
	o := peers.NewObjectAt(t, l.code, l.pol, "/a/c/o", single, segment, at(10))
	l.disk.Put(t, 0, o, own, nil)
	l.disk.PutMeta(t, 0, o.Name, at(20), nil)
	l.hold(o, left)
	l.peers[left].Poison(func(_ *peers.Session, method, _ string) (string, bool) { return "", method != "POST" })
	l.want(l.run(bg), "left.objects=1 retried=2")
	l.received(left, o)
}

// A receiver that is restarted again and again, each time with something taken, gets all
// in the end, and no object is blamed.
func TestTriesThatBringSomethingAreNotCounted(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.only(left)
	objects := l.inOrder(3 * maxTries)
	l.peers[left].Poison(func(s *peers.Session, _, _ string) (string, bool) {
		return "", len(s.Got) == 0
	})
	l.want(l.run(bg), fmt.Sprintf("rebuilt=1 retried=%d", len(objects)-1)) // the last one alone is confirmed
	l.received(left, objects...)
	if l.logged("sent last") {
		t.Error(l.log)
	}
}

// A receiver that falls over each object is no reason to doubt the objects for ever, nor
// to ask it for ever.
func TestAPoisonedJobEndsWithItsTime(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.limit = 1
	l.only(left)
	l.agree(right, far)
	l.inOrder(5)
	l.peers[left].Poison(func(*peers.Session, string, string) (string, bool) { return "", false })
	l.want(l.run(bg), "retried=0 left.partitions=1")
}

// The limit is for asking in vain: a session that carried objects for longer than that and
// broke then is tried again.
func TestASessionThatBreaksAfterLongWorkIsTriedAgain(t *testing.T) { // rule 10
	t.Parallel()
	l := newLab(t)
	l.limit = time.Second
	l.only(left)
	l.agree(right, far)
	objects := l.inOrder(3)
	var once sync.Once
	l.peers[left].Poison(func(*peers.Session, string, string) (word string, ok bool) {
		ok = true
		once.Do(func() {
			time.Sleep(l.limit + l.limit/2) // a disk that is slow
			ok = false
		})
		return "", ok
	})
	l.want(l.run(bg), "rebuilt=3")
	l.received(left, objects...)
}

// rule 10
func TestSuspicions(t *testing.T) {
	list := func(hashes string) (l []update) {
		for _, h := range strings.Fields(hashes) {
			l = append(l, update{h, "/a/c/" + h})
		}
		return l
	}
	for _, c := range []struct {
		name  string
		tries []string // what was sent, / what is wanted next; "-": for another reason
		want  string   // progress of each, then what is put off
	}{
		{"all have landed", []string{"a b c/", "/"}, "yes no;"},
		{"nothing was sent", []string{"/a b"}, "no;"},
		{"the first that is wanted twice", []string{"a b c/b c", "b c/b c"}, "yes yes; b"},
		{"another each time", []string{"a b c/b c", "b c/c", "c/"}, "yes yes yes;"},
		{"one by one", []string{"a b/a b", "a b/a b", "b/b", "b/b"}, "no yes no yes; a b"},
		{"what came in between", []string{"b c/a b c", "b c/a b c"}, "no yes; b"},
		{"not by our own cut", []string{"- a/a", "- a/a", "- a b/b"}, "no no yes;"},
	} {
		var s suspicion
		var got []string
		for _, try := range c.tries {
			sent, wanted, _ := strings.Cut(try, "/")
			sent, other := strings.CutPrefix(sent, "- ")
			s.sent, s.suspect = list(sent), !other
			m := make(map[string]ssync.Wanted)
			for _, h := range strings.Fields(wanted) {
				m[h] = ssync.Wanted{}
			}
			got = append(got, map[bool]string{true: "yes", false: "no"}[s.learn(m)])
		}
		text := strings.Join(got, " ") + ";"
		for _, u := range s.putOff {
			text += " " + u.hash
		}
		if text != c.want {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
}

// rule 10: who is blamed for the end of a session.
func TestOnlyASessionThatTheOtherSideBrokeBlamesAnObject(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		cut     bool
		suspect bool
	}{
		{"it ended well", nil, false, false},
		{"hung up", io.ErrUnexpectedEOF, false, true},
		{"raised", &ssync.RemoteError{Text: "list index out of range"}, false, true},
		{"a lock", &ssync.RemoteError{Text: "15 seconds: /srv/node/sda/.lock"}, false, false},
		{"it had waited too long for us", &ssync.RemoteError{Code: 408}, false, false},
		{"we cut it", errors.New("bad fragment"), true, false},
		{"a survivor proved bad", &pipeline.SourceError{Err: errors.New("MD5")}, true, false},
		{"slow", fmt.Errorf("writing: %w", netfast.ErrSlow), false, false},
	} {
		pr := &partner{}
		s := &session{partner: pr, err: c.err, cut: c.cut, sent: []update{{"a", "/a/c/a"}}}
		s.blame()
		if pr.suspect != c.suspect || len(pr.sent) > 0 != (c.err != nil) || c.suspect && !retryable(s.err) {
			t.Errorf("%s: suspect %v, sent %v, %v", c.name, pr.suspect, pr.sent, s.err)
		}
	}
}

// Objects with offsets have a session of their own, which is not what the other one says
// nothing of.
func TestAPoisonObjectWithAnOffsetIsSentLastAloneAndLeft(t *testing.T) { // rules 10 and 17
	t.Parallel()
	l := newLab(t)
	l.only(left)
	l.agree(right, far)
	plain := l.object(0, "/a/c/plain", single, left)
	var objects []*peers.Object
	for i := range 4 {
		objects = append(objects, l.odd(0, fmt.Sprintf("/a/c/odd%d", i)))
	}
	bad := objects[2]
	l.peers[left].Poison(hangsUpAt(bad.Name))
	result := l.run(bg)
	if result != (Left{Objects: 1}) {
		t.Errorf("left %v, want the one object\n%s", result, l.log)
	}
	l.received(left, plain, objects[0], objects[1], objects[3])
	if u := l.pass.Unrepaired(); len(u) != 1 || u[0].Object != bad.Name {
		t.Errorf("unrepaired %+v", u)
	}
}

// A receiver that is restarted again and again may be so while it is sent objects with offsets.
func TestTriesThatBringSomethingWithAnOffsetAreNotCounted(t *testing.T) { // rules 10 and 17
	t.Parallel()
	l := newLab(t)
	l.only(left)
	l.agree(right, far)
	var objects []*peers.Object
	for i := range 2 * maxTries {
		objects = append(objects, l.odd(0, fmt.Sprintf("/a/c/odd%d", i)))
	}
	l.peers[left].Poison(func(s *peers.Session, method, _ string) (string, bool) {
		puts := 0
		for _, r := range s.Got {
			if r.Method == "PUT" {
				puts++
			}
		}
		return "", method != "PUT" || puts == 0
	})
	if result := l.run(bg); result.Any() {
		t.Errorf("left %v\n%s", result, l.log)
	}
	l.received(left, objects...)
}
