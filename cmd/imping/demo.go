package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imping/lab/real"
	"imping/lab/scenario"
)

// The demo: a disk of a real Swift cluster is wiped and rebuilt.
const (
	demoVictim = "sd5"
	demoRandom = 44 // random objects per policy, beside those of odd sizes and kinds: more than 200 in all
)

func demoCommand() *cobra.Command {
	var corrupt bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "wipe a disk of a real Swift cluster on this machine, rebuild it, compare every byte",
		Long: `Stands a Swift cluster of 7 nodes and 14 devices up in namespaces of its own (from
Debian's packages; needs root), stores objects over its erasure-code policies, records
the SHA-256 of every file of one device, wipes that device, runs a pass of this program
on every node, and lets a separate process compare. It ends with
"rebuilt N of N fragment archives, all byte-identical", or fails.`,
		Example: "  imping demo\n  imping demo --corrupt-one   # flips a rebuilt byte before the comparison: must fail",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			real.Enter()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return demo(ctx, corrupt)
		},
	}
	cmd.Flags().BoolVar(&corrupt, "corrupt-one", false, "flip one rebuilt byte before the comparison, which then must fail")
	cmd.AddCommand(&cobra.Command{
		Use: "compare SNAPSHOT", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "compare a device with a snapshot that the demo wrote",
		RunE:  func(_ *cobra.Command, args []string) error { return demoCompare(args[0]) },
	})
	return cmd
}

func demo(ctx context.Context, corrupt bool) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "imping-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	fmt.Println("starting a Swift cluster: 7 nodes, 14 devices, policies 4+2 and 10+4 of isa_l_rs_vand and liberasurecode_rs_vand")
	c, err := real.Start(ctx, real.Options{Root: root, User: "swift"})
	if err != nil {
		return err
	}
	defer c.Stop()
	defer func() {
		if err != nil && ctx.Err() == nil && !corrupt {
			c.DumpLogs(os.Stderr)
		}
	}()

	fmt.Println("storing objects")
	last := time.Now()
	loaded, err := scenario.Load(ctx, c, scenario.LoadOptions{
		Seed: 1, Victim: demoVictim, Random: demoRandom,
		Progress: func(n, all int, _ string) {
			if time.Since(last) > 2*time.Second || n == all {
				last = time.Now()
				fmt.Printf("  %d of %d objects\n", n, all)
			}
		},
	})
	if err != nil {
		return err
	}
	before, err := scenario.TakeSnapshot(c, demoVictim, "")
	if err != nil {
		return err
	}
	record := filepath.Join(root, "before.json")
	b, err := json.Marshal(before)
	if err != nil {
		return err
	}
	if err := os.WriteFile(record, b, 0o600); err != nil {
		return err
	}
	fmt.Printf("%d objects, %s; device %s holds %d fragment archives; wiping it\n", len(loaded.Objects), size(float64(loaded.Bytes)), demoVictim, before.Archives())
	if err := scenario.Wipe(c, demoVictim); err != nil {
		return err
	}

	err = scenario.Rebuild(ctx, c, false, func(ctx context.Context, node int) error {
		fmt.Printf("imping reconstruct, node %d\n", node)
		// The child's progress display has this terminal.
		exit, err := onTerminal(ctx, self, "reconstruct", c.ReplicationConf(node), "once")
		if err != nil {
			return err
		}
		if exit != exitDone {
			return fmt.Errorf("its pass ended with status %d", exit)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if corrupt {
		if err := corruptOne(before); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	exit, _, err := c.Run(ctx, &out, self, "demo", "compare", record)
	if err != nil {
		return err
	}
	if exit != 0 {
		return fmt.Errorf("the rebuilt device differs from the lost one:\n%s", out.String())
	}
	if err := scenario.VerifyGETs(ctx, c, loaded); err != nil {
		return err
	}
	fmt.Println("every object read back through the proxy is the one that was stored")
	fmt.Print(out.String())
	return nil
}

// corruptOne flips a byte of one rebuilt archive.
func corruptOne(before *scenario.Snapshot) error {
	for name, f := range before.Files {
		if strings.HasSuffix(name, ".data") && f.Size > 0 {
			flip, err := scenario.FlipPayloadByte(filepath.Join(before.Path, name), 1)
			if err != nil {
				return err
			}
			fmt.Printf("flipped %v\n", flip)
			return nil
		}
	}
	return fmt.Errorf("device %s has no archive to corrupt", before.Device)
}

// demoCompare is the separate process: it knows nothing but the snapshot and the disk.
func demoCompare(record string) error {
	b, err := os.ReadFile(record)
	if err != nil {
		return err
	}
	var before scenario.Snapshot
	if err := json.Unmarshal(b, &before); err != nil {
		return fmt.Errorf("%s: %w", record, err)
	}
	after, err := before.Retake()
	if err != nil {
		return err
	}
	report := scenario.Compare(&before, after)
	if !report.OK() {
		return fmt.Errorf("%s", report)
	}
	fmt.Printf("rebuilt %d of %d fragment archives, all byte-identical\n", report.Same, report.Archives)
	return nil
}
