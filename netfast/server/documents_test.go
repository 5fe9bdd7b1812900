package server

import (
	"crypto/md5"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/swift/policy"
)

const boundary = "f00db0a7"

// object, footer and commit are the documents of a proxy's PUT, footer of this JSON.
func objectDocument(body string) string {
	return "--" + boundary + "\r\nX-Document: object body\r\n\r\n" + body
}

func footerDocument(json, last string) string {
	return fmt.Sprintf("\r\n--%s\r\nX-Document: object metadata\r\nContent-MD5: %x\r\n\r\n%s\r\n--%s%s\r\n", boundary, md5.Sum([]byte(json)), json, boundary, last)
}

const commitDocument = "X-Document: put commit\r\n\r\nput_commit_confirmation\r\n--" + boundary + "--"

// inPhases sends a head and then a phase of the body for each 100 Continue, in chunks of this size, and returns all answers.
// After the last phase it waits for an answer, or hangs up if the last one is "hang up".
func inPhases(t *testing.T, addr, target string, header []string, size int, phases ...string) (answers []reply) {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	header = append([]string{"Transfer-Encoding: chunked", "Expect: 100-continue", "Content-Type: text/plain",
		"X-Backend-Obj-Multipart-Mime-Boundary: " + boundary}, header...)
	io.WriteString(c, request("PUT", target, header...))
	for i := 0; ; i++ {
		a, err := c.read("PUT")
		if err != nil {
			t.Fatalf("%s %q, after %d answers: %v", target, header, len(answers), err)
		}
		delete(a.Header, "Date")
		delete(a.Header, "Connection")
		answers = append(answers, a)
		if !strings.HasPrefix(a.Status, "100") {
			return answers
		}
		if i == len(phases) {
			t.Fatalf("%s %q: more is wanted than there is", target, header)
		}
		if phases[i] == "hang up" {
			return answers
		}
		for part := range slices.Chunk([]byte(phases[i]), size) {
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(part), part)
		}
		io.WriteString(c, "0\r\n\r\n")
	}
}

// What proxies send is answered and kept as stock does: bodies with metadata behind them, commits, and what is wrong with either.
func TestPutsInPhasesAreAsStocks(t *testing.T) {
	w := startWrites(t)
	body := strings.Repeat("a fragment\r\n--f00d", 9000) + "."
	sum := fmt.Sprintf("%x", md5.Sum([]byte(body)))
	ec := []string{"X-Backend-Storage-Policy-Index: 1"}
	both := append(slices.Clone(ec), "X-Backend-Obj-Metadata-Footer: yes", "X-Backend-Obj-Multiphase-Commit: yes", "X-Backend-Obj-Content-Length: "+strconv.Itoa(len(body)))
	metadata := `{"X-Object-Sysmeta-Ec-Frag-Index": "2", "X-Object-Sysmeta-Ec-Etag": "0123", "x-object-sysmeta-ec-content-length": "77", "X-Backend-Container-Update-Override-Size": "77", "X-Backend-Container-Update-Override-Etag": "0123", "X-Object-Meta-\u00e4": "\u00f6\u20ac", "Etag": "` + sum + `", "X-Other": "no"}`
	container := "X-Container-Host: CONTAINER\r\nX-Container-Device: sdb1\r\nX-Container-Partition: 99"
	normal := []string{objectDocument(body) + footerDocument(metadata, ""), commitDocument}
	cases := []struct {
		name   string
		header []string
		phases []string
	}{
		{"an archive", both, normal},
		{"with updates", append(slices.Clone(both), container, "X-Delete-At: 9999999999"), normal},
		{"an empty object", append(slices.Clone(ec), both[1:3]...), []string{objectDocument("") + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "0"}`, ""), commitDocument}},
		{"metadata alone, no phases", both[:2], []string{objectDocument(body) + footerDocument(metadata, "--")}},
		{"phases alone", append(slices.Clone(ec), both[2], "X-Object-Sysmeta-Ec-Frag-Index: 1"), []string{objectDocument(body) + "\r\n--" + boundary + "\r\n", commitDocument}},
		{"replicated", []string{both[1]}, []string{objectDocument(body) + footerDocument(`{"X-Object-Sysmeta-Crypto": "x", "Etag": "`+strings.ToUpper(sum)+`"}`, "--")}},
		{"another MD5 of the object", both, []string{objectDocument(body) + footerDocument(strings.Replace(metadata, sum, strings.Repeat("0", 32), 1), ""), commitDocument}},
		{"an MD5 in the head, too", append(slices.Clone(both), "Etag: "+strings.Repeat("0", 32)), normal},
		{"an MD5 in the head only", append(slices.Clone(both), "Etag: "+strings.Repeat("0", 32)), []string{objectDocument(body) + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "1"}`, ""), commitDocument}},
		{"another MD5 of the metadata", both, []string{objectDocument(body) + strings.Replace(footerDocument(metadata, ""), `"77"`, `"78"`, 1), commitDocument}},
		{"no MD5 of the metadata", both, []string{objectDocument(body) + strings.Replace(footerDocument(metadata, ""), "Content-MD5", "Content-MD6", 1), commitDocument}},
		{"metadata that is no JSON", both, []string{objectDocument(body) + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "1"`, ""), commitDocument}},
		{"no metadata", both, []string{objectDocument(body) + "\r\n--" + boundary + "--\r\n", commitDocument}},
		{"numbers and nothings", both, []string{objectDocument(body) + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": 3, "X-Object-Meta-None": null}`, ""), commitDocument}},
		{"no boundary at the end", both, []string{objectDocument(body), commitDocument}},
		{"another document for a commit", both, []string{normal[0], strings.Replace(commitDocument, "put commit", "put, commit", 1)}},
		{"no document for a commit", both, []string{normal[0], "\r\n"}},
		{"not committed by request", append(slices.Clone(both), "X-Backend-No-Commit: True"), normal},
		{"shorter than announced", append(slices.Clone(both[:3]), "X-Backend-Obj-Content-Length: 1000000"), normal},
		{"longer than announced", append(slices.Clone(both[:3]), "X-Backend-Obj-Content-Length: 1000"), normal},
		{"length that is none", append(slices.Clone(both[:3]), "X-Backend-Obj-Content-Length: x"), normal},
		{"next partition power", append(slices.Clone(both), "X-Backend-Next-Part-Power: 11"), normal},
	}
	for i, c := range cases {
		for _, at := range []string{"new", "older", "same", "unless", "newer"} {
			for _, size := range []int{100, 65536} {
				if i > 1 && (at != "new" || size == 100) {
					continue
				}
				target := fmt.Sprintf("/sda/5/a/c/o%d-%d", i, size)
				header := slices.Clone(c.header)
				switch at {
				case "new":
					header = append(header, "X-Timestamp: "+middle)
				case "older":
					header = append(header, "X-Timestamp: "+before)
				case "same":
					header = append(header, "X-Timestamp: "+middle)
				case "unless":
					header = append(header, "X-Timestamp: "+after, "If-None-Match: *")
				case "newer":
					header = append(header, "X-Timestamp: "+after)
				}
				var answers [2][]reply
				for j, addr := range []string{w.stock.Addr, w.ours.addr} {
					own := slices.Clone(header)
					for n := range own {
						own[n] = strings.ReplaceAll(own[n], "CONTAINER", w.containers[j].Listener.Addr().String())
					}
					answers[j] = inPhases(t, addr, target, own, size, c.phases...)
				}
				what := fmt.Sprintf("%s, %s, chunks of %d", c.name, at, size)
				if len(answers[0]) != len(answers[1]) {
					t.Errorf("%s: stock answered %v, we %v", what, answers[0], answers[1])
					continue
				}
				w.removeEmpty()
				for k := range answers[0] {
					w.same(what, answers[0][k], answers[1][k])
				}
			}
		}
	}
	w.sameDisks()
	if d := cmp.Diff(w.pending()[0], w.pending()[1]); d != "" {
		t.Errorf("updates wait otherwise (-stock +ours):\n%s", d)
	}
}

// removeEmpty removes the directories that stock makes for objects which then do not come.
func (w *writes) removeEmpty() {
	for _, root := range w.roots {
		for _, pattern := range []string{"sda/objects*/*/*/*", "sda/objects*/*/*"} {
			dirs, _ := filepath.Glob(filepath.Join(root, pattern))
			for _, dir := range dirs {
				os.Remove(dir) // fails where there is something
			}
		}
	}
}

// A proxy that goes away before its commit leaves a fragment that is not durable, as stock's servers have it.
func TestProxyThatGoesBeforeTheCommitLeavesAFragment(t *testing.T) {
	w := startWrites(t)
	header := []string{"X-Backend-Storage-Policy-Index: 1", "X-Backend-Obj-Metadata-Footer: yes", "X-Backend-Obj-Multiphase-Commit: yes", "X-Timestamp: " + middle}
	first := objectDocument("some bytes") + footerDocument(`{"X-Object-Sysmeta-Ec-Frag-Index": "4"}`, "")
	for i, addr := range []string{w.stock.Addr, w.ours.addr} {
		inPhases(t, addr, "/sda/5/a/c/o", header, 100, first, "hang up")
		path := filepath.Join(w.roots[i], hashDir(&policy.Policy{Index: 1, Type: policy.ErasureCoding}, 5, "/a/c/o"), middle+"#4.data")
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(path); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	w.sameDisks()
}
