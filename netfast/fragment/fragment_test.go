package fragment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/netfast"
	"imping/netfast/fake"
	"imping/swift/timestamp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t testing.TB) *netfast.Client {
	c := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second, UserAgent: "obj-reconstructor 7"})
	t.Cleanup(c.Close)
	return c
}

func stampOf(t testing.TB, s string) timestamp.Timestamp {
	ts, err := timestamp.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

const meta = "X-Backend-Data-Timestamp: 1795342301.49613\r\nX-Backend-Timestamp: 1795342309.00000\r\n" +
	"X-Backend-Durable-Timestamp: 1795342301.49613_00000000000000ab\r\nX-Object-Sysmeta-Ec-Etag: abc\r\n" +
	"X-Object-Sysmeta-Ec-Frag-Index: 11\r\nEtag: \"DEF\"\r\nX-Backend-Fragments: {}\r\n"

// answer makes a peer that gives the same answer to every request.
func answer(t testing.TB, text string) (addr string, heads chan string) {
	heads = make(chan string, 100)
	return fake.Peer(t, func(_ int, c *fake.Conn) {
		for {
			head := c.Head()
			if head == "" {
				return
			}
			heads <- head
			c.Say(text)
			if strings.Contains(text, "stops here") {
				return
			}
		}
	}), heads
}

func TestRequestIsStocks(t *testing.T) { // rules 2, 7, 16
	addr, heads := answer(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	for _, c := range []struct {
		change func(*Request)
		path   string
		want   string
	}{
		{func(r *Request) {}, "/sda/7/a/c/o", `[{"timestamp": "1795342301.49613", "exclude": []}]`},
		{func(r *Request) { r.Exclude = []int{3, 12} }, "/sda/7/a/c/o", `[{"timestamp": "1795342301.49613", "exclude": [3, 12]}]`},
		{func(r *Request) { r.Timestamp.Offset = 171; r.Name = "/a/c/ö ?%" }, "/sda/7/a/c/%C3%B6%20%3F%25",
			`[{"timestamp": "1795342301.49613_00000000000000ab", "exclude": []}]`},
		{func(r *Request) { r.Timestamp = timestamp.Timestamp{} }, "/sda/7/a/c/o", `[]`},
		{func(r *Request) { r.Offset = 100 }, "/sda/7/a/c/o", `[{"timestamp": "1795342301.49613", "exclude": []}]` + "\r\nRange: bytes=100-"},
	} {
		r := Request{Addr: addr, Device: "sda", Partition: 7, Name: "/a/c/o", Policy: 1, Timestamp: stampOf(t, "1795342301.49613")}
		c.change(&r)
		if _, err := Get(context.Background(), client(t), &r); err != nil {
			t.Fatal(err)
		}
		want := "GET " + c.path + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: obj-reconstructor 7\r\n" +
			"X-Backend-Storage-Policy-Index: 1\r\nX-Backend-Replication: True\r\nX-Backend-Fragment-Preferences: " + c.want + "\r\n"
		if got := <-heads; got != want {
			t.Errorf("head\n got %q\nwant %q", got, want)
		}
	}
}

func TestWhatTheHeadSaysIsReported(t *testing.T) {
	for _, c := range []struct {
		what, head string
		want       Response
	}{
		{"all of it", "HTTP/1.1 200 OK\r\n" + meta + "Content-Length: 4\r\n\r\nfour", Response{Status: 200,
			Data: stampOf(t, "1795342301.49613"), Durable: stampOf(t, "1795342301.49613_ab"), Timestamp: stampOf(t, "1795342309"),
			ECEtag: "abc", ETag: "def", FragIndex: 11, Length: 4, Total: 4, Fragments: "{}"}},
		{"an old server", "HTTP/1.1 200 OK\r\nX-Backend-Timestamp: 1.5\r\nContent-Length: 0\r\n\r\n", Response{Status: 200,
			Data: stampOf(t, "1.5"), Timestamp: stampOf(t, "1.5"), FragIndex: -1}},
		{"unreadable values", "HTTP/1.1 200 OK\r\nX-Backend-Data-Timestamp: x\r\nX-Backend-Timestamp: 1\r\nX-Object-Sysmeta-Ec-Frag-Index: -3\r\nContent-Length: 0\r\n\r\n",
			Response{Status: 200, Timestamp: stampOf(t, "1"), FragIndex: -1}},
		{"a huge index", "HTTP/1.1 200 OK\r\nX-Object-Sysmeta-Ec-Frag-Index: 256\r\nContent-Length: 0\r\n\r\n", Response{Status: 200, FragIndex: -1}},
		{"a tombstone", "HTTP/1.1 404 Not Found\r\nX-Backend-Timestamp: 5.00000\r\nContent-Length: 3\r\n\r\nno!", Response{Status: 404,
			Timestamp: stampOf(t, "5"), FragIndex: -1}},
	} {
		addr, _ := answer(t, c.head)
		cl := client(t)
		for range 2 {
			got, err := Get(context.Background(), cl, &Request{Addr: addr, Device: "sda", Name: "/a/c/o"})
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			slot := make([]byte, got.Length)
			if n, err := got.ReadFragment(slot); len(slot) > 0 && (n != len(slot) || err != nil) {
				t.Errorf("%s: %d, %v", c.what, n, err)
			} else if _, err := got.ReadFragment(make([]byte, 1)); got.Status == 200 && err != io.EOF {
				t.Errorf("%s: behind the end: %v", c.what, err)
			}
			if err := got.Close(); err != nil {
				t.Error(err)
			}
			c.want.Addr, got.body = addr, nil
			if *got != c.want {
				t.Errorf("%s:\n got %+v\nwant %+v", c.what, *got, c.want)
			}
		}
		if n := cl.Counters(); n.Dials != 1 {
			t.Errorf("%s: %+v, want one connection", c.what, n)
		}
	}
}

// Rule 7: a piece that can not be told to be the missing one is no piece.
func TestARangeMustBeTheOneAskedFor(t *testing.T) {
	for _, c := range []struct{ head, err string }{
		{"206 Partial Content\r\nContent-Range: bytes 6-9/10\r\nContent-Length: 4", ""},
		{"200 OK\r\nContent-Length: 10", "was answered 200"},
		{"206 Partial Content\r\nContent-Length: 4", "bad Content-Range"},
		{"206 Partial Content\r\nContent-Range: bytes */10\r\nContent-Length: 4", "bad Content-Range"},
		{"206 Partial Content\r\nContent-Range: bytes 6-9/*\r\nContent-Length: 4", "bad Content-Range"},
		{"206 Partial Content\r\nContent-Range: bytes 5-8/9\r\nContent-Length: 4", "was answered"},
		{"206 Partial Content\r\nContent-Range: bytes 6-8/10\r\nContent-Length: 3", "was answered"},
		{"206 Partial Content\r\nContent-Range: bytes 6-9/10\r\nContent-Length: 5", "was answered"},
		{"206 Partial Content\r\nContent-Range: bytes 6-9/10\r\nTransfer-Encoding: chunked", "length"},
	} {
		addr, _ := answer(t, "HTTP/1.1 "+c.head+"\r\n"+meta+"\r\n6789-")
		r, err := Get(context.Background(), client(t), &Request{Addr: addr, Device: "sda", Name: "/a/c/o", Offset: 6})
		if c.err == "" {
			if err != nil || r.Offset != 6 || r.Length != 4 || r.Total != 10 {
				t.Errorf("%s: %+v, %v", c.head, r, err)
			} else {
				r.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: %v, want %q and the peer", c.head, err, c.err)
		}
	}
	addr, _ := answer(t, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\n0123")
	if _, err := Get(context.Background(), client(t), &Request{Addr: addr, Device: "sda", Name: "/a/c/o"}); err == nil {
		t.Error("a part was taken for the whole")
	}
}

func TestAShortBodyIsNeverAnEnd(t *testing.T) {
	addr, _ := answer(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"+meta+"\r\n0123456789 stops here")
	r, err := Get(context.Background(), client(t), &Request{Addr: addr, Device: "sda", Name: "/a/c/o"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.ReadFragment(make([]byte, 10)); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	_, err = r.ReadFragment(make([]byte, 10))
	if err == nil {
		_, err = r.ReadFragment(make([]byte, 10))
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "byte 21 of 100") {
		t.Errorf("%v, want an unexpected end with peer and offset", err)
	}

	// An archive that ends within a slot is as bad.
	addr, _ = answer(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"+meta+"\r\n0123456789")
	r, err = Get(context.Background(), client(t), &Request{Addr: addr, Device: "sda", Name: "/a/c/o"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.ReadFragment(make([]byte, 11)); n != 10 || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), addr) {
		t.Errorf("%d, %v", n, err)
	}
}

// Refusals are drained within bounds: a short body keeps the connection, a long one
// costs it, an endless one ends.
func TestRefusalsAreDrainedWithinBounds(t *testing.T) {
	for _, c := range []struct {
		length, reused int
	}{{1000, 1}, {1 << 20, 0}} {
		addr, _ := answer(t, fmt.Sprintf("HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n%s", c.length, strings.Repeat("x", c.length)))
		cl := client(t)
		for range 2 {
			r, err := Get(context.Background(), cl, &Request{Addr: addr, Device: "sda", Name: "/a/c/o"})
			if err != nil || r.Status != 503 {
				t.Fatal(r, err)
			}
			if _, err := r.ReadFragment(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("reading a refusal: %v", err)
			}
			r.Interrupt(nil)
			r.Close()
		}
		if n := cl.Counters(); n.Reused != int64(c.reused) {
			t.Errorf("%d bytes: %+v", c.length, n)
		}
	}
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 500 Endless\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			if _, err := io.WriteString(c, "3e8\r\n"+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				return
			}
		}
	})
	if r, err := Get(context.Background(), client(t), &Request{Addr: addr, Device: "sda", Name: "/a/c/o"}); err != nil || r.Status != 500 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestTheContextGovernsTheBody(t *testing.T) {
	cause := errors.New("enough")
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		c.Say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0")
		c.Hang()
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	r, err := Get(ctx, client(t), &Request{Addr: addr, Device: "sda", Name: "/a/c/o"})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	if _, err := r.ReadFragment(make([]byte, 10)); !errors.Is(err, cause) {
		t.Errorf("%v, want the cause", err)
	}
	r.Close()
}

func TestAHeadIsAGetWithoutItsBody(t *testing.T) {
	heads := make(chan string, 3)
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for head := c.Head(); head != ""; head = c.Head() {
			heads <- head
			c.Say("HTTP/1.1 200 OK\r\nX-Object-Meta-\xc3\x9cnicode:  plum\xe9 \r\nX-Object-Sysmeta-Ec-Frag-Index: 3\r\nContent-Length: 1000\r\n\r\n")
		}
	})
	cl := client(t)
	for range 2 {
		r, fields, err := Head(context.Background(), cl, &Request{Addr: addr, Device: "sda", Name: "/a/c/o"})
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != 200 || r.FragIndex != 3 || r.Length != 1000 {
			t.Errorf("%+v", r)
		}
		want := []netfast.Field{{Key: "X-Object-Meta-\xc3\x9cnicode", Value: "plum\xe9"}, {Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: "3"}, {Key: "Content-Length", Value: "1000"}}
		if !slices.Equal(fields, want) {
			t.Errorf("%q, want %q", fields, want)
		}
		if head := <-heads; !strings.HasPrefix(head, "HEAD /sda/0/a/c/o HTTP/1.1\r\n") || !strings.Contains(head, "X-Backend-Replication: True\r\n") {
			t.Errorf("%q", head)
		}
		if _, err := r.ReadFragment(make([]byte, 1)); err == nil {
			t.Error("a body was read")
		}
	}
	if n := cl.Counters(); n.Dials != 1 {
		t.Errorf("%+v, want one connection", n)
	}
}
