package daemon

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"imping/lab/oracle"
)

// askDrop becomes a user as Swift does and says who it is then.
const askDrop = `
import json, os, sys
from swift.common.utils import drop_privileges
drop_privileges(json.load(sys.stdin))
json.dump({'UID': os.getuid(), 'EUID': os.geteuid(), 'GID': os.getgid(), 'EGID': os.getegid(),
           'Groups': sorted(g for g in os.getgroups() if g != os.getgid()), 'Home': os.environ['HOME']}, sys.stdout)
`

// rule 33
func TestProcessBecomesTheUserAsSwiftDoes(t *testing.T) {
	names := []string{"nobody", "daemon", "root", "swift"}
	if os.Geteuid() != 0 {
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		names = []string{me.Username}
	}
	names = append(names, members(t)...)
	for _, name := range names {
		if _, err := user.Lookup(name); err != nil {
			continue
		}
		var want state
		oracle.Ask(t, askDrop, name, &want)
		got := ask(t, "drop", name)
		ignored := cmpopts.IgnoreFields(state{}, "Dir", "Umask", "Leader", "Nice", "IOPriority", "Files", "Data", "Heap")
		if diff := cmp.Diff(want, got, ignored, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("user %s: Swift (-), imping (+):\n%s", name, diff)
		}
	}
}

// members are the first few users who are members of a group.
func members(t *testing.T) []string {
	if os.Geteuid() != 0 {
		return nil
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(groups)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 4 && fields[3] != "" {
			names = append(names, strings.Split(fields[3], ",")...)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(3, len(names))]
}

// rule 33
func TestUnknownUserIsFatalAndNamed(t *testing.T) {
	out, err := again(t, "drop", "no-such-user").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `"no-such-user"`) {
		t.Errorf("%v: %s", err, out)
	}
	path := filepath.Join(t.TempDir(), "1.conf")
	if err := os.WriteFile(path, []byte("[object-reconstructor]\nuser = no-such-user\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = again(t, "setup", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), path+" [object-reconstructor] user") {
		t.Errorf("%v: %s", err, out)
	}
}

// rule 33
func TestProcessWithoutRightsCanNotBecomeAnother(t *testing.T) {
	cmd := again(t, "drop", "daemon")
	asNobody(t, cmd)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `cannot become user "daemon"`) {
		t.Errorf("%v: %s", err, out)
	}
}

// asNobody takes root's rights from the command.
func asNobody(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, gid, err := ids(nobody)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = readable(t)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	cmd.Dir = "/"
}

// inShell runs shell commands before the command, in the same process.
func inShell(cmd *exec.Cmd, commands string) {
	cmd.Args = append([]string{"sh", "-c", commands + `; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// rule 35
func TestHeapKeepsToHalfOfAMemoryLimitThatCanNotBeRaised(t *testing.T) {
	cmd := again(t, "limits")
	asNobody(t, cmd)
	// Far over what a process has: the race detector maps terabytes.
	inShell(cmd, "ulimit -S -d 60000000000; ulimit -H -d 68719476736; ulimit -S -n 512")
	s := decode(t, cmd)
	const limit = 68719476736 << 10
	if s.Data != [2]uint64{limit, limit} || s.Heap != limit/2 {
		t.Errorf("the limits on memory are %d, the heap's is %d", s.Data, s.Heap)
	}
	if s.Files[0] != s.Files[1] {
		t.Errorf("the limits on files are %d", s.Files)
	}
}

// readable is a copy of this binary that other users may run.
func readable(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "test")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// rule 35
func TestSetUpMakesADaemonOfTheProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := filepath.Join(t.TempDir(), "1.conf")
	text := "[DEFAULT]\nuser = daemon\n[object-reconstructor]\nnice_priority = 5\nionice_class = IOPRIO_CLASS_BE\nionice_priority = 6\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := again(t, "setup", path)
	// As swift-init starts it, with other limits.
	inShell(cmd, "umask 077; ulimit -n 4096; ulimit -d 68719476736")
	s := decode(t, cmd)
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	uid, gid, err := ids(daemon)
	if err != nil {
		t.Fatal(err)
	}
	if s.UID != uid || s.GID != gid || s.Home != daemon.HomeDir {
		t.Errorf("the process is user %d, group %d, home %s", s.UID, s.GID, s.Home)
	}
	if s.Dir != "/" || s.Umask != 0o022 || !s.Leader {
		t.Errorf("folder %s, umask %#o, leader of a session: %v", s.Dir, s.Umask, s.Leader)
	}
	if len(s.Nice) == 0 {
		t.Error("no threads were seen")
	}
	for tid, nice := range s.Nice {
		if nice != 5 || s.IOPriority[tid] != 2<<13|6 {
			t.Errorf("thread %s has nice %d, I/O priority %#x", tid, nice, s.IOPriority[tid])
		}
	}
	if s.Files[0] < 4096 || s.Files[0] != s.Files[1] {
		t.Errorf("the limits on files are %d", s.Files)
	}
	// Without CAP_SYS_RESOURCE, as in many containers, the hard limit stays.
	if s.Data[0] != s.Data[1] {
		t.Errorf("the limits on memory are %d", s.Data)
	}
}

func TestWrongPrioritiesAreLoggedAndNotFatal(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "1.conf")
	text := fmt.Sprintf("[object-reconstructor]\nuser = %s\nnice_priority = low\nionice_class = BE\n", me.Username)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := again(t, "setup", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"WARNING: Unable to modify scheduling priority of process.",
		"object-reconstructor: Unable to modify nice priority: " + path,
		"WARNING: Unable to modify I/O scheduling class",
		"object-reconstructor: Unable to modify ionice priority: " + path,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// rule 35
func TestDetachedOutputIsSilentButForWhatIsKept(t *testing.T) {
	for how, want := range map[string]string{"all": "", "keep": "to error\n"} {
		out, err := again(t, "detach", how).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, the output is %q, want %q", how, err, out, want)
		}
	}
}

// rule 35
func TestRunWritesSwiftsNoticesAndEndsOnSignals(t *testing.T) {
	for _, c := range []struct {
		how    string
		signal syscall.Signal
		want   string
	}{
		{"return", 0, "test: Starting PID\ntest: Exited PID\n"},
		{"wait", syscall.SIGTERM, "test: Starting PID\ntest: SIGTERM received (PID)\n"},
		{"wait", syscall.SIGINT, "test: Starting PID\ntest: User quit\ntest: Exited PID\n"},
	} {
		cmd := again(t, "run", c.how)
		var errOut strings.Builder
		cmd.Stderr = &errOut
		started(t, cmd)
		if c.signal != 0 {
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s %v: %v", c.how, c.signal, err)
		}
		if want := strings.ReplaceAll(c.want, "PID", fmt.Sprint(cmd.Process.Pid)); errOut.String() != want {
			t.Errorf("%s %v: the log is %q, want %q", c.how, c.signal, errOut.String(), want)
		}
	}
}

// started starts the command and returns when its body runs.
func started(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		t.Fatalf("%v did not start: %v", cmd.Args, err)
	}
}

// rule 35
func TestSystemdHearsOfStartAndStop(t *testing.T) {
	path := filepath.Join(shortDir(t), "notify")
	systemd := listen(t, path)
	cmd := again(t, "run", "return")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if got := string(receive(t, systemd)); got != want {
			t.Errorf("systemd hears %q, want %q", got, want)
		}
	}
	abstract, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: fmt.Sprintf("@imping-test-%d", os.Getpid()), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	cmd = again(t, "run", "return")
	cmd.Env = append(cmd.Env, fmt.Sprintf("NOTIFY_SOCKET=@imping-test-%d", os.Getpid()))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := string(receive(t, abstract)); got != "READY=1" {
		t.Errorf("systemd hears %q", got)
	}
}

// What does not end must not keep swift-init waiting.
func TestABodyThatDoesNotEndIsCutOff(t *testing.T) {
	cmd := again(t, "hang")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	started(t, cmd)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(errOut.String(), "it is cut off") {
		t.Errorf("%v: %s", err, errOut.String())
	}
}

func TestSystemdHearsThatTheDaemonIsWell(t *testing.T) {
	path := filepath.Join(shortDir(t), "notify")
	systemd := listen(t, path)
	cmd := again(t, "run", "watch")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000", "WATCHDOG_PID=") // of every process
	started(t, cmd)
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := string(receive(t, systemd)); got != want {
			t.Errorf("systemd hears %q, want %q", got, want)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for env, want := range map[string]time.Duration{"1:": 0, "4000000:": 2 * time.Second, "x:": 0, "4000000:1": 0, fmt.Sprintf("4000000:%d", os.Getpid()): 2 * time.Second} {
		us, pid, _ := strings.Cut(env, ":")
		t.Setenv("WATCHDOG_USEC", us)
		t.Setenv("WATCHDOG_PID", pid)
		if got := watchdogInterval(); got != want {
			t.Errorf("%s: %v, want %v", env, got, want)
		}
	}
}

func TestSignalsAreActedOnAndEndNothing(t *testing.T) {
	cmd := again(t, "run", "watch")
	cmd.Env = append(cmd.Env, "WATCHDOG_USEC=2000", "WATCHDOG_PID=")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"running", "watching", "asked", "asked"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("%q, want %q", lines.Text(), want)
		}
		if want == "watching" || want == "asked" {
			if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
