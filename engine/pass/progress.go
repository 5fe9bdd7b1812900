package pass

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// Progress counts what a pass did so far. The counters may be read while it runs.
type Progress struct {
	Devices, Partitions, PartitionsDone         atomic.Int64
	SuffixesHashed, Suffixes, SuffixesSynced    atomic.Int64
	ObjectsWanted                               atomic.Int64 // archives, tombstones and metadata files that partners asked for
	Rebuilt, BytesRebuilt                       atomic.Int64 // archives that a receiver confirmed, and their bytes
	Reverted                                    atomic.Int64 // archives that were brought where they belong, and confirmed
	Purged                                      atomic.Int64 // files that were removed here since others confirmed that they have them
	Metadata, Tombstones                        atomic.Int64 // .meta and .ts files that a receiver confirmed
	BytesRead                                   atomic.Int64 // of survivors
	Sent, BytesSent                             atomic.Int64 // archives and bytes written to receivers so far: some may have to be sent again
	Sessions, SessionsRetried, Corrupt, Refused atomic.Int64

	ObjectsLeft    atomic.Int64 // could not be rebuilt or sent
	PartitionsLeft atomic.Int64 // of which something could not be read, compared or synced: each once per local device
	DevicesLeft    atomic.Int64 // unmounted, unreadable or stalled
	PoliciesLeft   atomic.Int64
	Handoffs       atomic.Int64 // partitions in which fragments stay that belong elsewhere

	collected atomic.Bool
	began     atomic.Int64 // unix ns
	mu        sync.Mutex
	took      []time.Duration
}

// Left is what a pass did not do.
type Left struct {
	Objects     int64 `json:"objects"`
	Partitions  int64 `json:"partitions"`
	Devices     int64 `json:"devices"`
	Policies    int64 `json:"policies"`
	Handoffs    int64 `json:"partitions_to_revert"`
	Interrupted bool  `json:"interrupted"` // and whatever the pass had not come to
}

// Any reports whether anything was left.
func (l Left) Any() bool { return l != Left{} }

func (l Left) String() string {
	return fmt.Sprintf("%d objects, %d partitions, %d devices, %d policies, %d partitions to revert", l.Objects, l.Partitions, l.Devices, l.Policies, l.Handoffs)
}

func (g *Progress) left() Left {
	return Left{
		Objects: g.ObjectsLeft.Load(), Partitions: g.PartitionsLeft.Load(), Devices: g.DevicesLeft.Load(),
		Policies: g.PoliciesLeft.Load(), Handoffs: g.Handoffs.Load(),
	}
}

func (g *Progress) begin() { g.began.Store(time.Now().UnixNano()) }

// Elapsed is the time since the pass began.
func (g *Progress) Elapsed() time.Duration {
	b := g.began.Load()
	if b == 0 {
		return 0
	}
	return time.Since(time.Unix(0, b))
}

// Collected reports whether the total number of partitions is known yet.
func (g *Progress) Collected() bool { return g.collected.Load() }

func (g *Progress) partitionTook(d time.Duration) {
	g.mu.Lock()
	g.took = append(g.took, d)
	g.mu.Unlock()
}

func (g *Progress) partitionTimes() []time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	times := append([]time.Duration(nil), g.took...)
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	return times
}

// logStats writes the lines that Swift's stats_line writes.
func (p *Pass) logStats() {
	g, log := &p.Progress, p.cfg.Log
	elapsed := time.Since(p.start).Seconds()
	done, total := g.PartitionsDone.Load(), g.Partitions.Load()
	if g.Devices.Load() == 0 || total == 0 {
		log.Infof("Nothing reconstructed for %v seconds.", elapsed)
		return
	}
	rate := float64(done) / max(elapsed, 1e-6)
	log.Infof("%d/%d (%.2f%%) partitions reconstructed in %.2fs (%.2f/sec, %s remaining)",
		done, total, float64(done)*100/float64(total), elapsed, rate, eta(elapsed, done, total))
	times := g.partitionTimes()
	if n := g.Suffixes.Load(); n > 0 && len(times) > 0 {
		log.Infof("%d suffixes checked - %.2f%% hashed, %.2f%% synced",
			n, 0.0, float64(g.SuffixesSynced.Load())*100/float64(n))
		log.Infof("Partition times: max %.4fs, min %.4fs, med %.4fs",
			times[len(times)-1].Seconds(), times[0].Seconds(), times[len(times)/2].Seconds())
	}
}

// eta is Swift's compute_eta: what is left at the rate so far, in seconds, minutes or hours.
func eta(elapsed float64, done, total int64) string {
	completion := max(float64(done)/float64(total), 0.00001)
	left, unit := elapsed/completion-elapsed, "s"
	if left > 60 {
		left, unit = left/60, "m"
		if left > 60 {
			left, unit = left/60, "h"
		}
	}
	return fmt.Sprintf("%d%s", int64(left), unit)
}
