package differential

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"imping/codec"
	"imping/io/diskfile"
	"imping/lab/scenario"
	"imping/swift/objhash"
	"imping/swift/policy"
)

// Step is one thing that is done to an object of a case.
type Step struct {
	Feature Feature
	Object  int
	seed    uint64
	apply   func(w *world, o *object, r *rand.Rand) bool
	early   bool
}

// Plan is how a broken cluster is made. What is left out of it, by shrinking, changes nothing
// of the rest.
type Plan struct {
	Seed    uint64
	Objects []int // numbers of those that there are
	Steps   []Step
}

func (p *Plan) String() string {
	words := []string{fmt.Sprintf("seed %d, objects %v", p.Seed, p.Objects)}
	for _, s := range p.Steps {
		words = append(words, fmt.Sprintf("%d: %s", s.Object, s.Feature))
	}
	return strings.Join(words, "; ")
}

const (
	minObjects, maxObjects = 4, 7
	minSteps, maxSteps     = 8, 16
)

// sizes of objects, around the segments of segmentSize.
var sizes = []int{0, 1, 79, 4000, segmentSize - 1, segmentSize, segmentSize + 1, 3*segmentSize + 17}

// Features are all that plans may have.
func Features() []Feature {
	list := []Feature{featureExpired, featureNonASCII, featureOld}
	for _, w := range ways {
		list = append(list, w.Feature)
	}
	return list
}

// NewPlan draws a plan.
func NewPlan(seed uint64) *Plan {
	r := rand.New(rand.NewPCG(seed, 7))
	p := &Plan{Seed: seed}
	for i := range minObjects + r.IntN(maxObjects-minObjects+1) {
		p.Objects = append(p.Objects, i)
	}
	for range minSteps + r.IntN(maxSteps-minSteps+1) {
		w := ways[r.IntN(len(ways))]
		p.Steps = append(p.Steps, Step{Feature: w.Feature, Object: r.IntN(len(p.Objects)), seed: r.Uint64(), apply: w.apply, early: w.early})
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int {
		switch {
		case a.early == b.early:
			return 0
		case a.early:
			return -1
		}
		return 1
	})
	return p
}

// planOf is a plan with these features, in their order, for each of some objects.
func planOf(seed uint64, objects int, features ...Feature) *Plan {
	r := rand.New(rand.NewPCG(seed, 8))
	p := &Plan{Seed: seed}
	for i := range objects {
		p.Objects = append(p.Objects, i)
	}
	for _, f := range features {
		w := ways[slices.IndexFunc(ways, func(w way) bool { return w.Feature == f })]
		for i := range objects {
			p.Steps = append(p.Steps, Step{Feature: f, Object: i, seed: r.Uint64(), apply: w.apply})
		}
	}
	return p
}

// Features that an object has by itself.
const (
	featureExpired  Feature = "object expired"
	featureNonASCII Feature = "metadata not ASCII"
	featureOld      Feature = "object past reclaim age"
)

// build carries the plan out.
func (p *Plan) build(layout *scenario.Layout, c scenario.Cluster, scratch string) (*world, map[Feature]int, error) {
	w := &world{layout: layout, now: time.Now().Truncate(time.Hour), draft: draft{}, gone: map[string]bool{}, scratch: scratch}
	for _, n := range c.Nodes() {
		w.devices = append(w.devices, c.Devices(n)...)
	}
	for _, dev := range w.devices {
		w.draft[dev] = map[string]*leaf{}
	}
	count := map[Feature]int{}
	var policies []*policy.Policy
	for _, pol := range layout.Swift.Policies {
		if pol.Type == policy.ErasureCoding {
			policies = append(policies, pol)
			for _, dev := range w.devices {
				w.draft[dev][pol.DataDir()] = &leaf{dir: true}
			}
		}
	}
	byNumber := map[int]*object{}
	for _, i := range p.Objects {
		r := rand.New(rand.NewPCG(p.Seed, 1000+uint64(i)))
		o, err := w.newObject(policies[r.IntN(len(policies))], fmt.Sprintf("o%d-%d", p.Seed, i), r, count, i)
		if err != nil {
			return nil, nil, err
		}
		byNumber[i] = o
		w.objects = append(w.objects, o)
	}
	for _, s := range p.Steps {
		if o := byNumber[s.Object]; o != nil && s.apply(w, o, rand.New(rand.NewPCG(s.seed, 1))) {
			count[s.Feature]++
		}
	}
	w.draft.settle()
	if w.err != nil {
		return nil, nil, w.err
	}
	return w, count, nil
}

// newObject stores one where it belongs.
func (w *world) newObject(pol *policy.Policy, name string, r *rand.Rand, count map[Feature]int, number int) (*object, error) {
	code, err := codec.New(codec.Scheme{Type: pol.ECType, K: pol.Data, M: pol.Parity})
	if err != nil {
		return nil, err
	}
	o := &object{Object: &scenario.Object{Policy: pol, Container: "c", Name: name}, code: code, name: path.Join("/", account, "c", name)}
	for i := 0; ; i++ { // few partitions, so that objects share them
		o.Name = fmt.Sprintf("%s-%d", name, i)
		if o.part = w.layout.Partition(o.Object); o.part < sharedPartitions {
			break
		}
	}
	o.name = path.Join("/", account, "c", o.Name)
	o.hash = objhash.Hex(w.layout.Swift.Hasher().Object(o.name))
	o.primaries = w.layout.Primaries(o.Object)
	o.handoffs = slices.Collect(w.layout.Ring(pol).MoreNodes(o.part))
	// No two objects have the same times.
	o.born = w.now.Add(-time.Duration(2+r.IntN(40))*time.Hour - time.Duration(number)*time.Second)
	user := map[string]string{"X-Object-Meta-Plume": "first"}
	switch r.IntN(8) {
	case 0:
		count[featureExpired]++
		user["X-Delete-At"] = strconv.FormatInt(o.born.Add(time.Hour).Unix(), 10)
	case 1:
		count[featureNonASCII]++
		user["X-Object-Meta-Utf8"] = diskfile.Stored("plumé 羽")
	case 2:
		count[featureOld]++
		o.born = o.born.Add(-long)
	}
	o.versions = []*version{w.newVersion(o, r, sizes[r.IntN(len(sizes))], o.born, user)}
	w.putAll(o, o.versions[0], nil)
	return o, nil
}

// keepHashes gives partitions the hashes.pkl that they had before what comes later.
func (w *world) keepHashes(o *object, devs []string) bool {
	m := diskfile.NewManager(diskfile.Config{Devices: w.scratch, Policy: o.Policy, Hasher: w.layout.Swift.Hasher(),
		ReclaimAge: diskfile.DefaultReclaimAge, CommitWindow: diskfile.DefaultCommitWindow})
	for _, dev := range devs {
		root := filepath.Join(w.scratch, dev)
		err := os.MkdirAll(root, 0o755)
		for name, l := range w.draft[dev] {
			if err == nil && strings.HasPrefix(name, w.partition(o)+"/") {
				err = l.write(filepath.Join(root, name))
			}
		}
		if err == nil {
			_, _, err = m.SuffixHashes(dev, o.part, nil, true)
		}
		var pkl []byte
		if err == nil {
			pkl, err = os.ReadFile(filepath.Join(root, w.partition(o), "hashes.pkl"))
		}
		if err == nil {
			err = os.RemoveAll(root)
		}
		if err != nil {
			w.err = fmt.Errorf("cannot hash %s on %s: %w", w.partition(o), dev, err)
			return false
		}
		w.draft[dev][path.Join(w.partition(o), "hashes.pkl")] = &leaf{body: pkl}
	}
	return true
}
