package daemon

import (
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// wantedFiles is how many open files swift-init allows its servers (common/manager.py,
// MAX_DESCRIPTORS). A process started otherwise gets as many, where it may.
const wantedFiles = 32768

// RaiseLimits raises what swift-init limits, as far as the process may: memory
// (RLIMIT_DATA, 2 GiB, which Go's heap and the slabs count against), open files and
// processes. Where memory stays limited, the heap is told to keep to half of it, so that
// the collector works harder instead of the process dying; the rest is for slabs, stacks
// and what the collector is late with.
func RaiseLimits() {
	raise(unix.RLIMIT_DATA, unix.RLIM_INFINITY)
	raise(unix.RLIMIT_NOFILE, wantedFiles)
	raise(unix.RLIMIT_NPROC, 0)
	if limit, limited := DataLimit(); limited && debug.SetMemoryLimit(-1) > int64(limit/2) {
		debug.SetMemoryLimit(int64(limit / 2))
	}
}

// DataLimit returns how many bytes of memory the process may have (RLIMIT_DATA), and
// whether there is a limit at all.
func DataLimit() (bytes uint64, limited bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		return 0, false
	}
	return limit.Cur, limit.Cur != unix.RLIM_INFINITY
}

// raise sets both limits to wanted where they are lower and the process may, else the soft
// one to the hard one.
func raise(resource int, wanted uint64) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return
	}
	if limit.Max < wanted && unix.Setrlimit(resource, &unix.Rlimit{Cur: wanted, Max: wanted}) == nil {
		return
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(resource, &limit) // allowed to all
	}
}
