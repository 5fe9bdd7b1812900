package netfast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/netfast/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var get = &Request{Method: "GET", Path: "/sda/1/a/c/o"}

// patient never times out within a test that passes; hasty does soon.
const (
	patient = 30 * time.Second
	hasty   = 100 * time.Millisecond
)

func client(t *testing.T, node time.Duration) *Client {
	c := NewClient(Options{ConnTimeout: patient, NodeTimeout: node, UserAgent: "obj-reconstructor 7"})
	t.Cleanup(c.Close)
	return c
}

func do(t *testing.T, c *Client, addr string) *Response {
	t.Helper()
	r, err := c.Do(context.Background(), addr, get)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func random(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	return b
}

func TestRequestHeadIsExact(t *testing.T) {
	heads := make(chan string, 16)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		heads <- c.Head()
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	c := client(t, patient)
	r, err := c.Do(context.Background(), addr, &Request{Method: "REPLICATE", Path: Quote("/sd a/1/ö"),
		Header: []Field{{"X-Backend-STORAGE-policy-index", "1"}, {"X-raw-\xff", "\xfe\x80"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	want := "REPLICATE /sd%20a/1/%C3%B6 HTTP/1.1\r\nHost: " + addr +
		"\r\nUser-Agent: obj-reconstructor 7\r\nX-Backend-STORAGE-policy-index: 1\r\nX-raw-\xff: \xfe\x80\r\n"
	if got := <-heads; got != want {
		t.Errorf("head\n got %q\nwant %q", got, want)
	}
	for _, bad := range []*Request{
		{Method: "GET", Path: "/a b"}, {Method: "GET", Path: ""}, {Method: "", Path: "/"}, {Method: "GET", Path: "/\r\nX: y"},
		{Method: "GET", Path: "/", Header: []Field{{"A", "b\r\nC: d"}}}, {Method: "GET", Path: "/", Header: []Field{{"A:", "b"}}},
	} {
		if _, err := c.Do(context.Background(), addr, bad); err == nil || !strings.Contains(err.Error(), "cannot send") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// An independent server's responses over one connection.
func TestConnectionsAreUsedAgain(t *testing.T) {
	body := random(100_000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Agent", r.UserAgent())
		if r.URL.Path != "/chunked" {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		w.Write(body)
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c := client(t, patient)
	for _, path := range []string{"/", "/chunked", "/"} {
		r, err := c.Do(context.Background(), addr, &Request{Method: "GET", Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if r.Header("x-agent") != "obj-reconstructor 7" {
			t.Errorf("agent %q", r.Header("x-agent"))
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		r.Close()
		r.Close()
	}
	if n := c.Counters(); n.Dials != 1 || n.Reused != 2 {
		t.Errorf("counters %+v, want one dial and two reuses", n)
	}
	// Left half read, a connection is not kept.
	r := do(t, c, addr)
	if _, err := r.ReadFull(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	do(t, c, addr).Close()
	if n := c.Counters(); n.Dials != 2 || n.Reused != 3 {
		t.Errorf("counters %+v, want a second dial after a body that was not read", n)
	}
}

func TestBigBodiesGoStraightIntoTheCallersMemory(t *testing.T) {
	body := random(4 << 20)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for c.Head() != "" {
			c.Say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)))
			c.Write(body)
		}
	})
	c := client(t, patient)
	for range 2 {
		before := c.Counters()
		r := do(t, c, addr)
		got := make([]byte, len(body))
		for at := 0; at < len(got); at += 100_001 {
			if _, err := r.ReadFull(got[at:min(at+100_001, len(got))]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Read(got[:1]); err != io.EOF {
			t.Errorf("behind the end: %v", err)
		}
		r.Close()
		if !bytes.Equal(got, body) {
			t.Fatal("the body changed on its way")
		}
		n := c.Counters()
		if buffered := n.Buffered - before.Buffered; buffered > bufferSize || buffered+n.Direct-before.Direct != int64(len(body)) {
			t.Errorf("%d bytes buffered, %d direct, of %d", buffered, n.Direct-before.Direct, len(body))
		}
	}
}

func TestAStaleConnectionIsReplacedOnce(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	closed := make(chan struct{})
	addr := fake.Peer(t, func(n int, c *fake.Conn) {
		c.Head()
		switch n {
		case 0:
			c.Say(ok)
			c.Close()
			close(closed)
		case 1:
			c.Say(ok)
			c.Head() // the reused one: closed after the request, before an answer
		}
	})
	c := client(t, patient)
	for i, want := range []Counters{{Dials: 1}, {Dials: 2, Reused: 1, Stale: 1}} {
		r := do(t, c, addr)
		if got, err := io.ReadAll(r); err != nil || string(got) != "ok" {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
		r.Close()
		<-closed
		n := c.Counters()
		n.Buffered, n.Direct = 0, 0
		if n != want {
			t.Errorf("%d: counters %+v, want %+v", i, n, want)
		}
	}
	// The connection of the third request is stale, its replacement is closed without a
	// word: an error, not a third try.
	if r, err := c.Do(context.Background(), addr, get); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v, %v, want an unexpected end that names the peer", r, err)
	}
	if n := c.Counters(); n.Dials != 3 || n.Reused != 2 || n.Stale != 2 {
		t.Errorf("counters %+v", n)
	}
}

// Requests that were started together: whatever the peer does to one, each of the others gets
// its own answer, also when the connection it went out on was closed behind the first.
func TestRequestsUnderWayTogetherDoNotDisturbEachOther(t *testing.T) {
	const n = 6
	var asked atomic.Int64
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for {
			head := c.Head()
			if head == "" {
				return
			}
			path := strings.Fields(head)[1]
			body := "you asked for " + path
			switch {
			case path == "/silent":
				c.Hang()
				return
			case path == "/busy":
				c.Say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
			case path == "/unmounted":
				c.Say("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n")
			default:
				c.Say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			}
			if asked.Add(1) <= n { // what is sent on this connection now is lost
				return
			}
		}
	})
	c := client(t, patient)
	paths := []string{"/silent", "/0", "/busy", "/1", "/unmounted", "/2"}
	for round := range 3 {
		var started []*Exchange
		for _, p := range paths {
			r := &Request{Method: "GET", Path: p}
			if p == "/silent" {
				r.HeadTimeout = hasty
			}
			started = append(started, c.Start(t.Context(), addr, r))
		}
		for i, e := range started {
			r, err := e.Answer(t.Context())
			if paths[i] == "/silent" {
				if !IsTimeout(err) {
					t.Errorf("%d: a silent peer: %v", round, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%d: %s: %v", round, paths[i], err)
				continue
			}
			body, err := io.ReadAll(r)
			r.Close()
			want := map[string]string{"/busy": "503 busy", "/unmounted": "507 "}[paths[i]]
			if want == "" {
				want = "200 you asked for " + paths[i]
			}
			if got := fmt.Sprintf("%d %s", r.Status, body); err != nil || got != want {
				t.Errorf("%d: %s: %q, %v", round, paths[i], got, err)
			}
		}
	}
}

func TestADroppedRequestIsNobodys(t *testing.T) {
	gone := make(chan struct{})
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		c.Hang()
		close(gone)
	})
	c := client(t, patient)
	c.Start(t.Context(), addr, get).Drop()
	<-gone
	if c.take(addr) != nil {
		t.Error("the connection, on which an answer comes, is kept")
	}
	refused := "127.0.0.1:1"
	c.Start(t.Context(), refused, get).Drop() // there is no connection: nothing to do
	if _, err := c.Start(t.Context(), refused, get).Answer(t.Context()); err == nil || !strings.Contains(err.Error(), refused) {
		t.Errorf("a refused connection: %v", err)
	}
}

func TestASilentPeerIsNotAskedAgain(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		c.Hang()
	})
	c := client(t, patient)
	do(t, c, addr).Close()
	conn := c.take(addr)
	conn.SetTimeouts(hasty, patient)
	c.put(conn)
	if _, err := c.Do(context.Background(), addr, get); !IsTimeout(err) || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v, want a timeout that names the peer", err)
	}
	if n := c.Counters(); n.Dials != 1 || n.Reused != 1 || n.Stale != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestWhatMayNotStayInThePool(t *testing.T) {
	for what, answer := range map[string]string{
		"Connection: close":    "HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0":             "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"more than it said":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
		"ends with connection": "HTTP/1.1 200 OK\r\n\r\nok",
	} {
		addr := fake.Peer(t, func(_ int, c *fake.Conn) {
			c.Head()
			c.Say(answer)
			if what == "ends with connection" {
				return
			}
			c.Hang()
		})
		c := client(t, patient)
		r := do(t, c, addr)
		if got, err := io.ReadAll(r); err != nil || string(got) != "ok" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		r.Close()
		if c.take(addr) != nil {
			t.Errorf("%s: the connection is kept", what)
		}
	}
}

func TestThePoolIsLastInFirstOutAndBounded(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for c.Head() != "" {
			c.Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	c := NewClient(Options{NodeTimeout: patient, IdlePerHost: 2})
	defer c.Close()
	var rs []*Response
	var conns []*Conn
	for range 3 {
		r := do(t, c, addr)
		rs, conns = append(rs, r), append(conns, r.Conn())
	}
	for _, r := range rs {
		r.Close()
	}
	if a, b, none := c.take(addr), c.take(addr), c.take(addr); a != conns[1] || b != conns[0] || none != nil {
		t.Errorf("taken %p %p %p of %v", a, b, none, conns)
	}
	closeAll(conns)

	short := NewClient(Options{NodeTimeout: patient, IdleFor: time.Millisecond})
	defer short.Close()
	do(t, short, addr).Close()
	for {
		short.mu.Lock()
		left, armed := len(short.idle), short.reaper != nil
		short.mu.Unlock()
		if left == 0 && !armed {
			break // reaped
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHostileAnswersAreRefused(t *testing.T) {
	forever := func(s string) func(*fake.Conn) {
		return func(c *fake.Conn) {
			for range 1 << 20 {
				if _, err := io.WriteString(c, s); err != nil {
					return
				}
			}
		}
	}
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct{ what, answer, err string }{
		{"nothing", "", "closed without an answer"},
		{"garbage", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "status line"},
		{"old", "HTTP/0.9 200 OK\r\n\r\n", "status line"},
		{"short status", "HTTP/1.1 20\r\n\r\n", "status line"},
		{"long status", "HTTP/1.1 2000 OK\r\n\r\n", "status line"},
		{"low status", "HTTP/1.1 099 OK\r\n\r\n", "status line"},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", "broke off after 27 bytes"},
		{"no colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "not a header line"},
		{"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "not a header line"},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad Content-Length"},
		{"huge length", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n", "bad Content-Length"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "bad Content-Length"},
		{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "not certain"},
		{"gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "unknown Transfer-Encoding"},
		{"only interim", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9), "interim"},
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234", "broke off at byte 4 of 10"},
		{"no chunk length", chunked + "\r\n", "not a chunk length"},
		{"bad chunk length", chunked + "zz\r\n", "not a chunk length"},
		{"negative chunk", chunked + "-1\r\n", "not a chunk length"},
		{"huge chunk", chunked + "8000000000000000\r\n", "not a chunk length"},
		{"long chunk", chunked + "2\r\nabc\r\n", "longer than it said"},
		{"unended", chunked + "2\r\nab\r\n", "broke off at byte 2"},
		{"cut chunk", chunked + "5\r\nab", "broke off at byte 2"},
		{"cut end", chunked + "2\r\nab\r\n0\r\n", "broke off at byte 2"},
	} {
		addr := fake.Peer(t, func(_ int, conn *fake.Conn) { conn.Head(); conn.Say(c.answer) })
		expect(t, addr, c.what, c.err)
	}
	for _, c := range []struct {
		what, start, err string
		endless          func(*fake.Conn)
	}{
		{"endless status line", "HTTP/1.1 200 ", "longer than 65536", forever("very ")},
		{"endless header", "HTTP/1.1 200 OK\r\n", "longer than 65536", forever("A: b\r\n")},
		{"endless header line", "HTTP/1.1 200 OK\r\nA: ", "longer than 65536", forever("b")},
		{"endless chunk line", chunked, "longer than 1024", forever("0")},
		{"endless chunk extension", chunked + "1;", "longer than 1024", forever("x=y;")},
		{"endless trailer", chunked + "0\r\n", "trailer", forever("A: b\r\n")},
	} {
		addr := fake.Peer(t, func(_ int, conn *fake.Conn) { conn.Head(); conn.Say(c.start); c.endless(conn) })
		expect(t, addr, c.what, c.err)
	}
}

func expect(t *testing.T, addr, what, want string) {
	t.Helper()
	c := NewClient(Options{NodeTimeout: patient})
	defer c.Close()
	r, err := c.Do(context.Background(), addr, get)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		if _, again := r.Read(make([]byte, 1)); err != nil && again == nil {
			t.Errorf("%s: read on after %v", what, err)
		}
		r.Close()
	}
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), addr) {
		t.Errorf("%s: %v, want %q and the peer", what, err, want)
	}
}

func TestPiecesOfOneByteMakeTheSameAnswer(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Dribble("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Object-Meta-\xc3\xb6:  \xc3\xbc \r\nEmpty:\r\nTransfer-Encoding: Chunked\r\n\r\n" +
			"3;ext=1\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n")
		c.Head()
		c.Say("HTTP/1.1 204 No Content\r\n\r\n")
	})
	c := client(t, patient)
	r := do(t, c, addr)
	if got := r.Header("x-object-meta-\xc3\xb6"); got != "\xc3\xbc" {
		t.Errorf("a header whose name is not ASCII: %q", got)
	}
	if _, ok := r.Lookup("Empty"); !ok {
		t.Error("an empty header is not found")
	}
	if _, ok := r.Lookup("Trailer"); ok {
		t.Error("a trailer became a header")
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "abc0123456789" {
		t.Errorf("%q, %v", got, err)
	}
	r.Close()
	if r := do(t, c, addr); r.Status != 204 {
		t.Errorf("status %d", r.Status)
	}
	if n := c.Counters(); n.Dials != 1 {
		t.Errorf("counters %+v", n)
	}
}

// Swift's metadata may be larger than the connection's buffer.
func TestAHeadOfManyKilobytesIsRead(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\n")
		for i := range 200 {
			c.Say(fmt.Sprintf("X-Object-Meta-%d: %s\r\n", i, strings.Repeat("v", 250)))
		}
		c.Say("X-Long: " + strings.Repeat("w", 9000) + "\r\nContent-Length: 0\r\n\r\n")
	})
	r := do(t, client(t, patient), addr)
	if len(r.Header("X-Object-Meta-199")) != 250 || len(r.Header("X-Long")) != 9000 {
		t.Error("headers were lost")
	}
}

func TestAStalledBodyTimesOut(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n1234")
		c.Hang()
	})
	r := do(t, client(t, patient), addr)
	r.Conn().SetTimeouts(hasty, patient)
	n, err := r.ReadFull(make([]byte, 10000))
	if n != 4 || !IsTimeout(err) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "byte 4 of 10000") {
		t.Errorf("%d, %v", n, err)
	}
}

// A peer that sends a byte now and then makes progress, and holds up nobody for ever.
func TestAPeerThatTricklesIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		what, say string
		want      func(c *Client, addr string) error
	}{
		{"the head of the answer", "", func(c *Client, addr string) error {
			_, err := c.Do(context.Background(), addr, get)
			return err
		}},
		{"the body", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", func(c *Client, addr string) error {
			r, err := c.Do(context.Background(), addr, get)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = r.ReadFull(make([]byte, 100000))
			if !IsTimeout(err) || !strings.Contains(err.Error(), addr) {
				t.Errorf("%v, want a timeout and the peer", err)
			}
			return err
		}},
		{"a chunk's line", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", func(c *Client, addr string) error {
			r, err := c.Do(context.Background(), addr, get)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = r.ReadFull(make([]byte, 100000))
			return err
		}},
		{"the body of a refusal", "HTTP/1.1 404 Not Found\r\nContent-Length: 60000\r\n\r\n", func(c *Client, addr string) error {
			r, err := c.Do(context.Background(), addr, get)
			if err != nil {
				return err
			}
			return r.Refuse()
		}},
		{"a body that nobody needs", "HTTP/1.1 404 Not Found\r\nContent-Length: 60000\r\n\r\n", func(c *Client, addr string) error {
			r, err := c.Do(context.Background(), addr, get)
			if err != nil {
				return err
			}
			r.Drain(60000)
			defer r.Close()
			return r.Refuse()
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			addr := fake.Peer(t, func(_ int, conn *fake.Conn) {
				conn.Head()
				conn.Say(c.say)
				conn.Trickle("0", hasty/10)
			})
			if err := c.want(client(t, hasty), addr); err == nil {
				t.Error("no error")
			}
		})
	}
}

// A write as a whole may be bounded, too, however the peer moves on.
func TestAPeerThatReadsTooSlowlyIsToldFromOneThatStalls(t *testing.T) {
	for what, read := range map[string]func(*fake.Conn){
		"slow": func(c *fake.Conn) {
			for {
				if _, err := io.ReadFull(c, make([]byte, 64<<10)); err != nil {
					return
				}
				time.Sleep(hasty / 20)
			}
		},
		"stalls": func(c *fake.Conn) { c.Await("never") },
	} {
		stop := make(chan struct{})
		addr := fake.Peer(t, func(_ int, c *fake.Conn) {
			c.SetReadBuffer(16 << 10)
			if what == "stalls" {
				<-stop
				return
			}
			read(c)
		})
		conn, err := client(t, patient).Dial(context.Background(), addr, patient, patient)
		if err != nil {
			t.Fatal(err)
		}
		conn.tcp.SetWriteBuffer(16 << 10)
		conn.WriteBy(time.Now().Add(4 * hasty))
		if what == "stalls" {
			conn.SetTimeouts(patient, hasty)
			conn.WriteBy(time.Now().Add(patient))
		}
		n, err := conn.Write(make([]byte, 64<<20))
		if slow := what == "slow"; !IsTimeout(err) || errors.Is(err, ErrSlow) != slow {
			t.Errorf("a peer that is %s: %d bytes, %v", what, n, err)
		}
		close(stop)
		conn.Close()
	}
}

func TestHeadTimeoutReplacesTheClients(t *testing.T) {
	ask := make(chan struct{})
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		<-ask
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	time.AfterFunc(3*hasty, func() { close(ask) })
	c := client(t, hasty)
	r, err := c.Do(context.Background(), addr, &Request{Method: "REPLICATE", Path: "/sda/1", HeadTimeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

func TestInterruptAndContextWakeReads(t *testing.T) {
	cause := errors.New("enough survivors")
	for _, how := range []string{"interrupt", "context", "before"} {
		addr := fake.Peer(t, func(_ int, c *fake.Conn) {
			c.Head()
			c.Say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1")
			c.Hang()
		})
		ctx, cancel := context.WithCancelCause(context.Background())
		r, err := client(t, patient).Do(ctx, addr, get)
		if err != nil {
			t.Fatal(err)
		}
		if how == "before" {
			r.Interrupt(cause)
			r.Interrupt(errors.New("the second one"))
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.ReadFull(make([]byte, 10)); !errors.Is(err, cause) {
				t.Errorf("%s: %v, want the cause", how, err)
			}
			if _, err := r.Read(make([]byte, 10)); !errors.Is(err, cause) {
				t.Errorf("%s: later %v, want the cause", how, err)
			}
		})
		if how == "context" {
			cancel(cause)
		} else {
			r.Interrupt(cause)
		}
		wg.Wait()
		r.Close()
		cancel(nil)
	}
}

func TestCanceledBeforeTheAnswer(t *testing.T) {
	cause := errors.New("no time")
	asked := make(chan struct{})
	addr := fake.Peer(t, func(_ int, c *fake.Conn) { c.Head(); close(asked); c.Hang() })
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { <-asked; cancel(cause) }()
	if _, err := client(t, patient).Do(ctx, addr, get); !errors.Is(err, cause) {
		t.Errorf("%v, want the cause", err)
	}
	if _, err := client(t, patient).Do(ctx, addr, get); !errors.Is(err, cause) {
		t.Errorf("dial: %v, want the cause", err)
	}
}

// The caller's memory is his again when Close returns.
func TestCloseOutwaitsTheLastRead(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
		for c.In.Buffered() == 0 {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	})
	for range 20 {
		r := do(t, client(t, patient), addr)
		slot := make([]byte, 1<<16)
		reading := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			close(reading)
			for {
				if _, err := r.Read(slot); err != nil {
					return
				}
			}
		})
		<-reading
		r.Close()
		for i := range slot { // the race detector watches
			slot[i] = 1
		}
		wg.Wait()
	}
}

// A closed response has no power over the connection it used.
func TestInterruptAfterCloseHitsNobody(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for c.Head() != "" {
			c.Say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := client(t, patient)
	ctx, cancel := context.WithCancel(context.Background())
	first, err := c.Do(ctx, addr, get)
	if err != nil {
		t.Fatal(err)
	}
	io.ReadAll(first)
	first.Close()
	second := do(t, c, addr)
	first.Interrupt(errors.New("too late"))
	cancel()
	if got, err := io.ReadAll(second); err != nil || string(got) != "ok" || c.Counters().Dials != 1 {
		t.Errorf("%q, %v, %+v", got, err, c.Counters())
	}
}

// A write that moves, however slowly, is not a timeout; one that stands is.
func TestProgressTimeoutOfWrites(t *testing.T) {
	const size = 2 << 20
	go1 := make(chan bool)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.SetReadBuffer(16 << 10)
		for range size / (128 << 10) {
			if _, err := io.ReadFull(c, make([]byte, 128<<10)); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		<-go1
		c.Hang()
	})
	c := client(t, patient)
	conn, err := c.Dial(context.Background(), addr, patient, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.tcp.SetWriteBuffer(16 << 10)
	conn.SetTimeouts(patient, time.Second)
	bufs := net.Buffers{random(size / 2), random(size / 2)}
	if n, err := conn.Writev(&bufs); n != size || err != nil {
		t.Errorf("a slow peer: %d, %v", n, err)
	}
	conn.SetTimeouts(patient, hasty)
	for err == nil {
		_, err = conn.Write(make([]byte, 1<<20))
	}
	if !IsTimeout(err) || !strings.Contains(err.Error(), "writing to "+addr) {
		t.Errorf("a peer that stands: %v", err)
	}
	close(go1)
}

func TestRefuseReportsTheBody(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for c.Head() != "" {
			c.Say("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 3000\r\n\r\n" + strings.Repeat("x", 3000))
		}
	})
	c := client(t, patient)
	for range 2 {
		err := do(t, c, addr).Refuse()
		if err.Status != 507 || err.Addr != addr || len(err.Body) != 1024 || err.Retryable() {
			t.Errorf("%+v", err)
		}
	}
	if n := c.Counters(); n.Dials != 1 {
		t.Errorf("counters %+v", n)
	}
}

func BenchmarkSmallGet(b *testing.B) {
	body := strings.Repeat("b", 8<<10)
	addr := fake.Peer(b, func(_ int, c *fake.Conn) {
		for c.Head() != "" {
			c.Say("HTTP/1.1 200 OK\r\nContent-Length: 8192\r\nEtag: \"x\"\r\n\r\n" + body)
		}
	})
	c := NewClient(Options{NodeTimeout: patient})
	defer c.Close()
	slot := make([]byte, len(body))
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.Do(context.Background(), addr, get)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.ReadFull(slot); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
