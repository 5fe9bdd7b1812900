package object

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imping/netfast"
	"imping/swift/policy"
	"imping/swift/ring"
	"imping/swift/timestamp"
)

// The expirer's queue, as Swift has it unless its servers are told otherwise (expiring_objects_account_name,
// expiring_objects_container_divisor).
const (
	expirerAccount = ".expiring_objects"
	expirerDivisor = 86400
)

// ErrNoContainer is wrapped by the error of an object whose container is not there.
var ErrNoContainer = fmt.Errorf("no such container")

// containers reads the ring of container servers once.
func (c *Client) containers() (*ring.Ring, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.containerRing == nil {
		r, err := ring.Load(filepath.Join(c.Dir, "container.ring.gz"))
		if err != nil {
			return nil, err
		}
		c.containerRing = r
	}
	return c.containerRing, nil
}

// container looks whether an object's container is there, and has its policy: a row of another policy is in no listing, and the reconciler
// would move the object. Who answers first counts, as with Swift's proxy.
func (c *Client) container(ctx context.Context, r *ring.Ring, pol *policy.Policy, account, container string) error {
	part := r.Partition(c.Swift.Hasher().Path(account, container, ""))
	var gone bool
	var why []string
	for _, n := range r.PartNodes(part) {
		at := &node{c.addr(n), n.Device.Device, 0}
		resp, err := c.HTTP.Do(ctx, at.addr, &netfast.Request{Method: "HEAD", Path: path(at, part, "/"+account+"/"+container)})
		if cause := cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		resp.Close()
		if resp.Status/100 == 2 {
			if index := resp.Header("X-Backend-Storage-Policy-Index"); index != strconv.Itoa(pol.Index) {
				return &StatusError{409, fmt.Sprintf("container /%s/%s has the policy of index %s, not %v", account, container, index, pol)}
			}
			return nil
		}
		gone = gone || resp.Status == 404
		why = append(why, fmt.Sprintf("%v answered %d", at, resp.Status))
	}
	if gone {
		return fmt.Errorf("%w: %w", ErrNoContainer, &StatusError{404, fmt.Sprintf("container /%s/%s is not there", account, container)})
	}
	return &StatusError{503, fmt.Sprintf("no server of container /%s/%s can be asked: %s", account, container, strings.Join(why, "; "))}
}

// orders are what each of a change's requests says besides: who cleans the expirer's queue and, if containers are told, which container
// servers that object server tells. There are enough of them for a quorum of container servers to hear of whatever has a quorum itself.
// fields get X-Delete-At in place of X-Delete-After. Swift: proxy/controllers/obj.py, _backend_requests and num_container_updates.
func (c *Client) orders(ctx context.Context, pl *place, name string, at timestamp.Timestamp, fields []netfast.Field) (each [][]netfast.Field, _ []netfast.Field, err error) {
	fields, deleteAt, err := vanishing(fields, at)
	if err != nil {
		return nil, nil, err
	}
	each = make([][]netfast.Field, pl.pol.Replicas())
	for i := range each {
		clean := "f"
		if i < 2 { // one is enough, each leaves work to an updater
			clean = "t"
		}
		each[i] = append(each[i], netfast.Field{Key: "X-Backend-Clean-Expiring-Object-Queue", Value: clean})
	}
	if !c.UpdateContainers {
		return each, fields, nil
	}
	r, err := c.containers()
	if err != nil {
		return nil, nil, err
	}
	names := strings.SplitN(name, "/", 4) // "", account, container, object
	if err := c.container(ctx, r, pl.pol, names[1], names[2]); err != nil {
		return nil, nil, err
	}
	tell := func(prefix, account, container string, order func(i int) int) {
		part := r.Partition(c.Swift.Hasher().Path(account, container, ""))
		servers := r.PartNodes(part)
		hosts, devices := make([][]string, len(each)), make([][]string, len(each))
		for i := range max((len(servers)+1)/2+len(each)-quorum(pl), len(servers)) {
			n, to := servers[i%len(servers)], order(i%len(each))
			hosts[to] = append(hosts[to], n.IP+":"+strconv.Itoa(n.Port)) // without brackets, as Swift takes it apart
			devices[to] = append(devices[to], n.Device.Device)
		}
		for i := range each {
			if hosts[i] != nil {
				each[i] = append(each[i], netfast.Field{Key: prefix + "Partition", Value: strconv.Itoa(part)},
					netfast.Field{Key: prefix + "Host", Value: strings.Join(hosts[i], ",")}, netfast.Field{Key: prefix + "Device", Value: strings.Join(devices[i], ",")})
				if prefix == "X-Delete-At-" {
					each[i] = append(each[i], netfast.Field{Key: prefix + "Container", Value: container})
				}
			}
		}
	}
	tell("X-Container-", names[1], names[2], func(i int) int { return i })
	if deleteAt > 0 { // by others, if that can be
		tell("X-Delete-At-", expirerAccount, c.Swift.Hasher().ExpirerContainer(name, deleteAt, expirerDivisor), func(i int) int { return len(each) - 1 - i })
	}
	return each, fields, nil
}

// vanishing makes X-Delete-After an X-Delete-At, which beats one that is there, and says what that is; 0: none. Servers know the former in a
// PUT only, and ignore it in a POST. Swift: common/constraints.py, check_delete_headers.
func vanishing(fields []netfast.Field, at timestamp.Timestamp) (list []netfast.Field, then int64, err error) {
	for _, key := range []string{"X-Delete-After", "X-Delete-At"} {
		text := value(fields, key)
		if text == "" || then != 0 {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 40)
		if err != nil || n < 0 {
			return nil, 0, &StatusError{400, fmt.Sprintf("%s: %q is not a number of seconds", key, text)}
		}
		if key == "X-Delete-After" {
			n += int64(at.Seconds())
		}
		if float64(n) <= at.Seconds() {
			return nil, 0, &StatusError{400, fmt.Sprintf("%s: %s is past", key, text)}
		}
		then = n
	}
	if then == 0 {
		return fields, 0, nil
	}
	list = slices.DeleteFunc(slices.Clone(fields), func(f netfast.Field) bool {
		return strings.EqualFold(f.Key, "X-Delete-After") || strings.EqualFold(f.Key, "X-Delete-At")
	})
	text := timestamp.DeleteAt(float64(then))
	then, err = strconv.ParseInt(text, 10, 64)
	return append(list, netfast.Field{Key: "X-Delete-At", Value: text}), then, err
}
