package real

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Run runs a program to its end inside the lab, with its standard output and error
// going to out (nil: nowhere). exit is its exit status, or 128 + N when signal N ended
// it. usage counts the program and the descendants that it waited for, except Maxrss:
// that is the program's own peak resident size in KiB, sampled 20 times a second (the
// kernel's figure starts at the size of the program that calls Run). err is set when
// the program could not be run, or when ctx ended first and the program's process
// group was killed.
func (c *Cluster) Run(ctx context.Context, out io.Writer, argv ...string) (exit int, usage syscall.Rusage, err error) {
	return Run(ctx, out, argv...)
}

// Run is Cluster.Run for whoever has no cluster at hand.
func Run(ctx context.Context, out io.Writer, argv ...string) (exit int, usage syscall.Rusage, err error) {
	if len(argv) == 0 {
		return 0, usage, errors.New("no program to run")
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A daemon left behind may hold the output open.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return 0, usage, fmt.Errorf("cannot start %s: %w", argv[0], err)
	}
	stop, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- samplePeak(cmd.Process.Pid, stop) }()
	err = cmd.Wait()
	close(stop)
	maxrss := <-peak
	if cmd.ProcessState != nil {
		usage = *cmd.ProcessState.SysUsage().(*syscall.Rusage)
		usage.Maxrss = maxrss
		exit = exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus))
	}
	var status *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return exit, usage, fmt.Errorf("%s was killed: %w", argv[0], ctx.Err())
	case err != nil && !errors.As(err, &status):
		return exit, usage, fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	return exit, usage, nil
}

// samplePeak follows the peak resident size of a process until stop is closed.
func samplePeak(pid int, stop <-chan struct{}) int64 {
	path := filepath.Join("/proc", strconv.Itoa(pid), "status")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var peak int64
	for {
		// Once the program has ended there is no VmHWM any more.
		if data, err := os.ReadFile(path); err == nil {
			if _, rest, ok := strings.Cut(string(data), "VmHWM:"); ok {
				kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err == nil {
					peak = max(peak, kib)
				}
			}
		}
		select {
		case <-tick.C:
		case <-stop:
			return peak
		}
	}
}

// StockReconstructor runs one pass of Swift's reconstructor on a node and returns what
// it logged.
func (c *Cluster) StockReconstructor(ctx context.Context, node int) ([]string, error) {
	return c.stock(ctx, node, "reconstructor")
}

// StockAuditor runs one pass of Swift's auditor over all devices of a node and returns
// what it logged.
func (c *Cluster) StockAuditor(ctx context.Context, node int) ([]string, error) {
	return c.stock(ctx, node, "auditor")
}

func (c *Cluster) stock(ctx context.Context, node int, daemon string) ([]string, error) {
	mark, err := c.Mark()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	exit, _, err := c.Run(ctx, &out, "/usr/bin/swift-object-"+daemon, c.ReplicationConf(node), "once")
	if err != nil {
		return nil, err
	}
	if exit != 0 {
		return nil, fmt.Errorf("stock %s of node %d ended with status %d:\n%s", daemon, node, exit, out.Bytes())
	}
	all, err := c.Log(mark)
	if err != nil {
		return nil, err
	}
	prefix := fmt.Sprintf("%s-%d: ", daemon, node)
	var lines []string
	for _, l := range all {
		if rest, ok := strings.CutPrefix(l, prefix); ok {
			lines = append(lines, rest)
		}
	}
	return lines, nil
}
