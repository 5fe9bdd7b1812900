// Package process says what a process of this machine uses. It starts none.
package process

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time, user and system, of all threads of a process so far: the time of its CPU clock, which counts
// nanoseconds where /proc/PID/stat has hundredths of a second. Kernel: include/linux/posix-timers.h, MAKE_PROCESS_CPUCLOCK.
func CPU(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil {
		return 0, fmt.Errorf("cannot read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}
