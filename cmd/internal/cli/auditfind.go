package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// findTimeout is for a log of many segments.
const findTimeout = 10 * time.Minute

func (p *program) auditFind() *cli.Command {
	return p.command(command{
		name: "find", usage: "find the lines of the audit log about a user or a request",
		text: "Ids of users do not stand in the log: the daemon looks up under which name it has them there. Lines\n" +
			"are shown as they are; audit verify proves them. Denials that were repeated stand in it as counts.",
		example: "tokenvault audit find --app shop --client-user-id 4711 --since 24h",
		flags: append(appFlags(), socketFlag(),
			&cli.StringFlag{Name: "client-user-id", Usage: "lines about the user with this `ID` of the app's own"},
			&cli.StringFlag{Name: "human-id", Usage: "lines about the user with this `HUMANID`"},
			&cli.StringFlag{Name: "request", Usage: "lines of the request with this `REQUESTID`"},
			&cli.StringFlag{Name: "since", Usage: "not older than this `TIME`, as 24h or 2026-01-31T15:04:05Z"},
			&cli.StringFlag{Name: "until", Usage: "not younger than this `TIME`"},
			&cli.StringFlag{Name: "limit", Usage: "at most `N` lines, the last ones (default: 1000)"},
		),
		prints: true,
		run: func(c *cli.Context) error {
			q, err := auditQuery(c)
			if err != nil {
				return err
			}
			return p.asAdmin(c, findTimeout, func(cl *client.Client) error {
				if q.HumanID != "" || q.ClientUserID != "" {
					app, err := appOf(c, cl)
					if err != nil {
						return err
					}
					q.ClientID = string(app)
				}
				found, err := cl.AdminAuditFind(c.Context, q)
				if err != nil {
					return fmt.Errorf("search the audit log: %w", err)
				}
				if found.Truncated {
					fmt.Fprintf(p.Stderr, "note: these are the last %d, there are more\n", len(found.Lines))
				}
				return p.answer(c, found, func(w io.Writer) { printLines(w, found.Lines) })
			})
		},
	})
}

func auditQuery(c *cli.Context) (api.AuditQuery, error) {
	q := api.AuditQuery{RequestID: c.String("request"), HumanID: c.String("human-id"), ClientUserID: c.String("client-user-id"), Limit: api.DefaultAuditLines}
	given := 0
	for _, s := range []string{q.RequestID, q.HumanID, q.ClientUserID} {
		if s != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return q, usagef("find needs one of --client-user-id, --human-id and --request")
	case q.RequestID != "" && !requestID.MatchString(q.RequestID):
		return q, usagef("%q is no request id: it has 32 hex digits", q.RequestID)
	}
	var err error
	if text := c.String("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > api.MaxAuditLines {
			return q, usagef("--limit wants a number from 1 to %d", api.MaxAuditLines)
		}
	}
	if q.Since, err = when(c, "since"); err != nil {
		return q, err
	}
	q.Until, err = when(c, "until")
	return q, err
}

// when reads a point in time, or how long ago it was.
func when(c *cli.Context, name string) (time.Time, error) {
	text := c.String(name)
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usagef("--%s wants how long ago, as 24h, or a time as 2026-01-31T15:04:05Z", name)
	}
	return t, nil
}

// printLines prints what a person looks for first; --json has all of it.
func printLines(w io.Writer, lines []json.RawMessage) {
	if len(lines) == 0 {
		fmt.Fprintln(w, "no line")
		return
	}
	rows := [][]string{{"LINE", "TIME", "KIND", "REQUEST", "UID", "UNIT", "RULE", "ROUTE", "RESULT"}}
	for _, raw := range lines {
		var l struct {
			recorded
			Seq     uint64    `json:"seq"`
			Time    time.Time `json:"time"`
			Rule    string    `json:"rule"`
			Outcome string    `json:"outcome"`
		}
		if json.Unmarshal(raw, &l) != nil {
			rows = append(rows, []string{"?", "", string(raw)})
			continue
		}
		uid, result := "", l.Outcome
		if l.UID != nil {
			uid = strconv.FormatUint(uint64(*l.UID), 10)
		}
		if l.Status != 0 {
			result = fmt.Sprintf("%d %s", l.Status, l.Error)
		}
		rows = append(rows, []string{strconv.FormatUint(l.Seq, 10), moment(&l.Time), l.Kind, l.RequestID, uid, l.Unit, l.Rule, l.Route, result})
	}
	table(w, rows...)
}
