package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// adminStatus shows an administrator of some apps those alone, and as the health
// what everybody may read: reasons name apps.
func (q *call) adminStatus() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	st := q.server.admin.Status(q.r.Context())
	if apps, some := q.someApps(); some {
		st.Secrets = only(st.Secrets, apps)
		st.Health = q.server.health()
		if st.Health.Reasons == nil {
			st.Health.Reasons = []string{}
		}
	}
	return marshal(http.StatusOK, st)
}

// checkSecrets is likewise: an administrator of some apps reads whether theirs
// have a secret.
func (q *call) checkSecrets() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	c := q.server.admin.CheckSecrets(q.r.Context())
	if apps, some := q.someApps(); some {
		c.Secrets = only(c.Secrets, apps)
		c.OK = !slices.ContainsFunc(c.Secrets, func(s api.SecretStatus) bool { return s.Version == 0 || s.Reason != "" })
	}
	return marshal(http.StatusOK, c)
}

// someApps are those for which the caller holds the endpoint's grant, unless that
// is all.
func (q *call) someApps() (apps []policy.App, some bool) {
	apps = q.conn.view.Apps(q.route.grant)
	return apps, len(apps) < q.conn.view.Policy().CountApps()
}

func only(secrets []api.SecretStatus, apps []policy.App) []api.SecretStatus {
	return slices.DeleteFunc(slices.Clone(secrets), func(s api.SecretStatus) bool {
		return !slices.ContainsFunc(apps, func(a policy.App) bool { return a.ClientID == user.ClientID(s.ClientID) })
	})
}

func (q *call) checkStore() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	c, err := q.server.admin.CheckStore(q.r.Context())
	if err != nil {
		return q.fail(err)
	}
	if c.Problems == nil {
		c.Problems = []string{}
	}
	return marshal(http.StatusOK, c)
}

// reload and accept are asked while the daemon starts, too. Why one was refused
// is for administrators of all apps, and the answer.
func (q *call) reload() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	return q.verdict(q.server.admin.Reload(q.r.Context()))
}

func (q *call) accept() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	return q.verdict(q.server.admin.Accept(q.r.Context(), q.in.seen))
}

func (q *call) verdict(err error) reply {
	v := api.Verdict{OK: err == nil, Refused: []string{}}
	q.event.Outcome = "done"
	if err != nil {
		_, known := errors.AsType[*user.Error](err)
		if known || q.r.Context().Err() != nil {
			q.event.Outcome = ""
			return q.fail(err)
		}
		q.event.Outcome = "refused"
		v.Refused = strings.Split(err.Error(), "\n")
	}
	return marshal(http.StatusOK, v)
}

// prefer decides which user a clientUserId names.
func (q *call) prefer() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	p, err := q.server.admin.Prefer(q.r.Context(), q.in.app, q.in.expected, q.in.human)
	if err != nil {
		return q.fail(err)
	}
	b := newBuffer()
	b.b = appendUser(b.b, p)
	return success(b)
}

// candidates shows all users under a clientUserId; an unknown one has none.
func (q *call) candidates() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	list, preferred, err := q.server.admin.Candidates(q.r.Context(), q.in.app, q.in.expected)
	if err != nil && user.KindOf(err) != user.UnknownUser {
		return q.fail(err)
	}
	if len(list) == 1 { // nothing to decide
		preferred = 0
	}
	var name user.HumanID
	if preferred >= 0 && preferred < len(list) {
		name = list[preferred].HumanID
	}
	b := newBuffer()
	b.b = appendUsers(b.b, list)
	b.b = appendField(b.b, `,"preferred":`, string(name))
	b.b = append(b.b, '}')
	return success(b)
}
