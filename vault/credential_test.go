package vault

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// spoil makes the file of the secret id unusable in each way that is no word of
// Vault's.
var spoil = map[string]func(path string) error{
	"missing":    os.Remove,
	"empty":      func(path string) error { return os.Truncate(path, 0) },
	"wrong mode": func(path string) error { return os.Chmod(path, 0o644) },
}

// local checks that err is about the file, and is taken for no word of Vault's.
func local(t *testing.T, err error) {
	t.Helper()
	for _, sentinel := range []error{ErrDenied, ErrNotFound, ErrUnreachable} {
		if errors.Is(err, sentinel) {
			t.Fatalf("a local failure counts as %q: %v", sentinel, err)
		}
	}
	if !errors.Is(err, ErrSecretFile) || !strings.Contains(err.Error(), "secret file") {
		t.Fatalf("got %v", err)
	}
}

// testLocalCredential: a credential that cannot be read here is not Vault's no.
// What is held stays for max_stale and no longer, and a dead token's 403 is no
// sign of life.
func testLocalCredential(t *testing.T, p *place) {
	for how, spoil := range spoil {
		t.Run(how, func(t *testing.T) {
			p := newPlace(t, p.server.For(t))
			s, clk := p.secrets(t)
			c := s.config.Client.(*Client)
			s.holds(t, 1, markerSecret)
			heard := c.Status().LastWord
			clk.pass(10 * time.Minute)
			if err := spoil(p.config.Auth.SecretIDFile); err != nil {
				t.Fatal(err)
			}
			p.revoke(c)
			_, err := c.ReadApp(t.Context(), app)
			local(t, err)
			k := &keeper{client: c, until: t.Context(), kept: c.current(), login: stoppedTimer(), beat: stoppedTimer()}
			local(t, k.lookup(t.Context()))
			if n := p.link.count(loginPath); n != 1 {
				t.Errorf("%d logins were sent", n)
			}
			if st := c.Status(); st.Denied || st.Reachable || !strings.Contains(st.Reason, "secret file") || !st.LastWord.Equal(heard) {
				t.Errorf("status %+v, heard %v", st, heard)
			}
			s.round(t.Context(), (*held).wanted)
			s.holds(t, 1, markerSecret)
			clk.pass(s.config.MaxStale)
			s.fails(t, user.VaultStale)
			_ = os.Remove(p.config.Auth.SecretIDFile)
			p.writeCredentials(t)
			clk.pass(retryGap)
			s.holds(t, 1, markerSecret)
			if st := c.Status(); !st.Reachable || st.Reason != "" || !st.LastWord.Equal(clk.Now()) {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// testLocalCredentialAlive: the same where the token lives and its rights are
// gone: only a fresh login would tell whether they are gone for good.
func testLocalCredentialAlive(t *testing.T, p *place) {
	s, clk := p.secrets(t)
	c := s.config.Client.(*Client)
	s.holds(t, 1, markerSecret)
	p.putPolicy(t, func(r right) bool { return r.path != p.paths.app("data", "*") })
	clk.pass(2 * time.Minute)
	if err := os.Remove(p.config.Auth.SecretIDFile); err != nil {
		t.Fatal(err)
	}
	_, err := c.ReadApp(t.Context(), app)
	local(t, err)
	if st := c.Status(); st.Denied || !st.Reachable {
		t.Errorf("status %+v", st)
	}
	s.holds(t, 1, markerSecret)
	p.writeCredentials(t)
	clk.pass(2 * time.Minute)
	s.fails(t, user.SecretUnavailable)
}

// testMountMoved: that nothing is there counts only after a fresh login, which
// is not repeated for a path that stays empty.
func testMountMoved(t *testing.T, p *place) {
	p.server.Must("POST", "sys/mounts/"+p.name, map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	p.config.KVMount, p.paths.KVMount = p.name, p.name
	p.putPolicy(t, func(right) bool { return true })
	eventually(t, "the mount to be ready", func() bool {
		status, _ := p.server.Do("POST", p.paths.app("data", app), map[string]any{"data": map[string]any{fieldClientSecret: markerSecret}})
		return status == 200
	})
	s, clk := p.secrets(t)
	c := s.config.Client.(*Client)
	s.holds(t, 1, markerSecret)
	p.server.Must("DELETE", "sys/mounts/"+p.name, nil)
	clk.pass(2 * time.Minute)

	secretID, err := os.ReadFile(p.config.Auth.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p.config.Auth.SecretIDFile); err != nil {
		t.Fatal(err)
	}
	_, err = c.ReadApp(t.Context(), app)
	local(t, err)
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	_, err = c.ReadApp(t.Context(), app)
	if !errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrDenied) || errors.Is(err, ErrNotFound) {
		t.Fatalf("after a login that was refused: %v", err)
	}
	noLeak(t, err.Error())
	if c.Status().Denied {
		t.Error("denied, although the token works")
	}
	s.holds(t, 1, markerSecret)

	writeFile(t, p.config.Auth.SecretIDFile, string(secretID))
	before := p.link.count(loginPath)
	_, err = c.ReadApp(t.Context(), app)
	want(t, err, ErrNotFound)
	for range 3 {
		clk.pass(2 * time.Minute)
		s.fails(t, user.SecretUnavailable)
	}
	if n := p.link.count(loginPath) - before; n != 1 {
		t.Errorf("%d logins for a path that stays empty", n)
	}
}

// testDeniedOnUse: once the daemon is denied, nobody is given a secret any more,
// without waiting for the next round, and none stays in memory.
func testDeniedOnUse(t *testing.T, p *place) {
	s, clk := p.secrets(t)
	c := s.config.Client.(*Client)
	c.pace.floor = 0
	s.holds(t, 1, markerSecret)
	inMemory := s.apps[app].current.Text
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	want(t, c.Login(t.Context()), ErrDenied)
	s.holds(t, 1, markerSecret) // a refused login, and a token that works

	p.revoke(c)
	_, err := c.Missing(t.Context(), nil) // finds nothing out
	if err != nil || c.Status().Denied {
		t.Fatalf("%v, %+v", err, c.Status())
	}
	k := &keeper{client: c, until: t.Context(), kept: c.current(), login: stoppedTimer(), beat: stoppedTimer()}
	want(t, k.lookup(t.Context()), ErrDenied)
	if !c.Status().Denied {
		t.Fatal("not denied")
	}
	s.fails(t, user.SecretUnavailable)
	if inMemory.Equal(text(markerSecret)) {
		t.Error("the bytes are still in memory")
	}
	if _, _, err := s.Refused(t.Context(), app, 1); user.KindOf(err) != user.SecretUnavailable {
		t.Errorf("after a refusal by Human API: %v", err)
	}
	p.writeCredentials(t)
	clk.pass(retryGap)
	s.holds(t, 1, markerSecret)
}

// TestDeadTokenOfBefore: who finds an old token dead, after somebody has logged
// in, says nothing about the new one.
func TestDeadTokenOfBefore(t *testing.T) {
	c, err := New(Config{Address: "https://vault.test", Auth: AuthConfig{RoleIDFile: "/nonexistent", SecretIDFile: "/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	c.take(c.newSession(text("marker-token"), true, 60))
	before := c.current().generation
	c.take(c.newSession(text("marker-token-2"), true, 60))
	if c.noteDead(before, true) || c.Status().Denied {
		t.Error("denied because of a token that was replaced")
	}
	if !c.noteDead(c.current().generation, true) || !c.Status().Denied {
		t.Error("not denied because of the current token")
	}
}
