package codec

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imping/lab/oracle"
	"imping/native"
)

// libecInstalled is the version of Debian 12's liberasurecode, 1.6.2.
const libecInstalled = 0x010602

var rewrite = flag.Bool("rewrite", false, "ask PyECLib anew for testdata/fragments.json")

// encoding is one segment encoded by PyECLib: what was asked, and the whole fragments. A
// fragment rebuilt by it from Have is to be equal to the lost one.
type encoding struct {
	Type      string   `json:"type"`
	K         int      `json:"k"`
	M         int      `json:"m"`
	Segment   []byte   `json:"segment"`
	CRC32     bool     `json:"crc32"`  // payload checksums, which Swift does not ask for
	Legacy    bool     `json:"legacy"` // LIBERASURECODE_WRITE_LEGACY_CRC
	Fragments [][]byte `json:"fragments"`

	Have  []int  `json:"have"` // none: nothing is rebuilt
	Lost  int    `json:"lost"`
	Error string `json:"error"`
}

func (e *encoding) String() string {
	return fmt.Sprintf("%s %d+%d, segment of %d bytes, checksums %v, legacy %v", e.Type, e.K, e.M, len(e.Segment), e.CRC32, e.Legacy)
}

func (e *encoding) crc() CRC {
	if e.Legacy {
		return Legacy
	}
	return Zlib
}

// stripe is what the fragments have in common.
func (e *encoding) stripe(c *Code) Stripe {
	s := swifts(c, len(e.Segment))
	if e.CRC32 {
		s.ChecksumType = ChecksumCRC32
	}
	return s
}

const encodeScript = `
import base64, json, os, sys
from pyeclib.ec_iface import ECDriver, ECDriverError
out = []
for q in json.load(sys.stdin):
    os.environ['LIBERASURECODE_WRITE_LEGACY_CRC'] = '1' if q['legacy'] else '0'
    driver = ECDriver(k=q['k'], m=q['m'], ec_type=q['type'],
                      **({'chksum_type': 'inline_crc32'} if q['crc32'] else {}))
    frags = driver.encode(base64.b64decode(q['segment']))
    q['fragments'] = [base64.b64encode(f).decode() for f in frags]
    if q['have']:
        try:
            if driver.reconstruct([frags[i] for i in q['have']], [q['lost']])[0] != frags[q['lost']]:
                q['error'] = 'differs'
        except ECDriverError as err:
            q['error'] = str(err)
    out.append(q)
json.dump(out, sys.stdout)
`

func mustNew(t testing.TB, typ string, k, m int) *Code {
	t.Helper()
	c, err := New(Scheme{typ, k, m})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// isNew says whether a type is newer than the installed liberasurecode.
func isNew(typ string) bool { return typ == "isa_l_rs_vand_inv" }

// schemes returns all of a type with up to so many fragments of each kind.
func schemes(typ string, k, m int) (all []Scheme) {
	for k := range k {
		for m := range m {
			if s := (Scheme{typ, k + 1, m + 1}); exists(s) {
				all = append(all, s)
			}
		}
	}
	return all
}

func exists(s Scheme) bool {
	b := backends[s.Type]
	return b.has == nil || b.has(s.K, s.M)
}

// samples returns a scheme or some of each type.
func samples() (all []Scheme) {
	for _, typ := range Types() {
		for _, km := range [][2]int{{3, 3}, {4, 2}, {5, 5}, {10, 4}, {12, 6}} {
			if s := (Scheme{typ, km[0], km[1]}); exists(s) {
				all = append(all, s)
			}
		}
	}
	return all
}

func newCode(t testing.TB, s Scheme) *Code {
	t.Helper()
	return mustNew(t, s.Type, s.K, s.M)
}

// swifts is what Swift's fragments of a segment have in common.
func swifts(c *Code, segment int) Stripe {
	h := c.Header(0, segment)
	return Stripe{Segment: segment, ChecksumType: h.ChecksumType, BackendVersion: h.BackendVersion, LibecVersion: libecInstalled}
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// fragments encodes a segment into whole fragments, headers as Swift's.
func fragments(c *Code, segment []byte, crc CRC) [][]byte {
	return sealed(c, segment, swifts(c, len(segment)), crc)
}

func sealed(c *Code, segment []byte, s Stripe, crc CRC) [][]byte {
	all := make([][]byte, c.N())
	payloads := make([][]byte, c.N())
	for i := range all {
		all[i] = bytes.Repeat([]byte{0xa5}, c.FragmentSize(len(segment)))
		payloads[i] = all[i][HeaderSize:]
	}
	c.Encode(segment, payloads)
	for i := range all {
		c.Seal(all[i], i, s, crc)
	}
	return all
}

// rebuild makes want from the fragments in have as an engine does: the payload by a plan,
// the header from the survivors. It returns whole fragments in the order of plan.Out.
func rebuild(t failer, c *Code, all [][]byte, have, want Set) [][]byte {
	t.Helper()
	plan, err := c.Plan(have, want)
	if err != nil {
		t.Fatalf("%v: %v", c.Scheme(), err)
	}
	if n := len(plan.In()); n > c.K() {
		t.Fatalf("%v: %v from %v reads %d fragments", c.Scheme(), want, have, n)
	}
	var survivors, in, out, whole [][]byte
	for _, index := range plan.In() {
		if !have.Has(index) || want.Has(index) {
			t.Fatalf("%v: %v from %v reads fragment %d", c.Scheme(), want, have, index)
		}
		survivors, in = append(survivors, all[index]), append(in, all[index][HeaderSize:])
	}
	headers := make([]Header, len(in))
	stripe, faults := c.CheckStripe(survivors, plan.In(), -1, headers)
	if faults != nil {
		t.Fatalf("%v: %v", c.Scheme(), faults)
	}
	for range plan.Out() {
		f := make([]byte, len(all[0]))
		whole, out = append(whole, f), append(out, f[HeaderSize:])
	}
	plan.Run(out, in)
	for i, index := range plan.Out() {
		c.Seal(whole[i], index, stripe, headers[0].CRC)
	}
	return whole
}

// failer is a testing.T or a rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkRebuild compares what rebuild makes with the originals.
func checkRebuild(t failer, c *Code, all [][]byte, have, want Set) {
	t.Helper()
	for i, f := range rebuild(t, c, all, have, want) {
		if index := want.Indexes()[i]; !bytes.Equal(f, all[index]) {
			t.Fatalf("%v: fragment %d rebuilt from %v (with %v) differs from the original", c.Scheme(), index, have, want)
		}
	}
}

// sets returns n random sets of K fragments without the lost ones.
func sets(c *Code, lost Set, n int, rnd *rand.Rand) (all []Set) {
	others := c.all.Minus(lost).Indexes()
	for range n {
		rnd.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		all = append(all, SetOf(others[:c.K()]...))
	}
	return all
}

// sufficient returns a random set of survivors without the lost ones, from which they can
// be made: K of them, if that is possible, else K and what else helps; ok is false if
// nothing does.
func sufficient(c *Code, lost Set, rnd *rand.Rand) (have Set, ok bool) {
	for _, i := range rnd.Perm(c.N()) {
		if lost.Has(i) {
			continue
		}
		have = have.With(i)
		if have.Len() < c.K() {
			continue
		}
		if _, err := c.Plan(have, lost); err == nil {
			return have, true
		}
	}
	return have, false
}

// some returns n random indexes of a code.
func some(c *Code, n int, rnd *rand.Rand) Set { return SetOf(rnd.Perm(c.N())[:min(n, c.N())]...) }

// All schemes that PyECLib has, with odd segments, both flavours of checksums, with and
// without those of payloads: what we encode, rebuild and decode is what it encodes; and
// where it can rebuild we can.
func TestEverySchemeIsByteIdenticalWithLiberasurecode(t *testing.T) {
	for _, typ := range Types() {
		if isNew(typ) {
			continue
		}
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(1, 2))
			var questions, answers []*encoding
			for _, s := range schemes(typ, 20, 8) {
				sizes := []int{1, 2, s.K, 2*s.K + 1, 777, 1 + rnd.IntN(2500), 4096}
				for _, i := range rnd.Perm(len(sizes))[:2] {
					c := newCode(t, s)
					q := &encoding{
						Type: typ, K: s.K, M: s.M, Segment: randomBytes(byte(s.K), sizes[i]), CRC32: rnd.IntN(3) == 0, Legacy: rnd.IntN(3) == 0,
						Lost: rnd.IntN(c.N()),
					}
					if !c.backend.sparse { // it would answer wrong, or crash
						q.Have = sets(c, SetOf(q.Lost), 1, rnd)[0].Indexes()
					}
					questions = append(questions, q)
				}
			}
			for _, size := range []int{65536, 262145} {
				s := samples()[slices.IndexFunc(samples(), func(s Scheme) bool { return s.Type == typ && s.K > 3 })]
				questions = append(questions, &encoding{Type: typ, K: s.K, M: s.M, Segment: randomBytes(3, size)})
			}
			oracle.Ask(t, encodeScript, questions, &answers)
			if len(answers) != len(questions) {
				t.Fatalf("%d answers to %d questions", len(answers), len(questions))
			}
			for _, a := range answers {
				c := mustNew(t, a.Type, a.K, a.M)
				compareFragments(t, a)
				checkRebuilds(t, c, a.Fragments, rnd)
				checkDecode(t, c, a, rnd)
				_, err := c.Plan(SetOf(a.Have...), SetOf(a.Lost))
				switch {
				case a.Have == nil || err == nil && a.Error == "":
				case err == nil && c.mds:
					t.Fatalf("%v: liberasurecode does not rebuild %d from %v: %s", a, a.Lost, a.Have, a.Error)
				case err != nil && a.Error == "":
					t.Fatalf("%v: liberasurecode rebuilds %d from %v: %v", a, a.Lost, a.Have, err)
				}
			}
		})
	}
}

// checkRebuilds loses each fragment alone, and some twos and threes.
func checkRebuilds(t *testing.T, c *Code, all [][]byte, rnd *rand.Rand) {
	t.Helper()
	for i := range c.N() {
		checkRebuild(t, c, all, c.all.Without(i), SetOf(i))
		if have, ok := sufficient(c, SetOf(i), rnd); ok {
			checkRebuild(t, c, all, have, SetOf(i))
		}
	}
	for n := 2; n <= min(3, c.M()); n++ {
		for range 3 {
			lost := some(c, n, rnd)
			if have, ok := sufficient(c, lost, rnd); ok {
				checkRebuild(t, c, all, have, lost)
			} else if c.mds {
				t.Fatalf("%v: %v are not made from %v", c.Scheme(), lost, have)
			}
		}
	}
}

func checkDecode(t *testing.T, c *Code, a *encoding, rnd *rand.Rand) {
	t.Helper()
	lost := some(c, 1+rnd.IntN(c.M()), rnd)
	have, ok := sufficient(c, lost, rnd)
	if !ok {
		return
	}
	payloads := make([][]byte, c.N())
	for _, i := range have.Indexes() {
		payloads[i] = a.Fragments[i][HeaderSize:]
	}
	dst := bytes.Repeat([]byte{0x5a}, c.K()*c.PayloadSize(len(a.Segment)))
	got, err := c.Decode(dst, len(a.Segment), payloads)
	if err == nil && !bytes.Equal(got, a.Segment) {
		err = errors.New("differs from the original")
	}
	var lack *Insufficient
	if errors.As(err, &lack) && !c.mds { // lost was parity, but the missing data can not be made
		return
	}
	if err != nil {
		t.Fatalf("%v: decoded from %v: %v", a, have, err)
	}
}

// compareFragments compares PyECLib's fragments with ours, whole.
func compareFragments(t *testing.T, a *encoding) {
	t.Helper()
	c := mustNew(t, a.Type, a.K, a.M)
	ours := sealed(c, a.Segment, a.stripe(c), a.crc())
	if len(ours) != len(a.Fragments) {
		t.Fatalf("%v: %d fragments, liberasurecode makes %d", a, len(ours), len(a.Fragments))
	}
	for i, f := range a.Fragments {
		if !bytes.Equal(ours[i], f) {
			t.Fatalf("%v: fragment %d differs from liberasurecode's\nours   %x\ntheirs %x", a, i, ours[i][:min(len(ours[i]), 160)], f[:min(len(f), 160)])
		}
	}
}

// vector is a segment and its fragments as liberasurecode encoded them, in testdata so that there is
// something to compare with where it is not installed.
type vector struct {
	Type   string
	K, M   int
	Seed   byte // of randomBytes
	Size   int  // of the segment
	Libec  uint32
	CRC32  bool
	Legacy bool
	Header []byte // of the last fragment
	Sum    string // SHA-256 of all fragments, headers included, one after the other
}

func TestFragmentsEqualThoseKeptInTestdata(t *testing.T) {
	path := filepath.Join("testdata", "fragments.json")
	if *rewrite {
		rewriteVectors(t, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept []*vector
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, v := range kept {
		seen[v.Type] = true
		e := encoding{Type: v.Type, K: v.K, M: v.M, Segment: randomBytes(v.Seed, v.Size), CRC32: v.CRC32, Legacy: v.Legacy}
		for _, kernel := range native.Kernels() {
			c, err := NewOn(kernel, Scheme{v.Type, v.K, v.M})
			if err != nil {
				t.Fatal(err)
			}
			stripe := e.stripe(c)
			stripe.LibecVersion = v.Libec
			ours := newVector(&e, v.Seed, v.Libec, sealed(c, e.Segment, stripe, e.crc()))
			if !bytes.Equal(ours.Header, v.Header) || ours.Sum != v.Sum {
				t.Errorf("%v, kernel %s: the fragments differ from those kept; last header\nours %x\nkept %x", &e, kernel.Name(), ours.Header, v.Header)
			}
		}
	}
	for _, typ := range Types() {
		if !seen[typ] {
			t.Errorf("%s has nothing of %s", path, typ)
		}
	}
}

func newVector(e *encoding, seed byte, libec uint32, fragments [][]byte) *vector {
	v := &vector{Type: e.Type, K: e.K, M: e.M, Seed: seed, Size: len(e.Segment), Libec: libec, CRC32: e.CRC32, Legacy: e.Legacy}
	sum := sha256.New()
	for _, f := range fragments {
		v.Header = f[:HeaderSize]
		sum.Write(f)
	}
	v.Sum = fmt.Sprintf("%x", sum.Sum(nil))
	return v
}

// rewriteVectors asks the installed PyECLib for all types that it has and keeps the rest.
func rewriteVectors(t *testing.T, path string) {
	var questions, answers []*encoding
	for i, s := range samples() {
		if isNew(s.Type) || s.K+s.M > 14 {
			continue
		}
		size := []int{1, 41, 777, 9001}[i%4]
		questions = append(questions,
			&encoding{Type: s.Type, K: s.K, M: s.M, Segment: randomBytes(7, size), Legacy: i%3 == 0},
			&encoding{Type: s.Type, K: s.K, M: s.M, Segment: randomBytes(7, size+3), CRC32: true, Legacy: i%2 == 0})
	}
	oracle.Ask(t, encodeScript, questions, &answers)
	var kept, all []*vector
	if b, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(b, &kept); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range answers {
		all = append(all, newVector(a, 7, libecInstalled, a.Fragments))
	}
	for _, v := range kept {
		if isNew(v.Type) {
			all = append(all, v)
		}
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

const reconstructScript = `
import base64, json, sys
from pyeclib.ec_iface import ECDriver, ECDriverError
q = json.load(sys.stdin)
driver = ECDriver(k=q['k'], m=q['m'], ec_type=q['type'])
frags = [base64.b64decode(f) for f in q['fragments']]
try:
    fragment = driver.reconstruct([frags[i] for i in q['have']], [q['want']])[0]
    json.dump({'fragment': base64.b64encode(fragment).decode()}, sys.stdout)
except ECDriverError as err:
    json.dump({'error': str(err)}, sys.stdout)
`

func TestSingularSetIsRefusedWithWhatHelpsWhereLiberasurecodeFails(t *testing.T) {
	c := mustNew(t, "isa_l_rs_vand", 6, 5)
	all := fragments(c, randomBytes(6, 1000), Zlib)
	have := SetOf(1, 2, 4, 6, 7, 10)
	for _, want := range []int{0, 3, 5} {
		var theirs struct {
			Fragment []byte
			Error    string
		}
		oracle.Ask(t, reconstructScript, map[string]any{
			"type": "isa_l_rs_vand", "k": 6, "m": 5, "fragments": all, "have": have.Indexes(), "want": want,
		}, &theirs)
		if theirs.Error == "" {
			t.Errorf("liberasurecode rebuilds %d from %v", want, have)
		}
		_, err := c.Plan(have, SetOf(want))
		lack, ok := err.(*Insufficient)
		if !ok {
			t.Fatalf("plan of %d from %v: %v, not *Insufficient", want, have, err)
		}
		if lack.Have != have || lack.Want != SetOf(want) || lack.Helpful.Len() == 0 || !lack.Helpful.Has(8) {
			t.Errorf("%v", lack)
		}
		for _, helper := range lack.Helpful.Indexes() {
			checkRebuild(t, c, all, have.With(helper), SetOf(want))
		}
	}
}

// From K fragments of a flat XOR code PyECLib makes wrong bytes without a word, or crashes:
// hence a process for each question. What was lost is the truth.
func TestFlatXORIsRebuiltWhereLiberasurecodeMakesWrongBytes(t *testing.T) {
	const script = `
import json, subprocess, sys
q = json.load(sys.stdin)
done = subprocess.run([sys.executable, '-c', q['script']], input=json.dumps(q['question']).encode(), capture_output=True)
try:
    answer = json.loads(done.stdout)
except ValueError:
    answer = {'error': 'exit status %d' % done.returncode}
json.dump(answer, sys.stdout)
`
	wrong := 0
	for _, x := range []struct {
		Scheme
		have []int
		lost int
	}{
		{Scheme{"flat_xor_hd_3", 3, 3}, []int{1, 2, 3}, 0},
		{Scheme{"flat_xor_hd_3", 5, 5}, []int{1, 2, 3, 4, 5}, 0},
		{Scheme{"flat_xor_hd_3", 5, 5}, []int{1, 2, 3, 4, 9}, 0},
		{Scheme{"flat_xor_hd_3", 10, 5}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 11}, 0},
		{Scheme{"flat_xor_hd_4", 10, 5}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 12}, 0},
	} {
		c := newCode(t, x.Scheme)
		all := fragments(c, randomBytes(6, 1000), Zlib)
		var theirs struct {
			Fragment []byte
			Error    string
		}
		oracle.Ask(t, script, map[string]any{"script": reconstructScript, "question": map[string]any{
			"type": x.Type, "k": x.K, "m": x.M, "fragments": all, "have": x.have, "want": x.lost,
		}}, &theirs)
		t.Logf("%v: fragment %d from %v: liberasurecode: right: %v, error: %q", x.Scheme, x.lost, x.have, bytes.Equal(theirs.Fragment, all[x.lost]), theirs.Error)
		if !bytes.Equal(theirs.Fragment, all[x.lost]) {
			wrong++
		}
		have, want := SetOf(x.have...), SetOf(x.lost)
		var lack *Insufficient
		if _, err := c.Plan(have, want); errors.As(err, &lack) {
			for _, h := range lack.Helpful.Indexes() {
				checkRebuild(t, c, all, have.With(h), want)
			}
		} else {
			checkRebuild(t, c, all, have, want)
		}
	}
	if wrong == 0 {
		t.Error("liberasurecode was right each time: this test is of no use")
	}
}

// subsets calls f with each set of k of the first n indexes.
func subsets(n, k int, f func(Set)) {
	var next func(s Set, from, left int)
	next = func(s Set, from, left int) {
		if left == 0 {
			f(s)
			return
		}
		for i := from; i <= n-left; i++ {
			next(s.With(i), i+1, left-1)
		}
	}
	next(Set{}, 0, k)
}

func TestSingularSetsAreThoseKnownOfISAL(t *testing.T) {
	for _, x := range []struct {
		typ                   string
		k, m, singular, total int
	}{
		{"isa_l_rs_vand", 6, 5, 2, 462},
		{"isa_l_rs_vand", 8, 5, 6, 1287},
		{"isa_l_rs_vand", 5, 6, 2, 462},
		{"isa_l_rs_vand", 22, 4, 2, 14950}, // Swift takes this one
		{"isa_l_rs_vand", 10, 4, 0, 1001},
		{"liberasurecode_rs_vand", 6, 5, 0, 462},
		{"liberasurecode_rs_vand", 10, 4, 0, 1001},
	} {
		c := mustNew(t, x.typ, x.k, x.m)
		singular, total := 0, 0
		subsets(c.N(), c.K(), func(have Set) {
			total++
			var lost Set
			for i := range c.N() {
				if !have.Has(i) {
					lost = lost.With(i)
				}
			}
			_, err := c.solve(have, lost)
			if err == nil {
				return
			}
			singular++
			// One more of the helpful ones is enough for all the rest.
			_, err = c.Plan(have, SetOf(lost.Indexes()[0]))
			lack, ok := err.(*Insufficient)
			if !ok {
				return // this one can be made even so
			}
			for _, h := range lack.Helpful.Indexes() {
				if _, err := c.solve(have.With(h), lost.Without(h)); err != nil {
					t.Errorf("%v: %v", x, err)
				}
			}
		})
		if singular != x.singular || total != x.total {
			t.Errorf("%s %d+%d: %d singular sets of %d, not %d of %d", x.typ, x.k, x.m, singular, total, x.singular, x.total)
		}
	}
}
