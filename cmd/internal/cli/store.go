package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// checkTimeout bounds a walk over the whole store: ten million users take
// minutes.
const checkTimeout = 2 * time.Hour

func (p *program) store() *cli.Command {
	return p.command(command{
		name: "store", usage: "check the store",
		example: "tokenvault store check",
		subs:    []*cli.Command{p.storeCheck()},
	})
}

func (p *program) storeCheck() *cli.Command {
	return p.command(command{
		name: "check", usage: "open every row of the store and hold the tables against one another; exit 5 when something is wrong",
		text: "Asks the daemon when one holds the store. Else it reads the file itself, with the daemon's own\n" +
			"login at Vault: run it as the daemon's user.",
		example: "tokenvault store check", flags: []cli.Flag{socketFlag()}, prints: true,
		run: func(c *cli.Context) error {
			check, err := p.checkStore(c)
			if err != nil {
				return fmt.Errorf("check the store: %w", err)
			}
			if err := p.answer(c, check, func(w io.Writer) { printStoreCheck(w, check) }); err != nil {
				return err
			}
			if !check.OK {
				return &found{err: errors.New("the store has problems"), printed: true}
			}
			return nil
		},
	})
}

func (p *program) checkStore(c *cli.Context) (check api.StoreCheck, err error) {
	err = p.asAdmin(c, checkTimeout, func(cl *client.Client) (err error) {
		check, err = cl.AdminStoreCheck(c.Context)
		return err
	})
	if !errors.Is(err, client.ErrUnavailable) || flag(c, "socket") != "" {
		return check, err
	}
	cfg, err := p.load(c)
	if err != nil {
		return check, err
	}
	log := daemon.NewLogger(p.Stderr, cfg.Log)
	log.Info("no daemon answers: reading the store itself", "path", cfg.Store.Path)
	return daemon.CheckOffline(c.Context, daemon.Config{Config: cfg, Logger: log})
}

func printStoreCheck(w io.Writer, check api.StoreCheck) {
	tables := make([]string, 0, len(check.Counts))
	for name := range check.Counts {
		tables = append(tables, name)
	}
	slices.Sort(tables)
	for _, name := range tables {
		table(w, []string{name, fmt.Sprint(check.Counts[name])})
	}
	for _, problem := range check.Problems {
		fmt.Fprintf(w, "PROBLEM %s\n", printable(problem))
	}
	switch {
	case check.Omitted > 0:
		fmt.Fprintf(w, "and %d more problems\n", check.Omitted)
	case check.OK:
		fmt.Fprintln(w, "ok")
	}
}
