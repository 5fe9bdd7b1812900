package real_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"imping/lab/real"
	"imping/lab/scenario"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	real.Enter()
	goleak.VerifyTestMain(m)
}

var _ scenario.Stock = (*real.Cluster)(nil)

// start makes a cluster and shows its logs when the test has failed.
func start(t *testing.T, o real.Options) *real.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	// Not t.TempDir: its parent lets only root in, and its path grows with the test's name.
	root, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	o.Root = root
	began := time.Now()
	c, err := real.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(began))
	t.Cleanup(func() {
		if t.Failed() {
			c.DumpLogs(os.Stderr)
		}
		c.Stop()
	})
	return c
}

// Stock Swift's own repair is the proof that the lab does what it says: everything comes
// back but the metadata that 2.30.1 is known to spoil.
func TestStockReconstructorsBringBackAWipedDevice(t *testing.T) {
	c := start(t, real.Options{User: "swift"})
	ctx := t.Context()
	const victim = "sd5"

	began := time.Now()
	loaded, err := scenario.Load(ctx, c, scenario.LoadOptions{
		Seed: 1, Victim: victim, Sizes: []int64{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1}, Random: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("loaded %d objects, %d bytes, in %v", len(loaded.Objects), loaded.Bytes, time.Since(began))
	if err := scenario.VerifyGETs(ctx, c, loaded); err != nil {
		t.Fatal(err)
	}
	before, err := scenario.TakeSnapshot(c, victim, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.Wipe(c, victim); err != nil {
		t.Fatal(err)
	}
	var worked atomic.Bool
	began = time.Now()
	// One after the other: of more than replication_concurrency senders at once, stock
	// drops the work of some.
	err = scenario.Rebuild(ctx, c, false, func(ctx context.Context, node int) error {
		lines, err := c.StockReconstructor(ctx, node)
		if strings.Contains(strings.Join(lines, "\n"), "suffixes checked") {
			worked.Store(true)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stock passes on %d nodes, one after the other, took %v", len(c.Nodes()), time.Since(began))
	after, err := scenario.TakeSnapshot(c, victim, "")
	if err != nil {
		t.Fatal(err)
	}
	if !worked.Load() {
		t.Error("no stock reconstructor says that it found something to do: nor could ProveStockAgrees tell")
	}
	report := scenario.Compare(before, after)
	if report.Archives < 4*10 {
		t.Errorf("only %d archives on the victim", report.Archives)
	}
	// Swift 2.30.1's sender encodes non-ASCII metadata once more than it should.
	foreign := 0
	for _, entry := range report.Metadata {
		if strings.Contains(entry, "X-Object-Meta-Utf8") {
			foreign++
		}
	}
	if foreign != 4 || len(report.Metadata) != 4 || len(report.Missing)+len(report.Extra)+len(report.Bytes)+len(report.Owner) > 0 {
		t.Errorf("one object of each policy differs in its metadata, else: %v", report)
	}
	began = time.Now()
	if err := scenario.ProveStockAgrees(ctx, c, c.NodeOf(victim)); err != nil {
		t.Error(err)
	}
	t.Logf("stock proof took %v", time.Since(began))
	began = time.Now()
	// The proxy may read a spoiled archive.
	loaded.Objects = slices.DeleteFunc(loaded.Objects, func(o *scenario.Object) bool { return o.Kind == scenario.Foreign })
	if err := scenario.VerifyGETs(ctx, c, loaded); err != nil {
		t.Error(err)
	}
	t.Logf("GETs took %v", time.Since(began))

	archive, err := loaded.Layout.Archive(loaded.Objects[1], victim)
	if err != nil {
		t.Fatal(err)
	}
	flip, err := scenario.FlipPayloadByte(archive, 1)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := c.StockAuditor(ctx, c.NodeOf(victim))
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.NothingQuarantined(c); err == nil {
		t.Errorf("the stock auditor did not mind the flipped %v:\n%q", flip, lines)
	}
}
