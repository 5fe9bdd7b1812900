// Package conformance_test runs Swift's own tests against the installed Swift with one of
// its daemons replaced by ours: the suites start it by its name, as operators do.
// It holds no tests of its own, and nothing of Swift's: those come from Debian's source
// package, by lab/conformance/run, without which every test here is skipped.
package conformance_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
// processors that are busy otherwise.
const oneTest = 5 * time.Minute

// probes are the tests that a reconstructor must pass.
var probes = []struct {
	name    string // of test.probe
	awaited string // why ours is not expected to pass yet
}{
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_missing_frags"},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_non_durable_frags"},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_with_missing_frags_and_non_durable_frags"},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_partner_down"},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_sync_expired_object"},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_sync_unexpired_object_metadata"},
	{name: "test_reconstructor_rebuild.TestReconstructorRebuild.test_rebuild_quarantines_lonely_frag"},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_revert_object"},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_delete_propagate"},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_reconstruct_from_reverted_fragment_archive"},
	{name: "test_reconstructor_revert.TestReconstructorRevert.test_handoff_non_durable"},
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
	work, ours := our(t, "reconstructor", "swift-object-reconstructor")
	m := newMachine(t, work)
	for _, program := range []struct{ name, folder string }{{"stock", ""}, {"imping", ours}} {
		t.Run(program.name, func(t *testing.T) {
			for _, p := range probes {
				t.Run(p.name[strings.LastIndex(p.name, ".")+1:], func(t *testing.T) {
					awaited := p.awaited
					if program.folder == "" {
						awaited = ""
					}
					out, passed := m.probe(t, program.folder, p.name)
					switch {
					case passed && awaited != "":
						t.Errorf("passes: it is no longer to be awaited (%s)", awaited)
					case !passed && awaited != "":
						t.Skipf("does not pass, as expected: %s. It ended with: %s", awaited, lastError(out))
					case !passed:
						t.Errorf("%s does not pass:\n%s\nlogged meanwhile:\n%s", p.name, out, strings.Join(m.log.take(), "\n"))
					}
				})
			}
		})
	}
}

// probe runs one of Swift's tests with the programs of a folder first on PATH and returns
// what it printed, and whether it passed.
func (m *machine) probe(t *testing.T, program, name string) (out []byte, passed bool) {
	t.Helper()
	m.memcached(t)
	m.log.take()
	ctx, cancel := context.WithTimeout(t.Context(), oneTest)
	defer cancel()
	out, err := m.command(ctx, program, "/usr/bin/python3", m.here+"/python/probe.py", "test.probe."+name).CombinedOutput()
	if ctx.Err() != nil {
		out = fmt.Appendf(out, "\nkilled after %v\n", oneTest)
	}
	return out, err == nil
}

var errorLine = regexp.MustCompile(`(?m)^\S*(Error|Exception)\b.*`)

// lastError is the last line of what a test printed that names a Python exception.
func lastError(out []byte) []byte {
	found := errorLine.FindAll(out, -1)
	if len(found) == 0 {
		return []byte("no error")
	}
	return found[len(found)-1]
}
