package real_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imping/lab/real"
)

// roleEnv makes this test program play another one: see play.
const roleEnv = "REAL_TEST_ROLE"

// play is the life of a program that a test has started: it enters the lab, or keeps
// one, and returns its exit status.
func play(role string) int {
	role, arg, _ := strings.Cut(role, ":")
	if role == "keep" {
		if err := real.LabStart(arg, real.Options{Nodes: 2, DevicesPerNode: 1, PartPower: 2,
			Policies: []real.Policy{{Name: "rep2", Replicas: 2}}}, time.Hour); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if role == "run" {
		fmt.Fprintln(os.Stderr, real.LabExec(arg, []string{"cat", "/etc/swift/swift.conf"}))
		return 1
	}
	real.Enter()
	switch role {
	case "status":
		// An orphan that ends at once must not be mistaken for us.
		exec.Command("/bin/sh", "-c", "true & exec true").Run()
		return 7
	case "killed":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "sleep":
		// Two sleeps, one of them orphaned, which a test can find by their argument.
		cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("sleep %s & exec sleep %s", arg, arg))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		select {}
	}
	return 1
}

func command(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd
}

func TestExitStatusComesOut(t *testing.T) {
	for role, want := range map[string]int{"status": 7, "killed": 128 + int(syscall.SIGKILL)} {
		out, err := command(role).CombinedOutput()
		var exit *exec.ExitError
		if e, ok := err.(*exec.ExitError); ok {
			exit = e
		}
		if exit == nil || exit.ExitCode() != want {
			t.Errorf("%s: %v, not status %d\n%s", role, err, want, out)
		}
	}
}

// processes are those that have arg as one of their arguments.
func processes(t *testing.T, arg string) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range paths {
		data, _ := os.ReadFile(p) // it may have ended meanwhile
		fields := strings.Split(string(data), "\x00")
		if fields[0] == "sleep" && len(fields) > 1 && fields[1] == arg {
			found = append(found, p)
		}
	}
	return found
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func TestNothingOutlivesTheProgram(t *testing.T) {
	for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT} {
		arg := fmt.Sprintf("98765.%d", i)
		cmd := command("sleep:" + arg)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "two sleeps inside", func() bool { return len(processes(t, arg)) == 2 })
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		waitFor(t, fmt.Sprintf("no sleep after %v", sig), func() bool { return len(processes(t, arg)) == 0 })
		if sig != syscall.SIGKILL && cmd.ProcessState.Success() {
			t.Errorf("the program ended with success after %v\n%s", sig, out.Bytes())
		}
	}
}

func TestRunTellsStatusOutputAndUsage(t *testing.T) {
	var out bytes.Buffer
	exit, usage, err := real.Run(t.Context(), &out, "/bin/sh", "-c", "echo here; sleep 0.2; exit 3")
	if err != nil || exit != 3 || out.String() != "here\n" {
		t.Errorf("exit %d, output %q, %v", exit, out.String(), err)
	}
	// A shell is small; this program, under the race detector, is not.
	if usage.Maxrss < 200 || usage.Maxrss > 20_000 {
		t.Errorf("a shell used %d KiB", usage.Maxrss)
	}
	exit, _, err = real.Run(t.Context(), nil, "/bin/sh", "-c", "kill -9 $$")
	if err != nil || exit != 128+9 {
		t.Errorf("exit %d, %v", exit, err)
	}
	if _, _, err := real.Run(t.Context(), nil, "/no/such/program"); err == nil {
		t.Error("a program that is not there was run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := real.Run(ctx, nil, "/bin/sh", "-c", "sleep 1000 & wait"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a program that outlived its context: %v", err)
	}
}

func TestHostsFilesAreNotTouched(t *testing.T) {
	// We are inside; /etc/swift is the host's as long as no cluster runs.
	before, err := os.ReadDir("/etc/swift")
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, real.Options{Nodes: 2, DevicesPerNode: 1, PartPower: 2, Policies: []real.Policy{{Name: "rep2", Replicas: 2}}})
	want, err := os.ReadFile(c.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("/etc/swift/swift.conf"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("/etc/swift/swift.conf is not the lab's: %v\n%s", err, got)
	}
	if _, err := real.Start(t.Context(), real.Options{Root: c.Root()}); err == nil {
		t.Error("a second cluster was started in the same namespaces")
	}
	c.Stop()
	after, err := os.ReadDir("/etc/swift")
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("/etc/swift held %v and holds %v, %v", before, after, err)
	}
}

func TestServersStopAndStartAgain(t *testing.T) {
	c := start(t, real.Options{Nodes: 2, DevicesPerNode: 1, PartPower: 2, Policies: []real.Policy{{Name: "rep2", Replicas: 2}}})
	mark, err := c.Mark()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StopServer(2, real.ReplicationServer); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CPU(real.ReplicationServer); err == nil {
		t.Error("a stopped server has a CPU time")
	}
	if err := c.StartServer(t.Context(), 2, real.ReplicationServer); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CPU(real.ReplicationServer); err != nil {
		t.Error(err)
	}
	if err := c.StartServer(t.Context(), 2, real.ReplicationServer); err == nil {
		t.Error("a running server was started")
	}
	if err := c.StopServer(3, real.ObjectServer); err == nil {
		t.Error("a server of a node that is not there was stopped")
	}
	resp, err := http.Get("http://127.0.0.2:6225/sd2/0/a/c/o")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	// The server logs after it has answered.
	waitFor(t, "the request in the log", func() bool {
		lines, err := c.Log(mark)
		if err != nil {
			t.Fatal(err)
		}
		return len(lines) == 1 && strings.HasPrefix(lines[0], "object-replication-2: ") && strings.Contains(lines[0], `"GET /sd2/0/a/c/o" 404`)
	})
	if err := c.StartServer(t.Context(), 1, real.ObjectServer, "/bin/true"); err == nil {
		t.Error("a running server was replaced")
	}
}

func TestWhatCanNotStartSaysWhy(t *testing.T) {
	root := t.TempDir()
	for want, o := range map[string]real.Options{
		"no root folder":      {},
		"too long a path":     {Root: filepath.Join(root, strings.Repeat("long", 30)), Nodes: 1, Policies: []real.Policy{{Replicas: 1}}},
		"puts 14 archives on": {Root: root, Nodes: 3},
		"policy with index 0": {Root: root, Policies: []real.Policy{{Index: 1, Name: "x"}}},
		"no-such-user":        {Root: root, User: "no-such-user"},
		"can not enter":       {Root: root, User: "swift"}, // testing's folders let only root in
		"cannot make the lab": {Root: "/proc/lab"},
	} {
		c, err := real.Start(t.Context(), o)
		if err == nil {
			c.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %q", o, err, want)
		}
	}
}

func TestPersistentLabStartsServesAndStops(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	root, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	if _, err := real.LabStatus(root); err == nil {
		t.Error("a lab that was never started has a state")
	}
	if out, err := command("keep:" + root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer real.LabStop(root)
	if s, err := real.LabStatus(root); err != nil || !s.Ready || s.Until.Before(time.Now().Add(50*time.Minute)) {
		t.Errorf("%+v, %v", s, err)
	}
	if out, err := command("keep:" + root).CombinedOutput(); err == nil || !strings.Contains(string(out), "runs in "+root+" already") {
		t.Errorf("a second lab in the same folder: %v\n%s", err, out)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=run:"+root)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "[swift-hash]") {
		t.Errorf("a program run in the lab: %v\n%s", err, out)
	}
	if err := real.LabStop(root); err != nil {
		t.Error(err)
	}
	if _, err := real.LabStatus(root); err == nil {
		t.Error("a stopped lab has a state")
	}
	if err := real.LabStop(root); err == nil {
		t.Error("a lab was stopped twice")
	}
}
