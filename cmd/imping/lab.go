package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imping/lab/real"
)

func labCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "keep a real Swift cluster on this machine to try things on (needs root)",
		Long: `A Swift cluster from Debian's packages: 7 nodes of 2 devices each, a proxy, an account
and a container server, on the loopback of namespaces of its own. It stops by itself
after its lifetime.`,
		Example: `  imping lab start
  imping lab exec -- swift -A http://127.0.0.1:8080/auth/v1.0 -U test:tester -K testing stat
  imping lab exec -- imping reconstruct $(imping lab conf 3) once
  imping lab stop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&root, "root", filepath.Join(os.TempDir(), "imping-lab"), "folder of the cluster")
	var lifetime time.Duration
	var level string
	start := &cobra.Command{
		Use: "start", Short: "start the cluster, or continue one with its objects", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := real.LabStart(root, real.Options{User: "swift", LogLevel: level}, lifetime); err != nil {
				return err
			}
			return labStatus(root)
		},
	}
	start.Flags().DurationVar(&lifetime, "lifetime", real.DefaultLifetime, "when the cluster stops by itself")
	start.Flags().StringVar(&level, "log-level", "INFO", "log_level of all servers")
	cmd.AddCommand(start,
		&cobra.Command{
			Use: "stop", Short: "stop the cluster; its folder stays", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return real.LabStop(root) },
		},
		&cobra.Command{
			Use: "status", Short: "say whether the cluster runs", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return labStatus(root) },
		},
		&cobra.Command{
			Use: "exec -- PROGRAM [ARGUMENT..]", Short: "run a program inside the cluster's namespaces", Args: cobra.MinimumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return real.LabExec(root, args) },
		},
		&cobra.Command{
			Use: "conf NODE", Short: "print the path of a node's reconstructor configuration", Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				path := filepath.Join(root, "etc", string(real.ReplicationServer), args[0]+".conf")
				if _, err := os.Stat(path); err != nil {
					return fmt.Errorf("the lab in %s has no node %s: %w", root, args[0], err)
				}
				fmt.Println(path)
				return nil
			},
		})
	return cmd
}

func labStatus(root string) error {
	s, err := real.LabStatus(root)
	if err != nil {
		return err
	}
	state := "running"
	if !s.Ready {
		state = "starting"
	}
	fmt.Printf("the lab in %s is %s until %s\n", root, state, s.Until.Format(time.RFC3339))
	return nil
}
