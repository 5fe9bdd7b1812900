package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"imping/daemon"
	"imping/engine/pass"
	"imping/swift/policy"
)

// verifyOptions are the flags of `imping verify`.
type verifyOptions struct {
	reconstructOptions // conf, swiftConf, policy, devices, partitions, verbose, json
	objects            []string
	container, listing string
	all                bool
	atOnce             int
}

func verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify CONF (--object /A/C/O | --listing FILE | -d DEVICE | -p PARTITION)",
		Short: "read all fragment archives of objects, and say whether they are whole and what losses they bear",
		Long: `verify asks the devices that an object belongs on, and as many handoffs, what they hold
of it, and reads all archives of its newest version that can be decoded, side by side:
each is compared with its ETag and its fragment headers, all with each other, segment by
segment, and the object that they make with its own MD5. It repairs nothing and writes
nothing; an object server that has served an archive whole and found it to be bad moves
it aside, as Swift's does. Any node of the cluster will do: CONF is its object-server.conf.

Objects are named one by one, or by a container's listing (a name a line, as swift list
prints it, with --container; or whole names), or they are those of which this node's
devices hold something. Good ones are passed over in silence, unless they were named or
with --all.

Exit status: 0 all are good, 1 could not run, 2 something is amiss.`,
		Example: `  imping verify /etc/swift/object-server.conf --object "/AUTH_test/photos/a cat.jpg"
  swift list photos | imping verify /etc/swift/object-server.conf --container /AUTH_test/photos --listing -
  imping verify /etc/swift/object-server.conf -d sdb1 --all
  imping verify /etc/swift/object-server.conf -p 117 --policy gold --json
  imping reconstruct /etc/swift/object-server.conf --object /AUTH_test/photos/cat.jpg   # mends what is amiss`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.conf = args[0]
			return o.run(os.Stdout)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.objects, "object", nil, "this object (/account/container/object, not quoted; may be given again)")
	f.StringVar(&o.listing, "listing", "", "the objects that a file names, one a line (- is standard input)")
	f.StringVar(&o.container, "container", "", "names of --listing are in this container (/account/container)")
	f.StringSliceVarP(&o.devices, "devices", "d", nil, "the objects on these devices of this node (comma-separated)")
	f.StringSliceVarP(&o.partitions, "partitions", "p", nil, "the objects in these partitions on this node (comma-separated)")
	f.StringVar(&o.policy, "policy", "", "their storage policy, by name or index (default: that in which an object is found)")
	f.BoolVar(&o.all, "all", false, "say of good objects, too, that they are")
	f.IntVar(&o.atOnce, "concurrency", 4, "objects at a time")
	f.BoolVar(&o.json, "json", false, "print a JSON object a line, for good objects, too")
	f.StringVar(&o.swiftConf, "swift-conf", "", "swift.conf to read (default /etc/swift/swift.conf)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log to standard error")
	return cmd
}

// check refuses what does not go together.
func (o *verifyOptions) check() error {
	local, named := len(o.devices)+len(o.partitions) > 0, len(o.objects) > 0
	kinds := 0
	for _, is := range []bool{local, named, o.listing != ""} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("say which objects: with --object, with --listing, or with -d and -p")
	case o.container != "" && o.listing == "":
		return errors.New("--container goes with --listing, which has the names of its objects")
	case o.container != "" && len(strings.Split(strings.Trim(o.container, "/"), "/")) != 2:
		return fmt.Errorf("--container %q: not /account/container", o.container)
	case o.atOnce < 1:
		return fmt.Errorf("--concurrency %d: at least 1", o.atOnce)
	}
	for _, name := range o.objects {
		if err := checkObjectName(name); err != nil {
			return fmt.Errorf("--object %w", err)
		}
	}
	return nil
}

func (o *verifyOptions) run(stdout io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	var partitions []int
	for _, text := range o.partitions {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return fmt.Errorf("-p %q: no partition", text)
		}
		partitions = append(partitions, n)
	}
	list := os.Stdin // opened before the user changes
	if o.listing != "" && o.listing != "-" {
		var err error
		if list, err = os.Open(o.listing); err != nil {
			return err
		}
		defer list.Close()
	}
	o.once = true
	devices := o.devices
	o.reconstructOptions.devices, o.reconstructOptions.partitions = nil, nil // which are those of a pass
	sec, cfg, log, err := prepareReconstruct(&o.reconstructOptions)
	if err != nil {
		return err
	}
	defer log.Close()
	defer cfg.Statsd.Close()
	pol, err := pointPolicy(cfg.Swift, o.policy)
	if err != nil {
		return err
	}
	cfg.AllowedHeaders = allowedHeaders(o.conf)
	if err := settle(sec, log, &o.reconstructOptions); err != nil {
		return err
	}
	cfg.Log = log
	p, err := pass.New(*cfg)
	if err != nil {
		return err
	}
	defer p.Close()
	if unknown := notLocal(devices, p.LocalDevices()); len(unknown) > 0 {
		return fmt.Errorf("%s: %s not among this node's devices (%s)", o.conf, strings.Join(unknown, ", "), strings.Join(p.LocalDevices(), ", "))
	}
	v := &verification{verifyOptions: o, pass: p, out: stdout, begin: time.Now()}
	if !o.verbose {
		defer show(os.Stderr, gauge{what: "objects", every: lineEvery,
			count:   func() (int64, int64) { return v.done.Load(), v.listed.Load() },
			amounts: v.amounts, elapsed: func() time.Duration { return time.Since(v.begin) }}).Stop()
	}
	err = daemon.Run(context.Background(), log, func(ctx context.Context) error {
		switch {
		case len(o.objects) > 0:
			return v.each(ctx, func(do func(*pass.PointRequest, error) bool) error {
				for _, name := range o.objects {
					do(&pass.PointRequest{Object: name, Policy: pol}, nil)
				}
				return nil
			})
		case o.listing != "":
			return v.each(ctx, func(do func(*pass.PointRequest, error) bool) error { return o.names(list, pol, do) })
		}
		return v.each(ctx, func(do func(*pass.PointRequest, error) bool) error {
			p.Held(pol, devices, partitions)(do)
			return nil
		})
	})
	switch {
	case err != nil:
		return err
	case !v.complete.Load(): // a signal came first
		return &exitError{status: exitFailed, err: errors.New("ended early by a signal")}
	}
	if !o.json && (v.done.Load() != 1 || v.amiss() == 0 && len(o.objects) == 0) {
		fmt.Fprintln(stdout, v.summary())
	}
	if v.amiss() > 0 {
		return &exitError{status: exitLeft}
	}
	return nil
}

// names gives the objects that a listing names.
func (o *verifyOptions) names(list io.Reader, pol *policy.Policy, do func(*pass.PointRequest, error) bool) error {
	lines := bufio.NewScanner(list)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name := strings.TrimSuffix(lines.Text(), "\r")
		switch {
		case name == "":
			continue
		case o.container != "":
			name = "/" + strings.Trim(o.container, "/") + "/" + name
		}
		err := checkObjectName(name)
		if err != nil {
			err = fmt.Errorf("%s: %w", o.listing, err)
		}
		if !do(&pass.PointRequest{Object: name, Policy: pol}, err) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", o.listing, err)
	}
	return nil
}

// checkObjectName takes what clients call an object.
func checkObjectName(name string) error {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) < 4 || parts[0] != "" || parts[1] == "" || parts[2] == "" || parts[3] == "" {
		return fmt.Errorf("%q: not /account/container/object (as clients name them, not quoted)", name)
	}
	return nil
}

// verification is a run of `imping verify` on its way.
type verification struct {
	*verifyOptions
	pass  *pass.Pass
	begin time.Time

	mu  sync.Mutex // of out
	out io.Writer

	listed, done                    atomic.Int64
	good, deleted, left, lost, odds atomic.Int64 // odds: could not be looked at
	complete                        atomic.Bool
}

func (v *verification) amiss() int64 { return v.left.Load() + v.lost.Load() + v.odds.Load() }

func (v *verification) amounts() string {
	return fmt.Sprintf("%d good, %d amiss, %.1f/s", v.good.Load(), v.amiss(), float64(v.done.Load())/max(time.Since(v.begin).Seconds(), 0.001))
}

func (v *verification) summary() string {
	return fmt.Sprintf("%d objects: %d good, %d deleted, %d with something amiss, %d that can not be decoded, %d that could not be looked at",
		v.done.Load(), v.good.Load(), v.deleted.Load(), v.left.Load(), v.lost.Load(), v.odds.Load())
}

// each verifies what list gives, several objects at a time.
func (v *verification) each(ctx context.Context, list func(do func(*pass.PointRequest, error) bool) error) error {
	var group errgroup.Group
	group.SetLimit(v.atOnce)
	err := list(func(r *pass.PointRequest, err error) bool {
		v.listed.Add(1)
		group.Go(func() error {
			v.one(ctx, r, err)
			return nil
		})
		return ctx.Err() == nil
	})
	group.Wait()
	v.complete.Store(ctx.Err() == nil)
	return err
}

// one verifies an object and says what came of it.
func (v *verification) one(ctx context.Context, r *pass.PointRequest, err error) {
	var report *pass.PointReport
	if err == nil {
		report, err = v.pass.Verify(ctx, r)
	}
	if ctx.Err() != nil {
		return
	}
	v.done.Add(1)
	named := len(v.objects) > 0 || v.all
	good := false
	switch {
	case err != nil:
		v.odds.Add(1)
	case report.State == pass.PointHopeless:
		v.lost.Add(1)
	case report.Left > 0:
		v.left.Add(1)
	case report.State == pass.PointDeleted:
		v.deleted.Add(1)
		good = true
	default:
		v.good.Add(1)
		good = true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.json && err != nil:
		type failed struct {
			Object string `json:"object,omitempty"`
			Hash   string `json:"hash,omitempty"`
			Error  string `json:"error"`
		}
		f := failed{Error: err.Error()}
		if r != nil {
			f.Object, f.Hash = r.Object, r.Hash
		}
		printLine(v.out, f)
	case v.json:
		printLine(v.out, report)
	case err != nil:
		fmt.Fprintf(v.out, "could not be looked at: %v\n", err)
	case !good:
		printPoint(v.out, report, false)
	case named:
		fmt.Fprintf(v.out, "%s: policy %s (%d), %s\n", report.Object, report.PolicyName, report.Policy, pointSummary(report))
	}
}

func printLine(w io.Writer, what any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.Encode(what)
}

// verdictOf says what Verify found, in a line.
func verdictOf(r *pass.PointReport) string {
	v := r.Verdict
	var s string
	switch {
	case r.State == pass.PointDeleted:
		s = r.Reason
	case r.State == pass.PointHopeless:
		return "it can not be decoded: " + r.Reason
	case v.Torn > 0:
		s = fmt.Sprintf("%d archives, it decodes", v.Good)
	case v.Compared:
		s = fmt.Sprintf("%d archives that agree, it decodes", v.Good)
	case r.Reference.Size > 0:
		s = fmt.Sprintf("%d archives, none to spare to compare them, it decodes", v.Good)
	default:
		s = fmt.Sprintf("%d archives", v.Good)
	}
	switch {
	case r.State == pass.PointDeleted:
	case v.Bears == 0:
		s += "; it bears no further loss"
	case v.Bears == 1:
		s += "; it bears the loss of any one more"
	default:
		s += fmt.Sprintf("; it bears the loss of any %d more", v.Bears)
	}
	if r.Left > 0 {
		s += fmt.Sprintf("; amiss: %d", r.Left)
	}
	return s
}
