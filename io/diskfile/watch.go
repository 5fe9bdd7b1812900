package diskfile

// Watch is told when calls to a disk begin, get on and end, so that one that hangs in the
// kernel can be noticed: nothing else can be done about it. A call that only waits for a
// lock gets on all the time. The methods may be called from any goroutine.
type Watch interface {
	Begin() // a call begins; several may be under way
	Step()  // one got on: a directory, a file or a read of many was dealt with
	End()   // one has ended
}

// Watched is a Manager of the same objects whose calls, and those of the Objects that it
// opens, are told to w. Paths and names cost no call.
func (m *Manager) Watched(w Watch) *Manager {
	watched := *m
	watched.watch = w
	return &watched
}

// nobody watches.
type nobody struct{}

func (nobody) Begin() {}
func (nobody) Step()  {}
func (nobody) End()   {}
