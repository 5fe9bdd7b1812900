package object

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imping/codec"
	"imping/netfast"
	"imping/netfast/fake"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// A PUT has failed when a quorum had the archives whole, and fewer confirm the commit; with fewer that have them whole nobody is told to commit.
func TestTheQuorumCountsInBothPhases(t *testing.T) { // rule 28
	pol := &policy.Policy{Name: "gold", Type: policy.ErasureCoding, ECType: "isa_l_rs_vand", Data: 2, Parity: 2, Duplication: 1, SegmentSize: 64}
	code, err := codec.New(codec.Scheme{Type: pol.ECType, K: pol.Data, M: pol.Parity})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name            string
		whole, confirms int // of four devices
		status          int
		commits         int32 // devices that were told to commit
		say             string
	}{
		{"all", 4, 4, 0, 4, ""},
		{"a quorum in each", 3, 3, 0, 3, ""},
		{"too few confirm", 4, 2, 503, 4, "2 devices have confirmed it, and 3 are needed"},
		{"too few are whole", 2, 4, 503, 0, "2 devices have an archive whole, and 3 are needed"},
	} {
		http := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 10 * time.Second, UserAgent: "imping"})
		client := &Client{HTTP: http, ConnTimeout: 10 * time.Second, NodeTimeout: 10 * time.Second}
		p := &put{
			Client: client, place: &place{pol, &ring.Ring{NextPartPower: -1}, code}, name: "/a/c/o", boundary: "bound",
			PutOptions: PutOptions{Size: -1, Timestamp: timestamp.FromTime(time.Now())},
		}
		p.quorum = quorum(p.place)
		var commits atomic.Int32
		for i := range code.N() {
			addr := fake.Peer(t, func(_ int, peer *fake.Conn) {
				if head := peer.Head(); !strings.Contains(head, "X-Backend-Obj-Multiphase-Commit: yes\r\n") || !strings.Contains(head, "X-Order: mine\r\n") {
					t.Errorf("%s: asked with %q", c.name, head)
				}
				peer.Say("HTTP/1.1 100 Continue\r\nX-Obj-Metadata-Footer: yes\r\nX-Obj-Multiphase-Commit: yes\r\n\r\n")
				if !peer.Await("X-Document: object metadata\r\n") || !peer.Await("--bound\r\n\r\n0\r\n\r\n") {
					t.Errorf("%s: the first phase has no end", c.name)
				}
				if i >= c.whole {
					peer.Say("HTTP/1.1 422 Unprocessable Entity\r\nContent-Length: 0\r\n\r\n")
					return
				}
				peer.Say("HTTP/1.1 100 Continue\r\n\r\n")
				if !peer.Await("put_commit_confirmation\r\n--bound--\r\n0\r\n\r\n") {
					return
				}
				commits.Add(1)
				status := "201 Created"
				if i >= c.confirms {
					status = "503 Service Unavailable"
				}
				peer.Say("HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n\r\n")
			})
			target, _, err := p.open(t.Context(), &node{addr, "sda", i}, []netfast.Field{{Key: "X-Order", Value: "mine"}})
			if err != nil {
				t.Fatal(err)
			}
			p.targets = append(p.targets, target)
		}
		var stored *Stored
		err := p.send(t.Context(), bytes.NewReader(make([]byte, 200)))
		if err == nil {
			stored, err = p.commit(t.Context())
		}
		var status *StatusError
		switch {
		case c.status == 0 && (err != nil || len(stored.Nodes) != min(c.whole, c.confirms) || len(stored.Failed) != code.N()-len(stored.Nodes)):
			t.Errorf("%s: %+v, %v", c.name, stored, err)
		case c.status != 0 && (!errors.As(err, &status) || status.Status != c.status || !strings.Contains(err.Error(), c.say)):
			t.Errorf("%s: %v", c.name, err)
		}
		p.close()
		http.Close()
		if n := commits.Load(); n != c.commits {
			t.Errorf("%s: %d devices were told to commit, not %d", c.name, n, c.commits)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		method   string
		statuses []int
		want     int
	}{
		{"DELETE", []int{204, 204, 204, 503, 0, 404}, 200},
		{"DELETE", []int{204, 204, 404, 404, 404, 404}, 404},
		{"DELETE", []int{204, 404, 404, 503, 0, 507}, 200}, // who had nothing is with who has deleted
		{"POST", []int{202, 404, 404, 503, 0, 507}, 503},
		{"DELETE", []int{404, 404, 503, 503, 503, 503}, 503}, // nobody has deleted anything
		{"POST", []int{202, 202, 202, 404, 404, 404}, 200},
		{"POST", []int{409, 404, 404, 404, 202, 202}, 409},
		{"POST", []int{400, 400, 400, 400, 503, 503}, 400},
		{"POST", []int{409, 503, 503, 503, 202, 0}, 409},
		{"POST", []int{507, 503, 503, 503, 202, 0}, 503},
	} {
		if got := verdict(c.method, c.statuses); got != c.want {
			t.Errorf("%s %v: %d, want %d", c.method, c.statuses, got, c.want)
		}
	}
}

func TestXDeleteAfterIsCountedFromTheTimestamp(t *testing.T) {
	at := timestamp.Timestamp{Raw: 1000 * 100_000}
	for _, c := range []struct {
		fields string
		want   string
		then   int64
		say    string
	}{
		{"X-Object-Meta-A: b", "X-Object-Meta-A: b", 0, ""},
		{"x-delete-after: 60", "X-Delete-At: 0000001060", 1060, ""},
		{"X-Delete-At: 2000; X-Delete-After: 60", "X-Delete-At: 0000001060", 1060, ""},
		{"X-Delete-At: 2000", "X-Delete-At: 0000002000", 2000, ""},
		{"X-Delete-At: 99999999999", "X-Delete-At: 9999999999", 9999999999, ""},
		{"X-Delete-At: 1000", "", 0, "is past"},
		{"X-Delete-After: 0", "", 0, "is past"},
		{"X-Delete-After: -5", "", 0, "not a number of seconds"},
		{"X-Delete-At: soon", "", 0, "not a number of seconds"},
	} {
		var fields []netfast.Field
		for text := range strings.SplitSeq(c.fields, "; ") {
			key, value, _ := strings.Cut(text, ": ")
			fields = append(fields, netfast.Field{Key: key, Value: value})
		}
		before := slices.Clone(fields)
		list, then, err := vanishing(fields, at)
		var got []string
		for _, f := range list {
			got = append(got, f.Key+": "+f.Value)
		}
		if strings.Join(got, "; ") != c.want || then != c.then || (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %q, %d, %v", c.fields, got, then, err)
		}
		if !slices.Equal(fields, before) {
			t.Errorf("%s: the caller's fields are changed: %v", c.fields, fields)
		}
	}
	if n := fmt.Sprint(majority(6), majority(14), majority(5)); n != "3 7 3" {
		t.Errorf("majorities %s", n)
	}
}
