package server

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What no proxy sends yet, and what comes in other pieces than proxies send, is answered and kept as stock does.
func TestOddDocumentsAreAsStocks(t *testing.T) {
	w := startWrites(t)
	body := "some bytes of a fragment"
	both := []string{"X-Backend-Storage-Policy-Index: 1", "X-Backend-Obj-Metadata-Footer: yes", "X-Backend-Obj-Multiphase-Commit: yes", "X-Timestamp: " + middle}
	length := "X-Backend-Obj-Content-Length: "
	whole := append(slices.Clone(both), length+strconv.Itoa(len(body)))
	const index = `"X-Object-Sysmeta-Ec-Frag-Index": "2"`
	with := func(json string) []string {
		return []string{objectDocument(body) + footerDocument(json, ""), commitDocument}
	}
	normal := with("{" + index + "}")
	for i, c := range []struct {
		name   string
		header []string
		size   int
		phases []string
	}{
		{"byte by byte", whole, 1, normal},
		{"two bytes at a time", whole, 2, normal},
		{"negative length", append(slices.Clone(both), length+"-5"), 100, normal},
		{"length without end", append(slices.Clone(both), length+"4611686018427387904"), 100, normal},
		{"names with underscores", whole, 100, with("{" + index + `, "X-Object-Sysmeta-Foo_bar": "1", "x-object-meta-a_b": "2"}`)},
		{"text that is no UTF-8", whole, 100, with("{" + index + `, "X-Object-Meta-A": "` + "\xff" + `"}`)},
		{"half a character", whole, 100, with("{" + index + `, "X-Object-Meta-A": "\ud800"}`)},
		{"a list", whole, 100, with(`[]`)},
		{"a word", whole, 100, with("{" + index + `, "X-Object-Meta-A": true}`)},
		{"index that is none", whole, 100, with(`{"X-Object-Sysmeta-Ec-Frag-Index": "x"}`)},
		{"index of another policy", whole, 100, with(`{"X-Object-Sysmeta-Ec-Frag-Index": "99"}`)},
		{"no index", whole, 100, with(`{}`)},
		{"something before the first document", whole, 100, []string{"junk\r\n" + normal[0], normal[1]}},
		{"line break before the first document", whole, 100, []string{"\r\n" + normal[0], normal[1]}},
		{"commit without an end", whole, 100, []string{normal[0], "X-Document: put commit\r\n\r\nput_commit"}},
		{"commit with more behind", whole, 100, []string{normal[0], commitDocument + "\r\n" + strings.Repeat("x", 1000)}},
	} {
		var answers [2][]reply
		for j, addr := range []string{w.stock.Addr, w.ours.addr} {
			answers[j] = inPhases(t, addr, fmt.Sprintf("/sda/5/a/c/o%d", i), c.header, c.size, c.phases...)
		}
		if last := answers[0][len(answers[0])-1].Status; last[0] == '5' || c.header[4] == length+"-5" {
			// Stock runs into its own errors there: what counts is that it is refused.
			if got := answers[1][len(answers[1])-1].Status; got[0] < '4' {
				t.Errorf("%s: stock answered %s, we %s", c.name, last, got)
			}
			w.removeEmpty()
			continue
		}
		if len(answers[0]) != len(answers[1]) {
			t.Errorf("%s: stock answered %v, we %v", c.name, answers[0], answers[1])
			continue
		}
		w.removeEmpty()
		for k := range answers[0] {
			w.same(c.name, answers[0][k], answers[1][k])
		}
	}
	w.sameDisks()
}

// What could only be misread, could never be sent back, or would take all memory is refused, and nothing of it stays.
func TestDocumentsThatNoServerShouldTakeAreRefused(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := ours(t, root, map[string]string{"fallocate_reserve": "0"})
	const json = `{"X-Object-Sysmeta-Ec-Frag-Index": "2"}`
	first := objectDocument("some bytes") + footerDocument(json, "")
	for name, phase := range map[string]string{
		"a line feed alone":           strings.Replace(first, boundary+"\r\n", boundary+"\n", 1),
		"a line break in a value":     objectDocument("some bytes") + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "2", "X-Object-Meta-A": "1\r\nX-Object-Meta-B: 2"}`, ""),
		"a line break in a name":      objectDocument("some bytes") + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "2", "X-Object-Meta-A\nB": "1"}`, ""),
		"a head without end":          "--" + boundary + "\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 300),
		"a head line without end":     "--" + boundary + "\r\nX-A: " + strings.Repeat("a", 300<<10),
		"documents of nothing":        strings.Repeat("--"+boundary+"\r\n\r\n\r\n", 1000),
		"a footer without end":        objectDocument("some bytes") + footerDocument(strings.Repeat(" ", 2<<20)+json, ""),
		"more behind the first phase": first + strings.Repeat("\r\n", 100<<10),
	} {
		answers := inPhases(t, s.addr, "/sda/5/a/c/o", []string{"X-Backend-Storage-Policy-Index: 1", "X-Backend-Obj-Metadata-Footer: yes",
			"X-Backend-Obj-Multiphase-Commit: yes", "X-Timestamp: " + middle}, 65536, phase, commitDocument)
		if last := answers[len(answers)-1].Status; last[0] != '4' && last[0] != '5' {
			t.Errorf("%s: %s", name, last)
		}
		if left, _ := filepath.Glob(filepath.Join(root, "sda/objects-1/5/*/*/*#d.data")); len(left) > 0 {
			t.Fatalf("%s: %v is durable", name, left)
		}
	}
}

// A proxy that goes in the middle of its commit has not said it.
func TestHalfACommitIsNone(t *testing.T) {
	w := startWrites(t)
	for i, addr := range []string{w.stock.Addr, w.ours.addr} {
		c := dial(t, addr)
		io.WriteString(c, request("PUT", "/sda/5/a/c/o", "Transfer-Encoding: chunked", "Expect: 100-continue", "Content-Type: text/plain", "X-Timestamp: "+middle,
			"X-Backend-Obj-Multipart-Mime-Boundary: "+boundary, "X-Backend-Storage-Policy-Index: 1", "X-Backend-Obj-Metadata-Footer: yes", "X-Backend-Obj-Multiphase-Commit: yes"))
		half, _, _ := strings.Cut(commitDocument, "confirmation")
		for _, phase := range []string{objectDocument("some bytes") + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "4"}`, ""), half} {
			if a, err := c.read("PUT"); err != nil || a.Status != "100 Continue" {
				t.Fatalf("server %d: %v %v", i, a, err)
			}
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(phase), phase)
			if phase != half {
				io.WriteString(c, "0\r\n\r\n")
			}
		}
		c.Conn.(*net.TCPConn).CloseWrite()
		if a, err := c.read("PUT"); err != nil || !strings.HasPrefix(a.Status, "499") {
			t.Errorf("server %d: %v %v", i, a, err)
		}
		c.Close()
	}
	w.sameDisks()
}

// Proxies that go at any byte leave no descriptor, no temporary file and no durable fragment behind; a whole PUT is followed by the next request.
func TestProxiesThatGoAtAnyByteLeaveNothingOpen(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"sda/tmp-1", "sda/objects-1"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := ours(t, root, map[string]string{"fallocate_reserve": "0"})
	open := func() int {
		names, _ := os.ReadDir("/proc/self/fd")
		return len(names)
	}
	var text strings.Builder
	text.WriteString(request("PUT", "/sda/5/a/c/o", "Transfer-Encoding: chunked", "Expect: 100-continue", "Content-Type: text/plain", "X-Timestamp: "+middle,
		"X-Backend-Obj-Multipart-Mime-Boundary: "+boundary, "X-Backend-Storage-Policy-Index: 1", "X-Backend-Obj-Metadata-Footer: yes", "X-Backend-Obj-Multiphase-Commit: yes"))
	head := text.Len()
	for _, phase := range []string{objectDocument("some bytes") + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "4"}`, ""), commitDocument} {
		fmt.Fprintf(&text, "%x\r\n%s\r\n0\r\n\r\n", len(phase), phase)
	}
	all := text.String()
	end := strings.LastIndex(all, boundary) // from here on the commit is there
	before := open()
	for at := head; at < end; at += 3 {
		c := dial(t, s.addr)
		io.WriteString(c, all[:at])
		tcp := c.Conn.(*net.TCPConn)
		switch at % 2 {
		case 0:
			tcp.SetLinger(0)
		case 1:
			tcp.CloseWrite()
			io.Copy(io.Discard, c)
		}
		c.Close()
	}
	for deadline := time.Now().Add(time.Minute); open() != before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are open, %d were", open(), before)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(root, "sda/tmp-1/*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "sda/objects-1/5/*/*/*#d.data")); len(left) > 0 {
		t.Errorf("%v is durable", left)
	}
	c := dial(t, s.addr)
	io.WriteString(c, strings.Replace(all, middle, after, 1)+request("OPTIONS", "/"))
	for i, want := range []string{"100 Continue", "100 Continue", "201 Created", "200 OK"} {
		if a, err := c.read("PUT"); err != nil || a.Status != want {
			t.Fatalf("answer %d: %v %v", i, a, err)
		}
	}
}
