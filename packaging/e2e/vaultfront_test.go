package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// vaultFront stands on loopback before the real server: what the daemon asks goes
// through it, and what is wrong with it is what the daemon sees.
type vaultFront struct {
	server  *httptest.Server
	pass    http.Handler
	instead atomic.Pointer[http.HandlerFunc] // answers; nil: the real server does
	shown   atomic.Pointer[tls.Certificate]  // with TLS: what it presents

	mu    sync.Mutex
	given []string // the tokens that it was seen to give, by login
}

// newFront makes the daemon go through it. With certificate it speaks TLS.
func newFront(w *world, certificate *vaulttest.TLS) *vaultFront {
	target, err := url.Parse(w.vault.Addr)
	must(w.t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	f := &vaultFront{pass: proxy}
	proxy.ModifyResponse = f.look
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = proxy.ErrorLog // refused handshakes
	w.t.Cleanup(f.server.Close)
	if certificate == nil {
		f.server.Start()
	} else {
		f.present(w.t, *certificate)
		f.startTLS()
		ca, err := os.ReadFile(certificate.CAFile)
		must(w.t, err)
		w.write("ca.pem", string(ca), 0, 0o644)
		w.vaultSetting("ca_file = \"" + w.path("ca.pem") + "\"\ntls_server_name = \"" + certificate.ServerName + "\"")
	}
	w.edit(`address = "`+w.vault.Addr+`"`, `address = "`+f.server.URL+`"`)
	return f
}

func (f *vaultFront) startTLS() {
	f.server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.shown.Load(), nil }}
	f.server.StartTLS()
}

// look notes what a login gives.
func (f *vaultFront) look(resp *http.Response) error {
	if !strings.HasSuffix(resp.Request.URL.Path, "/login") {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var answer struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	if json.Unmarshal(body, &answer) == nil && answer.Auth.Token != "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.given = append(f.given, answer.Auth.Token)
	}
	return nil
}

// tokens are those that logins gave.
func (f *vaultFront) tokens(t testing.TB) []string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.given) == 0 {
		t.Fatal("no login was seen")
	}
	return slices.Clone(f.given)
}

// present shows this certificate on every new connection, and ends the others.
func (f *vaultFront) present(t testing.TB, files vaulttest.TLS) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	must(t, err)
	if f.shown.Swap(&pair) != nil {
		f.server.CloseClientConnections()
	}
}

func (f *vaultFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := f.instead.Load(); h != nil {
		(*h)(w, r)
		return
	}
	f.pass.ServeHTTP(w, r)
}

// answer makes it answer so, or (nil) the real server.
func (f *vaultFront) answer(h http.HandlerFunc) {
	if h == nil {
		f.instead.Store(nil)
		return
	}
	f.instead.Store(&h)
}

// frontSays is a front that gives every request this answer.
func frontSays(status int, kind, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		for _, h := range header {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the daemon may be gone
	}
}

// slow lets the real server answer after d.
func (f *vaultFront) slow(d time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			f.pass.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}
