package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"imping/io/diskfile"
	"imping/lab/real"
	"imping/lab/scenario"
	"imping/netfast"
	"imping/netfast/replicate"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// ourServers are the nodes whose server of a kind is ours. A test that starts the lab gets Swift's back.
var ourServers = map[real.Kind][]int{}

// serve replaces the replication servers of nodes by ours, started as operators start Swift's.
func (l *lab) serve(nodes ...int) {
	l.Helper()
	l.serveAs(real.ReplicationServer, nodes...)
}

func (l *lab) serveAs(kind real.Kind, nodes ...int) {
	l.Helper()
	l.replace(kind, nodes, l.server()...)
	ourServers[kind] = append(ourServers[kind], nodes...)
}

// server is the command line of our server, without its conf.
func (l *lab) server() []string {
	l.Helper()
	program := filepath.Join(shared.root, "bin", swiftServer)
	if _, err := os.Stat(program); err != nil {
		// The lab's user can not reach where the test binary lies.
		if err := copyProgram(program); err != nil {
			l.Fatal(err)
		}
	}
	return []string{"/usr/bin/env", asProgram + "=1", program}
}

// serveStock gives Swift's servers back.
func (l *lab) serveStock() {
	l.Helper()
	for kind, nodes := range ourServers {
		l.replace(kind, nodes)
	}
	clear(ourServers)
}

func (l *lab) replace(kind real.Kind, nodes []int, argv ...string) {
	l.Helper()
	conf := l.ReplicationConf
	if kind == real.ObjectServer {
		conf = l.Conf
	}
	var group errgroup.Group
	for _, node := range nodes {
		group.Go(func() error {
			if err := l.StopServer(node, kind); err != nil {
				return err
			}
			own := slices.Clone(argv)
			if len(own) > 0 {
				own = append(own, conf(node))
			}
			return l.StartServer(l.Context(), node, kind, own...)
		})
	}
	if err := group.Wait(); err != nil {
		l.Fatal(err)
	}
}

func copyProgram(to string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := os.Open(exe)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// object makes up an object that has a place on each of devs.
func (l *lab) object(layout *scenario.Layout, p *policy.Policy, kind scenario.Kind, size int64, devs ...string) *scenario.Object {
	l.Helper()
	for i := range 10_000 {
		o := &scenario.Object{Policy: p, Container: p.Name, Name: fmt.Sprintf("%s-%d-%d", kind, size, i), Kind: kind, Size: size}
		o.Seed = o.Name
		primaries := layout.Primaries(o)
		at := func(dev string) int {
			return slices.IndexFunc(primaries, func(n ring.Node) bool { return n.Device.Device == dev })
		}
		// Of an archive each is the neighbour of the next.
		good := at(devs[0]) >= 0
		for i := 1; i < len(devs) && good; i++ {
			good = at(devs[i]) >= 0 && (p.Type == policy.Replication || at(devs[i]) == (at(devs[i-1])+1)%len(primaries))
		}
		if good {
			return o
		}
	}
	l.Fatalf("no object of policy %s has a place on %q", p.Name, devs)
	return nil
}

// confWith is a conf with more lines in a section, in a file of its own.
func (l *lab) confWith(from, name, section string, lines ...string) string {
	l.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		l.Fatal(err)
	}
	head := "[" + section + "]\n"
	text := string(b)
	if !strings.Contains(text, head) {
		text += head
	}
	text = strings.Replace(text, head, head+strings.Join(append(lines, ""), "\n"), 1)
	path := filepath.Join(shared.root, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.Fatal(err)
	}
	return path
}

// daemon runs one of Swift's programs.
func (l *lab) daemon(argv ...string) error {
	var out bytes.Buffer
	exit, _, err := l.Cluster.Run(l.Context(), &out, argv...)
	if err == nil && exit != 0 {
		err = fmt.Errorf("%q ended with status %d:\n%s", argv, exit, out.String())
	}
	return err
}

// expirer is Swift's, a pass of it: Debian has the program in another package.
const expirer = `
import sys
from swift.common.daemon import run_daemon
from swift.obj.expirer import ObjectExpirer
run_daemon(ObjectExpirer, sys.argv[1], once=True)
`

// Our servers on the replication port, Swift's on the clients', in one cluster: whoever sends, what arrives is
// byte for byte what was there, Swift's proxy and auditor take it, and Swift's other daemons find
// the server that they expect (rules 22, 23, 25 and 27).
func TestOurServersServeSwiftsDaemons(t *testing.T) {
	l := startLab(t)
	ctx := t.Context()
	layout, err := scenario.NewLayout(l)
	if err != nil {
		t.Fatal(err)
	}
	rep, ec := layout.Swift.ByName("rep3"), layout.Swift.ByName("isal104")
	for _, p := range []*policy.Policy{rep, ec} {
		if err := l.Client().CreateContainer(ctx, p.Name, p.Name); err != nil {
			t.Fatal(err)
		}
	}
	// All that is lost on one device has a neighbour on another, so that a pass over that one is enough.
	neighbour := func(p *policy.Policy) string {
		nodes := layout.Primaries(l.object(layout, p, scenario.Sized, 0, wiped))
		at := slices.IndexFunc(nodes, func(n ring.Node) bool { return n.Device.Device == wiped })
		return nodes[(at+len(nodes)-1)%len(nodes)].Device.Device
	}
	left, copies := neighbour(ec), neighbour(rep)
	home, other := l.NodeOf(wiped), l.NodeOf(left)
	loaded := &scenario.Loaded{Layout: layout}
	for p, from := range map[*policy.Policy]string{rep: copies, ec: left} {
		for kind, sizes := range map[scenario.Kind][]int64{
			scenario.Sized: {0, 1, segment + 1}, scenario.Posted: {2000}, scenario.Overwritten: {3000}, scenario.Deleted: {10}, scenario.Expiring: {100_000},
		} {
			for _, size := range sizes {
				loaded.Objects = append(loaded.Objects, l.object(layout, p, kind, size, from, wiped))
			}
		}
	}
	if err := loaded.Store(ctx, l, loaded.Objects); err != nil {
		t.Fatal(err)
	}
	shortLived := l.object(layout, ec, scenario.Random, 10, left, wiped)
	if _, err := l.Client().Put(ctx, ec.Name, shortLived.Name, http.Header{"X-Delete-After": {"1"}}, shortLived.Content(), shortLived.Size); err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Second)
	l.until("the object that expires is everywhere", func() error { return l.each(layout, shortLived, ".data") })
	before := l.snapshot(wiped)

	// Stock sends, to a server of ours, with stock and ours among the other peers.
	l.serve(1, 3, 5, 7)
	if !slices.Contains(ourServers[real.ReplicationServer], home) {
		t.Fatalf("node %d has no server of ours", home)
	}
	l.wipe(wiped)
	replicator := l.confWith(l.ReplicationConf(l.NodeOf(copies)), "ssync-replicator.conf", "object-replicator", "sync_method = ssync")
	l.together(
		func() error {
			return l.daemon("/usr/bin/swift-object-reconstructor", l.ReplicationConf(other), "once", "-d", left)
		},
		func() error { return l.daemon("/usr/bin/swift-object-replicator", replicator, "once", "-d", copies) },
	)
	l.same(before)

	// Swift's proxy, and its object server, give what ours has written: without it there are too few.
	others := slices.DeleteFunc(layout.Primaries(shortLived), func(n ring.Node) bool { return n.Device.Device == wiped })[:ec.Parity]
	for _, o := range loaded.Objects {
		if o.Policy != ec || o.Kind == scenario.Deleted {
			continue
		}
		for _, n := range others {
			dir := layout.HashDir(o, n.Device.Device)
			if err := os.Rename(dir, dir+".away"); err != nil {
				t.Fatal(err)
			}
			defer os.Rename(dir+".away", dir)
		}
	}
	if err := scenario.VerifyGETs(ctx, l, loaded); err != nil {
		t.Error(err)
	}
	for _, o := range loaded.Objects {
		resp, err := l.Do(ctx, http.MethodHead, o.Container, o.Name, nil, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		etag, err := o.ETag()
		if err != nil {
			t.Fatal(err)
		}
		if o.Kind != scenario.Deleted && (resp.StatusCode != 200 || resp.ContentLength != o.Size || strings.Trim(resp.Header.Get("Etag"), `"`) != etag) ||
			o.Kind == scenario.Deleted && resp.StatusCode != 404 {
			t.Errorf("HEAD of %v: %s, %d bytes, %v", o, resp.Status, resp.ContentLength, resp.Header)
		}
		if o.Policy != ec || o.Kind == scenario.Deleted {
			continue
		}
		for _, n := range others {
			dir := layout.HashDir(o, n.Device.Device)
			if err := os.Rename(dir+".away", dir); err != nil {
				t.Fatal(err)
			}
		}
	}

	// Both ends are ours, everywhere; an object of which stock would spoil the metadata is among them.
	foreign := l.object(layout, ec, scenario.Foreign, 5000, left, wiped)
	if err := loaded.Store(ctx, l, []*scenario.Object{foreign}); err != nil {
		t.Fatal(err)
	}
	before = l.snapshot(wiped)
	l.serve(slices.DeleteFunc(l.Nodes(), func(n int) bool { return slices.Contains(ourServers[real.ReplicationServer], n) })...)
	if err := os.RemoveAll(filepath.Join(l.DevicePath(wiped), ec.DataDir())); err != nil {
		t.Fatal(err)
	}
	if exit, s := l.pass(other, "-d", left); exit != exitDone || s.Rebuilt == 0 {
		t.Errorf("status %d, %+v", exit, s)
	}
	l.same(before)

	l.sameHashes(layout, home, wiped)

	// An update that ours could not deliver is delivered by Swift's updater; an object that has expired is
	// deleted by Swift's expirer, which speaks to ours; Swift's auditor finds nothing wrong.
	pending := l.object(layout, rep, scenario.Random, 4, wiped)
	l.putPending(layout, pending)
	if waiting, _ := filepath.Glob(filepath.Join(l.DevicePath(wiped), "async_pending*", "*", "*")); len(waiting) != 1 {
		t.Errorf("%d container updates wait, want 1", len(waiting))
	}
	container := l.confWith(filepath.Join(l.SwiftDir(), "container-server.conf"), "container-updater.conf", "container-updater")
	proxy := l.confWith(filepath.Join(l.SwiftDir(), "proxy-server.conf"), "object-expirer.conf", "object-expirer", "recon_cache_path = "+l.ReconPath(home))
	text, err := os.ReadFile(proxy)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("catch_errors gatekeeper healthcheck cache listing_formats tempauth proxy-server"), []byte("catch_errors cache proxy-server"), 1)
	if err := os.WriteFile(proxy, text, 0o644); err != nil {
		t.Fatal(err)
	}
	mark := l.mark()
	l.together(
		func() error { return l.daemon("/usr/bin/swift-object-updater", l.ReplicationConf(home), "once") },
		func() error {
			if err := l.daemon("/usr/bin/swift-container-updater", container, "once"); err != nil {
				return err
			}
			time.Sleep(time.Until(expires)) // long ago, as a rule
			return l.daemon("/usr/bin/python3", "-c", expirer, proxy)
		},
	)
	if lines := l.logged(mark, "Pass completed in"); len(lines) != 1 || !strings.Contains(lines[0], "1 objects expired") {
		t.Errorf("the expirer says %q", lines)
	}
	l.until("the expired object's tombstones", func() error { return l.each(layout, shortLived, ".ts") })
	resp, err := l.Client().Get(ctx, rep.Name, "", http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	listing, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if waiting, _ := filepath.Glob(filepath.Join(l.DevicePath(wiped), "async_pending*", "*", "*")); err != nil || len(waiting) != 0 || !strings.Contains(string(listing), pending.Name+"\n") {
		t.Errorf("after the updater %q wait, and %s is not in the container (%v):\n%s", waiting, pending.Name, err, listing)
	}
	if lines, err := l.StockAuditor(ctx, home); err != nil || !strings.Contains(strings.Join(lines, "\n"), "Total quarantined: 0, Total errors: 0,") {
		t.Errorf("Swift's auditor says %q, %v", lines, err)
	}
	if err := scenario.NothingQuarantined(l); err != nil {
		t.Error(err)
	}
	if bugs := l.logged(0, "BUG: "); len(bugs) > 0 {
		t.Errorf("logged: %q", bugs)
	}
	os.RemoveAll(layout.HashDir(pending, wiped))
}

// What proxies send is kept by our servers as stock keeps it, on every node, and given back: objects of every kind, through
// Swift's proxy, of both types of policies; and Swift's auditor finds nothing wrong.
func TestOurServersTakeWhatProxiesSend(t *testing.T) {
	l := startLab(t)
	ctx := t.Context()
	layout, err := scenario.NewLayout(l)
	if err != nil {
		t.Fatal(err)
	}
	loaded := &scenario.Loaded{Layout: layout}
	for _, name := range append([]string{"rep3"}, usualPolicies...) {
		p := layout.Swift.ByName(name)
		if err := l.Client().CreateContainer(ctx, name, name); err != nil {
			t.Fatal(err)
		}
		for kind, sizes := range map[scenario.Kind][]int64{
			scenario.Sized: {0, 1, 2*segment + 1}, scenario.Posted: {2000}, scenario.Overwritten: {3000}, scenario.Deleted: {10}, scenario.Expiring: {100_000},
			scenario.Foreign: {5000},
		} {
			for _, size := range sizes {
				loaded.Objects = append(loaded.Objects, l.object(layout, p, kind, size, wiped))
			}
		}
	}
	if err := loaded.Store(ctx, l, loaded.Objects); err != nil {
		t.Fatal(err)
	}
	stocks := l.stored(loaded)
	l.empty()
	l.serveAs(real.ObjectServer, l.Nodes()...)
	if err := loaded.Store(ctx, l, loaded.Objects); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(stocks, l.stored(loaded)); d != "" {
		t.Errorf("what was stored differs (-stock +ours):\n%s", d)
	}
	if err := scenario.VerifyGETs(ctx, l, loaded); err != nil {
		t.Error(err)
	}
	mark := l.mark()
	for _, node := range l.Nodes()[:2] {
		if _, err := l.StockAuditor(ctx, node); err != nil {
			t.Fatal(err)
		}
	}
	if lines := l.logged(mark, "Quarantined"); len(lines) > 0 {
		t.Errorf("the auditor: %q", lines)
	}
}

// stored are the files of objects on all their primaries, without their times.
func (l *lab) stored(loaded *scenario.Loaded) map[string]string {
	l.Helper()
	found := map[string]string{}
	for _, o := range loaded.Objects {
		for _, n := range loaded.Layout.Primaries(o) {
			paths, err := filepath.Glob(filepath.Join(loaded.Layout.HashDir(o, n.Device.Device), "*"))
			if err != nil {
				l.Fatal(err)
			}
			for _, path := range paths {
				b, err := os.ReadFile(path)
				if err != nil {
					l.Fatal(err)
				}
				meta, err := diskfile.ReadMetadata(path)
				if err != nil {
					l.Fatal(err)
				}
				for _, key := range []string{"X-Timestamp", "X-Delete-At", "Content-Type-Timestamp"} {
					if _, ok := meta[key]; ok {
						meta[key] = "there"
					}
				}
				name := filepath.Base(path)
				name = name[strings.IndexAny(name, "#.")+1:]
				if i := strings.IndexByte(name, '#'); i >= 0 { // behind the fraction of the time
					name = name[i:]
				} else {
					name = filepath.Ext(name)
				}
				found[fmt.Sprintf("%v on %s: %s", o, n.Device.Device, name)] = fmt.Sprintf("%x %q", md5.Sum(b), meta)
			}
		}
	}
	return found
}

// together does things side by side: each of Swift's programs waits most of the time for itself to be loaded.
func (l *lab) together(do ...func() error) {
	l.Helper()
	var group errgroup.Group
	for _, f := range do {
		group.Go(f)
	}
	if err := group.Wait(); err != nil {
		l.Fatal(err)
	}
}

// until waits until there is no error.
func (l *lab) until(what string, done func() error) {
	l.Helper()
	var err error
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if err = done(); err == nil {
			return
		}
		if time.Now().After(end) {
			l.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
}

// each wants one file that ends like that, and no other, of an object on all of its primaries.
func (l *lab) each(layout *scenario.Layout, o *scenario.Object, end string) error {
	for _, n := range layout.Primaries(o) {
		entries, err := os.ReadDir(layout.HashDir(o, n.Device.Device))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(entries) != 1 || !strings.HasSuffix(entries[0].Name(), end) {
			return fmt.Errorf("%s: %v", n.Device.Device, entries)
		}
	}
	return nil
}

// putPending stores an object on one device, by way of our server, with a container server that does not listen.
func (l *lab) putPending(layout *scenario.Layout, o *scenario.Object) {
	l.Helper()
	primaries := layout.Primaries(o)
	n := primaries[slices.IndexFunc(primaries, func(n ring.Node) bool { return n.Device.Device == wiped })]
	path := fmt.Sprintf("http://%s/%s/%d/%s/%s/%s", ringAddress(n), wiped, layout.Partition(o), l.Account(), o.Container, o.Name)
	req, err := http.NewRequestWithContext(l.Context(), http.MethodPut, path, o.Content())
	if err != nil {
		l.Fatal(err)
	}
	req.ContentLength = o.Size
	for key, value := range map[string]string{"X-Timestamp": timestamp.FromTime(time.Now()).Internal(), "Content-Type": "text/plain", "X-Container-Host": "127.0.0.1:1",
		"X-Container-Device": "sdb", "X-Container-Partition": "0", "X-Backend-Storage-Policy-Index": strconv.Itoa(o.Policy.Index)} {
		req.Header.Set(key, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusCreated {
		l.Fatalf("PUT of %v: %s", o, resp.Status)
	}
}

// sameHashes asks both servers of a node for all suffix hashes of a device, each of which has
// to compute them anew.
func (l *lab) sameHashes(layout *scenario.Layout, node int, dev string) {
	l.Helper()
	c := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: time.Minute})
	defer c.Close()
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	suffixes := 0
	for _, p := range layout.Swift.Policies {
		var n ring.Node
		for _, d := range layout.Ring(p).Devs {
			if d != nil && d.Device == dev {
				n.Device = d
			}
		}
		parts, err := filepath.Glob(filepath.Join(l.DevicePath(dev), p.DataDir(), "*"))
		if err != nil {
			l.Fatal(err)
		}
		for _, path := range parts {
			part, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				l.Errorf("no partition: %s", path)
				continue
			}
			var answers [2]any
			for i, addr := range []string{fmt.Sprintf("%s:%d", n.Device.IP, n.Device.Port), ringAddress(n)} {
				os.Remove(filepath.Join(path, "hashes.pkl"))
				hashes, err := replicate.Hashes(ctx, c, replicate.Target{Addr: addr, Device: dev, Partition: part, Policy: p.Index}, 1<<20)
				if err != nil {
					l.Fatal(err)
				}
				answers[i] = hashes
				suffixes += len(hashes)
			}
			if d := cmp.Diff(answers[0], answers[1]); d != "" {
				l.Errorf("%s (-stock +ours):\n%s", path, d)
			}
		}
	}
	if suffixes < 20 {
		l.Errorf("%d suffixes were compared: the test has gone blind", suffixes/2)
	}
}
