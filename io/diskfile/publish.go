package diskfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Publication is a file to be published: by Publish or, if Durable, by PublishDurable.
type Publication struct {
	Writer  *Writer
	Meta    *Metadata
	Durable bool
	Err     error // after PublishAll: what that would have returned

	file  *file
	path  string
	fresh bool // the first file of a directory that was made for it: there is nothing else to be looked at
}

// fragment tells whether the file counts for nothing before it is durable.
func (p *Publication) fragment() bool { return p.file.ext == ".data" && !p.Writer.m.replicated() }

// PublishAll publishes files of one Manager together. Each goes the way of one that is published alone, and an error is that of
// its own file only; but they share the journal's commits, each directory is
// synced once, and a partition's lock is taken once for all its files whose suffixes are invalidated.
func PublishAll(all []*Publication) {
	live := slices.Clone(all)
	each := func(do func(p *Publication) error) {
		live = slices.DeleteFunc(live, func(p *Publication) bool {
			if err := do(p); err != nil {
				p.Err = err
				return true
			}
			return false
		})
	}
	for _, p := range all {
		p.Err = errUnfinished // should anything panic
	}
	defer func() {
		for _, p := range all {
			p.Writer.Abort()
		}
	}()

	// Metadata first, so that one sync is for both.
	each((*Publication).describe)
	if len(live) > 1 {
		each(func(p *Publication) error {
			if err := p.Writer.tmp.writeOut(); err != nil {
				return noSpace(err, p.path, "cannot write %s out", p.path)
			}
			return nil
		})
	}
	each(func(p *Publication) error {
		if err := p.Writer.tmp.fsync(); err != nil {
			return noSpace(err, p.path, "cannot sync %s", p.path)
		}
		p.Writer.tmp.dropCache(0, p.Writer.written)
		return nil
	})
	invalidated := invalidateAll(live) // rule 21
	each(func(p *Publication) error {
		if err := invalidated[p.Writer.at.partition()]; err != nil {
			return noSpace(err, p.path, "cannot publish %s", p.path)
		}
		if err := p.Writer.tmp.link(p.path); err != nil {
			return noSpace(err, p.path, "cannot publish %s", p.path)
		}
		return nil
	})
	again := len(live) > 1
	if again {
		// Since the first invalidation they may have been hashed: with one file the time for that is short.
		invalidated = invalidateAll(live)
		each(func(p *Publication) error { return p.uninvalidated(invalidated) })
	}
	share(live, all)
	synced := make(map[string]bool, 4)
	each(func(p *Publication) error {
		if err := p.Writer.tmp.syncDirs(synced); err != nil {
			return fmt.Errorf("%s is published and perhaps not on the disk: %w", p.path, err)
		}
		return nil
	})
	var fragments []*Publication
	for _, p := range live {
		p.Writer.m.linkNew(p.Writer.at, p.file.format())
		if p.fragment() && p.file.durable {
			// The same fragment may have been published meanwhile: a rename would have taken its name away. Not before the durable one is on the disk.
			was := *p.file
			was.durable = false
			_ = syscall.Unlink(filepath.Join(p.Writer.at.dir, was.format()))
			fragments = append(fragments, p)
		}
	}
	invalidated = invalidateAll(fragments) // as makeDurable does (rule 21)
	each(func(p *Publication) error {
		w := p.Writer
		switch {
		case p.fragment() && !p.file.durable:
			w.data, w.index = p.file.time, p.file.index // what it makes obsolete is so only once it is durable
			if p.Durable {
				return w.Commit()
			}
			return nil
		case p.fragment() && invalidated[w.at.partition()] != nil:
			return p.uninvalidated(invalidated)
		case p.fresh && (again || p.fragment()): // what has come since was tidied up by whoever brought it, or is at the next hashing, for which it was invalidated
			return nil
		}
		w.m.tidy(w.at)
		return nil
	})
	for _, p := range live {
		p.Err = nil
	}
}

var errUnfinished = errors.New("the publication came to no end")

// share has each sync the directories, too, that were made for another and that it uses: the other may fail.
func share(live, all []*Publication) {
	for _, p := range live {
		t := p.Writer.tmp
		for _, q := range all {
			if other := q.Writer.tmp; other != nil && other.made != "" && strings.HasPrefix(t.dir+"/", other.made+"/") && (t.made == "" || len(other.made) < len(t.made)) {
				t.made = other.made
			}
		}
	}
}

// describe decides the file's name, and keeps its metadata with it.
func (p *Publication) describe() (err error) {
	w := p.Writer
	if w.tmp == nil {
		return errors.New("cannot publish a file that is published or aborted")
	}
	meta := p.Meta.clone()
	if p.file, err = w.file(meta); err != nil {
		return fmt.Errorf("cannot publish a file in %s: %w", w.at.dir, err)
	}
	p.fresh = w.tmp.made != "" && w.at.NextPartPower == 0 && p.file.ext == ".data"
	// With a partition that the object is going to have, or a fragment of that name, two names would have to change as one.
	p.file.durable = p.fragment() && p.Durable && w.at.NextPartPower == 0 && (p.fresh || !exists(filepath.Join(w.at.dir, p.file.format())))
	meta.Set("name", w.at.Name)
	p.path = filepath.Join(w.at.dir, p.file.format())
	raw := meta.encode()
	if err := w.m.step("setxattr", func() error { return w.tmp.writeMetadata(p.path, raw) }); err != nil {
		return noSpace(err, p.path, "cannot publish")
	}
	return nil
}

// uninvalidated is what it means for a file that has its name that its suffix could not be invalidated.
func (p *Publication) uninvalidated(failed map[string]error) error {
	if err := failed[p.Writer.at.partition()]; err != nil {
		return noSpace(err, p.path, "cannot invalidate for %s", p.path)
	}
	return nil
}

// invalidateAll notes that the suffixes of the files change, partition by partition; the errors are by partition.
func invalidateAll(files []*Publication) map[string]error {
	failed := make(map[string]error)
	var partitions []string
	suffixes := make(map[string][]string)
	for _, p := range files {
		at := p.Writer.at
		path := at.partition()
		if suffixes[path] == nil {
			partitions = append(partitions, path)
		}
		if suffix := filepath.Base(filepath.Dir(at.dir)); !slices.Contains(suffixes[path], suffix) {
			suffixes[path] = append(suffixes[path], suffix)
		}
	}
	for _, path := range partitions {
		m := files[0].Writer.m
		failed[path] = m.step("invalidate", func() error { return m.invalidate(filepath.Dir(filepath.Dir(path)), path, suffixes[path]...) })
	}
	return failed
}
