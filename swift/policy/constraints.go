package policy

import (
	"fmt"

	"imping/swift/conf"
)

// Constraints are the limits of what clients may send.
// Swift: common/constraints.py, DEFAULT_CONSTRAINTS.
type Constraints struct {
	MaxFileSize         int64 // bytes of an object
	MaxMetaNameLength   int   // bytes of the name of a user's metadata, without its prefix
	MaxMetaValueLength  int
	MaxMetaCount        int
	MaxMetaOverallSize  int // bytes of all names and values of a user's metadata
	MaxHeaderSize       int // bytes of any header's value
	MaxObjectNameLength int // characters
}

// DefaultConstraints are those of Swift.
func DefaultConstraints() Constraints {
	return Constraints{
		MaxFileSize: 5368709122, MaxMetaNameLength: 128, MaxMetaValueLength: 256, MaxMetaCount: 90,
		MaxMetaOverallSize: 4096, MaxHeaderSize: 8192, MaxObjectNameLength: 1024,
	}
}

// loadConstraints reads the section [swift-constraints], which may be missing.
// Swift: common/constraints.py, reload_constraints.
func (s *Swift) loadConstraints() error {
	s.Constraints = DefaultConstraints()
	ini, err := conf.ReadINI(s.Path, conf.Hash)
	if err != nil {
		return fmt.Errorf("cannot read swift.conf: %w", err)
	}
	if !ini.HasSection("swift-constraints") {
		return nil
	}
	c := &s.Constraints
	size := int(c.MaxFileSize)
	for option, n := range map[string]*int{
		"max_file_size": &size, "max_meta_name_length": &c.MaxMetaNameLength, "max_meta_value_length": &c.MaxMetaValueLength,
		"max_meta_count": &c.MaxMetaCount, "max_meta_overall_size": &c.MaxMetaOverallSize, "max_header_size": &c.MaxHeaderSize,
		"max_object_name_length": &c.MaxObjectNameLength,
	} {
		value, ok, err := ini.Get("swift-constraints", option)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", s.Path, err)
		}
		if !ok {
			continue
		}
		if *n, ok = conf.ParseInt(value); !ok {
			return fmt.Errorf("%s: [swift-constraints] %s is %.40q, and must be a whole number", s.Path, option, value)
		}
	}
	c.MaxFileSize = int64(size)
	return nil
}
