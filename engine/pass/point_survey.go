package pass

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"imping/codec"
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/netfast"
	"imping/netfast/fragment"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

const (
	// maxHoldings bounds how many archives of one object a device is asked for one by one:
	// all indexes of a scheme in two versions.
	maxHoldings = 64
	// headTries is how often a busy server is asked what it holds.
	headTries = 5
	// quarantineTime is how long a server that has just served a bad archive whole may take
	// to move it aside: one rename.
	quarantineTime = 3 * time.Second
	quarantinePoll = 20 * time.Millisecond
	// maxReaders bounds how many archives are verified at once.
	maxReaders = 8
)

// pointNode is a device that was asked.
type pointNode struct {
	rebuild.Peer
	handoff bool
	status  int // of an answer that was neither 200 nor 404
	err     error
	deleted timestamp.Timestamp
	held    []*holding
	report  *PointNode
}

// holding is an archive of the object on a device.
type holding struct {
	node       *pointNode
	data, meta timestamp.Timestamp // meta: of the .meta file, zero if none
	durable    bool
	index      int
	ecEtag     string
	etag       string
	length     int64
	fields     map[string]netfast.Field // metadata as the server shows it, by lower-case key
	unknown    []string                 // other fields of the answer
	file       *diskfile.Object         // read from disk, since its server does not answer

	proved  bool
	problem error // it is bad, or it can not be read
	corrupt bool  // the problem is in its bytes
	gone    bool  // its server has moved it aside since
	odd     bool  // its metadata is not that of the others
	report  *PointArchive
}

// fit reports whether nothing is known against the archive.
func (h *holding) fit() bool { return h.problem == nil && !h.odd }

// diskArchive is what a local device holds.
type diskArchive struct {
	dev  *ring.Device
	file *diskfile.Object
}

// readDisks opens the object's newest durable archive on every local device, wherever the
// ring would have it.
func (pt *point) readDisks() {
	for _, dev := range pt.place.local {
		file, err := pt.files.Open(dev.Device, pt.part, pt.hash, -1, false)
		var deleted *diskfile.DeletedError
		var unmounted *diskfile.NotMountedError
		switch {
		case err == nil:
			pt.disks = append(pt.disks, &diskArchive{dev: dev, file: file})
			pt.name = file.Name
		case errors.As(err, &deleted):
			if pt.tombstone == nil || deleted.Timestamp.After(pt.tombstone.Timestamp) {
				pt.tombstone = deleted
			}
			pt.name = deleted.Name
		case vanished(err) || errors.As(err, &unmounted):
		default:
			pt.note("%v", err)
		}
	}
}

// survey asks all primaries, and as many handoffs, what they hold (Swift: the proxy's
// request_node_count, 2 * replicas). For a local device whose server does not answer its
// disk does.
func (pt *point) survey(ctx context.Context) {
	add := func(node ring.Node) {
		pt.nodes = append(pt.nodes, &pointNode{Peer: rebuild.NewPeer(pt.pol, node), handoff: node.Handoff})
	}
	primaries := pt.ring.PartNodes(pt.part)
	for _, node := range primaries {
		add(node)
	}
	for node := range pt.ring.MoreNodes(pt.part) {
		if len(pt.nodes) == 2*len(primaries) {
			break
		}
		add(node)
	}
	for _, d := range pt.disks {
		if !slices.ContainsFunc(pt.nodes, func(n *pointNode) bool { return n.ID == d.dev.ID }) {
			add(ring.Node{Device: d.dev, Index: d.file.FragIndex, Handoff: true})
		}
	}
	var wg sync.WaitGroup
	for _, n := range pt.nodes {
		wg.Go(func() { pt.ask(ctx, n) })
	}
	wg.Wait()
	for _, d := range pt.disks {
		for _, n := range pt.nodes {
			if n.ID == d.dev.ID && n.err != nil {
				n.held = []*holding{holdingOnDisk(n, d.file)}
			}
		}
	}
}

// ask learns all that a device holds of the object.
func (pt *point) ask(ctx context.Context, n *pointNode) {
	n.status, n.err, n.deleted, n.held = 0, nil, timestamp.Timestamp{}, nil
	resp, fields, err := pt.head(ctx, n, timestamp.Timestamp{}, nil)
	switch {
	case err != nil:
		n.err = err
		return
	case resp.Status == 404:
		n.deleted = resp.Timestamp
		return
	case resp.Status != 200:
		n.status, n.err = resp.Status, fmt.Errorf("answered %d", resp.Status)
		return
	}
	n.held = []*holding{pt.holding(n, resp, fields)}
	var sets map[string][]int
	if json.Unmarshal([]byte(resp.Fragments), &sets) != nil { // a server that does not tell
		return
	}
	asked := 1
	for _, text := range slices.Sorted(maps.Keys(sets)) {
		at, err := timestamp.Parse(text)
		if err != nil {
			continue
		}
		for _, index := range sets[text] {
			if at == resp.Data && index == resp.FragIndex || asked == maxHoldings {
				continue
			}
			asked++
			others := slices.DeleteFunc(slices.Clone(sets[text]), func(i int) bool { return i == index })
			more, fields, err := pt.head(ctx, n, at, others)
			if err == nil && more.Status == 200 && more.Data == at && more.FragIndex == index {
				n.held = append(n.held, pt.holding(n, more, fields))
			}
		}
	}
}

// head asks a device what it would answer with; one that is busy several times (rule 10).
func (pt *point) head(ctx context.Context, n *pointNode, at timestamp.Timestamp, exclude []int) (resp *fragment.Response, fields []netfast.Field, err error) {
	wait := pt.p.firstWait
	for try := 1; ; try++ {
		resp, fields, err = fragment.Head(ctx, pt.p.client, pt.request(n, at, exclude))
		if err != nil || resp.Status != 503 && resp.Status != 529 || try == headTries {
			return resp, fields, err
		}
		if err := pause(ctx, wait); err != nil {
			return nil, nil, err
		}
		wait *= 2
	}
}

func (pt *point) request(n *pointNode, at timestamp.Timestamp, exclude []int) *fragment.Request {
	return &fragment.Request{
		Addr: n.Addr, Device: n.Device, Partition: pt.part, Name: pt.name, Policy: pt.pol.Index, Timestamp: at, Exclude: exclude,
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (pt *point) holding(n *pointNode, resp *fragment.Response, fields []netfast.Field) *holding {
	h := &holding{
		node: n, data: resp.Data, durable: !resp.Durable.IsZero() && resp.Durable == resp.Data,
		index: resp.FragIndex, ecEtag: resp.ECEtag, etag: resp.ETag, length: resp.Length,
	}
	if resp.Timestamp.After(resp.Data) {
		h.meta = resp.Timestamp
	}
	h.fields, h.unknown = metadataOf(fields, pt.p.cfg.AllowedHeaders)
	return h
}

func holdingOnDisk(n *pointNode, file *diskfile.Object) *holding {
	return &holding{
		node: n, data: file.Data, meta: file.Meta, durable: file.Durable == file.Data, index: file.FragIndex,
		ecEtag: file.DataMeta["X-Object-Sysmeta-Ec-Etag"], etag: strings.ToLower(file.DataMeta["ETag"]), length: file.Length,
		fields: shownFields(file), file: file,
	}
}

// describe puts what the device said into its report.
func (n *pointNode) describe() {
	n.report = &PointNode{Node: n.String(), Handoff: n.handoff, Index: n.Index, Held: []*PointArchive{}}
	if !n.deleted.IsZero() {
		n.report.Deleted = n.deleted.Internal()
	}
	if n.err != nil {
		n.report.Error = n.err.Error()
	}
	for _, h := range n.held {
		h.report = &PointArchive{Timestamp: h.data.Internal(), Index: h.index, Durable: h.durable, ECEtag: h.ecEtag}
		if !h.meta.IsZero() {
			h.report.Metadata = h.meta.Internal()
		}
		n.report.Held = append(n.report.Held, h.report)
	}
}

func (n *pointNode) unreachable() string {
	if n.status == 507 {
		return "not mounted"
	}
	return fmt.Sprintf("unreachable: %v", n.err)
}

// proveAll reads every archive of the reference whole, as its server's auditor would: an
// operator who names an object wants it looked at closely. A stock server moves an archive
// aside that it has served whole and found to be bad.
func (pt *point) proveAll(ctx context.Context) {
	pt.p.cfg.Log.Infof("%s: reading %d archives of version %s", pt.name, len(pt.ref.held), pt.ref.data.Internal())
	slots := make(chan struct{}, maxReaders)
	var wg sync.WaitGroup
	for _, h := range pt.ref.held {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			pt.prove(ctx, h)
		})
	}
	wg.Wait()
	for _, h := range pt.ref.held {
		if h.corrupt && h.file == nil {
			pt.awaitQuarantine(ctx, h)
		}
	}
	pt.tellProved()
}

// tellProved puts what was found of the reference's archives into their reports.
func (pt *point) tellProved() {
	for _, h := range pt.ref.held {
		h.report.Verified = h.proved
		if h.problem != nil {
			h.report.Problem = h.problem.Error()
		}
	}
}

func (pt *point) prove(ctx context.Context, h *holding) {
	r, err := pt.open(ctx, h)
	if err != nil {
		h.problem = err
		return
	}
	defer r.close()
	h.corrupt, h.problem = proveBytes(r.object, h.index, h.etag, r.read)
	h.proved = h.problem == nil
}

// opened is an archive that is about to be read from its begin.
type opened struct {
	object *rebuild.Object // what it says of the object
	read   func(slot []byte) (int, error)
	close  func() error
}

// open opens an archive on its device. An error is why it can not be read.
func (pt *point) open(ctx context.Context, h *holding) (*opened, error) {
	o, err := pt.object(h)
	if err != nil {
		return nil, err
	}
	if h.etag == "" {
		return nil, errors.New("it has no ETag")
	}
	if h.file != nil {
		section := io.NewSectionReader(h.file, 0, h.length)
		return &opened{o, func(slot []byte) (int, error) { return io.ReadFull(section, slot) }, func() error { return nil }}, nil
	}
	var others []int
	for _, x := range h.node.held {
		if x.data == h.data && x.index != h.index {
			others = append(others, x.index)
		}
	}
	resp, err := fragment.Get(ctx, pt.p.client, pt.request(h.node, h.data, others))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if resp.Status != 200 || resp.Data != h.data || resp.FragIndex != h.index || resp.ETag != h.etag || resp.Length != h.length {
		resp.Close()
		return nil, fmt.Errorf("cannot be read: the answer (%d) is not what was announced", resp.Status)
	}
	return &opened{o, resp.ReadFragment, resp.Close}, nil
}

// proveBytes compares the MD5 of an archive with its ETag and every fragment header with
// what it must be. It reads to the end in any case, so that a server finds out, too.
func proveBytes(o *rebuild.Object, index int, etag string, read func(slot []byte) (int, error)) (corrupt bool, err error) {
	sum := md5.New()
	slot := make([]byte, o.Code.FragmentSize(int(min(int64(o.Segment), max(o.Size, 1)))))
	var bad error
	for off := int64(0); off < o.Size; off += int64(o.Segment) {
		segment := int(min(int64(o.Segment), o.Size-off))
		fragment := slot[:o.Code.FragmentSize(segment)]
		if _, err := read(fragment); err != nil {
			return false, fmt.Errorf("cannot be read: %w", err)
		}
		sum.Write(fragment)
		if bad == nil {
			if err := proveHeader(o, index, segment, fragment); err != nil {
				bad = fmt.Errorf("bad: fragment header of segment %d: %w", off/int64(o.Segment), err)
			}
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != etag {
		return true, fmt.Errorf("bad: MD5 is %s, ETag says %s", got, etag)
	}
	return bad != nil, bad
}

func proveHeader(o *rebuild.Object, index, segment int, fragment []byte) error {
	h, err := codec.ParseHeader(fragment)
	if err != nil {
		return err
	}
	if want := o.Code.Header(index, segment); h.Index != want.Index || h.OrigDataSize != want.OrigDataSize || h.Size != want.Size || h.BackendID != want.BackendID {
		return fmt.Errorf("index %d, segment of %d bytes, payload of %d, backend %d, want %d, %d, %d, %d",
			h.Index, h.OrigDataSize, h.Size, h.BackendID, want.Index, want.OrigDataSize, want.Size, want.BackendID)
	}
	return h.CheckPayload(fragment[codec.HeaderSize:])
}

// awaitQuarantine waits until the server of a bad archive no longer offers it, so that its
// place is free for a new one.
func (pt *point) awaitQuarantine(ctx context.Context, h *holding) {
	for limit := time.Now().Add(quarantineTime); ; {
		resp, _, err := fragment.Head(ctx, pt.p.client, pt.request(h.node, h.data, nil))
		if err != nil {
			return
		}
		if resp.Status == 404 {
			h.problem = fmt.Errorf("%w, quarantined by its server", h.problem)
			for _, x := range h.node.held { // the server moves the whole directory
				x.gone = true
				if x.problem == nil {
					x.problem = errors.New("quarantined with a bad one")
				}
			}
			return
		}
		if time.Now().After(limit) || pause(ctx, quarantinePoll) != nil {
			return
		}
	}
}

// object is what an archive says of the object.
func (pt *point) object(h *holding) (*rebuild.Object, error) {
	o := &rebuild.Object{
		Code: pt.code, Policy: pt.pol, Partition: pt.part, Hash: pt.hash, Name: pt.name,
		Data: h.data, Durable: true, Length: h.length, Index: h.index,
	}
	meta := make(map[string]string)
	for _, key := range rebuild.ECKeys {
		if f, ok := h.fields[lower(key)]; ok {
			meta[key] = f.Value
		}
	}
	return o, o.Describe(h.node.String(), meta)
}
