package conformance_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what the probe tests take for theirs: Swift's "SAIO", four servers of each
// kind on one host, in the folders where Swift looks.
type machine struct {
	work   string // ours to write in
	source string // test and doc/saio of Swift's source package
	here   string // this package's folder
	log    *udpLog
}

// Folders of the host that the machine has of its own.
var private = []string{"/etc/swift", "/srv", "/run", "/var/cache"}

// newMachine lays folders of work over the host's, and the rest of the root file system
// becomes read-only: all of it in the mount namespace that the process is in.
func newMachine(t *testing.T, work string) *machine {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{work: work, source: filepath.Join(work, "source"), here: here}
	lay := func(what, dir string) {
		must(t, "lay "+what+" over "+dir, unix.Mount(what, dir, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	// To the end of the process: beside it all is read-only.
	must(t, "bind the folder of the run", unix.Mount(work, work, "", unix.MS_BIND, ""))
	must(t, "make the root read-only", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	for _, dir := range private {
		own := filepath.Join(work, "machine", dir)
		must(t, "empty a folder", os.RemoveAll(own)) // of an earlier machine
		must(t, "make a folder", os.MkdirAll(own, 0o755))
		lay(own, dir)
	}
	for _, dir := range []string{filepath.Join(work, "tmp"), "/run/lock", "/run/swift"} {
		must(t, "make a folder", os.MkdirAll(dir, 0o755))
	}
	// bin/resetswift empties /srv only where it finds this.
	must(t, "mark /srv", os.WriteFile("/srv/imping-conformance", nil, 0o644))
	t.Cleanup(func() { m.command(context.Background(), "", filepath.Join(m.here, "bin/resetswift")).Run() }) // no process is left
	m.log = newUDPLog(t)
	m.configure(t)
	return m
}

// configure takes Swift's own SAIO configuration, with root for the user and a log that
// is read here.
func (m *machine) configure(t *testing.T) {
	t.Helper()
	saio := filepath.Join(m.source, "doc/saio/swift")
	must(t, "copy Swift's configuration", os.CopyFS("/etc/swift", os.DirFS(saio)))
	logTo := fmt.Sprintf("[DEFAULT]\nlog_udp_host = 127.0.0.1\nlog_udp_port = %d\n", m.log.port())
	err := filepath.WalkDir("/etc/swift", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data = bytes.ReplaceAll(data, []byte("<your-user-name>"), []byte("root"))
		data = bytes.Replace(data, []byte("[DEFAULT]\n"), []byte(logTo), 1)
		return os.WriteFile(path, data, 0o644)
	})
	must(t, "adapt Swift's configuration", err)
	out, err := m.command(t.Context(), "", "/usr/bin/python3", filepath.Join(m.here, "python/rings.py"), filepath.Join(m.source, "doc/saio/bin/remakerings")).CombinedOutput()
	if err != nil {
		t.Fatalf("cannot make Swift's rings: %v\n%s", err, out)
	}
}

// command prepares a program that finds those of folders, if any, before Debian's.
// When ctx ends, so does its process group.
func (m *machine) command(ctx context.Context, folders string, argv ...string) *exec.Cmd {
	path := filepath.Join(m.here, "bin") + ":/usr/sbin:/usr/bin:/sbin:/bin"
	if folders != "" {
		path = folders + ":" + path
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = m.source
	cmd.Env = []string{
		"PATH=" + path,
		"HOME=" + filepath.Join(m.work, "tmp"), "TMPDIR=" + filepath.Join(m.work, "tmp"),
		"USER=root", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1",
		"PYTHONPATH=" + filepath.Join(m.here, "python") + ":" + m.source + ":/usr/lib/python3/dist-packages",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // a daemon left behind may hold the output open
	return cmd
}

// memcached runs, empty, until the test ends: Swift's proxy takes tokens from it.
func (m *machine) memcached(t *testing.T) {
	t.Helper()
	const address = "127.0.0.1:11211" // the proxy's default
	var out bytes.Buffer
	cmd := m.command(t.Context(), "", "/usr/bin/memcached", "-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "64")
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, "start memcached", cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("memcached does not listen: %v\n%s", err, out.Bytes())
		}
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("cannot %s: %v", what, err)
	}
}

// udpLog keeps what Swift's daemons log, one datagram a line.
type udpLog struct {
	conn *net.UDPConn
	mu   sync.Mutex
	all  []string
}

func newUDPLog(t *testing.T) *udpLog {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, "open a socket for the log", err)
	// Four servers log a burst while this process waits for a processor.
	conn.SetReadBuffer(4 << 20)
	l := &udpLog{conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			line := strings.TrimRight(string(buf[:n]), "\x00\n")
			if strings.Contains(line, ": STDERR: ") && !strings.Contains(line, "Traceback") {
				continue // eventlet's own line per connection and request
			}
			l.mu.Lock()
			l.all = append(l.all, line)
			l.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return l
}

func (l *udpLog) port() int { return l.conn.LocalAddr().(*net.UDPAddr).Port }

// take returns the lines since the last call.
func (l *udpLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.all
	l.all = nil
	return lines
}
