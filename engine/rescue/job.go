package rescue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"imping/codec"
	"imping/io/slab"
)

// job is one call of Decode or Rebuild.
type job struct {
	o       Options
	indexes []int // wanted; nil: the object

	given    []*archive // all files, in order
	archives []*archive // those that are used, in order
	code     *codec.Code
	want     codec.Set // of indexes
	shape
	segments int64
	etag     string // the object's, "" if nothing says it

	sinks []*File // of each index in want, ascending, or of the object
	last  outcome
	proof Proof
	doubt string

	slab    *slab.Slab
	account *slab.Account
	slots   [][]byte // one fragment each, by index
	have    codec.Set
	recipe  recipe // for have
}

func (j *job) close() {
	for _, s := range j.sinks {
		s.Abort()
	}
	for _, a := range j.given {
		if a.file != nil {
			a.file.Close()
		}
	}
	if j.slab != nil {
		j.slab.Release()
	}
	if j.account != nil {
		j.account.Close()
	}
}

func (j *job) problems() []Problem {
	var all []Problem
	for _, a := range j.given {
		for _, r := range a.reasons {
			all = append(all, Problem{a.path, r})
		}
	}
	return all
}

func (j *job) open(ctx context.Context, paths []string) error {
	for _, path := range paths {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		a := openArchive(path)
		for _, b := range j.given {
			if a.file != nil && b.file != nil && os.SameFile(a.stat, b.stat) {
				a.dropped = true
				a.reasons = nil
				a.problem("given twice: the same file as %s", b.path)
				break
			}
		}
		j.given = append(j.given, a)
	}
	return nil
}

// object is what archives have to agree about in order to be of one object. Bare files say only the last two.
type object struct {
	name, timestamp, etag, scheme string
	segment                       int // as metadata says it
	backend                       byte
	shape
}

func (a *archive) object() object {
	if m := a.meta; m != nil {
		return object{name: m.name, timestamp: m.timestamp, etag: m.etag, scheme: m.scheme.String(), segment: m.segment, shape: m.shape}
	}
	return object{backend: a.head.BackendID, shape: a.shape}
}

// group are the archives of what may be one object.
type group struct {
	object
	scheme  codec.Scheme
	members []*archive
}

func (g *group) String() string {
	if g.name == "" {
		return g.shape.String()
	}
	return fmt.Sprintf("%s of %s, %v, %s", g.name, g.timestamp, g.shape, g.object.scheme)
}

func (g *group) indexes() codec.Set {
	var s codec.Set
	for _, a := range g.members {
		if a.index >= 0 {
			s = s.With(a.index)
		}
	}
	return s
}

// takes says whether an archive without metadata can be of the group's object: of the same shape, of none that can be told, or cut off
// behind a whole segment.
func (g *group) takes(a *archive) bool {
	cut := a.shape.segment == g.shape.segment && a.shape.size < g.shape.size && a.shape.size%int64(a.shape.segment) == 0
	return a.shape == (shape{}) || a.shape == g.shape || cut
}

// settle says which object the archives are of, and of which scheme. Archives of others are named and dropped.
func (j *job) settle() error {
	var groups []*group
	var bare *codec.Code // of files without metadata
	if j.o.Scheme != (codec.Scheme{}) {
		var err error
		if bare, err = codec.New(j.o.Scheme); err != nil {
			return err
		}
	}
	for _, named := range []bool{true, false} { // bare files last
		for _, a := range j.given {
			if a.dropped || (a.meta != nil) != named {
				continue
			}
			if named && j.o.Scheme != (codec.Scheme{}) && a.meta.scheme != j.o.Scheme {
				a.dropped = true
				a.problem("of %v, as its metadata says, not of %v", a.meta.scheme, j.o.Scheme)
				continue
			}
			if s := j.o.Segment; s > 0 && (named && a.meta.segment != s ||
				!named && a.shape != (shape{}) && shapeOf(a.shape.size, s) != a.shape) {
				a.dropped = true
				of := a.shape.segment
				if named {
					of = a.meta.segment
				}
				a.problem("of segments of %d bytes, not of %d", of, s)
				continue
			}
			if !named && a.shape == (shape{}) {
				continue // joins below
			}
			if !named && bare != nil {
				if err := bare.CheckHeader(a.head); err != nil {
					a.dropped = true
					a.problem("%v", err)
					continue
				}
			}
			o := a.object()
			i := slices.IndexFunc(groups, func(g *group) bool { return g.object == o })
			if i < 0 {
				g := &group{object: o, scheme: j.o.Scheme}
				if named {
					g.scheme = a.meta.scheme
				} else if slices.ContainsFunc(groups, func(g *group) bool { return g.name != "" && g.takes(a) }) {
					continue // joins those of a name, below
				}
				groups = append(groups, g)
				i = len(groups) - 1
			}
			groups[i].members = append(groups[i].members, a)
		}
	}
	for _, g := range groups {
		for _, a := range j.given {
			if !a.dropped && a.meta == nil && !slices.Contains(g.members, a) && g.takes(a) {
				g.members = append(g.members, a)
			}
		}
	}
	if len(groups) == 0 {
		for _, a := range j.given {
			if !a.dropped {
				a.problem("no metadata, and its first and last headers do not fit its length")
			}
		}
		return errors.New("none of these files is a fragment archive that could be told from its metadata or its headers")
	}
	var chosen *group
	var enough []*group
	for _, g := range groups {
		if g.scheme == (codec.Scheme{}) {
			return errors.New("no archive's metadata says of which scheme these are, and headers do not: give --ec-type, --data and --parity")
		}
		code, err := codec.New(g.scheme)
		if err != nil {
			return err
		}
		if j.suffices(code, g.indexes()) {
			enough = append(enough, g)
		}
		if chosen == nil || len(g.indexes().Indexes()) > len(chosen.indexes().Indexes()) {
			chosen = g
		}
	}
	if len(enough) > 1 {
		var names []string
		for _, g := range enough {
			names = append(names, fmt.Sprintf("%v (%s)", g, paths(g.members)))
		}
		return fmt.Errorf("archives of %d objects, each of which could be made; give those of one: %s", len(enough), strings.Join(names, "; "))
	}
	if len(enough) == 1 {
		chosen = enough[0]
	}
	code, err := codec.New(chosen.scheme)
	if err != nil {
		return err
	}
	j.code, j.etag, j.shape = code, chosen.etag, chosen.shape
	if j.segment > 0 {
		j.segments = (j.size-1)/int64(j.segment) + 1
	}
	for _, i := range j.indexes {
		if i < 0 || i >= code.N() {
			return fmt.Errorf("fragment %d can not be rebuilt: %v has only 0..%d", i, chosen.scheme, code.N()-1)
		}
		j.want = j.want.With(i)
	}
	for _, a := range j.given {
		if a.dropped {
			continue
		}
		if !slices.Contains(chosen.members, a) {
			a.dropped = true
			a.problem("not of the same object as the others: %s", difference(a, chosen))
		} else if a.meta == nil && chosen.name != "" {
			a.second = true // nothing but its headers speaks for it
		}
	}
	return nil
}

func (j *job) suffices(code *codec.Code, have codec.Set) bool {
	for _, i := range have.Indexes() {
		if i >= code.N() {
			have = have.Without(i)
		}
	}
	want := codec.Set{}
	for _, i := range j.indexes {
		if i >= 0 && i < code.N() {
			want = want.With(i)
		}
	}
	have = have.Minus(want)
	if j.indexes == nil {
		for i := range code.K() {
			want = want.With(i)
		}
		want = want.Minus(have)
	}
	if want == (codec.Set{}) {
		return true
	}
	_, err := code.Plan(have, want)
	return err == nil
}

func paths(archives []*archive) string {
	var all []string
	for _, a := range archives {
		all = append(all, a.path)
	}
	return strings.Join(all, ", ")
}

// difference says in what an archive differs from those of a group.
func difference(a *archive, g *group) string {
	if a.meta == nil || g.name == "" {
		of := a.shape
		if a.meta != nil {
			of = a.meta.shape
		}
		if of != g.shape {
			return fmt.Sprintf("%v, not %v", of, g.shape)
		}
		if a.meta != nil {
			return fmt.Sprintf("its metadata says %s of %s, the others have none", a.meta.name, a.meta.timestamp)
		}
		return fmt.Sprintf("backend %d", a.head.BackendID)
	}
	m, o := a.meta, g.object
	switch {
	case m.name != o.name:
		return fmt.Sprintf("%s, not %s", m.name, o.name)
	case m.timestamp != o.timestamp:
		return fmt.Sprintf("timestamp %s, not %s", m.timestamp, o.timestamp)
	case m.scheme.String() != o.scheme:
		return fmt.Sprintf("of %v, not of %s", m.scheme, o.scheme)
	case m.segment != o.segment:
		return fmt.Sprintf("segments of %d bytes, not of %d", m.segment, o.segment)
	case m.shape != o.shape:
		return fmt.Sprintf("%v, not %v", m.shape, o.shape)
	}
	return fmt.Sprintf("its MD5 is %s, not %s", m.etag, o.etag)
}
