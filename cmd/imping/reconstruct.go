package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imping/daemon"
	"imping/engine/pass"
	"imping/engine/rebuild"
	"imping/swift/conf"
	"imping/swift/policy"
	"imping/swift/recon"
)

// swiftReconstructor is the name of the daemon that `imping reconstruct` stands in for.
const swiftReconstructor = "swift-object-reconstructor"

// reconstructOptions are the words and flags of a reconstructor, under either name.
type reconstructOptions struct {
	conf       string
	once       bool
	verbose    bool
	devices    []string
	partitions []string
	swiftConf  string
	verify     string
	budget     string
	only       string
	json       bool
	stats      bool
	profile    string
	object     string // point repair, see point.go
	hash       string
	policy     string
	swiftName  bool // called as swift-object-reconstructor

	warnings []string // of options that are deprecated

	// watch is told of a pass that begins, and gives what is to be called at its end; nil: a
	// display on standard error.
	watch func(*pass.Progress) (end func())

	current atomic.Pointer[pass.Pass] // the pass that runs now
}

func reconstructCommand() *cobra.Command {
	var o reconstructOptions
	cmd := &cobra.Command{
		Use:   "reconstruct CONF [once] [verbose] [--object /A/C/O | --hash H]",
		Short: "rebuild what the partners of this node's devices miss, pass after pass or once, or repair one object",
		Long: `Reads the [object-reconstructor] section of CONF (a file, or a folder of *.conf
files) as swift-object-reconstructor does, compares the suffix hashes of every
primary partition with its partners, rebuilds the fragment archives that they miss
and pushes them by SSYNC. Fragments that belong elsewhere are brought there, and removed
here when those to whom they belong have confirmed that they have them.
A lost device is rebuilt by its partners: make a pass on every node but its own.

With the word once it makes one pass; without it, it goes on, in the foreground, with
CONF's interval between passes. Rings and options are read anew before each pass.
SIGHUP begins the next pass as soon as the present one ends, which a changed ring ends
early; SIGUSR1 logs where the pass is; SIGTERM ends it in order. Under the name
swift-object-reconstructor it is the daemon.

With --object or --hash it repairs this one object now, on whichever nodes it belongs
to, and says node by node what it found and did: every archive is read and verified,
and what the primaries lack is rebuilt. Any node of the cluster will do. The policy is
that of the object's container; without --policy every erasure-code policy is looked
in. --hash needs it, and a local file of the object, which knows the name.

Exit status: 0 all done, 1 could not run, 2 something was left.`,
		Example: `  imping reconstruct /etc/swift/object-server.conf once
  imping reconstruct /etc/swift/object-server.conf -v
  imping reconstruct /etc/swift/object-server/1.conf once -v -d sdb1,sdc1
  imping reconstruct /etc/swift/object-server.conf once -p 117 --json
  imping reconstruct /etc/swift/object-server.conf once --only revert
  imping reconstruct /etc/swift/object-server.conf --object "/AUTH_test/photos/a cat.jpg"
  imping reconstruct /etc/swift/object-server.conf --object /AUTH_test/photos/cat.jpg --policy gold --json
  imping reconstruct /etc/swift/object-server.conf --hash 2da2f7cbbe6c6b2a4b6ba2e8a2a2f0d1 --policy 1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.conf = args[0]
			for _, word := range args[1:] {
				switch word {
				case "once":
					o.once = true
				case "verbose":
					o.verbose = true
				default:
					return fmt.Errorf("unknown word %q after the configuration file: `once` and `verbose` are known", word)
				}
			}
			return reconstruct(&o, os.Stdout)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.once, "once", "o", false, "make one pass, then stop")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log to standard error too")
	f.StringSliceVarP(&o.devices, "devices", "d", nil, "only these devices (comma-separated; needs once)")
	f.StringSliceVarP(&o.partitions, "partitions", "p", nil, "only these partitions (comma-separated; needs once)")
	f.StringVar(&o.swiftConf, "swift-conf", "", "swift.conf to read (default /etc/swift/swift.conf)")
	f.StringVar(&o.verify, "verify-survivors", "", "md5, parity or off: how the bytes of survivors are proved before a rebuilt archive is whole (default md5; imping_verify_survivors in CONF)")
	f.StringVar(&o.budget, "memory-budget", "", "ceiling for buffers, such as 256MiB (default 64MiB; imping_memory_budget in CONF)")
	f.StringVar(&o.only, "only", "", "sync or revert: do no other jobs (default both; imping_only in CONF)")
	f.BoolVar(&o.json, "json", false, "print the summary as JSON")
	f.BoolVar(&o.stats, "stats", false, "say where the time went, stage by stage, on standard error")
	f.StringVar(&o.profile, "profile", "", "write a profile of this run (cpu, mem, block or trace) into the current folder")
	f.StringVar(&o.object, "object", "", "repair this object only (/account/container/object, not quoted)")
	f.StringVar(&o.hash, "hash", "", "repair the object of this hash only (needs --policy)")
	f.StringVar(&o.policy, "policy", "", "the object's storage policy, by name or index")
	return cmd
}

// asReconstructor runs under the name swift-object-reconstructor, with that program's
// words, messages and exit status.
func asReconstructor(argv []string) int {
	args, err := daemon.ParseReconstructorArgs(argv)
	var usage *daemon.ArgsError
	if errors.As(err, &usage) {
		usage.Exit()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	o := reconstructOptions{
		conf: args.Conf, once: args.Once, verbose: args.Verbose,
		devices: args.Devices, partitions: args.Partitions, swiftName: true,
	}
	err = reconstruct(&o, io.Discard)
	var e *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &e):
		return exitDone // stock exits 0 whatever is left, and after SIGTERM too (rule 36)
	}
	fmt.Fprintln(os.Stderr, err)
	return exitFailed
}

// reconstruct reads the configuration, becomes Swift's user and makes the pass.
func reconstruct(o *reconstructOptions, stdout io.Writer) error {
	if err := o.checkPoint(); err != nil {
		return err
	}
	if err := checkProfile(o.profile); err != nil {
		return err
	}
	sec, cfg, log, err := prepareReconstruct(o)
	if err != nil {
		return err
	}
	defer log.Close()
	defer cfg.Statsd.Close()
	if !o.once && !o.point() {
		cfg.Kept = new(pass.Kept)
		p, err := pass.New(quiet(cfg))
		if err != nil {
			return err
		}
		p.Close()
	}
	if o.profile != "" { // before the user changes, who may not be allowed to write here
		defer startProfile(o.profile)()
	}
	if err := settle(sec, log, o); err != nil {
		return err
	}
	if o.point() {
		return reconstructPoint(cfg, log, o, stdout)
	}
	defer daemon.OnSignal(syscall.SIGUSR1, func() { o.logWhere(log) })()
	if !o.once {
		return reconstructForever(sec, cfg, log, o)
	}
	var summed atomic.Pointer[summary] // a pass that is cut off may yet come to its end
	err = daemon.Run(context.Background(), log, func(ctx context.Context) error {
		did, err := onePass(ctx, cfg, log, o)
		if err != nil && o.swiftName {
			log.Errorf("%v", err) // standard error may be /dev/null
		}
		summed.Store(did)
		if err == nil && cfg.Workers > 0 && ctx.Err() == nil {
			log.Noticef("Finished %d", os.Getpid()) // what Swift's parent of workers says
		}
		return err
	})
	if err != nil {
		return err
	}
	did := summed.Load()
	if did == nil { // a signal came first
		return &exitError{status: exitFailed, err: errEnded}
	}
	did.print(stdout, o.json)
	if did.ended {
		return &exitError{status: exitFailed, err: errEnded}
	}
	if did.Left.Any() {
		return &exitError{status: exitLeft}
	}
	return nil
}

// prepareReconstruct reads all that a reconstructor needs. The log is to be closed.
func prepareReconstruct(o *reconstructOptions) (*conf.Section, *pass.Config, *daemon.Logger, error) {
	path, err := filepath.Abs(o.conf)
	if err != nil {
		return nil, nil, nil, err
	}
	sec, err := conf.Read(path, "object-reconstructor")
	if err != nil {
		return nil, nil, nil, err
	}
	daemonize, err := sec.Bool("daemonize", true)
	if err != nil {
		return nil, nil, nil, err
	}
	if o.once = o.once || !daemonize; !o.once && !o.point() {
		switch {
		case o.swiftName: // whose -d and -p say nothing without once
			o.devices, o.partitions = nil, nil
		case len(o.devices)+len(o.partitions) > 0:
			return nil, nil, nil, errors.New("-d and -p need the word `once`: a daemon covers all devices")
		case o.json:
			return nil, nil, nil, errors.New("--json needs the word `once`: a daemon goes on")
		}
	}
	cfg, err := passConfig(sec, o)
	if err != nil {
		return nil, nil, nil, err
	}
	if o.swiftConf != "" {
		if o.swiftConf, err = filepath.Abs(o.swiftConf); err != nil {
			return nil, nil, nil, err
		}
	}
	if cfg.Swift, err = swiftConf(o.swiftConf, cfg.SwiftDir, o.swiftName); err != nil {
		return nil, nil, nil, err
	}

	var console io.Writer
	if o.verbose {
		console = os.Stderr
	}
	if cfg.Statsd, err = daemon.NewStatsd(sec, "object-reconstructor"); err != nil {
		return nil, nil, nil, err
	}
	log, err := daemon.NewLogger(sec, "object-reconstructor", console)
	return sec, cfg, log, err
}

var errEnded = errors.New("the pass was ended early by a signal")

// settle makes the process what its name promises: a daemon under Swift's name, else a
// program in the foreground that only becomes Swift's user.
func settle(sec *conf.Section, log *daemon.Logger, o *reconstructOptions) error {
	if o.swiftName {
		if err := daemon.SetUp(sec, log); err != nil {
			return err
		}
		if o.verbose {
			return daemon.DetachOutput(os.Stderr)
		}
		return daemon.DetachOutput()
	}
	daemon.RaiseLimits()
	daemon.SetPriority(sec, log)
	syscall.Umask(0o022)
	return daemon.DropPrivileges(sec.Get("user", daemon.DefaultUser))
}

// onePass makes the pass and shows how it gets on.
func onePass(ctx context.Context, cfg *pass.Config, log *daemon.Logger, o *reconstructOptions) (*summary, error) {
	cfg.Log = log
	p, err := pass.New(*cfg)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	local := p.LocalDevices()
	if unknown := notLocal(o.devices, local); len(unknown) > 0 && !o.swiftName {
		return nil, fmt.Errorf("%s: %s not among this node's devices (%s)", o.conf, strings.Join(unknown, ", "), strings.Join(local, ", "))
	}
	if len(local) == 0 {
		none := fmt.Sprintf("no device of any erasure-code ring in %s has this node's replication address: looked for %s", cfg.SwiftDir, where(cfg))
		if !o.swiftName {
			return nil, fmt.Errorf("%s: %s; is it the configuration of the replication server?", o.conf, none)
		}
		log.Warnf("%s", none) // a stock node without devices idles
	}
	o.current.Store(p)
	defer o.current.Store(nil)
	begins, completes := "Starting object reconstruction pass.", "Object reconstruction complete. (%.02f minutes)"
	for _, w := range o.warnings {
		log.Warnf("%s", w)
	}
	if o.once {
		begins, completes = "Running object reconstructor in script mode.", "Object reconstruction complete (once). (%.02f minutes)"
		for _, w := range cfg.Swift.Warnings {
			log.Warnf("%s", w)
		}
	}
	log.Infof("%s", begins)
	begin := time.Now()
	end := func() {}
	switch {
	case o.watch != nil:
		end = o.watch(&p.Progress)
	case o.once && !o.verbose && !o.swiftName:
		end = showProgress(os.Stderr, &p.Progress).Stop
	}
	left := p.Run(ctx)
	end()
	if !left.Interrupted {
		took := time.Since(begin)
		log.Infof(completes, took.Minutes())
		p.DumpRecon(took)
	}
	if o.stats {
		printTimes(os.Stderr, &p.Progress.Times)
	}
	did := summarise(&p.Progress, left)
	did.Unrepaired = p.Unrepaired()
	did.Missing = p.Missing()
	did.ended = ctx.Err() != nil
	if len(did.Missing) > 0 && did.Partitions == 0 && !left.Any() && !o.swiftName {
		return nil, fmt.Errorf("%s: none of the partitions given with -p is on a device that the pass covers (%s)", o.conf, strings.Join(local, ", "))
	}
	return did, nil
}

// where is what a device's replication address has to be to be local.
func where(cfg *pass.Config) string {
	ip := cfg.RingIP
	if ip == "0.0.0.0" || ip == "::" {
		ip = "any address of this machine"
	}
	if cfg.Port == 0 {
		return ip + ", any port"
	}
	return fmt.Sprintf("%s, port %d", ip, cfg.Port)
}

// notLocal are the given devices that this node does not have.
func notLocal(given, local []string) []string {
	var missing []string
	for _, d := range given {
		found := false
		for _, l := range local {
			found = found || l == d
		}
		if !found {
			missing = append(missing, d)
		}
	}
	return missing
}

// imping's own options in the configuration file (rule 40).
const (
	optVerify = "imping_verify_survivors"
	optBudget = "imping_memory_budget"
)

// passConfig takes the options of [object-reconstructor] with Swift's defaults.
func passConfig(sec *conf.Section, o *reconstructOptions) (*pass.Config, error) {
	r := reader{sec: sec}
	cfg := &pass.Config{
		SwiftDir:      sec.Get("swift_dir", "/etc/swift"),
		Devices:       sec.Get("devices", "/srv/node"),
		MountCheck:    r.bool("mount_check", true),
		RingIP:        sec.Get("ring_ip", sec.Get("bind_ip", "0.0.0.0")),
		Concurrency:   r.int("concurrency", 1),
		ConnTimeout:   r.seconds("conn_timeout", 500*time.Millisecond),
		NodeTimeout:   r.seconds("node_timeout", 10*time.Second),
		HTTPTimeout:   r.seconds("http_timeout", 60*time.Second),
		ReclaimAge:    r.seconds("reclaim_age", 7*24*time.Hour),
		CommitWindow:  r.seconds("commit_window", 60*time.Second),
		StatsInterval: r.seconds("stats_interval", 300*time.Second),
		RingCheck:     r.seconds("ring_check_interval", 15*time.Second),
		OnlyDevices:   o.devices,
		Handoffs:      r.int("rebuild_handoff_node_count", 2),
		ReconPath:     sec.Get("recon_cache_path", recon.DefaultPath),
		Workers:       r.int("reconstructor_workers", 0),
		LockupTimeout: r.seconds("lockup_timeout", 1800*time.Second),
	}
	if r.int("servers_per_port", 0) == 0 {
		cfg.Port = r.int("bind_port", 6200)
	}
	for _, p := range o.partitions {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("-p %s: not a partition number", p)
		}
		cfg.OnlyPartitions = append(cfg.OnlyPartitions, n)
	}
	if sec.Get("log_custom_handlers", "") != "" {
		return nil, sec.Errorf("log_custom_handlers", "empty: Python functions can not be called")
	}
	for _, key := range sec.Keys() {
		if strings.HasPrefix(key, "imping_") && !ownOption(key) {
			return nil, fmt.Errorf("%s: [%s] has an unknown option %s (known: %s, %s, %s, %s, %s)", sec.Path, sec.Name, key, daemon.OptLogTexts, optBudget, optOnly, optSyncDelay, optVerify)
		}
	}
	verify, from := o.verify, "--verify-survivors"
	if verify == "" {
		verify, from = sec.Get(optVerify, "md5"), sec.Path+": "+optVerify
	}
	var err error
	if cfg.Verify, err = rebuild.ParseVerify(verify); err != nil {
		return nil, fmt.Errorf("%s = %w", from, err)
	}
	budget, from := o.budget, "--memory-budget"
	if budget == "" {
		budget, from = sec.Get(optBudget, "64MiB"), sec.Path+": "+optBudget
	}
	if cfg.MemoryBudget, err = parseSize(budget); err != nil {
		return nil, fmt.Errorf("%s = %q: %w", from, budget, err)
	}
	if sec.Has("write_legacy_ec_crc") {
		cfg.LegacyCRC = r.bool("write_legacy_ec_crc", false)
	} else {
		cfg.LegacyCRC = legacyCRC()
	}
	r.keep(revertConfig(sec, o, cfg))
	cfg.MasterTexts, err = daemon.MasterTexts(sec)
	r.keep(err)
	if r.err == nil && (cfg.StatsInterval <= 0 || cfg.NodeTimeout <= 0 || cfg.ConnTimeout <= 0 || cfg.HTTPTimeout <= 0 || cfg.LockupTimeout <= 0) {
		return nil, fmt.Errorf("%s: stats_interval, conn_timeout, node_timeout, http_timeout and lockup_timeout must be above 0", sec.Path)
	}
	return cfg, r.err
}

// reader collects the errors of many options.
type reader struct {
	sec *conf.Section
	err error
}

func (r *reader) keep(err error) {
	r.err = errors.Join(r.err, err)
}

func (r *reader) int(option string, def int) int {
	n, err := r.sec.Int(option, def)
	r.keep(err)
	return n
}

func (r *reader) bool(option string, def bool) bool {
	b, err := r.sec.Bool(option, def)
	r.keep(err)
	return b
}

func (r *reader) seconds(option string, def time.Duration) time.Duration {
	d, err := r.sec.Seconds(option, def)
	r.keep(err)
	return d
}

// swiftConf reads swift.conf where Swift's daemons read it; a second one in swift_dir
// must say the same (rule 34).
func swiftConf(named, swiftDir string, swiftName bool) (*policy.Swift, error) {
	if named != "" {
		return policy.Load(named)
	}
	const usual = "/etc/swift/swift.conf"
	other := filepath.Join(swiftDir, "swift.conf")
	main, err := policy.Load(usual)
	if other == usual {
		return main, err
	}
	second, err2 := policy.Load(other)
	switch {
	case err == nil && err2 == nil:
		if diff := main.Differs(second); diff != "" {
			way := "remove one, or name the right one with --swift-conf"
			if swiftName { // its programs have no such option
				way = "remove one, or make them equal"
			}
			return nil, fmt.Errorf("%s and %s differ (%s): %s", usual, other, diff, way)
		}
		return main, nil
	case err == nil && errors.Is(err2, syscall.ENOENT):
		return main, nil
	case errors.Is(err, syscall.ENOENT) && err2 == nil:
		return second, nil
	case err != nil && !errors.Is(err, syscall.ENOENT):
		return nil, err
	case err2 != nil && !errors.Is(err2, syscall.ENOENT):
		return nil, err2
	}
	return nil, err
}

// parseSize reads "256MiB", "1GiB", "65536".
func parseSize(s string) (int64, error) {
	number, factor := strings.TrimSpace(s), int64(1)
	for unit, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(number, unit); ok {
			number, factor = strings.TrimSpace(rest), f
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > (1<<62)/factor {
		return 0, errors.New("not a size such as 256MiB or 1GiB")
	}
	return n * factor, nil
}
