package server

import (
	"fmt"
	"os"

	"imping/netfast"
	"imping/swift/conf"
)

// filter makes a filter of the pipeline; one that is not built in is an error that names it
// (rule 29).
func (s *Server) filter(stage conf.Stage) (func(handler) handler, error) {
	switch {
	case isProgram(stage.Program, "healthcheck", "swift.common.middleware.healthcheck:filter_factory"):
		return healthcheck(stage.Section), nil
	case isProgram(stage.Program, "recon", "swift.common.middleware.recon:filter_factory"):
		return newRecon(s, stage.Section).filter, nil
	case isProgram(stage.Program, "backend_ratelimit", "swift.common.middleware.backend_ratelimit:filter_factory"):
		limit, err := newRatelimit(s, stage.Section)
		if err != nil {
			return nil, err
		}
		return limit.filter, nil
	}
	return nil, fmt.Errorf("%s: filter %q of the pipeline (%s) is not one of those built in: healthcheck, recon, backend_ratelimit",
		stage.Path, stage.Name, stage.Program)
}

// healthcheck answers for the process alone. Swift: common/middleware/healthcheck.py.
func healthcheck(sec *conf.Section) func(handler) handler {
	disable := sec.Get("disable_path", "")
	return func(next handler) handler {
		return func(r *Request) *Response {
			if netfast.Quote(r.Path) != "/healthcheck" {
				return next(r)
			}
			if disable != "" {
				if _, err := os.Stat(disable); err == nil {
					return answerText(503, "text/plain", "DISABLED BY FILE")
				}
			}
			return answerText(200, "text/plain", "OK")
		}
	}
}
