package object

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"imping/codec"
	"imping/netfast/fragment"
)

// Copy writes n bytes of the object to w, from first on. Fragments are read from as few devices as suffice; one that fails is replaced by another
// in the middle of the object, and what was read is kept. All of an object is compared with its ETag, which fails after the
// last byte was written. Errors: a *StatusError of 503 if too few archives are left; a *DamagedError; those of w.
func (o *Object) Copy(ctx context.Context, w io.Writer, first, n int64) error {
	if first < 0 || n < 0 || first > o.Size || n > o.Size-first {
		return fmt.Errorf("bytes %d to %d of %s, which has %d", first, first+n-1, o.Name, o.Size)
	}
	var sum hash.Hash
	if first == 0 && n == o.Size {
		sum = md5.New()
		w = io.MultiWriter(w, sum)
	}
	if n > 0 {
		if err := o.copy(ctx, w, first, n); err != nil {
			return err
		}
	}
	if sum == nil {
		return nil
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != o.ETag {
		return &DamagedError{o.Name, got, o.ETag}
	}
	return nil
}

// DamagedError is what became of an object whose archives seemed to be good, and are not all.
type DamagedError struct{ Name, MD5, ETag string }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged: what its archives make has the MD5 %s, not %s", e.Name, e.MD5, e.ETag)
}

// CopyWhole is Copy of all of an object to what begin gives. If it proves to be damaged the archives that are at fault are looked for, and it is
// copied again without them to what begin gives then, which has to forget what was written before, or fails. bad: device, fragment and
// fault of those archives, whether or not the object could be had without them.
func (o *Object) CopyWhole(ctx context.Context, begin func() (io.Writer, error)) (bad []string, err error) {
	var damaged *DamagedError
	for {
		w, err := begin()
		if err == nil {
			err = o.Copy(ctx, w, 0, o.Size)
		}
		var again *DamagedError
		switch {
		case err == nil || cause(ctx) != nil:
			return bad, err
		case errors.As(err, &again):
			damaged = again
		case damaged != nil:
			return bad, fmt.Errorf("%w; %w", damaged, err)
		default:
			return bad, err
		}
		found, err := o.blame(ctx)
		if err != nil {
			return bad, err
		}
		if len(found) == 0 {
			return bad, fmt.Errorf("%w, and which archive is at fault can not be told; imping verify --object may say more", damaged)
		}
		bad = append(bad, found...)
	}
}

func (o *Object) copy(ctx context.Context, w io.Writer, first, n int64) error {
	r := &reader{Object: o, open: map[int]*stream{}}
	defer r.close()
	segment := int64(o.segment)
	last := (first + n - 1) / segment
	type fetched struct {
		fragments map[int][]byte
		err       error
	}
	// One segment is fetched while the one before is decoded and written.
	fetch := func(number int64) chan fetched {
		c := make(chan fetched, 1)
		go func() {
			f, err := r.fetch(ctx, number)
			c <- fetched{f, err}
		}()
		return c
	}
	size := int(min(segment, o.Size))
	buf := make([]byte, o.place.code.K()*o.place.code.PayloadSize(size))
	next := fetch(first / segment)
	for number := first / segment; ; number++ {
		now := <-next
		if now.err != nil {
			return now.err
		}
		if number < last {
			next = fetch(number + 1)
		}
		err := func() error {
			length := o.length(number)
			payloads := make([][]byte, o.place.code.N())
			for i, f := range now.fragments {
				payloads[i] = f[codec.HeaderSize:]
			}
			data, err := o.place.code.Decode(buf[:o.place.code.K()*o.place.code.PayloadSize(length)], length, payloads)
			if err != nil {
				return err
			}
			from, to := max(0, first-number*segment), min(int64(length), first+n-number*segment)
			_, err = w.Write(data[from:to])
			return err
		}()
		if number == last || err != nil {
			if number < last {
				r.interrupt(err)
				<-next
			}
			return err
		}
	}
}

// length is how many bytes a segment has.
func (o *Object) length(number int64) int {
	return int(min(int64(o.segment), o.Size-number*int64(o.segment)))
}

// opens says why the version can not be read, as its first segment shows; nil if it can. An object of no bytes has only the heads of the answers.
func (o *Object) opens(ctx context.Context) error {
	r := &reader{Object: o, open: map[int]*stream{}}
	defer r.close()
	_, err := r.fetch(ctx, 0)
	return err
}

// reader reads fragments from devices that may fail.
type reader struct {
	*Object
	all  bool // fragments are read, not only as many as it takes
	mu   sync.Mutex
	open map[int]*stream // by fragment index
	end  error           // why nothing more is to be read
}

// stream is an archive that is being read.
type stream struct {
	*source
	resp  *fragment.Response
	slots [2][]byte // of the segments of even and of odd number; none is longer than the first that is read
	ready int64     // the segment that was read last, -1 before
}

func (s *stream) slot(number int64, size int) []byte {
	slot := &s.slots[number%2]
	if *slot == nil {
		*slot = make([]byte, size)
	}
	return (*slot)[:size]
}

func (r *reader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.open {
		s.resp.Close()
	}
}

func (r *reader) interrupt(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = err
	for _, s := range r.open {
		s.resp.Interrupt(err)
	}
}

// fetch reads the fragments of a segment, as many as it takes. They are valid until the next but one is fetched.
func (r *reader) fetch(ctx context.Context, number int64) (map[int][]byte, error) {
	length := r.length(number)
	size := r.place.code.FragmentSize(length)
	for {
		read, err := r.chosen()
		if err != nil && r.more(ctx) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		fragments := map[int][]byte{}
		failed := map[*source]error{}
		for _, index := range read.Indexes() {
			wg.Go(func() {
				s, err := r.stream(ctx, index, number)
				if err == nil && s.ready != number && length > 0 {
					slot := s.slot(number, size)
					if _, err = s.resp.ReadFragment(slot); err == nil {
						err = r.proven(slot, index, length)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed[s.source] = err
					return
				}
				s.ready = number
				fragments[index] = s.slot(number, size)
			})
		}
		wg.Wait()
		if err := cause(ctx); err != nil {
			return nil, err
		}
		r.mu.Lock()
		err = r.end
		for source, why := range failed {
			source.bad = why
			if s := r.open[source.index]; s != nil && s.source == source {
				s.resp.Close()
				delete(r.open, source.index)
			}
		}
		r.mu.Unlock()
		if err != nil || len(failed) == 0 {
			return fragments, err
		}
	}
}

// proven says what is wrong with a fragment's header, and with its payload where the header has a checksum of it.
func (r *reader) proven(f []byte, index, length int) error {
	var header [1]codec.Header
	if _, faults := r.place.code.CheckStripe([][]byte{f}, []int{index}, length, header[:]); len(faults) > 0 {
		return faults[0].Err
	}
	return nil
}

// chosen are the fragments that are read from now on.
func (r *reader) chosen() (codec.Set, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var held, offered codec.Set
	var why []error
	for index, list := range r.sources {
		for _, s := range list {
			if s.bad == nil {
				offered = offered.With(index)
			} else {
				why = append(why, errors.New(s.fault()))
			}
		}
	}
	for index := range r.open {
		held = held.With(index)
	}
	read, err := r.choose(held, offered)
	if err != nil {
		return read, &StatusError{503, fmt.Sprintf("%s can not be read: %v", r.Name, errors.Join(append(why, err)...))}
	}
	if r.all {
		read = held.Or(offered)
	}
	return read, nil
}

// stream is the one that is open for an index, or a new one from a segment on.
func (r *reader) stream(ctx context.Context, index int, number int64) (*stream, error) {
	r.mu.Lock()
	s := r.open[index]
	from := r.usable(index)
	r.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s = &stream{source: from, ready: -1}
	req := r.request(from.node, r.Data, from.others)
	req.Offset = number * int64(r.place.code.FragmentSize(r.segment))
	resp, err := fragment.Get(ctx, r.client.HTTP, req)
	if err != nil {
		return s, err
	}
	total := r.place.code.ArchiveSize(r.Size, r.segment)
	if resp.Status/100 != 2 || resp.Data != r.Data || resp.FragIndex != index || resp.ECEtag != r.ETag || resp.Total != total {
		resp.Close()
		return s, fmt.Errorf("answered %d with fragment %d of %s and %d bytes, not with what it had announced", resp.Status, resp.FragIndex, resp.Data.Internal(), resp.Total)
	}
	s.resp = resp
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end != nil {
		resp.Close()
		return s, r.end
	}
	r.open[index] = s
	return s, nil
}
