package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imping/lab/embedded"
)

// look checks a configuration and returns the findings of a level.
func (c *either) look(path string) (status int, of map[string][]string) {
	c.Helper()
	status, out, problems := runImping(c.T, "check", path, "--json", "--swift-conf", c.SwiftConf())
	var list []finding
	if err := json.Unmarshal([]byte(out), &list); err != nil || problems != "" {
		c.Fatalf("%v %s\n%s", err, problems, out)
	}
	of = map[string][]string{}
	for _, f := range list {
		of[f.Level] = append(of[f.Level], f.What+": "+f.Text)
	}
	return status, of
}

func TestCheckFindsNothingWrongWithWhatIsRight(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	status, of := c.look(c.conf(1))
	if status != exitDone || len(of[levelFail])+len(of[levelWarn]) > 0 {
		t.Errorf("status %d, %q", status, of)
	}
	for _, want := range []string{
		"[DEFAULT]: all ", "[object-reconstructor]: all 1 options are known", "swift.conf: the salts and 4 policies are there",
		"object-3.ring.gz: policy ", "device sd1: ", "recon_cache_path: ", "[app:object-server]: the pipeline can be served",
	} {
		if !slices.ContainsFunc(of[levelOK], func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%q was not looked at: %q", want, of[levelOK])
		}
	}
	status, out, _ := runImping(t, "check", c.conf(1), "--swift-conf", c.SwiftConf())
	if status != exitDone || !strings.HasPrefix(out, "OK    [DEFAULT]: all ") {
		t.Errorf("status %d\n%s", status, out)
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	good, err := os.ReadFile(c.conf(1))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "object-server.conf")
	devices := filepath.Dir(c.DevicePath(c.Devices(1)[0]))
	none := filepath.Join(devices, "none")
	for _, w := range []struct {
		from, to    string
		level, want string
	}{
		{"[object-reconstructor]\n", "[object-reconstructor]\nconcurency = 4\n", levelWarn, "[object-reconstructor]: no option concurency is known and it does nothing: is concurrency meant?"},
		{"[app:object-server]\n", "[app:object-server]\nset keep_cash_size = 4\n", levelWarn, "[app:object-server]: no option keep_cash_size is known and it does nothing: is keep_cache_size meant?"},
		{"[DEFAULT]\n", "[DEFAULT]\nmount_chek = no\n", levelWarn, "[DEFAULT]: no option mount_chek is known and it does nothing: is mount_check meant?"},
		{"[DEFAULT]\n", "[DEFAULT]\nthe_answer_to_all = 42\n", levelWarn, "[DEFAULT]: no option the_answer_to_all is known: it does nothing"},
		{"[DEFAULT]\n", "[DEFAULT]\nrsync_module = x\n", levelOK, "[DEFAULT]: all 13 options are known"},
		{"[object-reconstructor]\n", "[object-reconstructor]\nconcurrency = many\nstats_interval = soon\n", levelFail, `stats_interval = "soon": must be a number of seconds >= 0`},
		{"[object-reconstructor]\n", "[object-reconstructor]\nconcurrency = many\nstats_interval = soon\n", levelFail, `concurrency = "many": must be an integer`},
		{"[object-reconstructor]\n", "[object-reconstructor]\ninterval = -1\n", levelFail, `interval = "-1"`},
		{"[object-reconstructor]\n", "[object-reconstructor]\nrun_pause = 1\n", levelWarn, "run_pause is deprecated"},
		{"[object-reconstructor]\n", "[object-reconstructor]\nlog_custom_handlers = a.b\n", levelFail, "log_custom_handlers"},
		{"[object-reconstructor]\n", "[object-reconstructor]\nionice_class = BE\nnice_priority = low\n", levelWarn, "ionice_class = BE is none of"},
		{"[object-reconstructor]\n", "[object-reconstructor]\nlog_statsd_host = 300.300.300.300.invalid\n", levelWarn, "log_statsd_host = 300.300.300.300.invalid: "},
		{"[object-reconstructor]\n", "[object-reconstructor]\nuser = nobody-there\n", levelFail, "[object-reconstructor]: user = nobody-there: "},
		{"[object-reconstructor]\n", "[object-reconstructor]\nrecon_cache_path = /nowhere\n", levelWarn, "recon_cache_path: /nowhere is no folder"},
		{"[object-reconstructor]\n", "[object-reconstructor]\nbind_port = 1\n", levelWarn, "no device of an erasure-code ring is this node's"},
		{"[object-reconstructor]\n", "[object-reconstructor]\nmount_check = yes\n", levelFail, "device sd1: "},
		{"[object-reconstructor]\n", "[object-reconstructor]\ndevices = " + none + "\n", levelFail, "device sd1: "},
		{"[object-reconstructor]\n", "[object-reconstructor]\nswift_dir = " + none + "\n", levelFail, "policy isal42 (index 0): "},
		{"[app:object-server]\n", "[app:object-server]\nset replication_concurrency = x\n", levelFail, "replication_concurrency"},
		{"pipeline = healthcheck", "pipeline = tempauth healthcheck", levelFail, "tempauth"},
		{"[object-reconstructor]\n", "[object-relinker]\nworkers = few\n[object-reconstructor]\n", levelFail, `[object-relinker]: `},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(good), w.from, w.to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		status, of := c.look(path)
		if !slices.ContainsFunc(of[w.level], func(s string) bool { return strings.Contains(s, w.want) }) {
			t.Errorf("%q: want %s %s, got %q", w.to, w.level, w.want, of)
		}
		if failed := len(of[levelFail]) > 0; failed != (status == exitFailed) || failed != (w.level == levelFail) {
			t.Errorf("%q: status %d, %q", w.to, status, of[levelFail])
		}
	}
	if err := os.WriteFile(path, []byte("[object-updater]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, of := c.look(path); status != exitFailed || len(of[levelFail]) != 1 {
		t.Errorf("no section of ours: status %d, %q", status, of)
	}
	if status, of := c.look(none); status != exitFailed || len(of[levelFail]) != 1 {
		t.Errorf("no conf: status %d, %q", status, of)
	}
}

// What a daemon may do is what its user may, whoever looks.
func TestCheckLooksWithTheUsersEyes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Parallel()
	c := startEmbedded(t)
	closed := c.Cluster.(*embedded.Cluster)
	open := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for dir := closed.Root(); dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o011 == 0 {
			open(dir, 0o755)
		}
	}
	c.changeConf(1, "[object-reconstructor]\n", "[object-reconstructor]\nuser = nobody\n")
	device := filepath.Join(c.DevicePath(c.Devices(1)[0]))
	open(device, 0o755)
	status, of := c.look(c.conf(1))
	if want := "device sd1: user nobody may not read and write " + device; status != exitFailed || !slices.Contains(of[levelFail], want) {
		t.Errorf("status %d, %q", status, of)
	}
	for _, dev := range c.Devices(1) {
		open(c.DevicePath(dev), 0o777)
	}
	if status, of := c.look(c.conf(1)); status != exitDone || len(of[levelFail]) > 0 {
		t.Errorf("status %d, %q", status, of)
	}
}
