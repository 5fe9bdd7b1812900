package rescue

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// writeBuffer gathers small fragments: fewer calls of the system, and no more memory than a segment.
const writeBuffer = 1 << 20

// File is a file that gets its name only when all of it is on the disk. Write, then Publish; Abort in any case.
type File struct {
	path string
	tmp  *os.File // nil once it has its name, or is given up
	w    *bufio.Writer
}

// Create begins a file. What has its name stays as it is until Publish; what is no regular file, a device for instance, is not replaced.
func Create(path string) (*File, error) {
	dir, base := filepath.Split(path)
	if base == "" {
		return nil, fmt.Errorf("%q is not the name of a file", path)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file, which is not replaced", path)
	}
	for {
		// Not os.CreateTemp: the file is to have the mode that the umask gives.
		name := filepath.Join(dir, fmt.Sprintf(".%s.%08x.tmp", base, rand.Uint32()))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &File{path: path, tmp: f, w: bufio.NewWriterSize(f, writeBuffer)}, nil
	}
}

// restart forgets what was written.
func (s *File) restart() error {
	s.w.Reset(s.tmp)
	if err := s.tmp.Truncate(0); err != nil {
		return err
	}
	_, err := s.tmp.Seek(0, 0)
	return err
}

// Write goes through a buffer.
func (s *File) Write(b []byte) (int, error) { return s.w.Write(b) }

// Abort removes the file, unless it has its name.
func (s *File) Abort() {
	if s.tmp != nil {
		s.tmp.Close()
		os.Remove(s.tmp.Name())
		s.tmp = nil
	}
}

// Publish brings all files to the disk, and only then gives them their names: all of them, or none.
func Publish(sinks ...*File) error {
	for _, s := range sinks {
		if err := s.w.Flush(); err != nil {
			return err
		}
		if err := s.tmp.Sync(); err != nil {
			return err
		}
	}
	err := func() error {
		dirs := map[string]bool{}
		for _, s := range sinks {
			if err := s.tmp.Close(); err != nil {
				return err
			}
			if err := os.Rename(s.tmp.Name(), s.path); err != nil {
				return err
			}
			s.tmp = nil
			dirs[filepath.Dir(s.path)] = true
		}
		for dir := range dirs {
			d, err := os.Open(dir)
			if err != nil {
				return err
			}
			if err := errors.Join(d.Sync(), d.Close()); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		for _, s := range sinks {
			if s.tmp == nil {
				os.Remove(s.path)
			}
		}
	}
	return err
}
