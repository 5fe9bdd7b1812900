package server

import (
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/netfast/stock"
	"imping/swift/objhash"
	"imping/swift/suffix"
	"imping/swift/timestamp"
)

const ssyncPart = "7"

func hashOf(name string) string { return objhash.Hex(testSwift().Hasher().Object(name)) }

func chunked(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// converse sends the two halves of an exchange, the second when the answer to the first
// is there, and returns all that came, chunks taken off. A half without "end" leaves the
// body open.
func converse(t testing.TB, addr string, policy, fragIndex int, first, second string) string {
	t.Helper()
	w := dial(t, addr)
	defer w.Close()
	header := []string{"Transfer-Encoding: chunked", fmt.Sprintf("X-Backend-Storage-Policy-Index: %d", policy)}
	if fragIndex >= 0 {
		header = append(header, fmt.Sprintf("X-Backend-Ssync-Frag-Index: %d", fragIndex))
	}
	io.WriteString(w, request("SSYNC", "/sda/"+ssyncPart, header...)+chunked(first))
	var b strings.Builder
	buf := make([]byte, 4096)
	for second != "" && !strings.Contains(b.String(), ":MISSING_CHECK: END") && !strings.Contains(b.String(), ":ERROR") {
		n, err := w.r.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return unchunk(b.String())
		}
	}
	if second != "" {
		io.WriteString(w, chunked(second))
	}
	io.WriteString(w, "0\r\n\r\n")
	w.Conn.(*net.TCPConn).CloseWrite()
	rest, _ := io.ReadAll(w.r)
	return unchunk(b.String() + string(rest))
}

// unchunk leaves the status line, the field that matters, and the body.
func unchunk(raw string) string {
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	status, fields, _ := strings.Cut(head, "\r\n")
	out := status
	if strings.Contains(strings.ToLower(fields), "x-backend-accept-no-commit: true") {
		out += " no-commit"
	}
	out += "\n"
	for body != "" {
		size, rest, _ := strings.Cut(body, "\r\n")
		var n int
		if _, err := fmt.Sscanf(size, "%x", &n); err != nil || n == 0 || n > len(rest) {
			break
		}
		out += rest[:n]
		body = strings.TrimPrefix(rest[n:], "\r\n")
	}
	return out
}

func subPut(name, content, ts string, fields ...string) string {
	return "PUT " + name + "\r\nContent-Length: " + fmt.Sprint(len(content)) + "\r\n" + strings.Join(append(fields,
		fmt.Sprintf("ETag: %x", md5.Sum([]byte(content))), "Content-Type: text/plain", "X-Timestamp: "+ts), "\r\n") + "\r\n\r\n" + content
}

// Whatever a sender says is answered as by Swift's receiver, and leaves the same on disk
// (rules 10-12, 21, 26).
func TestSsyncIsReceivedAsByStock(t *testing.T) {
	t.Parallel()
	const (
		t1, t2, t3 = "1795342301.00000", "1795342302.00000", "1795342303.00000"
		start      = ":MISSING_CHECK: START\r\n"
		end        = ":MISSING_CHECK: END\r\n"
		updates    = ":UPDATES: START\r\n"
		done       = ":UPDATES: END\r\n"
	)
	b := startBoth(t, nil)
	ec := func(ts string, index int) []string {
		return []string{"X-Object-Sysmeta-Ec-Etag: abc", "X-Object-Sysmeta-Ec-Content-Length: 3", fmt.Sprintf("X-Object-Sysmeta-Ec-Frag-Index: %d", index),
			"X-Object-Sysmeta-Ec-Scheme: isa_l_rs_vand 4+2", "X-Object-Sysmeta-Ec-Segment-Size: 65536", "X-Object-Meta-Early: spät"}
	}
	a, c, d := hashOf("/a/c/a"), hashOf("/a/c/c"), hashOf("/a/c/d")
	many := func(prefix string, n int, fields ...string) (text string) {
		for i := range n {
			text += subPut("/a/c/"+prefix+strconv.Itoa(i), strings.Repeat("x", i*100), t1, fields...)
		}
		return text
	}
	for _, q := range []struct {
		what          string
		policy, index int
		first, second string
	}{
		{"nothing", 0, -1, start + end, updates + done},
		{"all is wanted", 0, -1, start + a + " " + t1 + "\r\n" + c + " " + t1 + " m:5\r\n" + end, updates + done},
		{"put and delete", 0, -1, start + a + " " + t1 + "\r\n" + end, updates + subPut("/a/c/a", "hello", t1, "X-Object-Meta-A: b", "X-Delete-At: 1795342400") +
			"DELETE /a/c/d\r\nX-Timestamp: " + t1 + "\r\n\r\n" + subPut("/a/c/%C3%B6", "", t1) + done},
		{"in sync", 0, -1, start + a + " " + t1 + "\r\n" + d + " " + t1 + "\r\n" + end, updates + done},
		{"older and newer", 0, -1, start + a + " " + t2 + "\r\n" + d + " 1795342300.00000\r\n" + end, updates + done},
		{"newer metadata", 0, -1, start + a + " " + t1 + " m:186a0\r\n" + end, updates + "POST /a/c/a\r\nX-Timestamp: " + t2 + "\r\nX-Object-Meta-C: d\r\n\r\n" + done},
		{"metadata in sync", 0, -1, start + a + " " + t1 + " m:186a0\r\n" + end, updates + done},
		{"newer content type", 0, -1, start + a + " " + t1 + " m:186a0,t:1\r\n" + end, updates + done},
		{"tombstone with meta", 0, -1, start + d + " " + t1 + " m:10\r\n" + end, updates + done},
		{"post to what is gone", 0, -1, start + end, updates + "POST /a/c/d\r\nX-Timestamp: " + t2 + "\r\n\r\n" + done},
		{"older put", 0, -1, start + end, updates + subPut("/a/c/a", "older", "1795342300.00000") + subPut("/a/c/e", "e", t1) + done},
		{"wrong etag", 0, -1, start + end, updates + strings.Replace(subPut("/a/c/e", "right", t2), "right", "wrong", 1) + done},
		{"many puts", 0, -1, start + end, updates + many("m", 40) + done},
		{"many puts, the last ones anew", 0, -1, start + end, updates + many("n", 9) + strings.ReplaceAll(many("n", 9), t1, t2) + "DELETE /a/c/n1\r\nX-Timestamp: " + t3 + "\r\n\r\n" + done},
		{"many puts, some refused", 0, -1, start + end, updates + many("o", 3) + strings.Replace(subPut("/a/c/p", "right", t2), "right", "wrong", 1) + many("p", 3) + many("o", 1) + many("q", 20) + done},
		{"many puts, then rubbish", 0, -1, start + end, updates + many("t", 5) + "GET /a/c/a\r\n\r\n" + done},
		{"many fragments", 1, 2, start + end, updates + many("u", 20, ec(t1, 2)...) + done},
		{"many fragments, not durable", 1, 2, start + end, updates + many("v", 20, append(ec(t1, 2), "X-Backend-No-Commit: True")...) + done},
		{"many fragments, made durable", 1, 2, start + hashOf("/a/c/v3") + " " + t1 + "\r\n" + end, updates + many("v", 2, ec(t1, 2)...) + done},
		{"fragment", 1, 2, start + a + " " + t1 + "\r\n" + end, updates + subPut("/a/c/a", "frag", t1, ec(t1, 2)...) + done},
		{"same fragment", 1, 2, start + a + " " + t1 + "\r\n" + end, updates + done},
		{"other fragment", 1, 3, start + a + " " + t1 + "\r\n" + end, updates + done},
		{"not durable", 1, 2, start + a + " " + t2 + " durable:False\r\n" + end, updates + subPut("/a/c/a", "frog", t2, append(ec(t2, 2), "X-Backend-No-Commit: True")...) + done},
		{"not durable again", 1, 2, start + a + " " + t2 + " durable:no\r\n" + end, updates + done},
		{"made durable", 1, 2, start + a + " " + t2 + "\r\n" + end, updates + done},
		{"not durable, alone", 1, 4, start + c + " " + t1 + " durable:False\r\n" + end, updates + subPut("/a/c/c", "frog", t1, append(ec(t1, 4), "X-Backend-No-Commit: True")...) + done},
		{"not durable, then newer", 1, 4, start + c + " " + t1 + " m:1,durable:False\r\n" + c + " " + t2 + "\r\n" + end, updates + done},
		{"alone, made durable", 1, 4, start + c + " " + t1 + "\r\n" + end, updates + done},
		{"fragment's tombstone", 1, 4, start + c + " " + t3 + "\r\n" + end, updates + "DELETE /a/c/c\r\nX-Timestamp: " + t3 + "\r\n\r\n" + done},
		{"ended without END", 0, -1, start + a + " " + t3 + "\r\n", ""},
		{"updates ended without END", 0, -1, start + end, updates},
		{"bad start", 0, -1, "hello\r\n", ""},
		{"bad updates start", 0, -1, start + end, "it's\r\n"},
		{"bad method", 0, -1, start + end, updates + "GET /a/c/a\r\n\r\n" + done},
		{"no length", 0, -1, start + end, updates + "PUT /a/c/a\r\nX-Timestamp: 1\r\n\r\n" + done},
		{"delete with length", 0, -1, start + end, updates + "DELETE /a/c/a\r\nContent-Length: 1\r\n\r\nx" + done},
		{"no head", 0, -1, start + end, updates + "DELETE /a/c/a\r\n"},
	} {
		theirs := converse(t, b.stock.Addr, q.policy, q.index, q.first, q.second)
		mine := converse(t, b.ours.addr, q.policy, q.index, q.first, q.second)
		if theirs != mine {
			t.Errorf("%s:\nstock %q\nours  %q", q.what, theirs, mine)
		}
	}
	for policy := range 2 {
		theirs, mine := b.ask("REPLICATE", "/sda/7", fmt.Sprintf("X-Backend-Storage-Policy-Index: %d", policy))
		want, err := suffix.Decode([]byte(theirs.Body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := suffix.Decode([]byte(mine.Body))
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("suffix hashes differ: %v\n%s", err, d)
		}
	}
	sameFiles(t, b.roots)
}

// Short archives that are there are published together, and never wait for the sender.
func TestShortArchivesArePublishedTogetherAndAtOnce(t *testing.T) {
	s := ours(t, sda(t), nil)
	var locked atomic.Int64
	s.stores[0].Intercept(func(step string, do func() error) error {
		if step == "invalidate" {
			locked.Add(1)
		}
		return do()
	})
	const n = 64
	text := ":UPDATES: START\r\n"
	for i := range n {
		text += subPut(fmt.Sprintf("/a/c/o%d", i), "content", "1795342301.00000")
	}
	w := dial(t, s.addr)
	defer w.Close()
	await := func(part, name string) {
		t.Helper()
		for begin := time.Now(); ask(t, s.addr, "HEAD", "/sda/"+part+"/a/c/"+name).Status != "200 OK"; {
			if time.Since(begin) > 15*time.Second { // before the session times out
				t.Fatalf("%s is not there", name)
			}
		}
	}
	io.WriteString(w, request("SSYNC", "/sda/"+ssyncPart, "Transfer-Encoding: chunked")+chunked(":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n")+chunked(text))
	for i := range n {
		await(ssyncPart, fmt.Sprintf("o%d", i))
	}
	if locked.Load() > n/2 {
		t.Errorf("%d archives were published and their partition locked %d times", n, locked.Load())
	}

	// What came whole before a sender broke off counts, and the rest leaves nothing.
	text = subPut("/a/c/whole0", "content", "1795342301.00000") + subPut("/a/c/whole1", "content", "1795342301.00000") +
		strings.TrimSuffix(subPut("/a/c/short", "content", "1795342301.00000"), "tent")
	io.WriteString(w, chunked(text))
	w.Close()
	await(ssyncPart, "whole0")
	await(ssyncPart, "whole1")
	if a := ask(t, s.addr, "HEAD", "/sda/"+ssyncPart+"/a/c/short"); a.Status != "404 Not Found" {
		t.Errorf("an archive of which a part came: %s", a.Status)
	}

	// Nor does it wait for what belongs to the next one, in whatever it is cut.
	for i, cut := range []string{"1", "1\r\nP", chunked("PUT /a/c/late\r\nContent-Length: 1000\r\nETag: \"x\"\r\nContent-Type: a\r\nX-Timestamp: 1795342301.00000\r\n\r\nslow")} {
		name := fmt.Sprintf("first%d", i)
		w := dial(t, s.addr)
		io.WriteString(w, request("SSYNC", "/sda/"+strconv.Itoa(100+i), "Transfer-Encoding: chunked")+chunked(":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n")+
			chunked(":UPDATES: START\r\n"+subPut("/a/c/"+name, "content", "1795342301.00000"))+cut)
		await(strconv.Itoa(100+i), name)
		w.Close()
	}
}

// A bug that meets one of several archives is not taken for a success of any, and nobody waits for ever.
func TestABugInAGroupIsNoSuccess(t *testing.T) {
	s := ours(t, sda(t), nil)
	links := 0
	s.stores[0].Intercept(func(step string, do func() error) error {
		if step == "link" {
			if links++; links == 2 {
				panic("a bug, for this test")
			}
		}
		return do()
	})
	const start = ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n"
	updates := ":UPDATES: START\r\n"
	for i := range 5 {
		updates += subPut(fmt.Sprintf("/a/c/o%d", i), "content", "1795342301.00000")
	}
	updates += ":UPDATES: END\r\n"
	if a := converse(t, s.addr, 0, -1, start, updates); !strings.Contains(a, ":ERROR: 500") || strings.Contains(a, ":UPDATES: END") {
		t.Errorf("it was answered %q", a)
	}
	if a := converse(t, s.addr, 0, -1, start, strings.ReplaceAll(updates, "1795342301", "1795342302")); !strings.Contains(a, ":UPDATES: END") {
		t.Errorf("afterwards: %q", a)
	}
}

// sameFiles compares files with their metadata. Stock leaves empty directories of refused PUTs.
func sameFiles(t *testing.T, roots [2]string) {
	t.Helper()
	var found [2]map[string]string
	for i, root := range roots {
		found[i] = disk(t, root)
		maps.DeleteFunc(found[i], func(_, what string) bool { return what == "directory" })
	}
	if d := cmp.Diff(found[0], found[1]); d != "" {
		t.Errorf("the disks differ (-stock +ours):\n%s", d)
	}
}

// stockSender sends a partition as Swift's replicator and reconstructor do.
const stockSender = `
import eventlet
eventlet.monkey_patch()
import sys, json, logging
from swift.common import storage_policy, utils
q = json.load(sys.stdin)
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'pre', b'suf'
storage_policy._POLICIES = storage_policy.StoragePolicyCollection([
    storage_policy.StoragePolicy(0, 'replicated', is_default=True),
    storage_policy.ECStoragePolicy(1, 'ec', ec_type='isa_l_rs_vand', ec_ndata=4, ec_nparity=2, ec_segment_size=65536)])
from swift.obj import ssync_sender, diskfile
logger = utils.get_logger({}, log_route='sender')
class Daemon(object):
    conn_timeout, node_timeout, http_timeout = 5, 20, 60
    network_chunk_size = disk_chunk_size = 65536
Daemon.logger = logger
Daemon._df_router = diskfile.DiskFileRouter({'devices': q['devices'], 'mount_check': 'false', 'reclaim_age': str(100 * 365 * 86400)}, logger)
out = []
for port in q['ports']:
    for policy in (0, 1):
        job = {'device': 'sda', 'partition': 7, 'policy': storage_policy.POLICIES[policy], 'frag_index': 2 if policy else None}
        node = {'replication_ip': '127.0.0.1', 'replication_port': port, 'device': 'sda', 'index': 2}
        ok, can_delete = ssync_sender.Sender(Daemon(), node, job, q['suffixes'][policy], include_non_durable=True)()
        out.append([ok, sorted(can_delete)])
json.dump(out, sys.stdout)
`

// What Swift's sender sends, ours receives as stock's receiver: objects, fragments durable or
// not, tombstones, metadata; and a second time all is in sync (rules 21, 27).
func TestStockSendsToOurs(t *testing.T) {
	t.Parallel()
	source, b := stock.Start(t, stock.Options{}), startBoth(t, nil)
	const (
		t1, t2 = "1795342301.00000", "1795342302.00000"
		check  = ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n"
	)
	ec := []string{"X-Object-Sysmeta-Ec-Etag: abc", "X-Object-Sysmeta-Ec-Frag-Index: 2", "X-Object-Meta-A: \xc3\xa4"}
	post := "POST /a/c/a\r\nX-Timestamp: " + t2 + "\r\nX-Object-Meta-C: d\r\nContent-Type: text/html\r\n\r\n"
	gone := "DELETE /a/c/d\r\nX-Timestamp: " + t1 + "\r\n\r\n"
	for policy, text := range []string{
		subPut("/a/c/a", strings.Repeat("x", 300000), t1, "X-Object-Meta-A: b") + post + gone + subPut("/a/c/e", "", t1),
		subPut("/a/c/a", string(archive(t, randomBytes(300000), 2)), t1, ec...) + post + gone + subPut("/a/c/c", string(archive(t, randomBytes(3000), 2)), t1, append(ec, "X-Backend-No-Commit: True")...),
	} {
		if got := converse(t, source.Addr, policy, 2*policy, check, ":UPDATES: START\r\n"+text+":UPDATES: END\r\n"); !strings.Contains(got, ":UPDATES: END") {
			t.Fatal(got)
		}
	}
	ports := []int{}
	for _, addr := range []string{b.stock.Addr, b.ours.addr, b.stock.Addr, b.ours.addr} {
		_, port, _ := net.SplitHostPort(addr)
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, n)
	}
	var suffixes [2][]string
	for _, name := range []string{"a", "c", "d", "e"} {
		for policy := range suffixes {
			suffixes[policy] = append(suffixes[policy], objhash.Suffix(hashOf("/a/c/"+name)))
		}
	}
	var results [][2]any
	oracle.Ask(t, stockSender, map[string]any{"devices": source.Devices, "ports": ports, "suffixes": suffixes}, &results)
	for i, r := range results {
		if r[0] != true || i%4 >= 2 && cmp.Diff(results[i-2], r) != "" {
			t.Errorf("session %d: %v, stock's %v", i, r, results[i/4*4+i%2])
		}
	}
	sameFiles(t, b.roots)
	var names []string
	for name := range disk(t, b.roots[1]) {
		names = append(names, filepath.Base(name))
	}
	for _, want := range []string{t1 + ".data", t1 + "#2#d.data", t1 + "#2.data", t1 + ".ts"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s did not arrive: %q", want, names)
		}
	}
}

// Our own sender and receiver understand each other: offsets too, which 2.30.1's receiver does not
// (rule 17).
func TestOursSendsToOurs(t *testing.T) {
	s := ours(t, sda(t), nil)
	c := netfast.NewClient(netfast.Options{ConnTimeout: 5 * time.Second, NodeTimeout: 20 * time.Second})
	defer c.Close()
	ctx := context.Background()
	hash := hashOf("/a/c/o")
	t1 := timestamp.Timestamp{Raw: 179534230100000, Offset: 1}
	session := func(o ssync.Offer, send func(*ssync.Session) error) []ssync.Wanted {
		t.Helper()
		x, err := ssync.Open(ctx, c, ssync.Target{Addr: s.addr, Device: "sda", Partition: 7, Policy: 1, FragIndex: 2}, ssync.Timeouts{Conn: 5 * time.Second, Node: 20 * time.Second, HTTP: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		if err := x.Offer(ctx, slices.Values([]ssync.Offer{o})); err != nil {
			t.Fatal(err)
		}
		wanted, err := x.Wanted(ctx)
		if err == nil && send != nil {
			err = send(x)
		}
		if err == nil {
			err = x.Finish(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return wanted
	}
	tombstone := func(at timestamp.Timestamp) func(*ssync.Session) error {
		return func(x *ssync.Session) error { return x.Delete("/a/c/o", at) }
	}
	if w := session(ssync.Offer{Hash: hash, Data: t1}, tombstone(t1)); len(w) != 1 || !w[0].Data || !w[0].Meta {
		t.Errorf("wanted %v", w)
	}
	meta := timestamp.Timestamp{Raw: t1.Raw + 5, Offset: 7}
	if w := session(ssync.Offer{Hash: hash, Data: t1, Meta: meta, CType: meta}, nil); len(w) != 0 {
		t.Errorf("wanted %v", w)
	}
	t2 := timestamp.Timestamp{Raw: t1.Raw, Offset: 2}
	if w := session(ssync.Offer{Hash: hash, Data: t2}, tombstone(t2)); len(w) != 1 || !w[0].Data {
		t.Errorf("wanted %v", w)
	}
}

func sda(t *testing.T) string {
	t.Helper()
	devices := t.TempDir()
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	return devices
}

// Sessions beyond replication_concurrency are refused in the answer, those that wait for a lock in vain are
// told which one it was, and too many failures end a session (rules 10, 11, 26).
func TestSsyncIsLimited(t *testing.T) {
	const check = ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n"
	s := ours(t, sda(t), map[string]string{"replication_concurrency": "3", "replication_lock_timeout": "1", "replication_concurrency_per_device": "2",
		"replication_failure_threshold": "2", "replication_failure_ratio": "1.5"})
	hold := func(part string) *wire {
		w := dial(t, s.addr)
		io.WriteString(w, request("SSYNC", "/sda/"+part, "Transfer-Encoding: chunked")+chunked(check))
		for line := ""; !strings.Contains(line, ":MISSING_CHECK: END"); {
			var err error
			if line, err = w.r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		return w
	}
	one := hold("7")
	if got := converse(t, s.addr, 0, -1, check, ""); !strings.Contains(got, "\r\n:ERROR: 0 '1 second: ") || !strings.Contains(got, "/sda/objects/7/.lock-replication'\n") {
		t.Errorf("a partition's second session: %q", got)
	}
	two := hold("8")
	three := dial(t, s.addr)
	io.WriteString(three, request("SSYNC", "/sda/9", "Transfer-Encoding: chunked"))
	for line := ""; line != "\r\n"; { // the head of its answer
		line, _ = three.r.ReadString('\n')
	}
	three.r.ReadString('\n') // it has the semaphore soon after this chunk
	for len(s.replication) < 3 {
		runtime.Gosched()
	}
	if got := converse(t, s.addr, 0, -1, check, ""); !strings.HasSuffix(got, "no-commit\n\r\n:ERROR: 503 b'<html><h1>Service Unavailable</h1><p>The server is currently unavailable. Please try again at a later time.</p></html>'\n") {
		t.Errorf("a fourth session: %q", got)
	}
	rest, _ := io.ReadAll(three.r)
	if !strings.Contains(string(rest), "/sda/.lock'\n") || !strings.Contains(string(rest), ":ERROR: 0 ") {
		t.Errorf("a device's third session: %q", rest)
	}
	one.Close()
	two.Close()
	for len(s.replication) > 0 {
		runtime.Gosched()
	}
	bad := "DELETE /a/c/o\r\nX-Timestamp: bad\r\n\r\n"
	good := "DELETE /a/c/o\r\nX-Timestamp: 1\r\n\r\n"
	for text, want := range map[string]string{
		bad + bad + good:              ":ERROR: 0 'Too many 2 failures to 0 successes'\n",
		good + bad + bad + bad:        ":ERROR: 0 'Too many 2 failures to 1 successes'\n",
		good + good + bad + bad + bad: ":ERROR: 500 b'ERROR: With :UPDATES: 3 failures to 2 successes'\n",
	} {
		if got := converse(t, s.addr, 0, -1, check, ":UPDATES: START\r\n"+text+":UPDATES: END\r\n"); !strings.HasSuffix(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// The dialect of 2013 has bare hashes, data's times only, and spaces to flush (rule 27).
func TestReplicationOf2013IsReceived(t *testing.T) {
	s := ours(t, sda(t), nil)
	w := dial(t, s.addr)
	a := hashOf("/a/c/a")
	io.WriteString(w, request("REPLICATION", "/sda/7", "Transfer-Encoding: chunked")+
		chunked(":MISSING_CHECK: START\r\n"+a+" 1795342301.00000\r\n:MISSING_CHECK: END\r\n")+
		chunked(":UPDATES: START\r\n"+subPut("/a/c/a", "hello", "1795342301.00000")+":UPDATES: END\r\n")+"0\r\n\r\n")
	got, err := w.read("REPLICATION")
	flush := strings.Repeat(" ", 4096) + "\r\n"
	if want := flush + ":MISSING_CHECK: START\r\n" + a + "\r\n:MISSING_CHECK: END\r\n" + flush + ":UPDATES: START\r\n:UPDATES: END\r\n" + flush; err != nil || got.Body != want {
		t.Errorf("%v: %q", err, got.Body)
	}
	if got := ask(t, s.addr, "GET", "/sda/7/a/c/a"); got.Body != "hello" {
		t.Errorf("%+v", got)
	}
}

// A body that is shorter than promised, and rubbish of every kind, ends the connection: none of it is taken
// for a subrequest (bug 2115991).
func TestBrokenSsyncLeavesNothing(t *testing.T) {
	devices := sda(t)
	s := ours(t, devices, map[string]string{"client_timeout": "2"})
	const check = ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\n"
	inner := "DELETE /a/c/victim\r\nX-Timestamp: 1795342301.00000\r\n\r\n"
	for what, body := range map[string]string{
		"chunk of 2^63":          "8000000000000000\r\nx",
		"chunk of more":          "fffffffffffffffff\r\nx",
		"header of 1 MiB":        chunked(check+"PUT /a/c/o\r\nX-Object-Meta-A: ") + chunked(strings.Repeat("x", 1<<20)),
		"head of many lines":     chunked(check+"PUT /a/c/o\r\n") + chunked(strings.Repeat("X-A: "+strings.Repeat("x", 60000)+"\r\n", 20)),
		"short body":             chunked(check+"PUT /a/c/o\r\nContent-Length: 1000\r\nX-Timestamp: 1795342301.00000\r\nContent-Type: a\r\n\r\n"+inner) + "0\r\n\r\n",
		"broken chunk in a body": chunked(check+"PUT /a/c/o\r\nContent-Length: 4\r\nX-Timestamp: 1795342301.00000\r\nContent-Type: a\r\n\r\nx") + "zz\r\n" + inner,
		"stalled body":           chunked(check + "PUT /a/c/o\r\nContent-Length: 1000\r\nX-Timestamp: 1795342301.00000\r\nContent-Type: a\r\n\r\nx"),
		"long body":              chunked(check + "PUT /a/c/o\r\nContent-Length: 1\r\nX-Timestamp: bad\r\nContent-Type: a\r\n\r\nxx" + inner),
		"length of 2^63":         chunked(check + "PUT /a/c/o\r\nContent-Length: 9223372036854775808\r\n\r\n" + inner),
		"two lengths":            chunked(check + "PUT /a/c/o\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n" + inner),
		"negative length":        chunked(check + "PUT /a/c/o\r\nContent-Length: -1\r\n\r\n" + inner),
		"refused body":           chunked(check+"PUT /a/c/o\r\nContent-Length: 1000\r\nX-Timestamp: bad\r\n\r\n"+inner) + "0\r\n\r\n",
		"no slash":               chunked(check + "DELETE 1/a/c/victim\r\n" + inner),
		"rubbish":                chunked("\x00\xff\r\n") + "\x01\x02",
		"no hash":                chunked(":MISSING_CHECK: START\r\n../../../etc 1795342301.00000\r\n:MISSING_CHECK: END\r\n"),
	} {
		w := dial(t, s.addr)
		io.WriteString(w, request("SSYNC", "/sda/7", "Transfer-Encoding: chunked"))
		go io.WriteString(w, body)
		got, _ := io.ReadAll(w.r) // until the server hangs up
		w.Close()
		if strings.Contains(string(got), ":UPDATES: END") {
			t.Errorf("%s: a success: %q", what, got)
		}
	}
	filepath.WalkDir(devices, func(path string, e os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".ts") || strings.HasSuffix(path, ".data") || strings.Contains(path, "/sda/tmp/") {
			t.Errorf("%s was left", path)
		}
		return err
	})
	if a := converse(t, s.addr, 0, -1, ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n", ":UPDATES: START\r\n:UPDATES: END\r\n"); !strings.Contains(a, ":UPDATES: END") {
		t.Errorf("afterwards: %q", a)
	}
}

// A sender waits for the answer before it sends the body: a refusal does not wait for the latter.
func TestRefusedSsyncIsAnsweredBeforeItsBody(t *testing.T) {
	s := ours(t, sda(t), map[string]string{"client_timeout": "60"})
	for _, c := range []struct{ method, target, header, want string }{
		{"SSYNC", "/sda/7", "X-Backend-Ssync-Frag-Index: x", "400 Bad Request"},
		{"SSYNC", "/sda/x", "A: b", "400 Bad Request"},
		{"SSYNC", "/sdb/7", "A: b", "507 Insufficient Storage"},
		{"SSYNC", "/sda/7", "X-Backend-Storage-Policy-Index: 9", "503 Service Unavailable"},
		{"REPLICATION", "/sda/x", "A: b", "400 Bad Request"},
	} {
		w := dial(t, s.addr)
		w.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(w, request(c.method, c.target, c.header, "Transfer-Encoding: chunked"))
		if got, err := w.read(c.method); err != nil || got.Status != c.want || got.Header["Connection"] != "close" {
			t.Errorf("%s %s %s: %v, %v", c.method, c.target, c.header, got, err)
		}
		w.Close()
	}
}

// A sender that cuts a body short has a line that names the object, a warning as of any subrequest that failed.
func TestCutBodiesAreLoggedAsFailedSubrequests(t *testing.T) {
	s := ours(t, sda(t), nil)
	head := ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\nPUT /a/c/o\r\nContent-Length: 9\r\nX-Timestamp: 1795342301.00000\r\nContent-Type: a\r\n\r\nx"
	for _, ending := range []string{"", "0\r\n\r\n"} {
		before := len(s.log.String())
		w := dial(t, s.addr)
		io.WriteString(w, request("SSYNC", "/sda/7", "Transfer-Encoding: chunked")+chunked(head)+ending)
		w.Conn.(*net.TCPConn).CloseWrite()
		io.ReadAll(w.r)
		w.Close()
		if log := s.log.String()[before:]; !strings.Contains(log, "ssync subrequest failed with 499: PUT /sda/7/a/c/o (b'<html><h1>Client Disconnect</h1>") || strings.Contains(log, "ssync.Receiver") {
			t.Errorf("body ended by %q: %s", ending, log)
		}
	}
}

// rule 37: what a receiver logs is Swift 2.30.1's text, or its master's. In both, our own error stands where Swift has a traceback.
func TestReceiversTextsAreOf230OrOfMaster(t *testing.T) {
	const (
		start   = ":MISSING_CHECK: START\r\n"
		checked = start + ":MISSING_CHECK: END\r\n"
		put     = checked + ":UPDATES: START\r\nPUT /a/c/o%20o\r\nContent-Length: 9\r\nX-Timestamp: 1795342301.00000\r\nContent-Type: a\r\n\r\nx"
		end     = "0\r\n\r\n"
		cut     = "(b'<html><h1>Client Disconnect</h1><p>The client was disconnected during request.</p></html>')"
		late    = "(b'<html><h1>Request Timeout</h1><p>The server has waited too long for the request to be sent by the client.</p></html>')"
	)
	devices, held := sda(t), hashOf("/a/c/held")
	partition := filepath.Join(devices, "sda/objects-1/7")
	servers := map[string]*testServer{}
	for _, texts := range []string{"2.30", "master"} {
		servers[texts] = ours(t, devices, map[string]string{"client_timeout": "1", "replication_lock_timeout": "1", "log_requests": "no", "imping_log_texts": texts})
	}
	fragment := subPut("/a/c/held", "frag", "1795342301.00000", "X-Object-Sysmeta-Ec-Etag: abc", "X-Object-Sysmeta-Ec-Frag-Index: 2", "X-Backend-No-Commit: True")
	converse(t, servers["2.30"].addr, 1, 2, checked, ":UPDATES: START\r\n"+fragment+":UPDATES: END\r\n")
	if err := os.Remove(filepath.Join(partition, "hashes.invalid")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(partition, "hashes.invalid"), 0o755); err != nil { // nothing can be invalidated
		t.Fatal(err)
	}
	for _, q := range []struct{ what, body, old, master string }{
		{"nothing after the check", chunked(checked) + end,
			"ssync client disconnected",
			"WHO client disconnected"},
		{"silence", chunked(start),
			"127.0.0.1/sda/7 TIMEOUT in ssync.Receiver: 1.0 second: missing_check line",
			"WHO TIMEOUT: 1.0 second: missing_check line"},
		{"no chunk", chunked(start) + "zz\r\n",
			"127.0.0.1/sda/7 read failed in ssync.Receiver: missing_check line: ERR",
			"WHO read failed: missing_check line: ERR"},
		{"a wrong word", chunked("hello\r\n"),
			"127.0.0.1/sda/7 EXCEPTION in ssync.Receiver: ERR",
			"WHO EXCEPTION: ERR"},
		{"a payload that ends early", chunked(put) + end,
			"ssync subrequest failed with 499: PUT /sda/7/a/c/o%20o " + cut,
			"WHO subrequest failed with 499: PUT /a/c/o%20o " + cut + "\nWHO read failed: Early termination for PUT /a/c/o%20o"},
		{"a payload that stalls", chunked(put),
			"ssync subrequest failed with 408: PUT /sda/7/a/c/o%20o " + late + "\n127.0.0.1/sda/7 TIMEOUT in ssync.Receiver: 1.0 second: updates line",
			"WHO subrequest failed with 408: PUT /a/c/o%20o " + late + "\nWHO TIMEOUT: 1.0 second: PUT /a/c/o%20o"},
		{"a refused payload that stalls", chunked(strings.Replace(put, "1795342301.00000", "bad", 1)),
			"ssync subrequest failed with 400: PUT /sda/7/a/c/o%20o (b'Invalid X-Timestamp header')\n127.0.0.1/sda/7 TIMEOUT in ssync.Receiver: 1.0 second: updates content",
			"WHO subrequest failed with 400: PUT /a/c/o%20o (b'Invalid X-Timestamp header')\nWHO TIMEOUT: 1.0 second: PUT /a/c/o%20o"},
		{"a refused payload that ends early", chunked(strings.Replace(put, "1795342301.00000", "bad", 1)) + end,
			"ssync subrequest failed with 400: PUT /sda/7/a/c/o%20o (b'Invalid X-Timestamp header')\n127.0.0.1/sda/7 read failed in ssync.Receiver: Early termination for PUT /a/c/o%20o",
			"WHO subrequest failed with 400: PUT /a/c/o%20o (b'Invalid X-Timestamp header')\nWHO read failed: Early termination for PUT /a/c/o%20o"},
		{"a commit that fails", chunked(start+held+" 1795342301.00000\r\n:MISSING_CHECK: END\r\n") + end,
			"127.0.0.1/sda/7 EXCEPTION in ssync.Receiver while attempting commit of " + partition + "/" + held[29:] + "/" + held + ": ERR\nssync client disconnected",
			"WHO EXCEPTION while attempting commit of " + partition + "/" + held[29:] + "/" + held + ": ERR\nWHO client disconnected"},
		{"another's session", chunked(checked),
			"127.0.0.1/sda/7 SSYNC LOCK TIMEOUT: 1 second: " + partition + "/.lock-replication",
			"WHO LOCK TIMEOUT: 1 second: " + partition + "/.lock-replication"},
	} {
		if q.what == "another's session" {
			release, err := servers["2.30"].stores[1].LockReplication(context.Background(), "sda", 7, time.Second, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
		}
		for texts, want := range map[string]string{"2.30": q.old, "master": strings.ReplaceAll(q.master, "WHO", "ssync receiver (remote_addr: 127.0.0.1, path: sda/7)")} {
			s := servers[texts]
			before := len(s.log.String())
			w := dial(t, s.addr)
			io.WriteString(w, request("SSYNC", "/sda/7", "Transfer-Encoding: chunked", "X-Backend-Storage-Policy-Index: 1", "X-Backend-Ssync-Frag-Index: 2")+q.body)
			io.ReadAll(w.r) // until the server hangs up
			w.Close()
			got := strings.ReplaceAll(strings.TrimSuffix(s.log.String()[before:], "\n"), "object-server: ", "")
			want = strings.ReplaceAll(regexp.QuoteMeta(want), "ERR", ".+")
			if !regexp.MustCompile("^" + want + "$").MatchString(got) {
				t.Errorf("%s, texts of %s: %s\nwant %s", q.what, texts, got, want)
			}
		}
	}
}
