package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// requestID is the form of the ids that the daemon gives (32 hex digits).
var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (p *program) policySuggest() *cli.Command {
	return p.command(command{
		name: "suggest", usage: "print the narrowest rule that would have allowed a refused request",
		text: "The request id stands in the answer that the app got (requestId, X-Request-Id). It is looked up in\n" +
			"the audit log. Read the rule before you paste it: the request may have been refused for a reason.",
		args: "REQUEST-ID", min: 1, max: 1,
		example: "tokenvault policy suggest 0123456789abcdef0123456789abcdef",
		flags:   []cli.Flag{socketFlag()},
		prints:  true,
		run: func(c *cli.Context) error {
			id := c.Args().First()
			if !requestID.MatchString(id) {
				return usagef("%q is no request id: it has 32 hex digits", id)
			}
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				q, err := p.requested(c, cl, id)
				if err != nil {
					return err
				}
				e, err := cl.AdminExplain(c.Context, q)
				if err != nil {
					return fmt.Errorf("explain the request: %w", err)
				}
				return p.answer(c, e, func(w io.Writer) { printSuggestion(w, e) })
			})
		},
	})
}

// recorded is what a line of the audit log says of a caller's request.
type recorded struct {
	Kind      string   `json:"kind"`
	RequestID string   `json:"requestId"`
	Listener  string   `json:"listener"`
	UID       *uint32  `json:"uid"`
	GID       *uint32  `json:"gid"`
	Groups    []uint32 `json:"groups"`
	GroupsCut bool     `json:"groupsCut"`
	Unit      string   `json:"unit"`
	Contained bool     `json:"contained"`
	Unproven  bool     `json:"unproven"`
	Grant     string   `json:"grant"`
	App       string   `json:"app"`
	Route     string   `json:"route"`
	Status    int      `json:"status"`
	Error     string   `json:"error"`
}

// requested finds a request in the audit log, as a question to the policy.
func (p *program) requested(c *cli.Context, cl *client.Client, id string) (client.ExplainQuery, error) {
	found, err := cl.AdminAuditFind(c.Context, api.AuditQuery{RequestID: id})
	if err != nil {
		return client.ExplainQuery{}, fmt.Errorf("look the request up in the audit log: %w", err)
	}
	for _, line := range found.Lines {
		var r recorded
		if err := json.Unmarshal(line, &r); err != nil {
			return client.ExplainQuery{}, errors.New("look the request up in the audit log: a line is not what was expected")
		}
		if r.UID == nil || r.GID == nil {
			continue
		}
		if r.Grant == "" {
			return client.ExplainQuery{}, r.unknown()
		}
		return client.ExplainQuery{
			UID: *r.UID, GID: *r.GID, Groups: r.Groups, Unit: r.Unit, Contained: r.Contained, Unproven: r.Unproven,
			Listener: r.Listener, App: r.App, Grant: api.Grant(r.Grant),
		}, nil
	}
	return client.ExplainQuery{}, advise(errors.New("the audit log has no line of that request"),
		"repeated refusals stand in it as counts: let the app try again, and take the new answer's requestId")
}

// unknown is about a request with no grant on record.
func (r *recorded) unknown() error {
	if r.Error != string(api.UnknownCaller) {
		return fmt.Errorf("the request was answered %d %s, and no rule could change that", r.Status, r.Error)
	}
	args := fmt.Sprintf("--user %d --group %d", *r.UID, *r.GID)
	for _, g := range r.Groups {
		args += fmt.Sprintf(" --group %d", g)
	}
	if r.Unit != "" {
		args += " --unit " + printable(r.Unit)
	}
	if r.Contained {
		args += " --contained"
	}
	if r.Unproven {
		args += " --unproven"
	}
	return advise(errors.New("the request was refused before it was looked at: no rule names its caller"),
		"say what it is to be allowed: tokenvault policy explain "+args+" --listener "+printable(r.Listener)+" --app APP --grant GRANT")
}

func printSuggestion(w io.Writer, e api.Explanation) {
	switch {
	case e.Allowed:
		fmt.Fprintf(w, "the rules in force allow it: rule %s\n", printable(e.Rule))
	case e.Suggestion == "":
		fmt.Fprintf(w, "no rule can allow it: %s\n", printable(e.Reason))
	default:
		fmt.Fprintf(w, "# %s\n%s", printable(e.Reason), e.Suggestion)
	}
}
