package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imping/engine/pass"
	"imping/lab/real"
	"imping/lab/soak"
	"imping/swift/conf"
)

func soakCommand() *cobra.Command {
	o := soak.Options{Out: os.Stderr, Pass: passInProcess}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "break a real Swift cluster and repair it, over and over, and look for wrong bytes and leaks (needs root)",
		Long: `Stands a Swift cluster up in namespaces of its own, with a proxy in front of every
replication server, and breaks it: devices and partitions are lost, bytes rot on disk,
peers are down, not mounted, busy, lie, stall, truncate and answer garbage; passes are
killed in the middle, Swift's own reconstructor runs on some nodes. First each trouble
by itself and each pair, then random rounds, with client traffic in between, until the
time is over. After each round every file of every device is compared with what it was
before, and what the passes said (exit status, counters, list) with the truth. All
passes but those that are killed run in this one process: memory, goroutines and
descriptors are sampled after each round, and must not grow.

The state folder holds the cluster, the log and how far it came. The same command goes
on there after Ctrl-C, a kill, or the end of the time. Remove the folder to begin anew.

Exit status: 0 all fine, 1 could not run, 2 something wrong was found.`,
		Example: `  imping soak --time 10m
  imping soak --state /var/tmp/soak --seed 7 --json
  imping soak --state /var/tmp/soak --round 31     # that round once more`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			real.Enter()
			runtime.MemProfileRate = 16 << 10 // small leaks are to be seen in the profiles
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Child = []string{self, "reconstruct"}
			r, err := soak.Run(ctx, o)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(os.Stdout)
				enc.SetIndent("", "  ")
				if err := enc.Encode(r); err != nil {
					return err
				}
			} else {
				fmt.Print(r)
			}
			if !r.Fine() {
				return &exitError{status: exitLeft, err: fmt.Errorf("something is wrong; what was done is in %s", r.Log)}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.DurationVar(&o.Time, "time", 45*time.Minute, "how long from now")
	f.StringVar(&o.State, "state", filepath.Join(os.TempDir(), "imping-soak"), "folder of the cluster, the state and the log")
	f.Uint64Var(&o.Seed, "seed", 0, "what a new soak's rounds are made from (default: by the clock)")
	f.IntVar(&o.Round, "round", 0, "play only this round, on the cluster as it is now")
	f.BoolVar(&asJSON, "json", false, "print the summary as JSON")
	cmd.AddCommand(soakDifferentialCommand())
	return cmd
}

// passInProcess makes a pass as `imping reconstruct CONF once` does, but for what makes
// that a process: user, priority, signals, syslog.
func passInProcess(ctx context.Context, path string, log pass.Log) (*soak.Outcome, error) {
	sec, err := conf.Read(path, "object-reconstructor")
	if err != nil {
		return nil, err
	}
	cfg, err := passConfig(sec, &reconstructOptions{conf: path})
	if err != nil {
		return nil, err
	}
	if cfg.Swift, err = swiftConf("", cfg.SwiftDir, false); err != nil {
		return nil, err
	}
	cfg.Log = log
	p, err := pass.New(*cfg)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if len(p.LocalDevices()) == 0 {
		return nil, errors.New(path + ": no device is local")
	}
	begin := time.Now()
	left := p.Run(ctx)
	if !left.Interrupted {
		p.DumpRecon(time.Since(begin))
	}
	out := &soak.Outcome{Rebuilt: p.Progress.Rebuilt.Load(), Quarantined: p.Progress.Corrupt.Load(), Left: left, Unrepaired: p.Unrepaired()}
	if left.Any() {
		out.Exit = exitLeft
	}
	return out, nil
}
