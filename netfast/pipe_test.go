package netfast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"imping/netfast/fake"
)

// agreeing is a peer that wants short requests on one connection. say answers the n-th request of the connection, from 0 on;
// false hangs up.
func agreeing(t *testing.T, say func(c *fake.Conn, n int, path string) bool) (addr string) {
	return fake.Peer(t, func(_ int, c *fake.Conn) {
		for n := 0; ; n++ {
			head := c.Head()
			if head == "" {
				return
			}
			path := strings.Fields(head)[1]
			if strings.Contains(head, Pipelining+": ask\r\n") {
				c.Say("HTTP/1.1 200 OK\r\n" + Pipelining + ": yes\r\n" + content("first "+path))
			} else if !say(c, n, path) {
				return
			}
		}
	})
}

func content(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }

func echo(c *fake.Conn, path string) bool {
	c.Say("HTTP/1.1 200 OK\r\n" + content("you asked for "+path))
	return true
}

// short asks for path and returns what came: "200 body", or the error.
func short(ctx context.Context, c *Client, addr, path string) (string, error) {
	b := c.Batch(ctx, 1)
	b.Ask(addr, &Request{Method: "GET", Path: path}, true)
	_, r, err := b.Next()
	if err != nil {
		return "", err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	return fmt.Sprintf("%d %s", r.Status, body), err
}

// agreed is a client that has asked the peer once, and has so many idle connections to it.
func agreed(t *testing.T, addr string, node time.Duration) *Client {
	c := client(t, node)
	if got, err := short(t.Context(), c, addr, "/sda/0"); err != nil || got != "200 first /sda/0" {
		t.Fatal(got, err)
	}
	if !c.agreed[addr] {
		t.Fatal("the peer's word was not heard")
	}
	return c
}

// standing waits until so many stand in the line.
func standing(p *pipe, n int) {
	for {
		p.mu.Lock()
		have := len(p.line)
		p.mu.Unlock()
		if have == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// together asks for paths at once, in this order; the first one's answer must wait until all have asked.
func together(ctx context.Context, c *Client, addr string, paths ...string) (got []string, errs []error) {
	got, errs = make([]string, len(paths)), make([]error, len(paths))
	p := c.pipe(addr, "sda")
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() { got[i], errs[i] = short(ctx, c, addr, path) })
		standing(p, i+1)
	}
	wg.Wait()
	return got, errs
}

func TestShortAnswersGoToThoseWhoAsked(t *testing.T) {
	addr := agreeing(t, func(c *fake.Conn, _ int, path string) bool {
		switch path[len(path)-1] {
		case '3':
			c.Say("HTTP/1.1 404 Not Found\r\n" + content("gone: "+path))
		case '5':
			c.Say("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n")
		case '7': // the connection is his who gets it
			c.Say("HTTP/1.1 200 OK\r\n" + content(path+strings.Repeat("x", 2*ShortAnswer)))
		case '8':
			c.Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nch\r\n0\r\n\r\n")
		case '9':
			c.Say("HTTP/1.1 200 OK\r\nConnection: close\r\n" + content(path))
			for c.Head() != "" { // closed over requests that came meanwhile, the connection is reset, and the answer may be lost
			}
			return false
		default:
			return echo(c, path)
		}
		return true
	})
	c := agreed(t, addr, patient)
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			for i := range 50 {
				path := fmt.Sprintf("/sd%c/%d/%d", 'a'+g%3, g, i)
				want := "200 you asked for " + path
				switch path[len(path)-1] {
				case '3':
					want = "404 gone: " + path
				case '5':
					want = "507 "
				case '7':
					want = "200 " + path + strings.Repeat("x", 2*ShortAnswer)
				case '8':
					want = "200 ch"
				case '9':
					want = "200 " + path
				}
				if got, err := short(t.Context(), c, addr, path); err != nil || got != want {
					t.Errorf("%s: %.80q, %v", path, got, err)
				}
			}
		})
	}
	wg.Wait()
	if n := c.Counters(); n.Reused < 1000 {
		t.Errorf("%+v", n)
	}
}

// What stands in the line behind a request that the peer breaks off, or never answers, is asked for elsewhere.
func TestABrokenAnswerIsOneRequests(t *testing.T) {
	for name, breaks := range map[string]func(c *fake.Conn){
		"hangs up":             func(*fake.Conn) {},
		"in the head":          func(c *fake.Conn) { c.Say("HTTP/1.1 200 OK\r\nContent-Le") },
		"in the body":          func(c *fake.Conn) { c.Say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") },
		"no HTTP":              func(c *fake.Conn) { c.Say("220 ready\r\n\r\n") },
		"is silent":            func(c *fake.Conn) { c.Hang() },
		"silent in the middle": func(c *fake.Conn) { c.Say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"); c.Hang() },
	} {
		t.Run(name, func(t *testing.T) {
			begin := make(chan struct{})
			addr := agreeing(t, func(c *fake.Conn, _ int, path string) bool {
				switch path {
				case "/sda/held":
					<-begin
				case "/sda/bad":
					breaks(c)
					return false
				}
				return echo(c, path)
			})
			c := agreed(t, addr, time.Second)
			time.AfterFunc(100*time.Millisecond, func() { close(begin) })
			got, errs := together(t.Context(), c, addr, "/sda/held", "/sda/1", "/sda/bad", "/sda/2", "/sda/3")
			for i, path := range []string{"/sda/held", "/sda/1", "", "/sda/2", "/sda/3"} {
				if path != "" && (errs[i] != nil || got[i] != "200 you asked for "+path) {
					t.Errorf("%s: %q, %v", path, got[i], errs[i])
				}
			}
			if err := errs[2]; err == nil || strings.Contains(name, "silent") && !errors.Is(err, os.ErrDeadlineExceeded) ||
				!strings.Contains(err.Error(), addr) {
				t.Errorf("the bad one: %v", err)
			}
			if !c.agreed[addr] {
				if got, err := short(t.Context(), c, addr, "/sda/5"); err != nil || got != "200 first /sda/5" {
					t.Errorf("it is not asked anew: %q, %v", got, err)
				}
			}
		})
	}
}

// A connection that was closed while it was idle is no fault of the peer's.
func TestAStaleSharedConnectionIsReplaced(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\n" + Pipelining + ": yes\r\n" + content("one and only"))
	})
	c := client(t, patient)
	for range 6 {
		if got, err := short(t.Context(), c, addr, "/sda/1"); err != nil || got != "200 one and only" {
			t.Fatal(got, err)
		}
	}
	if c.Suspect(addr, "sda") != nil {
		t.Error("it is suspect")
	}
}

func TestWhoLeavesTheLineDisturbsNobody(t *testing.T) {
	begin := make(chan struct{})
	addr := agreeing(t, func(c *fake.Conn, _ int, path string) bool {
		switch path {
		case "/sda/held":
			<-begin
		case "/sda/silent":
			c.Hang()
			return false
		}
		return echo(c, path)
	})
	c := agreed(t, addr, patient)
	ctx, leave := context.WithCancelCause(t.Context())
	cause := errors.New("not wanted any more")
	p := c.pipe(addr, "sda")
	var left, wg sync.WaitGroup
	for i, path := range []string{"/sda/held", "/sda/2", "/sda/3"} {
		left.Go(func() {
			if _, err := short(ctx, c, addr, path); !errors.Is(err, cause) {
				t.Errorf("%s: %v", path, err)
			}
		})
		standing(p, i+1)
	}
	wg.Go(func() {
		if got, err := short(t.Context(), c, addr, "/sda/4"); err != nil || got != "200 you asked for /sda/4" {
			t.Errorf("who stayed: %q, %v", got, err)
		}
	})
	standing(p, 4)
	leave(cause)
	left.Wait()
	close(begin)
	wg.Wait()

	// When all have left nobody waits for the peer.
	ctx, leave = context.WithCancelCause(t.Context())
	wg.Go(func() { short(ctx, c, addr, "/sda/silent") })
	standing(p, 1)
	leave(cause)
	wg.Wait()
	standing(p, 0)
}

// A device whose answers take long is asked for several things at once again.
func TestASlowDeviceIsAskedOnConnectionsOfTheirOwn(t *testing.T) {
	var mu sync.Mutex
	at, most := 0, 0
	addr := agreeing(t, func(c *fake.Conn, _ int, path string) bool {
		mu.Lock()
		at++
		most = max(most, at)
		mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		mu.Lock()
		at--
		mu.Unlock()
		return echo(c, path)
	})
	c := agreed(t, addr, patient)
	paths := make([]string, 20)
	for i := range paths {
		paths[i] = fmt.Sprintf("/sda/%d", i)
	}
	for range 3 {
		var wg sync.WaitGroup
		for _, path := range paths {
			wg.Go(func() {
				if got, err := short(t.Context(), c, addr, path); err != nil || got != "200 you asked for "+path {
					t.Errorf("%s: %q, %v", path, got, err)
				}
			})
		}
		wg.Wait()
	}
	if most < 10 {
		t.Errorf("%d at once", most)
	}
}

func TestAPeerThatDoesNotAgreeIsAskedOneByOne(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for {
			head := c.Head()
			if head == "" {
				return
			}
			echo(c, strings.Fields(head)[1])
			if c.In.Buffered() > 0 {
				t.Error("another request came along")
			}
		}
	})
	c := client(t, patient)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			path := fmt.Sprintf("/sda/%d", i)
			if got, err := short(t.Context(), c, addr, path); err != nil || got != "200 you asked for "+path {
				t.Errorf("%s: %q, %v", path, got, err)
			}
		})
	}
	wg.Wait()
}

// What a peer says without being asked is nobody's answer, as far as can be told, and does no harm.
func TestAPeerThatAnswersTwice(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for {
			head := c.Head()
			if head == "" {
				return
			}
			agree := ""
			if strings.Contains(head, Pipelining+": ask\r\n") {
				agree = Pipelining + ": yes\r\n"
			}
			c.Say("HTTP/1.1 200 OK\r\n" + agree + content("first"))
			time.Sleep(time.Millisecond) // so that the connection is idle
			c.Say("HTTP/1.1 200 OK\r\n" + content("again"))
		}
	})
	c := client(t, patient)
	for range 100 {
		if _, err := short(t.Context(), c, addr, "/sda/x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A server that ends in order closes a connection behind an answer that did not say so.
func TestAConnectionThatClosesBetweenAnswersIsNobodysFault(t *testing.T) {
	addr := agreeing(t, func(c *fake.Conn, _ int, path string) bool {
		if path == "/sda/held" {
			time.Sleep(100 * time.Millisecond)
			echo(c, path)
			return false
		}
		return echo(c, path)
	})
	c := agreed(t, addr, patient)
	paths := []string{"/sda/held", "/sda/1", "/sda/2"}
	got, errs := together(t.Context(), c, addr, paths...)
	for i, path := range paths {
		if errs[i] != nil || got[i] != "200 you asked for "+path {
			t.Errorf("%s: %q, %v", path, got[i], errs[i])
		}
	}
	if len(c.health) > 0 {
		t.Errorf("%v", c.health)
	}
}

// Nobody waits in the line for one answer after the other that takes nearly as long as it may.
func TestALineThatIsTooSlowIsLeft(t *testing.T) {
	var mu sync.Mutex
	alone := 0
	addr := agreeing(t, func(c *fake.Conn, n int, path string) bool {
		time.Sleep(2 * tooSlow)
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			alone++
		}
		return echo(c, path)
	})
	c := agreed(t, addr, patient)
	var paths []string
	for i := range pipeDepth {
		paths = append(paths, fmt.Sprintf("/sda/%d", i))
	}
	_, errs := together(t.Context(), c, addr, paths...)
	for i, err := range errs {
		if err != nil {
			t.Errorf("%s: %v", paths[i], err)
		}
	}
	if alone < pipeDepth-1 {
		t.Errorf("%d went alone", alone)
	}
}

// Who asks after the end of his context does not wait for a peer that is silent.
func TestABatchThatIsOverWaitsForNobody(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("it is over")
	silent := func(c *fake.Conn, _ int, _ string) bool {
		cancel(over)
		c.Hang()
		return false
	}
	first, second := agreeing(t, silent), agreeing(t, silent)
	c := agreed(t, first, patient)
	if got, err := short(t.Context(), c, second, "/sda/0"); err != nil {
		t.Fatal(got, err)
	}
	batch := c.Batch(ctx, 1)
	for n, addr := range []string{first, second} {
		batch.Ask(addr, &Request{Method: "GET", Path: "/sda/1"}, true)
		if got, resp, err := batch.Next(); got != n || resp != nil || !errors.Is(err, over) {
			t.Errorf("%d: %d, %v, %v", n, got, resp, err)
		}
	}
	if len(c.health) != 0 {
		t.Errorf("blamed: %v", c.health)
	}
}

// Who was not asked in time, since a peer before it in the batch read nothing, is asked again, and not blamed.
func TestWhoWasNotAskedIsNotBlamed(t *testing.T) {
	addr := agreeing(t, func(c *fake.Conn, _ int, path string) bool { return echo(c, path) })
	c := agreed(t, addr, 100*time.Millisecond)
	batch := c.Batch(t.Context(), 1)
	batch.Ask(addr, &Request{Method: "GET", Path: "/sda/1"}, true)
	standing(c.pipe(addr, "sda"), 0) // its time is over, and nothing was sent
	_, resp, err := batch.Next()
	if err != nil {
		t.Fatal(err)
	}
	resp.Close()
	if len(c.health) != 0 {
		t.Errorf("blamed: %v", c.health)
	}
}

// Only an answer with an object says that the peer does not pipeline, and none takes back what another one said.
func TestWhatAPeerAgreesTo(t *testing.T) {
	ok, other := "HTTP/1.1 200 OK\r\n", "HTTP/1.1 404 Not Found\r\n"
	yes := Pipelining + ": yes\r\n"
	for _, x := range []struct {
		answers          []string
		agrees, oneByOne bool
	}{
		{nil, false, false},
		{[]string{other}, false, false},
		{[]string{ok}, false, true},
		{[]string{ok, other}, false, true},
		{[]string{ok, ok + yes}, true, false},
		{[]string{ok + yes, other, ok}, true, false},
	} {
		addr := fake.Peer(t, func(_ int, c *fake.Conn) {
			for _, answer := range x.answers {
				c.Head()
				c.Say(answer + content(""))
			}
			c.Hang()
		})
		c := client(t, patient)
		for range x.answers {
			resp, err := c.doAsking(t.Context(), addr, &Request{Method: "GET", Path: "/sda/1"})
			if err != nil {
				t.Fatal(err)
			}
			resp.Close()
		}
		if agrees, oneByOne := c.pipe(addr, "sda") != nil, c.OneByOne(addr); agrees != x.agrees || oneByOne != x.oneByOne {
			t.Errorf("%q: agrees %v, one by one %v", x.answers, agrees, oneByOne)
		}
	}
}
