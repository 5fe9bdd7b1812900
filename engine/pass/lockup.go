package pass

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errLockup is why a pass is ended that makes no progress.
var errLockup = errors.New("the pass was locked up: nothing moved for lockup_timeout")

// lockupLooks is in how many looks in a row, over lockup_timeout, nothing may have moved. A process that was stopped, or frozen
// with its machine, finds one of them due when it goes on, however long that was: no reason to end anything.
const lockupLooks = 10

// stillness counts looks at which nothing had moved.
type stillness struct {
	moved int64
	looks int
}

// look reports a lockup.
func (s *stillness) look(moved int64) bool {
	if moved != s.moved {
		*s = stillness{moved: moved}
		return false
	}
	s.looks++
	return s.looks >= lockupLooks
}

// lockupGrace is how long a pass may take to end after that, before Stuck says so.
const lockupGrace = time.Minute

// watchLockups ends a pass in which nothing moves for lockup_timeout, so that what waits is
// given up, the daemon comes to its next pass, and the operator hears of it. All waits in a
// pass are bounded by other options; this is against what nobody thought of. Unlike stock,
// which wants jobs to end in that time, it lets them be as long as they are as long as they
// move. stop is to be called at the end. Swift: obj/reconstructor.py, detect_lockups.
func (p *Pass) watchLockups(ctx context.Context, cancel context.CancelCauseFunc) (stop func()) {
	if p.cfg.LockupTimeout <= 0 {
		return func() {}
	}
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(max(1, p.cfg.LockupTimeout/lockupLooks))
		defer tick.Stop()
		still := stillness{moved: p.moved()}
		for {
			select {
			case <-ended:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if still.look(p.moved()) {
				p.cfg.Log.Errorf("Lockup detected.. killing live coros.")
				now := time.Now()
				p.lockedUp.Store(&now)
				cancel(errLockup)
				return
			}
		}
	})
	return func() {
		close(ended)
		watch.Wait()
		p.lockedUp.Store(nil)
	}
}

// Stuck reports a pass that was ended because it was locked up, and did not even end.
func (p *Pass) Stuck() bool {
	at := p.lockedUp.Load()
	return at != nil && time.Since(*at) > lockupGrace
}

// moved changes with everything that is done in a pass.
func (p *Pass) moved() int64 {
	g := &p.Progress
	return p.queue.steps() + int64(len(g.partitionTimes())) + g.ObjectsWanted.Load() + g.BytesRead.Load() + g.BytesSent.Load() + g.Sessions.Load() + g.SessionsRetried.Load()
}

// steps counts those of all calls to disks that are under way.
func (q *queue) steps() (n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for it := range q.working {
		n += it.calls.steps.Load()
	}
	return n
}
