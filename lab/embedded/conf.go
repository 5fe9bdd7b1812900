package embedded

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// nodeIP is the address of a node. Each has its own, as servers have; not those of
// 127.0.0.0/24, which connections go out from: a node's port could not be had again after
// one of them has it.
func nodeIP(node int) string { return fmt.Sprintf("127.0.1.%d", node) }

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// writeConfs writes swift.conf and the nodes' conf files.
func (c *Cluster) writeConfs(listeners []net.Listener) error {
	files := map[string]string{c.SwiftConf(): c.swiftConf()}
	for i, l := range listeners {
		files[c.Conf(i+1)] = c.objectConf(i+1, port(l))
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("cannot write the cluster's confs: %w", err)
		}
	}
	return nil
}

// swiftConf has lab/real's salts: an object has the same hash in both.
func (c *Cluster) swiftConf() string {
	var b strings.Builder
	b.WriteString("[swift-hash]\nswift_hash_path_prefix = falcon\nswift_hash_path_suffix = feather\n")
	for i, p := range c.opts.Policies {
		fmt.Fprintf(&b, "\n[storage-policy:%d]\nname = %s\npolicy_type = erasure_coding\nec_type = %s\nec_num_data_fragments = %d\nec_num_parity_fragments = %d\n",
			i, p.Name, p.Scheme.Type, p.Scheme.K, p.Scheme.M)
		if i == 0 {
			b.WriteString("default = yes\n")
		}
		if p.SegmentSize > 0 {
			fmt.Fprintf(&b, "ec_object_segment_size = %d\n", p.SegmentSize)
		}
		if p.Duplication > 1 {
			fmt.Fprintf(&b, "ec_duplication_factor = %d\n", p.Duplication)
		}
	}
	return b.String()
}

// objectConf is a conf as an operator has it. The reserve is off because how full the
// machine's disk is does not matter here. Requests are not logged: a kernel lets few lines
// wait in a socket, and a pass makes thousands of requests.
func (c *Cluster) objectConf(node, port int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `[DEFAULT]
bind_ip = %s
bind_port = %d
workers = 0
user = %s
swift_dir = %s
devices = %s
mount_check = false
fallocate_reserve = 0
recon_cache_path = %s
log_address = %s
log_level = %s
log_name = object-server-%d

[pipeline:main]
pipeline = healthcheck recon object-server

[app:object-server]
use = egg:swift#object
log_requests = no
%s
[filter:healthcheck]
use = egg:swift#healthcheck

[filter:recon]
use = egg:swift#recon

[object-reconstructor]
log_name = reconstructor-%d
%s`, nodeIP(node), port, c.user, c.SwiftDir(), filepath.Clean(c.devicesPath(node)), c.ReconPath(node), c.logSocket(), c.opts.LogLevel, node,
		lines(c.opts.Server), node, lines(c.opts.Reconstructor))
	return b.String()
}

func lines(options map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(options)) {
		fmt.Fprintf(&b, "%s = %s\n", key, options[key])
	}
	return b.String()
}
