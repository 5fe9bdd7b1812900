package real

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemonEnv tells the program's second life, as the lab's supervisor, from its first.
const daemonEnv = "IMPING_LAB_DAEMON"

// DefaultLifetime is after how long a lab that nobody has stopped stops by itself.
const DefaultLifetime = 4 * time.Hour

// LabState says who keeps a persistent lab.
type LabState struct {
	Root       string
	Supervisor int    // pid of the process that ends the lab when it is sent TERM
	Started    uint64 // when that process started, in clock ticks since boot: a pid alone may be another's by now
	Init       int    // pid, seen from outside, of the first process of the lab's namespaces
	Until      time.Time
	Ready      bool // every server answers
}

func stateFile(root string) string { return filepath.Join(root, "lab.json") }
func readyFile(root string) string { return filepath.Join(root, "lab.ready") }
func outFile(root string) string   { return filepath.Join(root, "lab.out") }

// LabStart starts a cluster that outlives the program, in root (o.Root is not looked at),
// and returns when its servers answer. It stops after lifetime (0: DefaultLifetime), or by LabStop.
//
// To do so it starts the running program once more, in the background, with the same
// arguments; that run must reach this call too, without having called Enter, and does
// not return from it before the lab has ended.
func LabStart(root string, o Options, lifetime time.Duration) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return fmt.Errorf("cannot use the lab's root: %w", err)
	}
	o.Root = root
	if err := o.fill(); err != nil {
		return err
	}
	if lifetime <= 0 {
		lifetime = DefaultLifetime
	}
	if os.Getenv(daemonEnv) != "" {
		return keepLab(o, lifetime)
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab makes namespaces and mounts and needs to be run as root")
	}
	if err := CheckPackages(); err != nil {
		return err
	}
	if s, err := LabStatus(root); err == nil {
		return fmt.Errorf("a lab runs in %s already (pid %d)", s.Root, s.Supervisor)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("cannot make the lab's root: %w", err)
	}
	if err := os.Remove(readyFile(root)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot clear the lab's state: %w", err)
	}
	out, err := os.Create(outFile(root))
	if err != nil {
		return fmt.Errorf("cannot open the lab's output: %w", err)
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), daemonEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the lab: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	limit := time.After(startLimit + 10*time.Second)
	for {
		if s, err := LabStatus(root); err == nil && s.Ready {
			return nil
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(outFile(root)) // without it the status must do
			return fmt.Errorf("the lab did not start (%v):\n%s", cmd.ProcessState, bytes.TrimSpace(text))
		case <-limit:
			cmd.Process.Signal(syscall.SIGTERM)
			return fmt.Errorf("the lab did not get ready; see %s", outFile(root))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// keepLab is the supervisor's life: outside, it waits for the namespaces to end;
// inside, it runs the cluster.
func keepLab(o Options, lifetime time.Duration) error {
	code, err := enter(func(init int) error {
		started, err := startTime(os.Getpid())
		if err != nil {
			return err
		}
		return writeJSON(stateFile(o.Root), LabState{Root: o.Root, Supervisor: os.Getpid(), Started: started,
			Init: init, Until: time.Now().Add(lifetime)})
	})
	if !inside {
		if err != nil {
			fmt.Fprintf(os.Stderr, "cannot enter the lab's namespaces: %v\n", err)
		}
		if os.Getpid() != 1 {
			os.Remove(readyFile(o.Root))
			os.Remove(stateFile(o.Root))
		}
		os.Exit(code)
	}
	if err := os.Unsetenv(daemonEnv); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	ctx, cancelTime := context.WithTimeout(ctx, lifetime)
	defer cancelTime()
	c, err := Start(ctx, o)
	if err != nil {
		return err
	}
	defer c.Stop()
	if err := os.WriteFile(readyFile(o.Root), nil, 0o644); err != nil {
		return fmt.Errorf("cannot say that the lab is ready: %w", err)
	}
	<-ctx.Done()
	return nil
}

// LabStatus is the state of the lab that runs in root; an error when none does.
func LabStatus(root string) (LabState, error) {
	var s LabState
	root, err := filepath.Abs(root)
	if err != nil {
		return s, fmt.Errorf("cannot use the lab's root: %w", err)
	}
	data, err := os.ReadFile(stateFile(root))
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("no lab runs in %s", root)
	}
	if err != nil {
		return s, fmt.Errorf("cannot read the lab's state: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("cannot read the lab's state %s: %w", stateFile(root), err)
	}
	if started, err := startTime(s.Supervisor); err != nil || started != s.Started {
		return s, fmt.Errorf("no lab runs in %s any more", root)
	}
	_, err = os.Stat(readyFile(root))
	s.Ready = err == nil
	return s, nil
}

// LabStop ends the lab that runs in root and returns when it has ended. Its folder
// stays.
func LabStop(root string) error {
	s, err := LabStatus(root)
	if err != nil {
		return err
	}
	if err := syscall.Kill(s.Supervisor, syscall.SIGTERM); err != nil {
		return fmt.Errorf("cannot stop the lab (pid %d): %w", s.Supervisor, err)
	}
	// Twice what its servers are given, and a margin.
	for limit := time.Now().Add(2*stopWait + 10*time.Second); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		if started, err := startTime(s.Supervisor); err != nil || started != s.Started {
			return nil
		}
	}
	// All that is in the namespaces dies with it.
	if err := syscall.Kill(s.Supervisor, syscall.SIGKILL); err != nil {
		return fmt.Errorf("cannot kill the lab (pid %d): %w", s.Supervisor, err)
	}
	return nil
}

// LabExec replaces the running program by another one, in the namespaces of the lab that
// runs in root and in the same working folder. It returns only when it fails.
func LabExec(root string, argv []string) error {
	if len(argv) == 0 {
		return errors.New("no program to run in the lab")
	}
	s, err := LabStatus(root)
	if err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("cannot run %s in the lab: %w", argv[0], err)
	}
	const nsenter = "/usr/bin/nsenter"
	// Entering a mount namespace ends in its root folder; the shell goes back.
	args := append([]string{nsenter, "--target", strconv.Itoa(s.Init), "--mount", "--net", "--ipc", "--pid", "--",
		"/bin/sh", "-c", `cd "$1" && shift && exec "$@"`, "sh", cwd}, argv...)
	if err := syscall.Exec(nsenter, args, os.Environ()); err != nil {
		return fmt.Errorf("cannot run %s (package util-linux): %w", nsenter, err)
	}
	return nil
}

// startTime is when a process started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	fields, err := procStat(pid)
	if err != nil {
		return 0, err
	}
	// A process that has ended but is not yet reaped is no keeper of anything.
	if fields[0] == "Z" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// procStat are the fields of /proc/PID/stat from the third on: its state.
func procStat(pid int) ([]string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	// The second is the command's name, in parentheses; it may hold anything.
	end := bytes.LastIndex(data, []byte(") "))
	if end < 0 {
		return nil, fmt.Errorf("cannot look at process %d: its stat is %q", pid, data)
	}
	fields := strings.Fields(string(data[end+2:]))
	if len(fields) < 20 {
		return nil, fmt.Errorf("cannot look at process %d: its stat is %q", pid, data)
	}
	return fields, nil
}

// writeJSON writes a file that is never seen half written.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = os.WriteFile(path+".new", append(data, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
