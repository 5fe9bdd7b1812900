package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imping/swift/recon"
)

// asSwiftRelinker runs the program under the name of Swift's relinker.
func asSwiftRelinker(t *testing.T, args ...string) (status int, out, problems string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Args[0] = "/usr/bin/" + swiftRelinker
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// Words are argparse's: options anywhere, and shortened; what is wrong ends with status 2 and its words.
func TestTheRelinkerTakesSwiftsWords(t *testing.T) {
	const usage = "usage: swift-object-relinker [-h] [options] {relink,cleanup} [conf_file]\nswift-object-relinker: error: "
	conf := filepath.Join(t.TempDir(), "swift.conf")
	if err := os.WriteFile(conf, []byte("[swift-hash]\nswift_hash_path_suffix = x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"":                                       "the following arguments are required: action",
		"link":                                   "argument action: invalid choice: 'link' (choose from 'relink', 'cleanup')",
		"relink a b c":                           "unrecognized arguments: b c",
		"relink --partition -1":                  "argument --partition/-p: invalid non_negative_int value: '-1'",
		"relink -p x":                            "argument --partition/-p: invalid non_negative_int value: 'x'",
		"cleanup --files-per -1":                 "argument --files-per-second: invalid non_negative_float value: '-1'",
		"cleanup --workers=many":                 "argument --workers: invalid auto_or_int value: 'many'",
		"relink --s":                             "ambiguous option: --s could match --swift-dir, --skip-mount-check, --stats-interval, --swift-conf",
		"relink --policy 9 --swift-conf " + conf: "argument --policy: invalid policy value: '9'",
	} {
		status, out, problems := asSwiftRelinker(t, strings.Fields(words)...)
		if status != 2 || out != "" || problems != usage+want+"\n" {
			t.Errorf("%s: status %d, output %q, and\n%swant\n%s", words, status, out, problems, usage+want)
		}
	}
	status, out, _ := asSwiftRelinker(t, "--help")
	if status != 0 || !strings.Contains(out, "--clobber-hardlink-collisions") {
		t.Errorf("status %d, %s", status, out)
	}
}

// Without a conf the log is standard error, or a file, without names before the lines.
func TestTheRelinkerLogsWhereSwiftsDoes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	swift := write("swift.conf", "[swift-hash]\nswift_hash_path_suffix = x\n")
	devices := filepath.Join(dir, "node")
	if err := os.Mkdir(devices, 0o755); err != nil {
		t.Fatal(err)
	}
	words := []string{"relink", "--swift-dir", dir, "--devices", devices, "--swift-conf", swift}
	status, _, problems := asSwiftRelinker(t, words...)
	if status != exitFailed || !strings.Contains(problems, "object.ring.gz") {
		t.Errorf("without a ring: status %d, %s", status, problems)
	}
	status, _, problems = asSwiftRelinker(t, "relink", filepath.Join(dir, "none"))
	if want := "Unable to read config from " + filepath.Join(dir, "none") + "\n"; status != exitFailed || problems != want {
		t.Errorf("status %d, %q", status, problems)
	}
	status, _, problems = asSwiftRelinker(t, "relink", write("odd.conf", "[object-relinker]\nimping_speed = high\n"))
	if status != exitFailed || !strings.Contains(problems, "unknown option imping_speed") {
		t.Errorf("status %d, %q", status, problems)
	}
	ring, err := exec.Command("/usr/bin/python3", "-c", fmt.Sprintf(`
from swift.common.ring import RingBuilder
b = RingBuilder(4, 1, 1)
b.add_dev({'id': 0, 'region': 0, 'zone': 0, 'weight': 1, 'ip': '127.0.0.1', 'port': 6200, 'device': 'sda'})
b.rebalance()
b.get_ring().save(%q)`, filepath.Join(dir, "object.ring.gz"))).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, ring)
	}
	log := filepath.Join(dir, "log")
	status, out, problems := asSwiftRelinker(t, append(words, "--logf", log)...)
	text, err := os.ReadFile(log)
	if status != exitLeft || err != nil || out+problems != "" ||
		!strings.Contains(string(text), "\nNo policy found to increase the partition power.\n") || !strings.Contains(string(text), "\nFinished relinker (cleanup=False): ") {
		t.Errorf("status %d, %v, %q, log:\n%s", status, err, out+problems, text)
	}
	status, out, problems = runImping(t, append([]string{"relink"}, words...)...)
	if _, err := os.Stat(recon.DefaultPath); errors.Is(err, fs.ErrNotExist) { // Swift never ran here
		problems = regexp.MustCompile(`(?m)^Exception dumping recon cache: .*\n`).ReplaceAllString(problems, "")
	}
	if status != exitLeft || !strings.Contains(problems, "No policy found to increase the partition power.\nimping: no policy is in that step of an increase") || !strings.HasPrefix(out, "0 partitions in ") {
		t.Errorf("status %d, %q, %q", status, out, problems)
	}
	status, _, problems = runImping(t, append([]string{"relink", "--device", "none"}, words...)...)
	if status != exitFailed || !strings.HasPrefix(problems, "imping: --device none: ") {
		t.Errorf("a device that is not there: status %d, %q", status, problems)
	}
}
