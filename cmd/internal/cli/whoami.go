package cli

import (
	"fmt"
	"io"
	"os/user"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

func (p *program) whoami() *cli.Command {
	return p.command(command{
		name: "whoami", usage: "ask the daemon who it sees, and what that caller may do",
		text:    "Nothing is sent: the kernel tells the daemon who calls.",
		example: "sudo -u www-data tokenvault whoami --socket /run/tokenvault/public/api.sock",
		flags:   []cli.Flag{socketFlag()}, prints: true,
		run: func(c *cli.Context) error {
			return p.asClient(c, func(cl *client.Client) error {
				who, err := cl.WhoAmI(c.Context)
				if err != nil {
					return fmt.Errorf("ask who we are: %w", err)
				}
				return p.answer(c, who, func(w io.Writer) { printWho(w, who) })
			})
		},
	})
}

func printWho(w io.Writer, who api.WhoAmI) {
	table(w,
		[]string{"user", fmt.Sprintf("%d %s", who.UID, who.User)},
		[]string{"groups", groupList(who)},
		[]string{"process", fmt.Sprint(who.PID)},
		[]string{"contained", yes(who.Contained)},
		[]string{"listener", who.Listener},
		[]string{"daemon", who.Version},
	)
	if len(who.Rights) == 0 {
		fmt.Fprintln(w, "no rule names this caller: it has no rights here")
		return
	}
	rows := [][]string{{"", ""}, {"RULE", "APPS", "GRANTS", "PATHS"}}
	for _, r := range who.Rights {
		rows = append(rows, []string{r.Rule, strings.Join(r.Apps, ","), grantList(r.Grants), strings.Join(r.Paths, ",")})
	}
	table(w, rows...)
}

// groupList is each group once, the primary one first, with its name where this
// machine knows it.
func groupList(who api.WhoAmI) string {
	var words []string
	seen := map[uint32]bool{}
	for _, gid := range append([]uint32{who.GID}, who.Groups...) {
		if seen[gid] {
			continue
		}
		seen[gid] = true
		word := fmt.Sprint(gid)
		if g, err := user.LookupGroupId(word); err == nil {
			word += " " + g.Name
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func grantList(grants []api.Grant) string {
	words := make([]string, len(grants))
	for i, g := range grants {
		words[i] = string(g)
	}
	return strings.Join(words, ",")
}
