package rescue

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/swift/pickle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// set is an object's archives in a folder of their own, named frag-N.
type set struct {
	*testing.T
	dir    string
	object []byte
	scheme codec.Scheme
	o      Options
}

// made are the archives of each object that was encoded: Encode syncs each to the disk, and the tests want the same ones often.
var made = map[string][][]byte{}

// encode makes the archives of an object of that many bytes.
func encode(t *testing.T, scheme codec.Scheme, size, segment int) *set {
	t.Helper()
	s := &set{T: t, dir: t.TempDir(), scheme: scheme, object: make([]byte, size), o: Options{Scheme: scheme}}
	rand.NewChaCha8([32]byte{byte(size), byte(segment)}).Read(s.object)
	key := fmt.Sprint(scheme, size, segment)
	if made[key] == nil {
		in, dir := filepath.Join(t.TempDir(), "object"), t.TempDir()
		s.write(in, s.object)
		files, err := Encode(t.Context(), in, dir, EncodeOptions{Scheme: scheme, Segment: segment})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			made[key] = append(made[key], s.read(path))
		}
	}
	for i, b := range made[key] {
		s.write(s.path(i), b)
	}
	return s
}

func (s *set) write(path string, b []byte) {
	s.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		s.Fatal(err)
	}
}

func (s *set) path(i int) string { return archiveName(s.dir, i) }

func (s *set) read(path string) []byte {
	s.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	return b
}

// metadata gives an archive the attributes that Swift's object server would; change has other values, "" for none.
func (s *set) metadata(i, segment int, change map[string]string) {
	s.Helper()
	path := s.path(i)
	b := s.read(path)
	object, archive := md5.Sum(s.object), md5.Sum(b)
	m := map[string]string{
		"name": "/a/c/o", "X-Timestamp": "1795342301.49613", "Content-Length": strconv.Itoa(len(b)), "ETag": hex.EncodeToString(archive[:]),
		keyEtag: hex.EncodeToString(object[:]), keySize: strconv.Itoa(len(s.object)), keySegment: strconv.Itoa(segment),
		keyScheme: s.scheme.String(), keyIndex: strconv.Itoa(i),
	}
	maps.Copy(m, change)
	raw := pickle.EncodeMetadata(m, slices.Sorted(maps.Keys(m)))
	if err := unix.Setxattr(path, "user.swift.metadata", raw, 0); err != nil {
		s.Fatal(err)
	}
	s.o = Options{}
}

func (s *set) allMetadata(segment int) {
	s.Helper()
	for i := range s.scheme.K + s.scheme.M {
		s.metadata(i, segment, nil)
	}
}

func (s *set) paths(indexes ...int) []string {
	var all []string
	for _, i := range indexes {
		all = append(all, s.path(i))
	}
	return all
}

func (s *set) all() []int {
	var all []int
	for i := range s.scheme.K + s.scheme.M {
		all = append(all, i)
	}
	return all
}

func (s *set) flip(i int, at int64) {
	s.Helper()
	b := s.read(s.path(i))
	b[at] ^= 1
	s.rewrite(i, b)
}

// rewrite changes a file's content and leaves its attributes.
func (s *set) rewrite(i int, b []byte) {
	s.Helper()
	f, err := os.OpenFile(s.path(i), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.Write(b)
	}
	if err != nil {
		s.Fatal(err)
	}
	f.Close()
}

// decode decodes and returns what is written, nil if nothing is, and what is said.
func (s *set) decode(paths []string) ([]byte, *Result, error) {
	s.Helper()
	out := filepath.Join(s.TempDir(), "object")
	r, err := Decode(s.Context(), paths, out, s.o)
	left, globErr := os.ReadDir(filepath.Dir(out))
	if globErr != nil {
		s.Fatal(globErr)
	}
	if err != nil {
		if len(left) > 0 {
			s.Errorf("after %v there is %v", err, left)
		}
		return nil, r, err
	}
	if len(left) != 1 || !slices.Equal(r.Written, []string{out}) {
		s.Errorf("there is %v, and %v is said to be written", left, r.Written)
	}
	return s.read(out), r, nil
}

// texts are the problems, without folders.
func (s *set) texts(r *Result) []string {
	all := []string{}
	for _, p := range r.Problems {
		all = append(all, strings.ReplaceAll(p.String(), s.dir+"/", ""))
	}
	return all
}

// schemes are all types, the flat XOR codes of Swift's rings among them.
var schemes = []codec.Scheme{
	{Type: "isa_l_rs_vand", K: 4, M: 2}, {Type: "isa_l_rs_vand", K: 10, M: 4}, {Type: "isa_l_rs_cauchy", K: 4, M: 2},
	{Type: "isa_l_rs_vand_inv", K: 4, M: 2}, {Type: "liberasurecode_rs_vand", K: 4, M: 2}, {Type: "liberasurecode_rs_vand", K: 10, M: 4},
	{Type: "jerasure_rs_vand", K: 4, M: 2}, {Type: "jerasure_rs_cauchy", K: 4, M: 2}, {Type: "flat_xor_hd_3", K: 5, M: 5},
	{Type: "flat_xor_hd_4", K: 5, M: 5}, {Type: "flat_xor_hd_3", K: 10, M: 5},
}

// lossesOf are how many archives every code of a scheme bears the loss of, and still has one to spare.
func lossesOf(s codec.Scheme) int {
	if s.Type == "flat_xor_hd_3" {
		return 1
	}
	if s.Type == "flat_xor_hd_4" {
		return 2
	}
	return s.M - 1
}

func TestLostArchivesAndTheObjectComeBack(t *testing.T) {
	const segment = 64 << 10
	for _, scheme := range schemes {
		t.Run(scheme.String(), func(t *testing.T) {
			for _, size := range []int{1, segment, 3*segment - 1} {
				s := encode(t, scheme, size, segment)
				random := rand.New(rand.NewPCG(1, uint64(size)))
				for _, named := range []bool{false, true} {
					if named {
						s.allMetadata(segment)
					}
					order := random.Perm(scheme.K + scheme.M)
					losses := lossesOf(scheme)
					if named && scheme.M == 2 {
						losses++ // the ETag is proof enough
					}
					lost, held := order[:losses], order[losses:]
					got, r, err := s.decode(s.paths(held...))
					if err != nil || !bytes.Equal(got, s.object) {
						t.Fatalf("%d bytes, lost %v: decoded wrongly: %v, %v", size, lost, err, s.texts(r))
					}
					want := map[bool]Proof{false: ProvedBySpare, true: ProvedByETag}[named]
					if r.Proof != want || len(r.Problems) > 0 || r.Size != int64(size) || r.Scheme != scheme {
						t.Errorf("decoded: %+v", r)
					}
					dir := filepath.Join(t.TempDir(), "new")
					r, err = Rebuild(t.Context(), s.paths(held...), dir, lost, s.o)
					if err != nil || r.Proof != want || len(r.Written) != len(lost) {
						t.Fatalf("%d bytes, lost %v: rebuild: %v, %+v", size, lost, err, r)
					}
					for _, i := range lost {
						if !bytes.Equal(s.read(archiveName(dir, i)), s.read(s.path(i))) {
							t.Errorf("%d bytes, lost %v: archive %d is not what it was", size, lost, i)
						}
					}
				}
			}
		})
	}
}

// rule 3
func TestAWantedArchiveIsNoInput(t *testing.T) {
	s := encode(t, schemes[0], 5000, 1000)
	s.allMetadata(1000)
	want := s.read(s.path(2))
	s.flip(2, 200)
	dir := t.TempDir()
	r, err := Rebuild(t.Context(), s.paths(s.all()...), dir, []int{2}, s.o)
	if err != nil || !bytes.Equal(s.read(archiveName(dir, 2)), want) {
		t.Errorf("%v, %+v", err, r)
	}
	if _, err = Rebuild(t.Context(), s.paths(s.all()...), s.dir, []int{2}, s.o); err == nil || !strings.Contains(err.Error(), "one of the archives given") {
		t.Errorf("an input was to be replaced: %v", err)
	}
}

// A flat XOR code makes some archives from fewer others than the object.
func TestAnArchiveIsRebuiltWhereTheObjectIsLost(t *testing.T) {
	s := encode(t, codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}, 5000, 1000)
	code, err := codec.New(s.scheme)
	if err != nil {
		t.Fatal(err)
	}
	var all codec.Set
	for i := 1; i < 10; i++ {
		all = all.With(i)
	}
	p, err := code.Plan(all, codec.SetOf(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.decode(s.paths(p.In()...)); err == nil {
		t.Fatal("so few make the object")
	}
	s.o.Unverified = true
	dir := t.TempDir()
	r, err := Rebuild(t.Context(), s.paths(p.In()...), dir, []int{0}, s.o)
	if err != nil || !bytes.Equal(s.read(archiveName(dir, 0)), s.read(s.path(0))) || r.Proof != Unproved || r.Doubt == "" {
		t.Errorf("%v, %+v", err, r)
	}
}

// The object's MD5 says nothing of a parity fragment that it was not made of.
func TestARottenParityArchiveSpoilsNoOther(t *testing.T) {
	for _, scheme := range schemes {
		if scheme.K > 5 {
			continue
		}
		s := encode(t, scheme, 2000, 1000)
		s.allMetadata(1000)
		for _, rotten := range []int{scheme.K, scheme.K + scheme.M - 1} {
			s.flip(rotten, codec.HeaderSize+1)
			s.metadata(rotten, 1000, nil) // damaged before its MD5 was taken
			for lost := scheme.K; lost < scheme.K+scheme.M; lost++ {
				if lost == rotten {
					continue
				}
				dir := t.TempDir()
				r, err := Rebuild(t.Context(), s.paths(s.all()...), dir, []int{lost}, s.o)
				if err != nil || !bytes.Equal(s.read(archiveName(dir, lost)), s.read(s.path(lost))) {
					t.Errorf("%v: %d is rotten: archive %d is not what it was: %v, %+v", scheme, rotten, lost, err, r)
				}
			}
			s.flip(rotten, codec.HeaderSize+1)
			s.metadata(rotten, 1000, nil)
		}
	}
}

func TestAnEmptyObject(t *testing.T) {
	s := encode(t, schemes[0], 0, 1000)
	_, r, err := s.decode(s.paths(s.all()...))
	if err == nil || s.texts(r)[0] != "frag-0: empty, and without metadata: nothing says which fragment it is" {
		t.Errorf("bare: %v, %v", err, s.texts(r))
	}
	s.allMetadata(1000)
	got, r, err := s.decode(s.paths(1, 2, 3, 4))
	if err != nil || len(got) != 0 || r.Proof != ProvedByETag || len(r.Problems) > 0 {
		t.Errorf("%v, %+v", err, r)
	}
	dir := t.TempDir()
	if r, err := Rebuild(t.Context(), s.paths(1, 2, 3, 4), dir, []int{0, 5}, s.o); err != nil || len(s.read(archiveName(dir, 5))) != 0 {
		t.Errorf("%v, %+v", err, r)
	}
}

// rule 8, and the flavour of the survivors' header checksum.
func TestARebuiltHeaderIsLikeTheSurvivors(t *testing.T) {
	in, dir, new := filepath.Join(t.TempDir(), "object"), t.TempDir(), t.TempDir()
	if err := os.WriteFile(in, make([]byte, 3000), 0o600); err != nil {
		t.Fatal(err)
	}
	o := EncodeOptions{Scheme: schemes[0], Segment: 1000, Libec: 0x010500, CRC: codec.Legacy}
	files, err := Encode(t.Context(), in, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Rebuild(t.Context(), files[1:], new, []int{0}, Options{Scheme: o.Scheme}); err != nil {
		t.Fatal(err)
	}
	was, _ := os.ReadFile(files[0])
	is, err := os.ReadFile(archiveName(new, 0))
	if err != nil || !bytes.Equal(was, is) {
		t.Errorf("%v: the rebuilt archive differs", err)
	}
}

// The size of an archive of 5 segments of 1000 bytes in 4+2: 330 bytes a fragment.
const (
	testSegment  = 1000
	testFragment = codec.HeaderSize + 250
)

// Each is five segments in isa_l_rs_vand 4+2, and something is wrong.
var damages = []struct {
	name  string
	named bool // the archives have metadata
	spoil func(s *set) []string
	says  []string // of each file
	err   string   // "" when the object is decoded nevertheless
}{
	{"nothing", true, func(s *set) []string { return s.paths(0, 1, 2, 3, 4, 5) }, []string{}, ""},
	{"truncated", true, func(s *set) []string {
		s.rewrite(1, s.read(s.path(1))[:700])
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-1: truncated: 700 bytes of 1650"}, ""},
	{"truncated, bare", false, func(s *set) []string {
		s.rewrite(1, s.read(s.path(1))[:700])
		return s.paths(0, 1, 2, 3, 4, 5)
	}, []string{"frag-1: truncated: 700 bytes of 1650"}, ""},
	{"truncated behind a fragment, bare", false, func(s *set) []string {
		s.rewrite(1, s.read(s.path(1))[:2*testFragment])
		return s.paths(0, 1, 2, 3, 4, 5)
	}, []string{"frag-1: truncated: 660 bytes of 1650"}, ""},
	{"two truncated, no segment lost", true, func(s *set) []string {
		s.rewrite(0, s.read(s.path(0))[:700])
		b := s.read(s.path(1))
		copy(b, make([]byte, 2*testFragment)) // its first two fragments are zeros
		s.rewrite(1, b)
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-0: truncated: 700 bytes of 1650", "frag-1: segment 0: fragment header: magic 00000000, not 0b0c5ecc",
		"frag-1: segment 1: fragment header: magic 00000000, not 0b0c5ecc",
		"frag-1: its MD5 is X, but its metadata says X: its content is damaged"}, ""},
	{"something behind it", true, func(s *set) []string {
		s.rewrite(1, append(s.read(s.path(1)), "xyz"...))
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-1: 3 bytes behind the last fragment"}, ""},
	{"a flipped payload byte, named by its MD5", true, func(s *set) []string {
		s.flip(2, 2*testFragment+100)
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-2: its MD5 is X, but its metadata says X: its content is damaged"}, ""},
	{"a flipped payload byte, named by two to spare", false, func(s *set) []string {
		s.flip(2, 2*testFragment+100)
		return s.paths(0, 1, 2, 3, 4, 5)
	}, []string{"frag-2: segment 2: its content is damaged: it contradicts the other archives"}, ""},
	{"a flipped payload byte, found by one to spare", false, func(s *set) []string {
		s.flip(2, 2*testFragment+100)
		return s.paths(0, 1, 2, 3, 4)
	}, []string{}, "not proved: the archives contradict each other in segment 2, and too few are to spare to tell which of them is wrong " +
		"(--unverified writes it nevertheless)"},
	{"a flipped payload byte, found by the object's MD5", true, func(s *set) []string {
		s.flip(2, 2*testFragment+100)
		s.metadata(2, testSegment, nil) // damaged before its MD5 was taken
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-2: its content is damaged: without it the object is right"}, ""},
	{"a flipped payload byte, and none to spare", true, func(s *set) []string {
		s.flip(2, 2*testFragment+100)
		return s.paths(0, 1, 2, 3)
	}, []string{"frag-2: its MD5 is X, but its metadata says X: its content is damaged"},
		"not proved: the object's MD5 is X, but metadata says X (--unverified writes it nevertheless)"},
	{"none to spare, bare", false, func(s *set) []string { return s.paths(0, 1, 2, 5) }, []string{},
		"not proved: no metadata says the object's MD5, and no archive is to spare that the others could be compared with " +
			"(--unverified writes it nevertheless)"},
	{"too few", true, func(s *set) []string { return s.paths(0, 1, 5) }, []string{},
		"too few good fragments of segment 0: {0 1 5} of isa_l_rs_vand 4+2; one more of {2 3 4} would be enough"},
	{"far too few", true, func(s *set) []string { return s.paths(0, 5) }, []string{},
		"too few good fragments of segment 0: {0 5} of isa_l_rs_vand 4+2"},
	{"too few for the last segment", true, func(s *set) []string {
		s.rewrite(1, s.read(s.path(1))[:1400])
		return s.paths(0, 1, 4, 5)
	}, []string{"frag-1: truncated: 1400 bytes of 1650"},
		"too few good fragments of segment 4: {0 4 5} of isa_l_rs_vand 4+2; one more of {1 2 3} would be enough"},
	{"a header", false, func(s *set) []string {
		s.flip(4, 2*testFragment+3)
		return s.paths(0, 1, 2, 3, 4, 5)
	}, []string{"frag-4: segment 2: fragment header: checksum X, not X (zlib) nor X (legacy)"}, ""},
	{"the first header", false, func(s *set) []string {
		s.flip(4, 3)
		return s.paths(0, 1, 2, 3, 4, 5)
	}, []string{"frag-4: segment 0: fragment header: checksum X, not X (zlib) nor X (legacy)"}, ""},
	{"another fragment's fragment", true, func(s *set) []string {
		b := s.read(s.path(4))
		copy(b[testFragment:], s.read(s.path(3))[testFragment:2*testFragment])
		s.rewrite(4, b)
		return s.paths(0, 1, 2, 4, 5)
	}, []string{"frag-4: segment 1: fragment header: index 3, want 4", "frag-4: its MD5 is X, but its metadata says X: its content is damaged"}, ""},
	{"metadata of another index", true, func(s *set) []string {
		s.metadata(4, testSegment, map[string]string{keyIndex: "3"})
		return s.paths(0, 1, 2, 4, 5)
	}, []string{"frag-4: fragment 4, but its metadata says 3"}, ""},
	{"metadata that can not be read", true, func(s *set) []string {
		if err := unix.Setxattr(s.path(4), "user.swift.metadata", []byte("\x80\x02}."), 0); err != nil {
			s.Fatal(err)
		}
		return s.paths(0, 1, 2, 4, 5)
	}, []string{`frag-4: metadata is not that of a fragment archive: X-Object-Sysmeta-Ec-Scheme: "" is not a scheme such as "isa_l_rs_vand 4+2"`}, ""},
	{"bare among others", true, func(s *set) []string {
		if err := unix.Removexattr(s.path(0), "user.swift.metadata"); err != nil {
			s.Fatal(err)
		}
		return s.paths(0, 1, 2, 3)
	}, []string{}, ""},
	{"of another object", true, func(s *set) []string {
		s.metadata(1, testSegment, map[string]string{"name": "/a/c/p"})
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-1: not of the same object as the others: /a/c/p, not /a/c/o"}, ""},
	{"of another time", true, func(s *set) []string {
		s.metadata(1, testSegment, map[string]string{"X-Timestamp": "1795342301.49614"})
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-1: not of the same object as the others: timestamp 1795342301.49614, not 1795342301.49613"}, ""},
	{"of another segment size", true, func(s *set) []string {
		s.metadata(1, 2*testSegment, nil)
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-1: not of the same object as the others: segments of 2000 bytes, not of 1000"}, ""},
	{"of another scheme", true, func(s *set) []string {
		s.metadata(1, testSegment, map[string]string{keyScheme: "isa_l_rs_cauchy 4+2"})
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-1: not of the same object as the others: of isa_l_rs_cauchy 4+2, not of isa_l_rs_vand 4+2"}, ""},
	{"of another size, bare", false, func(s *set) []string {
		other := encode(s.T, s.scheme, 4990, testSegment)
		s.rewrite(1, other.read(other.path(1)))
		return s.paths(0, 1, 2, 3, 4, 5)
	}, []string{"frag-1: not of the same object as the others: an object of 4990 bytes in segments of 1000, not an object of 5000 bytes in segments of 1000"}, ""},
	{"of two objects", true, func(s *set) []string {
		other := encode(s.T, s.scheme, 4990, testSegment)
		other.allMetadata(testSegment)
		return append(s.paths(0, 1, 2, 3), other.paths(0, 1, 2, 3)...)
	}, []string{}, "archives of 2 objects, each of which could be made; give those of one: " +
		"/a/c/o of 1795342301.49613, an object of 5000 bytes in segments of 1000, isa_l_rs_vand 4+2 (frag-0, frag-1, frag-2, frag-3); " +
		"/a/c/o of 1795342301.49613, an object of 4990 bytes in segments of 1000, isa_l_rs_vand 4+2 (OTHER/frag-0, OTHER/frag-1, OTHER/frag-2, OTHER/frag-3)"},
	{"one twice", true, func(s *set) []string { return s.paths(0, 0, 1, 2, 3) },
		[]string{"frag-0: given twice: the same file as frag-0"}, ""},
	{"a copy", true, func(s *set) []string {
		s.write(filepath.Join(s.dir, "copy"), s.read(s.path(0)))
		return append(s.paths(0, 1, 2, 3), filepath.Join(s.dir, "copy"))
	}, []string{"copy: fragment 0 again, the same as frag-0"}, ""},
	{"two of an index that differ, bare", false, func(s *set) []string {
		s.flip(2, testFragment+100)
		bad := s.read(s.path(2))
		s.flip(2, testFragment+100)
		s.write(filepath.Join(s.dir, "copy"), bad)
		return append([]string{filepath.Join(s.dir, "copy")}, s.paths(0, 1, 2, 3, 4, 5)...)
	}, []string{"frag-2: fragment 2 again, and not the same as copy"}, ""},
	{"two of an index that differ, and one is the only one to spare", false, func(s *set) []string {
		s.flip(2, testFragment+100)
		bad := s.read(s.path(2))
		s.flip(2, testFragment+100)
		s.write(filepath.Join(s.dir, "copy"), bad)
		return append(s.paths(0, 1, 2, 3, 4), filepath.Join(s.dir, "copy"))
	}, []string{"copy: fragment 2 again, and not the same as frag-2"}, ""},
	{"a damaged one is the only one to spare", false, func(s *set) []string {
		s.rewrite(0, append(s.read(s.path(0)), "xyz"...))
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-0: 3 bytes behind the last fragment"}, ""},
	{"two of an index that differ, and both needed", true, func(s *set) []string {
		s.flip(2, testFragment+100)
		bad := s.read(s.path(2))
		s.flip(2, testFragment+100)
		s.write(filepath.Join(s.dir, "copy"), bad)
		return append([]string{filepath.Join(s.dir, "copy")}, s.paths(0, 1, 2, 3)...)
	}, []string{}, ""},
	{"not there", true, func(s *set) []string { return append(s.paths(0, 1, 2, 3), s.dir+"/none", s.dir+"/.") },
		[]string{"none: open: no such file or directory", ".: not a regular file"}, ""},
	{"not an archive", true, func(s *set) []string {
		s.write(s.path(4), bytes.Repeat([]byte("plume"), 1000))
		if err := unix.Removexattr(s.path(4), "user.swift.metadata"); err != nil {
			s.Fatal(err)
		}
		return s.paths(0, 1, 2, 3, 4)
	}, []string{"frag-4: segment 0: fragment header: magic 756c7065, not 0b0c5ecc", "frag-4: segment 1: fragment header: magic 756c7065, not 0b0c5ecc",
		"frag-4: segment 2: fragment header: magic 756c7065, not 0b0c5ecc", "frag-4: segment 3: fragment header: magic 756c7065, not 0b0c5ecc",
		"frag-4: segment 4: fragment header: magic 756c7065, not 0b0c5ecc", "frag-4: 3350 bytes behind the last fragment"}, ""},
}

func TestWhatIsWrongIsNamedAndTheObjectIsMadeFromTheRest(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			s := encode(t, schemes[0], 5*testSegment, testSegment)
			if d.named {
				s.allMetadata(testSegment)
			}
			given := d.spoil(s)
			got, r, err := s.decode(given)
			said := fmt.Sprint(err)
			for _, path := range given {
				if !strings.HasPrefix(path, s.dir+"/") {
					said = strings.ReplaceAll(said, filepath.Dir(path), "OTHER")
				}
			}
			if said = anyHash(strings.ReplaceAll(said, s.dir+"/", "")); d.err == "" && err != nil || d.err != "" && said != anyHash(d.err) {
				t.Errorf("error %q, want %q", said, d.err)
			}
			texts, want := s.texts(r), slices.Clone(d.says)
			for i := range texts {
				texts[i] = anyHash(texts[i])
			}
			for i := range want {
				want[i] = anyHash(want[i])
			}
			if !slices.Equal(texts, want) {
				t.Errorf("said:\n%s\nwant:\n%s", strings.Join(texts, "\n"), strings.Join(want, "\n"))
			}
			if err == nil && (!bytes.Equal(got, s.object) || r.Proof == Unproved) {
				t.Errorf("decoded wrongly: %+v", r)
			}
			if d.err != "" && strings.HasPrefix(d.err, "not proved") {
				s.o.Unverified = true
				if _, r, err := s.decode(given); err != nil || r.Proof != Unproved || !strings.Contains(d.err, anyHash(r.Doubt)) {
					t.Errorf("unverified: %v, %+v", err, r)
				}
			}
		})
	}
}

var sums = regexp.MustCompile(`\b([0-9a-f]{32}|[0-9a-f]{8})\b`)

// anyHash puts X in place of sums.
func anyHash(s string) string { return sums.ReplaceAllString(s, "X") }

func TestTheSchemeIsNeverGuessed(t *testing.T) {
	s := encode(t, codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}, 5000, 1000)
	s.o = Options{}
	_, _, err := s.decode(s.paths(s.all()...))
	if err == nil || err.Error() != "no archive's metadata says of which scheme these are, and headers do not: give --ec-type, --data and --parity" {
		t.Error(err)
	}
	s.o.Scheme = codec.Scheme{Type: "jerasure_rs_vand", K: 5, M: 5}
	_, r, err := s.decode(s.paths(s.all()...))
	if err == nil || !strings.Contains(strings.Join(s.texts(r), "\n"), "frag-0: fragment header: backend 3, but jerasure_rs_vand 5+5 is 1") {
		t.Errorf("%v, %q", err, s.texts(r))
	}
	s.o = Options{Scheme: s.scheme, Segment: 2000}
	_, r, err = s.decode(s.paths(s.all()...))
	if err == nil || s.texts(r)[0] != "frag-0: of segments of 1000 bytes, not of 2000" {
		t.Errorf("%v, %q", err, s.texts(r))
	}
	s.metadata(0, 1000, nil)
	s.o.Scheme = codec.Scheme{Type: "flat_xor_hd_4", K: 5, M: 5}
	_, r, err = s.decode(s.paths(s.all()...))
	if err == nil || s.texts(r)[0] != "frag-0: of flat_xor_hd_3 5+5, as its metadata says, not of flat_xor_hd_4 5+5" {
		t.Errorf("%v, %q", err, s.texts(r))
	}
}

func TestACallThatIsEndedLeavesNothing(t *testing.T) {
	s := encode(t, schemes[0], 5000, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := t.TempDir()
	for name, err := range map[string]error{
		"decode":  second(Decode(ctx, s.paths(s.all()...), filepath.Join(out, "object"), s.o)),
		"rebuild": second(Rebuild(ctx, s.paths(1, 2, 3, 4, 5), out, []int{0}, s.o)),
		"encode":  second(Encode(ctx, s.path(0), out, EncodeOptions{Scheme: s.scheme})),
	} {
		if err != context.Canceled {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("there is %v (%v)", left, err)
	}
}

func second[T any](_ T, err error) error { return err }

// A full disk, as far as it can be had everywhere: the folder is not there.
func TestNothingIsWrittenWhereThereIsNoPlace(t *testing.T) {
	s := encode(t, schemes[0], 5000, 1000)
	for _, path := range []string{filepath.Join(t.TempDir(), "none", "object"), t.TempDir(), "/dev/null", ""} {
		if _, err := Decode(t.Context(), s.paths(s.all()...), path, s.o); err == nil {
			t.Errorf("%q: no error", path)
		}
	}
	if _, err := Rebuild(t.Context(), s.paths(1, 2, 3, 4), s.path(0), []int{0}, s.o); err == nil {
		t.Error("a file is a folder")
	}
	for _, index := range []int{-1, 6, 300} {
		if _, err := Rebuild(t.Context(), s.paths(1, 2, 3, 4), t.TempDir(), []int{index}, s.o); err == nil || !strings.Contains(err.Error(), "only 0..5") {
			t.Errorf("index %d: %v", index, err)
		}
	}
}

func TestInspectSaysWhatIsThereAndWhatIsWrong(t *testing.T) {
	s := encode(t, schemes[0], 4900, 1000)
	inspect := func(i int) *Report {
		t.Helper()
		r, err := Inspect(t.Context(), s.path(i), s.o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, o := range []Options{{}, {Scheme: s.scheme}} {
		s.o = o
		r := inspect(4)
		last := r.Fragments[len(r.Fragments)-1]
		if len(r.Problems) > 0 || r.Index != 4 || r.Object != 4900 || r.Segment != 1000 || len(r.Fragments) != 5 ||
			last.Header.Index != 4 || last.Header.Segment != 900 || last.Header.Payload != 225 || last.Header.LibecVersion != "1.6.2" || last.Offset != 4*testFragment {
			t.Errorf("%+v, last %+v", r, last.Header)
		}
	}
	s.allMetadata(1000)
	if r := inspect(4); len(r.Problems) > 0 || r.Scheme != "isa_l_rs_vand 4+2" || r.Metadata["name"] != "/a/c/o" || r.MD5 != r.Metadata["ETag"] {
		t.Errorf("%+v", r)
	}
	s.flip(4, testFragment+90)
	if r := inspect(4); len(r.Problems) != 1 || !strings.HasSuffix(r.Problems[0], "its content is damaged") {
		t.Errorf("a flipped byte: %q", r.Problems)
	}
	s.flip(3, 2*testFragment)
	if r := inspect(3); len(r.Problems) != 2 || !strings.Contains(r.Problems[0], "segment 2: fragment header: checksum") || r.Fragments[2].Error == "" {
		t.Errorf("a header: %q", r.Problems)
	}
	s.rewrite(2, s.read(s.path(2))[:testFragment+100])
	if r := inspect(2); !slices.Equal(r.Problems, []string{"truncated: 430 bytes of 1625"}) || len(r.Fragments) != 2 {
		t.Errorf("truncated: %q", r.Problems)
	}
	unix.Removexattr(s.path(2), "user.swift.metadata")
	if r := inspect(2); !slices.Equal(r.Problems, []string{"truncated: 100 bytes of a fragment of 330 at its end"}) {
		t.Errorf("truncated, bare: %q", r.Problems)
	}
	unix.Removexattr(s.path(3), "user.swift.metadata")
	if r := inspect(3); len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "segment 2: fragment header: checksum") {
		t.Errorf("a header, bare: %q", r.Problems)
	}
	s.write(s.path(1), []byte("plume"))
	if r := inspect(1); len(r.Problems) == 0 {
		t.Error("five bytes are well")
	}
	if r, err := Inspect(t.Context(), s.path(9), s.o); err != nil || !slices.Equal(r.Problems, []string{"open: no such file or directory"}) {
		t.Errorf("%v, %+v", err, r)
	}
}

// What a file says of itself is not believed further than the file goes.
func TestLengthsThatAFileClaimsAreNotBelieved(t *testing.T) {
	s := encode(t, schemes[0], 1000, 1000)
	code, err := codec.New(s.scheme)
	if err != nil {
		t.Fatal(err)
	}
	b := s.read(s.path(0))
	h := code.Header(0, 1000)
	h.OrigDataSize, h.LibecVersion = 1<<31-1, DefaultLibec
	h.Put(b, codec.Zlib)
	s.rewrite(0, b)
	if _, r, err := s.decode(s.paths(0)); err == nil || !strings.HasPrefix(s.texts(r)[0], "frag-0: fragment header: payload of 250 bytes for a segment of 2147483647") {
		t.Errorf("%v, %q", err, s.texts(r))
	}
	for i := range 6 {
		s.metadata(i, 1, map[string]string{keySize: "1125899906842624"})
	}
	if _, r, err := s.decode(s.paths(s.all()...)); err == nil || len(r.Problems) == 0 {
		t.Errorf("%v, %q", err, s.texts(r))
	}
	for _, size := range []string{"-1", "9223372036854775807", "", "x"} {
		s.metadata(1, 1, map[string]string{keySize: size})
		r, err := Inspect(t.Context(), s.path(1), Options{})
		if err != nil || len(r.Problems) == 0 || !strings.Contains(r.Problems[0], "X-Object-Sysmeta-Ec-Content-Length is") {
			t.Errorf("%v, %+v", err, r)
		}
	}
}

// Whatever is done to the files, what is written is the object, or nothing is.
func TestNothingWrongIsEverWritten(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	right := 0
	const rounds = 60
	for round := range rounds {
		s := encode(t, []codec.Scheme{schemes[0], {Type: "flat_xor_hd_3", K: 5, M: 5}, {Type: "jerasure_rs_vand", K: 4, M: 3}}[round%3], 5000, 1000)
		if round%2 == 0 {
			s.allMetadata(1000)
		}
		for range random.IntN(5) {
			i := random.IntN(s.scheme.K + s.scheme.M)
			b := s.read(s.path(i))
			if len(b) == 0 {
				continue
			}
			at := random.IntN(len(b))
			switch random.IntN(5) {
			case 0:
				s.rewrite(i, b[:at])
			case 1:
				clear(b[at:min(len(b), at+500)])
				s.rewrite(i, b)
			case 2:
				s.rewrite(i, append(b[:at:at], b[at/2:]...))
			case 3:
				s.rewrite(i, s.read(s.path(random.IntN(s.scheme.K+s.scheme.M))))
			default:
				b[at] ^= 1 << random.IntN(8)
				s.rewrite(i, b)
			}
		}
		got, r, err := s.decode(s.paths(s.all()...))
		if err == nil {
			right++
			if !bytes.Equal(got, s.object) {
				t.Errorf("round %d: %q, and yet wrong", round, s.texts(r))
			}
		} else if len(r.Problems) == 0 && !strings.Contains(err.Error(), "contradict") {
			t.Errorf("round %d: %v, and no file is named", round, err)
		}
	}
	if right < rounds/2 {
		t.Errorf("only %d of %d objects were decoded", right, rounds)
	}
	t.Logf("%d of %d objects were decoded", right, rounds)
}
