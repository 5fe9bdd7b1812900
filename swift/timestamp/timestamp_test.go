package timestamp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"imping/lab/oracle"
)

// swiftTimestamps makes a Timestamp of each text, and shifts the good ones.
const swiftTimestamps = `
import json, sys
from swift.common.utils import Timestamp, decode_timestamps, encode_timestamps
out = []
for q in json.load(sys.stdin):
    a = {}
    try:
        t = Timestamp(q['text'])
        a = dict(ok=True, normal=t.normal, internal=t.internal, short=t.short, raw=t.raw, float=float(t))
        try:
            d = Timestamp(t, delta=q['delta'])
            a.update(shifted=d.internal)
        except ValueError:
            pass
        try:
            a.update(pair=encode_timestamps(t, Timestamp(q['other']), explicit=True))
        except ValueError:
            pass
    except (ValueError, OverflowError):
        pass
    try:
        p = decode_timestamps(q['text'], explicit=True)
        a['pairs'] = [x if x is None else x.internal for x in p[:2]]
    except (ValueError, OverflowError):
        pass
    out.append(a)
json.dump(out, sys.stdout)
`

type question struct {
	Text  string `json:"text"`
	Delta int64  `json:"delta"`
	Other string `json:"other"`
}

type answer struct {
	OK                      bool
	Normal, Internal, Short string
	Raw                     int64
	Float                   float64
	Shifted, Pair           string
	Pairs                   []*string
}

// hostile are texts that try the edges of Python's float and int.
var hostile = []string{
	"", "_", " ", ".", "+", "-", "e", "e5", "1e", "1e+", "0", "00", "1", "1.", ".5", "+1", "+.5e1", "1e5", "1E5", "1e-3", "1e400", "1e-400",
	"-1", "-1e-400", "-0.00001", "nan", "inf", "-inf", "infinity", "NaN", "0x10", "1p3", "0x1p3", "1,5", "1.5.5", "1..5", "1 5", " 1.5 ", "\t1\n",
	"\x1c1\x1f", "\v1\f", "1\x00", "\x001", "1_", "1_0", "1__0", "_0", "1_0_0", "1_g", "1_ a ", "1_+a", "1_0xab", "1_0XAB", "1_0x", "1_x", "1_+0xab", "1_0x+ab",
	"1_ +0xab\n", "1_++1", "1_ffffffffffffffff", "1_10000000000000000", "1_000000000000000000000ffffffffffffffff", "1 _ 1", "1.5_0b1", "1.5_0o7",
	"9999999999.99999", "9999999999.999994", "10000000000", "10000000000.00000", "1e10", "9.99999999999999e9", "99999999999999999999999",
	"1795342301.49613", "1795342301.49613_00000000000000ab", "1795342301.49613_0", "0000000000.00000", "0000000000.00001", "0000000001.000005",
	"1795342301.496135", "1795342301.4961349", "0.000005", "0.000015", "0.0000149999", "1402436408.91203-c3500", "1402436408.91203+c3500",
	"1402436408.91203_1f-c3500", "1402436408.91203+0", "1402436408.91203_2+0", "1402436408.91203-0", "1402436408.91203+1-1", "1402436408.91203+", "1402436408.91203-",
	"1402436408.91203+-1", "1402436408.91203+g", "1402436408.91203-ffffffffffffffff", "1-186a0", "1-186a1", "9999999999.99999+1", "1e+5", "1e-5",
	strings.Repeat("0", 500) + "1", strings.Repeat("9", 500), "1_" + strings.Repeat("0", 500) + "1", "1.5\u00a0", "\u2003",
}

// stricter are texts that Swift takes, to names that it can not read back.
var stricter = []string{"-0", "-0.0", "-1e-400", "9999999999.999999", "1_-1", "1.5\u00a0", "٣", "1_٣", "1402436408.91203+٣"}

func randomText(r *rand.Rand) string {
	const alphabet = "0123456789..__eE+-xXabf \t"
	switch r.IntN(6) {
	case 0: // what Swift writes
		s := fmt.Sprintf("%010d.%05d", r.Int64N(1e10), r.IntN(1e5))
		if r.IntN(2) == 0 {
			s += fmt.Sprintf("_%016x", r.Uint64()>>r.IntN(64))
		}
		return s
	case 1: // a float of any size and precision
		return strconv.FormatFloat(r.Float64()*[]float64{1e-4, 1, 1e5, 1e10, 2e10}[r.IntN(5)], "efg"[r.IntN(3)], r.IntN(20), 64)
	case 2: // at the bounds
		return fmt.Sprintf("9999999999.%0*d", 1+r.IntN(4), r.IntN(10000))
	case 3:
		return fmt.Sprintf("%d.%05d%c%x", r.Int64N(1e10), r.IntN(1e5), "+-"[r.IntN(2)], r.Int64()>>r.IntN(63))
	}
	b := make([]byte, r.IntN(24))
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

func TestTimesAreSwifts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var questions []question
	add := func(text string) {
		delta := []int64{0, 1, -1, r.Int64N(2e10) - 1e10, r.Int64() >> r.IntN(63), -(r.Int64() >> r.IntN(63))}[r.IntN(6)]
		questions = append(questions, question{text, delta, Timestamp{Raw: r.Int64N(MaxRaw + 1)}.Normal()})
	}
	for _, s := range hostile {
		add(s)
	}
	for range 20000 {
		add(randomText(r))
	}
	// Some deltas that end exactly at the bounds.
	for _, d := range []int64{-99999, -100000, -100001} {
		questions = append(questions, question{"1", d, "1"})
	}
	for _, d := range []int64{0, 1, 2} {
		questions = append(questions, question{"9999999999.99998", d, "1"})
	}
	var answers []answer
	oracle.Ask(t, swiftTimestamps, questions, &answers)

	good := 0
	for i, q := range questions {
		a := answers[i]
		checkPair(t, q, a)
		got, err := Parse(q.Text)
		if !a.OK || isStricter(q.Text, a) {
			if err == nil {
				t.Errorf("Parse(%q) = %s, Swift refuses it or can not read it back", q.Text, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("Parse(%q): %v; Swift: %s", q.Text, err, a.Internal)
			continue
		}
		good++
		if got.Normal() != a.Normal || got.Internal() != a.Internal || got.Short() != a.Short || got.String() != a.Internal {
			t.Errorf("Parse(%q) = %s %s %s, Swift: %s %s %s", q.Text, got.Normal(), got.Internal(), got.Short(), a.Normal, a.Internal, a.Short)
		}
		// Swift's raw is the quotient of the unrounded float: between two units it may be
		// the other one of Normal.
		if exact := got.Seconds() == a.Float; exact && got.Raw != a.Raw || max(got.Raw-a.Raw, a.Raw-got.Raw) > 1 {
			t.Errorf("Parse(%q).Raw = %d, Swift: %d", q.Text, got.Raw, a.Raw)
		}
		if got.Raw != a.Raw {
			continue
		}
		other, err := Parse(q.Other)
		if err != nil {
			t.Fatal(err)
		}
		if pair := EncodePair(got, other); pair != a.Pair {
			t.Errorf("EncodePair(%s, %s) = %s, Swift: %s", got, other, pair, a.Pair)
		}
		if q.Delta == 0 && got.Seconds() != a.Float {
			continue // Swift keeps the decimals that a file name does not have
		}
		shifted, err := got.Shift(q.Delta)
		if (err == nil) != (a.Shifted != "") || err == nil && shifted.Internal() != a.Shifted {
			t.Errorf("%s.Shift(%d) = %s, %v; Swift: %q", got, q.Delta, shifted, err, a.Shifted)
		}
		if err == nil && got.Add(q.Delta) != shifted {
			t.Errorf("%s.Add(%d) = %s, Shift: %s", got, q.Delta, got.Add(q.Delta), shifted)
		}
	}
	if good < len(questions)/4 {
		t.Errorf("only %d of %d texts were good: the test no longer tests", good, len(questions))
	}
}

// isStricter tells the times that Parse refuses on purpose.
func isStricter(text string, a answer) bool {
	return strings.HasPrefix(a.Internal, "-") || strings.Contains(a.Internal, "_-") || len(a.Normal) > normalLen || !isASCII(text)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c > 127 }) < 0
}

func checkPair(t *testing.T, q question, a answer) {
	t.Helper()
	first, second, has, err := DecodePair(q.Text)
	if a.Pairs == nil {
		if err == nil {
			t.Errorf("DecodePair(%q) = %s %s %v, Swift refuses it", q.Text, first, second, has)
		}
		return
	}
	if err != nil {
		// Distances with spaces, underscores, 0x or a third one of any form are Python's laxness.
		if strict := strings.ContainsAny(q.Text, "_ xX\t\n") || strings.Count(q.Text, "+")+strings.Count(q.Text, "-") > 1 || isStricter(q.Text, answer{Internal: *a.Pairs[0], Normal: *a.Pairs[0]}) ||
			!isASCII(q.Text) || len(*a.Pairs[0]) > 16; !strict {
			t.Errorf("DecodePair(%q): %v; Swift: %s", q.Text, err, *a.Pairs[0])
		}
		return
	}
	got, want := first.Internal(), *a.Pairs[0]
	if has {
		got += " " + second.Internal()
	}
	if a.Pairs[1] != nil {
		want += " " + *a.Pairs[1]
	}
	if got != want {
		t.Errorf("DecodePair(%q) = %s, Swift: %s", q.Text, got, want)
	}
}

func TestTextsThatSwiftCannotReadBackAreRefused(t *testing.T) {
	for _, s := range stricter {
		if got, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %s", s, got)
		}
	}
}

func TestComparingIsTextOrderOfInternalForms(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	pick := func() Timestamp {
		return Timestamp{Raw: []int64{0, 1, MaxRaw, r.Int64N(MaxRaw), 179534230149613}[r.IntN(5)], Offset: []uint64{0, 1, r.Uint64(), 1<<64 - 1}[r.IntN(4)]}
	}
	for range 5000 {
		a, b := pick(), pick()
		if got, want := a.Compare(b), strings.Compare(a.Internal(), b.Internal()); got != want {
			t.Fatalf("%s.Compare(%s) = %d, texts: %d", a, b, got, want)
		}
		if a.Before(b) != (a.Compare(b) < 0) || a.After(b) != (a.Compare(b) > 0) {
			t.Fatalf("Before or After of %s and %s do not follow Compare", a, b)
		}
	}
}

func TestAddStopsAtTheBounds(t *testing.T) {
	const big = int64(1<<63 - 1)
	at := Timestamp{Raw: 5, Offset: 7}
	for _, c := range []struct {
		delta, want int64
	}{{0, 5}, {-4, 1}, {-5, 1}, {-big - 1, 1}, {MaxRaw - 5, MaxRaw}, {MaxRaw, MaxRaw}, {big, MaxRaw}} {
		if got := at.Add(c.delta); got != (Timestamp{Raw: c.want, Offset: 7}) {
			t.Errorf("Add(%d) = %s", c.delta, got)
		}
	}
	if _, err := at.Shift(big); !errors.Is(err, ErrBounds) {
		t.Errorf("Shift: %v", err)
	}
	if _, err := Parse("1e10"); !errors.Is(err, ErrBounds) {
		t.Errorf("Parse: %v", err)
	}
}

func TestTimeKeepsAllUnits(t *testing.T) {
	at, err := Parse("1795342301.49613_1")
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Unix(1795342301, 496130000).UTC(); !at.Time().Equal(want) {
		t.Errorf("Time() = %v, want %v", at.Time(), want)
	}
	if back := FromTime(at.Time()); back != (Timestamp{Raw: at.Raw}) {
		t.Errorf("FromTime(Time()) = %s", back)
	}
	if at.Seconds() != 1795342301.49613 {
		t.Errorf("Seconds() = %v", at.Seconds())
	}
	if at.IsZero() || !(Timestamp{}).IsZero() || (Timestamp{Offset: 1}).IsZero() {
		t.Error("IsZero is not for 0 without offset alone")
	}
	if got := (Timestamp{Raw: -1}).Normal(); got != "-0000000000.00001" {
		t.Errorf("Normal() of -1 = %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at, err := Parse(s); err == nil {
			if at.Raw < 0 || at.Raw > MaxRaw || len(at.Normal()) != normalLen {
				t.Fatalf("Parse(%q) = %s out of bounds", s, at)
			}
			if back, err := Parse(at.Internal()); err != nil || back != at {
				t.Fatalf("Parse(%q) = %s, read back %s, %v", s, at, back, err)
			}
		}
		if a, b, has, err := DecodePair(s); err == nil && has {
			b.Offset = 0
			first, second, again, err := DecodePair(EncodePair(a, b))
			if second.Offset = 0; err != nil || first != a || !again || second != b {
				t.Fatalf("DecodePair(%q) = %s %s, read back %s %s %v, %v", s, a, b, first, second, again, err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("1795342301.49613_00000000000000ab"); err != nil {
			b.Fatal(err)
		}
	}
}
