// Package write measures what it costs to put files on the disk: by io_uring, by plain system calls, by Go's os package, and as whole
// objects by imping's writer and Swift's, all of the same durability. It measures one process on one file system, without a network.
package write

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Engines are what is measured, in the order of the table. The first five write files into directories that are there, the
// others objects, with all that belongs to one.
var Engines = []string{"uring", "plain", "uring, O_DIRECT", "plain, O_DIRECT", "Go's os", "imping, plain", "imping, uring", "Swift's DiskFile"}

// firstWriter is the first of Engines that writes objects.
const firstWriter = 5

// Options of a run.
type Options struct {
	Dir    string   // a folder on the file system to write on
	Self   []string // the command line of a process that calls Child with the JSON behind it
	Rounds int
	Scale  float64 // of the numbers of files; 1 is what BENCHMARKS.md shows
	Out    io.Writer
}

// Load is files of one size.
type Load struct {
	Name  string
	Size  int
	Files int
}

func loads(scale float64) []Load {
	return []Load{
		{"64 KiB", 64 << 10, max(1, int(1000*scale))},
		{"16 MiB", 16 << 20, max(1, int(32*scale))},
	}
}

// depth is how many files are written at the same time.
const depth = 32

// Task is what a process of its own does for a measurement.
type Task struct {
	Engine string
	Load   Load
	Dir    string
}

// Cost is what it cost.
type Cost struct {
	Wall, CPU float64 // seconds; CPU of the process, its kernel threads for io_uring included
	Enters    int64   // calls of io_uring_enter
}

// Row is what an engine's writing of a load cost, round by round.
type Row struct {
	Engine string
	Load   Load
	Costs  []Cost
	Calls  float64 // system calls per file; negative where they can not be counted
}

// Run measures every engine with every load, in turn.
func Run(ctx context.Context, o Options) ([]*Row, error) {
	counter, err := newCounter()
	if err != nil {
		fmt.Fprintf(o.Out, "system calls are not counted: %v\n", err)
	}
	var rows []*Row
	for _, l := range loads(o.Scale) {
		of := make([]*Row, len(Engines))
		for i, e := range Engines {
			of[i] = &Row{Engine: e, Load: l, Calls: -1}
		}
		for round := range o.Rounds {
			for i := range of {
				r := of[(i+round)%len(of)]
				c, calls, err := o.measure(ctx, r.Engine, l, counter)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", r.Engine, l.Name, err)
				}
				r.Costs = append(r.Costs, c)
				if round == 0 && counter != nil {
					none := l
					none.Files = 0
					_, start, err := o.measure(ctx, r.Engine, none, counter)
					if err != nil {
						return nil, err
					}
					r.Calls = float64(calls-start) / float64(l.Files)
				}
			}
			fmt.Fprintf(o.Out, "%s, round %d of %d\n", l.Name, round+1, o.Rounds)
		}
		rows = append(rows, of...)
	}
	return rows, nil
}

// measure has a process write the files of a load into a new folder.
func (o *Options) measure(ctx context.Context, engine string, l Load, counter *counter) (c Cost, calls int64, err error) {
	dir, err := os.MkdirTemp(o.Dir, "imping-bench-write-")
	if err != nil {
		return c, 0, err
	}
	defer os.RemoveAll(dir)
	for i := range l.Files {
		if slices.Index(Engines, engine) < firstWriter {
			if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
				return c, 0, err
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "sda", "objects"), 0o755); err != nil {
		return c, 0, err
	}
	if err := syncAll(dir); err != nil { // what is left to be written
		return c, 0, err
	}
	task, err := json.Marshal(Task{engine, l, dir})
	if err != nil {
		return c, 0, err
	}
	argv := append(slices.Clone(o.Self), string(task))
	if engine == "Swift's DiskFile" {
		argv = []string{"/usr/bin/python3", "-P", "-c", swiftScript, string(task)}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	runtime.LockOSThread() // whose children are counted, and whose death would be the child's
	defer runtime.UnlockOSThread()
	count, err := counter.start()
	if err != nil {
		return c, 0, err
	}
	out, err := cmd.Output()
	calls, countErr := count()
	if err := errors.Join(err, countErr); err != nil {
		return c, 0, fmt.Errorf("%w\n%s", err, errOut.String())
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return c, 0, fmt.Errorf("%w: %.200q", err, out)
	}
	return c, calls, whole(dir, l)
}

// syncAll puts on the disk what was written to a folder's file system.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// whole sees to it that all files are there, with all their bytes.
func whole(dir string, l Load) error {
	files := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".data" {
			return err
		}
		files++
		info, err := d.Info()
		if err == nil && info.Size() != int64(l.Size) {
			err = fmt.Errorf("%s has %d bytes of %d", path, info.Size(), l.Size)
		}
		return err
	})
	if err == nil && files != l.Files {
		err = fmt.Errorf("%d files of %d are there", files, l.Files)
	}
	return err
}

// counter counts the system calls of processes.
type counter struct{ event uint64 }

// newCounter needs root, and a kernel with tracepoints.
func newCounter() (*counter, error) {
	dir, err := os.MkdirTemp("", "imping-trace-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return nil, fmt.Errorf("cannot mount tracefs: %w", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	b, err := os.ReadFile(filepath.Join(dir, "events/raw_syscalls/sys_enter/id"))
	if err != nil {
		return nil, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return &counter{id}, err
}

// start counts the calls of processes that this thread starts until the function that it returns is called, which gives their number.
func (c *counter) start() (func() (int64, error), error) {
	if c == nil {
		return func() (int64, error) { return 0, nil }, nil
	}
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: c.event, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: unix.PerfBitDisabled | unix.PerfBitInherit | unix.PerfBitEnableOnExec,
	}, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("perf_event_open: %w", err)
	}
	return func() (int64, error) {
		defer unix.Close(fd)
		var n int64
		_, err := unix.Read(fd, (*[8]byte)(unsafe.Pointer(&n))[:])
		return n, err
	}, nil
}

// Table is Markdown of medians.
func Table(rows []*Row) string {
	var b strings.Builder
	b.WriteString("| load | by | files/s | MiB/s | CPU ms per file | system calls per file | io_uring_enter per file |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		wall := median(r.Costs, func(c Cost) float64 { return c.Wall })
		cpu := median(r.Costs, func(c Cost) float64 { return c.CPU })
		enters := median(r.Costs, func(c Cost) float64 { return float64(c.Enters) })
		n := float64(r.Load.Files)
		calls, entered := "-", "-"
		if r.Calls >= 0 {
			calls = fmt.Sprintf("%.1f", r.Calls)
		}
		if enters > 0 {
			entered = fmt.Sprintf("%.2f", enters/n)
		}
		fmt.Fprintf(&b, "| %d x %s | %s | %.0f | %.0f | %.3f | %s | %s |\n", r.Load.Files, r.Load.Name, r.Engine,
			n/wall, n*float64(r.Load.Size)/(1<<20)/wall, cpu/n*1000, calls, entered)
	}
	return b.String()
}

func median(costs []Cost, of func(Cost) float64) float64 {
	var v []float64
	for _, c := range costs {
		v = append(v, of(c))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
