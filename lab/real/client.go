package real

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Client talks to the cluster's proxy as the only user of the only account. It may be
// used by several goroutines.
type Client struct {
	Account string // "AUTH_test"
	http    *http.Client
	base    string

	mu    sync.Mutex
	token string
}

const (
	authUser = "test:tester"
	authKey  = "testing"
)

// Client is the client of this cluster.
func (c *Cluster) Client() *Client { return c.client }

// Account is the account of Client and Do.
func (c *Cluster) Account() string { return c.client.Account }

// Do is Client().Do.
func (c *Cluster) Do(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	return c.client.Do(ctx, method, container, object, header, body, size)
}

func newClient() *Client {
	return &Client{
		Account: "AUTH_test",
		base:    fmt.Sprintf("http://127.0.0.1:%d", proxyPort),
		// No proxy from the environment, and no body that is not what the server sent.
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}},
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do sends one request: to a container when object is "", to the account when both
// names are. Names are plain, not quoted. The answer's status is not judged; its body
// is to be closed.
func (c *Client) Do(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	token, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	path := "/v1/" + c.Account
	for _, name := range []string{container, object} {
		if name != "" {
			path += "/" + strings.ReplaceAll(url.PathEscape(name), "%2F", "/")
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make a request: %w", err)
	}
	if body != nil {
		req.ContentLength = size
		if size == 0 {
			req.Body = http.NoBody
		}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot %s %s: %w", method, path, err)
	}
	return resp, nil
}

func (c *Client) login(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		return c.token, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/auth/v1.0", nil)
	if err != nil {
		return "", fmt.Errorf("cannot make a request: %w", err)
	}
	req.Header.Set("X-Auth-User", authUser)
	req.Header.Set("X-Auth-Key", authKey)
	resp, err := c.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("cannot log in: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("cannot log in as %s: %s", authUser, resp.Status)
	}
	c.token = resp.Header.Get("X-Auth-Token")
	if c.token == "" {
		return "", errors.New("cannot log in: the proxy gave no token")
	}
	return c.token, nil
}

// must sends a request and wants a 2xx answer, whose body it drops.
func (c *Client) must(ctx context.Context, method, container, object string, header http.Header, body io.Reader, size int64) (http.Header, error) {
	resp, err := c.Do(ctx, method, container, object, header, body, size)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer to %s of %s/%s: %w", method, container, object, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s of %s/%s was answered %s: %s", method, container, object, resp.Status, text)
	}
	return resp.Header, nil
}

// CreateContainer makes a container whose objects are stored by the named policy.
func (c *Client) CreateContainer(ctx context.Context, container, policy string) error {
	_, err := c.must(ctx, http.MethodPut, container, "", http.Header{"X-Storage-Policy": {policy}}, nil, 0)
	return err
}

// Put stores an object and returns its ETag.
func (c *Client) Put(ctx context.Context, container, object string, header http.Header, body io.Reader, size int64) (etag string, err error) {
	h, err := c.must(ctx, http.MethodPut, container, object, header, body, size)
	return strings.Trim(h.Get("Etag"), `"`), err
}

// Post replaces an object's metadata.
func (c *Client) Post(ctx context.Context, container, object string, header http.Header) error {
	_, err := c.must(ctx, http.MethodPost, container, object, header, nil, 0)
	return err
}

// Delete removes an object.
func (c *Client) Delete(ctx context.Context, container, object string) error {
	_, err := c.must(ctx, http.MethodDelete, container, object, nil, nil, 0)
	return err
}

// Get opens an object; header may hold a Range. Any answer but 200 and 206 is an error.
func (c *Client) Get(ctx context.Context, container, object string, header http.Header) (*http.Response, error) {
	resp, err := c.Do(ctx, http.MethodGet, container, object, header, nil, 0)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		resp.Body.Close()
		return nil, fmt.Errorf("GET of %s/%s was answered %s", container, object, resp.Status)
	}
	return resp, nil
}
