package object

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imping/netfast"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// Post replaces an object's metadata. at zero: now. Errors: a *StatusError, 404 where most devices do not have the object, which wraps
// ErrNotFound, 409 if something newer is there, 503 without a majority.
func (c *Client) Post(ctx context.Context, pol *policy.Policy, name string, at timestamp.Timestamp, fields []netfast.Field) error {
	return c.change(ctx, "POST", pol, name, at, fields)
}

// Delete leaves a tombstone on all primaries, or handoffs in their place. Errors as Post.
func (c *Client) Delete(ctx context.Context, pol *policy.Policy, name string, at timestamp.Timestamp) error {
	return c.change(ctx, "DELETE", pol, name, at, nil)
}

// change sends a request without a body to all primaries, or to handoffs in place of those that can not be reached, and goes by what most of
// them answer. Swift: proxy/controllers/base.py, make_requests and best_response.
func (c *Client) change(ctx context.Context, method string, pol *policy.Policy, name string, at timestamp.Timestamp, fields []netfast.Field) error {
	pl, err := c.place(pol)
	if err != nil {
		return err
	}
	if at.IsZero() {
		at = timestamp.FromTime(time.Now())
	}
	part := c.partition(pl, name)
	primaries, handoffs := c.nodes(pl, part)
	spare := make(chan *node, len(handoffs))
	for _, n := range handoffs {
		spare <- n
	}
	close(spare)
	orders, fields, err := c.orders(ctx, pl, name, at, fields)
	if err != nil {
		return err
	}
	header := append([]netfast.Field{{Key: "X-Timestamp", Value: at.Internal()}, {Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(pol.Index)}, {Key: "Content-Length", Value: "0"}}, fields...)
	if pl.ring.NextPartPower >= 0 {
		header = append(header, netfast.Field{Key: "X-Backend-Next-Part-Power", Value: strconv.Itoa(pl.ring.NextPartPower)})
	}
	statuses, said := make([]int, len(primaries)), make([]string, len(primaries))
	each(primaries, func(i int, n *node) {
		for n != nil && ctx.Err() == nil {
			resp, err := c.HTTP.Do(ctx, n.addr, &netfast.Request{Method: method, Path: path(n, part, name), Header: slices.Concat(header, orders[i])})
			if err != nil {
				said[i] = err.Error()
			} else {
				resp.Drain(1 << 16)
				resp.Close()
				statuses[i], said[i] = resp.Status, fmt.Sprintf("%v answered %d", n, resp.Status)
				if resp.Status < 500 {
					return
				}
			}
			n = <-spare
		}
	})
	status := verdict(method, statuses)
	if err := cause(ctx); err != nil && status != 200 {
		return err
	}
	switch status {
	case 200:
		return nil
	case 404:
		return notFound(name, fmt.Sprintf("most of %d devices do not have it", len(primaries)))
	case 409:
		return &StatusError{409, fmt.Sprintf("%s has something newer than %s", name, at.Internal())}
	case 503:
		return &StatusError{503, fmt.Sprintf("%s of %s: fewer than %d of %d devices agree: %s", method, name, majority(len(primaries)), len(primaries), strings.Join(said, "; "))}
	default:
		return &StatusError{status, fmt.Sprintf("%s of %s is refused: %s", method, name, strings.Join(said, "; "))}
	}
}

// majority is how many of n devices must say the same. Swift: common/utils.py, quorum_size.
func majority(n int) int { return (n + 1) / 2 }

// verdict is what the devices' answers say together: 200 for any success. Where they do not agree on a DELETE, devices that had nothing to
// delete are with those that have deleted. Swift: proxy/controllers/base.py, best_response. Departure: a lone 409 is told
// rather than a 503.
func verdict(method string, statuses []int) int {
	most := majority(len(statuses))
	count := func(from, to int) (n int) {
		for _, s := range statuses {
			if from <= s && s < to {
				n++
			}
		}
		return n
	}
	done, refused, gone := count(200, 300), count(400, 500), count(404, 405)
	switch {
	case done >= most:
		return 200
	case refused >= most:
		return slices.Max(slices.DeleteFunc(slices.Clone(statuses), func(s int) bool { return s >= 500 }))
	case method == "DELETE" && done > 0 && done+gone >= most:
		return 200
	case slices.Contains(statuses, 409):
		return 409
	}
	return 503
}
