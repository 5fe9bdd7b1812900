package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"

	"imping/bench/rebuild"
	"imping/lab/real"
)

func benchCommand() *cobra.Command {
	var rounds, objects int
	var write string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure stock Swift's reconstructor and imping in turn on a real cluster (needs root)",
		Long: `Stores objects in a Swift cluster of its own, then wipes a device and lets each
reconstructor repair it, in turn; every repair is compared byte for byte. Prints a
Markdown table of medians.`,
		Example: "  imping bench --write BENCHMARKS.md\n  imping bench --rounds 1 --objects 20",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBench(rounds, write, "rebuild"); err != nil {
				return err
			}
			if objects < 0 {
				return fmt.Errorf("--objects %d: must not be less than 0 (all)", objects)
			}
			real.Enter()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			root, as, err := benchFolder(swiftReconstructor)
			defer os.RemoveAll(root)
			if err != nil {
				return err
			}
			shapes := rebuild.Shapes()
			for i := range shapes {
				if objects > 0 && objects < shapes[i].Objects {
					shapes[i].Name = strings.Replace(shapes[i].Name, fmt.Sprint(shapes[i].Objects), fmt.Sprint(objects), 1)
					shapes[i].Objects = objects
				}
			}
			rows, err := rebuild.Run(ctx, rebuild.Options{Root: root, Imping: as, Rounds: rounds, Shapes: shapes, Out: os.Stderr})
			if err != nil {
				return err
			}
			text := fmt.Sprintf("imping %s, %s, %s, %s\n\n%s", version, time.Now().UTC().Format(time.DateOnly), cpuid.CPU.BrandName, mediansOf(rounds), rebuild.Table(rows))
			fmt.Print(text)
			if write != "" {
				return writeTable(write, "rebuild", text)
			}
			return nil
		},
	}
	cmd.AddCommand(benchCodecCommand(), benchServeCommand(), benchRelinkCommand())
	cmd.Flags().IntVar(&rounds, "rounds", 3, "repairs per engine and load")
	cmd.Flags().IntVar(&objects, "objects", 0, "at most so many objects per load (for a quick look)")
	cmd.Flags().StringVar(&write, "write", "", "put the table into this file, between its rebuild marks")
	return cmd
}

// checkBench finds out what is wrong with a benchmark's flags before anything is measured.
func checkBench(rounds int, write, name string) error {
	if rounds < 1 || rounds > 25 {
		return fmt.Errorf("--rounds %d: from 1 to 25", rounds)
	}
	return checkTable(write, name)
}

func mediansOf(rounds int) string {
	if rounds == 1 {
		return "one round"
	}
	return fmt.Sprintf("medians of %d rounds", rounds)
}

// checkTable says whether writeTable would find its marks; without a path there is nothing to find.
func checkTable(path, name string) error {
	if path == "" {
		return nil
	}
	_, _, err := aroundTable(path, name)
	return err
}

// benchFolder makes an empty folder for a lab, which its user may enter, and in it a link by which this program has a daemon's name. The
// folder is to be removed, after an error too.
func benchFolder(name string) (root, program string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", err
	}
	if root, err = os.MkdirTemp("", "imping-bench-"); err != nil {
		return "", "", err
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return root, "", err
	}
	program = filepath.Join(root, name)
	return root, program, os.Symlink(self, program)
}

// writeTable puts text between the marks of that name in a file of Markdown.
func writeTable(path, name, text string) error {
	head, tail, err := aroundTable(path, name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(head+"\n"+text+tail), 0o644)
}

// aroundTable is what stands before and behind a table, with its marks.
func aroundTable(path, name string) (head, tail string, err error) {
	begin, end := "<!-- "+name+": begin -->", "<!-- "+name+": end -->"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", fmt.Errorf("%s has no line %s followed by %s", path, begin, end)
	}
	return head + begin, end + tail, nil
}
