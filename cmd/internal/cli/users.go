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
		name: "users", usage: "look at the users whose tokens the daemon keeps, and decide between them",
		example: "tokenvault users show --client-user-id alice",
		subs:    []*cli.Command{p.usersList(), p.usersShow(), p.usersPrefer()},
	})
}

func (p *program) usersShow() *cli.Command {
	return p.command(command{
		name: "show", usage: "show a user's public part",
		text: "Ids of users are personal data, and arguments can be seen by other users of the machine:\n" +
			"\"-\" reads the id from standard input.",
		args: "[HUMAN_ID]", max: 1,
		example: "tokenvault users show --client-user-id - < id.txt",
		flags: append(appFlags(), socketFlag(),
			&cli.StringFlag{Name: "client-user-id", Usage: "the app's own `ID` of the user, instead of HUMAN_ID"}),
		prints: true,
		run: func(c *cli.Context) error {
			q, err := p.userQuery(c)
			if err != nil {
				return err
			}
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				if q.ClientID, err = appOf(c, cl); err != nil {
					return err
				}
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
		if err := p.pipedID(id); err != nil {
			return client.UserQuery{}, err
		}
	}
	return client.UserQuery{HumanID: user.HumanID(human), ClientUserID: user.ClientUserID(own)}, nil
}

// appFlags name an app, where there is more than one.
func appFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "app", Usage: "in the app with this `NAME`; may be left out when there is one app"},
		&cli.StringFlag{Name: "client-id", Usage: "in the app with the client id `ID`, instead of --app"},
	}
}

// appOf is the app that the command line names; "" when it names none. The daemon
// knows the names.
func appOf(c *cli.Context, cl *client.Client) (user.ClientID, error) {
	name, id := c.String("app"), c.String("client-id")
	switch {
	case name != "" && id != "":
		return "", usagef("--app and --client-id name an app each: give one")
	case name == "":
		return user.ClientID(id), nil
	}
	s, err := cl.AdminStatus(c.Context)
	if err != nil {
		return "", fmt.Errorf("ask for the apps: %w", err)
	}
	for _, app := range s.Secrets {
		if app.App == name {
			return user.ClientID(app.ClientID), nil
		}
	}
	return "", usagef("the daemon has no app %q that you administer", name)
}

// pipedID reads an id that is given as "-".
func (p *program) pipedID(id *string) error {
	if *id != "-" {
		return nil
	}
	line, err := readAll(p.Stdin)
	if err != nil {
		return err
	}
	if *id = strings.TrimSuffix(string(line), "\n"); *id == "" {
		return usagef("standard input is empty: it wants the id")
	}
	return nil
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
