package object

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	Newer     string          // what devices tell of newer versions that are durable and can not be read, as Swift's proxy passes over them; else empty

	client  *Client
	place   *place
	segment int
	sources map[int][]*source // by fragment index
	unasked []*node           // handoffs, which were not needed so far
	refuted map[timestamp.Timestamp]error
}

// source is a device that has an archive of the object.
type source struct {
	*node
	index   int
	others  []int // further indexes that it has of the same time
	offered bool  // it would send this one unasked; of the others it only says that it has them
	bad     error
}

// fault says what is wrong with an archive, and where it is.
func (s *source) fault() string { return fmt.Sprintf("%v, fragment %d: %v", s.node, s.index, s.bad) }

// usable is the archive of an index that is read next, nil if there is none.
func (o *Object) usable(index int) *source {
	for _, s := range o.sources[index] {
		if s.bad == nil {
			return s
		}
	}
	return nil
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
// (rules 1 and 2), unless it was deleted since: a newer durable version that can not be decoded is passed over, and told in Newer. Where devices
// contradict each other, and one alone makes the difference, only fragments that are really sent count. Errors: a *StatusError of 404, which wraps
// ErrNotFound, or of 503. Swift: proxy/controllers/obj.py, ECObjectController._get_or_head_response and ECGetResponseCollection, which knows
// by its GETs who has what, and prefers what is durable and has no shortfall to all that is newer.
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
		data, durable := newest(replies)
		// Archives of a newer version may lie on handoffs.
		last := len(replies) > len(primaries)
		if found && !deleted.After(o.Data) && (last || !durable.After(o.Data)) {
			if o.Newer = strings.Join(o.known(replies, o.Data), "; "); !last {
				o.unasked = handoffs
			}
			return o, o.expired()
		}
		// Data of a tombstone's very time is not deleted, and nor does that tombstone speak against data that are short of archives.
		if deleted.After(durable) && (last || deleted.After(data)) {
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
	gone, durable := 0, false
	var why []string
	for _, r := range replies {
		switch {
		case r.err != nil:
			why = append(why, fmt.Sprintf("%v: %v", r.node, r.err))
		case r.Status == 404:
			gone++
		case r.Status != 200:
			why = append(why, fmt.Sprintf("%v answered %d", r.node, r.Status))
		case r.Durable.IsZero():
			gone++ // for what never became durable never was
		default:
			durable = true
		}
	}
	if !durable && gone > len(replies)/2 {
		return notFound(o.Name, fmt.Sprintf("%d of %d devices do not have it", gone, len(replies)))
	}
	why = append(why, o.known(replies, timestamp.Timestamp{})...)
	slices.Sort(why)
	return &StatusError{503, fmt.Sprintf("%s can not be read now: %s", o.Name, strings.Join(why, "; "))}
}

// known is what devices tell of durable versions that are newer than one and can not be read; newer than none: of all that they hold.
func (o *Object) known(replies []*reply, than timestamp.Timestamp) (list []string) {
	have, durable := map[timestamp.Timestamp]codec.Set{}, map[timestamp.Timestamp][]string{}
	for _, r := range replies {
		if r.err != nil || r.Status != 200 {
			continue
		}
		if !r.Durable.IsZero() {
			if _, listed := have[r.Durable]; !listed {
				have[r.Durable] = codec.Set{}
			}
			durable[r.Durable] = append(durable[r.Durable], r.node.String())
		}
		for at, indexes := range r.sets {
			have[at] = have[at].Or(codec.SetOf(indexes...))
		}
	}
	for at, set := range have {
		text := fmt.Sprintf("of %s there are fragments %v, and %d are needed", at.Internal(), set, o.place.code.K())
		if err := o.refuted[at]; err != nil {
			text = fmt.Sprintf("of %s there are fewer fragments than devices tell: %v", at.Internal(), err)
		}
		if than.IsZero() {
			list = append(list, text)
		} else if at.After(than) && durable[at] != nil {
			list = append(list, fmt.Sprintf("%s (that it is durable is told by %s)", text, strings.Join(durable[at], ", ")))
		}
	}
	slices.Sort(list)
	return list
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

// newest are the times of the newest data that somebody has, and of the newest that somebody knows to be durable.
func newest(replies []*reply) (data, durable timestamp.Timestamp) {
	for _, r := range replies {
		if r.err != nil || r.Status != 200 {
			continue
		}
		if r.Data.After(data) {
			data = r.Data
		}
		if r.Durable.After(durable) {
			durable = r.Durable
		}
	}
	return data, durable
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
	groups := slices.Collect(maps.Values(byEtag))
	slices.SortFunc(groups, func(a, b []*reply) int {
		return cmp.Or(len(b)-len(a), strings.Compare(a[0].ECEtag, b[0].ECEtag))
	})
	for _, group := range groups {
		if group[0].ECEtag == "" || !o.of(group, at) {
			continue
		}
		if o.vouched(replies) {
			return true
		}
		err := o.opens(ctx)
		if err == nil {
			return true
		}
		if o.refuted == nil {
			o.refuted = map[timestamp.Timestamp]error{}
		}
		o.refuted[at] = err
	}
	return false
}

// maxSegment is the longest segment that is believed where the policy has shorter ones now: what others say must not exhaust memory.
const maxSegment = 256 << 20

// shape is what an archive's length depends on.
type shape struct {
	size, segment, length int64
}

// shape is what a reply says of the object's; ok: it may be.
func (o *Object) shape(r *reply) (s shape, ok bool) {
	size, err1 := strconv.ParseInt(value(r.fields, "X-Object-Sysmeta-Ec-Content-Length"), 10, 64)
	segment, err2 := strconv.ParseInt(value(r.fields, "X-Object-Sysmeta-Ec-Segment-Size"), 10, 32)
	if err1 != nil || err2 != nil || size < 0 || segment < 1 || segment > max(maxSegment, int64(o.Policy.SegmentSize)) || r.Length != o.place.code.ArchiveSize(size, int(segment)) {
		return s, false
	}
	return shape{size, segment, r.Length}, true
}

// of makes o the version that a group of replies is of, if it can be decoded from what they say.
func (o *Object) of(group []*reply, at timestamp.Timestamp) bool {
	count, best := map[shape]int{}, shape{}
	for _, r := range group {
		if s, ok := o.shape(r); ok {
			if count[s]++; count[s] > count[best] {
				best = s
			}
		}
	}
	var newest *reply
	o.Data, o.Size, o.ETag, o.segment, o.sources = at, best.size, group[0].ECEtag, int(best.segment), map[int][]*source{}
	for _, r := range group {
		if o.add(r) && (newest == nil || r.Timestamp.After(newest.Timestamp)) {
			newest = r
		}
	}
	var have codec.Set
	for index := range o.sources {
		have = have.With(index)
	}
	if newest == nil || !o.decodes(have) {
		return false
	}
	o.Newest, o.Fields = newest.Timestamp, shown(newest.fields)
	return true
}

// add takes what a device says that it has of the version to its sources, unless it says other things of the object.
func (o *Object) add(r *reply) bool {
	if s, ok := o.shape(r); !ok || s.size != o.Size || s.segment != int64(o.segment) || r.Data != o.Data || r.ECEtag != o.ETag {
		return false
	}
	indexes := r.sets[o.Data]
	for _, index := range indexes {
		s := &source{node: r.node, index: index, offered: index == r.FragIndex}
		s.others = slices.DeleteFunc(slices.Clone(indexes), func(i int) bool { return i == index })
		list := o.sources[index]
		if s.offered { // before those who only say so
			i := slices.IndexFunc(list, func(s *source) bool { return !s.offered })
			if i < 0 {
				i = len(list)
			}
			o.sources[index] = slices.Insert(list, i, s)
		} else {
			o.sources[index] = append(list, s)
		}
	}
	return true
}

// vouched says whether the version need not be read to be believed. Only one fragment of each device counts, as each would send it unasked; where
// anybody says anything else of the object, the version must be whole without any one device, for that one may lie.
func (o *Object) vouched(replies []*reply) bool {
	var offered codec.Set
	devices := map[int]int{}
	for index, list := range o.sources {
		for _, s := range list {
			if s.offered {
				offered = offered.With(index)
				devices[index]++
			}
		}
	}
	if !o.decodes(offered) {
		return false
	}
	if !slices.ContainsFunc(replies, func(r *reply) bool {
		return r.err == nil && r.Status == 200 && (r.Data != o.Data || r.ECEtag != o.ETag || r.Durable.After(o.Data))
	}) {
		return true
	}
	return !slices.ContainsFunc(offered.Indexes(), func(i int) bool { return devices[i] == 1 && !o.decodes(offered.Without(i)) })
}

// more asks the handoffs that were not asked before for archives of the version, and says whether there were any to ask.
func (o *Object) more(ctx context.Context) bool {
	list := o.unasked
	o.unasked = nil
	replies := make([]*reply, len(list))
	each(list, func(i int, n *node) { replies[i] = o.head(ctx, n, o.Data) })
	for _, r := range replies {
		if r.err == nil && r.Status == 200 {
			o.add(r)
		}
	}
	return len(list) > 0
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
