package pickle

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Encode writes a value of the kinds that Decode returns, and *HeaderKeyDict, in protocol 2, without a memo.
// It panics on any other kind: such a value is a mistake in the caller.
func Encode(v any) []byte {
	return append(appendValue([]byte{0x80, 2}, v), '.')
}

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 'N')
	case bool:
		if v {
			return append(b, 0x88)
		}
		return append(b, 0x89)
	case int64:
		if v == int64(int32(v)) {
			return binary.LittleEndian.AppendUint32(append(b, 'J'), uint32(v))
		}
		return binary.LittleEndian.AppendUint64(append(b, 0x8a, 8), uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'G'), math.Float64bits(v))
	case string:
		return append(binary.LittleEndian.AppendUint32(append(b, 'X'), uint32(len(v))), v...)
	case Bytes:
		if v == "" {
			return append(b, "c__builtin__\nbytes\n)R"...)
		}
		e := &bytesEncoder{out: append(b, "c_codecs\nencode\n"...)}
		e.unicode(string(v))
		e.unicode("latin1")
		return append(e.out, 0x86, 'R')
	case Tuple:
		return append(appendAll(append(b, '('), v), 't')
	case *List:
		return append(appendAll(append(b, ']', '('), v.Items), 'e')
	case *Dict:
		b = append(b, '}', '(')
		for _, p := range v.Pairs {
			b = appendValue(appendValue(b, p.Key), p.Value)
		}
		return append(b, 'u')
	case *HeaderKeyDict:
		b = append(b, "cswift.common.header_key_dict\nHeaderKeyDict\n)\x81("...)
		for _, p := range v.Pairs {
			b = appendValue(appendValue(b, p.Key), p.Value)
		}
		return append(b, 'u')
	}
	panic(fmt.Sprintf("pickle: cannot encode a %T", v))
}

func appendAll(b []byte, items []any) []byte {
	for _, v := range items {
		b = appendValue(b, v)
	}
	return b
}
