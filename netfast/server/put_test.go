package server

import (
	"crypto/md5"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/io/diskfile"
	"imping/lab/oracle"
	"imping/swift/objhash"
)

// containers is a container server that notes what it is told and answers as asked.
type containers struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	told   []string
}

func newContainers(t *testing.T) *containers {
	c := &containers{status: 201}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		var lines []string
		for key, values := range r.Header {
			if key != "User-Agent" && key != "Accept-Encoding" && key != "Connection" && key != "Content-Length" {
				lines = append(lines, key+": "+strings.Join(values, ","))
			}
		}
		slices.Sort(lines)
		c.told = append(c.told, r.Method+" "+r.URL.EscapedPath()+"\n"+strings.Join(lines, "\n"))
		if c.status == 301 {
			w.Header().Set("Location", "/.shards_a/c%20shard/o")
			w.Header().Set("X-Backend-Location-Is-Quoted", "true")
			w.Header().Set("X-Backend-Redirect-Timestamp", t1)
		}
		w.WriteHeader(c.status)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *containers) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

func (c *containers) redirects() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status == 301
}

// take gives what was told since the last time.
func (c *containers) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told
	c.told = nil
	slices.Sort(told)
	return told
}

// writes are both servers, each with a container server.
type writes struct {
	*both
	containers [2]*containers
	closed     string   // an address at which no one listens
	recent     []string // requests since the disks were compared
}

func startWrites(t *testing.T) *writes {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	settings := map[string]string{"fallocate_reserve": "0", "commit_window": "60", "container_update_timeout": "20", "conn_timeout": "20", "node_timeout": "20"}
	return &writes{both: startBoth(t, settings), containers: [2]*containers{newContainers(t), newContainers(t)}, closed: l.Addr().String()}
}

// send sends a request with a body to both.
func (w *writes) send(method, target, body string, header ...string) (stock, ours reply) {
	w.t.Helper()
	var answers [2]reply
	for i, addr := range []string{w.stock.Addr, w.ours.addr} {
		own := slices.Clone(header)
		for j := range own {
			own[j] = strings.ReplaceAll(own[j], "CONTAINER", w.containers[i].Listener.Addr().String())
			closed := w.closed
			if w.containers[i].redirects() && strings.Contains(own[j], ",") {
				// Both hosts' updates wait under one name, and the one that is redirected says more:
				// which of them stays is a race, in stock too.
				closed = w.containers[i].Listener.Addr().String()
			}
			own[j] = strings.ReplaceAll(own[j], "CLOSED", closed)
		}
		c := dial(w.t, addr)
		io.WriteString(c, request(method, target, own...)+body)
		a, err := c.read(method)
		for err == nil && strings.HasPrefix(a.Status, "100") {
			a, err = c.read(method)
		}
		if err != nil {
			w.t.Fatalf("%s %s %q: %v", method, target, own, err)
		}
		c.Close()
		delete(a.Header, "Date")
		delete(a.Header, "Connection")
		answers[i] = a
	}
	return answers[0], answers[1]
}

// disk lists what is on a device: names, modes of what is written by servers, metadata.
func disk(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		top := strings.Split(rel, "/")
		if len(top) > 1 && (strings.HasPrefix(top[1], "async_pending") || strings.HasPrefix(top[1], "tmp")) {
			if !d.IsDir() && strings.HasPrefix(top[1], "tmp") {
				found[rel] = "left over"
			}
			return nil
		}
		switch name := d.Name(); {
		case name == ".lock" || name == "hashes.pkl" || name == "hashes.invalid":
			return nil
		case d.IsDir():
			found[rel] = "directory"
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		meta, err := diskfile.ReadMetadata(path)
		if err != nil {
			meta = map[string]string{"error": "unreadable"}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		found[rel] = fmt.Sprintf("%o %x %q", info.Mode(), md5.Sum(b), meta)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// pending are the container updates that wait on both devices, as Python reads them.
func (w *writes) pending() [2]map[string]any {
	w.t.Helper()
	var answers [2]map[string]any
	oracle.Ask(w.t, `
import sys, json, os, pickle, re
from swift.common.header_key_dict import HeaderKeyDict
out = []
for root in json.load(sys.stdin):
    found = {}
    for d, dirs, files in os.walk(root):
        if '/async_pending' in d:
            for n in files:
                p = os.path.join(d, n)
                update = pickle.load(open(p, 'rb'))
                assert type(update['headers']) is HeaderKeyDict
                update['headers'] = {k: re.sub('object-server [0-9]+', 'object-server PID', v) for k, v in update['headers'].items()}
                found[os.path.relpath(p, root) + ' %o' % os.stat(p).st_mode] = update
    out.append(found)
json.dump(out, sys.stdout)
`, w.roots, &answers)
	return answers
}

// same compares answers, what containers were told, and now and then the disks.
func (w *writes) same(what string, stock, ours reply) {
	w.t.Helper()
	// Stock trips over some fields that it does not look at first.
	if !strings.HasPrefix(stock.Status, "500") || !strings.HasPrefix(ours.Status, "400") {
		same(w.t, what, stock, ours)
	}
	if w.recent = append(w.recent, what); len(w.recent) == atOnce {
		w.sameDisks()
	}
	if d := cmp.Diff(w.containers[0].take(), w.containers[1].take()); d != "" {
		w.t.Errorf("%s: containers were told otherwise (-stock +ours):\n%s", what, d)
	}
}

// atOnce is after how many requests the disks are compared: to walk them takes longer than a request.
const atOnce = 10

func (w *writes) sameDisks() {
	w.t.Helper()
	if d := cmp.Diff(disk(w.t, w.roots[0]), disk(w.t, w.roots[1])); d != "" {
		w.t.Errorf("after one of\n%s\nthe disks differ (-stock +ours):\n%s", strings.Join(w.recent, "\n"), d)
	}
	w.recent = nil
}

const (
	before = "1402444820.00000" // before all objects
	middle = "1402444822.50000"
	after  = "1402444900.00000" // after all of them
)

// changes are fields of requests that write; those that hold a "!" can not go with others of
// the same name.
var changes = []string{
	"", "If-None-Match: *", "If-None-Match: nonsense", "If-None-Match: ETAG", `If-None-Match: "x", "ETAG"`, "X-Backend-Replication: True", "X-Delete-At: 1500000000", "X-Delete-At:  1402444900 ", "X-Delete-At: 1402444950",
	"X-Delete-At: 1402444821", "X-Delete-At: soon", "X-Delete-At: 9999999999", "X-Delete-At: 0", "X-Delete-After: 100", "X-Delete-After: -5", "X-Delete-After: x",
	"X-Object-Meta-Color: blue", "X-Object-Meta-\xc3\xa4: \xc3\xb6\xff", "x-object-meta-3d-thing: 1", "X-Object-Meta-: x", "X-Object-Meta-Empty:", "X-Object-Sysmeta-Foo: bar",
	"X-Object-Transient-Sysmeta-Foo: bar", "X-Object-Meta-" + strings.Repeat("n", 129) + ": x", "X-Object-Meta-Long: " + strings.Repeat("v", 257),
	"Content-Encoding: gzip", "Content-Disposition: attachment", "X-Static-Large-Object: True", "X-Robots-Tag: none", "Expires: never",
	"X-Backend-Replication-Headers: x-timestamp x-other X-Object-Meta-Color", "X-Other: kept", "Content-Type: text/html; charset=x", "Content-Type: \xff", "Content-Type:",
	"Content-Type: image/png; swift_bytes=12", "Content-Type-Timestamp: " + middle, "Content-Type-Timestamp: 1402444950.00000", "Content-Type-Timestamp: 1_1",
	"X-Backend-No-Commit: True", "X-Backend-Ssync-Frag-Index: 1", "X-Backend-Ssync-Frag-Index: 3", "X-Object-Sysmeta-Ec-Frag-Index: 2", "X-Object-Sysmeta-Ec-Frag-Index: 1",
	"X-If-Delete-At: 1402444823", "X-If-Delete-At: 1", "X-If-Delete-At: x", "X-If-Delete-At: 1500000000",
	"X-Trans-Id: tx1", "X-Timestamp: " + before, "X-Timestamp: " + middle, "X-Timestamp: " + t2, "X-Timestamp: " + after + "_0000000000000001", "X-Timestamp: soon", "X-Timestamp:",
	"Etag: d41d8cd98f00b204e9800998ecf8427e", `Etag: "d41d8cd98f00b204e9800998ecf8427e"`, "Etag:", "X-Backend-Next-Part-Power: 4",
	"X-Container-Host: CONTAINER\r\nX-Container-Device: sdb1\r\nX-Container-Partition: 99",
	"X-Container-Host: CONTAINER\r\nX-Container-Device: sdb1\r\nX-Container-Partition: 99\r\nX-Backend-Container-Update-Override-Etag: over\r\nX-Object-Sysmeta-Container-Update-Override-Size: 7",
	"X-Container-Host: CONTAINER, CLOSED\r\nX-Container-Device: sdb1, sdb2\r\nX-Container-Partition: 99",
	"X-Container-Host: CLOSED\r\nX-Container-Device: sdb1\r\nX-Container-Partition: 99\r\nX-Backend-Quoted-Container-Path: .shards_a/c%20%C3%A4",
	"X-Container-Host: CONTAINER\r\nX-Container-Device: sdb1\r\nX-Container-Partition: 99\r\nX-Backend-Container-Path: .shards_a/root",
	"X-Container-Host: CONTAINER\r\nX-Container-Device: sdb1\r\nX-Container-Partition: 99\r\nX-Backend-Container-Path: nonsense",
	"X-Container-Host: CONTAINER\r\nX-Container-Device: \r\nX-Container-Partition: 99", "X-Container-Host: CONTAINER\r\nX-Container-Device: a,b\r\nX-Container-Partition: 99",
	"X-Delete-At: 1500000000\r\nX-Delete-At-Host: CONTAINER\r\nX-Delete-At-Device: sdb1\r\nX-Delete-At-Partition: 7\r\nX-Delete-At-Container: 1499990400",
	"X-Delete-At: 1500000000\r\nX-Delete-At-Host: CLOSED\r\nX-Delete-At-Device: sdb1\r\nX-Delete-At-Partition: 7", "X-Delete-At: 1500000000\r\nX-Delete-At-Host: CLOSED\r\nX-Delete-At-Device: ",
	"X-Backend-Clean-Expiring-Object-Queue: false", "Transfer-Encoding: chunked", "Expect: 100-continue",
}

// Objects in every state are written, changed and deleted by requests of every kind: the
// answers, the disks and what the containers get to know are those of stock (rules 21 to 24, 26 and 31).
func TestObjectsAreWrittenAsSwiftDoes(t *testing.T) {
	t.Parallel()
	w := startWrites(t)
	all := w.objects()
	kinds := slices.Sorted(maps.Keys(all))
	r := rand.New(rand.NewPCG(5, 6))
	seen := map[string]int{}
	count := 0
	check := func(method, kind string, header ...string) {
		if t.Failed() {
			return
		}
		count++
		o := all[kind]
		own := []string{"X-Backend-Storage-Policy-Index: " + strconv.Itoa(o.policy)}
		names := map[string]bool{}
		for _, h := range header {
			if strings.Contains(h, "ETAG") {
				a := ask(t, w.stock.Addr, "HEAD", escape(o.path), "X-Backend-Storage-Policy-Index: "+strconv.Itoa(o.policy))
				h = strings.ReplaceAll(h, "ETAG", strings.Trim(a.Header["Etag"], `"`))
			}
			for line := range strings.SplitSeq(h, "\r\n") {
				name, _, _ := strings.Cut(strings.ToLower(line), ":")
				if line != "" && !names[name] {
					names[name] = true
					own = append(own, line)
				}
			}
		}
		body := ""
		if method == "PUT" {
			if body = strings.Repeat("body", r.IntN(20)); names["etag"] {
				body = ""
			}
			if names["transfer-encoding"] {
				body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
				if len(body) == 12 { // an empty chunk would end it
					body = "0\r\n\r\n"
				}
			} else {
				own = append(own, fmt.Sprintf("Content-Length: %d", len(body)))
			}
			if !names["content-type"] {
				own = append(own, "Content-Type: text/plain")
			}
			if o.policy == 1 && !names["x-object-sysmeta-ec-frag-index"] && !names["x-backend-ssync-frag-index"] {
				own = append(own, "X-Object-Sysmeta-Ec-Frag-Index: "+strconv.Itoa(r.IntN(6)))
			}
		} else {
			own = slices.DeleteFunc(own, func(s string) bool {
				return strings.HasPrefix(s, "Transfer-Encoding") || strings.HasPrefix(s, "Expect")
			})
		}
		if !names["x-timestamp"] {
			at := fmt.Sprintf("1402444900.%05d", count)
			if r.IntN(4) > 0 { // newer than all before; some objects expire in between
				at = fmt.Sprintf("%d.%05d", 1402444900+count/20, 5000*(count%20))
			}
			own = append(own, "X-Timestamp: "+at)
		}
		if method != "PUT" && slices.Contains(own, "Content-Type:") {
			own = slices.DeleteFunc(own, func(s string) bool { return s == "Content-Type:" })
		}
		stock, ours := w.send(method, escape(o.path), body, own...)
		seen[method+" "+stock.Status]++
		w.same(fmt.Sprintf("%s %s %.300q", method, kind, own), stock, ours)
	}
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		for i, change := range changes {
			check(method, kinds[(i*7)%len(kinds)], change)
		}
	}
	for i := range 500 {
		for _, c := range w.containers {
			c.answer([]int{201, 204, 503, 301, 404}[i/7%5])
		}
		check([]string{"PUT", "PUT", "POST", "DELETE"}[r.IntN(4)], kinds[r.IntN(len(kinds))], changes[r.IntN(len(changes))], changes[r.IntN(len(changes))], changes[r.IntN(len(changes))])
	}
	t.Log(seen)
	w.sameDisks()
	pending := w.pending()
	if d := cmp.Diff(pending[0], pending[1]); d != "" {
		t.Errorf("waiting container updates differ (-stock +ours):\n%s", d)
	}
	if len(pending[0]) < 20 {
		t.Errorf("%d container updates wait: the test has gone blind", len(pending[0]))
	}
	for _, answer := range []string{"PUT 201 Created", "PUT 400 Bad Request", "PUT 409 Conflict", "PUT 412 Precondition Failed", "POST 202 Accepted", "POST 404 Not Found",
		"POST 409 Conflict", "DELETE 204 No Content", "DELETE 404 Not Found", "DELETE 409 Conflict", "DELETE 412 Precondition Failed"} {
		if seen[answer] < 3 {
			t.Errorf("%d answers %s: the test has gone blind", seen[answer], answer)
		}
	}
}

// refuse sends the bytes of a PUT, then perhaps hangs up, and reads the answer of ours.
func refuse(t *testing.T, s *testServer, body string, hangUp bool, header ...string) string {
	t.Helper()
	header = append([]string{"X-Timestamp: " + after, "Content-Type: text/plain"}, header...)
	c := dial(t, s.addr)
	defer c.Close()
	io.WriteString(c, request("PUT", "/sda/7/a/c/new", header...)+body)
	if hangUp {
		c.Conn.(*net.TCPConn).CloseWrite()
	}
	a, err := c.read("PUT")
	if err != nil {
		t.Fatalf("%q: %v", header, err)
	}
	return a.Status
}

// A body that stalls, breaks off, lies about its length or its MD5, is refused as stock refuses
// it, and nothing is left of it: no file, no directory.
func TestBrokenBodiesLeaveNothing(t *testing.T) {
	devices := t.TempDir()
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := ours(t, devices, map[string]string{"client_timeout": "0.3", "fallocate_reserve": "0"})
	for _, policy := range []string{"0", "1"} {
		for _, c := range []struct {
			want   string
			body   string
			hangUp bool
			header []string
		}{
			{"408 Request Timeout", "abc", false, []string{"Content-Length: 10"}},
			{"408 Request Timeout", "", false, []string{"Content-Length: 10"}},
			{"408 Request Timeout", "5\r\nabc", false, []string{"Transfer-Encoding: chunked"}},
			{"499 Client Disconnect", "abc", true, []string{"Content-Length: 10"}},
			{"499 Client Disconnect", "", true, []string{"Content-Length: 10"}},
			{"499 Client Disconnect", "5\r\nabc", true, []string{"Transfer-Encoding: chunked"}},
			{"499 Client Disconnect", "5\r\nabcde\r\n", true, []string{"Transfer-Encoding: chunked"}},
			{"499 Client Disconnect", "nonsense\r\n", false, []string{"Transfer-Encoding: chunked"}},
			{"499 Client Disconnect", "ffffffffffffffff\r\nabc", false, []string{"Transfer-Encoding: chunked"}},
			{"499 Client Disconnect", "5\r\nabcdexx\r\n", false, []string{"Transfer-Encoding: chunked"}},
			{"499 Client Disconnect", "5\r\nabcde\r\n0\r\n\r\n", false, []string{"Transfer-Encoding: chunked", "X-Backend-Obj-Content-Length: 6"}},
			{"400 Bad Request", "5\r\nabcde\r\n0\r\n\r\n", false, []string{"Transfer-Encoding: chunked", "X-Backend-Obj-Content-Length: x"}},
			{"422 Unprocessable Entity", "abc", false, []string{"Content-Length: 3", "Etag: 00000000000000000000000000000000"}},
			{"411 Length Required", "", false, nil},
			{"413 Request Entity Too Large", "", false, []string{"Content-Length: 5368709123"}},
			{"400 Bad Request", "abc", false, []string{"Content-Length: 3", "X-Backend-Obj-Multiphase-Commit: yes"}}, // of no boundary
			{"400 Bad Request", "abc", false, []string{"Content-Length: 3", "X-Backend-Obj-Metadata-Footer: yes"}},
			{"400 Bad Request", "abc", false, []string{"Content-Length: 3", "X-Backend-Next-Part-Power: 33"}},
		} {
			header := append(c.header, "X-Backend-Storage-Policy-Index: "+policy, "X-Object-Sysmeta-Ec-Frag-Index: 1")
			if got := refuse(t, s, c.body, c.hangUp, header...); got != c.want {
				t.Errorf("%q with body %q: %s, want %s", header, c.body, got, c.want)
			}
			for path := range disk(t, devices) {
				if strings.Count(path, "/") > 2 {
					t.Fatalf("%q with body %q left %s", header, c.body, path)
				}
			}
		}
	}
	if got := refuse(t, s, "abc", false, "Content-Length: 3", "Etag: 900150983cd24fb0d6963f7d28e17f72"); got != "201 Created" {
		t.Errorf("a good body after the bad ones: %s", got)
	}
	if got := refuse(t, s, "abc", false, "Content-Length: 3", "X-Backend-Storage-Policy-Index: 1"); got != "500 Internal Error" {
		t.Errorf("a fragment without an index: %s", got)
	}
}

// A device that is away or full is 507, but for the tombstones that a full one needs (rule 26).
func TestDevicesWithoutRoomAre507(t *testing.T) {
	w := startWrites(t)
	plain := w.objects()["plain"].path
	full := ours(t, w.roots[1], map[string]string{"fallocate_reserve": "100%"})
	for _, c := range []struct{ addr, method, target, want string }{
		{w.ours.addr, "PUT", "/sdx/7/a/c/o", "507 Insufficient Storage"},
		{w.ours.addr, "POST", "/sdx/7/a/c/o", "507 Insufficient Storage"},
		{w.ours.addr, "DELETE", "/sdx/7/a/c/o", "507 Insufficient Storage"},
		{full.addr, "PUT", "/sda/7/a/c/new", "507 Insufficient Storage"},
		{full.addr, "POST", plain, "507 Insufficient Storage"},
		{full.addr, "DELETE", plain, "204 No Content"},
	} {
		a := ask(t, c.addr, c.method, c.target, "X-Timestamp: "+after, "Content-Type: text/plain", "Content-Length: 0", "X-Object-Meta-Color: red")
		if a.Status != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.target, a.Status, c.want)
		}
		if c.method != "DELETE" && !strings.Contains(a.Body, "Drive: "+strings.Split(c.target, "/")[1]) {
			t.Errorf("%s %s says %q", c.method, c.target, a.Body)
		}
	}
}

// A container server that does not answer holds a request up for container_update_timeout
// only; when it fails in the end, the update waits on the disk (rule 22).
func TestSlowContainersAreNotWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	devices := t.TempDir()
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := ours(t, devices, map[string]string{"container_update_timeout": "0.05", "node_timeout": "1.5", "fallocate_reserve": "0"})
	a := ask(t, s.addr, "PUT", "/sda/7/a/c/o", "X-Timestamp: "+after, "Content-Type: text/plain", "Content-Length: 0",
		"X-Container-Host: "+l.Addr().String(), "X-Container-Device: sdb1", "X-Container-Partition: 1")
	if a.Status != "201 Created" {
		t.Fatal(a.Status)
	}
	pending := func() []string {
		found, err := filepath.Glob(filepath.Join(devices, "sda/async_pending/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := pending(); len(found) > 0 {
		t.Fatalf("the answer came after %q was queued", found)
	}
	s.Close() // waits for the update
	hash := objhash.Hex(testSwift().Hasher().Object("/a/c/o"))
	want := filepath.Join(devices, "sda/async_pending", objhash.Suffix(hash), hash+"-"+after)
	if found := pending(); len(found) != 1 || found[0] != want {
		t.Errorf("%q wait, want %s", found, want)
	}
}

// A request names as many container servers as its head has room for: they are told a few at a time.
func TestContainersAreToldAFewAtATime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	devices := t.TempDir()
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := ours(t, devices, map[string]string{"node_timeout": "0.3", "conn_timeout": "0.3", "container_update_timeout": "0.1"})
	const n = 300
	before := runtime.NumGoroutine()
	answer := ask(t, s.addr, "DELETE", "/sda/7/a/c/o", "X-Timestamp: "+t2, "X-Container-Partition: 1",
		"X-Container-Host: "+strings.Repeat(l.Addr().String()+",", n-1)+l.Addr().String(), "X-Container-Device: "+strings.Repeat("sda,", n-1)+"sda")
	if now := runtime.NumGoroutine(); now > before+50 || !strings.HasPrefix(answer.Status, "404") {
		t.Errorf("%d goroutines after %d; %s", now, before, answer.Status)
	}
}
