// Package pass makes one reconstruction pass over the local devices: it compares suffix
// hashes with the partners of every primary partition and pushes what they miss, rebuilt.
// It does not decode, speak SSYNC or read directories itself: engine/rebuild,
// netfast/ssync and io/diskfile do.
package pass

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"time"

	"imping/codec"
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

	OnlyDevices    []string // -d; none: all
	OnlyPartitions []int    // -p; none: all

	Verify       bool // verify_survivors = md5 (rule 5)
	LegacyCRC    bool // write_legacy_ec_crc
	MemoryBudget int64
	Handoffs     int    // rebuild_handoff_node_count: -1 all, 0 none
	ReconPath    string // recon_cache_path
	Workers      int    // reconstructor_workers: decides how recon figures are kept
	Log          Log

	// AllowedHeaders is the object servers' allowed_headers, in lower case: Repair takes
	// what they show for metadata, besides DefaultAllowedHeaders.
	AllowedHeaders []string
}

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
}

var errRing = errors.New("the ring has changed during the pass")

// maxPartners are left, right and far.
const maxPartners = 3

// reserve is what a job of the policy for so many partners holds of the memory budget: a
// stripe that is read while another is written (law 9). The segment is the policy's, or
// that of older objects.
func (pl *place) reserve(segment, partners int) int64 {
	return 2 * pipeline.StripeSize(pl.code, segment, partners)
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
		firstWait: firstWait, jobLimit: jobLimit,
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
		pl := &place{pol: pol, checked: time.Now()}
		if pl.ring, err = ring.Load(filepath.Join(cfg.SwiftDir, ring.Name(pol.Index)+".ring.gz")); err != nil {
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

// Close ends the pass's idle connections.
func (p *Pass) Close() { p.client.Close() }

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
	for _, pl := range p.policies {
		if least := pl.reserve(pl.pol.SegmentSize, maxPartners); least > p.cfg.MemoryBudget {
			p.cfg.Log.Warnf("The memory budget of %d bytes is too small for policy %d (%s): raised to %d", p.cfg.MemoryBudget, pl.pol.Index, pl.pol.Name, least)
		}
	}
	q := newQueue(ctx)
	defer q.close()
	p.collect(q)
	p.Progress.collected.Store(true)

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

	var workers sync.WaitGroup
	for range max(1, p.cfg.Concurrency) {
		workers.Go(func() {
			for it := q.take(); it != nil; it = q.take() {
				p.work(ctx, q, it)
			}
		})
	}
	workers.Wait()
	stop()
	beat.Wait()
	p.logStats()
	left := p.Progress.left()
	left.Interrupted = ctx.Err() != nil
	return left
}

// ringChanged looks now and then whether the policy's ring is still the one that the pass
// goes by. When it is not, devices may be pushed what is no longer theirs, so that the
// rest of the policy is left to the next pass (Swift: reconstruct, check_ring).
func (p *Pass) ringChanged(pl *place) bool {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.changed || time.Since(pl.checked) < p.cfg.RingCheck {
		return pl.changed
	}
	pl.checked = time.Now()
	changed, err := pl.ring.Changed()
	if err != nil {
		p.cfg.Log.Warnf("Unable to look at the ring of policy %d (%s): %v", pl.pol.Index, pl.pol.Name, err)
	}
	if pl.changed = changed && err == nil; pl.changed {
		p.cfg.Log.Infof("Ring change detected for policy %d (%s). Aborting current reconstruction pass for this policy.", pl.pol.Index, pl.pol.Name)
		p.Progress.PoliciesLeft.Add(1)
	}
	return pl.changed
}

// work does what an item of the queue needs now.
func (p *Pass) work(ctx context.Context, q *queue, it *item) {
	begin := time.Now()
	if p.ringChanged(it.place) {
		if it.job != nil {
			for _, pr := range it.job.waiting {
				it.job.giveUp(pr, errRing)
			}
			p.quarantine(it.job)
			p.account(it.job)
		}
		q.done(it)
		return
	}
	if it.job == nil {
		p.Progress.PartitionsDone.Add(1)
		it.job = p.plan(it.partition)
	}
	if it.job != nil {
		if wait, again := p.step(ctx, it.job); again {
			it.spent += time.Since(begin)
			q.later(it, wait)
			return
		}
		p.quarantine(it.job)
		p.account(it.job)
	}
	p.Progress.partitionTook(it.spent + time.Since(begin))
	q.done(it)
}

// partition is one partition of one local device: the unit of work.
type partition struct {
	*place
	dev  *ring.Device
	part int
}

func (pt *partition) String() string {
	return filepath.Join(pt.dev.Device, pt.pol.DataDir(), strconv.Itoa(pt.part))
}

// collect lists what there is to look at (Swift: collect_parts).
func (p *Pass) collect(q *queue) {
	only := make(map[string]bool)
	for _, d := range p.cfg.OnlyDevices {
		only[d] = true
	}
	onlyPart := make(map[int]bool)
	for _, n := range p.cfg.OnlyPartitions {
		onlyPart[n] = true
	}
	parts := make(map[string][]*partition)                     // by device, over all policies
	seen, left := make(map[string]bool), make(map[string]bool) // over all policies
	leave := func(dev *ring.Device) {
		if !left[dev.Device] {
			left[dev.Device] = true
			p.Progress.DevicesLeft.Add(1)
		}
	}
	for _, pl := range p.policies {
		if pl.ring.NextPartPower >= 0 {
			p.cfg.Log.Warnf("next_part_power set in policy '%s'. Skipping", pl.pol.Name)
			p.Progress.PoliciesLeft.Add(1)
			continue
		}
		for _, dev := range pl.local {
			if len(only) > 0 && !only[dev.Device] {
				continue
			}
			if !seen[dev.Device] {
				p.Progress.Devices.Add(1)
			}
			seen[dev.Device] = true
			if err := pl.files.CleanTemporaries(dev.Device); err != nil {
				p.cfg.Log.Debugf("%v", err) // Partitions says more
			}
			list, unexpected, err := pl.files.Partitions(dev.Device)
			var unmounted *diskfile.NotMountedError
			if errors.As(err, &unmounted) {
				p.cfg.Log.Warnf("%s is not mounted", dev.Device)
				leave(dev)
				continue
			} else if err != nil {
				p.cfg.Log.Errorf("Unable to list partitions in '%s': %v", filepath.Join(p.cfg.Devices, dev.Device, pl.pol.DataDir()), err)
				leave(dev)
				continue
			}
			for _, name := range unexpected {
				p.cfg.Log.Warnf("Unexpected entity in data dir: '%s'", filepath.Join(p.cfg.Devices, dev.Device, pl.pol.DataDir(), name))
			}
			for _, n := range list {
				if n >= pl.ring.Partitions() {
					p.cfg.Log.Warnf("Unexpected entity in data dir: '%s': the ring has %d partitions", pl.files.PartitionPath(dev.Device, n), pl.ring.Partitions())
					continue
				}
				if len(onlyPart) > 0 && !onlyPart[n] {
					continue
				}
				parts[dev.Device] = append(parts[dev.Device], &partition{place: pl, dev: dev, part: n})
			}
		}
	}
	for name, list := range parts {
		p.Progress.Partitions.Add(int64(len(list)))
		q.add(name, list)
	}
}

// plan reads a partition's suffix hashes and makes its SYNC job; nil where there is none.
// Partitions that do not belong to the device, and fragments of other indexes, are work
// for REVERT, which this version leaves to stock Swift: counted, never touched.
func (p *Pass) plan(pt *partition) *job {
	hashes, n, err := pt.files.SuffixHashes(pt.dev.Device, pt.part, nil, true)
	p.Progress.SuffixesHashed.Add(int64(n))
	if err != nil {
		p.cfg.Log.Errorf("Unable to read the suffix hashes of %s: %v", pt, err)
		p.Progress.PartitionsLeft.Add(1)
		p.leftovers.add(&Unrepaired{Policy: pt.pol.Index, Partition: pt.part, Index: -1, Device: pt.dev.Device, Reason: err.Error()})
		return nil
	}
	primary := -1
	nodes := pt.ring.PartNodes(pt.part)
	for _, node := range nodes {
		if node.ID == pt.dev.ID {
			primary = node.Index
			break
		}
	}
	index := -1
	if primary >= 0 {
		index = pt.pol.BackendIndex(primary)
	}
	misplaced := primary < 0 && len(hashes) > 0
	for _, entry := range hashes {
		if entry == nil {
			continue
		}
		for frag := range entry.Frags {
			if frag != index {
				misplaced = true
			}
		}
	}
	if misplaced {
		p.cfg.Log.Debugf("%s holds fragments that belong elsewhere: left for a reconstructor that reverts", pt)
		p.Progress.Handoffs.Add(1)
	}
	if primary < 0 {
		return nil
	}
	job := &job{partition: pt, index: index, hashes: hashes, objects: make(map[string]*rebuild.Object), left: make(map[leftKey]*Unrepaired), damaged: make(map[string]bool), begun: time.Now(), segment: pt.pol.SegmentSize}
	for _, node := range partners(primary, nodes) {
		job.waiting = append(job.waiting, &partner{Peer: rebuild.NewPeer(pt.pol, node)})
	}
	for _, node := range nodes {
		if node.ID != pt.dev.ID {
			job.peers = append(job.peers, rebuild.NewPeer(pt.pol, node))
		}
	}
	if len(job.waiting) == 0 {
		return nil // a ring of one device: nobody to compare with
	}
	return job
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

// lock waits for the target, or for ctx.
func (t *targetLocks) lock(ctx context.Context, target string) error {
	select {
	case t.of(target) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// try takes the target if it is free now.
func (t *targetLocks) try(target string) bool {
	select {
	case t.of(target) <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t *targetLocks) unlock(target string) { <-t.of(target) }
