package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/urfave/cli/v2"
)

func (p *program) policyDiff() *cli.Command {
	return p.command(command{
		name: "diff", usage: "say which answers a new configuration would change, by a day of the audit log",
		text: "Asks no daemon: the rules of the configuration and those of NEW, with the conf.d beside it, decide on\n" +
			"the requests that the audit log has. Rates are left out of account. Exit 5 when an answer changes or may.",
		args: "NEW", min: 1, max: 1,
		example: "tokenvault policy diff --since 168h /root/tokenvault.toml",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Value: "24h", Usage: "replay requests that are not older than this `TIME`"},
			&cli.StringFlag{Name: "log", Usage: "replay this audit log `FILE` (default: audit.path)"},
		},
		prints: true,
		run: func(c *cli.Context) error {
			old, err := p.load(c)
			if err != nil {
				return err
			}
			next, err := config.Load(config.LoadOptions{Path: c.Args().First(), Env: p.Env})
			if err != nil {
				return err
			}
			since, err := when(c, "since")
			if err != nil {
				return err
			}
			p.missesDropIns(c)
			d, err := replay(c.Context, old, next, audit.WalkConfig{Path: cmp.Or(c.String("log"), old.Audit.Path), Since: since})
			if err != nil {
				return diffFailed(err)
			}
			if err := p.answer(c, d, func(w io.Writer) { printDiff(w, d) }); err != nil {
				return err
			}
			if len(d.Changes)+len(d.Undecided) > 0 {
				return &found{err: errors.New("answers would change"), printed: true}
			}
			return nil
		},
	})
}

// diffFailed: the log is the daemon's own file.
func diffFailed(err error) error {
	err = fmt.Errorf("replay the audit log: %w", err)
	if errors.Is(err, fs.ErrPermission) {
		return advise(err, "be root, or the daemon's user, who may read the log")
	}
	return err
}

// missesDropIns says that NEW, lying elsewhere than the configuration in force, goes
// without that one's conf.d.
func (p *program) missesDropIns(c *cli.Context) {
	dropIns := func(file string) int {
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "conf.d", "*.toml"))
		return len(found)
	}
	old := cmp.Or(flag(c, "config"), p.Env("TOKENVAULT_CONFIG"), config.DefaultPath)
	next := c.Args().First()
	if n := dropIns(old); n > 0 && dropIns(next) == 0 {
		fmt.Fprintf(p.Stderr, "note: %s has no conf.d beside it, %s has one with %s: its apps and rules are missing here\n", printable(next), printable(old), count(n, "file"))
	}
}

func printDiff(w io.Writer, d policyDiffed) {
	fmt.Fprintf(w, "%s since %s replayed", count(d.Requests, "request"), moment(&d.Since))
	if d.Unjudged > 0 {
		fmt.Fprintf(w, ", %d of them undecided by either configuration (too many groups, proxied paths)", d.Unjudged)
	}
	fmt.Fprintln(w)
	printChanges(w, "change", d.Changes)
	printChanges(w, "may change: the log does not have all that was asked for", d.Undecided)
	printChanges(w, "stay as they are, by another rule with a rate of its own", d.Moved)
	if len(d.Changes)+len(d.Undecided) == 0 {
		fmt.Fprintln(w, "no answer changes")
	}
	if len(d.Counted) == 0 {
		return
	}
	fmt.Fprintln(w, "\nNot replayed, because the log only has counts of them; lines of the same caller stand for them:")
	rows := [][]string{{"REQUESTS", "LISTENER", "USER", "ANSWER"}}
	for _, c := range d.Counted {
		who := "many"
		if c.UID != nil {
			who = named([]string{fmt.Sprint(*c.UID)}, userName)[0]
		}
		rows = append(rows, []string{fmt.Sprint(c.Requests), cmp.Or(c.Listener, "several"), who, cmp.Or(c.Error, "any")})
	}
	table(w, rows...)
}

// printChanges prints a list, unless it is empty.
func printChanges(w io.Writer, what string, list []policyChange) {
	if len(list) == 0 {
		return
	}
	n := 0
	rows := [][]string{{"REQUESTS", "LISTENER", "USER", "GROUPS", "UNIT", "GRANT", "APP", "NOW", "THEN"}}
	for _, c := range list {
		n += c.Requests
		groups := []string{fmt.Sprint(c.GID)}
		for _, g := range c.Groups {
			groups = append(groups, fmt.Sprint(g))
		}
		unit := c.Unit
		if c.Contained {
			unit = strings.TrimSpace(unit + " (contained)")
		}
		rows = append(rows, []string{
			fmt.Sprint(c.Requests), c.Listener, named([]string{fmt.Sprint(c.UID)}, userName)[0], strings.Join(groups, ","), orNone(unit),
			cmp.Or(c.Grant, "any"), orNone(c.App), c.Now, c.Then,
		})
	}
	fmt.Fprintf(w, "\n%s %s:\n", count(n, "answer"), what)
	table(w, rows...)
}
