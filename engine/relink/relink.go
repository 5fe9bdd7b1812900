// Package relink is an increase of the partition power on this node: every file of every device gets a link in the partition that
// it will have (relink), and after the ring's switch loses the name in the one that it had (cleanup). It is what Swift's
// cli/relinker.py is; which file counts and how names change, io/diskfile knows.
package relink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imping/io/diskfile"
	"imping/swift/policy"
	"imping/swift/recon"
	"imping/swift/ring"
)

// Exit statuses. Swift: cli/relinker.py, EXIT_SUCCESS and the like.
const (
	Success  = 0
	Failed   = 1
	NoPolicy = 2 // none whose partition power is being raised, or is to be cleaned up after
)

// DefaultStatsInterval is how often recon figures are renewed. Swift: DEFAULT_STATS_INTERVAL.
const DefaultStatsInterval = 300 * time.Second

// DefaultPartitionsPerDevice is Config.PartitionsPerDevice where nobody has asked for another number.
const DefaultPartitionsPerDevice = 4

// Auto, as Config.Workers, is a worker per device.
const Auto = -1

// Log is what a relinker tells; daemon.Logger is one.
type Log interface {
	Debugf(format string, args ...any)
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Config is what a relinker needs to know. Times and names are those of [object-relinker].
type Config struct {
	Swift      *policy.Swift
	SwiftDir   string // where the rings lie
	Devices    string // parent folder of the devices
	MountCheck bool
	Cleanup    bool // the second step

	Policies   []*policy.Policy // nil: all
	Names      []string         // of devices; nil: all
	Partitions []int            // nil: all

	HashDirsPerSecond float64 // files_per_second: object directories, per worker; 0: no limit
	Workers           int     // Auto; 0 and 1: one device after the other
	// PartitionsPerDevice are under way at a time on a device, in their order; 0 is 1.
	PartitionsPerDevice int
	StatsInterval       time.Duration // of recon figures
	ReconPath           string

	ReclaimAge, CommitWindow time.Duration
	Clobber                  bool // clobber_hardlink_collisions
	DryRun                   bool

	MasterTexts bool // imping_log_texts = master
	Log         Log
	// Verbose tells that Debugf is read.
	Verbose bool
	// Prefixed gives the log of a worker among several.
	Prefixed func(prefix string) Log
}

// step is what is done, in Swift's word.
func (c *Config) step() string {
	if c.Cleanup {
		return "cleanup"
	}
	return "relink"
}

// cleanupText is how 2.30's log lines say which step it is. Those of master have a prefix for that (rule 37).
func (c *Config) cleanupText() string {
	if c.MasterTexts {
		return ""
	}
	return " (cleanup=" + python(c.Cleanup) + ")"
}

// Progress is how far a relinker is. It may be read at any time.
type Progress struct {
	Partitions, PartitionsDone                  atomic.Int64 // to be done, of all devices
	HashDirs, Files, Linked, Removed, ErrorsNow atomic.Int64
	began                                       atomic.Int64
}

// Elapsed is the time since Run began.
func (g *Progress) Elapsed() time.Duration {
	if b := g.began.Load(); b != 0 {
		return time.Since(time.Unix(0, b))
	}
	return 0
}

// Relinker is one step over this node's devices.
type Relinker struct {
	Progress
	cfg   Config
	rings map[int]*ring.Ring // of the policies to be done, by index
	names []string           // of devices
	plans []*Plan            // of a dry run
	mu    sync.Mutex         // plans
}

// New loads the rings and looks for devices. A ring that can not be loaded is an error, whether its policy's power is being raised or
// not, as with Swift: it can not be known.
func New(c Config) (*Relinker, error) {
	r := &Relinker{cfg: c, rings: map[int]*ring.Ring{}}
	policies := c.Policies
	if policies == nil {
		policies = c.Swift.Policies
	}
	r.cfg.Policies = nil
	for _, p := range slices.SortedFunc(slices.Values(policies), func(a, b *policy.Policy) int { return a.Index - b.Index }) {
		if slices.Contains(r.cfg.Policies, p) {
			continue
		}
		g, err := ring.Load(filepath.Join(c.SwiftDir, ring.Name(p.Index)+".ring.gz"))
		if err != nil {
			return nil, err
		}
		if g.NextPartPower <= 0 || c.Cleanup != (g.NextPartPower == int(g.PartPower)) {
			continue
		}
		if !c.Cleanup && g.NextPartPower < int(g.PartPower) {
			return nil, fmt.Errorf("%s: the next partition power %d is below the one that it has, %d", g.Path, g.NextPartPower, g.PartPower)
		}
		r.rings[p.Index] = g
		r.cfg.Policies = append(r.cfg.Policies, p)
	}
	r.names = slices.Clone(c.Names)
	if len(r.names) == 0 {
		entries, err := os.ReadDir(c.Devices)
		if err != nil {
			return nil, fmt.Errorf("cannot list the devices: %w", err)
		}
		for _, e := range entries {
			r.names = append(r.names, e.Name())
		}
	}
	slices.Sort(r.names)
	r.names = slices.Compact(r.names)
	return r, nil
}

// Run does the step and returns the exit status that Swift's program would have. When ctx ends, what is under way is brought to
// a state from which either program goes on, and the error is ctx's cause.
func (r *Relinker) Run(ctx context.Context) (status int, err error) {
	log, c := r.cfg.Log, &r.cfg
	began := time.Now()
	r.began.Store(began.UnixNano())
	if !c.DryRun {
		r.merge(log, recon.Entry{"devices": map[string]any{}, "workers": map[string]any{}})
	}
	workers := c.Workers
	if workers == Auto {
		workers = len(r.names)
	}
	workers = min(workers, len(r.names))
	if c.MasterTexts {
		log = c.Prefixed("[step=" + c.step() + "] ")
	}
	log.Infof("Starting relinker%s using %d workers: %s", c.cleanupText(), workers, clock(began))
	defer func() {
		log.Infof("Finished relinker%s: %s (%s elapsed)", c.cleanupText(), clock(time.Now()), elapsed(time.Since(began)))
	}()
	if workers == 0 || len(r.names) < 2 {
		w := r.newWorker(log, r.names, fmt.Sprint(os.Getpid()))
		status = w.run(ctx)
		return status, context.Cause(ctx)
	}
	var wg sync.WaitGroup
	crew := make([]*worker, workers)
	status = Success
	var mu sync.Mutex
	for i := range crew {
		var devices []string // every workers-th
		for n := i; n < len(r.names); n += workers {
			devices = append(devices, r.names[n])
		}
		// Swift's workers are processes. Here they share one pid.
		prefix := fmt.Sprintf("pid=%d, devs=%s", os.Getpid(), strings.Join(devices, ","))
		if c.MasterTexts {
			prefix = "step=" + c.step() + ", " + prefix
		}
		crew[i] = r.newWorker(c.Prefixed("["+prefix+"] "), devices, fmt.Sprintf("%d-%d", os.Getpid(), i))
	}
	for _, w := range crew {
		wg.Go(func() {
			s := w.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case s == Failed:
				status = Failed
				log.Warnf("Worker (pid=%d, devs=%s) completed in %.1fs with errors", os.Getpid(), strings.Join(w.devices, ","), time.Since(began).Seconds())
			case s == NoPolicy && status == Success:
				status = NoPolicy
			}
		})
	}
	wg.Wait()
	return status, context.Cause(ctx)
}

// worker does some of the devices, one after the other.
type worker struct {
	*Relinker
	log     Log
	devices []string
	key     string // in the recon cache
	recon   reconData
	pace    pace
	guesses map[string]int // partitions by data directory, as long as it has not begun
}

func (r *Relinker) newWorker(log Log, devices []string, key string) *worker {
	return &worker{
		Relinker: r, log: log, devices: devices, key: key,
		recon: reconData{devices: map[string]map[int]*policyData{}, updated: time.Now()},
		pace:  pace{rate: r.cfg.HashDirsPerSecond}, guesses: map[string]int{},
	}
}

// guess counts the partitions that there may be to do, so that Progress has a whole from the beginning.
func (w *worker) guess() {
	for _, p := range w.cfg.Policies {
		for _, name := range w.devices {
			dir := filepath.Join(w.cfg.Devices, name, p.DataDir())
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue
			}
			upper := 1 << w.rings[p.Index].PartPower
			if w.cfg.Cleanup {
				upper /= 2
			}
			for _, e := range entries {
				if n, err := strconv.Atoi(e.Name()); err == nil && n < upper && (len(w.cfg.Partitions) == 0 || slices.Contains(w.cfg.Partitions, n)) {
					w.guesses[dir]++
				}
			}
			w.Partitions.Add(int64(w.guesses[dir]))
		}
	}
}

// expect puts the partitions that are to be done in place of the guess.
func (d *device) expect(parts int) {
	dir := filepath.Join(d.cfg.Devices, d.name, d.policy.DataDir())
	d.Partitions.Add(int64(parts - d.guesses[dir]))
	delete(d.guesses, dir)
}

// run returns the worker's exit status. Swift: cli/relinker.py, Relinker.run.
func (w *worker) run(ctx context.Context) int {
	w.dumpWorker(nil)
	w.guess()
	for _, p := range w.cfg.Policies {
		w.policy(ctx, p, w.rings[p.Index])
	}
	w.updateRecon("", true)
	if len(w.cfg.Policies) == 0 {
		w.log.Warnf("No policy found to increase the partition power.")
		w.dumpWorker(NoPolicy)
		return NoPolicy
	}
	var sum stats
	for _, dev := range w.recon.devices {
		for _, p := range dev {
			sum.add(&p.stats)
		}
	}
	status, logf := Success, w.log.Infof
	if sum.failures() > 0 || ctx.Err() != nil {
		status, logf = Failed, w.log.Warnf
	}
	if sum.unmounted > 0 {
		w.log.Warnf("%d disks were unmounted", sum.unmounted)
	}
	if sum.unlistable > 0 {
		w.log.Warnf("There were %d errors listing partition directories", sum.unlistable)
	}
	logf("%d hash dirs processed%s (%d files, %d linked, %d removed, %d errors)",
		sum.HashDirs, w.cfg.cleanupText(), sum.Files, sum.Linked, sum.Removed, sum.Errors+sum.unlistable)
	w.dumpWorker(status)
	return status
}

// policy does one policy on the worker's devices. Swift: Relinker.process_policy.
func (w *worker) policy(ctx context.Context, p *policy.Policy, g *ring.Ring) {
	root := w.cfg.Devices
	if len(w.devices) == 1 {
		root = filepath.Join(root, w.devices[0])
	}
	w.log.Infof("Processing files for policy %s under %s%s", p.Name, root, w.cfg.cleanupText())
	m := diskfile.NewManager(diskfile.Config{
		Devices: w.cfg.Devices, MountCheck: w.cfg.MountCheck, Policy: p, Hasher: w.cfg.Swift.Hasher(),
		ReclaimAge: w.cfg.ReclaimAge, CommitWindow: w.cfg.CommitWindow, Warn: w.log.Warnf,
	})
	for _, name := range w.devices {
		if ctx.Err() != nil {
			return
		}
		if _, err := os.Lstat(filepath.Join(w.cfg.Devices, name)); errors.Is(err, os.ErrNotExist) {
			w.log.Warnf("There is no device %s under %s", name, w.cfg.Devices) // as it was named
			continue
		}
		d := &device{worker: w, name: name, policy: p, ring: g, m: m}
		if err := d.run(ctx); err != nil && ctx.Err() == nil {
			w.log.Warnf("Skipping %s: %v", name, err)
			d.data().Errors++
		}
		d.expect(0) // if it has not begun
	}
}

// pace lets so many object directories through in a second, and after a rest up to five seconds' worth of those that were due.
// Swift: common/utils.py, RateLimitedIterator.
type pace struct {
	rate float64
	mu   sync.Mutex
	next time.Time
}

// maxPause is as good as no end.
const maxPause = 100 * 365 * 24 * time.Hour

func (p *pace) wait(ctx context.Context) error {
	pause := p.take(time.Now())
	if pause == 0 {
		return nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// take counts one, and says how long it has to wait.
func (p *pace) take(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.next) > 5*time.Second {
		p.next = now
	}
	pause := max(p.next.Sub(now), 0)
	p.next = p.next.Add(time.Duration(min(float64(time.Second)/p.rate, float64(maxPause))))
	return pause
}

// python is a truth value as Python prints it.
func python(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// clock is Python's strftime('%X %x %Z') of gmtime in the C locale.
func clock(t time.Time) string { return t.UTC().Format("15:04:05 01/02/06 GMT") }

// elapsed is Python's str(datetime.timedelta).
func elapsed(d time.Duration) string {
	d = d.Round(time.Microsecond)
	day := 24 * time.Hour
	text := ""
	switch days := int(d / day); days {
	case 0:
	case 1:
		text = "1 day, "
	default:
		text = fmt.Sprintf("%d days, ", days)
	}
	d %= day
	text += fmt.Sprintf("%d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
	if rest := d % time.Second; rest > 0 {
		text += fmt.Sprintf(".%06d", rest.Microseconds())
	}
	return text
}
