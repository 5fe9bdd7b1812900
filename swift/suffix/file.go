package suffix

import (
	"fmt"
	"maps"
	"slices"

	"imping/swift/pickle"
)

// File is the content of a partition's hashes.pkl.
type File struct {
	Valid   bool    // false: the hashes are not to be relied on, all suffixes must be listed
	Updated float64 // Unix time of the last change, -1 if the file does not say
	Hashes  Hashes
}

// DecodeFile reads hashes.pkl. A file without 'valid' is valid. Any key that names no
// suffix makes the whole file wrong, as for Swift; so does, unlike there, a hash that is
// none. Swift: obj/diskfile.py, read_hashes.
func DecodeFile(b []byte) (*File, error) {
	if f := quick(b); f != nil {
		return f, nil
	}
	return decodeFile(b)
}

func decodeFile(b []byte) (*File, error) {
	v, err := pickle.Decode(b, limits)
	if err != nil {
		return nil, fmt.Errorf("hashes.pkl: %w", err)
	}
	dict, ok := v.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("hashes.pkl: not a dict")
	}
	f := &File{Valid: true, Updated: -1, Hashes: make(Hashes, min(len(dict.Pairs), maxSuffixes))}
	for _, p := range dict.Pairs {
		name, _ := pickle.Text(p.Key)
		switch {
		case name == "valid":
			f.Valid = truth(p.Value)
		case name == "updated":
			switch n := p.Value.(type) {
			case float64:
				f.Updated = n
			case int64:
				f.Updated = float64(n)
			}
		case Valid(name):
			if f.Hashes[name], err = entry(p.Value); err != nil {
				return nil, fmt.Errorf("hashes.pkl: suffix %s: %w", name, err)
			}
		default:
			return nil, fmt.Errorf("hashes.pkl: key %.40q names no suffix", name)
		}
	}
	return f, nil
}

// truth is Python's bool(v).
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case pickle.Bytes:
		return v != ""
	}
	return true
}

// Encode writes the file as Swift's write_hashes keeps it: a pickled dict in protocol 2,
// suffixes sorted.
func (f *File) Encode() []byte {
	d := &pickle.Dict{Pairs: make([]pickle.Pair, 0, len(f.Hashes)+2)}
	d.Pairs = append(d.Pairs, pickle.Pair{Key: "valid", Value: f.Valid})
	d.Pairs = append(d.Pairs, f.Hashes.pairs()...)
	d.Pairs = append(d.Pairs, pickle.Pair{Key: "updated", Value: f.Updated})
	return pickle.Encode(d)
}

// Encode writes hashes as a server answers REPLICATE with them; nil is a pickled None.
func (h Hashes) Encode() []byte {
	if h == nil {
		return pickle.Encode(nil)
	}
	return pickle.Encode(&pickle.Dict{Pairs: h.pairs()})
}

func (h Hashes) pairs() []pickle.Pair {
	pairs := make([]pickle.Pair, 0, len(h))
	for _, s := range slices.Sorted(maps.Keys(h)) {
		pairs = append(pairs, pickle.Pair{Key: s, Value: h[s].value()})
	}
	return pairs
}

func (e *Entry) value() any {
	if e == nil {
		return nil
	}
	if e.Plain != "" {
		return e.Plain
	}
	d := &pickle.Dict{}
	if e.None != "" {
		d.Pairs = append(d.Pairs, pickle.Pair{Value: e.None})
	}
	for _, f := range e.Frags {
		d.Pairs = append(d.Pairs, pickle.Pair{Key: int64(f.Index), Value: f.Hash})
	}
	return d
}
