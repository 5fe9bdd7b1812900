package ssync

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/netfast"
)

// FuzzSession lets a receiver say what it likes, in whatever chunks: wishes are only for
// what was offered, once each, and nothing is a success without a clean end.
func FuzzSession(f *testing.F) {
	end := chunks("\r\n", ":UPDATES: START\r\n", ":UPDATES: END\r\n")
	for _, seed := range []string{
		okHead + wantA + end, okHead + chunks(":ERROR: 503 b'no slot'\r\n"), okHead + chunks("\r\n", ":MISSING_CHECK: START\r\n", ":MISSING_CHECK: END\r\n") + end,
		okHead + wantA + chunks(":UPDATES: START\r\n", ":ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 0 successes'\r\n") + "0\r\n\r\n",
		okHead + chunks(":MISSING_CHECK: START\r\n"+hashA+"\r\n"+hashA+" dm\r\n:MISSING_CHECK: END\r\n"), okHead + wantA + "0\r\n\r\n",
		"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 3\r\n\r\nno\n", okHead + chunks(strings.Repeat("x", 5000)),
		"HTTP/1.1 200 OK\r\n\r\n:MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\n:UPDATES: END\r\n",
	} {
		f.Add([]byte(seed))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, answer []byte) {
		c := netfast.NewClient(netfast.Options{ConnTimeout: time.Minute, NodeTimeout: time.Minute})
		defer c.Close()
		served := make(chan struct{})
		go func() {
			defer close(served)
			peer, err := l.Accept()
			if err != nil {
				return
			}
			defer peer.Close()
			peer.Write(answer)
			peer.(*net.TCPConn).CloseWrite()
			for buf := make([]byte, 4096); err == nil; {
				_, err = peer.Read(buf) // so that no word of the session meets a closed door
			}
			peer.(*net.TCPConn).SetLinger(0)
		}()
		defer func() { <-served }()
		ctx := context.Background()
		s, err := Open(ctx, c, Target{Addr: l.Addr().String(), Device: "sda", FragIndex: 2}, Timeouts{time.Minute, time.Minute, time.Minute})
		if err != nil {
			return
		}
		defer s.Close()
		if err := s.Offer(ctx, slices.Values([]Offer{{Hash: hashA}, {Hash: hashB}})); err != nil {
			return
		}
		wanted, err := s.Wanted(ctx)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, w := range wanted {
			if seen[w.Hash] || w.Hash != hashA && w.Hash != hashB || !strings.Contains(string(answer), w.Hash) {
				t.Fatalf("wanted %+v", wanted)
			}
			seen[w.Hash] = true
		}
		if err := s.Finish(ctx); err == nil && (!strings.Contains(string(answer), ":UPDATES: END") || strings.Contains(string(answer), ":UPDATES: START\r\n:ERROR: ")) {
			t.Fatalf("a success after %q", answer)
		}
	})
}
