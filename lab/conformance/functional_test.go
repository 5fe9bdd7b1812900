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
	w := newWitness(t, filepath.Join(servers, server))
	dispatchers := m.dispatchers(t)
	must(t, "configure the tests", os.WriteFile("/etc/swift/test.conf", sampleConf(t, m), 0o644))
	for _, policy := range []string{"ec42", "gold"} {
		t.Run(policy, func(t *testing.T) {
			passed := map[string][]string{}
			for _, a := range []struct{ name, nodes string }{{"stock", ""}, {"imping", allNodes}} {
				m.memcached(t)
				m.log.take()
				w.take()
				ctx, cancel := context.WithTimeout(t.Context(), oneFunctional)
				cmd := m.command(ctx, dispatchers, "/usr/bin/python3", m.here+"/python/functional.py")
				cmd.Env = append(cmd.Env, "SWIFT_TEST_POLICY="+policy, "SWIFT_TEST_IN_PROCESS=no",
					dispatched[server].nodesEnv+"="+a.nodes, dispatched[server].programEnv+"="+filepath.Join(servers, server))
				began := time.Now()
				out, err := cmd.CombinedOutput()
				cancel()
				lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
				var verdicts map[string]string
				if err == nil {
					err = json.Unmarshal(lines[len(lines)-1], &verdicts)
				}
				if err != nil {
					t.Fatalf("%s: %v\n%s\nlogged meanwhile:\n%s", a.name, err, out, strings.Join(m.log.take(), "\n"))
				}
				check(t, server, w.take()[server], a.nodes, every)
				logged, bad := m.log.take(), false
				for _, name := range slices.Sorted(maps.Keys(verdicts)) {
					wrong := verdicts[name]
					if wrong == "" {
						passed[a.name] = append(passed[a.name], name)
					} else if slices.Contains(passed["stock"], name) {
						t.Errorf("%s passes with stock, and does not with ours:\n%s", name, wrong)
						bad = true
					}
				}
				if bad {
					t.Logf("logged meanwhile:\n%s", strings.Join(logged, "\n"))
				}
				t.Logf("%s: %d of %d pass in %.0f s", a.name, len(passed[a.name]), len(verdicts), time.Since(began).Seconds())
			}
			if len(passed["stock"]) < 100 {
				t.Errorf("only %d pass with stock", len(passed["stock"]))
			}
			t.Logf("with stock: %s", strings.Join(passed["stock"], " "))
			t.Logf("with imping: %s", strings.Join(passed["imping"], " "))
		})
	}
}

// sampleConf is Swift's own sample, which is about the accounts of its sample proxy.
func sampleConf(t *testing.T, m *machine) []byte {
	conf, err := os.ReadFile(filepath.Join(m.source, "test/sample.conf"))
	must(t, "read the sample", err)
	return conf
}
