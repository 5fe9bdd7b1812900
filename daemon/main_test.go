package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"imping/swift/conf"
)

// TestMain runs the tests, or, when a test has started this binary again, the part of the
// process that the test wants to look at from outside.
func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv("DAEMON_TEST_ROLE")]; ok {
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var roles = map[string]func(args []string) error{
	"drop": func(args []string) error {
		if err := DropPrivileges(args[0]); err != nil {
			return err
		}
		return report()
	},
	"setup": func(args []string) error {
		sec, err := conf.Read(args[0], "object-reconstructor")
		if err != nil {
			return err
		}
		log, err := NewLogger(sec, "object-reconstructor", os.Stderr)
		if err != nil {
			return err
		}
		if err := SetUp(sec, log); err != nil {
			return err
		}
		return report()
	},
	"run": func(args []string) error {
		log, err := NewLogger(conf.NewSection("a", "", nil), "test", os.Stderr)
		if err != nil {
			return err
		}
		return Run(context.Background(), log, func(ctx context.Context) error {
			fmt.Println("running")
			switch args[0] {
			case "wait":
				<-ctx.Done()
			case "watch":
				defer OnSignal(syscall.SIGUSR1, func() { fmt.Println("asked") })()
				fmt.Println("watching")
				Watchdog(ctx, log, func() bool { return true })
			}
			return nil
		})
	},
	"hang": func([]string) error {
		log, err := NewLogger(conf.NewSection("a", "", nil), "test", os.Stderr)
		if err != nil {
			return err
		}
		return run(context.Background(), log, func(context.Context) error {
			fmt.Println("running")
			select {}
		}, time.Millisecond)
	},
	"limits": func([]string) error {
		RaiseLimits()
		return report()
	},
	"detach": func(args []string) error {
		var keep []*os.File
		if args[0] == "keep" {
			keep = append(keep, os.Stderr)
		}
		if err := DetachOutput(keep...); err != nil {
			return err
		}
		fmt.Println("to output")
		fmt.Fprintln(os.Stderr, "to error")
		return nil
	},
}

// state is what a process tells about itself.
type state struct {
	UID, GID, EUID, EGID int
	Groups               []int
	Home, Dir            string
	Umask                int
	Leader               bool           // of its session
	Nice, IOPriority     map[string]int // by thread
	Files, Data          [2]uint64      // soft and hard limit
	Heap                 int64          // Go's own limit
}

func report() error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	// A program's own group may be listed or not; it makes no difference.
	groups = slices.DeleteFunc(groups, func(gid int) bool { return gid == os.Getgid() })
	slices.Sort(groups)
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	sid, err := unix.Getsid(0)
	if err != nil {
		return err
	}
	s := state{
		UID: os.Getuid(), GID: os.Getgid(), EUID: os.Geteuid(), EGID: os.Getegid(), Groups: groups,
		Home: os.Getenv("HOME"), Dir: dir, Leader: sid == os.Getpid(),
		Nice: map[string]int{}, IOPriority: map[string]int{}, Heap: debug.SetMemoryLimit(-1),
	}
	s.Umask = syscall.Umask(0)
	for resource, limits := range map[int]*[2]uint64{unix.RLIMIT_NOFILE: &s.Files, unix.RLIMIT_DATA: &s.Data} {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resource, &limit); err != nil {
			return err
		}
		*limits = [2]uint64{limit.Cur, limit.Max}
	}
	err = eachThread(func(tid int) error {
		nice, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
		if err != nil {
			return err
		}
		io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
		if errno != 0 {
			return errno
		}
		s.Nice[strconv.Itoa(tid)] = 20 - nice // the system call's answer is never negative
		s.IOPriority[strconv.Itoa(tid)] = int(io)
		return nil
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// again is this binary in a role.
func again(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	// The race detector makes a process sleep for a second at its end, unless told not to.
	cmd.Env = append(os.Environ(), "DAEMON_TEST_ROLE="+role, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// ask runs this binary in a role and reads its state.
func ask(t *testing.T, role string, args ...string) state {
	t.Helper()
	return decode(t, again(t, role, args...))
}

func decode(t *testing.T, cmd *exec.Cmd) state {
	t.Helper()
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, errOut.String())
	}
	var s state
	if err := json.Unmarshal(out[strings.IndexByte(string(out), '{'):], &s); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return s
}
