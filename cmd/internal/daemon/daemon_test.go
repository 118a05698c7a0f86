package daemon

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/unix/server"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// A life: an exchange, a clean stop, a restart that still knows the user, and
// checks of store and log without the daemon.
func TestLife(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	r := w.start()
	r.await("READY=1")
	session := w.session()
	tokens, err := w.client("public").Exchange(t.Context(), session)
	if err != nil {
		t.Fatal(err)
	}
	status, err := w.client("admin").AdminStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !status.Health.Ready || status.Health.Degraded || status.Exchanges.Outcomes["stored"] != 1 || status.Store.ID == "" ||
		!status.Vault.Reachable || status.Audit.PublicKey == "" || len(status.Listeners) != 3 || status.Secrets[0].Version != 1 {
		t.Errorf("status: %+v", status)
	}
	if check, err := w.client("admin").AdminStoreCheck(t.Context()); err != nil || !check.OK {
		t.Errorf("store check: %+v, %v", check, err)
	}
	if _, err := CheckOffline(t.Context(), w.config()); !errors.Is(err, boltstore.ErrHeld) {
		t.Errorf("an offline check beside the daemon: %v", err)
	}
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(t.Context(), audit.VerifyConfig{Path: filepath.Join(w.dir, "audit.log")})
	if err != nil || !report.Consistent || report.Tail != 0 {
		t.Errorf("the audit log after a clean stop: %+v, %v", report, err)
	}
	if check, err := CheckOffline(t.Context(), w.config()); err != nil || !check.OK || check.Counts["users"] != 1 {
		t.Errorf("the store after a clean stop: %+v, %v", check, err)
	}
	r = w.start()
	r.await("READY=1")
	again, err := w.client("public").Exchange(t.Context(), session)
	if err != nil || again != tokens || w.sim.Count(humanapitest.TokensPath) != 1 {
		t.Errorf("a repeat after the restart: %v, Human API was asked %d times", err, w.sim.Count(humanapitest.TokensPath))
	}
}

// Vault is away at start: the sockets are there, health says why, and the daemon
// becomes ready by itself.
func TestVaultAwayAtStart(t *testing.T) {
	v := vaulttest.StartStorage(t)
	w := newWorld(t, v)
	v.Stop()
	r := w.start()
	r.await("STATUS=Not ready: log in at Vault: ")
	health, err := w.client("public").Health(t.Context())
	if err != nil || health.Ready || !strings.Contains(strings.Join(health.Reasons, " "), "Vault cannot be reached") ||
		strings.Contains(strings.Join(health.Reasons, " "), "127.0.0.1") {
		t.Errorf("health: %+v, %v", health, err)
	}
	_, err = w.client("public").Exchange(t.Context(), w.session())
	if client.CodeOf(err) != api.Starting {
		t.Errorf("an exchange meanwhile: %v", err)
	}
	if w.sim.Count(humanapitest.TokensPath) != 0 {
		t.Error("Human API was asked")
	}
	if s, err := w.client("admin").AdminStatus(t.Context()); err != nil || s.Health.Ready || s.Vault.Reachable {
		t.Errorf("status meanwhile: %+v, %v", s.Health, err)
	}
	v.Restart()
	r.await("READY=1")
	if _, err := w.client("public").Exchange(t.Context(), w.session()); err != nil {
		t.Error(err)
	}
}

// Vault lets the daemon in but gives it too little: it says which path lacks
// what, and goes on when that is put right.
func TestDeniedAtStart(t *testing.T) {
	v := vaulttest.Start(t)
	w := newWorld(t, v)
	policy := v.Must("GET", "sys/policies/acl/tokenvault", nil)["policy"].(string)
	v.Must("PUT", "sys/policies/acl/tokenvault", map[string]any{
		"policy": strings.ReplaceAll(policy, "transit/encrypt/tokenvault", "transit/encrypt/another"),
	})
	r := w.start()
	r.await("lacks update on transit/encrypt/tokenvault")
	health, err := w.client("public").Health(t.Context())
	if err != nil || health.Ready || !strings.Contains(strings.Join(health.Reasons, " "), "denies") || strings.Contains(strings.Join(health.Reasons, " "), "transit") {
		t.Errorf("health, which everybody may read: %+v, %v", health, err)
	}
	status, err := w.client("admin").AdminStatus(t.Context())
	if err != nil || !strings.Contains(strings.Join(status.Health.Reasons, " "), "transit/encrypt/tokenvault") {
		t.Errorf("status: %+v, %v", status.Health, err)
	}
	v.Must("PUT", "sys/policies/acl/tokenvault", map[string]any{"policy": policy})
	r.await("READY=1")
}

// Vault goes away later: everything goes on from memory, and it shows.
func TestVaultAwayLater(t *testing.T) {
	v := vaulttest.StartStorage(t)
	w := newWorld(t, v)
	r := w.start()
	r.await("READY=1")
	first := w.session()
	if _, err := w.client("public").Exchange(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	v.Stop()
	check, err := w.client("admin").AdminSecretsCheck(t.Context()) // makes it ask
	if err != nil || check.OK {
		t.Errorf("secret check: %+v, %v", check, err)
	}
	health, err := w.client("public").Health(t.Context())
	if err != nil || !health.Ready || !health.Degraded || len(health.Reasons) == 0 {
		t.Errorf("health: %+v, %v", health, err)
	}
	if _, err := w.client("public").Exchange(t.Context(), w.session()); err != nil {
		t.Errorf("an exchange from memory: %v", err)
	}
	if got, err := w.client("private").AccessToken(t.Context(), appID, first.HumanID); err != nil || got.Token.IsZero() {
		t.Errorf("an access token from memory: %v", err)
	}
	if err := r.finish(); err != nil {
		t.Error(err)
	}
}

// Past max_stale the keys of access tokens are wiped; public lookups and repeats
// go on; when Vault is back, so are they.
func TestStale(t *testing.T) {
	v := vaulttest.StartStorage(t)
	w := newWorld(t, v)
	w.edit("[vault]\n", "[vault]\nmax_stale = \"2s\"\n")
	r := w.start()
	r.await("READY=1")
	session := w.session()
	if _, err := w.client("public").Exchange(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	v.Stop()
	check := func() {
		if _, err := w.client("admin").AdminSecretsCheck(t.Context()); err != nil { // makes it ask
			t.Error(err)
		}
	}
	check()
	r.await("private keys were wiped")
	if _, _, err := r.daemon.open().keys.Active(keyring.Private); !errors.Is(err, keyring.ErrWiped) {
		t.Errorf("the private key is still there: %v", err)
	}
	if _, err := w.client("private").AccessToken(t.Context(), appID, session.HumanID); client.CodeOf(err) != api.VaultStale {
		t.Errorf("an access token past max_stale: %v", err)
	}
	if _, err := w.client("public").Exchange(t.Context(), w.session()); client.CodeOf(err) != api.VaultStale {
		t.Errorf("an exchange past max_stale: %v", err)
	}
	if _, err := w.client("public").Exchange(t.Context(), session); err != nil {
		t.Errorf("a repeat past max_stale: %v", err)
	}
	if _, err := w.client("public").User(t.Context(), appID, session.HumanID); err != nil {
		t.Errorf("a lookup past max_stale: %v", err)
	}
	v.Restart()
	check()
	r.await("private keys are back")
	if got, err := w.client("private").AccessToken(t.Context(), appID, session.HumanID); err != nil || got.Token.IsZero() {
		t.Errorf("an access token afterwards: %v", err)
	}
}

func TestTwoDaemons(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	w.start().await("READY=1")
	err := Run(t.Context(), w.config())
	if !errors.Is(err, boltstore.ErrHeld) || !strings.Contains(err.Error(), "another daemon runs on the store") {
		t.Errorf("a second daemon: %v", err)
	}
	if _, err := w.client("public").Health(t.Context()); err != nil {
		t.Errorf("the first one, afterwards: %v", err)
	}
}

// An exchange that is on the wire when SIGTERM comes is answered.
func TestDrain(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	r := w.start()
	r.await("READY=1")
	release := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{HoldAnswer: release})
	c, session, answered := w.client("public"), w.session(), make(chan error, 1)
	go func() {
		_, err := c.Exchange(t.Context(), session)
		answered <- err
	}()
	if err := w.sim.Await(t.Context(), humanapitest.TokensPath, 1); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.await("STOPPING=1")
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the exchange in flight: %v", err)
	}
	if err := r.finish(); err != nil {
		t.Error(err)
	}
}

// Stopped while it still waits for Vault: a clean end.
func TestStopWhileStarting(t *testing.T) {
	v := vaulttest.StartStorage(t)
	w := newWorld(t, v)
	v.Stop()
	r := w.start()
	r.await("STATUS=Not ready")
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "public", "api.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestReload(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	events := make(chan struct{}, 1)
	r := w.start(func(c *Config) { c.Reload, c.Load = events, w.load })
	r.await("READY=1")
	reload := func() {
		r.forget()
		events <- struct{}{}
		r.await("RELOADING=1\nMONOTONIC_USEC=")
		r.await("READY=1")
	}
	lookup := func() api.Code {
		_, err := w.client("public").UserByClientUserID(t.Context(), appID, "nobody")
		return client.CodeOf(err)
	}
	if code := lookup(); code != api.UnknownUser {
		t.Fatalf("before: %s", code)
	}
	w.edit(`"lookup", `, "")
	reload()
	if code := lookup(); code != api.NotGranted {
		t.Errorf("a grant that was taken away: %s", code)
	}
	w.edit(`"public-token", "access-token"`, `"public-token", "lookup", "fly"`)
	reload()
	if code := lookup(); code != api.NotGranted {
		t.Errorf("after a reload of nonsense: %s", code)
	}
	w.edit(`"fly"`, `"access-token"`)
	w.edit(`instance = "test"`, `instance = "other"`)
	reload()
	if code := lookup(); code != api.NotGranted {
		t.Errorf("after a reload that would need a restart: %s", code)
	}
	w.edit(`instance = "other"`, `instance = "test"`)
	reload()
	if code := lookup(); code != api.UnknownUser {
		t.Errorf("after putting it right: %s", code)
	}
}

func TestWatchdog(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	r := w.start(func(c *Config) { c.Watchdog = 2 * time.Second })
	r.await("READY=1")
	r.forget()
	r.await("WATCHDOG=1")
	r.forget()
	r.await("WATCHDOG=1")
}

// inherited makes sockets as systemd would.
func (w *world) inherited(mode os.FileMode) map[string]net.Listener {
	w.t.Helper()
	out := map[string]net.Listener{}
	for _, name := range []string{"public", "private", "admin"} {
		l, err := server.Listen(server.ListenConfig{Path: filepath.Join(w.dir, name, "api.sock"), UID: -1, GID: -1, Mode: mode})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = l.Close() })
		out[name] = l
	}
	return out
}

func TestInheritedSockets(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	for want, c := range map[string]struct {
		mode   os.FileMode
		change func(map[string]net.Listener)
	}{
		"mode 0666, the configuration says 0660": {0o666, func(map[string]net.Listener) {}},
		"not this one":                           {0o660, func(m map[string]net.Listener) { delete(m, "private") }},
		"systemd passed 4 sockets":               {0o660, func(m map[string]net.Listener) { m["other"] = m["public"] }},
		"the configuration says " + w.dir:        {0o660, func(m map[string]net.Listener) { m["public"], m["private"] = m["private"], m["public"] }},
	} {
		sockets := w.inherited(c.mode)
		conf := w.config()
		conf.Listeners = maps.Clone(sockets)
		c.change(conf.Listeners)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // it would run for ever
		if err := Run(ctx, conf); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		cancel()
		for _, l := range sockets {
			_ = l.Close()
		}
	}
	r := w.start(func(c *Config) { c.Listeners = w.inherited(0o660) })
	r.await("READY=1")
	if _, err := w.client("private").WhoAmI(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBadSecretFile(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	if err := os.Chmod(filepath.Join(w.dir, "secret-id"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), w.config()); err == nil || !strings.Contains(err.Error(), "vault.auth.secret_id_file") {
		t.Errorf("a secret id that everybody may read: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "store.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the store was made before the check")
	}
}

func TestLogger(t *testing.T) {
	var out strings.Builder
	log := NewLogger(&out, config.Log{Level: "warn", Format: "auto"})
	log.Info("nothing")
	log.Warn("something", "n", 1)
	if got := out.String(); !strings.HasPrefix(got, "{") || strings.Contains(got, "nothing") {
		t.Errorf("%q", got)
	}
	out.Reset()
	NewLogger(&out, config.Log{Level: "debug", Format: "text"}).Debug("word")
	if got := out.String(); !strings.Contains(got, "msg=word") {
		t.Errorf("%q", got)
	}
}
