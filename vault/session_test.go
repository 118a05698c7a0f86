package vault

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// loginPath is where AppRole logs in.
const loginPath = "auth/approle/login"

func testWrongSecretID(t *testing.T, p *place) {
	good := p.config.Auth.SecretIDFile
	p.config.Auth.SecretIDFile = good + "-wrong"
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	clk := newClock()
	p.config.Now = clk.Now
	c := p.client(t)
	want(t, c.Login(t.Context()), ErrDenied, "auth/approle")
	if s := c.Status(); !s.Reachable || !strings.Contains(s.Reason, "AppRole") {
		t.Errorf("status %+v", s)
	}
	want(t, c.Login(t.Context()), ErrDenied)
	if n := p.link.count(loginPath); n != 1 {
		t.Errorf("refused credentials were sent %d times within a minute", n)
	}
	clk.pass(time.Minute)
	want(t, c.Login(t.Context()), ErrDenied)
	if n := p.link.count(loginPath); n != 2 {
		t.Errorf("refused credentials were sent %d times after a minute", n)
	}
	c.config.Auth.SecretIDFile = good // as if the file had been replaced
	if err := c.Login(t.Context()); err != nil {
		t.Fatal("with other credentials, at once: ", err)
	}
	if s := c.Status(); s.Reason != "" || s.TokenExpiry.Sub(clk.Now()) != 10*time.Minute {
		t.Errorf("status %+v", s)
	}
}

func testTokenFile(t *testing.T, p *place) {
	login := p.server.Must("POST", "auth/token/create", map[string]any{"policies": []string{p.name}, "no_default_policy": true, "ttl": "300s"})
	file := p.config.Auth.SecretIDFile + "-token"
	writeFile(t, file, login["client_token"].(string)+"\n")
	p.config.Auth = AuthConfig{Method: "token", TokenFile: file}
	c := p.loggedIn(t)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if s := c.current(); !s.renewable || s.lease < 200*time.Second || s.lease > 300*time.Second {
		t.Errorf("lease %v, renewable %v", s.lease, s.renewable)
	}
	writeFile(t, file, "marker-upstream-token")
	want(t, p.client(t).Login(t.Context()), ErrDenied, "token_file")
	writeFile(t, file, p.server.RootToken)
	if s := p.loggedIn(t).current(); !s.expires.IsZero() {
		t.Error("a token without end has one")
	}
}

// testRevoked: a revoked token is replaced within the request that notices.
func testRevoked(t *testing.T, p *place) {
	c := p.loggedIn(t)
	c.pace.floor = 0 // revoked this soon, it would count as fresh
	p.revoke(c)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if g := c.current().generation; g != 2 {
		t.Errorf("generation %d", g)
	}
}

func testRevokedWhileIdle(t *testing.T, p *place) {
	p.config.Heartbeat = 50 * time.Millisecond
	c := p.loggedIn(t)
	running(t, c.Run)
	p.revoke(c)
	eventually(t, "a new login", func() bool { return c.current().generation == 2 })
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
}

// testKillSwitch: revoking the token and its secret id ends it.
func testKillSwitch(t *testing.T, p *place) {
	p.config.Heartbeat = 50 * time.Millisecond
	c := p.loggedIn(t)
	c.pace.floor, c.pace.dead = 0, 0
	p.server.Must("DELETE", p.role(), nil)
	p.revoke(c)
	_, err := c.ReadApp(t.Context(), app)
	want(t, err, ErrDenied, "not valid any more", "AppRole")
	if !c.Status().Denied || !c.Status().Reachable {
		t.Errorf("status %+v", c.Status())
	}
	sent := p.link.count(loginPath)
	running(t, c.Run)
	asked := p.link.count("")
	eventually(t, "two heartbeats", func() bool { return p.link.count("") >= asked+2 })
	if p.link.count(loginPath) != sent {
		t.Error("refused credentials were sent again within a minute")
	}
	p.putRole(nil)
	p.writeCredentials(t)
	eventually(t, "the new credentials to be used", func() bool { return !c.Status().Denied })
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
}

// testRenewedAndReplaced: a short-lived token is renewed, and replaced before
// its max TTL ends; no request in between is refused.
func testRenewedAndReplaced(t *testing.T, p *place) {
	p.putRole(map[string]any{"token_ttl": 3, "token_max_ttl": 6})
	p.config.Heartbeat = 200 * time.Millisecond
	c := p.client(t)
	c.pace.floor = 500 * time.Millisecond
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := c.current().token
	running(t, c.Run)
	eventually(t, "a second token", func() bool {
		if a, err := c.main.get(t.Context(), "auth/token/lookup-self"); err != nil || !a.ok() {
			t.Fatalf("a token died: status %d, %v", a.status, err)
		}
		return c.current().generation >= 2
	})
	if n := p.link.count("auth/token/renew-self"); n < 2 || n > 8 {
		t.Errorf("renewed %d times", n)
	}
	if c.current().token.Equal(first) {
		t.Error("the token is the same")
	}
}

// TestWatchNeverStorms: a watcher whose renewals fail until its own patience is
// used up would send hundreds a second.
func TestWatchNeverStorms(t *testing.T) {
	sent := make(chan time.Time, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "renew-self") {
			sent <- time.Now()
		}
		says(500, `{"errors":["past the max TTL, cannot renew"]}`)(w, r)
	}))
	defer server.Close()
	c, err := New(Config{Address: server.URL, UnsafePlainHTTP: true, Auth: AuthConfig{RoleIDFile: "/nonexistent", SecretIDFile: "/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	c.pace.floor = 200 * time.Millisecond
	c.take(c.newSession(text("marker-token"), true, 2))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(sent); n != 1 {
		t.Errorf("%d renewals, want the one that failed", n)
	}
}

// testNoStorm: leases shorter than the floor cost no more than a login a floor.
func testNoStorm(t *testing.T, p *place) {
	p.putRole(map[string]any{"token_ttl": 1, "token_max_ttl": 1})
	c := p.client(t)
	c.pace.floor = 400 * time.Millisecond
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	running(t, c.Run)
	eventually(t, "three more logins", func() bool { return c.current().generation >= 4 })
	if took := time.Since(began); took < 3*400*time.Millisecond {
		t.Errorf("3 logins in %v", took)
	}
	if renewals := p.link.count("auth/token/renew-self"); renewals > 0 {
		t.Errorf("%d renewals of a token that lives shorter than four floors", renewals)
	}
}

// testIdle: with nothing to do there is one request a heartbeat, and none while
// others are heard.
func testIdle(t *testing.T, p *place) {
	p.config.Heartbeat = 300 * time.Millisecond
	c := p.loggedIn(t)
	began := time.Now()
	running(t, c.Run)
	eventually(t, "five requests", func() bool { return p.link.count("") >= 5 })
	// login, the watcher's first renewal, then heartbeats
	if took := time.Since(began); took < 3*300*time.Millisecond {
		t.Errorf("5 requests in %v", took)
	}
	before := p.link.count("auth/token/lookup-self")
	for range 20 {
		if _, err := c.ReadApp(t.Context(), app); err != nil {
			t.Fatal(err)
		}
	}
	if after := p.link.count("auth/token/lookup-self"); after > before+2 {
		t.Errorf("%d heartbeats beside other requests", after-before)
	}
}

// testOldTokenStays: a login that is refused, or finds nobody, changes nothing
// for the token that still works.
func testOldTokenStays(t *testing.T, p *place) {
	p.config.Heartbeat = 50 * time.Millisecond
	c := p.loggedIn(t)
	generation := c.current().generation
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	want(t, c.Login(t.Context()), ErrDenied)
	if s := c.Status(); !s.Reachable || s.Denied || s.Reason == "" {
		t.Errorf("status %+v", s)
	}
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	running(t, c.Run)
	p.link.cut()
	eventually(t, "the outage to be seen", func() bool { return !c.Status().Reachable })
	_, err := c.ReadApp(t.Context(), app)
	want(t, err, ErrUnreachable)
	p.link.answer(nil)
	eventually(t, "the outage to be over", func() bool { return c.Status().Reachable })
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if c.current().generation != generation {
		t.Error("a good token was replaced")
	}
}

// testNotVaultsOwn: answers that are no Vault's own word are silence, and are
// not repeated in the request.
func testNotVaultsOwn(t *testing.T, p *place) {
	c := p.loggedIn(t)
	words := map[string]string{"200 huge": "1 MiB", "redirect": "redirect", "503 sealed": "sealed", "403 html": "not as Vault does", "not http": "HTTP"}
	huge := `{"data":"` + strings.Repeat("a", maxAnswer) + `"}`
	for what, h := range map[string]http.HandlerFunc{
		"503 sealed":       says(503, `{"errors":["Vault is sealed"]}`),
		"500":              says(500, `{"errors":["marker-upstream"]}`),
		"502 html":         says(502, "<html>marker-upstream</html>"),
		"429":              says(429, `{"errors":["marker-upstream"]}`),
		"412":              says(412, `{"errors":["marker-upstream"]}`),
		"473":              says(473, `{}`),
		"401":              says(401, `{"errors":[]}`),
		"403 html":         says(403, "<html>marker-upstream</html>"),
		"403 other json":   says(403, `{"message":"marker-upstream"}`),
		"404 html":         says(404, "<html>marker-upstream</html>"),
		"404 other json":   says(404, `{"message":"marker-upstream"}`),
		"200 html":         says(200, "<html>marker-upstream</html>"),
		"200 list":         says(200, `[1]`),
		"200 torn":         says(200, `{"data":{`),
		"200 huge":         says(200, huge),
		"not http":         hijacked("marker-upstream\r\n\r\n"),
		"closed":           hijacked(""),
		"torn":             hijacked("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
		"redirect":         redirected("http://127.0.0.1:1/marker-upstream"),
		"redirect to self": redirected("/v1/" + p.paths.app("data", app)),
	} {
		p.link.answer(h)
		before := p.link.count("")
		_, err := c.ReadApp(t.Context(), app)
		asked := p.link.count("") - before
		if stale := what == "closed" && asked == 2; asked != 1 && !stale { // net/http takes a fresh connection once
			t.Errorf("%s: %d requests", what, asked)
		}
		want(t, err, ErrUnreachable, words[what])
		want(t, c.Login(t.Context()), ErrUnreachable)
		if s := c.Status(); s.Reachable || s.Denied {
			t.Errorf("%s: status %+v", what, s)
		}
	}
	p.link.answer(nil)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); !s.Reachable || s.Reason != "" || c.current().generation != 1 {
		t.Errorf("status %+v", s)
	}
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func redirected(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

func hijacked(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte(answer))
		_ = conn.Close()
	}
}
