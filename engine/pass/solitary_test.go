package pass

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
)

func TestASolitaryArchiveIsQuarantinedOnlyWhenAllElseIsNotFound(t *testing.T) { // rule 20
	t.Parallel()
	for name, c := range map[string]struct {
		set  func(l *lab, o *peers.Object)
		gone bool
	}{
		"all say 404":          {func(l *lab, o *peers.Object) {}, true},
		"off":                  {func(l *lab, o *peers.Object) { l.cfg.QuarantineMax = 0 }, false},
		"young":                {func(l *lab, o *peers.Object) { l.cfg.QuarantineAge = 48 * time.Hour }, false},
		"a primary errs":       {func(l *lab, o *peers.Object) { l.peers[5].Refuse(503) }, false},
		"a primary is away":    {func(l *lab, o *peers.Object) { l.peers[5].Refuse(507) }, false},
		"a handoff errs":       {func(l *lab, o *peers.Object) { l.spare.Refuse(503) }, false},
		"a handoff has one":    {func(l *lab, o *peers.Object) { l.spare.Hold(o.Archive(3)) }, false},
		"no handoff is asked":  {func(l *lab, o *peers.Object) { l.cfg.RequestNodes = func(n int) int { return n }; l.spare.Refuse(503) }, true},
		"a primary has one":    {func(l *lab, o *peers.Object) { l.peers[5].Hold(o.Archive(5)) }, false},
		"two are alone enough": {func(l *lab, o *peers.Object) { l.cfg.QuarantineMax = 2; l.peers[5].Hold(o.Archive(5)) }, true},
		"as the option has it": {func(l *lab, o *peers.Object) { l.cfg.QuarantineMax = 3; l.hold(o, left, right, far) }, true},
		"another version": {func(l *lab, o *peers.Object) {
			l.peers[5].Hold(peers.NewObjectAt(t, l.code, l.pol, o.Name, single, segment, at(7)).Archive(5))
		}, false},
		"newer data came": {func(l *lab, o *peers.Object) {
			l.peers[left].Want(func(*peers.Session, string) string { return "d" })
			l.peers[left].Script(func(s *peers.Session) {
				s.Greet()
				s.ReadOffers()
				s.Answer()
				if s.ReadUpdates() {
					s.Verdict()
				}
				s.Conn.Hang()
			})
			l.cfg.RequestNodes = func(n int) int {
				l.disk.Put(t, 0, peers.NewObjectAt(t, l.code, l.pol, o.Name, single, segment, at(90_000)), own, nil)
				return 2 * n
			}
		}, false},
		"something not durable is newer": {func(l *lab, o *peers.Object) {
			newer := l.disk.Put(l.t, 0, peers.NewObjectAt(l.t, l.code, l.pol, o.Name, single, segment, at(90_000)), own, nil)
			rename(l.t, newer, strings.Replace(newer, "#d.data", ".data", 1))
		}, false},
		"another index lies there": {func(l *lab, o *peers.Object) {
			l.peers[3].Script(func(s *peers.Session) { s.Conn.Write(peers.Status(507)) }) // it is not moved before
			l.disk.Put(l.t, 0, o, 3, nil)
		}, false},
	} {
		for _, size := range []int64{0, single} { // of no bytes, too
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				l.only(left)
				l.cfg.QuarantineMax, l.cfg.QuarantineAge, l.cfg.RequestNodes = 1, time.Hour, func(n int) int { return 2 * n }
				o := peers.NewObject(t, l.code, l.pol, "/a/c/o", size)
				path := l.disk.Put(t, 0, o, own, nil)
				c.set(l, o)
				left := l.run(bg)
				_, err := os.Stat(path)
				if name == "newer data came" {
					if l.pass.Progress.Corrupt.Load() != 0 {
						t.Error("newer data was put aside")
					}
					return
				}
				if os.IsNotExist(err) != c.gone || left.Objects != 1 {
					t.Errorf("gone: %v; left %v\n%s", err, left, l.log)
				}
				if c.gone != l.logged("W Quarantined object "+path+": Solitary fragment #1") {
					t.Error(l.log)
				}
			})
		}
	}
}
