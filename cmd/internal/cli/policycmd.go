package cli

import (
	"cmp"
	"fmt"
	"io"
	osuser "os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

func (p *program) policy() *cli.Command {
	return p.command(command{
		name: "policy", usage: "say who may do what, and why",
		example: "tokenvault policy who-can access-token",
		subs:    []*cli.Command{p.policyExplain(), p.policyWhoCan(), p.policySuggest(), p.policyDiff()},
	})
}

func (p *program) policyExplain() *cli.Command {
	return p.command(command{
		name: "explain", usage: "say which rule decides on a request, or which condition each rule fails",
		text: "Asks the daemon: the rules in force decide, by what decides on requests. Without --group the caller\n" +
			"has the groups that this machine gives the user. Exit 3 when the request would be denied.",
		example: "tokenvault policy explain --user www-data --unit shop.service --listener public --app shop --grant exchange",
		flags: []cli.Flag{socketFlag(),
			&cli.StringFlag{Name: "user", Usage: "the caller's `USER`, a name or a number; required"},
			&cli.StringSliceFlag{Name: "group", Usage: "a `GROUP` of the caller, a name or a number; the first is the primary one"},
			&cli.StringFlag{Name: "unit", Usage: "the system `UNIT` that the caller is in, such as shop.service"},
			&cli.BoolFlag{Name: "contained", Usage: "the caller is in a container"},
			&cli.BoolFlag{Name: "unproven", Usage: "the unit was read without proof, as it is before Linux 6.5"},
			&cli.StringFlag{Name: "listener", Usage: "the `NAME` of the listener that the caller connects to; required"},
			&cli.StringFlag{Name: "app", Usage: "the `NAME` of the app; not needed for grants of the admin socket"},
			&cli.StringFlag{Name: "grant", Usage: "the `GRANT` that is asked for, such as access-token; required"},
			&cli.StringFlag{Name: "path", Usage: "the `PATH` at the data API, for the grant proxy"},
		},
		prints: true,
		run: func(c *cli.Context) error {
			q, err := explainQuery(c)
			if err != nil {
				return err
			}
			var e api.Explanation
			err = p.asAdmin(c, 0, func(cl *client.Client) (err error) {
				e, err = cl.AdminExplain(c.Context, q)
				return err
			})
			if err != nil {
				return fmt.Errorf("explain the policy: %w", err)
			}
			if err := p.answer(c, e, func(w io.Writer) { printExplanation(w, e) }); err != nil {
				return err
			}
			if !e.Allowed {
				return &deniedByPolicy{}
			}
			return nil
		},
	})
}

// deniedByPolicy ends a command whose answer says "denied" already.
type deniedByPolicy struct{}

func (*deniedByPolicy) Error() string { return "the request would be denied" }

func explainQuery(c *cli.Context) (client.ExplainQuery, error) {
	q := client.ExplainQuery{
		Unit: c.String("unit"), Contained: c.Bool("contained"), Unproven: c.Bool("unproven"), Listener: c.String("listener"),
		App: c.String("app"), Grant: api.Grant(c.String("grant")), Path: c.String("path"),
	}
	for _, name := range []string{"user", "listener", "grant"} {
		if c.String(name) == "" {
			return q, usagef("explain needs --%s", name)
		}
	}
	if !slices.Contains(api.Grants, q.Grant) {
		return q, badGrant(string(q.Grant))
	}
	if q.App == "" && !q.Grant.IsAdmin() {
		return q, usagef("explain needs --app for the grant %s", q.Grant)
	}
	ids, err := idsOf(c.String("user"), c.StringSlice("group"))
	if err != nil {
		return q, err
	}
	q.UID, q.GID, q.Groups = ids.uid, ids.gid, ids.groups
	return q, nil
}

func badGrant(name string) error {
	all := make([]string, len(api.Grants))
	for i, g := range api.Grants {
		all[i] = string(g)
	}
	err := usagef("%q is not a grant", name)
	err.hints = []string{"there are " + strings.Join(all, ", ")}
	return err
}

// ids are a user as the kernel would show it.
type ids struct {
	uid, gid uint32
	groups   []uint32
}

// idsOf looks a user up on this machine. A number without an account has the gid
// of the same number, unless groups are given.
func idsOf(name string, groups []string) (ids, error) {
	var out ids
	account, err := osuser.Lookup(name)
	if n, bad := strconv.ParseUint(name, 10, 32); bad == nil {
		if account, err = osuser.LookupId(name); err != nil {
			account, err = &osuser.User{Uid: name, Gid: name}, nil
			out.groups = []uint32{}
		}
		out.uid = uint32(n)
	}
	if err != nil {
		return out, usagef("there is no user %q on this machine", name)
	}
	out.uid, out.gid = number(account.Uid), number(account.Gid)
	if len(groups) > 0 {
		return out.with(groups)
	}
	if list, err := account.GroupIds(); err == nil && account.Username != "" {
		for _, g := range list {
			if n := number(g); n != out.gid {
				out.groups = append(out.groups, n)
			}
		}
	}
	return out, nil
}

func number(id string) uint32 {
	n, _ := strconv.ParseUint(id, 10, 32) // os/user has read it as a number
	return uint32(n)
}

func (i ids) with(groups []string) (ids, error) {
	i.groups = nil
	for n, name := range groups {
		id, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			g, err := osuser.LookupGroup(name)
			if err != nil {
				return i, usagef("there is no group %q on this machine", name)
			}
			id = uint64(number(g.Gid))
		}
		if n == 0 {
			i.gid = uint32(id)
			continue
		}
		i.groups = append(i.groups, uint32(id))
	}
	return i, nil
}

func printExplanation(w io.Writer, e api.Explanation) {
	word := "DENIED"
	if e.Allowed {
		word = "allowed"
	}
	fmt.Fprintf(w, "%s: %s\n", word, printable(e.Reason))
	rows := [][]string{{"RULE", "VERDICT"}}
	for _, r := range e.Rules {
		verdict := "fails: " + strings.Join(r.Failed, ", ")
		switch {
		case r.Rule == e.Rule && e.Allowed:
			verdict = "decides"
		case len(r.Failed) == 0:
			verdict = "matches"
		}
		rows = append(rows, []string{r.Rule, verdict})
	}
	if len(e.Rules) > 0 {
		table(w, rows...)
	}
	if e.Suggestion != "" {
		fmt.Fprintf(w, "\nThe narrowest rule that would allow it, to review and paste:\n\n%s", e.Suggestion)
	}
}

func (p *program) policyWhoCan() *cli.Command {
	return p.command(command{
		name: "who-can", usage: "list who may do something, and where",
		text: "Asks the daemon: the rules in force, and what the sockets' ceilings leave of them.",
		args: "GRANT", min: 1, max: 1,
		example: "tokenvault policy who-can access-token",
		flags:   []cli.Flag{socketFlag()},
		prints:  true,
		run: func(c *cli.Context) error {
			g := api.Grant(c.Args().First())
			if !slices.Contains(api.Grants, g) {
				return badGrant(string(g))
			}
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				who, err := cl.AdminWhoCan(c.Context, g)
				if err != nil {
					return fmt.Errorf("ask who can: %w", err)
				}
				return p.answer(c, who, func(w io.Writer) { printWhoCan(w, who) })
			})
		},
	})
}

func printWhoCan(w io.Writer, who api.WhoCan) {
	if len(who.Holders) == 0 {
		fmt.Fprintf(w, "nobody has %s\n", who.Grant)
		return
	}
	rows := [][]string{{"RULE", "USERS", "GROUPS", "UNITS", "CONTAINER", "APPS", "LISTENERS", "PATHS"}}
	for _, h := range who.Holders {
		units := orAny(h.Units)
		if h.Proven && len(h.Units) > 0 {
			units += " (proven)"
		}
		container := "no"
		if h.Contained {
			container = "also"
		}
		rows = append(rows, []string{
			h.Rule, orAny(named(h.Users, userName)), orAny(named(h.Groups, groupName)), units, container,
			orAny(h.Apps), strings.Join(h.Listeners, ", "), strings.Join(h.Paths, ", "),
		})
	}
	table(w, rows...)
	fmt.Fprintln(w, "\nA caller must fulfil all columns of a line; any item of a list will do.")
}

// orAny prints a condition that may be absent.
func orAny(list []string) string { return cmp.Or(strings.Join(list, ", "), "any") }

func named(list []string, name func(string) string) []string {
	out := make([]string, len(list))
	for i, id := range list {
		out[i] = id
		if n := name(id); n != "" {
			out[i] = n + " (" + id + ")"
		}
	}
	return out
}

func userName(id string) string {
	u, err := osuser.LookupId(id)
	if err != nil {
		return ""
	}
	return u.Username
}

func groupName(id string) string {
	g, err := osuser.LookupGroupId(id)
	if err != nil {
		return ""
	}
	return g.Name
}
