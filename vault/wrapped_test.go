package vault

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

const (
	wrappingLookup = "sys/wrapping/lookup"
	wrappingUnwrap = "sys/wrapping/unwrap"
)

// TestWrapped runs what is about response-wrapped secret ids.
func TestWrapped(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t)
	for path, kind := range map[string]string{"sys/mounts/transit": "transit", "sys/auth/approle": "approle", "sys/auth/other": "approle"} {
		server.Must("POST", path, map[string]any{"type": kind})
	}
	for name, test := range map[string]func(*testing.T, *place){
		"Once":      testWrappedOnce,
		"Recalled":  testWrappedRecalled,
		"FileGone":  testWrappedFileGone,
		"Stolen":    testWrappedStolen,
		"Between":   testWrappedBetween,
		"Expired":   testWrappedExpired,
		"Elsewhere": testWrappedElsewhere,
		"Lost":      testWrappedLost,
		"Outage":    testWrappedOutage,
		"NoID":      testWrappedNoID,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, server.For(t))
			p.config.Auth.Wrapped = true
			test(t, p)
		})
	}
}

// wrap puts the wrapping token of a new secret id into the file.
func (p *place) wrap(t *testing.T, life time.Duration) string {
	t.Helper()
	token := p.server.Wrap("POST", p.role()+"/secret-id", nil, life)
	writeFile(t, p.config.Auth.SecretIDFile, token+"\n")
	return token
}

// sent checks how many requests of a kind were sent.
func (p *place) sent(t *testing.T, path string, n int) {
	t.Helper()
	if sent := p.link.count(path); sent != n {
		t.Errorf("%d requests to %s, want %d", sent, path, n)
	}
}

// relogin makes the client log in once more.
func relogin(t *testing.T, c *Client) {
	t.Helper()
	generation := c.current().generation
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.current().generation != generation+1 {
		t.Error("no new session")
	}
}

// testWrappedOnce: a wrapping token is used up once, what it held logs in as often
// as needed, and a new one in the file is noticed.
func testWrappedOnce(t *testing.T, p *place) {
	p.wrap(t, time.Minute)
	c := p.loggedIn(t)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	relogin(t, c)
	relogin(t, c)
	p.sent(t, wrappingUnwrap, 1)
	p.sent(t, wrappingLookup, 1)
	before := c.unwrapped
	second := p.wrap(t, time.Minute)
	relogin(t, c)
	p.sent(t, wrappingUnwrap, 2)
	if p.server.Unwraps(second) {
		t.Error("the new wrapping token was not used")
	}
	if c.unwrapped.Equal(before) {
		t.Error("the old secret id is held")
	}
	relogin(t, c)
	p.sent(t, wrappingUnwrap, 2)
}

// testWrappedRecalled: a daemon that was restarted finds its own wrapping token
// used up. With its memory it logs in; without it says what to do. A new wrapping
// token counts more than the memory.
func testWrappedRecalled(t *testing.T, p *place) {
	p.wrap(t, time.Minute)
	before := p.loggedIn(t)
	memory, ok := before.Memory()
	if !ok || memory.SecretID.IsZero() {
		t.Fatal("nothing is remembered")
	}
	p.revoke(before)
	logins := p.link.count(loginPath)
	clk := newClock()
	p.config.Now = clk.Now
	without := p.client(t)
	for range 10 {
		want(t, without.Login(t.Context()), ErrDenied, "used already", "someone else's hands", "put the wrapping token of a new one")
		clk.pass(time.Minute)
	}
	p.sent(t, loginPath, logins)

	memory.Token.Wipe()
	with := p.client(t)
	if err := with.Recall(memory); err != nil {
		t.Fatal(err)
	}
	if err := with.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	relogin(t, with)
	p.sent(t, wrappingUnwrap, 1)

	again := p.client(t)
	if err := again.Recall(memory); err != nil {
		t.Fatal(err)
	}
	p.wrap(t, time.Minute)
	if err := again.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.sent(t, wrappingUnwrap, 2)
	if again.unwrapped.Equal(memory.SecretID) {
		t.Error("the remembered secret id is held, although a new one was there")
	}
}

// testWrappedFileGone: the file is not needed any more.
func testWrappedFileGone(t *testing.T, p *place) {
	p.wrap(t, time.Minute)
	c := p.loggedIn(t)
	if err := os.Remove(p.config.Auth.SecretIDFile); err != nil {
		t.Fatal(err)
	}
	relogin(t, c)
	local(t, p.client(t).Login(t.Context()))
	writeFile(t, p.config.Auth.SecretIDFile, "")
	local(t, c.Login(t.Context()))
}

// testWrappedStolen: who is too late says so, and does not go on with the secret
// id of before: the operator has replaced it.
func testWrappedStolen(t *testing.T, p *place) {
	p.wrap(t, time.Minute)
	c := p.loggedIn(t)
	if !p.server.Unwraps(p.wrap(t, time.Minute)) {
		t.Fatal("the thief cannot unwrap")
	}
	logins := p.link.count(loginPath)
	want(t, c.Login(t.Context()), ErrDenied, "used already", "someone else's hands")
	if s := c.Status(); s.Denied || !strings.Contains(s.Reason, "used already") {
		t.Errorf("status %+v", s)
	}
	p.sent(t, loginPath, logins)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Error("the token that works was dropped: ", err)
	}
}

// testWrappedBetween: the same where somebody comes between look and use.
func testWrappedBetween(t *testing.T, p *place) {
	token := p.wrap(t, time.Minute)
	p.link.before = func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, wrappingUnwrap) {
			p.server.Unwraps(token)
		}
	}
	want(t, p.client(t).Login(t.Context()), ErrDenied, "used already", "someone else's hands")
	p.sent(t, loginPath, 0)
}

func testWrappedExpired(t *testing.T, p *place) {
	token := p.wrap(t, time.Second)
	eventually(t, "the wrapping token to expire", func() bool {
		status, _ := p.server.Do("PUT", wrappingLookup, map[string]any{"token": token})
		return status == http.StatusBadRequest
	})
	want(t, p.client(t).Login(t.Context()), ErrDenied, "has expired")
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	want(t, p.client(t).Login(t.Context()), ErrDenied, "is none")
	p.sent(t, loginPath, 0)
	p.sent(t, wrappingUnwrap, 0)
}

// testWrappedElsewhere: what was not made where secret ids of the mount are made is
// not unwrapped, although some of it looks just like one.
func testWrappedElsewhere(t *testing.T, p *place) {
	p.server.Must("POST", "auth/other/role/"+p.name, map[string]any{"token_policies": []string{"root"}})
	p.server.Must("POST", "secret/data/auth/approle/role/a/secret-id", map[string]any{"data": map[string]any{"secret_id": "marker"}})
	secretID, err := os.ReadFile(p.config.Auth.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{
		"made by somebody":     p.server.Wrap("POST", "sys/wrapping/wrap", map[string]any{"secret_id": strings.TrimSpace(string(secretID))}, time.Minute),
		"a KV entry":           p.server.Wrap("GET", p.paths.app("data", app), nil, time.Minute),
		"a KV entry like it":   p.server.Wrap("GET", "secret/data/auth/approle/role/a/secret-id", nil, time.Minute),
		"another mount's role": p.server.Wrap("POST", "auth/other/role/"+p.name+"/secret-id", nil, time.Minute),
		"the role id":          p.server.Wrap("GET", p.role()+"/role-id", nil, time.Minute),
		"a login":              p.server.Wrap("POST", "auth/token/create", map[string]any{"policies": []string{p.name}}, time.Minute),
	} {
		writeFile(t, p.config.Auth.SecretIDFile, token)
		c := p.client(t)
		want(t, c.Login(t.Context()), ErrDenied, "was not made by auth/approle/role/ROLE/secret-id", "not unwrapped")
		if !c.unwrapped.IsZero() {
			t.Errorf("%s is held", what)
		}
		if !p.server.Unwraps(token) {
			t.Errorf("%s was unwrapped", what)
		}
	}
	p.sent(t, loginPath, 0)
	p.sent(t, wrappingUnwrap, 0)
}

// testWrappedLost: the answer that held the secret id does not arrive.
func testWrappedLost(t *testing.T, p *place) {
	token := p.wrap(t, time.Minute)
	p.link.before = func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, wrappingUnwrap) {
			p.server.Unwraps(token)
			panic(http.ErrAbortHandler)
		}
	}
	c := p.client(t)
	want(t, c.Login(t.Context()), ErrUnreachable)
	want(t, c.Login(t.Context()), ErrDenied, "sent it once and had no answer")
	p.sent(t, loginPath, 0)
}

// testWrappedOutage: an outage at any request leaves what a later login needs.
func testWrappedOutage(t *testing.T, p *place) {
	p.wrap(t, time.Minute)
	c := p.client(t)
	for _, path := range []string{wrappingLookup, wrappingUnwrap, loginPath} {
		p.link.mu.Lock()
		p.link.before = func(r *http.Request) {
			if strings.HasSuffix(r.URL.Path, path) {
				panic(http.ErrAbortHandler)
			}
		}
		p.link.mu.Unlock()
		want(t, c.Login(t.Context()), ErrUnreachable)
	}
	if m, ok := c.Memory(); !ok || m.SecretID.IsZero() {
		t.Error("the secret id would not survive a restart")
	}
	p.link.mu.Lock()
	p.link.before = nil
	p.link.mu.Unlock()
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// testWrappedNoID: the right path, and nothing in it.
func testWrappedNoID(t *testing.T, p *place) {
	p.wrap(t, time.Minute)
	p.link.before = func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, wrappingLookup) { // from the next on
			p.link.answer(says(200, `{"data":{"secret_id":7}}`))
		}
	}
	want(t, p.client(t).Login(t.Context()), ErrDenied, "held is no secret id")
	p.sent(t, loginPath, 0)
}

func TestMakesSecretIDs(t *testing.T) {
	for path, ok := range map[string]bool{
		"auth/a/b/role/x/secret-id":           true,
		"auth/a/b/role/x-1.y/secret-id":       true,
		"auth/a/b/role//secret-id":            false,
		"auth/a/b/role/secret-id":             false,
		"auth/a/b/role/x/y/secret-id":         false,
		"auth/a/b/role/x/secret-id/":          false,
		"/auth/a/b/role/x/secret-id":          false,
		"auth/a/b/role/x/custom-secret-id":    false,
		"auth/a/b/role/x/secret-id/lookup":    false,
		"auth/a/role/x/secret-id":             false,
		"secret/data/auth/a/b/role/secret-id": false,
		"":                                    false,
	} {
		if makesSecretIDs("a/b", path) != ok {
			t.Errorf("%q: not %v", path, ok)
		}
	}
}

func FuzzMakesSecretIDs(f *testing.F) {
	for _, seed := range []string{"auth/approle/role/x/secret-id", "auth/approle/role//secret-id", "auth/approle/role/secret-id", "sys/wrapping/wrap", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		parts := strings.Split(path, "/")
		good := len(parts) == 5 && parts[0] == "auth" && parts[1] == "approle" && parts[2] == "role" && parts[3] != "" && parts[4] == "secret-id"
		if makesSecretIDs("approle", path) != good {
			t.Errorf("%q: not %v", path, good)
		}
	})
}
