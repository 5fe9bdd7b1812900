package main

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imping/lab/real"
	"imping/lab/scenario"
	"imping/swift/policy"
)

// What Swift's proxy stores `imping object` reads, and the other way round, under all policies that the proxy itself reads right, also with
// nodes down; metadata and deletions, too.
func TestObjectsWithoutAProxyAreThoseOfTheProxy(t *testing.T) { // rule 28
	l := startLab(t)
	names := []string{"isal42", "lec42", "isal104", "isal42dup2"}
	loaded := l.load(scenario.LoadOptions{Seed: 47, Policies: names, Sizes: []int64{0, 1, segment - 1, segment, 2*segment + 17}, Kinds: []scenario.Kind{scenario.Posted, scenario.Deleted}})
	work := t.TempDir()
	object := func(exit int, args ...string) string {
		t.Helper()
		got, out := l.run(l.self, append([]string{"object", args[0], "--swift-conf", l.SwiftConf()}, args[1:]...)...)
		if got != exit {
			t.Errorf("%q: status %d, want %d:\n%s", args, got, exit, out)
		}
		return out
	}
	to := filepath.Join(work, "got")
	for _, o := range loaded.Objects {
		name, flag := l.objectName(o), "--policy="+o.Policy.Name
		if o.Kind == scenario.Deleted {
			if out := object(exitFailed, "get", name, flag, "-o", to); !strings.Contains(out, "is not there: deleted at ") {
				t.Errorf("%v: %s", o, out)
			}
			continue
		}
		object(exitDone, "get", name, flag, "-o", to)
		got, err := os.ReadFile(to)
		if sum := md5.Sum(got); err != nil || int64(len(got)) != o.Size || hex.EncodeToString(sum[:]) != l.viaProxy(http.MethodHead, name).Header.Get("Etag") {
			t.Errorf("%v: %d bytes, %v", o, len(got), err)
		}
		os.Remove(to)
		if o.Size == 2*segment+17 {
			if part := object(exitDone, "get", name, flag, "--range", fmt.Sprintf("%d-%d", segment-1, segment)); part != string(got[segment-1:segment+1]) {
				t.Errorf("%v: part %q", o, part)
			}
		}
	}
	content := bytes.Repeat([]byte("imping "), (2*segment+500)/7)
	file := filepath.Join(work, "file")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	swift, err := policy.Load(l.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	for _, pol := range names {
		container := loaded.Objects[0].Container
		for _, o := range loaded.Objects {
			if o.Policy.Name == pol {
				container = o.Container
			}
		}
		name, flag := "/"+l.Account()+"/"+container+"/without a proxy", "--policy="+pol
		var said struct {
			Size   int64
			ETag   string
			Nodes  []string
			Failed []string
		}
		out := object(exitDone, "put", name, file, flag, "--header", "X-Object-Meta-Color: blau", "--content-type", "text/x-imping", "--json")
		if err := json.Unmarshal([]byte(out), &said); err != nil || len(said.Nodes) != swift.ByName(pol).Replicas() || said.Size != int64(len(content)) {
			t.Errorf("%s: %v %s", pol, err, out)
		}
		resp := l.viaProxy(http.MethodGet, name)
		if !bytes.Equal(resp.body, content) || resp.StatusCode != 200 || resp.Header.Get("X-Object-Meta-Color") != "blau" || resp.Header.Get("Content-Type") != "text/x-imping" || resp.Header.Get("Etag") != said.ETag {
			t.Errorf("%s: the proxy answers %s with %v and %d bytes", pol, resp.Status, resp.Header, len(resp.body))
		}
		object(exitDone, "post", name, flag, "--header", "X-Object-Meta-Color: rot")
		if resp := l.viaProxy(http.MethodHead, name); resp.Header.Get("X-Object-Meta-Color") != "rot" {
			t.Errorf("%s: after a POST the proxy has %v", pol, resp.Header)
		}
		if out := object(exitDone, "head", name, flag); !strings.Contains(out, "X-Object-Meta-Color: rot\n") || !strings.Contains(out, "Etag: "+said.ETag+"\n") {
			t.Errorf("%s: %s", pol, out)
		}
		// As many nodes as it bears are down.
		if pol == "isal104" {
			down := map[int]bool{}
			o := &scenario.Object{Policy: swift.ByName(pol), Container: container, Name: "without a proxy"}
			for i, n := range loaded.Layout.Primaries(o) {
				if i < 2 { // each has two devices
					down[l.NodeOf(n.Device.Device)] = true
				}
			}
			for node := range down {
				if err := l.StopServer(node, real.ObjectServer); err != nil {
					t.Fatal(err)
				}
			}
			object(exitDone, "get", name, flag, "-o", to)
			if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s, with %d nodes down: %d bytes, %v", pol, len(down), len(got), err)
			}
			for node := range down {
				if err := l.StartServer(t.Context(), node, real.ObjectServer); err != nil {
					t.Fatal(err)
				}
			}
		}
		object(exitDone, "delete", name, flag)
		if resp := l.viaProxy(http.MethodGet, name); resp.StatusCode != 404 {
			t.Errorf("%s: after a DELETE the proxy answers %s", pol, resp.Status)
		}
		object(exitFailed, "head", name, flag)
	}
	for _, c := range []struct {
		args []string
		say  string
	}{
		{[]string{"get", "no/name", "--policy", "isal42"}, "not /account/container/object"},
		{[]string{"get", "/a/c/o"}, "say with --policy"},
		{[]string{"get", "/a/c/o", "--policy", "isal42", "-o", "/nowhere/at/all"}, "is not there"},
		{[]string{"put", "/a/c/o", "/nowhere", "--policy", "isal42"}, "/nowhere"},
		{[]string{"put", "/a/c/o", file, "--policy", "isal42", "--etag", "0"}, "the MD5 of the body is"},
		{[]string{"put", "/a/c/o", file, "--policy", "isal42", "--header", "X-Timestamp: 1"}, "not a client's to give"},
		{[]string{"put", "/a/c/o", file, "--policy", "isal42", "--timestamp", "x"}, "--timestamp"},
		{[]string{"head", "/a/c/o", "--policy", "isal42", "--swift-dir", work}, work},
	} {
		if out := object(exitFailed, c.args...); !strings.Contains(out, c.say) {
			t.Errorf("%q: %s", c.args, out)
		}
	}
}

// proxied is an answer of the proxy's, body included.
type proxied struct {
	*http.Response
	body []byte
}

// viaProxy asks the proxy about an object of the lab's account.
func (l *lab) viaProxy(method, name string) proxied {
	l.Helper()
	parts := strings.SplitN(name, "/", 4)
	resp, err := l.Do(l.Context(), method, parts[2], parts[3], nil, nil, 0)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	return proxied{resp, got}
}
