package cli

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/urfave/cli/v2"
)

func (p *program) serve() *cli.Command {
	return p.command(command{
		name: "serve", usage: "run the daemon",
		text: "Sockets come from systemd when it passes any, else the daemon makes them. SIGTERM drains and\n" +
			"stops; SIGHUP reads the rules again.",
		example: "tokenvault serve --config /etc/tokenvault/tokenvault.toml",
		run: func(c *cli.Context) error {
			cfg, err := p.load(c)
			if err != nil {
				return err
			}
			log := daemon.NewLogger(p.Stderr, cfg.Log)
			for _, note := range cfg.Notes() {
				log.Warn("a rule has no effect in part", "note", note)
			}
			inherited, err := inherit(log.Warn)
			if err != nil {
				return err
			}
			watchdog, err := sd.SdWatchdogEnabled(false)
			if err != nil {
				return fmt.Errorf("read the watchdog's interval: %w", err)
			}
			// Until the end, not until SIGTERM: SIGHUP would kill what drains.
			running, end := context.WithCancel(context.WithoutCancel(c.Context))
			defer end()
			return daemon.Run(c.Context, daemon.Config{
				Config: cfg, Version: buildInfo().Version, Listeners: inherited, Watchdog: watchdog, Logger: log,
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

func (p *program) hangups(ctx context.Context) <-chan struct{} {
	if p.Reload == nil {
		return nil
	}
	return p.Reload(ctx)
}

// inherit takes the sockets that systemd passed, by name. Their order is random.
// What is no socket (something stored in an earlier life) is closed:
// activation.ListenersWithNames would leave that to the garbage collector.
func inherit(warn func(msg string, args ...any)) (map[string]net.Listener, error) {
	out := map[string]net.Listener{}
	for _, f := range activation.Files(true) {
		name := f.Name()
		l, err := net.FileListener(f)
		err = errors.Join(err, f.Close()) // FileListener has a copy of its own
		switch {
		case l == nil:
			warn("an inherited descriptor is no socket", "name", name)
		case err != nil:
			return nil, fmt.Errorf("take the inherited socket %s: %w", name, err)
		case out[name] != nil:
			return nil, fmt.Errorf("systemd passed two sockets with the name %s", name)
		default:
			out[name] = l // closing it leaves the file, which is systemd's
		}
	}
	return out, nil
}
