package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/daemon"
	"imping/io/diskfile"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

// crashEnv holds a crashPlan in a server that is to be killed.
const crashEnv = "IMPING_TEST_CRASH_SERVER"

// roundsEnv is how often a server is killed, if not twice at each step.
const roundsEnv = "IMPING_CRASH_ROUNDS"

// crashSteps are the steps of a write, of all the writes that go on at once.
var crashSteps = []string{"open", "allocate", "write", "setxattr", "fsync", "invalidate", "link", "fsync dir", "rename durable", "cleanup"}

type crashPlan struct {
	Conf  string
	Step  string
	After bool // the step was done
	Nth   int64
	URing bool // the engine; else it is the plain one
}

// serveUntilKilled is a server's process. It ends with its parent, too.
func serveUntilKilled(encoded string) error {
	var p crashPlan
	if err := json.Unmarshal([]byte(encoded), &p); err != nil {
		return err
	}
	c, err := ReadConfig(p.Conf)
	if err != nil {
		return err
	}
	log, err := daemon.NewLogger(c.Section, "object-server", nil)
	if err != nil {
		return err
	}
	s, err := New(c, testSwift(), log)
	if err != nil {
		return err
	}
	var met atomic.Int64
	kill := func() {
		if met.Add(1) == p.Nth {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal is there
		}
	}
	for _, st := range s.stores {
		st.Intercept(func(step string, do func() error) error {
			if step == p.Step && !p.After {
				kill()
			}
			err := do()
			if step == p.Step && p.After {
				kill()
			}
			return err
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	return s.Serve(l)
}

// written is an object, with all the versions of it that were sent.
type written struct {
	policy   int
	part     int
	path     string
	versions []writtenVersion
	acked    int // how many of them are certain to be there, or a later one
}

type writtenVersion struct {
	at      timestamp.Timestamp
	content []byte // nil is a tombstone
}

// writer writes until the server is gone.
type writer struct {
	t       *testing.T
	addr    string
	r       *rand.Rand
	kind    int
	clock   *atomic.Int64
	objects []*written
	client  *netfast.Client
	target  ssync.Target
}

const (
	overHTTP = iota
	overSSYNC
	inTwoSteps // a fragment that is made durable afterwards
)

// maxWrites bounds what a writer does to a server that does not die.
const maxWrites = 400

func (w *writer) run(ctx context.Context) {
	for len(w.objects) < maxWrites {
		var batch []*written
		for range 1 + w.r.IntN(4) {
			var o *written
			if len(w.objects) > 0 && w.r.IntN(3) == 0 {
				o = w.objects[w.r.IntN(len(w.objects))]
			}
			if o == nil || slices.Contains(batch, o) {
				o = &written{policy: w.target.Policy, part: w.target.Partition, path: fmt.Sprintf("/a/c/%d-%d-%d", w.kind, w.target.Policy, len(w.objects))}
				w.objects = append(w.objects, o)
			}
			v := writtenVersion{at: timestamp.Timestamp{Raw: w.clock.Add(1)}}
			if len(o.versions) == 0 || w.r.IntN(4) > 0 {
				v.content = randomBytes(1 + w.r.IntN(100_000))
				if o.policy == 1 {
					v.content = archive(w.t, v.content, 2)
				}
			}
			o.versions = append(o.versions, v)
			batch = append(batch, o)
		}
		if w.write(ctx, batch) != nil {
			return
		}
		// So that there are hashes that can be stale.
		if w.r.IntN(3) == 0 && simple(ctx, "REPLICATE", fmt.Sprintf("http://%s/sda/%d", w.addr, w.target.Partition), nil,
			netfast.Field{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(w.target.Policy)}) != nil {
			return
		}
	}
}

func (w *writer) write(ctx context.Context, batch []*written) error {
	switch w.kind {
	case overHTTP:
		for _, o := range batch {
			if err := o.put(ctx, w.addr); err != nil {
				return err
			}
			o.acked = len(o.versions)
		}
		return nil
	case inTwoSteps:
		if err := w.session(ctx, batch, true); err != nil {
			return err
		}
	}
	if err := w.session(ctx, batch, false); err != nil {
		return err
	}
	for _, o := range batch {
		o.acked = len(o.versions)
	}
	return nil
}

func (o *written) last() writtenVersion { return o.versions[len(o.versions)-1] }

func (o *written) fields() []netfast.Field {
	v := o.last()
	fields := []netfast.Field{{Key: "X-Timestamp", Value: v.at.Internal()}, {Key: "Content-Type", Value: "text/plain"},
		{Key: "ETag", Value: fmt.Sprintf("%x", md5.Sum(v.content))}}
	if o.policy == 1 {
		fields = append(fields, netfast.Field{Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: "2"}, netfast.Field{Key: "X-Object-Sysmeta-Ec-Etag", Value: "abc"})
	}
	return fields
}

func (o *written) target() string { return fmt.Sprintf("/sda/%d%s", o.part, o.path) }

// put sends the last version in a request of its own.
func (o *written) put(ctx context.Context, addr string) error {
	method := "PUT"
	if o.last().content == nil {
		method = "DELETE"
	}
	return simple(ctx, method, "http://"+addr+o.target(), o.last().content, append(o.fields(), netfast.Field{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(o.policy)})...)
}

// simple sends a request on a connection of its own, and wants a success, or that there is nothing to delete.
func simple(ctx context.Context, method, url string, body []byte, fields ...netfast.Field) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for _, f := range fields {
		req.Header.Set(f.Key, f.Value)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 && resp.StatusCode != 404 {
		return errors.New(resp.Status)
	}
	return nil
}

var sessionTimeouts = ssync.Timeouts{Conn: 20 * time.Second, Node: 60 * time.Second, HTTP: 60 * time.Second}

// session brings the last versions of objects to the server, those that it wants.
func (w *writer) session(ctx context.Context, objects []*written, nonDurable bool) error {
	x, err := ssync.Open(ctx, w.client, w.target, sessionTimeouts)
	if err != nil {
		return err
	}
	defer x.Close()
	byHash := map[string]*written{}
	var offers []ssync.Offer
	for _, o := range objects {
		hash := hashOf(o.path)
		byHash[hash] = o
		offers = append(offers, ssync.Offer{Hash: hash, Data: o.last().at, NonDurable: nonDurable && o.last().content != nil})
	}
	if err := x.Offer(ctx, slices.Values(offers)); err != nil {
		return err
	}
	wanted, err := x.Wanted(ctx)
	if err != nil {
		return err
	}
	for _, want := range wanted {
		o := byHash[want.Hash]
		v := o.last()
		if v.content == nil {
			err = x.Delete(o.path, v.at)
		} else {
			err = o.send(ctx, x, nonDurable)
		}
		if err != nil {
			return err
		}
	}
	return x.Finish(ctx)
}

func (o *written) send(ctx context.Context, x *ssync.Session, nonDurable bool) error {
	content := o.last().content
	var header []ssync.Field
	for _, f := range o.fields() {
		header = append(header, ssync.Field(f))
	}
	p, err := x.Put(ssync.PutHead{Path: o.path, Length: int64(len(content)), Header: header, NoCommit: nonDurable})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(content, 30_000) {
		if err := p.WriteFragment(part); err != nil {
			return err
		}
	}
	return p.Commit(ctx)
}

// A server that is killed in the middle of many writes leaves no file that is short, has no metadata or
// another MD5 than it says; what it has said is there is there, temporary files are not, and the next pass completes
// the rest, with hashes that are right (rule 21).
func TestKilledServersLeaveWholeFiles(t *testing.T) {
	t.Parallel()
	rounds := 2 * len(crashSteps)
	if n := os.Getenv(roundsEnv); n != "" {
		var err error
		if rounds, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for round := range rounds {
		p := crashPlan{Step: crashSteps[round/2%len(crashSteps)], After: round%2 == 1, Nth: 1 + r.Int64N(30), URing: (round/2+round)%2 == 1}
		name := fmt.Sprintf("%d, before %s %d", round, p.Step, p.Nth)
		if p.After {
			name = fmt.Sprintf("%d, after %s %d", round, p.Step, p.Nth)
		}
		if p.URing {
			name += " by io_uring"
		}
		t.Run(name, func(t *testing.T) { p.crash(t, rand.New(rand.NewPCG(seed, uint64(round)))) })
	}
}

func (p crashPlan) crash(t *testing.T, r *rand.Rand) {
	devices := sda(t)
	settings := map[string]string{"devices": devices, "mount_check": "false", "bind_port": "0", "fallocate_reserve": "0", "commit_window": "60",
		"replication_concurrency": "0", "replication_concurrency_per_device": "0", "log_address": filepath.Join(t.TempDir(), "none"), "log_level": "ERROR",
		"reclaim_age": strconv.Itoa(100 * 365 * 86400)}
	if p.URing {
		settings["imping_io_engine"] = "uring"
	}
	p.Conf = writeConf(t, settings)
	encoded, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+string(encoded))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v %q", err, addr)
	}
	addr = strings.TrimSpace(addr)

	client := netfast.NewClient(netfast.Options{ConnTimeout: 20 * time.Second, NodeTimeout: 60 * time.Second})
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var clock atomic.Int64
	clock.Store(time.Now().Add(-time.Hour).UnixNano() / 10_000)
	var writers []*writer
	var group sync.WaitGroup
	for i := range 5 { // each with a partition of its own, for sessions of one exclude each other
		kind, policy := i/2, i%2
		if kind == inTwoSteps {
			policy = 1
		}
		w := &writer{t: t, addr: addr, kind: kind, clock: &clock, client: client, r: rand.New(rand.NewPCG(r.Uint64(), 1)),
			target: ssync.Target{Addr: addr, Device: "sda", Partition: i, Policy: policy, FragIndex: 2}}
		if policy == 0 {
			w.target.FragIndex = -1
		}
		writers = append(writers, w)
		group.Go(func() { w.run(ctx) })
	}
	group.Wait()
	err = cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the server was not killed at step %q: %v", p.Step, err)
	}

	wholeFiles(t, devices)
	s := ours(t, devices, settings)
	versions := 0
	for _, w := range writers {
		for _, o := range w.objects {
			if seen := o.seen(t, s.addr); seen < o.acked {
				t.Errorf("%s of policy %d: version %d of %d is seen, and %d was acknowledged", o.path, o.policy, seen, len(o.versions), o.acked)
			}
			versions += len(o.versions)
		}
	}
	for _, w := range writers {
		w.target.Addr = s.addr
		if err := w.session(ctx, w.objects, false); err != nil {
			t.Errorf("the next pass: %v", err)
		}
		for _, o := range w.objects {
			if seen := o.seen(t, s.addr); seen != len(o.versions) {
				t.Errorf("%s of policy %d after the next pass: version %d of %d is seen", o.path, o.policy, seen, len(o.versions))
			}
		}
	}
	wholeFiles(t, devices)
	for _, w := range writers {
		part := strconv.Itoa(w.target.Partition)
		var hashes [2]suffix.Hashes
		for i := range hashes {
			a := ask(t, s.addr, "REPLICATE", "/sda/"+part, fmt.Sprintf("X-Backend-Storage-Policy-Index: %d", w.target.Policy))
			if hashes[i], err = suffix.Decode([]byte(a.Body)); err != nil {
				t.Fatal(err)
			}
			os.Remove(filepath.Join(devices, "sda", testSwift().Policies[w.target.Policy].DataDir(), part, "hashes.pkl"))
		}
		if d := cmp.Diff(hashes[1], hashes[0]); d != "" {
			t.Errorf("the hashes of partition %s are stale (-right +stale):\n%s", part, d)
		}
	}
	if versions < 5 {
		t.Errorf("%d versions were written: the test has gone blind", versions)
	}
}

// seen is the number of the version that a client gets, 0 for none.
func (o *written) seen(t *testing.T, addr string) int {
	t.Helper()
	a := ask(t, addr, "GET", o.target(), fmt.Sprintf("X-Backend-Storage-Policy-Index: %d", o.policy))
	at, told := a.Header["X-Backend-Timestamp"]
	switch {
	case a.Status == "404 Not Found" && !told:
		return 0
	case a.Status != "200 OK" && a.Status != "404 Not Found":
		t.Errorf("GET of %s: %s", o.path, a.Status)
		return 0
	}
	for i, v := range o.versions {
		if v.at.Internal() != at {
			continue
		}
		if (a.Status == "200 OK") != (v.content != nil) || v.content != nil && a.Body != string(v.content) {
			t.Errorf("GET of %s: %s, and %d bytes that are not those of version %d", o.path, a.Status, len(a.Body), i+1)
		}
		return i + 1
	}
	t.Errorf("GET of %s: %s, of %q, which nobody has sent", o.path, a.Status, at)
	return 0
}

// wholeFiles looks at every file that has a name.
func wholeFiles(t *testing.T, devices string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(devices, "sda"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch filepath.Ext(path) {
		case ".data", ".ts", ".meta":
		case ".lock", ".lock-replication", ".pkl", ".invalid":
			return nil
		case ".tmp": // of hashes.pkl, beside it, as Swift leaves them
			if strings.Count(strings.TrimPrefix(path, devices), "/") == 4 {
				return nil
			}
			fallthrough
		default:
			t.Errorf("what is %s?", path)
			return nil
		}
		meta, err := diskfile.ReadMetadata(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		if b, err := os.ReadFile(path); err != nil || filepath.Ext(path) == ".data" &&
			(meta["Content-Length"] != strconv.Itoa(len(b)) || meta["ETag"] != fmt.Sprintf("%x", md5.Sum(b))) {
			t.Errorf("%s: %v, %d bytes of %s, or a wrong MD5", path, err, len(b), meta["Content-Length"])
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
