package rebuild

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/codec"
	"imping/lab/oracle"
	"imping/netfast/fragment"
	"imping/swift/timestamp"
)

func TestMetadataThatCanNotBeTrueIsRefusedByName(t *testing.T) {
	for _, c := range []struct{ key, value, why string }{
		{keySize, "", keySize + " is missing"},
		{keySize, "x", "not a size"},
		{keySize, "-1", "not a size"},
		{keySize, "9223372036854775807", "bytes"},
		{keySize, "9223372036854775808", "not a size"},
		{keySize, "1", "makes archives of"},
		{keySegment, "", keySegment + " is missing"},
		{keySegment, "0", "out of bounds"},
		{keySegment, "1073741825", "out of bounds"},
		{keySegment, "9223372036854775807", "out of bounds"},
		{keySegment, "1", "makes archives of"},
		{keyEtag, "", keyEtag + " is missing"},
		{KeyFragIndex, "", KeyFragIndex + " is missing"},
	} {
		l := newLabWith(t, isal, multi, 0, func(m map[string]string) {
			if c.value == "" {
				delete(m, c.key)
			} else {
				m[c.key] = c.value
			}
		}, 2)
		local, err := l.files.Open("sda", part, l.hash(), -1, false)
		if err != nil {
			t.Fatal(err)
		}
		o, err := NewObject(l.code, l.pol, part, local)
		if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), l.path) {
			t.Errorf("%s = %q: %+v, %v; want an error with %q and the file", c.key, c.value, o, err, c.why)
		}
		local.Close()
	}
}

func TestKnowledgeOfBadArchivesIsInheritedByTheSameDataOnly(t *testing.T) {
	at := timestamp.Timestamp{Raw: 5}
	earlier := &Object{Data: at}
	p := Peer{ID: 7}
	earlier.avoid.add(&survivor{peer: &p}, errTarget)
	earlier.avoid.add(&survivor{}, errTarget)
	for data, want := range map[timestamp.Timestamp]int{at: 2, {Raw: 6}: 0, {Raw: 5, Offset: 1}: 0} {
		o := &Object{Data: data}
		o.Inherit(earlier)
		o.Inherit(nil)
		if o.Avoiding() != want || (o.LocalFault() != nil) != (want > 0) {
			t.Errorf("%v inherits %d, local %v; want %d", data, o.Avoiding(), o.LocalFault(), want)
		}
	}
}

func TestAnArchiveIsProvedAgain(t *testing.T) { // rule 4
	for _, c := range []struct {
		what  string
		spoil func(l *lab)
		why   string
	}{
		{"whole", func(*lab) {}, ""},
		{"without an ETag", func(l *lab) { l.put(func(m map[string]string) { delete(m, "ETag") }) }, ""},
		{"an ETag in capitals", func(l *lab) { l.put(func(m map[string]string) { m["ETag"] = strings.ToUpper(m["ETag"]) }) }, ""},
		{"a byte changed", func(l *lab) { flip(l.t, l.path, 200) }, "ETag says"},
		{"a header that is none, and was never", func(l *lab) {
			l.obj.Frags[0][2*l.code.FragmentSize(segment)] ^= 1
			l.put(nil)
		}, "fragment header at 2"},
		{"an archive of another index", func(l *lab) {
			l.obj.Frags[0] = l.obj.Frags[3]
			l.put(nil)
		}, "index 3, want 0"},
		{"cut meanwhile", func(l *lab) { l.cutBy = 3 }, "ETag says"},
		{"cut before a header meanwhile", func(l *lab) {
			l.put(func(m map[string]string) { delete(m, "ETag") })
			l.cutBy = int64(l.code.FragmentSize(multi%segment)) - 1
		}, "cannot read the fragment header"},
	} {
		l := newLabWith(t, isal, multi, 0, nil, 2)
		c.spoil(l)
		l.open()
		if l.cutBy > 0 {
			cut(t, l.path, l.cutBy)
		}
		err := l.object.Prove(l.local)
		if (err == nil) != (c.why == "") || err != nil && (!strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), l.path)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.why)
		}
	}
}

// put writes the local archive anew.
func (l *lab) put(change func(map[string]string)) { l.disk.Put(l.t, part, l.obj, 0, change) }

// Stock's own function counts the same answers.
func TestInsufficientNumbersAreStocks(t *testing.T) {
	type answer struct {
		Status int
		Fields map[string]string
	}
	const want = 2
	local := timestamp.Timestamp{Raw: 179534230149613}
	etags := []string{"a", "b", ""}
	rnd := rand.New(rand.NewPCG(8, 9))
	random := func() answer {
		a := answer{Status: []int{200, 200, 200, 200, 404, 503, 507, 0}[rnd.IntN(8)], Fields: map[string]string{}}
		at := timestamp.Timestamp{Raw: local.Raw + int64(rnd.IntN(6)/3), Offset: uint64(rnd.IntN(3) / 2)}
		if rnd.IntN(8) > 0 {
			a.Fields["X-Backend-Data-Timestamp"] = at.Internal()
		}
		if rnd.IntN(3) > 0 {
			a.Fields["X-Backend-Durable-Timestamp"] = at.Internal()
		}
		a.Fields["X-Object-Sysmeta-Ec-Etag"] = etags[rnd.IntN(5)/2]
		if rnd.IntN(8) > 0 {
			a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = fmt.Sprint(rnd.IntN(4)) // few, so that they do not suffice
		}
		return a
	}
	var questions [][]answer
	for range 300 {
		q := []answer{{Status: 200, Fields: map[string]string{
			"X-Backend-Data-Timestamp": local.Internal(), "X-Backend-Durable-Timestamp": local.Internal(),
			"X-Object-Sysmeta-Ec-Etag": "a", "X-Object-Sysmeta-Ec-Frag-Index": "0"}}}
		for range 5 {
			q = append(q, random())
		}
		questions = append(questions, q)
	}
	var lines [][]string
	oracle.Ask(t, `
import sys, json
from collections import defaultdict
from unittest import mock
from swift.obj import reconstructor
class Resp:
    def __init__(self, a):
        self.status, self.fields, self.full_path = a['Status'], a['Fields'], 'x'
    def getheaders(self):
        return list(self.fields.items())
out = []
for q in json.load(sys.stdin):
    r = reconstructor.ObjectReconstructor.__new__(reconstructor.ObjectReconstructor)
    r.logger = mock.Mock()
    node = {'replication_ip': 'h', 'replication_port': 1, 'device': 'd', 'backend_index': 2}
    buckets, errors = defaultdict(reconstructor.ResponseBucket), defaultdict(list)
    policy = mock.MagicMock()
    policy.__int__ = lambda s: 1
    for a in q:
        r._handle_fragment_response(node, policy, 3, 2, '/a/c/o', buckets, errors, Resp(a) if a['Status'] else None)
    lines = ['%d from %d ok at %s, %s, %s' % (len(b.useful_responses), b.num_responses, ts.internal, b.etag, bool(b.durable))
        for ts, b in sorted(buckets.items()) if b.num_responses]
    lines += ['%d x %s' % (len(v), 0 if k == reconstructor.UNKNOWN_RESPONSE_STATUS else k) for k, v in sorted(errors.items())]
    out.append(lines)
json.dump(out, sys.stdout)
`, questions, &lines)

	code, err := codec.New(isal)
	if err != nil {
		t.Fatal(err)
	}
	r := &Rebuilder{Verify: VerifyOff}
	o := &Object{Code: code, Data: local, ECEtag: "a", Durable: true}
	for i, q := range questions {
		e := &Insufficient{Object: o, Want: want, Have: 1, OK: 1, Statuses: map[int]int{}}
		held := codec.SetOf(0)
		for _, a := range q[1:] {
			reply := asked{peer: &Peer{}, status: a.Status, err: errTarget}
			if a.Status != 0 {
				reply.err = nil
				reply.resp = &fragment.Response{Status: a.Status, ECEtag: a.Fields["X-Object-Sysmeta-Ec-Etag"], FragIndex: -1}
				fmt.Sscan(a.Fields["X-Object-Sysmeta-Ec-Frag-Index"], &reply.resp.FragIndex)
				reply.resp.Data, _ = timestamp.Parse(a.Fields["X-Backend-Data-Timestamp"])
				reply.resp.Durable, _ = timestamp.Parse(a.Fields["X-Backend-Durable-Timestamp"])
			}
			switch s, duplicate, _ := r.judge(o, reply, codec.SetOf(want), held); {
			case s != nil:
				held = held.With(s.index)
				e.Have++
				e.OK++
			case duplicate:
				e.OK++
			default:
				e.count(reply)
			}
		}
		got := map[string]string{local.Internal(): fmt.Sprintf("%d from %d ok at %s, a, true", e.Have, e.OK, local.Internal())}
		for _, b := range e.Others {
			got[b.Data.Internal()] = fmt.Sprintf("%d from %d ok at %s, %s, %t", b.Have, b.OK, b.Data.Internal(), b.ECEtag, b.Durable)
		}
		var all []string
		for _, at := range slices.Sorted(maps.Keys(got)) {
			all = append(all, got[at])
		}
		for _, status := range slices.Sorted(maps.Keys(e.Statuses)) {
			all = append(all, fmt.Sprintf("%d x %d", e.Statuses[status], status))
		}
		for j := range lines[i] {
			lines[i][j] = strings.NewReplacer("True", "true", "False", "false").Replace(lines[i][j])
		}
		sorted := func(l []string) []string { slices.Sort(l); return l }
		if d := cmp.Diff(sorted(lines[i]), sorted(all)); d != "" {
			t.Fatalf("%+v\n(-stock +imping):\n%s", q, d)
		}
	}
}
