package batch

import (
	"fmt"
	"sync"
)

// The values of the option io_engine.
const (
	Auto      = "auto" // what BENCHMARKS.md shows to cost least: plain
	URing     = "uring"
	PlainOnly = "plain"
)

// helpers is how many goroutines of its own a plain engine has at a time, and workers how many threads of the kernel a ring has. Syncs wait
// for the disk together, so that more of them cost little and fewer would wait in line; the kernel's own choice, 8 with two processors, does.
const (
	helpers = 32
	workers = 32
)

var shared = newPlain(helpers)

// Plain is the engine of plain system calls. All callers share it, and it need not be closed.
func Plain() Engine { return shared }

// Engines are those of a process: one per device where they are rings, so that a disk that hangs has only its own operations wait.
type Engines struct {
	choice string
	warn   func(format string, args ...any)

	mu      sync.Mutex
	devices map[string]Engine
	refused bool // or closed: there are no more rings
}

// New says which engine is used: Auto, URing or PlainOnly; "" is Auto. Where the machine refuses io_uring, by seccomp, sysctl, an
// old kernel or a limit, plain calls are made, and warn is told once.
func New(choice string, warn func(format string, args ...any)) (*Engines, error) {
	switch choice {
	case "", Auto:
		choice = PlainOnly
	case URing, PlainOnly:
	default:
		return nil, fmt.Errorf("%.40q is no io_engine: auto, uring or plain", choice)
	}
	return &Engines{choice: choice, warn: warn, devices: map[string]Engine{}}, nil
}

// For is the engine of a device.
func (e *Engines) For(device string) Engine {
	if e.choice == PlainOnly {
		return shared
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if engine := e.devices[device]; engine != nil {
		return engine
	}
	if e.refused {
		return shared
	}
	u, err := newURing(workers, false)
	if err != nil {
		e.refused = true
		e.warn("io_uring is not to be had, plain system calls are made: %v", err)
		return shared
	}
	e.devices[device] = u
	return u
}

// Close ends all rings, when what they are doing is done. What is asked for later is done by plain calls.
func (e *Engines) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, engine := range e.devices {
		engine.Close()
	}
	clear(e.devices)
	e.refused = true
}
