package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// runImping runs the program under its own name.
func runImping(t *testing.T, args ...string) (status int, out, problems string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Args[0] = "imping"
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

func TestWrongWordsAreRefusedWithAWayOn(t *testing.T) {
	marked := filepath.Join(t.TempDir(), "marked.md")
	if err := os.WriteFile(marked, []byte("<!-- codec: begin -->\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const unmarked = " has no line <!-- serve: begin --> followed by <!-- serve: end -->\n"
	for _, c := range []struct {
		words, want string
	}{
		{"serve", "imping: accepts 1 arg(s), received 0\nusage: imping serve CONF [flags]\n`imping serve --help` says more\n"},
		{"fragment decode --none", "imping: unknown flag: --none\nusage: imping fragment decode -o FILE ARCHIVE... [flags]\n`imping fragment decode --help` says more\n"},
		{"fragment decode x", "imping: required flag(s) \"output\" not set\nusage: imping fragment decode -o FILE ARCHIVE... [flags]\n`imping fragment decode --help` says more\n"},
		{"feather", "imping: unknown command \"feather\" for \"imping\"\n`imping --help` says more\n"},
		{"lab feather", "imping: unknown command \"feather\" for \"imping lab\"\n`imping lab --help` says more\n"},
		{"help feather", "imping: unknown command \"feather\" for \"imping\"\nusage: imping help [COMMAND] [flags]\n`imping help --help` says more\n"},
		// What is wrong with a value says all itself, and before anything is done.
		{"reconstruct x once --profile heap", "imping: --profile heap: block, cpu, mem, trace are known\n"},
		{"reconstruct x --object /a/c/o --stats", "imping: --stats is about a pass, not about one object\n"},
		{"bench rebuild --rounds 0", "imping: --rounds 0: from 1 to 25\n"},
		{"bench rebuild --objects -1", "imping: --objects -1 --partitions 8: at least one\n"},
		{"bench rebuild --losses 3", "imping: --losses 3: 1 or 2\n"},
		{"bench rebuild --size x", "imping: --size \"x\": not a size such as 256MiB or 1GiB\n"},
		{"bench rebuild --servers none", "imping: --servers \"none\": embedded, own and stock are known\n"},
		{"bench rebuild --engines stock", "imping: --engines stock needs a cluster of Swift's: --servers own or --servers stock\n"},
		{"bench rebuild --quick --objects 1", "imping: --table, --quick and --write are for the tables, and another flag (of " + strings.Join(loadFlags, ", ") + ") asks for a load of its own\n"},
		{"bench rebuild --table none", "imping: --table \"none\": not one of limit, small, stock, losses, idle, sizes, counts\n"},
		{"bench serve --rounds 26", "imping: --rounds 26: from 1 to 25\n"},
		{"bench serve --scale 0", "imping: --scale 0: must be more than zero\n"},
		{"bench serve --write " + marked, "imping: " + marked + unmarked},
		{"bench rebuild --write " + marked, "imping: " + marked + strings.ReplaceAll(unmarked, "serve", "rebuild-limit")},
		{"bench codec --write " + marked, "imping: " + marked + strings.ReplaceAll(unmarked, "serve", "codec")},
		{"demo --policy flat_xor_hd_3+1", "imping: --policy \"flat_xor_hd_3+1\": not a scheme such as \"isa_l_rs_vand 10+4\"\n"},
	} {
		status, out, problems := runImping(t, strings.Fields(c.words)...)
		if status != exitFailed || out != "" || problems != c.want {
			t.Errorf("imping %s: status %d, output %q, and\n%swant\n%s", c.words, status, out, problems, c.want)
		}
	}
	for _, c := range []struct {
		policy string
		types  bool
	}{{"isa_l_rs_wand 4+2", true}, {"shss 4+2", true}, {"isa_l_rs_vand 0+2", false}} {
		if _, _, problems := runImping(t, "demo", "--policy", c.policy); strings.Contains(problems, "(types are ") != c.types {
			t.Errorf("%s: %s", c.policy, problems)
		}
	}
}

func TestVersionIsAFlagToo(t *testing.T) {
	_, verb, _ := runImping(t, "version")
	status, flag, problems := runImping(t, "--version")
	if status != exitDone || problems != "" || flag != verb || !strings.HasPrefix(flag, "imping ") {
		t.Errorf("status %d, %q %q, the verb says %q", status, flag, problems, verb)
	}
}

func TestTablesAreWrittenBetweenTheirMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tables.md")
	const before = "head\n<!-- serve: begin -->\nold\n<!-- serve: end -->\ntail\n"
	if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkTable(path, "serve"); err != nil {
		t.Error(err)
	}
	if err := writeTable(path, "serve", "new\n"); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != strings.Replace(before, "old", "new", 1) {
		t.Errorf("%q %v", b, err)
	}
}

// The verb says when it serves, and where; under Swift's name that would be news to swift-init.
func TestServeSaysThatItServes(t *testing.T) {
	dir := t.TempDir()
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	conf, swift := filepath.Join(dir, "object-server.conf"), filepath.Join(dir, "swift.conf")
	for path, text := range map[string]string{
		swift: "[swift-hash]\nswift_hash_path_suffix = x\n",
		conf: "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = 0\nmount_check = no\ndevices = " + dir + "\nuser = " + who.Username + "\nlog_address = " + dir + "/none\n" +
			"[pipeline:main]\npipeline = healthcheck object-server\n[app:object-server]\nuse = egg:swift#object\n[filter:healthcheck]\nuse = egg:swift#healthcheck\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "serve", conf, "--swift-conf", swift)
	cmd.Args[0] = "imping"
	cmd.Env = append(os.Environ(), asProgram+"=1")
	problems, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGTERM)
	line, err := bufio.NewReader(problems).ReadString('\n')
	m := regexp.MustCompile(`^imping: serving on (127\.0\.0\.1:\d+); the log goes to syslog, with -v here too\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q %v", line, err)
	}
	answer, err := http.Get("http://" + m[1] + "/healthcheck")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Error(answer.Status)
	}
}
