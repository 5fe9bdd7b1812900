// Package differential makes random broken clusters and has each repaired twice: by Swift's
// own reconstructor, and by imping. Stock object servers serve both. What they end as must be
// the same tree, but for differences that are listed, each with its reason; and a second oracle,
// which knows what is true, looks at the devices after each round of imping's.
package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"imping/engine/pass"
	"imping/lab/real"
	"imping/lab/scenario"
)

const (
	segmentSize      = 8192
	sharedPartitions = 3 // of 8: so many have objects
	maxRounds        = 9 // of passes on all nodes
	stillRounds      = 2 // that change no file, in a row, are the end: the first may have changed hashes.pkl still
)

// Lab is a cluster for cases, one after the other.
type Lab struct {
	cluster *real.Cluster
	layout  *scenario.Layout
	stock   *stock
	root    string
}

// Start starts a cluster in root.
func Start(ctx context.Context, root string) (*Lab, error) {
	c, err := real.Start(ctx, real.Options{Root: filepath.Join(root, "c"), Nodes: 3, DevicesPerNode: 5, PartPower: 3,
		ReplicationConcurrency: 1, // so that receivers are busy when all nodes make passes at once
		Policies: []real.Policy{
			{Index: 0, Name: "rep3"},
			{Index: 1, Name: "lec42", ECType: "liberasurecode_rs_vand", Data: 4, Parity: 2, SegmentSize: segmentSize},
			{Index: 2, Name: "lec42dup2", ECType: "liberasurecode_rs_vand", Data: 4, Parity: 2, Duplication: 2, SegmentSize: segmentSize},
		}})
	if err != nil {
		return nil, err
	}
	l := &Lab{cluster: c, root: root}
	if l.layout, err = scenario.NewLayout(c); err == nil {
		err = l.writeConfs()
	}
	if err == nil {
		l.stock, err = startStock(c, filepath.Join(root, "stock.out"))
	}
	if err != nil {
		c.Stop()
		return nil, err
	}
	return l, nil
}

// Close ends all that Start began.
func (l *Lab) Close() error {
	err := l.stock.Close()
	l.cluster.Stop()
	return err
}

func (l *Lab) conf(node int) string {
	return filepath.Join(l.root, fmt.Sprintf("imping-%d.conf", node))
}

// writeConfs writes those of imping's passes: several partitions at once.
func (l *Lab) writeConfs() error {
	for _, node := range l.cluster.Nodes() {
		b, err := os.ReadFile(l.cluster.ReplicationConf(node))
		if err != nil {
			return err
		}
		b = bytes.Replace(b, []byte("[object-reconstructor]\n"), []byte("[object-reconstructor]\nconcurrency = 8\n"), 1)
		if err := os.WriteFile(l.conf(node), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// outcome is what a pass of imping's said (`--json`).
type outcome struct {
	Exit       int
	Left       pass.Left          `json:"left"`
	Unrepaired []*pass.Unrepaired `json:"unrepaired"`
}

// impingPasses makes a pass on every node, all at once.
func (l *Lab) impingPasses(ctx context.Context, program string) (map[int]*outcome, error) {
	var mu sync.Mutex
	all := map[int]*outcome{}
	err := scenario.Rebuild(ctx, l.cluster, true, func(ctx context.Context, node int) error {
		var out bytes.Buffer
		exit, _, err := real.Run(ctx, &out, program, "reconstruct", l.conf(node), "once", "--json")
		if err != nil {
			return err
		}
		o := &outcome{Exit: exit}
		if start := bytes.IndexByte(out.Bytes(), '{'); start < 0 || exit != 0 && exit != 2 {
			return fmt.Errorf("imping ended with status %d: %s", exit, out.Bytes())
		} else if err := json.NewDecoder(bytes.NewReader(out.Bytes()[start:])).Decode(o); err != nil {
			return fmt.Errorf("imping said what is no JSON: %w\n%s", err, out.Bytes())
		}
		mu.Lock()
		defer mu.Unlock()
		all[node] = o
		return nil
	})
	return all, err
}

// repaired is what a cluster ended as.
type repaired struct {
	tree   tree
	hashes map[string]partitionHashes
	rounds int
	took   time.Duration
	quiet  bool
	log    []string
}

var errRestless = errors.New("passes do not come to rest")

// untilQuiet makes rounds of passes until they change nothing that o takes for a change. after is
// told of each.
func (l *Lab) untilQuiet(ctx context.Context, o *oracle, round func() error, after func(before, now tree)) (*repaired, error) {
	mark, err := l.cluster.Mark()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	r := &repaired{}
	if r.tree, err = readTree(l.cluster); err != nil {
		return nil, err
	}
	for still := 0; still < stillRounds && r.rounds < maxRounds; r.rounds++ {
		if err := round(); err != nil {
			return nil, err
		}
		now, err := readTree(l.cluster)
		if err != nil {
			return nil, err
		}
		if still++; o.changed(r.tree, now) {
			still = 0
		}
		r.quiet = still == stillRounds
		if after != nil {
			after(r.tree, now)
		}
		r.tree = now
	}
	r.took = time.Since(begin)
	if r.hashes, err = l.stock.hashes(ctx); err != nil {
		return nil, err
	}
	r.log, err = l.cluster.Log(mark)
	return r, err
}

// Play builds a plan's cluster twice, and has it repaired by stock and by the imping program.
func (l *Lab) Play(ctx context.Context, p *Plan, program string) (*Verdict, error) {
	w, features, err := p.build(l.layout, l.cluster, filepath.Join(l.root, "scratch"))
	if err != nil {
		return nil, err
	}
	v := &Verdict{Plan: p, Features: features, Allowed: map[string]int{}}
	if err := w.draft.write(l.cluster); err != nil {
		return nil, err
	}
	o := newOracle(w, l.cluster, v)
	theirs, err := l.untilQuiet(ctx, o, func() error {
		for _, node := range l.cluster.Nodes() {
			if err := l.stock.pass(ctx, node); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	if err := w.draft.write(l.cluster); err != nil {
		return nil, err
	}
	var said map[int]*outcome
	ours, err := l.untilQuiet(ctx, o, func() (err error) {
		said, err = l.impingPasses(ctx, program)
		return err
	}, func(before, now tree) { o.look(before, now, said) })
	if err != nil {
		return nil, err
	}
	v.Took = [2]time.Duration{theirs.took, ours.took}
	v.judge(w, o, theirs, ours)
	return v, nil
}
