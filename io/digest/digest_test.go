package digest

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func want(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

func TestSumEqualsCryptoMD5ForAllLengthsAroundBlocksAndChunks(t *testing.T) {
	data := random(1, 3*turn*blockSize+200)
	var lengths []int
	for _, c := range []int{0, 64, 128, turn * blockSize, 2 * turn * blockSize, 3 * turn * blockSize} {
		for d := -65; d <= 66; d++ {
			if n := c + d; n >= 0 {
				lengths = append(lengths, n)
			}
		}
	}
	for _, expected := range []int64{-1, 0, 1 << 30} {
		for _, n := range lengths {
			s := New(expected)
			s.Write(data[:n/3])
			s.Write(data[n/3 : n])
			if got := s.Sum(); got != want(data[:n]) {
				t.Fatalf("expected %d: MD5 of %d bytes is %s, want %s", expected, n, got, want(data[:n]))
			}
		}
	}
}

func TestAnyMixOfWritesGivesTheSameSum(t *testing.T) {
	data := random(2, 1<<18)
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(1, 20).Draw(t, "streams")
		streams := make([]*Stream, k)
		wrote := make([]bytes.Buffer, k)
		for i := range streams {
			streams[i] = New(rapid.SampledFrom([]int64{-1, 0, 5000, 1 << 20}).Draw(t, "expected"))
		}
		for range rapid.IntRange(0, 6).Draw(t, "rounds") {
			if rapid.Bool().Draw(t, "all") {
				p := make([][]byte, k)
				base := rapid.IntRange(0, 1<<17).Draw(t, "length")
				for i := range p {
					n := max(0, base+rapid.IntRange(-100, 100).Draw(t, "more"))
					p[i] = bytes.Clone(data[i : i+n])
					wrote[i].Write(p[i])
				}
				if err := WriteAll(streams, p); err != nil {
					t.Fatal(err)
				}
				for i := range p {
					clear(p[i]) // p may be used again after return
				}
			} else {
				i := rapid.IntRange(0, k-1).Draw(t, "stream")
				p := bytes.Clone(data[:rapid.IntRange(0, 1<<16).Draw(t, "length")])
				wrote[i].Write(p)
				if rapid.Bool().Draw(t, "begin") {
					if err := streams[i].Begin(p); err != nil { // p stays; whatever comes next on the stream waits for it
						t.Fatal(err)
					}
					continue
				}
				if n, err := streams[i].Write(p); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
				clear(p)
			}
		}
		for i, s := range streams {
			if rapid.IntRange(0, 9).Draw(t, "close") == 0 {
				s.Close()
				s.Close()
				if s.Sum() != "" {
					t.Fatal("a closed stream has a sum")
				}
				continue
			}
			if got := s.Sum(); got != want(wrote[i].Bytes()) || s.Sum() != got {
				t.Fatalf("stream %d of %d, %d bytes: %s, want %s", i, k, wrote[i].Len(), got, want(wrote[i].Bytes()))
			}
			s.Close()
		}
	})
}

func TestWriteAfterTheEndFails(t *testing.T) {
	for _, expected := range []int64{0, -1} {
		s := New(expected)
		s.Sum()
		if _, err := s.Write([]byte("x")); err == nil {
			t.Fatal("no error")
		}
		if err := s.Begin([]byte("x")); err == nil {
			t.Fatal("no error")
		}
		s.Wait()
		if err := WriteAll([]*Stream{s}, [][]byte{{1}}); err == nil {
			t.Fatal("no error")
		}
	}
}

func TestStreamsOfManyJobsDoNotMix(t *testing.T) {
	var wg sync.WaitGroup
	for j := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			data := random(uint64(j), 200_000)
			for range 10 {
				streams := make([]*Stream, 5)
				p := make([][]byte, 5)
				for i := range streams {
					streams[i] = New(-1)
					p[i] = data[i*1000 : 150_000+i*77]
				}
				WriteAll(streams, p)
				streams[4].Close()
				for i, s := range streams[:4] {
					if got := s.Sum(); got != want(p[i]) {
						t.Errorf("job %d stream %d: %s, want %s", j, i, got, want(p[i]))
					}
				}
			}
		}()
	}
	wg.Wait()
}

// Writers that do not know of each other share lanes: they come and go at any moment, and each gets its own sum.
func TestStrangersShareLanes(t *testing.T) {
	var wg sync.WaitGroup
	for j := range 40 {
		wg.Go(func() {
			data := random(uint64(j), 60_000)
			for round := range 20 {
				s := New(-1)
				p := data[:j*1500+round]
				for rest, step := p, 1+j*round*37; len(rest) > 0; {
					n := min(len(rest), step)
					if j%2 == 0 {
						s.Write(rest[:n])
					} else {
						piece := bytes.Clone(rest[:n])
						s.Begin(piece)
						runtime.Gosched() // something else to do
						s.Wait()
						clear(piece)
					}
					rest, step = rest[n:], 2*step+1
				}
				if got := s.Sum(); got != want(p) {
					t.Errorf("stream %d, round %d: %s, want %s", j, round, got, want(p))
				}
			}
		})
	}
	wg.Wait()
	if len(queue.streams) != 0 || queue.leaders != 0 {
		t.Errorf("%d streams and %d leaders are left behind", len(queue.streams), queue.leaders)
	}
}

// What somebody began who then stalls is done in others' company.
func TestWhatWasBegunIsDoneByOthers(t *testing.T) {
	if !hasLanes {
		t.Skip("no lanes")
	}
	data := random(3, 200_000)
	var stalled []*Stream
	for i := range 5 {
		s := New(-1)
		s.Begin(data[i:100_000])
		stalled = append(stalled, s)
	}
	s := New(-1)
	s.Write(data)
	for i, s := range stalled {
		queue.Lock()
		left := s.call.left
		queue.Unlock()
		if left != 0 {
			t.Errorf("stream %d waits for its own goroutine", i)
		}
	}
	if got := s.Sum(); got != want(data) {
		t.Errorf("%s, want %s", got, want(data))
	}
	for i, s := range stalled {
		if i == 4 {
			s.Close()
		} else if got := s.Sum(); got != want(data[i:100_000]) {
			t.Errorf("stream %d: %s, want %s", i, got, want(data[i:100_000]))
		}
	}
	if len(queue.streams) != 0 || queue.leaders != 0 || open.Load() != 0 {
		t.Errorf("%d streams, %d leaders and %d open streams are left behind", len(queue.streams), queue.leaders, open.Load())
	}
}

func TestLeadersYieldAsLongAsItBringsCompany(t *testing.T) {
	var q dealer
	yields := func(n int, came bool) (yields int) {
		for range n {
			if q.worthYielding() {
				yields++
				q.yielded(came)
			}
		}
		return yields
	}
	if got := yields(100, true); got != 100 {
		t.Errorf("in company: %d of 100", got)
	}
	if got := yields(8, false); got != 8 {
		t.Errorf("of the first 8 who were alone: %d", got)
	}
	if got := yields(56*10, false); got != 10 {
		t.Errorf("of the next 560: %d", got)
	}
	for tries := 0; yields(1, true) == 0; tries++ {
		if tries == 56 {
			t.Fatal("nobody tries any more")
		}
	}
	if got := yields(100, true); got != 100 {
		t.Errorf("in company again: %d of 100", got)
	}
}

func TestLongStreamsAllocateNoMoreThanShortOnes(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector pools forget at random")
	}
	data := make([]byte, 100_000)
	life := func(pieces int) float64 {
		streams, p := make([]*Stream, 10), make([][]byte, 10)
		for i := range p {
			p[i] = data[i:]
		}
		return testing.AllocsPerRun(20, func() {
			for i := range streams {
				streams[i] = New(-1)
			}
			for range pieces {
				WriteAll(streams, p)
			}
			for _, s := range streams {
				s.Sum()
			}
		})
	}
	if few, many := life(1), life(50); many > few+2 { // a garbage collection empties pools
		t.Errorf("%v allocations for one piece, %v for fifty", few, many)
	}
}

// Whatever a stream did before it ended, the next one is as if it had not been.
func TestStreamsThatEndEarlyNeverBlockTheNext(t *testing.T) {
	data := random(3, 1000)
	for i := range 100 {
		for range i % 9 {
			New(-1).Close()
		}
		s := New(-1)
		s.Write(data[:63])
		s.Close()
		for range i % 7 {
			New(-1).Sum()
		}
		for range i % 5 {
			s := New(-1)
			s.Write(data)
			s.Close()
		}
		s = New(-1)
		s.Write(data)
		if s.Sum() != want(data) {
			t.Fatal("wrong sum")
		}
	}
}

func cpuSeconds() float64 {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return float64(ru.Utime.Sec+ru.Stime.Sec) + float64(ru.Utime.Usec+ru.Stime.Usec)/1e6
}

// One operation is the life of ten streams: as many pieces of a fragment archive as said, fed in lock-step. GB/cpu-s is all streams' bytes
// per CPU second of the process.
func BenchmarkTenStreams(b *testing.B) {
	const k = 10
	for _, c := range []struct{ piece, pieces int }{
		{1000, 1}, {3000, 1}, {6634, 1}, {13188, 1}, {26295, 1}, {52509, 1}, {104938, 1}, {104938, 16}, {104938, 100},
	} {
		p := make([][]byte, k)
		for i := range p {
			p[i] = random(uint64(i), c.piece)
		}
		run := func(name string, open func() *Stream, feed func([]*Stream)) {
			b.Run(fmt.Sprintf("%dx%d/%s", c.pieces, c.piece, name), func(b *testing.B) {
				b.SetBytes(int64(k * c.piece * c.pieces))
				start := cpuSeconds()
				for b.Loop() {
					streams := make([]*Stream, k)
					for i := range streams {
						streams[i] = open()
					}
					for range c.pieces {
						feed(streams)
					}
					for _, s := range streams {
						s.Sum()
					}
				}
				used := cpuSeconds() - start
				b.ReportMetric(float64(b.N)*float64(k*c.piece*c.pieces)/1e9/used, "GB/cpu-s")
				b.ReportMetric(used/float64(b.N)/k*1e6, "cpu-us/stream")
			})
		}
		all := func(streams []*Stream) { WriteAll(streams, p) }
		run("inline", func() *Stream { return New(0) }, all)
		if !hasLanes {
			continue
		}
		lane := func() *Stream { return New(-1) }
		run("lanes", lane, all)
		run("lanes-one-after-another", lane, func(streams []*Stream) {
			for i, s := range streams {
				s.Write(p[i])
			}
		})
		run("lanes-ten-goroutines", lane, func(streams []*Stream) {
			var wg sync.WaitGroup
			for i, s := range streams {
				wg.Add(1)
				go func() {
					s.Write(p[i])
					wg.Done()
				}()
			}
			wg.Wait()
		})
	}
}
