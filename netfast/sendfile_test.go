package netfast

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A file of a file system without sendfile(2), such as /proc, is copied; a peer that stalls now and then gets each byte once, and in order.
func TestStallsLoseNothingWhereThereIsNoSendfile(t *testing.T) {
	want, err := os.ReadFile("/proc/kallsyms")
	if err != nil || len(want) < 1<<20 {
		t.Skipf("/proc/kallsyms: %d bytes, %v", len(want), err)
	}
	want = want[1000:600_000]
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			got <- nil
			return
		}
		defer c.Close()
		c.(*net.TCPConn).SetReadBuffer(16 << 10)
		var all bytes.Buffer
		for n := 0; err == nil; n++ {
			if n%64 == 0 {
				time.Sleep(15 * time.Millisecond)
			}
			_, err = io.CopyN(&all, c, 1000)
		}
		got <- all.Bytes()
	}()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	tcp := accepted.(*net.TCPConn)
	tcp.SetWriteBuffer(16 << 10)
	c := Accepted(tcp, 10*time.Millisecond)
	for sent := int64(0); sent < int64(len(want)); {
		// The timeout is short, so that writes end half done; the test begins anew where nothing moved at all.
		n, err := c.sendFile(f, 1000+sent, int64(len(want))-sent)
		sent += n
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	c.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("%d bytes came of %d, the first %d right", len(b), len(want), same(b, want))
	}
}

func same(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
