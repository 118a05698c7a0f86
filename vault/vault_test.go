package vault

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// TestVault runs what can share one dev server: every part has paths, a policy
// and a role of its own on it.
func TestVault(t *testing.T) {
	server := vaulttest.Start(t)
	server.Must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	server.Must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	server.Must("POST", "sys/mounts/kv1", map[string]any{"type": "kv"})
	for name, test := range map[string]func(*testing.T, *place){
		"ExactPolicy":          testExactPolicy,
		"Forbidden":            testForbidden,
		"EachLine":             testEachLine,
		"WrongSecretID":        testWrongSecretID,
		"TokenFile":            testTokenFile,
		"Revoked":              testRevoked,
		"RevokedWhileIdle":     testRevokedWhileIdle,
		"KillSwitch":           testKillSwitch,
		"RenewedAndReplaced":   testRenewedAndReplaced,
		"NoStorm":              testNoStorm,
		"Idle":                 testIdle,
		"OldTokenStays":        testOldTokenStays,
		"Entries":              testEntries,
		"KVVersionOne":         testKVVersionOne,
		"Transit":              testTransit,
		"TransitTooOld":        testTransitTooOld,
		"TransitKeyKinds":      testTransitKeyKinds,
		"NotVaultsOwn":         testNotVaultsOwn,
		"PutSecret":            testPutSecret,
		"PutSecretTogether":    testPutSecretTogether,
		"PutSecretBetween":     testPutSecretBetween,
		"LocalCredential":      testLocalCredential,
		"LocalCredentialAlive": testLocalCredentialAlive,
		"MountMoved":           testMountMoved,
		"DeniedOnUse":          testDeniedOnUse,
		"Rotation":             testRotation,
		"SecretsDenied":        testSecretsDenied,
		"SecretsOutage":        testSecretsOutage,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t, server.For(t)))
		})
	}
}

const (
	app          = user.ClientID("marker-client-id")
	markerSecret = "marker-client-secret"
)

// place is one daemon's corner of a server.
type place struct {
	server *vaulttest.Server
	link   *link // between the client and the server
	name   string
	paths  Paths
	config Config
}

func newPlace(t *testing.T, server *vaulttest.Server) *place {
	t.Helper()
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	p := &place{server: server, name: name, link: newLink(t, server)}
	p.paths = Paths{AppsPath: name + "/apps", StatePath: name + "/state", TransitKey: name}.withDefaults()
	server.Must("POST", "transit/keys/"+name, map[string]any{"type": keyType, "derived": true})
	p.putPolicy(t, func(right) bool { return true })
	p.putRole(map[string]any{"token_ttl": 600, "token_max_ttl": 1200})
	p.putApp(map[string]any{fieldClientSecret: markerSecret})

	dir := t.TempDir()
	p.config = Config{
		Address: p.link.URL, UnsafePlainHTTP: true, Timeout: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(leakCheck{t}, nil)),
		AppsPath: p.paths.AppsPath, StatePath: p.paths.StatePath, TransitKey: p.paths.TransitKey,
		Auth: AuthConfig{RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id")},
	}
	p.writeCredentials(t)
	return p
}

// putPolicy writes the policy with the rights that keep says.
func (p *place) putPolicy(t *testing.T, keep func(right) bool) {
	t.Helper()
	text, err := Policy(p.paths, "hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.paths.rights() {
		if !keep(r) {
			before, after, _ := strings.Cut(text, "path \""+r.path+"\"")
			_, after, _ = strings.Cut(after, "}\n")
			text = before + after
		}
	}
	p.server.Must("PUT", "sys/policies/acl/"+p.name, map[string]any{"policy": text})
}

func (p *place) role() string { return "auth/approle/role/" + p.name }

func (p *place) putRole(fields map[string]any) {
	all := map[string]any{"token_policies": []string{p.name}, "token_no_default_policy": true}
	for k, v := range fields {
		all[k] = v
	}
	p.server.Must("POST", p.role(), all)
}

func (p *place) putApp(data map[string]any) {
	p.server.Must("POST", p.paths.app("data", app), map[string]any{"data": data})
}

func (p *place) writeCredentials(t *testing.T) {
	t.Helper()
	roleID := p.server.Must("GET", p.role()+"/role-id", nil)["role_id"].(string)
	secretID := p.server.Must("POST", p.role()+"/secret-id", nil)["secret_id"].(string)
	writeFile(t, p.config.Auth.RoleIDFile, roleID+"\n")
	writeFile(t, p.config.Auth.SecretIDFile, secretID+"\n")
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// client returns a client that is not logged in.
func (p *place) client(t testing.TB) *Client {
	t.Helper()
	c, err := New(p.config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// loggedIn returns a client that is.
func (p *place) loggedIn(t testing.TB) *Client {
	t.Helper()
	c := p.client(t)
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// revoke revokes the client's token with the root token.
func (p *place) revoke(c *Client) {
	p.server.Must("POST", "auth/token/revoke", map[string]any{"token": string(c.current().token.Reveal())})
}

// running runs the client until the test ends.
func running(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
}

// eventually waits for what another goroutine or process does.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// want checks that err matches target, says all of words, and leaks nothing.
func want(t testing.TB, err, target error, words ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	noLeak(t, err.Error())
}

// noLeak fails when text has something secret, or something that Vault or the
// network said.
func noLeak(t testing.TB, text string) {
	t.Helper()
	for _, marker := range []string{markerSecret, "marker-app-key", "marker-vault-root-token", "hvs.", "Error making API", "permission denied", "marker-upstream"} {
		if strings.Contains(text, marker) {
			t.Errorf("a text has %q", marker)
		}
	}
}

// leakCheck is a log that must not leak.
type leakCheck struct{ t testing.TB }

func (l leakCheck) Write(b []byte) (int, error) {
	noLeak(l.t, string(b))
	return len(b), nil
}

// link is the network between client and server: it counts requests, and can
// answer instead of the server.
type link struct {
	*httptest.Server
	mu      sync.Mutex
	proxy   http.Handler // to the server
	counts  map[string]int
	instead http.HandlerFunc
	before  func(*http.Request) // called before a request is handed on; may be nil
}

func newLink(t testing.TB, server *vaulttest.Server) *link {
	t.Helper()
	to, err := url.Parse(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	l := &link{proxy: proxy, counts: map[string]int{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.counts[strings.TrimPrefix(r.URL.Path, "/v1/")]++
		l.counts[""]++
		answer, before := l.instead, l.before
		l.mu.Unlock()
		if before != nil {
			before(r)
		}
		if answer == nil {
			answer = proxy.ServeHTTP
		}
		answer(w, r)
	}))
	t.Cleanup(l.Close)
	return l
}

// count is how many requests there were for a path, "" for all.
func (l *link) count(path string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[path]
}

// answer makes the link answer by itself; nil ends it.
func (l *link) answer(h http.HandlerFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instead = h
}

// cut makes the link break every connection.
func (l *link) cut() {
	l.answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_800_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func text(s string) secret.Text { return secret.FromString(s) }
