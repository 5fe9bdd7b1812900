// Package replicate asks a peer for the suffix hashes of a partition. It does not
// compare them with anything: see imping/swift/suffix.
package replicate

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"imping/netfast"
	"imping/swift/suffix"
)

// Target is one partition on one peer's device.
type Target struct {
	Addr      string // replication host:port
	Device    string
	Partition int
	Policy    int
}

// StatusError is an answer other than 200; 507 says that the device is not mounted.
type StatusError = netfast.StatusError

// Hashes sends REPLICATE without suffixes and reads the answer, a pickle of at most
// limit bytes. The peer rehashes what is stale before it answers, in silence and for
// longer than node_timeout: ctx must bound the exchange (Swift: http_timeout).
//
// Swift: obj/reconstructor.py, _get_suffixes_to_sync; obj/server.py, REPLICATE.
func Hashes(ctx context.Context, c *netfast.Client, t Target, limit int64) (suffix.Hashes, error) {
	body, err := fetch(ctx, c, t, limit)
	if err != nil {
		return nil, err
	}
	hashes, err := suffix.Decode(body)
	if err != nil {
		return nil, fmt.Errorf("REPLICATE %s from %s: cannot read the hashes: %w", t.path(), t.Addr, err)
	}
	return hashes, nil
}

func (t Target) path() string {
	return netfast.Quote("/" + t.Device + "/" + strconv.Itoa(t.Partition))
}

func fetch(ctx context.Context, c *netfast.Client, t Target, limit int64) ([]byte, error) {
	resp, err := c.Do(ctx, t.Addr, &netfast.Request{
		Method: "REPLICATE",
		Path:   t.path(),
		Header: []netfast.Field{{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(t.Policy)}},

		HeadTimeout: -1,
	})
	if err != nil {
		return nil, err
	}
	if resp.Status != 200 {
		return nil, resp.Refuse()
	}
	defer resp.Close()
	if resp.Length() > limit {
		return nil, fmt.Errorf("REPLICATE %s from %s: the answer of %d bytes is longer than %d", t.path(), t.Addr, resp.Length(), limit)
	}
	body, err := io.ReadAll(io.LimitReader(resp, limit+1))
	if err != nil {
		return nil, fmt.Errorf("REPLICATE %s from %s: %w", t.path(), t.Addr, err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("REPLICATE %s from %s: the answer is longer than %d bytes", t.path(), t.Addr, limit)
	}
	return body, nil
}
