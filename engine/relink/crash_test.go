package relink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"imping/io/diskfile"
)

var (
	kills       = flag.Int("kills", 20, "how many relinkers are killed")
	stateFolder = flag.String("state", "", "folder in which random disks and kills that went well are remembered, so that a soak goes on where it was")
)

// victim, in the environment, makes this program a relinker: root, swift.conf and step, separated by spaces.
const victim = "IMPING_TEST_RELINKER"

func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(victim)); len(words) > 0 {
		os.Exit(beVictim(words))
	}
	goleak.VerifyTestMain(m)
}

func beVictim(words []string) int {
	c, err := siteConfig(words[0], words[1], words[2], &logBook{})
	if err == nil {
		c.Workers = 1 // so that it lasts
		var r *Relinker
		if r, err = New(*c); err == nil {
			fmt.Println("begins")
			var status int
			if status, err = r.Run(context.Background()); err == nil {
				return status
			}
		}
	}
	fmt.Println(err)
	return 99
}

// victim runs a relinker in a process of its own, and kills it some time after it has begun; a time of 0 is never. It returns how
// long it ran, and its exit status: -1 if it was killed.
func (h *site) victim(t *testing.T, action string, after time.Duration) (time.Duration, int) {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", victim, h.root, h.stock.conf, action))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	began := time.Now()
	if err != nil || line != "begins\n" {
		t.Errorf("the relinker said %q, %v", line, err)
	}
	if after > 0 {
		time.AfterFunc(after, func() { cmd.Process.Kill() })
	}
	_ = cmd.Wait()
	return time.Since(began), cmd.ProcessState.ExitCode()
}

// A relinker that is killed at any moment, and begun again, by stock now and then, leaves what one leaves that was not.
func TestKilledRelinkersLoseNothing(t *testing.T) {
	s := newStock(t)
	var done struct{ Killed, Rounds int }
	resume(t, "kills.json", &done)
	for done.Killed < *kills && !t.Failed() {
		round, killed := uint64(done.Rounds+1), 0
		if done.Rounds >= 10**kills {
			t.Fatalf("only %d relinkers were killed before they ended, in %d rounds", done.Killed, done.Rounds)
		}
		undisturbed, disturbed := newSite(t, s), newSite(t, s)
		g := newGrower(1000+round, time.Now(), undisturbed, disturbed)
		g.grow(t)
		chance := rand.New(rand.NewPCG(round, 1))
		for _, action := range []string{"relink", "cleanup"} {
			undisturbed.step(t, action)
			disturbed.step(t, action)
			took, want := undisturbed.victim(t, action, 0)
			for range 1 + chance.IntN(2) {
				if _, status := disturbed.victim(t, action, time.Duration(chance.Int64N(int64(took)))); status < 0 {
					killed++
				}
			}
			if chance.IntN(3) == 0 {
				disturbed.runStock(t, action)
			} else if _, status := disturbed.victim(t, action, 0); status != want {
				t.Errorf("round %d: %s ended with %d, undisturbed with %d", round, action, status, want)
			}
			for _, h := range []*site{undisturbed, disturbed} {
				h.hash(t)
			}
			if diff := cmp.Diff(ended(t, undisturbed), ended(t, disturbed)); diff != "" {
				t.Fatalf("round %d, %s: (-undisturbed +killed)\n%s", round, action, diff)
			}
		}
		done.Rounds++
		done.Killed += killed
		keep(t, "kills.json", &done)
	}
}

// resume takes over what a run before has kept in the state folder, and keep keeps it there; without such a folder nothing is.
func resume(t *testing.T, name string, done any) {
	t.Helper()
	if *stateFolder == "" {
		return
	}
	data, err := os.ReadFile(filepath.Join(*stateFolder, name))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	check(t, err)
	check(t, json.Unmarshal(data, done))
}

func keep(t *testing.T, name string, done any) {
	t.Helper()
	if *stateFolder == "" || t.Failed() {
		return
	}
	data, err := json.Marshal(done)
	check(t, err)
	check(t, os.MkdirAll(*stateFolder, 0o755))
	path := filepath.Join(*stateFolder, name)
	check(t, os.WriteFile(path+".new", data, 0o644))
	check(t, os.Rename(path+".new", path))
}

// A signal ends the work between two objects.
func TestAnEndedRelinkerGoesOnWhereItWas(t *testing.T) {
	s := newStock(t)
	undisturbed, disturbed := newSite(t, s), newSite(t, s)
	g := newGrower(7, time.Now(), undisturbed, disturbed)
	g.grow(t)
	for _, action := range []string{"relink", "cleanup"} {
		undisturbed.step(t, action)
		disturbed.step(t, action)
		want, _ := undisturbed.run(t, action)
		enough := errors.New("enough")
		for after := 2; ; after += 3 { // lines of log
			ctx, cancel := context.WithCancelCause(context.Background())
			c, err := disturbed.config(action, &logBook{limit: after, reached: func() { cancel(enough) }})
			check(t, err)
			c.Workers = 0
			r, err := New(*c)
			check(t, err)
			status, err := r.Run(ctx)
			ended := ctx.Err() != nil
			cancel(nil)
			if err == nil && status == want {
				break // the signal, if there was one, came after all was done
			}
			if !ended || status != Failed || err != enough {
				t.Fatalf("%s ended with %d and %v, undisturbed with %d", action, status, err, want)
			}
		}
		for _, h := range []*site{undisturbed, disturbed} {
			h.hash(t)
		}
		if diff := cmp.Diff(ended(t, undisturbed), ended(t, disturbed)); diff != "" {
			t.Fatalf("%s: (-undisturbed +ended)\n%s", action, diff)
		}
	}
}

// hash brings all hashes up to date, as the next replicator would.
func (h *site) hash(t *testing.T) {
	t.Helper()
	c, err := h.config("relink", &logBook{})
	check(t, err)
	for _, p := range c.Swift.Policies {
		m := diskfile.NewManager(diskfile.Config{Devices: h.devices, Policy: p, ReclaimAge: c.ReclaimAge, CommitWindow: c.CommitWindow})
		dirs, err := filepath.Glob(filepath.Join(h.devices, "*", p.DataDir(), "[0-9]*"))
		check(t, err)
		for _, dir := range dirs {
			part, err := strconv.Atoi(filepath.Base(dir))
			check(t, err)
			_, _, err = m.SuffixHashes(filepath.Base(filepath.Dir(filepath.Dir(dir))), part, nil, true)
			check(t, err)
		}
	}
}

// ended is what is there when a step has ended, but for what tells how it went: states have the partitions, too, that the killed
// one had made; a file of hashes that was being written stays where it is, as Swift's do, and keeps its partition.
func ended(t *testing.T, h *site) map[string]string {
	tree := snapshot(t, h.devices)
	maps.DeleteFunc(tree, func(at, _ string) bool {
		unfinished, err := filepath.Match("tmp*.tmp", filepath.Base(at))
		check(t, err)
		return unfinished || strings.HasSuffix(at, ".json") && strings.Count(at, "/") == 1 || strings.Contains(at, "quarantined")
	})
	holds := map[string]bool{}
	for at := range tree {
		holds[filepath.Dir(at)] = true
	}
	maps.DeleteFunc(tree, func(at, what string) bool { return what == "directory" && strings.Count(at, "/") == 2 && !holds[at] })
	return tree
}
