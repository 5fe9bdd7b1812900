package slab

import (
	"context"
	"errors"
	"fmt"
)

// ErrClosed is returned by Head after Close.
var ErrClosed = errors.New("slab account is closed")

// Account is what one admitted job may use: its reserve, which nobody else touches, and spare bytes that nobody has reserved. It is safe
// for use by several goroutines; all of them share one reserve.
type Account struct {
	pool    *Pool
	reserve int64
	used    int64 // head slabs in use
	spare   int64 // spare slabs in use
	waiters []*ticket
	closed  bool
	lost    bool // see Abandon
}

// Reserve returns the bytes reserved at Open.
func (a *Account) Reserve() int64 { return a.reserve }

// Head takes a slab of n bytes from the reserve. It waits only until this account itself releases enough. More than the whole reserve is
// an error at once; so is a closed account (ErrClosed), or ctx's end (its cause).
func (a *Account) Head(ctx context.Context, n int) (*Slab, error) {
	if n < 0 || n > maxSize {
		return nil, fmt.Errorf("cannot take a slab of %d bytes", n)
	}
	class := Round(n)
	if int64(class) > a.reserve {
		return nil, fmt.Errorf("cannot take a slab of %d bytes (%d rounded) from a reserve of %d", n, class, a.reserve)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("cannot take a slab of %d bytes: %w", n, err)
	}
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.closed {
		return nil, ErrClosed
	}
	if len(a.waiters) > 0 || a.used+int64(class) > a.reserve {
		t := &ticket{n: int64(class), ready: make(chan struct{})}
		a.waiters = append(a.waiters, t)
		p.mu.Unlock()
		select {
		case <-t.ready:
			p.mu.Lock()
		case <-ctx.Done():
			p.mu.Lock()
			select {
			case <-t.ready: // granted, or the account closed, in the same moment
				if t.n >= 0 {
					a.unuse(t.n)
				}
			default:
				a.waiters = remove(a.waiters, t)
				a.grant()
			}
			return nil, fmt.Errorf("cannot take a slab of %d bytes, %d of %d reserved are in use: %w", n, a.used, a.reserve, context.Cause(ctx))
		}
		if t.n < 0 { // Close came first
			return nil, ErrClosed
		}
	} else {
		a.used += int64(class)
	}
	return a.fill(class, n)
}

// TryHead is Head without waiting: false when the reserve has no room, now or ever.
func (a *Account) TryHead(n int) (*Slab, bool) {
	if n < 0 || n > maxSize {
		return nil, false
	}
	class := Round(n)
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.closed || len(a.waiters) > 0 || a.used+int64(class) > a.reserve {
		return nil, false
	}
	a.used += int64(class)
	s, err := a.fill(class, n)
	return s, err == nil
}

// fill maps what was counted in a.used. Caller holds mu.
func (a *Account) fill(class, n int) (*Slab, error) {
	r, err := a.pool.take(class)
	if err != nil {
		a.unuse(int64(class))
		return nil, err
	}
	return &Slab{mem: r, n: n, acct: a}, nil
}

// Spare takes a slab of n bytes from what no account has reserved. It never waits: false means that there is none, that a job waits for
// admission (it goes first), or that the account is closed.
func (a *Account) Spare(n int) (*Slab, bool) {
	if n < 0 || n > maxSize {
		return nil, false
	}
	class := Round(n)
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.closed || len(p.waiters) > 0 || p.promised+p.spare+int64(class) > p.budget+p.lost {
		return nil, false
	}
	r, err := p.take(class)
	if err != nil {
		return nil, false
	}
	p.spare += int64(class)
	a.spare += int64(class)
	return &Slab{mem: r, n: n, acct: a, spare: true}, true
}

// HasSpare reports whether slabs of so many rounded bytes together would be spared now: for those who have something else to do first,
// which would be for nothing.
func (a *Account) HasSpare(bytes int64) bool {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return !a.closed && len(p.waiters) == 0 && p.promised+p.spare+bytes <= p.budget+p.lost
}

// give takes a slab back.
func (a *Account) give(s *Slab) {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(s.mem)
	if s.spare {
		p.spare -= int64(len(s.mem))
		a.spare -= int64(len(s.mem))
		a.found(int64(len(s.mem)))
		p.admit()
		return
	}
	a.unuse(int64(len(s.mem)))
}

// unuse takes head bytes back; those of a closed account leave the promise too. Caller holds mu.
func (a *Account) unuse(n int64) {
	a.used -= n
	if a.closed {
		a.pool.promised -= n
		a.found(n)
		a.pool.admit()
		return
	}
	a.grant()
}

// grant serves Heads that wait, from the front while they fit. Caller holds mu.
func (a *Account) grant() {
	for len(a.waiters) > 0 && a.used+a.waiters[0].n <= a.reserve {
		t := a.waiters[0]
		a.used += t.n
		close(t.ready)
		a.waiters[0] = nil
		a.waiters = a.waiters[1:]
	}
}

// Close ends the account; its reserve goes to the next job. Slabs that are still out stay valid and counted until their Release. Heads
// that wait get ErrClosed. A second Close does nothing.
func (a *Account) Close() {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.closed {
		return
	}
	a.closed = true
	for _, t := range a.waiters {
		t.n = -1
		close(t.ready)
	}
	a.waiters = nil
	p.promised -= a.reserve - a.used
	p.admit()
}

// Abandon closes the account of a job that hangs, maybe for ever, with slabs that are still out: their memory can not be given to anybody
// else. So that nobody waits for it, it is over and above the budget until they are released.
func (a *Account) Abandon() {
	a.Close()
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !a.lost {
		a.lost = true
		p.lost += a.used + a.spare
		p.admit()
	}
}

// found takes back what Abandon added for slabs that come back after all. Caller holds mu.
func (a *Account) found(n int64) {
	if a.lost {
		a.pool.lost -= n
		a.pool.trim(0)
	}
}
