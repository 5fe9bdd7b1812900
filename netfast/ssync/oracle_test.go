package ssync

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"imping/lab/oracle"
	"imping/netfast"
	"imping/swift/timestamp"
)

const offersScript = `
import json, sys
from swift.common.utils import Timestamp
from swift.obj.ssync_receiver import decode_missing
from swift.obj.ssync_sender import encode_missing
out = []
for o in json.load(sys.stdin):
    kw = {k: Timestamp(o[k]) for k in ("ts_data", "ts_meta", "ts_ctype") if o[k]}
    if o["nondurable"]:
        kw["durable"] = False
    line = encode_missing(o["hash"], **kw)
    decode_missing(line)
    newer = ""
    try:
        decode_missing(o["line"].encode("ascii"))
    except ValueError as err:
        newer = str(err)
    out.append([line.decode("ascii"), newer])
json.dump(out, sys.stdout)
`

// Random offers, with equal, older and newer parts and offsets, are written as Swift
// writes them, and its receiver can read them. Those with an offset in the .meta file have
// a newer form, which 2.30.1's receiver raises on; it reads all others (rule 17).
func TestOffersAreSwifts(t *testing.T) {
	type question struct {
		Hash       string `json:"hash"`
		Data       string `json:"ts_data"`
		Meta       string `json:"ts_meta"`
		CType      string `json:"ts_ctype"`
		NonDurable bool   `json:"nondurable"`
		Line       string `json:"line"` // the newer form
	}
	rng := rand.New(rand.NewPCG(1, 2))
	s := Sender{Dialect: Dialect{NoOffsets: true}}
	var wire []byte
	var questions []question
	var offset []bool
	for range 300 {
		ts := func() timestamp.Timestamp {
			ts := timestamp.Timestamp{Raw: 179534230149613 + rng.Int64N(7) - 3 + rng.Int64N(2)*rng.Int64N(1e9)}
			if rng.IntN(4) == 0 {
				ts.Offset = rng.Uint64N(3)
			}
			return ts
		}
		o := Offer{Hash: fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()), Data: ts(), NonDurable: rng.IntN(3) == 0}
		q := question{Hash: o.Hash, Data: o.Data.Internal(), NonDurable: o.NonDurable}
		if rng.IntN(3) > 0 {
			o.Meta = ts()
			q.Meta = o.Meta.Internal()
			if rng.IntN(2) > 0 {
				o.CType = ts()
				q.CType = o.CType.Internal()
			}
		}
		var err error
		if wire, err = s.Offer(wire, o); err != nil {
			t.Fatal(err)
		}
		line, err := new(Sender).Offer(nil, o)
		if err != nil {
			t.Fatal(err)
		}
		q.Line = strings.Split(string(line), "\r\n")[4] // behind the start and the chunk's length
		questions = append(questions, q)
		offset = append(offset, o.HasOffset())
	}
	var lines [][2]string
	oracle.Ask(t, offersScript, questions, &lines)
	want := "17\r\n:MISSING_CHECK: START\r\n\r\n"
	odd := 0
	for i, l := range lines {
		want += fmt.Sprintf("%x\r\n%s\r\n\r\n", len(l[0])+2, l[0])
		if q := questions[i]; offset[i] != (q.Line != l[0]) || offset[i] != strings.Contains(l[1], "invalid literal for int()") {
			t.Errorf("%q in the newer form, has an offset: %v; 2.30.1 writes %q and reads it with %q", q.Line, offset[i], l[0], l[1])
		}
		if offset[i] {
			odd++
		}
	}
	if odd < 20 {
		t.Errorf("%d offers with an offset", odd)
	}
	if string(wire) != want {
		t.Errorf("offers differ\n got %q\nwant %q", wire, want)
	}
}

const subrequestsScript = `
import base64, json, sys
from swift.common.utils import Timestamp
from swift.obj.ssync_sender import Sender
from six.moves import urllib

class Connection:
    sent = b""
    def send(self, data):
        self.sent += data

class DiskFile:
    def __init__(self, metadata, chunks):
        self.metadata, self.chunks = metadata, chunks
        self.content_length = sum(map(len, chunks))
    def get_datafile_metadata(self):
        return self.metadata
    get_metafile_metadata = get_datafile_metadata
    def reader(self):
        return iter(self.chunks)

class Daemon:
    node_timeout = 10

q = json.load(sys.stdin)
sender = Sender.__new__(Sender)
sender.daemon = Daemon()
c = Connection()
path = urllib.parse.quote(q["path"])
metadata = dict(q["metadata"])
sender.send_put(c, path, DiskFile(metadata, [x.encode() for x in q["chunks"]]), durable=False)
sender.send_put(c, path, DiskFile(metadata, []))
sender.send_post(c, path, DiskFile(metadata, []))
sender.send_delete(c, path, Timestamp(q["timestamp"]))
json.dump(base64.b64encode(c.sent).decode(), sys.stdout)
`

func TestSubrequestsAreSwifts(t *testing.T) {
	path := "/AUTH_a/c ~!$&'()*+,;=:@[]/%2F ö\u2028\"<>"
	metadata := [][2]string{
		{"X-Timestamp", "1795342301.49613"}, {"name", path}, {"Content-Length", "12"}, {"Content-Type", "a/b; c=d"},
		{"ETag", "e"}, {"X-Object-Meta-a", "1"}, {"X-Object-Meta-B", " spaced "}, {"X-Object-Meta-\u00f6", "\u00fc"},
		{"X-Object-Sysmeta-Ec-Frag-Index", "3"}, {"x-lower", ""},
	}
	chunks := []string{"0123456789", strings.Repeat("x", 4096)}
	ts := "1795342301.49613_0000000000000002"
	var answer string
	oracle.Ask(t, subrequestsScript, map[string]any{"path": path, "metadata": metadata, "chunks": chunks, "timestamp": ts}, &answer)
	want, err := base64.StdEncoding.DecodeString(answer)
	if err != nil {
		t.Fatal(err)
	}

	var header []Field
	for _, m := range metadata {
		header = append(header, Field{Key: m[0], Value: m[1]})
	}
	s := Sender{phase: sending, updates: true}
	var got []byte
	must := func(out []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		got = out
	}
	must(s.PutHead(got, PutHead{Path: path, Length: 10 + 4096, Header: header, NoCommit: true}))
	for _, c := range chunks {
		head, tail, err := s.Frame(len(c))
		if err != nil {
			t.Fatal(err)
		}
		got = append(append(append(got, head...), c...), tail...)
	}
	must(s.PutHead(got, PutHead{Path: path, Header: header}))
	must(s.PostHead(got, path, header))
	must(s.DeleteHead(got, path, mustStamp(t, ts)))
	if !bytes.Equal(got, want) {
		t.Errorf("subrequests differ\n got %q\nwant %q", got, want)
	}
}

func TestQuotingIsPythons(t *testing.T) {
	var all strings.Builder
	for c := range 128 {
		all.WriteByte(byte(c))
	}
	all.WriteString("äöü€𝄞")
	var want string
	oracle.Ask(t, `
import json, sys, urllib.parse
json.dump(urllib.parse.quote(json.load(sys.stdin)), sys.stdout)`, all.String(), &want)
	if got := netfast.Quote(all.String()); got != want {
		t.Errorf("Quote:\n got %s\nwant %s", got, want)
	}
}
