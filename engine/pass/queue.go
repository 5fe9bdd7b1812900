package pass

import (
	"context"
	"sync"
	"time"
)

// item is a partition on its way through a pass.
type item struct {
	*partition
	job   *job          // nil before the first look
	due   time.Time     // when a job that waits may be tried again
	spent time.Duration // in earlier steps
}

// queue hands partitions to workers: those that wait for another try as soon as they are
// due, else the next fresh one. It is empty only when no worker can bring anything back.
type queue struct {
	mu      sync.Mutex
	changed *sync.Cond
	ctx     context.Context
	stop    func() bool

	fresh   []*partition
	delayed []*item // few: those whose peers are in trouble
	working int
}

func newQueue(ctx context.Context, parts []*partition) *queue {
	q := &queue{ctx: ctx, fresh: parts}
	q.changed = sync.NewCond(&q.mu)
	q.stop = context.AfterFunc(ctx, func() {
		q.mu.Lock() // a worker between its look at ctx and its wait must not miss this
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})
	return q
}

func (q *queue) close() { q.stop() }

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
			q.working++
			return it
		}
		if len(q.fresh) > 0 && !ended {
			it := &item{partition: q.fresh[0]}
			q.fresh = q.fresh[1:]
			q.working++
			return it
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

// later gives an item back, to be handed out again after wait.
func (q *queue) later(it *item, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it.due = time.Now().Add(wait)
	q.delayed = append(q.delayed, it)
	q.working--
	q.changed.Broadcast()
}

// done says that an item is finished.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.working--
	q.changed.Broadcast()
}
