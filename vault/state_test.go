package vault

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// TestVaultState runs what is about state at one dev server, as TestVault does.
func TestVaultState(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t)
	server.Must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	server.Must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	for name, test := range map[string]func(*testing.T, *place){
		"Anchor":            testAnchor,
		"AnchorUnmounted":   testAnchorUnmounted,
		"AnchorLost":        testAnchorLost,
		"TransitState":      testTransitState,
		"TransitKeyDenied":  testTransitKeyDenied,
		"TransitKeyDeleted": testTransitKeyDeleted,
		"TransitUnmounted":  testTransitUnmounted,
		"SecretGone":        testSecretGone,
		"Recall":            testRecall,
		"RecallRuns":        testRecallRuns,
		"RecallDead":        testRecallDead,
		"RecallDenied":      testRecallDenied,
		"NoLookup":          testNoLookup,
		"RevokedToken":      testRevokedToken,
		"OutageIsCheap":     testOutageIsCheap,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t, server.For(t)))
		})
	}
}

// lose makes the link hand requests on, and drop the answers.
func (l *link) lose() {
	l.answer(func(_ http.ResponseWriter, r *http.Request) {
		l.proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

func testTransitState(t *testing.T, p *place) {
	c := p.loggedIn(t)
	is := func(latest, minimum int) {
		t.Helper()
		if got, err := c.TransitState(t.Context()); err != nil || got.Latest != latest || got.MinDecryption != minimum || time.Since(got.Made).Abs() > time.Hour {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	is(1, 1)
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil || WrapVersion(wrapped) != 1 {
		t.Fatalf("version %d, %v", WrapVersion(wrapped), err)
	}
	p.server.Must("POST", "transit/keys/"+p.name+"/rotate", nil)
	is(2, 1)
	p.server.Must("POST", "transit/keys/"+p.name+"/config", map[string]any{"min_decryption_version": 2})
	is(2, 2)
	_, err = c.Unwrap(t.Context(), wrapped, []byte("here"))
	want(t, err, ErrTooOld)
	wrapped, err = c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil || WrapVersion(wrapped) != 2 {
		t.Fatalf("version %d, %v", WrapVersion(wrapped), err)
	}
	p.server.Must("POST", "transit/keys/"+p.name+"/config", map[string]any{"exportable": true})
	_, err = c.TransitState(t.Context())
	want(t, err, ErrMalformed, "exportable")
	_, err = c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	want(t, err, ErrMalformed, "exportable")
}

// testTransitKeyDeleted: Vault calls it a right that is missing, and a damaged
// ciphertext.
func testTransitKeyDeleted(t *testing.T, p *place) {
	c := p.loggedIn(t)
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	gone := func(path string) {
		t.Helper()
		_, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
		want(t, err, ErrNotFound, path)
		_, err = c.Unwrap(t.Context(), wrapped, []byte("here"))
		want(t, err, ErrNotFound, path)
		_, err = c.TransitState(t.Context())
		want(t, err, ErrNotFound, path)
	}
	p.server.Must("POST", "transit/keys/"+p.name+"/config", map[string]any{"deletion_allowed": true})
	p.server.Must("DELETE", "transit/keys/"+p.name, nil)
	gone("transit/keys/" + p.name)
	p.server.Must("POST", "transit/keys/"+p.name, map[string]any{"type": keyType, "derived": true})
	_, err = c.Unwrap(t.Context(), wrapped, []byte("here"))
	want(t, err, ErrMalformed)
}

// testTransitKeyDenied: a right that is missing is not a key that is gone.
func testTransitKeyDenied(t *testing.T, p *place) {
	c := p.loggedIn(t)
	p.putPolicy(t, func(r right) bool { return r.path != "transit/keys/"+p.name })
	_, err := c.TransitState(t.Context())
	want(t, err, ErrDenied, "transit/keys/"+p.name)
	if errors.Is(err, ErrNotFound) {
		t.Error("a denial counts as a deleted key")
	}
}

func testTransitUnmounted(t *testing.T, p *place) {
	mount := p.name + "-transit"
	p.config.TransitMount, p.paths.TransitMount = mount, mount
	p.server.Must("POST", "sys/mounts/"+mount, map[string]any{"type": "transit"})
	p.server.Must("POST", mount+"/keys/"+p.name, map[string]any{"type": keyType, "derived": true})
	p.putPolicy(t, func(right) bool { return true })
	c := p.loggedIn(t)
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	p.server.Must("DELETE", "sys/mounts/"+mount, nil)
	_, err = c.Unwrap(t.Context(), wrapped, []byte("here"))
	want(t, err, ErrNotFound, "mounted")
	_, err = c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	want(t, err, ErrNotFound, "mounted")
	_, err = c.TransitState(t.Context())
	want(t, err, ErrNotFound, "mounted")
}

// testSecretGone: each way in which an app's secret can go is shown, and wipes it.
func testSecretGone(t *testing.T, p *place) {
	s, clk := p.secrets(t)
	version := 1
	for _, gone := range []struct {
		reason string
		take   func(version int)
	}{
		{"deleted", func(int) { p.server.Must("DELETE", p.paths.app("data", app), nil) }},
		{"deleted", func(v int) {
			p.server.Must("PUT", p.paths.app("destroy", app), map[string]any{"versions": []int{v}})
		}},
		{"read", func(int) {
			p.putPolicy(t, func(r right) bool { return r.path != p.paths.app("data", "*") })
		}},
		{"no such entry", func(int) { p.server.Must("DELETE", p.paths.app("metadata", app), nil) }},
	} {
		clk.pass(retryGap)
		s.holds(t, version, markerSecret)
		inMemory := s.apps[app].current.Text
		gone.take(version)
		state := s.Check(t.Context())[0]
		if state.Version != 0 || !strings.Contains(state.Reason, gone.reason) || inMemory.Equal(text(markerSecret)) {
			t.Errorf("%s: %+v", gone.reason, state)
		}
		noLeak(t, state.Reason)
		s.fails(t, user.SecretUnavailable)
		p.putPolicy(t, func(right) bool { return true })
		p.putApp(map[string]any{fieldClientSecret: markerSecret})
		version++
	}
}

// testNoLookup: where the policy lacks lookup-self a sign of life is one request
// all the same, and shows that a token that was given up has rights again.
func testNoLookup(t *testing.T, p *place) {
	p.config.Heartbeat = 50 * time.Millisecond
	p.putPolicy(t, func(r right) bool { return r.path != lookupPath })
	c := p.loggedIn(t)
	c.pace.floor, c.pace.dead = 0, 0
	running(t, c.Run)
	eventually(t, "ten signs of life", func() bool { return p.link.count(capabilitiesPath) >= 10 })
	if n := p.link.count(lookupPath); n > 1 {
		t.Errorf("%d questions that are refused", n)
	}
	p.server.Must("DELETE", p.role(), nil)
	p.putPolicy(t, func(right) bool { return false })
	eventually(t, "the refusal to be seen", func() bool { return c.Status().Denied })
	if _, ok := c.Memory(); ok {
		t.Error("a refused session is remembered")
	}
	p.putPolicy(t, func(r right) bool { return r.path != lookupPath })
	eventually(t, "the rights to be back", func() bool { return !c.Status().Denied })
	if _, err := c.ReadApp(t.Context(), app); err != nil || c.current().generation != 1 {
		t.Errorf("generation %d, %v", c.current().generation, err)
	}
}

// testRevokedToken: a daemon with a token and no way to log in is at an end when
// that is revoked, and its secrets with it; nobody has to ask for one.
func testRevokedToken(t *testing.T, p *place) {
	p.config.Heartbeat = 50 * time.Millisecond
	login := p.server.Must("POST", "auth/token/create", map[string]any{"policies": []string{p.name}, "no_default_policy": true, "ttl": "300s"})
	file := p.config.Auth.SecretIDFile + "-token"
	writeFile(t, file, login["client_token"].(string)+"\n")
	p.config.Auth = AuthConfig{Method: "token", TokenFile: file}
	c := p.loggedIn(t)
	s, err := NewSecrets(SecretsConfig{Client: c, Apps: []user.ClientID{app}, Logger: p.config.Logger})
	if err != nil {
		t.Fatal(err)
	}
	running(t, c.Run)
	running(t, s.Run)
	eventually(t, "the secret", func() bool { return s.Status()[0].Version == 1 })
	p.revoke(c)
	eventually(t, "the end", func() bool { return c.Status().Denied && s.Status()[0].Version == 0 })
	s.fails(t, user.SecretUnavailable)
	if len(s.Memory()) > 0 {
		t.Error("a secret is remembered although Vault refuses the daemon")
	}
}

// testOutageIsCheap: once Vault is known to hang, no caller waits for it.
func testOutageIsCheap(t *testing.T, p *place) {
	p.config.Timeout = time.Second
	c := p.loggedIn(t)
	s, err := NewSecrets(SecretsConfig{Client: c, Apps: []user.ClientID{app, "held"}, Logger: p.config.Logger})
	if err != nil {
		t.Fatal(err)
	}
	s.Recall([]SecretMemory{{ClientID: "held", Current: user.ClientSecret{Text: text(markerSecret), Version: 7}, Confirmed: time.Now()}})
	p.link.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s.fails(t, user.VaultUnavailable) // finds it out
	before, began := p.link.count(""), time.Now()
	const callers = 200
	slowest := make(chan time.Duration, callers)
	for range callers {
		go func() {
			asked := time.Now()
			_, err := s.ClientSecret(t.Context(), app)
			if user.KindOf(err) != user.VaultUnavailable {
				t.Errorf("got %v", err)
			}
			if got, err := s.ClientSecret(t.Context(), "held"); err != nil || got.Version != 7 {
				t.Errorf("version %d, %v", got.Version, err)
			}
			if _, _, err := s.Refused(t.Context(), "held", 7); err != nil {
				t.Error(err)
			}
			slowest <- time.Since(asked)
		}()
		time.Sleep(5 * time.Millisecond) // callers come over a second, and not at once
	}
	late := 0
	for range callers {
		if d := <-slowest; d > impatience/2 {
			late++
		}
		if len(slowest) == 0 && time.Since(began) > 10*time.Second {
			t.Fatal("callers hang")
		}
	}
	asked := p.link.count("") - before
	if limit := int(time.Since(began)/retryGap) + 1; late > limit || asked > limit {
		t.Errorf("%d callers waited, %d requests, want at most %d of either", late, asked, limit)
	}
	p.link.answer(nil)
	eventually(t, "a caller to find Vault again", func() bool { _, err := s.ClientSecret(t.Context(), app); return err == nil })
}

func TestWrapVersion(t *testing.T) {
	for wrapped, version := range map[string]int{
		"vault:v1:AAAA": 1, "vault:v12:AA==": 12, "vault:v999999999:A": 999999999, "": 0, "vault:v1:": 0, "vault:v:AAAA": 0,
		"vault:v1:AA AA": 0, "vault:v1234567890:A": 0, "v1:AAAA": 0,
	} {
		if n := WrapVersion(wrapped); n != version {
			t.Errorf("%q: version %d, want %d", wrapped, n, version)
		}
	}
}
