package server

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imping/swift/conf"
	"imping/swift/timestamp"
)

// precondition is the status that the conditions of a request make of an answer, or 0.
// Swift: common/swob.py, Response._get_conditional_response_status.
func precondition(r *Request, resp *Response, etag string) int {
	if value, ok := r.Header.Lookup("If-None-Match"); ok && etag != "" && matches(value, etag) {
		return 304
	}
	value, ok := r.Header.Lookup("If-Match")
	if ok && etag != "" && !matches(value, etag) {
		return 412
	}
	if ok && resp.Status == 404 && matches(value, "*") {
		return 412
	}
	newer, wantsNewer := parseTime(r.Header.Get("If-Modified-Since"))
	older, wantsOlder := parseTime(r.Header.Get("If-Unmodified-Since"))
	if !wantsNewer && !wantsOlder {
		return 0
	}
	switch modified, ok := parseTime(resp.Get("Last-Modified")); {
	case !ok:
		return 0
	case wantsNewer && !modified.After(newer):
		return 304
	case wantsOlder && modified.After(older):
		return 412
	}
	return 0
}

// matches looks for an ETag in a list of them. Swift: common/swob.py, Match.
func matches(list, etag string) bool {
	etag = bare(etag)
	for tag := range strings.SplitSeq(list, ",") {
		if tag = strings.TrimSpace(tag); tag != "" && (bare(tag) == "*" || bare(tag) == etag) {
			return true
		}
	}
	return false
}

// bare takes the quotes off an ETag. Swift: common/swob.py, normalize_etag.
func bare(tag string) string {
	if len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
		return tag[1 : len(tag)-1]
	}
	return tag
}

// lastModified is a time to the second, rounded up. Swift: common/utils.py, Timestamp.ceil.
func lastModified(ts timestamp.Timestamp) time.Time {
	at := ts.Time()
	if whole := at.Truncate(time.Second); whole.Before(at) {
		return whole.Add(time.Second)
	}
	return at
}

// parseTime reads a date of HTTP and, as Swift does, some that are none; whatever zone it
// names, it is taken for GMT.
func parseTime(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false
	}
	t, err := http.ParseTime(s)
	for _, layout := range []string{
		"Mon, 2 Jan 2006 15:04:05", "2 Jan 2006 15:04:05 MST", "2 Jan 2006 15:04:05", "Mon, 2 Jan 2006 15:04:05 MST", "Mon, 2 Jan 2006 15:04:05 -0700",
		"2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 06 15:04:05 MST", "Mon, 2-Jan-2006 15:04:05 MST",
	} {
		if err == nil {
			break
		}
		t, err = time.Parse(layout, s)
	}
	if err != nil {
		return time.Time{}, false
	}
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	return time.Date(year, month, day, hour, minute, second, 0, time.UTC), true
}

// span is bytes start to end-1 of an object.
type span struct{ start, end int64 }

// value is that of Content-Range.
func (s span) value(length int64) string {
	return "bytes " + strconv.FormatInt(s.start, 10) + "-" + strconv.FormatInt(s.end-1, 10) + "/" + strconv.FormatInt(length, 10)
}

// Swift: common/swob.py, constants of the same names.
const (
	maxRangeOverlaps      = 2
	maxNonascendingRanges = 8
	maxRanges             = 50
)

// rangesOf reads Range for an object of that length. ok is false when the field is not
// there or malformed, so that it does not count; no ranges are one that can not be satisfied.
// Swift: common/swob.py, Range.
func rangesOf(value string, length int64) (ranges []span, ok bool) {
	value = strings.ReplaceAll(value, " ", "")
	if len(value) < 6 || !strings.EqualFold(value[:6], "bytes=") {
		return nil, false
	}
	type bounds struct{ start, end int64 } // -1 = not given
	var asked []bounds
	for text := range strings.SplitSeq(value[6:], ",") {
		from, to, hyphen := strings.Cut(text, "-")
		b := bounds{-1, -1}
		if !hyphen || from == "" && to == "" {
			return nil, false
		}
		if from != "" {
			if b.start, ok = rangeNumber(from); !ok {
				return nil, false
			}
		}
		if to != "" {
			if strings.Trim(to, "0123456789") != "" {
				return nil, false
			}
			if b.end, ok = rangeNumber(to); !ok || b.start > b.end {
				return nil, false
			}
		}
		asked = append(asked, b)
	}
	for _, b := range asked {
		switch {
		case b.start < 0 && b.end == 0:
		case b.start < 0:
			ranges = append(ranges, span{max(0, length-b.end), length})
		case b.start >= length:
		case b.end < 0:
			ranges = append(ranges, span{b.start, length})
		default:
			ranges = append(ranges, span{b.start, min(b.end, length-1) + 1})
		}
	}
	if egregious(ranges) {
		return nil, true
	}
	return ranges, true
}

// rangeNumber reads what Python's int() does; a number beyond any object's length is
// that length to us.
func rangeNumber(s string) (int64, bool) {
	if n, ok := conf.ParseInt(s); ok {
		return int64(n), true
	}
	return 1<<62 - 1, strings.Trim(s, "0123456789") == ""
}

func egregious(ranges []span) bool {
	if len(ranges) > maxRanges {
		return true
	}
	overlaps := 0
	ascending := true
	for i, a := range ranges {
		for _, b := range ranges[i+1:] {
			if a.start < b.start && b.start < a.end || a.start < b.end && b.end < a.end ||
				b.start < a.start && a.start < b.end || b.start < a.end && a.end < b.end {
				overlaps++
			}
		}
		if i > 0 {
			before := ranges[i-1]
			ascending = ascending && (before.start < a.start || before.start == a.start && before.end <= a.end)
		}
	}
	return overlaps > maxRangeOverlaps || !ascending && len(ranges) >= maxNonascendingRanges
}

func newBoundary() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
