package fragment

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"imping/netfast"
	"imping/swift/timestamp"
)

// FuzzGet reads what a peer may answer to a GET, with and without a Range: what is taken
// for an archive, or for a part of one, is no more and no less than it says (rule 7).
func FuzzGet(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Backend-Data-Timestamp: 0000000001.00000\r\nX-Object-Sysmeta-Ec-Frag-Index: 3\r\nEtag: \"ABC\"\r\n\r\nhello",
		"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 5-9/10\r\nX-Backend-Timestamp: 0000000001.00000_00000000000000ff\r\n\r\nworld",
		"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 5-9/11\r\n\r\nworld",
		"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 5-9/10\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 206 OK\r\nContent-Length: 0\r\nContent-Range: bytes 5-4/5\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\nX-Backend-Timestamp: x\r\nContent-Length: 3\r\n\r\nno!",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Object-Sysmeta-Ec-Frag-Index: 256\r\n\r\nshort",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(5))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, answer []byte, offset uint8) {
		c := netfast.NewClient(netfast.Options{ConnTimeout: time.Minute, NodeTimeout: time.Minute})
		defer c.Close()
		served := make(chan net.Conn, 1)
		go func() {
			defer close(served)
			peer, err := l.Accept()
			if err != nil {
				return
			}
			served <- peer
			peer.Write(answer)
			peer.(*net.TCPConn).CloseWrite()
		}()
		resp, err := Get(context.Background(), c, &Request{
			Addr: l.Addr().String(), Device: "sda", Name: "/a/c/o", Timestamp: timestamp.Timestamp{Raw: 1e5}, Offset: int64(offset),
		})
		peer := <-served
		defer peer.Close()
		peer.(*net.TCPConn).SetLinger(0)
		if err != nil {
			return
		}
		defer resp.Close()
		if resp.FragIndex < -1 || resp.FragIndex > 255 {
			t.Fatalf("index %d", resp.FragIndex)
		}
		if resp.Status < 200 || resp.Status > 299 {
			if n, err := resp.ReadFragment(make([]byte, 1)); n != 0 || err == nil {
				t.Fatalf("a fragment from an answer %d", resp.Status)
			}
			return
		}
		if resp.Length < 0 || resp.Offset != int64(offset) || resp.Total != resp.Offset+resp.Length || (resp.Status == 206) != (offset > 0) {
			t.Fatalf("asked from %d on: %+v", offset, resp)
		}
		var got int64
		for {
			n, err := resp.ReadFragment(make([]byte, 7))
			got += int64(n)
			if errors.Is(err, io.ErrUnexpectedEOF) && got == resp.Length || err == io.EOF {
				break // the slot reaches beyond the end
			}
			if err != nil {
				return
			}
		}
		if got != resp.Length {
			t.Fatalf("%d bytes of %d were read, to the end", got, resp.Length)
		}
	})
}
