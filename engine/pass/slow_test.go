package pass

import (
	"fmt"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
)

// dawdle is a receiver that takes what it is sent, but slowly, in its first session.
func dawdle(s *peers.Session) {
	if s.N > 0 {
		s.Serve()
		return
	}
	s.Conn.SetReadBuffer(4096)
	s.Greet()
	s.ReadOffers()
	s.Answer()
	buf := make([]byte, 4096)
	for {
		if _, err := s.Conn.In.Read(buf); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestASlowTargetLeavesTheGroupAndIsServedSinglyAfterwards(t *testing.T) { // rule 12
	t.Parallel()
	const large = 24 << 20 // fragments that do not fit into the sockets' buffers, of 4 MiB
	for name, slow := range map[string]int{"the first": left, "the second": right} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.slow = time.Second
			l.pol.SegmentSize, l.cfg.MemoryBudget = large, 1<<30
			l.only(left, right)
			l.agree(far)
			var objects []*peers.Object
			for i, size := range []int64{single, large, single, single} {
				o := peers.NewObjectAt(t, l.code, l.pol, fmt.Sprintf("/a/c/o%d", i), size, large, at(10))
				l.disk.Put(t, 0, o, own, nil)
				l.hold(o, left, right)
				objects = append(objects, o)
			}
			l.peers[slow].Script(dawdle)
			l.want(l.run(bg), "rebuilt=8 retried=0 sessions=3")
			l.received(left, objects...)
			l.received(right, objects...)
			a, b := l.peers[slow].Sessions(), l.peers[left+right-slow].Sessions()
			if len(a) != 2 || !a[1].Ended || len(b) != 1 || !b[0].Ended || len(b[0].Got) != len(objects) || !l.logged("too slow") {
				t.Errorf("the slow one had %d sessions, the other %d\n%s", len(a), len(b), l.log)
			}
		})
	}
}
