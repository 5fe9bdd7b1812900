package peers

import (
	"bufio"
	"fmt"
	"io"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	"imping/netfast/fake"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// Subrequest is one that a receiver took whole.
type Subrequest struct {
	Method, Path string            // the path as it came, quoted
	Fields       map[string]string // of the head
	Body         []byte
}

// Session is a receiver's end of one SSYNC.
type Session struct {
	Peer *Peer
	Conn *fake.Conn
	Head string
	Part int
	N    int // of the peer's sessions, from 0

	Offers []string // lines
	Got    []Subrequest
	Partly string // path of a PUT that was cut off
	Ended  bool   // the sender said :UPDATES: END

	in     *bufio.Reader
	over   chan struct{} // closed when the script has returned
	before *Session
}

// Want sets what a peer wants of an offered hash: some of "d" and "m", "" for nothing.
func (p *Peer) Want(want func(s *Session, hash string) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = want
}

// Poison sets at which subrequests a peer goes wrong when their head has been read: it
// stops there, with a last word if say returns one, else without any; ok means that it is
// taken.
func (p *Peer) Poison(say func(s *Session, method, path string) (word string, ok bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.poison = say
}

// Script sets what a peer does with sessions, instead of Session.Serve.
func (p *Peer) Script(script func(s *Session)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = script
}

// Sessions are copies of all sessions as far as they have come.
func (p *Peer) Sessions() []Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Session, len(p.sessions))
	for i, s := range p.sessions {
		all[i] = *s
	}
	return all
}

// Stored are the subrequests of all sessions, in order.
func (p *Peer) Stored() []Subrequest {
	var all []Subrequest
	for _, s := range p.Sessions() {
		all = append(all, s.Got...)
	}
	return all
}

func (p *Peer) ssync(c *fake.Conn, head string, part int) {
	p.mu.Lock()
	s := &Session{Peer: p, Conn: c, Head: head, Part: part, N: len(p.sessions), in: bufio.NewReader(httputil.NewChunkedReader(c.In)), over: make(chan struct{})}
	if s.N > 0 {
		s.before = p.sessions[s.N-1]
	}
	p.sessions = append(p.sessions, s)
	script := p.script
	p.mu.Unlock()
	if script == nil {
		script = (*Session).Serve
	}
	defer close(s.over)
	script(s)
}

// Serve is the whole of a receiver.
func (s *Session) Serve() {
	s.Greet()
	if !s.ReadOffers() {
		return
	}
	s.Answer()
	if s.ReadUpdates() {
		s.Verdict()
		s.Conn.Hang()
	}
}

// Greet sends the answer's head and the empty line before any lock is taken.
func (s *Session) Greet() {
	s.Conn.Say("HTTP/1.1 200 OK\r\nX-Backend-Accept-No-Commit: True\r\nTransfer-Encoding: chunked\r\n\r\n")
	s.Say("\r\n")
}

// Say sends a chunk.
func (s *Session) Say(text string) { s.Conn.Say(fmt.Sprintf("%x\r\n%s\r\n", len(text), text)) }

// ReadOffers takes the missing check.
func (s *Session) ReadOffers() bool {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return false
		}
		switch line = strings.TrimSpace(line); line {
		case ":MISSING_CHECK: START":
		case ":MISSING_CHECK: END":
			return true
		default:
			s.Peer.mu.Lock()
			s.Offers = append(s.Offers, line)
			s.Peer.mu.Unlock()
		}
	}
}

// Answer says what is wanted of the offers, when the session before has given its locks
// back: what was sent in it has all arrived.
func (s *Session) Answer() {
	if s.before != nil {
		<-s.before.over
	}
	s.Peer.mu.Lock()
	want := s.Peer.want
	s.Peer.mu.Unlock()
	s.Say(":MISSING_CHECK: START\r\n")
	for _, line := range s.Offers {
		hash, _, _ := strings.Cut(line, " ")
		parts := s.Peer.misses(hash, strings.Contains(line, " m:"))
		if s.Peer.keeps {
			parts = s.lacks(line)
		}
		if want != nil {
			parts = want(s, hash)
		}
		if parts != "" {
			s.Say(hash + " " + parts + "\r\n")
		}
	}
	s.Say(":MISSING_CHECK: END\r\n")
}

// misses is what a peer that takes everything wants of an offer.
func (p *Peer) misses(hash string, meta bool) (parts string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stored["d"+hash] {
		parts = "d"
	}
	if meta && !p.stored["m"+hash] {
		parts += "m"
	}
	return parts
}

// lacks is what a peer that keeps what it is sent wants of an offer: what it shows is older
// or not there (Swift: obj/ssync_receiver.py, encode_wanted).
func (s *Session) lacks(line string) string {
	words := append(strings.Fields(line), "")
	data, err := timestamp.Parse(words[1])
	if err != nil {
		return ""
	}
	index, err := strconv.Atoi(Field(s.Head, "X-Backend-Ssync-Frag-Index"))
	if err != nil {
		return ""
	}
	meta := data
	for item := range strings.SplitSeq(words[2], ",") {
		if delta, ok := strings.CutPrefix(item, "m:"); ok {
			n, err := strconv.ParseInt(delta, 16, 64)
			if err != nil {
				return ""
			}
			meta = data.Add(n)
		}
	}
	s.Peer.mu.Lock()
	defer s.Peer.mu.Unlock()
	for _, a := range s.Peer.archives {
		if objhash.Hex(s.Peer.Hasher.Object(a.Name)) != words[0] || a.Status == 200 && a.Index != index {
			continue
		}
		shown, err := timestamp.Parse(a.Fields["X-Backend-Timestamp"])
		switch {
		case err != nil:
			return ""
		case data.After(a.Data) && meta.After(shown):
			return "dm"
		case data.After(a.Data):
			return "d"
		case meta.After(shown):
			return "m"
		}
		return ""
	}
	return "dm"
}

// store remembers a subrequest that was taken.
func (s *Session) store(r Subrequest) {
	name, err := url.PathUnescape(r.Path)
	if err != nil {
		name = r.Path
	}
	hash := objhash.Hex(s.Peer.Hasher.Object(name))
	s.Peer.mu.Lock()
	defer s.Peer.mu.Unlock()
	s.Got = append(s.Got, r)
	if s.Peer.keeps {
		s.Peer.keep(name, r)
	}
	if r.Method == "POST" {
		s.Peer.stored["m"+hash] = true
	} else {
		s.Peer.stored["d"+hash] = true
	}
}

// ReadUpdates takes subrequests and reports whether their end was reached.
func (s *Session) ReadUpdates() bool {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return false
		}
		switch line = strings.TrimSpace(line); line {
		case "", ":UPDATES: START":
		case ":UPDATES: END":
			s.Peer.mu.Lock()
			s.Ended = true
			s.Peer.mu.Unlock()
			return true
		default:
			if !s.ReadUpdate(line) {
				return false
			}
		}
	}
}

// ReadUpdate takes the subrequest that begins with line.
func (s *Session) ReadUpdate(line string) bool {
	method, path, _ := strings.Cut(line, " ")
	r := Subrequest{Method: method, Path: path, Fields: make(map[string]string)}
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			break
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
		r.Fields[key] = value
	}
	s.Peer.mu.Lock()
	poison := s.Peer.poison
	s.Peer.mu.Unlock()
	if poison != nil {
		if word, ok := poison(s, method, path); !ok {
			if word == "" {
				s.Conn.SetLinger(0)
			} else {
				s.Say(word)
			}
			return false
		}
	}
	if length, ok := r.Fields["Content-Length"]; ok {
		n, err := strconv.Atoi(length)
		if err != nil || n < 0 || n > 1<<30 {
			return false
		}
		r.Body = make([]byte, n)
		if _, err := io.ReadFull(s.in, r.Body); err != nil {
			s.Peer.mu.Lock()
			s.Partly = path
			s.Peer.mu.Unlock()
			return false
		}
	}
	s.store(r)
	return true
}

// Verdict says that all went well.
func (s *Session) Verdict() {
	s.Say(":UPDATES: START\r\n")
	s.Say(":UPDATES: END\r\n")
}
