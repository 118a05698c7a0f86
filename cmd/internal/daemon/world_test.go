package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

const (
	appID     = "marker-client-id"
	appSecret = "marker-client-secret"
	patience  = 60 * time.Second // for anything that must happen; never waited out when it does
)

// world is a Vault, a Human API and a configuration; daemons come and go in it.
type world struct {
	t     testing.TB
	dir   string
	vault *vaulttest.Server
	sim   *humanapitest.Server
	path  string // of the configuration
}

const configText = `
instance = "test"
drain_timeout = "10s"
[[app]]
name = "shop"
client_id = "` + appID + `"
[[listener]]
name = "public"
path = "@DIR@/public/api.sock"
group = ""
[[listener]]
name = "private"
path = "@DIR@/private/api.sock"
group = ""
[[listener]]
name = "admin"
path = "@DIR@/admin/api.sock"
group = ""
[[rule]]
name = "web"
users = [@UID@]
apps = ["shop"]
grants = ["exchange", "public-token", "lookup", "access-token"]
@ADMIN@[humanapi]
user_url = "@SIM@"
unsafe_plain_http = true
[store]
path = "@DIR@/store.db"
[audit]
path = "@DIR@/audit.log"
[vault]
address = "@VAULT@"
unsafe_plain_http = true
timeout = "1s"
[vault.auth]
role_id_file = "@DIR@/role-id"
secret_id_file = "@DIR@/secret-id"
`

func newWorld(t testing.TB, v *vaulttest.Server) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tvd-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, vault: v, path: filepath.Join(dir, "tokenvault.toml")}
	w.sim = humanapitest.Start(t, humanapitest.Config{Apps: map[string]string{appID: appSecret}})
	w.write("tokenvault.toml", strings.NewReplacer("@DIR@", dir, "@SIM@", w.sim.URL, "@VAULT@", v.Addr,
		"@ADMIN@", adminRule(), "@UID@", fmt.Sprint(os.Geteuid())).Replace(configText))
	operator, err := vault.NewOperator(vault.OperatorConfig{
		Config: vault.Config{Address: v.Addr, UnsafePlainHTTP: true}, Token: secret.FromString(v.RootToken),
	})
	if err != nil {
		t.Fatal(err)
	}
	setup, err := operator.Setup(t.Context(), vault.SetupConfig{Apply: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.PutSecret(t.Context(), appID, secret.FromString(appSecret)); err != nil {
		t.Fatal(err)
	}
	w.write("role-id", setup.RoleID)
	w.write("secret-id", string(setup.SecretID.Reveal()))
	return w
}

// adminRule gives the tests' user what root has without a rule.
func adminRule() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return fmt.Sprintf("[[rule]]\nname = \"tester\"\nusers = [%d]\ngrants = [\"admin-read\", \"admin\"]\n", os.Geteuid())
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// edit changes the configuration file.
func (w *world) edit(from, to string) {
	w.t.Helper()
	text, err := os.ReadFile(w.path)
	if err != nil || !strings.Contains(string(text), from) {
		w.t.Fatalf("%v, or %q is not in it", err, from)
	}
	w.write("tokenvault.toml", strings.ReplaceAll(string(text), from, to))
}

func (w *world) load() (*config.Config, error) {
	return config.Load(config.LoadOptions{Path: w.path, Env: func(string) string { return "" }})
}

func (w *world) config() Config {
	w.t.Helper()
	cfg, err := w.load()
	if err != nil {
		w.t.Fatal(err)
	}
	return Config{Config: cfg, Version: "test", Logger: slog.New(slog.DiscardHandler)}
}

// running is a daemon under test.
type running struct {
	*world
	mu     sync.Mutex
	states []string
	news   chan struct{} // after each state
	daemon *daemon       // once the service manager was told anything
	stop   context.CancelFunc
	ended  chan error
}

// start runs a daemon; it is stopped at the end of the test at the latest.
func (w *world) start(change ...func(*Config)) *running {
	w.t.Helper()
	r := &running{world: w, news: make(chan struct{}, 1), ended: make(chan error, 1)}
	c := w.config()
	c.Notify = func(state string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.states = append(r.states, state)
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
	c.Logger = slog.New(slog.NewTextHandler(logWriter(c.Notify), nil))
	for _, f := range change {
		f(&c)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		d, err := prepare(ctx, c) // as Run
		if err != nil {
			r.ended <- err
			return
		}
		r.mu.Lock()
		r.daemon = d
		r.mu.Unlock()
		r.ended <- d.run(ctx)
	}()
	w.t.Cleanup(func() { stop(); <-r.ended })
	return r
}

// logWriter lets a test await what stands in the log, too.
type logWriter func(line string)

func (l logWriter) Write(b []byte) (int, error) {
	l("log: " + string(b))
	return len(b), nil
}

// await waits until the service manager was told something.
func (r *running) await(part string) {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		for _, s := range r.states {
			if strings.Contains(s, part) {
				r.mu.Unlock()
				return
			}
		}
		r.mu.Unlock()
		select {
		case <-r.news:
		case err := <-r.ended:
			r.ended <- err
			r.t.Fatalf("the daemon ended while %q was awaited: %v", part, err)
		case <-timeout:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("nobody said %q; said was %q", part, r.states)
		}
	}
}

// said reports whether the service manager was told something so far.
func (r *running) said(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.states, func(s string) bool { return strings.Contains(s, part) })
}

// forget drops what was said so far.
func (r *running) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = nil
}

// finish stops the daemon and returns what Run returned.
func (r *running) finish() error {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		r.ended <- nil
		return err
	case <-time.After(patience):
		r.t.Fatal("the daemon does not end")
		return nil
	}
}

func (w *world) client(listener string) *client.Client {
	w.t.Helper()
	c, err := client.New(client.Config{Socket: filepath.Join(w.dir, listener, "api.sock"), Timeout: patience})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// session is a finish event of a new user.
func (w *world) session() client.SessionTokenObject {
	human := w.sim.NewHumanID()
	token := w.sim.NewSession(appID, human, "")
	return client.SessionTokenObject{HumanID: user.HumanID(human), ClientID: appID, SessionToken: secret.FromString(token)}
}
