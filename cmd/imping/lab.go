package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// onTerminal runs a program on this process's own standard streams, so that a progress
// display of its has the terminal, and returns its exit status.
func onTerminal(ctx context.Context, argv ...string) (exit int, err error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var status *exec.ExitError
	if errors.As(err, &status) {
		return status.ExitCode(), nil
	}
	return 0, err
}
