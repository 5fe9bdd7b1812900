package pass

import (
	"strings"
	"testing"

	"imping/engine/rebuild"
	"imping/engine/rebuild/peers"
	"imping/netfast/fake"
)

// spoiled puts an object's archives on the local disk and on all peers but the missing, one of them changed.
func (l *lab) spoiled(name string, size int64, index int, spoil func(*peers.Archive), missing int) *peers.Object {
	l.t.Helper()
	o := peers.NewObject(l.t, l.code, l.pol, name, size)
	l.disk.Put(l.t, 0, o, own, nil)
	l.hold(o, missing, index)
	a := o.Archive(index)
	spoil(a)
	l.peers[index].Hold(a)
	return o
}

// rule 7: a survivor that dies in the middle of an object costs no session where another one can take its place, else one.
func TestASurvivorThatDiesInTheMiddleOfAnObject(t *testing.T) {
	t.Parallel()
	for mode, counts := range map[rebuild.Verify]string{
		rebuild.VerifyOff:    "rebuilt=3 wanted=3 sessions=1",
		rebuild.VerifyParity: "rebuilt=2 wanted=5 sessions=2 retried=1", // all others are read; what was sent before in the session that is cut is not confirmed
		rebuild.VerifyMD5:    "rebuilt=2 wanted=5 sessions=2 retried=1",
	} {
		l := newLab(t)
		l.cfg.Verify = mode
		l.only(left)
		l.agree(right, far)
		objects := []*peers.Object{
			l.object(0, "/a/c/before", multi, left),
			l.spoiled("/a/c/o", multi, right, func(a *peers.Archive) {
				// in the last segment: the first ones have been sent by then
				a.Say = func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body[:len(a.Body)-100]) }
			}, left),
			l.object(0, "/a/c/after", multi, left),
		}
		l.want(l.run(bg), counts)
		l.received(left, objects...)
		if n := strings.Count(l.log.String(), "survivors were excluded"); n != 1 {
			t.Errorf("%v: survivors of %d objects were excluded, one died:\n%s", mode, n, l.log)
		}
		if !l.logged("Time of all partitions together went to compare ") || !l.logged("Limited by ") {
			t.Errorf("nothing is said of the time:\n%s", l.log)
		}
		if _, share, ok := l.pass.Progress.Times.Limit(); !ok || share <= 0 {
			t.Error("no time was counted")
		}
	}
}

// rule 5: a liar is found in the middle of an object that is being sent, and the next session does without it, at once.
func TestALiarUnderParity(t *testing.T) {
	t.Parallel()
	for _, at := range []int{100, -1} {
		l := newLab(t)
		l.cfg.Verify = rebuild.VerifyParity
		l.only(left)
		l.agree(right, far)
		objects := []*peers.Object{
			l.object(0, "/a/c/before", multi, left),
			l.spoiled("/a/c/o", multi, right, func(a *peers.Archive) { a.Body[(at+len(a.Body))%len(a.Body)] ^= 1 }, left),
			l.object(0, "/a/c/after", multi, left),
		}
		counts := "rebuilt=3 wanted=3 sessions=1" // nothing of it was sent
		if at < 0 {
			counts = "rebuilt=2 wanted=5 sessions=2 retried=1"
		}
		l.want(l.run(bg), counts)
		l.received(left, objects...)
	}
}
