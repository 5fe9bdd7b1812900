package netfast

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// FuzzResponse reads what a peer may answer: heads, interim answers, chunks, trailers. What
// Go's own client takes for a whole body, too, must be the same body.
func FuzzResponse(f *testing.F) {
	for i, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;name=value\r\n!\r\n0\r\nX-Trailer: a\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close, x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\nX-Object-Meta-\xc3\x9c: \xff\r\n\r\nworld",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 1\n\nx",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(1<<i))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, answer []byte, size uint16) {
		mine, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		tcp := mine.(*net.TCPConn)
		defer tcp.Close()
		tcp.SetLinger(0) // no port waits for stray packets
		go func() {
			peer.Write(answer)
			peer.(*net.TCPConn).CloseWrite()
		}()
		conn := newConn(tcp, "peer", patient, &traffic{})
		r, err := conn.Receive(get)
		if err != nil {
			return
		}
		defer r.Close()
		if r.Status < 200 || r.Status > 999 {
			t.Fatalf("status %d", r.Status)
		}
		var body bytes.Buffer
		_, err = io.CopyBuffer(struct{ io.Writer }{&body}, struct{ io.Reader }{r}, make([]byte, int(size)+1))
		if r.Offset() != int64(body.Len()) || r.Length() >= 0 && r.Status != 204 && r.Status != 304 && err == nil && r.Length() != r.Offset() {
			t.Fatalf("%d bytes were read, the offset is %d and the length %d", body.Len(), r.Offset(), r.Length())
		}
		if err != nil {
			return
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("behind the end: %d, %v", n, err)
		}
		if want, err := goReads(answer); err == nil && !bytes.Equal(want, body.Bytes()) {
			t.Fatalf("read %q, Go's client reads %q", body.Bytes(), want)
		}
	})
}

// goReads is the body that Go's client takes from an answer.
func goReads(answer []byte) ([]byte, error) {
	in := bufio.NewReader(bytes.NewReader(answer))
	for {
		r, err := http.ReadResponse(in, &http.Request{Method: "GET"})
		if err != nil {
			return nil, err
		}
		if r.ProtoMajor == 1 && r.ProtoMinor == 0 && strings.Contains(strings.ToLower(string(answer)), "transfer-encoding") {
			return nil, errors.New("Go does not look at it in an answer of HTTP/1.0")
		}
		if r.StatusCode >= 200 {
			return io.ReadAll(r.Body)
		}
	}
}

// However a head is read, it is the same.
func FuzzHeadEnd(f *testing.F) {
	for _, head := range []string{
		"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n", "A: b\n\nC: d\r\n\r\n", "\r\n\r\n", "A\r\n\r\r\nB\r\n\r\n", "\nA\r\n\r\n", "A\r\r\n\r\n", "A: b\r\n", "\r\r\n\r\nA\r\n\r\n",
	} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		end, blank := headEnd(b)
		if blank == 0 {
			return
		}
		start := 0
		for {
			i := bytes.IndexByte(b[start:], '\n')
			if i < 0 {
				t.Fatalf("%q: the head ends at %d, and no line there", b, end)
			}
			if len(bytes.TrimRight(b[start:start+i+1], "\r\n")) == 0 {
				if start != end || i+1 != blank {
					t.Fatalf("%q: the head ends at %d, not at %d", b, start, end)
				}
				return
			}
			start += i + 1
		}
	})
}
