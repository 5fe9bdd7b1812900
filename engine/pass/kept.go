package pass

import (
	"slices"
	"sync"

	"imping/io/diskfile"
	"imping/swift/ring"
)

// Kept is what the passes of a process hand on to the next. The zero value is ready; nil keeps
// nothing, for one who makes a single pass.
type Kept struct {
	mu    sync.Mutex
	rings map[string]*ring.Ring // by path
	// hung counts calls that hang in the kernel, by device: they can outlive their pass, and
	// one more hanging thread in every pass would be the end of the process.
	hung map[string]int
}

// ring is the one of a file: what was read of it before, unless it has changed.
func (k *Kept) ring(path string) (*ring.Ring, error) {
	if k == nil {
		return ring.Load(path)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.rings[path]; r != nil {
		if changed, err := r.Changed(); err == nil && !changed {
			return r, nil
		}
	}
	r, err := ring.Load(path)
	if err != nil {
		return nil, err
	}
	if k.rings == nil {
		k.rings = make(map[string]*ring.Ring)
	}
	k.rings[path] = r
	return r, nil
}

// hang takes note of calls that hang, or that came back.
func (k *Kept) hang(device string, more int) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hung == nil {
		k.hung = make(map[string]int)
	}
	if k.hung[device] += more; k.hung[device] == 0 {
		delete(k.hung, device)
	}
}

func (k *Kept) hangs(device string) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hung[device] > 0
}

// withoutHung takes those devices out on which calls of earlier passes still hang: they are
// left, and said to be.
func (p *Pass) withoutHung(devices map[string][]localDevice) map[string]func(diskfile.Watch) []*partition {
	looks := make(map[string]func(diskfile.Watch) []*partition, len(devices))
	for name, of := range devices {
		if !p.cfg.Kept.hangs(name) {
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
