package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/server"
)

// await polls what has no event of its own, with a deadline.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (f *faulty) reached(step string) func() bool {
	return func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return strings.Contains(strings.Join(f.steps, ","), step)
	}
}

// TestDrain: what is in flight is answered, what comes late on a kept
// connection is told to go elsewhere, and nobody connects any more.
func TestDrain(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	b.f.hold = make(chan struct{})
	kept := dial(t, b.socket)
	in := bufio.NewReader(kept)
	_, _ = io.WriteString(kept, request("GET", "/v1/users/h", ""))
	if a := read(t, in, "GET"); a.status != 200 || a.header.Get("Connection") == "close" {
		t.Fatalf("got %d", a.status)
	}
	inFlight := make(chan answer, 1)
	go func() { inFlight <- b.post(t) }()
	await(t, "the exchange", b.f.reached("exchange"))
	b.stop()
	await(t, "the socket to go", func() bool { _, err := os.Lstat(b.socket); return err != nil })
	b.server.AwaitGrace(t)
	_, _ = io.WriteString(kept, request("GET", "/v1/users/h", ""))
	late := read(t, in, "GET")
	if late.wantCode(t, api.Draining); late.header.Get("Connection") != "close" {
		t.Fatal("a draining server keeps the connection")
	}
	close(b.f.hold)
	if a := <-inFlight; a.status != 200 || a.header.Get("Connection") != "close" {
		t.Fatalf("in flight: got %d", a.status)
	}
	if err := <-b.done; err != nil {
		t.Fatal(err)
	}
}

// stuck never answers, whatever its context says.
type stuck struct{ *faulty }

func (s stuck) Exchange(context.Context, user.Exchange) (user.Result, error) {
	s.step("exchange")
	<-s.hold
	return user.Result{}, nil
}

// TestDrainHasAnEnd: a service that does not listen is cut off in time.
func TestDrainHasAnEnd(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.DrainTimeout = 500 * time.Millisecond })
	b.f.hold = make(chan struct{})
	b.server.Open(server.Services{Broker: stuck{b.f}, Users: b.f, Audit: b.f})
	conn := dial(t, b.socket)
	_, _ = io.WriteString(conn, request("POST", "/v1/connect/tokens", `{"humanId":"h","sessionToken":"s"}`))
	await(t, "the exchange", b.f.reached("exchange"))
	start := time.Now()
	b.stop()
	if err := <-b.done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Fatalf("draining took %v", took)
	}
	close(b.f.hold)
}

// patient waits for its callers' patience to end, as the broker does.
type patient struct{ *faulty }

func (p patient) Exchange(ctx context.Context, _ user.Exchange) (user.Result, error) {
	p.step("exchange")
	<-ctx.Done()
	return user.Result{}, fmt.Errorf("wait for the exchange: %w", ctx.Err())
}

func (p patient) Public(ctx context.Context, _ user.ClientID, _ user.HumanID) (user.Public, error) {
	p.step("public")
	<-ctx.Done()
	return user.Public{}, ctx.Err()
}

// TestDrainAnswersWhatItCutsOff: whoever still waits when draining takes too long
// is told, on record, what to make of it.
func TestDrainAnswersWhatItCutsOff(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.DrainTimeout = 2 * time.Second })
	b.server.Open(server.Services{Broker: patient{b.f}, Users: patient{b.f}, Audit: b.f})
	exchange, lookup, slow := make(chan answer, 1), make(chan answer, 1), make(chan answer, 1)
	go func() { defer close(exchange); exchange <- b.post(t) }()
	go func() { defer close(lookup); lookup <- b.get(t, "/v1/users/h") }()
	go func() {
		defer close(slow)
		slow <- raw(t, b.socket, "POST /v1/connect/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
	}()
	await(t, "the exchange", b.f.reached("exchange"))
	await(t, "the lookup", b.f.reached("public"))
	await(t, "the slow body", func() bool { return b.server.Busy() == 3 })
	b.stop()
	for name, c := range map[string]struct {
		answer chan answer
		code   api.Code
	}{"exchange": {exchange, api.ExchangePending}, "lookup": {lookup, api.Draining}, "slow body": {slow, api.Draining}} {
		a := <-c.answer
		if a.wantCode(t, c.code); a.header.Get("Connection") != "close" {
			t.Errorf("%s: the connection is kept", name)
		}
	}
	if err := <-b.done; err != nil {
		t.Fatal(err)
	}
	pending := 0
	for _, e := range b.f.events {
		if e.Kind == "outcome" && e.Error == string(api.ExchangePending) {
			pending++
		}
	}
	if pending != 1 {
		t.Errorf("%d outcomes of the exchange are on record", pending)
	}
}

// relay keeps a socket's path alive while servers come and go, as systemd does.
type relay struct {
	net.Listener
	ready  chan struct{} // closed when the services are open
	closed chan struct{}
	once   sync.Once
	conns  chan net.Conn
}

func (r *relay) Accept() (net.Conn, error) {
	select {
	case <-r.closed:
		return nil, net.ErrClosed
	case <-r.ready:
	}
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

func (r *relay) Close() error { r.once.Do(func() { close(r.closed) }); return nil }

// TestRestartLosesNothing restarts the server under load; the listening socket
// stays, as under socket activation.
func TestRestartLosesNothing(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	conns := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	var served atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", dir+"/s")
			}}
			defer tr.CloseIdleConnections()
			for ctx.Err() == nil {
				res, err := tr.RoundTrip(post(t))
				if err != nil {
					t.Errorf("a request is lost: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("got %d", res.StatusCode)
				}
				served.Add(1)
			}
		})
	}
	start := func() *bare {
		r := &relay{Listener: l, ready: make(chan struct{}), closed: make(chan struct{}), conns: conns}
		b := startBare(t, func(c *server.Config) {
			_ = c.Listeners[0].L.Close()
			c.Listeners[0].L = r
		})
		b.open()
		close(r.ready)
		return b
	}
	for range 10 {
		b := start()
		before := served.Load()
		await(t, "requests to be served", func() bool { return served.Load() > before+50 || t.Failed() })
		b.stop()
		if err := <-b.done; err != nil {
			t.Fatal(err)
		}
	}
	start()
	cancel()
	load.Wait()
}

func post(t *testing.T) *http.Request {
	r, err := http.NewRequest("POST", "http://x/v1/connect/tokens", strings.NewReader(`{"humanId":"h","sessionToken":"s"}`))
	if err != nil {
		t.Error(err)
	}
	return r
}
