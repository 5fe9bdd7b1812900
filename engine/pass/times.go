package pass

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"imping/engine/pipeline"
)

// Stage is a part of what a job does, one after the other or, from Fetch on, at once.
type Stage int

const (
	Compare Stage = iota // suffix hashes, the local ones and the partners'
	Memory               // admission to the memory budget
	Locks                // targets that other jobs of this pass serve, sessions that receivers have not granted yet, receivers that are too busy
	Fetch                // fragments of survivors
	Verify               // their headers, MD5s or parity
	Decode
	Deliver // writing to the receivers
	stages
)

var stageNames = [stages]string{"compare", "memory", "locks", "fetch", "verify", "decode", "deliver"}

func (s Stage) String() string { return stageNames[s] }

// what a pass waits for that is limited by a stage.
var stageLimits = [stages]string{
	"comparing suffix hashes", "the memory budget", "locks at receivers", "waiting for survivors' fragments",
	"verifying survivors (CPU)", "decoding (CPU)", "delivery to receivers",
}

// Times says where a pass's time went. Its counters may be read while it runs.
type Times struct {
	held, busy [stages]atomic.Int64 // ns
}

// Held is how long jobs could not go on but for a stage, all jobs together: what hides behind another stage does not count.
func (t *Times) Held(s Stage) time.Duration { return time.Duration(t.held[s].Load()) }

// Busy is how long a stage worked, everybody who did together.
func (t *Times) Busy(s Stage) time.Duration { return time.Duration(t.busy[s].Load()) }

// since holds a stage accountable for the time from begin on.
func (t *Times) since(s Stage, begin time.Time) {
	d := int64(time.Since(begin))
	t.held[s].Add(d)
	t.busy[s].Add(d)
}

// object takes note of an object whose turn to be written took so long, of which its receivers took so much. What came before its turn held
// up nobody.
func (t *Times) object(turn, delivered time.Duration, did pipeline.Times) {
	t.busy[Fetch].Add(int64(did.Fetch.Busy))
	t.busy[Verify].Add(int64(did.Verify.Busy))
	t.busy[Decode].Add(int64(did.Decode.Busy))
	t.busy[Deliver].Add(int64(delivered))
	rest := turn
	take := func(s Stage, d time.Duration) {
		d = max(0, min(d, rest))
		t.held[s].Add(int64(d))
		rest -= d
	}
	take(Deliver, delivered)
	take(Decode, did.Decode.Busy)
	if did.Verify.Wait > 0 { // beside the writing: what it waited for is what was fetched
		take(Fetch, did.Verify.Wait)
	}
	take(Verify, did.Verify.Busy)
	take(Fetch, rest)
}

// Limit is the stage that held up the pass most; false if nothing took any time.
func (t *Times) Limit() (most Stage, share float64, ok bool) {
	var all time.Duration
	for s := range stages {
		if all += t.Held(s); t.Held(s) > t.Held(most) {
			most = s
		}
	}
	if all == 0 {
		return 0, 0, false
	}
	return most, float64(t.Held(most)) / float64(all), true
}

// Each calls f for each stage in turn.
func (t *Times) Each(f func(s Stage, held, busy time.Duration)) {
	for s := range stages {
		f(s, t.Held(s), t.Busy(s))
	}
}

func (t *Times) String() string {
	most, share, ok := t.Limit()
	if !ok {
		return "nothing"
	}
	var list []string
	t.Each(func(s Stage, held, _ time.Duration) { list = append(list, fmt.Sprintf("%s %.2fs", s, held.Seconds())) })
	return fmt.Sprintf("%s. Limited by %s (%.0f%%)", strings.Join(list, ", "), stageLimits[most], share*100)
}
