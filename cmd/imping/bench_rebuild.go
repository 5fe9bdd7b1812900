package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imping/bench/limit"
	"imping/bench/plot"
	"imping/bench/rebuild"
	"imping/lab/real"
	"imping/swift/conf"
)

// benchRebuildOptions are the flags of `imping bench rebuild`.
type benchRebuildOptions struct {
	load         rebuild.Load
	scheme, size string
	servers      string
	engines      []string
	tables       []string
	rounds       int
	count, quick bool
	asJSON       bool
	write        string
}

// loadFlags ask for one load of one's own in place of the tables.
var loadFlags = []string{"scheme", "size", "objects", "losses", "partitions", "validate", "servers", "engines", "count"}

func benchRebuildCommand() *cobra.Command {
	var o benchRebuildOptions
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "measure passes of imping, of stock Swift's reconstructor, and of a bare program that only moves the bytes",
		Long: `Stores objects in a cluster, then wipes one or two devices and lets each engine
repair them, in turn, by a pass over a device that is a neighbour of both; every
repair is compared byte for byte with what was lost. The cluster is embedded (imping's
servers, a process per node; neither root nor Swift is needed), or Swift's own with
imping's replication servers ("own") or with Swift's ("stock"), which need root.

Engines are limit (the same bytes fetched and dropped, while as many are sent to the
same servers), stock (Swift's reconstructor), and imping by its way to verify
survivors: off, parity, md5. "off-single" loses and repairs one device after the other.

Without flags of a load the tables of BENCHMARKS.md are made. What is measured depends
on the file system that TMPDIR lies on: every archive is synced to it.`,
		Example: `  imping bench rebuild --quick
  imping bench rebuild --write BENCHMARKS.md
  imping bench rebuild --table limit,small --json > tables.json
  imping bench rebuild --scheme "isa_l_rs_vand 10+4" --size 16MiB --objects 64 --engines limit,off,md5
  imping bench rebuild --servers stock --size 64KiB --objects 200 --engines stock,md5 --count
  imping bench rebuild --losses 2 --engines off,off-single`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return benchRebuild(cmd, &o) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.tables, "table", nil, "only these tables: "+strings.Join(tableNames(), ", "))
	f.BoolVar(&o.quick, "quick", false, "two minutes: one round of few schemes and objects")
	f.StringVar(&o.scheme, "scheme", "isa_l_rs_vand 10+4", "scheme of the load")
	f.StringVar(&o.size, "size", "16MiB", "size of its objects")
	f.IntVar(&o.load.Objects, "objects", 64, "number of its objects")
	f.IntVar(&o.load.Losses, "losses", 1, "devices that are lost: 1, or both neighbours of one")
	f.IntVar(&o.load.Partitions, "partitions", 8, "partitions that its objects lie in, at most: a session each")
	f.IntVar(&o.load.Validate, "validate", 0, "etag_validate_pct of imping's servers: 100 or 0")
	f.StringVar(&o.servers, "servers", "embedded", "who serves: embedded, own or stock")
	f.StringSliceVar(&o.engines, "engines", []string{"limit", "off", "md5"}, "who repairs, in turn")
	f.BoolVar(&o.count, "count", false, "count requests, too, in a pass of its own")
	f.IntVar(&o.rounds, "rounds", 5, "repairs per engine and load")
	f.BoolVar(&o.asJSON, "json", false, "print every figure as JSON")
	f.StringVar(&o.write, "write", "", "put the tables into this file, between their marks (rebuild-limit and so on), and plots into bench/plots beside it")
	return cmd
}

func tableNames() (names []string) {
	for _, t := range rebuild.Tables(rebuild.Scale{}) {
		names = append(names, t.Name)
	}
	return names
}

// verifyModes are the ways to verify survivors that reconstruct knows.
func verifyModes() (modes []string) {
	for _, mode := range []string{"off", "parity", "md5"} {
		if _, err := passConfig(&conf.Section{}, &reconstructOptions{verify: mode}); err == nil {
			modes = append(modes, mode)
		}
	}
	return modes
}

// check finds out what is wrong with the flags before anything is measured.
func (o *benchRebuildOptions) check(cmd *cobra.Command) (own bool, tables []rebuild.Table, engines []rebuild.Engine, err error) {
	fail := func(format string, args ...any) (bool, []rebuild.Table, []rebuild.Engine, error) {
		return false, nil, nil, fmt.Errorf(format, args...)
	}
	for _, f := range loadFlags {
		own = own || cmd.Flags().Changed(f)
	}
	if o.rounds < 1 || o.rounds > 25 {
		return fail("--rounds %d: from 1 to 25", o.rounds)
	}
	if !own {
		if o.quick && !cmd.Flags().Changed("rounds") {
			o.rounds = 1
		}
		for _, t := range rebuild.Tables(rebuild.Scale{Quick: o.quick, Verify: verifyModes()}) {
			if o.tables != nil && !slices.Contains(o.tables, t.Name) {
				continue
			}
			if err := checkTable(o.write, "rebuild-"+t.Name); err != nil {
				return fail("%w", err)
			}
			tables = append(tables, t)
		}
		for _, name := range o.tables {
			if !slices.Contains(tableNames(), name) {
				return fail("--table %q: not one of %s", name, strings.Join(tableNames(), ", "))
			}
		}
		return false, tables, nil, nil
	}
	if o.tables != nil || o.quick || o.write != "" {
		return fail("--table, --quick and --write are for the tables, and another flag (of %s) asks for a load of its own", strings.Join(loadFlags, ", "))
	}
	schemes, err := parseSchemes("scheme", []string{o.scheme})
	if err != nil {
		return fail("%w", err)
	}
	l := &o.load
	l.Scheme, l.Servers = schemes[0], rebuild.Servers(o.servers)
	if l.Size, err = parseSize(o.size); err != nil {
		return fail("--size %q: %w", o.size, err)
	}
	switch {
	case len(schemes) != 1:
		return fail("--scheme %q: one at a time", o.scheme)
	case !slices.Contains([]rebuild.Servers{rebuild.Embedded, rebuild.Own, rebuild.Stock}, l.Servers):
		return fail("--servers %q: embedded, own and stock are known", o.servers)
	case l.Objects < 1 || l.Partitions < 1:
		return fail("--objects %d --partitions %d: at least one", l.Objects, l.Partitions)
	case l.Losses < 1 || l.Losses > 2:
		return fail("--losses %d: 1 or 2", l.Losses)
	case l.Validate != 0 && l.Validate != 100:
		return fail("--validate %d: 0 or 100", l.Validate)
	}
	known := append([]string{rebuild.EngineLimit, rebuild.EngineStock}, verifyModes()...)
	for _, name := range o.engines {
		name, single := strings.CutSuffix(name, "-single")
		if !slices.Contains(known, name) {
			return fail("--engines %q: not one of %s, each with -single behind it or not", name, strings.Join(known, ", "))
		}
		if name == rebuild.EngineStock && l.Servers == rebuild.Embedded {
			return fail("--engines stock needs a cluster of Swift's: --servers own or --servers stock")
		}
		engines = append(engines, rebuild.Engine{Name: name, Single: single})
	}
	return true, nil, engines, nil
}

func benchRebuild(cmd *cobra.Command, o *benchRebuildOptions) error {
	own, tables, engines, err := o.check(cmd)
	if err != nil {
		return err
	}
	needsRoot := own && o.load.Servers != rebuild.Embedded
	for i := range tables {
		needsRoot = needsRoot || tables[i].NeedsRoot()
	}
	if needsRoot {
		real.Enter()
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, program, err := benchFolder("imping")
	defer os.RemoveAll(root)
	if err != nil {
		return err
	}
	syscall.Umask(0o022) // as servers have it: the modes are compared
	options := rebuild.Options{Root: root, Imping: program, Rounds: o.rounds, Out: os.Stderr, Count: o.count}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	if own {
		rows, err := rebuild.Run(ctx, options, o.load, engines)
		if err != nil {
			return err
		}
		if o.asJSON {
			return enc.Encode(rows)
		}
		fmt.Print(rebuild.List(rows))
		return nil
	}
	var results []*rebuild.Result
	for i := range tables {
		began := time.Now()
		r, err := tables[i].Measure(ctx, options)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "table %s: %.0f s\n", r.Table, time.Since(began).Seconds())
		results = append(results, r)
		text := made(o.rounds, fmt.Sprintf("%d processors", runtime.NumCPU()), congestionControl(), "files on "+fileSystem(root)) + r.Text
		if !o.asJSON {
			fmt.Printf("## %s\n\n%s\n", r.Table, text)
		}
		if o.write != "" {
			if err := writeTable(o.write, "rebuild-"+r.Table, text); err != nil {
				return err
			}
			for name, p := range r.Plots {
				if err := writePlot(filepath.Join(filepath.Dir(o.write), "bench", "plots", name), p); err != nil {
					return err
				}
			}
		}
	}
	if o.asJSON {
		return enc.Encode(results)
	}
	return nil
}

func writePlot(path string, p *plot.Plot) error {
	var b bytes.Buffer
	if _, err := p.WriteTo(&b); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// fileSystem is what kind the folder lies on. Kernel: include/uapi/linux/magic.h.
func fileSystem(folder string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return err.Error()
	}
	known := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs"}
	if name := known[st.Type]; name != "" {
		return name
	}
	return fmt.Sprintf("a file system of type %#x", st.Type)
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
