// Package objhash tells where an object lives: its salted MD5, and the suffix and the
// partition in it. It knows no ring and no directory tree.
package objhash

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"imping/swift/timestamp"
)

// Hasher hashes names with the cluster's salts, bytes as they stand in swift.conf
// (swift_hash_path_prefix, swift_hash_path_suffix). It is goroutine-safe.
type Hasher struct {
	Prefix, Suffix []byte
}

// Path hashes an account, a container or an object. Empty names at the end are left
// out; an object without a container is no name of Swift's. Names are bytes (UTF-8, not
// quoted). Swift: common/utils, hash_path.
func (h Hasher) Path(account, container, object string) [16]byte {
	b := make([]byte, 0, 256)
	b = append(b, h.Prefix...)
	b = append(b, '/')
	b = append(b, account...)
	if container != "" || object != "" {
		b = append(b, '/')
		b = append(b, container...)
	}
	if object != "" {
		b = append(b, '/')
		b = append(b, object...)
	}
	b = append(b, h.Suffix...)
	return md5.Sum(b)
}

// Object hashes a name as the metadata holds it: "/account/container/object".
func (h Hasher) Object(name string) [16]byte {
	b := make([]byte, 0, 256)
	b = append(b, h.Prefix...)
	b = append(b, name...)
	b = append(b, h.Suffix...)
	return md5.Sum(b)
}

// ExpirerContainer is the container of the expirer's queue that lists an object which vanishes at a time, in seconds: one for each
// divisor seconds, spread a little by the name. Swift: common/utils.py, get_expirer_container.
func (h Hasher) ExpirerContainer(name string, at, divisor int64) string {
	spread := 0
	for _, b := range h.Object(name) {
		spread = (spread*256 + int(b)) % 100
	}
	return timestamp.DeleteAt(float64(at/divisor*divisor - int64(spread)))
}

// Hex is the hash as the name of a hash directory: 32 lower-case hexadecimal digits.
func Hex(hash [16]byte) string { return hex.EncodeToString(hash[:]) }

// Parse is the reverse of Hex. It refuses everything else, upper case too.
func Parse(s string) ([16]byte, error) {
	var hash [16]byte
	if len(s) == hex.EncodedLen(len(hash)) {
		if _, err := hex.Decode(hash[:], []byte(s)); err == nil && Hex(hash) == s {
			return hash, nil
		}
	}
	return [16]byte{}, fmt.Errorf("%.80q is not an object hash: not 32 lower-case hexadecimal digits", s)
}

// Suffix is the directory between partition and hash: the last three hexadecimal
// digits. Swift: common/utils, storage_directory.
func Suffix(hash string) string {
	return hash[max(0, len(hash)-3):]
}

// Partition is the top partPower bits of the hash, 0 <= partPower <= 32.
// Swift: common/ring/ring.py, Ring.get_part (its _part_shift is 32-partPower).
func Partition(hash [16]byte, partPower uint) int {
	return int(binary.BigEndian.Uint32(hash[:]) >> (32 - min(partPower, 32)))
}
