package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// archive is the body that the server behind gives: a fragment of 80 and 1000 bytes.
var archive = bytes.Repeat([]byte("abcdefghij"), 108)

// behind is a server that answers as an object server does, and a proxy in front of it.
type behind struct {
	*Proxy
	dials, requests atomic.Int64
	sessions        chan string // what each SSYNC request's body was, as far as it came
	client          *http.Client
}

func stand(t *testing.T) *behind {
	b := &behind{sessions: make(chan string, 10)}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		switch r.Method {
		case "SSYNC":
			// Both directions at once: a line comes back for each that is sent.
			c := http.NewResponseController(w)
			c.EnableFullDuplex()
			w.WriteHeader(200)
			c.Flush()
			var got strings.Builder
			in := bufio.NewReader(r.Body)
			for {
				line, err := in.ReadString('\n')
				got.WriteString(line)
				if err != nil {
					break
				}
				fmt.Fprintf(w, "got %s", line)
				c.Flush()
			}
			b.sessions <- got.String()
		case "REPLICATE": // of unknown length: chunked
			w.(http.Flusher).Flush()
			io.WriteString(w, "hashes")
		default:
			if strings.HasSuffix(r.URL.Path, "missing") {
				http.NotFound(w, r)
				return
			}
			w.Header().Set(indexKey, "3")
			w.Header().Set(etagKey, "etag")
			w.Header().Set(dataTimeKey, "1795342301.49613")
			w.Header().Set(timeKey, "1795342302.49613")
			w.Header().Set("Content-Length", fmt.Sprint(len(archive)))
			w.Write(archive)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			b.dials.Add(1)
		}
	}
	s.Start()
	p, err := Listen("127.0.0.1:0", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	b.Proxy = p
	b.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		p.Close()
		if p.Open() != 0 {
			t.Errorf("%d connections are left", p.Open())
		}
		s.Close()
	})
	return b
}

func (b *behind) do(t *testing.T, method, path string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func (b *behind) inject(t *testing.T, faults ...*Fault) {
	t.Helper()
	if err := b.Inject(faults...); err != nil {
		t.Fatal(err)
	}
}

func (b *behind) lift(t *testing.T) {
	t.Helper()
	if err := b.Lift(); err != nil {
		t.Fatal(err)
	}
}

func (b *behind) whole(t *testing.T, device string) {
	t.Helper()
	resp, body, err := b.do(t, "GET", "/"+device+"/7/a/c/o")
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, archive) || resp.Header.Get(indexKey) != "3" {
		t.Errorf("%s is not served as it should be: %v %v", device, resp, err)
	}
}

func TestWhatHasNoFaultPassesUnchangedOnOneConnection(t *testing.T) {
	b := stand(t)
	b.inject(t, &Fault{Kind: Flip, Device: "sdz"}, &Fault{Kind: Unmounted, Device: "sdy"})
	for range 3 {
		b.whole(t, "sda")
		if resp, body, err := b.do(t, "REPLICATE", "/sda/7"); err != nil || string(body) != "hashes" || resp.StatusCode != 200 {
			t.Errorf("REPLICATE: %v %q %v", resp, body, err)
		}
		if resp, _, err := b.do(t, "HEAD", "/sda/7/a/c/o"); err != nil || resp.ContentLength != int64(len(archive)) {
			t.Errorf("HEAD: %v %v", resp, err)
		}
		if resp, _, err := b.do(t, "GET", "/sda/7/missing"); err != nil || resp.StatusCode != 404 {
			t.Errorf("a missing one: %v %v", resp, err)
		}
	}
	if b.dials.Load() != 1 || b.requests.Load() != 12 {
		t.Errorf("%d connections for %d requests", b.dials.Load(), b.requests.Load())
	}
}

// session sends the lines one by one, each after the answer to the one before, and
// returns how many were answered.
func (b *behind) session(t *testing.T, lines ...string) (answered int, err error) {
	t.Helper()
	c, err := net.Dial("tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "SSYNC /sda/7 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	in := bufio.NewReader(c)
	for _, line := range lines {
		if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(line), line); err != nil {
			return answered, err
		}
		for {
			got, err := in.ReadString('\n')
			if err != nil {
				return answered, err
			}
			if strings.HasPrefix(got, ":ERROR:") || strings.HasPrefix(got, "HTTP/1.1 5") {
				return answered, fmt.Errorf("%s", strings.TrimSpace(got))
			}
			if got == "got "+line {
				break
			}
		}
		answered++
	}
	_, err = io.WriteString(c, "0\r\n\r\n")
	return answered, err
}

func TestASessionPassesInBothDirectionsAtOnce(t *testing.T) {
	b := stand(t)
	b.inject(t, &Fault{Kind: SsyncCut, Device: "sda", After: 1 << 20})
	lines := []string{":MISSING_CHECK: START\n", ":MISSING_CHECK: END\n", ":UPDATES: START\n", strings.Repeat("x", 100_000) + "\n", ":UPDATES: END\n"}
	if n, err := b.session(t, lines...); n != len(lines) || err != nil {
		t.Errorf("%d lines were answered: %v", n, err)
	}
	if got := <-b.sessions; got != strings.Join(lines, "") {
		t.Errorf("%d bytes arrived", len(got))
	}
}

func TestASessionIsCutInItsUpdatesAndNeitherBeforeNorAfter(t *testing.T) {
	b := stand(t)
	f := &Fault{Kind: SsyncCut, Device: "sda", Times: 1, After: 1000}
	b.inject(t, f)
	lines := []string{":MISSING_CHECK: START\n", strings.Repeat("m", 5000) + "\n", ":UPDATES: START\n", strings.Repeat("x", 5000) + "\n"}
	if n, err := b.session(t, lines...); n != 3 || err == nil {
		t.Errorf("%d lines were answered: %v", n, err)
	}
	if got := <-b.sessions; strings.Contains(got, "xx\n") {
		t.Error("what was to be cut arrived whole")
	}
	if n, err := b.session(t, lines...); n != 4 || err != nil || f.Struck() != 1 {
		t.Errorf("afterwards %d lines were answered, %d strikes: %v", n, f.Struck(), err)
	}
	<-b.sessions
}

func TestAnEmptyListOfUpdatesIsNotCut(t *testing.T) {
	b := stand(t)
	f := &Fault{Kind: SsyncCut, Device: "sda"}
	b.inject(t, f)
	if n, err := b.session(t, ":MISSING_CHECK: START\n", ":UPDATES: START\n", ":UPDATES: END\n"); n != 3 || err != nil || f.Struck() != 0 {
		t.Errorf("%d lines were answered, %d strikes: %v", n, f.Struck(), err)
	}
	<-b.sessions
}

func TestASessionThatStallsEndsWhenTheFaultIsLifted(t *testing.T) {
	b := stand(t)
	f := &Fault{Kind: SsyncStall, Device: "sda"}
	b.inject(t, f)
	done := make(chan error)
	go func() {
		_, err := b.session(t, ":UPDATES: START\n", strings.Repeat("x", 5000)+"\n")
		done <- err
	}()
	await(t, func() bool { return f.Struck() == 1 })
	select {
	case err := <-done:
		t.Errorf("it did not stall: %v", err)
	default:
	}
	b.lift(t)
	if err := <-done; err == nil {
		t.Error("it was answered")
	}
	<-b.sessions
}

func TestAStallEndsWhenTheClientHangsUpOrTheFaultIsLifted(t *testing.T) {
	for _, kind := range []Kind{StallHead, StallBody} {
		b := stand(t)
		f := &Fault{Kind: kind, Device: "sda"}
		b.inject(t, f)
		c, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /sda/7/a/c/o HTTP/1.1\r\nHost: x\r\n\r\n")
		await(t, func() bool { return f.Struck() == 1 && b.Open() == 1 })
		c.Close()
		await(t, func() bool { return b.Open() == 0 })

		done := make(chan struct{})
		go func() {
			b.whole(t, "sda")
			close(done)
		}()
		await(t, func() bool { return f.Struck() == 2 })
		b.lift(t)
		<-done
	}
}

func await(t *testing.T, what func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it does not happen")
		}
	}
}

func TestEachFaultOfAnArchive(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		judge func(resp *http.Response, body []byte, err error) bool
	}{
		{Unmounted, func(r *http.Response, _ []byte, err error) bool { return err == nil && r.StatusCode == 507 }},
		{Busy, func(r *http.Response, _ []byte, err error) bool {
			return err == nil && (r.StatusCode == 503 || r.StatusCode == 529)
		}},
		{Truncate, func(r *http.Response, b []byte, err error) bool { return err == io.ErrUnexpectedEOF && len(b) == 540 }},
		{WrongIndex, func(r *http.Response, b []byte, err error) bool {
			return err == nil && r.Header.Get(indexKey) == "2" && bytes.Equal(b, archive)
		}},
		{WrongTime, func(r *http.Response, b []byte, err error) bool {
			return err == nil && r.Header.Get(dataTimeKey) == "1700000000.49613" && r.Header.Get(timeKey) == "1700000000.49613"
		}},
		{WrongEtag, func(r *http.Response, b []byte, err error) bool {
			return err == nil && len(r.Header.Get(etagKey)) == 32
		}},
		{Flip, func(r *http.Response, b []byte, err error) bool {
			if err != nil || len(b) != len(archive) {
				return false
			}
			differ := 0
			for i := range b {
				if b[i] != archive[i] {
					differ++
				}
			}
			return differ == 1 && (b[80] == ^archive[80] || b[len(b)-1] == ^archive[len(b)-1])
		}},
		{Garbage, func(r *http.Response, _ []byte, err error) bool { return err != nil }},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			b := stand(t)
			f := &Fault{Kind: c.kind, Device: "sda", Times: 2}
			b.inject(t, f)
			b.whole(t, "sdb")
			for range 2 {
				if resp, body, err := b.do(t, "GET", "/sda/7/a/c/o"); !c.judge(resp, body, err) {
					t.Errorf("%v, %d bytes, %v", resp, len(body), err)
				}
			}
			b.whole(t, "sda") // it struck twice, no more
			if f.Struck() != 2 {
				t.Errorf("it counted %d strikes", f.Struck())
			}
		})
	}
}

func TestSessionsAreRefusedInTheirOwnWords(t *testing.T) {
	for kind, want := range map[Kind][]string{
		Unmounted: {":ERROR: 507"}, Busy: {":ERROR: 503", "HTTP/1.1 529"},
	} {
		b := stand(t)
		b.inject(t, &Fault{Kind: kind, Device: "sda"})
		for _, w := range want {
			if _, err := b.session(t, ":MISSING_CHECK: START\n"); err == nil || !strings.HasPrefix(err.Error(), w) {
				t.Errorf("%s: %v, want %s", kind, err, w)
			}
		}
	}
}

func TestANodeThatIsDownRefusesAndComesBack(t *testing.T) {
	b := stand(t)
	addr := b.Addr()
	b.whole(t, "sda")
	f := &Fault{Kind: Down}
	b.inject(t, f)
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("it takes connections")
	}
	await(t, func() bool { return b.Open() == 0 })
	b.lift(t)
	if b.Addr() != addr || f.Struck() < 1 {
		t.Errorf("it is back at %s after %d refusals", b.Addr(), f.Struck())
	}
	b.whole(t, "sda")
}
