// Package digest computes the MD5 of many streams at once, in SIMD lanes that all streams of the process share. It is not a
// general hash package: a stream ends with one Sum.
package digest

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"runtime"
	"sync"
	"sync/atomic"

	lanes "imping/native/md5"
)

const (
	// inlineBelow is the length in bytes under which a stream is hashed by crypto/md5 in the caller's goroutine: what a round trip
	// costs is more than lanes save.
	inlineBelow = 2 << 10

	// turn is how many blocks lanes do before they are dealt anew: 8 KiB of each stream. Whoever comes meanwhile waits for so long
	// (30 us); much less costs calls.
	turn = 128

	// company is the number of streams from which on lanes are faster than crypto/md5 stream by stream. With one stream in eight
	// lanes they have 0.4 times its rate, with eight 4 times, with sixteen 5.5 times (AVX2, Zen 1), with 32 of AVX-512 12 times (Zen 5).
	company = 3

	blockSize = lanes.BlockSize
)

var (
	hasLanes = lanes.Available()
	// full is how many streams are done at a time, and step how many cost clearly less than that.
	full, step = lanes.Width()
)

var inlinePool = sync.Pool{New: func() any { return md5.New() }}

// Stream is the MD5 of one stream of bytes. It is not safe for use by several goroutines at once.
type Stream struct {
	inline hash.Hash // nil where lanes are used
	ended  bool
	sum    string

	state lanes.State
	done  uint64 // bytes written
	carry [blockSize]byte
	nc    int // bytes in carry

	// While there are blocks to be done: the carry if it is full, then rest, whole blocks of what the call was given.
	full bool
	rest []byte
	tail []byte // less than a block, kept in the carry afterwards
	call *call
}

// New starts a stream of about so many bytes; short ones are hashed in the caller's goroutine. A negative length is unknown, and taken
// for long.
func New(expected int64) *Stream {
	s := &Stream{state: lanes.Init}
	if !hasLanes || expected >= 0 && expected < inlineBelow {
		s.inline = inlinePool.Get().(hash.Hash)
	} else {
		open.Add(1)
	}
	return s
}

var errEnded = errors.New("write to an MD5 stream that has ended")

// Write adds p, which may be used again after return. It fails only after Sum or Close.
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.Begin(p); err != nil {
		return 0, err
	}
	s.Wait()
	return len(p), nil
}

// Begin is Write without its waiting: p has to stay as it is until Wait, or any other call, has returned. Whoever has something else
// to do with p meanwhile, such as to send it, leaves it to be done in company.
func (s *Stream) Begin(p []byte) error {
	s.Wait()
	switch {
	case s.ended:
		return errEnded
	case s.inline != nil:
		s.inline.Write(p)
	default:
		if s.feed(p); s.pending() {
			one := [1]*Stream{s}
			begin(one[:])
		}
	}
	return nil
}

// Wait returns when all that was added is done.
func (s *Stream) Wait() {
	if c := s.call; c != nil {
		c.await()
		one := [1]*Stream{s}
		c.end(one[:])
	}
}

// WriteAll adds p[i] to streams[i] for all i: the pieces of one stripe, which keep each other company. The pieces
// may be used again after return. It panics if the lengths of the two slices differ.
func WriteAll(streams []*Stream, p [][]byte) error {
	if len(streams) != len(p) {
		panic(fmt.Sprintf("BUG: %d streams, %d pieces", len(streams), len(p)))
	}
	for _, s := range streams {
		s.Wait()
		if s.ended {
			return errEnded
		}
	}
	for i, s := range streams {
		if s.inline != nil {
			s.inline.Write(p[i])
		} else {
			s.feed(p[i])
		}
	}
	c := begin(streams)
	c.await()
	c.end(streams)
	return nil
}

// feed makes p what is to be done next.
func (s *Stream) feed(p []byte) {
	s.done += uint64(len(p))
	if s.nc > 0 {
		n := copy(s.carry[s.nc:], p)
		s.nc += n
		p = p[n:]
		if s.nc < blockSize {
			return
		}
		s.full = true
	}
	whole := len(p) &^ (blockSize - 1)
	s.rest, s.tail = p[:whole], p[whole:]
	if !s.full && whole == 0 {
		s.settle()
	}
}

// pending tells whether there are blocks to be done.
func (s *Stream) pending() bool { return s.full || len(s.rest) > 0 }

// next is where the next blocks are, and how many there are in one piece.
func (s *Stream) next() (p []byte, n int) {
	if s.full {
		return s.carry[:], 1
	}
	return s.rest, len(s.rest) / blockSize
}

// did says that n of the next blocks are done.
func (s *Stream) did(n int) {
	if s.full {
		s.full, s.nc = false, 0
	} else {
		s.rest = s.rest[n*blockSize:]
	}
}

// settle ends what feed began.
func (s *Stream) settle() {
	if s.tail != nil {
		s.nc = copy(s.carry[:], s.tail)
	}
	s.rest, s.tail = nil, nil
}

// call is what one Begin or WriteAll added.
type call struct {
	left   int       // streams that are pending
	parked bool      // its goroutine waits for wake
	wake   chan bool // true: it is to lead; false: all is done
}

var calls = sync.Pool{New: func() any { return &call{wake: make(chan bool, 1)} }}

// queue holds the pending streams of all calls that nobody works at. The goroutines that wait do the work themselves: one that leads
// takes up to a lane's full of streams, whosever they are and waited for or not, does a turn of each and puts back what is left, until
// its own are done; then another one leads. With enough streams for more, several lead.
var queue dealer

type dealer struct {
	sync.Mutex
	streams []*Stream
	leaders int
	alone   int // how many leaders in a row yielded, and nobody came
}

// worthYielding tells whether a leader shall let others come though no other stream is open: the goroutines of short requests open theirs just
// before they bring it. That some are about to nobody knows before they have run; so it goes by what became of those who led before, tried anew every now
// and then.
func (q *dealer) worthYielding() bool {
	const patience, again = 8, 64
	if q.alone >= patience {
		if q.alone++; q.alone < again {
			return false
		}
		q.alone = patience - 1
	}
	return true
}

// yielded says what came of it.
func (q *dealer) yielded(company bool) {
	if q.alone++; company {
		q.alone = 0
	}
}

// open is the number of streams for lanes that have not ended.
var open atomic.Int64

// begin queues the blocks of streams that were fed.
func begin(streams []*Stream) *call {
	c := calls.Get().(*call)
	queue.Lock()
	for _, s := range streams {
		if s.pending() {
			s.call = c
			c.left++
			queue.streams = append(queue.streams, s)
		}
	}
	queue.Unlock()
	return c
}

// await returns when the blocks of a call are done.
func (c *call) await() {
	queue.Lock()
	lead, yielded := false, false
	enough := full // for one more to lead: the lanes full, or half of them with streams of one call
	if c.left >= full/2 {
		enough = full / 2
	}
	if c.left > 0 && (queue.leaders == 0 || len(queue.streams) >= enough) {
		lead = true
		queue.leaders++
	}
	for c.left > 0 {
		switch {
		case !lead:
			c.parked = true
			queue.Unlock()
			lead = <-c.wake
			queue.Lock()
		case len(queue.streams) == 0: // others are at what is left
			queue.leaders--
			lead = false
		case len(queue.streams) < full/2 && !yielded && (open.Load() > int64(c.left) || queue.worthYielding()): // others may be about to come
			yielded = true
			n := len(queue.streams)
			queue.Unlock()
			runtime.Gosched()
			queue.Lock()
			queue.yielded(len(queue.streams) > n)
		default:
			var batch [lanes.Lanes]*Stream
			n := deal(&batch)
			queue.Unlock()
			work(batch[:n])
			queue.Lock()
			for _, s := range batch[:n] {
				giveBack(s)
			}
			if n < company && queue.alone == 0 && open.Load() > int64(c.left) {
				yielded = false // a turn takes long without lanes, and the last yield brought company
			}
		}
	}
	if lead {
		handOver()
	}
	queue.Unlock()
}

// end gives up a call whose streams are done.
func (c *call) end(streams []*Stream) {
	for _, s := range streams {
		if s.call == c {
			s.call = nil
			s.settle()
		}
	}
	calls.Put(c)
}

// deal takes streams off the queue: as many as there are lanes or, of a few more than a step, that step.
func deal(batch *[lanes.Lanes]*Stream) int {
	n := min(len(queue.streams), full)
	if n > step && n < step+step/2 {
		n = step
	}
	copy(batch[:n], queue.streams)
	rest := copy(queue.streams, queue.streams[n:])
	clear(queue.streams[rest:])
	queue.streams = queue.streams[:rest]
	return n
}

// giveBack queues a stream again, or counts it as done.
func giveBack(s *Stream) {
	if s.pending() {
		queue.streams = append(queue.streams, s)
		return
	}
	c := s.call
	if c.left--; c.left == 0 && c.parked {
		c.parked = false
		c.wake <- false
	}
}

// handOver makes a goroutine that waits for what is queued the next leader.
func handOver() {
	for _, s := range queue.streams {
		if s.call.parked {
			s.call.parked = false
			s.call.wake <- true
			return
		}
	}
	queue.leaders-- // what is queued is of those who lead
}

// work does a turn of each stream.
func work(batch []*Stream) {
	if len(batch) < company {
		for _, s := range batch {
			p, n := s.next()
			n = min(n, turn)
			alone(&s.state, p[:n*blockSize])
			s.did(n)
		}
		return
	}
	var states [lanes.Lanes]*lanes.State
	var data [lanes.Lanes]*byte
	turn := turn
	for i, s := range batch {
		p, n := s.next()
		states[i], data[i] = &s.state, &p[0]
		turn = min(turn, n)
	}
	lanes.Blocks(states[:len(batch)], data[:len(batch)], turn)
	for _, s := range batch {
		s.did(turn)
	}
}

// Sum ends the stream and returns the MD5 of all that was written, in lower-case hex. Later calls return the same; after Close alone
// it returns "".
func (s *Stream) Sum() string {
	s.Wait()
	if s.ended {
		return s.sum
	}
	var sum [md5.Size]byte
	if s.inline != nil {
		s.inline.Sum(sum[:0])
	} else {
		s.finish(&sum)
	}
	s.sum = hex.EncodeToString(sum[:])
	s.Close()
	return s.sum
}

// Close gives up a stream whose Sum nobody wants. It is idempotent, and not needed after Sum.
func (s *Stream) Close() {
	s.Wait()
	if s.ended {
		return
	}
	s.ended = true
	if s.inline != nil {
		s.inline.Reset()
		inlinePool.Put(s.inline)
		s.inline = nil
	} else {
		open.Add(-1)
	}
}
