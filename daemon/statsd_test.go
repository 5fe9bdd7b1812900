package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"imping/lab/oracle"
	"imping/swift/conf"
)

// What is sent is what Swift's client sends (rule 37).
func TestStatsdIsToldAsBySwift(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := func() string {
		t.Helper()
		buf := make([]byte, 1000)
		l.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, _, err := l.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	base := map[string]string{"log_statsd_host": "127.0.0.1", "log_statsd_port": strconv.Itoa(l.LocalAddr().(*net.UDPAddr).Port)}
	var settings []map[string]string
	for _, more := range []map[string]string{
		{},
		{"log_name": "object-6200", "log_statsd_metric_prefix": "dc1.node2"},
		{"log_name": "", "log_statsd_metric_prefix": "x"},
		{"log_statsd_default_sample_rate": "0.9999999", "log_statsd_sample_rate_factor": "1"},
		{"log_statsd_sample_rate_factor": "0.9999999"},
	} {
		options := map[string]string{}
		for _, m := range []map[string]string{base, more} {
			for k, v := range m {
				options[k] = v
			}
		}
		settings = append(settings, options)
	}
	var done bool
	oracle.Ask(t, `
import sys, json
from swift.common.utils import get_logger
for i, conf in enumerate(json.load(sys.stdin)):
    conf.setdefault('log_name', 'object-server')
    log = get_logger(conf, log_route='server%d' % i)
    log.increment('async_pendings')
    log.update_stats('suffix.hashes', 0)
    log.timing('PUT.timing', 12.5)
    log.timing('PUT.timing', 12.5, sample_rate=0.99999)
    log.transfer_rate('PUT.sda.timing', 0.25, 1000)
    log.transfer_rate('PUT.sda.timing', 0.25, 0)
json.dump(True, sys.stdout)
`, settings, &done)
	var wanted [][]string
	for range settings {
		var want []string
		for range 5 {
			want = append(want, next())
		}
		wanted = append(wanted, want)
	}
	for i, options := range settings {
		want := wanted[i]
		s, err := NewStatsd(conf.NewSection("app:object-server", "x.conf", options), "object-server")
		if err != nil {
			t.Fatal(err)
		}
		s.Increment("async_pendings")
		s.Add("suffix.hashes", 0)
		s.Timing("PUT.timing", 12500*time.Microsecond, -1)
		s.Timing("PUT.timing", 12500*time.Microsecond, 0.99999)
		s.Transfer("PUT.sda.timing", 250*time.Millisecond, 1000)
		s.Transfer("PUT.sda.timing", 250*time.Millisecond, 0)
		for i := range want {
			if got := next(); !sameLine(got, want[i]) {
				t.Errorf("%v: %q, and Swift sends %q", options, got, want[i])
			}
		}
		s.Close()
		s.Increment("nobody")
	}
	if s, err := NewStatsd(conf.NewSection("x", "x.conf", nil), "x"); err != nil {
		t.Error(err)
	} else {
		s.Increment("nobody")
	}
	for option, value := range map[string]string{"log_statsd_port": "x", "log_statsd_default_sample_rate": "x", "log_statsd_sample_rate_factor": "x"} {
		if _, err := NewStatsd(conf.NewSection("x", "x.conf", map[string]string{option: value}), "x"); err == nil {
			t.Errorf("%s = %s is taken", option, value)
		}
	}
	l.SetReadDeadline(time.Now())
	if _, _, err := l.ReadFrom(make([]byte, 10)); err == nil {
		t.Error("more was sent")
	}
}

// A host with a name is found aside: who tells of something never waits for the resolver, and what is told meanwhile is sent when the
// address is known, also when the daemon ends before.
func TestStatsdHostsAreLookedUpAside(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.(*net.UDPConn).SetReadBuffer(1 << 20)
	host := conf.NewSection("x", "x.conf", map[string]string{"log_statsd_host": "stats.invalid"})
	const many = maxWaiting + 10
	for _, ends := range []bool{false, true} {
		s, err := NewStatsd(host, "x")
		if err != nil {
			t.Fatal(err)
		}
		asked, answer := make(chan string, 2), make(chan bool)
		s.dialUDP = func(ctx context.Context, network, address string) (net.Conn, error) {
			asked <- address
			<-answer
			return new(net.Dialer).DialContext(context.WithoutCancel(ctx), network, l.LocalAddr().String())
		}
		for i := range many {
			s.Add("x", i)
		}
		if got := <-asked; got != "stats.invalid:8125" {
			t.Errorf("%s is looked up", got)
		}
		closed := make(chan bool)
		if ends {
			go func() { s.Close(); close(closed) }()
		}
		close(answer)
		for i := range maxWaiting {
			buf := make([]byte, 100)
			l.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, _, err := l.ReadFrom(buf)
			if want := fmt.Sprintf("x.x:%d|c", i); err != nil || string(buf[:n]) != want {
				t.Fatalf("ends %v: %v, %q, want %q", ends, err, buf[:n], want)
			}
		}
		if !ends {
			s.Close()
		} else {
			<-closed
		}
		s.Increment("x")
		if s.conn != nil || len(s.waiting) > 0 || len(asked) > 0 {
			t.Errorf("ends %v: a socket, lines or a lookup are left", ends)
		}
	}
}

// A host that is not found, and a resolver that does not answer, hold up nothing for long.
func TestStatsdHostsThatAreNotFound(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		s, err := NewStatsd(conf.NewSection("x", "x.conf", map[string]string{"log_statsd_host": "stats.invalid"}), "x")
		if err != nil {
			t.Fatal(err)
		}
		s.dialUDP = func(ctx context.Context, _, _ string) (net.Conn, error) {
			if hangs {
				<-ctx.Done()
			}
			return nil, errors.New("no such host")
		}
		s.Increment("x")
		s.Close()
		if s.conn != nil || len(s.waiting) > 0 || s.looking {
			t.Errorf("hangs %v: something is left", hangs)
		}
	}
}

// sameLine forgives that Python writes 250.0 for 250.
func sameLine(got, want string) bool {
	number := func(s string) (string, string) {
		i, j := len(s), len(s)
		for k := range s {
			if s[k] == ':' {
				i = k + 1
			}
			if s[k] == '|' && j == len(s) {
				j = k
			}
		}
		if i > j {
			return s, ""
		}
		f, err := strconv.ParseFloat(s[i:j], 64)
		if err != nil {
			return s, ""
		}
		return s[:i] + s[j:], strconv.FormatFloat(f, 'g', -1, 64)
	}
	a, x := number(got)
	b, y := number(want)
	return a == b && x == y
}
