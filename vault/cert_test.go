package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// certPlace is a server that speaks TLS and takes client certificates of one
// authority.
func certPlace(t *testing.T) (*place, *vaulttest.Authority) {
	t.Helper()
	authority := vaulttest.NewAuthority(t)
	files := authority.Server("vault.test")
	server := vaulttest.StartTLS(t, files)
	server.Must("POST", "sys/auth/cert", map[string]any{"type": "cert"})
	server.Must("POST", "sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	ca, err := os.ReadFile(authority.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{server: server, name: "marker", paths: Paths{}.withDefaults()}
	p.putPolicy(t, func(right) bool { return true })
	server.Must("POST", "auth/cert/certs/marker", map[string]any{
		"certificate": string(ca), "allowed_common_names": []string{"marker-daemon"},
		"token_policies": []string{p.name}, "token_no_default_policy": true, "token_ttl": 2, "token_max_ttl": 60,
	})
	dir := t.TempDir()
	p.config = Config{
		Address: server.Addr, CAFile: files.CAFile, TLSServerName: files.ServerName, Heartbeat: 200 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(leakCheck{t}, nil)),
		Auth: AuthConfig{Method: "cert", CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")},
	}
	authority.Client("marker-daemon", p.config.Auth.CertFile, p.config.Auth.KeyFile)
	return p, authority
}

// TestCert logs in with a client certificate, which is read anew at every login,
// and keeps the token alive: Vault renews it for that certificate only.
func TestCert(t *testing.T) {
	t.Parallel()
	p, authority := certPlace(t)
	auth := p.config.Auth
	c := p.client(t)
	c.pace.floor = 400 * time.Millisecond
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	running(t, c.Run)
	eventually(t, "the token to outlive its first lease twice", func() bool { return time.Since(began) > 5*time.Second })
	if g := c.current().generation; g != 1 {
		t.Errorf("generation %d: the token was not renewed", g)
	}
	if _, err := c.Missing(t.Context(), nil); err != nil {
		t.Error(err)
	}

	authority.Client("marker-daemon", auth.CertFile, auth.KeyFile)
	first := c.identity.Load()
	relogin(t, c)
	if c.identity.Load() == first {
		t.Error("the new certificate was not read")
	}
	authority.Client("marker-upstream-somebody", auth.CertFile, auth.KeyFile)
	want(t, c.Login(t.Context()), ErrDenied, `cert at "auth/cert"`, "matches no role")
	vaulttest.NewAuthority(t).Client("marker-daemon", auth.CertFile, auth.KeyFile)
	want(t, c.Login(t.Context()), ErrDenied, "matches no role")
	if _, err := c.Missing(t.Context(), nil); err != nil || c.Status().Denied {
		t.Error("the token that works was dropped: ", err)
	}
	authority.Client("marker-daemon", auth.CertFile, auth.KeyFile)
	relogin(t, c)

	p.config.Auth.Role = "nobody"
	want(t, p.client(t).Login(t.Context()), ErrDenied, "not the one of role")
}

// TestCertFiles: what is wrong with the files is no word of Vault's.
func TestCertFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	auth := AuthConfig{Method: "cert", CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	authority := vaulttest.NewAuthority(t)
	c, err := New(Config{Address: "https://127.0.0.1:1", Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(){
		"no key":         func() { must(t, os.Remove(auth.KeyFile)) },
		"no certificate": func() { must(t, os.Remove(auth.CertFile)) },
		"another key":    func() { authority.Client("marker-daemon", filepath.Join(dir, "other.pem"), auth.KeyFile) },
		"no PEM":         func() { writeFile(t, auth.CertFile, "marker-upstream") },
		"an open key":    func() { must(t, os.Chmod(auth.KeyFile, 0o644)) },
	} {
		authority.Client("marker-daemon", auth.CertFile, auth.KeyFile)
		spoil()
		err := c.Login(t.Context())
		if !errors.Is(err, ErrSecretFile) || errors.Is(err, ErrDenied) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", what, err)
		} else {
			noLeak(t, err.Error())
		}
		_ = os.Remove(auth.KeyFile)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCertEverywhere: every connection shows the certificate, for a Vault that
// wants one for everything, and logins and renewals show the one of the last login
// although others are kept alive.
func TestCertEverywhere(t *testing.T) {
	t.Parallel()
	authority := vaulttest.NewAuthority(t)
	shown := make(chan string, 100)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown <- r.URL.Path + " " + r.TLS.PeerCertificates[0].Subject.CommonName
		says(200, `{"auth":{"client_token":"marker-token","renewable":true,"lease_duration":600},"data":{"ttl":600}}`)(w, r)
	}))
	files := authority.Server("vault.test")
	server.TLS = demanding(t, authority, files)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	config := Config{Address: server.URL, CAFile: files.CAFile, TLSServerName: "vault.test",
		Auth: AuthConfig{Method: "cert", CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}}
	c, err := New(config)
	must(t, err)
	saw := func(path, name string) {
		t.Helper()
		if got := <-shown; got != "/v1/"+path+" "+name {
			t.Errorf("saw %q, want %s of %s", got, path, name)
		}
	}
	authority.Client("marker-one", config.Auth.CertFile, config.Auth.KeyFile)
	must(t, c.Login(t.Context()))
	saw("auth/cert/login", "marker-one")
	must(t, c.Revalidate(t.Context()))
	saw(lookupPath, "marker-one")
	authority.Client("marker-two", config.Auth.CertFile, config.Auth.KeyFile)
	must(t, c.Login(t.Context()))
	saw("auth/cert/login", "marker-two")
	running(t, c.Run)
	saw("auth/token/renew-self", "marker-two")

	config.Auth = AuthConfig{Method: "token", TokenFile: filepath.Join(dir, "token")}
	writeFile(t, config.Auth.TokenFile, "marker-token")
	without, err := New(config)
	must(t, err)
	want(t, without.Login(t.Context()), ErrUnreachable, "client certificate")
	if s := without.Status(); s.Reachable || s.Denied || !strings.Contains(s.Reason, "certificate") {
		t.Errorf("status %+v", s)
	}
}

// demanding is the TLS of a server that takes nobody without a certificate.
func demanding(t *testing.T, authority *vaulttest.Authority, files vaulttest.TLS) *tls.Config {
	t.Helper()
	ca, err := os.ReadFile(authority.CAFile)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
}

// TestUntrustedCertificate: a Vault whose certificate is not trusted any more is
// away, and no request or token reaches it; the reason is told.
func TestUntrustedCertificate(t *testing.T) {
	t.Parallel()
	p, _ := certPlace(t)
	p.config.CAFile = vaulttest.NewAuthority(t).CAFile
	c := p.client(t)
	want(t, c.Login(t.Context()), ErrUnreachable, "certificate", "no authority")
	if s := c.Status(); s.Reachable || s.Denied || !strings.Contains(s.Reason, "certificate") {
		t.Errorf("status %+v", s)
	}
	if c.Requests() != 0 {
		t.Error("something was sent")
	}
}
