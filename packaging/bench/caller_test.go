package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sender sends one request after the other.
type sender interface {
	do(request []byte) (response, error)
}

// ordinary is a caller as programs in Go are: net/http's client with a
// connection of its own.
type ordinary struct{ http *http.Client }

func newOrdinary(tb testing.TB, socket string) *ordinary {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	tb.Cleanup(transport.CloseIdleConnections)
	return &ordinary{&http.Client{Transport: transport}}
}

func (o *ordinary) do(request []byte) (r response, err error) {
	line, _, _ := strings.Cut(string(request), " HTTP/1.1\r\n")
	path, get := strings.CutPrefix(line, "GET ")
	if !get {
		return r, errors.New("only GET")
	}
	resp, err := o.http.Get("http://localhost" + path)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	r.status = resp.StatusCode
	r.body, err = io.ReadAll(resp.Body)
	return r, err
}

// caller is one kept-alive connection that does as little as it can: it writes
// the bytes of a request, and reads an answer with a Content-Length.
type caller struct {
	conn net.Conn
	buf  []byte
}

// response is valid until the caller's next request.
type response struct {
	status int
	head   []byte // with its last CRLF
	body   []byte
}

func (r response) header() http.Header {
	_, lines, _ := bytes.Cut(r.head, []byte("\r\n"))
	h, _ := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(slices.Clone(lines), "\r\n"...)))).ReadMIMEHeader()
	return http.Header(h)
}

func dial(tb testing.TB, network, address string) *caller {
	tb.Helper()
	conn, err := net.Dial(network, address)
	must(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	return &caller{conn, make([]byte, 16<<10)}
}

func dialAll(tb testing.TB, n int, network, address string) []*caller {
	tb.Helper()
	all := make([]*caller, n)
	for i := range all {
		all[i] = dial(tb, network, address)
	}
	return all
}

func get(path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
}

func post(path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

var (
	headEnd = []byte("\r\n\r\n")
	length  = []byte("Content-Length: ")
)

// do sends a request and returns its answer.
func (c *caller) do(request []byte) (r response, err error) {
	if _, err := c.conn.Write(request); err != nil {
		return r, err
	}
	n, want := 0, -1
	for want < 0 || n < want {
		m, err := c.conn.Read(c.buf[n:])
		if err != nil {
			return r, err
		}
		n += m
		end := bytes.Index(c.buf[:n], headEnd)
		if want >= 0 || end < 0 {
			continue
		}
		r.head, want = c.buf[:end+2], end+len(headEnd)
		if i := bytes.Index(r.head, length); i >= 0 {
			line := r.head[i+len(length):]
			size, err := strconv.Atoi(string(line[:bytes.IndexByte(line, '\r')]))
			if err != nil {
				return r, err
			}
			want += size
		}
	}
	r.body = c.buf[len(r.head)+2 : want]
	r.status, err = strconv.Atoi(string(r.head[len("HTTP/1.1 "):][:3]))
	return r, err
}

// want is do for an answer with that status.
func (c *caller) want(tb testing.TB, request []byte, status int) response {
	tb.Helper()
	r, err := c.do(request)
	if err == nil && r.status != status {
		err = fmt.Errorf("answered with status %d, not %d", r.status, status)
	}
	must(tb, err)
	return r
}

// round is what a round of requests took.
type round struct {
	perSecond float64
	p50, p99  time.Duration
}

// drive lets all callers send their share of the requests, one after the other,
// all to be answered with 200.
func drive[S sender](b *testing.B, callers []S, requests [][]byte) round {
	b.Helper()
	each := len(requests) / len(callers)
	took := make([]time.Duration, each*len(callers))
	errs := make([]error, len(callers))
	var all sync.WaitGroup
	start := make(chan struct{})
	for i, c := range callers {
		all.Go(func() {
			<-start
			mine := took[i*each : (i+1)*each]
			for j, request := range requests[i*each : (i+1)*each] {
				from := time.Now()
				r, err := c.do(request)
				if mine[j] = time.Since(from); err != nil || r.status != 200 {
					errs[i] = fmt.Errorf("status %d: %w", r.status, err)
					return
				}
			}
		})
	}
	from := time.Now()
	close(start)
	all.Wait()
	total := time.Since(from)
	for _, err := range errs {
		must(b, err)
	}
	slices.Sort(took)
	return round{float64(len(took)) / total.Seconds(), took[len(took)/2], took[len(took)*99/100]}
}

// median of what f says of each.
func median[T any](all []T, f func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, v := range all {
		values[i] = f(v)
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
