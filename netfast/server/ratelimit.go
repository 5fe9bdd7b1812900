package server

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"imping/swift/conf"
)

// limitedMethods have a rate of their own. Swift: common/middleware/backend_ratelimit.py.
var limitedMethods = []string{"GET", "HEAD", "PUT", "POST", "DELETE", "UPDATE", "REPLICATE"}

// ratelimit answers 529 to requests that are more than a device shall get in a second, of
// each method and in all. Swift: common/middleware/backend_ratelimit.py (newer than 2.30.1).
type ratelimit struct {
	s       *Server
	section *conf.Section
	path    string
	reload  time.Duration

	mu       sync.Mutex
	expected bool // the file was there last time, or is named by the conf
	looked   time.Time
	buffer   float64               // seconds whose requests may come at once
	rates    map[string]float64    // per device and second by method, "" = all together; 0 = any number
	next     map[[2]string]float64 // by device and method: when the next request may come, in seconds
}

func newRatelimit(s *Server, sec *conf.Section) (*ratelimit, error) {
	l := &ratelimit{s: s, section: sec, next: map[[2]string]float64{}, looked: s.now()}
	l.path, l.expected = sec.Get("backend_ratelimit_conf_path", ""), sec.Has("backend_ratelimit_conf_path")
	if !l.expected {
		l.path = filepath.Join(sec.Get("swift_dir", "/etc/swift"), "backend-ratelimit.conf")
	}
	var err error
	if l.reload, err = sec.Seconds("config_reload_interval", time.Minute); err != nil {
		return nil, err
	}
	if err := l.apply(sec); err != nil {
		return nil, err
	}
	l.load()
	return l, nil
}

// apply takes the limits of sec.
func (l *ratelimit) apply(sec *conf.Section) error {
	buffer, err := sec.NonNegativeFloat("requests_per_device_rate_buffer", 1)
	if err != nil {
		return err
	}
	rates := map[string]float64{}
	if rates[""], err = sec.NonNegativeFloat("requests_per_device_per_second", 0); err != nil {
		return err
	}
	for _, method := range limitedMethods {
		if rates[method], err = sec.NonNegativeFloat(strings.ToLower(method)+"_requests_per_device_per_second", 0); err != nil {
			return err
		}
	}
	l.buffer, l.rates = buffer, rates
	return nil
}

// load lets a file of its own overrule the filter's section; the section counts alone for what
// the file does not say. A file that is missing or wrong changes nothing.
func (l *ratelimit) load() {
	if _, err := os.Stat(l.path); err != nil {
		if l.expected {
			l.s.log.Warnf("Failed to load config file, config unchanged: %v", err)
		}
		l.expected = false
		return
	}
	own, err := conf.Read(l.path, "backend_ratelimit")
	if err == nil {
		values := map[string]string{}
		for _, sec := range []*conf.Section{l.section, own} {
			for _, key := range sec.Keys() {
				values[key] = sec.Get(key, "")
			}
		}
		before := maps.Clone(l.rates)
		if err = l.apply(conf.NewSection("backend_ratelimit", l.path, values)); err == nil && !maps.Equal(before, l.rates) {
			l.s.log.Infof("Loaded config file %s, config changed", l.path)
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		l.s.log.Warnf("Failed to load config file, config unchanged: %v", err)
	} else if err != nil {
		l.s.log.Warnf("Invalid config file %s, config unchanged: %v", l.path, err)
	}
	l.expected = true
}

func (l *ratelimit) filter(next handler) handler {
	return func(r *Request) *Response {
		if !l.allow(r) {
			return answer(529)
		}
		return next(r)
	}
}

func (l *ratelimit) allow(r *Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.s.now()
	if l.reload > 0 && now.Sub(l.looked) >= l.reload {
		l.load()
		l.looked = now
	}
	if _, limited := l.rates[r.Method]; !limited || r.Method == "" {
		return true
	}
	segs, err := splitPath(r.Path, 1, 3)
	if err != nil {
		return true // a healthcheck, or one that is refused anyway
	}
	if _, err := strconv.Atoi(segs[1]); err != nil {
		return true
	}
	seconds := float64(now.UnixNano()) / 1e9
	return l.one(segs[0], "", seconds) && l.one(segs[0], r.Method, seconds)
}

// one counts a request against one rate. Swift: common/utils, AbstractRateLimiter.
func (l *ratelimit) one(device, method string, now float64) bool {
	rate := l.rates[method]
	if rate <= 0 {
		return true
	}
	key := [2]string{device, method}
	at, known := l.next[key]
	if !known {
		// What is none is refused later, and must not be remembered: there are any number of names.
		if info, err := os.Stat(filepath.Join(l.s.conf.Devices, device)); err != nil || !info.IsDir() {
			return true
		}
		key = [2]string{strings.Clone(device), method} // not the whole path
	}
	if now-at > l.buffer {
		at = now - l.buffer
	}
	if now < at {
		return false
	}
	l.next[key] = at + 1/rate
	return true
}
