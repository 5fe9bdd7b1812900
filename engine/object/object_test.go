package object_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/engine/object"
	"imping/lab/embedded"
	"imping/lab/scenario"
	"imping/netfast"
	"imping/swift/pickle"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const segment = 4096

// policies are of all schemes, one with duplicates.
func policies() []embedded.Policy {
	var list []embedded.Policy
	for _, s := range []codec.Scheme{
		{Type: "isa_l_rs_vand", K: 10, M: 4}, {Type: "liberasurecode_rs_vand", K: 4, M: 2}, {Type: "isa_l_rs_cauchy", K: 4, M: 2}, {Type: "isa_l_rs_vand_inv", K: 4, M: 2},
		{Type: "jerasure_rs_vand", K: 4, M: 2}, {Type: "jerasure_rs_cauchy", K: 4, M: 2}, {Type: "flat_xor_hd_3", K: 5, M: 5}, {Type: "flat_xor_hd_4", K: 5, M: 5},
	} {
		list = append(list, embedded.Policy{Name: strings.ReplaceAll(s.Type, "_", "-"), Scheme: s, SegmentSize: segment})
	}
	return append(list, embedded.Policy{Name: "twice", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 3, M: 2}, Duplication: 2, SegmentSize: segment})
}

// lab is a cluster and a client of it.
type lab struct {
	*testing.T
	*embedded.Cluster
	*object.Client
}

func start(t *testing.T, list ...embedded.Policy) *lab {
	t.Helper()
	c, err := embedded.Start(embedded.Options{Root: t.TempDir(), Nodes: 14, DevicesPerNode: 1, PartPower: 3, Policies: list})
	if err != nil {
		t.Fatal(err)
	}
	swift, err := policy.Load(c.SwiftConf())
	if err != nil {
		t.Fatal(err)
	}
	http := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second, UserAgent: "imping"})
	t.Cleanup(func() {
		http.Close()
		if t.Failed() {
			c.DumpLogs(os.Stderr)
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return &lab{t, c, &object.Client{Swift: swift, Dir: c.SwiftDir(), HTTP: http, ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second}}
}

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	r.Read(b)
	return b
}

// get reads an object.
func (l *lab) get(pol *policy.Policy, name string) ([]byte, *object.Object, error) {
	o, err := l.Find(l.Context(), pol, name)
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	err = o.Copy(l.Context(), &b, 0, o.Size)
	return b.Bytes(), o, err
}

// stopHolders stops the nodes of the first n primaries of an object.
func (l *lab) stopHolders(pol *policy.Policy, name string, n int) (start func()) {
	l.Helper()
	var stopped []int
	for _, dev := range l.holders(pol, name)[:n] {
		node := l.NodeOf(dev)
		if err := l.StopNode(node); err != nil {
			l.Fatal(err)
		}
		stopped = append(stopped, node)
	}
	return func() {
		for _, node := range stopped {
			if err := l.StartNode(node); err != nil {
				l.Fatal(err)
			}
		}
	}
}

// holders are the devices that have a file of an object, by fragment index.
func (l *lab) holders(pol *policy.Policy, name string) (devices []string) {
	byIndex := map[string]string{}
	for _, path := range l.files(pol, name) {
		for _, node := range l.Nodes() {
			for _, dev := range l.Devices(node) {
				if strings.HasPrefix(path, l.DevicePath(dev)+"/") {
					_, index, _ := strings.Cut(filepath.Base(path), "#")
					byIndex[fmt.Sprintf("%3s", strings.Split(index, "#")[0])+dev] = dev
				}
			}
		}
	}
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for k := range byIndex {
			if !yield(k) {
				return
			}
		}
	}) {
		devices = append(devices, byIndex[key])
	}
	return devices
}

// files are those of an object on all devices.
func (l *lab) files(pol *policy.Policy, name string) (list []string) {
	hash := fmt.Sprintf("%x", l.Swift.Hasher().Object(name))
	for _, node := range l.Nodes() {
		for _, dev := range l.Devices(node) {
			found, _ := filepath.Glob(filepath.Join(l.DevicePath(dev), pol.DataDir(), "*", "*", hash, "*"))
			list = append(list, found...)
		}
	}
	return list
}

// What is put is got back, whole and in ranges, under every scheme, with as many nodes down as it bears.
func TestWhatIsPutIsGotBack(t *testing.T) { // rule 28
	l := start(t, policies()...)
	for _, pol := range l.Swift.Policies {
		bears := pol.Parity
		switch pol.ECType {
		case "flat_xor_hd_3":
			bears = 2
		case "flat_xor_hd_4":
			bears = 3
		}
		for _, size := range []int{0, 1, segment - 1, segment, segment + 1, 5*segment + 17} {
			name := fmt.Sprintf("/a/c/o %d", size)
			want := content(size)
			announced := int64(size)
			if size%2 == 1 {
				announced = -1
			}
			sum := md5.Sum(want)
			stored, err := l.Put(l.Context(), pol, name, iotest.HalfReader(bytes.NewReader(want)), object.PutOptions{
				Size: announced, ETag: hex.EncodeToString(sum[:]), Fields: []netfast.Field{{Key: "X-Object-Meta-Color", Value: "blau"}, {Key: "Content-Type", Value: "text/plain"}},
			})
			if err != nil {
				t.Fatalf("%v, %d bytes: %v", pol, size, err)
			}
			if n := pol.Replicas(); len(stored.Nodes) != n || stored.Size != int64(size) || len(l.files(pol, name)) != n {
				t.Errorf("%v, %d bytes: %+v; files %q", pol, size, stored, l.files(pol, name))
			}
			again := func() {}
			if size == 5*segment+17 {
				again = l.stopHolders(pol, name, bears)
			}
			got, o, err := l.get(pol, name)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v, %d bytes: %d bytes, %v", pol, size, len(got), err)
				again()
				continue
			}
			fields := map[string]string{}
			for _, f := range o.Fields {
				fields[f.Key] = f.Value
			}
			if fields["X-Object-Meta-Color"] != "blau" || fields["Content-Type"] != "text/plain" || o.ETag != hex.EncodeToString(sum[:]) {
				t.Errorf("%v, %d bytes: %v, %s", pol, size, fields, o.ETag)
			}
			for _, r := range [][2]int{{0, 1}, {1, size - 1}, {segment - 1, 2}, {segment, segment}, {size - 1, 1}, {2*segment - 5, segment + 10}, {size, 0}} {
				if r[0] < 0 || r[1] < 0 || r[0]+r[1] > size {
					continue
				}
				var b bytes.Buffer
				if err := o.Copy(l.Context(), &b, int64(r[0]), int64(r[1])); err != nil || !bytes.Equal(b.Bytes(), want[r[0]:r[0]+r[1]]) {
					t.Errorf("%v, %d bytes, %v: %d bytes, %v", pol, size, r, b.Len(), err)
				}
			}
			if err := o.Copy(l.Context(), io.Discard, int64(size), 1); err == nil {
				t.Errorf("%v, %d bytes: more than there is", pol, size)
			}
			again()
		}
	}
}

// A device that goes away while an object is read or written is replaced, or done without.
func TestNodesThatDieMeanwhile(t *testing.T) {
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	want := content(300 * segment)
	const name = "/a/c/o"
	if _, err := l.Put(l.Context(), pol, name, bytes.NewReader(want), object.PutOptions{Size: int64(len(want))}); err != nil {
		t.Fatal(err)
	}
	o, err := l.Find(l.Context(), pol, name)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	var again func()
	if err := o.Copy(l.Context(), writer(func(b []byte) (int, error) {
		if again == nil && got.Len() > 0 {
			again = l.stopHolders(pol, name, 2)
		}
		return got.Write(b)
	}), 0, o.Size); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	again()
	// A third one is too many, and what was read then is no object.
	again = l.stopHolders(pol, name, 3)
	var status *object.StatusError
	if _, _, err := l.get(pol, name); !errors.As(err, &status) || status.Status != 503 {
		t.Errorf("with three nodes down: %v", err)
	}
	again()

	// One that dies in the middle of a PUT is done without; the handoffs take those that were down before.
	const other = "/a/c/o2"
	again = l.stopHolders(pol, name, 1)
	sent := 0
	var second func()
	stored, err := l.Put(l.Context(), pol, other, reader(func(b []byte) (int, error) {
		if sent == len(want) {
			return 0, io.EOF
		}
		if second == nil && sent > len(want)/2 {
			devices := l.temporaries(pol)
			if len(devices) == 0 {
				t.Error("nobody writes")
			} else {
				node := l.NodeOf(devices[0])
				if err := l.StopNode(node); err != nil {
					t.Error(err)
				}
				second = func() { l.StartNode(node) }
			}
		}
		n := copy(b, want[sent:min(len(want), sent+segment)])
		sent += n
		return n, nil
	}), object.PutOptions{Size: -1})
	if err != nil || len(stored.Nodes) < 5 || len(stored.Failed) == 0 {
		t.Errorf("%+v, %v", stored, err)
	}
	again()
	if second != nil {
		second()
	}
	if b, _, err := l.get(pol, other); err != nil || !bytes.Equal(b, want) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// Handoffs take the archives of primaries that can not be reached, and are asked for them when the other primaries do not suffice.
func TestHandoffsStandIn(t *testing.T) {
	l := start(t, policies()[1], policies()[8])
	for _, pol := range l.Swift.Policies {
		const name = "/a/c/o"
		first, second := content(10), content(3*segment+1)
		if _, err := l.Put(l.Context(), pol, name, bytes.NewReader(first), object.PutOptions{Size: -1}); err != nil {
			t.Fatal(err)
		}
		before := l.holders(pol, name)
		again := l.stopHolders(pol, name, 2)
		stored, err := l.Put(l.Context(), pol, name, bytes.NewReader(second), object.PutOptions{Size: -1})
		if err != nil || len(stored.Nodes) != pol.Replicas() || len(stored.Failed) < 2 {
			t.Fatalf("%v: %+v, %v", pol, stored, err)
		}
		for _, dev := range before[:2] {
			if slices.ContainsFunc(stored.Nodes, func(n string) bool { return strings.HasSuffix(n, "/"+dev) }) {
				t.Errorf("%v: %s is down, and among %q", pol, dev, stored.Nodes)
			}
		}
		indexes := map[string]int{}
		for _, path := range l.files(pol, name) {
			if strings.HasPrefix(filepath.Base(path), stored.Timestamp.Internal()) {
				indexes[strings.Split(filepath.Base(path), "#")[1]]++
			}
		}
		if len(indexes) != pol.UniqueFragments() || slices.ContainsFunc(slices.Collect(maps.Values(indexes)), func(n int) bool { return n != pol.Duplication }) {
			t.Errorf("%v: archives by fragment index: %v", pol, indexes)
		}
		again()
		// Now those are back that have the old version, and so many others are down that it takes what handoffs have.
		stop := pol.Parity * pol.Duplication
		for _, dev := range before[2 : 2+stop] {
			if err := l.StopNode(l.NodeOf(dev)); err != nil {
				t.Fatal(err)
			}
		}
		got, o, err := l.get(pol, name)
		if err != nil || !bytes.Equal(got, second) || o.Data != stored.Timestamp {
			t.Errorf("%v: with %d primaries down: %d bytes, %v", pol, stop, len(got), err)
		}
		for _, dev := range before[2 : 2+stop] {
			if err := l.StartNode(l.NodeOf(dev)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The newest version is read of which enough archives are there and that somebody knows to be durable; an older one that is whole beats a newer
// one that is not.
func TestTheNewestDurableVersionThatCanBeDecodedIsRead(t *testing.T) { // rules 1 and 2
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	const name = "/a/c/o"
	first, second := content(2*segment), content(3*segment+1)
	at := timestamp.FromTime(time.Now().Add(-time.Hour))
	if _, err := l.Put(l.Context(), pol, name, bytes.NewReader(first), object.PutOptions{Size: -1, Timestamp: at}); err != nil {
		t.Fatal(err)
	}
	type saved struct {
		content []byte
		raw     []byte
	}
	old := map[string]saved{}
	for _, path := range l.files(pol, name) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, 64<<10)
		n, err := unix.Getxattr(path, "user.swift.metadata", raw)
		if err != nil {
			t.Fatal(err)
		}
		old[path] = saved{b, raw[:n]}
	}
	stored, err := l.Put(l.Context(), pol, name, bytes.NewReader(second), object.PutOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, want []byte) {
		t.Helper()
		got, _, err := l.get(pol, name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, not %d, %v", what, len(got), len(want), err)
		}
	}
	check("both whole", second)
	if o, err := l.Find(l.Context(), pol, name); err != nil || o.Newer != "" {
		t.Errorf("%+v, %v", o, err)
	}
	fresh := l.files(pol, name) // of the second alone, which made the first obsolete
	if len(fresh) != pol.Replicas() {
		t.Fatalf("files %q", fresh)
	}
	for path, s := range old {
		if err := os.WriteFile(path, s.content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := scenario.SetMetadata(path, s.raw); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range fresh {
		if err := os.Rename(path, strings.Replace(path, "#d.data", ".data", 1)); err != nil {
			t.Fatal(err)
		}
	}
	check("the newer one is durable nowhere", first)
	if err := os.Rename(strings.Replace(fresh[0], "#d.data", ".data", 1), fresh[0]); err != nil {
		t.Fatal(err)
	}
	check("the newer one is durable somewhere", second)
	for _, path := range fresh[1:4] {
		if err := os.Remove(strings.Replace(path, "#d.data", ".data", 1)); err != nil {
			t.Fatal(err)
		}
	}
	check("there are three archives of the newer one", first)
	if o, err := l.Find(l.Context(), pol, name); err != nil || o.Data != at || o.Data == stored.Timestamp || !strings.Contains(o.Newer, stored.Timestamp.Internal()+" there are fragments") {
		t.Errorf("%+v, %v", o, err)
	}
}

// temporaries are devices on which somebody has a file open that has no name yet: all that a PUT writes to.
func (l *lab) temporaries(pol *policy.Policy) (devices []string) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || !strings.Contains(target, "(deleted)") {
			continue
		}
		for _, node := range l.Nodes() {
			for _, dev := range l.Devices(node) {
				if strings.HasPrefix(target, l.DevicePath(dev)+"/") && !slices.Contains(devices, dev) {
					devices = append(devices, dev)
				}
			}
		}
	}
	slices.Sort(devices)
	return devices
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }

// What fails before the commit is durable nowhere.
func TestAFailedPutLeavesNothingDurable(t *testing.T) { // rule 28
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	want := content(3*segment + 5)
	broken := errors.New("the body breaks off")
	for i, c := range []struct {
		name   string
		body   io.Reader
		o      object.PutOptions
		status int
		err    error
	}{
		{"another MD5", bytes.NewReader(want), object.PutOptions{Size: -1, ETag: "0123456789abcdef0123456789abcdef"}, 422, nil},
		{"too short", bytes.NewReader(want), object.PutOptions{Size: int64(len(want) + 1)}, 422, nil},
		{"too long", bytes.NewReader(want), object.PutOptions{Size: segment}, 422, nil},
		{"the body fails", io.MultiReader(bytes.NewReader(want), iotest.ErrReader(broken)), object.PutOptions{Size: -1}, 0, broken},
	} {
		name := fmt.Sprintf("/a/c/o%d", i)
		_, err := l.Put(l.Context(), pol, name, c.body, c.o)
		var status *object.StatusError
		if c.status != 0 && (!errors.As(err, &status) || status.Status != c.status) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		l.durableNowhere(c.name, pol, name)
	}
	// Ten of fourteen nodes are down, as many as leave a PUT without its quorum.
	for _, node := range l.Nodes()[:10] {
		if err := l.StopNode(node); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Put(l.Context(), pol, "/a/c/alone", bytes.NewReader(want), object.PutOptions{Size: int64(len(want))})
	var status *object.StatusError
	if !errors.As(err, &status) || status.Status != 503 {
		t.Errorf("without a quorum: %v", err)
	}
	l.durableNowhere("without a quorum", pol, "/a/c/alone")
	// An end of the context ends it, though the body never comes.
	for _, node := range l.Nodes()[:10] {
		if err := l.StartNode(node); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go cancel()
	if _, err := l.Put(ctx, pol, "/a/c/late", r, object.PutOptions{Size: -1}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	w.Close()
	l.durableNowhere("cancelled", pol, "/a/c/late")
}

func (l *lab) durableNowhere(what string, pol *policy.Policy, name string) {
	l.Helper()
	for _, path := range l.files(pol, name) {
		if strings.HasSuffix(path, "#d.data") {
			l.Errorf("%s: %s is durable", what, path)
		}
	}
	if _, _, err := l.get(pol, name); err == nil {
		l.Errorf("%s: it is there", what)
	}
}

// Newer versions, metadata and deletions count, older ones do not.
func TestWhatIsNewestCounts(t *testing.T) {
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	const name = "/a/c/o"
	at := func(s int) timestamp.Timestamp {
		return timestamp.FromTime(time.Now().Add(time.Duration(s-1000) * time.Second))
	}
	ctx := t.Context()
	first, second := content(10), content(2*segment)
	if _, err := l.Put(ctx, pol, name, bytes.NewReader(second), object.PutOptions{Size: -1, Timestamp: at(20)}); err != nil {
		t.Fatal(err)
	}
	var status *object.StatusError
	if _, err := l.Put(ctx, pol, name, bytes.NewReader(first), object.PutOptions{Size: -1, Timestamp: at(10)}); !errors.As(err, &status) || status.Status != 409 {
		t.Errorf("an older PUT: %v", err)
	}
	if err := l.Post(ctx, pol, name, at(30), []netfast.Field{{Key: "X-Object-Meta-Color", Value: "rot"}}); err != nil {
		t.Errorf("POST: %v", err)
	}
	if err := l.Post(ctx, pol, name, at(25), nil); !errors.As(err, &status) || status.Status != 409 {
		t.Errorf("an older POST: %v", err)
	}
	got, o, err := l.get(pol, name)
	if err != nil || !bytes.Equal(got, second) || !slices.Contains(o.Fields, netfast.Field{Key: "X-Object-Meta-Color", Value: "rot"}) {
		t.Errorf("%d bytes, %+v, %v", len(got), o, err)
	}
	if err := l.Delete(ctx, pol, name, at(15)); !errors.As(err, &status) || status.Status != 409 {
		t.Errorf("an older DELETE: %v", err)
	}
	if err := l.Delete(ctx, pol, name, at(40)); err != nil {
		t.Errorf("DELETE: %v", err)
	}
	if _, _, err := l.get(pol, name); !errors.Is(err, object.ErrNotFound) || !strings.Contains(err.Error(), "deleted at") {
		t.Errorf("GET of what was deleted: %v", err)
	}
	for _, err := range []error{l.Delete(ctx, pol, "/a/c/never", at(50)), l.Post(ctx, pol, "/a/c/never", at(50), nil)} {
		if !errors.Is(err, object.ErrNotFound) {
			t.Errorf("of what never was: %v", err)
		}
	}
	if _, err := l.Find(ctx, pol, "/a/c/never had"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := l.Put(ctx, pol, "/a/c/expired", bytes.NewReader(first), object.PutOptions{Size: -1, Timestamp: at(1), Fields: []netfast.Field{{Key: "X-Delete-At", Value: fmt.Sprint(time.Now().Unix() + 1000)}}}); err != nil {
		t.Error(err)
	}
	if _, err := l.Find(ctx, pol, "/a/c/expired"); err != nil {
		t.Errorf("before it expires: %v", err)
	}
}

// As TestWhatIsNewestCounts, of what lies on disks after failures: of a newer version that is durable archives on handoffs count, too; what never became
// durable is nothing; and data of a tombstone's very time is there, as Swift's proxy has it.
func TestWhatIsLeftOfFailuresCountsAsWithSwift(t *testing.T) {
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	ctx := t.Context()
	at := timestamp.FromTime(time.Now().Add(-time.Hour))
	put := func(name string, at timestamp.Timestamp, b []byte) {
		t.Helper()
		if _, err := l.Put(ctx, pol, name, bytes.NewReader(b), object.PutOptions{Size: -1, Timestamp: at}); err != nil {
			t.Fatal(err)
		}
	}
	later := func(s int) timestamp.Timestamp {
		return timestamp.FromTime(at.Time().Add(time.Duration(s) * time.Second))
	}
	older, newer := content(100), content(200)

	put("/a/c/newer", at, older)
	again := l.stopHolders(pol, "/a/c/newer", 4)
	put("/a/c/newer", later(10), newer)
	again()
	if b, o, err := l.get(pol, "/a/c/newer"); err != nil || !bytes.Equal(b, newer) {
		t.Errorf("the newest version is on handoffs: %d bytes, %+v, %v", len(b), o, err)
	}

	// Fragments that are not durable, of a PUT that came to its end nowhere, on one device and on all.
	for _, n := range []int{1, 6} {
		for _, deleted := range []bool{true, false} {
			name := fmt.Sprintf("/a/c/never durable %d %v", n, deleted)
			put(name, later(20), newer)
			for i, path := range l.files(pol, name) {
				if i < n {
					if err := os.Rename(path, strings.Replace(path, "#d.data", ".data", 1)); err != nil {
						t.Fatal(err)
					}
				} else if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if deleted {
				if err := l.Delete(ctx, pol, name, later(10)); err != nil && !errors.Is(err, object.ErrNotFound) {
					var status *object.StatusError
					if !errors.As(err, &status) || status.Status != 409 {
						t.Fatal(err)
					}
				}
			}
			if _, _, err := l.get(pol, name); !errors.Is(err, object.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}

	// Five of six devices have the data, one has a tombstone of the same time, and then a newer one.
	put("/a/c/same", at, older)
	files := l.files(pol, "/a/c/same")
	for _, stamp := range []timestamp.Timestamp{at, later(1)} {
		name := filepath.Join(filepath.Dir(files[0]), stamp.Internal()+".ts")
		if stamp == at {
			os.Remove(files[0])
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := scenario.SetMetadata(name, pickle.EncodeMetadata(map[string]string{"name": "/a/c/same", "X-Timestamp": stamp.Internal()}, []string{"X-Timestamp", "name"})); err != nil {
			t.Fatal(err)
		}
		_, _, err := l.get(pol, "/a/c/same")
		if stamp == at && err != nil || stamp != at && !errors.Is(err, object.ErrNotFound) {
			t.Errorf("a tombstone at %s, data at %s: %v", stamp.Internal(), at.Internal(), err)
		}
	}
	// Where too few archives are left of that time it can not be read now: the proxy, too, does not take a tombstone that is no newer for its end.
	put("/a/c/short", at, older)
	files = l.files(pol, "/a/c/short")
	tombstone := filepath.Join(filepath.Dir(files[0]), at.Internal()+".ts")
	if err := os.WriteFile(tombstone, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := scenario.SetMetadata(tombstone, pickle.EncodeMetadata(map[string]string{"name": "/a/c/short", "X-Timestamp": at.Internal()}, []string{"X-Timestamp", "name"})); err != nil {
		t.Fatal(err)
	}
	for _, path := range files[:3] {
		os.Remove(path)
	}
	var status *object.StatusError
	if _, _, err := l.get(pol, "/a/c/short"); !errors.As(err, &status) || status.Status != 503 {
		t.Errorf("a tombstone of the time of data that are short of archives: %v", err)
	}
}

// An archive that rots is done without; bytes that are whole, archive by archive, and make another object are found by the object's MD5.
func TestDamageIsNotDelivered(t *testing.T) {
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	want := content(3 * segment)
	for _, c := range []struct {
		name string
		off  int64
		lie  bool // its ETag is that of the damaged bytes
	}{{"/a/c/header", 0, false}, {"/a/c/payload", 100, false}, {"/a/c/lie", 100, true}} {
		if _, err := l.Put(t.Context(), pol, c.name, bytes.NewReader(want), object.PutOptions{Size: -1}); err != nil {
			t.Fatal(err)
		}
		files := l.files(pol, c.name)
		path := files[slices.IndexFunc(files, func(p string) bool { return strings.Contains(p, "#0#") })] // a data fragment, which is read
		l.damage(path, c.off, c.lie)
		got, _, err := l.get(pol, c.name)
		if !c.lie && (err != nil || !bytes.Equal(got, want)) || c.lie && (err == nil || !strings.Contains(err.Error(), "is damaged")) {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
	}
}

// damage flips a bit of an archive; lie: its ETag is that of the damaged bytes.
func (l *lab) damage(path string, off int64, lie bool) {
	l.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		l.Fatal(err)
	}
	b[off] ^= 1
	raw := make([]byte, 64<<10)
	n, err := unix.Getxattr(path, "user.swift.metadata", raw)
	if err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		l.Fatal(err)
	}
	if !lie {
		return
	}
	meta, err := pickle.DecodeMetadata(raw[:n])
	if err != nil {
		l.Fatal(err)
	}
	sum := md5.Sum(b)
	meta["ETag"] = hex.EncodeToString(sum[:])
	if err := scenario.SetMetadata(path, pickle.EncodeMetadata(meta, slices.Sorted(maps.Keys(meta)))); err != nil {
		l.Fatal(err)
	}
}

// impersonate has somebody else answer in the place of a node that is stopped.
func (l *lab) impersonate(dev string, pol *policy.Policy, serve func(c net.Conn)) {
	l.Helper()
	r, err := ring.Load(filepath.Join(l.SwiftDir(), ring.Name(pol.Index)+".ring.gz"))
	if err != nil {
		l.Fatal(err)
	}
	i := slices.IndexFunc(r.Devs, func(d *ring.Device) bool { return d != nil && d.Device == dev })
	if err := l.StopNode(l.NodeOf(dev)); err != nil {
		l.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(r.Devs[i].IP, strconv.Itoa(r.Devs[i].Port)))
	if err != nil {
		l.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	l.Cleanup(func() {
		listener.Close()
		cancel()
		wg.Wait()
	})
}

// A device that takes its archive byte by byte is given up as one that takes nothing is.
func TestADeviceThatDribblesHoldsUpNoPut(t *testing.T) {
	l := start(t, policies()[1])
	pol := l.Swift.Policies[0]
	pol.SegmentSize = 48 << 20 // more than sockets hold
	want := content(1000)
	if _, err := l.Put(t.Context(), pol, "/a/c/o", bytes.NewReader(want), object.PutOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	l.impersonate(l.holders(pol, "/a/c/o")[0], pol, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\nX-Obj-Metadata-Footer: yes\r\nX-Obj-Multiphase-Commit: yes\r\n\r\n")
		for b := make([]byte, 64<<10); ; time.Sleep(300 * time.Millisecond) {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	})
	l.Client.NodeTimeout = 1500 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	stored, err := l.Put(ctx, pol, "/a/c/o", bytes.NewReader(content(49<<20)), object.PutOptions{Size: 49 << 20})
	if err != nil || len(stored.Nodes) != 5 || len(stored.Failed) != 1 || !strings.Contains(stored.Failed[0], "too slow") {
		t.Errorf("%+v, %v", stored, err)
	}
}
