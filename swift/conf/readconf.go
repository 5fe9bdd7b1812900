package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Read reads a daemon's section as Swift's daemons do: option names are lower-cased, the
// section's options win over [DEFAULT], %(name)s is replaced, a bare "1%" stays, a section
// or option given twice in one file is an error. path may be a folder, of which the files
// *.conf that are not hidden are read in the order of their names, the later over the
// earlier. A file that can not be opened or a section that is not there is an error. The
// option log_name is the section's name when absent. Swift: common/utils.py, readconf.
func Read(path, section string) (*Section, error) {
	f, err := ReadAll(path)
	if err != nil {
		return nil, err
	}
	if !f.HasSection(section) {
		//lint:ignore ST1005 Swift prints these words
		return nil, fmt.Errorf("Unable to find %s config section in %s", section, path)
	}
	items, err := f.Items(section)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	s := newSection(section, path, items)
	if !s.Has("log_name") {
		s.put("log_name", section)
	}
	return s, nil
}

// ReadAll reads a file, or the files of a folder one over the other as Read does, with all
// their sections.
func ReadAll(path string) (*INI, error) {
	f := NewINI(Readconf)
	read, err := readAll(f, path)
	if err == nil && read == nil {
		//lint:ignore ST1005 Swift prints these words
		err = fmt.Errorf("Unable to read config from %s", path)
	}
	return f, err
}

// readAll parses a file, or the files of a folder, and returns the names of those that
// could be opened; the others are passed over, as Python's ConfigParser.read does.
func readAll(f *INI, path string) ([]string, error) {
	names := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if names, err = confFiles(path); err != nil {
			return nil, err
		}
	}
	var read []string
	for _, name := range names {
		data, err := readFile(name)
		if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := f.Parse(name, data); err != nil {
			return nil, err
		}
		read = append(read, name)
	}
	return read, nil
}

// confFiles lists a folder's conf files. Swift: common/utils.py, read_conf_dir.
func confFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the conf files: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// readFile reads a conf file of bounded size. A *fs.PathError says that the system did
// not give it.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes, too many for a conf file", name, maxFile)
	}
	return data, nil
}

// ReadINI reads one file in a dialect. Unlike Read it opens no folder, and an error of the
// system is returned as it is.
func ReadINI(path string, d Dialect) (*INI, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	f := NewINI(d)
	return f, f.Parse(path, data)
}
