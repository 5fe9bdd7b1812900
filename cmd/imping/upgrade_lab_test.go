package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imping/lab/oracle"
	"imping/lab/real"
	"imping/swift/objhash"
	"imping/swift/policy"
)

// ringStep has Swift's ring builder take a step of an increase for all policies.
const ringStep = `
import os, sys
from swift.common.ring import RingBuilder
etc, step = sys.argv[1:]
for name in os.listdir(etc):
    if name.startswith('object') and name.endswith('.builder'):
        path = os.path.join(etc, name)
        builder = RingBuilder.load(path)
        assert getattr(builder, step)()
        builder.save(path)
        builder._ring = None
        builder.get_ring().save(path[:-len('builder')] + 'ring.gz')
`

// client reads, writes, changes and removes objects of one container, and notes what it is not given back as it was.
type client struct {
	*real.Cluster
	container string
	rand      *rand.Rand
	objects   map[string][]byte
	wrong     []string
	did       int
}

func (c *client) name() string { return fmt.Sprintf("o%d", c.rand.IntN(60)) }

func (c *client) note(what string, err error) {
	if err != nil {
		c.wrong = append(c.wrong, fmt.Sprintf("%s: %v", what, err))
	}
}

func (c *client) put(ctx context.Context, name string) {
	body := make([]byte, 1+c.rand.IntN(3000))
	for i := range body {
		body[i] = byte(c.rand.Uint32())
	}
	_, err := c.Client().Put(ctx, c.container, name, nil, bytes.NewReader(body), int64(len(body)))
	c.note("PUT of "+name, err)
	c.objects[name] = body
}

func (c *client) check(ctx context.Context, name string) {
	want, there := c.objects[name]
	resp, err := c.Do(ctx, http.MethodGet, c.container, name, nil, nil, 0)
	if err != nil {
		c.note("GET of "+name, err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		c.note("GET of "+name, err)
	case !there && resp.StatusCode != http.StatusNotFound, there && resp.StatusCode != http.StatusOK:
		c.note("GET of "+name, errors.New(resp.Status))
	case there && !bytes.Equal(got, want):
		c.note("GET of "+name, fmt.Errorf("%d bytes are not the %d that were stored", len(got), len(want)))
	}
}

// step does something.
func (c *client) step(ctx context.Context) {
	name := c.name()
	_, there := c.objects[name]
	switch n := c.rand.IntN(10); {
	case n < 6:
		c.check(ctx, name)
	case n == 6 && there:
		c.note("DELETE of "+name, c.Client().Delete(ctx, c.container, name))
		delete(c.objects, name)
	case n == 7 && there:
		c.note("POST of "+name, c.Client().Post(ctx, c.container, name, http.Header{"X-Object-Meta-N": {strconv.Itoa(n)}}))
	default:
		c.put(ctx, name)
	}
	c.did++
}

// A partition power is raised from beginning to end while clients are at work, with imping as relinker, reconstructor and replication
// server on some nodes and stock on the others: no client is given anything but what it stored, and all lies where it belongs.
func TestAPartitionPowerIsRaisedUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the lab; `make test` runs it")
	}
	if os.Getenv("IMPING_RAISE_POWER") == "" {
		t.Skip("`make soak` raises a cluster's partition power")
	}
	if !real.Inside() {
		t.Fatal("the real cluster needs root")
	}
	stopShared() // its power stays what it is, and there is one cluster at a time
	root, err := os.MkdirTemp("", "pp")
	fatal(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	fatal(t, os.Chmod(root, 0o755))
	cluster, err := real.Start(t.Context(), real.Options{Root: filepath.Join(root, "c"), User: "swift", Nodes: 4, PartPower: 4, Policies: []real.Policy{
		{Index: 0, Name: "rep3"}, {Index: 1, Name: "lec42", ECType: "liberasurecode_rs_vand", Data: 4, Parity: 2},
	}})
	fatal(t, err)
	t.Cleanup(cluster.Stop)
	program := filepath.Join(root, "bin", swiftServer) // where the lab's user can reach it
	fatal(t, copyProgram(program))
	l := &lab{Cluster: cluster, T: t, swift: filepath.Join(root, swiftReconstructor)}
	ours := filepath.Join(root, swiftRelinker)
	for _, link := range []string{l.swift, ours} {
		fatal(t, os.Symlink(program, link))
	}
	l.replace(real.ReplicationServer, []int{1, 2}, "/usr/bin/env", asProgram+"=1", program)

	var clients []*client
	for i, name := range []string{"rep3", "lec42"} {
		c := &client{Cluster: cluster, container: name, rand: rand.New(rand.NewPCG(uint64(i), 3)), objects: map[string][]byte{}}
		fatal(t, cluster.Client().CreateContainer(t.Context(), name, name))
		for n := range 40 {
			c.put(t.Context(), fmt.Sprintf("o%d", n))
		}
		clients = append(clients, c)
	}
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for _, c := range clients {
		busy.Go(func() {
			for ctx.Err() == nil {
				c.step(t.Context())
			}
		})
	}
	defer stop()

	turn := func(step string) {
		t.Helper()
		out, err := exec.Command(oracle.Python, "-c", ringStep, cluster.SwiftDir(), step).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", step, err, out)
		}
	}
	relinkAll := func(action string) {
		t.Helper()
		for _, node := range cluster.Nodes() {
			program := "/usr/bin/" + swiftRelinker
			if node < 3 {
				program = ours
			}
			conf := filepath.Join(root, fmt.Sprintf("relinker-%d.conf", node))
			fatal(t, os.WriteFile(conf, []byte(fmt.Sprintf("[object-relinker]\nswift_dir = %s\ndevices = %s\nmount_check = false\nuser = swift\nrecon_cache_path = %s\nlog_address = %s/none\n",
				cluster.SwiftDir(), filepath.Dir(cluster.DevicePath(cluster.Devices(node)[0])), cluster.ReconPath(node), root)), 0o644))
			if status, out := l.run(program, action, conf); status != 0 {
				t.Errorf("%s on node %d ended with %d:\n%s", action, node, status, out)
			}
		}
	}
	// Proxies look at their rings every 15 seconds.
	seen := func(what string, power uint, both bool) {
		t.Helper()
		swift, err := policy.Load(cluster.SwiftConf())
		fatal(t, err)
		for n, deadline := 0, time.Now().Add(2*time.Minute); ; n++ {
			settled := true
			for _, c := range []string{"rep3", "lec42"} {
				name := fmt.Sprintf("probe-%s-%d", what, n)
				_, err := cluster.Client().Put(t.Context(), c, name, nil, strings.NewReader("x"), 1)
				fatal(t, err)
				h := swift.Hasher().Path(cluster.Account(), c, name)
				dataDir := swift.ByName(c).DataDir()
				in := func(power uint) bool {
					found, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(cluster.DevicePath(cluster.Devices(1)[0]))), "*", "*", dataDir, strconv.Itoa(objhash.Partition(h, power)), "*", objhash.Hex(h), "*.data"))
					fatal(t, err)
					return len(found) > 0
				}
				moved := objhash.Partition(h, power) != objhash.Partition(h, power-1)
				settled = settled && moved && in(power) && in(power-1) == both
			}
			if settled {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the new ring is not in force", what)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}

	turn("prepare_increase_partition_power")
	seen("prepare", 5, true)
	relinkAll("relink")
	turn("increase_partition_power")
	seen("increase", 5, false)
	relinkAll("cleanup")
	turn("finish_increase_partition_power")
	stop()
	busy.Wait()

	for _, node := range cluster.Nodes() {
		if node < 3 {
			if status, out := l.run(l.swift, cluster.ReplicationConf(node), "once"); status != 0 {
				t.Errorf("reconstructor on node %d ended with %d:\n%s", node, status, out)
			}
		} else if _, err := cluster.StockReconstructor(t.Context(), node); err != nil {
			t.Error(err)
		}
	}
	for _, c := range clients {
		for n := range 60 {
			c.check(t.Context(), fmt.Sprintf("o%d", n))
		}
		t.Logf("%s: %d requests", c.container, c.did)
		for _, w := range c.wrong {
			t.Errorf("%s: %s", c.container, w)
		}
	}
	for _, node := range cluster.Nodes() {
		for _, dev := range cluster.Devices(node) {
			top := cluster.DevicePath(dev)
			fatal(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				words := strings.Split(strings.TrimPrefix(path, top+"/"), "/")
				if err != nil || d.IsDir() || len(words) != 5 || !strings.HasPrefix(words[0], "objects") {
					return err
				}
				h, err := objhash.Parse(words[3])
				if err == nil && strconv.Itoa(objhash.Partition(h, 5)) != words[1] {
					t.Errorf("%s does not belong there", path)
				}
				return err
			}))
		}
	}
	if t.Failed() {
		cluster.DumpLogs(os.Stderr)
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
