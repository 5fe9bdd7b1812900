package main

import (
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// liar answers whatever it is asked with say, and hangs up.
func liar(t *testing.T, addr, say string) (stop func()) {
	t.Helper()
	var ln net.Listener
	var err error
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if ln, err = net.Listen("tcp", addr); err == nil || time.Now().After(limit) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				io.ReadAtLeast(c, make([]byte, 4096), 1)
				io.WriteString(c, say)
			})
		}
	})
	return func() { ln.Close(); wg.Wait() }
}

func flipAt(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, st.Size()/2); err != nil {
		t.Fatal(err)
	}
}

func setXattr(t *testing.T, path string, value []byte) {
	t.Helper()
	if err := unix.Setxattr(path, "user.swift.metadata", value, 0); err != nil {
		t.Fatal(err)
	}
	unix.Removexattr(path, "user.swift.metadata_checksum")
}
