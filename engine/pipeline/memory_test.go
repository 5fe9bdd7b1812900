package pipeline

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"imping/codec"
	"imping/io/slab"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var bg = context.Background()

const libec = 0x010602 // what wrote the archives of these tests

// archives are the fragment archives of one object, as Swift would have stored them.
type archives struct {
	code    *codec.Code
	segment int
	size    int64
	frag    [][]byte
}

func newCode(t testing.TB, typ string, k, m int) *codec.Code {
	t.Helper()
	code, err := codec.New(codec.Scheme{Type: typ, K: k, M: m})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func encode(code *codec.Code, segment int, size int64) *archives {
	a := &archives{code: code, segment: segment, size: size, frag: make([][]byte, code.N())}
	rnd := rand.New(rand.NewPCG(uint64(size), uint64(segment)))
	for left := size; left > 0; {
		seg := make([]byte, min(left, int64(segment)))
		left -= int64(len(seg))
		for i := range seg {
			seg[i] = byte(rnd.Uint32())
		}
		out := make([][]byte, code.N())
		for i := range out {
			out[i] = make([]byte, code.PayloadSize(len(seg)))
		}
		code.Encode(seg, out)
		for i := range out {
			h := code.Header(i, len(seg))
			h.LibecVersion = libec
			var b [codec.HeaderSize]byte
			h.Put(b[:], codec.Zlib)
			a.frag[i] = append(append(a.frag[i], b[:]...), out[i]...)
		}
	}
	return a
}

// header rewrites the header of one fragment.
func (a *archives) header(index int, segment int64, change func(*codec.Header)) {
	b := a.frag[index][segment*int64(a.code.FragmentSize(a.segment)):]
	h, err := codec.ParseHeader(b)
	if err != nil {
		panic(err)
	}
	change(&h)
	h.Put(b, codec.Zlib)
}

// source is an archive in memory.
type source struct {
	index int
	etag  string
	data  []byte
	stall chan struct{} // not nil: a read blocks at stallAt until Interrupt
	at    int           // where it stalls

	off     int
	mu      sync.Mutex
	cause   error
	reading bool
	closed  int
	stopped chan struct{} // closed by Interrupt
}

func (a *archives) source(index int) *source {
	return &source{index: index, etag: sumOf(a.frag[index]), data: a.frag[index], stopped: make(chan struct{})}
}

func sumOf(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// sources returns the first k that are not wanted.
func (a *archives) sources(wanted ...int) []*source {
	var all []*source
	for i := 0; len(all) < a.code.K(); i++ {
		if !bytes.Contains(asBytes(wanted), []byte{byte(i)}) {
			all = append(all, a.source(i))
		}
	}
	return all
}

func asBytes(l []int) []byte {
	b := make([]byte, len(l))
	for i := range l {
		b[i] = byte(l[i])
	}
	return b
}

func (s *source) Index() int     { return s.index }
func (s *source) ETag() string   { return s.etag }
func (s *source) String() string { return fmt.Sprintf("memory/%d", s.index) }

func (s *source) ReadFragment(slot []byte) (int, error) {
	s.mu.Lock()
	if s.closed > 0 || s.reading {
		panic("read of a closed source, or two reads at once")
	}
	s.reading = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.reading = false
		s.mu.Unlock()
	}()
	if s.stall != nil && s.off >= s.at {
		close(s.stall)
		<-s.stopped
		return 0, s.cause
	}
	select {
	case <-s.stopped:
		return 0, s.cause
	default:
	}
	n := copy(slot, s.data[s.off:])
	s.off += n
	if n < len(slot) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

func (s *source) Interrupt(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed > 0 || s.cause != nil {
		panic("interrupt of a closed source, or a second one")
	}
	s.cause = cause
	close(s.stopped)
}

func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reading {
		panic("close while a read is in flight")
	}
	s.closed++
	return nil
}

// sink keeps what it is given.
type sink struct {
	buf    bytes.Buffer
	failAt int // the fragment, from 1, that WriteFragment refuses
	gate   func() error
	commit error
	writes int
	cause  error
	ends   int // Commits and Aborts
	done   bool
}

var errSink = errors.New("disk is full")

func (s *sink) WriteFragment(slot []byte) error {
	if s.ends > 0 {
		panic("write after the end")
	}
	if s.gate != nil {
		if err := s.gate(); err != nil {
			return err
		}
	}
	if s.writes++; s.writes == s.failAt {
		return errSink
	}
	s.buf.Write(slot)
	return nil
}

func (s *sink) Commit(context.Context) error {
	s.ends++
	s.done = s.commit == nil
	return s.commit
}

func (s *sink) Abort(cause error) {
	s.ends++
	s.cause = cause
}

// job is a Spec with its parts at hand.
type job struct {
	*archives
	spec    Spec
	sources []*source
	sinks   []*sink
}

func (a *archives) job(wanted ...int) *job {
	j := &job{archives: a, sources: a.sources(wanted...)}
	j.spec = Spec{Code: a.code, Segment: a.segment, Size: a.size, VerifyMD5: true}
	for _, s := range j.sources {
		j.spec.Sources = append(j.spec.Sources, s)
	}
	for _, i := range wanted {
		s := &sink{}
		j.sinks = append(j.sinks, s)
		j.spec.Want = append(j.spec.Want, Want{Index: i, Sink: s})
	}
	return j
}

// run runs the job on an account of two stripes, and checks what holds whatever happens.
func (j *job) run(t testing.TB, ctx context.Context) (Result, error) {
	t.Helper()
	need := 2 * StripeSize(j.code, j.segment, len(j.spec.Want)+max(0, len(j.spec.Sources)-j.code.K()))
	pool := slab.New(2 * need)
	acct, err := pool.Open(bg, need)
	if err != nil {
		t.Fatal(err)
	}
	res, err := Run(ctx, acct, &j.spec)
	acct.Close()
	if st := pool.Stats(); st.InUse != 0 || st.Promised != 0 {
		t.Fatalf("memory is left in use: %+v", st)
	}
	for _, s := range j.sources {
		if s.closed != 1 {
			t.Fatalf("source %d was closed %d times", s.index, s.closed)
		}
	}
	committed := 0
	for i, s := range j.sinks {
		if s.ends != 1 {
			t.Fatalf("sink %d got %d ends", i, s.ends)
		}
		if s.done != (res.Sinks[i] == nil) {
			t.Fatalf("sink %d: committed %v, result %v", i, s.done, res.Sinks[i])
		}
		if s.done {
			committed++
			if want := j.frag[j.spec.Want[i].Index]; !bytes.Equal(s.buf.Bytes(), want) {
				t.Fatalf("fragment archive #%d (%d bytes) is not what it was (%d bytes)", j.spec.Want[i].Index, s.buf.Len(), len(want))
			}
		}
	}
	if (err == nil) != (committed > 0) {
		t.Fatalf("%d sinks committed, error %v", committed, err)
	}
	return res, err
}
