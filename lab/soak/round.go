package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"imping/engine/pass"
	"imping/lab/faults"
	"imping/lab/real"
	"imping/lab/scenario"
)

// round is one random round: clients change objects, then devices and peers break and
// passes repair. What is done follows from the seed and the round's number alone, but for
// the moment in which a pass is killed.
func (s *soak) round(ctx context.Context) error {
	random := rand.New(rand.NewPCG(s.state.Seed, uint64(s.state.Round)))
	if err := s.traffic(ctx, random); err != nil {
		return err
	}
	c := s.field.randomCase(random)
	tuning := Hasty(1 + random.IntN(8))
	if err := s.field.Tune(tuning); err != nil {
		return err
	}
	c.Name = "concurrency " + tuning["concurrency"]
	stock := map[int]bool{} // nodes where Swift's own reconstructor runs: not where it might push what is wrong
	if random.IntN(8) == 0 {
		c.Faults, c.Rot, c.Lax = nil, nil, true
		for range 1 + random.IntN(2) {
			stock[1+random.IntN(len(s.field.Nodes()))] = true
		}
		c.Name += fmt.Sprintf(", %d nodes with stock", len(stock))
	}
	killed := 0
	if random.IntN(3) == 0 {
		killed = 1 + random.IntN(len(s.field.Nodes()))
		c.Name += fmt.Sprintf(", a pass of node %d is killed", killed)
	}
	after := time.Duration(50+random.IntN(1500)) * time.Millisecond
	c.Run = func(ctx context.Context, node int, conf string) (*Outcome, error) {
		if node == killed {
			if err := s.kill(ctx, conf, after); err != nil {
				return nil, err
			}
		}
		if stock[node] {
			s.tally(func() { s.state.Totals.Stock++ })
			lines, err := s.field.StockReconstructor(ctx, node)
			for _, l := range lines {
				s.log.print("node %d stock %s", node, l)
			}
			return nil, err // it says nothing that could be judged
		}
		return s.pass(ctx, node, conf)
	}
	return s.play(ctx, c, fmt.Sprintf("round %d", s.state.Round), nil)
}

// kill starts a pass in a process of its own and ends it with SIGKILL after a while.
func (s *soak) kill(ctx context.Context, conf string, after time.Duration) error {
	s.tally(func() { s.state.Totals.Killed++ })
	limited, cancel := context.WithTimeout(ctx, after)
	defer cancel()
	var out bytes.Buffer
	exit, _, err := real.Run(limited, &out, slices.Concat(s.o.Child, []string{conf, "once", "--json"})...)
	if limited.Err() == nil && err != nil {
		return err
	}
	if strings.Contains(out.String(), "panic:") || limited.Err() == nil && exit != 0 && exit != 2 {
		return fmt.Errorf("a pass in a process of its own ended with status %d:\n%s", exit, out.String())
	}
	return ctx.Err()
}

// sizes of objects that clients store.
var sizes = []int64{0, 1, 79, 4096, 100_000, segment - 1, segment, segment + 1, 3*segment + 17}

// traffic is what clients do between two rounds: PUT, POST, DELETE, and overwrite.
func (s *soak) traffic(ctx context.Context, random *rand.Rand) error {
	loaded := s.field.loaded
	var some []*scenario.Object
	for _, i := range random.Perm(len(loaded.Objects))[:2+random.IntN(6)] {
		o := loaded.Objects[i]
		kinds := []scenario.Kind{scenario.Sized, scenario.Posted, scenario.Overwritten, scenario.Deleted, scenario.Expiring} // stock spoils names that are not ASCII
		o.Kind = kinds[random.IntN(len(kinds))]
		o.Size = sizes[random.IntN(len(sizes))]
		o.Seed = fmt.Sprintf("%d %s/%s", s.state.Round, o.Container, o.Name)
		some = append(some, o)
	}
	if err := s.save(); err != nil { // with what is about to be, which is done again if we end here
		return err
	}
	if err := loaded.Store(ctx, s.field, some); err != nil {
		return err
	}
	s.state.Totals.Changes += len(some)
	s.field.Client().Close() // idle connections: these are no pass's
	return s.field.Know(loaded)
}

// most losses that every object of a 10+4 policy bears.
const most = 4

// randomCase breaks what the 10+4 policies can bear; objects of 4+2 may be beyond repair for
// the time.
func (f *Field) randomCase(random *rand.Rand) *Case {
	c := &Case{}
	free := f.devices()
	random.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	take := func() string {
		dev := free[0]
		free = free[1:]
		return dev
	}
	losses := 0
	for range 1 + random.IntN(2) {
		dev := take()
		losses++
		switch random.IntN(3) {
		case 0: // some partitions
			folders := map[string]bool{}
			for name := range f.before[dev].Files {
				folders[partitionOf(path.Dir(name))] = true
			}
			all := sorted(folders)
			random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for _, folder := range all[:min(len(all), 1+random.IntN(8))] {
				c.Parts = append(c.Parts, Part{dev, folder})
			}
		default:
			c.Wipe = append(c.Wipe, dev)
		}
		switch random.IntN(4) { // what befalls those who miss something
		case 0:
			c.Faults = append(c.Faults, &faults.Fault{Kind: faults.SsyncCut, Device: dev, Times: 1, After: random.Int64N(200_000)})
		case 1:
			c.Faults = append(c.Faults, &faults.Fault{Kind: faults.Busy, Device: dev, Times: 1 + random.Int64N(6)})
		}
	}
	if random.IntN(3) == 0 {
		dev := take()
		losses++
		var archives []string
		for name, file := range f.before[dev].Files {
			if strings.HasSuffix(name, ".data") && file.Size > 80 {
				archives = append(archives, name)
			}
		}
		slices.Sort(archives)
		random.Shuffle(len(archives), func(i, j int) { archives[i], archives[j] = archives[j], archives[i] })
		for _, name := range archives[:min(len(archives), 1+random.IntN(3))] {
			c.Rot = append(c.Rot, Rot{Device: dev, Name: name, Seed: random.Uint64()})
		}
	}
	kinds := []faults.Kind{faults.Unmounted, faults.Busy, faults.StallHead, faults.StallBody, faults.Truncate, faults.WrongIndex,
		faults.WrongTime, faults.WrongEtag, faults.Flip, faults.Garbage, faults.Down}
	for range 1 + random.IntN(most-losses) {
		k := kinds[random.IntN(len(kinds))]
		fault := &faults.Fault{Kind: k, Device: take()}
		switch k {
		case faults.Down: // with its other device, if that is free: else it is too much
			others := slices.DeleteFunc(f.Devices(f.NodeOf(fault.Device)), func(d string) bool { return d == fault.Device })
			if losses+2 > most || !slices.ContainsFunc(free, func(d string) bool { return slices.Contains(others, d) }) {
				continue
			}
			free = slices.DeleteFunc(free, func(d string) bool { return slices.Contains(others, d) })
			losses++
		case faults.Busy, faults.StallBody:
			fault.Times = 1 + random.Int64N(5)
		case faults.StallHead: // mostly it comes back: one that never does takes half a minute
			if random.IntN(4) > 0 {
				fault.Times = 1 + random.Int64N(5)
			}
		}
		if losses++; losses > most {
			break
		}
		c.Faults = append(c.Faults, fault)
	}
	return c
}

func sorted(set map[string]bool) []string {
	var list []string
	for k := range set {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// writeBefore writes down what is on all devices.
func (f *Field) writeBefore(path string) error { return writeJSON(path, f.before) }

func readBefore(path string) (map[string]*scenario.Snapshot, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var before map[string]*scenario.Snapshot
	if err := json.Unmarshal(b, &before); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return before, nil
}

var _ pass.Log = nodeLog{}
