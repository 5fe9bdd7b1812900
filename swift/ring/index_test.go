package ring

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// testFile describes a file of version 2: the sections in their order.
type testFile struct {
	sections []testSection
	index    string // instead of the one that the sections imply
	tail     []byte // behind the file
}

type testSection struct {
	name   string
	data   string
	length uint64 // instead of that of data
	method string // "" is sha256
	entry  string // in the index, instead of the one that the rest implies
	want   string // checksum in the index
}

const metadata, devices, assignments = "swift/ring/metadata", "swift/ring/devices", "swift/ring/assignments"

// file is the ring in version 2.
func (tr testRing) file(idBytes int) testFile {
	var table []byte
	for _, id := range tr.ids() {
		if idBytes == 2 {
			table = binary.BigEndian.AppendUint16(table, id)
		} else {
			table = binary.BigEndian.AppendUint32(table, uint32(id))
		}
	}
	return testFile{sections: []testSection{
		{name: metadata, data: fmt.Sprintf(`{"part_shift": %d, "dev_id_bytes": %d, "replica_count": 0.5, "version": null}`, 32-tr.power, idBytes)},
		{name: devices, data: tr.devices()},
		{name: assignments, data: string(table)},
	}}
}

// with changes one section.
func (f testFile) with(name string, change func(*testSection)) testFile {
	f.sections = slices.Clone(f.sections)
	for i := range f.sections {
		if f.sections[i].name == name {
			change(&f.sections[i])
		}
	}
	return f
}

func (f testFile) bytes() []byte {
	out := bytes.NewBuffer([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255})
	sum, size := crc32.NewIEEE(), 0
	// A new writer for each part: none looks back at what stood before.
	put := func(level int, b []byte) {
		w, _ := flate.NewWriter(out, level) // fails for bad levels only
		w.Write(b)                          // a buffer takes all
		w.Flush()
		sum.Write(b)
		size += len(b)
	}
	number := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	put(flate.NoCompression, []byte("R1NG\x00\x02"))
	var entries []string
	for _, s := range f.sections {
		start, from := out.Len(), size
		length := uint64(len(s.data))
		if s.length != 0 {
			length = s.length
		}
		blob := append(binary.BigEndian.AppendUint64(nil, length), s.data...)
		put(flate.BestCompression, blob)
		if s.method == "" {
			s.method = "sha256"
		}
		if s.want == "" {
			h := map[string]hash.Hash{"md5": md5.New(), "sha1": sha1.New(), "sha256": sha256.New(), "sha512": sha512.New()}[s.method]
			h.Write(blob)
			s.want = fmt.Sprintf("%x", h.Sum(nil))
		}
		if s.entry == "" {
			s.entry = fmt.Sprintf(`[%d, %d, %d, %d, %q, %q]`, start, from, out.Len(), from+8+int(length), s.method, s.want)
		}
		// START in an entry of the test's own is where the section is.
		entries = append(entries, fmt.Sprintf("%q: %s", s.name, strings.ReplaceAll(s.entry, "START", fmt.Sprint(start))))
	}
	if f.index == "" {
		f.index = "{" + strings.Join(entries, ", ") + "}"
	}
	start, from := out.Len(), size
	put(flate.BestCompression, append(number(len(f.index)), f.index...))
	put(flate.NoCompression, number(from))
	put(flate.NoCompression, number(start))
	out.Write([]byte{1, 0, 0, 255, 255})
	out.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	out.Write(binary.LittleEndian.AppendUint32(nil, uint32(size)))
	out.Write(f.tail)
	return out.Bytes()
}

func goldenRings(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/golden/*.ring.gz")
	if err != nil || len(names) == 0 {
		t.Fatal("no rings in testdata/golden", err)
	}
	return names
}

// Debian's Swift can not write version 2: files and answers were made by 2.38.1 (commit
// d57c078ef). In testdata, with 2.36 or later on PYTHONPATH, they are made anew by
// /usr/bin/python3 rings.py < golden/question.json > golden/rings.json
func TestRingsOfVersion2HaveSwiftsNodesAndHandoffs(t *testing.T) {
	text, err := os.ReadFile("testdata/golden/rings.json")
	if err != nil {
		t.Fatal(err)
	}
	var answers []swiftRing
	if err := json.Unmarshal(text, &answers); err != nil {
		t.Fatal(err)
	}
	widths, far, fractional := map[int]int{}, 0, 0
	for i := range answers {
		a := &answers[i]
		a.Path = filepath.Join("testdata", a.Path)
		widths[a.IDBytes]++
		if a.DevCount > maxDevs {
			far++
		}
		if a.Replicas != float64(int(a.Replicas)) {
			fractional++
		}
	}
	handoffs := checkRings(t, answers)
	if len(answers) != len(goldenRings(t)) || widths[2] == 0 || widths[4] <= far || far == 0 || fractional == 0 || handoffs < 500 {
		t.Errorf("%d rings, ids of %v bytes, %d with more devices than two bytes can number, %d with fractional replicas, %d handoffs: the test no longer tests", len(answers), widths, far, fractional, handoffs)
	}
}

// same compares all but what the file system tells.
func same(a, b *Ring) bool {
	copied := *a
	copied.Path, copied.ModTime, copied.Size = b.Path, b.ModTime, b.Size
	return reflect.DeepEqual(&copied, b)
}

func TestBothVersionsOfARingAreTheSame(t *testing.T) {
	for _, tr := range []testRing{
		{devs: 4, power: 3, rows: 2}, {devs: 9, power: 2, rows: 3, removed: []int{4}}, {devs: 1, power: 0, rows: 1}, {devs: 2, power: 2, rows: 2, table: []uint16{0, 1, 0, 1, 1}},
		{devs: 300, power: 16, rows: 3},
	} {
		v1 := mustLoad(t, tr)
		v2, err := Load(writeFile(t, tr.file(2).bytes()))
		if err != nil || !same(v1, v2) {
			t.Errorf("%+v: another ring in version 2: %v", tr, err)
			continue
		}
		wide, err := Load(writeFile(t, tr.file(4).bytes()))
		if err != nil {
			t.Error(err)
			continue
		}
		for part := range min(v1.Partitions(), 64) {
			if !slices.EqualFunc(wide.PartNodes(part), v1.PartNodes(part), sameNode) || !slices.EqualFunc(slices.Collect(wide.MoreNodes(part)), slices.Collect(v1.MoreNodes(part)), sameNode) {
				t.Errorf("%+v: other nodes of partition %d with ids of four bytes", tr, part)
			}
		}
	}
}

func sameNode(a, b Node) bool {
	return *a.Device == *b.Device && a.Index == b.Index && a.Handoff == b.Handoff
}

func TestSectionsAreFoundWhereverTheyAre(t *testing.T) {
	tr := testRing{devs: 9, power: 4, rows: 3, removed: []int{4}}
	want := mustLoad(t, tr)
	f := tr.file(2)
	others := []testSection{
		{name: "acme/notes", data: strings.Repeat("whatever", 1000)},
		{name: "acme/strange", data: "x", entry: `{"sealed": [null]}`},
	}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}} {
		for i, method := range []string{"md5", "sha1", "sha256", "sha512"} {
			g := testFile{sections: others[:i%3]}
			for _, s := range order {
				section := f.sections[s]
				section.method = method
				g.sections = append(g.sections, section)
			}
			g.sections = append(g.sections, others[i%3:]...)
			if r, err := Load(writeFile(t, g.bytes())); err != nil || !same(r, want) {
				t.Errorf("sections in order %v with %s: %v", order, method, err)
			}
		}
	}
	// Ends that were not known when the index was written.
	open := f.with(metadata, func(s *testSection) {
		s.entry = fmt.Sprintf(`[START, null, null, null, "sha256", "%x"]`, sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, uint64(len(s.data))), s.data...)))
	})
	if r, err := Load(writeFile(t, open.bytes())); err != nil || !same(r, want) {
		t.Errorf("without ends: %v", err)
	}
}

func TestBadSectionsAreRefused(t *testing.T) {
	good := testRing{devs: 4, power: 2, rows: 2}.file(2)
	data := func(name, data string) testFile {
		return good.with(name, func(s *testSection) { s.data = data })
	}
	entry := func(name, entry string) testFile {
		return good.with(name, func(s *testSection) { s.entry = entry })
	}
	without := func(i int) testFile {
		return testFile{sections: slices.Delete(slices.Clone(good.sections), i, i+1)}
	}
	unsealed, err := gzip.NewReader(bytes.NewReader(good.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(unsealed); err != nil {
		t.Fatal(err)
	}
	const noIndex = "cannot read the index at its end (is it truncated, or was it recompressed?)"
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"magic alone", zip([]byte("R1NG\x00\x02")), noIndex},
		{"version 1 that calls itself 2", zip(append([]byte("R1NG\x00\x02"), testRing{devs: 4, power: 3, rows: 2}.raw()[6:]...)), noIndex},
		{"recompressed", zip(raw.Bytes()), noIndex},
		{"something behind it", testFile{sections: good.sections, tail: []byte{0}}.bytes(), noIndex},
		{"index that is a list", testFile{sections: good.sections, index: "[]"}.bytes(), noIndex + ": not a JSON object"},
		{"long index", testFile{sections: good.sections, index: strings.Repeat(" ", maxIndex+1)}.bytes(), noIndex + ": 1048577 bytes are more than 1048576"},
		{"no metadata", without(0).bytes(), `section "swift/ring/metadata": not in the index`},
		{"no devices", without(1).bytes(), `section "swift/ring/devices": not in the index`},
		{"no assignments", without(2).bytes(), `section "swift/ring/assignments": not in the index`},
		{"entry is null", entry(devices, `null`).bytes(), `section "swift/ring/devices": not in the index`},
		{"entry is no list", entry(devices, `{}`).bytes(), `section "swift/ring/devices": bad entry in the index: not a list of 6: {}`},
		{"short entry", entry(devices, `[START, 1, 2, 3, "md5"]`).bytes(), "not a list of 6"},
		{"long entry", entry(devices, `[START, 1, 2, 3, "md5", "0", 0]`).bytes(), "not a list of 6"},
		{"start behind the file", entry(devices, `[9999, null, null, null, "md5", "0"]`).bytes(), "compressed start is not in 0.."},
		{"negative start", entry(devices, `[-1, null, null, null, "md5", "0"]`).bytes(), "compressed start is not in 0.."},
		{"no start", entry(devices, `[null, 1, 2, 3, "md5", "0"]`).bytes(), "compressed start is missing"},
		{"ends before it starts", entry(devices, `[START, 9, 9, 8, "md5", "0"]`).bytes(), "uncompressed end is not in 9.."},
		{"start at gzip's header", entry(devices, `[0, null, null, null, "md5", "0"]`).bytes(), "truncated or corrupt in its length"},
		{"no checksum", entry(devices, `[START, null, null, null, null, null]`).bytes(), "checksum method is missing"},
		{"null checksum", entry(devices, `[START, null, null, null, "md5", null]`).bytes(), "checksum value is missing"},
		{"unknown checksum", entry(devices, `[START, null, null, null, "crc32", "0"]`).bytes(), `checksum method "crc32" is not supported`},
		{"wrong checksum", good.with(devices, func(s *testSection) { s.want = "00" }).bytes(), `section "swift/ring/devices": corrupt: its checksum is `},
		{"wrong checksum of nonsense", good.with(devices, func(s *testSection) { s.want, s.data = "00", "[7, ???" }).bytes(), `section "swift/ring/devices": corrupt: its checksum is `},
		{"wrong end", entry(devices, `[START, 0, null, 9, "md5", "0"]`).bytes(), "bytes is 9 in the index"},
		{"end within the length", entry(devices, `[START, 0, null, 7, "md5", "0"]`).bytes(), "bytes is 7 in the index"},
		{"long metadata", good.with(metadata, func(s *testSection) { s.length = maxIndex + 1 }).bytes(), "1048577 bytes are more than 1048576"},
		{"immense section", entry(devices, `[START, null, null, null, "md5", "0"]`).with(devices, func(s *testSection) { s.length = 1<<64 - 1 }).bytes(), "18446744073709551615 bytes are more than"},
		{"section longer than the file can be", good.with(assignments, func(s *testSection) { s.length = maxTable }).bytes(), "can not hold 1073741824"},
		{"section ends early", good.with(assignments, func(s *testSection) { s.length = 1 << 18 }).bytes(), `section "swift/ring/assignments": truncated or corrupt with`},
		{"metadata is a list", data(metadata, `[]`).bytes(), `section "swift/ring/metadata": not a JSON object`},
		{"no shift", data(metadata, `{"dev_id_bytes": 2}`).bytes(), "part_shift is missing"},
		{"no width", data(metadata, `{"part_shift": 30}`).bytes(), "dev_id_bytes is missing"},
		{"width 1", data(metadata, `{"part_shift": 30, "dev_id_bytes": 1}`).bytes(), "dev_id_bytes is neither 2 nor 4: 1"},
		{"width 8", data(metadata, `{"part_shift": 30, "dev_id_bytes": 8}`).bytes(), "dev_id_bytes is neither 2 nor 4: 8"},
		{"shift 33", data(metadata, `{"part_shift": 33, "dev_id_bytes": 2}`).bytes(), "part_shift is not in 0..32: 33"},
		{"next power 33", data(metadata, `{"part_shift": 30, "dev_id_bytes": 2, "next_part_power": 33}`).bytes(), "next_part_power is not in 0..32: 33"},
		{"large rows", data(metadata, `{"part_shift": 0, "dev_id_bytes": 4}`).bytes(), "1 rows of 2^32 partitions are more than"},
		{"devices are an object", data(devices, `{}`).bytes(), `section "swift/ring/devices": devs is not a list`},
		{"devices end early", data(devices, `[null, `).bytes(), `section "swift/ring/devices": device 1: unexpected EOF`},
		{"devices are not closed", data(devices, `[null`).bytes(), `section "swift/ring/devices": unexpected EOF`},
		{"bad device", data(devices, `[{"id": 0}]`).bytes(), `section "swift/ring/devices": device 0: zone is missing`},
		{"more behind the devices", data(devices, `[] []`).bytes(), "something follows the list of devices"},
		{"device of a MiB", data(devices, `[null, {"id": 1, "zone": 1, "ip": "`+strings.Repeat("1", 2*maxDevice)+`"}]`).bytes(), "device 1: more than 1048576 bytes"},
		{"no assignments in their section", data(assignments, "").bytes(), "was it rebalanced?"},
		{"first row short", data(assignments, "\x00\x01\x00\x02").bytes(), "row 0 of 1 ends after 2 of 2^2 partitions"},
		{"odd end", data(assignments, strings.Repeat("\x00", 9)).bytes(), "row 1: truncated in the middle of partition 0"},
		{"device out of range", data(assignments, "\x00\x00\x00\x01\x00\x02\x00\x04").bytes(), "partition 3, replica 0 is on device 4, which is not among the devices"},
		{"unassigned", testRing{devs: 4, power: 1, rows: 1}.file(4).with(assignments, func(s *testSection) { s.data = "\xff\xff\xff\xff\x00\x00\x00\x01" }).bytes(), "partition 0, replica 0 is on device 4294967295"},
		{"more replicas than can be", testRing{devs: 1, power: 0, rows: 1}.file(2).with(assignments, func(s *testSection) { s.data = strings.Repeat("\x00", 2*maxRows+1) }).bytes(), "65537 replicas are more than 65536"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, c.file, c.want) })
	}
}

// What of the file is used is covered by the checksums, but the index itself: a damaged
// one must not lead to another ring.
func TestNoDamageMakesAnotherRing(t *testing.T) {
	name := goldenRings(t)[9]
	want, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "object.ring.gz")
	for i := range whole {
		damaged := slices.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		files := [][]byte{damaged}
		if i%7 == 0 || i > len(whole)-2*tailSize {
			files = append(files, whole[:i])
		}
		for _, file := range files {
			if err := os.WriteFile(path, file, 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := Load(path)
			if err == nil && !same(r, want) {
				t.Errorf("another ring with byte %d damaged, or missing with the rest", i)
			}
			if err == nil && len(file) < len(whole) {
				t.Errorf("loaded the first %d of %d bytes", len(file), len(whole))
			}
		}
	}
}

func TestBombsOfVersion2TakeNoMemory(t *testing.T) {
	good := testRing{devs: 1, power: 0, rows: 1}.file(4)
	zeros := strings.Repeat("\x00", 2<<20)
	for name, f := range map[string]testFile{
		"JSON of nulls":    good.with(devices, func(s *testSection) { s.data = "[" + strings.Repeat("null,", maxWideDevs) + "null]" }),
		"one large device": good.with(devices, func(s *testSection) { s.data = `["` + strings.Repeat("a", 16<<20) + `"]` }),
		"zeros behind it":  good.with(assignments, func(s *testSection) { s.data = zeros }),
		"few, large rows": good.with(metadata, func(s *testSection) { s.data = `{"part_shift": 4, "dev_id_bytes": 4}` }).with(assignments, func(s *testSection) {
			s.data, s.length = zeros, maxTable
		}),
		"index of zeros": {sections: good.sections, index: zeros},
	} {
		// 130 bytes for each of a million nulls; eight of them stay.
		checkBomb(t, name, writeFile(t, f.bytes()), 192<<20)
	}
}

func FuzzSections(f *testing.F) {
	for _, tr := range []testRing{{devs: 4, power: 3, rows: 2}, {devs: 9, power: 2, rows: 3, removed: []int{4}}, {devs: 2, power: 2, rows: 2, table: []uint16{0, 1, 0, 1, 1}}} {
		for _, idBytes := range []int{2, 4} {
			s := tr.file(idBytes).sections
			f.Add("", s[0].data, s[1].data, []byte(s[2].data))
		}
	}
	f.Add(`{"swift/ring/metadata": [26, 6, 40, 70, "md5", "0"], "swift/ring/devices": [26, null, null, null, null, null]}`, `{}`, `[]`, []byte{})
	path := filepath.Join(f.TempDir(), "fuzz.ring.gz")
	f.Fuzz(func(t *testing.T, index, metadataText, devicesText string, table []byte) {
		// With the right checksums, which would keep the fuzzer out.
		file := testFile{index: index, sections: []testSection{{name: metadata, data: metadataText}, {name: devices, data: devicesText}, {name: assignments, data: string(table)}}}
		if err := os.WriteFile(path, file.bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := Load(path)
		if err == nil {
			checkSanity(t, r)
		} else if !strings.Contains(err.Error(), path) {
			t.Fatalf("error without the file: %v", err)
		}
	})
}

func BenchmarkLoadVersion2(b *testing.B) {
	path := writeFile(b, testRing{devs: 500, power: 20, rows: 14}.file(2).bytes())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(path); err != nil {
			b.Fatal(err)
		}
	}
}
