package server

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// AuditFinder is an Admin that searches the audit log. Without it
// GET /v1/admin/audit/find is 404.
type AuditFinder interface {
	// FindAudit returns the lines that q selects, oldest first, at most q.Limit. q
	// names at most one of a request and a user, a user only with an app that is
	// configured, and has a limit. A user that is not stored has the lines there are
	// under that humanId, and under a clientUserId none.
	FindAudit(ctx context.Context, q api.AuditQuery) (api.AuditLines, error)
}

// explain answers from the policy that decides this very request.
func (q *call) explain() reply {
	ask := q.in.question
	if ask.app != "" {
		all := q.conn.view.Apps(q.route.grant)
		i := slices.IndexFunc(all, func(a policy.App) bool { return a.Name == ask.app })
		if i < 0 {
			return refuse(api.BadRequest).because("there is no app of that name")
		}
		ask.query.ClientID = all[i].ClientID
	}
	e := q.conn.view.Policy().Explain(ask.query)
	e.Caller.User = q.server.accounts.name(e.Caller.UID)
	return marshal(http.StatusOK, e)
}

func (q *call) whoCan() reply {
	return marshal(http.StatusOK, q.conn.view.Policy().WhoCan(q.in.question.query.Grant))
}

// findAudit puts on record whose lines were looked for.
func (q *call) findAudit() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	finder, ok := q.server.admin.(AuditFinder)
	if !ok {
		return refuse(api.NotFound)
	}
	app, f := q.settleFound()
	if f != nil {
		_, rep := f.reply()
		return rep
	}
	ask := q.in.question.find
	q.in.app, q.in.human = app, user.HumanID(ask.HumanID)
	lines, err := finder.FindAudit(q.r.Context(), ask)
	if err != nil {
		return q.fail(err)
	}
	if lines.Lines == nil {
		lines.Lines = []json.RawMessage{}
	}
	return marshal(http.StatusOK, lines)
}
