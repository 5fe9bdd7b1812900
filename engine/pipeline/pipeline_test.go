package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/codec"
	"imping/io/slab"
)

const segment = 3001 // odd, so that payloads are padded

var schemes = []codec.Scheme{
	{Type: "isa_l_rs_vand", K: 4, M: 2},
	{Type: "liberasurecode_rs_vand", K: 4, M: 2},
	{Type: "isa_l_rs_vand", K: 10, M: 4},
	{Type: "liberasurecode_rs_vand", K: 10, M: 4},
	{Type: "jerasure_rs_cauchy", K: 4, M: 2},
}

var sizes = []int64{0, 1, segment - 1, segment, segment + 1, 5*segment + segment/2}

func TestEveryLossOfEverySizeIsRebuiltByteForByte(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.String(), func(t *testing.T) {
			code := newCode(t, s.Type, s.K, s.M)
			for _, size := range sizes {
				a := encode(code, segment, size)
				for lost := range code.N() {
					for _, verify := range []bool{true, false} {
						j := a.job(lost)
						j.spec.VerifyMD5 = verify
						res, err := j.run(t, bg)
						if err != nil {
							t.Fatalf("size %d lost %d: %v", size, lost, err)
						}
						one := code.ArchiveSize(size, segment)
						want := Result{BytesIn: one * int64(s.K), BytesOut: one, Stripes: (size + segment - 1) / segment}
						if res.BytesIn != want.BytesIn || res.BytesOut != want.BytesOut || res.Stripes != want.Stripes {
							t.Fatalf("size %d: got %+v, want %+v", size, res, want)
						}
					}
				}
			}
		})
	}
}

func TestLargeSegmentsAreReadAtOnceAndRebuilt(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	for _, size := range []int64{1 << 20, 3<<20 + 5} {
		for _, lost := range []int{0, 5} {
			if _, err := encode(code, 1<<20, size).job(lost).run(t, bg); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTwoWantsAreDecodedOnceAndWrittenToBoth(t *testing.T) {
	code := newCode(t, "liberasurecode_rs_vand", 10, 4)
	for _, size := range sizes {
		a := encode(code, segment, size)
		for _, lost := range [][]int{{0, 13}, {7, 3}, {11, 12}, {5, 5}} { // any order; the same twice
			res, err := a.job(lost...).run(t, bg)
			if err != nil {
				t.Fatalf("size %d lost %v: %v", size, lost, err)
			}
			if res.BytesOut != 2*code.ArchiveSize(size, segment) || res.Stripes != (size+segment-1)/segment {
				t.Fatalf("%+v", res)
			}
		}
	}
}

func TestSourcesMayComeInAnyOrderAndAnyNumberOfStripes(t *testing.T) {
	a := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 9*segment+7)
	for stripes := range 6 {
		j := a.job(1)
		slices.Reverse(j.spec.Sources)
		j.spec.Stripes = stripes
		if _, err := j.run(t, bg); err != nil {
			t.Fatalf("%d stripes: %v", stripes, err)
		}
	}
}

// liars returns the indexes of the sources that the error calls corrupt.
func liars(t *testing.T, err error) []int {
	t.Helper()
	var found []int
	var walk func(error)
	walk = func(err error) {
		if e, ok := err.(*SourceError); ok {
			if !e.Corrupt {
				t.Fatalf("not proved corrupt: %v", e)
			}
			found = append(found, e.Source.Index())
			return
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	return found
}

// rule 5: nothing wrong is published, wherever the wrong byte is, and the liar is named.
func TestCorruptPayloadByteCommitsNothingAndNamesTheSource(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	for _, size := range []int64{1, segment, 5*segment + 17} {
		good := encode(code, segment, size)
		length := len(good.frag[0])
		var positions []int
		for at := codec.HeaderSize; at < min(length, code.FragmentSize(segment)); at++ { // first stripe
			positions = append(positions, at)
		}
		for at := length - 1; at >= length-5 && at > positions[len(positions)-1]; at-- { // last stripe
			positions = append(positions, at)
		}
		for _, at := range positions {
			a := encode(code, segment, 0)
			a.size, a.frag = size, good.frag
			j := a.job(2)
			j.sources[1].data = bytes.Clone(j.sources[1].data)
			j.sources[1].data[at] ^= 0x40
			_, err := j.run(t, bg)
			if got := liars(t, err); !slices.Equal(got, []int{1}) {
				t.Fatalf("size %d byte %d: liars %v: %v", size, at, got, err)
			}
			last := int64(len(good.frag[2])) - int64(code.FragmentSize(j.spec.segmentBytes(j.spec.segments()-1)))
			if got := int64(j.sinks[0].buf.Len()); got > last {
				t.Fatalf("size %d byte %d: %d bytes were handed out, the last fragment starts at %d", size, at, got, last)
			}
		}
	}
}

// rule 5
func TestTwoLiarsAreBothNamed(t *testing.T) {
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 2*segment).job(5)
	j.sources[0].etag = strings.Repeat("0", 32)
	j.sources[3].etag = strings.Repeat("f", 32)
	_, err := j.run(t, bg)
	if got := liars(t, err); !slices.Equal(got, []int{0, 3}) {
		t.Fatalf("%v: %v", got, err)
	}
	if j.sinks[0].cause == nil {
		t.Fatal("no cause")
	}
}

func TestETagIsNotNeededWithVerificationOff(t *testing.T) {
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, segment).job(5)
	j.spec.VerifyMD5 = false
	j.sources[0].etag = ""
	if _, err := j.run(t, bg); err != nil {
		t.Fatal(err)
	}
}

func TestSourceWithoutETagIsRefusedBeforeAnyRead(t *testing.T) {
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, segment).job(5)
	j.sources[2].etag = ""
	res, err := j.run(t, bg)
	if err == nil || res.BytesIn != 0 || !strings.Contains(err.Error(), "memory/2") {
		t.Fatalf("%+v, %v", res, err)
	}
}

// Each header that does not fit names its source, in the first stripe and in the last, with and without MD5.
func TestHeaderThatDoesNotFitNamesTheSource(t *testing.T) {
	changes := map[string]func(*codec.Header){
		"index":            func(h *codec.Header) { h.Index = 5 },
		"payload size":     func(h *codec.Header) { h.Size-- },
		"segment size":     func(h *codec.Header) { h.OrigDataSize++ },
		"backend":          func(h *codec.Header) { h.BackendID = 6 },
		"backend metadata": func(h *codec.Header) { h.BackendMetadata = 32 },
		"payload checksum": func(h *codec.Header) { h.ChecksumType, h.Checksum = codec.ChecksumCRC32, 12345 },
		"bad checksum":     nil,
	}
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	for name, change := range changes {
		for _, seg := range []int64{0, 3} {
			for _, verify := range []bool{true, false} {
				a := encode(code, segment, 3*segment+100)
				if change != nil {
					a.header(1, seg, change)
				} else {
					a.frag[1][seg*int64(code.FragmentSize(segment))+4] ^= 1
				}
				j := a.job(2)
				j.spec.VerifyMD5 = verify
				_, err := j.run(t, bg)
				if got := liars(t, err); !slices.Equal(got, []int{1}) {
					t.Fatalf("%s in segment %d: liars %v: %v", name, seg, got, err)
				}
				var e *SourceError
				if !errors.As(err, &e) || e.Segment != seg {
					t.Fatalf("%s in segment %d: %v", name, seg, err)
				}
			}
		}
	}
}

func TestArchiveOfAnotherIndexIsFound(t *testing.T) {
	a := encode(newCode(t, "liberasurecode_rs_vand", 4, 2), segment, 2*segment)
	j := a.job(5)
	j.sources[3].data, j.sources[3].etag = a.frag[4], a.source(4).etag
	_, err := j.run(t, bg)
	if got := liars(t, err); !slices.Equal(got, []int{3}) {
		t.Fatalf("%v: %v", got, err)
	}
}

// rule 8: the lowest library version of the survivors, per segment; and the backend version that most of them have.
func TestRebuiltHeaderGetsTheVersionsOfTheSurvivors(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	a := encode(code, segment, 2*segment)
	a.header(3, 0, func(h *codec.Header) { h.LibecVersion = 0x010600 })
	a.header(1, 1, func(h *codec.Header) { h.LibecVersion = 0x010800 })
	a.header(2, 0, func(h *codec.Header) { h.LibecVersion = 0x010600 }) // what is expected of the rebuilt one
	for i := range code.N() {
		for seg := range int64(2) {
			a.header(i, seg, func(h *codec.Header) { h.BackendVersion = 0x021e00 })
		}
	}
	a.header(4, 1, func(h *codec.Header) { h.BackendVersion = 0x021f00 })
	if _, err := a.job(2).run(t, bg); err != nil {
		t.Fatal(err)
	}
}

// Payload checksums, which Swift does not ask for, are proved and written when the survivors have them.
func TestRebuiltFragmentsHaveAPayloadChecksumWhenTheSurvivorsDo(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	for _, crc := range []codec.CRC{codec.Zlib, codec.Legacy} {
		a := encode(code, segment, 2*segment+5)
		size := code.FragmentSize(segment)
		for i := range code.N() {
			for off := 0; off < len(a.frag[i]); off += size {
				f := a.frag[i][off:min(off+size, len(a.frag[i]))]
				h, err := codec.ParseHeader(f)
				if err != nil {
					t.Fatal(err)
				}
				h.ChecksumType, h.Checksum = codec.ChecksumCRC32, crc.Sum(f[codec.HeaderSize:])
				h.Put(f, crc)
			}
		}
		j := a.job(2, 5)
		j.spec.CRC = crc
		if _, err := j.run(t, bg); err != nil {
			t.Fatalf("%v: %v", crc, err)
		}
	}
}

func TestRebuiltHeaderHasTheAskedChecksumFlavour(t *testing.T) {
	a := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, segment)
	for i := range a.frag[2:3] {
		h, _ := codec.ParseHeader(a.frag[2+i])
		h.Put(a.frag[2+i], codec.Legacy)
	}
	j := a.job(2)
	j.spec.CRC = codec.Legacy
	if _, err := j.run(t, bg); err != nil {
		t.Fatal(err)
	}
}

func TestShortSourceIsAReadErrorNotALie(t *testing.T) {
	for _, size := range []int64{10, segment, 4 * segment} {
		j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(5)
		j.sources[1].data = j.sources[1].data[:len(j.sources[1].data)-1]
		_, err := j.run(t, bg)
		var e *SourceError
		if !errors.As(err, &e) || e.Corrupt || e.Source.Index() != 1 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("size %d: %v", size, err)
		}
		if e.Segment != j.spec.segments()-1 {
			t.Fatalf("size %d: segment %d", size, e.Segment)
		}
	}
}

// One failed source ends reads that are blocked in others.
func TestFailureInterruptsAStalledSource(t *testing.T) {
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 8*segment).job(5)
	j.sources[0].stall = make(chan struct{})
	j.sources[2].data = j.sources[2].data[:100]
	_, err := j.run(t, bg)
	var e *SourceError
	if !errors.As(err, &e) || e.Source.Index() != 2 {
		t.Fatal(err)
	}
}

func TestCancelEndsAStalledRun(t *testing.T) {
	why := errors.New("pass is over")
	for _, c := range []struct {
		seg  int
		size int64
		at   int
	}{{segment, 8 * segment, 0}, {segment, 8 * segment, 3000}, {segment, 100, 0}, {1 << 20, 1 << 20, 0}} {
		ctx, cancel := context.WithCancelCause(bg)
		j := encode(newCode(t, "isa_l_rs_vand", 4, 2), c.seg, c.size).job(5)
		s := j.sources[3]
		s.stall, s.at = make(chan struct{}), c.at
		go func() {
			<-s.stall
			cancel(why)
		}()
		if _, err := j.run(t, ctx); !errors.Is(err, why) {
			t.Fatalf("%+v: %v", c, err)
		}
	}
}

func TestCancelEndsARunAtAClosedGate(t *testing.T) {
	why := errors.New("session broke")
	ctx, cancel := context.WithCancelCause(bg)
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 8*segment).job(5)
	at := make(chan struct{})
	j.sinks[0].gate = func() error {
		close(at)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	go func() {
		<-at
		cancel(why)
	}()
	if _, err := j.run(t, ctx); !errors.Is(err, why) {
		t.Fatal(err)
	}
}

func TestCancelledBeforeTheStartReadsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(bg)
	cancel()
	for _, size := range []int64{0, 100} {
		j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(5)
		res, err := j.run(t, ctx)
		if !errors.Is(err, context.Canceled) || res.BytesIn != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
}

func TestFailingSinkIsDroppedAndTheOtherCommits(t *testing.T) {
	for _, size := range []int64{100, 6 * segment} {
		for which := range 2 {
			j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(1, 4)
			j.sinks[which].failAt = int(j.spec.segments())
			res, err := j.run(t, bg)
			if err != nil || !errors.Is(res.Sinks[which], errSink) || res.Sinks[1-which] != nil {
				t.Fatalf("%v, %v", res.Sinks, err)
			}
			if j.sinks[which].cause != errSink {
				t.Fatalf("aborted with %v", j.sinks[which].cause)
			}
		}
	}
}

func TestRunStopsWhenNoSinkIsLeft(t *testing.T) {
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 100*segment).job(1, 4)
	j.sinks[0].failAt, j.sinks[1].failAt = 2, 3
	res, err := j.run(t, bg)
	if !errors.Is(err, errSink) || res.Stripes != 3 {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestFailedCommitIsReportedPerSink(t *testing.T) {
	for _, size := range []int64{0, 100} {
		j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(1, 4)
		j.sinks[1].commit = errSink
		res, err := j.run(t, bg)
		if err != nil || res.Sinks[1] != errSink {
			t.Fatalf("%v, %v", res.Sinks, err)
		}
		j = encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(1)
		j.sinks[0].commit = errSink
		if _, err := j.run(t, bg); !errors.Is(err, errSink) {
			t.Fatal(err)
		}
	}
}

func TestMistakesInTheSpecAreErrorsAndStillEndAllParts(t *testing.T) {
	a := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, segment)
	for name, spoil := range map[string]func(*job){
		"no segment":    func(j *job) { j.spec.Segment = 0 },
		"negative size": func(j *job) { j.spec.Size = -1 },
		"stripes":       func(j *job) { j.spec.Stripes = -1 },
		"no code":       func(j *job) { j.spec.Code = nil },
		"want":          func(j *job) { j.spec.Want[0].Index = 6 },
		"source":        func(j *job) { j.sources[0].index = 7 },
		"twice":         func(j *job) { j.sources[0].index = 1 },
		"wanted source": func(j *job) { j.sources[0].index = 5 }, // rule 3
		"too few":       func(j *job) { j.sources, j.spec.Sources = j.sources[:3], j.spec.Sources[:3] },
	} {
		j := a.job(5)
		spoil(j)
		if res, err := j.run(t, bg); err == nil || res.BytesIn != 0 {
			t.Fatalf("%s: %+v, %v", name, res, err)
		}
	}
	j := a.job(5)
	j.sources = j.sources[:3]
	j.spec.Sources = j.spec.Sources[:3]
	_, err := j.run(t, bg)
	var e *codec.Insufficient
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
}

func TestMoreSourcesThanThePlanNeedsAreVerifiedToo(t *testing.T) {
	a := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 3*segment)
	for _, corrupt := range []bool{false, true} {
		j := a.job(0)
		more := a.source(5)
		j.sources, j.spec.Sources = append(j.sources, more), append(j.spec.Sources, more)
		if corrupt {
			more.etag = strings.Repeat("a", 32)
		}
		_, err := j.run(t, bg)
		if got := liars(t, err); corrupt != slices.Equal(got, []int{5}) {
			t.Fatalf("%v: %v", got, err)
		}
	}
}

// spare runs a prefetch on a pool with room for so many stripes beside the reserve.
func spare(t *testing.T, j *job, stripes int64) (Result, error) {
	t.Helper()
	one := StripeSize(j.code, j.segment, len(j.spec.Want))
	pool := slab.New(2*one + stripes*one)
	acct, err := pool.Open(bg, 2*one)
	if err != nil {
		t.Fatal(err)
	}
	defer acct.Close()
	j.spec.Spare = true
	res, err := Run(bg, acct, &j.spec)
	if st := pool.Stats(); st.InUse != 0 {
		t.Fatalf("%+v", st)
	}
	return res, err
}

// law 9: prefetch uses spare bytes and never waits.
func TestPrefetchWithoutSpareReadsNothing(t *testing.T) {
	for stripes := range int64(2) {
		j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 5*segment).job(5)
		res, err := spare(t, j, stripes)
		if err != ErrNoSpare || res.BytesIn != 0 || j.sinks[0].ends != 1 || j.sources[0].closed != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
}

func TestPrefetchThatFitsIsReadAndVerifiedBeforeItsSinkIsCalled(t *testing.T) {
	for _, size := range []int64{100, segment, 2 * segment, 3 * segment} {
		for _, verify := range []bool{true, false} {
			j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, size).job(5)
			j.spec.VerifyMD5 = verify
			if j.spec.segments() > int64(j.spec.stripes()) {
				continue // the segments that are in flight are all that is read ahead
			}
			j.sinks[0].gate = func() error {
				for _, s := range j.sources {
					if s.off != len(s.data) {
						return fmt.Errorf("source %d was read up to %d of %d", s.index, s.off, len(s.data))
					}
				}
				return nil
			}
			if _, err := spare(t, j, 3); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(j.sinks[0].buf.Bytes(), j.frag[5]) {
				t.Fatal("wrong bytes")
			}
		}
	}
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 7*segment).job(5) // does not fit: goes through all the same
	if _, err := spare(t, j, 3); err != nil || !bytes.Equal(j.sinks[0].buf.Bytes(), j.frag[5]) {
		t.Fatal(err)
	}
	j = encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 2*segment).job(5)
	j.sources[0].etag = strings.Repeat("0", 32)
	if _, err := spare(t, j, 3); err == nil || j.sinks[0].writes != 0 {
		t.Fatalf("%d writes, %v", j.sinks[0].writes, err)
	}
}

// Reads go on while a sink is slow, up to the stripes that there are, and no further.
func TestReadsOverlapASlowSinkAndStopAtFullStripes(t *testing.T) {
	j := encode(newCode(t, "isa_l_rs_vand", 4, 2), segment, 9*segment).job(5)
	frag := j.code.FragmentSize(segment)
	at := func() (least, most int) {
		least = 1 << 30
		for _, s := range j.sources {
			s.mu.Lock()
			for s.reading { // between two reads off is still
				s.mu.Unlock()
				time.Sleep(time.Millisecond)
				s.mu.Lock()
			}
			least, most = min(least, s.off/frag), max(most, s.off/frag)
			s.mu.Unlock()
		}
		return least, most
	}
	j.sinks[0].gate = func() error {
		written := j.sinks[0].writes
		want := min(written+2, 9)
		for range 10000 {
			least, most := at()
			if most > want {
				return fmt.Errorf("%d fragments are written, %d are read", written, most)
			}
			if least == want {
				return nil
			}
			time.Sleep(time.Millisecond)
		}
		return errors.New("reads do not go on while the sink waits")
	}
	if _, err := j.run(t, bg); err != nil {
		t.Fatal(err)
	}
}

func TestTwoRunsOnOneAccountDoNotDeadlock(t *testing.T) {
	code := newCode(t, "isa_l_rs_vand", 4, 2)
	one := StripeSize(code, segment, 1)
	pool := slab.New(2 * one)
	acct, err := pool.Open(bg, 2*one)
	if err != nil {
		t.Fatal(err)
	}
	defer acct.Close()
	errs := make(chan error)
	for range 4 {
		j := encode(code, segment, 9*segment).job(5)
		go func() {
			_, err := Run(bg, acct, &j.spec)
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func TestAllocationsDoNotGrowWithSegments(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool forgets at random under the race detector")
	}
	code := newCode(t, "isa_l_rs_vand", 10, 4)
	pool := slab.New(64 << 20)
	acct, err := pool.Open(bg, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer acct.Close()
	for _, mode := range []string{"md5", "parity", "off"} {
		count := func(segments int64) float64 {
			a := encode(code, 32<<10, segments*32<<10)
			jobs := make([]*job, 12)
			for i := range jobs {
				jobs[i] = a.job(0)
				jobs[i].sinks[0].buf.Grow(len(a.frag[0]) + 1)
				if jobs[i].spec.VerifyMD5 = mode == "md5"; mode == "parity" {
					jobs[i].parity()
				}
				jobs[i].replaceable()
			}
			i := 0
			return testing.AllocsPerRun(10, func() {
				if _, err := Run(bg, acct, &jobs[i].spec); err != nil {
					t.Fatal(err)
				}
				i++
			})
		}
		few, many := count(16), count(64)
		t.Logf("%s: %v allocations for 16 segments, %v for 64", mode, few, many)
		if many > few+4 { // a garbage collection in between empties pools
			t.Fatalf("%s: %v allocations for 16 segments, %v for 64", mode, few, many)
		}
	}
}

func TestStripeSizeIsWhatAStripeTakes(t *testing.T) {
	for _, s := range schemes {
		code := newCode(t, s.Type, s.K, s.M)
		for _, seg := range []int{1, 1000, 64 << 10, 1 << 20} {
			for wants := 1; wants < 3; wants++ {
				one := StripeSize(code, seg, wants)
				pool := slab.New(one)
				acct, err := pool.Open(bg, one)
				if err != nil {
					t.Fatal(err)
				}
				var have, want codec.Set
				for i := range code.K() {
					have = have.With(wants + i)
				}
				for i := range wants {
					want = want.With(i)
				}
				plan, err := code.Plan(have, want)
				if err != nil {
					t.Fatal(err)
				}
				spec := &Spec{Code: code, Segment: seg, Size: int64(seg)}
				st, err := newStripes(bg, acct, spec, 1, code.K(), plan)
				if err != nil {
					t.Fatal(err)
				}
				if pool.Stats().InUse != one {
					t.Fatalf("%v, segment %d: takes %d, StripeSize says %d", s, seg, pool.Stats().InUse, one)
				}
				for _, slots := range [][][]byte{st[0].in, st[0].out} {
					for _, b := range slots {
						if len(b) != code.FragmentSize(seg) || address(b[codec.HeaderSize:])%slab.Align != 0 {
							t.Fatalf("slot of %d bytes, payload at %#x", len(b), address(b[codec.HeaderSize:]))
						}
					}
				}
				release(st)
				acct.Close()
			}
		}
	}
}
