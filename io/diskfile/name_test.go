package diskfile

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"testing"

	"imping/lab/oracle"
	"imping/swift/timestamp"
)

// names are seeds: of all kinds that Swift writes, and of those that others leave behind.
var names = []string{
	"1795342301.49613#3.data", "1795342301.49613#3#d.data", "1795342301.49613_00000000000000ab#13#d.data",
	"1795342301.49613.data", "1795342301.49613#.data", "1795342301.49613#x.data", "1795342301.49613#-1.data",
	"1795342301.49613#+1.data", "1795342301.49613# 1_0 .data", "1795342301.49613#1__0.data", "1795342301.49613#_1.data",
	"1795342301.49613#1_.data", "1795342301.49613#3#x.data", "1795342301.49613#3#d#d.data", "1795342301.49613#3#.data",
	"1795342301.49613##d.data", "#1.data", ".data", "x#1.data",
	"1795342301.49613.ts", "1795342301.49613_0000000000000001.ts", "1795342301.49613_.ts", "1795342301.49613_1_2.ts", "x.ts", ".ts",
	"1795342301.49613.durable", "1795342301.49613#1.durable", "1795342301.49613_ab.durable",
	"1795342301.49613.meta", "1795342301.49613-c3500.meta", "1795342301.49613+0.meta", "1795342301.49613_ab+0.meta",
	"1795342301.49613_ab-1f.meta", "1795342301.49613-c3500+12.meta", "1795342301.49613-c3500-12.meta", "1795342301.49613-.meta",
	"1795342301.49613+.meta", "1795342301.49613+x.meta", "x+1.meta", "-1.meta", "+1.meta", "1795342301.49613-ffffffffffffffff.meta",
	"1795342301.49613-a2f3cb1a41b2d.meta", "1795342301.49613+ffffffffffffffffff.meta", "1795342301.49613--1.meta",
	".1795342301.49613#1.data.Xy095a", "junk", "1795342301.49613", "1795342301.49613.tmp", "1795342301", "1e3.ts", " 1.5 .ts",
	"-1.ts", "nan.ts", "inf.ts", "1e10.ts", "0.ts", "9999999999.99999.ts", "..data", "...", ".", "a.b.c", "",
	"1795342301.49613#1#d.data.data", "1795342301.49613#1#d.DATA", "1795342301.49613#1#D.data", "\xff\xfe.data", "1795342301.49613#\xff.data",
}

func randomFile(r *rand.Rand) *file {
	f := &file{index: -1, time: timestamp.Timestamp{Raw: r.Int64N(timestamp.MaxRaw + 1)}}
	if r.IntN(2) == 0 {
		f.time.Offset = r.Uint64() >> r.IntN(64)
	}
	switch r.IntN(4) {
	case 0:
		f.ext, f.index, f.durable = ".data", r.IntN(300), r.IntN(2) == 0
	case 1:
		f.ext = []string{".ts", ".durable"}[r.IntN(2)]
	case 2:
		f.ext = ".meta"
	default:
		f.ext = ".meta"
		switch f.ctype.Raw = f.time.Raw + r.Int64N(1<<(1+r.IntN(40))) - r.Int64N(1<<(1+r.IntN(40))); {
		case f.ctype.Raw <= 0 || f.ctype.Raw > timestamp.MaxRaw || f.ctype.Raw == f.time.Raw:
			f.ctype = f.time
		}
	}
	return f
}

// departs matches names that no one writes and package timestamp reads otherwise: Python's
// numbers in distances, negative offsets, more than five decimals.
var departs = regexp.MustCompile(`[-+].*[_ ]|_-|\.\d{6}`)

type swiftName struct {
	Time, Ctype, Ext, Made string
	Index                  int
	Durable, OK            bool
}

func describe(name string, limit int) swiftName {
	f, err := parseName(name, limit)
	if err != nil {
		return swiftName{}
	}
	s := swiftName{Time: f.time.Internal(), Ext: f.ext, Index: f.index, Durable: f.durable, OK: true, Made: f.format()}
	if !f.ctype.IsZero() {
		s.Ctype = f.ctype.Internal()
	}
	return s
}

// Names as Swift writes them, names broken in one place, and hostile ones: Swift's parser
// reads the same from each, and writes the same name for what it reads.
func TestNamesAreReadAndWrittenAsSwiftDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 20))
	all := append([]string(nil), names...)
	for range 6000 {
		f := randomFile(r)
		name := f.format()
		back, err := parseName(name, 0)
		if err != nil {
			t.Fatalf("%q, written for %+v: %v", name, f, err)
		}
		if f.name = name; *back != *f {
			t.Fatalf("%q was written for %+v and read as %+v", name, f, back)
		}
		if r.IntN(2) == 0 {
			at := r.IntN(len(name))
			name = name[:at] + string("0123456789abcdef#.+-_dx "[r.IntN(24)]) + name[at+r.IntN(2):]
		}
		all = append(all, name)
	}
	var valid []string
	for _, name := range all {
		if jsonSafe(name) && !departs.MatchString(name) {
			valid = append(valid, name)
		}
	}
	for _, limit := range []int{0, 6} {
		var answers []swiftName
		oracle.Ask(t, `
import sys, json, logging
from swift.common import storage_policy
from swift.common.exceptions import DiskFileError
from swift.obj import diskfile
q = json.load(sys.stdin)
ec = storage_policy.ECStoragePolicy(0, name='ec', is_default=True, ec_type='liberasurecode_rs_vand', ec_ndata=4, ec_nparity=2)
mgr = diskfile.ECDiskFileManager({}, logging.getLogger())
out = []
for name in q['Names']:
    try:
        i = mgr.parse_on_disk_filename(name, ec if q['Limit'] else None)
    except (DiskFileError, OverflowError):  # 'inf.ts' breaks Swift's listing of its directory
        out.append({})
        continue
    ctype = i['ctype_timestamp']
    out.append({'OK': True, 'Time': i['timestamp'].internal, 'Ext': i['ext'], 'Ctype': ctype.internal if ctype else '',
        'Index': -1 if i['frag_index'] is None else i['frag_index'], 'Durable': i.get('durable', False),
        'Made': mgr.make_on_disk_filename(i['timestamp'], i['ext'], i['frag_index'], ctype_timestamp=ctype or None, durable=i.get('durable', False))})
json.dump(out, sys.stdout)
`, map[string]any{"Names": valid, "Limit": limit}, &answers)
		read, bad := 0, 0
		for i, name := range valid {
			if want, got := answers[i], describe(name, limit); got != want {
				if bad++; bad < 20 {
					t.Errorf("%q is to Swift\n%+v and to us\n%+v", name, want, got)
				}
			} else if got.OK {
				read++
			}
		}
		if read < len(valid)/4 || read > len(valid)-200 {
			t.Errorf("%d of %d names were read: the test has gone blind", read, len(valid))
		}
		t.Logf("%d of %d names were read, %d differ", read, len(valid), bad)
	}
}

func jsonSafe(s string) bool {
	b, err := json.Marshal(s)
	var back string
	return err == nil && json.Unmarshal(b, &back) == nil && back == s
}

func FuzzParseName(f *testing.F) {
	for i, name := range names {
		f.Add(name, int64(i)*1e13, uint64(i%3), i%9, i%2 == 0, int64(i-9)<<i)
	}
	f.Fuzz(func(t *testing.T, name string, raw int64, offset uint64, index int, durable bool, delta int64) {
		if got, err := parseName(name, 6); err == nil {
			if got.index >= 6 || (got.index < 0) != (got.ext != ".data") {
				t.Fatalf("%q has index %d", name, got.index)
			}
			switch got.ext {
			case ".data", ".meta", ".ts", ".durable":
			default:
				return // not Swift's: a time without a point would be written with one
			}
			made := got.format()
			back, err := parseName(made, 6)
			if err != nil {
				t.Fatalf("%q is written as %q: %v", name, made, err)
			}
			if back.name = name; *back != *got {
				t.Fatalf("%q is written as %q, read as %+v, want %+v", name, made, back, got)
			}
		}
		x := &file{index: -1, time: timestamp.Timestamp{Raw: raw & (1<<63 - 1) % (timestamp.MaxRaw + 1), Offset: offset}}
		for _, ext := range []string{".data", ".meta", ".ts", ".durable"} {
			if x.ext = ext; ext == ".data" {
				x.index, x.durable = index&(1<<31-1), durable
			}
			if ctype, err := x.time.Shift(delta); ext == ".meta" && delta != 0 && err == nil {
				x.ctype = ctype
				x.ctype.Offset = 0
			}
			x.name = x.format()
			back, err := parseName(x.name, 0)
			if err != nil || *back != *x {
				t.Fatalf("%q is read as %+v, %v, want %+v", x.name, back, err, x)
			}
			x.index, x.durable, x.ctype = -1, false, timestamp.Timestamp{}
		}
	})
}

func BenchmarkParseName(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseName("1795342301.49613_00000000000000ab#13#d.data", 20); err != nil {
			b.Fatal(err)
		}
	}
}
