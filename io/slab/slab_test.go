package slab

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bg = context.Background()

func open(t testing.TB, p *Pool, reserve int64) *Account {
	t.Helper()
	a, err := p.Open(bg, reserve)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func head(t testing.TB, a *Account, n int) *Slab {
	t.Helper()
	s, err := a.Head(bg, n)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// poll waits for a state that another goroutine brings about.
func poll(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 10000 {
		if f() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestRoundWastesAtMostAnEighthAboveAFewPages(t *testing.T) {
	last := 0
	for n := 0; n < 1<<21; n += 511 {
		r := Round(n)
		if r < n || r < last || r%minClass != 0 || Round(r) != r {
			t.Fatalf("Round(%d) = %d (after %d)", n, r, last)
		}
		if n > 64<<10 && r-n > n/8 {
			t.Fatalf("Round(%d) = %d wastes more than an eighth", n, r)
		}
		last = r
	}
	if Round(maxSize) != maxSize {
		t.Fatalf("Round(%d) = %d", maxSize, Round(maxSize))
	}
}

func TestSlabIsAlignedAndAsLongAsAsked(t *testing.T) {
	a := open(t, New(1<<20), 1<<20)
	defer a.Close()
	for _, n := range []int{0, 1, 63, 4096, 4097, 104938} {
		s := head(t, a, n)
		b := s.Bytes()
		if len(b) != n || cap(b) != n {
			t.Fatalf("asked for %d, got len %d cap %d", n, len(b), cap(b))
		}
		if n > 0 && uintptr(unsafe.Pointer(&b[0]))%Align != 0 {
			t.Fatalf("slab of %d bytes is not aligned", n)
		}
		for i := range b {
			b[i] = byte(i)
		}
		s.Release()
		if s.Bytes() != nil {
			t.Fatal("Bytes after Release is not nil")
		}
	}
}

// law 9: the pool is LIFO, so that few slabs stay hot.
func TestLastReleasedIsHandedOutFirstAndNothingMoreIsMapped(t *testing.T) {
	p := New(1 << 30)
	a := open(t, p, 4*8192)
	defer a.Close()
	var ss []*Slab
	for range 4 {
		ss = append(ss, head(t, a, 8192))
	}
	first := func(s *Slab) *byte { return &s.mem[0] }
	b1, b3 := first(ss[1]), first(ss[3])
	for i := range ss {
		if i != 1 && i != 3 {
			ss[i].Release()
		}
	}
	ss[3].Release()
	ss[1].Release()
	x, y := head(t, a, 8000), head(t, a, 8192)
	if first(x) != b1 || first(y) != b3 {
		t.Fatal("slabs do not come back last in, first out")
	}
	x.Release()
	y.Release()
	if st := p.Stats(); st.Mapped != 4*8192 || st.InUse != 0 || st.Peak != 4*8192 {
		t.Fatalf("%+v", st)
	}
}

func TestAClosedPoolGivesItsMemoryBack(t *testing.T) {
	p := New(1 << 30)
	a := open(t, p, 3*8192)
	x, y := head(t, a, 8192), head(t, a, 8192)
	x.Release()
	p.Close()
	if st := p.Stats(); st.Mapped != 8192 || st.InUse != 8192 {
		t.Fatalf("%+v", st)
	}
	y.Bytes()[0] = 1 // still the holder's
	y.Release()
	z := head(t, a, 8192)
	z.Release()
	a.Close()
	if st := p.Stats(); st.Mapped != 0 || st.InUse != 0 || st.Promised != 0 {
		t.Fatalf("%+v", st)
	}
	p.Close()
}

func TestDoubleReleasePanics(t *testing.T) {
	a := open(t, New(1<<20), 8192)
	defer a.Close()
	s := head(t, a, 100)
	s.Release()
	defer func() {
		if recover() == nil {
			t.Fatal("second Release did not panic")
		}
	}()
	s.Release()
}

// law 9: admission is FIFO; a small job does not overtake a large one.
func TestOpenAdmitsInOrderOfArrival(t *testing.T) {
	p := New(100)
	first := open(t, p, 60)
	var mu sync.Mutex
	var order []int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for i, n := range []int64{80, 10, 20} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			a, err := p.Open(bg, n)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, n)
			mu.Unlock()
			<-done
			a.Close()
		}()
		poll(t, "ticket queued", func() bool { return p.Stats().Waiting == i+1 })
	}
	first.Close()
	poll(t, "80 and 10 admitted", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(order) == 2
	})
	if st := p.Stats(); st.Waiting != 1 {
		t.Fatalf("%+v", st)
	}
	close(done)
	wg.Wait()
	if st := p.Stats(); st.Promised != 0 || st.Waiting != 0 {
		t.Fatalf("%+v", st)
	}
	if order[2] != 20 {
		t.Fatalf("admitted in order %v", order)
	}
}

func TestOpenThatGivesUpLetsTheNextIn(t *testing.T) {
	p := New(100)
	first := open(t, p, 60)
	defer first.Close()
	ctx, cancel := context.WithCancelCause(bg)
	errs := make(chan error)
	go func() {
		_, err := p.Open(ctx, 80)
		errs <- err
	}()
	poll(t, "80 waits", func() bool { return p.Stats().Waiting == 1 })
	got := make(chan *Account)
	go func() {
		a, err := p.Open(bg, 40)
		if err != nil {
			t.Error(err)
		}
		got <- a
	}()
	poll(t, "40 waits behind", func() bool { return p.Stats().Waiting == 2 })
	why := errors.New("no longer wanted")
	cancel(why)
	if err := <-errs; !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
	(<-got).Close()
}

// law 9: the budget is raised once for a job that could otherwise never run, and says so.
func TestReserveAboveTheBudgetRaisesIt(t *testing.T) {
	p := New(1000)
	a := open(t, p, 8192)
	if st := p.Stats(); st.Raised != 8192 || st.Budget != 8192 {
		t.Fatalf("%+v", st)
	}
	head(t, a, 5000).Release()
	a.Close()
	a = open(t, p, 4096)
	a.Close()
	if st := p.Stats(); st.Raised != 8192 || st.Budget != 8192 {
		t.Fatalf("%+v", st)
	}
}

func TestHeadWaitsOnlyForItsOwnReserve(t *testing.T) {
	p := New(1 << 20)
	a := open(t, p, 2*8192)
	defer a.Close()
	x, y := head(t, a, 8192), head(t, a, 8192)
	got := make(chan *Slab)
	go func() { got <- head(t, a, 8192) }()
	poll(t, "the third head waits", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(a.waiters) == 1
	})
	if _, ok := a.TryHead(1); ok {
		t.Fatal("TryHead overtook a waiting Head")
	}
	x.Release()
	(<-got).Release()
	if s, ok := a.TryHead(1); !ok {
		t.Fatal("TryHead found no room in a half-free reserve")
	} else {
		s.Release()
	}
	y.Release()
	if _, err := a.Head(bg, 3*8192); err == nil {
		t.Fatal("more than the reserve was promised")
	}
}

func TestHeadEndsWithItsContextAndWithClose(t *testing.T) {
	p := New(1 << 20)
	a := open(t, p, 8192)
	x := head(t, a, 8192)
	ctx, cancel := context.WithCancelCause(bg)
	errs := make(chan error)
	wait := func(ctx context.Context) {
		_, err := a.Head(ctx, 8192)
		errs <- err
	}
	waiting := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(a.waiters) == 1
	}
	go wait(ctx)
	poll(t, "head waits", waiting)
	why := errors.New("pass is over")
	cancel(why)
	if err := <-errs; !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
	go wait(bg)
	poll(t, "head waits", waiting)
	a.Close()
	a.Close()
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if _, err := a.Head(bg, 1); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if st := p.Stats(); st.Promised != 8192 || st.InUse != 8192 {
		t.Fatalf("a slab of a closed account is not counted: %+v", st)
	}
	x.Release()
	if st := p.Stats(); st.Promised != 0 || st.InUse != 0 {
		t.Fatalf("%+v", st)
	}
}

// law 9: prefetch never eats into what reserves hold, and gives way to admission.
func TestSpareStaysOutOfReservesAndBehindAdmission(t *testing.T) {
	p := New(4 * 4096)
	a := open(t, p, 2*4096)
	if !a.HasSpare(2*4096) || a.HasSpare(2*4096+1) {
		t.Fatal("HasSpare does not say what Spare gives")
	}
	s1, ok1 := a.Spare(4096)
	s2, ok2 := a.Spare(1)
	if !ok1 || !ok2 {
		t.Fatal("no spare in a half-empty budget")
	}
	if _, ok := a.Spare(1); ok || a.HasSpare(1) {
		t.Fatal("spare ate into the reserve")
	}
	head(t, a, 4096).Release() // still there
	got := make(chan *Account)
	go func() { got <- open(t, p, 2*4096) }()
	poll(t, "a job waits", func() bool { return p.Stats().Waiting == 1 })
	s1.Release()
	if _, ok := a.Spare(1); ok || a.HasSpare(1) {
		t.Fatal("spare overtook a job that waits for admission")
	}
	s2.Release()
	b := <-got
	b.Close()
	a.Close()
	if _, ok := a.Spare(1); ok || a.HasSpare(1) {
		t.Fatal("spare from a closed account")
	}
}

func TestMappedStaysUnderTheBudgetWhenLayoutsChange(t *testing.T) {
	p := New(64 << 10)
	a := open(t, p, 64<<10)
	defer a.Close()
	for _, n := range []int{4 << 10, 16 << 10, 64 << 10, 8 << 10, 32 << 10} {
		var ss []*Slab
		for range (64 << 10) / n {
			ss = append(ss, head(t, a, n))
		}
		if st := p.Stats(); st.Mapped > st.Budget || st.InUse != 64<<10 {
			t.Fatalf("size %d: %+v", n, st)
		}
		for _, s := range ss {
			clear(s.Bytes())
			s.Release()
		}
	}
}

func TestNobodyWaitsForTheMemoryOfAJobThatHangs(t *testing.T) { // law 10
	p := New(2 * 8192)
	hangs := open(t, p, 2*8192)
	a, b := head(t, hangs, 8192), head(t, hangs, 8192)
	admitted := make(chan *Account)
	go func() { admitted <- open(t, p, 2*8192) }()
	poll(t, "the second job waits", func() bool { return p.Stats().Waiting == 1 })
	hangs.Abandon()
	second := <-admitted
	c, d := head(t, second, 8192), head(t, second, 8192)
	for i, s := range []*Slab{a, b, c, d} {
		s.Bytes()[0] = byte(i)
	}
	if a.Bytes()[0] != 0 || b.Bytes()[0] != 1 {
		t.Error("the memory of the job that hangs was given to another")
	}
	if _, ok := second.Spare(1); ok {
		t.Error("there is memory to spare beside the job that hangs")
	}
	// It comes back after all.
	a.Release()
	b.Release()
	c.Release()
	d.Release()
	second.Close()
	if st := p.Stats(); st.Promised != 0 || st.InUse != 0 || st.Mapped > 2*8192 || st.Budget != 2*8192 || p.lost != 0 {
		t.Errorf("%+v, %d lost", st, p.lost)
	}
}

func TestAnyHistoryKeepsTheBooks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := New(rapid.Int64Range(0, 256<<10).Draw(t, "budget"))
		type acct struct {
			*Account
			slabs []*Slab
		}
		var accts []*acct
		pick := func(t *rapid.T) *acct {
			if len(accts) == 0 {
				t.Skip("no account")
			}
			return accts[rapid.IntRange(0, len(accts)-1).Draw(t, "account")]
		}
		gone, stop := context.WithCancel(bg)
		stop()
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				n := rapid.Int64Range(0, 100<<10).Draw(t, "reserve")
				if st := p.Stats(); n <= st.Budget && st.Promised+p.spare+n > st.Budget+p.lost {
					t.Skip("would wait")
				}
				if n > p.Stats().Budget && p.Stats().Promised+p.spare > p.lost {
					t.Skip("would wait")
				}
				a, err := p.Open(bg, n)
				if err != nil {
					t.Fatal(err)
				}
				accts = append(accts, &acct{Account: a})
			},
			"open cancelled": func(t *rapid.T) {
				if _, err := p.Open(gone, 1); err == nil {
					t.Fatal("no error")
				}
			},
			"head": func(t *rapid.T) {
				a := pick(t)
				if s, ok := a.TryHead(rapid.IntRange(0, 50<<10).Draw(t, "n")); ok {
					a.slabs = append(a.slabs, s)
				}
			},
			"spare": func(t *rapid.T) {
				a := pick(t)
				if s, ok := a.Spare(rapid.IntRange(0, 50<<10).Draw(t, "n")); ok {
					a.slabs = append(a.slabs, s)
				}
			},
			"release": func(t *rapid.T) {
				a := pick(t)
				if len(a.slabs) > 0 {
					a.slabs[0].Release()
					a.slabs = a.slabs[1:]
				}
			},
			"close":   func(t *rapid.T) { pick(t).Close() },
			"abandon": func(t *rapid.T) { pick(t).Abandon() },
			"": func(t *rapid.T) {
				var promised, spare, inUse, lost int64
				for _, a := range accts {
					if a.lost {
						for _, s := range a.slabs {
							lost += int64(s.Size())
						}
					}
					var head int64
					for _, s := range a.slabs {
						inUse += int64(s.Size())
						if s.spare {
							spare += int64(s.Size())
						} else {
							head += int64(s.Size())
						}
					}
					if a.closed {
						promised += head
					} else {
						promised += a.Reserve()
					}
				}
				st := p.Stats()
				if st.Promised != promised || p.spare != spare || st.InUse != inUse {
					t.Fatalf("books say %+v spare %d, counted promised %d spare %d in use %d", st, p.spare, promised, spare, inUse)
				}
				if p.lost != lost {
					t.Fatalf("the books say %d lost, counted %d", p.lost, lost)
				}
				if promised+spare > st.Budget+lost || st.Mapped > st.Budget+lost || st.InUse > st.Mapped {
					t.Fatalf("over budget: %+v spare %d", st, spare)
				}
			},
		})
	})
}

func TestManyJobsShareOnePoolWithoutLosingBytes(t *testing.T) {
	p := New(10 * 8192)
	var wg sync.WaitGroup
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 50 {
				a := open(t, p, 2*8192)
				var sub sync.WaitGroup
				for range 3 {
					sub.Add(1)
					go func() {
						defer sub.Done()
						s := head(t, a, 8000)
						b := s.Bytes()
						b[0], b[7999] = 1, 2
						s.Release()
						if s, ok := a.Spare(8000); ok {
							s.Bytes()[1] = 3
							s.Release()
						}
					}()
				}
				sub.Wait()
				a.Close()
			}
		}()
	}
	wg.Wait()
	if st := p.Stats(); st.Promised != 0 || st.InUse != 0 || st.Mapped > st.Budget {
		t.Fatalf("%+v", st)
	}
}

func BenchmarkHeadAndRelease(b *testing.B) {
	a := open(b, New(1<<20), 1<<20)
	defer a.Close()
	b.ReportAllocs()
	for b.Loop() {
		head(b, a, 100<<10).Release()
	}
}
