package objhash

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"imping/lab/oracle"
)

// swiftHashes hashes each name, given as bytes in latin-1, and tells its partition at
// each power and its directory.
const swiftHashes = `
import json, struct, sys
from swift.common import utils
q = json.load(sys.stdin)
b = lambda s: s.encode('latin1')
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b(q['prefix']), b(q['suffix'])
out = []
for names in q['names']:
    h = utils.hash_path(*[b(n) for n in names])
    raw = utils.hash_path(*[b(n) for n in names], raw_digest=True)
    out.append(dict(hash=h, dir=utils.storage_directory('objects', 7, h),
                    parts=[struct.unpack_from('>I', raw)[0] >> (32 - p) for p in range(33)]))
json.dump(out, sys.stdout)
`

// latin1 carries bytes through JSON.
func latin1(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

func TestHashesPartitionsAndSuffixesAreSwifts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	names := [][3]string{
		{"AUTH_test", "c", "o"}, {"AUTH_test", "c", ""}, {"AUTH_test", "", ""}, {"a", "c", "o/with//slashes/"}, {"ä", "контейнер", "鷹狩り/🪶"},
		{"a", "c", " "}, {"a", "c", "\x00\n%41"}, {"a", "c", "\xff\xfe not UTF-8"}, {"a", "c", strings.Repeat("é", 512)},
	}
	alphabet := []rune("abc/é鷹🪶 \u0000")
	for range 500 {
		o := make([]rune, 1+r.IntN(30))
		for i := range o {
			o[i] = alphabet[r.IntN(len(alphabet))]
		}
		names = append(names, [3]string{"AUTH_" + fmt.Sprint(r.IntN(100)), "c" + string(o[0]), string(o)})
	}
	h := Hasher{Prefix: []byte("préfix\xff"), Suffix: []byte("\x00changeme")}
	wire := make([][3]string, len(names))
	for i, n := range names {
		for j := range n {
			wire[i][j] = latin1(n[j])
		}
	}
	var answers []struct {
		Hash, Dir string
		Parts     []int
	}
	oracle.Ask(t, swiftHashes, map[string]any{"prefix": latin1(string(h.Prefix)), "suffix": latin1(string(h.Suffix)), "names": wire}, &answers)
	for i, n := range names {
		hash, a := h.Path(n[0], n[1], n[2]), answers[i]
		if Hex(hash) != a.Hash {
			t.Errorf("%q: hash %s, Swift: %s", n, Hex(hash), a.Hash)
			continue
		}
		if dir := "objects/7/" + Suffix(Hex(hash)) + "/" + Hex(hash); dir != a.Dir {
			t.Errorf("%q: %s, Swift: %s", n, dir, a.Dir)
		}
		if n[2] != "" && h.Object("/"+n[0]+"/"+n[1]+"/"+n[2]) != hash {
			t.Errorf("%q: Object and Path differ", n)
		}
		for power, want := range a.Parts {
			if got := Partition(hash, uint(power)); got != want {
				t.Errorf("%q: partition %d of 2^%d, Swift: %d", n, got, power, want)
			}
		}
		if back, err := Parse(a.Hash); err != nil || back != hash {
			t.Errorf("Parse(%s) = %x, %v", a.Hash, back, err)
		}
	}
}

func TestParseTakesNamesOfHashDirectoriesOnly(t *testing.T) {
	const good = "0123456789abcdef0123456789abcdef"
	for _, s := range []string{"", "abc", good[1:], good + "0", strings.ToUpper(good), strings.Replace(good, "a", "g", 1), good[1:] + "/"} {
		if hash, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %x", s, hash)
		}
	}
	if Suffix(good) != "def" || Suffix("ab") != "ab" || Suffix("") != "" {
		t.Error("Suffix is not the end of the text")
	}
}
