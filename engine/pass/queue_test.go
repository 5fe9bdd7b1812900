package pass

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// numbered are n partitions.
func numbered(n int) []*partition {
	parts := make([]*partition, n)
	for i := range parts {
		parts[i] = &partition{part: i}
	}
	return parts
}

func TestAJobThatWaitsHoldsUpNobodyAndIsNotForgotten(t *testing.T) {
	q := newQueue(t.Context())
	defer q.close()
	q.add("sda", numbered(3))
	var order []int
	tries := 0
	for it := q.take(); it != nil; it = q.take() {
		order = append(order, it.part)
		if it.part == order[0] && tries < 2 {
			tries++
			q.later(it, time.Millisecond)
			continue
		}
		q.done(it)
	}
	if len(order) != 5 || tries != 2 {
		t.Errorf("handed out %v, want the first three times and each other once", order)
	}
}

func TestWorkersWaitForAJobThatAnotherMayBringBack(t *testing.T) {
	q := newQueue(t.Context())
	defer q.close()
	q.add("sda", numbered(1))
	first := q.take()
	var second *item
	var wg sync.WaitGroup
	wg.Go(func() { second = q.take() })
	q.later(first, time.Millisecond)
	wg.Wait()
	if second != first {
		t.Fatal("the second worker ended while a job was still to come back")
	}
	q.done(second)
	if q.take() != nil {
		t.Error("something is left in an empty queue")
	}
}

func TestAnEndedPassHandsOutOnlyWhatWasBegun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := newQueue(ctx)
	defer q.close()
	q.add("sda", numbered(2))
	begun := q.take()
	q.later(begun, time.Hour)
	cancel()
	it := q.take()
	if it != begun {
		t.Fatal("the job that waited was not handed out to be ended")
	}
	q.done(it)
	if it := q.take(); it != nil {
		t.Errorf("partition %d was begun after the end", it.part)
	}
}

func TestManyWorkersEmptyTheQueue(t *testing.T) {
	q := newQueue(t.Context())
	defer q.close()
	for _, name := range []string{"sda", "sdb", "sdc", "sdd"} {
		q.add(name, numbered(250))
	}
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
				q.done(it)
			}
		})
	}
	wg.Wait()
	if done.Load() != 1000 || again.Load() != 100 {
		t.Errorf("%d done, %d brought back", done.Load(), again.Load())
	}
	for _, d := range q.disks {
		if d.busy != 0 {
			t.Errorf("%d workers are at %s at the end", d.busy, d.name)
		}
	}
}

func TestWorkIsSpreadOverTheDisks(t *testing.T) {
	q := newQueue(t.Context())
	defer q.close()
	q.add("slow", numbered(100))
	q.add("quick", numbered(40))
	var atQuick []*item
	for range 4 {
		if it := q.take(); it.disk.name == "quick" {
			atQuick = append(atQuick, it)
		}
	}
	if len(atQuick) != 2 {
		t.Fatalf("of four workers %d are at one of two disks", len(atQuick))
	}
	for range 40 - 2 {
		q.done(atQuick[0])
		it := q.take()
		if it.disk.name != "quick" {
			t.Fatal("a third worker was sent to the disk where two have not come back from")
		}
		atQuick = append(atQuick[1:], it)
	}
	for _, it := range atQuick {
		q.done(it)
		if it := q.take(); it == nil || it.disk.name != "slow" {
			t.Error("a worker is idle while a disk has work")
		}
	}
}
