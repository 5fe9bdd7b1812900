package batch

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What io_uring_setup(2), io_uring_enter(2) and io_uring_register(2) define; x/sys has the numbers of the calls only.
const (
	opFsync         = 3
	opSyncFileRange = 8
	opFallocate     = 17
	opOpenat        = 18
	opClose         = 19
	opStatx         = 21
	opRead          = 22
	opWrite         = 23
	opFadvise       = 24
	opRenameat      = 35
	opUnlinkat      = 36
	opMkdirat       = 37
	opLinkat        = 39
	opFsetxattr     = 41
	opFtruncate     = 55

	setupClamp        = 1 << 4
	setupCoopTaskrun  = 1 << 8  // 5.19
	setupSingleIssuer = 1 << 12 // 6.0
	setupDeferTaskrun = 1 << 13 // 6.1

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featExtArg     = 1 << 8
	featMinTimeout = 1 << 15 // 6.12

	offSQRing = 0
	offSQEs   = 0x10000000

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	sqeFixedFile = 1 << 0
	sqeLink      = 1 << 2

	registerFiles      = 2
	registerProbe      = 8
	registerMaxWorkers = 19

	fsyncDataOnly = 1
)

// sqe is a submission.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	opFlags  uint32
	userData uint64
	buf      uint16
	person   uint16
	file     uint32 // of a descriptor of the ring's own, one more than its index
	addr3    uint64
	_        uint64
}

// cqe is a completion.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq                                                                 struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// ring is an io_uring as the kernel has it, for one thread. All its memory is mapped, so that it stays where it is.
type ring struct {
	fd       int
	features uint32

	rings, sqeMem, waitMem []byte

	sqes   []sqe
	sqHead *uint32 // the kernel's
	sqTail *uint32
	sqMask uint32
	tail   uint32 // ours: behind the last that is filled in

	cqes   []cqe
	cqHead *uint32
	cqTail *uint32 // the kernel's
	cqMask uint32

	wait *waitArg

	enters atomic.Int64 // how often io_uring_enter was called
}

// waitArg says how long a call may wait.
type waitArg struct {
	arg struct {
		sigmask     uint64
		sigmaskSize uint32
		minWait     uint32 // microseconds
		ts          uint64
	}
	ts unix.Timespec
}

// newRing makes a ring of so many submissions, a power of two, with twice as many completions.
func newRing(entries uint32) (*ring, error) {
	var p ringParams
	var fd uintptr
	for _, flags := range []uint32{setupSingleIssuer | setupDeferTaskrun, setupCoopTaskrun, 0} {
		p = ringParams{flags: flags | setupClamp}
		var errno unix.Errno
		fd, _, errno = unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
		if errno == unix.EINVAL && flags != 0 {
			continue // the kernel does not know the flags
		}
		if errno != 0 {
			return nil, fmt.Errorf("io_uring_setup: %w", errno)
		}
		break
	}
	r := &ring{fd: int(fd), features: p.features}
	if need := uint32(featSingleMmap | featNoDrop | featExtArg); p.features&need != need {
		r.close()
		return nil, fmt.Errorf("the kernel's io_uring has the features %#x, and %#x are needed", p.features, need)
	}
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{}))))
	var err error
	if r.rings, err = unix.Mmap(r.fd, offSQRing, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("cannot map the rings: %w", err)
	}
	if r.sqeMem, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("cannot map the submissions: %w", err)
	}
	if r.waitMem, err = anonymous(int(unsafe.Sizeof(waitArg{}))); err != nil {
		r.close()
		return nil, err
	}
	r.wait = (*waitArg)(unsafe.Pointer(&r.waitMem[0]))
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.sqMask = at(p.sq.head), at(p.sq.tail), *at(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.rings[p.cq.cqes])), p.cqEntries)
	array := unsafe.Slice(at(p.sq.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i) // submissions are made in the order in which they lie
	}
	r.tail = *r.sqTail
	return r, nil
}

func (r *ring) close() {
	_ = unix.Close(r.fd)
	for _, b := range [][]byte{r.sqeMem, r.rings, r.waitMem} {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
}

// anonymous maps memory that neither moves nor is collected.
func anonymous(size int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes: %w", size, err)
	}
	return b, nil
}

// room is how many submissions can be filled in.
func (r *ring) room() int { return len(r.sqes) - int(r.tail-atomic.LoadUint32(r.sqHead)) }

// next is a submission to be filled in; there must be room.
func (r *ring) next() *sqe {
	s := &r.sqes[r.tail&r.sqMask]
	*s = sqe{}
	r.tail++
	return s
}

// enter gives the kernel what was filled in and waits for so many completions, or, when d is over, for one.
func (r *ring) enter(want int, d time.Duration) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	patient := r.features&featMinTimeout != 0
	for {
		submit := r.tail - atomic.LoadUint32(r.sqHead)
		flags, arg, size := uintptr(enterGetEvents), unsafe.Pointer(nil), uintptr(0)
		if want > 1 {
			r.wait.arg.minWait, r.wait.arg.ts = uint32(d.Microseconds()), 0
			if !patient {
				r.wait.ts = unix.NsecToTimespec(int64(d))
				r.wait.arg.minWait, r.wait.arg.ts = 0, uint64(uintptr(unsafe.Pointer(&r.wait.ts)))
			}
			flags, arg, size = flags|enterExtArg, unsafe.Pointer(&r.wait.arg), unsafe.Sizeof(r.wait.arg)
		}
		r.enters.Add(1)
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(want), flags, uintptr(arg), size)
		switch errno {
		case unix.ETIME:
			want = 1
			if *r.cqHead != atomic.LoadUint32(r.cqTail) {
				return nil
			}
		case 0, unix.EBUSY, unix.EAGAIN: // the latter two: completions are to be read first
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
}

// reap gives every completion that is there to f.
func (r *ring) reap(f func(cqe)) (n int) {
	head := *r.cqHead
	for ; head != atomic.LoadUint32(r.cqTail); head++ {
		f(r.cqes[head&r.cqMask])
		atomic.StoreUint32(r.cqHead, head+1)
		n++
	}
	return n
}

func (r *ring) register(what int, arg unsafe.Pointer, n int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), uintptr(what), uintptr(arg), uintptr(n), 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_register %d: %w", what, errno)
	}
	return nil
}

// supports tells which operations the kernel knows.
func (r *ring) supports() (func(op uint8) bool, error) {
	type probeOp struct {
		op, _ uint8
		flags uint16
		_     uint32
	}
	var probe struct {
		lastOp, ops uint8
		_           uint16
		_           [3]uint32
		op          [256]probeOp
	}
	if err := r.register(registerProbe, unsafe.Pointer(&probe), len(probe.op)); err != nil {
		return nil, err
	}
	return func(op uint8) bool { return op < probe.ops && probe.op[op].flags&1 != 0 }, nil
}
