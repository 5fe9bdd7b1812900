package netfast

import (
	"fmt"
	"time"
)

// A peer that failed suspectAfter times in a row, without an answer in between, is
// suspect: asking it again would mostly cost another timeout. It gets one more chance after
// suspectFor, then after twice as long, and so on up to suspectMost: a server that is
// being restarted is soon believed again, a dead one costs little.
const (
	suspectAfter = 3
	suspectFor   = 2 * time.Second
	suspectMost  = 30 * time.Second
)

// health is what the last requests say of a peer.
type health struct {
	faults int
	until  time.Time
	last   error
}

// SuspectError says why a peer is left alone, and until when.
type SuspectError struct {
	Addr  string
	Until time.Time
	Err   error // its last failure
}

func (e *SuspectError) Error() string {
	return fmt.Sprintf("%s is left alone for a while: %v", e.Addr, e.Err)
}

func (e *SuspectError) Unwrap() error { return e.Err }

// Suspect returns a *SuspectError when addr should be left alone for now: it refused
// connections or did not answer several times in a row, a moment ago. nil: go ahead.
func (c *Client) Suspect(addr string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health[addr]
	if h == nil || h.faults < suspectAfter || time.Now().After(h.until) {
		return nil
	}
	return &SuspectError{Addr: addr, Until: h.until, Err: h.last}
}

// fault remembers that addr could not be reached or did not answer. Many requests that
// fail together are one failure more, not many.
func (c *Client) fault(addr string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health[addr]
	if h == nil {
		h = new(health)
		c.health[addr] = h
	}
	h.last = err
	now := time.Now()
	if h.faults >= suspectAfter && now.Before(h.until) {
		return
	}
	h.faults++
	h.until = now.Add(min(suspectMost, suspectFor<<min(max(h.faults-suspectAfter, 0), 4)))
}

// fine remembers that addr answered.
func (c *Client) fine(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.health, addr)
}
