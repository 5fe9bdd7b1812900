package batch

import (
	"context"
	"io"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// plain does operations one system call each.
type plain struct {
	helpers chan struct{} // one for each goroutine that does the chains of others
}

// newPlain is an engine that has at most width goroutines of its own at a time. A chain that is alone is done in its caller's.
func newPlain(width int) *plain { return &plain{helpers: make(chan struct{}, width)} }

func (p *plain) Name() string { return "plain" }

func (p *plain) Close() {}

func (p *plain) Do(ctx context.Context, ops []Op) error {
	if err := check(ops); err != nil {
		return err
	}
	var others sync.WaitGroup
	for from := 0; from < len(ops); {
		chain := ops[from:chainEnd(ops, from)]
		from += len(chain)
		if from < len(ops) {
			select {
			case p.helpers <- struct{}{}:
				others.Go(func() {
					doChain(ctx, chain)
					<-p.helpers
				})
				continue
			default: // as many as there may be are at work: so is the caller
			}
		}
		doChain(ctx, chain)
	}
	others.Wait()
	return first(ops)
}

func doChain(ctx context.Context, ops []Op) {
	fd := Opened
	for i := range ops {
		op := &ops[i]
		if ctx.Err() != nil {
			cut(ops[i:], context.Cause(ctx))
			return
		}
		if op.Kind.usesFile() && op.File == Opened {
			op.File = fd
		}
		if op.Err = call(op); op.Err != nil {
			cut(ops[i+1:], ErrCut)
			return
		}
		if op.Kind == Open {
			fd = op.File
		}
	}
}

// call does one operation.
func call(op *Op) error {
	for {
		err := callOnce(op)
		if err != unix.EINTR || op.Kind == Close { // a descriptor is closed for all that
			return err
		}
	}
}

func callOnce(op *Op) (err error) {
	op.N = 0
	switch op.Kind {
	case Open:
		op.File, err = unix.Open(op.Name, op.Flags|unix.O_CLOEXEC, op.Mode)
		return err
	case Allocate:
		return unix.Fallocate(op.File, uint32(op.Flags), op.Off, op.Size)
	case Write:
		if op.N, err = unix.Pwrite(op.File, op.Buf, op.Off); err != nil {
			op.N = 0
		} else if op.N < len(op.Buf) {
			return io.ErrShortWrite
		}
		return err
	case Truncate:
		return unix.Ftruncate(op.File, op.Size)
	case SetXattr:
		return unix.Fsetxattr(op.File, op.Name, op.Buf, op.Flags)
	case Sync:
		return unix.Fsync(op.File)
	case SyncData:
		return unix.Fdatasync(op.File)
	case WriteOut:
		return unix.SyncFileRange(op.File, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	case DropCache:
		return unix.Fadvise(op.File, op.Off, op.Size, unix.FADV_DONTNEED)
	case Close:
		if err := unix.Close(op.File); err != unix.EINTR {
			return err
		}
		return nil
	case Link:
		return unix.Linkat(unix.AT_FDCWD, descriptorPath(op.File), unix.AT_FDCWD, op.To, unix.AT_SYMLINK_FOLLOW)
	case Rename:
		if op.Flags == 0 {
			return unix.Rename(op.Name, op.To)
		}
		return unix.Renameat2(unix.AT_FDCWD, op.Name, unix.AT_FDCWD, op.To, uint(op.Flags))
	case HardLink:
		return unix.Link(op.Name, op.To)
	case Unlink:
		return unix.Unlink(op.Name)
	case Mkdir:
		return unix.Mkdir(op.Name, op.Mode)
	case Rmdir:
		return unix.Rmdir(op.Name)
	case Stat:
		return unix.Statx(unix.AT_FDCWD, op.Name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, op.Stat)
	default: // SyncDir
		fd, err := unix.Open(op.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fsync(fd)
	}
}

// descriptorPath is a name by which an open file can be linked without privileges.
func descriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
