// Package suffix holds the suffix hashes of a partition: what a REPLICATE request
// answers, what hashes.pkl keeps, and which suffixes differ between two nodes. It reads
// no directory and computes no hash; io/diskfile does.
package suffix

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"imping/swift/pickle"
)

const (
	// maxFragments bounds the fragment indexes of one suffix: indexes are below 256 in
	// every scheme.
	maxFragments = 1000
	// maxSuffixes is the number of names of three hex digits.
	maxSuffixes = 4096
)

// A full partition whose nodes hold all of 4096 suffixes needs about 90 bytes and two
// objects per index of a suffix; these limits hold 80 indexes in each.
var limits = pickle.Limits{Bytes: 32 << 20, Objects: 1 << 20, Depth: 3}

// Hashes maps a suffix to its entry. A nil entry is Python's None: the suffix exists and
// its hashes are not known.
type Hashes map[string]*Entry

// Entry holds the hashes of one suffix. All are lower-case hex MD5 sums.
type Entry struct {
	Frags Frags
	None  string // of what belongs to no fragment: durability, metadata, tombstones; "" = absent
	Plain string // replication policies have this one only
}

// Frags are the hashes of one suffix by fragment index, in ascending order: a node that
// holds thousands of suffixes, each with one fragment, has no room for a map in each.
type Frags []Frag

// Frag is the hash of all fragments of one index.
type Frag struct {
	Index int
	Hash  string
}

func (f Frags) find(index int) (int, bool) {
	return slices.BinarySearchFunc(f, index, func(g Frag, i int) int { return g.Index - i })
}

// Hash gives the hash of index; "" if there is none.
func (f Frags) Hash(index int) string {
	if i, ok := f.find(index); ok {
		return f[i].Hash
	}
	return ""
}

// Set makes hash that of index.
func (f *Frags) Set(index int, hash string) {
	i, ok := f.find(index)
	if !ok {
		*f = slices.Insert(*f, i, Frag{Index: index})
	}
	(*f)[i].Hash = hash
}

// Empty reports an entry without any hash, which Swift takes for unknown.
func (e *Entry) Empty() bool {
	return e == nil || len(e.Frags) == 0 && e.None == "" && e.Plain == ""
}

func (e *Entry) equal(o *Entry) bool {
	if e == nil || o == nil {
		return e == o
	}
	return e.None == o.None && e.Plain == o.Plain && slices.Equal(e.Frags, o.Frags)
}

// Equal reports whether both hold the same suffixes with the same hashes.
func (h Hashes) Equal(o Hashes) bool { return maps.EqualFunc(h, o, (*Entry).equal) }

// Valid reports whether s can be the name of a suffix directory: three lower-case hex
// digits. Swift: obj/diskfile.py, valid_suffix.
func Valid(s string) bool { return len(s) == 3 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Decode reads the pickle that a REPLICATE request answers. A pickled None (rule 25:
// the answer to suffixes that were to be invalidated) is nil Hashes. Keys that can not
// name a suffix, 'valid' and 'updated' among them, are dropped as no one would look them
// up. Swift: obj/reconstructor.py, _get_suffixes_to_sync.
func Decode(b []byte) (Hashes, error) {
	if f := quick(b); f != nil {
		return f.Hashes, nil
	}
	return decode(b)
}

func decode(b []byte) (Hashes, error) {
	v, err := pickle.Decode(b, limits)
	if err != nil {
		return nil, fmt.Errorf("suffix hashes: %w", err)
	}
	if v == nil {
		return nil, nil
	}
	dict, ok := v.(*pickle.Dict)
	if !ok {
		return nil, errors.New("suffix hashes are not a dict")
	}
	h := make(Hashes, min(len(dict.Pairs), maxSuffixes))
	for _, p := range dict.Pairs {
		name, ok := pickle.Text(p.Key)
		if !ok || !Valid(name) {
			continue
		}
		if h[name], err = entry(p.Value); err != nil {
			return nil, fmt.Errorf("suffix hashes: suffix %s: %w", name, err)
		}
	}
	return h, nil
}

func entry(v any) (*Entry, error) {
	if v == nil {
		return nil, nil
	}
	if _, ok := pickle.Text(v); ok {
		sum, err := md5Hex(v)
		return &Entry{Plain: sum}, err
	}
	dict, ok := v.(*pickle.Dict)
	if !ok {
		return nil, errors.New("neither a dict nor a hash")
	}
	if len(dict.Pairs) > maxFragments {
		return nil, fmt.Errorf("%d fragment indexes exceed the limit of %d", len(dict.Pairs), maxFragments)
	}
	e := &Entry{}
	for _, p := range dict.Pairs {
		sum, err := md5Hex(p.Value)
		if err != nil {
			return nil, err
		}
		switch k := p.Key.(type) {
		case nil:
			e.None = sum
		case int64:
			if k < 0 || k >= maxFragments {
				return nil, fmt.Errorf("fragment index %d is out of range", k)
			}
			e.Frags.Set(int(k), sum)
		default:
			return nil, errors.New("a key is neither None nor a fragment index")
		}
	}
	return e, nil
}

func md5Hex(v any) (string, error) {
	s, ok := pickle.Text(v)
	if !ok || len(s) != 32 || !isHex(s) {
		return "", errors.New("a hash is not 32 hex digits")
	}
	return s, nil
}

// Delta gives the suffixes, sorted, of local whose hashes differ in what the two nodes
// should have in common: that of the local index here and of the remote index there, and
// what belongs to no fragment. A suffix that is unknown here or there differs.
// Swift: obj/reconstructor.py, get_suffix_delta.
func Delta(local Hashes, localIndex int, remote Hashes, remoteIndex int) []string {
	var delta []string
	for s, l := range local {
		r, ok := remote[s]
		if !ok {
			r = &Entry{}
		}
		if l == nil || r == nil || l.None != r.None || l.Plain != r.Plain || l.Frags.Hash(localIndex) != r.Frags.Hash(remoteIndex) {
			delta = append(delta, s)
		}
	}
	slices.Sort(delta)
	return delta
}
