package pass

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
	"imping/swift/objhash"
	"imping/swift/policy"
)

// newPointLab is a lab in which the local device has a server, too, and all servers keep
// what they are sent.
func newPointLab(t testing.TB) *lab {
	l := newLab(t)
	l.peers[own] = peers.New(t, "sda", hasher)
	_, port, err := net.SplitHostPort(l.peers[own].Addr)
	if err != nil {
		t.Fatal(err)
	}
	if l.cfg.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	l.cfg.Handoffs = 2
	for _, p := range append(slices.Clone(l.peers), l.spare) {
		p.Keep()
	}
	l.writeRing(nil)
	return l
}

// name is one of a partition in which the local device is a primary.
func name(base string) string {
	for i := 0; ; i++ {
		if n := fmt.Sprintf("/a/c/%s %d", base, i); part(n) < 3 {
			return n
		}
	}
}

func part(name string) int { return objhash.Partition(hasher.Object(name), power) }

// spread puts an object's archives on all peers but the missing, and with them, unless it
// is missing, on the local disk.
func (l *lab) spread(o *peers.Object, missing ...int) {
	l.hold(o, missing...)
	if !slices.Contains(missing, own) {
		l.disk.Put(l.t, part(o.Name), o, own, nil)
	}
}

func (l *lab) point(r *PointRequest) (*PointReport, error) {
	l.t.Helper()
	return l.pointing(r, (*Pass).Repair)
}

func (l *lab) pointing(r *PointRequest, do func(*Pass, context.Context, *PointRequest) (*PointReport, error)) (*PointReport, error) {
	l.t.Helper()
	p, err := New(l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	defer p.Close()
	p.firstWait = time.Millisecond
	l.pass = p
	report, err := do(p, bg, r)
	if st := p.pool.Stats(); st.InUse != 0 || st.Promised != 0 || st.Waiting != 0 {
		l.t.Errorf("memory is still held: %+v", st)
	}
	return report, err
}

// repair repairs an object and wants a state and actions by index, "has it" for those
// that are not named; a "…" stands for anything.
func (l *lab) repair(name string, state PointState, actions map[int]string) *PointReport {
	l.t.Helper()
	r, err := l.point(&PointRequest{Object: name})
	if err != nil {
		l.t.Fatal(err)
	}
	if r.State != state {
		l.t.Errorf("state %q, want %q: %s", r.State, state, r.Reason)
	}
	for i, n := range r.Nodes {
		if n.Handoff {
			continue
		}
		want, ok := actions[i]
		if !ok {
			want = "has it"
		}
		if !like(n.Action, want) {
			l.t.Errorf("%s: %q, want %q", n.Node, n.Action, want)
		}
	}
	if l.t.Failed() {
		l.t.Logf("%+v\nlog:\n%s", r, l.log)
	}
	return r
}

func like(s, pattern string) bool {
	head, tail, open := strings.Cut(pattern, "…")
	if !open {
		return s == pattern
	}
	return strings.HasPrefix(s, head) && strings.HasSuffix(s, tail)
}

// rule 36
func TestAnObjectIsRepairedWhereTheNodeHoldsItAndWhereNot(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, single, multi} {
		for _, missing := range [][]int{{left}, {own}, {own, far}} {
			l := newPointLab(t)
			o := peers.NewObject(t, l.code, l.pol, name("o"), size)
			l.spread(o, missing...)
			want := make(map[int]string)
			for _, i := range missing {
				want[i] = "rebuilt"
			}
			r := l.repair(o.Name, PointWhole, want)
			if r.Repaired != len(missing) || r.Left != 0 || r.Have != 6-len(missing) || r.Reference.Size != size {
				t.Errorf("%+v", r)
			}
			for _, i := range missing {
				l.received(i, o)
				put := l.peers[i].Stored()[0].Fields
				if put["X-Timestamp"] != o.Data.Internal() || put["Content-Type"] != "application/octet-stream" || put["X-Backend-No-Commit"] != "" || put["Etag"]+put["ETag"] != "" {
					t.Errorf("PUT with %v", put)
				}
			}
			if r := l.repair(o.Name, PointWhole, nil); r.Repaired != 0 {
				t.Errorf("once more: %+v", r)
			}
			for _, p := range l.peers {
				if p.Asked() > 0 {
					t.Error("suffix hashes were asked for")
				}
			}
		}
	}
}

// Metadata as the clients sent it, and none of what an answer has besides.
func TestMetadataFromAfarIsTheClients(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	l.cfg.AllowedHeaders = []string{"x-special"}
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	meta := map[string]string{
		"X-Object-Meta-Utf8": "plumé", "X-Object-Meta-Latin": "plum\xe9", "X-Object-Sysmeta-Slo-Etag": "e", "X-Delete-At": "9999999999",
		"Content-Encoding": "gzip", "X-Object-Transient-Sysmeta-Crypto": "c", "X-Special": "s", "X-Object-Meta-Empty": "",
	}
	for i, p := range l.peers {
		if i != own {
			a := o.Archive(i)
			maps.Copy(a.Fields, meta)
			maps.Copy(a.Fields, map[string]string{"Last-Modified": "x", "X-Trans-Id": "tx", "X-Openstack-Request-Id": "tx", "Date": "x", "Accept-Ranges": "bytes", "Connection": "keep-alive"})
			p.Hold(a)
		}
	}
	l.repair(o.Name, PointWhole, map[int]string{own: "rebuilt"})
	want := maps.Clone(meta)
	for k, v := range o.Metadata(own) {
		if k != "name" && k != "ETag" {
			want[k] = v
		}
	}
	if got := l.peers[own].Stored()[0].Fields; !maps.Equal(got, want) {
		t.Errorf("PUT with\n%q, want\n%q", got, want)
	}
}

func TestPostedMetadata(t *testing.T) {
	t.Parallel()
	const key = "X-Object-Meta-Color"
	put := map[string]string{key: "red"}
	for _, c := range []struct {
		name   string
		posted []int             // who has the .meta file
		local  bool              // the local device holds the archive
		post   map[string]string // what it brought
		state  PointState
		left   string // what becomes of fragment 0, which is missing
		data   string // color in its .data file
		type_  string // and content type
	}{
		{"known locally", []int{own, 2, 3, 4, 5}, true, nil, PointWhole, "rebuilt", "red", "application/octet-stream"},
		{"on all others", []int{2, 3, 4, 5}, false, nil, PointWhole, "rebuilt", "blue", "application/octet-stream"},
		{"one shows its own", []int{2, 3, 4}, false, nil, PointWhole, "rebuilt", "red", "application/octet-stream"},
		{"newer elsewhere", []int{2, 3}, true, nil, PointWhole, "rebuilt", "red", "application/octet-stream"},
		{"another content type", []int{2, 3, 4, 5}, false, map[string]string{"Content-Type": "text/plain"}, PointWhole, "rebuilt", "blue", "text/plain"},
		{"another content type whose time only others know", []int{2, 3}, true, map[string]string{"Content-Type": "text/plain"}, PointLeft, "rebuilt, but the metadata of …", "red", "application/octet-stream"},
		{"a large object's other content type", []int{2, 3, 4, 5}, false, map[string]string{"Content-Type": "text/plain", "X-Static-Large-Object": "True"}, PointHopeless, "nothing was written", "", ""},
		{"a large object's own content type", []int{2, 3, 4, 5}, false, map[string]string{"Content-Type": "text/plain;swift_bytes=9", "X-Static-Large-Object": "True"}, PointWhole, "rebuilt", "blue", "text/plain;swift_bytes=9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newPointLab(t)
			o := peers.NewObjectAt(t, l.code, l.pol, name("o"), single, segment, at(10))
			want := map[int]string{left: c.left}
			post := map[string]string{key: "blue"}
			maps.Copy(post, c.post)
			for i, p := range l.peers {
				if i == left || i == own && !c.local {
					continue
				}
				a := o.Archive(i)
				maps.Copy(a.Fields, put)
				if slices.Contains(c.posted, i) {
					a.Post(at(20), post)
				} else {
					want[i] = "metadata sent"
					if c.state == PointLeft {
						want[i] = "the metadata of …"
					}
				}
				p.Hold(a)
			}
			if c.local {
				l.disk.Put(t, part(o.Name), o, own, func(m map[string]string) { maps.Copy(m, put) })
				if slices.Contains(c.posted, own) {
					l.disk.PutMeta(t, part(o.Name), o.Name, at(20), post)
				}
			} else {
				want[own] = c.left
			}
			if c.state == PointHopeless {
				for i := range l.peers {
					want[i] = c.left
				}
			}
			r := l.repair(o.Name, c.state, want)
			if c.state == PointHopeless {
				if len(l.peers[left].Stored()) > 0 || !strings.Contains(r.Reason, l.peers[3].Addr) {
					t.Errorf("%+v", r)
				}
				return
			}
			got := make(map[string]map[string]string)
			for _, s := range l.peers[left].Stored() {
				got[s.Method] = s.Fields
			}
			if got["PUT"][key] != c.data || got["PUT"]["Content-Type"] != c.type_ || got["PUT"]["X-Timestamp"] != at(10).Internal() {
				t.Errorf("PUT with %v", got["PUT"])
			}
			if c.state == PointLeft {
				if got["POST"] != nil || !strings.Contains(r.Notes[0], l.peers[2].Addr) {
					t.Errorf("POST with %v; %v", got["POST"], r.Notes)
				}
			} else if !maps.Equal(got["POST"], map[string]string{"X-Timestamp": at(20).Internal(), key: "blue"}) {
				t.Errorf("POST with %v", got["POST"])
			}
		})
	}
}

// What the survivors do not agree on is not made up: the odd ones are named, and too few
// that agree repair nothing.
func TestSurvivorsOfOtherMetadataAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key   string
		odd   []int
		state PointState
		said  string
	}{
		{"X-Object-Meta-Color", []int{3}, PointLeft, "metadata is not that of the others: X-Object-Meta-Color"},
		{"X-Object-Sysmeta-Color", []int{3}, PointLeft, "system metadata is not that of the others: X-Object-Sysmeta-Color"},
		{"X-Object-Meta-Color", []int{2, 3}, PointHopeless, "3 of 4 that agree"},
		{"X-Strange", []int{2, 3, 4, 5}, PointHopeless, "X-Strange"},
	} {
		l := newPointLab(t)
		o := peers.NewObject(t, l.code, l.pol, name("o"), single)
		for i, p := range l.peers {
			if i != left && i != own || i == own && len(c.odd) < 4 {
				a := o.Archive(i)
				if slices.Contains(c.odd, i) {
					a.Fields[c.key] = "x"
				}
				p.Hold(a)
			}
		}
		r, err := l.point(&PointRequest{Object: o.Name})
		if err != nil || r.State != c.state {
			t.Errorf("%s: %+v, %v", c.key, r, err)
			continue
		}
		if c.state == PointHopeless {
			if !strings.Contains(r.Reason, c.said) || len(l.peers[left].Stored()) > 0 {
				t.Errorf("%s: %q", c.key, r.Reason)
			}
			continue
		}
		if n := r.Nodes[3]; !n.Left || !strings.Contains(n.Action, c.said) || r.Nodes[left].Action != "rebuilt" {
			t.Errorf("%s: %+v", c.key, n)
		}
		for _, g := range l.peers[3].Gets()[1:] {
			t.Errorf("%s: the odd one was a survivor: %+v", c.key, g)
		}
	}
}

// rule 36: the newest that enough agree on, whatever lies beside it.
func TestTheNewestVersionThatEnoughAgreeOnIsRepaired(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	n := name("o")
	old := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(10))
	mid := peers.NewObjectAt(t, l.code, l.pol, n, multi, segment, at(20))
	begun := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(30))
	l.spread(mid, left, own)
	l.peers[left].Hold(old.Archive(left))
	l.disk.Put(t, part(n), old, own, nil) // overwritten: not the reference, though it is local
	l.peers[own].Hold(old.Archive(own))
	unfinished := begun.Archive(3)
	unfinished.Fields["X-Backend-Durable-Timestamp"] = mid.Data.Internal()
	l.peers[3].Hold(unfinished)
	r := l.repair(n, PointWhole, map[int]string{left: "rebuilt", own: "rebuilt"})
	if r.Reference.Timestamp != mid.Data.Internal() || len(r.Nodes[3].Held) != 2 || r.Nodes[3].Held[0].Durable {
		t.Errorf("%+v, %+v", r.Reference, r.Nodes[3])
	}
	l.received(left, mid)
	l.received(own, mid)
}

func TestANewerDurableVersionIsNotOverwritten(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	n := name("o")
	o := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(10))
	newer := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(20))
	l.spread(o, left)
	l.peers[left].Hold(newer.Archive(left))
	r := l.repair(n, PointLeft, map[int]string{left: "holds another version, which is newer, and did not take this one"})
	if r.Left != 1 || len(l.peers[left].Stored()) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestTooFewSurvivorsRepairNothingAndEachIsQuoted(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left, far, 5)
	l.peers[5].Refuse(500)
	r := l.repair(o.Name, PointHopeless, map[int]string{0: "nothing was written", 1: "nothing was written", 2: "nothing was written", 3: "nothing was written", 4: "nothing was written", 5: "unreachable: answered 500"})
	if r.Have != 3 || r.Need != 4 || r.Left == 0 || !strings.Contains(r.Reason, "3 of 4 survivors (fragments {1 2 3}), durable") {
		t.Errorf("%+v", r)
	}
	for i, p := range l.peers {
		if len(p.Sessions()) > 0 {
			t.Errorf("peer %d was offered something", i)
		}
	}
}

// rule 5: archives are read whole, and what is bad is no survivor.
func TestABadArchiveIsFoundAndRebuiltWhenItsPlaceIsFree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(a *peers.Archive)
		moves bool // the server moves it aside when it has served it
		want  string
		state PointState
	}{
		{"payload", func(a *peers.Archive) { a.Body[len(a.Body)-1] ^= 1 }, true, "bad: MD5 is …, quarantined by its server, rebuilt", PointWhole},
		{"stays", func(a *peers.Archive) { a.Body[len(a.Body)-1] ^= 1 }, false, "bad: MD5 is …did not take what it was offered", PointLeft},
		{"header", func(a *peers.Archive) {
			a.Body[0] ^= 1
			a.Fields["Etag"] = fmt.Sprintf("%x", md5.Sum(a.Body))
		}, true, "bad: fragment header of segment 0: …, quarantined by its server, rebuilt", PointWhole},
		{"another segment size", func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Segment-Size"] = "1" }, false, "…did not take what it was offered", PointLeft},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newPointLab(t)
			o := peers.NewObject(t, l.code, l.pol, name("o"), multi)
			l.spread(o, 3)
			a := o.Archive(3)
			c.spoil(a)
			l.peers[3].Hold(a)
			if c.moves {
				l.peers[3].QuarantineAfterGet()
			}
			r := l.repair(o.Name, c.state, map[int]string{3: c.want})
			if bad, good := r.Nodes[3].Held[0], r.Nodes[2].Held[0]; bad.Problem == "" || bad.Verified || !good.Verified || good.Problem != "" {
				t.Errorf("%+v, %+v", bad, good)
			}
			if c.moves {
				l.received(3, o)
			} else {
				l.received(3)
			}
		})
	}
}

// rule 9
func TestAPointRepairGoesToAHandoffForAnUnmountedPrimary(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left)
	l.peers[left].Refuse(507)
	r := l.repair(o.Name, PointWhole, map[int]string{left: "not mounted: handoff " + l.spare.Addr + "/spare: rebuilt"})
	if got := l.spare.Stored(); r.Repaired != 1 || len(got) != 1 || !bytes.Equal(got[0].Body, o.Frags[left]) {
		t.Errorf("%+v", r)
	}
	if n := r.Nodes[6]; !n.Handoff || n.Action != "stands in for "+l.peers[left].Addr+"/sd0" {
		t.Errorf("%+v", n)
	}
	l.repair(o.Name, PointWhole, map[int]string{left: "not mounted: handoff …/spare has it"})
	l.spare.Refuse(507)
	if r := l.repair(o.Name, PointLeft, map[int]string{left: "not mounted, and no handoff to take its place"}); r.Left != 1 {
		t.Errorf("%+v", r)
	}
}

func TestAPrimaryThatGoesAwayBeforeItIsServedIsReplaced(t *testing.T) { // rule 9
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left)
	l.peers[left].Script(func(s *peers.Session) { s.Conn.Write(peers.Status(507)) })
	l.repair(o.Name, PointWhole, map[int]string{left: "not mounted: handoff " + l.spare.Addr + "/spare: rebuilt"})
}

// rule 10
func TestABusyNodeIsAskedAndServedAgain(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left)
	l.peers[left].Busy(2)
	l.peers[2].Busy(2)
	l.peers[left].Script(func(s *peers.Session) {
		if s.N < 3 {
			refuse(":ERROR: 503 b'busy'\r\n")(s)
			return
		}
		s.Serve()
	})
	l.repair(o.Name, PointWhole, map[int]string{left: "rebuilt"})
	l.received(left, o)
}

func TestWhoCanNotBeReachedOrServedIsLeft(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left, far)
	l.peers[left].Refuse(500)
	l.peers[far].Script(refuse(":ERROR: 400 b'no'\r\n"))
	if r := l.repair(o.Name, PointLeft, map[int]string{left: "unreachable: answered 500", far: "not repaired: …"}); r.Left != 2 || r.Repaired != 0 {
		t.Errorf("%+v", r)
	}
}

// The local archive counts and is read from disk where its server is down.
func TestALocalArchiveCountsWithoutItsServer(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left, far)
	l.peers[own].Refuse(500)
	r := l.repair(o.Name, PointLeft, map[int]string{left: "rebuilt", far: "rebuilt", own: "unreachable: answered 500"})
	if n := r.Nodes[own]; r.Left != 1 || len(n.Held) != 1 || !n.Held[0].Verified || !strings.HasPrefix(r.Reference.Source, l.disk.Root) {
		t.Errorf("%+v, %+v", r, n)
	}
	// One that has rotted does not.
	l = newPointLab(t)
	l.spread(o, left, far)
	l.peers[own].Refuse(500)
	flip(t, filepath.Join(l.disk.Dir(part(o.Name), o.Name), fmt.Sprintf("%s#%d#d.data", o.Data.Internal(), own)), 100)
	if r, err := l.point(&PointRequest{Object: o.Name}); err != nil || r.State != PointHopeless || !strings.Contains(r.Reason, "3 of 4 that are whole") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestADeletedObject(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	n := name("o")
	o := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(10))
	gone := func() {
		for i, p := range l.peers {
			switch i {
			case left:
				p.Hold(o.Archive(left)) // missed the DELETE
			case far: // holds nothing
			default:
				p.Hold(peers.Tombstone(n, at(20)))
			}
		}
	}
	gone()
	r, err := l.point(&PointRequest{Object: n})
	if err != nil || r.State != PointDeleted || r.Left != 1 || r.Repaired != 0 || !strings.Contains(r.Reason, at(20).Internal()) ||
		!strings.HasPrefix(r.Nodes[left].Action, "still holds data") || r.Nodes[far].Action != "holds nothing" {
		t.Errorf("%+v, %v", r, err)
	}
	l = newPointLab(t)
	gone()
	l.disk.PutTombstone(t, part(n), n, at(20))
	r = l.repair(n, PointDeleted, map[int]string{left: "tombstone sent", far: "tombstone sent"})
	if r.Left != 0 || r.Repaired != 2 {
		t.Errorf("%+v", r)
	}
	for _, i := range []int{left, far} {
		if got := l.peers[i].Stored(); len(got) != 1 || got[0].Method != "DELETE" || got[0].Fields["X-Timestamp"] != at(20).Internal() {
			t.Errorf("%d: %+v", i, got)
		}
	}
	// An object that was stored again afterwards is none.
	l = newPointLab(t)
	again := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(30))
	l.spread(again, left)
	l.peers[left].Hold(peers.Tombstone(n, at(20)))
	l.repair(n, PointWhole, map[int]string{left: "rebuilt"})
}

// Data that others hold of a tombstone's very time is there, as Swift's proxy has it, and the device with the tombstone takes none of it. Where it has
// too few archives nothing is repaired, and least of all what is older than the tombstone.
func TestATombstoneOfTheDatasVeryTimeDeletesOnlyItsDevice(t *testing.T) { // rule 36
	t.Parallel()
	n := name("o")
	for _, missing := range [][]int{{left}, {left, far}} {
		l := newPointLab(t)
		o := peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(20))
		l.spread(o, missing...)
		l.peers[left].Hold(peers.Tombstone(n, at(20)))
		actions, repaired := map[int]string{left: tied}, 0
		if len(missing) > 1 {
			actions[far], repaired = "rebuilt", 1
		}
		v, err := l.pointing(&PointRequest{Object: n}, (*Pass).Verify)
		if err != nil || v.State != PointLeft || v.Left != len(missing) || v.Nodes[left].Action != tied || !v.Verdict.Decodes {
			t.Errorf("verify: %+v, %v", v, err)
		}
		if r := l.repair(n, PointLeft, actions); r.Left != 1 || r.Repaired != repaired || len(l.peers[left].Stored()) > 0 {
			t.Errorf("%+v", r)
		}
		// A tombstone on a local disk is none that others would get.
		l = newPointLab(t)
		l.spread(o, own)
		l.peers[own].Hold(peers.Tombstone(n, at(20)))
		l.disk.PutTombstone(t, part(n), n, at(20))
		l.repair(n, PointLeft, map[int]string{own: tied})
	}
	l := newPointLab(t)
	l.hold(peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(10)), left, far)
	l.peers[left].Hold(peers.Tombstone(n, at(20)))
	l.peers[far].Hold(peers.NewObjectAt(t, l.code, l.pol, n, single, segment, at(20)).Archive(far))
	if r, err := l.point(&PointRequest{Object: n}); err != nil || r.State != PointHopeless || !strings.Contains(r.Reason, "deleted since") {
		t.Errorf("%+v, %v", r, err)
	}
	for _, p := range l.peers {
		if len(p.Sessions()) > 0 {
			t.Error("something was offered")
		}
	}
}

func TestAHashIsEnoughWhereAFileTellsTheName(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	hash := objhash.Hex(hasher.Object(o.Name))
	ask := func() (*PointReport, error) { return l.point(&PointRequest{Hash: hash, Policy: l.pol}) }
	l.spread(o, left, own)
	if _, err := ask(); err == nil || !strings.Contains(err.Error(), "nothing else tells the object's name") || !strings.Contains(err.Error(), l.peers[2].Addr) {
		t.Errorf("%v", err)
	}
	l.disk.Put(t, part(o.Name), o, own, nil)
	if r, err := ask(); err != nil || r.Object != o.Name || r.State != PointWhole || r.Repaired != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := l.point(&PointRequest{Hash: strings.ToUpper(hash), Policy: l.pol}); err == nil {
		t.Error("a hash in upper case was taken")
	}
}

func TestThePolicyIsFoundWhereTheObjectIs(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	second := *l.pol
	second.Index, second.Name, second.Default = 2, "other", false
	l.cfg.Swift.Policies = append(l.cfg.Swift.Policies, &policy.Policy{Index: 0, Name: "gold", Type: policy.Replication}, &second)
	ring, err := os.ReadFile(filepath.Join(l.cfg.SwiftDir, "object-1.ring.gz"))
	if err == nil {
		err = os.WriteFile(filepath.Join(l.cfg.SwiftDir, "object-2.ring.gz"), ring, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The peers answer for whichever policy they are asked.
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	if _, err := l.point(&PointRequest{Object: o.Name}); err == nil || !strings.Contains(err.Error(), "no node holds anything of "+o.Name) {
		t.Errorf("%v", err)
	}
	l.peers[2].Refuse(500)
	if _, err := l.point(&PointRequest{Object: o.Name}); err == nil || !strings.Contains(err.Error(), "did not answer: "+l.peers[2].Addr+"/sd2") {
		t.Errorf("%v", err)
	}
	l.peers[2].Refuse(0)
	l.spread(o, left)
	if _, err := l.point(&PointRequest{Object: o.Name}); err == nil || !strings.Contains(err.Error(), "ec (1), other (2)") && !strings.Contains(err.Error(), "more than one policy") {
		t.Errorf("%v", err)
	}
	if r, err := l.point(&PointRequest{Object: o.Name, Policy: l.pol}); err != nil || r.PolicyName != "ec" || r.State != PointWhole {
		t.Errorf("%+v, %v", r, err)
	}
	l.writeRing(func(ring map[string]any) { ring["next_part_power"] = power + 1 })
	if _, err := l.point(&PointRequest{Object: o.Name, Policy: l.pol}); err == nil || !strings.Contains(err.Error(), "partition power") {
		t.Errorf("%v", err)
	}
}

func TestTheEndOfTheContextEndsAPointRepair(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	l.spread(o, left)
	ctx, cancel := context.WithCancelCause(bg)
	enough := errors.New("enough")
	l.peers[left].Script(func(s *peers.Session) {
		s.Greet()
		s.ReadOffers()
		cancel(enough)
		s.Conn.Hang()
	})
	p, err := New(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if r, err := p.Repair(ctx, &PointRequest{Object: o.Name}); !errors.Is(err, enough) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWhatALocalServerShowsIsKnownFromItsDisk(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObjectAt(t, l.code, l.pol, name("o"), single, segment, at(10))
	l.disk.Put(t, part(o.Name), o, own, func(m map[string]string) {
		maps.Copy(m, map[string]string{"X-Object-Meta-Color": "red", "X-Object-Sysmeta-A": "plum\u00c3\u00a9", "X-Delete-At": "9999999999"})
	})
	l.disk.PutMeta(t, part(o.Name), o.Name, at(20), map[string]string{"X-Object-Meta-Shape": "round"})
	file, err := l.files.Open("sda", part(o.Name), objhash.Hex(hasher.Object(o.Name)), -1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make(map[string]string)
	for k, f := range shownFields(file) {
		got[k] = f.Value
	}
	want := map[string]string{"content-type": "application/octet-stream", "x-object-meta-shape": "round", "x-object-sysmeta-a": "plumé"}
	for k, v := range o.Metadata(own) {
		if strings.HasPrefix(k, "X-Object-Sysmeta-") {
			want[lower(k)] = v
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// What comes of an upload under way is not made durable by a repair (rule 36).
func TestWhatIsNotDurableAnywhereIsNotRepaired(t *testing.T) {
	t.Parallel()
	l := newPointLab(t)
	o := peers.NewObject(t, l.code, l.pol, name("o"), single)
	for i, p := range l.peers {
		if i != left && i != own {
			a := o.Archive(i)
			delete(a.Fields, "X-Backend-Durable-Timestamp")
			p.Hold(a)
		}
	}
	r, err := l.point(&PointRequest{Object: o.Name})
	if err != nil || r.State != PointHopeless || !strings.Contains(r.Reason, "4 of 4 survivors (fragments {2 3 4 5}), not durable") || len(l.peers[left].Sessions()) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// One durable archive is enough to say that it was stored.
	l.peers[own].Hold(o.Archive(own))
	r, err = l.point(&PointRequest{Object: o.Name})
	if err != nil || r.Nodes[left].Action != "rebuilt" || r.Nodes[own].Action != "has it" {
		t.Errorf("%+v, %v", r, err)
	}
}
