package ring

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// LocalIPs are the addresses by which the devices of this machine's services go, for
// ringIP = the conf's ring_ip, else its bind_ip: that address itself, as it is written,
// or all addresses of all interfaces when it is empty, 0.0.0.0, :: or a host name.
// Swift: common/utils, whataremyips.
func LocalIPs(ringIP string) ([]string, error) {
	if addr, ok := parseNumeric(ringIP); ok && addr != netip.IPv4Unspecified() && addr != netip.IPv6Unspecified() {
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
	if addr, ok := parseStrict(host); ok {
		return slices.Contains(ips, formatAddr(addr))
	}
	if !isHostName(host) {
		return slices.Contains(ips, host)
	}
	if addr, ok := parseNumeric(host); ok { // "127.1": a number to the resolver
		return slices.Contains(ips, formatAddr(addr))
	}
	addrs, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", host)
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

// parseStrict reads what inet_pton takes: four decimal numbers, or IPv6 without a zone.
func parseStrict(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr, err == nil && addr.Zone() == ""
}

// parseNumeric reads what getaddrinfo takes for an address without asking a resolver:
// besides parseStrict's, IPv6 with a zone and inet_aton's short, octal and hexadecimal
// forms of IPv4 ("0", "127.1", "0x7f.1").
func parseNumeric(s string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.WithZone(""), true
	}
	words := strings.Split(s, ".")
	if len(words) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, word := range words {
		// Base 0 would take underscores, "0b" and "0o", which inet_aton does not.
		if strings.Trim(word, "0123456789abcdefABCDEFxX") != "" || len(word) > 1 && strings.ContainsAny(word[1:2], "bB") {
			return netip.Addr{}, false
		}
		bits := 8
		if i == len(words)-1 {
			bits = 8 * (5 - len(words)) // the last word fills what is left
		}
		n, err := strconv.ParseUint(word, 0, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		v = v<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// formatAddr writes an address as inet_ntop of glibc does: as netip, but for the old
// IPv4-compatible addresses (::1.2.3.4), whose end is written as IPv4.
// Swift: common/utils, expand_ipv6.
func formatAddr(addr netip.Addr) string {
	b := addr.As16()
	v4 := netip.AddrFrom4([4]byte(b[12:]))
	if addr.Is6() && netip.AddrFrom16([16]byte(append(make([]byte, 12), b[12:]...))) == addr && (b[12] != 0 || b[13] != 0) {
		return "::" + v4.String()
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
