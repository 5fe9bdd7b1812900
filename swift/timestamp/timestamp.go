// Package timestamp is Swift's Timestamp as a plain value: a time in units of
// 1e-5 s and an offset that orders rewrites of the same time. It is not a clock, and
// it knows nothing of file names beyond the form of a time in them.
package timestamp

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// unitsPerSecond is how many units of Raw make a second: Swift prints five decimals
// (Swift: common/utils, NORMAL_FORMAT and PRECISION).
const unitsPerSecond = 100_000

// MaxRaw is the largest Raw that Swift accepts: the last unit before second 1e10, so
// that the normal form keeps its 16 characters and text order is time order.
const MaxRaw = 10_000_000_000*unitsPerSecond - 1

// normalLen is the length of "1795342301.49613".
const normalLen = 16

// ErrBounds is wrapped by the errors for times before 0 or from 1e10 seconds on.
var ErrBounds = errors.New("time is out of bounds")

// Timestamp is a time of Swift: comparable with ==, the zero value is time 0 without
// offset. Raw is in units of 1e-5 s since the epoch, within 0..MaxRaw when it came
// from Parse. Swift: common/utils, Timestamp.
type Timestamp struct {
	Raw    int64
	Offset uint64
}

// FromTime is t rounded to units of 1e-5 s. t is after 1970 and before 2262.
func FromTime(t time.Time) Timestamp {
	const unit = int64(time.Second) / unitsPerSecond
	return Timestamp{Raw: (t.UnixNano() + unit/2) / unit}
}

// Parse reads the normal form ("1795342301.49613"), the internal form (with "_" and a
// hexadecimal offset) and everything else in ASCII that Python's float and int make of
// the two parts: "12", "1e3", " 1.5 ", "1_0xab", "1_". A time with more than five
// decimals is rounded as Swift's normal form rounds it.
//
// Refused are times below 0 or that round to 1e10 and more (ErrBounds), NaN and
// infinities, offsets of more than 64 bits and a second underscore. Stricter than
// Swift, which writes names for these that it can not read back: "-0", negative
// offsets, times between 9999999999.999995 and 1e10, digits that are not ASCII.
func Parse(s string) (Timestamp, error) {
	base, offsetText, _ := strings.Cut(s, "_")
	t := Timestamp{}
	var ok bool
	if t.Raw, ok = parseNormal(base); !ok {
		var err error
		if t.Raw, err = parseFloat(base); err != nil {
			return Timestamp{}, fmt.Errorf("cannot parse timestamp %.80q: %w", s, err)
		}
	}
	if offsetText != "" {
		var err error
		if t.Offset, err = parseOffset(offsetText); err != nil {
			return Timestamp{}, fmt.Errorf("cannot parse timestamp %.80q: %w", s, err)
		}
	}
	return t, nil
}

// parseNormal reads exactly "dddddddddd.ddddd", without a detour over float64: for
// these the nearest float64 rounds back to the same five decimals.
func parseNormal(s string) (int64, bool) {
	if len(s) != normalLen || s[10] != '.' {
		return 0, false
	}
	var raw int64
	for i := 0; i < len(s); i++ {
		if i == 10 {
			continue
		}
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		raw = raw*10 + int64(c)
	}
	return raw, true
}

// parseFloat reads what Python's float() takes, ASCII only, and rounds the binary value
// to five decimals as "%.5f" does.
func parseFloat(s string) (int64, error) {
	s = trimSpace(s)
	if !isDecimalFloat(s) {
		return 0, fmt.Errorf("%.40q is not a decimal number", s)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || s[0] == '-' || f >= 1e10 {
		// The grammar was checked, so that the only error is one of range.
		return 0, fmt.Errorf("%w: %.40q seconds", ErrBounds, s)
	}
	text := strconv.FormatFloat(f, 'f', 5, 64)
	dot := len(text) - 6
	raw, err := strconv.ParseInt(text[:dot]+text[dot+1:], 10, 64)
	if err != nil || raw > MaxRaw {
		return 0, fmt.Errorf("%w: %.40q seconds", ErrBounds, s)
	}
	return raw, nil
}

// isDecimalFloat is Python's grammar of a finite float: sign, digits with at most one
// point and at least one digit, exponent. strconv would take hexadecimal floats too.
func isDecimalFloat(s string) bool {
	i := 0
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	whole := digits(s[i:])
	i += whole
	frac := 0
	if i < len(s) && s[i] == '.' {
		i++
		frac = digits(s[i:])
		i += frac
	}
	if whole+frac == 0 {
		return false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		n := digits(s[i:])
		if n == 0 {
			return false
		}
		i += n
	}
	return i == len(s)
}

// digits counts the decimal digits that s starts with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n]-'0' <= 9 {
		n++
	}
	return n
}

// parseOffset reads what Python's int(s, 16) takes: spaces, a plus sign and 0x are fine.
func parseOffset(s string) (uint64, error) {
	t := strings.TrimPrefix(trimSpace(s), "+")
	if len(t) > 2 && t[0] == '0' && (t[1] == 'x' || t[1] == 'X') {
		t = t[2:]
	}
	n, err := strconv.ParseUint(t, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("offset %.40q is not a hexadecimal number of at most 64 bits", s)
	}
	return n, nil
}

// trimSpace cuts what Python's float() and int() take for space in ASCII.
func trimSpace(s string) string { return strings.Trim(s, " \t\n\v\f\r") }

// Normal is the form that clients see: ten digits of seconds, a point, five decimals.
// The offset is not in it.
func (t Timestamp) Normal() string {
	var b [40]byte
	return string(t.appendNormal(b[:0]))
}

// Internal is the form of file names and of the backend: Normal, and when there is an
// offset "_" and sixteen hexadecimal digits.
func (t Timestamp) Internal() string {
	var b [40]byte
	return string(t.AppendInternal(b[:0]))
}

// String is Internal.
func (t Timestamp) String() string { return t.Internal() }

// AppendInternal appends Internal to dst.
func (t Timestamp) AppendInternal(dst []byte) []byte {
	dst = t.appendNormal(dst)
	if t.Offset == 0 {
		return dst
	}
	dst = append(dst, '_')
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[t.Offset>>uint(shift)&15])
	}
	return dst
}

func (t Timestamp) appendNormal(dst []byte) []byte {
	raw := uint64(t.Raw)
	if t.Raw < 0 { // no door of this package makes one
		dst, raw = append(dst, '-'), -raw
	}
	for unit := uint64(unitsPerSecond * 1_000_000_000); unit > unitsPerSecond && raw < unit; unit /= 10 {
		dst = append(dst, '0')
	}
	dst = strconv.AppendUint(dst, raw/unitsPerSecond, 10)
	dst = append(dst, '.')
	frac := raw % unitsPerSecond
	for unit := uint64(unitsPerSecond / 10); unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+frac/unit%10))
	}
	return dst
}

// Compare is -1, 0 or +1: by time, then by offset, which is the text order of the
// internal forms (how Swift compares).
func (t Timestamp) Compare(u Timestamp) int {
	if c := cmp.Compare(t.Raw, u.Raw); c != 0 {
		return c
	}
	return cmp.Compare(t.Offset, u.Offset)
}

// Before reports whether t is older than u.
func (t Timestamp) Before(u Timestamp) bool { return t.Compare(u) < 0 }

// After reports whether t is newer than u.
func (t Timestamp) After(u Timestamp) bool { return t.Compare(u) > 0 }

// IsZero reports whether t is time 0 without offset, which Swift takes for "no time".
func (t Timestamp) IsZero() bool { return t == Timestamp{} }

// Seconds is the time as Swift's float(timestamp): without the offset.
func (t Timestamp) Seconds() float64 { return float64(t.Raw) / unitsPerSecond }

// Time is the time in UTC, without the offset.
func (t Timestamp) Time() time.Time {
	return time.Unix(t.Raw/unitsPerSecond, t.Raw%unitsPerSecond*(int64(time.Second)/unitsPerSecond)).UTC()
}

// Shift is the time that lies delta units (1e-5 s) from t, with t's offset, as SSYNC
// and the names of .meta files tell times. Refused (ErrBounds): a delta other than 0
// that leads to time 0 or below, or to 1e10 seconds and more.
// Swift: common/utils, Timestamp(t, delta=...).
func (t Timestamp) Shift(delta int64) (Timestamp, error) {
	if delta == 0 {
		return t, nil
	}
	if delta < 1-t.Raw || delta > MaxRaw-t.Raw {
		return Timestamp{}, fmt.Errorf("cannot shift timestamp %s by %d units of 1e-5 s: %w", t, delta, ErrBounds)
	}
	t.Raw += delta
	return t, nil
}

// Add is Shift for deltas that are known to be good, made as u.Raw-t.Raw of two times
// of Parse. Where Shift refuses, it stops at the nearest time that Shift would give
// (Raw 1 or MaxRaw): deltas of a peer belong to Shift.
func (t Timestamp) Add(deltaRaw int64) Timestamp {
	u, err := t.Shift(deltaRaw)
	switch {
	case err == nil:
		return u
	case deltaRaw < 0:
		return Timestamp{Raw: 1, Offset: t.Offset}
	}
	return Timestamp{Raw: MaxRaw, Offset: t.Offset}
}

// DeleteAt is a time, in seconds, as X-Delete-At and the names of the expirer's queue have it.
// Swift: common/utils.py, normalize_delete_at_timestamp.
func DeleteAt(seconds float64) string {
	return fmt.Sprintf("%010d", int64(min(max(0, seconds), 9999999999)))
}
