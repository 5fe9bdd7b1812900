// Package conformance_test runs Swift's own tests against the installed Swift with one of
// its daemons replaced by ours: the suites start it by its name, as operators do.
// It holds no tests of its own, and nothing of Swift's: those come from Debian's source
// package, by lab/conformance/run, without which every test here is skipped.
package conformance_test

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/lab/real"
)

const (
	workEnv     = "IMPING_CONFORMANCE_WORK"     // folder of lab/conformance/run, with Swift's source in it
	programsEnv = "IMPING_CONFORMANCE_PROGRAMS" // folder of folders, each with one of our programs
)

// oneTest bounds one of Swift's tests. The slowest takes a minute with stock on two
// processors that are busy otherwise, and five of them where twelve times as much wants to run.
const oneTest = 10 * time.Minute

// span is how many nodes a test starts the reconstructor on.
type span string

const (
	every span = "every"
	some  span = "some"
	none  span = "none"
)

// What -test.short leaves of the arrangements.
var (
	alone      = []string{"imping"}
	everywhere = []string{"imping", "imping_on_odd_nodes", "imping_on_even_nodes", "imping_serves"}
)

// probes are the tests of Swift's, of its package test.probe, that must pass with ours. Those that start no reconstructor
// are here because what they break is what its tests repair.
var probes = []struct {
	name     string
	nodes    span     // that run the reconstructor
	relinker bool     // they are tests of the relinker
	short    []string // arrangements that have it with -test.short
}{
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_missing_frags", nodes: every},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_non_durable_frags", nodes: every, short: alone},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_with_missing_frags_and_non_durable_frags", nodes: every, short: alone},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_partner_down", nodes: some, short: alone},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_sync_expired_object", nodes: every},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_sync_unexpired_object_metadata", nodes: every},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_quarantines_lonely_frag", nodes: every, short: alone},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_revert_object", nodes: some, short: alone},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_delete_propagate", nodes: some, short: alone},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_reconstruct_from_reverted_fragment_archive", nodes: some, short: alone},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_handoff_non_durable", nodes: some, short: alone},
	{name: "test_object_handoff.TestECObjectHandoff.test_ec_handoff_overwrite", nodes: none},
	{name: "test_object_handoff.TestECObjectHandoff.test_ec_handoff_duplicate_available", nodes: every, short: everywhere},
	{name: "test_object_handoff.TestECObjectHandoff.test_ec_primary_timeout", nodes: none},
	{name: "test_object_failures.TestECObjectFailures.test_ec_missing_all_durable_fragments", nodes: none},
	{name: "test_object_async_update.TestUpdateOverridesEC.test_async_update_after_PUT", nodes: none},
	{name: "test_object_async_update.TestUpdateOverridesEC.test_update_during_POST_only", nodes: none},
	{name: "test_object_async_update.TestUpdateOverridesEC.test_async_updates_after_PUT_and_POST", nodes: none},
	{name: "test_object_partpower_increase.TestReplPartPowerIncrease.test_main", nodes: none, relinker: true},
	{name: "test_object_partpower_increase.TestReplPartPowerIncrease.test_canceled", nodes: none, relinker: true},
	{name: "test_object_partpower_increase.TestECPartPowerIncrease.test_main", nodes: none, relinker: true},
	{name: "test_object_partpower_increase.TestECPartPowerIncrease.test_canceled", nodes: none, relinker: true},
}

// arrangements say which nodes run our reconstructor, and our object server, which is the proxy's and the
// reconstructors' alike.
var arrangements = []struct{ name, reconstructors, servers string }{
	{"stock", "", ""},
	{"imping", allNodes, ""},
	{"imping_on_odd_nodes", "13", ""},
	{"imping_on_even_nodes", "24", ""},
	{"imping_serves", allNodes, allNodes},
	{"imping_serves_on_odd_nodes", "13", "13"},
}

func TestMain(m *testing.M) {
	if os.Getenv(workEnv) != "" {
		real.Enter()
	}
	os.Exit(m.Run())
}

// our returns where Swift's source is and the folder that holds the program of ours. The test
// is skipped without the former.
func our(t *testing.T, kind, program string) (work, folder string) {
	t.Helper()
	work = os.Getenv(workEnv)
	if work == "" {
		t.Skip("needs Swift's source package: `make conformance` fetches it")
	}
	if err := real.CheckPackages(); err != nil {
		t.Fatal(err)
	}
	folder = filepath.Join(os.Getenv(programsEnv), kind)
	// Without it Swift's own would be found on PATH, and pass.
	if _, err := exec.LookPath(filepath.Join(folder, program)); err != nil {
		t.Fatalf("cannot test ours: %v", err)
	}
	return work, folder
}

// That they pass with stock is the proof that the suites are given what they need.
func TestProbe(t *testing.T) {
	work, reconstructors := our(t, "reconstructor", reconstructor)
	_, relinkers := our(t, "relinker", "swift-object-relinker")
	m := newMachine(t, work)
	_, servers := our(t, "server", server)
	w := newWitness(t, filepath.Join(reconstructors, reconstructor))
	dispatchers := m.dispatchers(t)
	for _, a := range arrangements {
		folders, mixed := dispatchers, a.reconstructors != "" && a.reconstructors != allNodes
		if a.reconstructors == allNodes {
			folders += ":" + relinkers
		}
		t.Run(a.name, func(t *testing.T) {
			for _, p := range probes {
				if mixed && p.relinker || testing.Short() && !slices.Contains(p.short, a.name) {
					continue
				}
				suite := strings.Split(p.name, ".")
				t.Run(strings.Join(suite[len(suite)-2:], "."), func(t *testing.T) {
					m.memcached(t)
					m.log.take()
					w.take()
					ctx, cancel := context.WithTimeout(t.Context(), oneTest)
					defer cancel()
					cmd := m.command(ctx, folders, "/usr/bin/python3", m.here+"/python/probe.py", "test.probe."+p.name)
					for name, ours := range map[string][2]string{reconstructor: {a.reconstructors, reconstructors}, server: {a.servers, servers}} {
						cmd.Env = append(cmd.Env, dispatched[name].nodesEnv+"="+ours[0], dispatched[name].programEnv+"="+filepath.Join(ours[1], name))
					}
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%s does not pass: %v\n%s\nlogged meanwhile:\n%s", p.name, cmp.Or(ctx.Err(), err), out, strings.Join(m.log.take(), "\n"))
					}
					ran := w.take()
					check(t, reconstructor, ran[reconstructor], a.reconstructors, p.nodes)
					check(t, server, ran[server], a.servers, every)
				})
			}
		})
	}
}
