package pass

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/swift/suffix"
)

// numbered are n partitions.
func numbered(n int) []*partition {
	parts := make([]*partition, n)
	for i := range parts {
		parts[i] = &partition{part: i}
	}
	return parts
}

// filled is a queue of disks that were listed, with so many partitions.
func filled(ctx context.Context, sizes map[string]int) *queue {
	q := newQueue(ctx)
	for name, n := range sizes {
		q.disks = append(q.disks, &disk{name: name, fresh: numbered(n)})
	}
	return q
}

const patience = time.Minute

func TestAJobThatWaitsHoldsUpNobodyAndIsNotForgotten(t *testing.T) {
	q := filled(t.Context(), map[string]int{"sda": 3})
	var order []int
	tries := 0
	q.work = func(it *item) bool {
		order = append(order, it.part)
		if it.part == order[0] && tries < 2 {
			tries++
			return q.later(it, time.Millisecond)
		}
		return q.done(it)
	}
	if left := q.run(1, patience, patience); len(order) != 5 || tries != 2 || len(left) > 0 {
		t.Errorf("handed out %v, want the first three times and each other once; %d are left", order, len(left))
	}
}

func TestWorkersWaitForAJobThatAnotherMayBringBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := filled(t.Context(), map[string]int{"sda": 1})
		var tries atomic.Int64
		q.work = func(it *item) bool {
			if tries.Add(1) == 1 {
				time.Sleep(time.Second)
				return q.later(it, time.Hour)
			}
			return q.done(it)
		}
		if left := q.run(2, patience, patience); tries.Load() != 2 || len(left) > 0 {
			t.Errorf("tried %d times; %d are left", tries.Load(), len(left))
		}
	})
}

func TestNothingIsKeptOfWhatWasDone(t *testing.T) {
	q := filled(t.Context(), map[string]int{"sda": 100})
	var hashes []weak.Pointer[suffix.Entry]
	q.work = func(it *item) bool {
		// As a pass does: the partition knows the calls that are its item's.
		it.files = new(diskfile.Manager).Watched(&it.calls)
		it.jobs = []*job{{partition: it.partition, hashes: suffix.Hashes{"abc": new(suffix.Entry)}}}
		hashes = append(hashes, weak.Make(it.jobs[0].hashes["abc"]))
		return q.done(it)
	}
	kept := 0
	q.run(1, patience, patience)
	runtime.GC()
	for _, h := range hashes {
		if h.Value() != nil {
			kept++
		}
	}
	if len(hashes) != 100 || kept > 1 { // the last one may still lie in a register
		t.Errorf("of %d partitions that are done the hashes of %d are still in memory", len(hashes), kept)
	}
	runtime.KeepAlive(q)
}

func TestAnEndedPassHandsOutOnlyWhatWasBegun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := filled(ctx, map[string]int{"sda": 2})
	var begun []*item
	q.work = func(it *item) bool {
		if begun = append(begun, it); len(begun) == 1 {
			cancel()
			return q.later(it, time.Hour)
		}
		return q.done(it)
	}
	q.run(1, patience, patience)
	if len(begun) != 2 || begun[0] != begun[1] {
		t.Errorf("%d were handed out; the one that waited was to be ended, and no other begun", len(begun))
	}
}

func TestPeersAreAskedAheadAndTheLastAnswersTakenFirst(t *testing.T) {
	q := filled(t.Context(), map[string]int{"sda": 2*ahead + 1})
	var asked, taken []int
	q.work = func(it *item) bool {
		if !it.looked {
			it.looked = true
			asked = append(asked, it.part)
			if n := len(asked) - len(taken); n > ahead {
				t.Errorf("%d partitions' peers are asked at once", n)
			}
			return q.answers(it)
		}
		taken = append(taken, it.part)
		return q.done(it)
	}
	left := q.run(1, patience, patience)
	want := slices.Clone(asked)
	for wave := range slices.Chunk(want, ahead) {
		slices.Reverse(wave)
	}
	if len(asked) != 2*ahead+1 || !slices.Equal(taken, want) || len(left) > 0 {
		t.Errorf("asked %v, taken %v; %d are left", asked, taken, len(left))
	}
}

func TestAnEndedPassHandsOutWhatWasAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := filled(ctx, map[string]int{"sda": ahead})
	n := 0
	q.work = func(it *item) bool {
		if n++; n == 3 {
			cancel()
		}
		if !it.looked {
			it.looked = true
			return q.answers(it)
		}
		return q.done(it)
	}
	if left := q.run(1, patience, patience); n != 6 || len(left) > 0 {
		t.Errorf("handed out %d times, want the three that were begun twice; %d are left", n, len(left))
	}
}

func TestWhatWasAskedForAStalledDiskIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := filled(t.Context(), map[string]int{"sda": 2, "sdb": 2})
		hang := make(chan struct{})
		done := 0
		q.work = func(it *item) bool {
			switch {
			case !it.looked && it.disk.name == "sda" && it.part == 1:
				it.calls.Begin()
				<-hang
				it.calls.End()
				return q.done(it)
			case !it.looked:
				it.looked = true
				return q.answers(it)
			}
			done++
			return q.done(it)
		}
		left := q.run(1, patience, patience)
		if len(left) != 2 || done != 2 {
			t.Errorf("%d are left and %d done, want 2 of each disk", len(left), done)
		}
		close(hang)
		q.all.Wait()
	})
}

// Two local devices can be primaries of one partition, with a partner in common.
func TestASessionOutdatesAnswersOfItsReceiver(t *testing.T) { // rule 15
	q := newQueue(t.Context())
	here, elsewhere := new(place), new(place)
	target := rebuild.Peer{Addr: "127.0.0.1:6200", Device: "sdz"}
	now := time.Now()
	var partners []*partner
	add := func(pl *place, part int, peer rebuild.Peer) {
		pr := &partner{Peer: peer, asked: now}
		partners = append(partners, pr)
		it := &item{partition: &partition{place: pl, part: part}, jobs: []*job{{waiting: []*partner{pr}}}}
		q.asked = append(q.asked, it)
	}
	add(here, 7, target)
	add(here, 8, target)
	add(elsewhere, 7, target)
	add(here, 7, rebuild.Peer{Addr: target.Addr, Device: "sdy"})
	q.outdate(&partition{place: here, part: 7}, target.String())
	for i, pr := range partners {
		if pr.asked.IsZero() != (i == 0) {
			t.Errorf("%d: asked %v", i, pr.asked)
		}
	}
}

func TestManyWorkersEmptyTheQueue(t *testing.T) {
	q := filled(t.Context(), map[string]int{"sda": 250, "sdb": 250, "sdc": 250, "sdd": 250})
	var done, again atomic.Int64
	q.work = func(it *item) bool {
		if it.part%10 == 0 && it.spent == 0 {
			it.spent = 1
			again.Add(1)
			return q.later(it, time.Millisecond)
		}
		done.Add(1)
		return q.done(it)
	}
	if left := q.run(8, patience, patience); done.Load() != 1000 || again.Load() != 100 || len(left) > 0 {
		t.Errorf("%d done, %d brought back, %d left", done.Load(), again.Load(), len(left))
	}
	for _, d := range q.disks {
		if d.busy != 0 {
			t.Errorf("%d workers are at %s at the end", d.busy, d.name)
		}
	}
}

func TestWorkIsSpreadOverTheDisks(t *testing.T) {
	q := filled(t.Context(), map[string]int{"slow": 100, "quick": 40})
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

func TestADiskIsWorkedOnWhileAnotherIsListed(t *testing.T) {
	q := newQueue(t.Context())
	worked := make(chan struct{})
	q.list(map[string]func(diskfile.Watch) []*partition{
		"slow":  func(diskfile.Watch) []*partition { <-worked; return numbered(1) },
		"quick": func(diskfile.Watch) []*partition { return numbered(1) },
	})
	var order []string
	q.work = func(it *item) bool {
		if order = append(order, it.disk.name); it.disk.name == "quick" {
			close(worked)
		}
		return q.done(it)
	}
	q.run(1, patience, patience)
	if fmt.Sprint(order) != "[quick slow]" {
		t.Errorf("worked on %v", order)
	}
}

func TestAStalledDiskHoldsUpOnlyItself(t *testing.T) {
	for workers := 1; workers <= 3; workers++ {
		synctest.Test(t, func(t *testing.T) {
			q := filled(t.Context(), map[string]int{"sick": 3, "well": 3})
			var notes []string
			q.note = func(device string, stalled bool) { notes = append(notes, fmt.Sprint(device, " ", stalled)) }
			free := make(chan struct{})
			var hung atomic.Bool
			var well, sick atomic.Int64
			q.work = func(it *item) bool {
				if it.disk.name == "sick" && hung.CompareAndSwap(false, true) {
					it.calls.Begin()
					<-free
					it.calls.End()
					return q.done(it)
				}
				time.Sleep(time.Second)
				if it.disk.name == "sick" {
					sick.Add(1)
				} else {
					well.Add(1)
				}
				return q.done(it)
			}
			begin := time.Now()
			left := q.run(workers, patience, patience)
			if took := time.Since(begin); took > patience*5/4+10*time.Second {
				t.Errorf("%d workers: it took %v", workers, took)
			}
			if well.Load() != 3 || int(sick.Load())+len(left) != 3 || len(left) == 0 {
				t.Errorf("%d workers: %d and %d done, %d left", workers, well.Load(), sick.Load(), len(left))
			}
			for _, it := range left {
				if !it.disk.stalled() {
					t.Errorf("%d workers: an item of %s is left", workers, it.disk.name)
				}
			}
			if !slices.Equal(notes, []string{"sick true"}) {
				t.Errorf("%d workers: told of %v", workers, notes)
			}
			close(free) // long after the end
		})
	}
}

func TestADiskThatComesBackIsTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		q := filled(t.Context(), map[string]int{"sick": 3, "well": 1})
		var notes []string
		q.note = func(device string, stalled bool) { notes = append(notes, fmt.Sprint(device, " ", stalled)) }
		var done atomic.Int64
		var hung atomic.Bool
		q.work = func(it *item) bool {
			switch {
			case it.disk.name == "well":
				time.Sleep(2 * patience)
				close(free)
				time.Sleep(time.Second)
			case hung.CompareAndSwap(false, true):
				it.calls.Begin()
				<-free
				it.calls.End()
				if !stalled(it.ctx) {
					t.Error("what a lost item does is not ended")
				}
				return q.done(it)
			}
			done.Add(1)
			return q.done(it)
		}
		if left := q.run(2, patience, patience); len(left) > 0 || done.Load() != 4 {
			t.Errorf("%d done, %d left", done.Load(), len(left))
		}
		if !slices.Equal(notes, []string{"sick true", "sick false"}) {
			t.Errorf("told of %v", notes)
		}
	})
}

func TestAPartitionThatHangsAgainAndAgainIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := filled(t.Context(), map[string]int{"sda": 3})
		tries := 0
		var done atomic.Int64
		q.work = func(it *item) bool {
			if it.part == 1 {
				tries++
				it.calls.Begin()
				time.Sleep(2 * patience)
				it.calls.End()
			} else {
				time.Sleep(5 * patience)
				done.Add(1)
			}
			return q.done(it)
		}
		left := q.run(3, patience, patience)
		if len(left) != 1 || left[0].part != 1 || left[0].disk.stalled() || tries != maxLosses || done.Load() != 2 {
			t.Errorf("%d left, %d done, %d tries", len(left), done.Load(), tries)
		}
	})
}

func TestACallThatGetsOnIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := filled(t.Context(), map[string]int{"sda": 1})
		q.note = func(string, bool) { t.Error("stalled") }
		q.work = func(it *item) bool {
			time.Sleep(10 * patience) // for a peer, a lock or memory
			it.calls.Begin()
			for range 20 { // a large partition
				time.Sleep(patience / 2)
				it.calls.Step()
			}
			it.calls.End()
			return q.done(it)
		}
		if left := q.run(1, patience, patience); len(left) > 0 {
			t.Errorf("%d left", len(left))
		}
	})
}

func TestAnEndedPassHasLittlePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		free := make(chan struct{})
		defer close(free)
		q := filled(ctx, map[string]int{"sda": 2})
		q.list(map[string]func(diskfile.Watch) []*partition{"sdb": func(w diskfile.Watch) []*partition { w.Begin(); <-free; return nil }})
		q.work = func(it *item) bool {
			it.calls.Begin()
			<-free
			return q.done(it)
		}
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		q.run(1, patience, time.Second)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("it took %v to end", took)
		}
	})
}
