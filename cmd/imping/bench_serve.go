package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	benchserve "imping/bench/serve"
	"imping/lab/real"
)

func benchServeCommand() *cobra.Command {
	var rounds int
	var scale float64
	var write, load string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "measure what stock Swift's object server and imping's cost (needs root)",
		Long: `Starts a Swift cluster of its own. On one node of it Swift's replication server and
imping's answer the same GETs and SSYNC PUTs of fragment archives, in turn. Prints a
Markdown table of medians of the servers' CPU time.`,
		Example: "  imping bench serve --rounds 1 --scale 0.2\n  imping bench serve --load GET --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBench(rounds, write, "serve"); err != nil {
				return err
			}
			if !(scale > 0) {
				return fmt.Errorf("--scale %v: must be more than zero", scale)
			}
			real.Enter()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			root, as, err := benchFolder(swiftServer)
			defer os.RemoveAll(root)
			if err != nil {
				return err
			}
			rows, err := benchserve.Run(ctx, benchserve.Options{Root: root, Server: []string{as}, Rounds: rounds, Scale: scale, Load: load, Out: os.Stderr})
			if err != nil {
				return err
			}
			text := made(rounds, congestionControl()) + benchserve.Table(rows)
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
				return writeTable(write, "serve", text)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&rounds, "rounds", 3, "rounds per engine and load")
	cmd.Flags().Float64Var(&scale, "scale", 1, "times the usual number of requests")
	cmd.Flags().StringVar(&load, "load", "", "only loads with this in their name")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print every figure as JSON")
	cmd.Flags().StringVar(&write, "write", "", "put the table into this file, between its serve marks")
	return cmd
}
