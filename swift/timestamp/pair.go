package timestamp

import (
	"fmt"
	"strconv"
	"strings"
)

// Short is Internal with the offset's leading zeros left out, the form in which the
// first time of a pair is written. Swift: common/utils, Timestamp.short.
func (t Timestamp) Short() string {
	if t.Offset == 0 {
		return t.Normal()
	}
	return t.Normal() + "_" + strconv.FormatUint(t.Offset, 16)
}

// EncodePair writes two times as one: the first and the signed hexadecimal distance to
// the second ("1402436408.91203-c3500", "1402436408.91203+0"), whose offset is lost.
// A .meta file with a content type is named so: its own time and the content type's.
// Swift: common/utils, encode_timestamps(t, second, explicit=True).
func EncodePair(t, second Timestamp) string {
	delta := second.Raw - t.Raw
	sign := "+"
	if delta < 0 {
		sign = "" // it brings its own
	}
	return t.Short() + sign + strconv.FormatInt(delta, 16)
}

// DecodePair reads the form of EncodePair. has tells whether a second time is there; a
// distance of 0 stands for the first time, offset included. What follows a second
// distance is not for object servers: it is checked as a distance and dropped.
// Swift: common/utils, decode_timestamps(explicit=True).
func DecodePair(s string) (t, second Timestamp, has bool, err error) {
	head, rest := s, ""
	if i := strings.IndexAny(s, "+-"); i >= 0 {
		head, rest = s[:i], s[i:]
	}
	if t, err = Parse(head); err != nil {
		return Timestamp{}, Timestamp{}, false, err
	}
	if rest == "" {
		return t, Timestamp{}, false, nil
	}
	second = t
	digits, third := rest[1:], ""
	if i := strings.IndexAny(digits, "+-"); i >= 0 {
		digits, third = digits[:i], digits[i:]
	}
	delta, err := strconv.ParseInt(rest[:1]+digits, 16, 64)
	if err == nil && third != "" {
		_, err = strconv.ParseInt(third, 16, 64)
	}
	if err != nil {
		return Timestamp{}, Timestamp{}, false, fmt.Errorf("cannot parse timestamp %.80q: distance %.40q is not hexadecimal", s, rest)
	}
	if delta != 0 {
		if delta < -t.Raw || delta > MaxRaw-t.Raw {
			return Timestamp{}, Timestamp{}, false, fmt.Errorf("cannot parse timestamp %.80q: %w", s, ErrBounds)
		}
		second = Timestamp{Raw: t.Raw + delta}
	}
	return t, second, true, nil
}
