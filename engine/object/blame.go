package object

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"

	"imping/codec"
)

// blame looks for the archives at fault when the object has a wrong MD5 though every fragment's header is right, and has them not read any more.
// It says which they are. An error is only that of ctx.
func (o *Object) blame(ctx context.Context) (found []string, err error) {
	if o.Size == 0 {
		return nil, nil
	}
	before := o.faulty()
	fresh := func() (list []string) {
		for _, s := range o.faulty() {
			if !slices.Contains(before, s) {
				list = append(list, s.fault())
			}
		}
		slices.Sort(list)
		return list
	}
	o.compare(ctx)
	if len(fresh()) == 0 && ctx.Err() == nil {
		o.exclude(ctx)
	}
	return fresh(), cause(ctx)
}

// faulty are the archives that are not read any more.
func (o *Object) faulty() (list []*source) {
	for _, sources := range o.sources {
		for _, s := range sources {
			if s.bad != nil {
				list = append(list, s)
			}
		}
	}
	return list
}

// compare reads all archives side by side, one of each index. At fault are those whose MD5 is not their ETag or, if there are none, those that
// contradict the others, where there are enough to tell. A server that moves an archive aside after it has sent it and found it to be bad does
// as well: then it is at fault because it is gone.
func (o *Object) compare(ctx context.Context) {
	r := &reader{Object: o, open: map[int]*stream{}, all: true}
	defer r.close()
	sums := map[*stream]hash.Hash{}
	var liars codec.Set
	for number := range (o.Size-1)/int64(o.segment) + 1 {
		fragments, err := r.fetch(ctx, number)
		if err != nil {
			return
		}
		payloads := make([][]byte, o.place.code.N())
		for index, f := range fragments {
			s := r.open[index]
			if number == 0 {
				sums[s] = md5.New()
			}
			if sums[s] != nil { // else it took another's place
				sums[s].Write(f)
			}
			payloads[index] = f[codec.HeaderSize:]
		}
		if verdict, err := o.place.code.Verify(payloads); err == nil {
			liars = liars.Or(verdict.Liars)
		}
	}
	rotten := false
	for _, s := range r.open {
		if sums[s] == nil || s.resp.ETag == "" {
			continue
		}
		if got := hex.EncodeToString(sums[s].Sum(nil)); got != s.resp.ETag {
			s.bad, rotten = fmt.Errorf("the archive has the MD5 %s, its ETag says %s", got, s.resp.ETag), true
		}
	}
	for _, index := range liars.Indexes() {
		if s := r.open[index]; s != nil && !rotten {
			s.bad = errors.New("the archive contradicts the others, though its MD5 is its ETag")
		}
	}
}

// exclude does without each archive that is read, one after another: where the object has its MD5 then, that one is at fault. It is for as many
// archives as it takes and one more, which contradict each other, and none can be told from another.
func (o *Object) exclude(ctx context.Context) {
	read, err := (&reader{Object: o}).chosen()
	if err != nil {
		return
	}
	for _, index := range read.Indexes() {
		s := o.usable(index)
		if s == nil {
			continue
		}
		s.bad = errors.New("without the archive the object has its MD5")
		sum := md5.New()
		err := o.copy(ctx, sum, 0, o.Size)
		if err == nil && hex.EncodeToString(sum.Sum(nil)) == o.ETag {
			return
		}
		if s.bad = nil; ctx.Err() != nil {
			return
		}
	}
}
