package server

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"imping/daemon"
	"imping/netfast/stock"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/policy"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(crashEnv); plan != "" {
		fmt.Println(serveUntilKilled(plan))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// testSwift is what netfast/stock's server has for a swift.conf.
func testSwift() *policy.Swift {
	return &policy.Swift{
		HashPrefix: []byte("pre"), HashSuffix: []byte("suf"), Path: "/etc/swift/swift.conf",
		Policies: []*policy.Policy{
			{Index: 0, Name: "replicated", Type: policy.Replication, Default: true},
			{Index: 1, Name: "ec", Type: policy.ErasureCoding, ECType: "isa_l_rs_vand", Data: 4, Parity: 2, SegmentSize: 64 << 10, Duplication: 1},
		},
	}
}

// logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testServer is a server of ours on loopback.
type testServer struct {
	*Server
	addr string
	log  *logBuffer
}

// ours starts a server on devices that ends with the test. settings are lines of
// [app:object-server], by option.
func ours(t testing.TB, devices string, settings map[string]string, pipeline ...string) *testServer {
	t.Helper()
	return oursWith(t, nil, devices, settings, pipeline...)
}

// oursWith starts one with further verbs.
func oursWith(t testing.TB, more map[string]verb, devices string, settings map[string]string, pipeline ...string) *testServer {
	t.Helper()
	options := map[string]string{"devices": devices, "mount_check": "false", "bind_port": "0", "client_timeout": "20",
		"reclaim_age": strconv.Itoa(100 * 365 * 86400), "log_level": "DEBUG", "log_address": filepath.Join(t.TempDir(), "none")}
	maps.Copy(options, settings)
	c, err := ReadConfig(writeConf(t, options, pipeline...))
	if err != nil {
		t.Fatal(err)
	}
	buffer := new(logBuffer)
	log, err := daemon.NewLogger(c.Section, "object-server", buffer)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, testSwift(), log)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(s.verbs, more)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		log.Close()
		if t.Failed() {
			lines := strings.Split(buffer.String(), "\n")
			t.Logf("log of our server:\n%s", strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
	return &testServer{s, l.Addr().String(), buffer}
}

func writeConf(t testing.TB, options map[string]string, pipeline ...string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "[DEFAULT]\n[pipeline:main]\npipeline = %s\n[app:object-server]\nuse = egg:swift#object\n", strings.Join(append(pipeline, "object-server"), " "))
	for _, key := range slices.Sorted(maps.Keys(options)) {
		fmt.Fprintf(&b, "%s = %s\n", key, options[key])
	}
	for _, filter := range pipeline {
		fmt.Fprintf(&b, "[filter:%s]\nuse = egg:swift#%s\n", filter, filter)
	}
	path := filepath.Join(t.TempDir(), "object-server.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// both are a stock server and one of ours, each with its own devices of the same content.
type both struct {
	t     *testing.T
	stock *stock.Server
	ours  *testServer
	roots [2]string // of devices: stock's, ours
	conns [2]*wire
}

func startBoth(t *testing.T, settings map[string]string) *both {
	s := stock.Start(t, stock.Options{})
	devices := t.TempDir()
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := &both{t: t, stock: s, ours: ours(t, devices, settings), roots: [2]string{s.Devices, devices}}
	return b
}

// write makes a file with metadata on both.
func (b *both) write(path string, content []byte, meta map[string]string) {
	b.t.Helper()
	for _, root := range b.roots {
		writeObjectFile(b.t, filepath.Join(root, path), content, meta)
	}
}

func writeObjectFile(t testing.TB, path string, content []byte, meta map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if meta == nil {
		return
	}
	raw := pickle.EncodeMetadata(meta, slices.Sorted(maps.Keys(meta)))
	for name, value := range map[string][]byte{"user.swift.metadata": raw, "user.swift.metadata_checksum": fmt.Appendf(nil, "%x", md5.Sum(raw))} {
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// hashDir is the path of an object's directory below the devices.
func hashDir(policy *policy.Policy, part int, name string) string {
	hash := objhash.Hex(testSwift().Hasher().Object(name))
	return filepath.Join("sda", policy.DataDir(), strconv.Itoa(part), objhash.Suffix(hash), hash)
}

// reply is an answer as it came.
type reply struct {
	Status string
	Header map[string]string // names as they were written
	Body   string
}

// wire is a connection that speaks in bytes.
type wire struct {
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &wire{c, bufio.NewReader(c)}
}

// request is a request's bytes.
func request(method, target string, header ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(header, ""), "\r\n") + "\r\n"
}

// read reads one answer.
func (w *wire) read(method string) (reply, error) {
	a := reply{Header: map[string]string{}}
	length := int64(-1)
	chunked := false
	for first := true; ; first = false {
		text, err := w.r.ReadString('\n')
		if err != nil {
			return a, fmt.Errorf("reading a head: %w", err)
		}
		text = strings.TrimRight(text, "\r\n")
		if first {
			_, a.Status, _ = strings.Cut(text, " ")
			continue
		}
		if text == "" {
			break
		}
		key, value, _ := strings.Cut(text, ": ")
		a.Header[key] = value
		switch strings.ToLower(key) {
		case "content-length":
			length, _ = strconv.ParseInt(value, 10, 64)
		case "transfer-encoding":
			chunked = true
		}
	}
	switch {
	case method == "HEAD" || strings.HasPrefix(a.Status, "1"):
		return a, nil
	case chunked:
		for {
			text, err := w.r.ReadString('\n')
			if err != nil {
				return a, err
			}
			n, err := strconv.ParseInt(strings.TrimSpace(text), 16, 63)
			if err != nil {
				return a, err
			}
			chunk := make([]byte, n+2)
			if _, err := io.ReadFull(w.r, chunk); err != nil {
				return a, err
			}
			if n == 0 {
				return a, nil
			}
			a.Body += string(chunk[:n])
		}
	}
	body, err := io.ReadAll(io.LimitReader(w.r, max(length, 0)))
	a.Body = string(body)
	if err == nil && int64(len(body)) < length {
		err = io.ErrUnexpectedEOF
	}
	return a, err
}

// ask sends a request and reads the answer, on a connection of its own.
func ask(t testing.TB, addr, method, target string, header ...string) reply {
	t.Helper()
	w := dial(t, addr)
	defer w.Close()
	io.WriteString(w, request(method, target, header...))
	a, err := w.read(method)
	if err != nil {
		t.Fatalf("%s %s %q: %v", method, target, header, err)
	}
	return a
}

// ask asks both servers, over connections that are kept, and returns the two answers without
// what must differ.
func (b *both) ask(method, target string, header ...string) (stock, ours reply) {
	b.t.Helper()
	var answers [2]reply
	for i, addr := range []string{b.stock.Addr, b.ours.addr} {
		for try := 0; ; try++ {
			if b.conns[i] == nil {
				b.conns[i] = dial(b.t, addr)
			}
			b.conns[i].SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(b.conns[i], request(method, target, header...))
			a, err := b.conns[i].read(method)
			// Stock's answer to a HEAD that fails early can have a body.
			if err == nil && a.Header["Connection"] != "close" && (method != "HEAD" || a.Status < "400" || strings.HasPrefix(a.Status, "404")) {
				answers[i] = a
				break
			}
			b.conns[i].Close()
			b.conns[i] = nil
			if err == nil || try > 0 {
				answers[i] = a
				if err != nil {
					answers[i].Status += " broken"
				}
				break
			}
		}
		delete(answers[i].Header, "Date")
	}
	return answers[0], answers[1]
}
