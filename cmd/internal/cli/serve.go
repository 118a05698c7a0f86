package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/cmd/internal/restart"
	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/urfave/cli/v2"
)

func (p *program) serve() *cli.Command {
	return p.command(command{
		name: "serve", usage: "run the daemon",
		text: "Sockets come from systemd when it passes any, else the daemon makes them. SIGTERM drains and\n" +
			"stops; SIGHUP reads the rules again.",
		example: "tokenvault serve --config /etc/tokenvault/tokenvault.toml",
		run: func(c *cli.Context) error {
			hardened := sandbox.Harden() // before anything secret is read
			for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
				_ = os.Unsetenv(name) // crypto/x509 would trust what they name: ca_file is the way to say so
			}
			cfg, err := p.load(c)
			if err != nil {
				return err
			}
			log := daemon.NewLogger(p.Stderr, cfg.Log)
			for _, note := range cfg.Notes() {
				log.Warn("a rule may do more or less than it seems to", "note", note)
			}
			inherited, err := inherit(log.Warn)
			if err != nil {
				return err
			}
			defer inherited.close()
			testing, err := testSwitch(p.Env)
			if err != nil {
				return err
			}
			confined, err := confine(cfg, inherited, log)
			if err != nil {
				return err
			}
			keep, drop := keeper(p.Env)
			watchdog, err := sd.SdWatchdogEnabled(false)
			if err != nil {
				return fmt.Errorf("read the watchdog's interval: %w", err)
			}
			// Until the end, not until SIGTERM: SIGHUP would kill what drains.
			running, end := context.WithCancel(context.WithoutCancel(c.Context))
			defer end()
			return daemon.Run(c.Context, daemon.Config{
				Config: cfg, Version: buildInfo().Version, Listeners: inherited.sockets, Watchdog: watchdog, Logger: log,
				Memory: inherited.memory, Keep: keep, Drop: drop, Now: testing.now, Step: testing.step, Peers: testing.peers,
				Confined: append(hardened, confined...),
				Notify: func(state string) {
					if _, err := sd.SdNotify(false, state); err != nil {
						log.Warn("systemd was not told", "error", err)
					}
				},
				Reload: p.hangups(running),
				Load:   func() (*config.Config, error) { return p.load(c) },
			})
		},
	})
}

// confine puts the process into its sandbox. From here on it has what its
// configuration needs, and nothing else.
func confine(cfg *config.Config, i inherited, log *slog.Logger) ([]sandbox.Part, error) {
	profile, err := daemon.Confinement(cfg, len(i.sockets) > 0)
	if err != nil {
		return nil, err
	}
	profile.Logger = log
	secret.Region() // takes system calls that it gives up below
	parts, err := sandbox.Enter(profile)
	if err != nil {
		return nil, advise(fmt.Errorf("enter the sandbox: %w", err), `sandbox.mode = "auto" does with what this machine has; tokenvault status shows what is missing`)
	}
	if missing := sandbox.Missing(parts); missing != "" && profile.Mode != sandbox.Off {
		log.Warn("the sandbox lacks a part", "missing", missing)
	}
	return parts, nil
}

func (p *program) hangups(ctx context.Context) <-chan struct{} {
	if p.Reload == nil {
		return nil
	}
	return p.Reload(ctx)
}

// inherited is what systemd passed.
type inherited struct {
	sockets map[string]net.Listener
	memory  *os.File // what an earlier life stored; nil: nothing
}

func (i inherited) close() {
	if i.memory != nil {
		_ = i.memory.Close()
	}
}

// keeper hands descriptors to systemd and takes them back, where that runs us.
func keeper(env func(string) string) (keep func(string, *os.File) error, drop func(string) error) {
	if env("NOTIFY_SOCKET") == "" {
		return nil, nil
	}
	return restart.Keep, restart.Drop
}

// inherit takes what systemd passed, by name. Its order is random. What is no
// socket of ours and no memory of an earlier life is closed:
// activation.ListenersWithNames would leave that to the garbage collector.
func inherit(warn func(msg string, args ...any)) (inherited, error) {
	out := inherited{sockets: map[string]net.Listener{}}
	for _, f := range activation.Files(true) {
		name := f.Name()
		if name == restart.Name && out.memory == nil {
			out.memory = f
			continue
		}
		l, err := net.FileListener(f)
		err = errors.Join(err, f.Close()) // FileListener has a copy of its own
		switch {
		case l == nil:
			warn("an inherited descriptor is no socket", "name", name)
		case err != nil:
			return out, fmt.Errorf("take the inherited socket %s: %w", name, err)
		case out.sockets[name] != nil:
			return out, fmt.Errorf("systemd passed two sockets with the name %s", name)
		default:
			out.sockets[name] = l // closing it leaves the file, which is systemd's
		}
	}
	return out, nil
}
