package pass

import (
	"fmt"
	"strings"
	"testing"

	"imping/engine/rebuild/peers"
)

// knowsNoOffsets is a receiver of 2.30.1 or older; how it ends a session in which it is
// told one is up to say.
func knowsNoOffsets(say string) func(*peers.Session) {
	return func(s *peers.Session) {
		s.Greet()
		if !s.ReadOffers() {
			return
		}
		for _, o := range s.Offers {
			if strings.Contains(o, "__") {
				if say != "" {
					s.Say(say)
				}
				return
			}
		}
		s.Answer()
		if s.ReadUpdates() {
			s.Verdict()
			s.Conn.Hang()
		}
	}
}

// odd puts an object on the local disk whose .meta file has an offset.
func (l *lab) odd(part int, name string) *peers.Object {
	l.t.Helper()
	o := peers.NewObjectAt(l.t, l.code, l.pol, name, single, segment, at(10))
	l.disk.Put(l.t, part, o, own, nil)
	meta := at(20)
	meta.Offset = 0xab
	l.disk.PutMeta(l.t, part, o.Name, meta, map[string]string{"X-Object-Meta-Color": "blue"})
	l.hold(o, left, right)
	return o
}

func TestObjectsWithOffsetsAreServedAfterTheOthers(t *testing.T) { // rule 17
	t.Parallel()
	l := newLab(t)
	l.only(left, right)
	l.agree(far)
	a, b := l.object(0, "/a/c/a", single, left, right), l.object(0, "/a/c/b", single, left, right)
	o := l.odd(0, "/a/c/odd")
	l.want(l.run(bg), "rebuilt=6 metadata=2 retried=0 sessions=4")
	for _, i := range []int{left, right} {
		l.received(i, a, b, o)
		sessions := l.peers[i].Sessions()
		if len(sessions) != 2 || len(sessions[0].Offers) != 2 || len(sessions[1].Offers) != 1 ||
			!strings.HasSuffix(sessions[1].Offers[0], " m:f4240__ab") {
			t.Errorf("offered %+v", sessions)
		}
		for _, r := range sessions[len(sessions)-1].Got {
			if r.Method == "POST" && r.Fields["X-Timestamp"] != at(20).Internal()+"_00000000000000ab" {
				t.Errorf("POST with %v", r.Fields)
			}
		}
	}
	if n := l.pass.Progress.BytesRead.Load(); n != 3*4*int64(len(o.Frags[own])) {
		t.Errorf("%d bytes read: want each object's four archives once, for both", n)
	}
}

func TestAnOldReceiverIsOfferedMetadataWithoutOffsets(t *testing.T) { // rule 17
	t.Parallel()
	for name, say := range map[string]string{
		"that raises":   ":ERROR: 0 \"invalid literal for int() with base 16: 'f4240__ab'\"\r\n",
		"that hangs up": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.only(left)
			l.agree(right, far)
			var objects []*peers.Object
			for part := range 3 {
				objects = append(objects, l.object(part, fmt.Sprintf("/a/c/o%d", part), single, left), l.odd(part, fmt.Sprintf("/a/c/odd%d", part)))
			}
			l.peers[left].Script(knowsNoOffsets(say))
			l.want(l.run(bg), "rebuilt=6 metadata=3 retried=0")
			l.received(left, objects...)
			// In the first partition the others, the odd one in vain, the odd one; later all at once.
			sessions := l.peers[left].Sessions()
			if len(sessions) != 5 {
				t.Errorf("%d sessions", len(sessions))
			}
			told := 0
			for _, s := range sessions {
				told += strings.Count(strings.Join(s.Offers, "\n"), "__")
			}
			if told != 1 || strings.Count(l.log.String(), "does not know timestamp offsets") != 1 {
				t.Errorf("%d offsets were told, want one for the whole pass\n%s", told, l.log)
			}
		})
	}
}

// A receiver that stays away is not taken for an old one.
func TestAReceiverThatTimesOutMayStillKnowOffsets(t *testing.T) { // rule 17
	t.Parallel()
	l := newLab(t)
	l.only(left)
	l.agree(right, far)
	o := l.odd(0, "/a/c/odd")
	l.peers[left].Script(func(s *peers.Session) {
		if s.N == 1 { // behind an empty one
			refuse(":ERROR: 0 '15 seconds: /srv/node/sda/.lock'\r\n")(s)
			return
		}
		s.Serve()
	})
	l.want(l.run(bg), "rebuilt=1 metadata=1 retried=1")
	l.received(left, o)
	sessions := l.peers[left].Sessions()
	if last := sessions[len(sessions)-1]; !strings.Contains(strings.Join(last.Offers, ""), "__ab") {
		t.Errorf("offered %q", last.Offers)
	}
}
