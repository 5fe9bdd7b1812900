package server

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/codec"
)

// t1 to t4 are times of objects; after t4 comes "now".
const (
	t1 = "1402444821.10000"
	t2 = "1402444822.20000"
	t3 = "1402444823.30000"
	t4 = "1402444824.00000"
)

// bigEndian makes a header that of a machine of the other byte order.
func bigEndian(header []byte) {
	for _, field := range [][2]int{{0, 4}, {4, 8}, {8, 12}, {12, 20}, {55, 59}, {59, 63}, {63, 67}} {
		slices.Reverse(header[field[0]:field[1]])
	}
	binary.BigEndian.PutUint32(header[67:], codec.Zlib.Sum(header[:59]))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	rng.Read(b)
	return b
}

// archive is a fragment archive of 4+2 with segments of 64 KiB.
func archive(t testing.TB, object []byte, index int) []byte {
	t.Helper()
	return archiveOf(t, object, index, 64<<10)
}

func archiveOf(t testing.TB, object []byte, index, segment int) []byte {
	t.Helper()
	code, err := codec.New(codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for len(object) > 0 {
		part := object[:min(segment, len(object))]
		object = object[len(part):]
		payloads := make([][]byte, code.N())
		for i := range payloads {
			payloads[i] = make([]byte, code.PayloadSize(len(part)))
		}
		code.Encode(part, payloads)
		header := code.Header(index, len(part))
		header.LibecVersion = 0x010602
		fragment := make([]byte, codec.HeaderSize)
		header.Put(fragment, codec.Zlib)
		out = append(append(out, fragment...), payloads[index]...)
	}
	return out
}

// metadata is that of a .data file, with more in pairs.
func metadata(name, at string, content []byte, more ...string) map[string]string {
	m := map[string]string{"name": name, "X-Timestamp": at, "Content-Type": "text/plain", "Content-Length": strconv.Itoa(len(content)),
		"ETag": fmt.Sprintf("%x", md5.Sum(content))}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
		if more[i+1] == "-" {
			delete(m, more[i])
		}
	}
	return m
}

func ecMetadata(name, at string, content []byte, index int, more ...string) map[string]string {
	return metadata(name, at, content, append([]string{"X-Object-Sysmeta-Ec-Frag-Index", strconv.Itoa(index), "X-Object-Sysmeta-Ec-Etag", "0123456789abcdef0123456789abcdef",
		"X-Object-Sysmeta-Ec-Content-Length", "150000", "X-Object-Sysmeta-Ec-Scheme", "isa_l_rs_vand 4+2", "X-Object-Sysmeta-Ec-Segment-Size", "65536"}, more...)...)
}

// files writes the files of an object of a policy and returns the path of a request.
func (b *both) files(policy int, name string, files []func(dir string)) string {
	dir := hashDir(testSwift().Policies[policy], 7, name)
	for _, write := range files {
		write(dir)
	}
	return "/sda/7" + name
}

func (b *both) file(name string, content []byte, meta map[string]string) func(string) {
	return func(dir string) { b.write(filepath.Join(dir, name), content, meta) }
}

// object is one that requests are about.
type object struct {
	path   string
	policy int
}

// objects makes one of each kind on both devices.
func (b *both) objects() map[string]object {
	content := randomBytes(100_000)
	large := randomBytes(400_001)
	all := map[string]object{}
	add := func(kind string, policy int, files func(name string) []func(string)) {
		name := "/a/c/" + kind
		all[kind] = object{path: b.files(policy, name, files(name)), policy: policy}
	}
	add("plain", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content, "X-Object-Meta-Color", "red", "Content-Encoding", "gzip",
			"Content-Disposition", "attachment", "X-Object-Sysmeta-Secret", "s", "X-Object-Transient-Sysmeta-Crypto", "c", "X-Unknown", "u", "X-Object-Meta-", "short", "X-Robots-Tag", "no"))}
	})
	add("large", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", large, metadata(n, t2, large))}
	})
	add("unicode-é日", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content[:10], metadata(n, t2, content[:10], "X-Object-Meta-\u00c3\u00a9", "\u00c3\u00bc\u00c3\u009f \u00e6\u0097\u00a5"))}
	})
	add("empty", 0, func(n string) []func(string) {
		return []func(string){b.file(t4+".data", nil, metadata(n, t4, nil))}
	})
	add("posted", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content, "X-Object-Meta-Color", "red", "X-Object-Sysmeta-Kept", "yes", "X-Static-Large-Object", "True")),
			b.file(t3+".meta", nil, map[string]string{"name": n, "X-Timestamp": t3, "X-Object-Meta-Color": "blue", "X-Object-Meta-New": "1"})}
	})
	add("content-type", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content)),
			b.file(t3+"-1adb0.meta", nil, map[string]string{"name": n, "X-Timestamp": t3, "Content-Type": "a/b", "Content-Type-Timestamp": t2 + "_0000000000000001"}),
			b.file("1402444823.50000-4e20.meta", nil, map[string]string{"name": n, "X-Timestamp": "1402444823.50000", "Content-Type": "a/c", "Content-Type-Timestamp": t3})}
	})
	add("two-metas", 0, func(n string) []func(string) {
		return []func(string){b.file(t1+".data", content, metadata(n, t1, content)),
			b.file(t2+"+0.meta", nil, map[string]string{"name": n, "X-Timestamp": t2, "Content-Type": "x/y", "Content-Type-Timestamp": t2, "X-Object-Meta-Old": "1"}),
			b.file(t3+".meta", nil, map[string]string{"name": n, "X-Timestamp": t3, "X-Object-Meta-New": "1"})}
	})
	add("offset", 0, func(n string) []func(string) {
		at := t2 + "_000000000000000a"
		return []func(string){b.file(at+".data", content, metadata(n, at, content))}
	})
	add("deleted", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".ts", nil, map[string]string{"name": n, "X-Timestamp": t2})}
	})
	add("expired", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content, "X-Delete-At", "1402444900"))}
	})
	add("expiring", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content, "X-Delete-At", "9402444900"))}
	})
	add("expired-by-post", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content)),
			b.file(t3+".meta", nil, map[string]string{"name": n, "X-Timestamp": t3, "X-Delete-At": "1402444900"})}
	})
	add("collision", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata("/a/c/other", t2, content))}
	})
	add("untyped", 0, func(n string) []func(string) {
		return []func(string){b.file(t2+".data", content, metadata(n, t2, content, "Content-Type", "-"))}
	})
	frag := func(at string, index int, durable string, content []byte, more ...string) func(n string) func(string) {
		return func(n string) func(string) {
			a := archive(b.t, content, index)
			return b.file(at+"#"+strconv.Itoa(index)+durable+".data", a, ecMetadata(n, at, a, index, more...))
		}
	}
	ec := func(kind string, files ...func(n string) func(string)) {
		add(kind, 1, func(n string) (made []func(string)) {
			for _, f := range files {
				made = append(made, f(n))
			}
			return made
		})
	}
	mark := func(name string, meta ...string) func(n string) func(string) {
		return func(n string) func(string) {
			m := map[string]string{"name": n}
			for i := 0; i < len(meta); i += 2 {
				m[meta[i]] = meta[i+1]
			}
			return b.file(name, nil, m)
		}
	}
	ec("ec", frag(t2, 3, "#d", large))
	ec("ec-small", frag(t2, 3, "#d", large[:1000]))
	ec("ec-empty", frag(t2, 3, "#d", nil))
	ec("ec-two", frag(t2, 1, "#d", large[:5000]), frag(t2, 4, "", large[:5000]))
	ec("ec-newer", frag(t2, 1, "#d", large[:5000]), frag(t3, 1, "", large[:6000]), frag(t3, 5, "", large[:6000]))
	ec("ec-many", frag(t1, 0, "", large[:100]), frag(t2, 1, "#d", large[:5000]), frag(t2, 2, "#d", large[:5000]), frag(t3, 3, "", large[:6000]), frag(t4, 0, "", large[:7000]), frag(t4, 2, "", large[:7000]))
	ec("ec-pending", frag(t3, 2, "", large[:5000]))
	ec("ec-legacy", frag(t2, 2, "", large[:5000]), mark(t2+".durable"))
	ec("ec-posted", frag(t2, 2, "#d", large[:5000], "X-Object-Meta-A", "1"), mark(t3+".meta", "X-Timestamp", t3, "X-Object-Meta-B", "2"))
	ec("ec-pending-posted", frag(t2, 2, "", large[:5000], "X-Object-Meta-A", "1"), mark(t3+".meta", "X-Timestamp", t3, "X-Object-Meta-B", "2"))
	ec("ec-deleted", mark(t3+".ts", "X-Timestamp", t3))
	ec("ec-deleted-pending", mark(t2+".ts", "X-Timestamp", t2), frag(t3, 2, "", large[:5000]))
	ec("ec-expired", frag(t2, 2, "#d", large[:5000], "X-Delete-At", "1402444900"))
	all["nothing"] = object{path: "/sda/7/a/c/nothing"}
	all["nothing-ec"] = object{path: "/sda/7/a/c/nothing-ec", policy: 1}
	return all
}

// damaged makes objects that the first look, or the first whole read, quarantines.
func (b *both) damaged(suffix string) map[string]object {
	content := randomBytes(100_000)
	other := slices.Clone(content)
	other[50_000] ^= 1
	all := map[string]object{}
	add := func(kind, file string, policy int, bytes []byte, meta func(n string) map[string]string) {
		n := "/a/c/" + kind + suffix
		dir := hashDir(testSwift().Policies[policy], 7, n)
		b.write(filepath.Join(dir, file), bytes, meta(n))
		all[kind] = object{path: "/sda/7" + n, policy: policy}
	}
	add("short", t2+".data", 0, content[:99_999], func(n string) map[string]string { return metadata(n, t2, content) })
	add("rotten", t2+".data", 0, other, func(n string) map[string]string { return metadata(n, t2, content) })
	add("nameless", t2+".data", 0, content, func(n string) map[string]string { return metadata(n, t2, content, "name", "-") })
	add("bad-expiry", t2+".data", 0, content, func(n string) map[string]string { return metadata(n, t2, content, "X-Delete-At", "soon") })
	add("no-metadata", t2+".data", 0, content, func(string) map[string]string { return nil })
	add("bad-tombstone", t2+".ts", 0, nil, func(string) map[string]string { return nil })
	return all
}

func (o object) ask(b *both, method string, header ...string) (stock, ours reply) {
	return b.ask(method, escape(o.path), append([]string{"X-Backend-Storage-Policy-Index: " + strconv.Itoa(o.policy)}, header...)...)
}

func escape(path string) string {
	var s strings.Builder
	for i := range len(path) {
		if c := path[i]; c >= 0x80 || c == ' ' || c == '%' || c == 0 {
			fmt.Fprintf(&s, "%%%02X", c)
		} else {
			s.WriteByte(c)
		}
	}
	return s.String()
}

var boundaries = regexp.MustCompile(`[0-9a-f]{32}`)

// same compares two answers, but for what nobody can foresee.
func same(t *testing.T, what string, stock, ours reply) {
	t.Helper()
	for _, a := range []*reply{&stock, &ours} {
		if strings.HasPrefix(a.Status, "500") { // with a traceback
			a.Body, a.Header = "", nil
		}
		if strings.Contains(a.Header["Content-Type"], "byteranges") {
			boundary := boundaries.FindString(a.Header["Content-Type"])
			a.Header["Content-Type"] = strings.ReplaceAll(a.Header["Content-Type"], boundary, "BOUNDARY")
			a.Body = strings.ReplaceAll(a.Body, boundary, "BOUNDARY")
		}
		if len(a.Body) > 200 {
			a.Body = fmt.Sprintf("%d bytes, %x", len(a.Body), md5.Sum([]byte(a.Body)))
		}
	}
	if d := cmp.Diff(stock, ours); d != "" {
		t.Errorf("%s: answers differ (-stock +ours):\n%s", what, d)
	}
}

var conditions = []string{
	"", "X-Backend-Replication: True", "X-Backend-Replication: no", "X-Timestamp: 1402444830.00000", "X-Timestamp: 1402444999", "X-Timestamp: soon", "X-Timestamp:",
	"If-None-Match: *", "If-Match: *", "If-None-Match: ETAG", `If-None-Match: "ETAG"`, `If-Match: "ETAG"`, `If-Match: "no", "ETAG"`, `If-None-Match: "no"`, `If-Match: "no"`, "If-Match:",
	"If-None-Match: 0123456789abcdef0123456789abcdef", "If-Match: 0123456789abcdef0123456789abcdef",
	"X-Backend-Etag-Is-At: X-Nothing, x-object-sysmeta-ec-etag", "X-Backend-Etag-Is-At: X-Object-Meta-Color", "If-Match: red",
	"If-Modified-Since: Wed, 11 Jun 2014 00:00:22 GMT", "If-Modified-Since: Wed, 11 Jun 2014 00:00:23 GMT", "If-Modified-Since: Wed, 11 Jun 2014 00:00:24 GMT",
	"If-Modified-Since: Tue, 10 Jun 2014 00:00:00 GMT", "If-Unmodified-Since: Tue, 10 Jun 2014 00:00:00 GMT", "If-Unmodified-Since: Wed, 11 Jun 2014 00:00:23 GMT",
	"If-Modified-Since: yesterday", "If-Modified-Since: Wednesday, 11-Jun-14 00:00:23 GMT", "If-Unmodified-Since: Wed Jun 11 00:00:22 2014", "If-Modified-Since: Wed, 11 Jun 2014 00:00:23 +0900",
	"Range: bytes=0-", "Range: bytes=0-9", "Range: bytes=5-5", "Range: bytes=99990-", "Range: bytes=-5", "Range: bytes=-0", "Range: bytes=100000-", "Range: bytes=99999-100000", "Range: bytes=5-3",
	"Range: bytes=a-b", "Range: items=0-5", "Range: bytes=", "Range: bytes=-", "Range: bytes = 1 - 4", "Range: bytes=-1000000", "Range: bytes=0-999999999999999999999999", "Range: bytes=99999999999999999999999-",
	"Range: bytes=0-4,10-14", "Range: bytes=0-4,-5", "Range: bytes=0-4,5000000-", "Range: bytes=5000000-,6000000-", "Range: bytes=0-10,5-15,7-12,3-9", "Range: bytes=9-9,8-8,7-7,6-6,5-5,4-4,3-3,2-2",
	"Range: bytes=5-6,3-4", "Range: bytes=1-1,2-2,,3-3", "Range: BYTES=1-2", "Range: bytes=+1-2", "Range: bytes=1_0-12",
	"X-Backend-Ignore-Range-If-Metadata-Present: X-Static-Large-Object , x-foo",
	"X-Backend-Fragment-Preferences: []", "X-Backend-Fragment-Preferences: null", "X-Backend-Fragment-Preferences: nonsense", "X-Backend-Fragment-Preferences: {}", "X-Backend-Fragment-Preferences: 5",
	`X-Backend-Fragment-Preferences: [{"timestamp": "` + t2 + `", "exclude": []}]`, `X-Backend-Fragment-Preferences: [{"timestamp": "` + t2 + `", "exclude": [1, 4]}]`,
	`X-Backend-Fragment-Preferences: [{"timestamp": "` + t2 + `", "exclude": ["2"]}]`, `X-Backend-Fragment-Preferences: [{"timestamp": ` + t3 + `, "exclude": [5]}]`,
	`X-Backend-Fragment-Preferences: [{"timestamp": "` + t4 + `", "exclude": [0, 2]}, {"timestamp": "` + t3 + `", "exclude": [3]}]`, `X-Backend-Fragment-Preferences: [{"timestamp": "` + t4 + `", "exclude": [2]}]`,
	`X-Backend-Fragment-Preferences: [{"timestamp": "` + t1 + `", "exclude": []}]`, `X-Backend-Fragment-Preferences: [{"timestamp": "x", "exclude": []}]`, `X-Backend-Fragment-Preferences: [{"exclude": []}]`,
	`X-Backend-Fragment-Preferences: [{"timestamp": "` + t2 + `", "exclude": [-1]}]`, `X-Backend-Fragment-Preferences: [{"timestamp": "` + t2 + `"}]`,
	"X-Auth-Token: t", "Connection: keep-alive",
}

// Every object under every single condition, then under several at random: what stock's
// server says, ours says (rules 2, 16 and 27).
func TestObjectsAreGivenAsSwiftDoes(t *testing.T) {
	t.Parallel()
	b := startBoth(t, nil)
	all := b.objects()
	kinds := slices.Sorted(maps.Keys(all))
	etag := func(o object, header string) string {
		if !strings.Contains(header, "ETAG") {
			return header
		}
		a := ask(t, b.stock.Addr, "HEAD", escape(o.path), "X-Backend-Storage-Policy-Index: "+strconv.Itoa(o.policy), "X-Backend-Replication: True", "X-Backend-Fragment-Preferences: []")
		return strings.ReplaceAll(header, "ETAG", strings.Trim(a.Header["Etag"], `"`))
	}
	seen := map[string]int{}
	check := func(o object, method, kind string, header ...string) {
		for i := range header {
			header[i] = etag(o, header[i])
		}
		header = slices.DeleteFunc(header, func(s string) bool { return s == "" })
		stock, ours := o.ask(b, method, header...)
		seen[stock.Status]++
		same(t, fmt.Sprintf("%s %s %q", method, kind, header), stock, ours)
	}
	for k, kind := range kinds {
		for i, condition := range conditions {
			check(all[kind], "GET", kind, condition)
			if (i+k)%3 == 0 { // which is the same but for the body
				check(all[kind], "HEAD", kind, condition)
			}
		}
		if t.Failed() {
			return
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		kind := kinds[r.IntN(len(kinds))]
		header := []string{}
		names := map[string]bool{}
		for range 2 + r.IntN(2) {
			condition := conditions[r.IntN(len(conditions))]
			// Twice the same is nonsense in all of these.
			if name, _, _ := strings.Cut(condition, ":"); !names[name] {
				names[name] = true
				header = append(header, condition)
			}
		}
		check(all[kind], []string{"GET", "HEAD"}[r.IntN(2)], kind, header...)
	}
	t.Log(seen)
	for _, status := range []string{"200 OK", "206 Partial Content", "304 Not Modified", "400 Bad Request", "403 Forbidden", "404 Not Found", "412 Precondition Failed", "416 Requested Range Not Satisfiable"} {
		if seen[status] < 10 {
			t.Errorf("%d answers %s: the test has gone blind", seen[status], status)
		}
	}
	b.sameTrees()
}

func TestOddRequestsAreRefusedAsSwiftDoes(t *testing.T) {
	t.Parallel()
	b := startBoth(t, nil)
	b.objects()
	for _, target := range []string{
		"/", "/sda", "/sda/7", "/sda/7/a", "/sda/7/a/c", "/sda/7/a/c/", "/sda/7//c/o", "//7/a/c/o", "/./7/a/c/o", "/sda/../a/c/o", "/sda/7/a/c/o/p", "/sda/7/a/c//", "/sda/x/a/c/o",
		"/sdb/7/a/c/o", "/sd%20a/7/a/c/o", "/sda/7/a/c/%FF", "/sda/7/a/c/%00o", "/sda/7/a/c/o%00", "/sda/7/%00a/%00c/%00o", "/sda/7/a%00/c/o", "/sda/7/.a/%00c/o", "/sda/7/a/%00c/o",
		"/sda/7/%C3%A9", "/sda/7/%C3%A9/c", "/sda/%zz/a/c/plain", "/sda/7/a/c/plain?multipart-manifest=get", "*", "plain", "/sda%2F7/a/c/plain",
	} {
		for _, method := range []string{"GET", "HEAD", "REPLICATE", "COPY", "BREW", "get"} {
			if method == "REPLICATE" && (strings.HasPrefix(target, "/sda/x") || strings.HasPrefix(target, "/sda/%zz")) { // a folder that is no partition: ours makes none
				continue
			}
			stock, ours := b.ask(method, target)
			if method == "REPLICATE" && stock.Status == "200 OK" {
				stock.Body, ours.Body, stock.Header, ours.Header = "", "", nil, nil // see TestHashesAreThoseOfSwift
			}
			same(t, method+" "+target, stock, ours)
		}
	}
	for _, policy := range []string{"", "0", "1", " 1 ", "2", "-1", "x", "1.0", "+1", "1_0"} {
		stock, ours := b.ask("GET", "/sda/7/a/c/plain", "X-Backend-Storage-Policy-Index: "+policy)
		same(t, "policy "+policy, stock, ours)
	}
	for _, header := range [][]string{{"X_Backend_Storage_Policy_Index: 1"}, {"X-Backend-Storage-Policy-Index: 1", "x-backend-storage-policy-index: 1"}, {"Range: bytes=0-1", "RANGE: bytes=2-3"}, {"range: bytes=0-1,3-4"}} {
		stock, ours := b.ask("GET", "/sda/7/a/c/plain", header...)
		same(t, fmt.Sprint(header), stock, ours)
	}
}

// Methods that other files of this package bring are told by both.
func TestOptionsTellTheMethods(t *testing.T) {
	t.Parallel()
	b := startBoth(t, nil)
	stock, ours := b.ask("OPTIONS", "/anything")
	for method := range strings.SplitSeq(ours.Header["Allow"], ", ") {
		if !strings.Contains(stock.Header["Allow"], method) {
			t.Errorf("method %q is none of Swift's (%s)", method, stock.Header["Allow"])
		}
	}
	stock.Header["Allow"] = ours.Header["Allow"]
	same(t, "OPTIONS", stock, ours)
}

// sameTrees compares what the two devices hold now.
func (b *both) sameTrees() {
	b.t.Helper()
	if d := cmp.Diff(tree(b.t, b.roots[0]), tree(b.t, b.roots[1])); d != "" {
		b.t.Errorf("the disks differ (-stock +ours):\n%s", d)
	}
}

// tree is the names below root, of files with their sizes; uuids and locks have no names.
func tree(t testing.TB, root string) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		size := info.Size()
		if d.IsDir() {
			size = -1
		}
		rel, _ := filepath.Rel(root, path)
		if d.Name() != ".lock" && d.Name() != "hashes.pkl" {
			found[rel] = size
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// ec_object_segment_size may be changed: what was written before has its headers elsewhere.
func TestArchivesKeepTheSegmentSizeThatTheyWereWrittenWith(t *testing.T) {
	for _, validate := range []string{"100", "0"} {
		devices := t.TempDir()
		s := ours(t, devices, map[string]string{"etag_validate_pct": validate})
		for segment, want := range map[string]bool{"32768": true, "65536": false} { // the metadata tell the truth, or they do not
			name := "/a/c/" + segment
			a := archiveOf(t, randomBytes(150_000), 2, 32<<10)
			writeObjectFile(t, filepath.Join(devices, hashDir(testSwift().Policies[1], 7, name), t2+"#2#d.data"), a,
				ecMetadata(name, t2, a, 2, "X-Object-Sysmeta-Ec-Segment-Size", segment))
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, request("GET", "/sda/7"+name, "X-Backend-Storage-Policy-Index: 1", "Connection: close"))
			got, _ := io.ReadAll(conn)
			conn.Close()
			if whole := bytes.HasSuffix(got, a); whole != want {
				t.Errorf("validate %s, segments of 32768 said to be of %s: given whole: %v", validate, segment, whole)
			}
		}
	}
}

// What Swift quarantines, when it is looked at or once it was read, ours does.
func TestDamagedObjectsAreQuarantinedAsSwiftDoes(t *testing.T) {
	t.Parallel()
	b := startBoth(t, nil)
	for i, how := range []struct{ method, header string }{{"HEAD", "A: b"}, {"GET", "A: b"}, {"GET", "Range: bytes=5-9"}, {"GET", "Range: bytes=0-9"}, {"GET", "If-None-Match: *"}} {
		all := b.damaged(fmt.Sprint("-", i))
		for _, kind := range slices.Sorted(maps.Keys(all)) {
			for range 2 {
				stock, ours := all[kind].ask(b, how.method, how.header)
				same(t, how.method+" "+how.header+" "+kind, stock, ours)
			}
		}
		b.sameTrees()
	}
}

// A fragment archive that proves bad is never given whole, and the next one who asks is told
// that there is none.
func TestBadArchivesAreNotGivenWhole(t *testing.T) {
	large := randomBytes(3_000_000)
	good := archive(t, large, 2)
	flip := func(at int) []byte {
		bad := slices.Clone(good)
		bad[at] ^= 1
		return bad
	}
	const whole = 80 + 16<<10 // a fragment
	foreign := slices.Clone(good)
	for header := range slices.Chunk(foreign, whole) {
		bigEndian(header[:80])
	}
	for name, c := range map[string]struct {
		archive  []byte
		validate string
		passes   bool
	}{
		"rotten payload":                       {flip(100_000), "100", false},
		"rotten last byte":                     {flip(len(good) - 1), "100", false},
		"rotten header":                        {flip(3*whole + 4), "100", false},
		"rotten header, MD5 not looked at":     {flip(3*whole + 4), "0", false},
		"rotten last header, MD5 unseen":       {flip(len(good)/whole*whole + 60), "0", false},
		"rotten payload, MD5 not looked at":    {flip(100_000), "0", true},
		"cut in a header":                      {good[:5*whole+33], "100", false},
		"good, with headers across two pieces": {good, "100", true},
		"good, MD5 not looked at":              {good, "0", true},
		"of a big-endian machine":              {foreign, "100", true},
		"of such a one, MD5 not looked at":     {foreign, "0", true},
	} {
		both := func(f func(t *testing.T)) {
			t.Run(name, f)
			t.Run(name+", in small pieces", func(t *testing.T) {
				largePieces.Add(maxLargePieces) // all are taken
				defer largePieces.Add(-maxLargePieces)
				f(t)
			})
		}
		both(func(t *testing.T) {
			devices := t.TempDir()
			s := ours(t, devices, map[string]string{"etag_validate_pct": c.validate})
			written := good
			if bytes.Equal(c.archive, foreign) {
				written = foreign
			}
			meta := ecMetadata("/a/c/o", t2, written, 2)
			meta["Content-Length"] = strconv.Itoa(len(c.archive))
			dir := filepath.Join(devices, hashDir(testSwift().Policies[1], 7, "/a/c/o"))
			writeObjectFile(t, filepath.Join(dir, t2+"#2#d.data"), c.archive, meta)
			w := dial(t, s.addr)
			io.WriteString(w, request("GET", "/sda/7/a/c/o", "X-Backend-Storage-Policy-Index: 1"))
			a, err := w.read("GET")
			if (err == nil) != c.passes {
				t.Errorf("%d of %d bytes were given: %v", len(a.Body), len(c.archive), err)
			}
			if c.passes && a.Body != string(c.archive) {
				t.Error("other bytes were given")
			}
			after := ask(t, s.addr, "GET", "/sda/7/a/c/o", "X-Backend-Storage-Policy-Index: 1")
			if c.passes != strings.HasPrefix(after.Status, "200") {
				t.Errorf("next answer: %s", after.Status)
			}
			if _, err := os.Stat(dir); c.passes != (err == nil) {
				t.Errorf("its directory: %v", err)
			}
		})
	}
	if n := largePieces.Load(); n != 0 {
		t.Errorf("%d pieces were not given back", n)
	}
}
