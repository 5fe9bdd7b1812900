// Package digest computes the MD5 of many streams at once, in SIMD lanes that all streams of the process share. It is not a
// general hash package: a stream ends with one Sum, and one long stream alone is slower here than in crypto/md5.
package digest

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/klauspost/cpuid/v2"
	md5simd "github.com/minio/md5-simd"
)

const (
	// inlineBelow is the length in bytes under which a stream is hashed by crypto/md5 in the caller's goroutine: what the round trips to
	// the lane server cost (about 1.5 us for a stream's life) is more than lanes save. CPU per stream, ten streams of one piece
	// (AVX-512): 1000 bytes 1.5 us inline and 1.7 in lanes; 3000 bytes 4.1 and 2.2; 6634 bytes 8.4 and 3.4; 104938 bytes 134 and 30.
	inlineBelow = 2 << 10

	// laneChunk is what a stream puts into its lane at once. It divides the server's buffer (32 KiB), so that no buffer is cut
	// short, and leaves a stream room for three chunks in its queue. Measured for ten streams: 4 KiB 3.1 GB per CPU second, 16 KiB 3.6, 32 KiB 3.4.
	laneChunk = 16 << 10
)

// hasLanes tells whether this processor has lanes (AVX2 or AVX-512 on amd64).
var hasLanes = cpuid.CPU.Supports(cpuid.AVX2)

// lanes is the process-wide server and its hashers. A hasher is never closed: the server of md5-simd 1.1.2 does not forget closed
// ones, and looks at each of them in every round. So they are reset and used again; there are as many as ever were needed at once.
var lanes struct {
	sync.Mutex
	server md5simd.Server
	idle   []md5simd.Hasher
}

func takeHasher() md5simd.Hasher {
	lanes.Lock()
	defer lanes.Unlock()
	if n := len(lanes.idle); n > 0 {
		h := lanes.idle[n-1]
		lanes.idle = lanes.idle[:n-1]
		return h
	}
	if lanes.server == nil {
		lanes.server = md5simd.NewServer()
	}
	return lanes.server.NewHash()
}

func giveHasher(h md5simd.Hasher, used bool) {
	// Reset puts a message into the hasher's queue of three without telling the server. Three such in a row and the next Write would wait for
	// ever: so only after something that the server was told of.
	if used {
		h.Reset()
	}
	lanes.Lock()
	lanes.idle = append(lanes.idle, h)
	lanes.Unlock()
}

var inlinePool = sync.Pool{New: func() any { return md5.New() }}

// Stream is the MD5 of one stream of bytes. It is not safe for use by several goroutines at once.
type Stream struct {
	inline hash.Hash      // one of these two while the stream is open
	lane   md5simd.Hasher // fed whole blocks only: a lane that gets 64 bytes holds up those that get 16 KiB
	carry  [md5.BlockSize]byte
	nc     int    // bytes in carry
	used   bool   // the lane's server was told of something
	rest   []byte // what WriteAll has still to feed
	sum    string
}

// New starts a stream of about so many bytes; short ones are hashed in the caller's goroutine. A negative length is unknown, and taken
// for long. A long stream that has no company (fewer than three at a time) is cheaper as New(0): lanes do not help it.
func New(expected int64) *Stream {
	s := &Stream{}
	if !hasLanes || expected >= 0 && expected < inlineBelow {
		s.inline = inlinePool.Get().(hash.Hash)
	} else {
		s.lane = takeHasher()
	}
	return s
}

// Write adds p, which may be used again after return. It fails only after Sum or Close.
func (s *Stream) Write(p []byte) (int, error) {
	switch {
	case s.inline != nil:
		return s.inline.Write(p)
	case s.lane == nil:
		return 0, errEnded
	}
	stage := takeStage()
	for rest := p; len(rest) > 0; {
		rest = s.feed(rest, stage[:])
	}
	stages.Put(stage)
	return len(p), nil
}

var errEnded = errors.New("write to an MD5 stream that has ended")

// WriteAll adds p[i] to streams[i] for all i: the pieces of one stripe. Fed like this the lanes are always full; from one goroutine
// that writes stream after stream each lane would work alone (ten streams: 0.6 GB per CPU second against 3.5). The pieces
// may be used again after return. It panics if the lengths of the two slices differ.
func WriteAll(streams []*Stream, p [][]byte) error {
	if len(streams) != len(p) {
		panic(fmt.Sprintf("BUG: %d streams, %d pieces", len(streams), len(p)))
	}
	left := 0
	for i, s := range streams {
		switch {
		case s.inline != nil:
			s.inline.Write(p[i])
		case s.lane == nil:
			return errEnded
		case len(p[i]) > 0:
			s.rest = p[i]
			left++
		}
	}
	if left == 0 {
		return nil
	}
	stage := takeStage()
	for left > 0 {
		for _, s := range streams {
			if len(s.rest) == 0 {
				continue
			}
			if s.rest = s.feed(s.rest, stage[:]); len(s.rest) == 0 {
				s.rest = nil
				left--
			}
		}
	}
	stages.Put(stage)
	return nil
}

// stages are where a carry and what follows it are joined: lanes copy what they get, so one serves all streams of a call.
var stages = sync.Pool{New: func() any { return new([laneChunk]byte) }}

func takeStage() *[laneChunk]byte { return stages.Get().(*[laneChunk]byte) }

// feed puts the next chunk of p, in whole blocks, into the lane and returns what is left; less than a block is kept in the carry.
func (s *Stream) feed(p, stage []byte) []byte {
	switch whole := (s.nc + len(p)) &^ (md5.BlockSize - 1); {
	case whole == 0:
		s.nc += copy(s.carry[s.nc:], p)
		return nil
	case s.nc > 0:
		s.used = true
		n := min(whole, laneChunk) - s.nc
		copy(stage, s.carry[:s.nc])
		copy(stage[s.nc:], p[:n])
		s.lane.Write(stage[:s.nc+n])
		p, s.nc = p[n:], 0
	default:
		s.used = true
		n := min(whole, laneChunk)
		s.lane.Write(p[:n])
		p = p[n:]
	}
	if len(p) < md5.BlockSize {
		s.nc = copy(s.carry[:], p)
		return nil
	}
	return p
}

// Sum ends the stream and returns the MD5 of all that was written, in lower-case hex. Later calls return the same; after Close alone
// it returns "".
func (s *Stream) Sum() string {
	var sum [md5.Size]byte
	switch {
	case s.inline != nil:
		s.inline.Sum(sum[:0])
	case s.lane != nil:
		s.used = true
		s.lane.Write(s.carry[:s.nc]) // less than a block: stays in the hasher
		s.lane.Sum(sum[:0])
	default:
		return s.sum
	}
	s.sum = hex.EncodeToString(sum[:])
	s.Close()
	return s.sum
}

// Close gives up the stream's lane. It is idempotent, and not needed after Sum.
func (s *Stream) Close() {
	switch {
	case s.inline != nil:
		s.inline.Reset()
		inlinePool.Put(s.inline)
		s.inline = nil
	case s.lane != nil:
		giveHasher(s.lane, s.used)
		s.lane = nil
	}
}
