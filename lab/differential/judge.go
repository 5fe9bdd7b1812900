package differential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Verdict is what became of a plan.
type Verdict struct {
	Plan     *Plan
	Features map[Feature]int
	Allowed  map[string]int // differences that are to be, by their reason
	Rounds   [2]int         // of stock, of imping, until nothing changed
	Problems []string
	Log      []string // of imping's passes
}

func (v *Verdict) wrong(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// excuse is a difference that is to be.
type excuse struct {
	reason string // the rule or stock's mistake
	covers func(j *judgement, d difference) bool
}

// judgement is what an excuse may look at.
type judgement struct {
	*world
	oracle       *oracle
	theirs, ours *repaired
}

// judge compares what stock and imping made.
func (v *Verdict) judge(w *world, o *oracle, theirs, ours *repaired) {
	v.Rounds = [2]int{theirs.rounds, ours.rounds}
	j := &judgement{w, o, theirs, ours}
	if !ours.quiet {
		v.wrong("%v: %d rounds of imping's", errRestless, ours.rounds)
	}
	for _, d := range compare(theirs.tree, ours.tree) {
		if i := slices.IndexFunc(excuses, func(e excuse) bool { return e.covers(j, d) }); i >= 0 {
			v.Allowed[excuses[i].reason]++
		} else {
			v.wrong("%v", d)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(ours.hashes)) {
		kept, anew := ours.hashes[at][0], ours.hashes[at][1]
		for _, suffix := range slices.Sorted(maps.Keys(kept)) {
			if maps.Equal(kept[suffix], anew[suffix]) {
				continue
			}
			if s, ok := theirs.hashes[at]; ok && maps.Equal(s[0][suffix], kept[suffix]) {
				continue // stock keeps the same
			}
			v.wrong("%s: hashes.pkl says %v of suffix %s, and its files make %v", at, kept[suffix], suffix, anew[suffix])
		}
	}
	if len(v.Problems) > 0 {
		v.Log = ours.log
	}
}

func (v *Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", v.Plan)
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	return b.String()
}

// excuses are all differences that are to be. Each is as narrow as it can be.
var excuses = []excuse{
	{"rule 19: stock removes what is no partition", func(_ *judgement, d difference) bool {
		parts := strings.Split(d.name, "/")
		return d.stock == nil && len(parts) >= 3 && strings.HasPrefix(parts[1], "objects") && strings.Trim(parts[2], "0123456789") != ""
	}},
}
