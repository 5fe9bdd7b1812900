package embedded

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"imping/codec"
	"imping/io/diskfile"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// libecVersion is what headers name as liberasurecode's, 1.6.2: Debian 12's.
const libecVersion = 0x010602

// manager is that of a primary's node, and where the object goes there.
func (o *object) manager(n ring.Node) (*diskfile.Manager, diskfile.Place) {
	dev := n.Device.Device
	return o.files[o.cluster.nodeOf[dev]], diskfile.Place{
		Device: dev, Partition: o.partition, Name: o.name, FragIndex: o.BackendIndex(n.Index)}
}

// onAll does something on all primaries at once.
func (o *object) onAll(do func(i int, m *diskfile.Manager, p diskfile.Place) error) error {
	var group errgroup.Group
	for i, n := range o.primaries {
		group.Go(func() error {
			m, p := o.manager(n)
			if err := do(i, m, p); err != nil {
				return fmt.Errorf("cannot store %s on %s: %w", o.name, n.Device.Device, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// put writes an archive to each primary, durable at the end. What can not be written
// leaves nothing that is durable.
func (o *object) put(ctx context.Context, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	if size < 0 {
		return response(http.StatusLengthRequired), nil
	}
	if body == nil {
		body = http.NoBody
	}
	at := o.cluster.now()
	deleteAt, ok := expiry(header, at)
	if !ok {
		return response(http.StatusBadRequest), nil
	}
	writers := make([]*diskfile.Writer, len(o.primaries))
	defer func() {
		for _, w := range writers {
			if w != nil {
				w.Abort()
			}
		}
	}()
	err := o.onAll(func(i int, m *diskfile.Manager, p diskfile.Place) (err error) {
		writers[i], err = m.Create(p, o.code.ArchiveSize(size, o.SegmentSize))
		return err
	})
	if err != nil {
		return nil, err
	}
	etag, archives, err := o.write(ctx, writers, body, size)
	if err != nil {
		return nil, err
	}
	if want := strings.Trim(header.Get("Etag"), `"`); want != "" && want != etag {
		return response(http.StatusUnprocessableEntity), nil
	}
	// As with Swift, nobody's archive is durable before all are there.
	err = o.onAll(func(i int, _ *diskfile.Manager, p diskfile.Place) error {
		meta := &diskfile.Metadata{}
		meta.Set("X-Timestamp", at.Internal())
		meta.Set("Content-Type", diskfile.Stored(contentType(header)))
		meta.Set("Content-Length", strconv.FormatInt(writers[i].Size(), 10))
		meta.Set("ETag", archives[p.FragIndex])
		keep(meta, header)
		meta.Set("X-Object-Sysmeta-Ec-Content-Length", strconv.FormatInt(size, 10))
		meta.Set("X-Object-Sysmeta-Ec-Etag", etag)
		meta.Set("X-Object-Sysmeta-Ec-Frag-Index", strconv.Itoa(p.FragIndex))
		meta.Set("X-Object-Sysmeta-Ec-Scheme", o.Scheme())
		meta.Set("X-Object-Sysmeta-Ec-Segment-Size", strconv.Itoa(o.SegmentSize))
		if deleteAt != "" {
			meta.Set("X-Delete-At", deleteAt)
		}
		return writers[i].Publish(meta)
	})
	if err != nil {
		return nil, err
	}
	if err := o.onAll(func(i int, _ *diskfile.Manager, _ diskfile.Place) error { return writers[i].Commit() }); err != nil {
		return nil, err
	}
	r := response(http.StatusCreated)
	r.Header.Set("Etag", `"`+etag+`"`)
	return r, nil
}

// write encodes the body, and gives its MD5 and those of its archives, by fragment index.
func (o *object) write(ctx context.Context, writers []*diskfile.Writer, body io.Reader, size int64) (etag string, archives []string, err error) {
	most := int(min(int64(o.SegmentSize), size))
	segment := make([]byte, most)
	fragments, payloads := make([][]byte, o.code.N()), make([][]byte, o.code.N())
	sums := make([]hash.Hash, o.code.N())
	for i := range fragments {
		fragments[i] = make([]byte, o.code.FragmentSize(most))
		sums[i] = md5.New()
	}
	sum := md5.New()
	for left := size; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return "", nil, err
		}
		n := int(min(left, int64(most)))
		if _, err := io.ReadFull(body, segment[:n]); err != nil {
			return "", nil, fmt.Errorf("cannot read the body of %s, %d of %d bytes from its end: %w", o.name, left, size, err)
		}
		left -= int64(n)
		sum.Write(segment[:n])
		length := o.code.FragmentSize(n)
		for i, f := range fragments {
			payloads[i] = f[codec.HeaderSize:length]
		}
		o.code.Encode(segment[:n], payloads)
		for i, f := range fragments {
			h := o.code.Header(i, n)
			h.LibecVersion = libecVersion
			h.Put(f, codec.Zlib)
			sums[i].Write(f[:length])
		}
		for i, w := range writers {
			if _, err := w.Write(fragments[o.BackendIndex(o.primaries[i].Index)][:length]); err != nil {
				return "", nil, err
			}
		}
	}
	if n, err := body.Read(make([]byte, 1)); n > 0 || err != nil && !errors.Is(err, io.EOF) {
		return "", nil, fmt.Errorf("the body of %s does not end after %d bytes: %v", o.name, size, err)
	}
	for _, s := range sums {
		archives = append(archives, hex.EncodeToString(s.Sum(nil)))
	}
	return hex.EncodeToString(sum.Sum(nil)), archives, nil
}

// post replaces the user's metadata. Swift: obj/server.py, POST.
func (o *object) post(header http.Header) (*http.Response, error) {
	if there, err := o.there(); err != nil || !there {
		return response(http.StatusNotFound), err
	}
	at := o.cluster.now()
	deleteAt, ok := expiry(header, at)
	if !ok {
		return response(http.StatusBadRequest), nil
	}
	meta := &diskfile.Metadata{}
	meta.Set("X-Timestamp", at.Internal())
	keep(meta, header)
	if deleteAt != "" {
		meta.Set("X-Delete-At", deleteAt)
	}
	if kind := header.Get("Content-Type"); kind != "" {
		meta.Set("Content-Type", diskfile.Stored(kind))
		meta.Set("Content-Type-Timestamp", at.Internal())
	}
	err := o.onAll(func(_ int, m *diskfile.Manager, p diskfile.Place) error { return m.WriteMeta(p, meta) })
	return response(http.StatusAccepted), err
}

// delete leaves a tombstone, whether there is an object or not.
func (o *object) delete() (*http.Response, error) {
	status := http.StatusNoContent
	if there, err := o.there(); err != nil {
		return nil, err
	} else if !there {
		status = http.StatusNotFound
	}
	at := o.cluster.now()
	err := o.onAll(func(_ int, m *diskfile.Manager, p diskfile.Place) error { return m.Delete(p, at) })
	return response(status), err
}

// there tells whether a primary has the object.
func (o *object) there() (bool, error) {
	for _, n := range o.primaries {
		m, p := o.manager(n)
		f, err := m.View(p.Device, strconv.Itoa(p.Partition), diskfile.View{Name: o.name, FragIndex: -1, Now: o.cluster.now()})
		if err == nil {
			f.Close()
			return true, nil
		}
		deleted, expired := (*diskfile.DeletedError)(nil), (*diskfile.ExpiredError)(nil)
		if !errors.Is(err, diskfile.ErrNotExist) && !errors.As(err, &deleted) && !errors.As(err, &expired) {
			return false, err
		}
	}
	return false, nil
}

// keep keeps the user's metadata.
func keep(meta *diskfile.Metadata, header http.Header) {
	for _, key := range slices.Sorted(maps.Keys(header)) {
		if strings.HasPrefix(key, "X-Object-Meta-") && len(header[key]) > 0 {
			meta.Set(diskfile.Stored(key), diskfile.Stored(header[key][0]))
		}
	}
}

// contentType is the type that a proxy gives an object whose name tells none.
func contentType(header http.Header) string {
	if kind := header.Get("Content-Type"); kind != "" {
		return kind
	}
	return "application/octet-stream"
}

// expiry is the X-Delete-At that an object is kept with, "" for none.
// Swift: common/constraints.py, check_delete_headers.
func expiry(header http.Header, at timestamp.Timestamp) (value string, ok bool) {
	if after := header.Get("X-Delete-After"); after != "" {
		n, err := strconv.ParseInt(after, 10, 64)
		return strconv.FormatInt(int64(at.Seconds())+n, 10), err == nil && n > 0
	}
	value = header.Get("X-Delete-At")
	if value == "" {
		return "", true
	}
	n, err := strconv.ParseInt(value, 10, 64)
	return value, err == nil && float64(n) > at.Seconds()
}
