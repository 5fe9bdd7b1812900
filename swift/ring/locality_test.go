package ring

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"imping/lab/oracle"
)

// swiftLocality tells whataremyips of each address, and is_local_device of each device.
const swiftLocality = `
import json, sys
import eventlet
eventlet.patcher.monkey_patch(all=False, socket=True, select=True, thread=True)  # as the daemons do: it resolves names in its own way
from swift.common.utils import whataremyips
from swift.common.ring.utils import is_local_device
q = json.load(sys.stdin)
json.dump(dict(
    ips=[whataremyips(ip) for ip in q['ring_ips']],
    local=[is_local_device(d['ips'], d['port'] or None, d['ip'], d['dev_port']) for d in q['devices']]), sys.stdout)
`

func TestLocalAddressesAreSwifts(t *testing.T) {
	ringIPs := []string{
		"", "0.0.0.0", "::", "0", "0x0", "0.0", "00.0", "0::0", "::0.0.0.0", "::ffff:0.0.0.0", "127.0.0.1", "10.1.2.3", "127.1", "0x7f.1", "0177.0.0.1", "08.0.0.1",
		"127.0.0.1.1", "1.2.3.256", "256.1", "4294967295", "4294967296", "1.16777216", "1.2.65536", "1_0.1", "0b1", "0o1", "1.", "::1", "0:0::1", "FE80::1", "fe80::1%lo", "::%lo", "localhost",
		"no-such-host", "not a name", "::g", "1.2.3.4 ", "-1",
	}
	type question struct {
		IPs     []string `json:"ips"`
		Port    int      `json:"port"` // 0 is none
		IP      string   `json:"ip"`
		DevPort int      `json:"dev_port"`
	}
	var devices []question
	mine := []string{"127.0.0.1", "10.1.2.3", "::1", "fe80::1", "::1.2.3.4", "::ffff:1.2.3.4", "1:0:2::3", "odd_name", "0:0::7"}
	for _, ip := range []string{
		"127.0.0.1", "10.1.2.3", "10.1.2.4", "010.1.2.3", "::1", "0:0:0:0:0:0:0:1", "FE80::1", "fe80:0::0001", "::0102:0304", "::1.2.3.4", "::ffff:102:304", "::FFFF:1.2.3.4",
		"1:0:2:0:0:0:0:3", "odd_name", "odd_names", "", "-odd", "localhost", "LOCALHOST", "127.1", "0x7f000001", "::7", "0:0::7", "fe80::1%lo",
	} {
		for _, port := range []int{0, 6200, 6201} {
			devices = append(devices, question{mine, port, ip, 6200})
		}
	}
	var answer struct {
		IPs   [][]string
		Local []bool
	}
	oracle.Ask(t, swiftLocality, map[string]any{"ring_ips": ringIPs, "devices": devices}, &answer)
	for i, ip := range ringIPs {
		got, err := LocalIPs(ip)
		if err != nil {
			t.Fatal(err)
		}
		want := answer.IPs[i]
		slices.Sort(got)
		slices.Sort(want)
		if got, want := slices.Compact(got), slices.Compact(want); !slices.Equal(got, want) {
			t.Errorf("LocalIPs(%q) = %q, Swift: %q", ip, got, want)
		}
	}
	for i, q := range devices {
		d := &Device{IP: "192.0.2.1", Port: 1, ReplicationIP: q.IP, ReplicationPort: q.DevPort}
		if got := d.IsLocal(q.IPs, q.Port); got != answer.Local[i] {
			t.Errorf("device %q:%d local to port %d: %v, Swift: %v", q.IP, q.DevPort, q.Port, got, answer.Local[i])
		}
	}
}

func TestDevicesOfHostNamesAreLocalByAnyOfTheirAddresses(t *testing.T) {
	defer func(l func(context.Context, string, string) ([]netip.Addr, error)) { lookup = l }(lookup)
	lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if host != "storage-7" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.7"), netip.MustParseAddr("2001:db8::7")}, nil
	}
	d := &Device{ReplicationIP: "storage-7", ReplicationPort: 6300}
	for _, c := range []struct {
		ips  []string
		want bool
	}{{[]string{"10.0.0.7"}, true}, {[]string{"::1", "2001:db8::7"}, true}, {[]string{"10.0.0.8"}, false}, {nil, false}} {
		if got := d.IsLocal(c.ips, 6300); got != c.want {
			t.Errorf("IsLocal(%q) = %v", c.ips, got)
		}
	}
	unknown := &Device{ReplicationIP: "storage-8", ReplicationPort: 6300}
	if unknown.IsLocal([]string{"10.0.0.7"}, 0) {
		t.Error("a host that can not be resolved is local")
	}
}
