package real

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program goes through three lives, each the same executable with the same
// arguments, told apart by this variable: the one that was called (not set), the
// first process of the new namespaces ("init"), and the one that does the work
// ("inside"). The middle one exists because a pid 1 must reap every orphan, and a
// program that does so can not also use os/exec: they would steal each other's
// exit statuses.
const (
	stageEnv    = "IMPING_LAB_STAGE"
	stageInit   = "init"
	stageInside = "inside"
)

var inside bool

// Inside says whether this process runs in the lab's namespaces.
func Inside() bool { return inside }

// Enter moves the program into mount, network, pid and IPC namespaces of its own.
// Call it first thing in main or TestMain. Outside, it starts the running program
// once more, with the same arguments and standard files, waits for it and exits with
// its status (128 + N when signal N ended it; 1, with a sentence on standard error,
// when the namespaces can not be made). Inside, it returns.
//
// Inside, mounts are private, /proc is that of the new pid namespace and 127.0.0.0/8
// works. INT, TERM, HUP, QUIT, USR1 and USR2 are passed on. Everything that runs
// inside dies with the program, however it ends. The inner program is not in the
// terminal's foreground process group: it may write to the terminal, not read it.
func Enter() {
	if inside {
		return
	}
	code, err := enter(nil)
	if inside && err == nil {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot enter the lab's namespaces: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// enter does the work of Enter. started, if any, is told the pid (as seen from
// outside) of the first process of the namespaces.
func enter(started func(pid int) error) (code int, err error) {
	stage := os.Getenv(stageEnv)
	if err := os.Unsetenv(stageEnv); err != nil {
		return 1, err
	}
	switch {
	case stage == stageInit && os.Getpid() == 1:
		return superviseInside()
	case stage == stageInside && os.Getppid() == 1:
		inside = true
		return 0, nil
	case stage != "":
		return 1, fmt.Errorf("%s=%q is set, but this process was not started by the lab", stageEnv, stage)
	}
	return superviseOutside(started)
}

func superviseOutside(started func(pid int) error) (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("the lab makes namespaces and mounts and needs to be run as root")
	}
	// The kernel sends the parent-death signal when the *thread* that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := again(stageInit)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		// A Ctrl-C reaches every process of the terminal's foreground group. In a
		// group of its own the inner program gets it once, from us.
		Setpgid: true,
	}
	signals := catch()
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("cannot start %s in new namespaces: %w", cmd.Path, err)
	}
	if started != nil {
		if err := started(cmd.Process.Pid); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return 1, err
		}
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(done)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, fmt.Errorf("cannot wait for the program inside: %w", err)
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// superviseInside is pid 1: it prepares the namespaces, starts the program that does
// the work, reaps whatever is orphaned and returns the program's status.
func superviseInside() (int, error) {
	if err := prepare(); err != nil {
		return 1, err
	}
	signals := catch()
	cmd := again(stageInside)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("cannot start %s inside: %w", cmd.Path, err)
	}
	pid := cmd.Process.Pid
	go func() {
		for s := range signals {
			syscall.Kill(pid, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 1, fmt.Errorf("cannot wait for children: %w", err)
		case got == pid && (status.Exited() || status.Signaled()):
			return exitCode(status), nil
		}
	}
}

// prepare makes the mounts private, so that nothing mounted here is seen outside, and
// gives the namespaces a /proc and a loopback interface of their own.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("cannot bring the loopback interface up: %w", err)
	}
	// The log sink's socket: a fresh network namespace lets ten datagrams wait, and a
	// Swift server that logs more while the sink is not scheduled would block. Older
	// kernels have no such file here; ten it is then.
	os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("1024\n"), 0)
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// again is the running program, to be started once more as the given stage.
func again(stage string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), stageEnv+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

func catch() chan os.Signal {
	// Room for a burst; os/signal drops what does not fit.
	c := make(chan os.Signal, 16)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	return c
}

func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
