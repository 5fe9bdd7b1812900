package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// oneFunctional bounds a run of Swift's functional tests.
const oneFunctional = 40 * time.Minute

// Swift's functional tests of objects, through Swift's proxy, with Swift's object servers and with ours on all nodes: those
// that pass with the former pass with the latter.
func TestFunctional(t *testing.T) {
	work, servers := our(t, "server", server)
	if testing.Short() {
		t.Skip("takes some ten minutes for each policy and kind of server")
	}
	m := newMachine(t, work)
	// Clients may send more metadata than ext4 keeps: the answer is 507, after which a proxy asks nobody for a minute.
	must(t, "lay a tmpfs over /srv", unix.Mount("tmpfs", "/srv", "tmpfs", 0, "size=4g"))
	t.Cleanup(func() { unix.Unmount("/srv", unix.MNT_DETACH) })
	must(t, "mark /srv", os.WriteFile("/srv/imping-conformance", nil, 0o644))
	w := newWitness(t, filepath.Join(servers, server))
	dispatchers := m.dispatchers(t)
	must(t, "configure the tests", os.WriteFile("/etc/swift/test.conf", sampleConf(t, m), 0o644))
	for _, policy := range []string{"ec42", "gold"} {
		t.Run(policy, func(t *testing.T) {
			var stock []string // what passes
			for _, a := range []struct{ name, nodes string }{{"stock", ""}, {"imping", allNodes}, {"imping_on_odd_nodes", "13"}} {
				t.Run(a.name, func(t *testing.T) {
					m.memcached(t)
					m.log.take()
					w.take()
					ctx, cancel := context.WithTimeout(t.Context(), oneFunctional)
					defer cancel()
					cmd := m.command(ctx, dispatchers, "/usr/bin/python3", m.here+"/python/functional.py")
					cmd.Env = append(cmd.Env, "SWIFT_TEST_POLICY="+policy, "SWIFT_TEST_IN_PROCESS=no",
						dispatched[server].nodesEnv+"="+a.nodes, dispatched[server].programEnv+"="+filepath.Join(servers, server))
					began := time.Now()
					out, err := cmd.CombinedOutput()
					lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
					var verdicts map[string]string
					if err == nil {
						err = json.Unmarshal(lines[len(lines)-1], &verdicts)
					}
					logged := m.log.take()
					if err != nil {
						t.Fatalf("%v\n%s\nlogged meanwhile:\n%s", err, out, strings.Join(logged, "\n"))
					}
					check(t, server, w.take()[server], a.nodes, every)
					var passed []string
					for _, name := range slices.Sorted(maps.Keys(verdicts)) {
						switch wrong := verdicts[name]; {
						case wrong == "":
							passed = append(passed, name)
						case slices.Contains(stock, name):
							t.Errorf("%s passes with stock, and does not with ours:\n%s", name, wrong)
						}
					}
					t.Logf("%d of %d pass in %.0f s: %s", len(passed), len(verdicts), time.Since(began).Seconds(), strings.Join(passed, " "))
					if a.nodes == "" {
						stock = passed
						if len(stock) < 100 {
							t.Fatalf("only %d pass with stock", len(stock))
						}
					}
					if t.Failed() {
						t.Logf("logged meanwhile:\n%s", strings.Join(logged, "\n"))
					}
				})
			}
		})
	}
}

// sampleConf is Swift's own sample, which is about the accounts of its sample proxy.
func sampleConf(t *testing.T, m *machine) []byte {
	conf, err := os.ReadFile(filepath.Join(m.source, "test/sample.conf"))
	must(t, "read the sample", err)
	return conf
}
