package cli

import (
	"fmt"
	"io"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// longestList is how many users the daemon lists at most.
const longestList = 1000

func (p *program) usersList() *cli.Command {
	return p.command(command{
		name: "list", usage: "list the users in a state, of all apps or one",
		text: "The one state to list is indeterminate: it cannot be known whether the last exchange of these users\n" +
			"took effect. Let them finish the popup again, which repairs it. At most 1000 are listed.",
		example: "tokenvault users list --state indeterminate --app shop",
		flags: append(appFlags(), socketFlag(),
			&cli.StringFlag{Name: "state", Usage: "users in this `STATE`: indeterminate"}),
		prints: true,
		run: func(c *cli.Context) error {
			if c.String("state") != string(user.Indeterminate) {
				return usagef("list needs --state %s", user.Indeterminate)
			}
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				app, err := appOf(c, cl)
				if err != nil {
					return err
				}
				list, err := cl.AdminUser(c.Context, client.UserQuery{ClientID: app, State: user.Indeterminate})
				if err != nil {
					return fmt.Errorf("list the users: %w", err)
				}
				if len(list) >= longestList {
					fmt.Fprintf(p.Stderr, "note: these are the first %d, there may be more\n", len(list))
				}
				return p.answer(c, api.Users{Users: list}, func(w io.Writer) { printUserTable(w, list, nil) })
			})
		},
	})
}

// printUserTable prints a line for each user; note says something about one, or is
// nil.
func printUserTable(w io.Writer, list []api.User, note func(api.User) string) {
	rows := [][]string{{"HUMAN ID", "CLIENT USER ID", "CLIENT ID", "STATE", "CREATED", "UPDATED", ""}}
	for _, u := range list {
		row := []string{u.HumanID, u.ClientUserID, u.ClientID, u.State, moment(&u.CreatedAt), moment(&u.UpdatedAt), ""}
		if note != nil {
			row[len(row)-1] = note(u)
		}
		rows = append(rows, row)
	}
	table(w, rows...)
}
