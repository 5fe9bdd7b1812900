package real

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"imping/lab/process"
)

// Kind is which of a node's two object servers is meant.
type Kind string

const (
	ObjectServer      Kind = "object-server"      // on the ring's ip:port
	ReplicationServer Kind = "object-replication" // on the ring's replication_ip:replication_port; answers every verb
)

func serverName(kind Kind, node int) string { return fmt.Sprintf("%s-%d", kind, node) }

// stopWait is how long a server may take to end after TERM before it is killed.
const stopWait = 3 * time.Second

// server is one process of the cluster. It has a process group of its own, so that a
// signal reaches its children too. That it dies with the lab is the pid namespace's
// doing: a parent-death signal would be bound to the thread that forked.
type server struct {
	name    string
	address string // ip:port that answers when it is ready
	argv    []string
	output  string // file for its standard output and error
	// Whom the process is started as. A Swift server without workers does not become
	// its conf's user by itself.
	credential *syscall.Credential

	pid  int
	done chan struct{} // closed when the process has ended
}

// start starts the process as a child of ours.
func (s *server) start() error {
	out, err := os.OpenFile(s.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot open the output of %s: %w", s.name, err)
	}
	defer out.Close()
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.credential}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", s.name, err)
	}
	s.pid, s.done = cmd.Process.Pid, make(chan struct{})
	go func() {
		cmd.Wait()
		close(s.done)
	}()
	return nil
}

// adopt takes a process that is not a child of ours, but of the namespaces' first
// process, which reaps it.
func (s *server) adopt(pid int) error {
	s.pid, s.done = pid, make(chan struct{})
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		close(s.done)
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", s.name, err)
	}
	go func() {
		defer close(s.done)
		defer unix.Close(fd)
		// A pidfd is readable once its process has ended.
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if n, err := unix.Poll(fds, -1); n > 0 || err != nil && err != unix.EINTR {
				return
			}
		}
	}()
	return nil
}

// ready waits until the server takes connections.
func (s *server) ready(ctx context.Context) error {
	dialer := net.Dialer{Timeout: time.Second}
	for {
		conn, err := dialer.DialContext(ctx, "tcp", s.address)
		if err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended before it listened at %s", s.name, s.address)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen at %s: %w", s.name, s.address, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// signal reaches the whole process group.
func (s *server) signal(sig syscall.Signal) {
	if s.running() {
		syscall.Kill(-s.pid, sig)
	}
}

// stop ends the process and returns when it has ended.
func (s *server) stop() {
	if s.done == nil {
		return
	}
	s.signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(stopWait):
		s.kill()
	}
}

func (s *server) kill() {
	s.signal(syscall.SIGKILL)
	<-s.done
}

// cpu is the processor time, user and system, that the process has used so far.
func (s *server) cpu() (time.Duration, error) {
	if !s.running() {
		return 0, fmt.Errorf("%s does not run", s.name)
	}
	return process.CPU(s.pid)
}
