package pass

import (
	"bytes"
	"fmt"
	"testing"

	"imping/engine/rebuild/peers"
)

// twice makes the policy keep every fragment at two places: i and i+6.
func (l *lab) twice() {
	l.pol.Duplication = 2
	for i := len(l.peers); i < 2*l.code.N(); i++ {
		l.peers = append(l.peers, peers.New(l.t, fmt.Sprintf("sd%d", i), hasher))
	}
	l.writeRing(nil)
}

// Several partners may miss so many indexes together that the others do not suffice,
// though each of them has a living duplicate.
func TestWhatIsTooMuchForAGroupIsRebuiltForEachAlone(t *testing.T) { // rules 3, 6 and 12
	t.Parallel()
	for name, missing := range map[string][]int{
		"all three partners":                  {0, 2, 7},
		"both neighbours and a fragment lost": {0, 2, 5, 11},
		"and the far one, of many":            {0, 2, 7, 3, 4, 5, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.twice()
			o := peers.NewObject(t, l.code, l.pol, "/a/c/o", multi)
			l.disk.Put(t, 0, o, own, nil)
			lost := make(map[int]bool)
			for _, i := range missing {
				lost[i] = true
			}
			n := 0
			for i, p := range l.peers {
				if p != nil && !lost[i] {
					p.Hold(o.Archive(i % l.code.N()))
				}
			}
			var wanting []int
			for _, i := range []int{0, 2, 7} {
				if lost[i] {
					wanting = append(wanting, i)
					n++
				}
			}
			l.only(wanting...)
			l.want(l.run(bg), fmt.Sprintf("rebuilt=%d", n))
			for _, i := range wanting {
				stored := l.peers[i].Stored()
				if len(stored) != 1 || !bytes.Equal(stored[0].Body, o.Frags[i%l.code.N()]) {
					t.Errorf("peer %d was sent %d archives, or other bytes", i, len(stored))
				}
			}
			if l.logged("Unable to get enough responses") {
				t.Error(l.log)
			}
		})
	}
}

// After a change of the ring partners may hold what belongs to others.
func TestWhatAPartnerHoldsInTheWrongPlaceServesTheOthers(t *testing.T) { // rules 2 and 12
	t.Parallel()
	l := newLab(t)
	l.only(left, right, far)
	o := l.object(0, "/a/c/o", multi, left, right, far)
	l.peers[left].Hold(o.Archive(far))
	l.peers[far].Hold(o.Archive(left))
	l.want(l.run(bg), "rebuilt=3")
	for _, i := range []int{left, right, far} {
		l.received(i, o)
	}
}
