package soak

import (
	"math/rand/v2"
	"slices"
	"strings"

	"imping/lab/faults"
	"imping/lab/scenario"
	"imping/swift/ring"
)

// Case is what is broken before a pass.
type Case struct {
	Name   string
	Wipe   []string // devices
	Parts  []Part   // partitions that are lost
	Rot    []Rot    // archives in which a byte has rotted
	Faults []*faults.Fault
	Run    Runner // nil: the field's; no outcome: there is nothing to judge
	Lax    bool   // not every pass is imping's: what can come back may be left for later

	broke func() error // told when all is broken, before the first pass; may be nil
}

// Part is one partition on one device.
type Part struct{ Device, Folder string } // Folder is under the device: objects-1/23

// Rot is one archive in which one byte is flipped on disk.
type Rot struct {
	Device, Name string // Name is under the device
	Seed         uint64
	flip         flip
}

func (c *Case) String() string {
	var words []string
	for _, d := range c.Wipe {
		words = append(words, "wiped "+d)
	}
	for _, p := range c.Parts {
		words = append(words, "lost "+p.Device+"/"+p.Folder)
	}
	for _, r := range c.Rot {
		words = append(words, "rot on "+r.Device)
	}
	for _, f := range c.Faults {
		words = append(words, f.String())
	}
	return strings.Join(words, ", ")
}

// TwoWiped is, beside the kinds of lab/faults, another thing that can go wrong.
const TwoWiped faults.Kind = "two-wiped"

// Trouble is all that the matrix combines.
func Trouble() []faults.Kind { return append([]faults.Kind{TwoWiped}, faults.Kinds()...) }

// Lost is the device that every case of the matrix wipes. Every object of the matrix has
// an archive there.
const Lost = "sd5"

// Singles are cases of one trouble each.
func (f *Field) Singles(seed uint64) []*Case {
	var list []*Case
	for i, k := range Trouble() {
		list = append(list, f.Combine(seed+uint64(i), k))
	}
	return list
}

// Pairs are cases of two troubles each, on devices of their own where they are about a
// device that is not Lost.
func (f *Field) Pairs(seed uint64) []*Case {
	var list []*Case
	all := Trouble()
	for i, a := range all {
		for _, b := range all[i+1:] {
			list = append(list, f.Combine(seed+uint64(len(list)), a, b))
		}
	}
	return list
}

// Combine makes a case: Lost is wiped, and each trouble gets a device by the seed. Those
// that a node with nothing lost would never meet, in sessions, befall Lost as well, a few
// times only.
func (f *Field) Combine(seed uint64, kinds ...faults.Kind) *Case {
	random := rand.New(rand.NewPCG(seed, 1))
	c := &Case{Wipe: []string{Lost}}
	var names []string
	free := f.devices()
	random.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	slices.SortStableFunc(free, func(a, b string) int { return f.demand(b) - f.demand(a) })
	remove := func(dev string) {
		free = slices.DeleteFunc(free, func(d string) bool { return d == dev })
	}
	remove(Lost)
	// A node that is down has two devices, neither of them used otherwise.
	var down string
	if slices.Contains(kinds, faults.Down) {
		i := slices.IndexFunc(free, func(d string) bool { return f.NodeOf(d) != f.NodeOf(Lost) })
		down = free[i]
		for _, d := range f.Devices(f.NodeOf(down)) {
			remove(d)
		}
	}
	for _, k := range kinds {
		names = append(names, string(k))
		add := func(fault *faults.Fault) {
			fault.Kind = k
			c.Faults = append(c.Faults, fault)
		}
		switch k {
		case faults.Down:
			add(&faults.Fault{Device: down})
		case faults.SsyncCut: // in a head, and in a body
			add(&faults.Fault{Device: Lost, Times: 1})
			add(&faults.Fault{Device: Lost, Times: 1, After: 60_000})
		case faults.SsyncStall:
			add(&faults.Fault{Device: Lost, Times: 1, After: 2000})
		case TwoWiped:
			c.Wipe = append(c.Wipe, free[0])
			remove(free[0])
		default:
			dev := free[0]
			remove(dev)
			switch k {
			case faults.Busy:
				add(&faults.Fault{Device: Lost, Times: 6})
				add(&faults.Fault{Device: dev, Times: 6})
			case faults.StallBody: // for ever each, but not every one: it takes node_timeout
				add(&faults.Fault{Device: dev, Times: 4})
			case faults.Garbage, faults.StallHead, faults.Unmounted:
				add(&faults.Fault{Device: Lost, Method: "SSYNC", Times: 1})
				add(&faults.Fault{Device: dev})
			default:
				add(&faults.Fault{Device: dev})
			}
		}
	}
	c.Name = strings.Join(names, "+")
	return c
}

// demand is 1 when the device's archives are asked for whenever Lost is rebuilt, in two
// partitions of a 10+4 policy at least: data comes first, and the device is not among those
// that push to Lost, who read their own archives from disk. Others may never be asked.
func (f *Field) demand(dev string) int {
	parts := map[int]bool{}
	for _, o := range f.loaded.Objects {
		if o.Size == 0 || o.Kind == scenario.Deleted || o.Policy.Data < 10 {
			continue
		}
		nodes := f.loaded.Layout.Primaries(o)
		lost := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == Lost })
		pushers := partners(lost, nodes)
		for _, n := range nodes {
			same := func(m ring.Node) bool { return m.ID == n.ID }
			if n.Device.Device == dev && n.Index < o.Policy.Data-1 && !slices.ContainsFunc(pushers, same) {
				parts[o.Policy.Index<<16|f.loaded.Layout.Partition(o)] = true
			}
		}
	}
	return min(len(parts)/2, 1)
}

// Beyond is a case of which nothing of the 10+4 policies can be brought back: beside Lost,
// five devices serve archives that are of no use. One of the five may hold a sound one for
// its own node's pass.
func (f *Field) Beyond(seed uint64) *Case {
	random := rand.New(rand.NewPCG(seed, 2))
	c := &Case{Name: "beyond", Wipe: []string{Lost}}
	free := slices.DeleteFunc(f.devices(), func(d string) bool { return d == Lost })
	random.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	for i, k := range []faults.Kind{faults.WrongTime, faults.WrongEtag, faults.Flip, faults.Truncate, faults.WrongTime} {
		c.Faults = append(c.Faults, &faults.Fault{Kind: k, Device: free[i]})
	}
	return c
}

// Matrix is all that `make soak` does first: each trouble, each pair, and what is beyond
// repair.
func (f *Field) Matrix(seed uint64) []*Case {
	list := append(f.Singles(seed), f.Pairs(seed+100)...)
	return append(list, f.Beyond(seed+200), f.Beyond(seed+201), f.Beyond(seed+202))
}

// lossy says that a device with the fault gives nobody a sound archive, at times.
func lossy(k faults.Kind) bool { return k != faults.SsyncCut && k != faults.SsyncStall }

// mute says that a device with the fault can not be compared with.
func mute(k faults.Kind) bool {
	return k == faults.Down || k == faults.Unmounted || k == faults.StallHead || k == faults.Garbage
}
