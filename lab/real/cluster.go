// Package real is a real OpenStack Swift cluster: Debian's own servers, in mount,
// network and pid namespaces and a folder of their own on this machine, so that the
// host's /etc/swift is neither read nor written and nothing outlives the program. It
// knows nothing of imping: what runs in the cluster is somebody else's command line.
package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imping/lab/syslog"
)

// startLimit bounds the start of a cluster: 17 Python programs, which take about ten
// seconds of CPU together, on a machine that may be busy with other tests.
const startLimit = 2 * time.Minute

// databasesDevice holds the account and container databases. It is no object device:
// wiping one of those must not take the listing along.
const databasesDevice = "sdb"

const (
	memcached = "memcached"
	proxy     = "proxy-server"
)

// Cluster is a running cluster. Its methods may be called from several goroutines.
type Cluster struct {
	opts       Options
	log        *syslog.Log
	client     *Client
	credential *syscall.Credential // of Options.User

	mu      sync.Mutex
	servers map[string]*server
	stopped bool
}

// one says whether a cluster runs: a network namespace has room for one.
var one struct {
	sync.Mutex
	running bool
}

// Start makes a cluster in o.Root and returns when every server answers. It works
// only inside Enter, once at a time. What is there already stays: objects survive a
// Stop and a Start with the same options.
//
// Root must lie on a file system with user extended attributes; its path must leave
// room for a unix socket (about 95 bytes), and let o.User through.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if !inside {
		return nil, errors.New("the lab starts only in namespaces of its own: call real.Enter first")
	}
	if err := o.fill(); err != nil {
		return nil, err
	}
	if err := CheckPackages(); err != nil {
		return nil, err
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return nil, fmt.Errorf("cannot use the lab's root: %w", err)
	}
	one.Lock()
	defer one.Unlock()
	if one.running {
		return nil, errors.New("a lab runs in these namespaces already")
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	c := &Cluster{opts: o, servers: map[string]*server{}, client: newClient()}
	if err := c.lay(); err != nil {
		return nil, err
	}
	if err := c.writeConfs(); err != nil {
		return nil, err
	}
	// This Swift's servers read /etc/swift/swift.conf whatever swift_dir says.
	if err := unix.Mount(c.etc(), "/etc/swift", "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("cannot mount the lab's confs at /etc/swift: %w", err)
	}
	one.running = true
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, c.tail())
			one.running = false
			c.stop()
		}
	}()
	if err := c.buildRings(ctx); err != nil {
		return nil, err
	}
	if c.log, err = syslog.Start(c.logSocket(), c.LogPath()); err != nil {
		return nil, err
	}
	if err := c.startServers(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Stop ends every server. The folder stays.
func (c *Cluster) Stop() {
	one.Lock()
	defer one.Unlock()
	if c.stop() {
		one.running = false
	}
}

func (c *Cluster) stop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false
	}
	c.stopped = true
	var wg sync.WaitGroup
	for _, s := range c.servers {
		wg.Go(s.stop)
	}
	wg.Wait()
	c.client.Close()
	if c.log != nil {
		c.log.Close()
	}
	// Nothing of ours uses it any more; a program of the caller's may.
	unix.Unmount("/etc/swift", unix.MNT_DETACH)
	return true
}

// lay makes the folders and checks that they can serve.
func (c *Cluster) lay() error {
	folders := []string{c.etc(), c.logFolder(), filepath.Join(c.databasesPath(), databasesDevice)}
	owned := []string{filepath.Join(c.databasesPath(), databasesDevice)}
	for n := 1; n <= c.opts.Nodes; n++ {
		owned = append(owned, c.ReconPath(n))
		for _, d := range c.Devices(n) {
			owned = append(owned, c.DevicePath(d))
		}
	}
	for _, f := range append(folders, owned...) {
		if err := os.MkdirAll(f, 0o755); err != nil {
			return fmt.Errorf("cannot make the lab's folders: %w", err)
		}
	}
	if err := c.lookup(); err != nil {
		return err
	}
	uid, gid := int(c.credential.Uid), int(c.credential.Gid)
	for _, f := range owned {
		if err := os.Chown(f, uid, gid); err != nil {
			return fmt.Errorf("cannot give the lab's folders to %q: %w", c.opts.User, err)
		}
	}
	if uid != 0 {
		for dir := c.opts.Root; dir != "/"; dir = filepath.Dir(dir) {
			st, err := os.Stat(dir)
			if err != nil {
				return fmt.Errorf("cannot use the lab's root: %w", err)
			}
			if st.Mode()&0o001 == 0 {
				return fmt.Errorf("%q, as whom the lab's servers run, can not enter %s (mode %v)", c.opts.User, dir, st.Mode())
			}
		}
	}
	return checkXattrs(c.opts.Root)
}

// lookup finds out who the lab's user is.
func (c *Cluster) lookup() error {
	u, err := user.Lookup(c.opts.User)
	if err != nil {
		return fmt.Errorf("cannot run the lab as %q: %w", c.opts.User, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("cannot run the lab as %q: %w", c.opts.User, err)
	}
	c.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return nil
}

func checkXattrs(root string) error {
	f, err := os.CreateTemp(root, ".xattr-")
	if err != nil {
		return fmt.Errorf("cannot write in the lab's root: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := unix.Fsetxattr(int(f.Fd()), "user.swift.metadata", []byte("x"), 0); err != nil {
		return fmt.Errorf("the file system of the lab's root %s takes no user extended attributes, where Swift keeps metadata: %w", root, err)
	}
	return nil
}

func (c *Cluster) startServers(ctx context.Context) error {
	c.add(&server{name: memcached, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(memcachedPort)),
		argv: []string{"/usr/bin/memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", strconv.Itoa(memcachedPort), "-U", "0", "-m", "64"}})
	for _, s := range []struct {
		name string
		port int
	}{{"account-server", accountPort}, {"container-server", containerPort}, {proxy, proxyPort}} {
		c.add(&server{name: s.name, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
			argv: []string{"/usr/bin/swift-" + s.name, filepath.Join(c.etc(), s.name+".conf")}})
	}
	for n := 1; n <= c.opts.Nodes; n++ {
		c.add(c.objectServer(n, ObjectServer))
		c.add(c.objectServer(n, ReplicationServer))
	}
	var swift []*server
	for _, s := range c.servers {
		if s.name == memcached {
			if err := s.start(); err != nil {
				return err
			}
		} else {
			swift = append(swift, s)
		}
	}
	if err := startTogether(ctx, swift); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range c.servers {
		group.Go(func() error { return s.ready(ctx) })
	}
	return group.Wait()
}

func (c *Cluster) objectServer(node int, kind Kind) *server {
	conf, port := c.confAndPort(node, kind)
	return &server{name: serverName(kind, node), address: net.JoinHostPort(nodeIP(node), strconv.Itoa(port)),
		argv: []string{"/usr/bin/swift-object-server", conf}}
}

func (c *Cluster) confAndPort(node int, kind Kind) (conf string, port int) {
	if kind == ReplicationServer {
		return c.ReplicationConf(node), replicationPort(node)
	}
	return c.Conf(node), clientPort(node)
}

func (c *Cluster) add(s *server) {
	s.output = filepath.Join(c.logFolder(), s.name+".out")
	if s.name != memcached { // which becomes nobody by itself
		s.credential = c.credential
	}
	c.servers[s.name] = s
}

// StopServer ends one of a node's object servers: the node looks dead to clients, or
// to its partners.
func (c *Cluster) StopServer(node int, kind Kind) error {
	return c.end(node, kind, (*server).stop)
}

// KillServer ends one of a node's object servers by SIGKILL, in the middle of whatever it does.
func (c *Cluster) KillServer(node int, kind Kind) error {
	return c.end(node, kind, (*server).kill)
}

func (c *Cluster) end(node int, kind Kind, how func(*server)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[serverName(kind, node)]
	if s == nil {
		return fmt.Errorf("the lab has no %s on node %d", kind, node)
	}
	how(s)
	return nil
}

// StartServer starts one of a node's object servers again that was ended, and waits
// until it answers. With argv, that program is started in its place; it must listen
// where the server's conf says.
func (c *Cluster) StartServer(ctx context.Context, node int, kind Kind, argv ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.servers[serverName(kind, node)]
	switch {
	case c.stopped:
		return errors.New("the lab is stopped")
	case old == nil:
		return fmt.Errorf("the lab has no %s on node %d", kind, node)
	case old.running():
		return fmt.Errorf("%s runs already", old.name)
	}
	s := c.objectServer(node, kind)
	if len(argv) > 0 {
		s.argv = argv
	}
	c.add(s)
	if err := s.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return s.ready(ctx)
}

// KillProxy ends the proxy by SIGKILL, in the middle of whatever it does.
func (c *Cluster) KillProxy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[proxy].kill()
}

// RestartProxy makes the proxy read the rings as they are now, which it looks at each 15 s at most.
func (c *Cluster) RestartProxy(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[proxy]
	s.stop()
	if err := s.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return s.ready(ctx)
}

// ProxyCPU is the processor time that the proxy has used since it was started.
func (c *Cluster) ProxyCPU() (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[proxy].cpu()
}

// CPU is the processor time that all object servers of that kind have used since they
// were started.
func (c *Cluster) CPU(kind Kind) (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum time.Duration
	for n := 1; n <= c.opts.Nodes; n++ {
		d, err := c.servers[serverName(kind, n)].cpu()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// Root is the cluster's folder, as an absolute path.
func (c *Cluster) Root() string { return c.opts.Root }

// Nodes are the numbers of the object nodes: 1 and on.
func (c *Cluster) Nodes() []int {
	nodes := make([]int, c.opts.Nodes)
	for i := range nodes {
		nodes[i] = i + 1
	}
	return nodes
}

// Policies are the cluster's storage policies.
func (c *Cluster) Policies() []Policy { return slices.Clone(c.opts.Policies) }

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

// Conf is the conf file of a node's client-facing object server.
func (c *Cluster) Conf(node int) string {
	return filepath.Join(c.etc(), "object-server", fmt.Sprintf("%d.conf", node))
}

// ReplicationConf is the conf file of a node's replication server and of its daemons:
// reconstructors are given this one.
func (c *Cluster) ReplicationConf(node int) string {
	return filepath.Join(c.etc(), "object-replication", fmt.Sprintf("%d.conf", node))
}

// SwiftDir is the folder of swift.conf and the rings; /etc/swift is the same folder
// inside.
func (c *Cluster) SwiftDir() string { return c.etc() }

// SwiftConf is the cluster's swift.conf.
func (c *Cluster) SwiftConf() string { return filepath.Join(c.etc(), "swift.conf") }

// LogPath is the file that all servers and daemons log to.
func (c *Cluster) LogPath() string { return filepath.Join(c.logFolder(), "all.log") }

func (c *Cluster) etc() string           { return filepath.Join(c.opts.Root, "etc") }
func (c *Cluster) logFolder() string     { return filepath.Join(c.opts.Root, "log") }
func (c *Cluster) logSocket() string     { return filepath.Join(c.opts.Root, "log.sock") }
func (c *Cluster) databasesPath() string { return filepath.Join(c.opts.Root, "databases") }
func (c *Cluster) devicesPath(node int) string {
	return filepath.Join(c.opts.Root, "nodes", strconv.Itoa(node))
}

// ReconPath is the recon_cache_path of a node.
func (c *Cluster) ReconPath(node int) string {
	return filepath.Join(c.opts.Root, "recon", strconv.Itoa(node))
}

// Mark is a place in the log for Log: everything that was logged before is behind it.
func (c *Cluster) Mark() (int64, error) { return c.log.Size() }

// Log are the lines that were logged since mark; 0 is the beginning.
func (c *Cluster) Log(since int64) ([]string, error) { return c.log.Lines(since) }

// DumpLogs writes all that the servers and daemons have logged and printed: what a
// person wants to see when a test has failed.
func (c *Cluster) DumpLogs(w io.Writer) {
	if c.log != nil {
		c.log.Size() // so that the last lines are in the file
	}
	for _, path := range c.logFiles() {
		data, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintf(w, "==> %v\n", err)
		} else if len(data) > 0 {
			fmt.Fprintf(w, "==> %s\n%s\n", path, data)
		}
	}
}

func (c *Cluster) logFiles() []string {
	entries, _ := os.ReadDir(c.logFolder()) // without the folder there is nothing to show
	var files []string
	for _, e := range entries {
		files = append(files, filepath.Join(c.logFolder(), e.Name()))
	}
	return files
}

// tailBytes of each log file go into the error of a failed start.
const tailBytes = 4 << 10

func (c *Cluster) tail() string {
	var b strings.Builder
	for _, path := range c.logFiles() {
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			continue
		}
		fmt.Fprintf(&b, "==> end of %s\n%s\n", path, data[max(0, len(data)-tailBytes):])
	}
	return b.String()
}
