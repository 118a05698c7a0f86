// Package dev is the try-out: Human API's simulator, a Vault dev server or a
// stand-in, and the daemon with all its sockets, in a directory of their own
// that goes away.
//
// It trusts the vault binary on the PATH. It takes no configuration, no address
// and no client id, and reads no environment but the PATH: it can never be
// pointed at anything real, and what it prints of tokens is made up by the
// simulator.
package dev

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// tempRoot is short, because a socket's address holds 107 bytes (104 on macOS),
// and constant, because $TMPDIR is environment.
const tempRoot = "/tmp"

// appName is the one app of the try-out.
const appName = "shop"

// Config of a try-out.
type Config struct {
	Once    bool      // stop after the first exchange
	Out     io.Writer // required; what is shown
	Log     io.Writer // required; the daemon's warnings
	Version string
}

// world is everything that was started.
type world struct {
	Config
	dir      string
	app      user.ClientID
	secret   string // the app's clientSecret at the simulator
	sim      *humanapitest.Server
	vault    string // how Vault is played, for people
	cfg      *config.Config
	closers  []func() error
	finished chan error // the daemon's end
}

// Run tries it out. It returns when ctx has ended, or after the first exchange
// with Once; then nothing is left behind.
func Run(ctx context.Context, c Config) (err error) {
	w := &world{Config: c}
	defer func() { err = errors.Join(err, w.close()) }()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := w.build(ctx); err != nil {
		return ended(ctx, err)
	}
	if err := w.show(ctx); err != nil {
		return ended(ctx, err)
	}
	if c.Once {
		return nil
	}
	w.invite()
	select {
	case <-ctx.Done():
		fmt.Fprintln(w.Out, "\nstopped; nothing is left behind")
		return nil
	case err := <-w.finished:
		w.finished <- err
		return fmt.Errorf("the daemon ended: %w", err)
	}
}

// ended takes Ctrl-C for what it is: no failure.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// later is called at the end, last first.
func (w *world) later(f func() error) { w.closers = append(w.closers, f) }

func (w *world) close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	return errors.Join(errs...)
}

func (w *world) build(ctx context.Context) error {
	dir, err := os.MkdirTemp(tempRoot, "tv-") // 0700
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	w.dir = dir
	w.later(func() error { return os.RemoveAll(dir) })
	w.app, w.secret = user.ClientID(random(20)), "dev-secret-"+random(12)
	w.sim = humanapitest.New(humanapitest.Config{Apps: map[string]string{string(w.app): w.secret}})
	if err := w.sim.Open("127.0.0.1:0"); err != nil {
		return fmt.Errorf("start the simulator: %w", err)
	}
	w.later(func() error { w.sim.Close(); return nil })
	source, vaultTable, err := w.secrets(ctx)
	if err != nil {
		return err
	}
	if err := w.configure(vaultTable); err != nil {
		return err
	}
	return w.startDaemon(ctx, source)
}

// random returns n random bytes in hex.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}

// configure writes the file that a real daemon would read, and reads it.
func (w *world) configure(vaultTable string) error {
	path := filepath.Join(w.dir, "tokenvault.toml")
	text := strings.NewReplacer("@DIR@", w.dir, "@APP@", appName, "@ID@", string(w.app), "@SIM@", w.sim.URL,
		"@UID@", fmt.Sprint(os.Geteuid())).Replace(template) + vaultTable
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	cfg, err := config.Load(config.LoadOptions{Path: path, Env: func(string) string { return "" }})
	if err != nil {
		return fmt.Errorf("load the configuration: %w", err)
	}
	w.cfg = cfg
	return nil
}

// template is the configuration of the try-out. All callers have one uid, so the
// ceilings of the sockets play the roles.
const template = `instance = "dev"
drain_timeout = "5s"

[[app]]
name = "@APP@"
client_id = "@ID@"

[[listener]]
name = "public"
path = "@DIR@/public/api.sock"
group = ""
mode = "0600"

[[listener]]
name = "private"
path = "@DIR@/private/api.sock"
group = ""
mode = "0600"

[[listener]]
name = "admin"
path = "@DIR@/admin/api.sock"
group = ""
mode = "0600"

[[rule]]
name = "you"
users = [@UID@]
apps = ["@APP@"]
grants = ["exchange", "public-token", "lookup", "access-token"]

[[rule]]
name = "you-admin"
users = [@UID@]
grants = ["admin-read", "admin"]

[humanapi]
user_url = "@SIM@"
unsafe_plain_http = true

[store]
path = "@DIR@/store.db"

[audit]
path = "@DIR@/audit.log"

[limits]
audit_per_uid = "1GiB" # whoever tries out how fast it is

[log]
level = "warn"
`

// startDaemon runs the daemon and waits until it is ready.
func (w *world) startDaemon(ctx context.Context, source *daemon.Source) error {
	ready := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // it stops in its turn
	w.finished = make(chan error, 1)
	log := daemon.NewLogger(w.Log, w.cfg.Log)
	go func() {
		w.finished <- daemon.Run(ctx, daemon.Config{
			Config: w.cfg, Version: w.Version, Source: source, Logger: log, Notify: notice(ready, log),
		})
	}()
	w.later(func() error {
		stop()
		return <-w.finished
	})
	select {
	case <-ready:
		return nil
	case err := <-w.finished:
		w.finished <- nil
		return fmt.Errorf("start the daemon: %w", err)
	}
}

// notice waits for the word that systemd would wait for.
func notice(ready chan<- struct{}, log *slog.Logger) func(string) {
	return func(state string) {
		log.Debug("notify", "state", state)
		if strings.HasPrefix(state, "READY=1") {
			select {
			case ready <- struct{}{}:
			default:
			}
		}
	}
}
