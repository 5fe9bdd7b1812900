package ring

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// testRing describes a ring file without Swift: device ids go round the partitions.
type testRing struct {
	devs, power, rows int
	removed           []int  // devices that are null
	json              string // instead of the one that the rest implies
	table             []uint16
	tail              []byte // behind the table
}

// devices is the list "devs".
func (tr testRing) devices() string {
	var devs []string
	for id := range tr.devs {
		if slices.Contains(tr.removed, id) {
			devs = append(devs, "null")
			continue
		}
		devs = append(devs, fmt.Sprintf(`{"id": %d, "region": %d, "zone": %d, "ip": "10.0.0.%d", "port": 6200, "device": "d%d", "weight": 1.0}`, id, 1+id%2, id%3, id%7, id))
	}
	return "[" + strings.Join(devs, ", ") + "]"
}

// ids is the table, row after row.
func (tr testRing) ids() []uint16 {
	if tr.table != nil {
		return tr.table
	}
	var ids []uint16
	for id := 0; len(ids) < tr.rows<<tr.power; id++ {
		if id %= tr.devs; !slices.Contains(tr.removed, id) {
			ids = append(ids, uint16(id))
		}
	}
	return ids
}

// raw is what stands inside the gzip.
func (tr testRing) raw() []byte {
	text := tr.json
	if text == "" {
		text = fmt.Sprintf(`{"byteorder": "little", "devs": %s, "part_shift": %d, "replica_count": %d}`, tr.devices(), 32-tr.power, tr.rows)
	}
	b := []byte(magic)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	for _, id := range tr.ids() {
		b = binary.LittleEndian.AppendUint16(b, id)
	}
	return append(b, tr.tail...)
}

func (tr testRing) write(t testing.TB) string {
	t.Helper()
	return writeFile(t, zip(tr.raw()))
}

func zip(raw []byte) []byte {
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	gz.Write(raw) // a buffer takes all
	gz.Close()
	return out.Bytes()
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "object-1.ring.gz")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t testing.TB, tr testRing) *Ring {
	t.Helper()
	r, err := Load(tr.write(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// refused checks that a file is refused, in words that name it and hold what.
func refused(t *testing.T, file []byte, what string) {
	t.Helper()
	path := writeFile(t, file)
	r, err := Load(path)
	if err == nil {
		t.Errorf("loaded a ring of %d partitions, want an error with %q", r.Partitions(), what)
		return
	}
	if text := err.Error(); !strings.Contains(text, fmt.Sprintf("%q", path)) || !strings.Contains(text, what) || strings.Contains(text, "\n") || strings.Count(text, path) != 1 {
		t.Errorf("error does not name the file once and tell %q: %v", what, err)
	}
}

func TestFilesThatAreNoRingsAreRefused(t *testing.T) {
	good := testRing{devs: 4, power: 3, rows: 2}
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "not a gzip file: unexpected EOF"},
		{"text", []byte("hello, I am not a ring"), "not a gzip file"},
		{"empty gzip", zip(nil), "truncated in the magic"},
		{"pickle", zip([]byte("\x80\x02}q\x01.........")), "not a ring"},
		{"version 0", zip([]byte("R1NG\x00\x00\x00\x00\x00\x00")), "ring version 0 is not supported, only 1 and 2"},
		{"version 3", zip([]byte("R1NG\x00\x03\x00\x00\x00\x00")), "ring version 3 is not supported, only 1 and 2"},
		{"no JSON", zip([]byte("R1NG\x00\x01")), "truncated in the length of the JSON"},
		{"long JSON", zip([]byte("R1NG\x00\x01\xff\xff\xff\xff")), "4294967295 bytes of JSON are more than 33554432"},
		{"JSON ends", zip([]byte("R1NG\x00\x01\x00\x00\x00\x09{}")), "truncated after 2 of 9 bytes of JSON"},
		{"rows missing", zip(testRing{devs: 4, power: 3, rows: 3, table: []uint16{1, 2, 3, 0, 1, 2, 3, 0}}.raw()), "truncated: row 1 of 3 ends after 0 of 2^3 partitions"},
		{"first row short", zip(testRing{devs: 4, power: 3, rows: 1, table: []uint16{1, 2}}.raw()), "truncated: row 0 of 1"},
		{"odd end", zip(testRing{devs: 4, power: 3, rows: 2, table: make([]uint16, 12), tail: []byte{0}}.raw()), "row 1: truncated in the middle of partition 4"},
		{"too much", zip(append(good.raw(), 0)), "more data than its 2 rows of 2^3 partitions"},
		{"device out of range", zip(testRing{devs: 4, power: 1, rows: 2, table: []uint16{0, 1, 2, 4}}.raw()), "partition 1, replica 1 is on device 4, which is not among the devices"},
		{"unassigned partition", zip(testRing{devs: 4, power: 1, rows: 2, table: []uint16{65535, 1, 2, 3}}.raw()), "partition 0, replica 0 is on device 65535"},
		{"removed device", zip(testRing{devs: 4, power: 1, rows: 2, removed: []int{2}, table: []uint16{0, 1, 2, 3}}.raw()), "partition 0, replica 1 is on device 2"},
		{"never rebalanced", zip(testRing{devs: 4, power: 1}.raw()), "was it rebalanced?"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, c.file, c.want) })
	}
}

func TestStrangeJSON(t *testing.T) {
	const dev = `{"id": 0, "zone": 1, "ip": "10.0.0.1"}`
	table := []uint16{0, 0}
	for _, c := range []struct{ json, want string }{ // want "" is a good ring
		{`{"devs": [` + dev + `], "part_shift": 31, "replica_count": 1}`, ""},
		{`{"devs": [` + dev + `], "part_shift": 31.0, "replica_count": 1e0, "version": null, "next_part_power": null, "more": [1, {}]}`, ""},
		{`{"part_shift": 7, "devs": [` + dev + `], "part_shift": 31, "replica_count": 1}`, ""}, // the last counts, as in Python
		{`{"devs": [` + dev + `], "part_shift": 31}`, ""},
		{`{"devs": [{"id": 0, "zone": -3, "ip": "::1", "port": 6.2e3, "weight": 1e-3, "replication_ip": null, "replication_port": null}], "part_shift": 31}`, ""},
		{``, "unexpected EOF"}, {` `, "unexpected EOF"}, {`[]`, "not a JSON object"}, {`null`, "not a JSON object"}, {`{`, "unexpected EOF"}, {`{"devs"`, "unexpected EOF"},
		{`{"devs": [` + dev + `], "part_shift": 31} {}`, "something follows"},
		{`{}`, "part_shift is missing"}, {`{"part_shift": 31}`, "devs is missing"}, {`{"part_shift": 31, "devs": null}`, "devs is missing"},
		{`{"part_shift": 31, "devs": {}}`, "devs is not a list"}, {`{"part_shift": 31, "Devs": []}`, "devs is missing"},
		{`{"devs": [], "part_shift": 31}`, "device 0, which is not among the devices"},
		{`{"devs": [` + dev + `], "part_shift": "31"}`, `part_shift is not a whole number: "31"`},
		{`{"devs": [` + dev + `], "part_shift": 30.5}`, "part_shift is not a whole number: 30.5"},
		{`{"devs": [` + dev + `], "part_shift": true}`, "part_shift is not a whole number: true"},
		{`{"devs": [` + dev + `], "part_shift": -1}`, "part_shift is not in 0..32: -1"},
		{`{"devs": [` + dev + `], "part_shift": 33}`, "part_shift is not in 0..32: 33"},
		{`{"devs": [` + dev + `], "part_shift": 1e400}`, "part_shift is not a whole number"},
		{`{"devs": [` + dev + `], "part_shift": 99999999999999999999999999}`, "part_shift is not a whole number"},
		{`{"devs": [` + dev + `], "part_shift": 0, "replica_count": 1}`, "1 rows of 2^32 partitions are more than"},
		{`{"devs": [` + dev + `], "part_shift": 31, "replica_count": 65537}`, "replica_count is not in 0..65536"},
		{`{"devs": [` + dev + `], "part_shift": 31, "replica_count": -1}`, "replica_count is not in 0..65536: -1"},
		{`{"devs": [` + dev + `], "part_shift": 16, "replica_count": 65536}`, "65536 rows of 2^16 partitions are more than"},
		{`{"devs": [` + dev + `], "part_shift": 8, "replica_count": 2}`, "can not hold 1 rows of 2^24 partitions"},
		{`{"devs": [` + dev + `], "part_shift": 31, "next_part_power": 33}`, "next_part_power is not in 0..32"},
		{`{"devs": [` + dev + `], "part_shift": 31, "byteorder": "middle"}`, `byteorder is neither little nor big: "middle"`},
		{`{"devs": [` + dev + `], "part_shift": 31, "byteorder": 7}`, `byteorder is not a string: 7`},
		{`{"devs": [7], "part_shift": 31}`, "device 0: not a JSON object"},
		{`{"devs": [{}], "part_shift": 31}`, "device 0: id is missing"},
		{`{"devs": [{"id": 0, "ip": "::1"}], "part_shift": 31}`, "device 0: zone is missing"},
		{`{"devs": [{"id": 0, "zone": 1}], "part_shift": 31}`, "device 0: ip is missing"},
		{`{"devs": [null, ` + dev + `], "part_shift": 31}`, "device 1: its place in the list is not its id, 0"},
		{`{"devs": [{"id": 0, "zone": 1, "ip": 7}], "part_shift": 31}`, "device 0: ip is not a string: 7"},
		{`{"devs": [{"id": 0, "zone": 1, "ip": "::1", "port": 65536}], "part_shift": 31}`, "device 0: port is not in 0..65535"},
		{`{"devs": [{"id": 0, "zone": 1, "ip": "::1", "port": "6200"}], "part_shift": 31}`, `device 0: port is not a whole number: "6200"`},
		{`{"devs": [{"id": 0, "zone": 1, "ip": "::1", "weight": "1"}], "part_shift": 31}`, `device 0: weight is not a number: "1"`},
		{`{"devs": [{"id": 0, "zone": 1, "ip": "::1", "weight": NaN}], "part_shift": 31}`, "invalid character 'N'"},
		{`{"devs": [` + strings.Repeat("null,", maxDevs) + `null], "part_shift": 31}`, "more than 65536 devices"},
	} {
		tr := testRing{json: c.json, table: table}
		if c.json == "" {
			tr.json, tr.table = " ", nil
		}
		if c.want != "" {
			refused(t, zip(tr.raw()), c.want)
			continue
		}
		if r, err := Load(tr.write(t)); err != nil {
			t.Errorf("%.200s: %v", c.json, err)
		} else if d := r.Devs[0]; r.Partitions() != 2 || r.Replicas() != 1 || d.Region != 1 || d.ReplicationIP != d.IP || d.ReplicationPort != d.Port || r.NextPartPower != -1 {
			t.Errorf("%.200s: %+v %+v", c.json, r, d)
		}
	}
}

func TestRowsAreCountedWhereTheFileDoesNotTell(t *testing.T) {
	const text = `{"devs": [{"id": 0, "zone": 1, "ip": "::1"}], "part_shift": 30}`
	for n, want := range map[int]float64{4: 1, 8: 2, 10: 2.5} {
		if got := mustLoad(t, testRing{json: text, table: make([]uint16, n)}).Replicas(); got != want {
			t.Errorf("%d entries: %v replicas, want %v", n, got, want)
		}
	}
	refused(t, zip(testRing{json: text}.raw()), "truncated")
	refused(t, zip(testRing{json: text, table: make([]uint16, 3)}.raw()), "truncated")
}

func TestEveryTruncationIsRefused(t *testing.T) {
	whole := zip(testRing{devs: 4, power: 3, rows: 2}.raw())
	for n := range whole {
		refused(t, whole[:n], "")
	}
	// A cut inside the data, where the short last row of a good ring would be.
	raw := testRing{devs: 4, power: 3, rows: 2}.raw()
	var stored bytes.Buffer
	gz, err := gzip.NewWriterLevel(&stored, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	gz.Write(raw)
	gz.Flush()
	refused(t, stored.Bytes(), "unexpected EOF")
	refused(t, stored.Bytes()[:stored.Len()-12], "unexpected EOF")
}

func TestChecksumIsChecked(t *testing.T) {
	file := zip(testRing{devs: 4, power: 3, rows: 2}.raw())
	file[len(file)-5] ^= 1 // of the CRC
	refused(t, file, "checksum")
	// With a short last row the end is met inside the row.
	file = zip(testRing{devs: 4, power: 3, rows: 2, table: make([]uint16, 11)}.raw())
	file[len(file)-5] ^= 1
	refused(t, file, "checksum")
}

func TestMissingFileIsNotExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "object.ring.gz")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), path) != 1 {
		t.Errorf("Load of nothing: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("Load of a folder: %v", err)
	}
}

// A few KiB on disk must not become gigabytes in memory.
func TestBombsTakeNoMemory(t *testing.T) {
	zeros := strings.Repeat("\x00", 2<<20)
	const dev = `[{"id": 0, "zone": 1, "ip": "::1"}]`
	for name, tr := range map[string]testRing{
		"zeros behind the rows": {json: `{"devs": ` + dev + `, "part_shift": 31, "replica_count": 1}`, table: make([]uint16, 2), tail: []byte(zeros)},
		"more and more rows":    {json: `{"devs": ` + dev + `, "part_shift": 32}`, tail: []byte(zeros)},
		"a table that is not":   {json: `{"devs": ` + dev + `, "part_shift": 8, "replica_count": 32}`},
		"JSON of one byte keys": {json: `{` + strings.Repeat(`"a":0,`, 1<<17) + `"b":0}`},
		"JSON of nulls":         {json: `{"part_shift": 31, "devs": [` + strings.Repeat(`null,`, 1<<18) + `null]}`},
	} {
		checkBomb(t, name, tr.write(t), 64<<20)
	}
}

func checkBomb(t *testing.T, name, path string, limit uint64) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Load(path)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Errorf("%s: loaded", name)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > limit {
		t.Errorf("%s: %d MiB allocated: %v", name, used>>20, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte{})
	for _, name := range goldenRings(f) {
		file, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file)
	}
	for _, tr := range []testRing{
		{devs: 4, power: 3, rows: 2}, {devs: 9, power: 2, rows: 3, removed: []int{4}}, {devs: 1, power: 0, rows: 1}, {devs: 2, power: 2, rows: 2, table: []uint16{0, 1, 0, 1, 1}},
	} {
		f.Add(tr.raw())
	}
	path := filepath.Join(f.TempDir(), "fuzz.ring.gz")
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Inside the gzip, where the checksum does not keep the fuzzer out; as it is too.
		for _, file := range [][]byte{zip(raw), raw} {
			if err := os.WriteFile(path, file, 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := Load(path)
			if err != nil {
				if !strings.Contains(err.Error(), path) {
					t.Fatalf("error without the file: %v", err)
				}
				continue
			}
			checkSanity(t, r)
		}
	})
}

// checkSanity goes through some partitions of a ring that nobody knows.
func checkSanity(t *testing.T, r *Ring) {
	t.Helper()
	for _, part := range []int{0, r.Partitions() - 1, r.Partitions()} {
		seen := map[int]bool{}
		nodes := slices.AppendSeq(r.PartNodes(part), r.MoreNodes(part))
		for _, n := range nodes {
			if seen[n.ID] {
				t.Fatalf("partition %d: device %d twice", part, n.ID)
			}
			seen[n.ID] = true
		}
		if len(nodes) > r.tiers[tierDevice].alive {
			t.Fatalf("partition %d: %d nodes of %d", part, len(nodes), r.tiers[tierDevice].alive)
		}
	}
}
