package process

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// The clock is that of user and system time together.
func TestCPUIsWhatRusageCounts(t *testing.T) {
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	got, err := CPU(os.Getpid())
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	sum := func(u unix.Rusage) int64 { return u.Utime.Nano() + u.Stime.Nano() }
	const tick = 10_000_000 // rusage may be rounded to one
	if err != nil || got.Nanoseconds() < sum(before)-tick || got.Nanoseconds() > sum(after)+tick {
		t.Errorf("%v (%v), not between %d and %d ns", got, err, sum(before), sum(after))
	}
}

func TestCPUOfNoProcessIsAnError(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if d, err := CPU(cmd.Process.Pid); err == nil {
		t.Errorf("a process that has ended used %v", d)
	}
}
