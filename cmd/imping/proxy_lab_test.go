package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/lab/faults"
	"imping/lab/scenario"
)

// A stage of the conversation in which a proxy puts an archive, and behind which nothing more comes from it.
type putStage struct {
	name    string
	mark    string // text of the request's body
	after   int64  // bytes behind mark that still pass
	through int    // devices, of the first, that all of it reaches
	durable int    // devices that have a durable archive then, if the object's policy has enough devices
}

const (
	bodyMark   = "X-Document: object body"
	footerMark = "X-Document: object metadata"
	commitMark = "X-Document: put commit"
	wordMark   = "put_commit_confirmation"
)

// Swift's proxy is killed at each stage of a PUT, with Swift's object servers and with ours: the archives are there, and durable,
// on the same devices; clients are answered the same; and what reconstructors, Swift's and ours, make of it is the same.
func TestAProxyIsKilledAtEachStageOfAPut(t *testing.T) { // rule 28
	onlyInSoaks(t)
	l := startLab(t)
	stages := []putStage{
		{name: "nothing but the head", mark: bodyMark, after: faults.AllOfIt},
		{name: "the head of the body", mark: bodyMark},
		{name: "some of the body", mark: bodyMark, after: 100_000},
		{name: "the body", mark: footerMark, after: -int64(len(footerMark))},
		{name: "some of the footer", mark: footerMark, after: 20},
		{name: "the footer", mark: commitMark, after: faults.AllOfIt},
		{name: "the head of the commit", mark: commitMark},
		{name: "some of the word", mark: wordMark, after: -5},
		{name: "the word", mark: wordMark},
		{name: "one commit", mark: commitMark, after: faults.AllOfIt, through: 1, durable: 1},
		{name: "commits of fewer than it takes", mark: commitMark, after: faults.AllOfIt, through: 3, durable: 3},
		{name: "all commits but one", mark: commitMark, after: faults.AllOfIt, through: 5, durable: 5},
	}
	swifts := l.proxyKilled(stages, nil, "/usr/bin/swift-object-reconstructor")
	l.empty()
	ours := l.proxyKilled(stages, l.server(), "/usr/bin/env", asProgram+"=1", l.swift)
	for i, when := range []string{"when the proxy is dead", "after three passes of all reconstructors"} {
		if d := cmp.Diff(swifts[i], ours[i]); d != "" {
			t.Errorf("%s it is different (-stock +ours):\n%s", when, d)
		}
	}
}

// proxyKilled puts one object for each stage, and returns what is there, and answered, then and after passes of the reconstructor: all
// nodes at once, so that it takes some until durability has come to all.
func (l *lab) proxyKilled(stages []putStage, server []string, reconstructor ...string) (found []map[string]string) {
	l.Helper()
	ctx := l.Context()
	layout, err := scenario.NewLayout(l)
	if err != nil {
		l.Fatal(err)
	}
	const pol = "isal42"
	if err := l.Client().CreateContainer(ctx, "killed", pol); err != nil {
		l.Fatal(err)
	}
	between, withdraw := l.between(server...)
	defer withdraw()
	loaded := &scenario.Loaded{Layout: layout}
	for _, s := range stages {
		o := &scenario.Object{Policy: layout.Swift.ByName(pol), Container: "killed", Name: strings.ReplaceAll(s.name, " ", "-"), Kind: scenario.Sized, Size: 3*segment + 17, Seed: s.name}
		loaded.Objects = append(loaded.Objects, o)
		l.killProxyAt(s, layout, o, between)
	}
	look := func() {
		what := l.stored(loaded)
		for i, o := range loaded.Objects {
			resp := l.viaProxy(http.MethodGet, "/"+l.Account()+"/killed/"+o.Name)
			what["GET "+stages[i].name] = fmt.Sprintf("%d, %d bytes", resp.StatusCode, len(resp.body))
		}
		found = append(found, what)
	}
	look()
	count := func(what map[string]string, o *scenario.Object) (all, durable int) {
		for at := range what {
			if strings.HasPrefix(at, o.String()+" ") {
				if all++; strings.HasSuffix(at, "#d.data") {
					durable++
				}
			}
		}
		return all, durable
	}
	for i, s := range stages {
		if _, durable := count(found[0], loaded.Objects[i]); durable != s.durable {
			l.Errorf("%s: %d archives are durable, not %d", s.name, durable, s.durable)
		}
	}
	for range 3 {
		var all []func() error
		for _, node := range l.Nodes() {
			all = append(all, func() error { return l.daemon(append(slices.Clone(reconstructor), l.ReplicationConf(node), "once")...) })
		}
		l.together(all...)
	}
	look()
	for i, s := range stages {
		all, durable := count(found[0], loaded.Objects[i])
		allThen, durableThen := count(found[1], loaded.Objects[i])
		l.Logf("%s: %d archives, %d durable, GET %s; after the passes %d, %d durable, GET %s", s.name, all, durable, found[0]["GET "+s.name], allThen, durableThen, found[1]["GET "+s.name])
	}
	return found
}

// killProxyAt kills the proxy when no more than the stage lets pass has come to an object's devices, and starts it again.
func (l *lab) killProxyAt(s putStage, layout *scenario.Layout, o *scenario.Object, between map[int]*faults.Proxy) {
	l.Helper()
	ctx := l.Context()
	var list []*faults.Fault
	nodes := layout.Primaries(o)
	for _, n := range nodes[s.through:] {
		f := &faults.Fault{Kind: faults.PutStall, Device: n.Device.Device, Mark: s.mark, After: s.after}
		if err := between[l.NodeOf(f.Device)].Inject(f); err != nil {
			l.Fatal(err)
		}
		list = append(list, f)
	}
	mark := l.mark()
	answered := make(chan string, 1)
	go func() {
		resp, err := l.Do(ctx, http.MethodPut, o.Container, o.Name, nil, o.Content(), o.Size)
		if err == nil {
			resp.Body.Close()
			answered <- resp.Status
		}
		close(answered)
	}()
	l.until("the proxy to come so far as "+s.name, func() error {
		for _, f := range list {
			if f.Struck() == 0 {
				return fmt.Errorf("%v has not struck", f)
			}
		}
		for _, n := range nodes[:s.through] {
			if there, _ := filepath.Glob(filepath.Join(layout.HashDir(o, n.Device.Device), "*#d.data")); len(there) != 1 {
				return fmt.Errorf("%s has %d durable archives", n.Device.Device, len(there))
			}
		}
		return nil
	})
	l.KillProxy()
	if status, ok := <-answered; ok {
		l.Errorf("%s: the client was answered %s by a proxy that should have waited", s.name, status)
	}
	l.until("the servers to notice", func() error {
		lines := l.logged(mark, "/"+o.Container+"/"+o.Name+`"`)
		for _, n := range nodes {
			said := func(line string) bool { return strings.Contains(line, `"PUT /`+n.Device.Device+"/") }
			if !slices.ContainsFunc(lines, said) {
				return fmt.Errorf("%s: nothing is logged of a PUT: %q", n.Device.Device, lines)
			}
		}
		return nil
	})
	for _, p := range between {
		if err := p.Lift(); err != nil {
			l.Fatal(err)
		}
	}
	if err := l.RestartProxy(ctx); err != nil {
		l.Fatal(err)
	}
}
