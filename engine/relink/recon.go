package relink

import (
	"context"
	"maps"
	"path/filepath"
	"strconv"
	"time"

	"imping/io/diskfile"
	"imping/swift/recon"
)

// reconFile is the relinker's recon cache; reconLock is how long Swift waits for its lock.
const (
	reconFile = "relinker.recon"
	reconLock = 2 * time.Second
)

// stats are the figures of a device in one policy.
type stats struct {
	diskfile.RelinkCounts
	unmounted, unlistable int64
}

func (s *stats) add(o *stats) {
	s.RelinkCounts.Add(o.RelinkCounts)
	s.unmounted += o.unmounted
	s.unlistable += o.unlistable
}

func (s *stats) failures() int64 { return s.Errors + s.unmounted + s.unlistable }

func (s *stats) entry() map[string]any {
	e := map[string]any{"hash_dirs": s.HashDirs, "files": s.Files, "linked": s.Linked, "removed": s.Removed, "errors": s.Errors}
	if s.unmounted > 0 {
		e["unmounted"] = s.unmounted
	}
	if s.unlistable > 0 {
		e["unlistable_partitions"] = s.unlistable
	}
	return e
}

// policyData is what recon tells of a device in one policy.
type policyData struct {
	stats
	begun                     time.Time // zero: the device could not be looked at
	ended                     time.Time
	updated                   time.Time
	power, next, parts, total int
}

// reconData is what recon tells of a worker.
type reconData struct {
	devices map[string]map[int]*policyData // by name and policy
	updated time.Time
}

func (d *reconData) policy(dev string, index int) *policyData {
	if d.devices[dev] == nil {
		d.devices[dev] = map[int]*policyData{}
	}
	if d.devices[dev][index] == nil {
		d.devices[dev][index] = &policyData{}
	}
	return d.devices[dev][index]
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// updateRecon renews the figures, if it is time. Swift: Relinker._update_recon.
func (w *worker) updateRecon(device string, force bool) {
	if w.cfg.DryRun || !force && time.Since(w.recon.updated) < w.cfg.StatsInterval {
		return
	}
	if device != "" {
		w.log.Debugf("Updating recon for %s", device)
	} else {
		w.log.Debugf("Updating recon")
	}
	w.recon.updated = time.Now()
	devices := map[string]any{}
	for name, policies := range w.recon.devices {
		devices[name] = w.deviceEntry(policies)
	}
	update := w.workerEntry(nil)
	update["devices"] = devices
	w.merge(w.log, update)
}

func (w *worker) deviceEntry(policies map[int]*policyData) map[string]any {
	var sum stats
	parts, total, took := 0, 0, 0.0
	var begun, updated float64
	each := map[string]any{}
	for index, p := range policies {
		sum.add(&p.stats)
		e := map[string]any{"stats": p.stats.entry()}
		if !p.begun.IsZero() {
			maps.Copy(e, map[string]any{
				"start_time": seconds(p.begun), "part_power": p.power, "next_part_power": p.next,
				"step": w.cfg.step(), "parts_done": p.parts, "total_parts": p.total, "timestamp": seconds(p.updated),
			})
			parts, total = parts+p.parts, total+p.total
			updated = max(updated, seconds(p.updated))
			if begun == 0 || seconds(p.begun) < begun {
				begun = seconds(p.begun)
			}
		}
		if !p.ended.IsZero() {
			e["total_time"] = p.ended.Sub(p.begun).Seconds()
			took = max(took, p.ended.Sub(p.begun).Seconds())
		}
		each[strconv.Itoa(index)] = e
	}
	device := map[string]any{"parts_done": parts, "total_parts": total, "total_time": took, "stats": sum.entry(), "policies": each}
	if begun > 0 {
		device["start_time"], device["timestamp"] = begun, updated
	}
	return device
}

// workerEntry tells that the worker lives, or with which status it has ended.
func (w *worker) workerEntry(status any) recon.Entry {
	devices := w.devices
	if devices == nil {
		devices = []string{}
	}
	return recon.Entry{"workers": map[string]any{w.key: map[string]any{
		"devices": devices, "timestamp": seconds(time.Now()), "return_code": status,
	}}}
}

func (w *worker) dumpWorker(status any) {
	if !w.cfg.DryRun {
		w.merge(w.log, w.workerEntry(status))
	}
}

// merge leaves figures in the recon cache. Trouble is logged: it changes nothing of what was done.
func (r *Relinker) merge(log Log, update recon.Entry) {
	ctx, cancel := context.WithTimeout(context.Background(), reconLock)
	defer cancel()
	if err := recon.Merge(ctx, filepath.Join(r.cfg.ReconPath, reconFile), update); err != nil {
		log.Errorf("Exception dumping recon cache: %v", err)
	}
}
