package rebuild

import (
	"sync"
	"time"
)

// A peer of which distrustAfter archives in a row proved bad or broke off, or whose device
// is not mounted, is asked last for distrustFor, then gets one more chance: each of its
// archives costs a session that is cut, a timeout, or an answer for nothing. Three may be
// chance; a disk that rots or hangs has thousands.
const (
	distrustAfter = 3
	distrustFor   = time.Minute
)

// trust is what the last archives say of the peers' devices. The zero value trusts all.
type trust struct {
	mu sync.Mutex
	m  map[string]*record // by address and device
}

type record struct {
	bad   int
	until time.Time
}

// blame takes note of an archive that could not be read to its end or proved bad.
func (t *trust) blame(p *Peer) { t.add(p, 1) }

// unmounted takes note of an answer 507, which does not change from one object to the next.
func (t *trust) unmounted(p *Peer) { t.add(p, distrustAfter) }

func (t *trust) add(p *Peer, bad int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[string]*record)
	}
	r := t.m[p.String()]
	if r == nil {
		r = new(record)
		t.m[p.String()] = r
	}
	r.bad += bad
	r.until = time.Now().Add(distrustFor)
}

// prove takes note of an archive that was read whole.
func (t *trust) prove(p *Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, p.String())
}

// last reports whether the peer should be asked only when all others have been.
func (t *trust) last(p *Peer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.m[p.String()]
	return r != nil && r.bad >= distrustAfter && time.Now().Before(r.until)
}
