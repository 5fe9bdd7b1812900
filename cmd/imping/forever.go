package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"imping/daemon"
	"imping/engine/pass"
	"imping/swift/conf"
)

// reconstructForever makes pass after pass until a signal ends it, which is no failure. Rings
// and options are read anew before each; swift.conf, where the log goes, the user and the
// priorities are those of the start. Swift: obj/reconstructor.py, run_forever.
func reconstructForever(sec *conf.Section, cfg *pass.Config, log *daemon.Logger, o *reconstructOptions) error {
	hup := make(chan struct{}, 1)
	defer daemon.OnSignal(syscall.SIGHUP, func() {
		log.Noticef("SIGHUP received (%d)", os.Getpid())
		if p := o.current.Load(); p != nil {
			p.LookAtRings()
		}
		select {
		case hup <- struct{}{}:
		default:
		}
	})()
	if !o.swiftName && !o.verbose {
		fmt.Fprintln(os.Stderr, "imping: reconstructing, pass after pass; the log goes to syslog, with -v here too")
	}
	return daemon.Run(context.Background(), log, func(ctx context.Context) error {
		go daemon.Watchdog(ctx, log, func() bool {
			p := o.current.Load()
			return p == nil || !p.Stuck()
		})
		for _, w := range append(cfg.Swift.Warnings, runPauseWarnings(sec)...) {
			log.Warnf("%s", w)
		}
		log.Infof("Starting object reconstructor in daemon mode.")
		pause, err := interval(sec)
		for first := true; err == nil; first = false {
			if !first {
				if fresh, freshPause, err := reread(cfg, o); err != nil {
					log.Errorf("Options cannot be read anew, those of before count: %v", err)
				} else {
					cfg, pause = fresh, freshPause
				}
			}
			if _, failed := onePass(ctx, cfg, log, o); failed != nil {
				log.Errorf("Exception in top-level reconstruction loop: %v", failed)
				if first {
					return failed
				}
			}
			log.Debugf("reconstruction sleeping for %v seconds.", pause.Seconds())
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-hup:
				timer.Stop()
			case <-timer.C:
			}
		}
		return err
	})
}

// interval is how long a daemon pauses between passes. Swift: obj/reconstructor.py, ObjectReconstructor.
func interval(sec *conf.Section) (time.Duration, error) {
	for _, option := range []string{"interval", "run_pause"} {
		if sec.Get(option, "") != "" {
			return sec.Seconds(option, 0)
		}
	}
	return 30 * time.Second, nil
}

// runPauseWarnings are what Swift says of the option that interval was once.
func runPauseWarnings(sec *conf.Section) []string {
	switch {
	case !sec.Has("run_pause"):
		return nil
	case sec.Has("interval"):
		return []string{"Option object-reconstructor/run_pause is deprecated and object-reconstructor/interval is already configured. " +
			"You can safely remove run_pause; it is now ignored and will be removed in a future version."}
	}
	return []string{"Option object-reconstructor/run_pause is deprecated and will be removed in a future version. " +
		"Update your configuration to use option object-reconstructor/interval."}
}

// reread is the configuration of the next pass.
func reread(old *pass.Config, o *reconstructOptions) (*pass.Config, time.Duration, error) {
	sec, err := conf.Read(o.conf, "object-reconstructor")
	if err != nil {
		return nil, 0, err
	}
	cfg, err := passConfig(sec, o)
	if err != nil {
		return nil, 0, err
	}
	cfg.Swift, cfg.Statsd, cfg.Kept = old.Swift, old.Statsd, old.Kept
	pause, err := interval(sec)
	return cfg, pause, err
}

// logWhere says how far a reconstructor is.
func (o *reconstructOptions) logWhere(log *daemon.Logger) {
	if p := o.current.Load(); p != nil {
		p.LogWhere()
	} else {
		log.Infof("No pass is under way")
	}
}

// quiet is a configuration for a look at what it names: what is logged will be logged again.
func quiet(cfg *pass.Config) pass.Config {
	quiet := *cfg
	quiet.Log = silence{}
	return quiet
}

// silence is a pass.Log that keeps nothing.
type silence struct{}

func (silence) Debugf(string, ...any) {}
func (silence) Infof(string, ...any)  {}
func (silence) Warnf(string, ...any)  {}
func (silence) Errorf(string, ...any) {}
