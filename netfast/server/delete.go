package server

import (
	"imping/io/diskfile"
	"imping/swift/timestamp"
)

// delete leaves a tombstone, whether there was an object or not; with X-If-Delete-At only
// where there is one that was to vanish at that time (rule 23).
// Swift: obj/server.py, DELETE.
func (s *Server) delete(r *Request) (*Response, error) {
	p, err := s.object(r)
	if err != nil {
		return nil, err
	}
	now, err := r.timestamp()
	if err != nil {
		return nil, err
	}
	where, err := p.location(r, -1)
	if err != nil {
		return nil, err
	}
	is, err := s.present(r, p, diskfile.View{FragIndex: -1, Now: now})
	if err != nil {
		return nil, err
	}
	status := 404
	if is.object != nil {
		if status = 204; !is.at.Before(now) {
			status = 409
		}
	}
	newest := now
	if is.at.After(now) {
		newest = is.at
	}
	// Stock can not delete an object that is to vanish after the end of its times.
	seconds, _ := wholeSeconds(is.meta["X-Delete-At"])
	deleteAt, err := timestamp.Parse(timestamp.DeleteAt(float64(seconds)))
	if err != nil {
		return nil, err
	}
	if value, ok := r.Header.Lookup("X-If-Delete-At"); ok {
		want, err := timestamp.Parse(value)
		switch {
		case err != nil:
			return nil, &Response{Status: 400, Body: []byte("Bad X-If-Delete-At header value")}
		case is.at.IsZero():
			return nil, answer(404)
		case !is.at.Before(now):
			return nil, answer(409)
		case deleteAt != want:
			return nil, &Response{Status: 412, Body: []byte("X-If-Delete-At and X-Delete-At do not match")}
		}
		status = 204
	}
	if !deleteAt.IsZero() {
		if err := s.queueExpirer(r, p, "DELETE", now, timestamp.DeleteAt(deleteAt.Seconds())); err != nil {
			return nil, err
		}
	}
	if is.at.Before(now) {
		if err := p.Delete(where, now); err != nil {
			return nil, s.unwritable(r, p.device, err)
		}
		row := Header{}
		row.Set("X-Timestamp", now.Internal())
		if err := s.updateContainer(r, p, "DELETE", row); err != nil {
			return nil, err
		}
	}
	return answer(status).with("X-Backend-Timestamp", newest.Internal()).
		with("X-Backend-Content-Type", diskfile.Wire(is.meta["Content-Type"])), nil
}
