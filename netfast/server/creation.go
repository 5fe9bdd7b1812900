package server

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"imping/swift/conf"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// constraints are those of swift.conf.
func (s *Server) constraints() policy.Constraints {
	if s.swift.Constraints == (policy.Constraints{}) {
		return policy.DefaultConstraints()
	}
	return s.swift.Constraints
}

// checkCreation refuses what no PUT may send, and turns X-Delete-After into X-Delete-At.
// Swift: common/constraints.py, check_object_creation.
func (s *Server) checkCreation(r *Request, object string, at timestamp.Timestamp) error {
	limits := s.constraints()
	if r.Body.Length() > limits.MaxFileSize {
		return answerText(413, "text/plain", "Your request is too large.")
	}
	if _, ok := r.Header.Lookup("Content-Length"); !ok && r.Header.Get("Transfer-Encoding") != "chunked" {
		return answerText(411, "text/plain", "Missing Content-Length header.")
	}
	if n := utf8.RuneCountInString(object); n > limits.MaxObjectNameLength {
		return badRequest("Object name length of %d longer than %d", n, limits.MaxObjectNameLength)
	}
	contentType, ok := r.Header.Lookup("Content-Type")
	if !ok {
		return badRequest("No content type")
	}
	if err := checkDelete(r, at); err != nil {
		return err
	}
	if contentType == "" || !utf8.ValidString(contentType) || strings.Contains(contentType, "\x00") {
		return badRequest("Invalid Content-Type")
	}
	return checkMetadata(r, limits)
}

// checkDelete looks at the time at which an object is to vanish.
// Swift: common/constraints.py, check_delete_headers.
func checkDelete(r *Request, at timestamp.Timestamp) error {
	now := at.Seconds()
	if value, ok := r.Header.Lookup("X-Delete-After"); ok {
		after, ok := wholeSeconds(value)
		if !ok {
			return badRequest("Non-integer X-Delete-After")
		}
		then := timestamp.DeleteAt(now + float64(after))
		if n, _ := wholeSeconds(then); float64(n) <= now {
			return badRequest("X-Delete-After in past")
		}
		r.Header.Set("X-Delete-At", then)
		r.Header.Del("X-Delete-After")
	}
	if value, ok := r.Header.Lookup("X-Delete-At"); ok {
		then, ok := wholeSeconds(value)
		if !ok {
			return badRequest("Non-integer X-Delete-At")
		}
		if n, _ := wholeSeconds(timestamp.DeleteAt(float64(then))); float64(n) <= now && !r.replication() {
			return badRequest("X-Delete-At in past")
		}
	}
	return nil
}

// checkMetadata bounds the fields of a request. Swift: common/constraints.py, check_metadata.
func checkMetadata(r *Request, limits policy.Constraints) error {
	const prefix = "x-object-meta-"
	count, size := 0, 0
	for key, value := range r.Header.All() {
		if len(value) > limits.MaxHeaderSize {
			return badRequest("Header value too long: %s", key[:min(len(key), limits.MaxMetaNameLength)])
		}
		if !strings.HasPrefix(strings.ToLower(key), prefix) {
			continue
		}
		name := key[len(prefix):]
		count++
		size += len(name) + len(value)
		switch {
		case name == "":
			return badRequest("Metadata name cannot be empty")
		case len(name) > limits.MaxMetaNameLength:
			return badRequest("Metadata name too long: %s%s", prefix, name)
		case len(value) > limits.MaxMetaValueLength:
			return badRequest("Metadata value longer than %d: %s%s", limits.MaxMetaValueLength, prefix, name)
		case count > limits.MaxMetaCount:
			return badRequest("Too many metadata items; max %d", limits.MaxMetaCount)
		case size > limits.MaxMetaOverallSize:
			return badRequest("Total metadata too large; max %d", limits.MaxMetaOverallSize)
		}
	}
	return nil
}

// wholeSeconds reads a whole number as Python's int() does; what is beyond 64 bits is the
// largest number, which is beyond all times too.
func wholeSeconds(s string) (int64, bool) {
	if n, ok := conf.ParseInt(s); ok {
		return int64(n), true
	}
	if digits := strings.TrimPrefix(strings.TrimSpace(s), "+"); digits != "" && strings.Trim(digits, "0123456789") == "" {
		return 1<<63 - 1, true
	}
	return 0, false
}

// nextPartPower is that of a ring whose partition power is being raised, or 0.
func (r *Request) nextPartPower() (int, error) {
	value := r.Header.Get("X-Backend-Next-Part-Power")
	if value == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > 32 {
		return 0, badRequest("Invalid X-Backend-Next-Part-Power header")
	}
	return n, nil
}
