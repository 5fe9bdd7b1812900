package scenario

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"imping/swift/policy"
)

// Object is an object as a client should find it.
type Object struct {
	Policy    *policy.Policy
	Container string
	Name      string
	Kind      Kind
	Size      int64
	Seed      string      // from which Content is made
	Header    http.Header // what a GET must answer, among others
}

// Kind is what became of an object.
type Kind string

const (
	Sized       Kind = "sized"       // stored, of one of the sizes that matter
	Posted      Kind = "posted"      // stored, then given other metadata: has a .meta
	Overwritten Kind = "overwritten" // stored twice
	Deleted     Kind = "deleted"     // stored and deleted: has a .ts
	Foreign     Kind = "foreign"     // name and metadata are not ASCII
	Expiring    Kind = "expiring"    // has an expiry date, a day away
	Random      Kind = "random"      // stored, of a random size
)

func (o *Object) String() string {
	return fmt.Sprintf("%s object %s/%s of %d bytes", o.Kind, o.Container, o.Name, o.Size)
}

// Content is the object's body, made anew.
func (o *Object) Content() io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(o.Seed))), o.Size)
}

// ETag is the MD5 of the body.
func (o *Object) ETag() (string, error) {
	h := md5.New()
	if _, err := io.Copy(h, o.Content()); err != nil {
		return "", fmt.Errorf("cannot make the body of %v: %w", o, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// verify gets the object and compares all of it.
func (o *Object) verify(ctx context.Context, c Cluster) error {
	resp, err := c.Do(ctx, http.MethodGet, o.Container, o.Name, nil, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	want := http.StatusOK
	if o.Kind == Deleted {
		want = http.StatusNotFound
	}
	if resp.StatusCode != want {
		return fmt.Errorf("GET of %v was answered %s, not %d", o, resp.Status, want)
	}
	if o.Kind == Deleted {
		return nil
	}
	if resp.ContentLength != o.Size {
		return fmt.Errorf("GET of %v says that it is %d bytes long", o, resp.ContentLength)
	}
	for k, v := range o.Header {
		if !slices.Equal(resp.Header[k], v) {
			return fmt.Errorf("GET of %v: %s is %q, not %q", o, k, resp.Header[k], v)
		}
	}
	etag, err := o.ETag()
	if err != nil {
		return err
	}
	if got := strings.Trim(resp.Header.Get("Etag"), `"`); got != etag {
		return fmt.Errorf("GET of %v: ETag is %q, not %q", o, got, etag)
	}
	return compareBody(o, resp.Body)
}

func compareBody(o *Object, body io.Reader) error {
	want := o.Content()
	wantBuf, gotBuf := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(body, gotBuf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("GET of %v broke off after %d bytes: %w", o, at+int64(n), err)
		}
		m, wantErr := io.ReadFull(want, wantBuf[:n])
		if m < n || !bytes.Equal(gotBuf[:n], wantBuf[:m]) {
			return fmt.Errorf("GET of %v: the body differs after byte %d", o, at)
		}
		if wantErr != nil && n > 0 {
			return fmt.Errorf("cannot make the body of %v: %w", o, wantErr)
		}
		at += int64(n)
		if err != nil {
			if at != o.Size {
				return fmt.Errorf("GET of %v ended after %d bytes", o, at)
			}
			return nil
		}
	}
}

// must sends a request and wants a 2xx answer.
func must(ctx context.Context, c Cluster, method, container, object string, header http.Header, body io.Reader, size int64) error {
	resp, err := c.Do(ctx, method, container, object, header, body, size)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("cannot read the answer to %s of %s/%s: %w", method, container, object, err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s of %s/%s was answered %s: %s", method, container, object, resp.Status, text)
	}
	return nil
}

func (o *Object) put(ctx context.Context, c Cluster, header http.Header) error {
	return must(ctx, c, http.MethodPut, o.Container, o.Name, header, o.Content(), o.Size)
}
