package relink

import (
	"slices"
	"strings"

	"imping/io/diskfile"
)

// Plan is what a dry run found on a device.
type Plan struct {
	Device, Policy string
	diskfile.RelinkCounts
}

// Plans are what a dry run found, when it has ended: by device, and of each by policy.
func (r *Relinker) Plans() []*Plan {
	slices.SortStableFunc(r.plans, func(a, b *Plan) int { return strings.Compare(a.Device, b.Device) })
	return r.plans
}

func (d *device) plan() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plans = append(d.plans, &Plan{Device: d.name, Policy: d.policy.Name, RelinkCounts: d.data().RelinkCounts})
}
