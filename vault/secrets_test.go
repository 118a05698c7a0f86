package vault

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// secrets returns a cache over a logged-in client, on a clock.
func (p *place) secrets(t *testing.T) (*Secrets, *clock) {
	t.Helper()
	clk := newClock()
	p.config.Now = clk.Now
	s, err := NewSecrets(SecretsConfig{Client: p.loggedIn(t), Apps: []user.ClientID{app, app}, Now: clk.Now, Logger: p.config.Logger})
	if err != nil {
		t.Fatal(err)
	}
	return s, clk
}

// holds checks that the cache gives a version with these bytes.
func (s *Secrets) holds(t *testing.T, version int, bytes string) {
	t.Helper()
	got, err := s.ClientSecret(t.Context(), app)
	if err != nil || got.Version != version || !got.Text.Equal(text(bytes)) {
		t.Fatalf("version %d, want %d, %v", got.Version, version, err)
	}
	got.Text.Wipe() // a caller's copy is its own
}

// fails checks the kind of error that the cache gives.
func (s *Secrets) fails(t *testing.T, kind user.Failure) {
	t.Helper()
	_, err := s.ClientSecret(t.Context(), app)
	if user.KindOf(err) != kind {
		t.Fatalf("got %v, want %s", err, kind)
	}
	noLeak(t, err.Error())
}

// offers checks what Refused says of a version: another, or 0 for none.
func (s *Secrets) offers(t *testing.T, refused, want int) {
	t.Helper()
	got, ok, err := s.Refused(t.Context(), app, refused)
	if err != nil || ok != (want != 0) || got.Version != want {
		t.Fatalf("version %d refused: offered %d (%v), want %d, %v", refused, got.Version, ok, want, err)
	}
}

func testRotation(t *testing.T, p *place) {
	s, clk := p.secrets(t)
	s.holds(t, 1, markerSecret)
	s.holds(t, 1, markerSecret)
	path := p.paths.app("data", app)
	if n := p.link.count(path); n != 1 {
		t.Fatalf("%d reads", n)
	}
	s.offers(t, 1, 0)
	p.putApp(map[string]any{fieldClientSecret: "marker-client-secret-2"})
	s.offers(t, 1, 0) // the entry was read less than 10 s ago
	if n := p.link.count(path); n != 2 {
		t.Fatalf("%d reads", n)
	}
	clk.pass(rereadGap)
	s.offers(t, 1, 2)
	s.holds(t, 2, "marker-client-secret-2")
	s.offers(t, 2, 1) // Human API does not know the new one yet
	s.offers(t, 1, 0) // nor the old one any more: both were tried
	clk.pass(rereadGap)
	s.offers(t, 1, 2)
	clk.pass(time.Hour)
	s.offers(t, 2, 0) // the overlap is over
	s.round(t.Context(), (*held).wanted)
	if h := s.apps[app]; h.previous.Version != 0 {
		t.Error("the previous version outlives the overlap")
	}
	p.putApp(map[string]any{fieldClientSecret: "marker-client-secret-3"})
	s.round(t.Context(), (*held).wanted)
	s.holds(t, 3, "marker-client-secret-3")
	if _, ok, err := s.Refused(t.Context(), "unknown", 1); ok || user.KindOf(err) != user.SecretUnavailable {
		t.Error("an unknown app: ", err)
	}
	if _, err := s.ClientSecret(t.Context(), "unknown"); user.KindOf(err) != user.SecretUnavailable {
		t.Error("an unknown app: ", err)
	}
}

func testSecretsDenied(t *testing.T, p *place) {
	s, clk := p.secrets(t)
	s.holds(t, 1, markerSecret)
	inMemory := s.apps[app].current.Text
	round := func() { clk.pass(time.Minute); s.round(t.Context(), (*held).wanted) }

	p.putApp(map[string]any{"clientsecret": markerSecret}) // a slip, not a no
	round()
	s.holds(t, 1, markerSecret)
	if st := s.Status()[0]; st.Reason == "" || !st.Confirmed.Before(clk.Now()) {
		t.Errorf("a malformed entry is not shown: %+v", st)
	}
	p.putPolicy(t, func(r right) bool { return r.path != p.paths.app("data", "*") })
	round()
	s.fails(t, user.SecretUnavailable)
	if inMemory.Equal(text(markerSecret)) {
		t.Error("the bytes are still in memory")
	}
	if st := s.Status(); len(st) != 1 || st[0].Version != 0 || st[0].Reason == "" || !st[0].HeldSince.IsZero() {
		t.Errorf("status %+v", st)
	}
	p.putPolicy(t, func(right) bool { return true })
	p.putApp(map[string]any{fieldClientSecret: markerSecret})
	clk.pass(retryGap)
	s.holds(t, 3, markerSecret)
	p.server.Must("DELETE", p.paths.app("data", app), nil)
	if st := s.Check(t.Context())[0]; st.Version != 0 || st.Reason == "" {
		t.Errorf("a deleted version is held: %+v", st)
	}
	s.fails(t, user.SecretUnavailable)

	// An idle app that was refused is read again.
	clk.pass(2 * inUse)
	p.putApp(map[string]any{fieldClientSecret: markerSecret})
	s.round(t.Context(), (*held).wanted)
	if st := s.Status()[0]; st.Version != 4 || st.Reason != "" {
		t.Errorf("status %+v", st)
	}

	// An idle app's secret does not outlive the daemon's rights either.
	s.holds(t, 4, markerSecret)
	clk.pass(2 * inUse)
	p.server.Must("DELETE", p.role(), nil)
	p.revoke(s.config.Client.(*Client))
	s.round(t.Context(), (*held).wanted)
	if s.Status()[0].Version != 4 {
		t.Error("an idle app was read")
	}
	_, err := s.config.Client.ReadApp(t.Context(), app)
	want(t, err, ErrDenied)
	s.round(t.Context(), (*held).wanted)
	if s.Status()[0].Version != 0 {
		t.Error("a secret is held though Vault denies the daemon everything")
	}
}

func testSecretsOutage(t *testing.T, p *place) {
	s, clk := p.secrets(t)
	path := p.paths.app("data", app)
	p.link.cut()
	s.fails(t, user.VaultUnavailable)
	asked := p.link.count(path)
	s.fails(t, user.VaultUnavailable)
	if n := p.link.count(path); n != asked {
		t.Errorf("%d reads within a second of an outage", n)
	}
	p.link.answer(nil)
	clk.pass(retryGap)
	s.holds(t, 1, markerSecret)
	confirmed := s.Status()[0].Confirmed
	p.link.cut()
	for range 24 {
		s.holds(t, 1, markerSecret)
		s.round(t.Context(), (*held).wanted)
		clk.pass(time.Hour)
	}
	s.holds(t, 1, markerSecret)
	s.offers(t, 1, 0)
	if st := s.Status()[0]; st.Reason == "" || !st.Confirmed.Equal(confirmed) {
		t.Errorf("an outage is not shown: %+v", st)
	}
	inMemory := s.apps[app].current.Text
	clk.pass(time.Second)
	s.round(t.Context(), (*held).wanted)
	if inMemory.Equal(text(markerSecret)) {
		t.Error("the bytes outlive max_stale")
	}
	s.fails(t, user.VaultStale)
	p.link.answer(nil)
	clk.pass(retryGap)
	s.holds(t, 1, markerSecret)
}

// TestSecretsShare: many callers share one read, a caller that gives up spoils
// it for nobody, and copies are the callers' own.
func TestSecretsShare(t *testing.T) {
	reads := 0
	release := make(chan struct{})
	s, err := NewSecrets(SecretsConfig{Apps: []user.ClientID{app}, Client: readerFunc(func(ctx context.Context) (App, error) {
		reads++
		select {
		case <-release:
			return App{ClientSecret: text(markerSecret), AppKey: text("marker-app-key"), Version: 1}, nil
		case <-ctx.Done():
			return App{}, inOurWords(ctx.Err())
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.ClientSecret(gone, app); user.KindOf(err) != user.VaultUnavailable {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() { s.holds(t, 1, markerSecret) })
	}
	close(release)
	callers.Wait()
	s.holds(t, 1, markerSecret)
	if reads > 2 {
		t.Errorf("%d reads for 50 callers", reads)
	}
	running(t, s.Run)
}

type readerFunc func(context.Context) (App, error)

func (f readerFunc) ReadApp(ctx context.Context, _ user.ClientID) (App, error) { return f(ctx) }

func TestNewSecretsRefuses(t *testing.T) {
	ok := SecretsConfig{Client: readerFunc(nil), Apps: []user.ClientID{app}}
	for what, change := range map[string]func(*SecretsConfig){
		"no client":    func(c *SecretsConfig) { c.Client = nil },
		"bad app":      func(c *SecretsConfig) { c.Apps = []user.ClientID{"a/b"} },
		"negative":     func(c *SecretsConfig) { c.MaxStale = -1 },
		"slow refresh": func(c *SecretsConfig) { c.Refresh = 2 * time.Hour },
	} {
		c := ok
		change(&c)
		if _, err := NewSecrets(c); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}
