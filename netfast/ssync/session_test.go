package ssync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/netfast"
	"imping/netfast/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	hashA = "0123456789abcdef0123456789abcdef"
	hashB = "1123456789abcdef0123456789abcdef"

	okHead = "HTTP/1.1 200 OK\r\nX-Backend-Accept-No-Commit: True\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// chunks frames each line as a chunk of its own, as Swift's receiver does.
func chunks(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(l), l)
	}
	return b.String()
}

var wantA = chunks("\r\n", ":MISSING_CHECK: START\r\n", hashA+" dm", "\r\n", ":MISSING_CHECK: END\r\n")

func dial(t *testing.T, addr string, to Timeouts) (*Session, error) {
	t.Helper()
	s, err := Open(context.Background(), newClient(t), Target{Addr: addr, Device: "sda", Partition: 3, Policy: 1, FragIndex: 2}, to)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// ask opens a session, offers hashA and reads the answer.
func ask(t *testing.T, addr string, to Timeouts) (*Session, []Wanted, error) {
	t.Helper()
	s, err := dial(t, addr, to)
	if err != nil {
		return s, nil, err
	}
	if err := s.Offer(context.Background(), slices.Values([]Offer{{Hash: hashA, Data: mustStamp(t, "1795342301.49613")}})); err != nil {
		return s, nil, err
	}
	w, err := s.Wanted(context.Background())
	return s, w, err
}

func TestRequestHeadIsSwifts(t *testing.T) { // rule 16
	heads := make(chan string, 2)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) { heads <- c.Head(); c.Say(okHead); c.Hang() })
	c := newClient(t)
	for index, want := range map[int]string{
		2:  "X-Backend-Ssync-Frag-Index: 2\r\nX-Backend-Ssync-Node-Index: 2\r\n",
		-1: "",
	} {
		s, err := Open(context.Background(), c, Target{Addr: addr, Device: "sd a", Partition: 3, Policy: 1, FragIndex: index}, realTimeouts)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		want = "SSYNC /sd%20a/3 HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: obj-reconstructor 1\r\n" +
			"Transfer-Encoding: chunked\r\nX-Backend-Storage-Policy-Index: 1\r\n" + want
		if got := <-heads; got != want {
			t.Errorf("head\n got %q\nwant %q", got, want)
		}
	}
}

func TestAnotherStatusIsAStatusError(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 3\r\n\r\nsda")
	})
	_, err := dial(t, addr, realTimeouts)
	var status *StatusError
	if !errors.As(err, &status) || status.Status != 507 || status.Body != "sda" || !strings.Contains(err.Error(), addr+"/sda/3") {
		t.Errorf("%v, want a StatusError 507", err)
	}
}

// The head of a PUT leaves with its first fragment, and an archive's bytes are neither
// copied nor kept.
func TestASmallObjectIsOneWrite(t *testing.T) {
	sizes := make(chan int, 100)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say(okHead)
		c.Await(":MISSING_CHECK: END\r\n\r\n")
		c.Say(wantA)
		buf := make([]byte, 1<<16)
		n, _ := c.Read(buf) // one segment on loopback is one write
		sizes <- n
		c.Hang()
	})
	s, wanted, err := ask(t, addr, realTimeouts)
	if err != nil || !slices.Equal(wanted, []Wanted{{hashA, true, true}}) {
		t.Fatal(wanted, err)
	}
	p, err := s.Put(PutHead{Path: "/a/c/o", Length: 500})
	if err != nil {
		t.Fatal(err)
	}
	slot := bytes.Repeat([]byte("s"), 500)
	if err := p.WriteFragment(slot); err != nil {
		t.Fatal(err)
	}
	clear(slot)
	want := len("11\r\n:UPDATES: START\r\n\r\n" + "23\r\nPUT /a/c/o\r\nContent-Length: 500\r\n\r\n\r\n" + "1f4\r\n\r\n")
	if n := <-sizes; n != want+500 {
		t.Errorf("the first write has %d bytes, want %d", n, want+500)
	}
	for _, b := range s.vec {
		if b != nil {
			t.Error("the session keeps the slot")
		}
	}
}

func TestPutTakesExactlyItsLength(t *testing.T) {
	received := make(chan string, 1)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say(okHead)
		c.Await(":MISSING_CHECK: END\r\n\r\n")
		c.Say(wantA)
		rest, _ := io.ReadAll(c.In)
		received <- string(rest)
	})
	s, _, err := ask(t, addr, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Put(PutHead{Path: "/a/c/o", Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(PutHead{Path: "/a/c/p", Length: 10}); err == nil {
		t.Error("two PUTs at once")
	}
	if s.Post("/a/c/o", nil) == nil || s.Delete("/a/c/o", mustStamp(t, "1")) == nil || s.Finish(context.Background()) == nil {
		t.Error("something else within a PUT")
	}
	if p.WriteFragment(make([]byte, 11)) == nil {
		t.Error("more than was declared")
	}
	if err := p.WriteFragment([]byte("012345")); err != nil {
		t.Fatal(err)
	}
	if p.WriteFragment(make([]byte, 5)) == nil {
		t.Error("more than was left")
	}
	if err := s.Err(); err != nil {
		t.Fatalf("refused arguments ended the session: %v", err)
	}
	if err := p.Commit(context.Background()); err == nil || !strings.Contains(err.Error(), "4 of 10 bytes were not written") {
		t.Errorf("committed too early: %v", err)
	}
	if s.Err() == nil {
		t.Error("the session survives a PUT that was half sent")
	}
	if got := <-received; strings.Contains(got, "UPDATES: END") || !strings.HasSuffix(got, "6\r\n012345\r\n") {
		t.Errorf("received %q", got)
	}
}

func TestCloseWithinAPutIsACut(t *testing.T) { // law 2
	received := make(chan string, 2)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say(okHead)
		c.Await(":MISSING_CHECK: END\r\n\r\n")
		c.Say(wantA)
		rest, _ := io.ReadAll(c.In)
		received <- string(rest)
	})
	for _, within := range []bool{true, false} {
		s, _, err := ask(t, addr, realTimeouts)
		if err != nil {
			t.Fatal(err)
		}
		if within {
			p, _ := s.Put(PutHead{Path: "/a/c/o", Length: 2})
			if err := p.WriteFragment([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		if got := <-received; strings.HasSuffix(got, "0\r\n\r\n") == within {
			t.Errorf("within a PUT %t: received %q", within, got)
		}
	}
}

// An old receiver would make durable whatever it is sent: what is not is not offered.
func TestNonDurableNeedsAReceiverThatTakesIt(t *testing.T) { // rule 16
	offered := make(chan string, 1)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		var lines strings.Builder
		for !strings.Contains(lines.String(), ":MISSING_CHECK: END\r\n") {
			line, err := c.In.ReadString('\n')
			if lines.WriteString(line); err != nil {
				break
			}
		}
		offered <- lines.String()
		c.Say(chunks(":MISSING_CHECK: START\r\n", hashA+"\r\n", ":MISSING_CHECK: END\r\n"))
		c.Hang()
	})
	s, err := dial(t, addr, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	ts := mustStamp(t, "1795342301.49613")
	wanted := offerAll(t, s, Offer{Hash: hashA, Data: ts}, Offer{Hash: hashB, Data: ts, NonDurable: true})
	if !slices.Equal(wanted, []Wanted{{hashA, true, false}}) || s.Withheld() != 1 {
		t.Errorf("wanted %v, %d withheld", wanted, s.Withheld())
	}
	if got := <-offered; !strings.Contains(got, hashA) || strings.Contains(got, hashB) {
		t.Errorf("offered %q", got)
	}
	if _, err := s.Put(PutHead{Path: "/a/c/o", Length: 2, NoCommit: true}); err == nil || s.Err() != nil {
		t.Errorf("%v, %v", err, s.Err())
	}
}

func TestHostileReceivers(t *testing.T) {
	hasty := Timeouts{Conn: 5 * time.Second, Node: 20 * time.Second, HTTP: 200 * time.Millisecond}
	for _, c := range []struct {
		what, say string
		err       string
		to        Timeouts
	}{
		{"garbage", chunks("hello\r\n"), "unexpected line", realTimeouts},
		{"no chunks", "hello\r\n", "not a chunk length", realTimeouts},
		{"hangs up", chunks("\r\n"), "broke off", realTimeouts},
		{"ends in good order, too early", chunks("\r\n", ":MISSING_CHECK: START\r\n") + "0\r\n\r\n",
			"hung up while we were awaiting wanted lines", realTimeouts},
		{"stalls", chunks("\r\n") + "17\r\n:MISSING", "no progress", hasty},
		{"endless line", chunks(slices.Repeat([]string{strings.Repeat("x", 1024)}, 70)...), "at most 65536 bytes", realTimeouts},
		{"endless chunk line", strings.Repeat("0", 5000), "a line is longer", realTimeouts},
		{"endless empty lines", chunks(slices.Repeat([]string{"\r\n"}, 2000)...), "empty lines", realTimeouts},
		{"wants what is not there", chunks(":MISSING_CHECK: START\r\n", hashB+" dm\r\n"), "a hash that was offered", realTimeouts},
		{"busy", chunks("\r\n", ":ERROR: 503 b'<html>'\n"), "error 503", realTimeouts},
		{"busy, without a line end", chunks("\r\n", ":ERROR: 503 b'<html>'") + "0\r\n\r\n", "error 503", realTimeouts},
	} {
		addr := fake.Peer(t, func(_ int, conn *fake.Conn) {
			conn.Head()
			conn.Say(okHead)
			conn.Await(":MISSING_CHECK: END\r\n\r\n")
			conn.Say(c.say)
			if c.what == "stalls" {
				conn.Hang()
			}
		})
		s, wanted, err := ask(t, addr, c.to)
		if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), addr) || wanted != nil {
			t.Errorf("%s: %v, %v, want %q and the peer", c.what, wanted, err, c.err)
			continue
		}
		if again := s.Finish(context.Background()); again == nil || again.Error() != err.Error() {
			t.Errorf("%s: later %v, want the same error", c.what, again)
		}
	}
}

// Empty lines, bytes of a line and bytes that are read one by one are no progress worth
// waiting for: each wait ends.
func TestAReceiverThatOnlySeemsToWorkIsGivenUp(t *testing.T) { // rule 10
	hasty := Timeouts{Conn: 5 * time.Second, Node: 20 * time.Second, HTTP: time.Second}
	const often = 5 * time.Millisecond
	blank := chunks("\r\n")
	for _, c := range []struct {
		what string
		say  func(c *fake.Conn)
		err  error
	}{
		{"empty lines before the list", func(c *fake.Conn) { c.Trickle(blank, often) }, os.ErrDeadlineExceeded},
		{"empty lines within the list", func(c *fake.Conn) {
			c.Say(chunks(":MISSING_CHECK: START\r\n"))
			c.Trickle(blank, often)
		}, os.ErrDeadlineExceeded},
		{"a line that does not end", func(c *fake.Conn) { c.Trickle(chunks("x"), often) }, os.ErrDeadlineExceeded},
		{"empty lines before the verdict", func(c *fake.Conn) {
			c.Say(wantA)
			c.Await(":UPDATES: END\r\n\r\n")
			c.Trickle(blank, often)
		}, os.ErrDeadlineExceeded},
		{"empty lines within the verdict", func(c *fake.Conn) {
			c.Say(wantA)
			c.Await(":UPDATES: END\r\n\r\n")
			c.Say(chunks(":UPDATES: START\r\n"))
			c.Trickle(blank, often)
		}, os.ErrDeadlineExceeded},
		{"an archive that is read slowly", func(c *fake.Conn) {
			c.Say(wantA)
			for {
				if _, err := io.ReadFull(c.In, make([]byte, 64<<10)); err != nil {
					return
				}
				time.Sleep(often)
			}
		}, netfast.ErrSlow},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			addr := fake.Peer(t, func(_ int, conn *fake.Conn) {
				conn.SetReadBuffer(16 << 10)
				conn.Head()
				conn.Say(okHead)
				conn.Await(":MISSING_CHECK: END\r\n\r\n")
				c.say(conn)
			})
			s, _, err := ask(t, addr, hasty)
			if err == nil && c.err == netfast.ErrSlow {
				var p *Put
				if p, err = s.Put(PutHead{Path: "/a/c/o", Length: 256 << 20}); err == nil {
					err = p.WriteFragment(make([]byte, 256<<20))
				}
			} else if err == nil {
				err = s.Finish(context.Background())
			}
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), addr) {
				t.Errorf("%v, want %v and the peer", err, c.err)
			}
		})
	}
}

func TestAnswersInPiecesOfOneByte(t *testing.T) {
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Dribble(okHead)
		c.Await(":MISSING_CHECK: END\r\n\r\n")
		c.Dribble(chunks(strings.Split("\r\n:MISSING_CHECK: START\r\n"+hashA+" d\r\n:MISSING_CHECK: END\r\n", "")...))
		c.Await(":UPDATES: END\r\n\r\n")
		c.Dribble(chunks(":UPDATES: START\r\n:UPDATES:", " END\r\n"))
		c.Hang()
	})
	s, wanted, err := ask(t, addr, realTimeouts)
	if err != nil || !slices.Equal(wanted, []Wanted{{hashA, true, false}}) {
		t.Fatal(wanted, err)
	}
	if err := s.Finish(context.Background()); err != nil {
		t.Error(err)
	}
}

// Only a clean :UPDATES: END is success (rule 18 rests on it).
func TestEveryOtherEndIsAFailure(t *testing.T) {
	for _, c := range []struct{ what, say, err string }{
		{"nothing", "", "broke off"},
		{"an end without a verdict", "0\r\n\r\n", "hung up while we were awaiting :UPDATES: START"},
		{"half a verdict", chunks(":UPDATES: START\r\n") + "0\r\n\r\n", "hung up while we were awaiting :UPDATES: END"},
		{"no start", chunks(":UPDATES: END\r\n"), "unexpected line"},
		{"failures", chunks(":ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 2 successes'\n"), "1 failures to 2 successes"},
		{"failures after the start", chunks(":UPDATES: START\r\n", ":ERROR: 500 b'x'\n"), "error 500"},
	} {
		addr := fake.Peer(t, func(_ int, conn *fake.Conn) {
			conn.Head()
			conn.Say(okHead)
			conn.Await(":MISSING_CHECK: END\r\n\r\n")
			conn.Say(wantA)
			conn.Await(":UPDATES: END\r\n\r\n")
			conn.Say(c.say)
		})
		s, _, err := ask(t, addr, realTimeouts)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Finish(context.Background()); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.what, err, c.err)
		}
	}
}

// A receiver that reports an error early and hangs up: whoever notices says why.
func TestTheCauseOfAnEarlyEndIsKnown(t *testing.T) {
	said := make(chan struct{}, 1)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say(okHead)
		c.Await(":MISSING_CHECK: END\r\n\r\n")
		c.Say(wantA)
		c.Await("PUT ")
		c.Say(chunks(":ERROR: 0 'Too many 100 failures to 0 successes'\n"))
		c.CloseRead()
		c.Close() // with unread bytes: the sender is reset
		said <- struct{}{}
	})
	s, _, err := ask(t, addr, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Put(PutHead{Path: "/a/c/o", Length: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	slot := make([]byte, 1<<16)
	if err := p.WriteFragment(slot); err != nil {
		t.Fatal(err)
	}
	<-said
	for err == nil {
		err = p.WriteFragment(slot)
	}
	var remote *RemoteError
	if !errors.As(err, &remote) || !strings.HasPrefix(remote.Text, "Too many") {
		t.Errorf("%v, want the receiver's own words", err)
	}
}

func TestContextsAndCutsWakeASession(t *testing.T) { // rule 12: a short limit for a further grant
	addr := fake.Peer(t, func(_ int, c *fake.Conn) { c.Head(); c.Say(okHead); c.Hang() })
	cause := errors.New("another grant is held")
	for _, how := range []string{"wanted", "open", "cut"} {
		opened, cancelOpened := context.WithCancelCause(context.Background())
		s, err := Open(opened, newClient(t), Target{Addr: addr, Device: "sda", FragIndex: 1}, realTimeouts)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		if err := s.Offer(ctx, slices.Values([]Offer(nil))); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Wanted(ctx); !errors.Is(err, cause) {
				t.Errorf("%s: %v, want the cause", how, err)
			}
		})
		switch how {
		case "wanted":
			cancel(cause)
		case "open":
			cancelOpened(cause)
		case "cut":
			s.Cut(cause)
		}
		wg.Wait()
		if err := s.Post("/a/c/o", nil); !errors.Is(err, cause) {
			t.Errorf("%s: later %v, want the cause", how, err)
		}
		s.Close()
		s.Close()
		cancel(nil)
		cancelOpened(nil)
	}
	// A context that ends after its call has no power any more.
	ctx, cancel := context.WithCancel(context.Background())
	s, err := dial(t, addr, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Offer(ctx, slices.Values([]Offer(nil))); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.conn.Interrupted(); err != nil {
		t.Error(err)
	}
}

func TestARefusedConnectionNamesThePeer(t *testing.T) {
	_, err := dial(t, "127.0.0.1:1", realTimeouts)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/sda/3") {
		t.Error(err)
	}
}

func TestThousandsOfOffersAreFlushedInPieces(t *testing.T) {
	count := make(chan int, 1)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say(okHead)
		n := 0
		for {
			line, err := c.In.ReadString('\n')
			if err != nil || line == ":MISSING_CHECK: END\r\n" {
				break
			}
			if len(line) > 40 {
				n++
			}
		}
		count <- n
		c.Say(chunks(":MISSING_CHECK: START\r\n", ":MISSING_CHECK: END\r\n"))
		c.Hang()
	})
	s, err := dial(t, addr, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	ts := mustStamp(t, "1795342301.49613")
	if err := s.Offer(context.Background(), func(yield func(Offer) bool) {
		for i := range 5000 {
			if !yield(Offer{Hash: fmt.Sprintf("%032x", i), Data: ts}) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if n := <-count; n != 5000 {
		t.Errorf("%d offers arrived", n)
	}
	if cap(s.out) > 4*flushAt {
		t.Errorf("the session holds %d bytes", cap(s.out))
	}
}

func FuzzFeed(f *testing.F) {
	f.Add("\r\n:MISSING_CHECK: START\r\n" + hashA + " dm\r\n:MISSING_CHECK: END\r\n")
	f.Add(":ERROR: 503 b'x'\n")
	f.Add(":ERROR: 0 '15 seconds: /a/.lock'\n")
	f.Add(hashA + "\n\n\n")
	f.Fuzz(func(t *testing.T, lines string) {
		var s Sender
		out, err := s.Offer(nil, Offer{Hash: hashA})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = s.OfferEnd(out); err != nil {
			t.Fatal(err)
		}
		wants := 0
		for line := range strings.Lines(lines) {
			ev, err := s.Feed([]byte(line))
			if err != nil {
				break
			}
			if ev.Kind == Want {
				wants++
			}
			if ev.Kind == UpdatesEnd {
				t.Fatal("success without having asked for it")
			}
		}
		if wants > 1 {
			t.Fatalf("%d wishes for one offer", wants)
		}
	})
}
