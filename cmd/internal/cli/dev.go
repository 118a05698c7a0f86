package cli

import (
	"context"

	"github.com/tokenvault/tokenvault/cmd/internal/dev"
	"github.com/urfave/cli/v2"
)

func (p *program) dev() *cli.Command {
	return p.command(command{
		name: "dev", usage: "try it out: everything on this machine, in a directory that goes away",
		text: "Starts a simulator of Human API, a Vault dev server when a vault binary is on the PATH (else a\n" +
			"stand-in inside the process), and the daemon; performs one exchange and shows what each side saw.\n" +
			"Takes no configuration and no address: it can never be pointed at anything real.",
		example: "tokenvault dev --once",
		flags:   []cli.Flag{&cli.BoolFlag{Name: "once", Usage: "exit after the first exchange"}},
		run: func(c *cli.Context) error {
			if flag(c, "config") != "" {
				return usagef("dev takes no configuration")
			}
			ctx, end := p.untilHangup(c.Context)
			defer end()
			return dev.Run(ctx, dev.Config{Once: c.Bool("once"), Out: p.Stdout, Log: p.Stderr, Version: buildInfo().Version})
		},
	})
}

// untilHangup is ctx until the terminal is closed, too: SIGHUP would kill the
// process and leave behind what it made. Until end is called, further ones do
// nothing.
func (p *program) untilHangup(ctx context.Context) (stopped context.Context, end func()) {
	stopped, stop := context.WithCancel(ctx)
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	hangups := p.hangups(running)
	go func() {
		defer stop()
		select {
		case <-hangups: // nil: never
		case <-running.Done():
		}
	}()
	return stopped, end
}
