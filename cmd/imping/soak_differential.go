package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"imping/lab/differential"
	"imping/lab/real"
)

func soakDifferentialCommand() *cobra.Command {
	o := differential.Options{Out: os.Stderr}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "differential",
		Short: "have random broken clusters repaired by Swift's reconstructor and by imping, and compare (needs root)",
		Long: `Stands a Swift cluster up in namespaces of its own, and lays down one broken tree after
the other, made from its seed: lost and corrupt files, fragments that are not durable or
stale, tombstones and metadata files of all ages, strange and empty folders, hashes that are
not true any more. Swift's own reconstructor repairs one copy, imping another; stock object
servers serve both. When passes change nothing any more, names, bytes, metadata and
suffix hashes are compared. What may differ is counted, by its reason. Beside that each round of
imping's is held against the truth: nothing that could be decoded is lost, nothing
is deleted that nobody else has, what is reported as left is left. A seed that fails is made smaller.

The state folder keeps how far it came: the same command goes on there. A folder from which
all seeds were played only says what was found.

Exit status: 0 all fine, 1 could not run, 2 something wrong was found.`,
		Example: `  imping soak differential --seeds 300 --state /var/tmp/differential
  imping soak differential --seed 17     # that one once more`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			real.Enter()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			var err error
			if o.Program == "" {
				if o.Program, err = os.Executable(); err != nil {
					return err
				}
			}
			r, err := differential.Run(ctx, o)
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
				return &exitError{status: exitLeft, err: fmt.Errorf("something is wrong; what was found is in %s", o.State)}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Seeds, "seeds", differential.Whole, "how many clusters in all, over all runs on the state folder")
	f.DurationVar(&o.Time, "time", 0, "begin no further one after so long (default: no limit)")
	f.Uint64Var(&o.Seed, "seed", 0, "play this seed only")
	f.StringVar(&o.State, "state", filepath.Join(os.TempDir(), "imping-differential"), "folder of the cluster and of what was found")
	f.StringVar(&o.Program, "program", "", "the imping that makes the passes (default: this one)")
	f.IntVar(&o.Shrink, "shrink", 40, "how many smaller clusters are tried when one differs")
	f.BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return cmd
}
