package batch

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// depth is how many submissions are on their way in the kernel at most. More only wait there, for workers or the disk.
	depth = 256

	// patience is how long completions are collected where three chains in four have not come to an end: at a depth of 32, files of
	// 64 KiB on ext4 cost 0.15 calls of io_uring_enter each then, 0.2 with 4 ms, 0.3 with 2 ms and 0.7 with half of one.
	patience = 10 * time.Millisecond

	// directories is how many of them are synced at the same time: each has a descriptor of the ring's own.
	directories = 32
)

// uring does operations by one io_uring. Its thread alone speaks to the kernel: it submits what all callers have brought meanwhile with one
// system call, which returns what was completed.
type uring struct {
	mu     sync.Mutex
	queue  []*chain // brought, and not seen by the thread yet
	asleep bool     // the thread waits in the kernel, or is about to
	closed bool
	event  int // an eventfd that wakes it

	ended chan struct{}
	thread
}

// thread is what only the ring's thread uses.
type thread struct {
	*ring
	ready    []*chain
	other    []*chain // takes turns with the queue
	slots    []slot   // of submissions in the kernel, by userData
	free     []int
	fds      []int // of the ring's own that are free
	arena    []byte
	inFlight int // submissions
	segments int // of chains that they are
	woken    [8]byte
	truncate bool // the kernel knows it
}

// slot is a submission in the kernel.
type slot struct {
	c    *chain
	op   int
	part int // of a SyncDir: 0 open, 1 fsync, 2 close
	dir  int // and the ring's descriptor of it
}

// chain is a chain on its way.
type chain struct {
	req  *request
	ops  []Op
	next int // the first that was not submitted
	left int // submissions in the kernel
	fd   int // what its Open has opened
	bad  bool
	// aside is set while a goroutine does what the kernel's io_uring does not know.
	aside bool
}

// request is a call of Do.
type request struct {
	ctx    context.Context
	chains []chain
	left   atomic.Int32
	done   chan struct{}
}

// newURing makes the engine, with so many kernel threads at most; old has it use no more than kernel 6.1 knows. An error means
// that this machine, or this process, does without.
func newURing(workers uint32, old bool) (*uring, error) {
	u := &uring{ended: make(chan struct{})}
	up := make(chan error)
	go func() {
		// The kernel's workers belong to a thread; this one ends with the goroutine, and they with it.
		runtime.LockOSThread()
		defer close(u.ended)
		err := u.setUp(workers, old)
		up <- err
		if err == nil {
			u.run()
		}
		u.tearDown()
	}()
	if err := <-up; err != nil {
		<-u.ended
		return nil, err
	}
	return u, nil
}

func (u *uring) setUp(workers uint32, old bool) (err error) {
	u.event = -1
	if u.ring, err = newRing(depth); err != nil {
		return err
	}
	knows, err := u.supports()
	if err != nil {
		return err
	}
	for _, op := range []uint8{opFsync, opSyncFileRange, opFallocate, opOpenat, opClose, opStatx, opRead, opWrite, opFadvise, opRenameat, opUnlinkat, opMkdirat, opLinkat, opFsetxattr} {
		if !knows(op) {
			return fmt.Errorf("the kernel's io_uring does not know operation %d", op)
		}
	}
	u.truncate = knows(opFtruncate) && !old
	if old {
		u.features &^= featMinTimeout
	}
	limits := [2]uint32{workers, 0} // of work that ends by itself, and of other work, which is none of ours
	if err := u.register(registerMaxWorkers, unsafe.Pointer(&limits), len(limits)); err != nil {
		return err
	}
	none := make([]int32, directories)
	for i := range none {
		none[i] = -1
		u.fds = append(u.fds, i)
	}
	if err := u.register(registerFiles, unsafe.Pointer(&none[0]), len(none)); err != nil {
		return err
	}
	if u.arena, err = anonymous(depth * 2 * nameSize); err != nil {
		return err
	}
	if u.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	u.slots = make([]slot, depth+1) // the last is the eventfd's
	for i := range depth {
		u.free = append(u.free, i)
	}
	return nil
}

func (u *uring) tearDown() {
	if u.ring != nil {
		u.ring.close()
	}
	if u.event >= 0 {
		_ = unix.Close(u.event)
	}
	if u.arena != nil {
		_ = unix.Munmap(u.arena)
	}
}

func (u *uring) Name() string { return "uring" }

func (u *uring) Close() {
	u.mu.Lock()
	u.closed = true
	u.wake()
	u.mu.Unlock()
	<-u.ended
}

// wake makes the thread look at the queue. The lock is held.
func (u *uring) wake() {
	if u.asleep {
		u.asleep = false
		one := [8]byte{}
		binary.NativeEndian.PutUint64(one[:], 1)
		_, _ = unix.Write(u.event, one[:])
	}
}

func (u *uring) Do(ctx context.Context, ops []Op) error {
	if err := check(ops); err != nil {
		return err
	}
	if len(ops) == 0 {
		return nil
	}
	r := &request{ctx: ctx, done: make(chan struct{})}
	var one [1]chain
	r.chains = one[:0]
	for from := 0; from < len(ops); {
		end := chainEnd(ops, from)
		r.chains = append(r.chains, chain{req: r, ops: ops[from:end], fd: Opened})
		from = end
	}
	r.left.Store(int32(len(r.chains)))
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return shared.Do(ctx, ops)
	}
	for i := range r.chains {
		u.queue = append(u.queue, &r.chains[i])
	}
	u.wake()
	u.mu.Unlock()
	<-r.done
	return first(ops)
}

// finish tells the caller when its last chain is done.
func (c *chain) finish() {
	if c.req.left.Add(-1) == 0 {
		close(c.req.done)
	}
}

// run is the ring's thread.
func (u *uring) run() {
	u.listen()
	for {
		u.mu.Lock()
		brought := u.queue
		u.queue = u.other[:0]
		closed := u.closed
		u.mu.Unlock()
		for _, c := range brought {
			if c.aside {
				c.aside = false
				u.inFlight--
				u.settle(c)
			} else {
				u.ready = append(u.ready, c)
			}
		}
		clear(brought)
		u.other = brought
		u.submit()
		if closed && u.inFlight == 0 && len(u.ready) == 0 {
			return
		}
		u.mu.Lock()
		u.asleep = len(u.queue) == 0 && u.closed == closed
		asleep := u.asleep
		u.mu.Unlock()
		if !asleep {
			continue
		}
		err := u.enter(max(1, u.inFlight-u.segments/4), patience)
		u.mu.Lock()
		u.asleep = false
		u.mu.Unlock()
		if err != nil {
			panic("BUG: " + err.Error()) // only wrong arguments are left: retried for ever, callers would hang
		}
		u.reap(u.completed)
		u.submit()
		runtime.Gosched()
	}
}

// listen has the kernel say when the eventfd is written to.
func (u *uring) listen() {
	s := u.next()
	s.opcode, s.fd, s.userData = opRead, int32(u.event), depth
	s.addr, s.len = address(u.woken[:]), 8
}

// submit fills in as much of what is ready as there is room for.
func (u *uring) submit() {
	rest := u.ready[:0]
	for i, c := range u.ready {
		switch {
		case c.bad || c.next == len(c.ops):
			c.finish()
		case c.req.ctx.Err() != nil:
			cut(c.ops[c.next:], context.Cause(c.req.ctx))
			c.finish()
		case !u.segment(c):
			rest = append(rest, u.ready[i:]...)
			clear(u.ready[len(rest):])
			u.ready = rest
			return
		}
	}
	clear(u.ready[len(rest):])
	u.ready = rest
}

// segment submits the next operations of a chain: one, or several where it does not matter that the kernel goes on behind some
// failures. It is false when there is no room.
func (u *uring) segment(c *chain) bool {
	from, end := c.next, c.next+1
	if c.ops[from].Kind == Truncate && !u.truncate {
		u.aside(c)
		return true
	}
	n, dirs := 0, 0 // submissions and descriptors
	for i := from; ; i++ {
		more, dir := 1, 0
		if c.ops[i].Kind == SyncDir {
			more, dir = 3, 1
		}
		// One is for the eventfd.
		if len(u.fds) < dirs+dir || len(u.free) < n+more || u.room() < n+more+1 {
			if i == from {
				return false
			}
			break // the others come later
		}
		n, dirs, end = n+more, dirs+dir, i+1
		if !u.joins(c.ops[i:]) {
			break
		}
	}
	c.next = end
	u.segments++
	for i := from; i < end; i++ {
		op := &c.ops[i]
		op.Err, op.N = nil, 0
		var last *sqe
		if op.Kind == SyncDir {
			last = u.syncDir(c, i)
		} else {
			if op.Kind.usesFile() && op.File == Opened {
				op.File = c.fd
			}
			last = u.take(slot{c: c, op: i})
			u.fill(last, op)
		}
		if i < end-1 {
			last.flags |= sqeLink
		}
	}
	return true
}

// joins tells whether the kernel may begin ops[1] behind ops[0] by itself, though it would behind a failure, too: and again, if a
// signal interrupts. It does no harm to a file that has no name yet, and syncing a directory never does.
func (u *uring) joins(ops []Op) bool {
	if !ops[0].Then {
		return false
	}
	a, b := &ops[0], &ops[1]
	if b.Kind == SyncDir {
		return a.Kind.publishes() || a.Kind == SyncDir
	}
	return a.Kind.fills() && b.Kind.fills() && a.File == b.File && b.Flags == 0 && (b.Kind != Truncate || u.truncate)
}

// aside has a goroutine do the next operation.
func (u *uring) aside(c *chain) {
	op := &c.ops[c.next]
	if op.File == Opened {
		op.File = c.fd
	}
	c.next++
	c.aside = true
	u.inFlight++
	go func() {
		op.Err = call(op)
		u.mu.Lock()
		u.queue = append(u.queue, c)
		u.wake()
		u.mu.Unlock()
	}()
}

// take is a submission for an operation of a chain.
func (u *uring) take(sl slot) *sqe {
	at := u.free[len(u.free)-1]
	u.free = u.free[:len(u.free)-1]
	u.slots[at] = sl
	sl.c.left++
	u.inFlight++
	s := u.next()
	s.userData = uint64(at)
	return s
}

// name puts a name where the kernel may look for it as long as the submission is on its way: there is room for two each.
func (u *uring) name(s *sqe, which int, name string) uint64 {
	at := (int(s.userData)*2 + which) * nameSize
	b := u.arena[at : at+nameSize]
	b[copy(b[:nameSize-1], name)] = 0
	return address(b)
}

// address is that of memory which neither moves (Go's heap does not) nor is collected, as its owner is in slots.
func address(b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	return uint64(uintptr(unsafe.Pointer(&b[0])))
}

const atCWD = -100 // AT_FDCWD

func (u *uring) fill(s *sqe, op *Op) {
	s.fd = atCWD
	if op.Kind.usesFile() {
		s.fd = int32(op.File)
	}
	switch op.Kind {
	case Open:
		s.opcode, s.addr, s.len, s.opFlags = opOpenat, u.name(s, 0, op.Name), op.Mode, uint32(op.Flags|unix.O_CLOEXEC)
	case Allocate:
		s.opcode, s.off, s.addr, s.len = opFallocate, uint64(op.Off), uint64(op.Size), uint32(op.Flags)
	case Write:
		s.opcode, s.off, s.addr, s.len = opWrite, uint64(op.Off), address(op.Buf), uint32(min(len(op.Buf), 1<<30))
	case Truncate:
		s.opcode, s.off = opFtruncate, uint64(op.Size)
	case SetXattr:
		s.opcode, s.addr, s.off, s.len, s.opFlags = opFsetxattr, u.name(s, 0, op.Name), address(op.Buf), uint32(len(op.Buf)), uint32(op.Flags)
	case Sync:
		s.opcode = opFsync
	case SyncData:
		s.opcode, s.opFlags = opFsync, fsyncDataOnly
	case WriteOut:
		s.opcode, s.opFlags = opSyncFileRange, unix.SYNC_FILE_RANGE_WRITE
	case DropCache:
		s.opcode, s.off, s.opFlags = opFadvise, uint64(op.Off), unix.FADV_DONTNEED
		if op.Size <= math.MaxUint32 {
			s.len = uint32(op.Size)
		}
	case Close:
		s.opcode = opClose
	case Link:
		s.opcode, s.addr, s.opFlags = opLinkat, u.name(s, 0, descriptorPath(op.File)), unix.AT_SYMLINK_FOLLOW
		s.off, s.len = u.name(s, 1, op.To), cwd
		s.fd = atCWD
	case Rename:
		s.opcode, s.addr, s.off, s.len, s.opFlags = opRenameat, u.name(s, 0, op.Name), u.name(s, 1, op.To), cwd, uint32(op.Flags)
	case HardLink:
		s.opcode, s.addr, s.off, s.len = opLinkat, u.name(s, 0, op.Name), u.name(s, 1, op.To), cwd
	case Unlink:
		s.opcode, s.addr = opUnlinkat, u.name(s, 0, op.Name)
	case Rmdir:
		s.opcode, s.addr, s.opFlags = opUnlinkat, u.name(s, 0, op.Name), unix.AT_REMOVEDIR
	case Mkdir:
		s.opcode, s.addr, s.len = opMkdirat, u.name(s, 0, op.Name), op.Mode
	case Stat:
		s.opcode, s.addr, s.len, s.opFlags = opStatx, u.name(s, 0, op.Name), unix.STATX_BASIC_STATS, unix.AT_SYMLINK_NOFOLLOW
		s.off = uint64(uintptr(unsafe.Pointer(op.Stat)))
	}
}

// cwd is AT_FDCWD where it is told in a length.
const cwd uint32 = 1<<32 + atCWD

// syncDir submits the three steps of it, and returns the last, which is done whatever becomes of the second.
func (u *uring) syncDir(c *chain, i int) *sqe {
	dir := u.fds[len(u.fds)-1]
	u.fds = u.fds[:len(u.fds)-1]
	s := u.take(slot{c, i, 0, dir})
	s.opcode, s.flags, s.fd, s.addr, s.opFlags = opOpenat, sqeLink, atCWD, u.name(s, 0, c.ops[i].Name), unix.O_RDONLY|unix.O_DIRECTORY
	s.file = uint32(dir) + 1
	s = u.take(slot{c, i, 1, dir})
	s.opcode, s.flags, s.fd = opFsync, sqeLink|sqeFixedFile, int32(dir)
	s = u.take(slot{c, i, 2, dir})
	s.opcode, s.file = opClose, uint32(dir)+1
	return s
}

// completed takes note of a submission's end.
func (u *uring) completed(e cqe) {
	if e.userData == depth {
		u.listen()
		return
	}
	at := int(e.userData)
	sl := u.slots[at]
	u.slots[at] = slot{}
	u.free = append(u.free, at)
	u.inFlight--
	c := sl.c
	c.left--
	op := &c.ops[sl.op]
	if sl.part == 2 {
		u.fds = append(u.fds, sl.dir)
	}
	switch {
	case e.res < 0 && unix.Errno(-e.res) == unix.ECANCELED:
		if op.Err == nil {
			op.Err = ErrCut
		}
	case e.res < 0 && (op.Err == nil || op.Err == ErrCut) && sl.part < 2:
		op.Err = unix.Errno(-e.res)
	case op.Kind == Open:
		op.File = int(e.res)
		c.fd = op.File
	case op.Kind == Write:
		op.N = int(e.res)
		if op.N < len(op.Buf) {
			op.Err = io.ErrShortWrite
		}
	}
	if c.left == 0 {
		u.segments--
		u.settle(c)
	}
}

// settle decides how a chain goes on when nothing of it is in the kernel.
func (u *uring) settle(c *chain) {
	for i := range c.ops[:c.next] {
		switch op := &c.ops[i]; {
		case op.Err == unix.EINTR && op.Kind == Close: // it is closed for all that
			op.Err = nil
		case op.Err == unix.EINTR:
			c.next = i
			u.ready = append(u.ready, c)
			return
		case op.Err != nil:
			if op.Err == ErrCut { // by no other: the kernel had no worker for it (RLIMIT_NPROC, pids.max), and it was not done
				op.Err = unix.ECANCELED
			}
			cut(c.ops[i+1:], ErrCut)
			c.bad = true
			u.ready = append(u.ready, c)
			return
		}
	}
	u.ready = append(u.ready, c)
}

// Enters is how often the ring's thread called io_uring_enter.
func (u *uring) Enters() int64 { return u.enters.Load() }
