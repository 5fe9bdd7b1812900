package server

import (
	"errors"
	"strconv"
	"strings"

	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/conf"
)

// place is the object that a request is about. Names are raw bytes.
type place struct {
	*store
	device, partition          string
	account, container, object string
}

// name is that in metadata, of which the hash is made.
func (p *place) name() string { return "/" + p.account + "/" + p.container + "/" + p.object }

// number is the partition's, or an answer for what is none: Swift would make a folder of
// any name.
func number(partition string) (int, error) {
	n, err := strconv.Atoi(partition)
	if err != nil || n < 0 || strconv.Itoa(n) != partition {
		return 0, badRequest("Invalid partition: %s", quoteWSGI(partition))
	}
	return n, nil
}

// object finds out what a request is about. Swift: obj/server.py, get_obj_name_and_placement.
func (s *Server) object(r *Request) (*place, error) {
	st, err := s.store(r)
	if err != nil {
		return nil, err
	}
	segs, err := splitPath(r.Path, 5, 5)
	if err != nil {
		return nil, err
	}
	p := &place{st, segs[0], segs[1], segs[2], segs[3], segs[4]}
	return p, p.checkReserved()
}

// store is that of the request's policy. Swift: common/request_helpers.py,
// get_name_and_placement.
func (s *Server) store(r *Request) (*store, error) {
	value, given := r.Header.Lookup("X-Backend-Storage-Policy-Index")
	index, ok := 0, true
	if value != "" {
		index, ok = conf.ParseInt(value)
	}
	if st := s.stores[index]; ok && st != nil {
		return st, nil
	}
	if !given {
		value = "None"
	}
	return nil, answerText(503, "text/plain", "No policy with index "+value)
}

// splitPath takes a path apart into between min and max segments, of which the last may hold
// slashes, and looks at device and partition. Swift: common/request_helpers.py,
// split_and_validate_path.
func splitPath(path string, min, max int) ([]string, error) {
	segs := strings.SplitN(path, "/", max+1)
	if segs[0] != "" || len(segs) < min+1 || hasEmpty(segs[1:min+1]) {
		return nil, badRequest("Invalid path: %s", quoteWSGI(path))
	}
	segs = segs[1:]
	for len(segs) < max {
		segs = append(segs, "")
	}
	for i, what := range []string{"device", "partition"} {
		if segs[i] == "." || segs[i] == ".." {
			return nil, badRequest("Invalid %s: %s", what, quoteWSGI(segs[i]))
		}
	}
	return segs, nil
}

func hasEmpty(list []string) bool {
	for _, s := range list {
		if s == "" {
			return true
		}
	}
	return false
}

// quoteWSGI quotes as Swift does in texts: bytes were taken for Latin-1 characters, and
// these are quoted in UTF-8.
func quoteWSGI(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return netfast.Quote(b.String())
}

// checkReserved refuses names of the reserved namespace that do not fit together.
// Swift: common/request_helpers.py, validate_internal_obj.
func (p *place) checkReserved() error {
	const reserved = "\x00"
	is := func(name string) bool { return strings.HasPrefix(name, reserved) }
	bad := func(text string) error { return &Response{Status: 400, Body: []byte(text)} }
	for _, part := range []struct{ what, name string }{{"account", p.account}, {"container", p.container}, {"object", p.object}} {
		if part.what == "object" && strings.HasPrefix(p.account, ".") {
			return nil
		}
		if strings.Contains(part.name, reserved) && !is(part.name) {
			return bad("Invalid reserved-namespace " + part.what)
		}
	}
	switch {
	case is(p.container) && !is(p.object):
		return bad("Invalid user-namespace object in reserved-namespace container")
	case is(p.object) && !is(p.container):
		return bad("Invalid reserved-namespace object in user-namespace container")
	}
	return nil
}

// unavailable turns the errors of a device that can not be used into its answer, and leaves
// others as they are.
func unavailable(device string, err error) error {
	if away := (*diskfile.NotMountedError)(nil); errors.As(err, &away) {
		return insufficientStorage(device)
	}
	return err
}
