// Package rescue holds what is done with fragment archives as bare files: tell what is in them, rebuild lost ones, decode the object,
// encode one. It asks no cluster, writes nothing that is not proved unless it is told to, and never changes an archive.
package rescue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"imping/codec"
)

// DefaultSegment is Swift's ec_object_segment_size where a policy has none.
const DefaultSegment = 1 << 20

// Progress is counted while a call runs, in bytes of files read and written; Total grows when a part has to be done again.
type Progress struct{ Done, Total atomic.Int64 }

func (p *Progress) done(n int64) {
	if p != nil {
		p.Done.Add(n)
	}
}

func (p *Progress) expect(n int64) {
	if p != nil {
		p.Total.Add(n)
	}
}

// Options say how archives are to be read.
type Options struct {
	Scheme     codec.Scheme // the zero value: as the archives' metadata says
	Segment    int          // ec_object_segment_size; 0: as metadata or headers say
	Unverified bool         // write what can not be proved, too
	Progress   *Progress    // may be nil
}

// Proof says why what was written is right.
type Proof string

// Values of Proof.
const (
	ProvedByETag  Proof = "etag"  // the object's MD5 is its Ec-Etag
	ProvedBySpare Proof = "spare" // every segment agrees with an archive that was not needed
	Unproved      Proof = "none"
)

// Problem is something wrong with a file that was given.
type Problem struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

func (p Problem) String() string { return p.Path + ": " + p.Reason }

// Result is what Decode and Rebuild found and did. It comes with an error, too, as far as they got.
type Result struct {
	Problems []Problem // in the order of the files given
	Scheme   codec.Scheme
	Segment  int    // bytes of a segment; of an object of one segment, its size
	Size     int64  // bytes of the object
	MD5      string // of the object, if it was decoded
	Proof    Proof
	Doubt    string   // with Unproved: why
	Written  []string // files
}

// Decode writes the object that some archives are of to a file, whole and proved, or not at all.
func Decode(ctx context.Context, paths []string, to string, o Options) (*Result, error) {
	return run(ctx, paths, nil, o, func(*job) ([]string, error) { return []string{to}, nil })
}

// Rebuild writes the archives of the given indexes as DIR/frag-N, byte for byte as they were before they were lost, made from others
// of their object. All are written, or none. An archive of a wanted index is never an input (rule 3).
func Rebuild(ctx context.Context, paths []string, dir string, indexes []int, o Options) (*Result, error) {
	if len(indexes) == 0 {
		return &Result{}, errors.New("no fragment is wanted")
	}
	return run(ctx, paths, indexes, o, func(j *job) ([]string, error) {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
		var to []string
		for _, i := range j.want.Indexes() {
			to = append(to, archiveName(dir, i))
		}
		return to, nil
	})
}

func archiveName(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("frag-%d", index))
}

// run gathers the archives and makes the files that outputs names, an archive for each index or the object.
func run(ctx context.Context, paths []string, indexes []int, o Options, outputs func(*job) ([]string, error)) (*Result, error) {
	j := &job{o: o, indexes: indexes}
	defer j.close()
	result := func(err error) (*Result, error) {
		r := &Result{Problems: j.problems(), Segment: j.segment, Size: j.size, Proof: j.proof, Doubt: j.doubt}
		if j.code != nil {
			r.Scheme = j.code.Scheme()
		}
		if j.last.hashed {
			r.MD5 = j.last.sum
		}
		if err == nil {
			for _, s := range j.sinks {
				r.Written = append(r.Written, s.path)
			}
		}
		return r, err
	}
	if err := j.open(ctx, paths); err != nil {
		return result(err)
	}
	if err := j.settle(); err != nil {
		return result(err)
	}
	if err := j.survey(ctx); err != nil {
		return result(err)
	}
	to, err := outputs(j)
	if err != nil {
		return result(err)
	}
	for _, path := range to {
		if err := j.mayWrite(path); err != nil {
			return result(err)
		}
	}
	for _, path := range to {
		s, err := Create(path)
		if err != nil {
			return result(err)
		}
		j.sinks = append(j.sinks, s)
	}
	if err := j.prove(ctx); err != nil {
		return result(err)
	}
	return result(Publish(j.sinks...))
}

// mayWrite refuses to replace what is read.
func (j *job) mayWrite(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file: it can not be replaced", path)
	}
	for _, a := range j.given {
		if a.stat != nil && os.SameFile(a.stat, st) {
			return fmt.Errorf("%s: one of the archives given, which are not replaced: choose another place", path)
		}
	}
	return nil
}
