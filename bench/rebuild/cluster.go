package rebuild

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"imping/lab/embedded"
	"imping/lab/real"
	"imping/lab/scenario"
)

// policyName is the load's policy.
const policyName = "ec"

// Nodes and devices of a cluster: with 10+4 every device has an archive of every object. The part power makes it likely that
// several partitions have the same three neighbours, in rings that are dealt at random.
const (
	nodes          = 7
	devicesPerNode = 2
	partPower      = 10
)

// cluster is where a load is, of either kind.
type cluster interface {
	scenario.Cluster
	ReplicationConf(node int) string
	Mark() (int64, error)
	Log(since int64) ([]string, error)
	DumpLogs(io.Writer)
	Stop()

	serversCPU() (time.Duration, error)         // of those that a reconstructor speaks to, since they were started
	settle(ctx context.Context, node int) error // by a pass over the node
	logRequests(ctx context.Context) error      // from now on
}

func start(ctx context.Context, o *Options, l *Load, root string) (cluster, error) {
	switch l.Servers {
	case Embedded:
		return startEmbedded(o, l, root)
	case Own, Stock:
		return startReal(ctx, o, l, root)
	}
	return nil, fmt.Errorf("servers %q: not %s, %s or %s", l.Servers, Embedded, Own, Stock)
}

// settle runs imping over a node.
func settle(ctx context.Context, o *Options, c cluster, node int) error {
	var out strings.Builder
	exit, _, err := real.Run(ctx, &out, o.Imping, "reconstruct", c.ReplicationConf(node), "once", "--swift-conf", c.SwiftConf())
	if err == nil && exit != 0 {
		err = fmt.Errorf("the pass that settles node %d ended with status %d:\n%s", node, exit, &out)
	}
	return err
}

type embeddedCluster struct {
	*embedded.Cluster
	o *Options
}

func startEmbedded(o *Options, l *Load, root string) (cluster, error) {
	c, err := embedded.Start(embedded.Options{
		Root: root, Nodes: nodes, DevicesPerNode: devicesPerNode, PartPower: partPower, LogLevel: "WARNING",
		Server:   map[string]string{"etag_validate_pct": strconv.Itoa(l.Validate)},
		Policies: []embedded.Policy{{Name: policyName, Scheme: l.Scheme}},
		Serve: func(conf, swiftConf string) *exec.Cmd {
			return exec.Command(o.Imping, "serve", conf, "--swift-conf", swiftConf)
		},
	})
	return &embeddedCluster{c, o}, err
}

func (c *embeddedCluster) serversCPU() (time.Duration, error) { return c.CPU() }

func (c *embeddedCluster) settle(ctx context.Context, node int) error {
	return settle(ctx, c.o, c, node)
}

// logRequests changes the nodes' confs and starts them again.
func (c *embeddedCluster) logRequests(context.Context) error {
	for _, node := range c.Nodes() {
		text, err := os.ReadFile(c.Conf(node))
		if err != nil {
			return err
		}
		changed := strings.NewReplacer("log_requests = no", "log_requests = yes", "log_level = WARNING", "log_level = DEBUG").Replace(string(text))
		if err := os.WriteFile(c.Conf(node), []byte(changed), 0o644); err != nil {
			return err
		}
		if err := c.StopNode(node); err != nil {
			return err
		}
		if err := c.StartNode(node); err != nil {
			return err
		}
	}
	return nil
}

type realCluster struct {
	*real.Cluster
	store   *embedded.Store
	o       *Options
	load    *Load
	options real.Options
}

func startReal(ctx context.Context, o *Options, l *Load, root string) (cluster, error) {
	c := &realCluster{o: o, load: l, options: real.Options{Root: root, Nodes: nodes, DevicesPerNode: devicesPerNode, PartPower: partPower, Policies: []real.Policy{
		{Index: 0, Name: "rep3"}, {Index: 1, Name: policyName, ECType: l.Scheme.Type, Data: l.Scheme.K, Parity: l.Scheme.M}}}}
	err := c.start(ctx)
	if err == nil {
		if c.store, err = embedded.OpenStore(c.SwiftConf(), c.Nodes(), c.Devices, c.DevicePath); err != nil {
			c.Cluster.Stop()
		}
	}
	return c, err
}

// Do stores objects on the disks: Swift's proxy takes minutes for a few thousand.
func (c *realCluster) Do(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	return c.store.Do(ctx, method, container, object, header, body, size)
}

func (c *realCluster) Stop() {
	c.Cluster.Stop()
	c.store.Close()
}

func (c *realCluster) start(ctx context.Context) (err error) {
	if c.Cluster, err = real.Start(ctx, c.options); err != nil || c.load.Servers == Stock {
		return err
	}
	for _, node := range c.Nodes() {
		if err = c.validate(node); err != nil {
			c.Cluster.Stop()
			return err
		}
		if err = c.StopServer(node, real.ReplicationServer); err == nil {
			err = c.StartServer(ctx, node, real.ReplicationServer, c.o.Imping, "serve", c.ReplicationConf(node))
		}
		if err != nil {
			c.Cluster.Stop()
			return err
		}
	}
	return nil
}

// validate sets the etag_validate_pct of a node's replication server.
func (c *realCluster) validate(node int) error {
	text, err := os.ReadFile(c.ReplicationConf(node))
	if err != nil {
		return err
	}
	const app = "[app:object-server]\n"
	changed := strings.Replace(string(text), app, app+"set etag_validate_pct = "+strconv.Itoa(c.load.Validate)+"\n", 1)
	return os.WriteFile(c.ReplicationConf(node), []byte(changed), 0o644)
}

func (c *realCluster) serversCPU() (time.Duration, error) { return c.CPU(real.ReplicationServer) }

func (c *realCluster) settle(ctx context.Context, node int) error { return settle(ctx, c.o, c, node) }

// logRequests starts the cluster again: the servers name requests of reconstructors only at DEBUG, which costs CPU.
func (c *realCluster) logRequests(ctx context.Context) error {
	c.Cluster.Stop()
	c.options.LogLevel = "DEBUG"
	return c.start(ctx)
}

var requestLine = regexp.MustCompile(`^object-(?:replication|server)-\d+: .*"(GET|REPLICATE|SSYNC|PUT|HEAD) /sd`)

// requests counts the requests to the servers that a reconstructor speaks to.
func requests(lines []string) map[string]int {
	n := make(map[string]int)
	for _, l := range lines {
		if m := requestLine.FindStringSubmatch(l); m != nil {
			n[m[1]]++
		}
	}
	return maps.Clone(n)
}
