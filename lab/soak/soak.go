package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"imping/engine/pass"
	"imping/lab/faults"
	"imping/lab/real"
	"imping/lab/scenario"
)

// Options of a soak.
type Options struct {
	State string        // folder of the cluster, the state and the log: kept
	Time  time.Duration // from now on
	Seed  uint64        // of a new soak; 0: by the clock
	Round int           // play this round only; 0: all, from where it was
	Out   io.Writer     // a line a round
	// Pass makes a pass in this process, so that what it leaks is seen.
	Pass func(ctx context.Context, conf string, log pass.Log) (*Outcome, error)
	// Child is the command line of a pass in a process of its own, without its conf, for
	// rounds in which it is killed.
	Child []string
}

// Totals are what a soak did, over all its runs.
type Totals struct {
	Seconds    float64               `json:"seconds"`
	Cases      int                   `json:"cases"`  // singles and pairs
	Rounds     int                   `json:"rounds"` // random ones
	Passes     int                   `json:"passes"`
	Killed     int                   `json:"passes_killed"`
	Stock      int                   `json:"passes_of_stock"`
	Objects    int                   `json:"objects"` // that are there
	Changes    int                   `json:"objects_changed"`
	Rebuilt    int64                 `json:"archives_rebuilt"`
	Beyond     int                   `json:"archives_beyond_repair_and_left"`
	Excused    int                   `json:"entries_excused"` // timeouts of healthy peers on a busy machine, and the like
	Rotten     int                   `json:"bytes_rotten"`
	Struck     map[faults.Kind]int64 `json:"faults_struck"`
	WrongBytes int                   `json:"wrong_bytes"`
	Wrong      []string              `json:"wrong"`
}

// Result is what Run found.
type Result struct {
	Totals
	Seed    uint64  `json:"seed"`
	Samples int     `json:"samples"`
	Slopes  []Slope `json:"slopes"`
	Log     string  `json:"log"`
}

// Fine says that nothing wrong was found.
func (r *Result) Fine() bool {
	return len(r.Wrong) == 0 && r.WrongBytes == 0 && !slices.ContainsFunc(r.Slopes, func(s Slope) bool { return s.Grows })
}

func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d cases and %d rounds in %v, %d passes (%d killed, %d of stock): %d objects, %d changed, %d archives rebuilt, %d beyond repair and left so, %d bytes rotten, %d entries excused\n",
		r.Cases, r.Rounds, time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), r.Passes, r.Killed, r.Stock, r.Objects, r.Changes, r.Rebuilt, r.Beyond, r.Rotten, r.Excused)
	b.WriteString("faults struck:")
	for _, k := range slices.Sorted(maps.Keys(r.Struck)) {
		fmt.Fprintf(&b, " %s %d", k, r.Struck[k])
	}
	fmt.Fprintf(&b, "\nwrong bytes: %d; other wrongs: %d\n", r.WrongBytes, len(r.Wrong))
	for i, w := range r.Wrong {
		if i == 20 {
			fmt.Fprintf(&b, "  and %d more\n", len(r.Wrong)-i)
			break
		}
		b.WriteString("  " + w + "\n")
	}
	for _, s := range r.Slopes {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// state is what a soak keeps between its runs.
type state struct {
	Seed    uint64             `json:"seed"`
	Case    int                `json:"case"`   // of the first phase: the next one
	Round   int                `json:"round"`  // the one that is played or comes next, from 1
	Broken  bool               `json:"broken"` // the cluster may be broken: before.json says what it was
	Rot     []scenario.Flip    `json:"rot"`
	Objects []*scenario.Object `json:"objects"`
	Totals  Totals             `json:"totals"`
}

const (
	stateFile  = "state.json"
	beforeFile = "before.json"
	logFile    = "soak.log"
	user       = "root" // passes in this process run as root: so do the servers, that each can read what others write
)

type soak struct {
	o     Options
	state state
	begin time.Time
	field *Field
	log   *log
	list  []Sample
	mu    sync.Mutex // over what passes count
}

// Policies are those of the cluster: 4+2 and 10+4, and 4+2 twice.
func Policies() []real.Policy {
	return []real.Policy{
		{Index: 0, Name: "rep3"},
		{Index: 1, Name: "isal42", ECType: "isa_l_rs_vand", Data: 4, Parity: 2},
		{Index: 3, Name: "isal104", ECType: "isa_l_rs_vand", Data: 10, Parity: 4},
		{Index: 4, Name: "lec104", ECType: "liberasurecode_rs_vand", Data: 10, Parity: 4},
		{Index: 5, Name: "isal42dup2", ECType: "isa_l_rs_vand", Data: 4, Parity: 2, Duplication: 2},
	}
}

const segment = 1 << 20

// Run soaks until the time is over or ctx ends; both are good ends. It works only inside
// real.Enter. An error says that it could not run; what is wrong is in the result.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	if err := os.MkdirAll(o.State, 0o755); err != nil {
		return nil, err
	}
	if o.State, err = filepath.Abs(o.State); err != nil {
		return nil, err
	}
	s := &soak{o: o, begin: time.Now()}
	if err := s.load(); err != nil {
		return nil, err
	}
	if s.log, err = openLog(filepath.Join(o.State, logFile)); err != nil {
		return nil, err
	}
	defer s.log.Close()
	c, err := real.Start(ctx, real.Options{Root: filepath.Join(o.State, "c"), User: user, Policies: Policies()})
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	confs := filepath.Join(o.State, "confs")
	if err := os.MkdirAll(confs, 0o755); err != nil {
		return nil, err
	}
	if s.field, err = NewField(ctx, c, confs, s.pass); err != nil {
		return nil, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, s.field.Close(closing))
	}()
	s.say("seed %d, state in %s, log in %s", s.state.Seed, o.State, s.log.path)
	err = s.soak(ctx)
	if err != nil && ctx.Err() != nil {
		err = nil // interrupted: it goes on from the state
	}
	return s.report(), err
}

// soak does both phases.
func (s *soak) soak(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if s.o.Round > 0 { // the soak itself goes on where it was, afterwards
		next := s.state.Round
		s.state.Round = s.o.Round
		err := s.round(ctx)
		s.state.Round = next
		return err
	}
	cases := s.field.Matrix(s.state.Seed)
	for s.state.Case < len(cases) && s.time(ctx) {
		c := cases[s.state.Case]
		if err := s.play(ctx, c, fmt.Sprintf("case %d/%d", s.state.Case+1, len(cases)), c.strikes()); err != nil {
			return err
		}
		s.state.Case++
		s.state.Totals.Cases++
		if err := s.save(); err != nil {
			return err
		}
	}
	for s.time(ctx) {
		if err := s.round(ctx); err != nil {
			return err
		}
		s.state.Round++
		s.state.Totals.Rounds++
		if err := s.save(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *soak) time(ctx context.Context) bool {
	return ctx.Err() == nil && time.Since(s.begin) < s.o.Time
}

// prepare fills a new cluster, or brings the one of an earlier run to where it was.
func (s *soak) prepare(ctx context.Context) error {
	if s.state.Objects == nil {
		s.say("storing objects")
		var names []string
		for _, p := range Policies() {
			if p.ECType != "" {
				names = append(names, p.Name)
			}
		}
		loaded, err := scenario.Load(ctx, s.field, scenario.LoadOptions{
			Seed: s.state.Seed, Policies: names, Victim: Lost, Sizes: []int64{0, 1, segment + 1, 3*segment + 17},
			Kinds: []scenario.Kind{scenario.Posted, scenario.Deleted}})
		if err != nil {
			return err
		}
		s.field.Client().Close()
		s.state.Objects = loaded.Objects
		if err := s.field.Know(loaded); err != nil {
			return err
		}
		return s.save()
	}
	layout, err := scenario.NewLayout(s.field)
	if err != nil {
		return err
	}
	loaded := &scenario.Loaded{Layout: layout, Objects: s.state.Objects}
	for _, o := range loaded.Objects { // the policy was read from JSON: take the layout's
		o.Policy = layout.Swift.ByName(o.Container)
	}
	if !s.state.Broken {
		return s.field.Know(loaded)
	}
	// An earlier run ended in the middle: what was right then is on record.
	before, err := readBefore(filepath.Join(s.o.State, beforeFile))
	if err != nil {
		return err
	}
	if err := s.field.remember(loaded, before); err != nil {
		return err
	}
	begin := time.Now()
	// What lay on handoffs then may lie there still.
	c := &Case{Name: "ended in the middle", Faults: []*faults.Fault{{Kind: faults.Unmounted}}}
	for _, f := range s.state.Rot {
		name, err := filepath.Rel(s.field.DevicePath(deviceIn(before, f.Path)), f.Path)
		if err != nil {
			return err
		}
		c.Rot = append(c.Rot, Rot{Device: deviceIn(before, f.Path), Name: name, flip: f})
	}
	r := &Report{Case: c.Name, Struck: map[faults.Kind]int64{}}
	e, broken := s.field.expect(c), &Report{}
	if _, err := s.field.judgeBytes(e, broken); err != nil {
		return err
	}
	r.extras = broken.extras
	if err := s.field.heal(ctx, e, r); err != nil {
		return err
	}
	r.Took = time.Since(begin)
	c.Faults, c.Rot = nil, nil // they were counted when they were made
	s.count(c, r, "what an earlier run left")
	s.state.Broken, s.state.Rot = false, nil
	return s.save()
}

// deviceIn is the device that a path lies on.
func deviceIn(before map[string]*scenario.Snapshot, path string) string {
	for dev, s := range before {
		if strings.HasPrefix(path, s.Path+"/") {
			return dev
		}
	}
	return ""
}

// strikes are the kinds that a case of the matrix must see.
func (c *Case) strikes() []faults.Kind {
	var list []faults.Kind
	for _, f := range c.Faults {
		if !slices.Contains(list, f.Kind) {
			list = append(list, f.Kind)
		}
	}
	return list
}

// play plays one case and writes down what came of it.
func (s *soak) play(ctx context.Context, c *Case, name string, must []faults.Kind) error {
	if err := s.mark(c); err != nil {
		return err
	}
	s.log.print("----- %s: %s: %v", name, c.Name, c)
	c.broke = func() error { // what has rotted is on record before anything else happens
		s.state.Rot = nil
		for _, r := range c.Rot {
			s.state.Rot = append(s.state.Rot, r.flip)
		}
		return s.save()
	}
	r, err := s.field.Play(ctx, c)
	if err != nil {
		return err
	}
	for _, k := range must {
		if r.Struck[k] == 0 {
			r.wrong("%s did not strike", k)
		}
	}
	s.count(c, r, name)
	s.state.Broken, s.state.Rot = false, nil
	sample, err := TakeSample(s.begin)
	if err != nil {
		return err
	}
	s.list = append(s.list, sample)
	s.log.print("sample %+v", sample)
	if len(s.list) == minSamples { // warm: what comes later is to be compared with this
		return s.writeHeap("heap-early.pprof")
	}
	return nil
}

// writeHeap leaves a profile of the heap beside the log: `go tool pprof -diff_base
// heap-early.pprof PROGRAM heap-late.pprof` says what has grown.
func (s *soak) writeHeap(name string) error {
	f, err := os.Create(filepath.Join(s.o.State, name))
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// mark writes down that the cluster is about to be broken, and what it is before.
func (s *soak) mark(c *Case) error {
	if err := s.field.writeBefore(filepath.Join(s.o.State, beforeFile)); err != nil {
		return err
	}
	s.state.Broken = true
	return s.save()
}

// count adds a report to the totals and says a line.
func (s *soak) count(c *Case, r *Report, name string) {
	t := &s.state.Totals
	t.Rebuilt += r.Rebuilt
	t.Beyond += r.Left
	t.Excused += r.Excused
	t.Rotten += len(c.Rot)
	t.WrongBytes += r.WrongBytes
	for k, n := range r.Struck {
		t.Struck[k] += n
	}
	words := []string{fmt.Sprintf("%s: %s: %v", name, c.Name, c), fmt.Sprintf("%d archives rebuilt in %.1f s", r.Rebuilt, r.Took.Seconds())}
	if len(r.Struck) > 0 {
		var struck []string
		for _, k := range slices.Sorted(maps.Keys(r.Struck)) {
			struck = append(struck, fmt.Sprintf("%s %d", k, r.Struck[k]))
		}
		words = append(words, "struck: "+strings.Join(struck, ", "))
	}
	if r.Left > 0 {
		words = append(words, fmt.Sprintf("%d beyond repair", r.Left))
	}
	if r.Excused > 0 {
		words = append(words, fmt.Sprintf("%d entries excused", r.Excused))
	}
	if r.Healing > 0 {
		words = append(words, fmt.Sprintf("whole after %d more", r.Healing))
	}
	if len(r.Problems) > 0 {
		words = append(words, fmt.Sprintf("WRONG: %d", len(r.Problems)))
	}
	s.say("%s", strings.Join(words, "; "))
	for _, p := range r.Problems {
		s.say("  WRONG: %s", p)
		t.Wrong = append(t.Wrong, name+": "+p)
	}
}

// pass is the field's runner.
func (s *soak) pass(ctx context.Context, node int, conf string) (*Outcome, error) {
	s.tally(func() { s.state.Totals.Passes++ })
	return s.o.Pass(ctx, conf, s.log.of(node))
}

func (s *soak) tally(count func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count()
}

func (s *soak) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	s.log.print("%s", line)
	fmt.Fprintln(s.o.Out, line)
}

func (s *soak) report() *Result {
	s.state.Totals.Seconds += time.Since(s.begin).Seconds()
	s.state.Totals.Objects = len(s.state.Objects)
	if err := errors.Join(s.save(), s.writeHeap("heap-late.pprof")); err != nil {
		s.say("%v", err)
	}
	return &Result{Totals: s.state.Totals, Seed: s.state.Seed, Samples: len(s.list), Slopes: Slopes(s.list), Log: s.log.path}
}

func (s *soak) load() error {
	path := filepath.Join(s.o.State, stateFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		s.state = state{Seed: s.o.Seed, Round: 1, Totals: Totals{Struck: map[faults.Kind]int64{}}}
		if s.state.Seed == 0 {
			s.state.Seed = uint64(time.Now().UnixNano())
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &s.state); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.o.Seed != 0 && s.o.Seed != s.state.Seed {
		return fmt.Errorf("%s is of a soak with seed %d, not %d: name another folder, or no seed", path, s.state.Seed, s.o.Seed)
	}
	return nil
}

func (s *soak) save() error { return writeJSON(filepath.Join(s.o.State, stateFile), &s.state) }

// writeJSON replaces a file.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
