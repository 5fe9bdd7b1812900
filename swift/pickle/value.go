package pickle

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoded value is one of nil, bool, int64, float64, string (Python's unicode, as
// UTF-8 in which a lone surrogate keeps its three-byte form), Bytes, Tuple, *List and
// *Dict.

// Bytes is Python 3's bytes or Python 2's str.
type Bytes string

// Tuple is Python's tuple.
type Tuple []any

// List is Python's list.
type List struct {
	Items []any
	depth int
}

// Dict is Python's dict as it was written: its pairs in order, a key that came twice
// included. The later of two equal keys counts.
type Dict struct {
	Pairs []Pair
	depth int
}

// HeaderKeyDict is the dict of headers that Swift keeps in container updates that wait: it is
// written, not read. Swift: common/header_key_dict.py.
type HeaderKeyDict struct{ Pairs []Pair }

// Pair is a key of a Dict and its value.
type Pair struct{ Key, Value any }

// Text gives the text of a value that Python 2 wrote as str or unicode and Python 3 as
// str or bytes; ok is false for every other kind.
func Text(v any) (text string, ok bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case Bytes:
		return string(v), true
	}
	return "", false
}

// typeName names a value's kind in errors, in Python's words.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case Bytes:
		return "bytes"
	case Tuple:
		return "tuple"
	case *List:
		return "list"
	case *Dict:
		return "dict"
	case global:
		return "global"
	}
	return fmt.Sprintf("%T", v)
}

// surrogate reports whether s starts with a surrogate in the three-byte form that
// Python's 'surrogatepass' reads, and which.
func surrogate(s string) (rune, bool) {
	if len(s) < 3 || s[0] != 0xED || s[1] < 0xA0 || s[1] > 0xBF || s[2]&0xC0 != 0x80 {
		return 0, false
	}
	return 0xD000 | rune(s[1]&0x3F)<<6 | rune(s[2]&0x3F), true
}

// appendRune appends r as UTF-8; unlike utf8.AppendRune it keeps a surrogate.
func appendRune(dst []byte, r rune) []byte {
	if r >= 0xD800 && r <= 0xDFFF {
		return append(dst, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0xBF)
	}
	return utf8.AppendRune(dst, r)
}

// validUnicode is what Python's decode('utf8', 'surrogatepass') accepts.
func validUnicode(s string) bool {
	if utf8.ValidString(s) {
		return true
	}
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			if _, ok := surrogate(s); !ok {
				return false
			}
			n = 3
		}
		s = s[n:]
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// latin1 is Python's s.encode('latin1').
func latin1(s string) (string, error) {
	if isASCII(s) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i, r := range s {
		if r > 0xFF {
			return "", fmt.Errorf("character at byte %d does not fit latin1", i)
		}
		b = append(b, byte(r))
	}
	return string(b), nil
}

// rawBytes is Python's s.encode('utf8', 'surrogateescape'): the bytes that a native
// string of Swift stands for.
func rawBytes(s string) (string, error) {
	if utf8.ValidString(s) {
		return s, nil
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			sur, ok := surrogate(s)
			if !ok || sur < 0xDC80 || sur > 0xDCFF {
				return "", fmt.Errorf("unicode text holds a surrogate (%s) that stands for no byte", strconv.QuoteToASCII(s[:min(3, len(s))]))
			}
			b.WriteByte(byte(sur))
			s = s[3:]
			continue
		}
		b.WriteString(s[:n])
		s = s[n:]
	}
	return b.String(), nil
}
