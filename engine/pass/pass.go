// Package pass makes one reconstruction pass over the local devices: it compares suffix
// hashes with the partners of every primary partition and pushes what they miss, rebuilt
// (SYNC), and moves fragments that belong elsewhere to where they belong (REVERT).
// It does not decode, speak SSYNC or read directories itself: engine/rebuild,
// netfast/ssync and io/diskfile do.
package pass

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"imping/codec"
	"imping/daemon"
	"imping/engine/pipeline"
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/io/slab"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/policy"
	"imping/swift/ring"
)

// Log takes the lines that an operator reads; their texts are Swift's where Swift has
// one (law 8).
type Log interface {
	Debugf(format string, args ...any)
	Infof(format string, args ...any)
	Warnf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Config is what a pass needs to know. Times and names are those of object-server.conf's
// [object-reconstructor].
type Config struct {
	SwiftDir      string // where the rings lie
	Devices       string // where the devices are mounted
	MountCheck    bool
	Swift         *policy.Swift
	RingIP        string // ring_ip, else bind_ip
	Port          int    // bind_port; 0: any port of a local address (servers_per_port)
	Concurrency   int    // jobs at once
	ConnTimeout   time.Duration
	NodeTimeout   time.Duration // no progress for so long
	HTTPTimeout   time.Duration // a whole REPLICATE, or waiting for a line of SSYNC
	ReclaimAge    time.Duration
	CommitWindow  time.Duration
	StatsInterval time.Duration
	RingCheck     time.Duration // ring_check_interval

	Only          Only                    // which jobs are done
	HandoffsOnly  bool                    // handoffs_only: partitions of which the device is a primary are passed over
	MaxRevert     int                     // max_objects_per_revert: offers of a REVERT's session; 0 = any
	SyncDelay     time.Duration           // sync_delay_after_part_move
	QuarantineMax int                     // quarantine_threshold; 0: no solitary fragment is quarantined
	QuarantineAge time.Duration           // quarantine_age
	RequestNodes  func(primaries int) int // request_node_count

	OnlyDevices    []string // -d; none: all
	OnlyPartitions []int    // -p; none: all

	Verify       rebuild.Verify // imping_verify_survivors (rule 5)
	LegacyCRC    bool           // write_legacy_ec_crc
	MemoryBudget int64
	Handoffs     int    // rebuild_handoff_node_count: -1 all, 0 none
	ReconPath    string // recon_cache_path
	Workers      int    // reconstructor_workers: decides how recon figures are kept
	MasterTexts  bool   // imping_log_texts = master
	Log          Log

	LockupTimeout time.Duration  // lockup_timeout; 0: none
	Statsd        *daemon.Statsd // nil: none
	Kept          *Kept          // by the passes of a process for each other; nil: there is only one

	// AllowedHeaders is the object servers' allowed_headers, in lower case: Repair takes
	// what they show for metadata, besides DefaultAllowedHeaders.
	AllowedHeaders []string
}

// Only says which jobs of a pass are done.
type Only string

const (
	OnlySync   Only = "sync"
	OnlyRevert Only = "revert"
)

// Pass is one pass. Make it with New, Run it once; Progress may be read at any time.
type Pass struct {
	cfg       Config
	Progress  Progress
	client    *netfast.Client
	pool      *slab.Pool
	rebuilder *rebuild.Rebuilder
	policies  []*place
	targets   targetLocks
	leftovers leftovers
	start     time.Time
	firstWait time.Duration // before the second try; fields for the tests
	jobLimit  time.Duration
	slowLimit time.Duration // of a fragment's write while another session waits
	noOffsets sync.Map      // addresses of those that know no offsets of metadata (rule 17)

	stallAfter, stallAtEnd time.Duration
	queue                  *queue

	mu          sync.Mutex
	devicesLeft map[string]bool // under mu
	found       map[int]bool    // under mu: partitions of OnlyPartitions that a device has

	lockedUp atomic.Pointer[time.Time] // when the pass was found to be, by a clock that is never set; nil: it is not
}

// place is a policy with what belongs to it.
type place struct {
	mu      sync.Mutex // over the two below
	checked time.Time  // when the ring was last looked at
	changed bool       // the ring is not the one that was loaded: the pass goes on without the policy

	pol   *policy.Policy
	ring  *ring.Ring
	code  *codec.Code
	local []*ring.Device
	files *diskfile.Manager

	spares int // slots of a stripe for survivors to compare with
}

var errRing = errors.New("the ring has changed during the pass")

// maxPartners are left, right and far.
const maxPartners = 3

// reserve is what a job of the policy for so many partners holds of the memory budget: a
// stripe that is read while another is written (law 9). The segment is the policy's, or
// that of older objects.
func (pl *place) reserve(segment, partners int) int64 {
	return 2 * pipeline.StripeSize(pl.code, segment, partners+pl.spares)
}

// New loads the rings of all erasure-code policies. An error names the ring or policy and
// means that no pass can be run at all.
func New(cfg Config) (*Pass, error) {
	p := &Pass{
		cfg: cfg,
		client: netfast.NewClient(netfast.Options{
			ConnTimeout: cfg.ConnTimeout, NodeTimeout: cfg.NodeTimeout,
			UserAgent: UserAgent(), IdlePerHost: 32, IdleFor: 20 * time.Second,
		}),
		pool:      slab.New(cfg.MemoryBudget),
		firstWait: firstWait, jobLimit: jobLimit, stallAfter: stallAfter, stallAtEnd: stallAtEnd, slowLimit: idleLimit,
	}
	crc := codec.Zlib
	if cfg.LegacyCRC {
		crc = codec.Legacy
	}
	p.rebuilder = &rebuild.Rebuilder{Client: p.client, Verify: cfg.Verify, CRC: crc, Note: p.noteRefused}
	ips, err := ring.LocalIPs(cfg.RingIP)
	if err != nil {
		return nil, fmt.Errorf("cannot tell this machine's addresses: %w", err)
	}
	for _, pol := range cfg.Swift.Policies {
		if pol.Type != policy.ErasureCoding {
			continue
		}
		pl := &place{pol: pol, checked: time.Now(), spares: cfg.Verify.Spares()}
		if pl.ring, err = cfg.Kept.ring(filepath.Join(cfg.SwiftDir, ring.Name(pol.Index)+".ring.gz")); err != nil {
			return nil, err
		}
		if n := pol.UniqueFragments() * pol.Duplication; pl.ring.Replicas() != float64(n) {
			return nil, fmt.Errorf("%s: %v replicas, but policy %d (%s) makes %d fragments", pl.ring.Path, pl.ring.Replicas(), pol.Index, pol.Name, n)
		}
		if pl.code, err = codec.New(codec.Scheme{Type: pol.ECType, K: pol.Data, M: pol.Parity}); err != nil {
			// Other policies are still worth a pass; this one is left, and said to be.
			cfg.Log.Errorf("Policy %d (%s) cannot be reconstructed: %v", pol.Index, pol.Name, err)
			p.Progress.PoliciesLeft.Add(1)
			continue
		}
		for _, d := range pl.ring.Devs {
			if d != nil && d.IsLocal(ips, cfg.Port) {
				pl.local = append(pl.local, d)
			}
		}
		pl.files = diskfile.NewManager(diskfile.Config{
			Devices: cfg.Devices, MountCheck: cfg.MountCheck, Policy: pol, Hasher: cfg.Swift.Hasher(),
			ReclaimAge: cfg.ReclaimAge, CommitWindow: cfg.CommitWindow, Warn: cfg.Log.Warnf,
		})
		p.policies = append(p.policies, pl)
	}
	return p, nil
}

// Close ends the pass's idle connections and gives its memory back: a process may make many
// passes.
func (p *Pass) Close() {
	p.client.Close()
	p.pool.Close()
}

// LocalDevices are the names of this node's devices in the rings of all policies that
// the pass covers, sorted.
func (p *Pass) LocalDevices() []string {
	seen := make(map[string]bool)
	for _, pl := range p.policies {
		for _, d := range pl.local {
			seen[d.Device] = true
		}
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Run makes the pass, or as much of it as ctx allows. What went wrong was logged and
// counted, and what was not done is in Left.
func (p *Pass) Run(ctx context.Context) Left {
	p.start = time.Now()
	p.Progress.begin()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, pl := range p.policies {
		if least := pl.reserve(pl.pol.SegmentSize, maxPartners); least > p.cfg.MemoryBudget {
			p.cfg.Log.Warnf("The memory budget of %d bytes is too small for policy %d (%s): raised to %d", p.cfg.MemoryBudget, pl.pol.Index, pl.pol.Name, least)
		}
	}
	q := newQueue(ctx)
	p.queue = q
	q.work = func(it *item) bool { return p.work(q, it) }
	q.note = p.noteStalled
	q.hung = p.cfg.Kept.hang
	q.listed = func() { p.Progress.collected.Store(true) } // or has been given up
	p.collect(q)
	defer p.watchLockups(ctx, cancel)()

	heartbeat, stop := context.WithCancel(ctx)
	var beat sync.WaitGroup
	beat.Add(1)
	go func() {
		defer beat.Done()
		tick := time.NewTicker(p.cfg.StatsInterval)
		defer tick.Stop()
		for {
			select {
			case <-heartbeat.Done():
				return
			case <-tick.C:
				p.logStats()
			}
		}
	}()

	p.leaveStalled(q.run(max(1, p.cfg.Concurrency), p.stallAfter, p.stallAtEnd))
	stop()
	beat.Wait()
	p.logStats()
	p.cfg.Log.Infof("Time of all partitions together went to %v", &p.Progress.Times)
	if p.cfg.HandoffsOnly {
		p.sayHandoffs()
	}
	left := p.Progress.left()
	left.Interrupted = ctx.Err() != nil
	for _, n := range p.Missing() {
		if left.Interrupted {
			break // it may not have been come to
		}
		p.cfg.Log.Warnf("Partition %d is on none of the devices that the pass covers", n)
	}
	return left
}

// LookAtRings has the rings looked at before the next step of each policy, however short ago
// that was.
func (p *Pass) LookAtRings() {
	for _, pl := range p.policies {
		pl.mu.Lock()
		pl.checked = time.Time{}
		pl.mu.Unlock()
	}
}

// ringChanged looks now and then whether the policy's ring is still the one that the pass
// goes by. When it is not, devices may be pushed what is no longer theirs, so that the
// rest of the policy is left to the next pass (Swift: reconstruct, check_ring).
func (p *Pass) ringChanged(pl *place) bool {
	changed, _ := p.checkRing(pl, p.cfg.RingCheck)
	return changed
}

// checkRing looks if that was done longer ago than every. Trouble with that is logged.
func (p *Pass) checkRing(pl *place, every time.Duration) (changed bool, err error) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.changed || time.Since(pl.checked) < every {
		return pl.changed, nil
	}
	pl.checked = time.Now()
	changed, err = pl.ring.Changed()
	if err != nil {
		p.cfg.Log.Warnf("Unable to look at the ring of policy %d (%s): %v", pl.pol.Index, pl.pol.Name, err)
	}
	if pl.changed = changed && err == nil; pl.changed {
		p.cfg.Log.Infof("Ring change detected for policy %d (%s). Aborting current reconstruction pass for this policy.", pl.pol.Index, pl.pol.Name)
		p.Progress.PoliciesLeft.Add(1)
	}
	return pl.changed, err
}

// work does what an item of the queue needs now. False: the item was lost meanwhile.
func (p *Pass) work(q *queue, it *item) bool {
	begin := time.Now()
	changed := p.ringChanged(it.place)
	if it.looked && !it.begun && (changed || it.ctx.Err() != nil) {
		it.drop() // as if nobody had come to it yet
		if it.losses == 0 {
			p.Progress.PartitionsDone.Add(-1)
		}
		return q.done(it)
	}
	if changed {
		it.giveUp(errRing)
		return p.conclude(q, it)
	}
	if !it.looked {
		if it.losses == 0 {
			p.Progress.PartitionsDone.Add(1)
		}
		it.files = it.place.files.Watched(&it.calls)
		if err := p.plan(it); err != nil {
			if !q.done(it) {
				return false
			}
			p.cfg.Log.Errorf("Unable to read the suffix hashes of %s: %v", it, err)
			p.leavePartition(it.partition, err)
			return true
		}
		if p.askAhead(it) {
			it.spent += time.Since(begin)
			if !q.answers(it) {
				it.drop()
				return false
			}
			return true
		}
	}
	p.begins(it)
	for _, j := range it.jobs {
		if len(j.waiting) == 0 || time.Until(j.due) > 0 && it.ctx.Err() == nil || stalled(it.ctx) {
			continue
		}
		start := time.Now()
		if wait, again := p.step(it.ctx, j); again {
			j.due = time.Now().Add(wait)
		}
		j.spent += time.Since(start)
	}
	it.spent += time.Since(begin)
	if due, waits := it.next(); waits && !stalled(it.ctx) {
		return q.later(it, time.Until(due))
	}
	if !p.conclude(q, it) {
		return false
	}
	p.Progress.partitionTook(it.spent)
	return true
}

// next is when the first of the jobs that wait may be tried again.
func (it *item) next() (due time.Time, waits bool) {
	for _, j := range it.jobs {
		if len(j.waiting) > 0 && (!waits || j.due.Before(due)) {
			due, waits = j.due, true
		}
	}
	return due, waits
}

// begins counts the jobs of an item whose turn has come.
func (p *Pass) begins(it *item) {
	if it.begun {
		return
	}
	it.begun = true
	for _, j := range it.jobs {
		if j.revert != nil {
			p.revertBegins(it.dev.Device)
		} else {
			p.syncBegins(it.dev.Device)
		}
	}
}

// askAhead asks the partners of an item whose turn is only now coming. False: nobody was asked.
func (p *Pass) askAhead(it *item) (asked bool) {
	for _, j := range it.jobs {
		if j.revert == nil && it.ctx.Err() == nil {
			p.askAll(it.ctx, j, j.waiting)
			asked = true
		}
	}
	return asked
}

// drop has nobody wait for the answers to what was asked ahead.
func (it *item) drop() {
	for _, j := range it.jobs {
		for _, pr := range j.waiting {
			pr.drop()
		}
	}
}

// giveUp leaves what the jobs still wait for.
func (it *item) giveUp(cause error) {
	it.drop()
	for _, j := range it.jobs {
		for _, pr := range j.waiting {
			j.giveUp(pr, cause)
		}
		j.waiting = nil
	}
}

// conclude ends an item in order. False: it was lost.
func (p *Pass) conclude(q *queue, it *item) bool {
	it.drop()
	for _, j := range it.jobs {
		if !stalled(it.ctx) {
			p.quarantine(j)
		}
	}
	if !stalled(it.ctx) {
		p.vacate(it)
	}
	if !q.done(it) {
		return false
	}
	for _, j := range it.jobs {
		if j.revert != nil {
			p.revertTook(j.spent)
		} else {
			p.syncTook(j.spent)
		}
	}
	p.account(it)
	return true
}

// Patience with a disk.
const (
	// stallAfter is how long a call to a disk may make no step: longer than a disk takes that
	// retries a bad sector, or than one that is merely slow under load.
	stallAfter = 60 * time.Second
	// stallAtEnd is the same once the pass is to end.
	stallAtEnd = 3 * time.Second
)

// stalled reports that an item's context has ended since it was lost.
func stalled(ctx context.Context) bool { return ctx.Err() != nil && context.Cause(ctx) == errStalled }

// whenStalled does what frees others from an item that is lost, since its own goroutines
// may hang for ever. stop ends the watch.
func whenStalled(ctx context.Context, do func()) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		if stalled(ctx) {
			do()
		}
	})
}

func (p *Pass) noteStalled(device string, stalled bool) {
	if stalled {
		p.cfg.Log.Errorf("Device %s is stalled: a call to it makes no progress. The pass goes on without it", device)
	} else {
		p.cfg.Log.Warnf("Device %s is no longer stalled: it is taken up again", device)
	}
}

// leaveStalled counts and lists what stalled devices kept from being done.
func (p *Pass) leaveStalled(left []*item) {
	for _, it := range left {
		if it.disk.stalled() {
			p.leaveDevice(nil, it.disk.name, errStalled)
		}
		switch {
		case it.partition == nil: // of a listing nobody knows what it would have found
			for _, pl := range p.policies {
				if slices.ContainsFunc(pl.local, func(d *ring.Device) bool { return d.Device == it.disk.name }) {
					p.leaveDevice(pl, it.disk.name, errStalled)
				}
			}
		case it.lost:
			p.leavePartition(it.partition, errStalled)
		case !it.begun:
			it.drop()
			p.leavePartition(it.partition, errStalled)
		default:
			it.giveUp(errStalled)
			p.account(it)
			it.cancel(errStalled)
		}
	}
}

// leaveDevice counts a device as left, once, and lists it for the policy of which nothing of
// it was covered, if one is given.
func (p *Pass) leaveDevice(pl *place, device string, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.devicesLeft == nil {
		p.devicesLeft = make(map[string]bool)
	}
	if !p.devicesLeft[device] {
		p.devicesLeft[device] = true
		p.Progress.DevicesLeft.Add(1)
	}
	if pl != nil {
		p.leftovers.add(&Unrepaired{Policy: pl.pol.Index, Partition: -1, Index: -1, Device: device, Reason: cause.Error()})
	}
}

// leavePartition counts and lists a partition that could not be read.
func (p *Pass) leavePartition(pt *partition, cause error) {
	p.Progress.PartitionsLeft.Add(1)
	p.leftovers.add(&Unrepaired{Policy: pt.pol.Index, Partition: pt.part, Index: -1, Device: pt.dev.Device, Reason: cause.Error()})
}

// partition is one partition of one local device: the unit of work.
type partition struct {
	*place
	dev     *ring.Device
	part    int
	files   *diskfile.Manager // of the place, its calls watched for the item that the partition is now
	handoff bool              // the device is no primary of it
	losses  int               // how often it was lost; under the queue's lock
}

func (pt *partition) String() string {
	return filepath.Join(pt.dev.Device, pt.pol.DataDir(), strconv.Itoa(pt.part))
}

// collect has the queue list what there is to look at, each device beside the others: a
// slow one holds up nobody (Swift: collect_parts).
func (p *Pass) collect(q *queue) {
	devices := make(map[string][]localDevice) // by name
	for _, pl := range p.policies {
		if pl.ring.NextPartPower >= 0 {
			p.cfg.Log.Warnf("next_part_power set in policy '%s'. Skipping", pl.pol.Name)
			p.Progress.PoliciesLeft.Add(1)
			continue
		}
		for _, dev := range pl.local {
			if len(p.cfg.OnlyDevices) == 0 || slices.Contains(p.cfg.OnlyDevices, dev.Device) {
				devices[dev.Device] = append(devices[dev.Device], localDevice{pl, dev})
			}
		}
	}
	p.Progress.Devices.Store(int64(len(devices)))
	q.list(p.withoutHung(devices))
}

// localDevice is a local device in the ring of a policy.
type localDevice struct {
	*place
	dev *ring.Device
}

// list lists the partitions of a device, which is given for each of its policies.
func (p *Pass) list(of []localDevice, w diskfile.Watch) (parts []*partition) {
	for _, d := range of {
		name, files := d.dev.Device, d.files.Watched(w)
		if err := files.CleanTemporaries(name); err != nil {
			p.cfg.Log.Debugf("%v", err) // Partitions says more
		}
		data := filepath.Join(p.cfg.Devices, name, d.pol.DataDir())
		list, unexpected, err := files.Partitions(name)
		var unmounted *diskfile.NotMountedError
		if errors.As(err, &unmounted) {
			p.cfg.Log.Warnf("%s is not mounted", name)
		} else if err != nil {
			p.cfg.Log.Errorf("Unable to list partitions in '%s': %v", data, err)
		}
		if err != nil {
			p.leaveDevice(d.place, name, err)
			continue
		}
		for _, entry := range unexpected {
			p.cfg.Log.Warnf("Unexpected entity in data dir: '%s'", filepath.Join(data, entry))
		}
		for _, n := range list {
			if n >= d.ring.Partitions() {
				p.cfg.Log.Warnf("Unexpected entity in data dir: '%s': the ring has %d partitions", d.files.PartitionPath(name, n), d.ring.Partitions())
			} else if p.cfg.HandoffsOnly && slices.ContainsFunc(d.ring.PartNodes(n), func(node ring.Node) bool { return node.ID == d.dev.ID }) {
				p.cfg.Log.Debugf("Skipping SYNC job for %s while in handoffs_only mode.", d.files.PartitionPath(name, n))
			} else if len(p.cfg.OnlyPartitions) == 0 || slices.Contains(p.cfg.OnlyPartitions, n) {
				parts = append(parts, &partition{place: d.place, dev: d.dev, part: n, files: d.files})
				p.noteFound(n)
			}
		}
	}
	p.Progress.Partitions.Add(int64(len(parts)))
	return parts
}

// plan reads a partition's suffix hashes and makes its jobs.
func (p *Pass) plan(it *item) error {
	pt := it.partition
	defer p.Progress.Times.since(Compare, time.Now())
	hashes, n, err := pt.files.SuffixHashes(pt.dev.Device, pt.part, nil, true)
	p.hashed(n)
	if err != nil {
		return err
	}
	nodes := pt.ring.PartNodes(pt.part)
	pt.handoff = !slices.ContainsFunc(nodes, func(n ring.Node) bool { return n.ID == pt.dev.ID })
	jobs, bad := assign(pt.pol, nodes, pt.dev.ID, hashes, pick)
	for _, index := range slices.Sorted(maps.Keys(bad)) {
		p.cfg.Log.Warnf("Bad fragment index %d for suffixes %v under %s", index, bad[index], pt.files.PartitionPath(pt.dev.Device, pt.part))
		it.misfits = true
	}
	for _, a := range jobs {
		switch {
		case a.revert && p.cfg.Only == OnlySync:
			it.misfits = true
		case a.revert || p.cfg.Only != OnlyRevert:
			it.jobs = append(it.jobs, pt.job(a, nodes, hashes))
		}
	}
	it.vacant = len(jobs) == 0 && len(bad) == 0
	it.looked = true
	return nil
}

// pick picks some of the nodes at random.
func pick(nodes []ring.Node, n int) []ring.Node {
	nodes = slices.Clone(nodes)
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	return nodes[:n]
}

// partners are the left, right and far neighbours in the ring (Swift: _get_partners),
// each once, never the node itself.
func partners(index int, nodes []ring.Node) []ring.Node {
	n := len(nodes)
	var list []ring.Node
	for _, i := range []int{(index - 1 + n) % n, (index + 1) % n, (index + n/2) % n} {
		seen := nodes[i].ID == nodes[index].ID
		for _, have := range list {
			seen = seen || have.ID == nodes[i].ID
		}
		if !seen {
			list = append(list, nodes[i])
		}
	}
	return list
}

func (p *Pass) timeouts() ssync.Timeouts {
	return ssync.Timeouts{Conn: p.cfg.ConnTimeout, Node: p.cfg.NodeTimeout, HTTP: p.cfg.HTTPTimeout}
}

// targetLocks keeps SSYNC to one session per target device (rule 11).
type targetLocks struct {
	mu sync.Mutex
	m  map[string]chan struct{}
}

func (t *targetLocks) of(target string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[string]chan struct{})
	}
	if t.m[target] == nil {
		t.m[target] = make(chan struct{}, 1)
	}
	return t.m[target]
}

// held are the targets that somebody has now, sorted.
func (t *targetLocks) held() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, c := range t.m {
		if len(c) > 0 {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// lock waits for the target, or for ctx. release gives it back, once.
func (t *targetLocks) lock(ctx context.Context, target string) (release func(), err error) {
	c := t.of(target)
	select {
	case c <- struct{}{}:
		return sync.OnceFunc(func() { <-c }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// try takes the target if it is free now.
func (t *targetLocks) try(target string) (release func(), ok bool) {
	c := t.of(target)
	select {
	case c <- struct{}{}:
		return sync.OnceFunc(func() { <-c }), true
	default:
		return nil, false
	}
}
