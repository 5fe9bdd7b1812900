// Package fake runs peers on loopback that do what a test tells them, byte by byte:
// lie, stall, truncate, hang up. It parses as little HTTP as it can.
package fake

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Conn is the peer's end of a connection, closed when its script returns.
type Conn struct {
	*net.TCPConn
	In *bufio.Reader
}

// Peer listens on loopback and runs serve for the n-th connection (from 0), each in a
// goroutine of its own. When the test ends, connections are closed and scripts waited
// for.
func Peer(t testing.TB, serve func(n int, c *Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(n, &Conn{TCPConn: c.(*net.TCPConn), In: bufio.NewReader(c)})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// Head reads a request head, up to its blank line; "" if the client hung up.
func (c *Conn) Head() string {
	var head strings.Builder
	for {
		line, err := c.In.ReadString('\n')
		if err != nil {
			return ""
		}
		if line == "\r\n" {
			return head.String()
		}
		head.WriteString(line)
	}
}

// Say writes; what the client no longer takes is its own affair.
func (c *Conn) Say(s string) { io.WriteString(c, s) }

// Dribble writes one byte at a time.
func (c *Conn) Dribble(s string) {
	for i := range len(s) {
		if _, err := io.WriteString(c, s[i:i+1]); err != nil {
			return
		}
	}
}

// Trickle writes text over and over, one byte each time that so long has passed, until the
// client hangs up.
func (c *Conn) Trickle(text string, every time.Duration) {
	for i := 0; ; i++ {
		if _, err := io.WriteString(c, text[i%len(text):i%len(text)+1]); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// Await reads until text has passed, and reports whether it did.
func (c *Conn) Await(text string) bool {
	seen := make([]byte, 0, len(text))
	for {
		b, err := c.In.ReadByte()
		if err != nil {
			return false
		}
		if len(seen) == len(text) {
			seen = append(seen[:0], seen[1:]...)
		}
		if seen = append(seen, b); string(seen) == text {
			return true
		}
	}
}

// Hang reads until the client hangs up.
func (c *Conn) Hang() {
	io.Copy(io.Discard, c.In)
}
