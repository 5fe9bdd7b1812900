package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imping/io/diskfile"
	"imping/lab/faults"
	"imping/lab/real"
	"imping/lab/scenario"
	"imping/swift/objhash"
	"imping/swift/pickle"
	"imping/swift/policy"
	"imping/swift/ring"
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

// What either puts either gets, under every scheme that the proxy reads right, of all sizes, with ranges at the edges of segments, with
// everything there and with as many devices gone as the scheme bears; what is put meanwhile, too, if there are devices to stand in.
// Flat XOR codes, of which the proxy does not know which fragments it needs, have one client.
func TestObjectsGoBothWays(t *testing.T) { // rule 28
	onlyInSoaks(t)
	l := startLab(t)
	between, withdraw := l.between()
	defer withdraw()
	layout, err := scenario.NewLayout(l)
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string]way{"proxy": l.throughProxy, "imping": l.withoutProxy}
	sizes := []int{0, 1, segment - 1, segment, segment + 1, 3*segment + 17, 100 << 20}
	data := make([]byte, slices.Max(sizes))
	rand.NewChaCha8([32]byte{6}).Read(data)
	for _, name := range append(slices.Clone(usualPolicies), rareNames()...) {
		t.Run(name, func(t *testing.T) {
			l := l.with(t)
			pol := layout.Swift.ByName(name)
			if err := l.Client().CreateContainer(t.Context(), "both-"+name, name); err != nil {
				t.Fatal(err)
			}
			clients, bears := []string{"imping", "proxy"}, pol.Parity
			if strings.HasPrefix(pol.ECType, "flat_xor") {
				clients, bears = clients[:1], int(pol.ECType[len(pol.ECType)-1]-'0')-1
			}
			object := func(by string, size int) *scenario.Object {
				return &scenario.Object{Policy: pol, Container: "both-" + name, Name: fmt.Sprintf("%s-%d", by, size), Size: int64(size)}
			}
			// gone has the object's devices of some fragments gone.
			gone := func(o *scenario.Object) (back func()) {
				var lists []*faults.Proxy
				for i, n := range layout.Primaries(o) {
					if pol.BackendIndex(i) < bears {
						p := between[l.NodeOf(n.Device.Device)]
						if err := p.Inject(&faults.Fault{Kind: faults.Unmounted, Device: n.Device.Device}); err != nil {
							t.Fatal(err)
						}
						lists = append(lists, p)
					}
				}
				return func() {
					for _, p := range lists {
						if err := p.Lift(); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			read := func(o *scenario.Object, when string) {
				want := data[:o.Size]
				for _, client := range clients {
					if got, err := ways[client](t, http.MethodGet, o, "", nil); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %v by %s: %d bytes, %v", when, o, client, len(got), err)
					}
				}
				if o.Size < 3*segment || o.Size > 4*segment {
					return
				}
				for _, r := range [][2]int{{0, 0}, {segment - 1, segment}, {segment, segment}, {segment, 2*segment - 1}, {segment - 1, 2 * segment}, {3 * segment, 3*segment + 16}, {1, 3 * segment}} {
					for _, client := range clients {
						if got, err := ways[client](t, http.MethodGet, o, fmt.Sprintf("%d-%d", r[0], r[1]), nil); err != nil || !bytes.Equal(got, want[r[0]:r[1]+1]) {
							t.Errorf("%s: bytes %v of %v by %s: %d bytes, %v", when, r, o, client, len(got), err)
						}
					}
				}
			}
			for _, size := range sizes {
				for _, by := range clients {
					o := object(by, size)
					if _, err := ways[by](t, http.MethodPut, o, "", data[:size]); err != nil {
						t.Errorf("PUT of %v by %s: %v", o, by, err)
						continue
					}
					read(o, "with all devices")
					if size == segment+1 || size == 3*segment+17 {
						back := gone(o)
						read(o, fmt.Sprintf("without %d fragments", bears))
						back()
					}
				}
			}
			if pol.Replicas()+bears > 2*len(l.Nodes()) {
				return
			}
			for _, by := range clients {
				o := object("meanwhile-"+by, segment+3)
				back := gone(o)
				_, err := ways[by](t, http.MethodPut, o, "", data[:o.Size])
				back()
				if err != nil {
					t.Errorf("PUT of %v by %s without %d fragments' devices: %v", o, by, bears, err)
					continue
				}
				read(o, "with archives on handoffs")
			}
		})
	}
}

// way is a client: PUT of a body, GET of a part ("": all).
type way func(t *testing.T, method string, o *scenario.Object, part string, body []byte) ([]byte, error)

func (l *lab) throughProxy(t *testing.T, method string, o *scenario.Object, part string, body []byte) ([]byte, error) {
	header, want := http.Header{}, http.StatusOK
	if part != "" {
		header.Set("Range", "bytes="+part)
		want = http.StatusPartialContent
	}
	var in io.Reader
	if method == http.MethodPut {
		in, want = bytes.NewReader(body), http.StatusCreated
	}
	resp, err := l.Do(t.Context(), method, o.Container, o.Name, header, in, int64(len(body)))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("the answer is %s", resp.Status)
	}
	return got, err
}

func (l *lab) withoutProxy(t *testing.T, method string, o *scenario.Object, part string, body []byte) ([]byte, error) {
	args := []string{"object", strings.ToLower(method), l.objectName(o)}
	file := filepath.Join(t.TempDir(), "file")
	switch {
	case method == http.MethodPut:
		if err := os.WriteFile(file, body, 0o644); err != nil {
			return nil, err
		}
		args = append(args, file)
	case part != "":
		args = append(args, "-o", file, "--range", part)
	default:
		args = append(args, "-o", file)
	}
	exit, out := l.run(l.self, append(args, "--swift-conf", l.SwiftConf(), "--policy", o.Policy.Name)...)
	if exit != exitDone && !(method == http.MethodPut && exit == exitLeft) { // handoffs have what is another's
		return nil, fmt.Errorf("status %d: %s", exit, out)
	}
	return os.ReadFile(file)
}

// between moves the object servers of all nodes aside, and puts proxies in their places that faults can be given to.
func (l *lab) between(server ...string) (proxies map[int]*faults.Proxy, withdraw func()) {
	l.Helper()
	aside, err := l.Interpose(l.Context(), real.ObjectServer, server...)
	if err != nil {
		l.Fatal(err)
	}
	proxies = map[int]*faults.Proxy{}
	withdraw = func() {
		for _, p := range proxies {
			p.Close()
		}
		if err := l.Withdraw(context.Background(), real.ObjectServer); err != nil {
			l.Error(err)
		}
	}
	for node, a := range aside {
		p, err := faults.Listen(a.Addr, a.Upstream)
		if err != nil {
			withdraw()
			l.Fatal(err)
		}
		proxies[node] = p
	}
	return proxies, withdraw
}

// Under every scheme the archives are those that the proxy would have written, byte for byte; of two of them half of the servers
// are ours. Containers and the expirer hear of objects where that is asked for.
func TestArchivesAndListingsAreThoseOfTheProxy(t *testing.T) {
	l := startLab(t)
	l.serveAs(real.ObjectServer, l.Nodes()[:len(l.Nodes())/2]...)
	swift, err := policy.Load(l.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	object := func(exit int, args ...string) string {
		t.Helper()
		got, out := l.run(l.self, append([]string{"object", args[0], "--swift-conf", l.SwiftConf()}, args[1:]...)...)
		if got != exit {
			t.Errorf("%q: status %d, want %d:\n%s", args, got, exit, out)
		}
		return out
	}
	content := bytes.Repeat([]byte("imping "), (segment+500)/7)
	file := filepath.Join(work, "file")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(work, "got")
	for _, pol := range append(rareNames(), "lec104", "isal42dup2") {
		container := "listed-" + pol
		if err := l.Client().CreateContainer(t.Context(), container, pol); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Client().Put(t.Context(), container, "proxy", http.Header{"Content-Type": {"text/x-imping"}}, bytes.NewReader(content), int64(len(content))); err != nil {
			t.Fatal(err)
		}
		name := func(o string) string { return "/" + l.Account() + "/" + container + "/" + o }
		object(exitDone, "get", name("proxy"), "--policy", pol, "-o", to)
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: of what the proxy stored there are %d bytes, %v", pol, len(got), err)
		}
		os.Remove(to)
		object(exitDone, "put", name("imping"), file, "--policy", pol, "--content-type", "text/x-imping", "--update-container")
		want, got := l.archiveSums(swift.ByName(pol), name("proxy")), l.archiveSums(swift.ByName(pol), name("imping"))
		if len(want) != swift.ByName(pol).UniqueFragments() || !maps.Equal(got, want) {
			t.Errorf("%s: archives %v, the proxy's are %v", pol, got, want)
		}
		rows := l.listing(container)
		if len(rows) != 2 || rows["imping"] != rows["proxy"] || rows["imping"].Bytes != int64(len(content)) {
			t.Errorf("%s: listed are %+v", pol, rows)
		}
		object(exitDone, "delete", name("imping"), "--policy", pol, "--update-container")
		if rows := l.listing(container); len(rows) != 1 {
			t.Errorf("%s: after a DELETE listed are %+v", pol, rows)
		}
	}
	// The expirer's queue knows what the proxy's would.
	container, flag := "listed-lec104", "--policy=lec104"
	name := "/" + l.Account() + "/" + container + "/vanishing"
	object(exitDone, "put", name, file, flag, "--update-container", "--header", "X-Delete-After: 86400", "--timestamp", "2000000000")
	at := "2000086400"
	if resp := l.viaProxy(http.MethodHead, name); resp.Header.Get("X-Delete-At") != at {
		t.Errorf("the proxy has %v", resp.Header)
	}
	queue := swift.Hasher().ExpirerContainer(name, 2000086400, 86400)
	if rows := l.queue(queue); !strings.Contains(rows, at+"-"+name[1:]+"\n") {
		t.Errorf("the queue's container %s has %q", queue, rows)
	}
	for _, c := range []struct {
		args []string
		say  string
	}{
		{[]string{"put", "/AUTH_test/nobody/o", file, flag, "--update-container"}, "container /AUTH_test/nobody is not there"},
		{[]string{"put", name, file, "--policy=isal42", "--update-container"}, "has the policy of index 4, not isal42 (index 1)"},
		{[]string{"delete", name, "--policy=isal42", "--update-container"}, "has the policy of index 4, not isal42 (index 1)"},
	} {
		if out := object(exitFailed, c.args...); !strings.Contains(out, c.say) {
			t.Errorf("%q: %s", c.args, out)
		}
	}
}

// A tombstone of the data's very time, one that is newer, and a newer durable version with too few archives are to `imping object` what they are to the proxy.
func TestTheNewestIsWhatTheProxyTakesForIt(t *testing.T) { // rule 36
	l := startLab(t)
	const pol, container = "isal42", "newest"
	swift, err := policy.Load(l.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Client().CreateContainer(t.Context(), container, pol); err != nil {
		t.Fatal(err)
	}
	name := "/" + l.Account() + "/" + container + "/o"
	archives := func() (list []string) {
		for _, node := range l.Nodes() {
			for _, dev := range l.Devices(node) {
				found, _ := filepath.Glob(filepath.Join(l.DevicePath(dev), swift.ByName(pol).DataDir(), "*", "*", objhash.Hex(l.hasher().Object(name)), "*.data"))
				list = append(list, found...)
			}
		}
		return list
	}
	work := t.TempDir()
	put := func(content, at string) []string {
		t.Helper()
		file := filepath.Join(work, "file")
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if status, out := l.run(l.self, "object", "put", "--swift-conf", l.SwiftConf(), "--policy", pol, "--timestamp", at, name, file); status != exitDone {
			t.Fatalf("status %d: %s", status, out)
		}
		return archives()
	}
	both := func(what string, want int, content, say string) {
		t.Helper()
		if resp := l.viaProxy(http.MethodGet, name); resp.StatusCode != want || want == 200 && string(resp.body) != content {
			t.Errorf("%s: the proxy answers %s with %d bytes, want %d", what, resp.Status, len(resp.body), want)
		}
		to := filepath.Join(work, "got")
		defer os.Remove(to)
		status, out := l.run(l.self, "object", "get", "--swift-conf", l.SwiftConf(), "--policy", pol, name, "-o", to)
		if got, _ := os.ReadFile(to); (status == exitDone) != (want == 200) || want == 200 && string(got) != content || !strings.Contains(out, say) {
			t.Errorf("%s: status %d, %d bytes: %s", what, status, len(got), out)
		}
	}
	const before, at, after = "1700000000.00000", "1700000010.00000", "1700000020.00000"
	bury := func(dir, at string) {
		t.Helper()
		path := filepath.Join(dir, at+".ts")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := scenario.SetMetadata(path, pickle.EncodeMetadata(map[string]string{"name": name, "X-Timestamp": at}, []string{"X-Timestamp", "name"})); err != nil {
			t.Fatal(err)
		}
	}
	files := put("newer", at)
	moved := map[string]string{}
	for _, path := range files {
		aside := strings.SplitAfter(path, "/"+swift.ByName(pol).DataDir()+"/")[0] + filepath.Base(path)
		if err := os.Rename(path, aside); err != nil {
			t.Fatal(err)
		}
		moved[path] = aside
	}
	put("of before", before)
	for _, path := range files[:2] { // which makes what is older obsolete there
		if err := os.Rename(moved[path], path); err != nil {
			t.Fatal(err)
		}
	}
	both("a newer durable version is short", 200, "of before", "is not the newest version: of "+at)
	for _, path := range archives() {
		if strings.Contains(path, before) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, path := range files[2:] {
		if err := os.Rename(moved[path], path); err != nil {
			t.Fatal(err)
		}
	}
	both("the newer one alone", 200, "newer", "")
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	bury(filepath.Dir(files[0]), at)
	both("a tombstone of its time", 200, "newer", "")
	for _, path := range files[1:3] {
		if err := os.Rename(path, moved[path]); err != nil {
			t.Fatal(err)
		}
	}
	both("a tombstone of its time, and it is short", 503, "", "can not be read now")
	for _, path := range files[1:3] {
		if err := os.Rename(moved[path], path); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range files[:3] { // the proxy asks four devices in a random order, and one tombstone may not be among them
		bury(filepath.Dir(path), after)
	}
	both("newer tombstones", 404, "", "deleted at "+after)
}

// archiveSums are an object's archives by fragment index, as MD5 and metadata but for name and time; duplicates must be equal.
func (l *lab) archiveSums(pol *policy.Policy, name string) map[string]string {
	l.Helper()
	hash := objhash.Hex(l.hasher().Object(name))
	sums := map[string]string{}
	n := 0
	for _, node := range l.Nodes() {
		for _, dev := range l.Devices(node) {
			found, _ := filepath.Glob(filepath.Join(l.DevicePath(dev), pol.DataDir(), "*", "*", hash, "*#d.data"))
			for _, path := range found {
				b, err := os.ReadFile(path)
				if err != nil {
					l.Fatal(err)
				}
				meta, err := diskfile.ReadMetadata(path)
				if err != nil {
					l.Fatal(err)
				}
				delete(meta, "name")
				delete(meta, "X-Timestamp")
				index, sum := strings.Split(filepath.Base(path), "#")[1], fmt.Sprintf("%x %v", md5.Sum(b), meta)
				if old := sums[index]; old != "" && old != sum {
					l.Errorf("%s: two archives of fragment %s differ: %s and %s", name, index, old, sum)
				}
				sums[index] = sum
				n++
			}
		}
	}
	if n != pol.Replicas() {
		l.Errorf("%s: %d archives, not %d", name, n, pol.Replicas())
	}
	return sums
}

// listed is what a container says of an object.
type listed struct {
	Bytes       int64
	Hash        string
	ContentType string `json:"content_type"`
}

func (l *lab) listing(container string) map[string]listed {
	l.Helper()
	resp, err := l.Do(l.Context(), http.MethodGet, container, "", http.Header{"Accept": {"application/json"}}, nil, 0)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	var rows []struct {
		Name string
		listed
	}
	if err := json.NewDecoder(resp.Body).Decode(&rows); err != nil {
		l.Fatal(err)
	}
	byName := map[string]listed{}
	for _, r := range rows {
		byName[r.Name] = r.listed
	}
	return byName
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

// queue lists a container of the expirer's queue, which the proxy shows to nobody.
func (l *lab) queue(container string) string {
	l.Helper()
	r, err := ring.Load(filepath.Join(filepath.Dir(l.SwiftConf()), "container.ring.gz"))
	if err != nil {
		l.Fatal(err)
	}
	part := r.Partition(l.hasher().Path(".expiring_objects", container, ""))
	n := r.PartNodes(part)[0]
	resp, err := http.Get(fmt.Sprintf("http://%s:%d/%s/%d/.expiring_objects/%s", n.IP, n.Port, n.Device.Device, part, container))
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	return string(b)
}

func (l *lab) hasher() objhash.Hasher {
	l.Helper()
	swift, err := policy.Load(l.SwiftConf())
	if err != nil {
		l.Fatal(err)
	}
	return swift.Hasher()
}
