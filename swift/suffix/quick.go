package suffix

import (
	"encoding/binary"
	"math"
	"strings"
)

// quickLimit is up to which length a pickle is tried here: within it neither count nor memory
// can come near the limits of the general way.
const quickLimit = 1 << 20

// quick reads suffix hashes, in an answer or in hashes.pkl, of the one form that Swift and imping
// write, straight into what is wanted. nil: it is something else, or wrong, which the general
// way, through a tree of values that it takes ten times as long to make, reads or refuses. A
// pass with nothing to do reads four for each partition.
func quick(b []byte) *File {
	if len(b) > quickLimit {
		return nil
	}
	q := quickReader{in: string(b)}
	f := &File{Valid: true, Updated: -1, Hashes: make(Hashes)}
	if !q.is(0x80) || !q.is(2) {
		return nil
	}
	item := func() bool {
		name, ok := q.text()
		switch {
		case !ok:
			return false
		case name == "valid":
			f.Valid = q.is(0x88)
			return f.Valid || q.is(0x89)
		case name == "updated":
			f.Updated, ok = q.float()
			return ok
		case Valid(name):
			f.Hashes[name], ok = q.entry()
			return ok
		}
		return false
	}
	if !q.dict("XU", item) || !q.is('.') {
		return nil
	}
	return f
}

// quickReader takes from in what it is asked for, if that is what comes next.
type quickReader struct {
	in  string
	pos int
}

func (q *quickReader) next() byte {
	if q.pos < len(q.in) {
		return q.in[q.pos]
	}
	return 0 // no opcode
}

func (q *quickReader) is(op byte) bool {
	if q.pos == len(q.in) || q.in[q.pos] != op {
		return false
	}
	q.pos++
	return true
}

func (q *quickReader) take(n int) (s string, ok bool) {
	if n > len(q.in)-q.pos {
		return "", false
	}
	s = q.in[q.pos : q.pos+n]
	q.pos += n
	return s, true
}

// memo passes over the note that the value before is number such and such, which nothing here
// refers to.
func (q *quickReader) memo() bool {
	at := q.pos
	switch {
	case q.is('q'):
		n, ok := q.take(1)
		return ok && int(n[0]) <= at
	case q.is('r'):
		n, ok := q.take(4)
		return ok && int64(le32(n)) <= int64(at)
	}
	return true
}

// text is BINUNICODE or SHORT_BINSTRING, in ASCII.
func (q *quickReader) text() (s string, ok bool) {
	n := 0
	switch {
	case q.is('X'):
		if s, ok = q.take(4); !ok || le32(s) > math.MaxInt16 {
			return "", false
		}
		n = int(le32(s))
	case q.is('U'):
		if s, ok = q.take(1); !ok {
			return "", false
		}
		n = int(s[0])
	default:
		return "", false
	}
	s, ok = q.take(n)
	return s, ok && q.memo()
}

func le32(s string) uint32 {
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

func (q *quickReader) float() (float64, bool) {
	if !q.is('G') {
		return 0, false
	}
	s, ok := q.take(8)
	if !ok {
		return 0, false
	}
	return math.Float64frombits(binary.BigEndian.Uint64([]byte(s))), true
}

// dict reads a dict, whose items item reads: each key and its value. The opcodes that keys
// begin with tell an item from what follows the dict.
func (q *quickReader) dict(keys string, item func() bool) bool {
	if !q.is('}') || !q.memo() {
		return false
	}
	for {
		switch op := q.next(); {
		case op == '(': // many
			for q.pos++; !q.is('u'); {
				if !item() {
					return false
				}
			}
		case strings.IndexByte(keys, op) >= 0: // one
			if !item() || !q.is('s') {
				return false
			}
		default:
			return true
		}
	}
}

func (q *quickReader) entry() (*Entry, bool) {
	switch q.next() {
	case 'N':
		q.pos++
		return nil, true
	case '}':
		e, pairs := new(Entry), 0
		ok := q.dict("KJN", func() bool {
			if pairs++; pairs > maxFragments {
				return false
			}
			if q.is('N') {
				var ok bool
				e.None, ok = q.sum()
				return ok
			}
			index, ok := q.index()
			if !ok {
				return false
			}
			sum, ok := q.sum()
			e.Frags.Set(index, sum)
			return ok
		})
		return e, ok
	}
	sum, ok := q.sum()
	return &Entry{Plain: sum}, ok
}

// index is a fragment's: BININT1 by Python, BININT by imping.
func (q *quickReader) index() (n int, ok bool) {
	var s string
	switch {
	case q.is('K'):
		if s, ok = q.take(1); ok {
			n = int(s[0])
		}
	case q.is('J'):
		if s, ok = q.take(4); ok {
			n = int(int32(le32(s)))
		}
	}
	return n, ok && n >= 0 && n < maxFragments
}

func (q *quickReader) sum() (string, bool) {
	s, ok := q.text()
	return s, ok && len(s) == 32 && isHex(s)
}
