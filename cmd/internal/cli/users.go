package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

func (p *program) users() *cli.Command {
	return p.command(command{
		name: "users", usage: "look at the users whose tokens the daemon keeps",
		example: "tokenvault users show --client-user-id alice",
		subs:    []*cli.Command{p.usersShow()},
	})
}

func (p *program) usersShow() *cli.Command {
	return p.command(command{
		name: "show", usage: "show a user's public part",
		text: "Ids of users are personal data, and arguments can be seen by other users of the machine:\n" +
			"\"-\" reads the id from standard input.",
		args: "[HUMAN_ID]", max: 1,
		example: "tokenvault users show --client-user-id - < id.txt",
		flags: []cli.Flag{socketFlag(),
			&cli.StringFlag{Name: "client-id", Usage: "look in the app with the client id `ID`; may be left out when there is one app"},
			&cli.StringFlag{Name: "client-user-id", Usage: "the app's own `ID` of the user, instead of HUMAN_ID"}},
		prints: true,
		run: func(c *cli.Context) error {
			q, err := p.userQuery(c)
			if err != nil {
				return err
			}
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				list, err := cl.AdminUser(c.Context, q)
				if err != nil {
					return fmt.Errorf("look the user up: %w", err)
				}
				if len(list) == 0 {
					return fmt.Errorf("look the user up: there is no such user")
				}
				return p.answer(c, api.Users{Users: list}, func(w io.Writer) { printUsers(w, list) })
			})
		},
	})
}

func (p *program) userQuery(c *cli.Context) (client.UserQuery, error) {
	human, own := c.Args().First(), c.String("client-user-id")
	if (human == "") == (own == "") {
		return client.UserQuery{}, usagef("show needs either HUMAN_ID or --client-user-id ID")
	}
	for _, id := range []*string{&human, &own} {
		if *id != "-" {
			continue
		}
		line, err := readAll(p.Stdin)
		if err != nil {
			return client.UserQuery{}, err
		}
		if *id = strings.TrimSuffix(string(line), "\n"); *id == "" {
			return client.UserQuery{}, usagef("standard input is empty: it wants the id")
		}
	}
	return client.UserQuery{
		ClientID: user.ClientID(c.String("client-id")),
		HumanID:  user.HumanID(human), ClientUserID: user.ClientUserID(own),
	}, nil
}

func printUsers(w io.Writer, list []api.User) {
	for _, u := range list {
		table(w,
			[]string{"humanId", u.HumanID}, []string{"clientUserId", u.ClientUserID}, []string{"clientId", u.ClientID},
			[]string{"publicToken", u.PublicToken}, []string{"state", u.State},
			[]string{"created", moment(&u.CreatedAt)}, []string{"updated", moment(&u.UpdatedAt)},
		)
	}
}
