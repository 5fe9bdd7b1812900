package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/codec"
	"imping/lab/embedded"
	"imping/lab/oracle"
	"imping/lab/scenario"
	"imping/swift/ring"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var _ scenario.Cluster = (*embedded.Cluster)(nil)

func start(t *testing.T, o embedded.Options) *embedded.Cluster {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	c, err := embedded.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.DumpLogs(os.Stderr)
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// small is a cluster that is quickly filled.
func small() embedded.Options {
	return embedded.Options{Nodes: 4, DevicesPerNode: 2, PartPower: 3, Policies: []embedded.Policy{
		{Name: "isal42", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2}, SegmentSize: 4096},
		{Name: "xor3", Scheme: codec.Scheme{Type: "flat_xor_hd_3", K: 3, M: 3}, SegmentSize: 4096},
		{Name: "lec21dup2", Scheme: codec.Scheme{Type: "liberasurecode_rs_vand", K: 2, M: 1}, Duplication: 2, SegmentSize: 4096},
	}}
}

func load(t *testing.T, c scenario.Cluster) *scenario.Loaded {
	t.Helper()
	loaded, err := scenario.Load(t.Context(), c, scenario.LoadOptions{Seed: 1, Sizes: []int64{0, 1, 4095, 4096, 4097, 70_000}, Random: 2, RandomMax: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// Objects of all kinds are there as they were stored, through the nodes' servers, also when
// as many devices as can be are lost.
func TestWhatIsStoredIsServed(t *testing.T) {
	c := start(t, small())
	loaded := load(t, c)
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err != nil {
		t.Fatal(err)
	}
	if err := scenario.Wipe(c, "sd1"); err != nil {
		t.Fatal(err)
	}
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err != nil {
		t.Errorf("without a device: %v", err)
	}
	if err := scenario.NothingQuarantined(c); err != nil {
		t.Error(err)
	}

	// 4+2 on four nodes with two devices: of one node at most two archives.
	loaded.Objects = slices.DeleteFunc(loaded.Objects, func(o *scenario.Object) bool { return o.Policy.Name != "isal42" || o.Kind == scenario.Deleted })
	if err := c.StopNode(1); err != nil {
		t.Fatal(err)
	}
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err != nil {
		t.Errorf("without a node: %v", err)
	}
	if err := c.StopNode(2); err != nil {
		t.Fatal(err)
	}
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("without two nodes: %v", err)
	}
	for _, node := range []int{1, 2} {
		if err := c.StartNode(node); err != nil {
			t.Fatal(err)
		}
	}
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err != nil {
		t.Errorf("with all nodes again: %v", err)
	}
	for what, err := range map[string]error{
		"runs already": c.StartNode(1), "no node 5": c.StartNode(5), "no node 6 runs": c.StopNode(6),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, not %q", err, what)
		}
	}
}

// A request that is wrong changes nothing.
func TestWrongRequestsAreRefused(t *testing.T) {
	c := start(t, small())
	do := func(method, container, object string, header http.Header, body string) int {
		t.Helper()
		r, err := c.Do(t.Context(), method, container, object, header, strings.NewReader(body), int64(len(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	for _, q := range []struct {
		status                    int
		method, container, object string
		header                    http.Header
	}{
		{400, "PUT", "box", "", http.Header{"X-Storage-Policy": {"none"}}},
		{404, "PUT", "box", "o", nil},
		{201, "PUT", "box", "", http.Header{"X-Storage-Policy": {"xor3"}}},
		{409, "PUT", "box", "", http.Header{"X-Storage-Policy": {"isal42"}}},
		{405, "GET", "box", "", nil},
		{405, "HEAD", "box", "o", nil},
		{422, "PUT", "box", "o", http.Header{"Etag": {"d41d8cd98f00b204e9800998ecf8427e"}}},
		{400, "PUT", "box", "o", http.Header{"X-Delete-After": {"0"}}},
		{400, "PUT", "box", "o", http.Header{"X-Delete-At": {"1"}}},
		{404, "POST", "box", "o", nil},
		{404, "GET", "box", "o", nil},
		{201, "PUT", "box", "o", nil},
		{400, "POST", "box", "o", http.Header{"X-Delete-At": {"soon"}}},
		{204, "DELETE", "box", "o", nil},
		{404, "DELETE", "box", "o", nil},
	} {
		if got := do(q.method, q.container, q.object, q.header, "feather"); got != q.status {
			t.Errorf("%s %s/%s %v: %d, not %d", q.method, q.container, q.object, q.header, got, q.status)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Do(ctx, "PUT", "box", "cancelled", nil, strings.NewReader("feather"), 7); !errors.Is(err, context.Canceled) {
		t.Errorf("a PUT that is not wanted any more: %v", err)
	}
	for body, size := range map[string]int64{"short": 6, "longer": 5} {
		if _, err := c.Do(t.Context(), "PUT", "box", body, nil, strings.NewReader(body), size); err == nil {
			t.Errorf("%q was stored as %d bytes", body, size)
		}
		if got := do("GET", "box", body, nil, ""); got != 404 {
			t.Errorf("%q: %d", body, got)
		}
	}
}

// Swift reads the rings as they were meant.
func TestSwiftReadsTheRings(t *testing.T) {
	c := start(t, small())
	type answer struct {
		Replicas  float64
		PartPower int
		Parts     [][]string // "device index ip:port"
		Handoffs  [][]string
	}
	var got []answer
	oracle.Ask(t, `
import json, sys
from swift.common.ring import Ring
folder = json.load(sys.stdin)
out = []
for name in ('object', 'object-1', 'object-2'):
    r = Ring(folder, ring_name=name)
    text = lambda n: '%s %d %s:%d' % (n['device'], n.get('index', 0), n['replication_ip'], n['replication_port'])
    parts = range(r.partition_count)
    out.append({'Replicas': r.replica_count, 'PartPower': 32 - r._part_shift,
        'Parts': [[text(n) for n in r.get_part_nodes(p)] for p in parts],
        'Handoffs': [[n['device'] for n in r.get_more_nodes(p)] for p in parts]})
json.dump(out, sys.stdout)
`, c.SwiftDir(), &got)
	for i, a := range got {
		r, err := ring.Load(filepath.Join(c.SwiftDir(), ring.Name(i)+".ring.gz"))
		if err != nil {
			t.Fatal(err)
		}
		if int(r.PartPower) != a.PartPower || r.Replicas() != a.Replicas || len(a.Parts) != 8 {
			t.Errorf("ring %d: part power %d, %v replicas, %d partitions", i, a.PartPower, a.Replicas, len(a.Parts))
		}
		for part := range a.Parts {
			var parts, handoffs []string
			for _, n := range r.PartNodes(part) {
				parts = append(parts, fmt.Sprintf("%s %d %s:%d", n.Device.Device, n.Index, n.ReplicationIP, n.ReplicationPort))
			}
			for n := range r.MoreNodes(part) {
				handoffs = append(handoffs, n.Device.Device)
			}
			if !slices.Equal(parts, a.Parts[part]) || !slices.Equal(handoffs, a.Handoffs[part]) {
				t.Errorf("ring %d, partition %d: Swift has %q and %q, we %q and %q", i, part, a.Parts[part], a.Handoffs[part], parts, handoffs)
			}
		}
	}
}

// No zone has more of a partition than it must, and no device is much fuller than another.
func TestRingsAreDealtEvenly(t *testing.T) {
	c := start(t, embedded.Options{Nodes: 5, DevicesPerNode: 3})
	for i, p := range embedded.DefaultPolicies() {
		r, err := ring.Load(filepath.Join(c.SwiftDir(), ring.Name(i)+".ring.gz"))
		if err != nil {
			t.Fatal(err)
		}
		replicas := p.Scheme.K + p.Scheme.M
		load, first := map[string]int{}, map[string]int{}
		for part := range r.Partitions() {
			zones := map[int]int{}
			nodes := r.PartNodes(part)
			if len(nodes) != replicas {
				t.Fatalf("partition %d is on %d devices, not %d", part, len(nodes), replicas)
			}
			for _, n := range nodes {
				load[n.Device.Device]++
				zones[n.Zone]++
			}
			first[nodes[0].Device.Device]++
			for zone, n := range zones {
				if n > (replicas+4)/5 {
					t.Errorf("%s, partition %d: zone %d has %d of %d", p.Name, part, zone, n, replicas)
				}
			}
		}
		want := float64(r.Partitions()*replicas) / 15
		for dev, n := range load {
			if float64(n) < want*0.9-2 || float64(n) > want*1.1+2 {
				t.Errorf("%s: %s has %d partitions, %.0f would be its share", p.Name, dev, n, want)
			}
		}
		if len(first) < 10 {
			t.Errorf("%s: the first fragments are on %d devices only", p.Name, len(first))
		}
	}
}

// A node needs its conf and no cluster.
func TestANodeRunsAlone(t *testing.T) {
	c := start(t, small())
	loaded := load(t, c)
	if err := c.StopNode(2); err != nil {
		t.Fatal(err)
	}
	n, err := embedded.StartNode(c.Conf(2), c.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.VerifyGETs(t.Context(), c, loaded); err != nil {
		t.Error(err)
	}
	if _, err := embedded.StartNode(c.Conf(2), c.SwiftConf()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second server of the node: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// The hashes that a partner is told are those of what was stored: the loader has noted what it
// changed.
func TestPartnersAreToldWhatWasStored(t *testing.T) {
	c := start(t, small())
	container := "isal42"
	if _, err := c.Do(t.Context(), "PUT", container, "", nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	layout, err := scenario.NewLayout(c)
	if err != nil {
		t.Fatal(err)
	}
	o := &scenario.Object{Policy: layout.Swift.ByName("isal42"), Container: container, Name: "o"}
	dev := layout.Primaries(o)[0]
	hashes := func() string {
		t.Helper()
		req, err := http.NewRequest("REPLICATE", fmt.Sprintf("http://%s:%d/%s/%d", dev.IP, dev.Port, dev.Device.Device, layout.Partition(o)), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Backend-Storage-Policy-Index", strconv.Itoa(o.Policy.Index))
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		r, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(r.Body); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %q", r.Status, b.Bytes())
	}
	before := hashes()
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		r, err := c.Do(t.Context(), method, container, "o", http.Header{"X-Object-Meta-Bird": {"kestrel"}}, strings.NewReader("feather"), 7)
		if err != nil || r.StatusCode/100 != 2 {
			t.Fatalf("%s: %v, %v", method, r, err)
		}
		after := hashes()
		if after == before {
			t.Errorf("after a %s the hashes are what they were: %s", method, after)
		}
		before = after
	}
}

func TestWhatCanNotStartSaysWhy(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]embedded.Options{
		"no root folder":            {},
		"cannot make the cluster's": {Root: file},
		"14 archives on":            {Root: root, Nodes: 3},
		"too long a path":           {Root: filepath.Join(root, strings.Repeat("long", 30))},
		"there can not be 201":      {Root: root, Nodes: 201},
		"libphazr":                  {Root: root, Policies: []embedded.Policy{{Name: "x", Scheme: codec.Scheme{Type: "libphazr", K: 2, M: 1}}}},
		"name is missing":           {Root: root, Policies: []embedded.Policy{{Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 2, M: 1}}}},
	} {
		c, err := embedded.Start(o)
		if err == nil {
			c.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %q", o, err, want)
		}
	}
	// /proc keeps no attributes, and takes no files: either is said.
	if err := embedded.CheckFolder("/proc"); err == nil || !strings.Contains(err.Error(), "/proc") {
		t.Errorf("/proc: %v", err)
	}
}
