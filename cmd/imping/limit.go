package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// load is how busy this process and this machine were for a while. Shares are of 1; those
// of pressure are absent where the kernel does not tell.
type load struct {
	Seconds    float64  `json:"seconds"`
	CPU        float64  `json:"cpu_seconds"` // of this process: nodes and passes
	Processors int      `json:"processors"`
	Share      float64  `json:"cpu_share"` // of the processors
	ForCPU     *float64 `json:"pressure_cpu,omitempty"`
	ForDisk    *float64 `json:"pressure_io,omitempty"`
	LimitedBy  string   `json:"limited_by"`
}

// stopwatch is a load that is being measured.
type stopwatch struct {
	began      time.Time
	cpu        time.Duration
	wait, disk time.Duration
	told       bool // by the kernel, of wait and disk
}

func startLoad() *stopwatch {
	m := &stopwatch{began: time.Now(), cpu: cpuTime()}
	var ok bool
	if m.wait, ok = pressure("cpu"); ok {
		m.disk, m.told = pressure("io")
	}
	return m
}

func (m *stopwatch) end() load {
	wall := max(time.Since(m.began), time.Microsecond)
	l := load{Seconds: wall.Seconds(), CPU: (cpuTime() - m.cpu).Seconds(), Processors: runtime.GOMAXPROCS(0)}
	l.Share = min(l.CPU/(l.Seconds*float64(l.Processors)), 1)
	if m.told {
		wait, ok1 := pressure("cpu")
		disk, ok2 := pressure("io")
		if ok1 && ok2 {
			forCPU, forDisk := float64(wait-m.wait)/float64(wall), float64(disk-m.disk)/float64(wall)
			l.ForCPU, l.ForDisk = &forCPU, &forDisk
		}
	}
	l.LimitedBy = l.judge()
	return l
}

// busy is the share from which on a thing counts as what is waited for: in a short run its
// beginning and its end, where little happens at once, have the rest.
const busy = 0.75

// judge says what limited the work, as far as one can tell from outside.
func (l *load) judge() string {
	processors := fmt.Sprintf("nodes and passes had %.0f %% of %d", 100*l.Share, l.Processors)
	if l.Processors == 1 {
		processors = fmt.Sprintf("nodes and passes had %.0f %% of the one there is", 100*l.Share)
	}
	switch {
	case l.Share >= busy:
		return "the processors: " + processors
	case l.ForCPU == nil:
		return "something else than the processors, of which " + processors + "; this kernel tells no more"
	case *l.ForDisk >= busy && *l.ForDisk > *l.ForCPU:
		return fmt.Sprintf("the disk: somebody on this machine waited for it %.0f %% of the time; of the processors %s", 100**l.ForDisk, processors)
	case *l.ForCPU >= busy:
		return fmt.Sprintf("the processors, which others use too: %s, and somebody on this machine waited for one %.0f %% of the time", processors, 100**l.ForCPU)
	}
	return fmt.Sprintf("nothing alone: of the processors %s; somebody on this machine waited for the disk %.0f %% of the time; the rest is nodes waiting for each other",
		processors, 100**l.ForDisk)
}

// cpuTime is the processor time of this process.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pressure is for how long, since the machine was started, at least one task has waited for
// a resource: cpu or io. Kernels may be built or started without it.
func pressure(resource string) (time.Duration, bool) {
	b, err := os.ReadFile("/proc/pressure/" + resource)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "some "); ok {
			_, total, _ := strings.Cut(rest, "total=")
			n, err := strconv.ParseInt(strings.TrimSpace(total), 10, 64)
			return time.Duration(n) * time.Microsecond, err == nil
		}
	}
	return 0, false
}
