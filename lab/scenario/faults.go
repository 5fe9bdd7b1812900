package scenario

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
)

// Flip is a byte that has rotted.
type Flip struct {
	Path   string
	Offset int64
	Old    byte
}

func (f Flip) String() string { return fmt.Sprintf("byte %d of %s", f.Offset, f.Path) }

// headerSize is liberasurecode's fragment header, in bytes; the payload's length is the
// little-endian number at byte 4.
const headerSize = 80

// FlipPayloadByte inverts one byte of a fragment archive, in the payload of one of its
// fragments, never in a header. The same seed flips the same byte.
func FlipPayloadByte(archive string, seed uint64) (Flip, error) {
	f, err := os.OpenFile(archive, os.O_RDWR, 0)
	if err != nil {
		return Flip{}, fmt.Errorf("cannot flip a byte: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Flip{}, fmt.Errorf("cannot flip a byte: %w", err)
	}
	var header [headerSize]byte
	if _, err := f.ReadAt(header[:], 0); err != nil {
		return Flip{}, fmt.Errorf("cannot flip a byte of %s, which holds no fragment: %w", archive, err)
	}
	payload := int64(binary.LittleEndian.Uint32(header[4:]))
	fragment := headerSize + payload
	// All fragments but the last are as long as the first.
	fragments := (st.Size() + fragment - 1) / fragment
	if payload == 0 {
		return Flip{}, fmt.Errorf("cannot flip a byte of %s, whose payload is empty", archive)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	start := random.Int64N(fragments) * fragment
	length := min(payload, st.Size()-start-headerSize)
	if length <= 0 {
		start, length = 0, payload
	}
	flip := Flip{Path: archive, Offset: start + headerSize + random.Int64N(length)}
	var b [1]byte
	if _, err := f.ReadAt(b[:], flip.Offset); err != nil {
		return Flip{}, fmt.Errorf("cannot flip %v: %w", flip, err)
	}
	flip.Old = b[0]
	if _, err := f.WriteAt([]byte{^b[0]}, flip.Offset); err != nil {
		return Flip{}, fmt.Errorf("cannot flip %v: %w", flip, err)
	}
	return flip, nil
}

// Undo puts the byte back.
func (f Flip) Undo() error {
	file, err := os.OpenFile(f.Path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot restore %v: %w", f, err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{f.Old}, f.Offset); err != nil {
		return fmt.Errorf("cannot restore %v: %w", f, err)
	}
	return nil
}
