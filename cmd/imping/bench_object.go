package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	benchobject "imping/bench/object"
	"imping/lab/real"
)

func benchObjectCommand() *cobra.Command {
	var rounds int
	var scale float64
	var write, load, pol string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "object",
		Short: "measure PUTs and GETs of objects, by Swift's proxy and without it (needs root)",
		Long: `Starts a Swift cluster of its own. Objects are put and read through Swift's proxy, and by
what ` + "`imping object`" + ` is, with Swift's object servers on all nodes and with imping's, in turn.
Prints a Markdown table of medians.`,
		Example: "  imping bench object --rounds 1 --scale 0.2\n  imping bench object --load GET --policy isal42 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBench(rounds, write, "object"); err != nil {
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
			rows, err := benchobject.Run(ctx, benchobject.Options{Root: root, Server: []string{as}, Policy: pol, Rounds: rounds, Scale: scale, Load: load, Out: os.Stderr})
			if err != nil {
				return err
			}
			text := made(rounds, congestionControl()) + benchobject.Table(rows)
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
				return writeTable(write, "object", text)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&rounds, "rounds", 3, "rounds per load, way and kind of server")
	cmd.Flags().Float64Var(&scale, "scale", 1, "times the usual number of objects")
	cmd.Flags().StringVar(&load, "load", "", "only loads with this in their name")
	cmd.Flags().StringVar(&pol, "policy", "isal104", "policy of the lab: isal42, lec42, isal104 or lec104")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print every figure as JSON")
	cmd.Flags().StringVar(&write, "write", "", "put the table into this file, between its object marks")
	return cmd
}
