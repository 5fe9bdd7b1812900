package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"imping/bench/limit"
	"imping/bench/rebuild"
	"imping/lab/real"
)

func benchRebuildCommand() *cobra.Command {
	var l rebuild.Load
	var scheme, objectSize, servers string
	var engines []string
	o := rebuild.Options{}
	cmd := &cobra.Command{
		Use: "rebuild",
		RunE: func(cmd *cobra.Command, _ []string) error {
			schemes, err := parseSchemes("scheme", []string{scheme})
			if err != nil {
				return err
			}
			l.Scheme = schemes[0]
			if l.Size, err = parseSize(objectSize); err != nil {
				return err
			}
			l.Servers = rebuild.Servers(servers)
			if l.Servers != rebuild.Embedded {
				real.Enter()
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if o.Imping, err = os.Executable(); err != nil {
				return err
			}
			if o.Root, err = os.MkdirTemp("", "imping-bench-"); err != nil {
				return err
			}
			defer os.RemoveAll(o.Root)
			if err := os.Chmod(o.Root, 0o755); err != nil {
				return err
			}
			o.Out = os.Stderr
			var list []rebuild.Engine
			for _, e := range engines {
				list = append(list, rebuild.Engine{Name: e})
			}
			rows, err := rebuild.Run(ctx, o, l, list)
			if err != nil {
				return err
			}
			enc := json.NewEncoder(os.Stdout)
			enc.SetIndent("", " ")
			return enc.Encode(rows)
		},
	}
	f := cmd.Flags()
	f.StringVar(&scheme, "scheme", "isa_l_rs_vand 10+4", "")
	f.StringVar(&objectSize, "size", "16MiB", "")
	f.StringVar(&servers, "servers", "embedded", "")
	f.IntVar(&l.Objects, "objects", 64, "")
	f.IntVar(&l.Losses, "losses", 1, "")
	f.IntVar(&o.Rounds, "rounds", 3, "")
	f.IntVar(&l.Partitions, "partitions", 8, "")
	f.IntVar(&l.Validate, "validate", 0, "")
	f.BoolVar(&o.Count, "count", false, "")
	f.StringSliceVar(&engines, "engines", []string{"limit", "off", "md5"}, "")
	return cmd
}

// benchLimitCommand is what bench rebuild measures beside a reconstructor.
func benchLimitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "limit PLAN", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "move the bytes of a rebuild and do nothing else with them",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			var plan limit.Plan
			if err := json.Unmarshal(b, &plan); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return limit.Run(cmd.Context(), &plan)
		},
	}
}
