package conf

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"imping/lab/oracle"
)

// askValues gives each value to Swift's own readers. An error is null; numbers go as
// strings, for JSON has no nan.
const askValues = `
import json, sys
from swift.common import utils

def ask(call, value):
    try:
        return str(call(value))
    except (ValueError, OverflowError, IndexError):
        return None

calls = {
    'Int': int,
    'NonNegativeInt': utils.non_negative_int,
    'PositiveInt': utils.config_positive_int_value,
    'AutoInt': lambda v: utils.config_auto_int_value(v, 7),
    'Float': lambda v: '%.17g' % float(v),
    'NonNegativeFloat': lambda v: '%.17g' % utils.non_negative_float(v),
    'Percent': lambda v: '%.17g' % utils.config_percent_value(v),
    'Bool': utils.config_true_value,
    'NodeCount': lambda v: '%d %d' % tuple(map(utils.config_request_node_count_value(v), (3, 14))),
    'List': utils.list_from_csv,
}
json.dump([{name: ask(call, value) for name, call in calls.items()} for value in json.load(sys.stdin)], sys.stdout)
`

func text(value any, err error) *string {
	if err != nil {
		return nil
	}
	s := fmt.Sprint(value)
	return &s
}

func number(f float64, err error) *string {
	s := fmt.Sprintf("%.17g", f)
	s = strings.ToLower(strings.TrimPrefix(s, "+"))
	return text(s, err)
}

func TestValuesAreReadAsSwiftReadsThem(t *testing.T) {
	values := []string{
		"", "0", "1", "7", "-1", "+5", "007", "-0", " 12 ", "\t3\u00a0", "1_000", "_1", "1_", "1__0", "1.0", "1.5", "-0.5", ".5", "5.", "1e3", "1E-3", "1_0.0_1", "1_e3",
		"0x10", "0x1p3", "0b1", "inf", "-Infinity", "NaN", "infinit", "1e400", "100", "100.1", "99.9", "1%", "ten", "1 0", "--1",
		"true", "TRUE", "Yes", "on", "t", "y", "false", "no", "off", "2", " true", "auto", "AUTO", " auto",
		"2 * replicas", "2*replicas", "2 * REPLICAS", "-2  *  replicas", "2 * replica", "2 + replicas", "* replicas", "2 * replicas x", "3 replicas",
		"a,b", " a , , b c,", ",", "a",
	}
	var answers []map[string]*string
	oracle.Ask(t, askValues, values, &answers)
	for i, value := range values {
		s := NewSection("a", "/a.conf", map[string]string{"x": value})
		got := map[string]*string{}
		got["Int"] = text(s.Int("x", 7))
		got["NonNegativeInt"] = text(s.NonNegativeInt("x", 7))
		got["PositiveInt"] = text(s.PositiveInt("x", 7))
		got["AutoInt"] = text(s.AutoInt("x", 7))
		got["Float"] = number(s.Float("x", 7))
		got["NonNegativeFloat"] = number(s.NonNegativeFloat("x", 7))
		got["Percent"] = number(s.Percent("x", 7))
		if b, err := s.Bool("x", true); err == nil {
			got["Bool"] = text(map[bool]string{true: "True", false: "False"}[b], nil)
		}
		if n, err := s.NodeCount("x", "7"); err == nil {
			got["NodeCount"] = text(fmt.Sprint(n.Of(3), n.Of(14)), nil)
		}
		got["List"] = text(strings.ReplaceAll(fmt.Sprintf("%q", s.List("x")), `"`, "'"), nil)
		for name, want := range answers[i] {
			want = spaced(name, want)
			if strings.EqualFold(value, "nan") && (name == "NonNegativeFloat" || name == "Percent") {
				want = nil // Swift lets nan pass
			}
			if (want == nil) != (got[name] == nil) || want != nil && *want != *got[name] {
				t.Errorf("%s of %q: Swift says %s, imping %s", name, value, show(want), show(got[name]))
			}
		}
	}
}

// spaced turns Python's "['a', 'b']" into Go's "['a' 'b']".
func spaced(name string, s *string) *string {
	if s == nil || name != "List" {
		return s
	}
	list := strings.ReplaceAll(*s, "', '", "' '")
	return &list
}

func show(s *string) string {
	if s == nil {
		return "an error"
	}
	return *s
}

func TestAbsentOptionsHaveTheirDefault(t *testing.T) {
	s := &Section{Name: "a", Path: "/a.conf"}
	if n, err := s.Int("x", -3); n != -3 || err != nil {
		t.Errorf("Int = %d, %v", n, err)
	}
	if b, err := s.Bool("x", true); !b || err != nil {
		t.Errorf("Bool = %v, %v", b, err)
	}
	if f, err := s.Percent("x", 50); f != 0.5 || err != nil {
		t.Errorf("Percent = %v, %v", f, err)
	}
	if d, err := s.Seconds("x", time.Minute); d != time.Minute || err != nil {
		t.Errorf("Seconds = %v, %v", d, err)
	}
	if n, err := s.AutoInt("x", 4); n != 4 || err != nil {
		t.Errorf("AutoInt = %v, %v", n, err)
	}
	if n, err := s.NodeCount("x", "2 * replicas"); n.Of(14) != 28 || err != nil {
		t.Errorf("NodeCount = %v, %v", n, err)
	}
	if n, err := s.Size("x", 5); n != 5 || err != nil {
		t.Errorf("Size = %v, %v", n, err)
	}
	if s.Get("x", "d") != "d" || s.Has("x") || len(s.Keys()) != 0 || s.List("x") != nil {
		t.Error("an empty section has options")
	}
}

func TestErrorsNameFileSectionOptionAndValue(t *testing.T) {
	s := NewSection("object-reconstructor", "/etc/swift/1.conf", map[string]string{"concurrency": "many", "imping_x": "maybe", "big": "9223372036854775808"})
	_, err := s.PositiveInt("concurrency", 1)
	const want = `/etc/swift/1.conf [object-reconstructor] concurrency = "many": must be an integer >= 1`
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v, not %s", err, want)
	}
	if _, err := s.Bool("imping_x", true); err == nil {
		t.Error("imping's own option takes a word that is neither true nor false")
	}
	if _, err := s.Int("big", 1); err == nil {
		t.Error("an integer over 64 bits is taken")
	}
}

func TestSecondsAndSizes(t *testing.T) {
	for value, want := range map[string]time.Duration{"0": 0, "10": 10 * time.Second, "0.5": time.Second / 2, " 1e-3 ": time.Millisecond, "-1": -1, "nan": -1, "inf": -1, "1e10": -1, "10s": -1} {
		s := NewSection("a", "/a.conf", map[string]string{"x": value})
		if got, err := s.Seconds("x", 1); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("Seconds of %q = %v, %v", value, got, err)
		}
	}
	for value, want := range map[string]int64{"0": 0, "10": 10, "64MiB": 64 << 20, "2 GiB": 2 << 30, "1KiB": 1024, "1TiB": 1 << 40, "-1": -1, "1.5GiB": -1, "GiB": -1, "1MB": -1, "8388608TiB": -1, "8388607TiB": 8388607 << 40} {
		s := NewSection("a", "/a.conf", map[string]string{"x": value})
		if got, err := s.Size("x", 1); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("Size of %q = %v, %v", value, got, err)
		}
	}
	if math.MaxInt != math.MaxInt64 {
		t.Error("int has less than 64 bits: ParseInt is narrower than Swift's numbers")
	}
}
