package diskfile

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"imping/swift/timestamp"
)

// file is what the name of a file in an object directory says.
type file struct {
	name    string
	time    timestamp.Timestamp
	ext     string              // with its dot, "" if none
	ctype   timestamp.Timestamp // of a .meta file with a content type, else zero
	index   int                 // fragment index of .data, else (and where the policy is replicated) -1
	durable bool                // a fragment whose name or whose set is durable
}

// rsyncTemporary matches the names under which rsync receives a file.
var rsyncTemporary = regexp.MustCompile(`^\..*\.([a-zA-Z0-9_]){6}$`)

// parseName reads a file name: TIME#INDEX.data, TIME#INDEX#d.data, TIME[+-DELTA].meta,
// TIME.ts, TIME.durable and any other TIME[.EXT]. Indexes from limit on are refused; a
// limit of 0 allows all. Swift: ECDiskFileManager.parse_on_disk_filename.
func parseName(name string, limit int) (*file, error) {
	stem, ext := splitExt(name)
	f := &file{name: name, ext: ext, index: -1}
	var err error
	switch ext {
	case ".data":
		parts := strings.Split(stem, "#")
		if f.time, err = timestamp.Parse(parts[0]); err != nil {
			return nil, fmt.Errorf("invalid Timestamp value in filename %q", name)
		}
		if len(parts) == 1 {
			return nil, errors.New("Bad fragment index: None") //lint:ignore ST1005 Swift's words
		}
		if f.index, err = parseIndex(parts[1]); err != nil {
			return nil, fmt.Errorf("Bad fragment index: %s", parts[1]) //lint:ignore ST1005 Swift's words
		}
		if limit > 0 && f.index >= limit {
			return nil, fmt.Errorf("fragment index must be less than %d: %s", limit, parts[1])
		}
		f.durable = len(parts) > 2 && parts[2] == "d"
	case ".meta":
		f.time, f.ctype, _, err = timestamp.DecodePair(stem)
	default:
		f.time, err = timestamp.Parse(stem)
	}
	if err != nil {
		return nil, fmt.Errorf("invalid Timestamp value in filename %q", name)
	}
	return f, nil
}

// parseReplicated reads the name of a file of a replicated object, which has no index:
// TIME.data and otherwise as parseName. Swift: BaseDiskFileManager.parse_on_disk_filename.
func parseReplicated(name string) (*file, error) {
	stem, ext := splitExt(name)
	if ext != ".data" {
		return parseName(name, 0)
	}
	at, err := timestamp.Parse(stem)
	if err != nil {
		return nil, fmt.Errorf("invalid Timestamp value in filename %q", name)
	}
	return &file{name: name, time: at, ext: ext, index: -1}, nil
}

// splitExt is Python's os.path.splitext of a name without slashes: leading dots start no
// extension.
func splitExt(name string) (stem, ext string) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || strings.Trim(name[:dot], ".") == "" {
		return name, ""
	}
	return name[:dot], name[dot:]
}

// format is the name that Swift gives to such a file; of a content type's offset it keeps
// none. Swift: BaseDiskFileManager.make_on_disk_filename and ECDiskFileManager's.
func (f *file) format() string {
	switch {
	case f.ext == ".meta" && !f.ctype.IsZero():
		return timestamp.EncodePair(f.time, f.ctype) + f.ext
	case f.ext == ".data" && f.index >= 0 && f.durable:
		return f.time.Internal() + "#" + strconv.Itoa(f.index) + "#d" + f.ext
	case f.ext == ".data" && f.index >= 0:
		return f.time.Internal() + "#" + strconv.Itoa(f.index) + f.ext
	}
	return f.time.Internal() + f.ext
}

// parseIndex reads a fragment index, with all that Python's int() takes for a number.
func parseIndex(s string) (int, error) {
	digits, negative, ok := wholeNumber(s)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || negative && n > 0 {
		return 0, errors.New(strconv.Quote(s))
	}
	return n, nil
}

// wholeNumber takes a number apart as Python's int() does: a sign, spaces around and single
// underscores between digits are fine. The digits come without underscores and leading
// zeros.
func wholeNumber(s string) (digits string, negative, ok bool) {
	t := strings.Trim(s, " \t\n\v\f\r")
	negative = strings.HasPrefix(t, "-")
	if negative || strings.HasPrefix(t, "+") {
		t = t[1:]
	}
	digit := false
	for i := range len(t) {
		switch c := t[i]; {
		case c == '_' && digit:
			digit = false
		case c >= '0' && c <= '9':
			digit = true
		default:
			return "", false, false
		}
	}
	if !digit {
		return "", false, false
	}
	if digits = strings.TrimLeft(strings.ReplaceAll(t, "_", ""), "0"); digits == "" {
		digits = "0"
	}
	return digits, negative, true
}
