package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/netfast"
	"imping/swift/policy"
)

// alone starts a server with one object, /sda/7/a/c/o in policy 0, of 100,000 bytes.
func alone(t *testing.T, settings map[string]string, pipeline ...string) (s *testServer, content []byte) {
	t.Helper()
	devices := t.TempDir()
	content = randomBytes(100_000)
	dir := filepath.Join(devices, hashDir(testSwift().Policies[0], 7, "/a/c/o"))
	writeObjectFile(t, filepath.Join(dir, t2+".data"), content, metadata("/a/c/o", t2, content))
	return ours(t, devices, settings, pipeline...), content
}

// say sends bytes and returns all that comes until the server hangs up.
func say(t *testing.T, addr, text string) string {
	t.Helper()
	w := dial(t, addr)
	defer w.Close()
	// What the server no longer reads is no error here.
	go func() { io.WriteString(w, text); w.Conn.(*net.TCPConn).CloseWrite() }()
	answer, err := io.ReadAll(w)
	if err != nil {
		t.Fatalf("%.60q: %v after %q", text, err, answer)
	}
	return string(answer)
}

// Whatever two parsers could take for different requests is refused, and ends the connection.
func TestDoubtfulRequestsAreRefusedAndHungUpOn(t *testing.T) {
	s, _ := alone(t, nil)
	get := "GET /sda/7/a/c/o HTTP/1.1\r\nHost: h\r\n"
	for name, c := range map[string]struct{ text, status string }{
		"both lengths":                    {"POST /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"two lengths":                     {"POST /x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "400"},
		"negative length":                 {"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"},
		"signed length":                   {"POST /x HTTP/1.1\r\nContent-Length: +5\r\n\r\n12345", "400"},
		"length in words":                 {"POST /x HTTP/1.1\r\nContent-Length: five\r\n\r\n", "400"},
		"length beyond 63 bits":           {"POST /x HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n", "400"},
		"unknown encoding":                {"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "400"},
		"chunks in HTTP/1.0":              {"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"space before the colon":          {get + "Content-Length : 5\r\n\r\n", "400"},
		"continued line":                  {get + "A: b\r\n c\r\n\r\n", "400"},
		"no colon":                        {get + "nonsense\r\n\r\n", "400"},
		"no name":                         {get + ": x\r\n\r\n", "400"},
		"carriage return in a value":      {get + "A: b\rContent-Length: 5\r\n\r\n", "400"},
		"carriage return in the target":   {"GET /x\ry HTTP/1.1\r\n\r\n", "400"},
		"HTTP/0.9":                        {"GET /x\r\n\r\n", "400"},
		"HTTP/2":                          {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
		"TLS":                             {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\n", "400"},
		"four words":                      {"GET /x y HTTP/1.1\r\n\r\n", "400"},
		"an empty line first":             {"\r\n" + get + "\r\n", "400"},
		"a head of 1 MiB":                 {get + "A: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "431"},
		"a request line of 1 MiB":         {"GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\n\r\n", "431"},
		"fields without end":              {get + strings.Repeat("A: b\r\n", 1<<17) + "\r\n", "431"},
		"1001 fields":                     {get + strings.Repeat("A: b\r\n", 1001) + "\r\n", "431"},
		"rubbish behind a good request":   {get + "\r\nrubbish\r\n\r\n", "200 400"},
		"rubbish behind a chunked body":   {"HEAD /sda/7/a/c/o HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nrubbish\r\n\r\n", "200 400"},
		"chunk of 2^63 bytes":             {"GET /healthy HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\n", "400"},
		"chunk that is no number":         {"GET /healthy HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + get + "\r\n", "400"},
		"chunk longer than it says":       {"GET /healthy HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n" + get + "\r\n", "400"},
		"a body that is longer than said": {"HEAD /sda/7/a/c/o HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcdef\r\n\r\n", "200 400"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := say(t, s.addr, c.text)
			var statuses []string
			for part := range strings.SplitSeq(answer, "HTTP/1.1 ") {
				if part != "" && len(part) > 3 && strings.Contains(part, "\r\nDate: ") {
					statuses = append(statuses, part[:3])
				}
			}
			if got := strings.Join(statuses, " "); got != c.status {
				t.Errorf("answered %q, want %q: %.200q", got, c.status, answer)
			}
			if last := answer[strings.LastIndex(answer, "HTTP/1.1 "):]; !strings.Contains(last, "\r\nConnection: close\r\n") {
				t.Errorf("the last answer does not say that it is the last: %.200q", last)
			}
		})
	}
	// And others are unharmed.
	if a := ask(t, s.addr, "GET", "/sda/7/a/c/o"); a.Status != "200 OK" {
		t.Error(a.Status)
	}
}

func TestOddNamesAndBytesPass(t *testing.T) {
	s, _ := alone(t, nil)
	for _, field := range []string{"X-Object-Meta-\xc3\x9cnicode: \xe6\x97\xa5", "X-Object-Meta-\xff: \xfe\x80", "X-Object-Meta-(odd)[name]: x", "X-Object-Meta-\x00: \x00", "X-Two words: x", "A:", "A: \t "} {
		if a := ask(t, s.addr, "GET", "/sda/7/a/c/o", field); a.Status != "200 OK" {
			t.Errorf("%q: %s %q", field, a.Status, a.Body)
		}
	}
}

// Stock keeps line breaks that a proxy's metadata has. They can not be given back, which is told.
func TestFieldsThatCanNotBeSentAreAnError(t *testing.T) {
	devices := t.TempDir()
	dir := filepath.Join(devices, hashDir(testSwift().Policies[0], 7, "/a/c/o"))
	writeObjectFile(t, filepath.Join(dir, t2+".data"), []byte("x"), metadata("/a/c/o", t2, []byte("x"), "X-Object-Meta-A", "a\r\nContent-Length: 0"))
	s := ours(t, devices, nil)
	w := dial(t, s.addr)
	for range 2 {
		io.WriteString(w, request("GET", "/sda/7/a/c/o"))
		if a, err := w.read("GET"); err != nil || a.Status != "500 Internal Error" {
			t.Errorf("%s, %v", a.Status, err)
		}
	}
	if !strings.Contains(s.log.String(), `cannot send header "X-Object-Meta-A"`) {
		t.Error("it is not logged")
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	s, content := alone(t, nil)
	w := dial(t, s.addr)
	var text string
	for i := range 50 {
		text += request("GET", "/sda/7/a/c/o", fmt.Sprintf("Range: bytes=%d-%d", i*7, i*7+2))
	}
	go io.WriteString(w, text)
	for i := range 50 {
		a, err := w.read("GET")
		if err != nil || a.Body != string(content[i*7:i*7+3]) {
			t.Fatalf("answer %d: %v %v", i, a, err)
		}
	}
}

// Short answers wait for each other while requests are there, and for nothing else.
func TestNoAnswerWaitsForARequestThatIsNotThere(t *testing.T) {
	devices := t.TempDir()
	content := []byte("a short one")
	dir := filepath.Join(devices, hashDir(testSwift().Policies[0], 7, "/a/c/short"))
	writeObjectFile(t, filepath.Join(dir, t2+".data"), content, metadata("/a/c/short", t2, content))
	s := ours(t, devices, nil)
	w := dial(t, s.addr)
	one, missing := request("GET", "/sda/7/a/c/short", netfast.Pipelining+": ask"), request("GET", "/sda/7/a/c/none")
	last := request("GET", "/sda/7/a/c/short", "Connection: close")
	for _, end := range []string{one[:20], "", one[:len(one)-1]} {
		io.WriteString(w, strings.Repeat(one+one+missing, 10)+end)
		for i := range 30 {
			a, err := w.read("GET")
			if err != nil {
				t.Fatalf("answer %d: %v", i, err)
			}
			if i%3 == 2 {
				if a.Status != "404 Not Found" {
					t.Errorf("answer %d: %s", i, a.Status)
				}
			} else if a.Body != string(content) || a.Header[netfast.Pipelining] != "yes" {
				t.Errorf("answer %d: %v", i, a)
			}
		}
		if end != "" {
			io.WriteString(w, one[len(end):])
			if a, err := w.read("GET"); err != nil || a.Body != string(content) {
				t.Errorf("a request in two pieces: %v %v", a, err)
			}
		}
	}
	// What comes behind the last request is not answered, and does not keep its answer back.
	io.WriteString(w, one+last+one)
	for range 2 {
		if a, err := w.read("GET"); err != nil || a.Body != string(content) {
			t.Errorf("before the end: %v %v", a, err)
		}
	}
	if rest, err := io.ReadAll(w); err != nil || len(rest) > 0 {
		t.Errorf("behind the end: %q, %v", rest, err)
	}
}

// An answer that waits for the next one's arrives even if that one breaks, or takes long.
func TestAnAnswerDoesNotDependOnTheNext(t *testing.T) {
	devices := t.TempDir()
	good := []byte("a short one")
	policies := testSwift().Policies
	coded := slices.IndexFunc(policies, func(p *policy.Policy) bool { return p.Type == "erasure_coding" })
	writeObjectFile(t, filepath.Join(devices, hashDir(policies[0], 7, "/a/c/good"), t2+".data"), good, metadata("/a/c/good", t2, good))
	writeObjectFile(t, filepath.Join(devices, hashDir(policies[coded], 7, "/a/c/bad"), t2+"#1#d.data"), good, ecMetadata("/a/c/bad", t2, good, 1))
	hang := make(chan struct{})
	s := oursWith(t, map[string]verb{
		"SLOW": {serve: func(*Server, *Request) (*Response, error) { <-hang; return &Response{Status: 204}, nil }},
	}, devices, nil)
	first := request("GET", "/sda/7/a/c/good")

	w := dial(t, s.addr)
	io.WriteString(w, first+request("GET", "/sda/7/a/c/bad", fmt.Sprintf("X-Backend-Storage-Policy-Index: %d", policies[coded].Index))+first)
	if a, err := w.read("GET"); err != nil || a.Body != string(good) {
		t.Errorf("before one that is quarantined: %v %v", a, err)
	}
	if !strings.Contains(s.log.String(), "Quarantined object") {
		t.Error("nothing was quarantined")
	}

	w = dial(t, s.addr)
	io.WriteString(w, first+request("SLOW", "/"))
	if a, err := w.read("GET"); err != nil || a.Body != string(good) {
		t.Errorf("before one that takes long: %v %v", a, err)
	}
	close(hang)
	if a, err := w.read("SLOW"); err != nil || a.Status != "204 No Content" {
		t.Errorf("the one that takes long: %v %v", a, err)
	}
}

func TestHTTP10IsServed(t *testing.T) {
	s, content := alone(t, nil)
	answer := say(t, s.addr, "GET /sda/7/a/c/o HTTP/1.0\r\n\r\n")
	if !strings.HasSuffix(answer, string(content)) || !strings.Contains(answer, "\r\nConnection: close\r\n") {
		t.Errorf("%.300q", answer)
	}
	w := dial(t, s.addr)
	for range 2 {
		io.WriteString(w, "GET /sda/7/a/c/o HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
		if a, err := w.read("GET"); err != nil || a.Header["Connection"] != "keep-alive" || a.Body != string(content) {
			t.Errorf("%v %v", a.Header, err)
		}
	}
}

// A client that waits for 100 Continue and is refused gets its answer, and the connection
// is not used again: a body may follow, or not.
func TestExpectationIsNotMetForWhatIsRefused(t *testing.T) {
	s, _ := alone(t, nil)
	answer := say(t, s.addr, "GET /sda/7/a/c/o HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if strings.HasPrefix(answer, "HTTP/1.1 100") || !strings.Contains(answer, "\r\nConnection: close\r\n") {
		t.Errorf("%.300q", answer)
	}
}

func TestStalledClientsAreHungUpOn(t *testing.T) {
	s, _ := alone(t, map[string]string{"client_timeout": "0.2"})
	for name, text := range map[string]string{"silence": "", "half a head": "GET /sda/7/a/c/o HTTP/1.1\r\nHost", "half a body": request("GET", "/sda/7/a/c/o", "Content-Length: 10") + "abc"} {
		w := dial(t, s.addr)
		io.WriteString(w, text)
		if _, err := io.ReadAll(w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A head that comes byte by byte makes progress, but is not waited for longer.
	w := dial(t, s.addr)
	start := time.Now()
	for i := 0; ; i++ {
		if _, err := io.WriteString(w, "x"); err != nil {
			break
		}
		if time.Since(start) > 30*time.Second {
			t.Fatal("a head may take for ever")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A reader that does not read holds nobody up, and costs a bounded time.
func TestStalledReadersAreHungUpOn(t *testing.T) {
	devices := t.TempDir()
	large := randomBytes(32 << 20)
	dir := filepath.Join(devices, hashDir(testSwift().Policies[0], 7, "/a/c/o"))
	writeObjectFile(t, filepath.Join(dir, t2+".data"), large, metadata("/a/c/o", t2, large))
	s := ours(t, devices, map[string]string{"client_timeout": "0.3", "keep_cache_size": "100000000"})
	for _, header := range []string{"A: b", "Range: bytes=1-", "X-Auth-Token: a", "X-Auth-Token: a\r\nRange: bytes=1-"} { // by sendfile, through memory
		w := dial(t, s.addr)
		io.WriteString(w, request("GET", "/sda/7/a/c/o", header))
		if _, err := w.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the connection to end", func() bool { return s.count() == 0 })
		n, err := io.Copy(io.Discard, w)
		if n >= int64(len(large)) {
			t.Errorf("all of %d bytes were sent to nobody (%v)", n, err)
		}
		w.Close()
	}
}

func (s *testServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestIdleConnectionsAreCheap(t *testing.T) {
	s, _ := alone(t, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 1000
	for range n {
		w := dial(t, s.addr)
		io.WriteString(w, request("HEAD", "/sda/7/a/c/o"))
		if a, err := w.read("HEAD"); err != nil || a.Status != "200 OK" {
			t.Fatal(a, err)
		}
		w.r = nil // the client's buffer is not what is measured
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d bytes for each of %d connections, both ends", used/n, s.count())
	if used/n > 32<<10 && !raceDetector {
		t.Errorf("each idle connection costs %d bytes", used/n)
	}
	if a := ask(t, s.addr, "HEAD", "/sda/7/a/c/o"); a.Status != "200 OK" {
		t.Error(a.Status)
	}
}

// More than max_clients wait for a place, and get it.
func TestNoMoreThanMaxClientsAreServedAtOnce(t *testing.T) {
	s, _ := alone(t, map[string]string{"max_clients": "3", "workers": "1"})
	var first []*wire
	for range 3 {
		w := dial(t, s.addr)
		io.WriteString(w, request("HEAD", "/sda/7/a/c/o"))
		if _, err := w.read("HEAD"); err != nil {
			t.Fatal(err)
		}
		first = append(first, w)
	}
	fourth := dial(t, s.addr)
	io.WriteString(fourth, request("HEAD", "/sda/7/a/c/o"))
	fourth.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := fourth.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a fourth one is served: %v", err)
	}
	first[0].Close()
	fourth.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := fourth.read("HEAD"); err != nil {
		t.Error(err)
	}
}

// Finish lets requests under way end, and closes what is idle (rule 30).
func TestFinishLetsRequestsEnd(t *testing.T) {
	s, content := alone(t, nil)
	idle := dial(t, s.addr)
	io.WriteString(idle, request("HEAD", "/sda/7/a/c/o"))
	if _, err := idle.read("HEAD"); err != nil {
		t.Fatal(err)
	}
	busy := dial(t, s.addr)
	half := request("GET", "/sda/7/a/c/o", "Content-Length: 5")
	io.WriteString(busy, half+"ab")
	state := func(w *wire) *connection {
		for c := range s.conns {
			if c.Addr() == w.LocalAddr().String() {
				return c
			}
		}
		return nil
	}
	waitFor(t, "one request to be under way, and the other connection to be idle", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		a, b := state(busy), state(idle)
		return a != nil && !a.idle && b != nil && b.idle
	})
	fresh := dial(t, s.addr)
	waitFor(t, "the third connection", func() bool { return s.count() == 3 })
	finished := make(chan error)
	go func() { finished <- s.Finish(context.Background()) }()
	waitFor(t, "the end to begin", s.isStopping)
	// What was on its way is answered.
	io.WriteString(fresh, request("HEAD", "/sda/7/a/c/o"))
	if a, err := fresh.read("HEAD"); err != nil || a.Status != "200 OK" || a.Header["Connection"] != "close" {
		t.Errorf("the request on its way: %v %v", a, err)
	}
	fresh.Close()
	if _, err := io.ReadAll(idle); err != nil {
		t.Errorf("the idle connection: %v", err)
	}
	waitFor(t, "connections to be refused", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	io.WriteString(busy, "cde")
	if a, err := busy.read("GET"); err != nil || a.Body != string(content) || a.Header["Connection"] != "close" {
		t.Errorf("the request under way: %v %v", a.Header, err)
	}
	busy.Close()
	if err := <-finished; err != nil {
		t.Error(err)
	}
}

// A bug in a verb costs one request, not the process.
func TestPanicIsAnError(t *testing.T) {
	s := oursWith(t, map[string]verb{"BUG": {serve: func(*Server, *Request) (*Response, error) { panic("ouch") }}}, t.TempDir(), nil)
	if a := ask(t, s.addr, "BUG", "/x"); !strings.HasPrefix(a.Status, "500") {
		t.Error(a.Status)
	}
	if !strings.Contains(s.log.String(), "BUG: BUG /x: ouch") {
		t.Errorf("log: %s", s.log)
	}
}

// So does one that comes to light while the answer is sent.
func TestPanicWithinAnAnswerEndsItsConnectionOnly(t *testing.T) {
	s := oursWith(t, map[string]verb{"BUG": {serve: func(*Server, *Request) (*Response, error) {
		return &Response{Status: 200, Duplex: func(io.Writer) error { panic("ouch") }}, nil
	}}}, t.TempDir(), nil)
	if answer := say(t, s.addr, request("BUG", "/x", "Transfer-Encoding: chunked")+"0\r\n\r\n"); strings.HasSuffix(answer, "0\r\n\r\n") {
		t.Errorf("the answer has an end: %q", answer)
	}
	if a := ask(t, s.addr, "OPTIONS", "/x"); !strings.HasPrefix(a.Status, "200") {
		t.Error(a.Status)
	}
	if !strings.Contains(s.log.String(), "BUG: BUG /x: ouch") {
		t.Errorf("log: %s", s.log)
	}
}

// A chunked answer goes out as it is written, while the body of the request still comes.
func TestDuplexAnswers(t *testing.T) {
	echo := verb{serve: func(_ *Server, r *Request) (*Response, error) {
		return &Response{Status: 200, Duplex: func(w io.Writer) error {
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
				if string(buf[:n]) == "cut" {
					return errors.New("cut")
				}
				io.WriteString(w, strings.ToUpper(string(buf[:n])))
			}
		}}, nil
	}}
	s := oursWith(t, map[string]verb{"ECHO": echo}, t.TempDir(), nil)
	w := dial(t, s.addr)
	for range 2 { // on the same connection
		io.WriteString(w, request("ECHO", "/x", "Transfer-Encoding: chunked"))
		for i, text := range []string{"one", "two"} {
			if i == 0 {
				expectText(t, w, "HTTP/1.1 200 OK")
			}
			fmt.Fprintf(w, "3\r\n%s\r\n", text)
			expectText(t, w, "3\r\n"+strings.ToUpper(text)+"\r\n")
		}
		io.WriteString(w, "0\r\n\r\n")
		expectText(t, w, "0\r\n\r\n")
	}
	io.WriteString(w, request("ECHO", "/x", "Transfer-Encoding: chunked")+"3\r\ncut\r\n")
	if rest, _ := io.ReadAll(w.r); strings.HasSuffix(string(rest), "0\r\n\r\n") {
		t.Errorf("an answer that was cut has an end: %q", rest)
	}
}

// expectText reads until text has come.
func expectText(t *testing.T, w *wire, text string) {
	t.Helper()
	var seen []byte
	for !strings.HasSuffix(string(seen), text) {
		b, err := w.r.ReadByte()
		if err != nil {
			t.Fatalf("waiting for %q: %v after %q", text, err, seen)
		}
		seen = append(seen, b)
	}
}

// replication_concurrency: what is above it is refused, not queued (rule 10).
func TestSemaphoreNeverWaits(t *testing.T) {
	two := newSemaphore(2)
	for i := range 3 {
		if got := two.tryAcquire(); got != (i < 2) {
			t.Errorf("taking a semaphore of two for the %d. time: %v", i+1, got)
		}
	}
	two.release()
	if !two.tryAcquire() {
		t.Error("what was given back could not be taken")
	}
	for any, i := newSemaphore(0), 0; i < 100; i++ {
		if !any.tryAcquire() {
			t.Fatal("0 is no limit")
		}
	}
}
