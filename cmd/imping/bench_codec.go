package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	benchcodec "imping/bench/codec"
	"imping/codec"
)

func benchCodecCommand() *cobra.Command {
	o := benchcodec.DefaultOptions()
	var write string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "codec",
		Short: "measure how fast lost fragments are made from survivors in memory",
		Long: `Rebuilds fragments of every scheme with every kernel that this machine runs, with
other libraries, and with liberasurecode where it is installed: in cache, and
streaming through more memory than the last-level cache holds. Each result is
compared with what was lost. Prints Markdown tables of medians; the engines take
turns in short windows of CPU time, so that a busy machine is unfair to none.`,
		Example: "  imping bench codec --write BENCHMARKS.md\n  imping bench codec --type isa_l_rs_vand --rounds 3 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, typ := range o.Types {
				if !slices.Contains(codec.Types(), typ) {
					return fmt.Errorf("--type %q: not one of %s", typ, strings.Join(codec.Types(), ", "))
				}
			}
			if o.Rounds < 1 || o.Window <= 0 {
				return fmt.Errorf("--rounds %d --window %v: both must be more than zero", o.Rounds, o.Window)
			}
			if err := checkTable(write, "codec"); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			o.Out = os.Stderr
			report, err := benchcodec.Run(ctx, o)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("imping %s, %s, %s", version, time.Now().UTC().Format(time.DateOnly), report.Table())
			if asJSON {
				enc := json.NewEncoder(os.Stdout)
				enc.SetIndent("", "  ")
				if err := enc.Encode(report); err != nil {
					return err
				}
			} else {
				fmt.Print(text)
			}
			if write != "" {
				return writeTable(write, "codec", text)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&o.Types, "type", o.Types, "ec_types to measure")
	cmd.Flags().IntVar(&o.Rounds, "rounds", o.Rounds, "windows per engine and case")
	cmd.Flags().DurationVar(&o.Window, "window", o.Window, "CPU time of a window")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print every figure as JSON")
	cmd.Flags().StringVar(&write, "write", "", "put the tables into this file, between its codec marks")
	return cmd
}
