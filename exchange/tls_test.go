package exchange

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// startTLS is the simulator behind httptest's certificate, which is for
// 127.0.0.1 and example.com.
func startTLS(t testing.TB, config func(*httptest.Server)) (sim *humanapitest.Server, url, caFile string) {
	t.Helper()
	sim = humanapitest.New(humanapitest.Config{Apps: map[string]string{markerApp: markerSecret}})
	server := httptest.NewUnstartedServer(sim.Handler())
	server.EnableHTTP2 = true
	server.Config.ErrorLog = discard
	if config != nil {
		config(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return sim, server.URL, writeFile(t, "ca.pem", cert)
}

func TestTLS(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	c := newClient(t, Config{UserURL: url, CAFile: ca})
	for range 3 {
		if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
			t.Fatal(err)
		}
	}
	if rs := sim.Requests(); rs[0].RemoteAddr != rs[2].RemoteAddr {
		t.Error("a healthy connection was not used again")
	}
	_, err := newClient(t, Config{UserURL: url}).Tokens(t.Context(), finish(sim))
	if e := wantClass(t, err, NotSent, 0); !strings.Contains(e.Error(), "unknown authority") {
		t.Errorf("got %v", err)
	}
	_, err = newClient(t, Config{UserURL: strings.Replace(url, "127.0.0.1", "localhost", 1), CAFile: ca}).Tokens(t.Context(), finish(sim))
	if e := wantClass(t, err, NotSent, 0); !strings.Contains(e.Error(), "another name") {
		t.Errorf("got %v", err)
	}
	_, err = newClient(t, Config{UserURL: strings.Replace(url, "https", "http", 1)}).Tokens(t.Context(), finish(sim))
	wantClass(t, err, Refused, 400) // Go's server says so in plain HTTP
	if n := sim.Count(tokensPath); n != 3 {
		t.Errorf("%d requests arrived, want 3", n)
	}
}

func TestOldTLS(t *testing.T) {
	sim, url, ca := startTLS(t, func(s *httptest.Server) {
		s.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	})
	_, err := newClient(t, Config{UserURL: url, CAFile: ca}).Tokens(t.Context(), finish(sim))
	wantClass(t, err, NotSent, 0)
}

func TestNoTLS(t *testing.T) {
	url := rawServer(t, func(_ int, c *net.TCPConn, _ *bufio.Reader) { say(c, markerUpstream+" says hello\r\n") })
	_, err := newClient(t, Config{UserURL: strings.Replace(url, "http", "https", 1)}).Tokens(t.Context(), request("sim-session"))
	if e := wantClass(t, err, NotSent, 0); !strings.Contains(e.Error(), "does not speak TLS") {
		t.Errorf("got %v", err)
	}
}

// The time is up while TLS is being set up: nothing was sent.
func TestSilentTLS(t *testing.T) {
	url := rawServer(t, func(_ int, _ *net.TCPConn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) })
	c := newClient(t, Config{UserURL: strings.Replace(url, "http", "https", 1), Timeout: 50 * time.Millisecond})
	_, err := c.Tokens(t.Context(), request("sim-session"))
	if wantClass(t, err, NotSent, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The connection dies inside TLS, after the request: unknown.
func TestTLSDrop(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	c := newClient(t, Config{UserURL: url, CAFile: ca})
	for _, kind := range []humanapitest.Kind{humanapitest.DropAfter, humanapitest.DropBefore, humanapitest.CutHead} {
		sim.Misbehave(humanapitest.Fault{Kind: kind})
		_, err := c.Tokens(t.Context(), finish(sim))
		wantClass(t, err, Unknown, 0)
	}
	if n := sim.Count(tokensPath); n != 3 {
		t.Errorf("%d requests arrived, want 3", n)
	}
}

// proxy is a CONNECT proxy that answers with answer; a tunnel is only made
// after a 200.
func proxy(t testing.TB, answer string) (handler http.Handler, asked *atomic.Value) {
	asked = &atomic.Value{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		conn, in, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		say(conn, answer)
		if !strings.HasPrefix(answer, "HTTP/1.1 200") {
			return
		}
		far, err := net.Dial("tcp", r.Host)
		if err != nil { // the client notices, or the test is over
			return
		}
		defer far.Close()
		go func() { _, _ = io.Copy(far, in); _ = far.Close() }()
		_, _ = io.Copy(conn, far)
	}), asked
}

func TestProxy(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	for name, m := range map[string]struct {
		answer string
		secure bool
		fails  string
	}{
		"plain":     {answer: "HTTP/1.1 200 Connection established\r\n\r\n"},
		"https":     {answer: "HTTP/1.1 200 Connection established\r\n\r\n", secure: true},
		"forbidden": {answer: "HTTP/1.1 403 " + markerUpstream + "\r\n\r\n", fails: "answered CONNECT with 403"},
		"who":       {answer: "HTTP/1.1 407 " + markerUpstream + "\r\nContent-Length: 3\r\n\r\nsim", fails: "answered CONNECT with 407"},
		"no HTTP":   {answer: markerUpstream + "\r\n\r\n", fails: "the proxy did not answer"},
		"gone":      {answer: "", fails: "the proxy did not answer"},
		"eager":     {answer: "HTTP/1.1 200 OK\r\n\r\n" + markerUpstream, fails: "sent something"},
		"endless":   {answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), fails: ""},
	} {
		t.Run(name, func(t *testing.T) {
			handler, asked := proxy(t, m.answer)
			server := httptest.NewUnstartedServer(handler)
			server.Config.ErrorLog = discard
			if m.secure {
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			c := newClient(t, Config{UserURL: url, CAFile: ca, ProxyURL: server.URL})
			_, err := c.Tokens(t.Context(), finish(sim))
			if got := asked.Load(); got != "CONNECT "+strings.TrimPrefix(url, "https://") {
				t.Errorf("the proxy was asked: %v", got)
			}
			if m.fails == "" && name != "endless" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if e := wantClass(t, err, NotSent, 0); !strings.Contains(e.Error(), m.fails) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// tlsOnly is a server that speaks one version.
func tlsOnly(version uint16) *tls.Config {
	return &tls.Config{MinVersion: version, MaxVersion: version}
}
