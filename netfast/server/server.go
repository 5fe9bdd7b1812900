// Package server is Swift's object server: it answers for the objects on the local devices,
// to proxies, to other servers' daemons and to whoever else speaks to a replication port. A
// file holds a verb. How bytes come and go on a connection is netfast's, how they lie on disk
// io/diskfile's; what makes the process a daemon is in imping/daemon and cmd/imping.
package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime/debug"
	"sync"
	"time"
	"unicode/utf8"

	"imping/codec"
	"imping/daemon"
	"imping/io/batch"
	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/policy"
)

// Server answers requests on any number of listeners. It is goroutine-safe.
type Server struct {
	conf    *Config
	log     *daemon.Logger
	statsd  *daemon.Statsd
	swift   *policy.Swift
	stores  map[int]*store
	engines *batch.Engines  // of all stores
	client  *netfast.Client // for the updates of containers
	verbs   map[string]verb
	app     handler // the pipeline, with do at its end
	now     func() time.Time

	replication semaphore     // of SSYNCs, replication_concurrency
	closing     chan struct{} // closed by Close: nobody waits for a lock any more
	slots       chan struct{} // a token for each connection

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]bool
	conns     map[*connection]bool
	stopping  bool           // nothing new is accepted
	ending    bool           // nor is anything under way finished
	once      sync.Once      // closes closing
	running   sync.WaitGroup // listeners and connections
}

// store is what the server has of one policy.
type store struct {
	*diskfile.Manager
	policy *policy.Policy
	code   *codec.Code // nil = headers can not be checked
}

// handler answers; a filter of the pipeline is a handler around another one.
type handler func(*Request) *Response

// New makes a server that answers as conf says, for the policies of swift.
func New(conf *Config, swift *policy.Swift, log *daemon.Logger) (*Server, error) {
	s := &Server{
		conf: conf, log: log, swift: swift, now: time.Now,
		stores:      map[int]*store{},
		verbs:       maps.Clone(verbs),
		replication: newSemaphore(conf.ReplicationConcurrency),
		closing:     make(chan struct{}),
		slots:       make(chan struct{}, max(1, conf.MaxClients)),
		listeners:   map[net.Listener]bool{},
		conns:       map[*connection]bool{},
	}
	s.client = netfast.NewClient(netfast.Options{ConnTimeout: conf.ConnTimeout, NodeTimeout: conf.NodeTimeout})
	var err error
	if s.statsd, err = daemon.NewStatsd(conf.Section, "object-server"); err != nil {
		return nil, err
	}
	if s.engines, err = batch.New(conf.IOEngine, log.Warnf); err != nil {
		return nil, fmt.Errorf("%s: %w", conf.Path, err)
	}
	reserve, err := diskfile.ParseReserve(conf.FallocateReserve)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", conf.Path, err)
	}
	for _, p := range swift.Policies {
		st := &store{policy: p}
		st.Manager = diskfile.NewManager(diskfile.Config{
			Devices: conf.Devices, MountCheck: conf.MountCheck, Policy: p, Hasher: swift.Hasher(),
			ReclaimAge: conf.ReclaimAge, CommitWindow: conf.CommitWindow,
			Reserve: reserve, NoFallocate: conf.DisableFallocate, BytesPerSync: conf.BytesPerSync, Engine: s.engines.For,
			Warn: log.Warnf,
		})
		if p.Type == policy.ErasureCoding {
			// A type that codec has not is served all the same: its headers go unseen.
			if code, err := codec.New(codec.Scheme{Type: p.ECType, K: p.Data, M: p.Parity}); err == nil {
				st.code = code
			}
		}
		s.stores[p.Index] = st
	}
	s.app = s.Do
	for i := len(conf.Pipeline) - 1; i >= 0; i-- {
		filter, err := s.filter(conf.Pipeline[i])
		if err != nil {
			return nil, err
		}
		s.app = filter(s.app)
	}
	return s, nil
}

// Policies are those that are served.
func (s *Server) Policies() []*policy.Policy { return s.swift.Policies }

// Do answers a request or a subrequest as the end of the pipeline does: errors have become
// answers, and the request line was logged. Swift: obj/server.py, ObjectController.__call__.
func (s *Server) Do(r *Request) *Response {
	start := s.now()
	resp := s.try(r)
	resp.complete(r.Method)
	spent := s.now().Sub(start) - r.waited
	s.count(r.Method, resp.Status, spent)
	if s.conf.LogRequests {
		s.logRequest(r, resp, spent)
	}
	if slow := s.conf.Slow - spent; slow > 0 && (r.Method == "PUT" || r.Method == "DELETE") {
		time.Sleep(slow)
	}
	return resp
}

// count tells statsd about a request. Swift: common/utils.py, timing_stats.
func (s *Server) count(method string, status int, spent time.Duration) {
	v, known := s.verbs[method]
	switch {
	case !known || status == 405:
	case status >= 500:
		s.statsd.Timing(method+".errors.timing", spent, v.sampled)
	default:
		s.statsd.Timing(method+".timing", spent, v.sampled)
	}
}

func (s *Server) try(r *Request) (resp *Response) {
	defer func() {
		if p := recover(); p != nil {
			s.bug(r, p)
			resp = answer(500)
		}
	}()
	if r.Path == "" || !utf8.ValidString(r.Path) {
		return &Response{Status: 412, Body: []byte("Invalid UTF8 or contains NULL")}
	}
	v, ok := s.verbs[r.Method]
	if !ok || v.replication && !s.conf.ReplicationServer {
		return answer(405)
	}
	resp, err := v.serve(s, r)
	if err == nil {
		return resp
	}
	if answered := (*Response)(nil); errors.As(err, &answered) {
		return answered
	}
	s.errorf(r, "ERROR __call__ error with %s %s : %v", r.Method, netfast.Quote(r.Path), err)
	return answer(500)
}

// bug logs a panic with its stack.
func (s *Server) bug(r *Request, p any) {
	s.log.Criticalf("BUG: %s %s: %v\n%s", r.Method, netfast.Quote(r.Path), p, debug.Stack())
}

// errorf logs under ERROR, with the request's transaction as Swift's formatter adds it.
func (s *Server) errorf(r *Request, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if txn := r.Header.Get("X-Trans-Id"); txn != "" {
		text += " (txn: " + txn + ")"
	}
	s.log.Errorf("%s", text)
}

// Serve accepts connections on l, no more at a time than max_clients allows for all
// listeners together, until l fails or the server ends; then the error is nil. l is closed.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = true
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for {
		s.slots <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			<-s.slots
			if s.isStopping() {
				return nil
			}
			if netErr := net.Error(nil); errors.As(err, &netErr) && isPassing(err) {
				s.log.Errorf("cannot accept a connection: %v", err)
				time.Sleep(acceptPause)
				continue
			}
			return fmt.Errorf("cannot accept connections on %s: %w", l.Addr(), err)
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			<-s.slots
			return fmt.Errorf("cannot serve %T: not TCP", c)
		}
		s.start(tcp)
	}
}

// acceptPause is waited when the process has no descriptors or memory left: what others
// give back is looked for then.
const acceptPause = 100 * time.Millisecond

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Finish stops accepting, closes idle connections, and waits for the requests under way,
// until ctx ends at most. Close is still to be called.
func (s *Server) Finish(ctx context.Context) error {
	s.stop(s.lastCall)
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lastCallTime is how long an idle connection stays when the server finishes: a request may be on its way,
// and would be lost with it.
const lastCallTime = time.Second

// lastCall ends a connection on which nothing comes any more. The mutex is held.
func (s *Server) lastCall(c *connection) {
	if !c.idle {
		return // it ends when it would become so
	}
	time.AfterFunc(lastCallTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.idle {
			c.Interrupt(errStopping)
		}
	})
}

// Close stops accepting and ends all connections, requests under way too, and returns when
// no goroutine is left.
func (s *Server) Close() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.stop(func(c *connection) { c.Interrupt(errStopping) })
	s.once.Do(func() { close(s.closing) })
	s.running.Wait()
	s.engines.Close()
	s.client.Close()
	s.statsd.Close()
}

func (s *Server) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

var errStopping = errors.New("the server is stopping")

func (s *Server) stop(each func(*connection)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		each(c)
	}
}

// semaphore bounds what runs at once; nil does not.
type semaphore chan struct{}

func newSemaphore(n int) semaphore {
	if n <= 0 {
		return nil
	}
	return make(semaphore, n)
}

// tryAcquire never waits.
func (s semaphore) tryAcquire() bool {
	if s == nil {
		return true
	}
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s semaphore) release() {
	if s != nil {
		<-s
	}
}
