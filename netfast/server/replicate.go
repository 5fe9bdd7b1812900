package server

import (
	"strings"

	"imping/swift/suffix"
)

// replicate answers with the suffix hashes of a partition, or only marks suffixes for being
// hashed anew (rule 25). Swift: obj/server.py, REPLICATE; BaseDiskFileManager.get_hashes.
func (s *Server) replicate(r *Request) (*Response, error) {
	st, err := s.store(r)
	if err != nil {
		return nil, err
	}
	segs, err := splitPath(r.Path, 2, 3)
	if err != nil {
		return nil, err
	}
	device := segs[0]
	if _, err := st.DevicePath(device); err != nil {
		return nil, unavailable(device, err)
	}
	partition, err := number(segs[1])
	if err != nil {
		return nil, err
	}
	var hashes suffix.Hashes // nil is a pickled None
	if segs[2] == "" {
		if hashes, _, err = st.SuffixHashes(device, partition, nil, false); err != nil {
			return nil, unavailable(device, err)
		}
	}
	for name := range strings.SplitSeq(segs[2], "-") {
		if !suffix.Valid(name) {
			continue
		}
		if err := st.Invalidate(device, partition, name); err != nil {
			return nil, unavailable(device, err)
		}
	}
	return &Response{Status: 200, Body: hashes.Encode()}, nil
}
