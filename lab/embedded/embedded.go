// Package embedded is a cluster in this process, or in one per node: nodes with their devices in a folder, rings
// dealt for them, each served by netfast/server on an address of the loopback. It needs
// neither root nor Swift, and can be any number of times on a machine. Objects are put on its
// disks as Swift's proxy and object servers would have left them. It reconstructs nothing:
// who does is somebody else's command line, or call.
package embedded

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/lab/process"
	"imping/lab/syslog"
	"imping/swift/ring"
)

// Options say what cluster Start makes. Zero values mean the default named beside each
// field.
type Options struct {
	Root           string // an existing or new folder that holds the whole cluster
	Nodes          int    // default 7, at most 200
	DevicesPerNode int    // default 2
	PartPower      int    // default 6
	Policies       []Policy
	LogLevel       string // DEBUG, INFO, ...; default INFO

	Server        map[string]string // further options of [app:object-server]
	Reconstructor map[string]string // further options of [object-reconstructor]

	// Serve makes the command that serves a node, which ends with this process or when it is sent SIGTERM: each node is a process of
	// its own then. nil: this process serves them.
	Serve func(conf, swiftConf string) *exec.Cmd
}

// Policy is an erasure-coded policy. Its index is its place among the others.
type Policy struct {
	Name        string
	Scheme      codec.Scheme
	Duplication int // ec_duplication_factor; 0 means 1
	SegmentSize int // ec_object_segment_size; 0 leaves Swift's default, 1 MiB
}

func (p Policy) replicas() int { return (p.Scheme.K + p.Scheme.M) * max(1, p.Duplication) }

// DefaultPolicies are two shapes of two schemes, as lab/real has them.
func DefaultPolicies() []Policy {
	return []Policy{
		{Name: "isal42", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2}},
		{Name: "lec42", Scheme: codec.Scheme{Type: "liberasurecode_rs_vand", K: 4, M: 2}},
		{Name: "isal104", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 10, M: 4}},
		{Name: "lec104", Scheme: codec.Scheme{Type: "liberasurecode_rs_vand", K: 10, M: 4}},
	}
}

func (o *Options) fill() error {
	if o.Root == "" {
		return errors.New("no root folder given for the cluster")
	}
	if o.Nodes == 0 {
		o.Nodes = 7
	}
	if o.DevicesPerNode == 0 {
		o.DevicesPerNode = 2
	}
	if o.PartPower == 0 {
		o.PartPower = 6
	}
	if o.LogLevel == "" {
		o.LogLevel = "INFO"
	}
	if o.Policies == nil {
		o.Policies = DefaultPolicies()
	}
	if o.Nodes < 1 || o.Nodes > 200 || o.DevicesPerNode < 1 || o.DevicesPerNode > 100 || o.PartPower < 1 || o.PartPower > 16 {
		return fmt.Errorf("there can not be %d nodes of %d devices with part power %d: 1 to 200, 1 to 100 and 1 to 16 can", o.Nodes, o.DevicesPerNode, o.PartPower)
	}
	for _, p := range o.Policies {
		if _, err := codec.New(p.Scheme); err != nil {
			return fmt.Errorf("policy %s: %w", p.Name, err)
		}
		if n, have := p.replicas(), o.Nodes*o.DevicesPerNode; n > have {
			return fmt.Errorf("policy %s (%s) puts %d archives on as many devices, and %d nodes of %d have %d", p.Name, p.Scheme, n, o.Nodes, o.DevicesPerNode, have)
		}
	}
	return nil
}

// Cluster is a running cluster. Its methods are goroutine-safe.
type Cluster struct {
	*Store
	opts Options
	user string // whose process this is
	log  *syslog.Log

	mu        sync.Mutex
	nodes     map[int]node   // those that run
	addresses map[int]string // of all nodes
}

// Start makes a cluster in o.Root, which is empty or not there, and serves it. Errors that
// a person may want to tell apart: *NoAttributesError.
func Start(o Options) (_ *Cluster, err error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return nil, fmt.Errorf("cannot use the cluster's root: %w", err)
	}
	c := &Cluster{opts: o, nodes: map[int]node{}, addresses: map[int]string{}}
	if err := c.lay(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	if c.log, err = syslog.Start(c.logSocket(), c.LogPath()); err != nil {
		return nil, err
	}
	// A node's port is whichever is free when it is made; it stays the node's, for the rings
	// and its conf name it.
	listeners := make([]net.Listener, o.Nodes)
	defer func() {
		for _, l := range listeners {
			if l != nil {
				l.Close()
			}
		}
	}()
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", net.JoinHostPort(nodeIP(i+1), "0")); err != nil {
			return nil, fmt.Errorf("cannot listen for node %d: %w", i+1, err)
		}
	}
	if err := c.writeConfs(listeners); err != nil {
		return nil, err
	}
	if err := c.writeRings(listeners); err != nil {
		return nil, err
	}
	if c.Store, err = OpenStore(c.SwiftConf(), c.Nodes(), c.Devices, c.DevicePath); err != nil {
		return nil, err
	}
	for i, l := range listeners {
		listeners[i] = nil
		n, err := c.serve(i+1, l)
		if err != nil {
			return nil, err
		}
		c.nodes[i+1] = n
	}
	return c, nil
}

// Stop ends all nodes. The folder stays.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Store != nil {
		c.Store.Close()
	}
	for number, n := range c.nodes {
		n.Close()
		delete(c.nodes, number)
	}
	if c.log != nil {
		c.log.Close()
		c.log = nil
	}
}

// Remove stops the cluster and removes its folder. All devices are emptied at once: a file
// system that is busy with syncing lets one who removes wait at every file.
func (c *Cluster) Remove() error {
	c.Stop()
	var group errgroup.Group
	for _, n := range c.Nodes() {
		for _, d := range c.Devices(n) {
			group.Go(func() error { return os.RemoveAll(c.DevicePath(d)) })
		}
	}
	if err := errors.Join(group.Wait(), os.RemoveAll(c.opts.Root)); err != nil {
		return fmt.Errorf("cannot remove the cluster: %w", err)
	}
	return nil
}

// StopNode ends a node's server: its devices look dead to its partners.
func (c *Cluster) StopNode(node int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node]
	if n == nil {
		return fmt.Errorf("no node %d runs", node)
	}
	n.Close()
	delete(c.nodes, node)
	return nil
}

// KillNode ends a node that is a process of its own by SIGKILL, in the middle of whatever it does.
func (c *Cluster) KillNode(node int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[node].(*nodeProcess)
	if !ok {
		return fmt.Errorf("no process serves node %d", node)
	}
	n.cmd.Process.Kill()
	<-n.ended
	delete(c.nodes, node)
	return nil
}

// StartNode serves a node again that was stopped or killed.
func (c *Cluster) StartNode(node int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.log == nil:
		return errors.New("the cluster is stopped")
	case node < 1 || node > c.opts.Nodes:
		return fmt.Errorf("the cluster has no node %d", node)
	case c.nodes[node] != nil:
		return fmt.Errorf("node %d runs already", node)
	}
	l, err := net.Listen("tcp", c.addresses[node])
	if err != nil {
		return fmt.Errorf("cannot serve node %d: %w", node, err)
	}
	n, err := c.serve(node, l)
	if err == nil {
		c.nodes[node] = n
	}
	return err
}

// serve starts a node on a listener, which is the node's from here on.
func (c *Cluster) serve(number int, l net.Listener) (node, error) {
	c.addresses[number] = l.Addr().String()
	if c.opts.Serve == nil {
		return serve(c.Conf(number), c.swift, l)
	}
	l.Close()
	out := filepath.Join(filepath.Dir(c.LogPath()), fmt.Sprintf("node-%d.out", number))
	return startProcess(c.opts.Serve(c.Conf(number), c.SwiftConf()), c.addresses[number], out)
}

// CPU is the processor time that the nodes which run have used, each in a process of its own, since they were started.
func (c *Cluster) CPU() (sum time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for number, n := range c.nodes {
		p, ok := n.(*nodeProcess)
		if !ok {
			return 0, fmt.Errorf("node %d is no process of its own", number)
		}
		d, err := process.CPU(p.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// NoAttributesError tells that a file system keeps no extended attributes of users.
type NoAttributesError struct {
	Folder string
	Err    error
}

func (e *NoAttributesError) Error() string {
	return fmt.Sprintf("the file system of %s takes no user extended attributes, where Swift keeps metadata: %v", e.Folder, e.Err)
}

func (e *NoAttributesError) Unwrap() error { return e.Err }

// lay makes the folders and checks that they can serve.
func (c *Cluster) lay() error {
	// In a container a user may have no name. His cluster is served all the same; only daemons
	// that are started on its confs will find nobody to become.
	c.user = strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(c.user); err == nil {
		c.user = u.Username
	}
	folders := []string{c.SwiftDir(), filepath.Dir(c.LogPath()), filepath.Dir(c.Conf(1))}
	for _, n := range c.Nodes() {
		folders = append(folders, c.ReconPath(n))
		for _, d := range c.Devices(n) {
			folders = append(folders, c.DevicePath(d))
		}
	}
	for _, f := range folders {
		if err := os.MkdirAll(f, 0o755); err != nil {
			return fmt.Errorf("cannot make the cluster's folders: %w", err)
		}
	}
	return CheckFolder(c.opts.Root)
}

// CheckFolder says why a folder can not hold a cluster: *NoAttributesError, or it can not be
// written to.
func CheckFolder(folder string) error {
	f, err := os.CreateTemp(folder, ".xattr-")
	if err != nil {
		return fmt.Errorf("cannot write in the cluster's folder: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := unix.Fsetxattr(int(f.Fd()), "user.swift.metadata", []byte("x"), 0); err != nil {
		return &NoAttributesError{folder, err}
	}
	return nil
}

// Root is the cluster's folder, as an absolute path.
func (c *Cluster) Root() string { return c.opts.Root }

// Nodes are the numbers of the nodes: 1 and on.
func (c *Cluster) Nodes() []int {
	nodes := make([]int, c.opts.Nodes)
	for i := range nodes {
		nodes[i] = i + 1
	}
	return nodes
}

// Devices are the names of a node's devices: sd1 and sd2 on node 1, and so on.
func (c *Cluster) Devices(node int) []string {
	var devices []string
	for i := range c.opts.DevicesPerNode {
		devices = append(devices, fmt.Sprintf("sd%d", (node-1)*c.opts.DevicesPerNode+i+1))
	}
	return devices
}

// NodeOf is the node that has the device; 0 when no node has.
func (c *Cluster) NodeOf(dev string) int {
	for _, n := range c.Nodes() {
		if slices.Contains(c.Devices(n), dev) {
			return n
		}
	}
	return 0
}

// DevicePath is the folder of a device: the one that holds objects, objects-1, ...
func (c *Cluster) DevicePath(dev string) string {
	return filepath.Join(c.devicesPath(c.NodeOf(dev)), dev)
}

// Conf is a node's conf file, for its server and its daemons.
func (c *Cluster) Conf(node int) string {
	return filepath.Join(c.SwiftDir(), "object-server", fmt.Sprintf("%d.conf", node))
}

// ReplicationConf is the conf file that reconstructors are given: Conf.
func (c *Cluster) ReplicationConf(node int) string { return c.Conf(node) }

// SwiftDir is the folder of swift.conf and the rings.
func (c *Cluster) SwiftDir() string { return filepath.Join(c.opts.Root, "etc") }

// SwiftConf is the cluster's swift.conf.
func (c *Cluster) SwiftConf() string { return filepath.Join(c.SwiftDir(), "swift.conf") }

// LogPath is the file that all servers and daemons log to.
func (c *Cluster) LogPath() string { return filepath.Join(c.opts.Root, "log", "all.log") }

// ReconPath is the recon_cache_path of a node.
func (c *Cluster) ReconPath(node int) string {
	return filepath.Join(c.opts.Root, "recon", strconv.Itoa(node))
}

func (c *Cluster) logSocket() string { return filepath.Join(c.opts.Root, "log.sock") }
func (c *Cluster) devicesPath(node int) string {
	return filepath.Join(c.opts.Root, "nodes", strconv.Itoa(node))
}
func (c *Cluster) ringPath(index int) string {
	return filepath.Join(c.SwiftDir(), ring.Name(index)+".ring.gz")
}

// Mark is a place in the log for Log: everything that was logged before is behind it.
func (c *Cluster) Mark() (int64, error) { return c.log.Size() }

// Log are the lines that were logged since mark; 0 is the beginning.
func (c *Cluster) Log(since int64) ([]string, error) { return c.log.Lines(since) }

// DumpLogs writes all that was logged: what a person wants to see when a test has failed.
func (c *Cluster) DumpLogs(w io.Writer) {
	if c.log != nil {
		c.log.Size() // so that the last lines are in the file
	}
	data, err := os.ReadFile(c.LogPath())
	if err != nil {
		fmt.Fprintf(w, "==> %v\n", err)
		return
	}
	if len(data) > 0 {
		fmt.Fprintf(w, "==> %s\n%s\n", c.LogPath(), data)
	}
}
