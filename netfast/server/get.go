package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/conf"
	"imping/swift/timestamp"
)

// get answers with an object or a part of it. Swift: obj/server.py, GET.
func (s *Server) get(r *Request) (*Response, error) {
	p, o, err := s.open(r)
	if err != nil {
		return nil, err
	}
	resp, err := s.objectHead(r, o)
	if err != nil {
		o.Close()
		return nil, err
	}
	if _, asked := r.Header.Lookup(netfast.Pipelining); asked {
		resp.with(netfast.Pipelining, "yes")
	}
	meta := o.Metadata()
	for name := range strings.SplitSeq(r.Header.Get("X-Backend-Ignore-Range-If-Metadata-Present"), ",") {
		if name = strings.ToLower(strings.TrimSpace(name)); name != "" && hasFold(meta, name) {
			r.Header.Del("Range")
		}
	}
	if status := precondition(r, resp, etagFor(r, o, meta)); status != 0 {
		o.Close()
		resp.Status, resp.Body = status, []byte{}
		return resp, nil
	}
	body := s.newBody(p, o, r)
	ranges, ok := rangesOf(r.Header.Get("Range"), o.Length)
	switch {
	case ok && len(ranges) == 0:
		o.Close()
		resp.Status = 416
		return resp.with("Content-Range", fmt.Sprintf("bytes */%d", o.Length)), nil
	case !ok || o.Length == 0:
		resp.Stream = body.whole()
	case len(ranges) == 1:
		resp.Status = 206
		resp.with("Content-Range", ranges[0].value(o.Length))
		resp.Stream = body.part(ranges[0])
	default:
		resp.Status = 206
		boundary := newBoundary()
		resp.Stream = body.parts(ranges, resp.Get("Content-Type"), boundary)
		resp.with("Content-Type", "multipart/byteranges;boundary="+boundary)
	}
	return resp, nil
}

// head answers with what is known of an object. Swift: obj/server.py, HEAD.
func (s *Server) head(r *Request) (*Response, error) {
	_, o, err := s.open(r)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	resp, err := s.objectHead(r, o)
	if err != nil {
		return nil, err
	}
	if status := precondition(r, resp, etagFor(r, o, o.Metadata())); status != 0 {
		resp.Status, resp.Body = status, []byte{}
		return resp, nil
	}
	resp.Stream = unsent(o.Length)
	return resp, nil
}

// open opens the object that a GET or HEAD asks for, or fails with the answer.
func (s *Server) open(r *Request) (*place, *diskfile.Object, error) {
	p, err := s.object(r)
	if err != nil {
		return nil, nil, err
	}
	now := timestamp.FromTime(s.now())
	if _, given := r.Header.Lookup("X-Timestamp"); given {
		if now, err = r.timestamp(); err != nil {
			return nil, nil, err
		}
	}
	view := diskfile.View{Name: p.name(), FragIndex: -1, Expired: r.replication(), Now: now}
	if p.fragments() {
		if view.Prefer, err = preferences(r.Header.Get("X-Backend-Fragment-Preferences")); err != nil {
			return nil, nil, err
		}
	}
	o, err := p.View(p.device, p.partition, view)
	if err != nil {
		return nil, nil, s.missing(r, p, err)
	}
	return p, o, nil
}

// missing turns the error of an object that could not be opened into the answer to a GET or
// HEAD.
func (s *Server) missing(r *Request, p *place, err error) error {
	resp := answer(404)
	switch {
	case isA[*diskfile.QuarantinedError](err):
		s.statsd.Increment("quarantines")
	case errors.Is(err, diskfile.ErrNotExist):
	case isA[*diskfile.DeletedError](err):
		e, _ := errors.AsType[*diskfile.DeletedError](err)
		resp.with("X-Backend-Timestamp", e.Timestamp.Internal())
	case isA[*diskfile.ExpiredError](err):
		e, _ := errors.AsType[*diskfile.ExpiredError](err)
		resp.with("X-Backend-Timestamp", e.Timestamp.Internal())
	case isA[*diskfile.CollisionError](err):
		s.errorf(r, "%v", err)
		return answer(403)
	case errors.Is(err, unix.ENOTSUP):
		return insufficientStorage(p.device)
	default:
		return unavailable(p.device, err)
	}
	if status := precondition(r, resp, ""); status != 0 {
		resp.Status, resp.Body = status, []byte{}
	}
	return resp
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// preferences reads X-Backend-Fragment-Preferences: nil when it is not there or no JSON.
// Swift: ECDiskFile._validate_frag_prefs.
func preferences(value string) ([]diskfile.Preference, error) {
	if prefer, ok := usualPreferences(value); ok {
		return prefer, nil
	}
	return anyPreferences(value)
}

// anyPreferences is preferences, in whatever form.
func anyPreferences(value string) ([]diskfile.Preference, error) {
	var list any
	if value == "" || json.Unmarshal([]byte(value), &list) != nil || list == nil {
		return nil, nil
	}
	bad := fmt.Errorf("Bad frag_prefs: %.1000q", value) //lint:ignore ST1005 Swift's words
	items, ok := list.([]any)
	if object, empty := list.(map[string]any); !ok && (!empty || len(object) > 0) {
		return nil, bad
	}
	prefer := make([]diskfile.Preference, 0, len(items))
	for _, item := range items {
		fields, _ := item.(map[string]any)
		at, ok1 := fields["timestamp"]
		exclude, ok2 := fields["exclude"].([]any)
		if !ok1 || !ok2 {
			return nil, bad
		}
		var p diskfile.Preference
		text, isText := at.(string)
		if n, ok := at.(float64); ok {
			text, isText = strconv.FormatFloat(n, 'f', -1, 64), true
		}
		var err error
		if p.Timestamp, err = timestamp.Parse(text); err != nil || !isText {
			return nil, fmt.Errorf("Bad timestamp in frag_prefs: %.1000q", value) //lint:ignore ST1005 Swift's words
		}
		for _, x := range exclude {
			index, ok := -1, false
			switch x := x.(type) {
			case float64:
				index, ok = int(x), x >= 0 && x < math.MaxInt32
			case string:
				index, ok = conf.ParseInt(x)
			}
			if !ok || index < 0 {
				return nil, fmt.Errorf("Bad fragment index in frag_prefs: %.1000q", value) //lint:ignore ST1005 Swift's words
			}
			p.Exclude = append(p.Exclude, index)
		}
		prefer = append(prefer, p)
	}
	return prefer, nil
}

// usualPreferences reads what proxies and reconstructors send, [{"timestamp": "1402444821.72589", "exclude": [0, 1]}, ...], in a tenth of the time that
// JSON takes. It is false for all else.
func usualPreferences(value string) (list []diskfile.Preference, ok bool) {
	rest, ok := strings.CutPrefix(value, "[")
	for list = []diskfile.Preference{}; ok && rest != "]"; {
		var p diskfile.Preference
		var text string
		if len(list) > 0 {
			if rest, ok = strings.CutPrefix(rest, ", "); !ok {
				return nil, false
			}
		}
		if rest, ok = strings.CutPrefix(rest, `{"timestamp": "`); !ok {
			return nil, false
		}
		if text, rest, ok = strings.Cut(rest, `", "exclude": [`); !ok || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) {
			return nil, false
		}
		var err error
		if p.Timestamp, err = timestamp.Parse(text); err != nil {
			return nil, false
		}
		if text, rest, ok = strings.Cut(rest, "]}"); !ok {
			return nil, false
		}
		for more := text != ""; more; {
			var number string
			number, text, more = strings.Cut(text, ", ")
			index, err := strconv.ParseUint(number, 10, 30)
			if err != nil || len(number) > 1 && number[0] == '0' {
				return nil, false
			}
			p.Exclude = append(p.Exclude, int(index))
		}
		list = append(list, p)
	}
	return list, ok
}

// objectHead is the head of an answer with an object: its own fields and what the daemons
// want to know.
func (s *Server) objectHead(r *Request, o *diskfile.Object) (*Response, error) {
	meta := o.Metadata()
	resp := &Response{Status: 200, Header: make([]netfast.Field, 0, len(meta)+12)}
	resp.with("Content-Type", "application/octet-stream")
	if value, ok := meta["Content-Type"]; ok {
		resp.with("Content-Type", diskfile.Wire(value))
	}
	keys := make([]string, 0, len(meta))
	for key := range meta {
		if s.conf.shown(key) {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	for _, key := range keys {
		resp.with(title(diskfile.Wire(key)), diskfile.Wire(meta[key]))
	}
	etag, ok := meta["ETag"]
	if !ok {
		return nil, fmt.Errorf("%s has no ETag in its metadata", o.Path)
	}
	at := o.Newest()
	resp.with("Etag", `"`+diskfile.Wire(etag)+`"`)
	resp.with("Last-Modified", lastModified(at).Format(httpTime))
	resp.with("X-Timestamp", at.Normal())
	resp.with("X-Backend-Timestamp", at.Internal())
	resp.with("X-Backend-Data-Timestamp", o.Data.Internal())
	if !o.Durable.IsZero() {
		resp.with("X-Backend-Durable-Timestamp", o.Durable.Internal())
	}
	if len(o.Sets) > 0 {
		resp.with("X-Backend-Fragments", fragmentsJSON(o.Sets))
	}
	if value, ok := meta["Content-Encoding"]; ok {
		resp.with("Content-Encoding", diskfile.Wire(value))
	}
	return resp, nil
}

// fragmentsJSON is {"1402444821.72589": [0, 1]}, as Python writes it.
func fragmentsJSON(sets []diskfile.FragmentSet) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, set := range sets {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('"')
		b.WriteString(set.Timestamp.Internal())
		b.WriteString(`": [`)
		for j, index := range set.Indexes {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteString(strconv.Itoa(index))
		}
		b.WriteByte(']')
	}
	b.WriteByte('}')
	return b.String()
}

func hasFold(meta map[string]string, lower string) bool {
	for key := range meta {
		if strings.ToLower(key) == lower {
			return true
		}
	}
	return false
}

// etagFor is the ETag that conditions are about: that of the first name in
// X-Backend-Etag-Is-At which the metadata has, else the object's.
// Swift: common/request_helpers.py, resolve_etag_is_at_header.
func etagFor(r *Request, o *diskfile.Object, meta map[string]string) string {
	for _, name := range conf.List(r.Header.Get("X-Backend-Etag-Is-At")) {
		name = title(name)
		for key, value := range meta {
			if title(diskfile.Wire(key)) == name {
				return diskfile.Wire(value)
			}
		}
	}
	return strings.ReplaceAll(diskfile.Wire(meta["ETag"]), `"`, "")
}
