package pass

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
	"imping/netfast/fake"
	"imping/swift/timestamp"
)

// An object is looked at on all devices: what is wrong with it is said where it is, and nothing is written.
func TestVerifySaysWhatIsWrongAndWritesNothing(t *testing.T) {
	t.Parallel()
	good := map[int]string{}
	// lie changes an archive so that its own MD5 is right.
	lie := func(a *peers.Archive, off int) *peers.Archive {
		a.Body = bytes.Clone(a.Body)
		a.Body[off] ^= 1
		sum := md5.Sum(a.Body)
		a.Fields["Etag"] = `"` + hex.EncodeToString(sum[:]) + `"`
		return a
	}
	for _, c := range []struct {
		name    string
		size    int64
		archive func(o *peers.Object, i int) *peers.Archive // nil: as it was
		state   PointState
		actions map[int]string // "good" for those that are not named
		want    PointVerdict
	}{
		{"all is well", multi, nil, PointWhole, good, PointVerdict{Good: 6, Decodes: true, Compared: true, Bears: 2}},
		{"an empty object", 0, nil, PointWhole, good, PointVerdict{Good: 6, Decodes: true, Bears: 2}},
		{"one is lost", single, func(o *peers.Object, i int) *peers.Archive {
			if i == 3 {
				return nil
			}
			return o.Archive(i)
		}, PointLeft, map[int]string{3: "lacks fragment 3"}, PointVerdict{Good: 5, Decodes: true, Compared: true, Bears: 1}},
		{"two are lost", multi, func(o *peers.Object, i int) *peers.Archive {
			if i == 3 || i == 4 {
				return nil
			}
			return o.Archive(i)
		}, PointLeft, map[int]string{3: "lacks fragment 3", 4: "lacks fragment 4"}, PointVerdict{Good: 4, Decodes: true}},
		{"one rots", multi, func(o *peers.Object, i int) *peers.Archive {
			a := o.Archive(i)
			if i == 3 {
				a.Body = bytes.Clone(a.Body)
				a.Body[100] ^= 1
			}
			return a
		}, PointLeft, map[int]string{3: "bad: segment 0 contradicts the other archives"}, PointVerdict{Good: 5, Decodes: true, Compared: true, Bears: 1}},
		{"one of five rots", multi, func(o *peers.Object, i int) *peers.Archive {
			a := o.Archive(i)
			switch i {
			case 4:
				return nil
			case 3:
				a.Body = bytes.Clone(a.Body)
				a.Body[100] ^= 1
			}
			return a
		}, PointLeft, map[int]string{3: "bad: MD5 is …", 4: "lacks fragment 4"}, PointVerdict{Good: 4, Decodes: true}},
		{"one is whole, and of other bytes", multi, func(o *peers.Object, i int) *peers.Archive {
			if i == 3 {
				return lie(o.Archive(i), 100)
			}
			return o.Archive(i)
		}, PointLeft, map[int]string{3: "bad: segment 0 contradicts the other archives"}, PointVerdict{Good: 5, Decodes: true, Compared: true, Bears: 1}},
		{"one's headers are wrong", multi, func(o *peers.Object, i int) *peers.Archive {
			if i == 3 {
				return lie(o.Archive(i), 0)
			}
			return o.Archive(i)
		}, PointLeft, map[int]string{3: "bad: fragment header of segment 0: …"}, PointVerdict{Good: 5, Decodes: true, Compared: true, Bears: 1}},
		{"all agree, and are of another object", multi, func(o *peers.Object, i int) *peers.Archive {
			a := o.Archive(i)
			a.Fields["X-Object-Sysmeta-Ec-Etag"] = "0123456789abcdef0123456789abcdef"
			return a
		}, PointHopeless, good, PointVerdict{Good: 6, Compared: true, Bears: 2}},
		{"one is not durable", single, func(o *peers.Object, i int) *peers.Archive {
			a := o.Archive(i)
			if i == 3 {
				delete(a.Fields, "X-Backend-Durable-Timestamp")
			}
			return a
		}, PointLeft, map[int]string{3: "not durable"}, PointVerdict{Good: 6, Decodes: true, Compared: true, Bears: 2}},
		{"one has other metadata", single, func(o *peers.Object, i int) *peers.Archive {
			a := o.Archive(i)
			if i == 3 {
				a.Fields["X-Object-Meta-Color"] = "red"
			}
			return a
		}, PointLeft, map[int]string{3: "its metadata is not that of the others"}, PointVerdict{Good: 6, Decodes: true, Compared: true, Bears: 2}},
		{"too few are left", single, func(o *peers.Object, i int) *peers.Archive {
			if i > 2 {
				return nil
			}
			return o.Archive(i)
		}, PointHopeless, map[int]string{0: "of no version that can be decoded", 1: "of no version that can be decoded", 2: "of no version that can be decoded",
			3: "lacks fragment 3", 4: "lacks fragment 4", 5: "lacks fragment 5"}, PointVerdict{Bears: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newPointLab(t)
			o := peers.NewObject(t, l.code, l.pol, name("o"), c.size)
			for i, p := range l.peers {
				a := o.Archive(i)
				if c.archive != nil {
					a = c.archive(o, i)
				}
				if a != nil {
					p.Hold(a)
				}
			}
			r, err := l.pointing(&PointRequest{Object: o.Name}, (*Pass).Verify)
			if err != nil || r.State != c.state {
				t.Fatalf("%+v, %v", r, err)
			}
			got := *r.Verdict
			got.Why = ""
			if got != c.want {
				t.Errorf("verdict %+v, want %+v: %s", got, c.want, r.Reason)
			}
			left := 0
			for i, n := range r.Nodes {
				want, ok := c.actions[i]
				if !ok {
					want = "good"
				}
				if n.Handoff || !like(n.Action, want) {
					t.Errorf("%s: %q, want %q", n.Node, n.Action, want)
				}
				if want != "good" {
					left++
				}
			}
			if r.Left != left || r.Repaired != 0 {
				t.Errorf("left %d, want %d, repaired %d", r.Left, left, r.Repaired)
			}
			for _, p := range l.peers {
				if n := len(p.Stored()); n > 0 {
					t.Errorf("%s was sent %d", p.Addr, n)
				}
			}
		})
	}
}

// With one archive to spare nobody can say which one lies; all of them are whole.
func TestVerifyWithoutMoreToSpareSaysThatArchivesContradictEachOther(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), multi)
	for i, p := range l.peers {
		a := o.Archive(i)
		if i == 5 { // parity: the object is made without it
			a.Body = bytes.Clone(a.Body)
			a.Body[100] ^= 1
			sum := md5.Sum(a.Body)
			a.Fields["Etag"] = hex.EncodeToString(sum[:])
		}
		if i != left {
			p.Hold(a)
		}
	}
	r, err := l.pointing(&PointRequest{Object: o.Name}, (*Pass).Verify)
	if err != nil || r.Verdict.Torn != 1 || !r.Verdict.Compared || r.State == PointWhole {
		t.Fatalf("%+v, %+v, %v", r, r.Verdict, err)
	}
}

// Archives that say of themselves that they have more segments than can ever be read, and break off, end it all the same.
func TestVerifyOfAnEndlessObjectEnds(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	const size = 1 << 50
	for i, p := range l.peers {
		a := o.Archive(i)
		a.Fields["X-Object-Sysmeta-Ec-Content-Length"], a.Fields["X-Object-Sysmeta-Ec-Segment-Size"] = fmt.Sprint(size), "1"
		a.Fields["Content-Length"] = fmt.Sprint(l.code.ArchiveSize(size, 1))
		a.Say = func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()) }
		p.Hold(a)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err := l.pointing(&PointRequest{Object: o.Name}, (*Pass).Verify)
		if err != nil || r.State != PointHopeless || r.Verdict.Decodes {
			t.Errorf("%+v, %v", r, err)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on and on")
	}
}

func TestVerifyOfADeletedObject(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	at := timestamp.FromTime(o.Data.Time().Add(1e9))
	for i, p := range l.peers {
		if i == 3 {
			p.Hold(o.Archive(i))
		} else {
			p.Hold(peers.Tombstone(o.Name, at))
		}
	}
	r, err := l.pointing(&PointRequest{Object: o.Name}, (*Pass).Verify)
	if err != nil || r.State != PointDeleted || r.Left != 1 || !like(r.Nodes[3].Action, "still holds data: …") {
		t.Fatalf("%+v, %v", r, err)
	}
}

// The objects of this node are each given once, and nothing is cleaned up on the way.
func TestHeldGivesEachObjectOnce(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	var want []string
	for i := range 4 {
		o := peers.NewObject(t, l.code, l.pol, name("o"+string(rune('a'+i))), single)
		path := l.disk.Put(t, part(o.Name), o, own, nil)
		want = append(want, filepath.Base(filepath.Dir(path)))
	}
	suffixDir := filepath.Dir(l.disk.Dir(0, name("strange")))
	if err := os.MkdirAll(filepath.Join(suffixDir, "no hash"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := New(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	got := map[string]int{}
	for r, err := range p.Held(nil, nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		got[r.Hash]++
	}
	slices.Sort(want)
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	for r := range p.Held(nil, []string{"sdz"}, nil) {
		t.Errorf("%v on a device that is not asked for", r)
	}
	if _, err := os.Stat(suffixDir); err != nil {
		t.Error(err)
	}
}
