package rebuild

import (
	"strconv"
	"strings"
	"testing"

	"imping/codec"
	"imping/io/diskfile"
	"imping/swift/policy"
)

// FuzzNewObject reads the erasure-code metadata of a local archive: what is taken for an
// object has archives of just the local one's length, in segments that memory can hold.
func FuzzNewObject(f *testing.F) {
	code, err := codec.New(codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 2})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("10000", "4096", "d41d8cd98f00b204e9800998ecf8427e", "3", code.ArchiveSize(10000, 4096), 3)
	f.Add("0", "1048576", "x", "0", int64(0), 0)
	f.Add("9223372036854775807", "1", "x", "5", int64(84)<<56, 5)
	f.Add("-1", "0", "", "+1", int64(80), 1)
	f.Add("1", "268435456", "\xff", " 7", int64(84), 13)
	f.Add("9223372036854775807", "268435456", "x", "1", code.ArchiveSize(1<<63-1, 1<<28), 1)
	f.Fuzz(func(t *testing.T, size, segment, etag, index string, length int64, fileIndex int) {
		if length < 0 || fileIndex < 0 {
			return // no file has these
		}
		local := &diskfile.Object{Path: "/srv/node/sda/x.data", Name: "/a/c/o", FragIndex: fileIndex, Length: length, DataMeta: map[string]string{
			keySize: size, keySegment: segment, keyEtag: etag, KeyFragIndex: index,
		}}
		o, err := NewObject(code, &policy.Policy{}, 0, local)
		if err != nil {
			if !strings.Contains(err.Error(), local.Path) {
				t.Fatalf("error without the file: %v", err)
			}
			return
		}
		if o.Size < 0 || o.Segment < 1 || o.Segment > maxSegment || o.ECEtag != etag || o.Length != length || strconv.FormatInt(o.Size, 10) != strings.TrimLeft(size, "+0") && o.Size != 0 {
			t.Fatalf("%+v", o)
		}
		if payload := length / codec.HeaderSize; o.Size > 0 && (o.Size/int64(code.K()) > length || o.Size/int64(o.Segment) > payload) {
			t.Fatalf("%d bytes in segments of %d are said to be in archives of %d", o.Size, o.Segment, length)
		}
	})
}
