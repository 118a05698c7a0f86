// Package client calls the daemon over its Unix socket.
//
// It trusts whoever listens at the path it was given: protect the directory.
// It holds no credential, because callers have none: the kernel tells the
// daemon who they are. It never retries a request, only a connect that the
// kernel put off; it follows no redirect, uses no proxy, and never puts an id
// into an error.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
)

// DefaultTimeout is longer than an exchange may keep its caller waiting.
const DefaultTimeout = time.Minute

// maxAnswer bounds what is read of an answer: the longest list of users.
const maxAnswer = 16 << 20

// Config of a Client.
type Config struct {
	Socket  string        // required: path of the daemon's socket
	Timeout time.Duration // one call, connecting included; 0: DefaultTimeout
}

// Client is safe for concurrent use. It keeps idle connections: Close it.
type Client struct {
	socket  string
	timeout time.Duration
	http    *http.Client
}

// ErrUnavailable is returned when no daemon could be reached at the socket: it
// is not there, nobody listens, or the caller may not open it (then the error
// is fs.ErrPermission too).
var ErrUnavailable = errors.New("the daemon cannot be reached")

// Error is a refusal in the daemon's words.
type Error struct {
	Status     int
	Code       api.Code // "" when it was no answer of the daemon's own
	Message    string
	RequestID  string
	RetryAfter time.Duration // 0: no advice
}

func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the daemon answered with status %d and nothing readable", e.Status)
	}
	return fmt.Sprintf("%s (%s, request %s)", e.Message, e.Code, e.RequestID)
}

// CodeOf returns the code of an [*Error] within err, or "".
func CodeOf(err error) api.Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// New returns a Client. It does not connect.
func New(c Config) (*Client, error) {
	if c.Socket == "" {
		return nil, errors.New("make a client: no socket path")
	}
	if c.Timeout < 0 {
		return nil, errors.New("make a client: negative timeout")
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	cl := &Client{socket: c.Socket, timeout: c.Timeout}
	cl.http = &http.Client{
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, c.Socket) },
			DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return cl, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// dial retries while the kernel says EAGAIN, which it does at once when the
// socket's backlog is full (unix(7), connect).
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w: %w", ErrUnavailable, ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// call is one request.
type call struct {
	method string
	path   string     // escaped
	query  url.Values // sent unless empty
	header http.Header
	body   any    // marshalled as JSON unless nil
	raw    []byte // sent as it is, unless nil
	accept int    // a status beside 200 whose body is the answer; 0: none
}

// do performs one call and decodes its answer.
func do[T any](ctx context.Context, c *Client, in call) (T, error) {
	var out T
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := in.request(ctx)
	if err != nil {
		return out, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("call the daemon at %s: %w", c.socket, bare(err))
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return out, fmt.Errorf("read the daemon's answer at %s: %w", c.socket, err)
	}
	defer clear(answer)
	if len(answer) > maxAnswer {
		return out, fmt.Errorf("read the daemon's answer at %s: longer than %d bytes", c.socket, maxAnswer)
	}
	if res.StatusCode != http.StatusOK && (in.accept == 0 || res.StatusCode != in.accept || isError(answer)) {
		return out, refusal(res, answer)
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, fmt.Errorf("read the daemon's answer at %s: it is not the JSON that was expected", c.socket)
	}
	return out, nil
}

func (in call) request(ctx context.Context) (*http.Request, error) {
	var body io.Reader
	if in.raw != nil {
		body = bytes.NewReader(in.raw)
	}
	if in.body != nil {
		b, err := json.Marshal(in.body)
		if err != nil {
			return nil, errors.New("encode the request: not JSON")
		}
		body = bytes.NewReader(b)
	}
	target := "http://tokenvault" + in.path
	if len(in.query) > 0 {
		target += "?" + in.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, in.method, target, body)
	if err != nil {
		return nil, errors.New("build the request: the id cannot stand in a path")
	}
	for k, v := range in.header {
		req.Header[k] = v
	}
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// bare takes the URL off a net/http error, because paths carry ids.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func isError(body []byte) bool {
	var e api.Error
	return json.Unmarshal(body, &e) == nil && e.Code != ""
}

func refusal(res *http.Response, body []byte) *Error {
	e := &Error{Status: res.StatusCode, RequestID: res.Header.Get(api.HeaderRequestID)}
	var wire api.Error
	if json.Unmarshal(body, &wire) == nil && wire.Code != "" {
		e.Code, e.Message, e.RequestID = wire.Code, wire.Message, wire.RequestID
	}
	if s, err := time.ParseDuration(res.Header.Get("Retry-After") + "s"); err == nil && s > 0 {
		e.RetryAfter = s
	}
	return e
}
