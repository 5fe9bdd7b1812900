package pass

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/codec"
	"imping/engine/rebuild"
	"imping/engine/rebuild/peers"
	"imping/netfast/replicate"
	"imping/netfast/ssync"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

func nodes(ids ...int) []ring.Node {
	list := make([]ring.Node, len(ids))
	for i, id := range ids {
		list[i] = ring.Node{Device: &ring.Device{ID: id}, Index: i}
	}
	return list
}

func TestPartnersAreLeftRightAndFarEachOnceNeverItself(t *testing.T) {
	for _, c := range []struct {
		name  string
		index int
		ids   []int
		want  []int
	}{
		{"14 nodes", 0, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, []int{13, 1, 7}},
		{"6 nodes, last", 5, []int{10, 11, 12, 13, 14, 15}, []int{14, 10, 12}},
		{"2 nodes: all three are one", 0, []int{7, 8}, []int{8}},
		{"3 nodes: far is right", 0, []int{1, 2, 3}, []int{3, 2}},
		{"one node: none", 0, []int{1}, nil},
		{"a device twice in the partition", 0, []int{1, 2, 3, 1}, []int{2, 3}},
	} {
		var got []int
		for _, n := range partners(c.index, nodes(c.ids...)) {
			got = append(got, n.ID)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// rule 10
func TestWorkStillToDoIsToldFromWorkThatFailed(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"a receiver without a free slot", &ssync.RemoteError{Code: 503, Text: "b'<html>...'"}, true},
		{"failed subrequests", &ssync.RemoteError{Code: 500, Text: "b'ERROR: With :UPDATES: 1 failures to 0 successes'"}, false},
		{"HTTP 503", &ssync.StatusError{Status: 503}, true},
		{"HTTP 529", &ssync.StatusError{Status: 529}, true},
		{"unmounted", &ssync.StatusError{Status: 507}, false},
		{"bad request", &ssync.StatusError{Status: 400}, false},
		{"REPLICATE 503", fmt.Errorf("hashes: %w", &replicate.StatusError{Status: 503}), true},
		{"REPLICATE 507", fmt.Errorf("hashes: %w", &replicate.StatusError{Status: 507}), false},
		{"a peer that talks nonsense", &ssync.ProtocolError{}, false},
		{"REPLICATE answered with no hashes", fmt.Errorf("hashes: %w", &replicate.AnswerError{Err: errors.New("no pickle")}), false},
		{"a broken connection", io.ErrUnexpectedEOF, true},
		{"refused", errors.New("connection refused"), true},
	} {
		if got := retryable(c.err); got != c.want {
			t.Errorf("%s: retryable = %v, want %v", c.name, got, c.want)
		}
	}
}

// rule 12
func TestAnIdleSessionIsServedOutOfHashOrder(t *testing.T) {
	now := time.Now()
	busy := &session{wanted: map[string]ssync.Wanted{"a": {}, "b": {}, "c": {}}, touched: now}
	idle := &session{wanted: map[string]ssync.Wanted{"c": {}}, touched: now}
	hashes := []string{"a", "b", "c"}
	if i := next(hashes, []*session{busy, idle}); i != 0 {
		t.Errorf("fresh sessions: object %d is next, want the first", i)
	}
	idle.touched = now.Add(-2 * idleLimit)
	if i := next(hashes, []*session{busy, idle}); i != 2 {
		t.Errorf("an idle session: object %d is next, want the one that it waits for", i)
	}
	idle.done = true
	if i := next(hashes, []*session{busy, idle}); i != 0 {
		t.Errorf("a finished session: object %d is next, want the first", i)
	}
}

func TestRemainingTimeIsToldAsSwiftTellsIt(t *testing.T) {
	for _, c := range []struct {
		elapsed     float64
		done, total int64
		want        string
	}{
		{10, 5, 10, "10s"}, {100, 1, 10, "15m"}, {3600, 1, 10, "9h"}, {5, 10, 10, "0s"}, {1, 0, 10, "27h"},
	} {
		if got := eta(c.elapsed, c.done, c.total); got != c.want {
			t.Errorf("%v s, %d of %d: %s, want %s", c.elapsed, c.done, c.total, got, c.want)
		}
	}
}

// A receiver of Swift raises when it is offered an object of which it has a file with damaged metadata, and would for ever. A
// request for the object has its server put that away.
func TestAReceiverThatTripsOverDamagedMetadataIsHelped(t *testing.T) {
	t.Parallel()
	for _, heals := range []bool{true, false} {
		l := newLab(t)
		l.only(left)
		l.agree(right, far)
		hash := objhash.Hex(hasher.Object("/a/c/o"))
		o, other := l.object(0, "/a/c/o", multi, left), l.object(0, "/a/c/other", multi, left)
		asked := func() (n int) {
			for _, g := range l.peers[left].Heads() {
				if strings.HasSuffix(g.Path, "/a/c/o") {
					n++
				}
			}
			return n
		}
		l.peers[left].Script(func(s *peers.Session) {
			s.Greet()
			if !s.ReadOffers() {
				return
			}
			if asked() == 0 || !heals {
				s.Say(":ERROR: 0 \"Metadata checksum mismatch for /srv/node/sd0/objects-1/0/" + objhash.Suffix(hash) + "/" + hash + "/1.00000#0#d.data: stored checksum='x'\"\r\n")
				return
			}
			s.Answer()
			if s.ReadUpdates() {
				s.Verdict()
				s.Conn.Hang()
			}
		})
		if heals {
			l.want(l.run(bg), "rebuilt=2 sessions=2")
			l.received(left, o, other)
		} else {
			l.want(l.run(bg), "rebuilt=0 sessions=2 left.partitions=1")
		}
		if n := asked(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	}
}

// rule 37: a node is told as 2.30.1 tells it, without brackets around an IPv6 address, or as master does, with them. The receiver
// of an ssync session has none in either.
func TestNodesAreToldAsIn230OrInMaster(t *testing.T) {
	code, err := codec.New(codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2})
	if err != nil {
		t.Fatal(err)
	}
	pol := &policy.Policy{Index: 1, Type: policy.ErasureCoding, Data: 4, Parity: 2, Duplication: 1}
	for _, c := range []struct {
		ip     string
		master bool
		node   string
	}{
		{"fd00::1", false, "fd00::1:6300/sdb"},
		{"fd00::1", true, "[fd00::1]:6300/sdb"},
		{"10.0.0.7", false, "10.0.0.7:6300/sdb"},
		{"10.0.0.7", true, "10.0.0.7:6300/sdb"},
	} {
		log := &recorder{}
		p := &Pass{cfg: Config{Log: log, MasterTexts: c.master}}
		peer := rebuild.NewPeer(pol, ring.Node{Device: &ring.Device{ReplicationIP: c.ip, ReplicationPort: 6300, Device: "sdb"}, Index: 2})
		pr := &partner{Peer: peer}
		j := &job{partition: &partition{place: &place{pol: pol}, dev: &ring.Device{Device: "sda"}, part: 7}, waiting: []*partner{pr}}
		p.judge(t.Context(), j, map[*partner]error{pr: errors.New("TEXT")})
		p.logInsufficient(j, pr, &rebuild.Insufficient{
			Object: &rebuild.Object{Code: code, Name: "/a/c/o", Durable: true, ECEtag: "E", Data: timestamp.Timestamp{Raw: 179534230100000}},
			Have:   3, OK: 3, Statuses: map[int]int{404: 2}, Answers: []rebuild.Answer{{Peer: peer, Status: 200, Why: "WHY"}},
		})
		p.noteRefused([]rebuild.Answer{{Peer: peer, Status: 503, Why: "WHY"}})
		want := strings.ReplaceAll(`E NODE/7 TEXT
E Unable to get enough responses (3/4 from 3 ok responses) to reconstruct durable NODE/7/a/c/o policy#1 frag#2 with ETag E and timestamp 1795342301.00000
E Unable to get enough responses (2 x 404 error responses) to reconstruct durable NODE/7/a/c/o policy#1 frag#2
W NODE is no survivor of /a/c/o: WHY
W Invalid response from NODE: WHY`, "NODE", c.node)
		if diff := cmp.Diff(want, log.String()); diff != "" {
			t.Errorf("%s, master's texts %v (-want +got):\n%s", c.ip, c.master, diff)
		}
	}
}
