package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"

	"imping/daemon"
	"imping/engine/pass"
	"imping/swift/conf"
	"imping/swift/policy"
)

// point reports whether one object is to be repaired instead of making a pass.
func (o *reconstructOptions) point() bool { return o.object != "" || o.hash != "" }

// checkPoint refuses what does not go together with a point repair.
func (o *reconstructOptions) checkPoint() error {
	switch {
	case !o.point() && o.policy != "":
		return errors.New("--policy goes with --object or --hash")
	case !o.point():
		return nil
	case o.object != "" && o.hash != "":
		return errors.New("--object and --hash name the same thing: give one of them")
	case o.hash != "" && o.policy == "":
		return errors.New("--hash needs --policy")
	case o.once || len(o.devices)+len(o.partitions) > 0:
		return errors.New("--object and --hash repair one object wherever it belongs: without `once`, -d and -p")
	case o.stats:
		return errors.New("--stats is about a pass, not about one object")
	}
	if o.object != "" {
		if err := checkObjectName(o.object); err != nil {
			return fmt.Errorf("--object %w", err)
		}
	}
	return nil
}

// pointPolicy finds the named policy; nil when none is named.
func pointPolicy(swift *policy.Swift, name string) (*policy.Policy, error) {
	if name == "" {
		return nil, nil
	}
	pol := swift.ByName(name)
	if index, err := strconv.Atoi(name); pol == nil && err == nil {
		pol = swift.ByIndex(index)
	}
	if pol == nil {
		return nil, fmt.Errorf("--policy %s: %s has no such policy", name, swift.Path)
	}
	if pol.Type != policy.ErasureCoding {
		return nil, fmt.Errorf("--policy %s: not an erasure-code policy", name)
	}
	return pol, nil
}

// allowedHeaders are the names of further metadata: the conf is that of the object server, too, as a rule.
func allowedHeaders(path string) []string {
	app, err := conf.App(path, "object-server")
	if err != nil {
		return nil
	}
	return conf.List(strings.ToLower(app.Get("allowed_headers", "")))
}

// repairPoint repairs the object that o names.
func repairPoint(ctx context.Context, cfg *pass.Config, log *daemon.Logger, o *reconstructOptions) (*pass.PointReport, error) {
	pol, err := pointPolicy(cfg.Swift, o.policy)
	if err != nil {
		return nil, err
	}
	cfg.AllowedHeaders = allowedHeaders(o.conf)
	cfg.Log = log
	p, err := pass.New(*cfg)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for _, w := range cfg.Swift.Warnings {
		log.Warnf("%s", w)
	}
	return p.Repair(ctx, &pass.PointRequest{Object: o.object, Hash: o.hash, Policy: pol})
}

// reconstructPoint repairs one object and says what came of it (rule 36: exit 1 when it
// could not run, 2 when something is left).
func reconstructPoint(cfg *pass.Config, log *daemon.Logger, o *reconstructOptions, stdout io.Writer) error {
	var found atomic.Pointer[pass.PointReport]
	err := daemon.Run(context.Background(), log, func(ctx context.Context) error {
		report, err := repairPoint(ctx, cfg, log, o)
		found.Store(report)
		return err
	})
	if err != nil {
		return err
	}
	report := found.Load()
	if report == nil { // a signal came first
		return &exitError{status: exitFailed, err: errEnded}
	}
	printPoint(stdout, report, o.json)
	if report.Left > 0 {
		return &exitError{status: exitLeft}
	}
	return nil
}

func printPoint(w io.Writer, r *pass.PointReport, asJSON bool) {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		enc.Encode(r)
		return
	}
	fmt.Fprintf(w, "%s: policy %s (%d), partition %d, hash %s\n", r.Object, r.PolicyName, r.Policy, r.Partition, r.Hash)
	if ref := r.Reference; ref != nil && r.State != pass.PointDeleted {
		fmt.Fprintf(w, "version %s, %d bytes, ETag %s", ref.Timestamp, ref.Size, ref.ECEtag)
		if ref.Metadata != "" {
			fmt.Fprintf(w, ", metadata of %s", ref.Metadata)
		}
		fmt.Fprintf(w, "; metadata taken from %s\n", ref.Source)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, n := range r.Nodes {
		place := "primary #" + strconv.Itoa(n.Index)
		if n.Handoff {
			place = "handoff"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", place, n.Node, pointHeld(n), n.Action)
	}
	t.Flush()
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	fmt.Fprintln(w, pointSummary(r))
}

// pointHeld is what a device held before.
func pointHeld(n *pass.PointNode) string {
	var list []string
	if n.Deleted != "" {
		list = append(list, "tombstone "+n.Deleted)
	}
	for _, h := range n.Held {
		s := fmt.Sprintf("fragment %d of %s", h.Index, h.Timestamp)
		if h.Metadata != "" {
			s += " with metadata of " + h.Metadata
		}
		if !h.Durable {
			s += ", not durable"
		}
		switch {
		case h.Problem != "" && strings.Contains(n.Action, h.Problem):
			s += ", bad" // said there
		case h.Problem != "":
			s += ", " + h.Problem
		case h.Verified:
			s += ", verified"
		}
		list = append(list, s)
	}
	switch {
	case len(list) > 0:
		return strings.Join(list, "; ")
	case n.Error != "":
		return "?"
	}
	return "nothing"
}

func pointSummary(r *pass.PointReport) string {
	if r.Verdict != nil {
		return verdictOf(r)
	}
	repaired := fmt.Sprintf("%d of %d primaries repaired", r.Repaired, r.Primaries)
	switch {
	case r.State == pass.PointHopeless:
		return "nothing was written: " + r.Reason
	case r.State == pass.PointDeleted && r.Left > 0:
		return fmt.Sprintf("%s; %s, left: %d", r.Reason, repaired, r.Left)
	case r.State == pass.PointDeleted:
		return fmt.Sprintf("%s; %s", r.Reason, repaired)
	case r.Left > 0:
		return fmt.Sprintf("%s, left: %d", repaired, r.Left)
	case r.Repaired == 0:
		return fmt.Sprintf("nothing to repair: all of %d primaries have it", r.Primaries)
	}
	return repaired + ": all have it now"
}
