// Package peers is object servers on loopback, for tests: each has one device in memory
// and answers GET, HEAD, REPLICATE and SSYNC as Swift's does, or as the test tells it to lie.
// It is no server for anything that is to be kept.
package peers

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"imping/netfast/fake"
	"imping/swift/objhash"
	"imping/swift/timestamp"
)

// Archive is one fragment archive on a peer's device.
type Archive struct {
	Name   string
	Data   timestamp.Timestamp
	Index  int
	Status int               // of the answer
	Fields map[string]string // of the answer
	Body   []byte
	// Say, if set, answers in place of the peer, which hangs up when it returns.
	Say func(c *fake.Conn, a *Archive)
}

// Archive is that of an index as a server answers with it: copy and change at will.
func (o *Object) Archive(index int) *Archive {
	meta := o.Metadata(index)
	fields := map[string]string{
		"Etag":                        `"` + meta["ETag"] + `"`,
		"X-Timestamp":                 o.Data.Normal(),
		"X-Backend-Timestamp":         o.Data.Internal(),
		"X-Backend-Data-Timestamp":    o.Data.Internal(),
		"X-Backend-Durable-Timestamp": o.Data.Internal(),
	}
	for k, v := range meta {
		switch k {
		case "name", "ETag", "X-Timestamp":
		default:
			fields[k] = v
		}
	}
	return &Archive{Name: o.Name, Data: o.Data, Index: index, Status: 200, Fields: fields, Body: slices.Clone(o.Frags[index])}
}

// Head is the head of the answer.
func (a *Archive) Head() string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d Said So\r\n", a.Status)
	for _, k := range slices.Sorted(maps.Keys(a.Fields)) {
		fmt.Fprintf(&b, "%s: %s\r\n", k, a.Fields[k])
	}
	return b.String() + "\r\n"
}

// from is the answer to a range from a byte on.
func (a *Archive) from(first string) *Archive {
	part := *a
	n, err := strconv.Atoi(first)
	if err != nil || n >= len(a.Body) {
		part.Status, part.Body, part.Fields = 416, nil, map[string]string{"Content-Length": "0"}
		return &part
	}
	part.Status, part.Body, part.Fields = 206, a.Body[n:], maps.Clone(a.Fields)
	part.Fields["Content-Range"] = fmt.Sprintf("bytes %d-%d/%d", n, len(a.Body)-1, len(a.Body))
	part.Fields["Content-Length"] = strconv.Itoa(len(part.Body))
	return &part
}

// Get is a GET that a peer was sent.
type Get struct {
	Path, Timestamp string
	Exclude         []int
	Head            string
}

// Peer is an object server with one device.
type Peer struct {
	Addr, Device string
	Hasher       objhash.Hasher

	mu       sync.Mutex
	status   int // of every GET and HEAD, unless 0
	busy     int // how many HEADs are answered 503 before others
	keeps    bool
	moves    bool // an archive that was served whole goes to quarantine
	archives []*Archive
	gets     []Get
	heads    []Get

	hashes   func(part int, c *fake.Conn) (answer []byte)
	asked    int // REPLICATEs
	want     func(s *Session, hash string) string
	script   func(s *Session)
	poison   func(s *Session, method, path string) (word string, ok bool)
	sessions []*Session
	stored   map[string]bool
}

// New starts a peer. It holds nothing, has no hashes, and wants all that it is offered
// and was not sent yet.
func New(t testing.TB, device string, hasher objhash.Hasher) *Peer {
	p := &Peer{Device: device, Hasher: hasher, stored: make(map[string]bool)}
	p.Addr = fake.Peer(t, p.serve)
	return p
}

// Hold adds an archive.
func (p *Peer) Hold(a *Archive) *Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.archives = append(p.archives, a)
	return p
}

// Keep makes the peer hold what it is sent from now on, and show it.
func (p *Peer) Keep() *Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keeps = true
	return p
}

// QuarantineAfterGet makes the peer move aside what it has served whole once.
func (p *Peer) QuarantineAfterGet() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moves = true
}

// Busy makes the peer answer so many HEADs with 503.
func (p *Peer) Busy(times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = times
}

// Tombstone is what a server that holds one says.
func Tombstone(name string, at timestamp.Timestamp) *Archive {
	return &Archive{Name: name, Data: at, Index: -1, Status: 404, Fields: map[string]string{"X-Backend-Timestamp": at.Internal(), "Content-Length": "0"}}
}

// keep holds what a subrequest brought.
func (p *Peer) keep(name string, r Subrequest) {
	at, err := timestamp.Parse(r.Fields["X-Timestamp"])
	if err != nil {
		return
	}
	switch r.Method {
	case "DELETE":
		p.archives = []*Archive{Tombstone(name, at)}
	case "POST":
		for _, a := range p.archives {
			if a.Name == name {
				a.Post(at, r.Fields)
			}
		}
	case "PUT":
		fields := maps.Clone(r.Fields)
		fields["Etag"] = fmt.Sprintf("%x", md5.Sum(r.Body))
		fields["X-Backend-Timestamp"], fields["X-Backend-Data-Timestamp"], fields["X-Backend-Durable-Timestamp"] = at.Internal(), at.Internal(), at.Internal()
		index, err := strconv.Atoi(fields["X-Object-Sysmeta-Ec-Frag-Index"])
		if err != nil {
			return
		}
		p.archives = slices.DeleteFunc(p.archives, func(a *Archive) bool { return a.Name == name && a.Data.Before(at) })
		p.archives = append(p.archives, &Archive{Name: name, Data: at, Index: index, Status: 200, Fields: fields, Body: r.Body})
	}
}

// Post shows a .meta file over the archive, as a server does: its fields in place of all
// but system metadata and the content type.
func (a *Archive) Post(at timestamp.Timestamp, meta map[string]string) *Archive {
	for k := range a.Fields {
		if strings.HasPrefix(k, "X-Object-Meta-") {
			delete(a.Fields, k)
		}
	}
	maps.Copy(a.Fields, meta)
	a.Fields["X-Timestamp"], a.Fields["X-Backend-Timestamp"] = at.Normal(), at.Internal()
	return a
}

// Refuse makes the peer answer every GET and HEAD with a status; 0 ends that.
func (p *Peer) Refuse(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

// Gets are the GETs so far.
func (p *Peer) Gets() []Get {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.gets)
}

// Heads are the HEADs so far.
func (p *Peer) Heads() []Get {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heads)
}

func (p *Peer) serve(_ int, c *fake.Conn) {
	for {
		head := c.Head()
		method, path, _ := strings.Cut(head, " ")
		path, _, _ = strings.Cut(path, " ")
		path, err := url.PathUnescape(path)
		if head == "" || err != nil {
			return
		}
		parts := strings.SplitN(path, "/", 4)
		if len(parts) < 3 || parts[1] != p.Device {
			c.Say("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n")
			continue
		}
		part, _ := strconv.Atoi(parts[2])
		switch method {
		case "GET", "HEAD":
			if !p.get(c, method == "HEAD", head, path, "/"+parts[3]) {
				return
			}
		case "REPLICATE":
			if !p.replicate(c, part) {
				return
			}
		case "SSYNC":
			p.ssync(c, head, part)
			return
		default:
			c.Say("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
		}
	}
}

// Field is a field of a head, "" if it is not there.
func Field(head, key string) string {
	for line := range strings.Lines(head) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// get answers a GET, or a HEAD, and reports whether the connection goes on.
func (p *Peer) get(c *fake.Conn, only bool, head, path, name string) bool {
	var prefs []struct {
		Timestamp string
		Exclude   []int
	}
	if err := json.Unmarshal([]byte(Field(head, "X-Backend-Fragment-Preferences")), &prefs); err != nil {
		c.Say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		return true
	}
	g := Get{Path: path, Head: head}
	if len(prefs) > 0 {
		g.Timestamp, g.Exclude = prefs[0].Timestamp, prefs[0].Exclude
	}
	p.mu.Lock()
	status := p.status
	if !only {
		p.gets = append(p.gets, g)
	} else {
		p.heads = append(p.heads, g)
		if p.busy > 0 {
			p.busy--
			status = 503
		}
	}
	a := p.choose(name, g)
	answer := ""
	if a != nil {
		if from, ok := strings.CutPrefix(Field(head, "Range"), "bytes="); ok && a.Status == 200 {
			a = a.from(strings.TrimSuffix(from, "-"))
		}
		answer = a.Head()
		if only {
			answer = strings.TrimSuffix(answer, "\r\n") + "X-Backend-Fragments: " + p.fragments(name) + "\r\n\r\n"
		}
	}
	p.mu.Unlock()
	if status == 0 && a == nil {
		status = 404
	}
	switch {
	case status != 0 && only:
		c.Say(fmt.Sprintf("HTTP/1.1 %d Said So\r\nContent-Length: 5\r\n\r\n", status))
	case status != 0:
		c.Say(fmt.Sprintf("HTTP/1.1 %d Said So\r\nContent-Length: 5\r\n\r\nsorry", status))
	case only:
		c.Say(answer)
	case a.Say != nil:
		a.Say(c, a)
		return false
	default:
		c.Say(answer)
		c.Write(a.Body)
		p.mu.Lock()
		if p.moves {
			p.moves = false
			p.archives = slices.DeleteFunc(p.archives, func(x *Archive) bool { return x == a })
		}
		p.mu.Unlock()
	}
	return true
}

// fragments is the X-Backend-Fragments of an object.
func (p *Peer) fragments(name string) string {
	sets := make(map[string][]int)
	for _, a := range p.archives {
		if a.Name == name && a.Status == 200 {
			sets[a.Data.Internal()] = append(sets[a.Data.Internal()], a.Index)
		}
	}
	text, _ := json.Marshal(sets) // strings and numbers
	return string(text)
}

// choose is Swift's choice: the highest acceptable index at the preferred time, else the
// highest of the newest time of which not everything was refused (Swift:
// obj/diskfile.py, ECDiskFileManager._process_ondisk_files).
func (p *Peer) choose(name string, g Get) *Archive {
	sets := make(map[string][]*Archive)
	for _, a := range p.archives {
		if a.Name == name {
			sets[a.Data.Internal()] = append(sets[a.Data.Internal()], a)
		}
	}
	highest := func(set []*Archive, exclude []int) (best *Archive) {
		for _, a := range set {
			if !slices.Contains(exclude, a.Index) && (best == nil || a.Index > best.Index) {
				best = a
			}
		}
		return best
	}
	if a := highest(sets[g.Timestamp], g.Exclude); a != nil {
		return a
	}
	delete(sets, g.Timestamp)
	newest := slices.Sorted(maps.Keys(sets))
	if len(newest) == 0 {
		return nil
	}
	return highest(sets[newest[len(newest)-1]], nil)
}

// Hashes sets what answers REPLICATE: a whole answer, head included, after which the
// connection goes on; nil when the script said all that is to be said.
func (p *Peer) Hashes(answer func(part int, c *fake.Conn) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hashes = answer
}

// Asked is how many REPLICATEs there were.
func (p *Peer) Asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// OK is an answer 200 with a body.
func OK(body []byte) []byte {
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
}

// Status is an answer without a body.
func Status(status int) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d Said So\r\nContent-Length: 0\r\n\r\n", status)
}

var noHashes = OK([]byte("\x80\x02}q\x00."))

func (p *Peer) replicate(c *fake.Conn, part int) bool {
	p.mu.Lock()
	p.asked++
	hashes := p.hashes
	p.mu.Unlock()
	answer := noHashes
	if hashes != nil {
		answer = hashes(part, c)
	}
	c.Write(answer)
	return answer != nil
}
