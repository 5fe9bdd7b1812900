package pass

import (
	"slices"
	"sync"

	"imping/io/diskfile"
)

// Hung knows the devices on which calls of a pass hang in the kernel. The passes of a process
// share it: a call can outlive its pass, and one more hanging thread in every pass would be
// the end of the process. The zero value is ready; nil knows none.
type Hung struct {
	mu    sync.Mutex
	calls map[string]int // by device
}

func (h *Hung) add(device string, n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.calls == nil {
		h.calls = make(map[string]int)
	}
	if h.calls[device] += n; h.calls[device] == 0 {
		delete(h.calls, device)
	}
}

func (h *Hung) has(device string) bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[device] > 0
}

// withoutHung takes those devices out on which calls of earlier passes still hang: they are
// left, and said to be.
func (p *Pass) withoutHung(devices map[string][]localDevice) map[string]func(diskfile.Watch) []*partition {
	looks := make(map[string]func(diskfile.Watch) []*partition, len(devices))
	for name, of := range devices {
		if !p.cfg.Hung.has(name) {
			looks[name] = func(w diskfile.Watch) []*partition { return p.list(of, w) }
			continue
		}
		p.cfg.Log.Errorf("Device %s is stalled: a call of an earlier pass to it has not come back. The pass goes on without it", name)
		for _, d := range of {
			p.leaveDevice(d.place, name, errStalled)
		}
	}
	return looks
}

// noteFound takes note of a partition that a device has.
func (p *Pass) noteFound(n int) {
	if len(p.cfg.OnlyPartitions) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		p.found = make(map[int]bool)
	}
	p.found[n] = true
}

// Missing are those partitions that the pass was to be narrowed to and that no device has.
func (p *Pass) Missing() (parts []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.cfg.OnlyPartitions {
		if !p.found[n] && !slices.Contains(parts, n) {
			parts = append(parts, n)
		}
	}
	return parts
}
