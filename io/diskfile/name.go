package diskfile

import (
	"errors"
	"fmt"
	"math"
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
	index   int                 // fragment index of .data, else -1
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
			return nil, errors.New("no fragment index")
		}
		if f.index, err = parseIndex(parts[1]); err != nil {
			return nil, fmt.Errorf("bad fragment index: %w", err)
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

// splitExt is Python's os.path.splitext of a name without slashes: leading dots start no
// extension.
func splitExt(name string) (stem, ext string) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || strings.Trim(name[:dot], ".") == "" {
		return name, ""
	}
	return name[:dot], name[dot:]
}

// parseIndex reads a whole number as Python's int() does: signs, spaces around and single
// underscores between digits are fine.
func parseIndex(s string) (int, error) {
	t := strings.Trim(s, " \t\n\v\f\r")
	neg := strings.HasPrefix(t, "-")
	if neg || strings.HasPrefix(t, "+") {
		t = t[1:]
	}
	n, digit := 0, false
	for i := range len(t) {
		c := t[i]
		if c == '_' && digit && i+1 < len(t) {
			digit = false
			continue
		}
		if c < '0' || c > '9' || n > math.MaxInt/10-10 {
			return 0, errors.New(strconv.Quote(s))
		}
		n, digit = n*10+int(c-'0'), true
	}
	if !digit || neg && n > 0 {
		return 0, errors.New(strconv.Quote(s))
	}
	return n, nil
}
