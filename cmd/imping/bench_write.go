package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	benchwrite "imping/bench/write"
)

func benchWriteCommand() *cobra.Command {
	o := benchwrite.Options{Out: os.Stderr}
	var write, child string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "write",
		Short: "measure what it costs to put files on the disk, by io_uring, plainly, and by Swift",
		Long: `Writes files of 64 KiB and of 16 MiB, 32 at a time, with metadata, each synced before
it gets its name and its directory after: by io_uring, by plain system calls, by Go's
os package, and as objects by imping's writer and by Swift's. Prints a Markdown table
of medians. System calls are counted as root only.`,
		Example: "  imping bench write --dir /srv/node/sda --rounds 5\n  imping bench write --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if child != "" {
				return benchwrite.Child(child, os.Stdout)
			}
			if err := checkBench(o.Rounds, write, "write"); err != nil {
				return err
			}
			if !(o.Scale > 0) {
				return fmt.Errorf("--scale %v: must be more than zero", o.Scale)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Self = []string{self, "bench", "write", "--child"}
			rows, err := benchwrite.Run(ctx, o)
			if err != nil {
				return err
			}
			text := made(o.Rounds) + benchwrite.Table(rows)
			if asJSON {
				enc := json.NewEncoder(os.Stdout)
				enc.SetIndent("", "  ")
				if err := enc.Encode(rows); err != nil {
					return err
				}
			} else {
				fmt.Print(text)
			}
			if write != "" {
				return writeTable(write, "write", text)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", os.TempDir(), "write into this folder, on the file system to be measured")
	f.IntVar(&o.Rounds, "rounds", 5, "rounds per load")
	f.Float64Var(&o.Scale, "scale", 1, "times the usual number of files")
	f.BoolVar(&asJSON, "json", false, "print every figure as JSON")
	f.StringVar(&write, "write", "", "put the table into this file, between its write marks")
	f.StringVar(&child, "child", "", "a measurement, in a process of its own")
	_ = f.MarkHidden("child")
	return cmd
}
