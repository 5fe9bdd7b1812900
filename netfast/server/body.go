package server

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"imping/codec"
	"imping/io/digest"
	"imping/io/diskfile"
	"imping/netfast"
)

const (
	// pieceSize is how much of an object is read at once where its bytes are looked at: system calls cost less per byte the more it is,
	// up to here. Short objects have smallPiece, and so have those beyond maxLargePieces at a time: a thousand clients that stall hold
	// no more memory than 80 MiB.
	pieceSize      = 256 << 10
	smallPiece     = 64 << 10
	maxLargePieces = 64
	// copyBelow is the length of bodies that cost less when they are read and sent with their heads, by two system calls, than by sendfile, by six.
	copyBelow = 32 << 10
	// dropWindow is how much may be sent before the page cache is told that it is not needed
	// any more. Swift: obj/diskfile.py, DROP_CACHE_WINDOW.
	dropWindow = 1 << 20
)

// piece is memory for a piece of an object.
type piece []byte

var (
	largePool   = sync.Pool{New: func() any { p := make(piece, pieceSize); return &p }}
	smallPool   = sync.Pool{New: func() any { p := make(piece, smallPiece); return &p }}
	largePieces atomic.Int64 // taken
)

// takePiece returns memory for pieces of length bytes; a negative length is unknown.
func takePiece(length int64) *piece {
	if length < 0 || length > smallPiece {
		if largePieces.Add(1) <= maxLargePieces {
			return largePool.Get().(*piece)
		}
		largePieces.Add(-1)
	}
	return smallPool.Get().(*piece)
}

func (p *piece) giveBack() {
	if len(*p) == smallPiece {
		smallPool.Put(p)
		return
	}
	largePool.Put(p)
	largePieces.Add(-1)
}

// unsent is the length of a body that a HEAD does not get.
type unsent int64

func (u unsent) Length() int64                      { return int64(u) }
func (unsent) Send(c *netfast.Conn, h []byte) error { _, err := c.Write(h); return err }
func (unsent) Close()                               {}

// objectBody is the bytes of an object that is open. Swift: obj/diskfile.py,
// BaseDiskFileReader and ECDiskFileReader.
type objectBody struct {
	s        *Server
	r        *Request
	place    *place
	o        *diskfile.Object
	etag     string
	fragment int64 // length of a whole fragment whose headers are checked; 0 = none is
	drop     bool  // from the page cache, once sent

	sum     *digest.Stream // of what is sent, nil where it is not to be compared
	dropped int64
	length  int64
	send    func(c *netfast.Conn, head []byte) error
}

func (s *Server) newBody(p *place, o *diskfile.Object, r *Request) *objectBody {
	_, token := r.Header.Lookup("X-Auth-Token")
	_, storage := r.Header.Lookup("X-Storage-Token")
	keep := (s.conf.KeepCachePrivate || !token && !storage) && o.Length < s.conf.KeepCacheSize
	return &objectBody{s: s, r: r, place: p, o: o, etag: o.DataMeta["ETag"], drop: !keep}
}

func (b *objectBody) Length() int64 { return b.length }

func (b *objectBody) Send(c *netfast.Conn, head []byte) error {
	err := b.send(c, head)
	if err != nil && !isA[*diskfile.QuarantinedError](err) && !netfast.IsTimeout(err) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) && c.Interrupted() == nil {
		b.s.errorf(b.r, "ERROR sending %s: %v", b.o.Path, err)
	}
	return err
}

// Close closes the object.
func (b *objectBody) Close() {
	if b.sum != nil {
		b.sum.Close()
	}
	b.o.Close()
}

// whole sends all of the object, compared with its ETag as often as etag_validate_pct says.
func (b *objectBody) whole() Stream { return b.from0(b.o.Length) }

// part sends one range. Only from the start on can anything be checked.
func (b *objectBody) part(r span) Stream {
	if r.start == 0 {
		return b.from0(r.end)
	}
	b.length = r.end - r.start
	b.send = func(c *netfast.Conn, head []byte) error {
		return c.Corked(func() error {
			if _, err := c.Write(head); err != nil {
				return err
			}
			return b.unseen(c, r)
		})
	}
	return b
}

// parts sends several ranges as multipart/byteranges. Swift: common/swob.py,
// multi_range_iterator.
func (b *objectBody) parts(ranges []span, contentType, boundary string) Stream {
	heads := make([]string, len(ranges))
	for i, r := range ranges {
		heads[i] = "--" + boundary + "\r\nContent-Type: " + contentType + "\r\nContent-Range: " + r.value(b.o.Length) + "\r\n\r\n"
		b.length += int64(len(heads[i])) + r.end - r.start + 2
	}
	last := "--" + boundary + "--"
	b.length += int64(len(last))
	b.send = func(c *netfast.Conn, head []byte) error {
		return c.Corked(func() error {
			if _, err := c.Write(head); err != nil {
				return err
			}
			for i, r := range ranges {
				if _, err := io.WriteString(c, heads[i]); err != nil {
					return err
				}
				if err := b.unseen(c, r); err != nil {
					return err
				}
				if _, err := c.Write(crlf); err != nil {
					return err
				}
			}
			_, err := io.WriteString(c, last)
			return err
		})
	}
	return b
}

// unseen sends bytes that nobody looks at.
func (b *objectBody) unseen(c *netfast.Conn, r span) error {
	if b.drop {
		return b.copied(c, r)
	}
	if err := c.SendFile(b.o.File(), r.start, r.end-r.start); err != nil {
		return b.failed(err)
	}
	return nil
}

// copied is unseen of what the page cache shall not keep: pages that sendfile has handed to the socket can not be dropped before the
// client has taken them.
func (b *objectBody) copied(c *netfast.Conn, r span) error {
	memory := takePiece(r.end - r.start)
	defer memory.giveBack()
	piece := *memory
	dropped := r.start
	for off := r.start; off < r.end; {
		p := piece[:min(int64(len(piece)), r.end-off)]
		if n, err := b.o.ReadAt(p, off); n < len(p) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return b.failed(err)
		}
		if _, err := c.Write(p); err != nil {
			return err
		}
		if off += int64(len(p)); off-dropped > dropWindow || off == r.end {
			b.o.DropCache(r.start, off-r.start) // as in seen
			dropped = off
		}
	}
	return nil
}

// from0 sends bytes 0 to end-1. The headers of fragments are looked at, and all bytes
// where the MD5 is wanted, which takes the end of the object too.
func (b *objectBody) from0(end int64) Stream {
	b.length, b.fragment = end, b.place.fragmentSize(b.o)
	validated := end == b.o.Length && rand.Float64() < b.s.conf.EtagValidate
	b.send = func(c *netfast.Conn, head []byte) error {
		if validated {
			b.sum = digest.New(end)
		}
		if validated || end == b.o.Length && end <= copyBelow {
			return b.seen(c, head, end)
		}
		return c.Corked(func() error {
			if _, err := c.Write(head); err != nil {
				return err
			}
			return b.headersSeen(c, end)
		})
	}
	return b
}

// headersSeen sends by sendfile, fragment after fragment once its header was seen.
func (b *objectBody) headersSeen(c *netfast.Conn, end int64) error {
	if b.fragment == 0 {
		return b.unseen(c, span{0, end})
	}
	// Many short fragments go out together, so that a large object is not sent in small pieces.
	for at := int64(0); at < end; {
		next := at
		for next < end && next-at < dropWindow {
			if err := b.checkAt(next); err != nil {
				return err
			}
			next = min(end, next+b.fragment)
		}
		if err := b.unseen(c, span{at, next}); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// checkAt looks at the header of the fragment there.
func (b *objectBody) checkAt(off int64) error {
	var header [codec.HeaderSize]byte
	n, err := b.o.ReadAt(header[:], off)
	if err != nil && err != io.EOF {
		return b.failed(err)
	}
	return b.check(header[:n], off)
}

func (b *objectBody) check(header []byte, off int64) error {
	// Swift condemns what liberasurecode does, and no more may be lost: archives of a machine of the other byte order are good ones.
	if !codec.IsSound(header) {
		return b.condemn(fmt.Sprintf("Invalid EC metadata at offset 0x%x", off))
	}
	return nil
}

// seen sends all of an object, as it was read and looked at, without MD5 where none is wanted. The last piece of a fragment archive goes out
// only when the whole was seen to be right: nobody shall rebuild from a wrong one.
func (b *objectBody) seen(c *netfast.Conn, head []byte, end int64) error {
	memory := takePiece(end)
	piece := *memory
	defer func() {
		if b.sum != nil {
			b.sum.Wait() // an error does not wait for what was begun
		}
		memory.giveBack()
	}()
	var header [codec.HeaderSize]byte // of a fragment that began in the piece before
	have := 0                         // bytes of it
	next := int64(0)                  // where the next fragment begins
	for off := int64(0); off < end || head != nil; {
		p := piece[:min(int64(len(piece)), end-off)]
		if n, err := b.o.ReadAt(p, off); n < len(p) {
			if err == io.EOF {
				return b.condemn(fmt.Sprintf("Bytes read: %d, does not match metadata: %d", off+int64(n), b.o.Length))
			}
			return b.failed(err)
		}
		if b.sum != nil {
			b.sum.Begin(p) // beside the sending
		}
		for b.fragment > 0 && next < off+int64(len(p)) {
			// next may lie before off: then the header began there.
			have += copy(header[have:], p[next+int64(have)-off:])
			if have < len(header) && off+int64(len(p)) < end {
				break // the rest is in the next piece
			}
			if err := b.check(header[:have], next); err != nil {
				return err
			}
			next, have = next+b.fragment, 0
		}
		off += int64(len(p))
		if off == end && b.sum != nil {
			// A replicated object is sent whole even so: its client has been promised that much,
			// and Swift's own do the same.
			if sum := b.sum.Sum(); sum != b.etag {
				err := b.condemn("ETag " + b.etag + " and file's md5 " + sum + " do not match")
				if b.place.fragments() {
					return err
				}
			}
		}
		// The very bytes that were hashed: what sendfile sends may have been read from the disk once more.
		var err error
		if head != nil {
			err = c.Answer(head, p)
			head = nil
		} else {
			_, err = c.Write(p)
		}
		if err != nil {
			return err
		}
		if b.sum != nil {
			b.sum.Wait()
		}
		if b.drop && (off-b.dropped > dropWindow || off == end) {
			b.o.DropCache(0, off) // of a folio all or nothing goes: what the end of the last window had cut, too
			b.dropped = off
		}
	}
	return nil
}

// failed quarantines an object that the disk can not give back.
func (b *objectBody) failed(err error) error {
	if errors.Is(err, syscall.EIO) {
		return b.condemn(err.Error())
	}
	return err
}

// condemn quarantines the object; the error says so. The line is Warn's.
func (b *objectBody) condemn(reason string) error {
	b.s.statsd.Increment("quarantines")
	return b.place.Condemn(b.o, reason)
}

// fragmentSize is the length of the archive's fragments but the last, with their headers; 0 where headers can not be checked. It is by
// the segment size that the archive was written with: the policy's may have been changed since. (Stock goes by the policy's, and
// quarantines what was written before.)
func (st *store) fragmentSize(o *diskfile.Object) int64 {
	if st.code == nil {
		return 0
	}
	segment, err := strconv.ParseInt(o.DataMeta["X-Object-Sysmeta-Ec-Segment-Size"], 10, 32)
	if err != nil || segment <= 0 {
		segment = int64(st.policy.SegmentSize)
	}
	return int64(st.code.FragmentSize(int(segment)))
}

// fragments tells a policy whose files are fragment archives.
func (st *store) fragments() bool { return st.policy.Type == "erasure_coding" }
