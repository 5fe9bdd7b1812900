package server

import (
	"crypto/md5"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// smallDiskEnv names the folder of devices in a process of this test that has a small ext4 there.
const smallDiskEnv = "IMPING_TEST_SERVER_SMALL_DISK"

// On an ext4 of 8 MiB whatever does not fit, body or metadata, is 507, and when nothing can be written 500; nothing is left of it, and
// what is there is given, and written beside it, all the time.
func TestSmallDisksRefuseAndServe(t *testing.T) {
	devices := os.Getenv(smallDiskEnv)
	if devices == "" {
		dir := t.TempDir()
		image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "devices")
		if err := os.Mkdir(mount, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 8<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-N", "256", image).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -o loop "$1" "$2" && exec "$0" -test.run "^$3\$"`, os.Args[0], image, mount, t.Name())
		cmd.Env = append(os.Environ(), smallDiskEnv+"="+mount)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := os.Mkdir(filepath.Join(devices, "sda"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := ours(t, devices, map[string]string{"fallocate_reserve": "0"})
	slow := ours(t, devices, map[string]string{"fallocate_reserve": "0", "disable_fallocate": "yes"})
	count := 0
	send := func(s *testServer, method, target string, body io.Reader, header ...string) string {
		t.Helper()
		count++
		w := dial(t, s.addr)
		defer w.Close()
		io.WriteString(w, request(method, target, append(header, fmt.Sprintf("X-Timestamp: %d.00000", 1795342300+count), "Content-Type: text/plain")...))
		sent := make(chan bool)
		go func() { // the server may hang up before all of it is sent
			io.Copy(w.Conn.(*net.TCPConn), body)
			close(sent)
		}()
		a, err := w.read(method)
		if err != nil {
			t.Errorf("%s %s: %v", method, target, err)
		}
		w.Close()
		<-sent
		return a.Status
	}
	const old = "/sda/7/a/c/old"
	if got := send(s, "PUT", old, strings.NewReader("old"), "Content-Length: 3"); got != "201 Created" {
		t.Fatal(got)
	}
	files := func() map[string]string {
		found := disk(t, devices)
		maps.DeleteFunc(found, func(name, what string) bool {
			return strings.Contains(name, "lost+found") || strings.HasSuffix(name, ".tmp")
		})
		return found
	}
	before := files()
	harmless := func(what string) {
		t.Helper()
		if d := cmp.Diff(before, files()); d != "" {
			t.Errorf("after %s (-before +after):\n%s", what, d)
		}
		if a := ask(t, s.addr, "GET", old); a.Status != "200 OK" || a.Body != "old" {
			t.Errorf("after %s: %+v", what, a)
		}
	}
	const large = 20 << 20
	zeros := func() io.Reader { return io.LimitReader(zero{}, large) }
	length := fmt.Sprintf("Content-Length: %d", large)
	many := make([]string, 15) // more than a block of metadata, of 1 KiB here
	for i := range many {
		many[i] = fmt.Sprintf("X-Object-Meta-%d: %s", i, strings.Repeat("x", 200))
	}
	full := "507 Insufficient Storage"
	for _, c := range []struct {
		what string
		do   func() string
	}{
		{"a body without room", func() string { return send(s, "PUT", "/sda/7/a/c/large", zeros(), length) }},
		{"a body that meets the end", func() string { return send(slow, "PUT", "/sda/7/a/c/large", zeros(), length) }},
		{"chunks without room", func() string {
			return send(s, "PUT", "/sda/7/a/c/large", io.MultiReader(strings.NewReader(fmt.Sprintf("%x\r\n", large)), zeros(), strings.NewReader("\r\n0\r\n\r\n")), "Transfer-Encoding: chunked")
		}},
		{"metadata without room", func() string {
			return send(s, "PUT", "/sda/7/a/c/meta", strings.NewReader("abc"), append(many, "Content-Length: 3")...)
		}},
		{"posted metadata without room", func() string { return send(s, "POST", old, strings.NewReader(""), many...) }},
	} {
		if got := c.do(); got != full {
			t.Errorf("%s: %s", c.what, got)
		}
		harmless(c.what)
	}

	// What has no room in a session fails alone.
	body := make([]byte, large)
	put := func(name string, content []byte) string {
		return fmt.Sprintf("PUT /a/c/%s\r\nContent-Length: %d\r\nETag: %x\r\nContent-Type: text/plain\r\nX-Timestamp: 1795342400.00000\r\n\r\n", name, len(content), md5.Sum(content)) + string(content)
	}
	got := converse(t, s.addr, 0, -1, ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n",
		":UPDATES: START\r\n"+put("one", []byte("1"))+put("large", body)+put("two", []byte("2"))+":UPDATES: END\r\n")
	if !strings.Contains(got, ":ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 2 successes'") {
		t.Errorf("a session: %q", got)
	}
	for _, name := range []string{"one", "two"} {
		if a := ask(t, s.addr, "GET", "/sda/7/a/c/"+name); a.Status != "200 OK" {
			t.Errorf("%s of the session: %s", name, a.Status)
		}
	}

	// On a disk without a free block who asks whether to go on is told before he sends, however little it is: Swift's proxy takes another
	// device then. In a session nobody asks, and what is sent fails.
	filler := filepath.Join(devices, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for piece := make([]byte, 512); err == nil; {
		_, err = f.Write(piece)
	}
	f.Close()
	before = files()
	few := strings.Repeat("x", 3000)
	w := dial(t, s.addr)
	io.WriteString(w, request("PUT", old, "Content-Length: 3000", "Expect: 100-continue", "X-Timestamp: 1795342390.00000", "Content-Type: text/plain"))
	if a, err := w.read("PUT"); err != nil || a.Status != full {
		t.Errorf("whoever asks before he sends: %s, %v", a.Status, err)
	}
	w.Close()
	harmless("a question without room")
	got = converse(t, s.addr, 0, -1, ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n", ":UPDATES: START\r\n"+put("old", []byte(few))+":UPDATES: END\r\n")
	if !strings.Contains(got, ":ERROR: 500 b'ERROR: With :UPDATES: 1 failures to 0 successes'") {
		t.Errorf("a session without room: %q", got)
	}
	harmless("a session without room")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}

	before = files()
	if err := unix.Mount("", devices, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		if got := send(s, method, old, strings.NewReader("abc"), "Content-Length: 3"); got != "500 Internal Error" {
			t.Errorf("%s on what is read-only: %s", method, got)
		}
		harmless(method + " on what is read-only")
	}
	if got := converse(t, s.addr, 0, -1, ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n", ":UPDATES: START\r\n:UPDATES: END\r\n"); !strings.Contains(got, ":ERROR: ") {
		t.Errorf("a session on what is read-only: %q", got)
	}
	if err := unix.Mount("", devices, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if got := send(s, "PUT", "/sda/7/a/c/new", strings.NewReader("abc"), "Content-Length: 3"); got != "201 Created" {
		t.Errorf("when it can be written again: %s", got)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
