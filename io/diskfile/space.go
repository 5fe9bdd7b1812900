package diskfile

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/io/batch"
)

// NoSpaceError tells that a device has no room for a file: no blocks, no inodes, the
// quota or the reserve is reached, or the metadata does not fit (ext4 holds less than
// 4 KiB of it).
type NoSpaceError struct {
	Path string
	Err  error
}

func (e *NoSpaceError) Error() string { return fmt.Sprintf("no space left for %s: %v", e.Path, e.Err) }

func (e *NoSpaceError) Unwrap() error { return e.Err }

// noSpace makes a *NoSpaceError of the errors by which a file system tells that it is full,
// and wraps others in what could not be done.
func noSpace(err error, path, format string, args ...any) error {
	if _, ok := errors.AsType[*NoSpaceError](err); ok || err == nil {
		return err
	}
	err = fmt.Errorf(format+": %w", append(args, err)...)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &NoSpaceError{Path: path, Err: err}
	}
	return err
}

// Reserve is how much of a device must stay free; the zero value reserves nothing.
type Reserve struct {
	Value   float64 // bytes, or percent of the device
	Percent bool
}

// ParseReserve reads the option fallocate_reserve: a number of bytes, or "1%".
// Swift: common/utils, config_fallocate_value.
func ParseReserve(s string) (Reserve, error) {
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(percent), 64)
		if err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			return Reserve{Value: v, Percent: true}, nil
		}
	} else if v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
		return Reserve{Value: float64(v)}, nil
	}
	return Reserve{}, fmt.Errorf("%.40q is no value for fallocate_reserve: neither a number of bytes nor a percentage", s)
}

// check refuses size more bytes on a device that holds free of total bytes.
func (r Reserve) check(free, total, size float64) error {
	left, unit := free-size, "bytes"
	if r.Percent {
		left, unit = left/total*100, "%"
	}
	if r.Value != 0 && left <= r.Value {
		return fmt.Errorf("%g %s would be left free, and fallocate_reserve is %g", left, unit, r.Value)
	}
	return nil
}

// allocate makes room for so many bytes; an unknown size (negative) is only held
// against the reserve, and so is what shall stay unallocated. A file system that can not allocate is none the worse.
// Swift: common/utils, fallocate; master's fs_has_free_space.
func (t *temporary) allocate(size int64, unallocated bool) error {
	if t.m.noFallocate {
		return nil
	}
	if reserve := t.m.reserve; reserve.Value != 0 {
		var st unix.Statfs_t
		if err := unix.Fstatfs(t.fd, &st); err != nil {
			return fmt.Errorf("cannot tell the free space for %s: %w", t.dir, err)
		}
		unit := float64(st.Frsize)
		if unit == 0 {
			unit = float64(st.Bsize)
		}
		if err := reserve.check(unit*float64(st.Bavail), unit*float64(st.Blocks), float64(max(size, 0))); err != nil {
			return &NoSpaceError{Path: t.dir, Err: err}
		}
	}
	if size <= 0 || unallocated {
		return nil
	}
	switch err := t.do(&batch.Op{Kind: batch.Allocate, File: t.fd, Flags: unix.FALLOC_FL_KEEP_SIZE, Size: size}); err {
	case nil, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL:
		return nil
	default:
		return noSpace(err, t.dir, "cannot allocate %d bytes for %s", size, t.dir)
	}
}
