package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imping/daemon"
	"imping/engine/relink"
	"imping/io/diskfile"
	"imping/swift/conf"
	"imping/swift/policy"
	"imping/swift/recon"
)

// swiftRelinker is the name under which this program is Swift's relinker.
const swiftRelinker = "swift-object-relinker"

// relinkOptions are the words and flags of a relinker, under either name. What was not given is empty, and the conf counts.
type relinkOptions struct {
	cleanup   bool
	conf      string
	swiftName bool

	swiftDir, swiftConf, devices, user, logfile string
	policies, names                             []string
	partitions                                  []int
	skipMountCheck, debug, clobber              bool
	perSecond, statsInterval                    *float64
	workers, atOnce                             *int
	dryRun, json                                bool
	profile                                     string
}

func relinkCommand() *cobra.Command {
	var o relinkOptions
	cmd := &cobra.Command{
		Use:   "relink {relink | cleanup} [CONF]",
		Short: "double the partition power: link all files into their new partitions, or remove them from the old ones",
		Long: `relink is Swift's object relinker. After swift-ring-builder prepare_increase_partition_power,
` + "`imping relink relink`" + ` gives every file on this node's devices a link in the partition that it will have;
after increase_partition_power (or cancel_increase_partition_power) ` + "`imping relink cleanup`" + ` removes the names
in the partitions that files are no longer in. CONF is the file (or folder) with [object-relinker]; without
it Swift's defaults count, and warnings are printed. An ended or killed relinker goes on where it was, and so does
Swift's where this one was.

Exit status: 0 all done, 1 errors (run it again), 2 no policy is in that step of an increase.`,
		Example: `  imping relink relink /etc/swift/object-server.conf
  imping relink relink --device sdb1 --policy gold --dry-run
  imping relink cleanup /etc/swift/object-server.conf --files-per-second 500`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := o.words(args); err != nil {
				return err
			}
			status, err := runRelinker(&o)
			if err == nil && status == relink.Success {
				return nil
			}
			return &exitError{status: max(status, exitFailed), err: err}
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.profile, "profile", "", "write a profile of this run (cpu, mem, block or trace) into the current folder")
	return cmd
}

// words takes the words that are no flags.
func (o *relinkOptions) words(args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("the following arguments are required: action")
	case args[0] != "relink" && args[0] != "cleanup":
		return fmt.Errorf("argument action: invalid choice: '%s' (choose from 'relink', 'cleanup')", args[0])
	case len(args) > 2:
		return fmt.Errorf("unrecognized arguments: %s", strings.Join(args[2:], " "))
	case len(args) == 2:
		o.conf = args[1]
	}
	o.cleanup = args[0] == "cleanup"
	return nil
}

func (o *relinkOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.swiftDir, "swift-dir", "", "folder of the rings (default swift_dir of CONF, else /etc/swift)")
	f.StringArrayVar(&o.policies, "policy", nil, "policy to relink, by name or index; may be repeated (default all)")
	f.StringVar(&o.devices, "devices", "", "parent folder of the devices (default devices of CONF, else /srv/node)")
	f.StringVar(&o.user, "user", "", "user to become before relinking (default user of CONF, else none)")
	f.StringArrayVar(&o.names, "device", nil, "name of a device to relink; may be repeated (default all)")
	f.VarP(&typed{name: "--partition/-p", kind: "non_negative_int", set: func(s string) bool {
		n, ok := conf.ParseInt(s)
		o.partitions = append(o.partitions, n)
		return ok && n >= 0
	}}, "partition", "p", "partition to relink; may be repeated (default all)")
	f.BoolVar(&o.skipMountCheck, "skip-mount-check", false, "relink devices that are not mounted, too")
	f.Var(number("--files-per-second", &o.perSecond), "files-per-second", "object directories per second and worker; 0 is no limit (default files_per_second of CONF, else 0)")
	f.Var(number("--stats-interval", &o.statsInterval), "stats-interval", "seconds between two updates of the recon cache (default stats_interval of CONF, else 300)")
	f.Var(&typed{name: "--workers", kind: "auto_or_int", set: func(s string) bool {
		n, ok := relink.Auto, true
		if !strings.EqualFold(s, "auto") {
			n, ok = conf.ParseInt(s)
			ok = ok && n >= 0
		}
		o.workers = &n
		return ok
	}}, "workers", "devices at work at a time, or auto: all (default workers of CONF, else auto)")
	f.Var(&typed{name: "--partitions-per-device", kind: "positive_int", set: func(s string) bool {
		n, ok := conf.ParseInt(s)
		o.atOnce = &n
		return ok && n > 0
	}}, "partitions-per-device", fmt.Sprintf("partitions of a device at work at a time (default %d; %s in CONF)", relink.DefaultPartitionsPerDevice, optAtOnce))
	f.StringVar(&o.logfile, "logfile", "", "file to log to, where there is no CONF")
	f.BoolVar(&o.debug, "debug", false, "log every file")
	f.BoolVar(&o.clobber, "clobber-hardlink-collisions", false, "another file that has a link's name goes to quarantine; in cleanup it is taken for the link")
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing, and print links, removals and collisions per device")
	f.BoolVar(&o.json, "json", false, "print the summary as JSON")
	f.StringVar(&o.swiftConf, "swift-conf", "", "swift.conf to read (default /etc/swift/swift.conf)")
}

// typed is a flag whose values Swift's program refuses with the name of a type.
type typed struct {
	name, kind string
	set        func(string) bool
}

func (t *typed) String() string { return "" }
func (t *typed) Type() string   { return "N" }
func (t *typed) Set(s string) error {
	if !t.set(s) {
		return &typeError{fmt.Sprintf("argument %s: invalid %s value: '%s'", t.name, t.kind, s)}
	}
	return nil
}

// typeError is a wrong value, in argparse's words.
type typeError struct{ text string }

func (e *typeError) Error() string { return e.text }

func number(name string, to **float64) *typed {
	return &typed{name: name, kind: "non_negative_float", set: func(s string) bool {
		n, ok := conf.ParseFloat(s)
		*to = &n
		return ok && n >= 0 && !math.IsInf(n, 0)
	}}
}

// asRelinker runs under the name swift-object-relinker, with that program's words, messages and exit status.
func asRelinker(argv []string) int {
	o := relinkOptions{swiftName: true}
	cmd := &cobra.Command{Use: swiftRelinker + " {relink,cleanup} [conf_file]", Short: "Relink and cleanup objects to increase partition power",
		SilenceUsage: true, SilenceErrors: true, Args: cobra.ArbitraryArgs}
	o.flags(cmd)
	status := exitDone
	cmd.RunE = func(_ *cobra.Command, words []string) error {
		err := o.words(words)
		if err == nil {
			status, err = runRelinker(&o)
			var wrong *typeError
			if err != nil && !errors.As(err, &wrong) {
				fmt.Fprintln(os.Stderr, err)
				status = exitFailed
				return nil
			}
		}
		return err
	}
	words, err := wholeFlags(cmd, argv[1:])
	if err == nil {
		cmd.SetArgs(words)
		err = cmd.Execute()
	}
	if err != nil {
		text := err.Error()
		if wrong := (*typeError)(nil); errors.As(err, &wrong) {
			text = wrong.text
		}
		fmt.Fprintf(os.Stderr, "usage: %s [-h] [options] {relink,cleanup} [conf_file]\n%s: error: %s\n", swiftRelinker, swiftRelinker, text)
		return 2 // argparse's
	}
	return status
}

// wholeFlags completes flags that were shortened, as argparse does.
func wholeFlags(cmd *cobra.Command, argv []string) ([]string, error) {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = word
		if word == "--" {
			copy(words[i:], argv[i:])
			break
		}
		short, value, explicit := strings.Cut(word, "=")
		if !strings.HasPrefix(short, "--") || short == "--help" || cmd.Flags().Lookup(short[2:]) != nil {
			continue
		}
		matches := strings.Fields(cmd.Flags().FlagUsages())
		var names []string
		for _, name := range matches {
			if strings.HasPrefix(name, short) && cmd.Flags().Lookup(strings.TrimPrefix(name, "--")) != nil {
				names = append(names, name)
			}
		}
		switch {
		case len(names) > 1:
			return nil, fmt.Errorf("ambiguous option: %s could match %s", short, strings.Join(names, ", "))
		case len(names) == 1 && explicit:
			words[i] = names[0] + "=" + value
		case len(names) == 1:
			words[i] = names[0]
		}
	}
	return words, nil
}

// runRelinker does what a relinker's words say, and returns the exit status.
func runRelinker(o *relinkOptions) (status int, err error) {
	if err := checkProfile(o.profile); err != nil {
		return 0, err
	}
	if o.profile != "" { // before the user changes, who may not be allowed to write here
		defer startProfile(o.profile)()
	}
	sec := &conf.Section{}
	if o.conf != "" {
		path, err := filepath.Abs(o.conf)
		if err != nil {
			return 0, err
		}
		if sec, err = conf.Read(path, "object-relinker"); err != nil {
			return 0, err
		}
	}
	c, err := relinkConfig(sec, o)
	if err != nil {
		return 0, err
	}
	user := o.user
	if user == "" {
		user = sec.Get("user", "") // no default (rule 33)
	}
	daemon.RaiseLimits()
	if user != "" {
		if err := daemon.DropPrivileges(user); err != nil {
			return 0, err
		}
	}
	log, err := relinkLog(sec, o)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	for _, w := range c.Swift.Warnings {
		log.Warnf("%s", w)
	}
	c.Log, c.Verbose = log, log.Enabled(slog.LevelDebug)
	c.Prefixed = func(prefix string) relink.Log { return log.WithPrefix(prefix) }
	if !o.swiftName { // Swift's program has nothing to do, then
		for _, name := range c.Names {
			if _, err := os.Stat(filepath.Join(c.Devices, name)); err != nil {
				return 0, fmt.Errorf("--device %s: %w", name, err)
			}
		}
	}
	r, err := relink.New(*c)
	if err != nil {
		return 0, err
	}
	ctx, stop := daemon.Signals(context.Background(), log)
	defer stop()
	end := func() {}
	if !o.swiftName && !o.debug {
		end = show(os.Stderr, relinkGauge(r)).Stop
	}
	status, err = r.Run(ctx)
	end()
	if err != nil {
		return relink.Failed, errEnded
	}
	if !o.swiftName || o.dryRun {
		printRelinked(os.Stdout, r, o)
	}
	if !o.swiftName && status == relink.NoPolicy {
		err = errors.New("no policy is in that step of an increase of the partition power")
	}
	return status, err
}

// relinkLog is where the conf says, and without one standard error or --logfile. Under our own name a display has standard error.
func relinkLog(sec *conf.Section, o *relinkOptions) (*daemon.Logger, error) {
	if o.conf != "" {
		if o.debug {
			values := map[string]string{}
			for _, key := range sec.Keys() {
				values[key] = sec.Get(key, "")
			}
			values["log_level"] = "DEBUG"
			sec = conf.NewSection(sec.Name, sec.Path, values)
		}
		var console io.Writer
		if o.debug && !o.swiftName {
			console = os.Stderr
		}
		return daemon.NewLogger(sec, "swift", console)
	}
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	if o.logfile != "" {
		f, err := os.OpenFile(o.logfile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
		if err != nil {
			return nil, err
		}
		return daemon.NewPlainLogger(f, level), nil
	}
	if !o.swiftName && !o.debug {
		level = slog.LevelWarn
	}
	return daemon.NewPlainLogger(os.Stderr, level), nil
}

const (
	optClobber = "clobber_hardlink_collisions"
	optAtOnce  = "imping_partitions_per_device"
)

// relinkConfig takes the options of [object-relinker] with Swift's defaults; flags win.
func relinkConfig(sec *conf.Section, o *relinkOptions) (*relink.Config, error) {
	r := reader{sec: sec}
	first := func(flag, key, def string) string {
		if flag != "" {
			return flag
		}
		return sec.Get(key, def)
	}
	c := &relink.Config{
		SwiftDir:      first(o.swiftDir, "swift_dir", "/etc/swift"),
		Devices:       first(o.devices, "devices", "/srv/node"),
		MountCheck:    r.bool("mount_check", true) && !o.skipMountCheck,
		Cleanup:       o.cleanup,
		Names:         o.names,
		Partitions:    o.partitions,
		StatsInterval: r.seconds("stats_interval", relink.DefaultStatsInterval),
		ReconPath:     sec.Get("recon_cache_path", recon.DefaultPath),
		ReclaimAge:    r.seconds("reclaim_age", diskfile.DefaultReclaimAge),
		CommitWindow:  r.seconds("commit_window", diskfile.DefaultCommitWindow),
		Clobber:       o.clobber || r.bool(optClobber, false),
		DryRun:        o.dryRun,
	}
	perSecond, err := sec.NonNegativeFloat("files_per_second", 0)
	r.keep(err)
	c.HashDirsPerSecond = perSecond
	if o.perSecond != nil {
		c.HashDirsPerSecond = *o.perSecond
	}
	if o.statsInterval != nil && *o.statsInterval > 0 { // of 0 Swift takes the conf's
		c.StatsInterval = time.Duration(min(*o.statsInterval, 1e9) * float64(time.Second))
	}
	workers, err := sec.AutoInt("workers", relink.Auto)
	r.keep(err)
	if workers < 0 && workers != relink.Auto {
		r.keep(sec.Errorf("workers", "auto or an integer >= 0"))
	}
	c.Workers = workers
	if o.workers != nil {
		c.Workers = *o.workers
	}
	c.PartitionsPerDevice = r.int(optAtOnce, relink.DefaultPartitionsPerDevice)
	if c.PartitionsPerDevice < 1 {
		r.keep(sec.Errorf(optAtOnce, "an integer > 0"))
	}
	if o.atOnce != nil {
		c.PartitionsPerDevice = *o.atOnce
	}
	c.MasterTexts, err = daemon.MasterTexts(sec)
	r.keep(err)
	for _, key := range sec.Keys() {
		if strings.HasPrefix(key, "imping_") && !ownOption(key) {
			return nil, fmt.Errorf("%s: [%s] has an unknown option %s", sec.Path, sec.Name, key)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	if o.swiftConf != "" {
		if o.swiftConf, err = filepath.Abs(o.swiftConf); err != nil {
			return nil, err
		}
	}
	if c.Swift, err = swiftConf(o.swiftConf, c.SwiftDir, o.swiftName); err != nil {
		return nil, err
	}
	for _, name := range o.policies {
		p := findPolicy(c.Swift, name)
		if p == nil {
			return nil, &typeError{fmt.Sprintf("argument --policy: invalid policy value: '%s'", name)}
		}
		c.Policies = append(c.Policies, p)
	}
	return c, nil
}

// findPolicy finds a policy by its name, else its index. Swift: StoragePolicyCollection.get_by_name_or_index.
func findPolicy(s *policy.Swift, name string) *policy.Policy {
	if p := s.ByName(name); p != nil {
		return p
	}
	if n, err := strconv.Atoi(name); err == nil {
		return s.ByIndex(n)
	}
	return nil
}

func relinkGauge(r *relink.Relinker) gauge {
	return gauge{
		what:  "partitions",
		count: func() (n, all int64) { return r.PartitionsDone.Load(), r.Partitions.Load() },
		amounts: func() string {
			s := fmt.Sprintf("%d files, %d linked, %d removed", r.Files.Load(), r.Linked.Load(), r.Removed.Load())
			if n := r.ErrorsNow.Load(); n > 0 {
				s += fmt.Sprintf(", %d errors", n)
			}
			return s
		},
		elapsed: r.Elapsed,
		every:   lineEvery,
	}
}

// printRelinked prints what was done, and of a dry run what would be, per device.
func printRelinked(w io.Writer, r *relink.Relinker, o *relinkOptions) {
	type line struct {
		Device     string `json:"device,omitempty"`
		Policy     string `json:"policy,omitempty"`
		HashDirs   int64  `json:"hash_dirs"`
		Files      int64  `json:"files"`
		Linked     int64  `json:"linked"`
		Removed    int64  `json:"removed"`
		Collisions *int64 `json:"collisions,omitempty"`
		Errors     int64  `json:"errors"`
	}
	var plans []line
	for _, p := range r.Plans() {
		plans = append(plans, line{p.Device, p.Policy, p.HashDirs, p.Files, p.Linked, p.Removed, &p.Collisions, p.Errors})
	}
	done := line{HashDirs: r.HashDirs.Load(), Files: r.Files.Load(), Linked: r.Linked.Load(), Removed: r.Removed.Load(), Errors: r.ErrorsNow.Load()}
	if o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if o.dryRun {
			enc.Encode(map[string]any{"dry_run": plans})
		} else {
			enc.Encode(done)
		}
		return
	}
	for _, p := range plans {
		fmt.Fprintf(w, "%s, policy %s: would link %d files and remove %d of %d in %d object directories; %d collisions, %d errors in all\n",
			p.Device, p.Policy, p.Linked, p.Removed, p.Files, p.HashDirs, *p.Collisions, p.Errors)
	}
	if !o.dryRun {
		fmt.Fprintf(w, "%d partitions in %.2f s: %d object directories, %d files, %d linked, %d removed, %d errors\n",
			r.PartitionsDone.Load(), r.Elapsed().Seconds(), done.HashDirs, done.Files, done.Linked, done.Removed, done.Errors)
	}
}
