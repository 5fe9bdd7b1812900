package diskfile

import (
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imping/io/batch"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// crashEnv holds a crashPlan in a process that is to be killed.
const crashEnv = "IMPING_TEST_CRASH"

// crashPlan is what such a process does.
type crashPlan struct {
	Root       string
	Replicated bool
	Named      bool // no O_TMPFILE
	URing      bool // the engine; else it is the plain one
	Kill       int  // the process is killed at this one of the points before and after each step; 0 = never
	Op         crashOp
}

type crashOp struct {
	Kind    string // "put" in one step, "group" the same with others, "publish", "commit", "meta", "delete", "queue"
	Time    timestamp.Timestamp
	Index   int
	Content string
	Next    int
}

const crashName = "/a/c/crash"

func (p crashPlan) manager(t testing.TB) *Manager {
	m := NewManager(Config{Devices: p.Root, Policy: testPolicy(), Hasher: testHasher, ReclaimAge: reclaimAge, CommitWindow: time.Minute})
	if p.Replicated {
		m.policy = replicatedPolicy()
	}
	if p.URing {
		engines, err := batch.New(batch.URing, func(string, ...any) {})
		if err != nil {
			panic(err)
		}
		m.engine = engines.For
		if t != nil {
			t.Cleanup(engines.Close)
		}
	}
	if t != nil {
		m.warn = func(format string, args ...any) { t.Logf(format, args...) }
	}
	return m
}

func (p crashPlan) partition() int {
	return objhash.Partition(testHasher.Object(crashName), testPartPower)
}

// crash is the process that is killed; it ends with status 0 if it was not.
func crash(encoded string) error {
	var p crashPlan
	if err := json.Unmarshal([]byte(encoded), &p); err != nil {
		return err
	}
	m := p.manager(nil)
	point := 0
	pass := func() {
		if point++; point == p.Kill {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal is there
		}
	}
	m.fault = func(step string, do func() error) error {
		if p.Named && step == "open" {
			return unix.EOPNOTSUPP
		}
		pass()
		err := do()
		pass()
		return err
	}
	return p.do(m)
}

func (p crashPlan) do(m *Manager) error {
	o := p.Op
	at := Place{Device: "sda", Partition: p.partition(), Name: crashName, FragIndex: o.Index, NextPartPower: o.Next}
	meta := newMetadata([2]string{"X-Timestamp", o.Time.Internal()}, [2]string{"X-Object-Meta-Long", strings.Repeat("x", 1000)})
	switch o.Kind {
	case "put", "publish", "publish and commit":
		w, err := m.Create(at, int64(len(o.Content)))
		if err != nil {
			return err
		}
		defer w.Abort()
		for _, half := range []string{o.Content[:len(o.Content)/2], o.Content[len(o.Content)/2:]} {
			if _, err := io.WriteString(w, half); err != nil {
				return err
			}
		}
		meta.Set("Content-Length", strconv.Itoa(len(o.Content)))
		meta.Set("ETag", fmt.Sprintf("%x", md5.Sum([]byte(o.Content))))
		if o.Kind == "put" {
			return w.PublishDurable(meta)
		}
		if err := w.Publish(meta); err != nil || o.Kind == "publish" {
			return err
		}
		// Someone hashes between the two steps.
		if _, _, err := m.SuffixHashes("sda", p.partition(), nil, false); err != nil {
			return err
		}
		return w.Commit()
	case "group":
		all, err := p.group(m)
		for _, one := range all {
			err = errors.Join(err, one.Err)
		}
		return err
	case "commit":
		return m.MakeDurable(at, o.Time)
	case "meta":
		return m.WriteMeta(at, meta)
	case "delete":
		return m.Delete(at, o.Time)
	case "queue":
		return m.QueueUpdate("sda", crashName, o.Time, []byte(o.Content))
	}
	return fmt.Errorf("no operation %q", o.Kind)
}

// groupNames are the objects that a group is of. The last one is not made durable.
var groupNames = []string{"/a/c/one", crashName, "/a/c/two", "/a/c/three"}

func (p crashPlan) group(m *Manager) (all []*Publication, err error) {
	o := p.Op
	for i, name := range groupNames {
		w, err := m.Create(Place{Device: "sda", Partition: p.partition(), Name: name, FragIndex: o.Index}, int64(len(o.Content)))
		if err != nil {
			return all, err
		}
		defer w.Abort()
		if _, err := io.WriteString(w, o.Content); err != nil {
			return all, err
		}
		all = append(all, &Publication{Writer: w, Durable: i < len(groupNames)-1, Meta: newMetadata([2]string{"X-Timestamp", o.Time.Internal()},
			[2]string{"Content-Length", strconv.Itoa(len(o.Content))}, [2]string{"ETag", fmt.Sprintf("%x", md5.Sum([]byte(o.Content)))})})
	}
	PublishAll(all)
	return all, nil
}

// view is what a reader sees of the object: a whole file, with its bytes, or none.
func (p crashPlan) view(t *testing.T, m *Manager, part int, nonDurable bool) string {
	t.Helper()
	o, err := m.Open("sda", part, objhash.Hex(testHasher.Object(crashName)), -1, nonDurable)
	if d, ok := errors.AsType[*DeletedError](err); ok {
		return "deleted at " + d.Timestamp.Internal()
	}
	if errors.Is(err, ErrNotExist) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b := make([]byte, o.Length)
	if _, err := o.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", md5.Sum(b)); sum != o.DataMeta["ETag"] {
		t.Fatalf("%s has an MD5 of %s and an ETag of %s", o.Path, sum, o.DataMeta["ETag"])
	}
	return fmt.Sprintf("data %s #%d meta %s: %.20s", o.Data.Internal(), o.FragIndex, o.Meta.Internal(), b)
}

// whole checks every file that has its name: nothing short, nothing without metadata.
func (p crashPlan) whole(t *testing.T) {
	t.Helper()
	err := filepath.Walk(filepath.Join(p.Root, "sda/objects-1"), func(path string, info os.FileInfo, err error) error {
		if err != nil || !slices.Contains([]string{".data", ".meta", ".ts"}, filepath.Ext(path)) {
			return err
		}
		meta, err := ReadMetadata(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".data" && meta["Content-Length"] != strconv.FormatInt(info.Size(), 10) {
			return fmt.Errorf("%s has %d bytes of %s", path, info.Size(), meta["Content-Length"])
		}
		return nil
	})
	check(t, err)
}

// rules 21 and 24: whatever the moment at which the process is killed, a reader sees the old
// or the new state, whole; no hash is stale; and the same operation done once more ends as if
// nothing had happened.
func TestKilledWritersLeaveTheOldOrTheNewState(t *testing.T) {
	syscall.Umask(0o022)
	now := timestamp.FromTime(time.Now())
	old, older := now.Add(-100_000*60), now.Add(-2*100_000*60)
	content := strings.Repeat("new", 3000)
	put := func(at timestamp.Timestamp, index int, content string) crashOp {
		return crashOp{Kind: "put", Time: at, Index: index, Content: content}
	}
	cases := map[string]struct {
		before []crashOp
		op     crashOp
	}{
		"first object":            {nil, put(now, 1, content)},
		"newer object":            {[]crashOp{put(older, 2, "older"), {Kind: "meta", Time: old}}, put(now, 1, content)},
		"group":                   {nil, crashOp{Kind: "group", Time: now, Index: 1, Content: content}},
		"newer group":             {[]crashOp{{Kind: "group", Time: older, Index: 2, Content: "older"}, {Kind: "meta", Time: old}}, crashOp{Kind: "group", Time: now, Index: 1, Content: content}},
		"in two steps":            {[]crashOp{put(older, 2, "older"), {Kind: "meta", Time: old}}, crashOp{Kind: "publish and commit", Time: now, Index: 1, Content: content}},
		"fragment not durable":    {[]crashOp{put(old, 2, "old")}, crashOp{Kind: "publish", Time: now, Index: 1, Content: content}},
		"fragment in place":       {[]crashOp{{Kind: "publish", Time: now, Index: 1, Content: content}}, put(now, 1, content)},
		"known fragment":          {[]crashOp{put(old, 2, "old"), {Kind: "publish", Time: now, Index: 1, Content: content}}, crashOp{Kind: "commit", Time: now, Index: 1}},
		"metadata":                {[]crashOp{put(older, 1, "old"), {Kind: "meta", Time: old}}, crashOp{Kind: "meta", Time: now}},
		"tombstone":               {[]crashOp{put(older, 1, "old"), {Kind: "meta", Time: old}}, crashOp{Kind: "delete", Time: now}},
		"partition power to rise": {[]crashOp{put(old, 1, "old")}, crashOp{Kind: "put", Time: now, Index: 1, Content: content, Next: testPartPower + 1}},
	}
	for name, c := range cases {
		for _, mode := range []string{"", "named", "replicated", "uring"} {
			plan := crashPlan{Op: c.op, Named: mode == "named", Replicated: mode == "replicated", URing: mode == "uring"}
			if plan.Replicated && (c.op.Kind == "commit" || c.op.Kind == "publish" || c.op.Kind == "publish and commit") || (plan.Named || plan.URing) && name != "newer object" && name != "fragment in place" {
				continue
			}
			t.Run(strings.TrimSpace(name+" "+mode), func(t *testing.T) {
				t.Parallel()
				base := quickDir(t)
				parts := []int{plan.partition()}
				if c.op.Next > 0 {
					if next := objhash.Partition(testHasher.Object(crashName), uint(c.op.Next)); next != parts[0] {
						parts = append(parts, next)
					}
				}
				start := func(dir string) (*Manager, []string) {
					plan.Root = filepath.Join(base, dir)
					check(t, os.MkdirAll(filepath.Join(plan.Root, "sda/objects-1"), 0o755))
					m := plan.manager(t)
					for _, o := range c.before {
						p := plan
						p.Op = o
						p.Op.Next = c.op.Next
						check(t, p.do(m))
					}
					if _, _, err := m.SuffixHashes("sda", parts[0], nil, true); err != nil {
						t.Fatal(err)
					}
					return m, plan.views(t, m, parts)
				}
				m, before := start("whole")
				check(t, plan.do(m))
				after := plan.views(t, m, parts)
				final := plan.final(t, m, parts)
				points := 0
				for kill := 1; ; kill++ {
					m, _ := start(strconv.Itoa(kill))
					plan.Kill = kill
					if !plan.run(t) {
						points = kill - 1
						break
					}
					plan.whole(t)
					// Hashes before views, since opening cleans up.
					if got, want := plan.hashes(t, m, parts[0], nil), plan.hashes(t, m, parts[0], []string{objhash.Suffix(objhash.Hex(testHasher.Object(crashName)))}); got != want {
						t.Errorf("killed at point %d: hashes are %s, and stale: %s", kill, got, want)
					}
					for i, got := range plan.views(t, m, parts) {
						if got != before[i] && got != after[i] {
							t.Errorf("killed at point %d: a reader sees %q; before it was %q, and would be %q", kill, got, before[i], after[i])
						}
					}
					if err := plan.do(m); err != nil && !(plan.Op.Kind == "commit" && errors.Is(err, ErrNotExist)) {
						t.Fatalf("killed at point %d, and done again: %v", kill, err)
					}
					if diff := cmp.Diff(final, plan.final(t, m, parts)); diff != "" {
						t.Errorf("killed at point %d, and done again (-whole +killed):\n%s", kill, diff)
					}
				}
				if points < 8 {
					t.Errorf("only %d points were met", points)
				}
			})
		}
	}
}

func (p crashPlan) views(t *testing.T, m *Manager, parts []int) (views []string) {
	t.Helper()
	for _, part := range parts {
		views = append(views, p.view(t, m, part, false), p.view(t, m, part, true))
	}
	return views
}

func (p crashPlan) hashes(t *testing.T, m *Manager, part int, recalculate []string) string {
	t.Helper()
	h, _, err := m.SuffixHashes("sda", part, recalculate, true)
	check(t, err)
	return fmt.Sprint(plain(h))
}

// final is what stays, without the times that pass and what was left by the one killed: an
// unnamed file is no more, and a named one is removed when it is old.
func (p crashPlan) final(t *testing.T, m *Manager, parts []int) []string {
	t.Helper()
	for _, part := range parts {
		p.hashes(t, m, part, []string{objhash.Suffix(objhash.Hex(testHasher.Object(crashName)))})
	}
	m.now = func() time.Time { return time.Now().Add(2 * reclaimAge) }
	check(t, m.CleanTemporaries("sda"))
	m.now = time.Now
	return slices.DeleteFunc(fullTree(t, p.Root), func(s string) bool {
		return strings.HasPrefix(s, "sda/tmp-1 ") || strings.Contains(s, "/.lock") || strings.Contains(s, invalidFile) || strings.Contains(s, hashesFile)
	})
}

// run tells whether the process was killed.
func (p crashPlan) run(t *testing.T) bool {
	t.Helper()
	encoded, err := json.Marshal(p)
	check(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+string(encoded))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", err, out)
	}
	return true
}
