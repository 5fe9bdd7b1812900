package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// The causes of a context that a signal cancelled (context.Cause).
var (
	ErrTerminated  = errors.New("SIGTERM received")
	ErrInterrupted = errors.New("interrupted")
)

// Signals returns a context that SIGTERM or SIGINT cancels, with Swift's notice line and
// ErrTerminated or ErrInterrupted as its cause. From then on the signals have their usual
// effect: a second one ends the process at once. stop ends the watch and returns when it
// has ended; it must be called. Swift: common/daemon.py, DaemonStrategy.
func Signals(parent context.Context, log *Logger) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	received := make(chan os.Signal, 1)
	signal.Notify(received, syscall.SIGTERM, syscall.SIGINT)
	var watch sync.WaitGroup
	watch.Go(func() {
		defer signal.Stop(received)
		select {
		case <-ctx.Done():
		case s := <-received:
			if s == syscall.SIGTERM {
				log.Noticef("SIGTERM received (%d)", os.Getpid())
				cancel(ErrTerminated)
			} else {
				log.Noticef("User quit")
				cancel(ErrInterrupted)
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watch.Wait()
	}
}

// Run runs body as Swift runs a daemon that has been set up: with the notice lines
// "Starting PID" and "Exited PID" around it, under a context as from Signals, and with word
// to systemd when it starts and stops. After SIGTERM, or when body fails, there is no
// "Exited" line. The error is body's; after a signal it is nil, for that is how a daemon
// ends. Swift: common/daemon.py, run_daemon.
func Run(ctx context.Context, log *Logger, body func(context.Context) error) error {
	log.Noticef("Starting %d", os.Getpid())
	ctx, stop := Signals(ctx, log)
	defer stop()
	Notify(log, "READY=1")
	err := body(ctx)
	Notify(log, "STOPPING=1")
	switch cause := context.Cause(ctx); {
	case cause == ErrTerminated:
		return nil
	case cause == ErrInterrupted:
		err = nil
	}
	if err == nil {
		log.Noticef("Exited %d", os.Getpid())
	}
	return err
}

// Notify tells systemd of a state, where systemd has started this process and waits for it.
// Swift: common/utils.py, systemd_notify.
func Notify(log *Logger, state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	if rest, abstract := strings.CutPrefix(address, "@"); abstract {
		address = "\x00" + rest
	}
	conn, err := net.Dial("unixgram", address)
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		log.Debugf("Systemd notification failed: %v", err)
	}
}
