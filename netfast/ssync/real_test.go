package ssync

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/lab/oracle"
	"imping/netfast"
	"imping/netfast/fragment"
	"imping/netfast/replicate"
	"imping/netfast/stock"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

const realPartition = 7

var realTimeouts = Timeouts{Conn: 5 * time.Second, Node: 20 * time.Second, HTTP: 60 * time.Second}

func newClient(t testing.TB) *netfast.Client {
	c := netfast.NewClient(netfast.Options{ConnTimeout: 5 * time.Second, NodeTimeout: 20 * time.Second, UserAgent: "obj-reconstructor 1"})
	t.Cleanup(c.Close)
	return c
}

func mustStamp(t testing.TB, s string) timestamp.Timestamp {
	t.Helper()
	ts, err := timestamp.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

// archiveHeader is the metadata of an archive as a .data file holds it.
func archiveHeader(name string, index int, archive, object []byte, ts string) []Field {
	sum, etag := md5.Sum(archive), md5.Sum(object)
	return []Field{
		{Key: "X-Timestamp", Value: ts},
		{Key: "Content-Type", Value: "text/plain"},
		{Key: "Content-Length", Value: "1"}, // never sent
		{Key: "name", Value: name},          // never sent
		{Key: "ETag", Value: hex.EncodeToString(sum[:])},
		{Key: "X-Object-Sysmeta-Ec-Etag", Value: hex.EncodeToString(etag[:])},
		{Key: "X-Object-Sysmeta-Ec-Content-Length", Value: fmt.Sprint(len(object))},
		{Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: fmt.Sprint(index)},
		{Key: "X-Object-Sysmeta-Ec-Scheme", Value: "isa_l_rs_vand 4+2"},
		{Key: "X-Object-Sysmeta-Ec-Segment-Size", Value: "65536"},
		{Key: "X-Object-Meta-Früh", Value: "spät"},
	}
}

func open(t *testing.T, c *netfast.Client, srv *stock.Server, index int) *Session {
	t.Helper()
	s, err := Open(context.Background(), c, Target{Addr: srv.Addr, Device: "sda", Partition: realPartition, Policy: 1, FragIndex: index}, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func offerAll(t *testing.T, s *Session, offers ...Offer) []Wanted {
	t.Helper()
	if err := s.Offer(context.Background(), slices.Values(offers)); err != nil {
		t.Fatal(err)
	}
	wanted, err := s.Wanted(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return wanted
}

// putAll sends an archive in chunks of one fragment each.
func putAll(t *testing.T, s *Session, h PutHead, archive []byte, chunk int) {
	t.Helper()
	p, err := s.Put(h)
	if err != nil {
		t.Fatal(err)
	}
	for piece := range slices.Chunk(archive, chunk) {
		if err := p.WriteFragment(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, srv *stock.Server, name string) []string {
	t.Helper()
	hash := srv.Hash(name)
	entries, err := os.ReadDir(filepath.Join(srv.Devices, "sda", "objects-1", fmt.Sprint(realPartition), objhash.Suffix(hash), hash))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSwiftsReceiverTakesPutPostAndDelete(t *testing.T) {
	srv := stock.Start(t, stock.Options{})
	c := newClient(t)
	const index = 3
	object := bytes.Repeat([]byte("feather "), 40000) // five segments
	archive := archives(t, srv, object)[index]
	chunk := len(archive)/5 + 1
	big, small, empty, gone := "/a/c/ö %41 o", "/a/c/small", "/a/c/empty", "/a/c/gone"
	smallArchive := archives(t, srv, []byte("x"))[index]

	// First session: four objects, one a tombstone, one not durable.
	t1, t2, t3 := "1795342301.49613", "1795342302.00000", "1795342303.00000"
	s := open(t, c, srv, index)
	wanted := offerAll(t, s,
		Offer{Hash: srv.Hash(big), Data: mustStamp(t, t1), Meta: mustStamp(t, t2)},
		Offer{Hash: srv.Hash(small), Data: mustStamp(t, t1), NonDurable: true},
		Offer{Hash: srv.Hash(empty), Data: mustStamp(t, t1)},
		Offer{Hash: srv.Hash(gone), Data: mustStamp(t, t3)})
	if len(wanted) != 4 || s.Withheld() != 0 {
		t.Fatalf("the receiver wants %v, %d were withheld", wanted, s.Withheld())
	}
	for _, w := range wanted {
		if !w.Data || !w.Meta {
			t.Errorf("wanted %+v, want both parts of everything", w)
		}
	}
	putAll(t, s, PutHead{Path: big, Length: int64(len(archive)), Header: archiveHeader(big, index, archive, object, t1)}, archive, chunk)
	if err := s.Post(big, []Field{{Key: "X-Timestamp", Value: t2}, {Key: "X-Object-Meta-Color", Value: "grün"}}); err != nil {
		t.Fatal(err)
	}
	p, err := s.Put(PutHead{Path: "/a/c/never", Length: 5})
	if err != nil {
		t.Fatal(err)
	}
	p.Abort(errors.New("changed our mind")) // nothing was sent: the session lives
	putAll(t, s, PutHead{Path: small, Length: int64(len(smallArchive)), NoCommit: true,
		Header: archiveHeader(small, index, smallArchive, []byte("x"), t1)}, smallArchive, chunk)
	putAll(t, s, PutHead{Path: empty, Header: archiveHeader(empty, index, nil, nil, t1)}, nil, chunk)
	if err := s.Delete(gone, mustStamp(t, t3)); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string][]string{
		big:          {t1 + "#3#d.data", t2 + ".meta"},
		small:        {t1 + "#3.data"},
		empty:        {t1 + "#3#d.data"},
		gone:         {t3 + ".ts"},
		"/a/c/never": nil,
	} {
		if got := files(t, srv, name); !slices.Equal(got, want) {
			t.Errorf("%s: files %v, want %v", name, got, want)
		}
	}

	// Second session: nothing is wanted any more but what is newer.
	s = open(t, c, srv, index)
	wanted = offerAll(t, s,
		Offer{Hash: srv.Hash(big), Data: mustStamp(t, t1), Meta: mustStamp(t, t3), CType: mustStamp(t, t2)},
		Offer{Hash: srv.Hash(gone), Data: mustStamp(t, t3)})
	if want := []Wanted{{Hash: srv.Hash(big), Meta: true}}; !slices.Equal(wanted, want) {
		t.Errorf("wanted %v, want %v", wanted, want)
	}
	if err := s.Finish(context.Background()); err != nil {
		t.Error(err)
	}
	s.Close()

	// What was sent can be fetched: whole, in slots; from an offset; and refused.
	req := fragment.Request{Addr: srv.Addr, Device: "sda", Partition: realPartition, Name: big, Policy: 1, Timestamp: mustStamp(t, t1)}
	resp, err := fragment.Get(context.Background(), c, &req)
	if err != nil {
		t.Fatal(err)
	}
	sum, etag := md5.Sum(archive), md5.Sum(object)
	if resp.Status != 200 || resp.FragIndex != index || resp.Length != int64(len(archive)) || resp.Total != resp.Length ||
		resp.Data.Internal() != t1 || resp.Durable.Internal() != t1 || resp.Timestamp.Internal() != t2 ||
		resp.ETag != hex.EncodeToString(sum[:]) || resp.ECEtag != hex.EncodeToString(etag[:]) {
		t.Errorf("answer %+v", resp)
	}
	var got []byte
	for left := len(archive); left > 0; {
		slot := make([]byte, min(left, chunk))
		n, err := resp.ReadFragment(slot)
		if n != len(slot) || err != nil {
			t.Fatalf("ReadFragment: %d, %v", n, err)
		}
		got = append(got, slot...)
		left -= n
	}
	if _, err := resp.ReadFragment(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind the end: %v, want io.EOF", err)
	}
	resp.Close()
	if !bytes.Equal(got, archive) {
		t.Error("the archive came back changed")
	}

	req.Offset = int64(chunk)
	resp, err = fragment.Get(context.Background(), c, &req)
	if err != nil {
		t.Fatal(err)
	}
	got = make([]byte, resp.Length)
	if _, err := resp.ReadFragment(got); err != nil {
		t.Fatal(err)
	}
	resp.Close()
	if resp.Status != 206 || resp.Offset != int64(chunk) || resp.Total != int64(len(archive)) || !bytes.Equal(got, archive[chunk:]) {
		t.Errorf("from byte %d: answer %+v", chunk, resp)
	}

	for _, refused := range []struct {
		what   string
		change func(*fragment.Request)
		status int
	}{
		{"excluded index", func(r *fragment.Request) { r.Exclude = []int{0, index} }, 404},
		{"deleted", func(r *fragment.Request) { r.Name = gone }, 404},
		{"unknown", func(r *fragment.Request) { r.Name = "/a/c/unknown" }, 404},
		{"behind the end", func(r *fragment.Request) { r.Offset = int64(len(archive)) }, 416},
		{"unknown policy", func(r *fragment.Request) { r.Policy = 9 }, 503},
	} {
		r := req
		r.Offset = 0
		refused.change(&r)
		resp, err := fragment.Get(context.Background(), c, &r)
		if err != nil {
			t.Errorf("%s: %v", refused.what, err)
			continue
		}
		if resp.Status != refused.status {
			t.Errorf("%s: status %d, want %d", refused.what, resp.Status, refused.status)
		}
		if refused.what == "deleted" && resp.Timestamp.Internal() != t3 {
			t.Errorf("deleted: timestamp %v, want the tombstone's", resp.Timestamp)
		}
		resp.Close()
	}
	// The one that is not durable is found because preferences are sent.
	req.Name, req.Offset = small, 0
	if resp, err := fragment.Get(context.Background(), c, &req); err != nil || resp.Status != 200 || !resp.Durable.IsZero() {
		t.Errorf("not durable: %+v, %v", resp, err)
	} else {
		resp.Close()
	}

	// And the hashes of the partition know all of it.
	target := replicate.Target{Addr: srv.Addr, Device: "sda", Partition: realPartition, Policy: 1}
	hashes, err := replicate.Hashes(context.Background(), c, target, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{big, small, empty, gone} {
		e := hashes[objhash.Suffix(srv.Hash(name))]
		if e == nil || name != gone && e.Frags.Hash(index) == "" {
			t.Errorf("%s: suffix hashes %+v", name, e)
		}
	}
	if counters := c.Counters(); counters.Reused == 0 {
		t.Errorf("no connection to Swift's server was used twice: %+v", counters)
	}
	// A partition that is not there is empty; a device that is not there is not.
	target.Partition = 99
	if hashes, err := replicate.Hashes(context.Background(), c, target, 1<<20); err != nil || len(hashes) != 0 {
		t.Errorf("empty partition: %v, %v", hashes, err)
	}
	target.Policy = 9
	var status *replicate.StatusError
	if _, err := replicate.Hashes(context.Background(), c, target, 1<<20); !errors.As(err, &status) || status.Status != 503 || !status.Retryable() {
		t.Errorf("unknown policy: %v, want a StatusError 503", err)
	}
}

// rule 17: 2.30.1 raises on an offset of a .meta file, and knows the form without.
func TestSwiftsReceiverRefusesOffsetsOfMetadata(t *testing.T) {
	srv := stock.Start(t, stock.Options{})
	c := newClient(t)
	offer := Offer{Hash: srv.Hash("/a/c/o"), Data: mustStamp(t, "1795342301.49613"), Meta: mustStamp(t, "1795342302.49613_0000000000000002")}
	s := open(t, c, srv, 3)
	if err := s.Offer(context.Background(), slices.Values([]Offer{offer})); err != nil {
		t.Fatal(err)
	}
	_, err := s.Wanted(context.Background())
	var remote *RemoteError
	if !errors.As(err, &remote) || !remote.Raised() || !strings.Contains(remote.Text, "invalid literal for int()") {
		t.Errorf("%v, want what int() says", err)
	}
	s, err = Open(context.Background(), c, Target{Addr: srv.Addr, Device: "sda", Partition: realPartition, Policy: 1, FragIndex: 3, NoOffsets: true}, realTimeouts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if wanted := offerAll(t, s, offer); len(wanted) != 1 || wanted[0].Hash != offer.Hash {
		t.Errorf("wanted %v", wanted)
	}
}

func TestABusyReceiverIsRetryable(t *testing.T) { // rule 10
	for _, busy := range []struct {
		what    string
		options stock.Options
		code    int
	}{
		{"semaphore taken", stock.Options{Concurrency: 1}, 503},
		{"lock held", stock.Options{LockTimeout: 1}, 0},
	} {
		t.Run(busy.what, func(t *testing.T) {
			srv := stock.Start(t, busy.options)
			c := newClient(t)
			offer := Offer{Hash: srv.Hash("/a/c/o"), Data: mustStamp(t, "1795342301.49613")}
			first := open(t, c, srv, 0)
			offerAll(t, first, offer) // it holds everything from here on

			second := open(t, c, srv, 0)
			err := second.Offer(context.Background(), slices.Values([]Offer{offer}))
			if err == nil {
				_, err = second.Wanted(context.Background())
			}
			var remote *RemoteError
			if !errors.As(err, &remote) || remote.Code != busy.code || !remote.Retryable() {
				t.Errorf("a busy receiver: %v, want a retryable RemoteError %d", err, busy.code)
			}
			second.Close()

			if err := first.Finish(context.Background()); err != nil {
				t.Fatal(err)
			}
			first.Close()
			for try := 0; ; try++ { // what the first one held is given back soon after its end
				third := open(t, c, srv, 0)
				err := third.Offer(context.Background(), slices.Values([]Offer{offer}))
				if err == nil {
					_, err = third.Wanted(context.Background())
				}
				if err == nil {
					err = third.Finish(context.Background())
				}
				third.Close()
				if err == nil {
					break
				}
				if try == 50 || !errors.As(err, &remote) || !remote.Retryable() {
					t.Fatalf("after the first session: %v", err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

func TestACutPutLeavesNothing(t *testing.T) {
	srv := stock.Start(t, stock.Options{})
	c := newClient(t)
	object := []byte(strings.Repeat("half ", 1000))
	archive := archives(t, srv, object)[0]
	whole, half := "/a/c/whole", "/a/c/half"
	ts := "1795342301.49613"
	s := open(t, c, srv, 0)
	offerAll(t, s, Offer{Hash: srv.Hash(whole), Data: mustStamp(t, ts)}, Offer{Hash: srv.Hash(half), Data: mustStamp(t, ts)})
	putAll(t, s, PutHead{Path: whole, Length: int64(len(archive)), Header: archiveHeader(whole, 0, archive, object, ts)}, archive, 100)
	p, err := s.Put(PutHead{Path: half, Length: int64(len(archive)), Header: archiveHeader(half, 0, archive, object, ts)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WriteFragment(archive[:len(archive)-1]); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("a survivor lied")
	p.Abort(cause)
	if err := s.Finish(context.Background()); !errors.Is(err, cause) {
		t.Errorf("after the cut: %v, want its cause", err)
	}
	s.Close()
	// The receiver works through what it has and lets go of its locks; the next session
	// waits for them, and then nothing can change any more.
	s = open(t, c, srv, 0)
	wanted := offerAll(t, s, Offer{Hash: srv.Hash(whole), Data: mustStamp(t, ts)}, Offer{Hash: srv.Hash(half), Data: mustStamp(t, ts)})
	if want := []Wanted{{Hash: srv.Hash(half), Data: true, Meta: true}}; !slices.Equal(wanted, want) {
		t.Errorf("after the cut %v are wanted, want %v", wanted, want)
	}
	if got := files(t, srv, half); len(got) != 0 {
		t.Errorf("the half object left %v", got)
	}
}

func TestARefusedSubrequestIsNoSuccess(t *testing.T) {
	srv := stock.Start(t, stock.Options{})
	c := newClient(t)
	s := open(t, c, srv, 0)
	ts := mustStamp(t, "1795342301.49613")
	offerAll(t, s, Offer{Hash: srv.Hash("/a/c/o"), Data: ts})
	archive := archives(t, srv, []byte("x"))[0]
	header := archiveHeader("/a/c/o", 0, archive, []byte("x"), ts.Internal())
	for i, f := range header {
		if f.Key == "ETag" {
			header[i].Value = strings.Repeat("0", 32) // rot on the way: 422
		}
	}
	putAll(t, s, PutHead{Path: "/a/c/o", Length: int64(len(archive)), Header: header}, archive, 100)
	var remote *RemoteError
	if err := s.Finish(context.Background()); !errors.As(err, &remote) || remote.Code != 500 || remote.Retryable() {
		t.Errorf("a refused PUT: %v, want a RemoteError 500 that is not retryable", err)
	}
	if got := files(t, srv, "/a/c/o"); len(got) != 0 {
		t.Errorf("the refused object left %v", got)
	}
}

func TestAReceiverThatTakesNoMoreSaysWhy(t *testing.T) {
	srv := stock.Start(t, stock.Options{})
	c := newClient(t)
	s := open(t, c, srv, 0)
	offerAll(t, s)
	// X-Timestamp is missing: each is refused, and after a hundred the receiver hangs up.
	var err error
	for i := 0; err == nil && i < 100000; i++ {
		err = s.Post("/a/c/o", nil)
	}
	if err == nil {
		err = s.Finish(context.Background())
	}
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Code != 0 || !strings.HasPrefix(remote.Text, "Too many ") || remote.Retryable() {
		t.Errorf("after too many failures: %v, want the receiver's own words", err)
	}
}

const encodeScript = `
import base64, json, sys
from pyeclib.ec_iface import ECDriver
q = json.load(sys.stdin)
ec = ECDriver(ec_type=q["ec_type"], k=q["k"], m=q["m"])
data = base64.b64decode(q["data"])
archives = [b""] * (q["k"] + q["m"])
for at in range(0, len(data), q["segment"]):
    archives = [a + f for a, f in zip(archives, ec.encode(data[at:at + q["segment"]]))]
json.dump([base64.b64encode(a).decode() for a in archives], sys.stdout)
`

// archives are the fragment archives of an object with these bytes under policy 1, by
// fragment index, as PyECLib makes them.
func archives(t testing.TB, s *stock.Server, data []byte) [][]byte {
	t.Helper()
	var answer [][]byte
	oracle.Ask(t, encodeScript, struct {
		stock.Options
		Data string `json:"data"`
	}{s.Options, base64.StdEncoding.EncodeToString(data)}, &answer)
	return answer
}
