package pickle

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Metadata pickles are a few KiB (Swift's limits on headers and user metadata); the
// bounds leave room for operators who raised them.
var metadataLimits = Limits{Bytes: 1 << 20, Objects: 100_000, Depth: 4}

// DecodeMetadata decodes the pickle of an object's metadata, written by Python 2 or 3,
// to raw bytes: nothing is transcoded, unicode text is taken as its UTF-8. Integers
// become decimal text; keys that are not strings and all other values are refused.
// Swift: obj/diskfile.py, read_metadata and _decode_metadata.
func DecodeMetadata(b []byte) (map[string]string, error) {
	if m, ok := decodeUsual(string(b)); ok {
		return m, nil
	}
	v, err := Decode(b, metadataLimits)
	if err != nil {
		return nil, err
	}
	dict, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("metadata is a %s, not a dict", typeName(v))
	}
	m := make(map[string]string, len(dict.Pairs))
	for _, p := range dict.Pairs {
		var key string
		switch k := p.Key.(type) {
		case Bytes:
			key = string(k)
		case string:
			if key, err = rawBytes(k); err != nil {
				return nil, refuse("metadata key %s: %w", clip(k), err)
			}
		default:
			return nil, refuse("metadata has a key of type %s", typeName(p.Key))
		}
		switch v := p.Value.(type) {
		case Bytes:
			m[key] = string(v)
		case string:
			if m[key], err = rawBytes(v); err != nil {
				return nil, refuse("metadata %s: %w", clip(key), err)
			}
		case int64:
			m[key] = strconv.FormatInt(v, 10)
		default:
			return nil, refuse("metadata %s is a %s, not text", clip(key), typeName(p.Value))
		}
	}
	return m, nil
}

// decodeUsual reads what EncodeMetadata writes of up to 1000 pairs of ASCII texts, none empty and none of one byte twice, as nearly all metadata is, in a tenth of
// the time that Decode takes. It is false for all else, which is for Decode to read or refuse.
func decodeUsual(s string) (map[string]string, bool) {
	if len(s) > metadataLimits.Bytes || len(s) < 8 || s[:6] != "\x80\x02}q\x00(" {
		return nil, false
	}
	u := usual{s: s, pos: 6, memo: 1, encode: -1, latin1: -1}
	m := make(map[string]string, 16)
	for u.s[u.pos:] != "u." {
		key, ok := u.text()
		value, ok2 := u.text()
		if !ok || !ok2 || len(m) == 1000 {
			return nil, false
		}
		m[key] = value
	}
	return m, len(m) > 1
}

// usual is where decodeUsual is: memo is the number that the next value gets.
type usual struct {
	s                         string
	pos, memo, encode, latin1 int
}

func (u *usual) skip(what string) bool {
	if !strings.HasPrefix(u.s[u.pos:], what) {
		return false
	}
	u.pos += len(what)
	return true
}

// numbered skips an opcode with a memo number: of one byte, or of four where that is not enough.
func (u *usual) numbered(short, long byte, n int) bool {
	rest := u.s[u.pos:]
	switch {
	case n < 256 && len(rest) >= 2 && rest[0] == short && rest[1] == byte(n):
		u.pos += 2
	case n >= 256 && len(rest) >= 5 && rest[0] == long && rest[1:5] == string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}):
		u.pos += 5
	default:
		return false
	}
	return true
}

func (u *usual) put() bool {
	u.memo++
	return u.numbered('q', 'r', u.memo-1)
}

// shared skips what is written out the first time and fetched from the memo later.
func (u *usual) shared(n *int, what string) bool {
	if *n >= 0 {
		return u.numbered('h', 'j', *n)
	}
	*n = u.memo
	return u.skip(what) && u.put()
}

func (u *usual) text() (string, bool) {
	if !u.shared(&u.encode, "c_codecs\nencode\n") {
		return "", false
	}
	rest := u.s[u.pos:]
	if len(rest) < 5 || rest[0] != 'X' {
		return "", false
	}
	n := int(rest[1]) | int(rest[2])<<8 | int(rest[3])<<16 | int(rest[4])<<24
	if n < 1 || n > len(rest)-5 {
		return "", false
	}
	text := rest[5 : 5+n]
	for i := range len(text) {
		if text[i] >= 0x80 {
			return "", false
		}
	}
	u.pos += 5 + n
	return text, u.put() && u.shared(&u.latin1, "X\x06\x00\x00\x00latin1") && u.skip("\x86") && u.put() && u.skip("R") && u.put()
}

// EncodeMetadata writes metadata byte for byte as Python 3's pickle.dumps(m, 2) does for
// a dict of bytes that was filled in the given order; keys of m that order does not name
// follow sorted, names that m lacks are skipped. Other readers of Swift take a pickle
// with an empty first key for one of Python 2.
// Swift: obj/diskfile.py, write_metadata and _encode_metadata.
func EncodeMetadata(m map[string]string, order []string) []byte {
	keys := make([]string, 0, len(m))
	seen := make(map[string]bool, len(m))
	for _, k := range order {
		if _, ok := m[k]; ok && !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	if len(keys) < len(m) {
		rest := make([]string, 0, len(m)-len(keys))
		for k := range m {
			if !seen[k] {
				rest = append(rest, k)
			}
		}
		slices.Sort(rest)
		keys = append(keys, rest...)
	}

	e := &bytesEncoder{encode: -1, bytes: -1, latin1: -1, short: map[string]int{}}
	e.out = append(e.out, 0x80, 2, '}')
	e.put()
	switch {
	case len(keys) == 1:
		e.text(keys[0])
		e.text(m[keys[0]])
		e.out = append(e.out, 's')
	case len(keys) > 1:
		// Python writes batches of 1000 and, after a full one, another.
		for {
			n := min(len(keys), 1000)
			e.out = append(e.out, '(')
			for _, k := range keys[:n] {
				e.text(k)
				e.text(m[k])
			}
			e.out = append(e.out, 'u')
			if keys = keys[n:]; n < 1000 {
				break
			}
		}
	}
	return append(e.out, '.')
}

// bytesEncoder writes bytes values in protocol 2, with the memo numbers that Python's
// pickler gives. The fields hold memo numbers, -1 while there is none.
type bytesEncoder struct {
	out    []byte
	memo   int
	encode int            // _codecs.encode
	bytes  int            // the type bytes
	latin1 int            // the string 'latin1'
	short  map[string]int // bytes objects of length 0 and 1: Python has one of each
}

func (e *bytesEncoder) put() int {
	n := e.memo
	e.memo++
	if n < 256 {
		e.out = append(e.out, 'q', byte(n))
	} else {
		e.out = append(e.out, 'r', byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	return n
}

func (e *bytesEncoder) get(n int) {
	if n < 256 {
		e.out = append(e.out, 'h', byte(n))
	} else {
		e.out = append(e.out, 'j', byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
}

func (e *bytesEncoder) global(memo *int, name string) {
	if *memo >= 0 {
		e.get(*memo)
		return
	}
	e.out = append(append(e.out, 'c'), name...)
	*memo = e.put()
}

func (e *bytesEncoder) text(s string) {
	if len(s) <= 1 {
		if n, ok := e.short[s]; ok {
			e.get(n)
			return
		}
	}
	if s == "" {
		e.global(&e.bytes, "__builtin__\nbytes\n")
		e.out = append(e.out, ')', 'R')
		e.short[s] = e.put()
		return
	}
	e.global(&e.encode, "_codecs\nencode\n")
	e.unicode(s)
	e.put()
	if e.latin1 >= 0 {
		e.get(e.latin1)
	} else {
		e.unicode("latin1")
		e.latin1 = e.put()
	}
	e.out = append(e.out, 0x86)
	e.put()
	e.out = append(e.out, 'R')
	if n := e.put(); len(s) == 1 {
		e.short[s] = n
	}
}

// unicode writes the bytes of s, each taken as a latin-1 character.
func (e *bytesEncoder) unicode(s string) {
	n := len(s)
	for i := range len(s) {
		n += int(s[i] >> 7)
	}
	e.out = append(e.out, 'X', byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	for i := range len(s) {
		e.out = appendRune(e.out, rune(s[i]))
	}
}
