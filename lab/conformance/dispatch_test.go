package conformance_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The reconstructor and the object server that Swift finds on PATH are this test binary under those names. By the number of
// the configuration file it becomes Swift's program or ours, and a witness sees in /proc which of the two it is then.
const (
	reconstructor = "swift-object-reconstructor"
	server        = "swift-object-server"
	stocks        = "/usr/bin/"
)

// dispatched are the programs that nodes have of Swift or of ours, by their names.
var dispatched = map[string]struct{ nodesEnv, programEnv string }{ // which nodes run ours, their digits; and where it is
	reconstructor: {"IMPING_CONFORMANCE_RECONSTRUCTORS", "IMPING_CONFORMANCE_RECONSTRUCTOR"},
	server:        {"IMPING_CONFORMANCE_SERVERS", "IMPING_CONFORMANCE_SERVER"},
}

// In the network namespace, not in a folder: a path may be too long for an address.
var witnessAddress = &net.UnixAddr{Net: "unix", Name: "@imping-conformance"}

// allNodes of Swift's SAIO: each has the configuration file N.conf.
const allNodes = "1234"

// Here the thread is the process's first, the one that is traced.
func init() {
	if name := filepath.Base(os.Args[0]); dispatched[name].nodesEnv != "" {
		dispatch(name)
	}
}

// dispatch becomes the program of a node of that name. It does not return.
func dispatch(name string) {
	fmt.Fprintln(os.Stderr, "cannot dispatch:", func() error {
		if len(os.Args) < 2 {
			return errors.New("no configuration file")
		}
		node := strings.TrimSuffix(filepath.Base(os.Args[1]), ".conf")
		if len(node) != 1 || !strings.Contains(allNodes, node) {
			return fmt.Errorf("%s is that of no node", os.Args[1])
		}
		program := stocks + name
		if strings.Contains(os.Getenv(dispatched[name].nodesEnv), node) {
			program = os.Getenv(dispatched[name].programEnv)
		}
		conn, err := net.DialUnix("unix", nil, witnessAddress)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(conn, name, node); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return err
		}
		return &os.PathError{Op: "exec", Path: program, Err: syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())}
	}())
	os.Exit(1)
}

// dispatchers makes the folder that has the dispatcher under the programs' names.
func (m *machine) dispatchers(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(m.work, "dispatchers")
	must(t, "make a folder", os.MkdirAll(folder, 0o755))
	t.Cleanup(func() { os.RemoveAll(folder) })
	self, err := os.Executable()
	must(t, "find this program", err)
	for name := range dispatched {
		must(t, "name it "+name, os.Symlink(self, filepath.Join(folder, name)))
	}
	return folder
}

// witness notes which programs ran on which nodes.
type witness struct {
	listener *net.UnixListener
	ours     string // the file that our program is
	watching sync.WaitGroup
	mu       sync.Mutex
	ran      map[string]seen // by the name under which they were started
}

// seen counts what ran, by node and program.
type seen map[string]map[string]int

func newWitness(t *testing.T, ours string) *witness {
	t.Helper()
	ours, err := filepath.EvalSymlinks(ours)
	must(t, "find our program", err)
	listener, err := net.ListenUnix("unix", witnessAddress)
	must(t, "listen to the dispatchers", err)
	w := &witness{listener: listener, ours: ours, ran: map[string]seen{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			w.watching.Go(func() { w.watch(conn) })
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
		w.watching.Wait()
	})
	return w
}

// watch notes what a dispatcher becomes.
func (w *witness) watch(conn *net.UnixConn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	name, node, _ := strings.Cut(strings.TrimSpace(line), " ")
	program, err := w.traced(conn, stocks+name)
	if err != nil {
		program = fmt.Sprintf("nothing that could be seen: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ran[name] == nil {
		w.ran[name] = seen{}
	}
	if w.ran[name][node] == nil {
		w.ran[name][node] = map[string]int{}
	}
	w.ran[name][node][program]++
}

// traced lets a dispatcher go on, and stops it in the moment in which it has become another program: that may end before
// this process gets a processor.
func (w *witness) traced(conn *net.UnixConn, stocks string) (program string, err error) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	raw, err := conn.SyscallConn()
	if err != nil {
		return "", err
	}
	var peer *unix.Ucred
	if e := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return "", errors.Join(e, err)
	}
	pid := int(peer.Pid)
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, unix.PTRACE_O_TRACEEXEC, 0, 0); errno != 0 {
		return "", os.NewSyscallError("ptrace", errno)
	}
	if _, err := conn.Write([]byte{0}); err != nil {
		return "", err
	}
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return "", os.NewSyscallError("wait4", err)
		case !status.Stopped():
			return "", errors.New("the dispatcher has ended")
		case status.TrapCause() == unix.PTRACE_EVENT_EXEC:
			program := w.program(pid, stocks)
			return program, os.NewSyscallError("ptrace", unix.PtraceDetach(pid))
		default: // a signal on its way to it
			if err := unix.PtraceCont(pid, int(status.StopSignal())); err != nil {
				return "", os.NewSyscallError("ptrace", err)
			}
		}
	}
}

// program tells what a process runs.
func (w *witness) program(pid int, stocks string) string {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return err.Error()
	}
	if exe == w.ours {
		return "imping"
	}
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if strings.HasPrefix(exe, "/usr/bin/python3") && bytes.Contains(cmdline, []byte("\x00"+stocks+"\x00")) {
		return "stock"
	}
	return fmt.Sprintf("%s (%q)", exe, cmdline)
}

// take returns which programs were started since the last call.
func (w *witness) take() map[string]seen {
	w.watching.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	ran := w.ran
	w.ran = map[string]seen{}
	return ran
}

// check compares what ran under a name with the nodes that ours is for, and with how many nodes run any.
func check(t *testing.T, name string, ran seen, ours string, nodes span) {
	t.Helper()
	for _, node := range slices.Sorted(maps.Keys(ran)) {
		want := "stock"
		if strings.Contains(ours, node) {
			want = "imping"
		}
		t.Logf("%s of node %s was %v", name, node, ran[node])
		if len(ran[node]) != 1 || ran[node][want] == 0 {
			t.Errorf("%s of node %s was %v, not %s alone", name, node, ran[node], want)
		}
	}
	if n := len(ran); nodes == every && n != len(allNodes) || nodes == some && n == 0 || nodes == none && n != 0 {
		t.Errorf("%s ran on %d nodes, not on %s", name, n, nodes)
	}
}
