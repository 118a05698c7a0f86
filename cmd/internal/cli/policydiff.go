package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/urfave/cli/v2"
)

// policyDiffed is the JSON answer of policy diff.
type policyDiffed struct {
	Since    time.Time `json:"since"`
	Requests int       `json:"requests"` // replayed
	// Uncounted could not be replayed: repeated refusals stand in the log as counts,
	// callers with more groups than a line has room for cannot be judged, and
	// paths at the data API are not recorded.
	Uncounted int            `json:"uncounted"`
	Changes   []policyChange `json:"changes"` // empty, never null
}

// policyChange is about requests that are alike.
type policyChange struct {
	Requests  int      `json:"requests"`
	Listener  string   `json:"listener"`
	UID       uint32   `json:"uid"`
	GID       uint32   `json:"gid"`
	Groups    []uint32 `json:"groups,omitempty"`
	Unit      string   `json:"unit,omitempty"`
	Contained bool     `json:"contained"`
	Unproven  bool     `json:"unproven,omitempty"`
	Grant     string   `json:"grant"` // "": any; no rule knows the caller
	App       string   `json:"app,omitempty"`
	Now       string   `json:"now"`  // "denied", or "allowed by RULE"
	Then      string   `json:"then"` // with the new rules
}

func (p *program) policyDiff() *cli.Command {
	return p.command(command{
		name: "diff", usage: "say which answers a new configuration would change, by a day of the audit log",
		text: "Asks no daemon: the rules of the configuration and those of NEW, with the conf.d beside it, decide on\n" +
			"the requests that the audit log has. Rates are left out of account. Exit 5 when an answer changes.",
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
			d, err := replay(c.Context, old, next, audit.WalkConfig{Path: cmp.Or(c.String("log"), old.Audit.Path), Since: since})
			if err != nil {
				return fmt.Errorf("replay the audit log: %w", err)
			}
			if err := p.answer(c, d, func(w io.Writer) { printDiff(w, d) }); err != nil {
				return err
			}
			if len(d.Changes) > 0 {
				return &found{err: errors.New("answers would change"), printed: true}
			}
			return nil
		},
	})
}

// replay puts the requests of a log before two policies.
func replay(ctx context.Context, old, next *config.Config, log audit.WalkConfig) (policyDiffed, error) {
	d := policyDiffed{Since: log.Since, Changes: []policyChange{}}
	a, err := newJudge(old)
	if err != nil {
		return d, err
	}
	b, err := newJudge(next)
	if err != nil {
		return d, err
	}
	changes := map[string]*policyChange{}
	err = audit.Walk(ctx, log, func(l audit.Line) error {
		r, ok := replayable(l.Event)
		if !ok {
			d.Uncounted += uncounted(l.Event)
			return nil
		}
		d.Requests++
		if r.Now, r.Then = a.decide(r), b.decide(r); r.Now == r.Then {
			return nil
		}
		key := fmt.Sprint(r)
		if changes[key] == nil {
			changes[key] = &r
		}
		changes[key].Requests++
		return nil
	})
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		d.Changes = append(d.Changes, *changes[key])
	}
	slices.SortStableFunc(d.Changes, func(x, y policyChange) int { return y.Requests - x.Requests })
	return d, err
}

// replayable is a request as the rules see it. What everybody may ask has no grant.
func replayable(e audit.Event) (policyChange, bool) {
	if e.Kind != audit.Outcome || e.UID == nil || e.GID == nil || e.GroupsCut ||
		e.Grant == "" && e.Error != string(api.UnknownCaller) || e.Grant == string(api.GrantProxy) {
		return policyChange{}, false
	}
	return policyChange{
		Listener: e.Listener, UID: *e.UID, GID: *e.GID, Groups: e.Groups, Unit: e.Unit, Contained: e.Contained,
		Unproven: e.Unproven, Grant: e.Grant, App: e.App,
	}, true
}

// uncounted is how many requests a line stands for that cannot be replayed.
func uncounted(e audit.Event) int {
	switch {
	case e.Kind == audit.Note && e.Status != 0:
		return e.Count
	case e.Kind == audit.Outcome && (e.GroupsCut || e.Grant == string(api.GrantProxy)):
		return 1
	}
	return 0
}

// judge is one of two policies, with its names of apps.
type judge struct {
	policy *policy.Policy
	apps   map[string]user.ClientID
}

func newJudge(c *config.Config) (judge, error) {
	// A clock that runs far ahead at each look keeps every bucket full.
	now := time.Now()
	p, err := c.Policy(func() time.Time { now = now.Add(24 * time.Hour); return now })
	if err != nil {
		return judge{}, fmt.Errorf("compile the rules: %w", err)
	}
	j := judge{policy: p, apps: map[string]user.ClientID{}}
	for _, a := range c.PolicyApps() {
		j.apps[a.Name] = a.ClientID
	}
	return j, nil
}

const deniedWord = "denied"

// decide is what the server would do, in words.
func (j judge) decide(r policyChange) string {
	v := j.policy.View(peer.Caller{
		UID: r.UID, GID: r.GID, Groups: r.Groups, Unit: r.Unit, Contained: r.Contained, Proven: !r.Unproven,
	}, r.Listener)
	switch {
	case !v.Known():
		return deniedWord
	case r.Grant == "":
		return "known to a rule"
	}
	app, exists := j.apps[r.App]
	if r.App != "" && !exists {
		return deniedWord
	}
	grant := api.Grant(r.Grant)
	if r.App == "" && !grant.IsAdmin() { // it named none, or one that does not exist
		only, n := v.Only(grant)
		if n != 1 {
			return deniedWord
		}
		app = only.ClientID
	}
	d := v.Decide(app, grant, "")
	if !d.Allowed {
		return deniedWord
	}
	return "allowed by " + d.Rule
}

func printDiff(w io.Writer, d policyDiffed) {
	fmt.Fprintf(w, "%s since %s replayed", count(d.Requests, "request"), moment(&d.Since))
	if d.Uncounted > 0 {
		fmt.Fprintf(w, "; %s more could not be (repeated refusals, too many groups, proxied paths)", count(d.Uncounted, "request"))
	}
	fmt.Fprintln(w)
	if len(d.Changes) == 0 {
		fmt.Fprintln(w, "no answer changes")
		return
	}
	rows := [][]string{{"REQUESTS", "LISTENER", "USER", "GROUPS", "UNIT", "GRANT", "APP", "NOW", "THEN"}}
	for _, c := range d.Changes {
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
	table(w, rows...)
}
