package diskfile

import (
	"strings"
	"unicode/utf8"
)

// Wire turns metadata, a name or a value, as Python 3 keeps it on disk (the client's bytes,
// each taken for a Latin-1 character, in UTF-8) back into the client's bytes. The sender of
// 2.30.1 sends the UTF-8, which the receiver then encodes once more: metadata changed by a
// rebuild. What was not written that way goes as it is. The object's name is kept otherwise:
// as its bytes.
func Wire(s string) string {
	if isASCII(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r > 0xff || (r == utf8.RuneError && n == 1) {
			return s
		}
		b.WriteByte(byte(r))
		i += n
	}
	return b.String()
}

// Stored is the reverse of Wire: what is kept on disk of the bytes that a client sent.
func Stored(s string) string {
	if isASCII(s) {
		return s
	}
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = utf8.AppendRune(b, rune(s[i]))
	}
	return string(b)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
