package differential

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imping/lab/real"
	"imping/lab/scenario"
)

// leaf is a file or folder that is to be.
type leaf struct {
	dir      bool
	body     []byte
	raw      []byte // the pickle of its metadata; nil: it has none
	checksum string // instead of the right one
	written  time.Time
}

// draft is what the devices are to hold: by device, and by name under it. A device that is
// nil is not mounted.
type draft map[string]map[string]*leaf

// settle removes files in place of folders that later steps laid something into.
func (d draft) settle() {
	for _, leaves := range d {
		for name := range leaves {
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				if l := leaves[dir]; l != nil && !l.dir {
					delete(leaves, dir)
				}
			}
		}
	}
}

// write makes the devices what the draft says.
func (d draft) write(c *real.Cluster) error {
	for dev, leaves := range d {
		root := c.DevicePath(dev)
		if err := os.RemoveAll(root); err != nil {
			return err
		}
		if leaves == nil {
			continue
		}
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		for name, l := range leaves {
			if err := l.write(filepath.Join(root, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *leaf) write(to string) error {
	if l.dir {
		return os.MkdirAll(to, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, l.body, 0o755); err != nil { // as Swift's files are
		return err
	}
	if l.raw != nil {
		if err := scenario.SetMetadata(to, l.raw); err != nil {
			return err
		}
	}
	if l.checksum != "" {
		if err := unix.Setxattr(to, "user.swift.metadata_checksum", []byte(l.checksum), 0); err != nil {
			return err
		}
	}
	if l.written.IsZero() {
		return nil
	}
	return os.Chtimes(to, l.written, l.written)
}

// node is a file or folder that is there.
type node struct {
	Dir bool
	scenario.File
}

func (n node) equal(o node) bool {
	return n.Dir == o.Dir && n.Size == o.Size && n.SHA256 == o.SHA256 && n.Mode == o.Mode &&
		maps.Equal(n.Metadata, o.Metadata) && (n.Problem == "") == (o.Problem == "")
}

func without(m scenario.Metadata, key string) scenario.Metadata {
	m = maps.Clone(m)
	delete(m, key)
	return m
}

// describe is briefer where it is only said that there is something.
func (n node) describe(brief bool) string {
	switch {
	case n.Dir:
		return "a folder"
	case brief:
		return fmt.Sprintf("%d bytes, SHA-256 %.12s", n.Size, n.SHA256)
	case n.Problem != "":
		return fmt.Sprintf("%d bytes, SHA-256 %.12s, metadata: %s", n.Size, n.SHA256, n.Problem)
	}
	words := []string{fmt.Sprintf("%d bytes, SHA-256 %.12s, mode %o", n.Size, n.SHA256, n.Mode)}
	for _, k := range slices.Sorted(maps.Keys(n.Metadata)) {
		words = append(words, fmt.Sprintf("%s: %q", k, n.Metadata[k]))
	}
	return strings.Join(words, ", ")
}

// tree is what the devices hold, by device/name. What is of this process's making only (locks,
// hashes, which are compared by what they say) is not part of it.
type tree map[string]node

// readTree reads all devices.
func readTree(c *real.Cluster) (tree, error) {
	t := tree{}
	for _, n := range c.Nodes() {
		for _, dev := range c.Devices(n) {
			root := c.DevicePath(dev)
			err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
				if err != nil {
					if p == root && errors.Is(err, fs.ErrNotExist) {
						return nil
					}
					return err
				}
				name, err := filepath.Rel(root, p)
				if err != nil {
					return err
				}
				at := dev
				if name != "." {
					at = dev + "/" + name
				}
				if e.IsDir() {
					if !strings.Contains(name, "/") && strings.HasPrefix(name, "tmp") {
						return nil // made when it is needed, and stays
					}
					t[at] = node{Dir: true, File: scenario.File{Mode: 0o755}}
					return nil
				}
				if base := path.Base(name); base == "hashes.pkl" || base == "hashes.invalid" || strings.HasPrefix(base, ".lock") {
					return nil
				}
				f, err := scenario.ReadFile(p)
				t[at] = node{File: f}
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// difference is something that two trees do not have alike.
type difference struct {
	name        string // device/name
	stock, ours *node  // nil: it is not there
}

func (d difference) String() string {
	say := func(n *node) string {
		if n == nil {
			return "nothing"
		}
		return n.describe(d.stock == nil || d.ours == nil || n.Dir)
	}
	if d.stock != nil && d.ours != nil && !d.stock.Dir && !d.ours.Dir {
		for k, v := range d.stock.Metadata { // what is alike tells nothing
			if d.ours.Metadata[k] == v {
				d.stock.Metadata, d.ours.Metadata = without(d.stock.Metadata, k), without(d.ours.Metadata, k)
			}
		}
	}
	return fmt.Sprintf("%s:\n    stock  %s\n    imping %s", d.name, say(d.stock), say(d.ours))
}

// compare lists what differs, by name.
func compare(stock, ours tree) []difference {
	names := maps.Clone(stock)
	maps.Copy(names, ours)
	var list []difference
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s, inStock := stock[name]
		o, inOurs := ours[name]
		d := difference{name: name}
		if inStock {
			d.stock = &s
		}
		if inOurs {
			d.ours = &o
		}
		if !inStock || !inOurs || !s.equal(o) {
			list = append(list, d)
		}
	}
	return list
}
