package pass

import (
	"strings"
	"testing"
	"time"

	"imping/engine/pipeline"
)

func TestAnObjectsTimeIsSharedOutAmongTheStages(t *testing.T) {
	const s = time.Second
	stage := func(busy, wait time.Duration) pipeline.Stage { return pipeline.Stage{Busy: busy, Wait: wait} }
	for _, c := range []struct {
		what            string
		turn, delivered time.Duration
		did             pipeline.Times
		held            map[Stage]time.Duration
		limit           Stage
	}{
		{"slow survivors", 10 * s, 1 * s, pipeline.Times{Fetch: stage(80*s, 0), Verify: stage(2*s, 7*s), Decode: stage(1*s, 8*s)},
			map[Stage]time.Duration{Deliver: 1 * s, Decode: 1 * s, Fetch: 7 * s, Verify: 1 * s}, Fetch},
		{"slow hashing", 10 * s, 1 * s, pipeline.Times{Fetch: stage(80*s, 60*s), Verify: stage(8*s, 1*s), Decode: stage(1*s, 8*s)},
			map[Stage]time.Duration{Deliver: 1 * s, Decode: 1 * s, Fetch: 1 * s, Verify: 7 * s}, Verify},
		{"slow receiver", 10 * s, 9 * s, pipeline.Times{Fetch: stage(5*s, 60*s), Verify: stage(2*s, 7*s), Decode: stage(1*s, 0)},
			map[Stage]time.Duration{Deliver: 9 * s, Decode: 1 * s}, Deliver},
		{"fetched before its turn", 2 * s, 2 * s, pipeline.Times{Fetch: stage(50*s, 0), Verify: stage(3*s, 40*s), Decode: stage(5*s, 40*s)},
			map[Stage]time.Duration{Deliver: 2 * s}, Deliver},
		{"no goroutine of its own for checks", 10 * s, 1 * s, pipeline.Times{Fetch: stage(8*s, 0), Verify: stage(1*s, 0), Decode: stage(2*s, 6*s)},
			map[Stage]time.Duration{Deliver: 1 * s, Decode: 2 * s, Verify: 1 * s, Fetch: 6 * s}, Fetch},
	} {
		var times Times
		times.object(c.turn, c.delivered, c.did)
		var sum time.Duration
		times.Each(func(stage Stage, held, busy time.Duration) {
			if held != c.held[stage] {
				t.Errorf("%s: %v held up %v, want %v", c.what, stage, held, c.held[stage])
			}
			sum += held
		})
		if most, _, ok := times.Limit(); !ok || most != c.limit || sum != c.turn || times.Busy(Decode) != c.did.Decode.Busy {
			t.Errorf("%s: limited by %v, %v in all", c.what, most, sum)
		}
		if line := times.String(); !strings.Contains(line, stageLimits[c.limit]) {
			t.Errorf("%s: %s", c.what, line)
		}
	}
	var none Times
	if _, _, ok := none.Limit(); ok || none.String() != "nothing" {
		t.Error("no time has a limit")
	}
}
