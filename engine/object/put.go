package object

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"imping/codec"
	"imping/engine/rescue"
	"imping/io/digest"
	"imping/netfast"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// PutOptions say what is stored with an object.
type PutOptions struct {
	Timestamp timestamp.Timestamp // zero: now
	Size      int64               // negative: until the end of the body
	ETag      string              // MD5 that the body must have, in hexadecimal; "": any
	Fields    []netfast.Field     // Content-Type, X-Object-Meta-..., X-Delete-At, ...
}

// Stored is what came of a PUT.
type Stored struct {
	Timestamp timestamp.Timestamp
	Size      int64
	ETag      string
	Nodes     []string // that confirmed a durable archive
	Failed    []string // and why others did not
}

// Put stores an object: cut into segments, each encoded, the archives sent to all primaries at once, or to handoffs in place of those that
// can not be reached, and made durable when enough of them have theirs whole (rule 28). Without that nothing is durable anywhere.
// Errors: a *StatusError, 409 if something newer is there, 412, 422 for a body of another MD5 or length, 503 without a quorum;
// those of the body. Swift: proxy/controllers/obj.py, ECObjectController, MIMEPutter.
func (c *Client) Put(ctx context.Context, pol *policy.Policy, name string, body io.Reader, o PutOptions) (*Stored, error) {
	pl, err := c.place(pol)
	if err != nil {
		return nil, err
	}
	if o.Timestamp.IsZero() {
		o.Timestamp = timestamp.FromTime(time.Now())
	}
	orders, fields, err := c.orders(ctx, pl, name, o.Timestamp, o.Fields)
	if err != nil {
		return nil, err
	}
	o.Fields = fields
	p := &put{Client: c, place: pl, PutOptions: o, name: name, part: c.partition(pl, name), boundary: rand.Text(), quorum: quorum(pl)}
	defer p.close()
	if err := p.connect(ctx, orders); err != nil {
		return nil, err
	}
	if err := p.send(ctx, body); err != nil {
		return nil, err
	}
	return p.commit(ctx)
}

// put is a PUT on its way.
type put struct {
	*Client
	*place
	PutOptions
	name     string
	part     int
	boundary string
	quorum   int

	mu      sync.Mutex
	targets []*target // that are still in it
	failed  []string
	whole   hash.Hash
	sums    []*digest.Stream // of the archives, by fragment index: those of duplicates are the same
	size    int64
}

// target is a device that gets an archive.
type target struct {
	*node // whose index is that of the archive
	conn  *netfast.Conn
	most  time.Duration // that a chunk may take, whatever progress it makes; 0: for ever
	stop  func() bool
	req   *netfast.Request
	out   net.Buffers
	head  []byte
}

func (t *target) close() {
	t.stop()
	t.conn.Close()
}

func (p *put) close() {
	for _, t := range p.targets {
		t.close()
	}
}

// connect finds a device for each archive. orders are what each is told besides.
func (p *put) connect(ctx context.Context, orders [][]netfast.Field) error {
	primaries, handoffs := p.nodes(p.place, p.part)
	spare := make(chan *node, len(handoffs))
	for _, n := range handoffs {
		spare <- n
	}
	close(spare)
	var refused []int // statuses that no handoff would change
	each(primaries, func(i int, n *node) {
		index := n.index
		for n != nil {
			t, status, err := p.open(ctx, &node{n.addr, n.device, index}, orders[i])
			p.mu.Lock()
			if err == nil {
				p.targets = append(p.targets, t)
				p.mu.Unlock()
				return
			}
			p.failed = append(p.failed, fmt.Sprintf("%v: %v", n, err))
			if status == 409 || status == 412 {
				refused = append(refused, status)
				p.mu.Unlock()
				return
			}
			p.mu.Unlock()
			if ctx.Err() != nil {
				return
			}
			n = <-spare // nil when there are no more
		}
	})
	if err := cause(ctx); err != nil {
		return err
	}
	for _, status := range []int{412, 409} {
		if slices.Contains(refused, status) {
			return &StatusError{status, fmt.Sprintf("%s is not stored: %s", p.name, strings.Join(p.failed, "; "))}
		}
	}
	return p.enough("can be reached")
}

// enough is the error of too few targets.
func (p *put) enough(what string) error {
	if len(p.targets) >= p.quorum {
		return nil
	}
	return &StatusError{503, fmt.Sprintf("%s is not stored: %d devices %s, and %d are needed: %s", p.name, len(p.targets), what, p.quorum, strings.Join(p.failed, "; "))}
}

// open asks a device whether it takes an archive.
func (p *put) open(ctx context.Context, n *node, order []netfast.Field) (*target, int, error) {
	req := &netfast.Request{Method: "PUT", Path: path(n, p.part, p.name), Header: []netfast.Field{
		{Key: "X-Timestamp", Value: p.Timestamp.Internal()},
		{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(p.pol.Index)},
		{Key: "Transfer-Encoding", Value: "chunked"},
		{Key: "Expect", Value: "100-continue"},
		{Key: "X-Backend-Obj-Metadata-Footer", Value: "yes"},
		{Key: "X-Backend-Obj-Multiphase-Commit", Value: "yes"},
		{Key: "X-Backend-Obj-Multipart-Mime-Boundary", Value: p.boundary},
	}}
	if p.Size >= 0 {
		req.Header = append(req.Header, netfast.Field{Key: "X-Backend-Obj-Content-Length", Value: strconv.FormatInt(p.code.ArchiveSize(p.Size, p.pol.SegmentSize), 10)})
	}
	if p.ring.NextPartPower >= 0 {
		req.Header = append(req.Header, netfast.Field{Key: "X-Backend-Next-Part-Power", Value: strconv.Itoa(p.ring.NextPartPower)})
	}
	req.Header = append(append(req.Header, order...), p.Fields...)
	if value(p.Fields, "Content-Type") == "" {
		req.Header = append(req.Header, netfast.Field{Key: "Content-Type", Value: "application/octet-stream"})
	}
	conn, err := p.HTTP.Dial(ctx, n.addr, p.ConnTimeout, p.NodeTimeout)
	if err != nil {
		return nil, 0, err
	}
	t := &target{node: n, conn: conn, most: patience * p.NodeTimeout, stop: conn.InterruptOn(ctx), req: req}
	status, err := func() (int, error) {
		if err := conn.Send(req, p.HTTP.UserAgent()); err != nil {
			return 0, err
		}
		resp, err := conn.Await(req)
		switch {
		case err != nil:
			return 0, err
		case resp.Status != 100:
			return resp.Status, fmt.Errorf("answered %d", resp.Status)
		case resp.Header("X-Obj-Metadata-Footer") != "yes" || resp.Header("X-Obj-Multiphase-Commit") != "yes":
			return 0, errors.New("knows no PUT in phases")
		}
		return 100, nil
	}()
	if err != nil {
		t.close()
		return nil, status, err
	}
	return t, status, nil
}

// on does something with all targets at once. Those for which it fails are out.
func (p *put) on(what string, do func(t *target) error) error {
	errs := make([]error, len(p.targets))
	var wg sync.WaitGroup
	for i, t := range p.targets {
		wg.Go(func() { errs[i] = do(t) })
	}
	wg.Wait()
	var left []*target
	for i, t := range p.targets {
		if errs[i] == nil {
			left = append(left, t)
			continue
		}
		p.failed = append(p.failed, fmt.Sprintf("%v: %v", t.node, errs[i]))
		t.close()
	}
	p.targets = left
	return p.enough(what)
}

// send sends all archives, and what is known of them at their end. One segment is read and encoded while the one before is sent.
func (p *put) send(ctx context.Context, body io.Reader) error {
	if err := p.on("take an archive", func(t *target) error {
		return t.chunk([]byte("--" + p.boundary + "\r\nX-Document: object body\r\n\r\n"))
	}); err != nil {
		return err
	}
	p.whole = md5.New()
	segment, archive := p.pol.SegmentSize, int64(-1)
	if p.Size >= 0 {
		segment, archive = int(min(int64(segment), max(p.Size, 1))), p.code.ArchiveSize(p.Size, p.pol.SegmentSize)
	}
	for range p.code.N() {
		p.sums = append(p.sums, digest.New(archive))
	}
	var stripes [2][][]byte // fragments of two segments
	for i := range stripes {
		stripes[i] = make([][]byte, p.code.N())
		for j := range stripes[i] {
			stripes[i][j] = make([]byte, p.code.FragmentSize(segment))
		}
	}
	type encoded struct {
		fragments [][]byte // nil at the end
		err       error
	}
	data := make([]byte, segment)
	read := func(number int) chan encoded {
		c := make(chan encoded, 1)
		go func() {
			n, err := io.ReadFull(body, data)
			if err == io.ErrUnexpectedEOF || err == io.EOF {
				err = nil
			}
			var e encoded
			if e.err = err; err == nil && n > 0 {
				p.whole.Write(data[:n])
				p.size += int64(n)
				e.fragments = p.encode(data[:n], stripes[number%2])
				e.err = digest.WriteAll(p.sums, e.fragments)
			}
			c <- e
		}()
		return c
	}
	next, reading := read(0), true
	defer func() {
		end := func() {
			for _, s := range p.sums {
				s.Close()
			}
		}
		if !reading {
			end()
			return
		}
		go func() { // it may wait for its body as long as it likes
			<-next
			end()
		}()
	}()
	for number := 1; ; number++ {
		var now encoded
		select {
		case now = <-next:
			reading = false
		case <-ctx.Done(): // a body that never comes holds its reader, not us
			return context.Cause(ctx)
		}
		switch {
		case now.err != nil:
			return now.err
		case p.Size >= 0 && p.size > p.Size:
			return &StatusError{422, fmt.Sprintf("%s is not stored: the body is longer than the %d bytes that were announced", p.name, p.Size)}
		case now.fragments == nil:
			return p.footers(ctx)
		}
		next, reading = read(number), true
		err := p.on("have taken all so far", func(t *target) error { return t.chunk(now.fragments[t.index]) })
		if cause := cause(ctx); cause != nil {
			err = cause
		}
		if err != nil {
			return err
		}
	}
}

// encode makes the fragments of a segment.
func (p *put) encode(segment []byte, into [][]byte) [][]byte {
	size := p.code.FragmentSize(len(segment))
	fragments, payloads := make([][]byte, len(into)), make([][]byte, len(into))
	for i, f := range into {
		fragments[i], payloads[i] = f[:size], f[codec.HeaderSize:size]
	}
	p.code.Encode(segment, payloads)
	for i, f := range fragments {
		h := p.code.Header(i, len(segment))
		h.LibecVersion = rescue.DefaultLibec
		h.Put(f, p.CRC)
	}
	return fragments
}

// patience is how many times NodeTimeout a chunk may take to be sent: a device that takes byte by byte holds up all others. It is that of reads.
const patience = 6

// chunk sends some bytes of the body.
func (t *target) chunk(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if t.most > 0 {
		t.conn.WriteBy(time.Now().Add(t.most))
	}
	t.head = append(strconv.AppendInt(t.head[:0], int64(len(b)), 16), "\r\n"...)
	t.out = append(t.out[:0], t.head, b, []byte("\r\n"))
	out := t.out
	_, err := t.conn.Writev(&out)
	return err
}

// phase ends a phase of the body, and waits for the answer.
func (t *target) phase(b []byte) (*netfast.Response, error) {
	if err := t.chunk(b); err != nil {
		return nil, err
	}
	if _, err := t.conn.Write([]byte("0\r\n\r\n")); err != nil {
		return nil, err
	}
	return t.conn.Await(t.req)
}

// footers sends each device what is to be kept with its archive, and waits until enough have both.
func (p *put) footers(ctx context.Context) error {
	etag := hex.EncodeToString(p.whole.Sum(nil))
	switch {
	case p.Size >= 0 && p.size != p.Size:
		return &StatusError{422, fmt.Sprintf("%s is not stored: the body has %d of the %d bytes that were announced", p.name, p.size, p.Size)}
	case p.ETag != "" && !strings.EqualFold(p.ETag, etag):
		return &StatusError{422, fmt.Sprintf("%s is not stored: the MD5 of the body is %s, not %s", p.name, etag, p.ETag)}
	}
	p.ETag = etag
	size := strconv.FormatInt(p.size, 10)
	sums := make([]string, len(p.sums))
	for i, s := range p.sums {
		sums[i] = s.Sum()
	}
	err := p.on("have an archive whole", func(t *target) error {
		text, err := json.Marshal(map[string]string{
			"X-Object-Sysmeta-Ec-Etag":                 etag,
			"X-Object-Sysmeta-Ec-Content-Length":       size,
			"X-Object-Sysmeta-Ec-Frag-Index":           strconv.Itoa(t.index),
			"X-Object-Sysmeta-Ec-Scheme":               p.pol.Scheme(),
			"X-Object-Sysmeta-Ec-Segment-Size":         strconv.Itoa(p.pol.SegmentSize),
			"X-Backend-Container-Update-Override-Etag": etag,
			"X-Backend-Container-Update-Override-Size": size,
			"Etag": sums[t.index],
		})
		if err != nil {
			return err
		}
		sum := md5.Sum(text)
		resp, err := t.phase(fmt.Appendf(nil, "\r\n--%s\r\nX-Document: object metadata\r\nContent-MD5: %x\r\n\r\n%s\r\n--%s\r\n", p.boundary, sum, text, p.boundary))
		if err == nil && resp.Status != 100 {
			err = fmt.Errorf("answered %d", resp.Status)
		}
		return err
	})
	if cause := cause(ctx); cause != nil {
		return cause
	}
	return err
}

// commit makes the archives durable.
func (p *put) commit(ctx context.Context) (*Stored, error) {
	err := p.on("have confirmed it", func(t *target) error {
		resp, err := t.phase(fmt.Appendf(nil, "X-Document: put commit\r\n\r\nput_commit_confirmation\r\n--%s--", p.boundary))
		if err == nil && resp.Status/100 != 2 {
			err = fmt.Errorf("answered %d to the commit", resp.Status)
		}
		return err
	})
	if err != nil {
		if cause := cause(ctx); cause != nil { // what has a quorum is stored, whoever has lost interest meanwhile
			err = cause
		}
		return nil, fmt.Errorf("%w (some devices may keep it for durable: it may appear yet)", err)
	}
	s := &Stored{Timestamp: p.Timestamp, Size: p.size, ETag: p.ETag, Failed: p.failed}
	for _, t := range p.targets {
		s.Nodes = append(s.Nodes, t.String())
	}
	slices.Sort(s.Nodes)
	return s, nil
}
