package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// errNothingToAccept is for a daemon that serves its store already.
var errNothingToAccept = errors.New("accept the store: nothing is to be accepted, the daemon has found no rollback")

func (p *program) storeAccept() *cli.Command {
	return p.command(command{
		name: "accept", usage: "take a store that is older than what Vault remembers as it is",
		text: "Shows what Vault remembers and what is here, and asks. What was stored since is lost, users who came\n" +
			"or changed since have to connect again, and intents of before are not sent. If nobody has restored this\n" +
			"store on purpose, find out who did before you accept it.",
		example: "tokenvault store accept",
		flags:   []cli.Flag{socketFlag(), yesFlag()}, prints: true,
		run: func(c *cli.Context) error {
			return p.asAdmin(c, changeTimeout, func(cl *client.Client) error {
				s, err := cl.AdminStatus(c.Context)
				switch {
				case err != nil:
					return fmt.Errorf("ask for the status: %w", err)
				case s.Rollback == nil:
					return errNothingToAccept
				}
				printRollback(p.Stderr, *s.Rollback)
				if err := p.confirm(c, "accept this store, and give up what Vault remembers?"); err != nil {
					return err
				}
				v, err := cl.AdminAccept(c.Context, s.Rollback.Seen)
				if err != nil {
					return fmt.Errorf("accept the store: %w", err)
				}
				return p.verdictOf(c, v, "accepted", "accept the store")
			})
		},
	})
}

// printRollback shows both sides beside one another, what differs marked.
func printRollback(w io.Writer, r api.Rollback) {
	fmt.Fprintln(w, "ROLLED BACK: the store is not what Vault remembers, and is not served")
	for _, reason := range r.Reasons {
		fmt.Fprintf(w, "  %s\n", printable(reason))
	}
	names := map[string]bool{}
	for _, side := range []map[string]string{r.Anchor, r.Store} {
		for name := range side {
			names[name] = true
		}
	}
	rows := [][]string{{"", "", "VAULT REMEMBERS", "HERE"}}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		then, now := r.Anchor[name], r.Store[name]
		mark := ""
		if then != "" && now != "" && then != now {
			mark = "differs"
		}
		rows = append(rows, []string{mark, name, orNone(then), orNone(now)})
	}
	table(w, rows...)
}
