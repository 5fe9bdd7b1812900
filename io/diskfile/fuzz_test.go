package diskfile

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imping/swift/pickle"
)

// attributes answers getxattr from memory as Linux does.
type attributes map[string]string

func (a attributes) get(name string, b []byte) (int, error) {
	value, ok := a[name]
	switch {
	case !ok:
		return 0, unix.ENODATA
	case len(b) < len(value):
		return 0, unix.ERANGE
	}
	return copy(b, value), nil
}

// cut lays raw out in pieces of size bytes.
func cut(raw string, size int) attributes {
	a := attributes{}
	for i := 0; i == 0 || raw != ""; i++ {
		key, n := metadataKey, min(size, len(raw))
		if i > 0 {
			key += strconv.Itoa(i)
		}
		a[key], raw = raw[:n], raw[n:]
	}
	return a
}

func sum(raw string) string {
	s := md5.Sum([]byte(raw))
	return hex.EncodeToString(s[:])
}

// Metadata as it may come from a disk: in pieces of any size, with any checksum. Nothing
// but a CorruptError comes of it; what is read is written back to the same; and a pickle
// that the decoder merely refuses never sends an object to quarantine.
func FuzzReadMetadata(f *testing.F) {
	sound := map[string]string{"name": "/a/c/ä", "Content-Length": "12", "ETag": "", "\xff": "\x00"}
	seeds := []string{
		string(pickle.EncodeMetadata(sound, nil)), string(python2Pickle(sound)), "", "hello", "}.", "N.", "\x80\x04}.",
		"cos\nsystem\n(S'true'\ntR.", "(dp1\nS'name'\np2\nS'/a/c/o'\np3\ns.", "\x80\x02}X\x04\x00\x00\x00name\x8a\x09123456789s.",
	}
	for i, s := range seeds {
		f.Add(s, uint16(65535), sum(s))
		f.Add(s, uint16(len(s)/(i+1)+1), "")
		f.Add(s, uint16(1), strings.Repeat("0", 32))
	}
	f.Fuzz(func(t *testing.T, raw string, size uint16, checksum string) {
		a := cut(raw, int(size)+1)
		pieces := len(a)
		if checksum != "" {
			a[checksumKey] = checksum
		}
		got, err := readMetadata("f", a.get)
		if err != nil {
			e, ok := errors.AsType[*CorruptError](err)
			if !ok || e.Path != "f" || e.Reason == "" {
				t.Fatalf("%v", err)
			}
			_, decodeErr := pickle.DecodeMetadata([]byte(raw))
			_, refused := errors.AsType[*pickle.RefusedError](decodeErr)
			bad := raw == "" || checksum != "" && checksum != sum(raw) || decodeErr != nil && !refused
			if pieces <= maxPieces && e.Quarantine != bad {
				t.Fatalf("%v: Quarantine is %v", err, e.Quarantine)
			}
			return
		}
		if pieces > maxPieces || checksum != "" && checksum != sum(raw) {
			t.Fatalf("%d pieces with checksum %q were read", pieces, checksum)
		}
		again := string(pickle.EncodeMetadata(got, nil))
		a = cut(again, max(len(again)/maxPieces+1, 100))
		a[checksumKey] = sum(again)
		if back, err := readMetadata("f", a.get); err != nil || !maps.Equal(got, back) {
			t.Fatalf("%q was read and %q written back: %v", got, back, err)
		}
	})
}
