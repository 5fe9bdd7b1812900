package pass

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAJobThatWaitsHoldsUpNobodyAndIsNotForgotten(t *testing.T) {
	parts := []*partition{{part: 0}, {part: 1}, {part: 2}}
	q := newQueue(t.Context(), parts)
	defer q.close()
	var order []int
	tries := 0
	for it := q.take(); it != nil; it = q.take() {
		order = append(order, it.part)
		if it.part == 0 && tries < 2 {
			tries++
			q.later(it, time.Millisecond)
			continue
		}
		q.done()
	}
	if len(order) != 5 || order[0] != 0 || tries != 2 {
		t.Errorf("handed out %v, want partition 0 three times and each other once", order)
	}
}

func TestWorkersWaitForAJobThatAnotherMayBringBack(t *testing.T) {
	q := newQueue(t.Context(), []*partition{{part: 0}})
	defer q.close()
	first := q.take()
	var second *item
	var wg sync.WaitGroup
	wg.Go(func() { second = q.take() })
	q.later(first, time.Millisecond)
	wg.Wait()
	if second != first {
		t.Fatal("the second worker ended while a job was still to come back")
	}
	q.done()
	if q.take() != nil {
		t.Error("something is left in an empty queue")
	}
}

func TestAnEndedPassHandsOutOnlyWhatWasBegun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := newQueue(ctx, []*partition{{part: 0}, {part: 1}})
	defer q.close()
	q.later(q.take(), time.Hour)
	cancel()
	if it := q.take(); it == nil || it.part != 0 {
		t.Fatal("the job that waited was not handed out to be ended")
	}
	q.done()
	if it := q.take(); it != nil {
		t.Errorf("partition %d was begun after the end", it.part)
	}
}

func TestManyWorkersEmptyTheQueue(t *testing.T) {
	parts := make([]*partition, 1000)
	for i := range parts {
		parts[i] = &partition{part: i}
	}
	q := newQueue(t.Context(), parts)
	defer q.close()
	var done, again atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for it := q.take(); it != nil; it = q.take() {
				if it.part%10 == 0 && it.spent == 0 {
					it.spent = 1
					again.Add(1)
					q.later(it, time.Millisecond)
					continue
				}
				done.Add(1)
				q.done()
			}
		})
	}
	wg.Wait()
	if done.Load() != 1000 || again.Load() != 100 {
		t.Errorf("%d done, %d brought back", done.Load(), again.Load())
	}
}
