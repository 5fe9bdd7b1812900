package object

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imping/codec"
	"imping/netfast"
	"imping/netfast/fragment"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// Object is one version of an object, and who has which archives of it.
type Object struct {
	Name      string
	Policy    *policy.Policy
	Partition int
	Data      timestamp.Timestamp // of its .data files
	Newest    timestamp.Timestamp // of these or of the newest metadata
	Size      int64
	ETag      string          // MD5 of the object, its Ec-Etag
	Fields    []netfast.Field // its metadata, as a client would see it

	client  *Client
	place   *place
	segment int
	sources map[int][]*source // by fragment index
}

// source is a device that has an archive of the object.
type source struct {
	*node
	index  int
	others []int // further indexes that it has of the same time
	bad    error
}

// reply is what a device says of an object.
type reply struct {
	node *node
	*fragment.Response
	fields []netfast.Field
	sets   map[timestamp.Timestamp][]int
	err    error
}

// Find asks who has what of an object, and picks the newest version that can be decoded and that somebody knows to be durable
// (rules 1 and 2), unless it was deleted since. Errors: a *StatusError of 404, which wraps ErrNotFound, or of 503.
// Swift: proxy/controllers/obj.py, ECObjectController._get_or_head_response and ECGetResponseCollection.
func (c *Client) Find(ctx context.Context, pol *policy.Policy, name string) (*Object, error) {
	pl, err := c.place(pol)
	if err != nil {
		return nil, err
	}
	o := &Object{Name: name, Policy: pol, client: c, place: pl, Partition: c.partition(pl, name)}
	primaries, handoffs := c.nodes(pl, o.Partition)
	var replies []*reply
	for _, more := range [][]*node{primaries, handoffs} {
		fresh := make([]*reply, len(more))
		each(more, func(i int, n *node) { fresh[i] = o.head(ctx, n, timestamp.Timestamp{}) })
		if err := cause(ctx); err != nil {
			return nil, err
		}
		replies = append(replies, fresh...)
		deleted, found := deletion(replies), o.pick(ctx, replies)
		if err := cause(ctx); err != nil {
			return nil, err
		}
		// Archives of a newer version may lie on handoffs. A tombstone counts as Swift's proxy has it: data of its very time is there.
		last := len(replies) > len(primaries)
		if found && !deleted.After(o.Data) && (last || !durableAfter(replies, o.Data)) {
			return o, o.expired()
		}
		if !deleted.IsZero() && (last && !durableAfter(replies, deleted) || !anyAfter(replies, deleted)) {
			return nil, notFound(name, fmt.Sprintf("deleted at %s", deleted.Internal()))
		}
	}
	return nil, o.missing(replies)
}

func notFound(name, why string) error {
	return fmt.Errorf("%w: %w", ErrNotFound, &StatusError{404, name + " is not there: " + why})
}

// expired is the error of an object whose time is over.
func (o *Object) expired() error {
	for _, f := range o.Fields {
		if strings.EqualFold(f.Key, "X-Delete-At") {
			if at, err := strconv.ParseInt(f.Value, 10, 64); err == nil && at <= time.Now().Unix() {
				return notFound(o.Name, "expired")
			}
		}
	}
	return nil
}

// missing says why an object can not be had.
func (o *Object) missing(replies []*reply) error {
	gone, have, durable := 0, map[timestamp.Timestamp]codec.Set{}, false
	var why []string
	for _, r := range replies {
		switch {
		case r.err != nil:
			why = append(why, fmt.Sprintf("%v: %v", r.node, r.err))
		case r.Status == 404:
			gone++
		case r.Status != 200:
			why = append(why, fmt.Sprintf("%v answered %d", r.node, r.Status))
		default:
			if durable = durable || !r.Durable.IsZero(); r.Durable.IsZero() {
				gone++ // for what never became durable never was
			}
			for at, indexes := range r.sets {
				for _, i := range indexes {
					have[at] = have[at].With(i)
				}
			}
		}
	}
	if !durable && gone > len(replies)/2 {
		return notFound(o.Name, fmt.Sprintf("%d of %d devices do not have it", gone, len(replies)))
	}
	for at, set := range have {
		why = append(why, fmt.Sprintf("of %s there are fragments %v, and %d are needed", at.Internal(), set, o.place.code.K()))
	}
	slices.Sort(why)
	return &StatusError{503, fmt.Sprintf("%s can not be read now: %s", o.Name, strings.Join(why, "; "))}
}

// deletion is the time of the newest tombstone, zero if nobody has one.
func deletion(replies []*reply) (at timestamp.Timestamp) {
	for _, r := range replies {
		if r.err == nil && r.Status == 404 && r.Timestamp.After(at) {
			at = r.Timestamp
		}
	}
	return at
}

// anyAfter says whether somebody has anything newer.
func anyAfter(replies []*reply, at timestamp.Timestamp) bool {
	return slices.ContainsFunc(replies, func(r *reply) bool { return r.err == nil && r.Status == 200 && r.Data.After(at) })
}

// durableAfter says whether somebody knows of something newer that is durable.
func durableAfter(replies []*reply, at timestamp.Timestamp) bool {
	return slices.ContainsFunc(replies, func(r *reply) bool { return r.err == nil && r.Status == 200 && r.Durable.After(at) })
}

// head asks a device what it would answer with.
func (o *Object) head(ctx context.Context, n *node, at timestamp.Timestamp) *reply {
	r := &reply{node: n}
	r.Response, r.fields, r.err = fragment.Head(ctx, o.client.HTTP, o.request(n, at, nil))
	if r.err != nil || r.Status != 200 {
		return r
	}
	r.sets = map[timestamp.Timestamp][]int{}
	var sets map[string][]int
	if json.Unmarshal([]byte(r.Fragments), &sets) == nil {
		for text, indexes := range sets {
			if at, err := timestamp.Parse(text); err == nil {
				slices.Sort(indexes)
				r.sets[at] = slices.DeleteFunc(slices.Compact(indexes), func(i int) bool { return i < 0 || i >= o.place.code.N() })
			}
		}
	}
	if i := r.FragIndex; i >= 0 && i < o.place.code.N() && !slices.Contains(r.sets[r.Data], i) {
		r.sets[r.Data] = append(r.sets[r.Data], i)
	}
	return r
}

func (o *Object) request(n *node, at timestamp.Timestamp, exclude []int) *fragment.Request {
	return &fragment.Request{Addr: n.addr, Device: n.device, Partition: o.Partition, Name: o.Name, Policy: o.Policy.Index, Timestamp: at, Exclude: exclude}
}

// pick chooses the version, and says whether there is one.
func (o *Object) pick(ctx context.Context, replies []*reply) bool {
	var times []timestamp.Timestamp
	for _, r := range replies {
		if r.err == nil && r.Status == 200 && !r.Durable.IsZero() && !slices.Contains(times, r.Durable) {
			times = append(times, r.Durable)
		}
	}
	slices.SortFunc(times, func(a, b timestamp.Timestamp) int { return b.Compare(a) })
	for _, at := range times {
		if o.version(ctx, replies, at) {
			return true
		}
	}
	return false
}

// version makes o that of a time, if enough archives of it agree.
func (o *Object) version(ctx context.Context, replies []*reply, at timestamp.Timestamp) bool {
	// Who holds it besides something else is asked for it.
	var have []*reply
	var again []*node
	for _, r := range replies {
		switch {
		case r.err != nil || r.Status != 200:
		case r.Data == at:
			have = append(have, r)
		case len(r.sets[at]) > 0:
			again = append(again, r.node)
		}
	}
	more := make([]*reply, len(again))
	each(again, func(i int, n *node) { more[i] = o.head(ctx, n, at) })
	for _, r := range more {
		if r.err == nil && r.Status == 200 && r.Data == at {
			have = append(have, r)
		}
	}
	// Fragments of one time whose objects differ are never put together.
	byEtag := map[string][]*reply{}
	for _, r := range have {
		byEtag[r.ECEtag] = append(byEtag[r.ECEtag], r)
	}
	for etag, group := range byEtag {
		if etag != "" && o.of(group, at) {
			return true
		}
	}
	return false
}

// maxSegment is the longest segment that is believed where the policy has shorter ones now: what others say must not exhaust memory.
const maxSegment = 256 << 20

// of makes o the version that a group of replies is of, if it can be decoded from it.
func (o *Object) of(group []*reply, at timestamp.Timestamp) bool {
	type shape struct {
		size, segment, length int64
	}
	count, best := map[shape]int{}, shape{-1, 0, 0}
	shapes := make([]shape, len(group))
	for i, r := range group {
		size, err1 := strconv.ParseInt(value(r.fields, "X-Object-Sysmeta-Ec-Content-Length"), 10, 64)
		segment, err2 := strconv.ParseInt(value(r.fields, "X-Object-Sysmeta-Ec-Segment-Size"), 10, 32)
		shapes[i] = shape{-1, 0, 0}
		if err1 != nil || err2 != nil || size < 0 || segment < 1 || segment > max(maxSegment, int64(o.Policy.SegmentSize)) || r.Length != o.place.code.ArchiveSize(size, int(segment)) {
			continue
		}
		shapes[i] = shape{size, segment, r.Length}
		if count[shapes[i]]++; count[shapes[i]] > count[best] {
			best = shapes[i]
		}
	}
	sources := map[int][]*source{}
	var have codec.Set
	var newest *reply
	for i, r := range group {
		if shapes[i] != best || best.size < 0 {
			continue
		}
		for _, index := range r.sets[at] {
			others := slices.DeleteFunc(slices.Clone(r.sets[at]), func(i int) bool { return i == index })
			sources[index] = append(sources[index], &source{node: r.node, index: index, others: others})
			have = have.With(index)
		}
		if newest == nil || r.Timestamp.After(newest.Timestamp) {
			newest = r
		}
	}
	if newest == nil || !o.decodes(have) {
		return false
	}
	o.Data, o.Newest, o.Size, o.ETag, o.segment, o.sources = at, newest.Timestamp, best.size, newest.ECEtag, int(best.segment), sources
	o.Fields = shown(newest.fields)
	return true
}

func (o *Object) decodes(have codec.Set) bool {
	_, err := o.choose(codec.Set{}, have)
	return err == nil
}

// choose says which fragments are read of those that are held already and those to be had: all data fragments, and parity in place of those that are lost.
func (o *Object) choose(held, offered codec.Set) (codec.Set, error) {
	k := o.place.code.K()
	read, lost := held, codec.Set{}
	for i := range k {
		if held.Has(i) || offered.Has(i) {
			read = read.With(i)
		} else {
			lost = lost.With(i)
		}
	}
	if lost == (codec.Set{}) {
		return read, nil
	}
	var parity []int
	for _, i := range offered.Indexes() {
		if i >= k && !read.Has(i) {
			parity = append(parity, i)
		}
	}
	more, err := o.place.code.Choose(read, parity, lost)
	return read.Or(codec.SetOf(more...)), err
}

func value(fields []netfast.Field, key string) string {
	for _, f := range fields {
		if strings.EqualFold(f.Key, key) {
			return f.Value
		}
	}
	return ""
}

// shown are the fields that a client sees of an object: what the archive's own are is replaced by the object's.
func shown(fields []netfast.Field) (list []netfast.Field) {
	for _, f := range fields {
		switch key := strings.ToLower(f.Key); {
		case strings.HasPrefix(key, "x-object-sysmeta-"), strings.HasPrefix(key, "x-object-transient-sysmeta-"), strings.HasPrefix(key, "x-backend-"):
		case slices.Contains([]string{"content-length", "etag", "date", "connection", "x-trans-id", "x-openstack-request-id", "accept-ranges", "server", "keep-alive"}, key):
		default:
			list = append(list, f)
		}
	}
	return list
}
