package pass

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imping/io/diskfile"
)

// item is a partition on its way through a pass or, with none, the listing of a disk.
type item struct {
	*partition
	disk   *disk
	calls  calls
	ctx    context.Context // ends with the pass, and when the item is lost
	cancel context.CancelCauseFunc

	looked  bool          // the jobs are known
	begun   bool          // they are under way, or done: not so while peers are only asked ahead
	jobs    []*job        // of the partition, those that are done among them
	vacant  bool          // there is nothing in it, and it belongs elsewhere
	misfits bool          // it has fragments that belong elsewhere and that no job moves
	due     time.Time     // when a job that waits may be tried again
	spent   time.Duration // in earlier steps

	// Under the queue's lock:
	lost  bool          // a call to its disk hangs, and its worker in it
	seen  int64         // what calls had counted when they were last looked at
	quiet time.Duration // for how long they have stayed at that
}

// disk is a local device, with the partitions of all policies.
type disk struct {
	name  string
	fresh []*partition // nobody has looked at them yet
	busy  int          // items that somebody is at, but for lost ones
	lost  []*item      // while there are any, the disk is stalled
}

func (d *disk) stalled() bool { return len(d.lost) > 0 }

// calls follows an item's calls to its disk. It is a diskfile.Watch.
type calls struct{ underWay, steps atomic.Int64 }

func (c *calls) Begin() { c.steps.Add(1); c.underWay.Add(1) }
func (c *calls) Step()  { c.steps.Add(1) }
func (c *calls) End()   { c.steps.Add(1); c.underWay.Add(-1) }

// errStalled is why an item is lost.
var errStalled = errors.New("the device is stalled: a call to it does not come back")

// maxLosses is how often a partition may hang in a call and be begun anew when the call has
// come back: a bad spot of a disk must not keep a pass going for ever.
const maxLosses = 2

// ahead is how many partitions' peers are asked before the first answer is looked at. To
// wait for each answer alone, and be woken for it, was most of what a pass cost that finds
// nothing to do; twice as many save nothing more, half as many cost a tenth more. Peers have the
// requests of so many partitions more to work at, whatever the number of workers.
const ahead = 8

// queue hands partitions to workers: those that wait for another try as soon as they are
// due, else the next fresh one of the disk that the fewest are at, so that a slow disk
// never gets more than its share of the workers. When the peers of some have been asked
// (ahead), these come first, until all have been dealt with.
//
// An item is lost when a call to its disk hangs in the kernel, where nothing reaches its
// worker. Another worker takes its place, and nothing more of the disk is handed out. If
// the call comes back after all, what was done counts for nothing and the worker is gone,
// but the disk and the partition are taken up again.
type queue struct {
	mu      sync.Mutex
	changed *sync.Cond // there may be something to take
	ended   *sync.Cond // workers is 0
	ctx     context.Context
	stop    func() bool

	// To be set before run; the last three are called under mu.
	work   func(*item) bool                  // what a worker does with an item; it returns what later or done did
	note   func(device string, stalled bool) // is told of a device that is stalled, or is no longer
	listed func()                            // is told when no listing is under way any more
	hung   func(device string, more int)     // is told of calls that hang (1) and that came back (-1)

	disks    []*disk
	delayed  []*item        // few: those whose peers are in trouble
	asked    []*item        // those whose peers have been asked, longest ago first
	asking   bool           // more are to be, before answers are looked at
	working  map[*item]bool // somebody is at them; no lost ones
	hopeless []*item        // lost too often
	workers  int            // but for those whose item is lost
	listing  int            // devices, but for lost ones
	closed   bool           // what comes back now is too late
	all      sync.WaitGroup // goroutines, those that hang among them: for tests
}

func newQueue(ctx context.Context) *queue {
	q := &queue{ctx: ctx, working: make(map[*item]bool), note: func(string, bool) {}, listed: func() {}, hung: func(string, int) {}}
	q.changed, q.ended = sync.NewCond(&q.mu), sync.NewCond(&q.mu)
	q.stop = context.AfterFunc(ctx, func() {
		q.mu.Lock() // a worker between its look at ctx and its wait must not miss this
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})
	return q
}

// list has each device listed beside all workers and other listings; what is found is
// handed out in random order, so that the load spreads over peers, too.
func (q *queue) list(devices map[string]func(diskfile.Watch) []*partition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.listing = 1
	for name, look := range devices {
		it := &item{disk: &disk{name: name}}
		q.disks = append(q.disks, it.disk)
		q.begin(it)
		q.listing++
		q.all.Go(func() {
			parts := look(&it.calls)
			rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			q.mu.Lock()
			it.disk.fresh = parts
			if !it.lost {
				q.endListing()
			}
			q.mu.Unlock()
			q.done(it)
		})
	}
	q.endListing()
}

func (q *queue) endListing() {
	if q.listing--; q.listing == 0 {
		q.listed()
	}
}

// start starts a worker. Caller holds mu, or is alone.
func (q *queue) start() {
	q.workers++
	q.all.Go(func() {
		for it := q.take(); it != nil; it = q.take() {
			if !q.work(it) {
				return // another has this worker's place
			}
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.workers--; q.workers == 0 {
			q.ended.Signal()
		}
	})
}

// run has so many workers do all there is to do, and looks for calls that hang every now
// and then: those that make no step for as long as patience, or once ctx has ended for as
// long as hurry. It returns when nobody is at work any more but who hangs in a call, with
// what stalled disks kept from being done.
func (q *queue) run(workers int, patience, hurry time.Duration) (left []*item) {
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { q.watch(ended, patience, hurry) })
	q.mu.Lock()
	for range workers {
		q.start()
	}
	for q.workers > 0 {
		q.ended.Wait()
	}
	q.closed = true
	left = slices.Concat(q.hopeless, q.delayed, q.asked)
	for _, d := range q.disks {
		if d.stalled() || q.ctx.Err() == nil { // a call may have come back when nobody was there any more
			left = append(left, d.lost...)
			for _, pt := range d.fresh {
				left = append(left, &item{partition: pt, disk: d})
			}
		}
	}
	q.mu.Unlock()
	close(ended)
	watching.Wait()
	q.stop()
	return left
}

// watch checks the calls until work has ended.
func (q *queue) watch(ended <-chan struct{}, patience, hurry time.Duration) {
	const checks = 8 // within one patience: a call is lost an eighth of it late at most
	tick := time.NewTicker(patience / checks)
	defer tick.Stop()
	hurried := q.ctx.Done()
	for {
		select {
		case <-ended:
			return
		case <-hurried:
			hurried, patience = nil, hurry
			tick.Reset(patience / checks)
		case <-tick.C:
			q.check(patience/checks, patience)
		}
	}
}

// take returns the next item, or nil when all is done. After ctx has ended only items
// that have been begun are handed out, so that each is ended in order.
func (q *queue) take() *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		now := time.Now()
		ended := q.ctx.Err() != nil
		first := -1
		for i, it := range q.delayed {
			if !it.disk.stalled() && (first < 0 || it.due.Before(q.delayed[first].due)) {
				first = i
			}
		}
		if first >= 0 && (ended || !q.delayed[first].due.After(now)) {
			it := q.delayed[first]
			q.delayed = slices.Delete(q.delayed, first, first+1)
			return q.begin(it)
		}
		d := q.leastBusy()
		asked := 0 // that can be looked at
		for _, it := range q.asked {
			if !it.disk.stalled() {
				asked++
			}
		}
		q.asking = (q.asking || asked == 0) && asked < ahead
		if it := q.lastAsked(); it != nil && (ended || d == nil || !q.asking) {
			q.asked = slices.DeleteFunc(q.asked, func(other *item) bool { return other == it })
			return q.begin(it)
		}
		if d != nil && !ended {
			it := &item{partition: d.fresh[0], disk: d}
			d.fresh[0], d.fresh = nil, d.fresh[1:] // the list keeps nothing of what has been done
			return q.begin(it)
		}
		if first < 0 && (len(q.working) == 0 || ended) {
			return nil
		}
		if first >= 0 {
			timer := time.AfterFunc(q.delayed[first].due.Sub(now), func() {
				q.mu.Lock()
				defer q.mu.Unlock()
				q.changed.Broadcast()
			})
			q.changed.Wait()
			timer.Stop()
		} else {
			q.changed.Wait()
		}
	}
}

// lastAsked is whom the queue hands out of those whose peers have been asked: when the last
// ones have been answered, most others have, and nobody is woken for each of them. nil: there is
// none. Caller holds mu.
func (q *queue) lastAsked() *item {
	for _, it := range slices.Backward(q.asked) {
		if !it.disk.stalled() {
			return it
		}
	}
	return nil
}

// leastBusy is a disk with fresh partitions that the fewest are at, any of these; nil when
// there is none. Caller holds mu, here and below.
func (q *queue) leastBusy() *disk {
	var best *disk
	equal := 0
	for _, d := range q.disks {
		switch {
		case len(d.fresh) == 0 || d.stalled():
		case best == nil || d.busy < best.busy:
			best, equal = d, 1
		case d.busy == best.busy:
			if equal++; rand.IntN(equal) == 0 {
				best = d
			}
		}
	}
	return best
}

func (q *queue) begin(it *item) *item {
	if it.ctx == nil {
		it.ctx, it.cancel = context.WithCancelCause(q.ctx)
	}
	it.quiet = 0
	q.working[it] = true
	it.disk.busy++
	return it
}

func (q *queue) end(it *item) {
	delete(q.working, it)
	it.disk.busy--
	q.changed.Broadcast()
}

// later gives an item back, to be handed out again after wait; false: it was lost.
func (q *queue) later(it *item, wait time.Duration) bool {
	return q.back(it, func() {
		it.due = time.Now().Add(wait)
		q.delayed = append(q.delayed, it)
	})
}

// answers gives an item back until it is time to look at its peers' answers; false: it was lost.
func (q *queue) answers(it *item) bool {
	return q.back(it, func() { q.asked = append(q.asked, it) })
}

// outdate has the device of that name asked anew for a partition, whatever item it is in.
func (q *queue) outdate(pt *partition, device string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed { // the session is that of an item that was lost
		return
	}
	for _, it := range q.asked {
		if it.place != pt.place || it.part != pt.part {
			continue
		}
		for _, j := range it.jobs {
			for _, pr := range j.waiting {
				if pr.key() == device {
					pr.asked = time.Time{}
				}
			}
		}
	}
}

// done says that an item is finished; false: it was lost, and what was done for it counts
// for nothing.
func (q *queue) done(it *item) bool { return q.back(it, func() { it.cancel(nil) }) }

func (q *queue) back(it *item, do func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !it.lost {
		do()
		q.end(it)
		return true
	}
	q.hung(it.disk.name, -1)
	if q.closed {
		return false
	}
	d := it.disk
	d.lost = slices.DeleteFunc(d.lost, func(other *item) bool { return other == it })
	if it.partition != nil {
		if it.losses++; it.losses < maxLosses {
			d.fresh = append(d.fresh, it.partition)
		} else {
			q.hopeless = append(q.hopeless, it)
		}
	}
	if !d.stalled() {
		q.note(d.name, false)
	}
	q.changed.Broadcast()
	return false
}

// check looks for calls that hang: those of items without a step since the checks began to
// find them so, `since` ago each time, for as long as patience. Counting checks, and not
// the time itself, is safe against a process that was itself stopped.
func (q *queue) check(since, patience time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	for it := range q.working {
		steps := it.calls.steps.Load()
		if it.calls.underWay.Load() == 0 || steps != it.seen {
			it.seen, it.quiet = steps, 0
			continue
		}
		if it.quiet += since; it.quiet >= patience {
			q.lose(it)
		}
	}
}

func (q *queue) lose(it *item) {
	it.lost = true
	it.cancel(errStalled)
	q.hung(it.disk.name, 1)
	if it.disk.lost = append(it.disk.lost, it); len(it.disk.lost) == 1 {
		q.note(it.disk.name, true)
	}
	q.end(it)
	if it.partition == nil {
		q.endListing()
	} else {
		q.workers--
		q.start()
	}
}
