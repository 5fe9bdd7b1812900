package server

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/lab/oracle"
)

// documented are the options that the operator's guide has a row for.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	f, err := os.Open("../../docs/operators-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := map[string]bool{}
	inTable := false
	code := regexp.MustCompile("`([a-z_]+)`")
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			inTable = line == "### Options of the server"
		}
		if cells := strings.Split(line, "|"); inTable && len(cells) > 2 {
			for _, m := range code.FindAllStringSubmatch(cells[1], -1) {
				names[m[1]] = true
			}
		}
	}
	return names
}

// Every option that the installed Swift's server and the filters of its pipeline look at, in their
// code or in the sample configuration, has a row in the guide.
func TestEveryOptionOfSwiftIsInTheTable(t *testing.T) {
	t.Parallel()
	known := documented(t)
	if len(known) < 60 {
		t.Fatalf("the guide's table has %d options: it was not found", len(known))
	}
	var found map[string]string
	oracle.Ask(t, `
import json, re, sys, inspect, glob
from swift.common import wsgi, base_storage_server, utils, daemon
from swift.common.middleware import healthcheck, recon
from swift.obj import server, diskfile, ssync_receiver
found = {}
def look(source, where):
    for name in re.findall(r"""\bconf(?:\.get\(\s*|\[)['"]([a-z_]+)['"]""", source):
        found.setdefault(name, where)
for module in (wsgi, base_storage_server, server, diskfile, ssync_receiver, healthcheck, recon):
    look(inspect.getsource(module), module.__name__)
for function in (utils.get_logger, utils.modify_priority):
    look(inspect.getsource(function), function.__name__)
section = ''
for path in glob.glob('/usr/share/doc/swift*/examples/object-server.conf') + ['/etc/swift/object-server.conf']:
    for line in open(path):
        line = line.strip()
        if line.startswith('['): section = line
        m = re.match(r'#? ?(?:set )?([a-z_]+) ?=', line)
        if m and section in ('[DEFAULT]', '[app:object-server]', '[filter:healthcheck]', '[filter:recon]'):
            found.setdefault(m.group(1), path)
json.dump(found, sys.stdout)
`, nil, &found)
	// What the server gives to itself, and the name of the program.
	for _, own := range []string{"__file__", "replication_semaphore", "use"} {
		delete(found, own)
	}
	if len(found) < 58 {
		t.Errorf("only %d options were found in Swift: the test has gone blind", len(found))
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if !known[name] {
			t.Errorf("option %s (%s) has no row in docs/operators-guide.md", name, found[name])
		}
	}
}

// What the table calls honoured is read, and wrong values are refused by name.
func TestWrongValuesAreRefusedByName(t *testing.T) {
	for option, value := range map[string]string{
		"bind_port": "http", "bind_timeout": "soon", "backlog": "many", "keep_idle": "0", "workers": "some", "servers_per_port": "-1", "max_clients": "0", "client_timeout": "-1",
		"node_timeout": "x", "conn_timeout": "x", "container_update_timeout": "x", "expiring_objects_container_divisor": "0", "log_format": "{nothing}", "log_anonymization_method": "rot13",
		"reclaim_age": "x", "commit_window": "-1", "keep_cache_size": "x", "etag_validate_pct": "101", "max_upload_time": "x", "slow": "x", "mb_per_sync": "x",
		"replication_concurrency": "x", "replication_concurrency_per_device": "x", "replication_lock_timeout": "x", "replication_failure_threshold": "x", "replication_failure_ratio": "x",
		"cert_file": "/x", "require_proxy_protocol": "yes", "log_custom_handlers": "a.b", "stale_worker_timeout": "x",
	} {
		options := map[string]string{"bind_port": "6200"}
		options[option] = value
		if _, err := ReadConfig(writeConf(t, options)); err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%s = %s: %v", option, value, err)
		}
	}
}

func TestDefaultsAreSwifts(t *testing.T) {
	c, err := ReadConfig(writeConf(t, map[string]string{"bind_port": "6200", "workers": "2"}, "healthcheck", "recon"))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(c.BindIP, c.BindPort, c.Backlog, c.KeepIdle, c.MaxClients, c.ClientTimeout, c.NodeTimeout, c.ConnTimeout, c.ContainerUpdateTimeout, c.Devices, c.MountCheck,
		c.ReclaimAge, c.CommitWindow, c.FallocateReserve, c.BytesPerSync>>20, c.KeepCacheSize, c.EtagValidate, c.MaxUploadTime, len(c.AllowedHeaders), c.ExpiringObjectsAccount,
		c.ExpiringObjectsContainerDivisor, c.ReplicationServer, c.ReplicationConcurrency, c.ReplicationConcurrencyPerDevice, c.ReplicationLockTimeout, c.ReplicationFailureThreshold,
		c.ReplicationFailureRatio, c.LogRequests, len(c.Pipeline))
	want := fmt.Sprint("0.0.0.0", 6200, 4096, 600*time.Second, 2048, time.Minute, 3*time.Second, time.Second/2, time.Second, "/srv/node", true,
		7*24*time.Hour, time.Minute, "1%", 512, 5242880, 1.0, 24*time.Hour, 9, ".expiring_objects",
		86400, true, 4, 1, 15*time.Second, 100,
		1.0, true, 2)
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	c, err = ReadConfig(writeConf(t, map[string]string{"bind_port": "6200", "replication_concurrency": "0", "replication_one_per_device": "no", "auto_create_account_prefix": "-", "allowed_headers": "ETag, X-Mine"}))
	if err != nil {
		t.Fatal(err)
	}
	if c.ReplicationConcurrency != 0 || c.ReplicationConcurrencyPerDevice != 0 || c.ExpiringObjectsAccount != "-expiring_objects" || len(c.Warnings) != 2 || len(c.AllowedHeaders) != 1 || !c.AllowedHeaders["x-mine"] {
		t.Errorf("%+v", c)
	}
}

// rule 29
func TestUnknownFiltersRefuseToStart(t *testing.T) {
	if _, err := ReadConfig(writeConf(t, map[string]string{"bind_port": "http"})); err == nil || !strings.HasSuffix(err.Error(), `bind_port = "http": must be a port from 0 to 65535`) {
		t.Errorf("%v", err)
	}
	path := writeConf(t, map[string]string{"bind_port": "6200"}, "healthcheck", "keymaster")
	c, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, testSwift(), nil); err == nil || !strings.Contains(err.Error(), `"keymaster"`) {
		t.Errorf("%v", err)
	}
	for name, text := range map[string]string{
		"no pipeline":        "[app:object-server]\nuse = egg:swift#object\nbind_port = 1\n",
		"no app":             "[pipeline:main]\npipeline = object-server\n",
		"another app":        "[pipeline:main]\npipeline = proxy-server\n[app:proxy-server]\nuse = egg:swift#proxy\nbind_port = 1\n",
		"no bind_port":       "[pipeline:main]\npipeline = object-server\n[app:object-server]\nuse = egg:swift#object\n",
		"a filter is absent": "[pipeline:main]\npipeline = recon object-server\n[app:object-server]\nuse = egg:swift#object\nbind_port = 1\n",
	} {
		path := filepath.Join(t.TempDir(), "object-server.conf")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := ReadConfig(path); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
