package client_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
)

// serve answers every request with h.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	serveAt(t, path, h)
	return open(t, path)
}

func serveAt(t *testing.T, path string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

func open(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestErrors(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(429)
		_, _ = io.WriteString(w, `{"statusCode":429,"error":"rate_limited","message":"wait","requestId":"id"}`)
	})
	_, err := c.User(t.Context(), "app", "marker-human")
	e, ok := errors.AsType[*client.Error](err)
	if !ok || *e != (client.Error{Status: 429, Code: api.RateLimited, Message: "wait", RequestID: "id", RetryAfter: 7 * time.Second}) || client.CodeOf(err) != api.RateLimited {
		t.Fatalf("got %v", err)
	}
	for _, answer := range []func(http.ResponseWriter){
		func(w http.ResponseWriter) { http.Error(w, "marker-text", 400) },
		func(w http.ResponseWriter) { _, _ = io.WriteString(w, "marker-text") },
		func(w http.ResponseWriter) {
			http.Redirect(w, &http.Request{}, "http://elsewhere/marker", http.StatusTemporaryRedirect)
		},
		func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w) })
		_, err := c.User(t.Context(), "app", "marker-human")
		if err == nil || strings.Contains(err.Error(), "marker") || client.CodeOf(err) != "" {
			t.Fatalf("no error, or one that tells the answer or the id")
		}
	}
}

func TestHealthThatIsNotReady(t *testing.T) {
	body := `{"ready":false,"degraded":true,"reasons":["waiting for Vault"]}`
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(503)
		_, _ = io.WriteString(w, body)
	})
	if h, err := c.Health(t.Context()); err != nil || h.Ready || len(h.Reasons) != 1 {
		t.Fatalf("got %v", err)
	}
	body = `{"statusCode":503,"error":"draining","message":"m","requestId":"r"}`
	if _, err := c.Health(t.Context()); client.CodeOf(err) != api.Draining {
		t.Fatalf("got %v", err)
	}
}

func TestExchangeSendsTheObject(t *testing.T) {
	var got, header string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, header = string(b), r.Header.Get(api.HeaderClientUserID)
		_, _ = io.WriteString(w, `{}`)
	})
	_, err := c.Exchange(t.Context(), client.SessionTokenObject{HumanID: "h", ClientID: "c", SessionToken: secret.FromString("marker-session"), Expected: "ü@x"})
	if err != nil || got != `{"clientId":"c","humanId":"h","sessionToken":"marker-session"}` || header != "%C3%BC@x" {
		t.Fatalf("the request is not what was meant: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []client.Config{{}, {Socket: "x", Timeout: -1}} {
		if _, err := client.New(c); err == nil {
			t.Error("an impossible client is made")
		}
	}
}
