package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imping/engine/pass"
	"imping/lab/scenario"
)

// verify runs `imping verify` on a node; reports are by object.
func (l *lab) verify(node int, args ...string) (exit int, reports map[string]*pass.PointReport) {
	l.Helper()
	exit, out := l.run(l.self, append([]string{"verify", l.ReplicationConf(node), "--json"}, args...)...)
	reports = map[string]*pass.PointReport{}
	for line := range strings.Lines(out) {
		r := new(pass.PointReport)
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), r) == nil {
			reports[r.Object] = r
		}
	}
	return exit, reports
}

// Objects that Swift's proxy wrote, under several policies, are verified from a listing, by name and by device: what was lost and what rots is
// said, with what the object bears, and after a repair all is good.
func TestVerifyOnSwiftsObjects(t *testing.T) {
	l := startLab(t)
	loaded := l.load(scenario.LoadOptions{Seed: 43, Policies: []string{"isal42", "lec42", "isal42dup2"}, Victim: wiped, Sizes: []int64{0, 1, segment + 1},
		Kinds: []scenario.Kind{scenario.Posted, scenario.Deleted}})
	listing := filepath.Join(t.TempDir(), "listing")
	var names []string
	for _, o := range loaded.Objects {
		names = append(names, l.objectName(o))
	}
	if err := os.WriteFile(listing, []byte(strings.Join(names, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	node := l.Nodes()[0]
	exit, reports := l.verify(node, "--listing", listing)
	if exit != exitDone || len(reports) != len(names) {
		t.Errorf("status %d, %d of %d objects", exit, len(reports), len(names))
	}
	for name, r := range reports {
		if r.State != pass.PointWhole && r.State != pass.PointDeleted || r.Left > 0 || r.Repaired > 0 {
			t.Errorf("%s: %+v", name, r)
		}
		if want := 2; r.State == pass.PointWhole && r.PolicyName == "isal42" && (!r.Verdict.Decodes || r.Verdict.Bears != want || r.Verdict.Good != 6) {
			t.Errorf("%s: %+v", name, r.Verdict)
		}
		// Three indexes of six are to be lost, with both copies of each: five archives are too few for that.
		if want := 5; r.State == pass.PointWhole && r.PolicyName == "isal42dup2" && (!r.Verdict.Decodes || r.Verdict.Bears != want || r.Verdict.Good != 12) {
			t.Errorf("%s: %+v", name, r.Verdict)
		}
	}

	// One archive is lost with its device, another one rots.
	i := slices.IndexFunc(loaded.Objects, func(o *scenario.Object) bool {
		return o.Policy.Name == "isal42" && o.Kind != scenario.Deleted && o.Size > 1
	})
	o := loaded.Objects[i]
	l.wipe(wiped)
	var rotten string
	for _, n := range loaded.Layout.Primaries(o) {
		if rotten = n.Device.Device; rotten != wiped {
			break
		}
	}
	files, err := filepath.Glob(filepath.Join(loaded.Layout.HashDir(o, rotten), "*.data"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if _, err := scenario.FlipPayloadByte(files[0], 7); err != nil {
		t.Fatal(err)
	}
	exit, reports = l.verify(node, "--object", l.objectName(o), "--policy", "isal42")
	r := reports[l.objectName(o)]
	if r == nil {
		t.Fatalf("status %d, and no report", exit)
	}
	if exit != exitLeft || r.Left != 2 || !strings.HasPrefix(at(r, rotten).Action, "bad: ") || !strings.HasPrefix(at(r, wiped).Action, "lacks fragment ") ||
		r.Verdict.Bears != 0 || r.Verdict.Good != 4 || !r.Verdict.Decodes {
		t.Errorf("status %d, %+v, %+v", exit, r, r.Verdict)
	}
	exit, out := l.run(l.self, "verify", l.ReplicationConf(node), "--listing", listing)
	if exit != exitLeft || !strings.Contains(out, " objects: ") || !strings.Contains(out, "; it bears no further loss") {
		t.Errorf("status %d:\n%s", exit, out)
	}
	for _, name := range names {
		if exit, out := l.run(l.self, "reconstruct", l.ReplicationConf(node), "--object", name); exit != exitDone {
			// A tombstone is spread by who has it.
			if !strings.Contains(out, "deleted at ") {
				t.Errorf("%s: status %d:\n%s", name, exit, out)
			}
		}
	}
	exit, reports = l.verify(l.NodeOf(wiped), "-d", wiped, "--policy", "isal42")
	if exit != exitDone || len(reports) == 0 {
		t.Errorf("status %d, %d objects on %s", exit, len(reports), wiped)
	}
	for name, r := range reports {
		if r.State == pass.PointWhole && r.Verdict.Bears != 2 {
			t.Errorf("%s: %+v", name, r.Verdict)
		}
	}
	for _, c := range []struct {
		args []string
		exit int
		say  string
	}{
		{[]string{"--object", "/a/c/nobody has it"}, exitLeft, "no node holds anything of /a/c/nobody has it"},
		{[]string{"--object", "c/o"}, exitFailed, "not /account/container/object"},
		{[]string{}, exitFailed, "say which objects"},
		{[]string{"-d", "sdz"}, exitFailed, "sdz not among this node's devices"},
		{[]string{"-p", "x"}, exitFailed, "no partition"},
		{[]string{"--listing", "/nowhere"}, exitFailed, "/nowhere"},
		{[]string{"--container", "/a/c"}, exitFailed, "--listing"},
		{[]string{"-d", wiped, "--policy", "nobody's"}, exitFailed, "nobody's"},
	} {
		if exit, out := l.run(l.self, append([]string{"verify", l.ReplicationConf(node)}, c.args...)...); exit != c.exit || !strings.Contains(out, c.say) {
			t.Errorf("%q: status %d, want %d:\n%s", c.args, exit, c.exit, out)
		}
	}
}
