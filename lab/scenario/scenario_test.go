package scenario

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"imping/swift/pickle"
)

// disk is a cluster of one node with one device and one policy, 2+1, without servers.
type disk struct {
	Cluster
	root string
}

func (d disk) Nodes() []int                 { return []int{1} }
func (d disk) Devices(int) []string         { return []string{"sd1"} }
func (d disk) DevicePath(dev string) string { return filepath.Join(d.root, dev) }
func (d disk) SwiftConf() string            { return filepath.Join(d.root, "swift.conf") }
func (d disk) NodeOf(dev string) int {
	if dev == "sd1" {
		return 1
	}
	return 0
}

func newDisk(t *testing.T) disk {
	t.Helper()
	d := disk{root: t.TempDir()}
	conf := "[swift-hash]\nswift_hash_path_suffix = x\n[storage-policy:0]\nname = rep\ndefault = yes\n" +
		"[storage-policy:1]\nname = ec\npolicy_type = erasure_coding\nec_type = liberasurecode_rs_vand\n" +
		"ec_num_data_fragments = 2\nec_num_parity_fragments = 1\n"
	if err := os.WriteFile(d.SwiftConf(), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}

// write puts a file with metadata on the device.
func (d disk) write(t *testing.T, name, body string, metadata map[string]string) string {
	t.Helper()
	path := filepath.Join(d.DevicePath("sd1"), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	if metadata != nil {
		raw := pickle.EncodeMetadata(metadata, nil)
		sum := md5.Sum(raw)
		for key, value := range map[string][]byte{metadataKey: raw, checksumKey: []byte(hex.EncodeToString(sum[:]))} {
			if err := unix.Setxattr(path, key, value, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}

func (d disk) snapshot(t *testing.T, saveTo string) *Snapshot {
	t.Helper()
	s, err := TakeSnapshot(d, "sd1", saveTo)
	if err != nil {
		t.Fatal(err)
	}
	// As a comparison from another process would see it.
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again Snapshot
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*s, again) {
		t.Errorf("a snapshot is not what its JSON says: %+v, %+v", *s, again)
	}
	return &again
}

func TestCompareFindsEveryDifference(t *testing.T) {
	d := newDisk(t)
	name := func(i int) string { return fmt.Sprintf("objects-1/%d/abc/%032x/1.00000#0#d.data", i, i) }
	meta := map[string]string{"ETag": "e", "X-Object-Meta-Latin": "\xe9\x00\xff", "name": "/a/c/o"}
	for i := range 8 {
		d.write(t, name(i), "feather", meta)
	}
	tombstone := strings.TrimSuffix(name(8), "#0#d.data") + ".ts"
	d.write(t, tombstone, "", meta)
	d.write(t, "objects-1/1/hashes.pkl", "not part of it", nil)
	d.write(t, "objects/1/abc/0/1.00000.data", "nor what is replicated", meta)

	before := d.snapshot(t, t.TempDir())
	if r := Compare(before, d.snapshot(t, "")); !r.OK() || r.Files != 9 || r.Archives != 8 || r.Same != 8 ||
		r.String() != "all 9 files (8 fragment archives) are the same" {
		t.Fatalf("nothing has changed, but %v", r)
	}
	if before.Files[name(0)].Metadata["X-Object-Meta-Latin"] != meta["X-Object-Meta-Latin"] {
		t.Errorf("metadata %q", before.Files[name(0)].Metadata)
	}

	d.write(t, name(0), "feathxr", meta)
	d.write(t, name(1), "feathers", meta)
	d.write(t, name(2), "feather", map[string]string{"ETag": "f", "name": "/a/c/o", "New": ""})
	for _, key := range []string{metadataKey, checksumKey} {
		if err := unix.Removexattr(filepath.Join(d.DevicePath("sd1"), map[string]string{metadataKey: name(3), checksumKey: name(4)}[key]), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(d.DevicePath("sd1"), name(5)), 12, 34); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(d.DevicePath("sd1"), name(6)), filepath.Join(d.DevicePath("sd1"), strings.Replace(name(6), "#0#d", "#0", 1))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(d.DevicePath("sd1"), tombstone)); err != nil {
		t.Fatal(err)
	}
	r := Compare(before, d.snapshot(t, ""))
	if r.OK() || r.Same != 1 {
		t.Errorf("%d archives are the same", r.Same)
	}
	for what, c := range map[string]struct {
		got  []string
		want []string
	}{
		"missing":  {r.Missing, []string{name(6), tombstone}},
		"extra":    {r.Extra, []string{strings.Replace(name(6), "#0#d", "#0", 1)}},
		"bytes":    {r.Bytes, []string{name(0) + ": SHA-256 ", name(1) + ": 8 bytes, was 7"}},
		"metadata": {r.Metadata, []string{name(2) + `: ETag is "f", was "e"; New is "", was not there; X-Object-Meta-Latin is gone`, name(3) + ": cannot read", name(4) + ": cannot read"}},
		"owner":    {r.Owner, []string{name(5) + ": 12:34 644, was 0:0 644"}},
	} {
		if len(c.got) != len(c.want) {
			t.Errorf("%s: %q, not %q", what, c.got, c.want)
			continue
		}
		for i := range c.got {
			if !strings.HasPrefix(c.got[i], c.want[i]) {
				t.Errorf("%s: %q, not %q", what, c.got[i], c.want[i])
			}
		}
	}
	if !strings.HasSuffix(r.Bytes[0], ", first at byte 5") {
		t.Errorf("%q does not say where", r.Bytes[0])
	}
}

func TestWipeLeavesAnEmptyDevice(t *testing.T) {
	d := newDisk(t)
	d.write(t, "objects-1/1/abc/x/1.data", "feather", nil)
	if err := Wipe(d, "sd1"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(d.DevicePath("sd1"))
	if err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := Wipe(d, "sd2"); err == nil {
		t.Error("a device that is not there was wiped")
	}
}

func TestFlipNeverTouchesAHeader(t *testing.T) {
	const payload, last, fragments = 100, 7, 4
	path := filepath.Join(t.TempDir(), "archive")
	var archive []byte
	for i := range fragments {
		size := payload
		if i == fragments-1 {
			size = last
		}
		header := make([]byte, headerSize)
		binary.LittleEndian.PutUint32(header[4:], uint32(size))
		archive = append(append(archive, header...), make([]byte, size)...)
	}
	if err := os.WriteFile(path, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	reached := map[int64]bool{}
	for seed := range uint64(200) {
		flip, err := FlipPayloadByte(path, seed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(archive)
		want[flip.Offset] ^= 0xff
		if !bytes.Equal(got, want) || flip.Offset%(headerSize+payload) < headerSize {
			t.Fatalf("seed %d flipped %v", seed, flip)
		}
		reached[flip.Offset/(headerSize+payload)] = true
		if err := flip.Undo(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, archive) {
		t.Errorf("flips were not undone: %v", err)
	}
	if len(reached) != fragments {
		t.Errorf("only fragments %v were reached", reached)
	}
	for what, body := range map[string][]byte{"empty": nil, "header": make([]byte, headerSize)} {
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := FlipPayloadByte(path, 1); err == nil {
			t.Errorf("%s: flipped", what)
		}
	}
}

func TestContentIsTheSeeds(t *testing.T) {
	o := &Object{Size: 100_001, Seed: "1"}
	first, err := io.ReadAll(o.Content())
	if err != nil || int64(len(first)) != o.Size {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	if err := compareBody(o, bytes.NewReader(first)); err != nil {
		t.Error(err)
	}
	wrong := bytes.Clone(first)
	wrong[len(wrong)-1]++
	for what, body := range map[string][]byte{"wrong": wrong, "short": first[1:], "long": append(first, 0), "none": nil} {
		if err := compareBody(o, bytes.NewReader(body)); err == nil {
			t.Errorf("a body that is %s passed", what)
		}
	}
	sum := md5.Sum(first)
	if etag, err := o.ETag(); err != nil || etag != hex.EncodeToString(sum[:]) {
		t.Errorf("ETag %s, %v", etag, err)
	}
}

func TestStockPassesAreJudgedByWhatTheyLog(t *testing.T) {
	whole := []string{"Starting 1", "7/7 (100.00%) partitions reconstructed in 0.41s (87.21/sec, 0s remaining)",
		"Object reconstruction complete (once). (0.01 minutes)", "Exited 1"}
	if err := judgeReconstructor(whole); err != nil {
		t.Error(err)
	}
	for _, lines := range [][]string{
		nil, whole[:2], whole[2:],
		append([]string{"13 suffixes checked - 0.00% hashed, 100.00% synced"}, whole...),
		append([]string{"Unable to get enough responses (1/4 from 1 ok responses) ..."}, whole...),
		append([]string{"127.0.0.1:6235/sd5/1 responded as unmounted: Invalid response 507"}, whole...),
	} {
		if judgeReconstructor(lines) == nil {
			t.Errorf("agreed: %q", lines)
		}
	}
	const audit = `Object audit (ALL) "once" mode completed: 0.02s. Total quarantined: %d, Total errors: %d, Total files/sec: 1`
	if err := judgeAuditor([]string{fmt.Sprintf(audit, 0, 0)}); err != nil {
		t.Error(err)
	}
	for _, l := range []string{"", fmt.Sprintf(audit, 1, 0), fmt.Sprintf(audit, 0, 1), fmt.Sprintf(audit, 0, 10)} {
		if judgeAuditor([]string{l}) == nil {
			t.Errorf("agreed: %q", l)
		}
	}
	d := newDisk(t)
	if err := NothingQuarantined(d); err != nil {
		t.Error(err)
	}
	d.write(t, "quarantined/objects-1/abc/1.data", "", nil)
	if NothingQuarantined(d) == nil {
		t.Error("a quarantined object was not seen")
	}
}
