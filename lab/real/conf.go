package real

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Ports. The servers of object node N listen on 127.0.0.N.
const (
	proxyPort     = 8080
	memcachedPort = 11211
	containerPort = 6201
	accountPort   = 6202
)

func clientPort(node int) int      { return 6200 + 10*node }
func replicationPort(node int) int { return clientPort(node) + 5 }
func nodeIP(node int) string       { return fmt.Sprintf("127.0.0.%d", node) }

// section is one section of a conf file; lines are `key = value`.
type section struct {
	name  string
	lines []string
}

func render(sections ...section) []byte {
	var b strings.Builder
	for i, s := range sections {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", s.name)
		for _, l := range s.lines {
			b.WriteString(l)
			b.WriteByte('\n')
		}
	}
	return []byte(b.String())
}

func egg(kind, name, entry string, more ...string) section {
	return section{kind + ":" + name, append([]string{"use = egg:swift#" + entry}, more...)}
}

// writeConfs writes every conf file of the cluster under Root/etc.
func (c *Cluster) writeConfs() error {
	files := map[string][]byte{
		"swift.conf":            c.swiftConf(),
		"proxy-server.conf":     c.proxyConf(),
		"account-server.conf":   c.databaseConf("account", accountPort),
		"container-server.conf": c.databaseConf("container", containerPort),
	}
	for n := 1; n <= c.opts.Nodes; n++ {
		files[fmt.Sprintf("object-server/%d.conf", n)] = c.objectConf(n, ObjectServer)
		files[fmt.Sprintf("object-replication/%d.conf", n)] = c.objectConf(n, ReplicationServer)
	}
	for name, data := range files {
		path := filepath.Join(c.etc(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("cannot make the lab's conf folder: %w", err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("cannot write the lab's confs: %w", err)
		}
	}
	return nil
}

func (c *Cluster) swiftConf() []byte {
	sections := []section{{"swift-hash", []string{
		"swift_hash_path_prefix = falcon",
		"swift_hash_path_suffix = feather",
	}}}
	for i, p := range c.opts.Policies {
		s := section{fmt.Sprintf("storage-policy:%d", p.Index), []string{"name = " + p.Name}}
		if i == 0 {
			s.lines = append(s.lines, "default = yes")
		}
		if p.ECType == "" {
			s.lines = append(s.lines, "policy_type = replication")
		} else {
			s.lines = append(s.lines, "policy_type = erasure_coding",
				"ec_type = "+p.ECType,
				fmt.Sprintf("ec_num_data_fragments = %d", p.Data),
				fmt.Sprintf("ec_num_parity_fragments = %d", p.Parity))
		}
		if p.SegmentSize > 0 {
			s.lines = append(s.lines, fmt.Sprintf("ec_object_segment_size = %d", p.SegmentSize))
		}
		if p.Duplication > 1 {
			s.lines = append(s.lines, fmt.Sprintf("ec_duplication_factor = %d", p.Duplication))
		}
		sections = append(sections, s)
	}
	return render(sections...)
}

// defaults is the [DEFAULT] section of every daemon. One process per server
// (workers = 0): its CPU time is in one place, and a signal reaches all of it.
// The reserve is off because how full the machine's disk is does not matter here.
func (c *Cluster) defaults(ip string, port int, logName string, more ...string) section {
	return section{"DEFAULT", append([]string{
		"bind_ip = " + ip,
		fmt.Sprintf("bind_port = %d", port),
		"workers = 0",
		"user = " + c.opts.User,
		"swift_dir = " + c.etc(),
		"mount_check = false",
		"fallocate_reserve = 0",
		"log_address = " + c.logSocket(),
		"log_name = " + logName,
		"log_level = " + c.opts.LogLevel,
	}, more...)}
}

func (c *Cluster) objectConf(node int, kind Kind) []byte {
	port := clientPort(node)
	recon := c.ReconPath(node)
	app := egg("app", "object-server", "object")
	if kind == ReplicationServer {
		port = replicationPort(node)
		for _, option := range []struct {
			name  string
			value int
		}{
			{"replication_concurrency", c.opts.ReplicationConcurrency},
			{"replication_concurrency_per_device", c.opts.ReplicationConcurrencyPerDevice},
			{"replication_lock_timeout", c.opts.ReplicationLockTimeout},
		} {
			if option.value > 0 {
				app.lines = append(app.lines, fmt.Sprintf("set %s = %d", option.name, option.value))
			}
		}
	}
	sections := []section{
		c.defaults(nodeIP(node), port, serverName(kind, node),
			"devices = "+c.devicesPath(node),
			"recon_cache_path = "+recon),
		{"pipeline:main", []string{"pipeline = healthcheck recon object-server"}},
		app,
		egg("filter", "healthcheck", "healthcheck"),
		egg("filter", "recon", "recon", "recon_cache_path = "+recon),
	}
	if kind == ReplicationServer {
		// Only this conf's port is the ring's replication_port, by which daemons
		// find the devices that are theirs. log_name tells their lines apart.
		daemon := func(name string, more ...string) section {
			return section{"object-" + name, append([]string{fmt.Sprintf("log_name = %s-%d", name, node)}, more...)}
		}
		sections = append(sections,
			daemon("replicator"),
			daemon("reconstructor", c.reconstructorLines()...),
			daemon("updater"),
			// As fast as it can, and one process: the zero-byte scan is part of it.
			daemon("auditor", "files_per_second = 1000000", "bytes_per_second = 100000000000",
				"zero_byte_files_per_second = 0"),
		)
	}
	return render(sections...)
}

func (c *Cluster) reconstructorLines() []string {
	lines := []string{}
	for k, v := range c.opts.Reconstructor {
		lines = append(lines, k+" = "+v)
	}
	slices.Sort(lines)
	return lines
}

func (c *Cluster) databaseConf(kind string, port int) []byte {
	app := kind + "-server"
	return render(
		c.defaults("127.0.0.1", port, app, "devices = "+c.databasesPath()),
		section{"pipeline:main", []string{"pipeline = healthcheck " + app}},
		egg("app", app, kind),
		egg("filter", "healthcheck", "healthcheck"),
	)
}

// proxyConf is patient: on a machine with two processors a PUT of 14 archives is slow
// to be answered, and a proxy that gives up on one leaves a cluster with a hole before
// the test has made one. So is its memcache client: with a second's patience and two
// connections it forgets tokens there, and answers 401.
func (c *Cluster) proxyConf() []byte {
	cache := fmt.Sprintf("memcache_servers = 127.0.0.1:%d", memcachedPort)
	return render(
		c.defaults("127.0.0.1", proxyPort, "proxy-server"),
		section{"pipeline:main", []string{
			"pipeline = catch_errors gatekeeper healthcheck cache listing_formats tempauth proxy-server"}},
		egg("app", "proxy-server", "proxy", "account_autocreate = true",
			"node_timeout = 60", "recoverable_node_timeout = 60", "conn_timeout = 10", "post_quorum_timeout = 60",
			"error_suppression_interval = 0"),
		egg("filter", "catch_errors", "catch_errors"),
		egg("filter", "gatekeeper", "gatekeeper"),
		egg("filter", "healthcheck", "healthcheck"),
		egg("filter", "cache", "memcache", cache, "max_connections = 16",
			"connect_timeout = 30", "pool_timeout = 30", "io_timeout = 30", "error_suppression_limit = 1000000"),
		egg("filter", "listing_formats", "listing_formats"),
		egg("filter", "tempauth", "tempauth", "user_test_tester = testing .admin", "token_life = 86400"),
	)
}
