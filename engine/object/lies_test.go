package object_test

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imping/codec"
	"imping/engine/object"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// lie is what a device says of an object, whatever it is asked for.
type lie struct {
	at, durable timestamp.Timestamp
	etag        string
	size        int
	index       int
	sets        string // X-Backend-Fragments
}

// lies has a device say so, and send garbage for an archive.
func (l *lab) lies(dev string, pol *policy.Policy, what lie) {
	place := archiveSize(l, pol, what.size)
	l.impersonate(dev, pol, func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			request, err := in.ReadString('\n')
			for line := ""; err == nil && line != "\r\n"; {
				line, err = in.ReadString('\n')
			}
			if err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Backend-Timestamp: %s\r\nX-Backend-Data-Timestamp: %[2]s\r\nX-Backend-Durable-Timestamp: %s\r\n"+
				"X-Object-Sysmeta-Ec-Etag: %s\r\nX-Object-Sysmeta-Ec-Frag-Index: %d\r\nX-Object-Sysmeta-Ec-Content-Length: %d\r\nX-Object-Sysmeta-Ec-Segment-Size: %d\r\n"+
				"X-Backend-Fragments: %s\r\nEtag: \"0123456789abcdef0123456789abcdef\"\r\n\r\n",
				place, what.at.Internal(), what.durable.Internal(), what.etag, what.index, what.size, segment, what.sets)
			if strings.HasPrefix(request, "GET ") {
				if _, err := c.Write(make([]byte, place)); err != nil {
					return
				}
			}
		}
	})
}

// archiveSize is how long an archive of an object is.
func archiveSize(l *lab, pol *policy.Policy, size int) int64 {
	l.Helper()
	code, err := codec.New(codec.Scheme{Type: pol.ECType, K: pol.Data, M: pol.Parity})
	if err != nil {
		l.Fatal(err)
	}
	return code.ArchiveSize(int64(size), segment)
}

// Whatever one device says of an object, it is read as long as others have enough of it: what they really send counts.
func TestALieOfOneDeviceHidesNoObject(t *testing.T) { // rules 1 and 2
	want := content(3*segment + 1)
	sum := md5.Sum(want)
	at := timestamp.FromTime(time.Now().Add(-time.Hour))
	later := timestamp.FromTime(time.Now())
	etag, other := hex.EncodeToString(sum[:]), "d41d8cd98f00b204e9800998ecf8427e"
	all := func(at timestamp.Timestamp) string { return fmt.Sprintf("{%q: [0, 1, 2, 3, 4, 5]}", at.Internal()) }
	for _, c := range []struct {
		name  string
		moved int // so many primaries are down when it is put, and have nothing
		lie   lie
		newer bool
	}{
		{"it alone has all of a newer version", 0, lie{later, later, other, 2 * segment, 0, all(later)}, true},
		{"it alone has all of a newer version of no bytes", 0, lie{later, later, other, 0, 0, all(later)}, true},
		{"it alone has a newer version", 0, lie{later, later, other, 2 * segment, 0, fmt.Sprintf("{%q: [0]}", later.Internal())}, true},
		{"it has all of a newer version besides", 0, lie{at, later, etag, len(want), 0, fmt.Sprintf("{%q: [0], %q: [0, 1, 2, 3, 4, 5]}", at.Internal(), later.Internal())}, true},
		{"it has all of another object of that time", 0, lie{at, at, other, len(want), 0, all(at)}, false},
		{"it has all of it", 0, lie{at, at, etag, len(want), 0, all(at)}, false},
		{"it has all of it, which handoffs have", 2, lie{at, at, etag, len(want), 0, all(at)}, false},
		{"it has another fragment, which a handoff has", 2, lie{at, at, etag, len(want), 1, fmt.Sprintf("{%q: [1]}", at.Internal())}, false},
		{"it has all of a newer version, and handoffs have the object", 2, lie{later, later, other, 2 * segment, 0, all(later)}, true},
		{"the object has another size", 0, lie{at, at, etag, segment, 0, all(at)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := start(t, policies()[1])
			pol := l.Swift.Policies[0]
			const name = "/a/c/o"
			put := func() {
				t.Helper()
				if _, err := l.Put(t.Context(), pol, name, bytes.NewReader(want), object.PutOptions{Size: -1, Timestamp: at}); err != nil {
					t.Fatal(err)
				}
			}
			put()
			holders := l.holders(pol, name)
			if c.moved > 0 {
				for _, path := range l.files(pol, name) {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
				for _, dev := range holders[1 : 1+c.moved] {
					if err := l.StopNode(l.NodeOf(dev)); err != nil {
						t.Fatal(err)
					}
				}
				put()
				for _, dev := range holders[1 : 1+c.moved] {
					if err := l.StartNode(l.NodeOf(dev)); err != nil {
						t.Fatal(err)
					}
				}
			}
			l.lies(holders[0], pol, c.lie)
			for range 5 {
				got, o, err := l.get(pol, name)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				if (o.Newer != "") != c.newer || c.newer && !strings.Contains(o.Newer, "/"+holders[0]) {
					t.Errorf("of newer versions %q is said", o.Newer)
				}
			}
		})
	}
}

// What one device says is believed where it proves true: a newer version of which it alone has all archives is read.
func TestOneDeviceMayHoldAllOfTheNewestVersion(t *testing.T) { // rules 1 and 2
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	const name = "/a/c/o"
	older, newer := content(100), content(2*segment+5)
	put := func(b []byte, at timestamp.Timestamp) []string {
		t.Helper()
		if _, err := l.Put(t.Context(), pol, name, bytes.NewReader(b), object.PutOptions{Size: -1, Timestamp: at}); err != nil {
			t.Fatal(err)
		}
		return l.files(pol, name)
	}
	keep := t.TempDir()
	for _, size := range []int{len(newer), 0} {
		newer := newer[:size]
		put(newer, timestamp.FromTime(time.Now().Add(-time.Minute)))
		var saved []string
		for _, path := range l.files(pol, name) {
			saved = append(saved, filepath.Join(keep, filepath.Base(path)))
			if err := os.Rename(path, saved[len(saved)-1]); err != nil { // on one file system, as the devices are folders
				t.Fatal(err)
			}
		}
		files := put(older, timestamp.FromTime(time.Now().Add(-time.Hour)))
		for _, path := range saved {
			if err := os.Rename(path, filepath.Join(filepath.Dir(files[0]), filepath.Base(path))); err != nil {
				t.Fatal(err)
			}
		}
		got, o, err := l.get(pol, name)
		if err != nil || !bytes.Equal(got, newer) || o.Newer != "" {
			t.Errorf("%d bytes, not %d, %v", len(got), size, err)
		}
		for _, path := range l.files(pol, name) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}
