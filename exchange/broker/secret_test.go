package broker_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

const secondValue = "marker-client-secret-2"

func TestSecretRotatedMidWay(t *testing.T) {
	w := newWorld(t)
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	w.sim.RotateSecret(string(app), secondValue)
	w.secrets.set(func(v *vaultEntry) { v.versions = append(v.versions, secondValue) })
	_, err = w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	w.wantCurrent("marker-human")
	if w.asked() != 3 || w.secrets.refused != 1 {
		t.Errorf("%d requests and %d looks into Vault, want 3 and 1", w.asked(), w.secrets.refused)
	}
}

// A secret that is wrong in Vault does not cost anybody a session token.
func TestWrongSecretIsFixed(t *testing.T) {
	w := newWorld(t)
	w.secrets.set(func(v *vaultEntry) { v.versions[0] = "marker-client-secret-wrong" })
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, user.SecretUnavailable)
	if w.b.Status().Outcomes[user.Refused] != 1 || len(w.intents()) != 0 || w.asked() != 1 {
		t.Error("it did not end as refused after one request")
	}
	w.secrets.set(func(v *vaultEntry) { v.versions[0] = firstValue })
	_, err = w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent(x.HumanID)
}

// However many versions there are, one attempt tries three.
func TestEndlessVersions(t *testing.T) {
	w := newWorld(t)
	w.secrets.set(func(v *vaultEntry) { v.versions[0], v.endless = "marker-client-secret-wrong", true })
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.SecretUnavailable)
	if n := w.asked(); n != 3 {
		t.Errorf("%d versions were tried", n)
	}
}

// entry is an app's entry in Vault, for the real cache of secrets.
type entry struct {
	text    string
	version int
}

func (e *entry) ReadApp(context.Context, user.ClientID) (vault.App, error) {
	return vault.App{ClientSecret: secret.FromString(e.text), Version: e.version}, nil
}

// The version held and the one that came after it are each other's alternative:
// when both are refused, each was sent once.
func TestNoVersionIsSentTwice(t *testing.T) {
	in := &entry{"marker-client-secret-A", 1}
	held, err := vault.NewSecrets(vault.SecretsConfig{Client: in, Apps: []user.ClientID{app}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world) { w.config.Secrets = held })
	if _, err := held.ClientSecret(context.Background(), app); err != nil {
		t.Fatal(err)
	}
	*in = entry{"marker-client-secret-B", 2}
	_, err = w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.SecretUnavailable)
	var sent []string
	for _, r := range w.sim.Requests() {
		sent = append(sent, strings.TrimPrefix(r.Fields["clientSecret"], "marker-client-secret-"))
	}
	if !slices.Equal(sent, []string{"A", "B"}) {
		t.Errorf("sent were %q", sent)
	}
}

func TestNoSecret(t *testing.T) {
	for _, kind := range []user.Failure{user.VaultUnavailable, user.VaultStale, user.SecretUnavailable} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			w.secrets.set(func(v *vaultEntry) { v.fail = user.Fail(kind, "simulated") })
			x := w.finish("marker-human", "marker-user")
			_, err := w.exchange(x)
			wantKind(t, err, kind)
			if w.asked() != 0 || len(w.intents()) != 0 || w.b.Status().Outcomes[user.Unsent] != 1 {
				t.Error("without a secret it did not end as unsent")
			}
			w.secrets.set(func(v *vaultEntry) { v.fail = nil })
			_, err = w.exchange(x)
			wantKind(t, err, "")
		})
	}
}

func TestNoSecretWhenUncertain(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Hold: hold, Status: 500})
	out := w.begin(w.finish("marker-human", "marker-user"))
	w.awaitAsked(1)
	w.secrets.set(func(v *vaultEntry) { v.fail = user.Fail(user.VaultUnavailable, "simulated") })
	close(hold)
	select {
	case <-out:
		t.Fatal("what may have taken effect was given up for want of a secret")
	case <-w.tick(5):
	}
	w.secrets.set(func(v *vaultEntry) { v.fail = nil })
	wantKind(t, (<-out).err, "")
	w.wantCurrent("marker-human")
}

// tick is closed when the secret was asked for n times more.
func (w *world) tick(n int) <-chan struct{} {
	done := make(chan struct{})
	w.secrets.set(func(v *vaultEntry) { v.after, v.done = n, done })
	return done
}

func TestRefusedSecretAndNoVault(t *testing.T) {
	w := newWorld(t)
	w.secrets.set(func(v *vaultEntry) { v.deny = user.Fail(user.VaultUnavailable, "simulated") })
	w.sim.Misbehave(humanapitest.Fault{Status: 401})
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, user.VaultUnavailable)
	_, err = w.exchange(x)
	wantKind(t, err, "")
}

func TestPublicToken(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.finish("marker-human", "marker-user") // the user exists at Human API, not here
	asked := func() int { return w.sim.Count(humanapitest.PublicTokensPath) }
	get := func(human user.HumanID) (user.Public, error) { return w.b.PublicToken(ctx, app, human, "request-p") }

	p, err := get("marker-human")
	wantKind(t, err, "")
	if _, public := w.sim.Current(string(app), "marker-human"); string(p.PublicToken) != public || p.State != user.Active {
		t.Error("it is not Human API's public token")
	}
	if again, err := get("marker-human"); err != nil || again != p || asked() != 1 {
		t.Error("the second answer does not come from the store")
	}
	_, err = get("marker-unknown-human")
	wantKind(t, err, user.UnknownUser)
	if _, err := w.b.PublicToken(ctx, "marker-unknown-app", "marker-human", "request-p"); err == nil {
		t.Error("an app that is not configured was let in")
	}
	_, err = w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	w.wantCurrent("marker-human")
}

func TestPublicTokenFailures(t *testing.T) {
	type fault = humanapitest.Fault
	for _, c := range []struct {
		name  string
		fault fault
		kind  user.Failure
	}{
		{"400", fault{Status: 400}, user.UnknownUser},
		{"401", fault{Status: 401}, user.SecretUnavailable},
		{"429", fault{Status: 429, RetryAfter: "7"}, user.UpstreamUnavailable},
		{"500", fault{Status: 500}, user.UpstreamUnavailable},
		{"dropped", fault{Kind: humanapitest.DropBefore}, user.UpstreamUnavailable},
		{"redirect", fault{Kind: humanapitest.Redirect}, user.UpstreamUnavailable},
		{"408", fault{Status: 408}, user.UpstreamUnavailable},
		{"wrong user", fault{Kind: humanapitest.WrongUser}, user.UpstreamInvalid},
		{"page", fault{Kind: humanapitest.HTML}, user.UpstreamInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.finish("marker-human", "marker-user")
			w.sim.Misbehave(c.fault)
			_, err := w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
			wantKind(t, err, c.kind)
			w.wantNothing("marker-human")
			_, err = w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
			wantKind(t, err, "")
		})
	}
}

func TestPublicTokenIsFetchedOnceForAll(t *testing.T) {
	w := newWorld(t)
	w.finish("marker-human", "marker-user")
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Hold: hold})
	out := make(chan error)
	for range 20 {
		go func() {
			_, err := w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
			out <- err
		}()
	}
	gone, hangUp := context.WithCancel(context.Background())
	hangUp()
	if _, err := w.b.PublicToken(gone, app, "marker-human", "request-p"); err == nil {
		t.Error("a caller that hung up was answered")
	}
	close(hold)
	for range 20 {
		wantKind(t, <-out, "")
	}
	if n := w.sim.Count(humanapitest.PublicTokensPath); n != 1 {
		t.Errorf("Human API was asked %d times", n)
	}
}

func TestPublicTokenWithRotatedSecret(t *testing.T) {
	w := newWorld(t)
	w.finish("marker-human", "marker-user")
	w.sim.RotateSecret(string(app), secondValue)
	w.secrets.set(func(v *vaultEntry) { v.versions = append(v.versions, secondValue) })
	_, err := w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
	wantKind(t, err, "")
}

// A source of secrets that hangs holds a caller no longer than the deadline.
func TestSecretHangs(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Deadline, w.secrets.hang = 200*time.Millisecond, true })
	x := w.finish("marker-human", "marker-user")
	var err error
	w.until("its end", func() bool { // on a slow machine a caller may be let go just before it
		_, err = w.exchange(x)
		return user.KindOf(err) != user.ExchangePending
	})
	wantKind(t, err, user.UpstreamUnavailable)
	_, err = w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
	wantKind(t, err, user.UpstreamUnavailable)
	if w.asked() != 0 || len(w.intents()) != 0 {
		t.Error("it was sent, or left its intent")
	}
}
