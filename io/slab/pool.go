package slab

import (
	"context"
	"fmt"
	"sync"
)

// Pool is the memory budget of a process and the free slabs under it.
//
// At any time: bytes promised to open accounts + spare bytes in use <= budget, and mapped bytes <= budget; what an abandoned account holds
// comes on top.
type Pool struct {
	mu       sync.Mutex
	budget   int64
	raised   int64 // what the budget was raised to; 0 = as configured
	promised int64 // reserves of open accounts, and head slabs that closed accounts still hold
	spare    int64 // spare slabs in use
	lost     int64 // of both, what abandoned accounts hold: over and above the budget
	inUse    int64 // head and spare slabs in use
	peak     int64
	mapped   int64
	free     map[int][]region // by size class, last released at the end
	waiters  []*ticket        // FIFO
	closed   bool             // nothing that comes back is kept
}

// ticket is one Open that waits for admission, or one Head that waits for its account's reserve.
type ticket struct {
	n     int64
	ready chan struct{} // closed, under the lock, when n was taken on the ticket's behalf
}

// Stats are the counters of a Pool, in bytes and all of one moment.
type Stats struct {
	Budget   int64 // ceiling; larger than configured when Raised is not 0
	Raised   int64 // what one job's reserve raised the budget to, 0 = never
	Promised int64 // reserves of open accounts
	Mapped   int64 // mapped from the system, in use or free
	InUse    int64 // handed out
	Peak     int64 // largest InUse so far
	Waiting  int   // jobs waiting for admission
}

// New returns a pool that maps at most budget bytes. Nothing is mapped before it is used: the budget is a ceiling, not a target.
func New(budget int64) *Pool {
	return &Pool{budget: max(budget, 0), free: map[int][]region{}}
}

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Budget: p.budget, Raised: p.raised, Promised: p.promised, Mapped: p.mapped, InUse: p.inUse, Peak: p.peak, Waiting: len(p.waiters)}
}

// Open admits a job with a reserve of so many bytes (a sum of rounded sizes, see Round), in order of arrival. It is the only call that
// waits for other jobs, so the caller must hold no slab and no lock that an admitted job could need. A reserve that exceeds the whole
// budget raises it to that size (Stats.Raised tells): such a job could otherwise never run. The error is ctx's cause.
func (p *Pool) Open(ctx context.Context, reserve int64) (*Account, error) {
	if reserve < 0 || reserve > maxSize {
		return nil, fmt.Errorf("cannot reserve %d bytes of memory: want 0 to %d", reserve, int64(maxSize))
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("cannot reserve %d bytes of memory: %w", reserve, err)
	}
	p.mu.Lock()
	if reserve > p.budget {
		p.budget, p.raised = reserve, reserve
	}
	t := &ticket{n: reserve, ready: make(chan struct{})}
	p.waiters = append(p.waiters, t)
	p.admit()
	p.mu.Unlock()

	select {
	case <-t.ready:
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		select {
		case <-t.ready: // admitted in the same moment
			p.promised -= reserve
		default:
			p.waiters = remove(p.waiters, t)
		}
		p.admit() // the next one may be smaller
		return nil, fmt.Errorf("cannot reserve %d bytes of memory, %d of %d are promised: %w", reserve, p.promised, p.budget, context.Cause(ctx))
	}
	return &Account{pool: p, reserve: reserve}, nil
}

// admit lets in waiters from the front while they fit. Caller holds mu.
func (p *Pool) admit() {
	for len(p.waiters) > 0 {
		t := p.waiters[0]
		if p.promised+p.spare+t.n > p.budget+p.lost {
			return
		}
		p.promised += t.n
		close(t.ready)
		p.waiters[0] = nil
		p.waiters = p.waiters[1:]
	}
}

// take hands out a region of the class of n bytes, which the caller has accounted for in promised or spare. Caller holds mu.
func (p *Pool) take(class int) (region, error) {
	var r region
	if l := p.free[class]; len(l) > 0 {
		r = l[len(l)-1]
		l[len(l)-1] = nil
		p.free[class] = l[:len(l)-1]
		checkPoison(r)
	} else {
		p.trim(int64(class))
		var err error
		if r, err = mapRegion(class); err != nil {
			return nil, fmt.Errorf("cannot map a slab of %d bytes, %d are mapped: %w", class, p.mapped, err)
		}
		p.mapped += int64(class)
	}
	p.inUse += int64(class)
	p.peak = max(p.peak, p.inUse)
	return r, nil
}

// trim unmaps free slabs, of whatever class, until so many bytes more may be mapped. What is in use always leaves room for n, because n
// was accounted for: so this ends with the budget kept. Caller holds mu.
func (p *Pool) trim(n int64) {
	for class, l := range p.free {
		for len(l) > 0 && p.mapped+n > p.budget+p.lost {
			unmapRegion(l[0])
			l[0] = nil
			l = l[1:]
			p.mapped -= int64(class)
		}
		if len(l) == 0 {
			delete(p.free, class)
		} else {
			p.free[class] = l
		}
	}
}

// Close gives free slabs back to the system, and those in use as they come back. The pool works on, and keeps nothing.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for class, l := range p.free {
		for _, r := range l {
			unmapRegion(r)
			p.mapped -= int64(class)
		}
	}
	clear(p.free)
}

// put takes a region back. Caller holds mu.
func (p *Pool) put(r region) {
	p.inUse -= int64(len(r))
	if p.closed {
		p.mapped -= int64(len(r))
		unmapRegion(r)
		return
	}
	p.free[len(r)] = append(p.free[len(r)], r)
}

func remove(l []*ticket, t *ticket) []*ticket {
	for i := range l {
		if l[i] == t {
			return append(l[:i], l[i+1:]...)
		}
	}
	return l
}
