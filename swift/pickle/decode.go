// Package pickle reads and writes the few Python pickles that Swift's object servers
// exchange and keep: metadata, suffix hashes. It is not a general unpickler: it knows
// the opcodes of protocols 0 to 2 that plain data needs and two globals, it runs nothing
// and instantiates nothing, and it bounds the input, the objects, the nesting and the
// memo; every other opcode is refused by name. (A general decoder such as
// kisielk/og-rek reads all of the format and has no such bounds.)
package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limits bound what Decode does for a pickle.
type Limits struct {
	Bytes   int // length of the input
	Objects int // values made, and slots of the memo
	Depth   int // containers inside containers
}

// refused names the opcodes that exist and are not read here.
var refused = map[byte]string{
	'0': "POP", '1': "POP_MARK", '2': "DUP", 'P': "PERSID", 'Q': "BINPERSID", 'b': "BUILD",
	'i': "INST", 'o': "OBJ", 0x81: "NEWOBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
	'B': "BINBYTES", 'C': "SHORT_BINBYTES", 0x8c: "SHORT_BINUNICODE", 0x8d: "BINUNICODE8",
	0x8e: "BINBYTES8", 0x8f: "EMPTY_SET", 0x90: "ADDITEMS", 0x91: "FROZENSET",
	0x92: "NEWOBJ_EX", 0x93: "STACK_GLOBAL", 0x94: "MEMOIZE", 0x95: "FRAME",
	0x96: "BYTEARRAY8", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}

// global is one of the two callables that REDUCE may call.
type global int

const (
	codecsEncode global = iota // _codecs.encode: how Python 3 writes bytes in protocol 2
	bytesType                  // bytes: how it writes empty bytes
)

var globals = map[string]global{
	"_codecs encode":    codecsEncode,
	"__builtin__ bytes": bytesType,
	"builtins bytes":    bytesType,
}

type mark struct{}

var errTruncated = errors.New("it ends too early")

type decoder struct {
	in      string // values are substrings of it wherever possible
	pos     int
	limits  Limits
	objects int
	made    int // bytes made by calls of _codecs.encode
	stack   []any
	memo    []any
}

// Decode runs a pickle and returns its value. What follows the STOP opcode is not
// looked at, as in Python. Containers can not be fetched from the memo (nothing that
// Swift writes shares one), so a value is a tree and its size is that of the input.
func Decode(b []byte, limits Limits) (any, error) {
	if len(b) > limits.Bytes {
		return nil, refuse("pickle of %d bytes exceeds the limit of %d", len(b), limits.Bytes)
	}
	// A suffix hash and its key take some 50 bytes of a pickle: room for what is mostly
	// there saves most of the copying; it is a fraction of the input.
	d := &decoder{in: string(b), limits: limits, stack: make([]any, 0, 64), memo: make([]any, 0, len(b)/24)}
	for {
		at := d.pos
		if at >= len(d.in) {
			return nil, fmt.Errorf("cannot decode pickle of %d bytes: %w", len(d.in), errTruncated)
		}
		op := d.in[at]
		d.pos++
		if op == '.' {
			v, err := d.pop()
			if err == nil && len(d.stack) != 0 {
				err = refuse("%d values are left behind", len(d.stack))
			}
			if g, ok := v.(global); ok && err == nil {
				err = refuse("its value is a %s", typeName(g))
			}
			if err != nil {
				return nil, fmt.Errorf("cannot decode pickle: STOP at byte %d: %w", at, err)
			}
			return v, nil
		}
		if err := d.step(op); err != nil {
			return nil, fmt.Errorf("cannot decode pickle: opcode %q at byte %d: %w", op, at, err)
		}
	}
}

func (d *decoder) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		b, err := d.take(1)
		if err != nil {
			return err
		}
		if b[0] > 2 {
			return refuse("protocol %d (2 is the highest that is read)", b[0])
		}
		return nil
	case '(':
		return d.push(mark{})
	case 'N':
		return d.push(nil)
	case 0x88:
		return d.push(true)
	case 0x89:
		return d.push(false)
	case 'I':
		return d.textInt()
	case 'L':
		s, err := d.line()
		if err != nil {
			return err
		}
		return d.pushDecimal(strings.TrimSuffix(s, "L"))
	case 'J':
		b, err := d.take(4)
		if err != nil {
			return err
		}
		return d.push(int64(int32(le32(b))))
	case 'K':
		b, err := d.take(1)
		if err != nil {
			return err
		}
		return d.push(int64(b[0]))
	case 'M':
		b, err := d.take(2)
		if err != nil {
			return err
		}
		return d.push(int64(b[0]) | int64(b[1])<<8)
	case 0x8a:
		return d.long(1)
	case 0x8b:
		return d.long(4)
	case 'F':
		s, err := d.line()
		if err != nil {
			return err
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%s is not a float", clip(s))
		}
		return d.push(f)
	case 'G':
		b, err := d.take(8)
		if err != nil {
			return err
		}
		return d.push(math.Float64frombits(binary.BigEndian.Uint64([]byte(b))))
	case 'S':
		return d.quoted()
	case 'T':
		b, err := d.counted(4)
		if err != nil {
			return err
		}
		return d.push(Bytes(b))
	case 'U':
		b, err := d.counted(1)
		if err != nil {
			return err
		}
		return d.push(Bytes(b))
	case 'V':
		return d.rawUnicode()
	case 'X':
		s, err := d.counted(4)
		if err != nil {
			return err
		}
		if !validUnicode(s) {
			return fmt.Errorf("%s is not UTF-8", clip(s))
		}
		return d.push(s)
	case '}':
		return d.push(&Dict{depth: 1})
	case ']':
		return d.push(&List{depth: 1})
	case ')':
		return d.push(Tuple{})
	case 'd':
		items, err := d.toMark()
		if err != nil {
			return err
		}
		dict := &Dict{depth: 1}
		if err := d.setItems(dict, items); err != nil {
			return err
		}
		return d.push(dict)
	case 'l':
		items, err := d.toMark()
		if err != nil {
			return err
		}
		list := &List{depth: 1}
		if err := d.append(list, items); err != nil {
			return err
		}
		return d.push(list)
	case 't':
		items, err := d.toMark()
		if err != nil {
			return err
		}
		return d.tuple(items)
	case 0x85, 0x86, 0x87:
		items, err := d.popN(int(op - 0x84))
		if err != nil {
			return err
		}
		return d.tuple(items)
	case 's':
		items, err := d.popN(2)
		if err != nil {
			return err
		}
		return d.setTop(items)
	case 'u':
		items, err := d.toMark()
		if err != nil {
			return err
		}
		return d.setTop(items)
	case 'a':
		items, err := d.popN(1)
		if err != nil {
			return err
		}
		return d.appendTop(items)
	case 'e':
		items, err := d.toMark()
		if err != nil {
			return err
		}
		return d.appendTop(items)
	case 'c':
		module, err := d.line()
		if err != nil {
			return err
		}
		name, err := d.line()
		if err != nil {
			return err
		}
		g, ok := globals[module+" "+name]
		if !ok {
			return refuse("global %s.%s is not allowed", clip(module), clip(name))
		}
		return d.push(g)
	case 'R':
		return d.reduce()
	case 'p', 'g':
		s, err := d.line()
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return fmt.Errorf("%s is not a memo index", clip(s))
		}
		return d.putOrGet(op == 'p', n)
	case 'q', 'h':
		b, err := d.take(1)
		if err != nil {
			return err
		}
		return d.putOrGet(op == 'q', uint64(b[0]))
	case 'r', 'j':
		b, err := d.take(4)
		if err != nil {
			return err
		}
		return d.putOrGet(op == 'r', uint64(le32(b)))
	}
	if name, ok := refused[op]; ok {
		return refuse("%s is not allowed", name)
	}
	return errors.New("no such opcode")
}

func le32(b string) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// clip keeps errors short whatever the input was.
func clip(s string) string {
	if len(s) > 40 {
		return strconv.QuoteToASCII(s[:40]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

func (d *decoder) take(n int) (string, error) {
	if n > len(d.in)-d.pos {
		return "", errTruncated
	}
	s := d.in[d.pos : d.pos+n]
	d.pos += n
	return s, nil
}

// counted takes a length of size bytes and that many bytes; the length is checked
// against what is there before anything is made of it.
func (d *decoder) counted(size int) (string, error) {
	head, err := d.take(size)
	if err != nil {
		return "", err
	}
	n := uint32(head[0])
	if size == 4 {
		n = le32(head)
	}
	if int64(n) > int64(len(d.in)-d.pos) {
		return "", fmt.Errorf("%d bytes are announced, %d are left", n, len(d.in)-d.pos)
	}
	return d.take(int(n))
}

func (d *decoder) line() (string, error) {
	n := strings.IndexByte(d.in[d.pos:], '\n')
	if n < 0 {
		return "", errTruncated
	}
	s := d.in[d.pos : d.pos+n]
	d.pos += n + 1
	return s, nil
}

func (d *decoder) push(v any) error {
	if d.objects++; d.objects > d.limits.Objects {
		return refuse("more than %d objects", d.limits.Objects)
	}
	d.stack = append(d.stack, v)
	return nil
}

func (d *decoder) pop() (any, error) {
	items, err := d.popN(1)
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// popN takes the last n values; a mark among them ends the pickle.
func (d *decoder) popN(n int) ([]any, error) {
	at := len(d.stack) - n
	if at < 0 {
		return nil, errors.New("stack underflow")
	}
	items := d.stack[at:]
	for _, v := range items {
		if _, ok := v.(mark); ok {
			return nil, errors.New("unexpected MARK")
		}
	}
	d.stack = d.stack[:at]
	return items, nil
}

// toMark takes the values above the last mark, and the mark.
func (d *decoder) toMark() ([]any, error) {
	for at := len(d.stack) - 1; at >= 0; at-- {
		if _, ok := d.stack[at].(mark); ok {
			items := d.stack[at+1:]
			d.stack = d.stack[:at]
			return items, nil
		}
	}
	return nil, errors.New("no MARK")
}

// nested is the depth of a container that holds v.
func (d *decoder) nested(v any) (int, error) {
	depth := 1
	switch v := v.(type) {
	case *Dict:
		depth = v.depth + 1
	case *List:
		depth = v.depth + 1
	case Tuple:
		for _, item := range v {
			n, err := d.nested(item)
			if err != nil {
				return 0, err
			}
			depth = max(depth, n+1)
		}
		depth = max(depth, 2)
	case global:
		return 0, refuse("a global is not a value")
	}
	if depth > d.limits.Depth {
		return 0, refuse("nested deeper than %d", d.limits.Depth)
	}
	return depth, nil
}

func (d *decoder) tuple(items []any) error {
	t := Tuple(append([]any(nil), items...))
	if _, err := d.nested(t); err != nil {
		return err
	}
	return d.push(t)
}

func (d *decoder) setTop(items []any) error {
	if len(d.stack) == 0 {
		return errors.New("stack underflow")
	}
	dict, ok := d.stack[len(d.stack)-1].(*Dict)
	if !ok {
		return fmt.Errorf("items for a %s", typeName(d.stack[len(d.stack)-1]))
	}
	return d.setItems(dict, items)
}

func (d *decoder) setItems(dict *Dict, items []any) error {
	if len(items)%2 != 0 {
		return errors.New("a key without a value")
	}
	dict.Pairs = slices.Grow(dict.Pairs, len(items)/2)
	for i := 0; i < len(items); i += 2 {
		switch items[i].(type) {
		case *Dict, *List, global:
			return fmt.Errorf("a %s can not be a key", typeName(items[i]))
		}
		for _, v := range items[i : i+2] {
			n, err := d.nested(v)
			if err != nil {
				return err
			}
			dict.depth = max(dict.depth, n)
		}
		dict.Pairs = append(dict.Pairs, Pair{items[i], items[i+1]})
	}
	return nil
}

func (d *decoder) appendTop(items []any) error {
	if len(d.stack) == 0 {
		return errors.New("stack underflow")
	}
	list, ok := d.stack[len(d.stack)-1].(*List)
	if !ok {
		return fmt.Errorf("items for a %s", typeName(d.stack[len(d.stack)-1]))
	}
	return d.append(list, items)
}

func (d *decoder) append(list *List, items []any) error {
	for _, v := range items {
		n, err := d.nested(v)
		if err != nil {
			return err
		}
		list.depth = max(list.depth, n)
	}
	list.Items = append(list.Items, items...)
	return nil
}

// putOrGet keeps the top of the stack in the memo or pushes what the memo holds.
// Picklers number the memo upwards, so an index beyond the bytes read so far is wrong:
// that bounds the memo by the input.
func (d *decoder) putOrGet(put bool, n uint64) error {
	if put {
		if len(d.stack) == 0 {
			return errors.New("stack underflow")
		}
		if n >= uint64(d.limits.Objects) || n >= uint64(d.pos) {
			return fmt.Errorf("memo index %d is out of bounds", n)
		}
		top := d.stack[len(d.stack)-1]
		if _, ok := top.(mark); ok {
			return errors.New("unexpected MARK")
		}
		for uint64(len(d.memo)) <= n {
			d.memo = append(d.memo, mark{})
		}
		d.memo[n] = top
		return nil
	}
	if n >= uint64(len(d.memo)) {
		return fmt.Errorf("memo index %d was never put", n)
	}
	switch v := d.memo[n].(type) {
	case mark:
		return fmt.Errorf("memo index %d was never put", n)
	case *Dict, *List, Tuple:
		return refuse("memo index %d is a shared %s, which is not allowed", n, typeName(v))
	}
	return d.push(d.memo[n])
}

func (d *decoder) reduce() error {
	items, err := d.popN(2)
	if err != nil {
		return err
	}
	g, ok := items[0].(global)
	if !ok {
		return fmt.Errorf("a %s can not be called", typeName(items[0]))
	}
	args, ok := items[1].(Tuple)
	if !ok {
		return fmt.Errorf("arguments are a %s", typeName(items[1]))
	}
	if g == bytesType {
		if len(args) != 0 {
			return errors.New("bytes is called with arguments")
		}
		return d.push(Bytes(""))
	}
	if len(args) != 2 {
		return fmt.Errorf("_codecs.encode is called with %d arguments", len(args))
	}
	text, ok := args[0].(string)
	if !ok {
		return fmt.Errorf("_codecs.encode of a %s", typeName(args[0]))
	}
	if coding, _ := Text(args[1]); coding != "latin1" && coding != "latin-1" {
		return fmt.Errorf("_codecs.encode to %s", clip(coding))
	}
	// One long text in the memo could be encoded again and again.
	if d.made += len(text); d.made > 2*len(d.in) {
		return errors.New("_codecs.encode makes more bytes than the pickle has")
	}
	b, err := latin1(text)
	if err != nil {
		return err
	}
	return d.push(Bytes(b))
}

func (d *decoder) textInt() error {
	s, err := d.line()
	if err != nil {
		return err
	}
	switch s {
	case "00":
		return d.push(false)
	case "01":
		return d.push(true)
	}
	return d.pushDecimal(s)
}

func (d *decoder) pushDecimal(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%s is not an integer of 64 bits", clip(s))
	}
	return d.push(n)
}

func (d *decoder) long(size int) error {
	b, err := d.counted(size)
	if err != nil {
		return err
	}
	if len(b) > 8 {
		return refuse("an integer of %d bytes", len(b))
	}
	var n int64
	for i := range len(b) {
		n |= int64(b[i]) << (8 * i)
	}
	if l := len(b); l > 0 && l < 8 && b[l-1] >= 0x80 {
		n -= 1 << (8 * l)
	}
	return d.push(n)
}

// quoted reads the repr of a Python 2 str.
func (d *decoder) quoted() error {
	s, err := d.line()
	if err != nil {
		return err
	}
	if len(s) < 2 || (s[0] != '\'' && s[0] != '"') || s[len(s)-1] != s[0] {
		return fmt.Errorf("%s is not a quoted string", clip(s))
	}
	s = s[1 : len(s)-1]
	if strings.IndexByte(s, '\\') < 0 {
		return d.push(Bytes(s))
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		if i++; i == len(s) {
			return fmt.Errorf("%s ends in a backslash", clip(s))
		}
		switch s[i] {
		case '\\', '\'', '"':
			b = append(b, s[i])
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'x':
			if i+2 >= len(s) {
				return fmt.Errorf("%s has a broken escape", clip(s))
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return fmt.Errorf("%s has a broken escape", clip(s))
			}
			b = append(b, byte(n))
			i += 2
		default:
			return fmt.Errorf("%s has an unknown escape", clip(s))
		}
	}
	return d.push(Bytes(b))
}

// rawUnicode reads Python's raw-unicode-escape: latin-1 with \uXXXX and \UXXXXXXXX.
func (d *decoder) rawUnicode() error {
	s, err := d.line()
	if err != nil {
		return err
	}
	if isASCII(s) && strings.IndexByte(s, '\\') < 0 {
		return d.push(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = appendRune(b, rune(s[i]))
			continue
		}
		i++
		n := map[byte]int{'u': 4, 'U': 8}[s[i]]
		if n == 0 {
			b = appendRune(append(b, '\\'), rune(s[i]))
			continue
		}
		if i+n >= len(s) {
			return fmt.Errorf("%s has a broken escape", clip(s))
		}
		r, err := strconv.ParseUint(s[i+1:i+1+n], 16, 32)
		if err != nil || r > 0x10FFFF {
			return fmt.Errorf("%s has a broken escape", clip(s))
		}
		b = appendRune(b, rune(r))
		i += n
	}
	return d.push(string(b))
}
