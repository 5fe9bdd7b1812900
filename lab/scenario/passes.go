package scenario

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Rebuild runs a reconstruction pass on each node: one node after the other, or all at
// once. Every node gets its pass, also after another's has failed.
func Rebuild(ctx context.Context, c Cluster, atOnce bool, run func(ctx context.Context, node int) error) error {
	limit := 1
	if atOnce {
		limit = len(c.Nodes())
	}
	return eachNode(c.Nodes(), limit, func(node int) error { return run(ctx, node) })
}

func eachNode(nodes []int, limit int, do func(node int) error) error {
	failed := make([]error, len(nodes))
	var group errgroup.Group
	group.SetLimit(limit)
	for i, n := range nodes {
		group.Go(func() error {
			if err := do(n); err != nil {
				failed[i] = fmt.Errorf("node %d: %w", n, err)
			}
			return nil
		})
	}
	group.Wait()
	return errors.Join(failed...)
}

// stockAtOnce passes of Swift's daemons are run side by side: each keeps a processor
// busy, mostly with starting.
const stockAtOnce = 3

// ProveStockAgrees runs a pass of Swift's reconstructor on every node, and one of Swift's
// auditor on those where something was written since Swift wrote all. It is an error when a reconstructor finds a suffix to sync or complains,
// and when an auditor finds an error or quarantines anything.
func ProveStockAgrees(ctx context.Context, c Stock, written ...int) error {
	err := eachNode(c.Nodes(), stockAtOnce, func(node int) error {
		lines, err := c.StockReconstructor(ctx, node)
		if err != nil {
			return err
		}
		return judgeReconstructor(lines)
	})
	if err != nil {
		return fmt.Errorf("stock reconstructors do not agree: %w", err)
	}
	err = eachNode(written, stockAtOnce, func(node int) error {
		lines, err := c.StockAuditor(ctx, node)
		if err != nil {
			return err
		}
		return judgeAuditor(lines)
	})
	if err != nil {
		return fmt.Errorf("stock auditors do not agree: %w", err)
	}
	return NothingQuarantined(c)
}

var complaint = regexp.MustCompile(`(?i)error|unable|exception|traceback|timeout|quarantined|unexpected|invalid|not mounted|lockup`)

// judgeReconstructor wants a whole pass that found nothing to do. Swift logs how many
// suffixes it checked only when some differed (obj/reconstructor.py, stats_line).
func judgeReconstructor(lines []string) error {
	var whole, complete bool
	for _, l := range lines {
		switch {
		case strings.Contains(l, "suffixes checked"):
			return fmt.Errorf("it found suffixes to sync: %q", l)
		case complaint.MatchString(l):
			return fmt.Errorf("it complains: %q", l)
		case strings.Contains(l, "(100.00%) partitions reconstructed"):
			whole = true
		case strings.Contains(l, "Object reconstruction complete (once)"):
			complete = true
		}
	}
	if !whole || !complete {
		return fmt.Errorf("its pass was not whole: %q", lines)
	}
	return nil
}

func judgeAuditor(lines []string) error {
	for _, l := range lines {
		if strings.Contains(l, "mode completed") {
			if !strings.Contains(l, "Total quarantined: 0, Total errors: 0,") {
				return fmt.Errorf("it found something wrong: %q", lines)
			}
			return nil
		}
	}
	return fmt.Errorf("its pass was not whole: %q", lines)
}

// NothingQuarantined is an error that names what is quarantined on the cluster's
// devices.
func NothingQuarantined(c Cluster) error {
	for _, dev := range devices(c) {
		found, err := fs.Glob(os.DirFS(c.DevicePath(dev)), "quarantined/*/*")
		if err != nil {
			return fmt.Errorf("cannot look for quarantined objects: %w", err)
		}
		if len(found) > 0 {
			return fmt.Errorf("quarantined on %s: %q", dev, found)
		}
	}
	return nil
}
