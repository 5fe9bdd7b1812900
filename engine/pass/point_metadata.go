package pass

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"imping/codec"
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/netfast"
	"imping/netfast/ssync"
	"imping/swift/timestamp"
)

// DefaultAllowedHeaders are the headers besides Swift's own metadata that an object server
// keeps with an object and shows again, unless its configuration says otherwise.
// Swift: obj/server.py, ObjectController.__init__.
var DefaultAllowedHeaders = []string{
	"content-disposition", "content-encoding", "x-delete-at", "x-object-manifest", "x-static-large-object",
	"cache-control", "content-language", "expires", "x-robots-tag",
}

// answerFields are the fields of an object server's answer that are not the object's
// metadata, or are not kept with it in this form. X-Backend-* are others.
var answerFields = map[string]bool{
	"content-length": true, "etag": true, "last-modified": true, "x-timestamp": true, "accept-ranges": true, "date": true,
	"x-trans-id": true, "x-openstack-request-id": true, "connection": true, "keep-alive": true, "server": true,
	"transfer-encoding": true, "via": true,
}

const (
	fieldIndex  = "x-object-sysmeta-ec-frag-index"
	fieldType   = "content-type"
	fieldStatic = "x-static-large-object"
	sysmeta     = "x-object-sysmeta-"
)

// lower is strings.ToLower in ASCII: other bytes of a header's name are the client's.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

// metadataOf sorts the fields of an answer: the object's metadata by lower-case key, and
// the names of fields that may be metadata or not. Their values are the client's bytes,
// as a PUT has to bring them.
func metadataOf(fields []netfast.Field, allowed []string) (meta map[string]netfast.Field, unknown []string) {
	meta = make(map[string]netfast.Field)
	for _, f := range fields {
		key := lower(f.Key)
		switch {
		case strings.HasPrefix(key, "x-object-meta-"), strings.HasPrefix(key, sysmeta), strings.HasPrefix(key, "x-object-transient-sysmeta-"),
			key == fieldType, slices.Contains(DefaultAllowedHeaders, key), slices.Contains(allowed, key):
			meta[key] = f
		case answerFields[key], strings.HasPrefix(key, "x-backend-"):
		default:
			unknown = append(unknown, f.Key)
		}
	}
	return meta, unknown
}

// dataLevel reports whether a .meta file leaves the value of the .data file as it is.
// Swift: obj/diskfile.py, _construct_from_data_file.
func dataLevel(key string) bool { return strings.HasPrefix(key, sysmeta) || key == fieldStatic }

// shownFields is what a server would show of a local archive.
func shownFields(file *diskfile.Object) map[string]netfast.Field {
	all := make(map[string]netfast.Field)
	put := func(meta map[string]string, take func(key string) bool) {
		for k, v := range meta {
			switch key := lower(k); {
			case key == "name", key == "etag", key == "x-timestamp", key == "content-length", key == "content-type-timestamp":
			case take(key):
				all[lower(diskfile.Wire(k))] = netfast.Field{Key: diskfile.Wire(k), Value: diskfile.Wire(v)}
			}
		}
	}
	any := func(string) bool { return true }
	if file.FileMeta == nil {
		put(file.DataMeta, any)
		return all
	}
	put(file.DataMeta, func(key string) bool { return dataLevel(key) || key == fieldType })
	put(file.FileMeta, func(key string) bool {
		return !dataLevel(key) && (key != fieldType || !file.ContentType.IsZero())
	})
	return all
}

// canonical is a value that equals another's if the fields that keep takes are equal.
func (h *holding) canonical(keep func(key string) bool) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(h.fields)) {
		if key != fieldIndex && keep(key) {
			fmt.Fprintf(&b, "%q=%q\n", key, h.fields[key].Value)
		}
	}
	return b.String()
}

// majority keeps those of the archives that have the same values in the fields that keep
// takes as most have, counted by distinct index. It marks the others, and names what differs. An error says
// that there is no majority.
func majority(list []*holding, keep func(key string) bool, what string) ([]*holding, error) {
	groups := make(map[string][]*holding)
	for _, h := range list {
		c := h.canonical(keep)
		groups[c] = append(groups[c], h)
	}
	var best []*holding
	tie := false
	for _, c := range slices.Sorted(maps.Keys(groups)) {
		switch a, b := distinct(groups[c]).Len(), distinct(best).Len(); {
		case a > b:
			best, tie = groups[c], false
		case a == b:
			tie = true
		}
	}
	if tie {
		var nodes []string
		for _, h := range list {
			nodes = append(nodes, h.node.String())
		}
		return nil, fmt.Errorf("the nodes disagree about its %s, and none is in the majority: %s", what, strings.Join(nodes, ", "))
	}
	for c, group := range groups {
		if c == best[0].canonical(keep) {
			continue
		}
		for _, h := range group {
			h.odd = true
			h.report.Problem = fmt.Sprintf("its %s is not that of the others: %s", what, strings.Join(differing(h, best[0], keep), ", "))
		}
	}
	return best, nil
}

func distinct(list []*holding) codec.Set {
	set := codec.SetOf()
	for _, h := range list {
		set = set.With(h.index)
	}
	return set
}

func differing(a, b *holding, keep func(key string) bool) (names []string) {
	keys := maps.Clone(a.fields)
	maps.Copy(keys, b.fields)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		_, inA := a.fields[key]
		_, inB := b.fields[key]
		if key != fieldIndex && keep(key) && (inA != inB || a.fields[key].Value != b.fields[key].Value) {
			names = append(names, keys[key].Key)
		}
	}
	return names
}

// compose makes the reference out of the archives that were proved: its metadata is that
// of a local archive where there is one, else what K survivors agree on.
//
// Where there is a .meta file a server shows it in place of the .data file's metadata, but
// for system metadata. The .data file's own is known then from a local file or from a node
// that has no .meta file, else it is overridden on all nodes alike, and the rebuilt .data
// file gets what the servers show.
func (pt *point) compose() error {
	good, plain, newest, err := pt.agree()
	if err != nil {
		return err
	}
	pt.findLocal(good)
	if pt.source, err = pt.compositions(plain, newest); err != nil {
		return fmt.Errorf("%w; repair it on a node that holds an archive of its own: %s", err, nodesOf(good))
	}
	return nil
}

// agree finds those whole archives of the reference that agree on its metadata, and which is the newest: plain are without a .meta file, newest
// have the newest one.
func (pt *point) agree() (good, plain, newest []*holding, err error) {
	k := pt.code.K()
	for _, h := range pt.ref.held {
		if h.proved && h.fit() {
			good = append(good, h)
		}
	}
	if n := distinct(good).Len(); n < k {
		return nil, nil, nil, fmt.Errorf("too few survivors: version %s has %d of %d that are whole (fragments %v)", pt.ref.data.Internal(), n, k, distinct(good))
	}
	if good, err = majority(good, dataLevel, "system metadata"); err != nil {
		return nil, nil, nil, err
	}
	for _, h := range good {
		if h.meta.After(pt.meta) {
			pt.meta = h.meta
		}
	}
	every := func(string) bool { return true }
	plain, posted := split(good, func(h *holding) bool { return h.meta.IsZero() })
	if plain, err = majority(plain, every, "metadata"); err != nil && len(plain) > 0 {
		return nil, nil, nil, err
	}
	newest, _ = split(posted, func(h *holding) bool { return h.meta == pt.meta })
	if newest, err = majority(newest, every, "metadata"); err != nil && len(newest) > 0 {
		return nil, nil, nil, err
	}
	good, _ = split(good, (*holding).fit)
	if n := distinct(good).Len(); n < k {
		return nil, nil, nil, fmt.Errorf("too few survivors: version %s has %d of %d that agree on its metadata (fragments %v)", pt.ref.data.Internal(), n, k, distinct(good))
	}
	return good, plain, newest, nil
}

func split(list []*holding, is func(*holding) bool) (yes, no []*holding) {
	for _, h := range list {
		if is(h) {
			yes = append(yes, h)
		} else {
			no = append(no, h)
		}
	}
	return yes, no
}

func nodesOf(list []*holding) string {
	var names []string
	for _, h := range list {
		if s := h.node.String(); !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return strings.Join(names, ", ")
}

// findLocal chooses a local archive as the reference, one with the newest .meta file
// before others.
func (pt *point) findLocal(good []*holding) {
	for _, d := range pt.disks {
		is := func(h *holding) bool {
			return h.node.ID == d.dev.ID && h.index == d.file.FragIndex && h.data == d.file.Data
		}
		if slices.ContainsFunc(good, is) && (pt.here == nil || d.file.Meta.After(pt.here.file.Meta)) {
			pt.here = d
		}
	}
}

// compositions puts the reference together: plain are archives without a .meta file,
// newest those with the newest one.
func (pt *point) compositions(plain, newest []*holding) (*pointSource, error) {
	src := &pointSource{offer: ssync.Offer{Hash: pt.hash, Data: pt.ref.data, Meta: pt.meta}}
	var err error
	var own string // the content type of the .data file, where it is known
	reference := &PointReference{Timestamp: pt.ref.data.Internal(), ECEtag: pt.ref.ecEtag}
	switch {
	case pt.here != nil:
		file := pt.here.file
		if src.object, err = rebuild.NewObject(pt.code, pt.pol, pt.part, file); err != nil {
			return nil, err
		}
		src.put = func(index int) []ssync.Field { return putFields(file.DataMeta, index) }
		own = diskfile.Wire(file.DataMeta["Content-Type"])
		reference.Source = file.Path
	default:
		from, what := plain, "the answers of %s"
		if len(plain) == 0 {
			from, what = newest, "the answers of %s, which show the .meta file's in place of the .data file's own"
		}
		if err := usable(from[0], len(plain) == 0); err != nil {
			return nil, err
		}
		if src.object, err = pt.object(from[0]); err != nil {
			return nil, err
		}
		src.put = func(index int) []ssync.Field { return distantFields(from[0].fields, pt.ref.data, index) }
		if len(plain) > 0 {
			own = plain[0].fields[fieldType].Value
		}
		reference.Source = fmt.Sprintf(what, nodesOf(from))
	}
	reference.Size = src.object.Size
	pt.report.Reference = reference
	if pt.meta.IsZero() {
		return src, nil
	}
	reference.Metadata = pt.meta.Internal()
	if pt.here != nil && pt.here.file.Meta == pt.meta {
		src.offer.CType = pt.here.file.ContentType
		src.post = postFields(pt.here.file.FileMeta)
		return src, nil
	}
	switch last := newest[0]; {
	case len(last.unknown) > 0:
		pt.unsent = usable(last, false).Error()
	case own != "" && last.fields[fieldType].Value != own:
		pt.unsent = "it brought a content type of its own, whose time can not be seen from afar"
	default:
		src.post = distantMeta(last.fields, pt.meta)
		return src, nil
	}
	pt.unsent = fmt.Sprintf("the metadata of %s is not sent: %s; repair it on %s", pt.meta.Internal(), pt.unsent, nodesOf(newest))
	pt.note("%s", pt.unsent)
	src.offer.Meta = timestamp.Timestamp{}
	return src, nil
}

// usable says why an answer is not all of an archive's metadata. hidden: a .meta file lies
// over that of the .data file.
func usable(h *holding, hidden bool) error {
	if len(h.unknown) > 0 {
		return fmt.Errorf("the answer of %s has fields that are not known to be metadata or not (%s): name them in allowed_headers of [app:object-server], as the servers' configuration does",
			h.node, strings.Join(h.unknown, ", "))
	}
	if value := h.fields[fieldStatic].Value; hidden && value != "" && !strings.Contains(h.fields[fieldType].Value, "swift_bytes=") {
		return errors.New("the manifest of a large object was given another content type, and what its own says of the object's size can not be seen from afar")
	}
	return nil
}

// distantFields are the header fields of a PUT subrequest, as putFields makes them of a
// local file.
func distantFields(meta map[string]netfast.Field, data timestamp.Timestamp, index int) []ssync.Field {
	list := []ssync.Field{{Key: "X-Timestamp", Value: data.Internal()}, {Key: rebuild.KeyFragIndex, Value: strconv.Itoa(index)}}
	for key, f := range meta {
		if key != fieldIndex {
			list = append(list, ssync.Field(f))
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list
}

// distantMeta are those of a POST subrequest. A content type is never among them: the
// server shows that of the .data file.
func distantMeta(meta map[string]netfast.Field, at timestamp.Timestamp) []ssync.Field {
	list := []ssync.Field{{Key: "X-Timestamp", Value: at.Internal()}}
	for key, f := range meta {
		if !dataLevel(key) && key != fieldType {
			list = append(list, ssync.Field(f))
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list
}
