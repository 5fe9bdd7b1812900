package suffix

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
	"imping/swift/pickle"
)

const sum = "0123456789abcdef0123456789abcdef"

func randomHashes(r *rand.Rand, sums int) Hashes {
	pick := func() string { return fmt.Sprintf("%032x", r.IntN(sums)) }
	h := Hashes{}
	for range r.IntN(40) {
		e := &Entry{}
		for range r.IntN(4) {
			e.Frags.Set(r.IntN(5), pick())
		}
		if r.IntN(5) > 0 {
			e.None = pick()
		}
		h[fmt.Sprintf("%03x", r.IntN(60))] = e
	}
	return h
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// Swift's own functions answer: the pickles that it writes, and the suffixes that its
// reconstructor would sync.
func TestHashesAndDeltaAgreeWithSwift(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	type question struct {
		Local, Remote           string
		LocalIndex, RemoteIndex int
	}
	var questions []question
	var locals, remotes []Hashes
	for range 200 {
		l, m := randomHashes(r, 2), randomHashes(r, 2)
		locals, remotes = append(locals, l), append(remotes, m)
		questions = append(questions, question{b64(l.Encode()), b64(m.Encode()), r.IntN(5), r.IntN(5)})
	}
	var answers []struct {
		Local string
		Delta []string
	}
	oracle.Ask(t, `
import sys, json, base64, pickle
from swift.obj.reconstructor import ObjectReconstructor
out = []
for q in json.load(sys.stdin):
    local, remote = [pickle.loads(base64.b64decode(q[k])) for k in ('Local', 'Remote')]
    delta = ObjectReconstructor.get_suffix_delta(None, local, q['LocalIndex'], remote, q['RemoteIndex'])
    local.update({'valid': True, 'updated': 1.5})
    out.append({'Local': base64.b64encode(pickle.dumps(local, protocol=2)).decode(), 'Delta': sorted(delta)})
json.dump(out, sys.stdout)
`, questions, &answers)
	for i, a := range answers {
		q := questions[i]
		got := Delta(locals[i], q.LocalIndex, remotes[i], q.RemoteIndex)
		if !slices.Equal(got, a.Delta) {
			t.Fatalf("delta %v, Swift's is %v", got, a.Delta)
		}
		b, err := base64.StdEncoding.DecodeString(a.Local)
		if err != nil {
			t.Fatal(err)
		}
		h, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if !h.Equal(locals[i]) {
			t.Fatalf("decoded\n%s", cmp.Diff(locals[i], h))
		}
	}
}

func TestHashesFileIsReadAlikeBySwift(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	h := randomHashes(r, 1000)
	h["abc"], h["abd"], h["abe"] = nil, &Entry{Plain: sum}, &Entry{}
	in := &File{Valid: true, Updated: 1795342301.49613, Hashes: h}
	dir := t.TempDir()
	var answer struct {
		File  string // as Swift writes it again
		Valid bool
		Abe   int
		Abd   string
	}
	oracle.Ask(t, `
import sys, json, base64, pickle
from swift.obj import diskfile
q = json.load(sys.stdin)
with open(q['Dir'] + '/hashes.pkl', 'wb') as f:
    f.write(base64.b64decode(q['File']))
h = diskfile.read_hashes(q['Dir'])
assert h['abc'] is None
json.dump({'File': base64.b64encode(pickle.dumps(h, 2)).decode(), 'Valid': h['valid'], 'Abe': len(h['abe']), 'Abd': h['abd']}, sys.stdout)
`, map[string]string{"Dir": dir, "File": b64(in.Encode())}, &answer)
	if !answer.Valid || answer.Abe != 0 || answer.Abd != sum {
		t.Fatalf("Swift reads %+v", answer)
	}
	b, err := base64.StdEncoding.DecodeString(answer.File)
	if err != nil {
		t.Fatal(err)
	}
	f, err := DecodeFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Valid || f.Updated != in.Updated || !f.Hashes.Equal(h) {
		t.Fatalf("(-written +read):\n%s", cmp.Diff(in, f))
	}
}

func TestFileWithoutValidAndUpdatedIsValidAndOld(t *testing.T) {
	f, err := DecodeFile(Hashes{"123": {None: sum}}.Encode())
	if err != nil || !f.Valid || f.Updated != -1 {
		t.Fatalf("%+v, %v", f, err)
	}
	f, err = DecodeFile((&File{Valid: false}).Encode())
	if err != nil || f.Valid {
		t.Fatalf("%+v, %v", f, err)
	}
}

// Python 2 wrote strings as str.
func TestHashesOfPython2AreRead(t *testing.T) {
	h, err := Decode([]byte("\x80\x02}q\x01(U\x03abcq\x02}q\x03(NU " + sum + "q\x04K\x04h\x04uU\x05validq\x05\x88u."))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Hashes{"abc": {None: sum, Frags: Frags{{4, sum}}}}); !h.Equal(want) {
		t.Fatalf("%s", cmp.Diff(want, h))
	}
}

// rule 25
func TestPickledNoneIsNilHashes(t *testing.T) {
	h, err := Decode(Hashes(nil).Encode())
	if h != nil || err != nil {
		t.Fatalf("%v, %v", h, err)
	}
	h, err = Decode(Hashes{}.Encode())
	if h == nil || err != nil {
		t.Fatalf("%v, %v", h, err)
	}
}

func TestKeysThatNameNoSuffixAreDropped(t *testing.T) {
	d := &pickle.Dict{}
	for _, k := range []any{"valid", "updated", "ABC", "12", "1234", "xyz", nil, int64(3), "12\n", ""} {
		d.Pairs = append(d.Pairs, pickle.Pair{Key: k, Value: true})
	}
	d.Pairs = append(d.Pairs, pickle.Pair{Key: pickle.Bytes("0af"), Value: sum})
	h, err := Decode(pickle.Encode(d))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Hashes{"0af": {Plain: sum}}); !h.Equal(want) {
		t.Fatalf("%s", cmp.Diff(want, h))
	}
	for _, p := range d.Pairs[2:9] {
		if _, err := DecodeFile(pickle.Encode(&pickle.Dict{Pairs: []pickle.Pair{p}})); err == nil {
			t.Errorf("a hashes.pkl with key %#v is accepted", p.Key)
		}
	}
}

func TestHostileAnswersAreRefused(t *testing.T) {
	one := func(v any) []byte {
		return pickle.Encode(&pickle.Dict{Pairs: []pickle.Pair{{Key: "abc", Value: v}}})
	}
	frags := func(keys ...any) *pickle.Dict {
		d := &pickle.Dict{}
		for _, k := range keys {
			d.Pairs = append(d.Pairs, pickle.Pair{Key: k, Value: sum})
		}
		return d
	}
	many := frags()
	for i := range 1001 {
		many.Pairs = append(many.Pairs, pickle.Pair{Key: int64(i % 7), Value: sum})
	}
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"list":           {pickle.Encode(&pickle.List{}), "not a dict"},
		"number":         {one(int64(3)), "neither a dict nor a hash"},
		"short hash":     {one("abc"), "not 32 hex digits"},
		"hash not hex":   {one(strings.ToUpper(sum)), "not 32 hex digits"},
		"number inside":  {one(&pickle.Dict{Pairs: []pickle.Pair{{Key: nil, Value: int64(1)}}}), "not 32 hex digits"},
		"text key":       {one(frags("x")), "neither None nor a fragment index"},
		"bool key":       {one(frags(true)), "neither None nor a fragment index"},
		"negative index": {one(frags(int64(-1))), "out of range"},
		"huge index":     {one(frags(int64(1) << 40)), "out of range"},
		"many indexes":   {one(many), "exceed the limit"},
		"deep":           {one(frags(pickle.Tuple{pickle.Tuple{pickle.Tuple{}}})), "nested deeper"},
		"cut":            {one(sum)[:20], "announced"},
		"command":        {[]byte("cos\nsystem\n(S'true'\ntR."), "not allowed"},
	} {
		if h, err := Decode(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want an error with %q", name, h, err, c.want)
		}
		if _, err := DecodeFile(c.in); err == nil {
			t.Errorf("%s: accepted as hashes.pkl", name)
		}
	}
}

func TestUnknownSuffixesDiffer(t *testing.T) {
	e := func() *Entry { return &Entry{None: sum, Frags: Frags{{1, sum}}} }
	local := Hashes{"001": nil, "002": e(), "003": e(), "004": e(), "005": {}}
	remote := Hashes{"001": nil, "002": nil, "003": e(), "00f": e()}
	if got := Delta(local, 1, remote, 1); !slices.Equal(got, []string{"001", "002", "004"}) {
		t.Fatalf("%v", got)
	}
}

func TestFullPartitionFitsTheLimits(t *testing.T) {
	h := Hashes{}
	for i := range maxSuffixes {
		e := &Entry{None: sum}
		for j := range 60 {
			e.Frags.Set(j, sum)
		}
		h[fmt.Sprintf("%03x", i)] = e
	}
	got, err := Decode(h.Encode())
	if err != nil || !got.Equal(h) {
		t.Fatalf("%v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Hashes{"abc": {None: sum, Frags: Frags{{4, sum}}}, "abd": nil, "abe": {Plain: sum}}.Encode())
	f.Add((&File{Valid: true, Updated: 3, Hashes: Hashes{"abc": {}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := Decode(b); err == nil {
			again, err := Decode(h.Encode())
			if err != nil || !h.Equal(again) {
				t.Fatalf("%v\n%s", err, cmp.Diff(h, again))
			}
		}
		if file, err := DecodeFile(b); err == nil {
			if again, err := DecodeFile(file.Encode()); err != nil || !again.Hashes.Equal(file.Hashes) {
				t.Fatalf("%v", err)
			}
		}
	})
}

// FuzzQuick: what is read the quick way is what the general way reads. Python's pickles, with
// and without 'valid', were given by pickle.dumps(.., protocol=2).
func FuzzQuick(f *testing.F) {
	r := rand.New(rand.NewPCG(6, 7))
	h := randomHashes(r, 100)
	h["abc"], h["abd"], h["abe"], h["abf"] = nil, &Entry{Plain: sum}, &Entry{}, &Entry{Frags: Frags{{0, sum}, {255, sum}}}
	seeds := [][]byte{
		h.Encode(), Hashes{}.Encode(), Hashes{"f35": {None: sum}}.Encode(),
		(&File{Valid: true, Updated: 1795342301.49613, Hashes: h}).Encode(), (&File{Hashes: Hashes{}}).Encode(),
		[]byte("\x80\x02}q\x00(X\x05\x00\x00\x00validq\x01\x88X\x03\x00\x00\x00f35q\x02}q\x03(K\x04X \x00\x00\x00" + sum + "q\x04NX \x00\x00\x00" + sum + "q\x05uX\x07\x00\x00\x00updatedq\x06GA\xda\xc0\x9b\xe7\x80\x00\x00u."),
		[]byte("\x80\x02}q\x00U\x03f35q\x01}q\x02K\x04U " + sum + "r\x03\x00\x00\x00ss."),
	}
	for _, s := range seeds {
		if quick(s) == nil {
			f.Fatalf("%q is not read", s)
		}
		f.Add(s)
		for range 20 { // and what is almost that
			cut := slices.Clone(s)
			cut[r.IntN(len(cut))] ^= 1 << r.IntN(8)
			f.Add(cut)
			f.Add(s[:r.IntN(len(s))])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := quick(b)
		if got == nil {
			return
		}
		hashes, err := decode(b)
		if err != nil || !hashes.Equal(got.Hashes) {
			t.Fatalf("Decode: %v (-general +quick):\n%s", err, cmp.Diff(hashes, got.Hashes))
		}
		file, err := decodeFile(b)
		if err != nil || file.Valid != got.Valid || file.Updated != got.Updated && file.Updated == file.Updated || !file.Hashes.Equal(got.Hashes) {
			t.Fatalf("DecodeFile: %v (-general +quick):\n%s", err, cmp.Diff(file, got))
		}
	})
}
