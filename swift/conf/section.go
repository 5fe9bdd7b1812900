// Package conf reads the conf files of a cluster as Swift's daemons (readconf) and servers
// (PasteDeploy) read them, and turns options into values. It knows no option by name but
// log_name, and starts no server.
package conf

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Section holds the options that count in one section of one daemon's file or folder,
// [DEFAULT] included. The zero value has no options. It is goroutine-safe after Read or
// App.
type Section struct {
	Name string // as asked for: "object-reconstructor"
	Path string // absolute path of the file or folder

	items  []Item
	values map[string]string
}

func newSection(name, path string, items []Item) *Section {
	s := &Section{Name: name, Path: path, values: map[string]string{}}
	for _, item := range items {
		if item.Option == "__file__" || item.Option == "__name__" {
			continue // Path and Name here
		}
		s.put(item.Option, item.Value)
	}
	return s
}

func (s *Section) put(option, value string) {
	if _, ok := s.values[option]; !ok {
		s.items = append(s.items, Item{Option: option})
	}
	s.values[option] = value
	for i := range s.items {
		if s.items[i].Option == option {
			s.items[i].Value = value
		}
	}
}

// NewSection makes a section from values, for programs that have no file.
func NewSection(name, path string, values map[string]string) *Section {
	var items []Item
	for option, value := range values {
		items = append(items, Item{option, value})
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Option, b.Option) })
	return newSection(name, path, items)
}

// Get returns a value as it stands, or def when the option is not there. An option that
// is there without a value is "".
func (s *Section) Get(key, def string) string {
	if value, ok := s.values[key]; ok {
		return value
	}
	return def
}

// Has reports whether the option is there.
func (s *Section) Has(key string) bool {
	_, ok := s.values[key]
	return ok
}

// Keys lists the options: those of [DEFAULT] first, then the section's own, each in the
// order of the file.
func (s *Section) Keys() []string {
	keys := make([]string, len(s.items))
	for i, item := range s.items {
		keys[i] = item.Option
	}
	return keys
}

// Error says which option of which file is wrong.
type Error struct {
	Path, Section, Option, Value string
	Want                         string // what was expected, "an integer"
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s [%s] %s = %.80q: must be %s", e.Path, e.Section, e.Option, e.Value, e.Want)
}

// Errorf makes the error for a value that the caller found wrong: "must be" and want.
func (s *Section) Errorf(key, want string, args ...any) error {
	return &Error{s.Path, s.Name, key, s.Get(key, ""), fmt.Sprintf(want, args...)}
}

// Int reads an integer of any sign, in the notation of Python's int().
func (s *Section) Int(key string, def int) (int, error) {
	if !s.Has(key) {
		return def, nil
	}
	n, ok := ParseInt(s.values[key])
	if !ok {
		return 0, s.Errorf(key, "an integer")
	}
	return n, nil
}

// NonNegativeInt reads an integer >= 0. Swift: common/utils.py, non_negative_int.
func (s *Section) NonNegativeInt(key string, def int) (int, error) {
	n, err := s.Int(key, def)
	if err != nil || n < 0 {
		return 0, s.wrong(key, def, "an integer >= 0")
	}
	return n, nil
}

// PositiveInt reads an integer >= 1. Swift: common/utils.py, config_positive_int_value.
func (s *Section) PositiveInt(key string, def int) (int, error) {
	n, err := s.Int(key, def)
	if err != nil || n < 1 {
		return 0, s.wrong(key, def, "an integer >= 1")
	}
	return n, nil
}

// AutoInt reads an integer; "auto" in any case is def. Swift: common/utils.py,
// config_auto_int_value.
func (s *Section) AutoInt(key string, def int) (int, error) {
	if strings.EqualFold(s.Get(key, "auto"), "auto") {
		return def, nil
	}
	n, err := s.Int(key, def)
	if err != nil {
		return 0, s.Errorf(key, "an integer or \"auto\"")
	}
	return n, nil
}

// Float reads a number in the notation of Python's float(), infinities and nan included.
func (s *Section) Float(key string, def float64) (float64, error) {
	if !s.Has(key) {
		return def, nil
	}
	f, ok := ParseFloat(s.values[key])
	if !ok {
		return 0, s.Errorf(key, "a number")
	}
	return f, nil
}

// NonNegativeFloat reads a number >= 0. Swift: common/utils.py, non_negative_float, which
// also takes nan.
func (s *Section) NonNegativeFloat(key string, def float64) (float64, error) {
	f, err := s.Float(key, def)
	if err != nil || f < 0 || math.IsNaN(f) {
		return 0, s.wrong(key, def, "a number >= 0")
	}
	return f, nil
}

// Percent reads a number from 0 to 100 and returns a hundredth of it; def is such a
// percentage too. Swift: common/utils.py, config_percent_value.
func (s *Section) Percent(key string, def float64) (float64, error) {
	f, err := s.Float(key, def)
	if err != nil || !(0 <= f && f <= 100) {
		return 0, s.wrong(key, def, "a percentage from 0 to 100")
	}
	return f / 100, nil
}

// Bool reads true, 1, yes, on, t or y in any case as true. With Swift's options anything
// else is false and never an error (Swift: common/utils.py, config_true_value); imping's
// own options, imping_*, must be one of those words or of their opposites.
func (s *Section) Bool(key string, def bool) (bool, error) {
	if !s.Has(key) {
		return def, nil
	}
	value := strings.ToLower(s.values[key])
	switch value {
	case "true", "1", "yes", "on", "t", "y":
		return true, nil
	case "false", "0", "no", "off", "f", "n":
		return false, nil
	}
	if strings.HasPrefix(key, ownPrefix) {
		return false, s.Errorf(key, "true or false")
	}
	return false, nil
}

// ownPrefix marks the options that Swift does not know.
const ownPrefix = "imping_"

// Seconds reads a number of seconds >= 0, fractions included.
func (s *Section) Seconds(key string, def time.Duration) (time.Duration, error) {
	if !s.Has(key) {
		return def, nil
	}
	f, ok := ParseFloat(s.values[key])
	// 1<<33 seconds, 272 years, is what a Duration holds.
	if !ok || !(0 <= f && f < 1<<33) {
		return 0, s.Errorf(key, "a number of seconds >= 0")
	}
	return time.Duration(math.Round(f * float64(time.Second))), nil
}

// Size reads a number of bytes: an integer and one of KiB, MiB, GiB or TiB, or nothing
// for bytes. Swift has no such options; imping's own ones use it.
func (s *Section) Size(key string, def int64) (int64, error) {
	if !s.Has(key) {
		return def, nil
	}
	number, shift := s.values[key], 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if short, ok := strings.CutSuffix(number, unit); ok {
			number, shift = short, 10*(i+1)
		}
	}
	n, ok := ParseInt(number)
	if !ok || n < 0 || int64(n) > math.MaxInt64>>shift {
		return 0, s.Errorf(key, "a number of bytes such as 1048576, 64MiB or 2GiB")
	}
	return int64(n) << shift, nil
}

// List reads values separated by commas, without the empty ones. Swift: common/utils.py,
// list_from_csv.
func (s *Section) List(key string) []string { return List(s.Get(key, "")) }

// NodeCount is how many nodes a request may go to, as a function of the replicas.
type NodeCount struct {
	count      int
	perReplica bool
}

// Of returns the count for a ring of that many replicas.
func (n NodeCount) Of(replicas int) int {
	if n.perReplica {
		return n.count * replicas
	}
	return n.count
}

// NodeCount reads "6" or "2 * replicas". Swift: common/utils.py,
// config_request_node_count_value.
func (s *Section) NodeCount(key, def string) (NodeCount, error) {
	words := strings.FieldsFunc(strings.ToLower(s.Get(key, def)), isSpace)
	if len(words) == 1 || len(words) == 3 && words[1] == "*" && words[2] == "replicas" {
		if n, ok := ParseInt(words[0]); ok {
			return NodeCount{n, len(words) == 3}, nil
		}
	}
	return NodeCount{}, s.wrong(key, def, "an integer, or an integer and \"* replicas\"")
}

// wrong is Errorf for values that may be the default.
func (s *Section) wrong(key string, def any, want string) error {
	if s.Has(key) {
		return s.Errorf(key, "%s", want)
	}
	return &Error{s.Path, s.Name, key, fmt.Sprint(def), want}
}

// List splits at commas and drops empty parts. Swift: common/utils.py, list_from_csv.
func List(csv string) []string {
	var list []string
	for part := range strings.SplitSeq(csv, ",") {
		if part = strip(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// ParseInt reads what Python's int() reads: a sign, ASCII digits, single underscores
// between them, space around. Numbers over 64 bits are refused.
func ParseInt(s string) (int, bool) {
	s, ok := plainDigits(strip(s))
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, strconv.IntSize)
	return int(n), err == nil
}

// ParseFloat reads what Python's float() reads; no hexadecimal.
func ParseFloat(s string) (float64, bool) {
	s, ok := plainDigits(strip(s))
	if !ok || strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

// plainDigits drops underscores that stand between two digits; others are an error.
func plainDigits(s string) (string, bool) {
	for i := range len(s) {
		if s[i] == '_' && !(0 < i && i+1 < len(s) && isDigit(s[i-1]) && isDigit(s[i+1])) {
			return "", false
		}
	}
	return strings.ReplaceAll(s, "_", ""), true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
