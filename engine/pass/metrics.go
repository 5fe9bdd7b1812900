package pass

import "time"

// What a pass tells statsd, under Swift's names (rule 37; Swift: obj/reconstructor.py, _sync,
// _revert, _get_hashes).

// hashed counts suffixes that were hashed anew.
func (p *Pass) hashed(n int) {
	p.Progress.SuffixesHashed.Add(int64(n))
	p.cfg.Statsd.Add("suffix.hashes", n)
}

// synced counts suffixes that a partner was brought in step with.
func (p *Pass) synced(n int) {
	p.Progress.SuffixesSynced.Add(int64(n))
	p.cfg.Statsd.Add("suffix.syncs", n)
}

// syncBegins counts a SYNC job of a local device, syncTook what it took in all.
func (p *Pass) syncBegins(device string) {
	p.cfg.Statsd.Increment("partition.update.count." + device)
}

func (p *Pass) syncTook(d time.Duration) { p.cfg.Statsd.Timing("partition.update.timing", d, -1) }

// revertBegins counts a REVERT job of a local device, revertTook what it took in all, and
// revertLocked one whose partition somebody else held the replication lock of.
func (p *Pass) revertBegins(device string) {
	p.cfg.Statsd.Increment("partition.delete.count." + device)
}

func (p *Pass) revertTook(d time.Duration) { p.cfg.Statsd.Timing("partition.delete.timing", d, -1) }

func (p *Pass) revertLocked() { p.cfg.Statsd.Increment("partition.lock-failure.count") }

// putAway counts an object that was quarantined. Swift: obj/diskfile.py, BaseDiskFile._quarantine, whose logger is the reconstructor's.
func (p *Pass) putAway() {
	p.Progress.Corrupt.Add(1)
	p.cfg.Statsd.Increment("quarantines")
}
