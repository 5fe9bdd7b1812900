package object_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"imping/engine/object"
	"imping/lab/faults"
	"imping/netfast"
	"imping/swift/ring"
)

// interpose puts a proxy before each of the devices' nodes, for clients; the replication addresses stay.
func (l *lab) interpose(devices []string) (*object.Client, []*faults.Proxy) {
	l.Helper()
	pol := l.Swift.Policies[0]
	file := ring.Name(pol.Index) + ".ring.gz"
	b, err := os.ReadFile(filepath.Join(l.SwiftDir(), file))
	if err != nil {
		l.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		l.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		l.Fatal(err)
	}
	const before = len("R1NG\x00\x01") + 4
	size := int(binary.BigEndian.Uint32(text[before-4:]))
	var head map[string]any
	if err := json.Unmarshal(text[before:before+size], &head); err != nil {
		l.Fatal(err)
	}
	var proxies []*faults.Proxy
	for _, d := range head["devs"].([]any) {
		dev := d.(map[string]any)
		for _, name := range devices {
			if dev["device"] != name {
				continue
			}
			proxy, err := faults.Listen("127.0.0.1:0", fmt.Sprintf("%s:%.0f", dev["ip"], dev["port"]))
			if err != nil {
				l.Fatal(err)
			}
			l.Cleanup(func() {
				proxy.Lift()
				proxy.Close()
			})
			ip, port, _ := net.SplitHostPort(proxy.Addr())
			dev["ip"] = ip
			dev["port"], _ = strconv.Atoi(port)
			proxies = append(proxies, proxy)
		}
	}
	changed, err := json.Marshal(head)
	if err != nil {
		l.Fatal(err)
	}
	dir := l.TempDir()
	f, err := os.Create(filepath.Join(dir, file))
	if err != nil {
		l.Fatal(err)
	}
	w := gzip.NewWriter(f)
	w.Write(text[:before-4])
	binary.Write(w, binary.BigEndian, uint32(len(changed)))
	w.Write(changed)
	w.Write(text[before+size:])
	if err := w.Close(); err != nil {
		l.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.Fatal(err)
	}
	const hurry = 2 * time.Second // a healthy server of a busy machine is not to be missed
	http := netfast.NewClient(netfast.Options{ConnTimeout: hurry, NodeTimeout: hurry, UserAgent: "imping"})
	l.Cleanup(func() { http.Close() })
	return &object.Client{Swift: l.Swift, Dir: dir, HTTP: http, ConnTimeout: hurry, NodeTimeout: hurry}, proxies
}

// Whatever goes wrong at as many devices as an object bears, it is read, and written elsewhere. What passes a server's own checks and is
// wrong nevertheless is not taken for the object.
func TestFaultsOfDevices(t *testing.T) {
	for _, kind := range []faults.Kind{faults.Down, faults.Unmounted, faults.Busy, faults.StallHead, faults.StallBody, faults.Truncate,
		faults.WrongIndex, faults.WrongTime, faults.WrongEtag, faults.Flip, faults.Garbage} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l := start(t, policies()[1])
			pol := l.Swift.Policies[0]
			const name = "/a/c/o"
			want := content(40*segment + 3)
			if _, err := l.Put(t.Context(), pol, name, bytes.NewReader(want), object.PutOptions{Size: -1}); err != nil {
				t.Fatal(err)
			}
			bad := l.holders(pol, name)[:2]
			client, proxies := l.interpose(bad)
			if len(proxies) != 2 {
				t.Fatalf("%d proxies", len(proxies))
			}
			var list []*faults.Fault
			for _, p := range proxies {
				for _, dev := range bad { // a proxy knows only its own
					f := &faults.Fault{Kind: kind, Device: dev}
					if err := p.Inject(f); err != nil {
						t.Fatal(err)
					}
					list = append(list, f)
					if kind == faults.Down {
						break
					}
				}
			}
			direct := l.Client
			l.Client = client
			got, _, err := l.get(pol, name)
			if kind == faults.Flip {
				if err == nil || !strings.Contains(err.Error(), "is damaged") {
					t.Errorf("GET: %d bytes, %v", len(got), err)
				}
				// Who may begin anew gets it from the others.
				o, err := l.Find(t.Context(), pol, name)
				if err != nil {
					t.Fatal(err)
				}
				got, blamed, err := whole(t, o)
				if err != nil || !bytes.Equal(got, want) || len(blamed) != 2 || !strings.Contains(blamed[0], "the archive has the MD5 ") {
					t.Errorf("begun anew: %d bytes, %q, %v", len(got), blamed, err)
				}
				for _, p := range proxies {
					if !strings.Contains(strings.Join(blamed, "\n"), p.Addr()+"/") {
						t.Errorf("%s is not among %q", p.Addr(), blamed)
					}
				}
			} else if err != nil || !bytes.Equal(got, want) {
				t.Errorf("GET: %d bytes, %v", len(got), err)
			}
			if kind != faults.Down {
				struck := int64(0)
				for _, f := range list {
					struck += f.Struck()
				}
				if struck < 2 {
					t.Errorf("the fault struck %d times", struck)
				}
			}
			other := content(20*segment + 5)
			stored, err := client.Put(t.Context(), pol, name, bytes.NewReader(other), object.PutOptions{Size: int64(len(other))})
			if err != nil || len(stored.Nodes) != pol.Replicas() {
				t.Fatalf("PUT: %+v, %v", stored, err)
			}
			l.Client = direct
			if got, _, err := l.get(pol, name); err != nil || !bytes.Equal(got, other) {
				t.Errorf("what was PUT: %d bytes, %v", len(got), err)
			}
		})
	}
}
