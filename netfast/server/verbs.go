package server

import (
	"maps"
	"slices"
	"strings"
)

// verb is how a method is answered: with an answer, or an error that is one (a *Response in
// its chain); any other error is logged and answered 500.
type verb struct {
	serve       func(*Server, *Request) (*Response, error)
	replication bool    // gone with replication_server = no
	old         bool    // not told
	duplex      bool    // what is answered begins before the body ends
	sampled     float64 // share of the answers that statsd is told of; negative = log_statsd_default_sample_rate
}

// verbs are the methods that there are.
var verbs = map[string]verb{
	"DELETE":    {serve: (*Server).delete, sampled: -1},
	"GET":       {serve: (*Server).get, sampled: -1},
	"HEAD":      {serve: (*Server).head, sampled: 0.8},
	"OPTIONS":   {serve: (*Server).options, sampled: -1},
	"POST":      {serve: (*Server).post, sampled: -1},
	"PUT":       {serve: (*Server).put, sampled: -1},
	"REPLICATE": {serve: (*Server).replicate, replication: true, sampled: 0.1},
	// What SSYNC was called in 2013.
	"REPLICATION": {serve: (*Server).replication2013, replication: true, old: true, duplex: true, sampled: 0.1},
	"SSYNC":       {serve: (*Server).ssync, replication: true, duplex: true, sampled: 0.1},
}

// swiftVersion is the version of Swift that this server is like.
const swiftVersion = "2.30.1"

// options tells the methods. Swift: common/base_storage_server.py, OPTIONS.
func (s *Server) options(*Request) (*Response, error) {
	var allowed []string
	for _, method := range slices.Sorted(maps.Keys(s.verbs)) {
		if v := s.verbs[method]; !v.old && (!v.replication || s.conf.ReplicationServer) {
			allowed = append(allowed, method)
		}
	}
	return answer(200).with("Allow", strings.Join(allowed, ", ")).with("Server", "object-server/"+swiftVersion), nil
}
