package pickle

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func unb64(t testing.TB, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// randomText gives the kinds of text that metadata holds and some that it never should.
func randomText(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return ""
	case 1:
		return string(rune(r.IntN(128)))
	case 2:
		return string([]byte{byte(r.IntN(256))})
	case 3:
		return strings.Repeat("long ", 1+r.IntN(20_000))
	case 4:
		return "Größe-日本語-🦅"
	case 5:
		b := make([]byte, r.IntN(600))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	case 6:
		return []string{"latin1", "encode", "X-Timestamp", "name"}[r.IntN(4)]
	default:
		return fmt.Sprintf("X-Object-Meta-%d", r.IntN(1000))
	}
}

// Sizes around which Python writes a dict or a memo number in another way.
var dictSizes = []int{0, 1, 2, 3, 7, 12, 40, 130, 999, 1000, 1001, 2000}

type question struct {
	Pairs [][2]string // base64
}

const encodeScript = `
import sys, json, base64, pickle, tempfile, os
from swift.obj import diskfile
out = []
for q in json.load(sys.stdin):
    d = {}
    for k, v in q['Pairs']:
        # as Swift holds it in memory: native strings
        k = base64.b64decode(k).decode('utf8', 'surrogateescape')
        v = base64.b64decode(v).decode('utf8', 'surrogateescape')
        d[k] = v
    out.append(base64.b64encode(pickle.dumps(
        diskfile._encode_metadata(d), diskfile.PICKLE_PROTOCOL)).decode())
json.dump(out, sys.stdout)
`

// rule 31
func TestMetadataIsEncodedAsSwiftWritesIt(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 1))
	var questions []question
	var maps []map[string]string
	var orders [][]string
	for round := range 150 {
		n := dictSizes[round%len(dictSizes)]
		m := map[string]string{}
		var order []string
		var q question
		q.Pairs = [][2]string{}
		for i := range n {
			k, v := randomText(r), randomText(r)
			if n > 100 {
				k = fmt.Sprintf("%s-%d", k[:min(3, len(k))], i)
				v = v[:min(3, len(v))]
			}
			if _, ok := m[k]; ok {
				continue
			}
			m[k] = v
			order = append(order, k)
			q.Pairs = append(q.Pairs, [2]string{b64(k), b64(v)})
		}
		questions, maps, orders = append(questions, q), append(maps, m), append(orders, order)
	}
	var answers []string
	oracle.Ask(t, encodeScript, questions, &answers)
	for i, a := range answers {
		want := unb64(t, a)
		if got := string(EncodeMetadata(maps[i], orders[i])); got != want {
			t.Fatalf("metadata of %d keys: encoded\n%.300q\nSwift writes\n%.300q", len(maps[i]), got, want)
		}
		if len(want) > metadataLimits.Bytes {
			continue
		}
		back, err := DecodeMetadata([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(maps[i], back); diff != "" {
			t.Fatalf("decoded metadata differs (-want +got):\n%s", diff)
		}
	}
}

// rule 31: other readers tell by these bytes who wrote the pickle.
func TestEncodedMetadataStartsAsRule31Says(t *testing.T) {
	b := EncodeMetadata(map[string]string{"name": "/a/c/o", "ETag": "x"}, []string{"name"})
	if want := "\x80\x02}q\x00(c_codecs\nencode\n"; !strings.HasPrefix(string(b), want) {
		t.Fatalf("starts with %.40q, want %q", b, want)
	}
}

func TestKeysOutsideTheOrderFollowSorted(t *testing.T) {
	m := map[string]string{"b": "1", "a": "2", "c": "3"}
	got := EncodeMetadata(m, []string{"c", "absent", "c"})
	if want := EncodeMetadata(m, []string{"c", "a", "b"}); string(got) != string(want) {
		t.Fatalf("%q, want %q", got, want)
	}
}

func TestSwiftReadsEncodedMetadata(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 2))
	var questions []string
	var maps []map[string]string
	for range 60 {
		m := map[string]string{}
		for range r.IntN(12) {
			m[randomText(r)] = randomText(r)
		}
		maps = append(maps, m)
		questions = append(questions, b64(string(EncodeMetadata(m, nil))))
	}
	var answers [][][2]string
	oracle.Ask(t, `
import sys, json, base64, pickle
from swift.obj import diskfile
out = []
for q in json.load(sys.stdin):
    d = diskfile._decode_metadata(pickle.loads(base64.b64decode(q), encoding='bytes'))
    out.append([[base64.b64encode(x.encode('utf8', 'surrogateescape')).decode() for x in kv]
                for kv in d.items()])
json.dump(out, sys.stdout)
`, questions, &answers)
	for i, pairs := range answers {
		got := map[string]string{}
		for _, p := range pairs {
			got[unb64(t, p[0])] = unb64(t, p[1])
		}
		if diff := cmp.Diff(maps[i], got); diff != "" {
			t.Fatalf("Swift reads other metadata (-want +got):\n%s", diff)
		}
	}
}

// Written out by hand, since no Python 2 is left to ask.
func TestMetadataOfPython2IsDecoded(t *testing.T) {
	want := map[string]string{"name": "/a/c/\xc3\xa4", "Content-Length": "12", "n": "-3"}
	for name, in := range map[string]string{
		"protocol 2": "\x80\x02}q\x01(U\x04nameq\x02U\x07/a/c/\xc3\xa4q\x03U\x0eContent-LengthU\x0212U\x01nJ\xfd\xff\xff\xffu.",
		"BINSTRING":  "\x80\x02}q\x01(T\x04\x00\x00\x00nameT\x07\x00\x00\x00/a/c/\xc3\xa4U\x0eContent-LengthK\x0cU\x01n\x8a\x01\xfdu.",
		"unicode":    "\x80\x02}q\x01(X\x04\x00\x00\x00nameq\x02X\x07\x00\x00\x00/a/c/\xc3\xa4U\x0eContent-LengthM\x0c\x00U\x01n\x8b\x02\x00\x00\x00\xfd\xffu.",
		"protocol 0": "(dp1\nS'name'\np2\nS'/a/c/\\xc3\\xa4'\np3\nsS'Content-Length'\nL12L\nsS'n'\nI-3\ns.",
		"memo":       "}q\x01(U\x04nameU\x07/a/c/\xc3\xa4U\x0eContent-Length\x8a\x01\x0cU\x01nq\x07U\x02-3q\x08u.",
		"latin-1":    "(dVname\nV/a/c/\xe4\nsVContent-Length\nV12\nsVn\nV-3\ns.",
	} {
		got, err := DecodeMetadata([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Values are compared as JSON in which bytes, tuples and floats are told apart.
func tagged(v any) any {
	switch v := v.(type) {
	case Bytes:
		return map[string]any{"b": b64(string(v))}
	case string:
		return map[string]any{"u": b64(v)}
	case float64:
		return map[string]any{"f": fmt.Sprintf("%.6f", v)}
	case int64:
		return map[string]any{"i": fmt.Sprint(v)}
	case Tuple:
		return map[string]any{"t": taggedAll(v)}
	case *List:
		return map[string]any{"l": taggedAll(v.Items)}
	case *Dict:
		all := []any{}
		for _, p := range v.Pairs {
			all = append(all, []any{tagged(p.Key), tagged(p.Value)})
		}
		return map[string]any{"d": all}
	}
	return v
}

func taggedAll(items []any) []any {
	all := []any{}
	for _, v := range items {
		all = append(all, tagged(v))
	}
	return all
}

const taggedScript = `
def tag(v):
    e = lambda b: base64.b64encode(b).decode()
    if isinstance(v, bytes): return {'b': e(v)}
    if isinstance(v, str): return {'u': e(v.encode('utf8', 'surrogatepass'))}
    if isinstance(v, bool) or v is None: return v
    if isinstance(v, float): return {'f': '%.6f' % v}
    if isinstance(v, int): return {'i': str(v)}
    if isinstance(v, tuple): return {'t': [tag(x) for x in v]}
    if isinstance(v, list): return {'l': [tag(x) for x in v]}
    return {'d': [[tag(k), tag(x)] for k, x in v.items()]}
`

func normal(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPlainDataOfProtocols0To2IsDecodedAsPythonDoes(t *testing.T) {
	var answers []struct {
		Pickle string
		Value  any
	}
	oracle.Ask(t, `
import sys, json, base64, pickle, random
`+taggedScript+`
random.seed(7)
def text():
    return ''.join(random.choice(['a', '\\', '\n', "'", '\xe4', '\u65e5', '\U0001f985', '\udc80', '\u0000', 'xyz'])
                   for _ in range(random.randrange(9)))
def value(depth):
    k = random.randrange(9 if depth else 6)
    if k == 0: return random.choice([None, True, False])
    if k == 1: return random.choice([0, 1, -1, 255, 256, 65535, 65536, -2**31, 2**31, 2**63-1, -2**63, random.randrange(2**40)])
    if k == 2: return random.choice([0.0, -1.5, 1795342301.49613])
    if k in (3, 4): return text()
    if k == 5: return text().encode('utf8', 'surrogatepass')
    if k == 6: return [value(depth-1) for _ in range(random.randrange(5))]
    if k == 7: return tuple(value(depth-1) for _ in range(random.randrange(5)))
    return {text(): value(depth-1) for _ in range(random.randrange(5))}
out = []
for i in range(900):
    v = value(3)
    out.append({'Pickle': base64.b64encode(pickle.dumps(v, i % 3)).decode(), 'Value': tag(v)})
json.dump(out, sys.stdout)
`, nil, &answers)
	for _, a := range answers {
		p := unb64(t, a.Pickle)
		v, err := Decode([]byte(p), Limits{Bytes: 1 << 16, Objects: 1000, Depth: 10})
		if err != nil {
			t.Fatalf("%q: %v", p, err)
		}
		if diff := cmp.Diff(a.Value, normal(t, tagged(v))); diff != "" {
			t.Fatalf("%q (-python +ours):\n%s", p, diff)
		}
	}
}

func TestPythonReadsWhatEncodeWrites(t *testing.T) {
	v := &Dict{Pairs: []Pair{
		{"valid", true}, {nil, false}, {int64(4), "ä\U0001f985"}, {int64(-1 << 40), Bytes("\xff\x00a")},
		{Bytes(""), &List{Items: []any{int64(1 << 31), 1.5, nil}}}, {Tuple{int64(1)}, &Dict{}},
	}}
	var answer any
	oracle.Ask(t, "import sys, json, base64, pickle\n"+taggedScript+
		"json.dump(tag(pickle.loads(base64.b64decode(json.load(sys.stdin)))), sys.stdout)\n", b64(string(Encode(v))), &answer)
	if diff := cmp.Diff(normal(t, tagged(v)), answer); diff != "" {
		t.Fatalf("(-ours +python):\n%s", diff)
	}
}

// Law: nothing from the wire is trusted.
func TestHostilePicklesAreRefused(t *testing.T) {
	many := strings.Repeat("N", 2000)
	deep := strings.Repeat("]", 50) + strings.Repeat("a", 49) + "."
	long := "X\x00\x10\x00\x00" + strings.Repeat("a", 4096) + "q\x00X\x06\x00\x00\x00latin1q\x010c_codecs\nencode\nq\x02"
	for name, c := range map[string]struct{ in, want string }{
		"command":          {"cos\nsystem\n(S'true'\ntR.", "global \"os\".\"system\" is not allowed"},
		"instance":         {"(ios\nsystem\n.", "INST is not allowed"},
		"new object":       {"\x80\x02)\x81.", "NEWOBJ is not allowed"},
		"protocol":         {"\x80\x04N.", "protocol 4"},
		"persistent":       {"P1\n.", "PERSID is not allowed"},
		"extension":        {"\x82\x01.", "EXT1 is not allowed"},
		"unknown":          {"\xff.", "no such opcode"},
		"empty":            {"", "ends too early"},
		"no stop":          {"N", "ends too early"},
		"announced length": {"X\xff\xff\xff\x7fabc.", "announced"},
		"negative length":  {"T\xff\xff\xff\xffabc.", "announced"},
		"long length":      {"\x8b\xff\xff\xff\xff.", "announced"},
		"huge integer":     {"\x8a\x09123456789.", "integer of 9 bytes"},
		"huge decimal":     {"L99999999999999999999999L\n.", "64 bits"},
		"objects":          {many + ".", "more than 1000 objects"},
		"nesting":          {deep, "nested deeper than 10"},
		"nested tuples":    {strings.Repeat("(", 50) + strings.Repeat("t", 50) + ".", "nested deeper than 10"},
		"memo index":       {"Nr\xff\xff\xff\xff.", "out of bounds"},
		"memo never put":   {"h\x05.", "never put"},
		"memo of nothing":  {"q\x00.", "stack underflow"},
		"cycle":            {"]q\x00h\x00a.", "shared list"},
		"shared dict":      {"]}q\x00ah\x00a.", "shared dict"},
		"underflow":        {"\x86.", "stack underflow"},
		"no mark":          {"u.", "no MARK"},
		"mark as a value":  {"(.", "unexpected MARK"},
		"mark in the memo": {"(q\x00.", "unexpected MARK"},
		"left behind":      {"NN.", "left behind"},
		"odd items":        {"}(Nu.", "key without a value"},
		"items of None":    {"N(NNu.", "items for a None"},
		"append to dict":   {"}Na.", "items for a dict"},
		"unhashable":       {"}]Ns.", "can not be a key"},
		"a global":         {"c_codecs\nencode\n.", "value is a global"},
		"global in a list": {"]c_codecs\nencode\na.", "global is not a value"},
		"call of None":     {"N)R.", "can not be called"},
		"codec":            {"c_codecs\nencode\n(Va\nVzip\ntR.", "_codecs.encode to \"zip\""},
		"not latin1":       {"c_codecs\nencode\n(V\\u65e5\nVlatin1\ntR.", "does not fit latin1"},
		"bytes of size":    {"c__builtin__\nbytes\n(I1000000000\ntR.", "bytes is called with arguments"},
		"amplified":        {strings.Replace(long, "0c", "\x86c", 1) + strings.Repeat("h\x02h\x00h\x01\x86R", 100) + ".", "more bytes than the pickle has"},
		"bad UTF-8":        {"X\x02\x00\x00\x00\xff\xfe.", "is not UTF-8"},
		"bad escape":       {"S'\\q'\n.", "unknown escape"},
		"cut escape":       {"S'\\x4'\n.", "broken escape"},
		"bad raw escape":   {"V\\u00\n.", "broken escape"},
		"huge code point":  {"V\\Uffffffff\n.", "broken escape"},
		"unquoted":         {"Sabc\n.", "not a quoted string"},
		"bad float":        {"Fabc\n.", "is not a float"},
		"too long":         {strings.Repeat("N", 10_001), "exceeds the limit"},
	} {
		v, err := Decode([]byte(c.in), Limits{Bytes: 10_000, Objects: 1000, Depth: 10})
		if err == nil {
			t.Errorf("%s: decoded to %#v", name, v)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q does not say %q", name, err, c.want)
		} else if len(err.Error()) > 300 {
			t.Errorf("%s: error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestMetadataThatIsNoDictOfTextIsRefused(t *testing.T) {
	for in, want := range map[string]string{
		"].":                                   "is a list, not a dict",
		"}I1\nVx\ns.":                          "key of type int",
		"}NVx\ns.":                             "key of type None",
		"}Vx\nNs.":                             "\"x\" is a None, not text",
		"}Vx\n}s.":                             "\"x\" is a dict, not text",
		"}Vx\nX\x03\x00\x00\x00\xed\xa0\x80s.": "stands for no byte",
	} {
		_, err := DecodeMetadata([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v does not say %q", in, err, want)
		}
	}
}

// slowly is DecodeMetadata without its short cut.
func slowly(b []byte) (map[string]string, error) {
	return DecodeMetadata(append([]byte("\x80\x02"), b...)) // PROTO twice is nothing
}

func TestUsualMetadataIsReadTheShortWay(t *testing.T) {
	m := map[string]string{"name": "/a/c/o", "ETag": strings.Repeat("0", 32), "X-Timestamp": "1.2"}
	long := map[string]string{}
	for i := range 999 {
		long[fmt.Sprintf("X-Object-Meta-%d", i)] = fmt.Sprint(i + 10)
	}
	for name, c := range map[string]struct {
		m     map[string]string
		usual bool
	}{
		"some":           {m, true},
		"memo above 255": {long, true},
		"one":            {map[string]string{"name": "/a/c/o"}, false},
		"none":           {map[string]string{}, false},
		"short":          {map[string]string{"name": "/a/c/o", "X-Object-Meta-A": "1"}, true},
		"short twice":    {map[string]string{"name": "/a/c/o", "X-Object-Meta-A": "1", "X-Object-Meta-B": "1"}, false},
		"empty":          {map[string]string{"name": "/a/c/o", "X-Object-Meta-A": ""}, false},
		"not ASCII":      {map[string]string{"name": "/a/c/ö", "X-Timestamp": "1.2"}, false},
	} {
		b := EncodeMetadata(c.m, nil)
		got, ok := decodeUsual(string(b))
		if ok != c.usual || ok && !maps.Equal(got, c.m) {
			t.Errorf("%s: %v, %v", name, ok, got)
		}
		for i := range b { // nothing that is cut off or changed is read otherwise than by Decode
			for _, changed := range [][]byte{b[:i], append(append(slices.Clone(b[:i]), b[i]^1), b[i+1:]...)} {
				if got, ok := decodeUsual(string(changed)); ok {
					if want, err := slowly(changed); err != nil || !maps.Equal(got, want) {
						t.Fatalf("%s, byte %d: %q, but slowly %q, %v", name, i, got, want, err)
					}
				}
			}
			if i > 600 {
				break
			}
		}
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add(EncodeMetadata(map[string]string{"name": "/a/c/o", "ETag": "00", "X-Timestamp": "1.2"}, nil))
	f.Add(EncodeMetadata(map[string]string{"name": "/a/c/ä", "": "x", "z": ""}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeMetadata(b)
		want, slowErr := slowly(b)
		if (err == nil) != (slowErr == nil) || !maps.Equal(got, want) {
			t.Fatalf("%q, %v, but slowly %q, %v", got, err, want, slowErr)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("(dp1\nS'name'\np2\nS'/a/c/\\xc3\\xa4'\np3\nsS'Content-Length'\nL12L\nsS'n'\nI-3\ns."))
	f.Add(EncodeMetadata(map[string]string{"name": "/a/c/ä", "": "x", "z": ""}, nil))
	f.Add(Encode(&Dict{Pairs: []Pair{{"abc", &Dict{Pairs: []Pair{{nil, "x"}, {int64(3), "y"}}}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b, Limits{Bytes: 1 << 16, Objects: 1000, Depth: 10})
		if err != nil {
			return
		}
		again, err := Decode(Encode(v), Limits{Bytes: 1 << 22, Objects: 10_000, Depth: 10})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fmt.Sprint(tagged(v)), fmt.Sprint(tagged(again))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Whoever quarantines for bad metadata must not do so for what Python reads.
func TestWhatPythonMayLoadIsRefusedRatherThanBroken(t *testing.T) {
	for in, refused := range map[string]bool{
		"\x80\x04}.":                      true,
		"cos\nsystem\n(S'true'\ntR.":      true,
		"}I1\nVx\ns.":                     true,
		"}S'k'\nNs.":                      true,
		"}S'k'\nF1.5\ns.":                 true,
		"}S'k'\n(lp1\ns.":                 true,
		"NN.":                             true,
		"N.":                              false,
		"(lp1\n.":                         false,
		"":                                false,
		"hello":                           false,
		"\x80\x02}q\x01(U\x04nam":         false,
		"}S'k'\ns.":                       false,
		string(make([]byte, 2<<20)):       true,
		"}S'k'\n\x8a\x09123456789s.":      true,
		"\x80\x02}X\x03\x00\x00\x00\xff.": false,
	} {
		_, err := DecodeMetadata([]byte(in))
		if _, ok := errors.AsType[*RefusedError](err); err == nil || ok != refused {
			t.Errorf("%.40q: %v, refused: %v, want %v", in, err, ok, refused)
		}
	}
}
