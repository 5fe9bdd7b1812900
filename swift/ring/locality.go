package ring

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// lookup resolves host names; a variable because tests must not ask the network.
var lookup = net.DefaultResolver.LookupNetIP

// LocalIPs are the addresses by which the devices of this machine's services go, for
// ringIP = the conf's ring_ip, else its bind_ip: that address itself, as it is written,
// or all addresses of all interfaces when it is empty, 0.0.0.0, :: or a host name.
// Swift: common/utils, whataremyips.
func LocalIPs(ringIP string) ([]string, error) {
	if addr, err := netip.ParseAddr(ringIP); err == nil && !addr.WithZone("").IsUnspecified() {
		return []string{ringIP}, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of this machine: %w", err)
	}
	var ips []string
	for _, a := range addrs {
		ipNet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if addr, ok := netip.AddrFromSlice(ipNet.IP); ok {
			// net keeps IPv4 addresses in their 16-byte form.
			ips = append(ips, formatAddr(addr.Unmap()))
		}
	}
	return ips, nil
}

// IsLocal reports whether the device's replication address is one of ips and its
// replication port is port; 0 is any port, for servers_per_port. A host name is
// resolved, which may take as long as the resolver takes; one that can not be resolved
// is not local. Swift: common/ring/utils.py, is_local_device.
func (d *Device) IsLocal(ips []string, port int) bool {
	if port != 0 && d.ReplicationPort != port {
		return false
	}
	host := d.ReplicationIP
	if addr, ok := parseIP(host); ok {
		return slices.Contains(ips, formatAddr(addr))
	}
	if !isHostName(host) {
		return slices.Contains(ips, host)
	}
	addrs, err := lookup(context.Background(), "ip", host)
	if err != nil {
		return false
	}
	for _, addr := range addrs {
		if slices.Contains(ips, formatAddr(addr.Unmap())) {
			return true
		}
	}
	return false
}

// parseIP reads what inet_pton takes: four decimal numbers, or IPv6 without a zone. The
// short and octal forms ("127.1") are host names to eventlet, and so to Swift's daemons.
func parseIP(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr, err == nil && addr.Zone() == ""
}

// formatAddr writes an address as inet_ntop of glibc does: as netip, but for the old
// IPv4-compatible addresses (::1.2.3.4), whose end is written as IPv4.
// Swift: common/utils, expand_ipv6.
func formatAddr(addr netip.Addr) string {
	b := addr.As16()
	if addr.Is6() && [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
		return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
	}
	return addr.String()
}

// isHostName is RFC 1123 as Swift checks it. Swift: common/ring/utils.py,
// is_valid_hostname.
func isHostName(s string) bool {
	if len(s) < 1 || len(s) > 255 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if len(label) < 1 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c-'0' > 9 && (c|0x20)-'a' > 25 {
				return false
			}
		}
	}
	return true
}
