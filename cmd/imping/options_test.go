package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imping/lab/oracle"
)

// documented are the options that a table of the operator's guide has a row for.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operators-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(text), "\n"+heading+"\n")
	if !found {
		t.Fatalf("the guide has no heading %q", heading)
	}
	var names []string
	code := regexp.MustCompile("`([a-z_]+)`")
	for line := range strings.Lines(part) {
		if strings.HasPrefix(line, "#") {
			break
		}
		cells := strings.Split(line, "|")
		if len(cells) < 3 || strings.HasPrefix(cells[1], " filter ") {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(cells[1], -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// Every option that Swift's reconstructor looks at, in its code or in the sample configuration,
// has a row in the guide, and what has a row is what `imping check` knows.
func TestEveryOptionOfTheReconstructorIsInTheTable(t *testing.T) {
	t.Parallel()
	known := documented(t, "## Options of the reconstructor")
	if want := sorted(reconstructorOptions); !slices.Equal(known, want) {
		t.Errorf("the table has\n%q\nand `imping check` knows\n%q", known, want)
	}
	var found struct {
		Reconstructor map[string]string
		Sections      map[string][]string
	}
	oracle.Ask(t, `
import glob, inspect, json, re, sys
from swift.common import daemon, utils
from swift.obj import diskfile, reconstructor, ssync_sender
found, sections = {}, {}
def look(source, where):
    for name in re.findall(r"""\bconf(?:\.get\(\s*|\[)['"]([a-z_]+)['"]|['"]([a-z_]+)['"] in (?:self\.)?conf\b""", source):
        found.setdefault(name[0] or name[1], where)
for module in (reconstructor, ssync_sender, daemon):
    look(inspect.getsource(module), module.__name__)
look(inspect.getsource(diskfile.BaseDiskFileManager), 'diskfile')
for function in (utils.get_logger, utils.modify_priority):
    look(inspect.getsource(function), function.__name__)
section = ''
for path in glob.glob('/usr/share/doc/swift*/examples/object-server.conf'):
    for line in open(path):
        line = line.strip()
        if line.startswith('['): section = line.strip('[]')
        m = re.match(r'#? ?(?:set )?([a-z_]+) ?=', line)
        if m:
            sections.setdefault(section, []).append(m.group(1))
            if section == 'object-reconstructor': found.setdefault(m.group(1), path)
json.dump({'Reconstructor': found, 'Sections': sections}, sys.stdout)
`, nil, &found)
	if len(found.Reconstructor) < 50 || len(found.Sections) < 8 {
		t.Errorf("only %d options and %d sections were found in Swift: the test has gone blind", len(found.Reconstructor), len(found.Sections))
	}
	for _, name := range slices.Sorted(maps.Keys(found.Reconstructor)) {
		if !slices.Contains(known, name) {
			t.Errorf("option %s (%s) has no row in docs/operators-guide.md", name, found.Reconstructor[name])
		}
	}
	all := slices.Concat(reconstructorOptions, serverOptions, relinkerOptions, filterOptions, otherOptions, []string{"use", "pipeline"})
	for section, names := range found.Sections {
		if strings.HasPrefix(section, "filter:xprofile") {
			continue // is refused with its pipeline
		}
		for _, name := range names {
			if !slices.Contains(all, name) {
				t.Errorf("option %s of [%s] is unknown to `imping check`", name, section)
			}
		}
	}
}

func TestTheServersTableIsWhatCheckKnows(t *testing.T) {
	t.Parallel()
	for _, name := range documented(t, "### Options of the server") {
		if !slices.Contains(serverOptions, name) {
			t.Errorf("option %s has a row in docs/operators-guide.md, and is unknown to `imping check`", name)
		}
	}
}

// The sample configuration, with all its options in force, has none that is unknown.
func TestCheckKnowsTheSampleConfiguration(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/usr/share/doc/swift-object/examples/object-server.conf")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/object-server.conf"
	set := regexp.MustCompile(`(?m)^# ?([a-z_]+ = .*)$`).ReplaceAll(text, []byte("$1"))
	if err := os.WriteFile(path, regexp.MustCompile(`(?m)^(log_custom_handlers|fallocate_reserve|log_format).*$`).ReplaceAll(set, nil), 0o644); err != nil {
		t.Fatal(err)
	}
	_, out, _ := runImping(t, "check", path, "--json")
	var list []finding
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !slices.ContainsFunc(list, func(f finding) bool { return f.What == "[object-relinker]" }) {
		t.Errorf("the configuration was not read: %v", list)
	}
	for _, f := range list {
		if strings.Contains(f.Text, "no option") {
			t.Errorf("%s: %s", f.What, f.Text)
		}
	}
}

func TestTheNearestOptionIsNamed(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"concurency": "concurrency", "reconstructor_worker": "reconstructor_workers", "intervall": "interval", "handoff_only": "handoffs_only",
		"mountcheck": "mount_check", "bogus": "", "x": "", "": "",
	} {
		if got := nearest(given, reconstructorOptions); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// In [DEFAULT] an option of one program is found by all, and refused by none.
func TestOwnOptionsInDefaultAreRefusedByNone(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	text, err := os.ReadFile(c.conf(1))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "object-server.conf")
	own := "[DEFAULT]\nimping_io_engine = plain\nimping_memory_budget = 32MiB\nimping_verify_survivors = off\nimping_log_texts = master\n" + optAtOnce + " = 2\n"
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "[DEFAULT]\n", own, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"reconstruct", path, "once"}, {"relink", "relink", path}} {
		if status, out, problems := runImping(t, append(args, "--swift-conf", c.SwiftConf())...); strings.Contains(problems+out, "imping_") {
			t.Errorf("%v: status %d\n%s%s", args, status, out, problems)
		}
	}
}

// rule 37: which Swift's texts are logged is an option of the three programs; another value is refused by each, and found by `imping check`.
func TestLogTextsOfNobodyAreRefused(t *testing.T) {
	t.Parallel()
	c := startEmbedded(t)
	good, err := os.ReadFile(c.conf(1))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "object-server.conf")
	for section, args := range map[string][]string{
		reconstructorSection: {"reconstruct", path, "once"}, serverSection: {"serve", path}, relinkerSection: {"relink", "relink", path},
	} {
		text := string(good)
		if !strings.Contains(text, "["+section+"]\n") {
			text += "\n[" + section + "]\n"
		}
		bad := strings.Replace(text, "["+section+"]\n", "["+section+"]\nimping_log_texts = mastre\n", 1)
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		want := `imping_log_texts = "mastre": must be 2.30 or master`
		if status, _, problems := runImping(t, append(args, "--swift-conf", c.SwiftConf())...); status != exitFailed || !strings.Contains(problems, want) {
			t.Errorf("%v: status %d, %s", args, status, problems)
		}
		status, of := c.look(path)
		if !slices.ContainsFunc(of[levelFail], func(s string) bool { return strings.Contains(s, want) }) || status != exitFailed {
			t.Errorf("check of [%s]: status %d, %q", section, status, of[levelFail])
		}
	}
}
