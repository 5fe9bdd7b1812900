package differential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options of a campaign.
type Options struct {
	State   string        // folder of the cluster and of what was found: kept
	Seeds   int           // how many in all, over all runs
	Time    time.Duration // from now on no further seed is begun after it; 0: no limit
	Seed    uint64        // play this one only; 0: all, from where it was
	Program string        // imping
	Shrink  int           // how many smaller plans are tried for one that fails
	Out     io.Writer     // a line a seed
}

// Result is what a campaign found, over all its runs.
type Result struct {
	Seeds    int             `json:"seeds"` // played: 1 and on
	Seconds  float64         `json:"seconds"`
	Features map[Feature]int `json:"features"` // seeds that have it
	Allowed  map[string]int  `json:"allowed"`  // differences, by why they are to be
	Wrong    []string        `json:"wrong"`    // a shrunk plan and what is wrong
	Scarce   []Feature       `json:"scarce"`   // features that too few seeds have, for a whole campaign
}

// A whole campaign is one of so many seeds; each feature is in so many of them.
const (
	Whole     = 300
	minOfEach = 20
)

// Fine says that nothing wrong was found.
func (r *Result) Fine() bool { return len(r.Wrong)+len(r.Scarce) == 0 }

func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d random clusters in %v: %d differ where they may not\n", r.Seeds, time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), len(r.Wrong))
	for _, reason := range slices.Sorted(maps.Keys(r.Allowed)) {
		fmt.Fprintf(&b, "%6d differences allowed: %s\n", r.Allowed[reason], reason)
	}
	for _, f := range slices.Sorted(maps.Keys(r.Features)) {
		if r.Features[f] == 0 {
			continue
		}
		fmt.Fprintf(&b, "%6d clusters with: %s\n", r.Features[f], f)
	}
	for _, f := range r.Scarce {
		fmt.Fprintf(&b, "too few clusters (%d) with: %s\n", r.Features[f], f)
	}
	for _, w := range r.Wrong {
		fmt.Fprintf(&b, "WRONG: %s\n", w)
	}
	return b.String()
}

const stateFile = "differential.json"

// Run plays seeds until all were played, the time is over or ctx ends; all are good ends. It works only inside
// real.Enter. An error says that it could not run; what is wrong is in the result.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	if err := os.MkdirAll(o.State, 0o755); err != nil {
		return nil, err
	}
	if o.State, err = filepath.Abs(o.State); err != nil {
		return nil, err
	}
	r := &Result{Features: map[Feature]int{}, Allowed: map[string]int{}}
	path := filepath.Join(o.State, stateFile)
	switch b, err := os.ReadFile(path); {
	case errors.Is(err, os.ErrNotExist) || o.Seed > 0:
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(b, r); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	l, err := Start(ctx, o.State)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if o.Seed > 0 {
		return r, r.play(ctx, l, &o, o.Seed)
	}
	begin := time.Now()
	for r.Seeds < o.Seeds && (o.Time == 0 || time.Since(begin) < o.Time) {
		if err := r.play(ctx, l, &o, uint64(r.Seeds)+1); err != nil {
			if ctx.Err() != nil {
				break // it goes on from the state
			}
			return nil, err
		}
		r.Seeds++
		if err := r.save(path); err != nil {
			return nil, err
		}
	}
	if r.Seeds >= Whole {
		for f, n := range r.Features {
			if n < minOfEach {
				r.Scarce = append(r.Scarce, f)
			}
		}
		slices.Sort(r.Scarce)
	}
	return r, nil
}

func (r *Result) save(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return err
}

// play plays a seed, and makes it smaller if something is wrong.
func (r *Result) play(ctx context.Context, l *Lab, o *Options, seed uint64) error {
	begin := time.Now()
	v, err := l.Play(ctx, NewPlan(seed), o.Program)
	if err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	for _, f := range Features() {
		r.Features[f] += min(1, v.Features[f])
	}
	for reason, n := range v.Allowed {
		r.Allowed[reason] += n
	}
	took := time.Since(begin)
	r.Seconds += took.Seconds()
	word := "the same"
	if len(v.Problems) > 0 {
		word = fmt.Sprintf("WRONG: %d", len(v.Problems))
	}
	fmt.Fprintf(o.Out, "seed %d: %d objects, %d steps; stock at rest after %d rounds, imping after %d; %s, %d differences allowed; %.1f s\n",
		seed, len(v.Plan.Objects), len(v.Plan.Steps), v.Rounds[0], v.Rounds[1], word, v.allowed(), took.Seconds())
	if len(v.Problems) == 0 {
		return nil
	}
	fmt.Fprintf(o.Out, "%v", v)
	if v, err = l.shrink(ctx, v, o.Program, o.Shrink); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "shrunk: %v", v)
	log := filepath.Join(o.State, fmt.Sprintf("seed-%d.log", seed))
	fmt.Fprintf(o.Out, "log of imping's passes: %s\n", log)
	r.Wrong = append(r.Wrong, v.String())
	return os.WriteFile(log, []byte(strings.Join(v.Log, "\n")+"\n"), 0o644)
}

// shrink looks for a smaller plan that fails, too: it leaves out half of the steps and
// objects, a quarter and so on, as long as something is wrong.
func (l *Lab) shrink(ctx context.Context, v *Verdict, program string, tries int) (*Verdict, error) {
	for size := (len(v.Plan.Steps) + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < len(v.Plan.Steps) && tries > 0; {
			p := *v.Plan
			p.Steps = slices.Delete(slices.Clone(p.Steps), from, min(from+size, len(p.Steps)))
			p.Objects = slices.DeleteFunc(slices.Clone(p.Objects), func(i int) bool {
				return !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Object == i })
			})
			tries--
			smaller, err := l.Play(ctx, &p, program)
			if err != nil {
				return nil, err
			}
			if len(smaller.Problems) > 0 {
				v = smaller
			} else {
				from += size
			}
		}
	}
	return v, nil
}
