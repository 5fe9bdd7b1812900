package daemon

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
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

// OnSignal has do called, one call after the other, whenever the signal arrives. stop gives
// the signal its usual effect again, and returns when no call is under way.
func OnSignal(sig os.Signal, do func()) (stop func()) {
	received := make(chan os.Signal, 1)
	signal.Notify(received, sig)
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		defer signal.Stop(received)
		for {
			select {
			case <-ended:
				return
			case <-received:
				do()
			}
		}
	})
	return func() {
		close(ended)
		watch.Wait()
	}
}

// stopTime is how long a daemon may take to end in order. swift-init kills after 15 s.
const stopTime = 10 * time.Second

// Run runs body as Swift runs a daemon that has been set up: with the notice lines
// "Starting PID" and "Exited PID" around it, under a context as from Signals, and with word
// to systemd when it starts and stops. After SIGTERM, or when body fails, there is no
// "Exited" line. The error is body's; after a signal it is nil, for that is how a daemon
// ends. A body that does not end within stopTime after a signal is no longer waited for.
// Swift: common/daemon.py, run_daemon.
func Run(ctx context.Context, log *Logger, body func(context.Context) error) error {
	return run(ctx, log, body, stopTime)
}

func run(ctx context.Context, log *Logger, body func(context.Context) error, patience time.Duration) error {
	log.Noticef("Starting %d", os.Getpid())
	ctx, stop := Signals(ctx, log)
	defer stop()
	Notify(log, "READY=1")
	ended := make(chan error, 1)
	go func() { ended <- body(ctx) }()
	var err error
	select {
	case err = <-ended:
		Notify(log, "STOPPING=1")
	case <-ctx.Done():
		Notify(log, "STOPPING=1")
		select {
		case err = <-ended:
		case <-time.After(patience):
			log.Errorf("Something has not ended %v after the signal: it is cut off", patience)
		}
	}
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
