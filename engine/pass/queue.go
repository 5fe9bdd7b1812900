package pass

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// item is a partition on its way through a pass.
type item struct {
	*partition
	disk  *disk
	job   *job          // nil before the first look
	due   time.Time     // when a job that waits may be tried again
	spent time.Duration // in earlier steps
}

// disk is a local device with the partitions, of all policies, that nobody has looked at yet.
type disk struct {
	name  string
	fresh []*partition
	busy  int // workers that are at one of its partitions
}

// queue hands partitions to workers: those that wait for another try as soon as they are
// due, else the next fresh one of the disk that the fewest workers are at, so that a slow
// disk never gets more than its share of them. It is empty only when no worker can bring
// anything back.
type queue struct {
	mu      sync.Mutex
	changed *sync.Cond
	ctx     context.Context
	stop    func() bool

	disks   []*disk
	delayed []*item // few: those whose peers are in trouble
	working int
}

func newQueue(ctx context.Context) *queue {
	q := &queue{ctx: ctx}
	q.changed = sync.NewCond(&q.mu)
	q.stop = context.AfterFunc(ctx, func() {
		q.mu.Lock() // a worker between its look at ctx and its wait must not miss this
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})
	return q
}

func (q *queue) close() { q.stop() }

// add gives the queue the partitions of a device, in random order so that the load spreads
// over peers, too.
func (q *queue) add(name string, parts []*partition) {
	rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disks = append(q.disks, &disk{name: name, fresh: parts})
	q.changed.Broadcast()
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
			if first < 0 || it.due.Before(q.delayed[first].due) {
				first = i
			}
		}
		if first >= 0 && (ended || !q.delayed[first].due.After(now)) {
			it := q.delayed[first]
			q.delayed = append(q.delayed[:first], q.delayed[first+1:]...)
			return q.handOut(it)
		}
		if d := q.leastBusy(); d != nil && !ended {
			it := &item{partition: d.fresh[0], disk: d}
			d.fresh = d.fresh[1:]
			return q.handOut(it)
		}
		if first < 0 && (q.working == 0 || ended) {
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

// leastBusy is a disk with fresh partitions that the fewest workers are at, any of these;
// nil when there is none. Caller holds mu.
func (q *queue) leastBusy() *disk {
	var best *disk
	equal := 0
	for _, d := range q.disks {
		switch {
		case len(d.fresh) == 0:
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

func (q *queue) handOut(it *item) *item {
	q.working++
	it.disk.busy++
	return it
}

// later gives an item back, to be handed out again after wait.
func (q *queue) later(it *item, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it.due = time.Now().Add(wait)
	q.delayed = append(q.delayed, it)
	q.back(it)
}

// done says that an item is finished.
func (q *queue) done(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.back(it)
}

func (q *queue) back(it *item) {
	q.working--
	it.disk.busy--
	q.changed.Broadcast()
}
