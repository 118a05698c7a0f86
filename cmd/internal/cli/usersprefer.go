package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

func (p *program) usersPrefer() *cli.Command {
	return p.command(command{
		name: "prefer", usage: "decide which of the users under one clientUserId it names",
		text: "Two humanIds under one clientUserId are two people, or one who connected anew: only the app can tell.\n" +
			"Until it is decided, lookups by that clientUserId are refused. The others stay, under their humanIds,\n" +
			"and it can be decided again. Shows them all and asks; of the two ids one may be \"-\", which is read\n" +
			"from standard input and needs --yes.",
		args: "HUMAN_ID", min: 1, max: 1,
		example: "tokenvault users prefer --client-user-id alice 5c9d2f",
		flags: append(appFlags(), socketFlag(), yesFlag(),
			&cli.StringFlag{Name: "client-user-id", Usage: "the app's own `ID` that has many users"}),
		prints: true,
		run: func(c *cli.Context) error {
			own, human, err := p.preference(c)
			if err != nil {
				return err
			}
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				u, err := p.prefer(c, cl, own, human)
				if err != nil {
					return err
				}
				list := []api.User{u}
				return p.answer(c, api.Users{Users: list}, func(w io.Writer) { printUsers(w, list) })
			})
		},
	})
}

func (p *program) preference(c *cli.Context) (user.ClientUserID, user.HumanID, error) {
	human, own := c.Args().First(), c.String("client-user-id")
	switch {
	case own == "" || human == "":
		return "", "", usagef("prefer needs --client-user-id ID and HUMAN_ID")
	case own == "-" && human == "-":
		return "", "", usagef("only one of the two ids can come from standard input")
	case (own == "-" || human == "-") && !c.Bool("yes"):
		return "", "", usagef("standard input has an id and cannot answer: give --yes as well")
	}
	for _, id := range []*string{&human, &own} {
		if err := p.pipedID(id); err != nil {
			return "", "", err
		}
	}
	return user.ClientUserID(own), user.HumanID(human), nil
}

// prefer shows who there is, asks, and decides.
func (p *program) prefer(c *cli.Context, cl *client.Client, own user.ClientUserID, human user.HumanID) (api.User, error) {
	app, err := appOf(c, cl)
	if err != nil {
		return api.User{}, err
	}
	all, err := cl.AdminCandidates(c.Context, app, own)
	if err != nil {
		return api.User{}, fmt.Errorf("look for the users: %w", err)
	}
	if !slices.ContainsFunc(all.Users, func(u api.User) bool { return u.HumanID == string(human) }) {
		return api.User{}, errors.New("prefer the user: no user with this humanId is stored under that clientUserId")
	}
	printUserTable(p.Stderr, all.Users, func(u api.User) string {
		switch u.HumanID {
		case string(human):
			return "to be preferred"
		case all.Preferred:
			return "preferred now"
		}
		return ""
	})
	if err := p.confirm(c, "let the clientUserId name the one to be preferred?"); err != nil {
		return api.User{}, err
	}
	u, err := cl.AdminPrefer(c.Context, app, own, human)
	if err != nil {
		return u, fmt.Errorf("prefer the user: %w", err)
	}
	return u, nil
}
