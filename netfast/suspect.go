package netfast

import (
	"fmt"
	"strings"
	"time"
)

// A peer, or a device of it, that failed suspectAfter times in a row, without an answer in between, is
// suspect: asking it again would mostly cost another timeout. It gets one more chance after
// suspectFor, then after twice as long, and so on up to suspectMost: a server that is
// being restarted is soon believed again, a dead one costs little. Both are for Swift's
// node_timeout of 10 s: who is less patient with answers is so with silence.
const (
	suspectAfter = 3
	suspectFor   = 2 * time.Second
	suspectMost  = 30 * time.Second
	suspectNode  = 10 * time.Second
)

// health is what the last requests say of a peer, or of one of its devices.
type health struct {
	faults int
	until  time.Time
	last   error
}

// suspect reports whether it is to be left alone now.
func (h *health) suspect() bool {
	return h != nil && h.faults >= suspectAfter && time.Now().Before(h.until)
}

// SuspectError says why a peer is left alone, and until when.
type SuspectError struct {
	Addr  string // host:port, or host:port/device when it is about that device alone
	Until time.Time
	Err   error // its last failure
}

func (e *SuspectError) Error() string {
	return fmt.Sprintf("%s is left alone for a while: %v", e.Addr, e.Err)
}

func (e *SuspectError) Unwrap() error { return e.Err }

// Suspect returns a *SuspectError when a device of addr should be left alone for now: addr
// refused connections, or the device did not answer, several times in a row, a moment ago.
// nil: go ahead.
func (c *Client) Suspect(addr, device string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range []string{addr, addr + "/" + Quote(device)} {
		if h := c.health[key]; h.suspect() {
			return &SuspectError{Addr: key, Until: h.until, Err: h.last}
		}
	}
	return nil
}

// fault remembers that addr could not be reached (no device), or that a device of it did not
// answer. A disk that hangs must not discredit the others of its server; when several
// do not answer, it is the server that hangs. Many requests that fail together are one
// failure more, not many.
func (c *Client) fault(addr, device string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if device == "" {
		c.blame(addr, err)
		return
	}
	c.blame(addr+"/"+device, err)
	for key, h := range c.health {
		if strings.HasPrefix(key, addr+"/") && key != addr+"/"+device && h.suspect() && c.health[addr+"/"+device].suspect() {
			c.blame(addr, err)
			return
		}
	}
}

// blame counts a failure. Caller holds mu.
func (c *Client) blame(key string, err error) {
	h := c.health[key]
	if h == nil {
		h = new(health)
		c.health[key] = h
	}
	h.last = err
	if h.suspect() {
		return
	}
	h.faults++
	wait := min(suspectMost, suspectFor<<min(max(h.faults-suspectAfter, 0), 4))
	if node := c.opt.NodeTimeout; node > 0 && node < suspectNode {
		wait = time.Duration(float64(wait) * float64(node) / float64(suspectNode))
	}
	h.until = time.Now().Add(wait)
}

// fine remembers that a device of addr answered.
func (c *Client) fine(addr, device string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.health, addr)
	delete(c.health, addr+"/"+device)
}

// device is the first name of a request's path.
func (r *Request) device() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
	return name
}
