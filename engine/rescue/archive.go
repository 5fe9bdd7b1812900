package rescue

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/io/diskfile"
)

// archive is a file that was given.
type archive struct {
	path string
	file *os.File // nil when it can not be read
	stat os.FileInfo
	meta *metadata // nil: a bare file, or one whose metadata is of no use
	head *codec.Header
	// shape is what headers and length say of the object; zero when they do not fit each other.
	shape shape

	index   int            // of the fragments, -1 when nothing says it
	sum     string         // MD5 of the file, once it was read whole
	bad     map[int64]bool // segments whose fragment is not to be used
	dropped bool           // not one of the object's archives
	second  bool           // used only where the others are not enough
	faults  int            // bad fragments beyond those that problems name
	reasons []string       // what is wrong
}

// shape is the length of an object and of its segments; the latter is that of the object, if it has but one.
type shape struct {
	size    int64
	segment int
}

func (s shape) String() string {
	return fmt.Sprintf("an object of %d bytes in segments of %d", s.size, s.segment)
}

func shapeOf(size int64, segment int) shape {
	return shape{size, int(min(size, int64(segment)))}
}

// maxReasons bounds how many bad fragments of one archive are named, each with its reason.
const maxReasons = 5

func (a *archive) problem(format string, args ...any) {
	a.reasons = append(a.reasons, fmt.Sprintf(format, args...))
}

// spoil notes that a segment's fragment is not to be used, and why.
func (a *archive) spoil(segment int64, reason string) {
	if a.bad[segment] {
		return
	}
	if a.bad == nil {
		a.bad = map[int64]bool{}
	}
	a.bad[segment] = true
	a.second = true
	if len(a.bad) > maxReasons {
		a.faults++
		return
	}
	a.problem("segment %d: %s", segment, reason)
}

// metadata is what a file's extended attributes say of it, as far as it matters here.
type metadata struct {
	all                   map[string]string
	name, timestamp, etag string // etag: of the object
	scheme                codec.Scheme
	shape                 shape
	segment               int // as it is said
	index                 int
	sum                   string // MD5 of the archive
}

// Keys of metadata. Swift: proxy/controllers/obj.py, ECObjectController._make_putter's footers.
const (
	keyIndex   = "X-Object-Sysmeta-Ec-Frag-Index"
	keySize    = "X-Object-Sysmeta-Ec-Content-Length"
	keyEtag    = "X-Object-Sysmeta-Ec-Etag"
	keySegment = "X-Object-Sysmeta-Ec-Segment-Size"
	keyScheme  = "X-Object-Sysmeta-Ec-Scheme"
)

// maxObject keeps the lengths of archives of any scheme and segment size in an int64. Swift's objects have 5 GiB, if it is not told otherwise.
const maxObject = 1 << 50

// readMetadata returns nil for a file that has none.
func readMetadata(path string) (*metadata, error) {
	_, err := unix.Getxattr(path, "user.swift.metadata", nil)
	if err == unix.ENODATA || err == unix.ENOTSUP {
		return nil, nil
	}
	all, err := diskfile.ReadMetadata(path)
	if err != nil {
		if corrupt, ok := errors.AsType[*diskfile.CorruptError](err); ok {
			return nil, errors.New(corrupt.Reason)
		}
		return nil, err
	}
	m := &metadata{all: all, name: all["name"], timestamp: all["X-Timestamp"], etag: all[keyEtag], sum: all["ETag"]}
	if m.scheme, err = ParseScheme(all[keyScheme]); err != nil {
		return nil, fmt.Errorf("metadata is not that of a fragment archive: %s: %w", keyScheme, err)
	}
	number := func(key string, most int64) int64 {
		n, e := strconv.ParseInt(all[key], 10, 64)
		if (e != nil || n < 0 || n > most) && err == nil {
			err = fmt.Errorf("metadata: %s is %q", key, all[key])
		}
		return n
	}
	m.index = int(number(keyIndex, codec.MaxFragments-1))
	m.segment = int(number(keySegment, math.MaxInt32))
	m.shape = shapeOf(number(keySize, maxObject), m.segment)
	if err == nil && m.segment == 0 {
		err = fmt.Errorf("metadata: %s is %q", keySegment, all[keySegment])
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// ParseScheme reads "isa_l_rs_vand 4+2", as Swift writes it.
func ParseScheme(s string) (codec.Scheme, error) {
	typ, numbers, _ := strings.Cut(s, " ")
	k, m, _ := strings.Cut(numbers, "+")
	data, err1 := strconv.Atoi(k)
	parity, err2 := strconv.Atoi(m)
	if typ == "" || err1 != nil || err2 != nil {
		return codec.Scheme{}, fmt.Errorf("%q is not a scheme such as \"isa_l_rs_vand 4+2\"", s)
	}
	return codec.Scheme{Type: typ, K: data, M: parity}, nil
}

// openArchive opens a file and reads what identifies it. What is wrong is noted.
func openArchive(path string) *archive {
	a := &archive{path: path, index: -1}
	// Without O_NONBLOCK a pipe would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		if a.stat, err = f.Stat(); err == nil && !a.stat.Mode().IsRegular() {
			err = errors.New("not a regular file")
		}
		if err != nil {
			f.Close()
		}
	}
	if err != nil {
		a.dropped = true
		a.problem("%s", bare(err))
		return a
	}
	a.file = f
	if a.meta, err = readMetadata(path); err != nil {
		a.second = true
		a.problem("%s", bare(err))
	}
	switch {
	case a.stat.Size() > 0:
		a.readShape()
	case a.meta == nil:
		a.dropped = true
		a.problem("empty, and without metadata: nothing says which fragment it is")
	}
	if a.meta != nil && a.index < 0 {
		a.index = a.meta.index
	}
	return a
}

// bare is what an error says without the file's name, which every problem begins with.
func bare(err error) string {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Op + ": " + e.Err.Error()
	}
	return err.Error()
}

// readShape looks at the first and the last header.
func (a *archive) readShape() {
	first, err := a.header(0)
	if err != nil {
		return // the survey says so
	}
	a.head, a.index = &first, first.Index
	size, length := a.stat.Size(), codec.HeaderSize+int64(first.Size)
	segments := (size + length - 1) / length
	last, at := first, (segments-1)*length
	if at > 0 {
		if last, err = a.header(at); err != nil {
			return
		}
	}
	if at+codec.HeaderSize+int64(last.Size) == size && last.OrigDataSize <= first.OrigDataSize && first.OrigDataSize > 0 {
		a.shape = shapeOf((segments-1)*int64(first.OrigDataSize)+int64(last.OrigDataSize), int(first.OrigDataSize))
	}
}

func (a *archive) header(at int64) (codec.Header, error) {
	var b [codec.HeaderSize]byte
	n, err := a.file.ReadAt(b[:], at)
	if err != nil && err != io.EOF {
		return codec.Header{}, err
	}
	return codec.ParseHeader(b[:n])
}

// survey reads all files whole and notes what is wrong with each, and then which of them are the same fragment.
func (j *job) survey(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, a := range j.given {
		if !a.dropped {
			j.o.Progress.expect(a.stat.Size())
			group.Go(func() error { return j.read(ctx, a) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, a := range j.given {
		if a.dropped {
			continue
		}
		if a.index < 0 {
			a.dropped = true // its headers are bad, and named
			continue
		}
		if a.index >= j.code.N() {
			a.dropped = true
			a.problem("fragment %d, but %v has only 0..%d", a.index, j.code.Scheme(), j.code.N()-1)
			continue
		}
		for _, b := range j.archives {
			switch {
			case a.index != b.index:
			case a.sum != "" && a.sum == b.sum:
				a.dropped = true
				a.problem("fragment %d again, the same as %s", a.index, b.path)
			case !a.second && !b.second:
				// One of the two is wrong. Both are used only if the others are not enough.
				a.second, b.second = true, true
				a.problem("fragment %d again, and not the same as %s", a.index, b.path)
			}
			if a.dropped {
				break
			}
		}
		if a.dropped {
			continue
		}
		if j.want.Has(a.index) {
			a.problem("fragment %d, which is to be rebuilt: not used", a.index)
		}
		j.archives = append(j.archives, a)
	}
	return nil
}

// read reads one file whole.
func (j *job) read(ctx context.Context, a *archive) error {
	size, want := a.stat.Size(), j.code.ArchiveSize(j.size, j.segment)
	buf := make([]byte, min(int64(j.code.FragmentSize(j.segment)), size))
	sum, whole := md5.New(), true
	headers := -1
	for seg := range j.segments {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		at, segment := j.place(seg)
		length := int64(j.code.FragmentSize(segment))
		if at+length > size {
			whole = false
			if at >= size {
				break
			}
		}
		b := buf[:min(length, size-at)]
		n, err := a.file.ReadAt(b, at)
		j.o.Progress.done(int64(n))
		if err != nil && err != io.EOF {
			whole = false
			a.spoil(seg, bare(err))
			continue
		}
		if int64(n) < length {
			continue // truncated: said once, below
		}
		sum.Write(b)
		if _, err := j.check(b, headers, segment); err != nil {
			a.spoil(seg, err.Error())
		} else if headers < 0 {
			h, _ := codec.ParseHeader(b)
			headers = h.Index
		}
	}
	switch {
	case size < want:
		a.second = true
		a.problem("truncated: %d bytes of %d", size, want)
	case size > want:
		a.second, whole = true, false
		a.problem("%d bytes behind the last fragment", size-want)
	}
	if a.faults > 0 {
		a.problem("%d more segments are bad", a.faults)
	}
	if j.segments > 0 {
		if a.index = headers; headers < 0 {
			a.dropped = true
			return nil
		}
	}
	if whole {
		a.sum = hex.EncodeToString(sum.Sum(nil))
	}
	if m := a.meta; m != nil {
		if m.index != a.index {
			a.second = true
			a.problem("fragment %d, but its metadata says %d", a.index, m.index)
		}
		if whole && m.sum != a.sum {
			a.second = true
			a.problem("its MD5 is %s, but its metadata says %s: its content is damaged", a.sum, m.sum)
		}
	}
	return nil
}

// check is CheckStripe for one fragment; index -1 means any.
func (j *job) check(b []byte, index, segment int) (codec.Header, error) {
	var indexes []int
	if index >= 0 {
		indexes = []int{index}
	}
	headers := make([]codec.Header, 1)
	if _, faults := j.code.CheckStripe([][]byte{b}, indexes, segment, headers); len(faults) > 0 {
		return headers[0], faults[0].Err
	}
	return headers[0], nil
}

// place is where a segment's fragment begins in every archive, and how many bytes the segment has.
func (j *job) place(seg int64) (at int64, segment int) {
	return seg * int64(j.code.FragmentSize(j.segment)), int(min(int64(j.segment), j.size-seg*int64(j.segment)))
}
