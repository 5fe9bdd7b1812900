// Package syslog stands in for the host's syslog: what daemons send to a unix socket becomes
// lines of a file. It judges no line.
package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Log takes datagrams from a unix socket and appends each as one line, without its
// priority, to a file. It is goroutine-safe.
type Log struct {
	conn *net.UnixConn
	file *os.File
	done chan struct{}

	mu    sync.Mutex
	seen  chan struct{} // closed, and made anew, when a sync line arrives
	syncs int           // sync lines read so far
	sent  int
	err   error
}

// A longer datagram is cut. Swift's longest lines are tracebacks.
const maxLogLine = 256 << 10

// syncLine is what Sync sends through the socket; it is not written to the file.
const syncLine = "imping lab: sync"

// Start opens the socket for all users, and the file; what is in that stays.
func Start(socket, path string) (*Log, error) {
	// The kernel's sockaddr_un holds 108 bytes with the final zero.
	if len(socket) > 107 {
		return nil, fmt.Errorf("the lab's root is too long a path for the log socket %q (more than 107 bytes)", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove an old log socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot open the log socket: %w", err)
	}
	// Servers that became another user write to it too.
	if err := os.Chmod(socket, 0o666); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open the log socket to all users: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open the lab's log: %w", err)
	}
	s := &Log{conn: conn, file: file, done: make(chan struct{}), seen: make(chan struct{})}
	go s.run()
	return s, nil
}

func (s *Log) run() {
	defer close(s.done)
	buf := make([]byte, maxLogLine)
	for {
		n, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.fail(fmt.Errorf("cannot read from the log socket: %w", err))
			return
		}
		line := bytes.TrimRight(buf[:n], "\x00\n")
		if end := bytes.IndexByte(line, '>'); bytes.HasPrefix(line, []byte("<")) && end > 0 && end < 5 {
			line = line[end+1:]
		}
		if string(line) == syncLine {
			s.mu.Lock()
			s.syncs++
			close(s.seen)
			s.seen = make(chan struct{})
			s.mu.Unlock()
			continue
		}
		// One write per line keeps lines whole for those who read meanwhile.
		if _, err := s.file.Write(append(line, '\n')); err != nil {
			s.fail(fmt.Errorf("cannot write the lab's log: %w", err))
			return
		}
	}
}

func (s *Log) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// sync returns when all that was sent to the socket before is in the file.
func (s *Log) sync(ctx context.Context) error {
	s.mu.Lock()
	s.sent++
	want := s.sent
	s.mu.Unlock()
	addr := s.conn.LocalAddr().(*net.UnixAddr)
	out, err := net.DialUnix("unixgram", nil, addr)
	if err != nil {
		return fmt.Errorf("cannot reach the lab's log: %w", err)
	}
	defer out.Close()
	if _, err := out.Write([]byte(syncLine)); err != nil {
		return fmt.Errorf("cannot reach the lab's log: %w", err)
	}
	for {
		s.mu.Lock()
		reached, seen, err := s.syncs >= want, s.seen, s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return err
		case reached:
			return nil
		}
		select {
		case <-seen:
		case <-s.done:
			return errors.New("the lab's log is closed")
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the lab's log: %w", ctx.Err())
		}
	}
}

// Close ends the log; the file stays.
func (s *Log) Close() {
	s.conn.Close()
	<-s.done
	s.file.Close()
}

// Size is the length of the log file, after a sync.
func (s *Log) Size() (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.sync(ctx); err != nil {
		return 0, err
	}
	st, err := s.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("cannot see the size of the lab's log: %w", err)
	}
	return st.Size(), nil
}

// Lines are the log's lines from byte from on.
func (s *Log) Lines(from int64) ([]string, error) {
	end, err := s.Size()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.NewSectionReader(s.file, from, end-from))
	if err != nil {
		return nil, fmt.Errorf("cannot read the lab's log: %w", err)
	}
	if len(data) == 0 {
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), nil
}
