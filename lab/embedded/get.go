package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"imping/codec"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// archive is a node's answer to a GET.
type archive struct {
	*http.Response
	index int
}

// collection is the archives of one upload.
type collection struct {
	at       timestamp.Timestamp
	archives []archive
	newest   *http.Response // whose metadata is the newest
	newestAt timestamp.Timestamp
}

func (t *collection) set() codec.Set {
	var s codec.Set
	for _, a := range t.archives {
		s = s.With(a.index)
	}
	return s
}

// get asks primaries, then handoffs, for their archives, until those of one time make the
// object, and decodes while the body is read. Swift: proxy/controllers/obj.py,
// ECObjectController._get_or_head_response.
func (o *object) get(ctx context.Context) (_ *http.Response, err error) {
	var all []*collection
	var use *collection
	var deleted timestamp.Timestamp
	defer func() {
		for _, t := range all {
			for _, a := range t.archives {
				if t != use {
					a.Body.Close()
				}
			}
		}
	}()
	nodes := slices.Clone(o.primaries)
	for n := range o.ring.MoreNodes(o.partition) {
		if len(nodes) == 2*len(o.primaries) {
			break
		}
		nodes = append(nodes, n)
	}
	var failed []error
	for _, n := range nodes {
		r, err := o.ask(ctx, n)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if r.StatusCode != http.StatusOK {
			r.Body.Close()
			if at, err := timestamp.Parse(r.Header.Get("X-Backend-Timestamp")); err == nil && at.After(deleted) {
				deleted = at
			}
			if r.StatusCode != http.StatusNotFound {
				failed = append(failed, fmt.Errorf("%s answers %s", n.Device.Device, r.Status))
			}
			continue
		}
		t, err := o.sort(&all, r)
		if err != nil {
			r.Body.Close()
			failed = append(failed, fmt.Errorf("%s: %w", n.Device.Device, err))
			continue
		}
		if t.at.After(deleted) && o.suffice(t.set()) {
			use = t
			break
		}
	}
	if use != nil {
		return o.answer(use)
	}
	for _, t := range all {
		if t.at.After(deleted) {
			failed = append(failed, fmt.Errorf("only %d archives of %s are there", len(t.archives), t.at.Internal()))
		}
	}
	if len(failed) == 0 {
		return response(http.StatusNotFound), nil
	}
	r := response(http.StatusServiceUnavailable)
	r.Body = io.NopCloser(strings.NewReader(errors.Join(failed...).Error()))
	return r, nil
}

// ask sends a GET to one node.
func (o *object) ask(ctx context.Context, n ring.Node) (*http.Response, error) {
	path := strings.ReplaceAll(url.PathEscape(o.name), "%2F", "/")
	address := net.JoinHostPort(n.IP, strconv.Itoa(n.Port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/%s/%d%s", address, n.Device.Device, o.partition, path), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Backend-Storage-Policy-Index", strconv.Itoa(o.Index))
	return o.cluster.client.Do(req)
}

// sort adds an archive to those of its time, unless that has one of its index.
func (o *object) sort(all *[]*collection, r *http.Response) (*collection, error) {
	at, err1 := timestamp.Parse(r.Header.Get("X-Backend-Data-Timestamp"))
	newest, err2 := timestamp.Parse(r.Header.Get("X-Backend-Timestamp"))
	index, err3 := strconv.Atoi(r.Header.Get("X-Object-Sysmeta-Ec-Frag-Index"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("answer without what tells an archive: %w", err)
	}
	if index < 0 || index >= o.code.N() {
		return nil, fmt.Errorf("fragment index %d", index)
	}
	i := slices.IndexFunc(*all, func(t *collection) bool { return t.at == at })
	if i < 0 {
		i = len(*all)
		*all = append(*all, &collection{at: at})
	}
	t := (*all)[i]
	if t.newest == nil || newest.After(t.newestAt) {
		t.newest, t.newestAt = r, newest
	}
	if t.set().Has(index) {
		r.Body.Close()
	} else {
		t.archives = append(t.archives, archive{r, index})
	}
	return t, nil
}

// suffice tells whether these fragments make an object.
func (o *object) suffice(have codec.Set) bool {
	var lost codec.Set
	for i := range o.code.K() {
		if !have.Has(i) {
			lost = lost.With(i)
		}
	}
	if lost.Len() == 0 {
		return true
	}
	_, err := o.code.Plan(have, lost)
	return err == nil
}

// answer is what a client gets.
func (o *object) answer(t *collection) (*http.Response, error) {
	from := t.newest.Header
	size, err := strconv.ParseInt(from.Get("X-Object-Sysmeta-Ec-Content-Length"), 10, 64)
	if err != nil || size < 0 {
		return nil, fmt.Errorf("the length of %s is %q", o.name, from.Get("X-Object-Sysmeta-Ec-Content-Length"))
	}
	r := response(http.StatusOK)
	for key, values := range from {
		if !strings.HasPrefix(key, "X-Backend-") && !strings.HasPrefix(key, "X-Object-Sysmeta-") {
			r.Header[key] = values
		}
	}
	r.Header.Set("Etag", `"`+from.Get("X-Object-Sysmeta-Ec-Etag")+`"`)
	r.Header.Set("Content-Length", strconv.FormatInt(size, 10))
	r.ContentLength = size
	slices.SortFunc(t.archives, func(a, b archive) int { return cmp.Compare(a.index, b.index) })
	r.Body = &decoder{object: o, archives: t.archives, left: size}
	return r, nil
}

// decoder is the body of an object.
type decoder struct {
	*object
	archives []archive
	left     int64  // of the object, that are not decoded yet
	ready    []byte // decoded and not read
	buf      []byte
}

func (d *decoder) Read(p []byte) (int, error) {
	if len(d.ready) == 0 {
		if d.left == 0 {
			return 0, io.EOF
		}
		if err := d.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, d.ready)
	d.ready = d.ready[n:]
	return n, nil
}

// next decodes a segment.
func (d *decoder) next() error {
	segment := int(min(d.left, int64(d.SegmentSize)))
	length := d.code.FragmentSize(segment)
	payloads := make([][]byte, d.code.N())
	for _, a := range d.archives {
		f := make([]byte, length)
		if _, err := io.ReadFull(a.Body, f); err != nil {
			return fmt.Errorf("archive %d of %s broke off: %w", a.index, d.name, err)
		}
		h, err := codec.ParseHeader(f)
		if err == nil {
			err = d.code.CheckHeader(&h)
		}
		if err != nil || h.Index != a.index {
			return fmt.Errorf("archive %d of %s has a fragment %d: %v", a.index, d.name, h.Index, err)
		}
		payloads[a.index] = f[codec.HeaderSize:]
	}
	if need := d.code.K() * (length - codec.HeaderSize); len(d.buf) < need {
		d.buf = make([]byte, need)
	}
	var err error
	if d.ready, err = d.code.Decode(d.buf[:d.code.K()*(length-codec.HeaderSize)], segment, payloads); err != nil {
		return fmt.Errorf("cannot decode %s: %w", d.name, err)
	}
	d.left -= int64(segment)
	return nil
}

func (d *decoder) Close() error {
	for _, a := range d.archives {
		a.Body.Close()
	}
	return nil
}
