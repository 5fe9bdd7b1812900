package pass

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"imping/swift/recon"
)

// reconLock is how long Swift waits for the recon cache's lock.
const reconLock = 2 * time.Second

// DumpRecon leaves the figures of a pass in the recon cache, and the list of what it left
// beside it, when the pass covered whole devices (rule 38). With reconstructor_workers
// the figures are per device, and those of the node are derived from them, as Swift's
// parent process does. Trouble is logged: it changes nothing of what the pass did.
func (p *Pass) DumpRecon(took time.Duration) {
	if len(p.cfg.OnlyPartitions) > 0 || (p.cfg.Workers < 1 && len(p.cfg.OnlyDevices) > 0) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*reconLock)
	defer cancel()
	path := filepath.Join(p.cfg.ReconPath, recon.ObjectFile)
	local := p.LocalDevices()
	now := float64(time.Now().UnixNano()) / 1e9
	figures := map[string]any{"object_reconstruction_time": took.Minutes(), "object_reconstruction_last": now}
	update := recon.Entry{}
	covered := p.cfg.OnlyDevices
	if len(covered) == 0 {
		covered = local
	}
	if p.cfg.Workers > 0 && len(covered) > 0 {
		figures["pid"] = os.Getpid()
		disks := make(map[string]any)
		for _, d := range covered {
			disks[d] = figures
		}
		update["object_reconstruction_per_disk"] = disks
	} else {
		for k, v := range figures {
			update[k] = v
		}
		update["object_reconstruction_per_disk"] = map[string]any{}
	}
	err := recon.Merge(ctx, path, update)
	if err == nil && p.cfg.Workers > 0 {
		err = aggregate(ctx, path, local)
	}
	if err != nil {
		p.cfg.Log.Errorf("Exception dumping recon cache: %v", err)
	}
	if len(p.cfg.OnlyDevices) > 0 {
		return // the list speaks of whole passes
	}
	if err := p.WriteUnrepaired(filepath.Join(p.cfg.ReconPath, UnrepairedFile)); err != nil {
		p.cfg.Log.Errorf("%v", err)
	}
}

// aggregate derives the node's figures from its devices' when all have reported, and
// clears those of devices that are gone (Swift: aggregate_recon_update).
func aggregate(ctx context.Context, path string, local []string) error {
	e, err := recon.Load(path)
	if err != nil {
		return err
	}
	const perDisk = "object_reconstruction_per_disk"
	disks, _ := e[perDisk].(map[string]any)
	number := func(disk, key string) (float64, bool) {
		d, _ := disks[disk].(map[string]any)
		n, ok := d[key].(interface{ Float64() (float64, error) })
		if !ok {
			return 0, false
		}
		f, err := n.Float64()
		return f, err == nil
	}
	first, last, all := float64(time.Now().UnixNano())/1e9, 0.0, true
	for _, d := range local {
		end, ok := number(d, "object_reconstruction_last")
		took, ok2 := number(d, "object_reconstruction_time")
		if !ok || !ok2 {
			all = false
			break
		}
		first, last = min(first, end-took*60), max(last, end)
	}
	update := recon.Entry{}
	if all && last > 0 {
		update["object_reconstruction_time"] = (last - first) / 60
		update["object_reconstruction_last"] = last
	}
	gone := make(map[string]any)
	for d := range disks {
		if !slices.Contains(local, d) {
			gone[d] = map[string]any{}
		}
	}
	if len(gone) > 0 {
		update[perDisk] = gone
	}
	return recon.Merge(ctx, path, update)
}
