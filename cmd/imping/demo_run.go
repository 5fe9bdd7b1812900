package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/engine/pass"
	"imping/lab/embedded"
	"imping/lab/scenario"
)

// demonstration is a demo that runs.
type demonstration struct {
	*demoOptions
	cluster *embedded.Cluster
	tale    io.Writer // for people
	victims []string
	before  []*scenario.Snapshot // of the victims
	records []string             // files of those
	loaded  *scenario.Loaded
	result  demoResult
}

// demoResult is what was done and measured, for a machine to read.
type demoResult struct {
	Nodes       int      `json:"nodes"`
	Devices     int      `json:"devices"`
	Policies    []string `json:"policies"`
	Objects     int      `json:"objects"`
	ObjectBytes int64    `json:"object_bytes"`
	Lost        []string `json:"devices_lost"`
	Archives    int      `json:"archives_lost"`
	Rounds      int      `json:"rounds"` // of passes on all nodes
	Rebuilt     int64    `json:"archives_rebuilt"`
	Bytes       int64    `json:"bytes_rebuilt"`
	BytesRead   int64    `json:"survivor_bytes_read"`
	Sessions    int64    `json:"sessions"` // of which a device takes one at a time
	Left        []string `json:"left_to_another_pass,omitempty"`
	load                 // of the passes
	Identical   bool     `json:"all_byte_identical"`
	Folder      string   `json:"folder,omitempty"` // that was kept
}

func demo(ctx context.Context, o *demoOptions) (err error) {
	d := &demonstration{demoOptions: o, tale: os.Stdout}
	if o.json {
		d.tale = os.Stderr
	}
	root, err := os.MkdirTemp(o.dir, "imping-demo")
	if err != nil {
		return fmt.Errorf("cannot make the cluster's folder (--dir or TMPDIR names another place): %w", err)
	}
	defer func() {
		if !o.keep {
			remove := func() error { return os.RemoveAll(root) }
			if d.cluster != nil {
				remove = d.cluster.Remove
			}
			if removing := remove(); err == nil {
				err = removing
			}
			return
		}
		fmt.Fprintf(os.Stderr, "the cluster is in %s; `imping serve %s --swift-conf %s` serves its first node\n",
			root, filepath.Join(root, "etc", "object-server", "1.conf"), filepath.Join(root, "etc", "swift.conf"))
	}()
	if o.keep {
		d.result.Folder = root
	}
	if err := d.room(root); err != nil {
		return err
	}
	syscall.Umask(0o022) // as servers have it: the modes are compared
	fmt.Fprintf(d.tale, "serving a cluster of %d nodes and %d devices in %s\n", o.nodes, o.nodes*o.devices, root)
	d.cluster, err = embedded.Start(o.clusterOptions(root))
	if none := (*embedded.NoAttributesError)(nil); errors.As(err, &none) {
		return fmt.Errorf("%w: --dir or TMPDIR names another place", err)
	}
	if err != nil {
		return err
	}
	defer d.cluster.Stop()
	defer func() {
		if err != nil && ctx.Err() == nil && !o.corrupt {
			d.cluster.DumpLogs(os.Stderr)
		}
	}()
	for _, step := range []func(context.Context) error{d.choose, d.store, d.lose, d.rebuild, d.compare} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// room says when the objects can not fit.
func (d *demonstration) room(folder string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return fmt.Errorf("cannot tell the room in %s: %w", folder, err)
	}
	free, files := int64(st.Bavail)*st.Bsize, int64(st.Ffree)
	if st.Blocks > 0 && d.stored > free { // of 0 it is not told
		return fmt.Errorf("%s has room for %s, and about %s would be stored: --dir or TMPDIR names another place, --objects and --size ask for less",
			folder, size(float64(free)), size(float64(d.stored)))
	}
	if st.Files > 0 && 2*d.archives > files { // a file and its folder
		return fmt.Errorf("%s has room for %d files, and about %d would be stored: --dir or TMPDIR names another place, --objects asks for less",
			folder, files, 2*d.archives)
	}
	return nil
}

// choose names the devices that are lost, on as many nodes as can be, and proves that the
// others suffice.
func (d *demonstration) choose(context.Context) error {
	for i := range d.losses {
		// The first device of nodes far apart, then the second of them, ...
		slot := i / d.nodes
		among := min(d.losses-slot*d.nodes, d.nodes)
		node := (2+i%d.nodes*d.nodes/among)%d.nodes + 1
		d.victims = append(d.victims, d.cluster.Devices(node)[slot])
	}
	lost := map[string]bool{}
	for _, dev := range d.victims {
		lost[dev] = true
	}
	layout, err := scenario.NewLayout(d.cluster)
	if err != nil {
		return err
	}
	for i, p := range layout.Swift.Policies {
		code, err := codec.New(d.schemes[i])
		if err != nil {
			return err
		}
		r := layout.Ring(p)
		for part := range r.Partitions() {
			var have, want codec.Set
			for _, n := range r.PartNodes(part) {
				if index := p.BackendIndex(n.Index); lost[n.Device.Device] {
					want = want.With(index)
				} else {
					have = have.With(index)
				}
			}
			if want.Len() == 0 {
				continue
			}
			if _, err := code.Plan(have, want); err != nil {
				return fmt.Errorf("--losses %d: in partition %d of %s fragments %v would be lost, and no others make them: %w", d.losses, part, d.schemes[i], want, err)
			}
		}
	}
	return nil
}

// store puts the objects on the disks.
func (d *demonstration) store(ctx context.Context) error {
	var stored, all atomic.Int64
	began := time.Now()
	meter := show(os.Stderr, gauge{
		what:  "objects",
		count: func() (int64, int64) { return stored.Load(), all.Load() },
		amounts: func() string {
			return fmt.Sprintf("%.0f/s", float64(stored.Load())/max(time.Since(began).Seconds(), 0.001))
		},
		elapsed: func() time.Duration { return time.Since(began) },
		every:   demoEvery,
	})
	options := d.loadOptions(d.victims[0])
	options.Concurrency = 16 // most of the time the disk is waited for
	options.Progress = func(n, of int, _ string) { stored.Store(int64(n)); all.Store(int64(of)) }
	loaded, err := scenario.Load(ctx, d.cluster, options)
	meter.Stop()
	if err != nil {
		return err
	}
	d.loaded = loaded
	r := &d.result
	r.Nodes, r.Devices, r.Objects, r.ObjectBytes, r.Lost = d.nodes, d.nodes*d.devices, len(loaded.Objects), loaded.Bytes, d.victims
	for _, s := range d.schemes {
		r.Policies = append(r.Policies, s.String())
	}
	fmt.Fprintf(d.tale, "stored %d objects, %s, under %s in %.1f s\n", r.Objects, size(float64(r.ObjectBytes)), strings.Join(r.Policies, ", "), time.Since(began).Seconds())
	return nil
}

// demoEvery is the pace of the demo's plain progress lines: it takes seconds.
const demoEvery = 2 * time.Second

// lose records what the victims hold, and wipes them.
func (d *demonstration) lose(context.Context) error {
	for _, dev := range d.victims {
		before, err := scenario.TakeSnapshot(d.cluster, dev, "")
		if err != nil {
			return err
		}
		b, err := json.Marshal(before)
		if err != nil {
			return err
		}
		record := filepath.Join(d.cluster.Root(), dev+".json")
		if err := os.WriteFile(record, b, 0o600); err != nil {
			return err
		}
		d.before, d.records = append(d.before, before), append(d.records, record)
		d.result.Archives += before.Archives()
	}
	if d.result.Archives == 0 {
		return fmt.Errorf("no object has an archive on %s: --objects asks for more", strings.Join(d.victims, ", "))
	}
	for _, dev := range d.victims {
		if err := scenario.Wipe(d.cluster, dev); err != nil {
			return err
		}
	}
	fmt.Fprintf(d.tale, "wiped %s, with %d fragment archives\n", strings.Join(d.victims, ", "), d.result.Archives)
	return nil
}

// missing is how many files of the victims are not there.
func (d *demonstration) missing() (n int, err error) {
	for _, before := range d.before {
		for name := range before.Files {
			_, err := os.Stat(filepath.Join(before.Path, name))
			if errors.Is(err, fs.ErrNotExist) {
				n++
			} else if err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// rebuild makes passes on all nodes at once, as the nodes' daemons would, until nothing is
// missing. One round does where an archive's neighbours in the ring are there, and nothing is
// left; of three devices lost at once one may have to wait for another.
func (d *demonstration) rebuild(ctx context.Context) error {
	missing, err := d.missing()
	if err != nil {
		return err
	}
	r := &d.result
	before := startLoad()
	for missing > 0 {
		was := missing
		r.Rounds++
		if err := d.round(ctx); err != nil {
			return err
		}
		if missing, err = d.missing(); err != nil {
			return err
		}
		if missing == was {
			return fmt.Errorf("a round of passes has rebuilt nothing, and %d files are missing; left were: %s", missing, strings.Join(r.Left, "; "))
		}
	}
	r.load = before.end()
	for _, left := range r.Left {
		fmt.Fprintf(d.tale, "left to another pass: %s\n", left)
	}
	fmt.Fprintf(d.tale, "rebuilt %d archives, %s, from %s of survivors in %.2f s (passes on all nodes at once, rounds: %d): %.0f archives/s, %s/s\n",
		r.Rebuilt, size(float64(r.Bytes)), size(float64(r.BytesRead)), r.Seconds, r.Rounds, float64(r.Rebuilt)/r.Seconds, size(float64(r.Bytes)/r.Seconds))
	// No counter tells how long a node waits for another; that it has to is known.
	fmt.Fprintf(d.tale, "limited by %s (%d sessions; a device takes one at a time)\n", r.LimitedBy, r.Sessions)
	return nil
}

// round makes a pass on each node: `imping reconstruct CONF once`.
func (d *demonstration) round(ctx context.Context) error {
	var mu sync.Mutex
	var passes []*pass.Progress
	began := time.Now()
	sum := func(count func(*pass.Progress) int64) (n int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, g := range passes {
			n += count(g)
		}
		return n
	}
	meter := show(os.Stderr, gauge{
		what:  "archives",
		count: func() (int64, int64) { return d.result.Rebuilt + sum(rebuilt), int64(d.result.Archives) },
		amounts: func() string {
			sent := sum(func(g *pass.Progress) int64 { return g.BytesSent.Load() })
			seconds := max(time.Since(began).Seconds(), 0.001)
			return fmt.Sprintf("%.0f/s, %s/s", float64(sum(rebuilt))/seconds, size(float64(sent)/seconds))
		},
		elapsed: func() time.Duration { return time.Since(began) },
		every:   demoEvery,
	})
	var done []*summary
	err := scenario.Rebuild(ctx, d.cluster, true, func(ctx context.Context, node int) error {
		o := &reconstructOptions{conf: d.cluster.Conf(node), swiftConf: d.cluster.SwiftConf(), once: true}
		o.watch = func(g *pass.Progress) func() {
			mu.Lock()
			defer mu.Unlock()
			passes = append(passes, g)
			return func() {}
		}
		_, cfg, log, err := prepareReconstruct(o)
		if err != nil {
			return err
		}
		defer log.Close()
		did, err := onePass(ctx, cfg, log, o)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		done = append(done, did)
		if did.Left.Interrupted {
			return errEnded
		}
		if did.Left.Any() {
			d.result.Left = append(d.result.Left, fmt.Sprintf("round %d, node %d: %s", d.result.Rounds, node, did.Left))
		}
		return nil
	})
	meter.Stop()
	for _, did := range done {
		d.result.Rebuilt += did.Rebuilt
		d.result.Bytes += did.BytesRebuilt
		d.result.BytesRead += did.BytesRead
		d.result.Sessions += did.Sessions
	}
	return err
}

func rebuilt(g *pass.Progress) int64 { return g.Rebuilt.Load() }

// compare lets a separate process compare, and reads every object back.
func (d *demonstration) compare(ctx context.Context) error {
	if d.corrupt {
		if err := d.corruptOne(); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"demo", "compare"}, d.records...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		var status *exec.ExitError
		if errors.As(err, &status) && status.Exited() {
			return fmt.Errorf("what was rebuilt differs from what was lost: %s", bytes.TrimSpace(bytes.TrimPrefix(problems.Bytes(), []byte("imping: "))))
		}
		return fmt.Errorf("cannot compare: %w\n%s", err, problems.Bytes())
	}
	if err := scenario.VerifyGETs(ctx, d.cluster, d.loaded); err != nil {
		return err
	}
	fmt.Fprintln(d.tale, "every object read back from the nodes is the one that was stored")
	d.result.Identical = true
	if d.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(&d.result); err != nil {
			return err
		}
	}
	_, err = d.tale.Write(out.Bytes())
	return err
}

// corruptOne flips a byte of one rebuilt archive.
func (d *demonstration) corruptOne() error {
	for _, before := range d.before {
		for name, f := range before.Files {
			if strings.HasSuffix(name, ".data") && f.Size > 0 {
				flip, err := scenario.FlipPayloadByte(filepath.Join(before.Path, name), 1)
				if err != nil {
					return err
				}
				fmt.Fprintf(d.tale, "flipped %v\n", flip)
				return nil
			}
		}
	}
	return errors.New("no rebuilt archive has a byte to corrupt")
}
