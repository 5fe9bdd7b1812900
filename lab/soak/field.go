// Package soak breaks a real cluster and has it repaired, over and over: devices are
// wiped, bytes rot, peers lie, stall and go away (lab/faults), and after the passes every
// byte on every device and every word that the passes said is judged. It does not know
// how a pass is run: its caller tells it.
package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"imping/engine/pass"
	"imping/lab/faults"
	"imping/lab/real"
	"imping/lab/scenario"
)

// Outcome is what a pass on one node said.
type Outcome struct {
	Exit        int // 0 or 2, as `imping reconstruct` (rule 36)
	Rebuilt     int64
	Quarantined int64
	Left        pass.Left
	Unrepaired  []*pass.Unrepaired
}

// Runner makes one pass on a node with the conf given.
type Runner func(ctx context.Context, node int, conf string) (*Outcome, error)

// Field is a cluster with a proxy in front of every replication server.
type Field struct {
	*real.Cluster
	loaded  *scenario.Loaded
	run     Runner
	folder  string // of the confs
	proxies map[int]*faults.Proxy
	places  map[string]*scenario.Object // by the object's folder under a device
	before  map[string]*scenario.Snapshot
}

// Tuning are options of [object-reconstructor], instead of the lab's.
type Tuning map[string]string

// Hasty makes a pass give up early on peers that stall, so that a test takes seconds.
func Hasty(concurrency int) Tuning {
	return Tuning{"conn_timeout": "0.5", "node_timeout": "1", "http_timeout": "3", "concurrency": strconv.Itoa(concurrency)}
}

// NewField stands proxies in front of the servers. Confs are written to folder.
func NewField(ctx context.Context, c *real.Cluster, folder string, run Runner) (_ *Field, err error) {
	f := &Field{Cluster: c, run: run, folder: folder, proxies: map[int]*faults.Proxy{}}
	aside, err := c.Interpose(ctx, real.ReplicationServer)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(ctx))
		}
	}()
	for node, a := range aside {
		if f.proxies[node], err = faults.Listen(a.Addr, a.Upstream); err != nil {
			delete(f.proxies, node)
			return nil, err
		}
	}
	return f, f.Tune(Hasty(4))
}

// Close takes the proxies away and puts the servers back in their places.
func (f *Field) Close(ctx context.Context) error {
	for _, p := range f.proxies {
		p.Close()
	}
	return f.Withdraw(ctx, real.ReplicationServer)
}

// Conf is the conf for passes on a node.
func (f *Field) Conf(node int) string {
	return filepath.Join(f.folder, fmt.Sprintf("node-%d.conf", node))
}

// Tune writes the confs.
func (f *Field) Tune(t Tuning) error {
	for _, node := range f.Nodes() {
		b, err := os.ReadFile(f.ReplicationConf(node))
		if err != nil {
			return err
		}
		text := []byte("[object-reconstructor]\n")
		for k, v := range t {
			text = fmt.Appendf(text, "%s = %s\n", k, v)
		}
		b = bytes.Replace(b, []byte("[object-reconstructor]\n"), text, 1)
		if err := os.WriteFile(f.Conf(node), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Know tells the field which objects the cluster holds, all of them, and takes note of
// every file on every device: from now on that is what is right.
func (f *Field) Know(loaded *scenario.Loaded) error {
	if err := f.placeObjects(loaded); err != nil {
		return err
	}
	f.before = map[string]*scenario.Snapshot{}
	var mu sync.Mutex
	return f.eachDevice(func(dev string) error {
		s, err := scenario.TakeSnapshot(f, dev, "")
		if err != nil {
			return err
		}
		for name := range s.Files {
			if f.places[path.Dir(name)] == nil {
				return fmt.Errorf("%s has a file that is of no object: %s", dev, name)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		f.before[dev] = s
		return nil
	})
}

// remember is Know for a cluster that is broken, by what was written down before.
func (f *Field) remember(loaded *scenario.Loaded, before map[string]*scenario.Snapshot) error {
	if err := f.placeObjects(loaded); err != nil {
		return err
	}
	f.before = before
	return nil
}

func (f *Field) placeObjects(loaded *scenario.Loaded) error {
	f.loaded, f.places = loaded, map[string]*scenario.Object{}
	some := f.devices()[0]
	for _, o := range loaded.Objects {
		place, err := filepath.Rel(f.DevicePath(some), loaded.Layout.HashDir(o, some))
		if err != nil {
			return err
		}
		f.places[place] = o
	}
	return nil
}

func (f *Field) devices() []string {
	var all []string
	for _, n := range f.Nodes() {
		all = append(all, f.Devices(n)...)
	}
	return all
}

func (f *Field) eachDevice(do func(dev string) error) error {
	var group errgroup.Group
	group.SetLimit(2)
	for _, dev := range f.devices() {
		group.Go(func() error { return do(dev) })
	}
	return group.Wait()
}

// breakIt wipes and spoils what the case says, and injects its faults.
func (f *Field) breakIt(c *Case) error {
	for i := range c.Rot {
		r := &c.Rot[i]
		flip, err := scenario.FlipPayloadByte(filepath.Join(f.DevicePath(r.Device), r.Name), r.Seed)
		if err != nil {
			return err
		}
		r.flip = flip
	}
	if c.broke != nil {
		if err := c.broke(); err != nil {
			return err
		}
	}
	for _, dev := range c.Wipe {
		if err := scenario.Wipe(f, dev); err != nil {
			return err
		}
	}
	for _, p := range c.Parts {
		if err := os.RemoveAll(filepath.Join(f.DevicePath(p.Device), p.Folder)); err != nil {
			return err
		}
	}
	for _, fault := range c.Faults {
		if err := f.proxies[f.NodeOf(fault.Device)].Inject(fault); err != nil {
			return err
		}
	}
	return nil
}

func (f *Field) lift() error {
	for _, p := range f.proxies {
		if err := p.Lift(); err != nil {
			return err
		}
	}
	return nil
}

// quietLimit bounds how long connections may take to end after the passes.
const quietLimit = 20 * time.Second

// quiet waits until nobody is connected to the replication servers any more.
func (f *Field) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, quietLimit)
	defer cancel()
	for {
		open := int64(0)
		for _, p := range f.proxies {
			open += p.Open()
		}
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections are still open after the passes: %w", open, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// passes makes a pass on every node, all at once.
func (f *Field) passes(ctx context.Context, run Runner) (map[int]*Outcome, error) {
	var mu sync.Mutex
	out := map[int]*Outcome{}
	err := scenario.Rebuild(ctx, f, true, func(ctx context.Context, node int) error {
		o, err := run(ctx, node, f.Conf(node))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if o != nil {
			out[node] = o
		}
		return nil
	})
	return out, err
}

// Play breaks the cluster, makes a pass on every node, and judges. What could not be
// brought back under the faults is brought back without them. An error says that the case
// could not be played; what is wrong is in the report.
func (f *Field) Play(ctx context.Context, c *Case) (_ *Report, err error) {
	begin := time.Now()
	r := &Report{Case: c.Name, Struck: map[faults.Kind]int64{}}
	e := f.expect(c)
	mark, err := f.Mark()
	if err != nil {
		return nil, err
	}
	if err := f.breakIt(c); err != nil {
		return nil, errors.Join(err, f.lift())
	}
	run := f.run
	if c.Run != nil {
		run = c.Run
	}
	outcomes, err := f.passes(ctx, run)
	if err := errors.Join(err, f.lift(), f.quiet(ctx)); err != nil {
		return nil, err
	}
	for _, fault := range c.Faults {
		r.Struck[fault.Kind] += fault.Struck()
	}
	r.Passed = time.Since(begin)
	if e.logged, err = f.Log(mark); err != nil {
		return nil, err
	}
	for node, o := range outcomes {
		r.Rebuilt += o.Rebuilt
		f.judgeWords(e, node, o, r)
	}
	e.judgeList(outcomes, r)
	whole, err := f.judgeBytes(e, r)
	if err != nil {
		return nil, err
	}
	r.Whole = whole
	if !whole {
		if err := f.heal(ctx, e, r); err != nil {
			return nil, err
		}
	}
	r.Took = time.Since(begin)
	return r, nil
}

// maxHealing is how many passes without faults may be needed until all is whole: one, and
// one more for what another node's pass had to bring back first.
const maxHealing = 3

// heal makes passes without faults until all is as it was.
func (f *Field) heal(ctx context.Context, e *expected, r *Report) error {
	if err := f.mend(e, r); err != nil {
		return err
	}
	for range maxHealing {
		r.Healing++
		outcomes, err := f.passes(ctx, f.run)
		if err := errors.Join(err, f.quiet(ctx)); err != nil {
			return err
		}
		left := ""
		for node, o := range outcomes {
			r.Rebuilt += o.Rebuilt
			if o.Exit != 0 {
				left = fmt.Sprintf("node %d: exit %d, %+v, %v", node, o.Exit, o.Left, describe(o.Unrepaired))
			}
		}
		if err := f.mend(e, r); err != nil {
			return err
		}
		after := &Report{}
		whole, err := f.judgeBytes(&expected{field: f, Case: &Case{}}, after)
		if err != nil {
			return err
		}
		switch {
		case whole && left == "" && len(after.Problems) == 0:
			return nil
		case r.Healing == maxHealing:
			r.wrong("the faults are gone, but after %d passes not all is well: %s", r.Healing, left)
			r.Problems = append(r.Problems, after.Problems...)
			r.WrongBytes += after.WrongBytes
		}
	}
	return nil
}

// mend puts right by hand what is no pass's to put right: rot that nobody has read,
// quarantined folders of what had rotted, and archives on handoffs.
func (f *Field) mend(e *expected, r *Report) error {
	for _, rot := range e.Rot {
		b := make([]byte, 1)
		file, err := os.Open(rot.flip.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // quarantined
		} else if err != nil {
			return err
		}
		_, err = file.ReadAt(b, rot.flip.Offset)
		file.Close()
		if err != nil {
			return err
		}
		if b[0] != rot.flip.Old {
			r.Unnoticed++
			if err := rot.flip.Undo(); err != nil {
				return err
			}
		}
	}
	for _, dev := range f.devices() {
		if e.mayQuarantine(dev) {
			if err := os.RemoveAll(filepath.Join(f.DevicePath(dev), "quarantined")); err != nil {
				return err
			}
		}
	}
	for _, extra := range slices.Compact(slices.Sorted(slices.Values(r.extras))) {
		if err := os.RemoveAll(extra); err != nil {
			return err
		}
	}
	return nil
}
