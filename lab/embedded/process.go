package embedded

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// node is a node that runs, in whichever process.
type node interface{ Close() error }

// nodeProcess is a node in a process of its own.
type nodeProcess struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // how it ended, once ended is closed
}

// startLimit bounds the start of a node's process, on a machine that may be busy with others.
const startLimit = 30 * time.Second

// startProcess starts a node's process and returns when it takes connections. What it prints goes to a file.
func startProcess(cmd *exec.Cmd, address, output string) (*nodeProcess, error) {
	out, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open the output of a node: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start a node: %w", err)
	}
	n := &nodeProcess{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(n.ended)
		n.err = cmd.Wait()
	}()
	limit := time.After(startLimit)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return n, nil
		}
		select {
		case <-n.ended:
			text, _ := os.ReadFile(output) // without it the status must do
			return nil, fmt.Errorf("%v ended before it listened at %s (%v): %s", cmd.Args, address, n.err, text)
		case <-limit:
			n.Close()
			return nil, fmt.Errorf("%v does not listen at %s: %w", cmd.Args, address, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stopWait is how long a node's process may take to end after SIGTERM before it is killed.
const stopWait = 10 * time.Second

func (n *nodeProcess) Close() error {
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(stopWait):
		n.cmd.Process.Kill()
		<-n.ended
	}
	return n.err
}
