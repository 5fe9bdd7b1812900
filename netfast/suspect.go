package netfast

import (
	"fmt"
	"time"
)

// A peer that failed suspectAfter times in a row, without an answer in between, is
// suspect for suspectFor: asking it again would mostly cost another timeout. Then it gets
// one more chance.
const (
	suspectAfter = 3
	suspectFor   = 30 * time.Second
)

// health is what the last requests say of a peer.
type health struct {
	faults int
	until  time.Time
	last   error
}

// Suspect returns an error that says why addr should be left alone for now: it refused
// connections or did not answer several times in a row, a moment ago. nil: go ahead.
func (c *Client) Suspect(addr string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health[addr]
	if h == nil || h.faults < suspectAfter {
		return nil
	}
	if time.Now().After(h.until) {
		h.faults = suspectAfter - 1 // one more chance
		return nil
	}
	return fmt.Errorf("%s is left alone for a while: %w", addr, h.last)
}

// fault remembers that addr could not be reached or did not answer.
func (c *Client) fault(addr string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health[addr]
	if h == nil {
		h = new(health)
		c.health[addr] = h
	}
	h.faults++
	h.until = time.Now().Add(suspectFor)
	h.last = err
}

// fine remembers that addr answered.
func (c *Client) fine(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.health, addr)
}
