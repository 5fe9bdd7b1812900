package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served is a daemon under the name swift-object-server.
type served struct {
	t                *testing.T
	cmd              *exec.Cmd
	conf, addr, log  string
	ended            chan error
	port             int
	devices, logName string
}

func (s *served) write(more string) {
	s.t.Helper()
	text := fmt.Sprintf("[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = %d\ndevices = %s\nmount_check = no\nuser = root\nworkers = 1\nlog_address = %s\nclient_timeout = 20\n%s\n"+
		"[pipeline:main]\npipeline = healthcheck object-server\n[app:object-server]\nuse = egg:swift#object\n[filter:healthcheck]\nuse = egg:swift#healthcheck\n", s.port, s.devices, s.logName, more)
	if err := os.WriteFile(s.conf, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// startServed starts the daemon and waits until it has closed its output, as swift-init does.
func startServed(t *testing.T, more ...string) *served {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, swiftServer)
	exe, err := os.Executable()
	if err == nil {
		err = os.Symlink(exe, program)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{t: t, conf: filepath.Join(dir, "object-server.conf"), addr: l.Addr().String(), log: filepath.Join(dir, "log"), ended: make(chan error, 1),
		port: l.Addr().(*net.TCPAddr).Port, devices: t.TempDir(), logName: filepath.Join(dir, "none")}
	l.Close()
	s.write(strings.Join(more, "\n"))
	if err := os.MkdirAll(filepath.Join(s.devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(program, s.conf, "verbose")
	s.cmd.Env = append(os.Environ(), asProgram+"=1")
	s.cmd.Stderr = log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		io.Copy(io.Discard, out)
		s.ended <- nil
		s.ended <- s.cmd.Wait()
	}()
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		t.Fatal("the daemon does not close its output")
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("log:\n%s", s.text())
		}
	})
	return s
}

func (s *served) text() string {
	b, _ := os.ReadFile(s.log)
	return string(b)
}

// children are the processes whose parent is the daemon.
func (s *served) children() []int {
	var pids []int
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	for _, thread := range threads {
		b, _ := os.ReadFile(thread)
		for _, word := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(word)
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *served) await(what string, done func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (s *served) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *served) healthy() bool {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	r, err := c.Get("http://" + s.addr + "/healthcheck")
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == 200
}

// begin sends half a request; the rest is for finish.
func (s *served) begin() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	io.WriteString(c, "OPTIONS /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nab")
	return c
}

func (s *served) finish(c net.Conn) {
	s.t.Helper()
	defer c.Close()
	io.WriteString(c, "cd")
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 200 {
		s.t.Errorf("a request under way: %v %v", r, err)
	}
}

// Under Swift's name the server is what swift-init expects (rules 30 and 35).
func TestServerObeysSwiftInit(t *testing.T) {
	s := startServed(t)
	if !s.healthy() {
		t.Fatal("the server does not answer")
	}
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.cmd.Process.Pid)); !strings.Contains(string(b), swiftServer) {
		t.Errorf("swift-init looks for the server's name in %q", b)
	}

	// A child that dies is replaced, and nobody is refused meanwhile.
	first := s.children()
	syscall.Kill(first[0], syscall.SIGKILL)
	s.await("another child", func() bool { now := s.children(); return len(now) == 1 && now[0] != first[0] })
	if !s.healthy() {
		t.Error("the second child does not answer")
	}

	// SIGUSR1: a new program takes over; the old child ends its requests; the pid stays.
	under := s.begin()
	s.await("the request to be seen", func() bool { return s.busy() })
	old := s.children()[0]
	s.signal(syscall.SIGUSR1)
	s.await("the new child", func() bool {
		if !s.healthy() {
			t.Error("a connection was refused")
		}
		return len(s.children()) == 2
	})
	s.finish(under)
	s.await("the old child to end", func() bool { now := s.children(); return len(now) == 1 && now[0] != old })

	// With a conf that is wrong the old one goes on.
	s.write("replication_concurrency = many")
	s.signal(syscall.SIGUSR1)
	s.await("the complaint", func() bool { return strings.Contains(s.text(), "the old server goes on") })
	if !strings.Contains(s.text(), "replication_concurrency") || !s.healthy() {
		t.Error("the server does not go on")
	}
	s.write("")

	// SIGHUP: the daemon is gone at once, its child when its requests are.
	under = s.begin()
	s.await("the request to be seen", func() bool { return s.busy() })
	last := s.children()[0]
	s.signal(syscall.SIGHUP)
	if err := <-s.ended; err != nil {
		t.Errorf("after SIGHUP: %v", err)
	}
	s.await("the socket to close", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	s.finish(under)
	s.await("the last child to end", func() bool { return errors.Is(syscall.Kill(last, 0), syscall.ESRCH) || zombie(last) })
	for _, text := range []string{"Started child ", "Removing dead child ", "SIGUSR1 received (", "SIGHUP received (", "Exited (", "exiting normally"} {
		if !strings.Contains(s.text(), text) {
			t.Errorf("the log lacks %q", text)
		}
	}
}

// busy reports a connection on which bytes were read: nothing waits in the kernel.
func (s *served) busy() bool {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false
	}
	local := fmt.Sprintf("0100007F:%04X", s.port)
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) > 4 && words[1] == local && words[3] == "01" && strings.HasSuffix(words[4], ":00000000") {
			return true
		}
	}
	return false
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestServerStopsAtSIGTERM(t *testing.T) {
	s := startServed(t)
	under := s.begin()
	defer under.Close()
	child := s.children()[0]
	s.signal(syscall.SIGTERM)
	if err := <-s.ended; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if !zombie(child) {
		t.Error("the child is left")
	}
}

// A conf without a guardian can not be taken over to: nobody would serve the sockets.
func TestServerGoesOnWhenItsConfWantsNoChild(t *testing.T) {
	s := startServed(t)
	b, err := os.ReadFile(s.conf)
	if err == nil {
		err = os.WriteFile(s.conf, []byte(strings.Replace(string(b), "workers = 1\n", "workers = 0\n", 1)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGUSR1)
	s.await("the complaint", func() bool { return strings.Contains(s.text(), "the old server goes on") })
	if !s.healthy() {
		t.Error("the server does not go on")
	}
	s.signal(syscall.SIGTERM)
	<-s.ended
}

// A mistake that only shows when the sockets are bound, or when the child starts, does not end a server that goes on either.
func TestServerGoesOnWhenItsReplacementDoesNotStart(t *testing.T) {
	for option, wrong := range map[string]string{"user = root": "user = nobody-at-all", "bind_ip = 127.0.0.1": "bind_ip = 192.0.2.1"} {
		s := startServed(t)
		b, err := os.ReadFile(s.conf)
		if err == nil {
			err = os.WriteFile(s.conf, []byte(strings.Replace(string(b), option, wrong, 1)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGUSR1)
		s.await("the complaint", func() bool {
			return strings.Contains(s.text(), "cannot be replaced") &&
				(strings.Contains(s.text(), "did not start normally") || strings.Count(s.text(), "Started child ") == 2)
		})
		s.await("a single child", func() bool { return len(s.children()) == 1 })
		if !s.healthy() {
			t.Errorf("%s: the server does not go on; children %v", wrong, s.children())
		}
		if err := os.WriteFile(s.conf, b, 0o644); err != nil {
			t.Fatal(err)
		}
		last := s.children()[0]
		s.signal(syscall.SIGUSR1)
		s.await("a new child", func() bool { now := s.children(); return len(now) == 1 && now[0] != last && s.healthy() })
		s.signal(syscall.SIGTERM)
		if err := <-s.ended; err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	}
}

// writeRing leaves a ring of one device on that port.
func writeRing(t *testing.T, dir string, port int) {
	t.Helper()
	var b bytes.Buffer
	text := fmt.Sprintf(`{"byteorder": "little", "devs": [{"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": %d, "replication_ip": "127.0.0.1", `+
		`"replication_port": %d, "device": "sda", "weight": 1.0, "meta": ""}], "part_shift": 31, "replica_count": 1, "version": 1}`, port, port)
	w := gzip.NewWriter(&b)
	w.Write(append(binary.BigEndian.AppendUint32([]byte("R1NG\x00\x01"), uint32(len(text))), text+"\x00\x00\x00\x00"...))
	err := w.Close()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "new"), b.Bytes(), 0o644)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "object.ring.gz"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// With servers_per_port the ports are those of the rings, and change with them, whatever went wrong at first.
func TestPortsFollowTheRings(t *testing.T) {
	dir := t.TempDir()
	var addresses [2]string
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses[i], ports[i] = l.Addr().String(), l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	writeRing(t, dir, ports[0])
	s := startServed(t, "servers_per_port = 1", "ring_check_interval = 0.1", "swift_dir = "+dir)
	serves := func(i int) bool { s.addr = addresses[i]; return s.healthy() }
	if !serves(0) {
		t.Fatal("the first port is not served")
	}
	under := s.begin()
	time.Sleep(100 * time.Millisecond) // until it is accepted
	writeRing(t, dir, ports[1])
	s.await("the other port", func() bool { return serves(1) })
	s.await("the first one to close", func() bool { return !serves(0) })
	s.finish(under)

	b, err := os.ReadFile(s.conf)
	if err == nil {
		err = os.WriteFile(s.conf, []byte(strings.Replace(string(b), "user = root", "user = nobody-at-all", 1)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	writeRing(t, dir, ports[0])
	s.await("a child that does not start", func() bool { return strings.Contains(s.text(), "did not start normally") })
	if !serves(1) {
		t.Error("the old child does not go on")
	}
	if err := os.WriteFile(s.conf, b, 0o644); err != nil {
		t.Fatal(err)
	}
	s.await("the first port again", func() bool { return serves(0) })
	s.await("the other one to close", func() bool { return !serves(1) })
	s.signal(syscall.SIGTERM)
	if err := <-s.ended; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// A child that was replaced, and still ends its requests, ends at SIGTERM too.
func TestServerStopsWithAllItsChildren(t *testing.T) {
	s := startServed(t)
	under := s.begin()
	defer under.Close()
	s.await("the request to be seen", func() bool { return s.busy() })
	old := s.children()[0]
	s.signal(syscall.SIGUSR1)
	s.await("the new child", func() bool { return strings.Count(s.text(), "Started child ") == 2 })
	time.Sleep(100 * time.Millisecond) // until the old one knows
	s.signal(syscall.SIGTERM)
	if err := <-s.ended; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	for end := time.Now().Add(8 * time.Second); !zombie(old); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("the old child is left")
			syscall.Kill(old, syscall.SIGKILL)
			break
		}
	}
}

// Nor does it wait for a child that does not come to serve.
func TestServerStopsWhileItsChildStarts(t *testing.T) {
	s := startServed(t)
	first := s.children()[0]
	err := os.Remove(s.conf)
	if err == nil {
		err = syscall.Mkfifo(s.conf, 0o644) // nobody writes it
	}
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(first, syscall.SIGKILL)
	s.await("another child", func() bool { now := s.children(); return len(now) == 1 && now[0] != first })
	s.signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server does not stop")
		syscall.Kill(s.children()[0], syscall.SIGKILL)
	}
}

// Nor does SIGTERM wait for what can not be interrupted, such as a file that another process has locked.
func TestServerStopsAtSIGTERMWhateverItWaitsFor(t *testing.T) {
	s := startServed(t)
	partition := filepath.Join(s.devices, "sda", "objects", "7")
	if err := os.MkdirAll(partition, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(partition, ".lock"))
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "REPLICATE /sda/7 HTTP/1.1\r\n\r\n")
	s.await("the request to be seen", func() bool { return s.busy() })
	start := time.Now()
	s.signal(syscall.SIGTERM)
	if err := <-s.ended; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("the server took %v to stop", took)
	}
}

// Without its guardian a child serves nobody new, so that another server can start.
func TestServerWithoutItsGuardianEnds(t *testing.T) {
	s := startServed(t)
	child := s.children()[0]
	s.cmd.Process.Kill()
	<-s.ended
	s.await("the child to end", func() bool { return zombie(child) })
}

func TestServerThatCanNotStartSaysWhy(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, swiftServer)
	exe, err := os.Executable()
	if err == nil {
		err = os.Symlink(exe, program)
	}
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "object-server.conf")
	for text, why := range map[string]string{
		"[pipeline:main]\npipeline = keymaster object-server\n[filter:keymaster]\nuse = egg:swift#keymaster\n[app:object-server]\nuse = egg:swift#object\nbind_port = 1\n":                   "keymaster",
		"[pipeline:main]\npipeline = object-server\n[app:object-server]\nuse = egg:swift#object\nbind_port = 0\nbind_ip = 127.0.0.1\nuser = nobody-at-all\nlog_address = " + dir + "/none\n": "nobody-at-all",
		"[pipeline:main]\npipeline = object-server\n[app:object-server]\nuse = egg:swift#object\nbind_port = 1\nbind_ip = 203.0.113.9\nlog_address = " + dir + "/none\n":                     "cannot bind to 203.0.113.9:1: bind: cannot assign requested address",
		"[pipeline:main]\npipeline = object-server\n[app:object-server]\nuse = egg:swift#object\n":                                                                                           "bind_port",
	} {
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, conf)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), why) {
			t.Errorf("%s: %v %s", why, err, out)
		}
	}
}

// Words to become the new program come while it does: it neither dies of them nor refuses anyone.
func TestServerOutlivesManySIGUSR1(t *testing.T) {
	s := startServed(t)
	for range 60 {
		s.signal(syscall.SIGUSR1)
		time.Sleep(time.Millisecond)
		select {
		case err := <-s.ended:
			t.Fatalf("the server ended: %v", err)
		default:
		}
	}
	s.await("one child", func() bool { return s.healthy() && len(s.children()) == 1 })
	select {
	case err := <-s.ended:
		t.Fatalf("the server ended: %v", err)
	default:
	}
}

// Nor does it wait for a port that another program has, which a ring gives it while it runs.
func TestServerStopsWhileItsNewPortIsTaken(t *testing.T) {
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	writeRing(t, dir, free.Addr().(*net.TCPAddr).Port)
	free.Close()
	s := startServed(t, "servers_per_port = 1", "ring_check_interval = 0.1", "bind_timeout = 3600", "swift_dir = "+dir)
	writeRing(t, dir, taken.Addr().(*net.TCPAddr).Port)
	s.await("the complaint", func() bool { return strings.Contains(s.text(), "cannot bind to") })
	s.signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server does not stop")
	}
}
