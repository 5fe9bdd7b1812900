package server

import (
	"encoding/json"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
	"imping/swift/conf"
)

// The answers of healthcheck and recon are those of Swift's own middleware on the same
// machine (rule 29).
func TestFiltersAnswerAsSwiftsDo(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	devices, cache, swiftDir := filepath.Join(root, "node"), filepath.Join(root, "cache"), filepath.Join(root, "etc")
	for _, dir := range []string{"node/sda/quarantined/objects/x1", "node/sda/quarantined/objects/x2", "node/sda/quarantined/objects-1/x3", "node/sda/quarantined/containers/c1",
		"node/sdb", "node/sdc/quarantined/accounts", "cache", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"node/sdb/.ismount": "", "node/file": "x", "etc/object.ring.gz": "ring", "etc/account.ring.gz": "a ring", "etc/object-1.ring.gz": "r",
		"cache/object.recon": `{"async_pending": 5, "async_pending_last": 1.5, "replication_time": 0.25, "replication_stats": {"success": 3, "failure_nodes": {}}, "object_reconstruction_last": 1795342301.5,
			"object_auditor_stats_ALL": {"passes": 4, "name": "é"}, "object_updater_sweep": 0.1, "expired_last_pass": 12345678901234567890, "replication_last": null}`,
		"cache/account.recon": `not JSON`, "cache/container.recon": `{"container_updater_sweep": 7, "sharding_last": 3, "container_audits_passed": 1}`,
		"cache/relinker.recon": `{"devices": {"sda": {"parts": 3}}, "workers": {}}`,
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	paths := []string{"/healthcheck", "/healthcheck/", "/recon", "/recon/", "/recon/nothing", "/recon/replication/nothing", "/recon/updater", "/recon/updater/account", "/recon/expirer", "/recon/reconstruction",
		"/recon/auditor", "/recon/%C3%A9", "/recon/version/x"}
	for _, what := range []string{"mem", "load", "async", "replication", "replication/account", "replication/container", "replication/object", "devices", "updater/container", "updater/object", "auditor/account",
		"auditor/container", "auditor/object", "expirer/object", "mounted", "unmounted", "diskusage", "ringmd5", "swiftconfmd5", "quarantined", "sockstat", "version", "driveaudit", "time", "sharding",
		"relinker", "reconstruction/object"} {
		paths = append(paths, "/recon/"+what)
	}
	var swift map[string]struct {
		Status, Type, Body string
	}
	oracle.Ask(t, `
import json, sys, logging
from swift.common import storage_policy
from swift.common.swob import Request, Response
storage_policy._POLICIES = storage_policy.StoragePolicyCollection([
    storage_policy.StoragePolicy(0, 'replicated', is_default=True),
    storage_policy.ECStoragePolicy(1, 'ec', ec_type='isa_l_rs_vand', ec_ndata=4, ec_nparity=2)])
from swift.common.middleware import recon, healthcheck
q = json.load(sys.stdin)
logging.disable(logging.CRITICAL)
app = recon.filter_factory(q['conf'])(healthcheck.filter_factory(q['conf'])(lambda env, start: Response(status=417, body=b'app', content_type='x/y')(env, start)))
answers = {}
for path in q['paths']:
    r = Request.blank(path).get_response(app)
    answers[path] = dict(status=r.status, type=r.headers['Content-Type'], body=r.body.decode())
json.dump(answers, sys.stdout)
`, map[string]any{"paths": paths, "conf": map[string]string{"devices": devices, "recon_cache_path": cache, "swift_dir": swiftDir}}, &swift)

	s := ours(t, devices, map[string]string{"devices": devices})
	app := func(*Request) *Response { return &Response{Status: 417, Body: []byte("app"), reason: "app"} }
	options := map[string]string{"devices": devices, "recon_cache_path": cache, "swift_dir": swiftDir}
	filters := newRecon(s.Server, conf.NewSection("recon", "x", options)).filter(healthcheck(conf.NewSection("healthcheck", "x", options))(app))
	for _, path := range paths {
		want := swift[path]
		got := filters(&Request{Method: "GET", Path: unquote(path), Body: NoBody})
		if !strings.HasPrefix(want.Status, got.Error()[:3]) || got.Status != 417 && got.Get("Content-Type") != want.Type || strings.HasPrefix(want.Status, "5") && got.Error() != want.Status {
			t.Errorf("%s: %v %s, want %s %s", path, got, got.Get("Content-Type"), want.Status, want.Type)
		}
		if want.Type != "application/json" {
			if string(got.Body) != want.Body {
				t.Errorf("%s: %q, want %q", path, got.Body, want.Body)
			}
			continue
		}
		var a, b any
		if json.Unmarshal(got.Body, &a) != nil || json.Unmarshal([]byte(want.Body), &b) != nil {
			t.Errorf("%s: %q, want %q", path, got.Body, want.Body)
			continue
		}
		switch path { // what changes from moment to moment
		case "/recon/mem", "/recon/sockstat", "/recon/load", "/recon/diskusage", "/recon/time":
			a, b = shape(a), shape(b)
		}
		if d := cmp.Diff(sorted(b), sorted(a)); d != "" {
			t.Errorf("%s differs (-stock +ours):\n%s", path, d)
		}
	}
	if body := string(filters(&Request{Method: "GET", Path: "/recon/quarantined"}).Body); !strings.Contains(body, `"objects":3`) {
		t.Errorf("quarantined: %s", body)
	}
}

// shape is what is left of JSON without its numbers.
func shape(v any) any {
	switch v := v.(type) {
	case float64:
		return "number"
	case string:
		return strings.Trim(v, "0123456789/ ")
	case map[string]any:
		for key := range v {
			v[key] = shape(v[key])
		}
	case []any:
		for i := range v {
			v[i] = shape(v[i])
		}
	}
	return v
}

// sorted orders the lists, which are those of directories.
func sorted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range maps.Keys(v) {
			v[key] = sorted(v[key])
		}
	case []any:
		slices.SortFunc(v, func(a, b any) int {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			return strings.Compare(string(x), string(y))
		})
	}
	return v
}

func TestHealthcheckIsDisabledByAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disabled")
	check := healthcheck(conf.NewSection("healthcheck", "x", map[string]string{"disable_path": file}))(nil)
	r := &Request{Method: "GET", Path: "/healthcheck"}
	if got := check(r); got.Status != 200 || string(got.Body) != "OK" {
		t.Error(got)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := check(r); got.Status != 503 || string(got.Body) != "DISABLED BY FILE" {
		t.Error(got)
	}
}

// rule 29; Swift: common/middleware/backend_ratelimit.py of later versions.
func TestDevicesGetNoMoreThanTheirRate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits.conf")
	devices := t.TempDir()
	for _, device := range []string{"sda", "sdb"} {
		if err := os.Mkdir(filepath.Join(devices, device), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := ours(t, devices, nil)
	now := time.Unix(1_800_000_000, 0)
	s.now = func() time.Time { return now }
	l, err := newRatelimit(s.Server, conf.NewSection("backend_ratelimit", "x", map[string]string{
		"backend_ratelimit_conf_path": file, "config_reload_interval": "10",
		"requests_per_device_per_second": "10", "get_requests_per_device_per_second": "4", "requests_per_device_rate_buffer": "0.5"}))
	if err != nil {
		t.Fatal(err)
	}
	passed := func(n int, method, path string) int {
		count := 0
		for range n {
			if l.filter(func(*Request) *Response { return answer(200) })(&Request{Method: method, Path: path}).Status == 200 {
				count++
			} else if got := l.filter(nil)(&Request{Method: method, Path: path}); got.Status != 529 {
				t.Error(got)
			}
		}
		return count
	}
	for i, c := range []struct {
		wait   time.Duration
		n      int
		method string
		path   string
		want   int
	}{
		{0, 10, "GET", "/sda/7/a/c/o", 3},          // half a second's worth at once, and one
		{0, 10, "GET", "/sdb/7/a/c/o", 3},          // another device
		{0, 10, "HEAD", "/sda/7/a/c/o", 0},         // all methods together were counted
		{time.Second, 10, "HEAD", "/sda/7", 6},     // after a while
		{0, 10, "SSYNC", "/sda/7", 10},             // no method of these
		{0, 10, "GET", "/healthcheck", 10},         // no device
		{0, 10, "GET", "/recon/async", 10},         // no partition
		{10 * time.Second, 30, "PUT", "/sda/7", 6}, // the file is missing still
	} {
		now = now.Add(c.wait)
		if got := passed(c.n, c.method, c.path); got != c.want {
			t.Errorf("%d: %d of %d %s passed, want %d", i, got, c.n, c.method, c.want)
		}
	}
	if err := os.WriteFile(file, []byte("[backend_ratelimit]\nput_requests_per_device_per_second = 2\nrequests_per_device_per_second = 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	now = now.Add(11 * time.Second)
	if got := passed(10, "PUT", "/sda/7"); got != 2 {
		t.Errorf("%d PUTs passed after the file came, want 2", got)
	}
	if err := os.WriteFile(file, []byte("[backend_ratelimit]\nput_requests_per_device_per_second = many\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	now = now.Add(11 * time.Second)
	if got := passed(10, "PUT", "/sda/7"); got != 2 || !strings.Contains(s.log.String(), "Invalid config file") {
		t.Errorf("%d PUTs passed after the file was damaged, want 2; log %s", got, s.log)
	}
}

// Names of devices that are not there are not remembered: a peer may ask for any number of them.
func TestRatesAreKeptOfDevicesOnly(t *testing.T) {
	devices := t.TempDir()
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := ours(t, devices, nil)
	l, err := newRatelimit(s.Server, conf.NewSection("backend_ratelimit", "x", map[string]string{
		"requests_per_device_per_second": "1", "get_requests_per_device_per_second": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	filter := l.filter(func(*Request) *Response { return answer(507) })
	for i := range 1000 {
		if a := filter(&Request{Method: "GET", Path: "/" + strconv.Itoa(i) + strings.Repeat("x", 10_000) + "/7/a/c/o"}); a.Status != 507 {
			t.Fatal(a)
		}
	}
	filter(&Request{Method: "GET", Path: "/sda/7/a/c/o"})
	if len(l.next) != 2 {
		t.Errorf("%d rates are kept for one device", len(l.next))
	}
}

// The request line is Swift's, in any of its formats (rule 37).
func TestRequestLinesAreSwifts(t *testing.T) {
	t.Parallel()
	formats := []string{
		defaultFormat, "{{x}} {time.a} {time.A} {time.b} {time.B} {time.c} {time.d} {time.H} {time.I} {time.j} {time.m} {time.M} {time.p} {time.S} {time.U} {time.w} {time.W} {time.x} {time.X} {time.y} {time.Y}",
		"{time} {time.asctime} {time.datetime} {time.iso8601} {time.ms} {time.us} {time.ns} {time.s} {disk} {partition} {account} {container} {object}",
		"{remote_addr.anonymized} {path.anonymized} {account.anonymized} {container.anonymized} {object.anonymized} {referer.anonymized} {user_agent.anonymized} {trans_time:.2f} {txn_id}",
	}
	type question struct {
		Format, Method, Salt, Path, Verb string
		Headers                          map[string]string
		Status, Length                   int
		Time                             float64
	}
	var questions []question
	for _, format := range formats {
		for i, path := range []string{"/sda/7/a/c/o/p", "/sda/7", "/", "/sda/7/a/c/%C3%A9 x", "*"} {
			questions = append(questions, question{format, []string{"md5", "SHA256"}[i%2], []string{"", "salt"}[i/2%2], path, "GET",
				map[string]string{"Referer": "GET http://x/y", "User-Agent": "ua", "X-Trans-Id": "tx1", "X-Backend-Storage-Policy-Index": "1"}, 200, 10 * i, 1795342301.5 + 86400*float64(i)*5})
		}
		questions = append(questions, question{format, "md5", "", "/sda/7/a/c/o", "PUT", map[string]string{}, 404, 70, 1609459200})
	}
	var lines []string
	oracle.Ask(t, `
import json, os, sys, time
from swift.common import utils
from swift.common.swob import Request, Response
os.getpid = lambda: 77
out = []
for q in json.load(sys.stdin):
    req = Request.blank('/', environ={'REQUEST_METHOD': q['Verb'], 'REMOTE_ADDR': '10.0.0.1', 'PATH_INFO': q['Path'].encode().decode('latin1')}, headers=q['Headers'])
    res = Response(status=q['Status'], request=req)
    res.content_length = q['Length']
    utils.time.time = lambda: q['Time']
    out.append(utils.get_log_line(req, res, 0.12345, '', q['Format'], q['Method'], q['Salt']))
json.dump(out, sys.stdout)
`, questions, &lines)
	for i, q := range questions {
		s := ours(t, t.TempDir(), map[string]string{"log_anonymization_method": q.Method, "log_anonymization_salt": q.Salt})
		var err error
		if s.conf.LogFormat, err = parseFormat(q.Format); err != nil {
			t.Fatal(err)
		}
		s.now = func() time.Time { return time.Unix(0, int64(q.Time*1e9)) }
		r := &Request{Method: q.Verb, Path: q.Path, Remote: "10.0.0.1"}
		for key, value := range q.Headers {
			r.Header.Set(key, value)
		}
		s.logRequest(r, &Response{Status: q.Status, Body: make([]byte, q.Length)}, 123450*time.Microsecond)
		_, got, _ := strings.Cut(strings.TrimSpace(s.log.String()), ": ")
		got = strings.ReplaceAll(got, " "+strconv.Itoa(os.Getpid())+" ", " 77 ")
		if got != lines[i] {
			t.Errorf("%s %s\n got %s\nwant %s", q.Format, q.Path, got, lines[i])
		}
	}
	for _, bad := range []string{"{", "}", "{}", "{nothing}", "{path:>10}", "{time.q}", "{trans_time:x}", "{disk.anonymized}"} {
		if _, err := parseFormat(bad); err == nil {
			t.Errorf("%q is taken for a format", bad)
		}
	}
}

// Daemons' requests are logged at DEBUG, all others at INFO.
func TestReplicationIsLoggedAtDebug(t *testing.T) {
	s, _ := alone(t, map[string]string{"log_level": "INFO"})
	ask(t, s.addr, "GET", "/sda/7/a/c/o", "User-Agent: loud")
	ask(t, s.addr, "GET", "/sda/7/a/c/o", "User-Agent: quiet", "X-Backend-Replication: True")
	ask(t, s.addr, "REPLICATE", "/sda/7", "User-Agent: quiet")
	if log := s.log.String(); !strings.Contains(log, "loud") || strings.Contains(log, "quiet") {
		t.Error(log)
	}
	s, _ = alone(t, map[string]string{"log_requests": "no"})
	ask(t, s.addr, "GET", "/sda/7/a/c/o", "User-Agent: loud")
	if log := s.log.String(); strings.Contains(log, "loud") {
		t.Error(log)
	}
}

// Statsd is told what Swift's server tells it (rule 37).
func TestStatsdIsTold(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.LocalAddr().String())
	s := ours(t, sda(t), map[string]string{"log_statsd_host": "127.0.0.1", "log_statsd_port": port, "log_statsd_metric_prefix": "lab", "fallocate_reserve": "0",
		"container_update_timeout": "20"})
	for _, c := range []struct {
		method, target string
		header         []string
		want           []string // but for the times
	}{
		{"PUT", "/sda/7/a/c/o", []string{"Content-Length: 0"}, []string{"lab.object-server.PUT.timing:|ms"}},
		{"PUT", "/sda/7/a/c/p", []string{"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0"}, []string{"lab.object-server.PUT.sda.timing:|ms", "lab.object-server.PUT.timing:|ms"}},
		{"PUT", "/sda/7/a/c/q", []string{"Content-Length: 0", "X-Container-Host: 127.0.0.1:1", "X-Container-Device: sdb", "X-Container-Partition: 1"},
			[]string{"lab.object-server.async_pendings:1|c", "lab.object-server.PUT.timing:|ms"}},
		{"GET", "/sda/7/a/c/o", nil, []string{"lab.object-server.GET.timing:|ms"}},
		{"GET", "/sda/7/a/c/none", nil, []string{"lab.object-server.GET.timing:|ms"}},
		{"DELETE", "/sdx/7/a/c/o", nil, []string{"lab.object-server.DELETE.errors.timing:|ms"}},
		{"NONSENSE", "/sda/7/a/c/o", nil, nil},
		{"OPTIONS", "/", nil, []string{"lab.object-server.OPTIONS.timing:|ms"}},
	} {
		ask(t, s.addr, c.method, c.target, append([]string{"X-Timestamp: " + after, "Content-Type: text/plain"}, c.header...)...)
		for _, want := range c.want {
			buf := make([]byte, 1000)
			l.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, _, err := l.ReadFrom(buf)
			if got := regexp.MustCompile(`:[0-9.]+\|ms`).ReplaceAllString(string(buf[:n]), ":|ms"); err != nil || got != want {
				t.Errorf("%s %s: %q, want %q (%v)", c.method, c.target, got, want, err)
			}
		}
	}
}
