package vault

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// TestStorage runs what needs a server of its own: one that starts empty, and
// is stopped and sealed.
func TestStorage(t *testing.T) {
	t.Parallel()
	server := vaulttest.StartStorage(t)
	t.Run("Setup", func(t *testing.T) { testSetup(t, server.For(t)) })
	t.Run("SetupKinds", func(t *testing.T) { testSetupKinds(t, server.For(t)) })
	p := newPlace(t, server)
	p.config.Heartbeat, p.config.Timeout = 100*time.Millisecond, 2*time.Second
	c := p.loggedIn(t)
	c.pace.last = 200 * time.Millisecond
	running(t, c.Run)
	for what, away := range map[string]func() (back func()){
		"stopped": func() func() { server.Stop(); return server.Restart },
		"sealed":  func() func() { server.Seal(); return server.Unseal },
	} {
		t.Run(what, func(t *testing.T) {
			back := away()
			_, err := c.ReadApp(t.Context(), app)
			want(t, err, ErrUnreachable)
			_, err = c.Missing(t.Context(), nil)
			want(t, err, ErrUnreachable)
			want(t, p.client(t).Login(t.Context()), ErrUnreachable)
			eventually(t, "the outage to be seen", func() bool { return !c.Status().Reachable && c.Status().Reason != "" })
			back()
			eventually(t, "the outage to be over", func() bool { return c.Status().Reachable })
			if _, err := c.ReadApp(t.Context(), app); err != nil {
				t.Fatal(err)
			}
			if g := c.current().generation; g != 1 {
				t.Error("a good token was dropped because Vault was away")
			}
		})
	}
}

// certificates makes an authority and a certificate by it for vault.test.
func certificates(t *testing.T) vaulttest.TLS { return vaulttest.NewAuthority(t).Server("vault.test") }

// TestTLS must not run beside others: it sets the environment.
func TestTLS(t *testing.T) {
	files, others := certificates(t), certificates(t)
	server := vaulttest.StartTLS(t, files)
	hostile(t, files.CAFile)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	writeFile(t, token, server.RootToken)
	good := Config{Address: server.Addr, CAFile: files.CAFile, TLSServerName: "vault.test", Auth: AuthConfig{Method: "token", TokenFile: token}}
	login := func(change func(*Config)) error {
		t.Helper()
		c := good
		change(&c)
		client, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		return client.Login(t.Context())
	}
	if err := login(func(*Config) {}); err != nil {
		t.Fatal(err)
	}
	want(t, login(func(c *Config) { c.CAFile = others.CAFile }), ErrUnreachable, "no authority")
	want(t, login(func(c *Config) { c.CAFile = "" }), ErrUnreachable, "no authority")
	want(t, login(func(c *Config) { c.TLSServerName = "" }), ErrUnreachable, "another name")
	want(t, login(func(c *Config) { c.TLSServerName = "other.test" }), ErrUnreachable, "another name")
	plain := newLink(t, server)
	want(t, login(func(c *Config) { c.Address = "https" + plain.URL[len("http"):] }), ErrUnreachable, "does not speak TLS")

	empty := filepath.Join(dir, "empty.pem")
	writeFile(t, empty, "no certificate")
	for _, ca := range []string{empty, filepath.Join(dir, "missing.pem")} {
		c := good
		c.CAFile = ca
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", ca)
		}
	}
}

// hostile sets every variable that vault/api or net/http reads to something that
// would be seen: an address that counts, a token and a namespace that do not
// exist, files that do not parse.
func hostile(t *testing.T, caFile string) (connections func() int) {
	t.Helper()
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := make(chan int, 1)
	n <- 0
	server := &http.Server{ReadHeaderTimeout: time.Second, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n <- <-n + 1
		}
	}}
	go func() { _ = server.Serve(trap) }()
	t.Cleanup(func() { _ = server.Close() })
	url := "http://" + trap.Addr().String()
	for name, value := range map[string]string{
		"VAULT_ADDR": url, "VAULT_AGENT_ADDR": url, "VAULT_PROXY_ADDR": url, "VAULT_HTTP_PROXY": url,
		"HTTP_PROXY": url, "HTTPS_PROXY": url, "http_proxy": url, "https_proxy": url, "ALL_PROXY": url, "NO_PROXY": "",
		"VAULT_TOKEN": "marker-hostile-token", "VAULT_NAMESPACE": "hostile", "VAULT_HEADERS": `{"X-Vault-Hostile":"1"}`,
		"VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "hostile.test", "VAULT_SRV_LOOKUP": "true",
		"VAULT_CACERT": "/nonexistent", "VAULT_CAPATH": "/nonexistent", "VAULT_CACERT_BYTES": "hostile",
		"VAULT_CLIENT_CERT": "/nonexistent", "VAULT_CLIENT_KEY": "/nonexistent", "VAULT_WRAP_TTL": "60s",
		"VAULT_MAX_RETRIES": "hostile", "VAULT_CLIENT_TIMEOUT": "hostile", "VAULT_RATE_LIMIT": "hostile", "VAULT_DISABLE_REDIRECTS": "hostile",
		"SSL_CERT_FILE": caFile, "SSL_CERT_DIR": filepath.Dir(caFile), "VAULT_MFA": "hostile", "VAULT_FORMAT": "hostile",
	} {
		t.Setenv(name, value)
	}
	return func() int { c := <-n; n <- c; return c }
}

// TestEnvironment must not run beside others: it sets the environment.
func TestEnvironment(t *testing.T) {
	server := vaulttest.Start(t)
	server.Must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	server.Must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	p := newPlace(t, server)
	connections := hostile(t, "/nonexistent")
	p.everyday(t)
	o := newOperator(t, p.config, server.RootToken)
	if _, err := o.PutSecret(t.Context(), app, text(markerSecret)); err != nil {
		t.Error(err)
	}
	if n := connections(); n != 0 {
		t.Errorf("%d connections to where the environment points", n)
	}
	if os.Getenv("VAULT_TOKEN") != "marker-hostile-token" || os.Getenv("VAULT_ADDR") == "" {
		t.Error("the environment is not what it was")
	}
}
