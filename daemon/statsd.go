package daemon

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"imping/swift/conf"
)

// Statsd sends what Swift sends to statsd, under its names. The zero value and nil send nothing. It is
// goroutine-safe, and who tells it something never waits: what can not be sent is lost.
type Statsd struct {
	host, port, prefix string
	rate, factor       float64

	closing context.Context
	close   context.CancelFunc
	lookups sync.WaitGroup
	dialUDP func(ctx context.Context, network, address string) (net.Conn, error)

	mu      sync.Mutex
	closed  bool
	conn    net.Conn  // nil: there is none
	looked  time.Time // when the host was looked up last
	looking bool      // a lookup is under way
	waiting [][]byte  // told while the first one is, maxWaiting lines at most
}

// maxWaiting is how many lines are kept for an address: as many as a socket takes at once as a rule.
const maxWaiting = 200

// statsdLookup is how long an address is believed: whoever moves his statsd by its name need not
// restart the daemons.
const statsdLookup = time.Minute

// NewStatsd reads the options log_statsd_host, _port, _default_sample_rate, _sample_rate_factor and
// _metric_prefix. Names begin with that prefix and log_name, default name. Swift: common/utils.py, get_logger and StatsdClient.
func NewStatsd(sec *conf.Section, name string) (*Statsd, error) {
	s := &Statsd{host: sec.Get("log_statsd_host", ""), dialUDP: new(net.Dialer).DialContext}
	s.closing, s.close = context.WithCancel(context.Background())
	port, err := sec.Int("log_statsd_port", 8125)
	if err != nil {
		return nil, err
	}
	s.port = strconv.Itoa(port)
	if s.rate, err = sec.Float("log_statsd_default_sample_rate", 1); err != nil {
		return nil, err
	}
	if s.factor, err = sec.Float("log_statsd_sample_rate_factor", 1); err != nil {
		return nil, err
	}
	for _, part := range []string{sec.Get("log_statsd_metric_prefix", ""), sec.Get("log_name", name)} {
		if part != "" {
			s.prefix += part + "."
		}
	}
	return s, nil
}

// Increment counts something.
func (s *Statsd) Increment(metric string) { s.Add(metric, 1) }

// Add counts n of something; Swift tells of none, too.
func (s *Statsd) Add(metric string, n int) { s.send(metric, strconv.Itoa(n), "c", -1) }

// Timing tells how long something took. rate is the share of calls that is told; below 0 it is the default.
func (s *Statsd) Timing(metric string, d time.Duration, rate float64) {
	if s.sends() {
		s.send(metric, milliseconds(d), "ms", rate)
	}
}

// Transfer tells how long each thousand bytes took.
func (s *Statsd) Transfer(metric string, d time.Duration, bytes int64) {
	if bytes > 0 && s.sends() {
		s.send(metric, strconv.FormatFloat(d.Seconds()*1000/float64(bytes)*1000, 'f', -1, 64), "ms", -1)
	}
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', -1, 64)
}

// sends is false where nobody listens.
func (s *Statsd) sends() bool { return s != nil && s.host != "" }

func (s *Statsd) send(metric, value, kind string, rate float64) {
	if !s.sends() {
		return
	}
	if rate < 0 {
		rate = s.rate
	}
	rate *= s.factor
	line := append([]byte(s.prefix), metric...)
	line = append(append(append(line, ':'), value...), '|')
	line = append(line, kind...)
	if rate < 1 {
		if rand.Float64() >= rate {
			return
		}
		line = strconv.AppendFloat(append(line, "|@"...), rate, 'f', -1, 64)
	}
	s.mu.Lock()
	c := s.socket()
	if c == nil && s.looking && len(s.waiting) < maxWaiting {
		s.waiting = append(s.waiting, line)
	}
	s.mu.Unlock()
	if c != nil {
		_, _ = c.Write(line) // as a rule nobody listens, if it fails
	}
}

// socket is connected to the address that the host had when it was looked up last. A name is looked up by a goroutine of its own:
// resolvers take their time. The mutex is held.
func (s *Statsd) socket() net.Conn {
	if s.closed || time.Since(s.looked) < statsdLookup {
		return s.conn
	}
	s.looked = time.Now()
	if _, err := netip.ParseAddr(s.host); err == nil {
		s.use(s.dial())
		return s.conn
	}
	s.looking = true
	s.lookups.Go(func() {
		c := s.dial()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.use(c)
		if s.conn != nil {
			for _, line := range s.waiting {
				_, _ = s.conn.Write(line)
			}
		}
		s.looking, s.waiting = false, nil
	})
	return s.conn
}

// dial is nil when there is no such host.
func (s *Statsd) dial() net.Conn {
	ctx, cancel := context.WithTimeout(s.closing, lookupTime)
	defer cancel()
	c, err := s.dialUDP(ctx, "udp", net.JoinHostPort(s.host, s.port))
	if err != nil {
		return nil
	}
	return c
}

// lookupTime is how long a resolver is waited for; closeTime is, where lines wait for it too, when the daemon ends.
const (
	lookupTime = 10 * time.Second
	closeTime  = time.Second
)

// use takes a socket, if there is one, in place of the one before. The mutex is held.
func (s *Statsd) use(c net.Conn) {
	if c == nil {
		return
	}
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = c
}

// Close closes the socket; what is told afterwards is lost.
func (s *Statsd) Close() {
	if s == nil || s.close == nil {
		return
	}
	s.mu.Lock()
	s.closed = true // no lookup begins any more
	patience := time.Duration(0)
	if len(s.waiting) > 0 {
		patience = closeTime
	}
	s.mu.Unlock()
	defer time.AfterFunc(patience, s.close).Stop()
	s.lookups.Wait()
	s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}
