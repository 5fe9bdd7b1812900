package diskfile

import (
	"cmp"
	"slices"

	"imping/swift/timestamp"
)

// choice says which files of an object directory make the object's state, and which can
// go. Swift: the results dict of BaseDiskFileManager.get_ondisk_files.
type choice struct {
	data, meta, ctype, tombstone *file // nil = none; ctype may be the same file as meta

	sets    [][]*file // .data files by time, newest first, indexes ascending; none older than durable
	durable []*file   // the durable one of sets

	unexpected []string // names that could not be read
	obsolete   []*file  // can be removed
	strays     []*file  // can be removed once they are old enough
}

// query says which fragment is wanted.
type query struct {
	replicated bool         // the policy keeps whole objects: files have no index and all are durable
	limit      int          // indexes from here on are none of the policy's; 0 = any
	index      int          // wanted fragment index; -1 = the highest
	nonDurable bool         // the newest set is taken, durable or not
	prefer     []Preference // not nil: nonDurable, and which set and fragment of it are wanted most
}

// extensions are the files of a directory by their extension.
type extensions [5][]*file

const (
	datas = iota
	metas
	tombstones
	durables
	others
)

func (e *extensions) of(ext string) *[]*file {
	switch ext {
	case ".data":
		return &e[datas]
	case ".meta":
		return &e[metas]
	case ".ts":
		return &e[tombstones]
	case ".durable":
		return &e[durables]
	}
	return &e[others]
}

// anyDurable is the query of a caller that only wants to know what can go.
var anyDurable = query{index: -1}

// choose sorts out the names in an object directory, which come in descending order.
// warn is told the names that could not be read, but for those of rsync.
// Swift: BaseDiskFileManager.get_ondisk_files, ECDiskFileManager._process_ondisk_files and
// DiskFileManager._process_ondisk_files.
func choose(names []string, q query, warn func(name string, err error)) *choice {
	c := &choice{}
	parse := func(name string) (*file, error) { return parseName(name, q.limit) }
	chooseData := c.chooseData
	if q.replicated {
		parse, chooseData = parseReplicated, c.chooseReplicated
	}
	var exts extensions
	for _, name := range names {
		f, err := parse(name)
		if err != nil {
			c.unexpected = append(c.unexpected, name)
			if !rsyncTemporary.MatchString(name) {
				warn(name, err)
			}
			continue
		}
		files := exts.of(f.ext)
		*files = append(*files, f)
	}
	for _, files := range &exts {
		slices.SortStableFunc(files, func(a, b *file) int { return b.time.Compare(a.time) })
	}

	// The newest tombstone ends all that is not newer.
	if ts := exts[tombstones]; len(ts) > 0 {
		for ext, files := range &exts {
			if ext != tombstones {
				n := count(files, func(f *file) bool { return f.time.After(ts[0].time) })
				exts[ext] = files[:n]
				c.obsolete = append(c.obsolete, files[n:]...)
			}
		}
		c.obsolete = append(c.obsolete, ts[1:]...)
		exts[tombstones] = ts[:1]
	}

	c.chooseMeta(&exts)
	chooseData(&exts, q)

	if c.data == nil {
		if ts := exts[tombstones]; len(ts) > 0 {
			c.tombstone = ts[0]
		}
	} else if meta := exts[metas]; len(meta) > 0 {
		c.meta = meta[0]
		if last := meta[len(meta)-1]; last.ctype.After(c.data.time) {
			c.ctype = last
		}
	}
	return c
}

// chooseMeta keeps the newest .meta file and, if it is another one, that with the newest
// content type.
func (c *choice) chooseMeta(exts *extensions) {
	meta := exts[metas]
	if len(meta) < 2 {
		return
	}
	slices.SortStableFunc(meta[1:], func(a, b *file) int { return b.ctype.Compare(a.ctype) })
	retain := 1
	if meta[1].ctype.After(meta[0].ctype) {
		if meta[1].time == meta[0].time {
			meta[0], meta[1] = meta[1], meta[0]
		} else {
			retain = 2
		}
	}
	c.obsolete = append(c.obsolete, meta[retain:]...)
	exts[metas] = meta[:retain]
}

func (c *choice) chooseData(exts *extensions, q query) {
	// Older versions told durability by a separate .durable file.
	var mark *timestamp.Timestamp
	if legacy := exts[durables]; len(legacy) > 0 {
		mark = &legacy[0].time
	}
	for rest := exts[datas]; len(rest) > 0 && c.durable == nil; {
		at := rest[0].time
		n := count(rest, func(f *file) bool { return f.time == at })
		set := rest[:n:n]
		rest = rest[n:]
		slices.SortStableFunc(set, func(a, b *file) int { return cmp.Compare(a.index, b.index) })
		c.sets = append(c.sets, set)
		if slices.ContainsFunc(set, func(f *file) bool { return f.durable }) && (mark == nil || mark.Before(at)) {
			mark = &at
		}
		if mark != nil && *mark == at {
			// Fragments older than this one are of no account.
			c.durable = set
			for _, f := range set {
				f.durable = true
			}
		}
	}

	chosen := c.durable
	index := q.index
	switch {
	case q.prefer != nil:
		chosen, index = c.preferred(q)
	case q.nonDurable && len(c.sets) > 0:
		chosen = c.sets[0]
	}
	for _, f := range chosen {
		if index < 0 || f.index == index {
			c.data = f
			if index >= 0 {
				break
			}
		}
	}
	if c.data != nil && !c.durableIs(chosen) {
		// Metadata older than the data but newer than the durable data must not be taken for
		// the data's, nor for obsolete.
		meta := exts[metas]
		exts[metas] = meta[:count(meta, func(f *file) bool { return f.time.After(c.data.time) })]
	}

	if mark != nil {
		for ext, files := range exts {
			n := count(files, func(f *file) bool { return !f.time.Before(*mark) })
			exts[ext] = files[:n]
			c.obsolete = append(c.obsolete, files[n:]...)
		}
	}
	if c.durable == nil {
		// A lone .durable file means nothing.
		c.obsolete = append(c.obsolete, exts[durables]...)
		exts[durables] = nil
	}
	for _, set := range c.sets {
		if !c.durableIs(set) && (chosen == nil || set[0] != chosen[0]) {
			c.strays = append(c.strays, set...)
		}
	}
	if c.durable == nil {
		c.strays = append(c.strays, exts[metas]...)
	}
}

// preferred gives the first set that a preference names and that has a fragment besides those
// excluded, and the highest index of these; else the newest set of which no preference
// excludes all.
func (c *choice) preferred(q query) (set []*file, index int) {
	left := slices.Clone(c.sets)
	for _, p := range q.prefer {
		i := slices.IndexFunc(left, func(set []*file) bool { return set[0].time == p.Timestamp })
		if i < 0 {
			continue
		}
		for _, f := range slices.Backward(left[i]) {
			if !slices.Contains(p.Exclude, f.index) {
				return left[i], f.index
			}
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) == 0 {
		return nil, -1
	}
	return left[0], q.index
}

// chooseReplicated keeps the newest object, and of the other files those that are newer.
func (c *choice) chooseReplicated(exts *extensions, _ query) {
	data := exts[datas]
	if len(data) == 0 {
		c.strays = append(c.strays, exts[metas]...)
		return
	}
	c.data = data[0]
	c.data.durable = true
	c.durable = data[:1:1]
	for ext, files := range exts {
		n := count(files, func(f *file) bool { return f.time.After(c.data.time) || ext == datas && f.time == c.data.time })
		exts[ext] = files[:n]
		c.obsolete = append(c.obsolete, files[n:]...)
	}
}

func (c *choice) durableIs(set []*file) bool { return c.durable != nil && c.durable[0] == set[0] }

// count gives how many files from the first on satisfy keep.
func count(files []*file, keep func(*file) bool) int {
	for n, f := range files {
		if !keep(f) {
			return n
		}
	}
	return len(files)
}

// fragmentSets is c.sets for those who do not look at files.
func (c *choice) fragmentSets() (sets []FragmentSet) {
	for _, set := range c.sets {
		s := FragmentSet{Timestamp: set[0].time}
		for _, f := range set {
			s.Indexes = append(s.Indexes, f.index)
		}
		sets = append(sets, s)
	}
	return sets
}
