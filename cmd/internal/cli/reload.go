package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// changeTimeout bounds a change that the daemon makes to itself.
const changeTimeout = 5 * time.Minute

func (p *program) reload() *cli.Command {
	return p.command(command{
		name: "reload", usage: "make the daemon read its configuration again, whole or not at all",
		text: "Returns when the new rules are in force. What is wrong in the files, and what needs a restart, is\n" +
			"refused by name, and everything stays as it was: exit 1. systemctl reload does the same and cannot say.",
		example: "tokenvault config check && tokenvault reload",
		flags:   []cli.Flag{socketFlag()}, prints: true,
		run: func(c *cli.Context) error {
			return p.asAdmin(c, changeTimeout, func(cl *client.Client) error {
				v, err := cl.AdminReload(c.Context)
				if err != nil {
					return fmt.Errorf("reload the configuration: %w", err)
				}
				return p.verdictOf(c, v, "reloaded", "reload the configuration")
			})
		},
	})
}

// verdictOf prints what became of a change: a refusal is a failure.
func (p *program) verdictOf(c *cli.Context, v api.Verdict, done, attempted string) error {
	if v.OK || c.Bool("json") {
		if err := p.answer(c, v, func(w io.Writer) { fmt.Fprintln(w, done) }); err != nil || v.OK {
			return err
		}
	}
	lines := make([]string, len(v.Refused))
	for i, r := range v.Refused {
		lines[i] = printable(r)
	}
	return errors.New(attempted + ": refused, and nothing was changed:\n  " + strings.Join(lines, "\n  "))
}
