package server

import (
	"net/http"
	"slices"

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
