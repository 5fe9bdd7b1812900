package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"imping/engine/pass"
	"imping/lab/faults"
	"imping/lab/scenario"
	"imping/lab/soak"
)

// matrixPolicies are those that the faults are tried on.
var matrixPolicies = []string{"isal42", "isal104", "lec104", "isal42dup2"}

// A device of a real cluster is lost, and peers lie, stall, truncate, are busy, gone or
// not mounted. After a pass on every node what can be repaired is as it was, byte for byte,
// no other byte has changed, and what every pass said is true: its exit status, its
// counters and its list (rules 1 to 6, 9, 10, 36). `make soak` has all pairs.
func TestWhateverPeersDoWhatCanBeRebuiltIsAndTheRestIsListed(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{
		Seed: 11, Policies: matrixPolicies, Victim: soak.Lost,
		Sizes: []int64{0, 1, segment + 1, 3*segment + 17}, Kinds: []scenario.Kind{scenario.Posted, scenario.Deleted}})
	folder, err := os.MkdirTemp(shared.root, "confs")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	field, err := soak.NewField(t.Context(), l.Cluster, folder, l.outcome)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := field.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := field.Know(loaded); err != nil {
		t.Fatal(err)
	}
	cases := []*soak.Case{
		field.Combine(1, faults.Truncate, faults.WrongIndex, faults.Flip),
		field.Combine(2, faults.WrongTime, faults.WrongEtag, faults.StallBody),
		field.Combine(3, faults.Busy, faults.SsyncCut, faults.SsyncStall, faults.Unmounted),
		field.Combine(4, soak.TwoWiped, faults.Garbage, faults.Flip),
		field.Combine(5, faults.Down, faults.StallHead),
		field.Beyond(7),
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			mark := l.mark()
			r, err := field.Play(t.Context(), c)
			if err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			for _, p := range r.Problems {
				t.Errorf("%v: %s", c, p)
			}
			for _, f := range c.Faults {
				if r.Struck[f.Kind] == 0 {
					t.Errorf("%v did not strike", f)
				}
			}
			if c.Name == "beyond" && (r.Left == 0 || len(l.logged(mark, "Unable to get enough responses (")) == 0) {
				t.Errorf("%d archives were beyond repair; the log says so in Swift's words %d times",
					r.Left, len(l.logged(mark, "Unable to get enough responses (")))
			}
			t.Logf("%v: %v (%v in all), %d rebuilt, struck %v, %d beyond repair, healed in %d passes", c, r.Passed, r.Took, r.Rebuilt, r.Struck, r.Left, r.Healing)
		})
	}
	if err := scenario.VerifyGETs(t.Context(), l, loaded); err != nil {
		t.Error(err)
	}
	t.Run("the judge is no yes-man", func(t *testing.T) { lieToTheJudge(t, field, loaded) })
}

// rule 7: with MD5 off, survivors that break off in the middle, at stock servers, cost no session.
func TestSurvivorsThatBreakOffAreReplacedWhereTheyStopped(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{Seed: 12, Policies: []string{"isal104", "lec104"}, Victim: soak.Lost, Sizes: []int64{4321, 3*segment + 17, 6 * segment}, Kinds: []scenario.Kind{}})
	folder, err := os.MkdirTemp(shared.root, "confs")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	field, err := soak.NewField(t.Context(), l.Cluster, folder, l.outcome)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := field.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := field.Know(loaded); err != nil {
		t.Fatal(err)
	}
	for i, mode := range []string{"off", "parity"} {
		t.Run(mode, func(t *testing.T) {
			c := field.Combine(uint64(20+i), faults.Truncate)
			var mu sync.Mutex
			var retries int64
			limits := map[string]int{}
			c.Run = func(ctx context.Context, node int, conf string) (*soak.Outcome, error) {
				exit, s, err := l.summarised(ctx, conf, "--verify-survivors", mode)
				if err != nil {
					return nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				retries += s.Retries
				limits[s.LimitedBy]++
				return &soak.Outcome{Exit: exit, Rebuilt: s.Rebuilt, Quarantined: s.Quarantined, Left: s.Left, Unrepaired: s.Unrepaired}, nil
			}
			r, err := field.Play(t.Context(), c)
			if err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			for _, p := range r.Problems {
				t.Errorf("%v: %s", c, p)
			}
			if r.Struck[faults.Truncate] == 0 || retries != 0 {
				t.Errorf("%v: struck %v, %d tries repeated", c, r.Struck, retries)
			}
			t.Logf("%v: %v, %d rebuilt, struck %v, limited by %v", c, r.Passed, r.Rebuilt, r.Struck, limits)
		})
	}
}

// lieToTheJudge plays a case in which a byte is wrong and a list is short.
func lieToTheJudge(t *testing.T, field *soak.Field, loaded *scenario.Loaded) {
	l := &lab{Cluster: field.Cluster, T: t, self: filepath.Join(shared.root, "imping")}
	c := field.Combine(8, faults.Unmounted)
	c.Faults = c.Faults[1:] // nothing befalls the lost device
	i := slices.IndexFunc(loaded.Objects, func(o *scenario.Object) bool { return o.Policy.Name == "isal104" && o.Size > segment })
	spoilt := "sd6"
	archive, err := loaded.Layout.Archive(loaded.Objects[i], spoilt)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	passes, lied := 0, false
	c.Run = func(ctx context.Context, node int, conf string) (*soak.Outcome, error) {
		o, err := l.outcome(ctx, node, conf)
		mu.Lock()
		defer mu.Unlock()
		if passes++; passes == len(field.Nodes()) {
			flipAt(t, archive, 100)
		}
		if err != nil || lied {
			return o, err
		}
		// That of a REVERT it does not miss: what is not brought is still there.
		if i := slices.IndexFunc(o.Unrepaired, func(u *pass.Unrepaired) bool { return !u.Revert }); i >= 0 {
			o.Unrepaired, lied = slices.Delete(o.Unrepaired, i, i+1), true
		}
		return o, err
	}
	r, err := field.Play(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	flipAt(t, archive, 100)
	all := strings.Join(r.Problems, "\n")
	if r.WrongBytes == 0 || !strings.Contains(all, "wrong on "+spoilt) || !strings.Contains(all, "does not list") {
		t.Errorf("a wrong byte on %s and a missing entry were not found:\n%s", spoilt, all)
	}
}

// outcome runs one pass of this program and reads its summary.
func (l *lab) outcome(ctx context.Context, _ int, conf string) (*soak.Outcome, error) {
	exit, s, err := l.summarised(ctx, conf)
	if err != nil {
		return nil, err
	}
	return &soak.Outcome{Exit: exit, Rebuilt: s.Rebuilt, Quarantined: s.Quarantined, Left: s.Left, Unrepaired: s.Unrepaired}, nil
}

func (l *lab) summarised(ctx context.Context, conf string, flags ...string) (int, *summary, error) {
	var out bytes.Buffer
	exit, _, err := l.Cluster.Run(ctx, &out, append([]string{"/usr/bin/env", asProgram + "=1", l.self, "reconstruct", conf, "once", "--json"}, flags...)...)
	if err != nil {
		return exit, nil, fmt.Errorf("%w\n%s", err, out.String())
	}
	text := out.String()
	i := strings.Index(text, "{\n")
	if i < 0 || strings.Contains(text, "panic:") || strings.Contains(text, "DATA RACE") {
		return exit, nil, fmt.Errorf("status %d, and no summary:\n%s", exit, text)
	}
	var s summary
	if err := json.Unmarshal([]byte(text[i:]), &s); err != nil {
		return exit, nil, fmt.Errorf("%w:\n%s", err, text)
	}
	return exit, &s, nil
}
