// Package stock starts an object server of the installed Swift for tests of what
// netfast says to it. It is no cluster: one server, one temporary folder of devices,
// no ring, no proxy.
package stock

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"imping/swift/objhash"
)

// python is Debian's interpreter: the only one that sees Debian's python3-swift.
const python = "/usr/bin/python3"

//go:embed server.py
var script string

// Options of a Server; zero values mean isa_l_rs_vand 4+2 with segments of 64 KiB, no
// limit of concurrent SSYNCs, and Swift's lock timeout.
type Options struct {
	ECType      string `json:"ec_type"`
	K           int    `json:"k"`
	M           int    `json:"m"`
	Segment     int    `json:"segment"`
	Concurrency int    `json:"concurrency"`
	LockTimeout int    `json:"lock_timeout"` // seconds
}

// Server is a running object server. Policy 0 is replicated, policy 1 is EC.
type Server struct {
	Addr    string // 127.0.0.1:port
	Devices string // folder of devices; sda exists
	Options Options
	Hasher  objhash.Hasher
}

// syncBuffer is the server's log, read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Start starts a server that ends with the test; its log is shown if the test fails.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.ECType == "" {
		o.ECType, o.K, o.M = "isa_l_rs_vand", 4, 2
	}
	if o.Segment == 0 {
		o.Segment = 64 << 10
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = 15
	}
	s := &Server{Devices: t.TempDir(), Options: o, Hasher: objhash.Hasher{Prefix: []byte("pre"), Suffix: []byte("suf")}}
	if err := os.Mkdir(filepath.Join(s.Devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(struct {
		Options
		Devices string `json:"devices"`
		Prefix  string `json:"prefix"`
		Suffix  string `json:"suffix"`
	}{o, s.Devices, "pre", "suf"})
	if err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command(python, "-P", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := new(syncBuffer)
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Pdeathsig is sent when the thread that forked ends: it must stay until the child
	// is gone.
	started, finished := make(chan error), make(chan struct{})
	go func() {
		defer close(finished)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-started // the test is over
			in.Close()
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("cannot start Swift's object server (is python3-swift installed? `make deps`): %v", err)
	}
	t.Cleanup(func() {
		close(started)
		<-finished
		if t.Failed() {
			t.Logf("log of the object server:\n%s", log)
		}
	})
	fmt.Fprintf(in, "%s\n", settings)
	var hello struct{ Port int }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		t.Fatalf("Swift's object server did not start: %v\n%s", err, log)
	}
	s.Addr = fmt.Sprintf("127.0.0.1:%d", hello.Port)
	return s
}

// Hash is the object's hash in hexadecimal; name is "/a/c/o".
func (s *Server) Hash(name string) string { return fmt.Sprintf("%x", s.Hasher.Object(name)) }
