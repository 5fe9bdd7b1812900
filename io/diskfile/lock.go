package diskfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hashesLockTimeout is how long Swift waits for the lock around hashes.pkl and
// hashes.invalid. Swift: common/utils, DEFAULT_LOCK_TIMEOUT.
const hashesLockTimeout = 10 * time.Second

// lockPoll is the pause between two tries for a lock; after a hundredth of the timeout
// the pause is a hundredth of it, as in Swift, so that waiters cost nothing.
const lockPoll = 10 * time.Millisecond

// LockTimeoutError tells that another process or goroutine kept a lock for too long.
type LockTimeoutError struct {
	Path string // of the lock file
	Wait time.Duration
}

func (e *LockTimeoutError) Error() string {
	return fmt.Sprintf("cannot lock %s within %v", e.Path, e.Wait)
}

// Timeout makes it a timeout in the sense of net.Error.
func (e *LockTimeoutError) Timeout() bool { return true }

// Lock is a lock that is held; it excludes Swift's programs and the other goroutines of
// this one.
type Lock struct {
	Path string // of the lock file
	fd   int
	once sync.Once
}

// Unlock gives the lock back. It is idempotent. The lock file stays.
func (l *Lock) Unlock() { l.once.Do(func() { unix.Close(l.fd) }) }

// LockPartition takes a lock of a partition, waiting timeout at most: name is "" for the
// lock of the partition's content (.lock) or "replication" (.lock-replication). Whoever
// takes both takes "replication" first. A missing partition is made. Errors:
// *LockTimeoutError, *NotMountedError, ctx's. Swift: BaseDiskFileManager.partition_lock.
func (m *Manager) LockPartition(ctx context.Context, dev string, part int, name string, timeout time.Duration) (*Lock, error) {
	m.watch.Begin()
	defer m.watch.End()
	top, err := m.DevicePath(dev)
	if err != nil {
		return nil, err
	}
	return m.lockDir(ctx, top, m.PartitionPath(dev, part), name, timeout)
}

// lockDir takes the lock of that name in dir, which is made below top if it is missing;
// with an empty top it must exist. Swift: common/utils, lock_path.
func (m *Manager) lockDir(ctx context.Context, top, dir, name string, timeout time.Duration) (*Lock, error) {
	path := filepath.Join(dir, ".lock")
	if name != "" {
		path += "-" + name
	}
	start := time.Now()
	pause := lockPoll
	for {
		fd, err := openFD(path, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o777)
		if errors.Is(err, fs.ErrNotExist) && top != "" && time.Since(start) <= timeout {
			if _, err := makeDirs(top, dir); err != nil {
				return nil, fmt.Errorf("cannot make the folder of lock %s: %w", path, err)
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot open lock: %w", err)
		}
		for {
			m.watch.Step()
			err = flock(fd)
			if err != unix.EWOULDBLOCK {
				break
			}
			waited := time.Since(start)
			if waited >= timeout {
				unix.Close(fd)
				return nil, &LockTimeoutError{path, timeout}
			}
			if waited > timeout/100 {
				pause = max(timeout/100, lockPoll)
			}
			if err := sleep(ctx, min(pause, timeout-waited)); err != nil {
				unix.Close(fd)
				return nil, fmt.Errorf("cannot lock %s: %w", path, err)
			}
		}
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		// Whoever empties a partition unlinks its lock files (rule 19): a lock on an unlinked
		// file excludes no one.
		if sameFile(fd, path) {
			return &Lock{Path: path, fd: fd}, nil
		}
		unix.Close(fd)
	}
}

func flock(fd int) error {
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			return err
		}
	}
}

func sameFile(fd int, path string) bool {
	var held, named unix.Stat_t
	for {
		err := unix.Fstat(fd, &held)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return false
		}
	}
	return stat(path, &named) == nil && held.Dev == named.Dev && held.Ino == named.Ino
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
