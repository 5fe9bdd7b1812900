package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"imping/io/diskfile"
	"imping/netfast"
	"imping/swift/conf"
	"imping/swift/pickle"
	"imping/swift/timestamp"
)

// row is what a container server, or the queue of the expirer that is kept in one, is told
// about an object (rule 22).
type row struct {
	op                         string // "PUT" or "DELETE"
	account, container, object string // names of the row, raw bytes
	path                       string // "account/container" of the shard that is told instead, if any
	state                      string // X-Container-Root-Db-State, if told
	header                     Header
	device                     string // of the object, where it waits for the updater
	store                      *store
}

// peer is a container server that wants to be told; the zero value leaves it to the
// updater.
type peer struct{ host, partition, device string }

// maxTold is how many container servers are told at once for one request, which names as many as its head has room for.
const maxTold = 16

// updateContainer tells the container servers that the request names, and waits for them
// container_update_timeout at most; whoever was not told by then is told, or left to the
// updater, afterwards. Swift: obj/server.py, container_update.
func (s *Server) updateContainer(r *Request, p *place, op string, header Header) error {
	hosts, devices := commas(r.Header.Get("X-Container-Host")), commas(r.Header.Get("X-Container-Device"))
	if len(hosts) != len(devices) {
		s.errorf(r, `ERROR Container update failed: different numbers of hosts and devices in request: "%s" vs "%s"`,
			r.Header.Get("X-Container-Host"), r.Header.Get("X-Container-Device"))
		return nil
	}
	partition := r.Header.Get("X-Container-Partition")
	if partition == "" {
		return nil
	}
	u := row{op: op, account: p.account, container: p.container, object: p.object, state: r.Header.Get("X-Container-Root-Db-State"),
		header: header, device: p.device, store: p.store}
	if u.path = unquote(r.Header.Get("X-Backend-Quoted-Container-Path")); u.path == "" {
		u.path = r.Header.Get("X-Backend-Container-Path")
	}
	if segs := strings.Split(u.path, "/"); u.path != "" && (len(segs) != 2 || hasEmpty(segs)) {
		s.errorf(r, "Invalid X-Backend-Container-Path, should be of the form 'account/container' but got %q.", u.path)
		u.path = ""
	}
	u.describe(r, p.policy.Index)

	told := make(chan error, len(hosts))
	next := make(chan int, len(hosts))
	for i := range hosts {
		next <- i
	}
	close(next)
	for range min(len(hosts), maxTold) {
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			for i := range next {
				to := peer{hosts[i], partition, devices[i]}
				if s.isClosing() {
					to = peer{} // the updater has more time
				}
				err := s.tell(r, u, to)
				if err != nil {
					s.errorf(r, "container update is lost: %v", err)
				}
				told <- err
			}
		}()
	}
	timeout := time.NewTimer(s.conf.ContainerUpdateTimeout)
	defer timeout.Stop()
	var lost error
	for range hosts {
		select {
		case err := <-told:
			lost = errors.Join(lost, err)
		case <-timeout.C:
			s.log.Debugf("Container update timeout (%.4fs) waiting for %s", s.conf.ContainerUpdateTimeout.Seconds(), strings.Join(hosts, ", "))
			return lost
		}
	}
	return lost
}

// updateExpirer moves an object in the queue of the expirer, from the time at which it
// was to vanish to the new one; both are as headers and metadata have them.
func (s *Server) updateExpirer(r *Request, p *place, at timestamp.Timestamp, before, after string) error {
	was, _ := wholeSeconds(before)
	is, ok := wholeSeconds(after)
	if !ok && after != "" {
		return fmt.Errorf("invalid literal for int() with base 10: %.40q", after)
	}
	if was == is {
		return nil
	}
	if is != 0 {
		if err := s.queueExpirer(r, p, "PUT", at, timestamp.DeleteAt(float64(is))); err != nil {
			return err
		}
	}
	if was == 0 {
		return nil
	}
	return s.queueExpirer(r, p, "DELETE", at, timestamp.DeleteAt(float64(was)))
}

// queueExpirer puts an object into the expirer's queue, or takes it out.
// Swift: obj/server.py, delete_at_update.
func (s *Server) queueExpirer(r *Request, p *place, op string, at timestamp.Timestamp, then string) error {
	if r.replication() {
		return nil
	}
	u := row{op: op, account: s.conf.ExpiringObjectsAccount, object: then + "-" + p.account + "/" + p.container + "/" + p.object,
		device: p.device, store: p.store}
	u.header.Set("X-Timestamp", at.Internal())
	peers := []peer{{}}
	if op == "DELETE" {
		if value, ok := r.Header.Lookup("X-Backend-Clean-Expiring-Object-Queue"); ok && !isTrue(value) {
			return nil
		}
		// Where it was put is not known any more: a guess.
		u.container = s.expirerContainer(p, then)
	} else {
		hosts, ok := r.Header.Lookup("X-Delete-At-Host")
		if !ok {
			return nil // others are told by enough servers
		}
		if u.container = r.Header.Get("X-Delete-At-Container"); u.container == "" {
			s.log.Warnf("X-Delete-At-Container header must be specified for expiring objects background %s to work properly. "+
				"Making best guess as to the container name for now.", op)
			u.container = s.expirerContainer(p, then)
		}
		n, ok := conf.ParseFloat(u.container)
		if !ok {
			return fmt.Errorf("could not convert X-Delete-At-Container to float: %.40q", u.container)
		}
		u.container = timestamp.DeleteAt(n)
		if named := expirerPeers(hosts, r.Header.Get("X-Delete-At-Device"), r.Header.Get("X-Delete-At-Partition")); named != nil {
			peers = named
		}
		u.header.Set("X-Size", "0")
		u.header.Set("X-Content-Type", "text/plain")
		u.header.Set("X-Etag", "d41d8cd98f00b204e9800998ecf8427e")
	}
	u.describe(r, 0) // system accounts are of policy 0
	for _, who := range peers {
		if err := s.tell(r, u, who); err != nil {
			return err
		}
	}
	return nil
}

// expirerPeers pairs hosts and devices, as far as both are there.
func expirerPeers(hosts, devices, partition string) (peers []peer) {
	d := commas(devices)
	for i, host := range commas(hosts) {
		if i < len(d) && host != "" && d[i] != "" && partition != "" {
			peers = append(peers, peer{host, partition, d[i]})
		}
	}
	return peers
}

// expirerContainer is the container of the queue for a time.
func (s *Server) expirerContainer(p *place, then string) string {
	n, _ := wholeSeconds(then)
	return s.swift.Hasher().ExpirerContainer(p.name(), n, int64(s.conf.ExpiringObjectsContainerDivisor))
}

// describe adds what the log of the other side needs, and the policy of the row.
func (u *row) describe(r *Request, policy int) {
	trans := "-"
	if value, ok := r.Header.Lookup("X-Trans-Id"); ok {
		trans = value
	}
	u.header.Set("X-Trans-Id", trans)
	u.header.Set("Referer", r.Method+" "+r.URL())
	u.header.Set("X-Backend-Storage-Policy-Index", strconv.Itoa(policy))
	u.header.Set("User-Agent", "object-server "+strconv.Itoa(os.Getpid()))
}

// tell tells one container server, or leaves the row to the updater, who reads it from the
// object's device. An error means that neither was possible. Swift: obj/server.py, async_update.
func (s *Server) tell(r *Request, u row, to peer) error {
	if to.host != "" && to.partition != "" && to.device != "" {
		redirect, err := s.send(u, to)
		switch refused := (refusedError)(0); {
		case err == nil && redirect == "":
			return nil
		case err == nil:
			s.log.Debugf("Update to %s redirected to %s", u.target(), redirect)
			u.path = redirect
		case errors.Is(err, errRedirect):
			s.errorf(r, "Container update failed for %q; problem with redirect location: %v", u.object, err)
		case errors.As(err, &refused):
			s.errorf(r, "ERROR Container update failed (saving for async update later): %d response from %s/%s", int(refused), to.host, to.device)
		default:
			s.errorf(r, "ERROR container update failed with %s/%s (saving for async update later): %v", to.host, to.device, err)
		}
	}
	stamp, ok := u.header.Lookup("X-Meta-Timestamp")
	if !ok {
		stamp = u.header.Get("X-Timestamp")
	}
	at, err := timestamp.Parse(stamp)
	if err != nil {
		return err
	}
	name := "/" + u.account + "/" + u.container + "/" + u.object
	if err := u.store.QueueUpdate(u.device, name, at, u.encode()); err != nil {
		return s.unwritable(r, u.device, err)
	}
	s.statsd.Increment("async_pendings")
	return nil
}

// target is the path below device and partition.
func (u *row) target() string {
	if u.path != "" {
		return "/" + u.path + "/" + u.object
	}
	return "/" + u.account + "/" + u.container + "/" + u.object
}

// refusedError is the status of an answer that is none of success.
type refusedError int

func (e refusedError) Error() string { return "status " + strconv.Itoa(int(e)) }

// errRedirect is wrapped by errors about a redirection that says nothing useful.
var errRedirect = errors.New("bad redirection")

// send tells a container server. A redirect is "account/container" of the shard that is to be
// told instead.
func (s *Server) send(u row, to peer) (redirect string, err error) {
	if _, _, err := net.SplitHostPort(to.host); err != nil {
		return "", err
	}
	req := &netfast.Request{Method: u.op, Path: netfast.Quote("/" + to.device + "/" + to.partition + u.target())}
	for key, value := range u.header.All() {
		req.Header = append(req.Header, netfast.Field{Key: key, Value: value})
	}
	resp, err := s.client.Do(context.Background(), to.host, req)
	if err != nil {
		return "", err
	}
	defer resp.Close()
	resp.Drain(leftover)
	switch {
	case resp.Status >= 200 && resp.Status < 300:
		return "", nil
	case resp.Status != 301:
		return "", refusedError(resp.Status)
	}
	return redirection(resp)
}

// redirection reads where a container server sends us. Swift: common/utils.py,
// get_redirect_data.
func redirection(resp *netfast.Response) (string, error) {
	value, ok := resp.Lookup("Location")
	if !ok {
		return "", refusedError(resp.Status)
	}
	_, path, _ := strings.Cut(value, "://")
	if path == "" {
		path = value
	} else if i := strings.IndexByte(path, '/'); i >= 0 {
		path = path[i:]
	} else {
		path = ""
	}
	path, _, _ = strings.Cut(path, "?")
	if isTrue(resp.Header("X-Backend-Location-Is-Quoted")) {
		path = unquote(path)
	}
	segs := strings.SplitN(path, "/", 4)
	if len(segs) < 3 || segs[0] != "" || segs[1] == "" || segs[2] == "" {
		return "", fmt.Errorf("%w: Invalid path: %s", errRedirect, url.PathEscape(path))
	}
	if _, err := timestamp.Parse(resp.Header("X-Backend-Redirect-Timestamp")); err != nil {
		return "", fmt.Errorf("%w: Invalid timestamp value: %s", errRedirect, resp.Header("X-Backend-Redirect-Timestamp"))
	}
	return segs[1] + "/" + segs[2], nil
}

// encode is the pickle that the updater reads.
func (u *row) encode() []byte {
	header := &pickle.HeaderKeyDict{}
	for key, value := range u.header.All() {
		// Values are Latin-1 text to Swift.
		header.Pairs = append(header.Pairs, pickle.Pair{Key: diskfile.Stored(key), Value: diskfile.Stored(value)})
	}
	d := &pickle.Dict{Pairs: []pickle.Pair{{Key: "op", Value: u.op}, {Key: "account", Value: u.account},
		{Key: "container", Value: u.container}, {Key: "obj", Value: u.object}, {Key: "headers", Value: header}}}
	if u.path != "" {
		d.Pairs = append(d.Pairs, pickle.Pair{Key: "container_path", Value: u.path})
	}
	if u.state != "" {
		d.Pairs = append(d.Pairs, pickle.Pair{Key: "db_state", Value: u.state})
	}
	return pickle.Encode(d)
}

// overrideRow lets fields of a request, or metadata of an object, replace what the container
// is told; those of the second kind win. Swift: obj/server.py, _check_container_override.
func overrideRow(row *Header, fields iter.Seq2[string, string]) {
	for _, prefix := range []string{"x-backend-container-update-override-", "x-object-sysmeta-container-update-override-"} {
		for key, value := range fields {
			if lower := strings.ToLower(key); strings.HasPrefix(lower, prefix) {
				row.Set(strings.ReplaceAll(lower, prefix, "x-"), value)
			}
		}
	}
}

// commas takes a list with commas apart, empty places kept.
func commas(value string) []string {
	items := strings.Split(value, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}
