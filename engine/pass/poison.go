package pass

import (
	"errors"
	"fmt"
	"slices"

	"imping/engine/pipeline"
	"imping/netfast"
	"imping/netfast/ssync"
)

// maxBroken is how many sessions an object may break before it is put off: one may be
// chance, a peer that was stopped just then.
const maxBroken = 2

// update is an object of which something was sent.
type update struct{ hash, name string }

// suspicion is what the sessions that broke say of a partner's objects (rule 10). The
// protocol confirms nothing of a single object, but a receiver works in order: the first
// of those sent in the session that broke which the next one still wants is where it
// stopped.
type suspicion struct {
	sent    []update // in the last session if it failed, in order
	suspect bool     // and one of these made it fail
	sentOdd bool     // it was for objects with offsets: only another such session tells more

	broken map[string]int  // by hash: how many sessions stopped at it
	putOff []update        // those that stopped maxBroken: sent last, alone
	lost   map[string]bool // and broke that session, too
}

// learn takes the wishes of a session that follows one that failed. It reports whether
// that one brought anything: an object that is not wanted any more, or one that is newly
// put off.
func (s *suspicion) learn(wanted map[string]ssync.Wanted) (progress bool) {
	stopped := !s.suspect
	for _, u := range s.sent {
		if _, still := wanted[u.hash]; !still {
			progress = true
			continue
		}
		if stopped {
			continue
		}
		stopped = true
		if s.broken == nil {
			s.broken = make(map[string]int)
		}
		if s.broken[u.hash]++; s.broken[u.hash] == maxBroken {
			s.putOff = append(s.putOff, u)
			progress = true
		}
	}
	s.sent = nil
	return progress
}

// isPutOff reports whether an object waits for a session of its own, or had it.
func (s *suspicion) isPutOff(hash string) bool {
	return slices.ContainsFunc(s.putOff, func(u update) bool { return u.hash == hash })
}

// blame takes note of how the partner's session ended.
func (s *session) blame() {
	if raised(s.err) && len(s.sent) > 0 {
		s.err = &raisedError{s.err}
	}
	pr := s.partner
	if s.err == nil && pr.sentOdd && !pr.offsets && pr.alone == "" {
		return // what broke a session for objects with offsets waits for the next of these
	}
	pr.sent, pr.sentOdd = nil, pr.offsets
	if s.err != nil && pr.alone == "" {
		pr.sent = s.sent
	}
	// A session that we cut, or that has a reason other than what was sent, says nothing
	// of the objects.
	var source *pipeline.SourceError
	pr.suspect = s.broke() && !errors.As(s.err, &source) && !errors.Is(s.err, netfast.ErrSlow)
}

// broke reports whether the session failed where objects were sent, by the other side's
// doing.
func (s *session) broke() bool {
	return s.err != nil && len(s.sent) > 0 && !s.cut && !busy(s.err)
}

// raisedError is an exception of the receiver while objects were being sent: unlike one
// about the offers, it leaves a list of what is still wanted, from which the object that
// it is about is known in the end.
type raisedError struct{ error }

func (e *raisedError) Unwrap() error { return e.error }

// lose gives an object up that broke even a session of its own.
func (p *Pass) lose(j *job, pr *partner, u update, cause error) {
	if pr.lost == nil {
		pr.lost = make(map[string]bool)
	}
	pr.lost[u.hash] = true
	err := fmt.Errorf("it broke %d sessions and the one in which it was sent alone: %w", pr.broken[u.hash], cause)
	p.cfg.Log.Errorf("Error trying to rebuild %s policy#%d frag#%d: %v", u.name, j.pol.Index, pr.Index, err)
	j.leave(pr, u.hash, &Unrepaired{Object: u.name, Reason: err.Error()})
}
