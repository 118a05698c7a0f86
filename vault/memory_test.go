package vault

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// afterRestart returns a client and a cache that remember what an earlier pair
// held, over a link that is cut.
func (p *place) afterRestart(t *testing.T) (before *Client, c *Client, s *Secrets) {
	t.Helper()
	before = p.loggedIn(t)
	old, err := NewSecrets(SecretsConfig{Client: before, Apps: []user.ClientID{app}, Logger: p.config.Logger})
	if err != nil {
		t.Fatal(err)
	}
	old.holds(t, 1, markerSecret)
	session, ok := before.Memory()
	if !ok {
		t.Fatal("nothing is remembered")
	}
	secrets := old.Memory()
	p.link.cut()
	c = p.client(t)
	if s, err = NewSecrets(SecretsConfig{Client: c, Apps: []user.ClientID{app}, Logger: p.config.Logger}); err != nil {
		t.Fatal(err)
	}
	if err := c.Recall(session); err != nil {
		t.Fatal(err)
	}
	s.Recall(secrets)
	session.Wipe()
	for _, m := range secrets {
		m.Wipe()
	}
	return before, c, s
}

// testRecall: what is remembered works on, is no word of Vault's, and is
// confirmed without a login.
func testRecall(t *testing.T, p *place) {
	before, c, s := p.afterRestart(t)
	was, is := before.Status(), c.Status()
	if is.Reachable || is.Denied || !strings.Contains(is.Reason, "not asked") || !is.LastWord.Equal(was.LastWord) || !is.TokenExpiry.Equal(was.TokenExpiry) {
		t.Errorf("status %+v, before %+v", is, was)
	}
	s.holds(t, 1, markerSecret)
	want(t, c.Revalidate(t.Context()), ErrUnreachable)
	if c.Status().Denied {
		t.Error("an outage denies")
	}
	s.holds(t, 1, markerSecret)
	logins := p.link.count(loginPath)
	p.link.answer(nil)
	if err := c.Revalidate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := c.Status(); !st.Reachable || st.Reason != "" || !st.LastWord.After(was.LastWord) {
		t.Errorf("status %+v", st)
	}
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if p.link.count(loginPath) != logins {
		t.Error("there was a login, though the token lives")
	}
	again, ok := c.Memory()
	if !ok || !again.Token.Equal(before.current().token) || !again.Since.Equal(before.current().since) || !again.Renewable {
		t.Error("what is remembered next is another session")
	}
	if err := c.Recall(again); err == nil {
		t.Error("a second session was taken")
	}
}

// testRecallRuns: Run asks about the recalled token by itself, keeps it alive, and
// the cache catches up.
func testRecallRuns(t *testing.T, p *place) {
	_, c, s := p.afterRestart(t)
	running(t, c.Run)
	running(t, s.Run)
	eventually(t, "the outage to be seen", func() bool { return s.Status()[0].Reason != "" && s.Status()[0].Version == 1 })
	confirmed := s.Status()[0].Confirmed
	p.link.answer(nil)
	began := time.Now()
	eventually(t, "all to be well", func() bool {
		st := s.Status()[0]
		return c.Status().Reachable && st.Reason == "" && st.Confirmed.After(confirmed)
	})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	eventually(t, "a renewal", func() bool { return p.link.count("auth/token/renew-self") > 0 })
	if p.link.count(loginPath) != 1 {
		t.Error("there was a login, though the token lives")
	}
}

// testRecallDead: a token that died meanwhile is found dead, and a login helps.
func testRecallDead(t *testing.T, p *place) {
	before, c, s := p.afterRestart(t)
	p.link.answer(nil)
	p.revoke(before)
	want(t, c.Revalidate(t.Context()), ErrDenied, "not valid any more")
	if c.Status().Denied {
		t.Error("denied, though no login was tried")
	}
	if s.Status()[0].Version != 1 {
		t.Error("a secret was dropped because of a token that was to be replaced")
	}
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g := c.current().generation; g != 2 {
		t.Errorf("generation %d", g)
	}
	s.holds(t, 1, markerSecret)
}

// testRecallDenied: what Vault denies at its first word is wiped like any other,
// and is not recalled any more.
func testRecallDenied(t *testing.T, p *place) {
	_, _, s := p.afterRestart(t)
	s.holds(t, 1, markerSecret)
	remembered := s.Memory()
	inMemory := s.apps[app].current.Text
	p.link.answer(nil)
	p.putPolicy(t, func(r right) bool { return r.path != p.paths.app("data", "*") })
	if st := s.Check(t.Context())[0]; st.Version != 0 || !strings.Contains(st.Reason, "read") {
		t.Errorf("state %+v", st)
	}
	if inMemory.Equal(text(markerSecret)) {
		t.Error("the bytes are still in memory")
	}
	if s.Recall(remembered); s.Status()[0].Version != 0 {
		t.Error("recalled against Vault's word")
	}
	s.fails(t, user.SecretUnavailable)
}

func TestRecallNothing(t *testing.T) {
	c, err := New(Config{Address: "https://vault.test", Auth: AuthConfig{RoleIDFile: "/nonexistent", SecretIDFile: "/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Memory(); ok {
		t.Error("something is remembered before there was anything")
	}
	if err := c.Recall(Memory{Renewable: true}); err == nil {
		t.Error("nothing was recalled")
	}
	if err := c.Recall(Memory{SecretID: text("marker-secret-id")}); err != nil {
		t.Fatal(err)
	}
	want(t, c.Revalidate(t.Context()), ErrDenied)
	m, ok := c.Memory()
	if !ok || !m.Token.IsZero() || !m.SecretID.Equal(text("marker-secret-id")) || c.Requests() != 0 {
		t.Errorf("remembered %v, %d requests", ok, c.Requests())
	}
	if err := c.Recall(m); err == nil {
		t.Error("a second secret id was taken")
	}
}

// TestRecallExpired: a token whose time is over is not one without end.
func TestRecallExpired(t *testing.T) {
	clk := newClock()
	c, err := New(Config{Address: "https://vault.test", Now: clk.Now, Auth: AuthConfig{RoleIDFile: "/nonexistent", SecretIDFile: "/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	m := Memory{Token: text("marker-token"), Since: clk.Now().Add(-time.Hour), Expires: clk.Now().Add(-time.Minute)}
	if err := c.Recall(m); err != nil {
		t.Fatal(err)
	}
	if s := c.current(); s.lease <= 0 || !c.Status().TokenExpiry.Equal(m.Expires) {
		t.Errorf("lease %v, expires %v", s.lease, c.Status().TokenExpiry)
	}
}

// TestRecallSecrets: staleness goes on from where it was, and nothing is taken for
// an app of which more is known.
func TestRecallSecrets(t *testing.T) {
	clk := newClock()
	answers := map[user.ClientID]error{"malformed": ErrMalformed, "denied": ErrDenied, "away": ErrUnreachable}
	s, err := NewSecrets(SecretsConfig{
		Client: appReader(answers), Apps: []user.ClientID{"fresh", "old", "future", "malformed", "denied", "away", "empty", "held"},
		MaxStale: time.Hour, Now: clk.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []user.ClientID{"malformed", "denied", "away", "held"} {
		s.refresh(t.Context(), s.apps[id], always)
	}
	at := func(id user.ClientID, age time.Duration) SecretMemory {
		return SecretMemory{ClientID: id, Current: user.ClientSecret{Text: text(markerSecret), Version: 7}, Since: clk.Now().Add(-2 * time.Hour), Confirmed: clk.Now().Add(-age)}
	}
	empty := at("empty", 0)
	empty.Current.Text = text("")
	s.Recall([]SecretMemory{at("fresh", 59*time.Minute), at("old", time.Hour+1), at("future", -time.Hour), at("malformed", 0),
		at("denied", 0), at("away", time.Minute), empty, at("held", 0), at("unknown", 0)})
	for i, version := range []int{7, 0, 7, 0, 0, 7, 0, 1} {
		if st := s.Status()[i]; st.Version != version {
			t.Errorf("%s: version %d, want %d", st.ClientID, st.Version, version)
		}
	}
	if st := s.Status()[0]; st.HeldSince.Equal(clk.Now()) || !st.Confirmed.Equal(clk.Now().Add(-59*time.Minute)) {
		t.Errorf("the clocks begin anew: %+v", st)
	}
	if n := len(s.Memory()); n != 4 {
		t.Errorf("%d remembered", n)
	}
	clk.pass(time.Minute + 1)
	answers["fresh"] = ErrUnreachable
	if _, err := s.ClientSecret(t.Context(), "fresh"); user.KindOf(err) != user.VaultStale {
		t.Errorf("past max_stale, counted over the restart: %v", err)
	}
	clk.pass(59*time.Minute - 1)
	if n := len(s.Memory()); n != 2 { // "held", and "future", which counts from the recall
		t.Errorf("%d remembered", n)
	}
	clk.pass(time.Minute)
	if len(s.Memory()) != 0 {
		t.Error("remembered past max_stale")
	}
}

// appReader fails as it says for an app, and has version 1 of the others.
type appReader map[user.ClientID]error

func (r appReader) ReadApp(_ context.Context, id user.ClientID) (App, error) {
	if err := r[id]; err != nil {
		return App{}, err
	}
	return App{ClientSecret: text(markerSecret), Version: 1}, nil
}

// TestRefusedByHumanAPI: that nothing is left to try is shown, until there is
// another version.
func TestRefusedByHumanAPI(t *testing.T) {
	clk := newClock()
	version := 1
	s, err := NewSecrets(SecretsConfig{Apps: []user.ClientID{app}, Now: clk.Now, Client: readerFunc(func(context.Context) (App, error) {
		return App{ClientSecret: text(markerSecret + strings.Repeat("+", version)), Version: version}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	shows := func(refused bool) {
		t.Helper()
		st := s.Status()[0]
		if says := strings.HasPrefix(st.Reason, "Human API refuses version"); st.Refused != refused || says != refused {
			t.Fatalf("state %+v", st)
		}
	}
	s.Check(t.Context())
	shows(false)
	s.offers(t, 1, 0)
	shows(true)
	version = 2
	clk.pass(rereadGap)
	s.offers(t, 1, 2)
	shows(false)
	s.offers(t, 2, 1)
	shows(false) // the old one is still to be tried
	s.offers(t, 1, 0)
	shows(true)
	s.Check(t.Context())
	shows(true) // the same version, read again
	version = 3
	s.Check(t.Context())
	shows(false)
}
