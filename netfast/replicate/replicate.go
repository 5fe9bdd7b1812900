// Package replicate asks a peer for the suffix hashes of a partition. It does not
// compare them with anything: see imping/swift/suffix.
package replicate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"imping/netfast"
	"imping/swift/pickle"
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

// AnswerError is a whole answer that is no suffix hashes, or more than was allowed for:
// asking again would bring the same.
type AnswerError struct {
	Target Target
	Err    error // a *pickle.RefusedError in its chain: it would do more than be read
}

func (e *AnswerError) Error() string {
	return fmt.Sprintf("REPLICATE %s from %s: %v", e.Target.path(), e.Target.Addr, e.Err)
}

func (e *AnswerError) Unwrap() error { return e.Err }

// Hashes sends REPLICATE without suffixes and reads the answer, a pickle of at most
// limit bytes. The peer rehashes what is stale before it answers, in silence and for
// longer than node_timeout: ctx must bound the exchange (Swift: http_timeout). Errors: a
// *StatusError, an *AnswerError, else something between the two of us broke.
//
// Swift: obj/reconstructor.py, _get_suffixes_to_sync; obj/server.py, REPLICATE.
func Hashes(ctx context.Context, c *netfast.Client, t Target, limit int64) (suffix.Hashes, error) {
	return Ask(ctx, c, t).Hashes(ctx, limit)
}

// Question is a REPLICATE that was sent. Either its Hashes are to be taken, or it is to be
// dropped.
type Question struct {
	target   Target
	exchange *netfast.Exchange
}

// Ask is the first half of Hashes: it sends the request, and waits for nothing but a
// connection.
func Ask(ctx context.Context, c *netfast.Client, t Target) *Question {
	return &Question{t, c.Start(ctx, t.Addr, &netfast.Request{
		Method: "REPLICATE",
		Path:   t.path(),
		Header: []netfast.Field{{Key: "X-Backend-Storage-Policy-Index", Value: strconv.Itoa(t.Policy)}},

		HeadTimeout: -1,
	})}
}

// Drop is for an answer that nobody wants any more.
func (q *Question) Drop() { q.exchange.Drop() }

// Hashes is the other half of the function Hashes.
func (q *Question) Hashes(ctx context.Context, limit int64) (suffix.Hashes, error) {
	body, whole, err := q.fetch(ctx, limit)
	if err != nil {
		return nil, err
	}
	hashes, err := suffix.Decode(body)
	if err != nil {
		err = &AnswerError{Target: q.target, Err: fmt.Errorf("cannot read the hashes: %w", err)}
		if _, refused := errors.AsType[*pickle.RefusedError](err); !whole && !refused {
			err = fmt.Errorf("%v: %w", err, io.ErrUnexpectedEOF) // cut off, as far as anybody can tell
		}
		return nil, err
	}
	return hashes, nil
}

func (t Target) path() string {
	return netfast.Quote("/" + t.Device + "/" + strconv.Itoa(t.Partition))
}

// fetch returns the body of the answer, and whether it is known to be whole.
func (q *Question) fetch(ctx context.Context, limit int64) (body []byte, whole bool, err error) {
	resp, err := q.exchange.Answer(ctx)
	if err != nil {
		return nil, false, err
	}
	if resp.Status != 200 {
		return nil, false, resp.Refuse()
	}
	defer resp.Close()
	if resp.Length() > limit {
		return nil, false, &AnswerError{Target: q.target, Err: fmt.Errorf("the answer of %d bytes is longer than %d", resp.Length(), limit)}
	}
	body, err = io.ReadAll(io.LimitReader(resp, limit+1))
	if err != nil {
		return nil, false, fmt.Errorf("REPLICATE %s from %s: %w", q.target.path(), q.target.Addr, err)
	}
	if int64(len(body)) > limit {
		return nil, false, &AnswerError{Target: q.target, Err: fmt.Errorf("the answer is longer than %d bytes", limit)}
	}
	return body, resp.Framed(), nil
}
