package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	benchrelink "imping/bench/relink"
)

func benchRelinkCommand() *cobra.Command {
	o := benchrelink.Options{Out: os.Stderr}
	var write, bare string
	var power int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "relink",
		Short: "measure stock Swift's relinker, imping's, and a bare loop of the calls that it takes",
		Long: `Fills devices in a folder of its own, and has them relinked and cleaned up by Swift's
relinker, by imping, and by a loop of the system calls that neither can do without, in
turn. Prints a Markdown table of medians. The file system is that of TMPDIR.`,
		Example: "  imping bench relink --files 5000 --rounds 1\n  imping bench relink --write BENCHMARKS.md",
		RunE: func(cmd *cobra.Command, args []string) error {
			if bare != "" {
				return benchrelink.Bare(args, power, bare == "cleanup")
			}
			if len(args) > 0 {
				return fmt.Errorf("unknown word %q", args[0])
			}
			if err := checkBench(o.Rounds, write, "relink"); err != nil {
				return err
			}
			if o.Files < 1 || o.Devices < 1 {
				return fmt.Errorf("--files %d, --devices %d: at least one", o.Files, o.Devices)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			root, as, err := benchFolder("imping")
			defer os.RemoveAll(root)
			if err != nil {
				return err
			}
			o.Root, o.Imping = filepath.Join(root, "relink"), as
			if err := os.Mkdir(o.Root, 0o755); err != nil {
				return err
			}
			rows, err := benchrelink.Run(ctx, o)
			if err != nil {
				return err
			}
			text := made(o.Rounds) + benchrelink.Table(rows)
			if asJSON {
				if err := benchrelink.JSON(os.Stdout, rows); err != nil {
					return err
				}
			} else {
				fmt.Print(text)
			}
			if write != "" {
				return writeTable(write, "relink", text)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Files, "files", 200_000, "files per device")
	f.IntVar(&o.Devices, "devices", 1, "devices, with a worker each")
	f.IntVar(&o.Rounds, "rounds", 1, "rounds per engine")
	f.StringSliceVar(&o.Only, "only", nil, "these engines only: stock, imping, bare loop")
	f.BoolVar(&o.Cold, "cold", false, "empty the kernel's caches before each step (those of the whole machine; needs root)")
	f.BoolVar(&asJSON, "json", false, "print every figure as JSON")
	f.StringVar(&write, "write", "", "put the table into this file, between its relink marks")
	f.StringVar(&bare, "bare", "", "")
	f.IntVar(&power, "power", 0, "")
	for _, own := range []string{"bare", "power"} { // how it calls itself
		_ = f.MarkHidden(own)
	}
	return cmd
}
