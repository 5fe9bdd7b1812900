package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"imping/swift/policy"
)

// LoadOptions say which objects Load stores.
type LoadOptions struct {
	Seed     uint64   // same seed, same objects
	Policies []string // by name; nil: every erasure-code policy

	// Victim, if not "", is a device on which every object but the random ones has an
	// archive (or a tombstone): names are chosen for that.
	Victim string

	// Partitions, if not 0, is how many partitions of a policy have all objects but the random
	// ones: passes compare each of them with its partners, whatever it holds.
	Partitions int

	// In, if not nil, tells in which partitions objects may be, but for the random ones.
	In func(part int) bool

	Sizes []int64 // of the Sized objects; nil: 0, 1, segment-1, segment, segment+1 and 5 MiB
	Kinds []Kind  // besides Sized and Random; nil: Posted, Overwritten, Deleted, Foreign, Expiring

	Random    int   // how many Random objects per policy
	RandomMin int64 // sizes from this, in bytes,
	RandomMax int64 // up to this; default 256 KiB

	Concurrency int                                        // requests at once; default 6
	Progress    func(objects, allObjects int, name string) // told after each object; may be nil
}

// Loaded is what Load has stored.
type Loaded struct {
	Layout  *Layout
	Objects []*Object
	Bytes   int64 // of all objects, the deleted ones excepted
}

// kindSize is the size of the objects that are there for their kind: two segments of
// a segment size of 64 KiB or less, one of any other.
const kindSize = 100_000

// settleLimit bounds how long the slowest primary may take to have what the proxy has
// said is stored: a quorum is enough for the proxy.
const settleLimit = 60 * time.Second

// Load makes a container for each policy, named as the policy, and stores objects in
// it. It returns when every object is in its final state on all its primaries: each has
// its durable archive, .meta or .ts, of the same timestamp, and nothing else.
func Load(ctx context.Context, c Cluster, o LoadOptions) (*Loaded, error) {
	layout, err := NewLayout(c)
	if err != nil {
		return nil, err
	}
	policies, err := layout.policies(o.Policies)
	if err != nil {
		return nil, err
	}
	loaded := &Loaded{Layout: layout}
	for _, p := range policies {
		if err := must(ctx, c, http.MethodPut, p.Name, "", http.Header{"X-Storage-Policy": {p.Name}}, nil, 0); err != nil {
			return nil, err
		}
		objects, err := layout.choose(p, &o)
		if err != nil {
			return nil, err
		}
		loaded.Objects = append(loaded.Objects, objects...)
	}
	limit := o.Concurrency
	if limit == 0 {
		limit = 6
	}
	var mu sync.Mutex
	done := 0
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for _, obj := range loaded.Objects {
		if obj.Kind != Deleted {
			loaded.Bytes += obj.Size
		}
		group.Go(func() error {
			if err := obj.store(groupCtx, c); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			if o.Progress != nil {
				o.Progress(done, len(loaded.Objects), obj.Name)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return loaded, loaded.settle(ctx)
}

func (l *Layout) policies(names []string) ([]*policy.Policy, error) {
	var found []*policy.Policy
	if names == nil {
		for _, p := range l.Swift.Policies {
			if p.Type == policy.ErasureCoding {
				found = append(found, p)
			}
		}
		return found, nil
	}
	for _, n := range names {
		p := l.Swift.ByName(n)
		if p == nil {
			return nil, fmt.Errorf("the cluster has no policy %q", n)
		}
		found = append(found, p)
	}
	return found, nil
}

// choose makes up the objects of one policy.
func (l *Layout) choose(p *policy.Policy, o *LoadOptions) ([]*Object, error) {
	sizes := o.Sizes
	if sizes == nil {
		segment := int64(p.SegmentSize)
		if segment == 0 {
			segment = 1 << 20
		}
		sizes = []int64{0, 1, segment - 1, segment, segment + 1, 5 << 20}
	}
	kinds := o.Kinds
	if kinds == nil {
		kinds = []Kind{Posted, Overwritten, Deleted, Foreign, Expiring}
	}
	var objects []*Object
	used := map[int]bool{} // partitions
	add := func(kind Kind, base string, size int64, victim string) error {
		obj := &Object{Policy: p, Container: p.Name, Kind: kind, Size: size}
		room := func(part int) bool {
			return kind == Random || (o.In == nil || o.In(part)) && (used[part] || o.Partitions == 0 || len(used) < o.Partitions)
		}
		if err := l.name(obj, base, victim, room); err != nil {
			return err
		}
		if kind != Random {
			used[l.Partition(obj)] = true
		}
		obj.Seed = fmt.Sprintf("%d %s/%s", o.Seed, obj.Container, obj.Name)
		obj.Header = obj.header()
		objects = append(objects, obj)
		return nil
	}
	for i, size := range sizes {
		base := fmt.Sprintf("size-%d", size)
		if slices.Contains(sizes[:i], size) {
			base = fmt.Sprintf("size-%d.%d", size, i)
		}
		if err := add(Sized, base, size, o.Victim); err != nil {
			return nil, err
		}
	}
	for _, k := range kinds {
		base := string(k)
		if k == Foreign {
			base = "plumé/羽 #?%"
		}
		if err := add(k, base, kindSize, o.Victim); err != nil {
			return nil, err
		}
	}
	most := o.RandomMax
	if most == 0 {
		most = 256 << 10
	}
	random := rand.New(rand.NewPCG(o.Seed, uint64(p.Index)))
	for i := range o.Random {
		if err := add(Random, fmt.Sprintf("random-%d", i), o.RandomMin+random.Int64N(most-o.RandomMin+1), ""); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// name gives the object a name with the given beginning, such that the victim is one of
// its primaries and there is room in its partition.
func (l *Layout) name(o *Object, base, victim string, room func(part int) bool) error {
	// The rarest case is one device in a hundred, or one of a few partitions that has it: a hundred tries, or a
	// few hundred, so that ten thousand never fail.
	for i := range 10_000 {
		o.Name = fmt.Sprintf("%s-%d", base, i)
		if !room(l.Partition(o)) {
			continue
		}
		if victim == "" {
			return nil
		}
		for _, n := range l.Primaries(o) {
			if n.Device.Device == victim {
				return nil
			}
		}
	}
	return fmt.Errorf("no object of policy %s has a place on %s", o.Policy.Name, victim)
}

// header is what the object is answered with in the end.
func (o *Object) header() http.Header {
	switch o.Kind {
	case Posted:
		return http.Header{"X-Object-Meta-Plume": {"posted"}, "Content-Type": {"application/x-posted"}}
	case Foreign:
		return http.Header{
			"X-Object-Meta-Utf8":   {"plumé 羽"},
			"X-Object-Meta-Latin1": {"plum\xe9"},
		}
	}
	return http.Header{"X-Object-Meta-Plume": {string(o.Kind)}, "Content-Type": {"application/x-" + string(o.Kind)}}
}

// store brings the object to its final state.
func (o *Object) store(ctx context.Context, c Cluster) error {
	switch o.Kind {
	case Posted:
		if err := o.put(ctx, c, http.Header{"X-Object-Meta-Before": {"gone"}, "Content-Type": {"text/plain"}}); err != nil {
			return err
		}
		return must(ctx, c, http.MethodPost, o.Container, o.Name, o.Header, nil, 0)
	case Overwritten:
		before := *o
		before.Seed += " before"
		before.Size /= 2
		if err := before.put(ctx, c, http.Header{"X-Object-Meta-Before": {"gone"}}); err != nil {
			return err
		}
		return o.put(ctx, c, o.Header)
	case Deleted:
		if err := o.put(ctx, c, o.Header); err != nil {
			return err
		}
		return must(ctx, c, http.MethodDelete, o.Container, o.Name, nil, nil, 0)
	case Expiring:
		h := o.Header.Clone()
		h.Set("X-Delete-After", "86400")
		return o.put(ctx, c, h)
	}
	return o.put(ctx, c, o.Header)
}

// Store stores objects of l once more, whose kind, size or seed may have been changed, and
// returns when they are in that state on all their primaries.
func (l *Loaded) Store(ctx context.Context, c Cluster, objects []*Object) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(6)
	for _, o := range objects {
		o.Header = o.header()
		group.Go(func() error { return o.store(groupCtx, c) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	part := &Loaded{Layout: l.Layout, Objects: objects}
	return part.settle(ctx)
}

func (l *Loaded) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for _, o := range l.Objects {
		for {
			problem := l.Layout.unsettled(o)
			if problem == nil {
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("the cluster does not settle: %w", problem)
			}
		}
	}
	return nil
}

// unsettled says why the object is not in its final state on all primaries.
func (l *Layout) unsettled(o *Object) error {
	var first []string
	for i, n := range l.Primaries(o) {
		dev := n.Device.Device
		entries, err := os.ReadDir(l.HashDir(o, dev))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot list %v on %s: %w", o, dev, err)
		}
		var names, stamps []string
		for _, e := range entries {
			names = append(names, e.Name())
			stamps = append(stamps, e.Name()[:strings.IndexAny(e.Name()+"#", "#.-_")])
		}
		if want := o.wanted(o.Policy.BackendIndex(n.Index)); !endLike(names, want) {
			return fmt.Errorf("%v has %q on %s, not files ending in %q", o, names, dev, want)
		}
		if i == 0 {
			first = stamps
		} else if !slices.Equal(first, stamps) {
			return fmt.Errorf("%v has %q on %s, but timestamps %q on its first primary", o, names, dev, first)
		}
	}
	return nil
}

// wanted are the ends of the names of an object's files, in the names' order.
func (o *Object) wanted(index int) []string {
	data := ".data"
	if o.Policy.Type == policy.ErasureCoding {
		data = fmt.Sprintf("#%d#d.data", index)
	}
	switch o.Kind {
	case Deleted:
		return []string{".ts"}
	case Posted:
		return []string{data, ".meta"}
	}
	return []string{data}
}

func endLike(names, ends []string) bool {
	if len(names) != len(ends) {
		return false
	}
	for i := range names {
		if !strings.HasSuffix(names[i], ends[i]) {
			return false
		}
	}
	return true
}

// maxProblems is how many of the things that are wrong an error names.
const maxProblems = 20

// VerifyGETs gets every loaded object through the cluster and compares status, metadata
// and body with what was stored.
func VerifyGETs(ctx context.Context, c Cluster, l *Loaded) error {
	var mu sync.Mutex
	var problems []error
	group := errgroup.Group{}
	group.SetLimit(4)
	for _, o := range l.Objects {
		group.Go(func() error {
			if err := o.verify(ctx, c); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
			return nil
		})
	}
	group.Wait()
	if n := len(problems); n > maxProblems {
		problems = append(problems[:maxProblems], fmt.Errorf("and %d more", n-maxProblems))
	}
	return errors.Join(problems...)
}
