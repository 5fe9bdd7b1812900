package ring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
)

// object is a JSON object of which only the keys that matter were kept. Keys are
// compared as they are written: decoding into a struct would take "Devs" for "devs",
// which Swift does not. The readers keep the first error in err and go on with the
// default.
type object struct {
	values map[string]json.RawMessage
	err    error
}

// parseObject reads a JSON object and keeps the values of keys; of a key that is there
// twice the last, as Python does. A null counts as left out. Others are skipped one by
// one, so that a million of them take no memory.
func parseObject(raw []byte, keys ...string) (*object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	start, err := dec.Token()
	if err != nil {
		return nil, noEOF(err)
	}
	if start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	o := &object{values: make(map[string]json.RawMessage, len(keys))}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, noEOF(err)
		}
		var value json.RawMessage
		var target any = &skipped{}
		name, _ := key.(string)
		known := slices.Contains(keys, name)
		if known {
			target = &value
		}
		if err := dec.Decode(target); err != nil {
			return nil, noEOF(err)
		}
		if known {
			delete(o.values, name)
			if string(value) != "null" {
				o.values[name] = value
			}
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, noEOF(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return o, nil
}

// skipped is a JSON value of any kind that nobody needs.
type skipped struct{}

// UnmarshalJSON takes everything.
func (*skipped) UnmarshalJSON([]byte) error { return nil }

// require notes the first of keys that is missing.
func (o *object) require(keys ...string) {
	for _, key := range keys {
		if _, ok := o.values[key]; !ok {
			o.fail("%s is missing", key)
		}
	}
}

// integer reads a whole number in min..max, however it is written (6200, 6200.0, 6.2e3).
func (o *object) integer(key string, def, min, max int) int {
	raw, ok := o.values[key]
	if !ok {
		return def
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		// Beyond 2^53 a float64 no longer tells which whole number was meant.
		f, err := strconv.ParseFloat(string(raw), 64)
		if !isNumber(raw) || err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			o.fail("%s is not a whole number: %.40s", key, raw)
			return def
		}
		n = int(f)
	}
	if n < min || n > max {
		o.fail("%s is not in %d..%d: %.40s", key, min, max, raw)
		return def
	}
	return n
}

// number reads a finite number; a key that is left out is 0.
func (o *object) number(key string) float64 {
	raw, ok := o.values[key]
	if !ok {
		return 0
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if !isNumber(raw) || err != nil {
		o.fail("%s is not a number: %.40s", key, raw)
		return 0
	}
	return f
}

// text reads a string.
func (o *object) text(key string, def string) string {
	raw, ok := o.values[key]
	if !ok {
		return def
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		o.fail("%s is not a string: %.40s", key, raw)
		return def
	}
	return s
}

func (o *object) fail(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
	}
}

// isNumber tells a JSON number from other valid JSON by how it starts.
func isNumber(raw json.RawMessage) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0]-'0' <= 9)
}
