package server

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

const (
	pathWhoAmI = "/v1/whoami"
	pathHealth = "/v1/health"
)

// route is one endpoint.
type route struct {
	method     string // GET stands for HEAD too
	path       string // the pattern; {humanId} is one segment
	grant      api.Grant
	fields     fieldSet // of the body; 0: it takes none
	human      bool     // the path names a user
	clientUser bool     // X-Client-User-Id is read
	attempt    bool     // goes on record before it is done
	early      bool     // served before the services are open: it shows no user
	unrecorded bool
	public     bool     // shows nobody's secret: may go on without the audit log, where the operator wants that
	perApp     bool     // an administrator's, about one app
	allApps    bool     // an administrator's, who must hold the grant for every app
	free       bool     // costs a caller nothing: its successes are aggregated as refusals are
	params     []string // the fields of its query, where ask reads them
	ask        func(*call, params) (*question, *fault)
	fails      []user.Failure // of the services, that a caller is told; others are internal
	act        func(*call) reply
	name       string // method and path, for the audit log
}

// What the services can fail with. Draining is everywhere.
var (
	failsRead     = []user.Failure{user.UnknownUser, user.AmbiguousUser, user.Forgotten, user.StoreUnavailable, user.RowDamaged}
	failsToken    = append([]user.Failure{user.VaultStale, user.SecretUnavailable}, failsRead...)
	failsList     = []user.Failure{user.AmbiguousUser, user.StoreUnavailable, user.RowDamaged}
	failsUpstream = []user.Failure{
		user.Forgotten, user.UserMismatch, user.UpstreamInvalid, user.UpstreamUnavailable, user.ExchangePending, user.TooManyWaiting,
		user.VaultUnavailable, user.VaultStale, user.SecretUnavailable, user.StoreUnavailable, user.AuditUnavailable,
		user.SessionRefused, user.RowDamaged,
	}
	failsPublicToken = append([]user.Failure{user.UnknownUser}, failsUpstream...)
	failsExchange    = append([]user.Failure{user.SessionConflict, user.ExchangeUnknown}, failsUpstream...)
	failsAdmin       = []user.Failure{user.StoreUnavailable, user.VaultUnavailable}
	failsBackup      = []user.Failure{user.StoreUnavailable, user.VaultUnavailable, user.VaultStale, user.RowDamaged}
	failsCandidates  = []user.Failure{user.StoreUnavailable, user.RowDamaged}
	failsFind        = []user.Failure{user.StoreUnavailable, user.RowDamaged, user.AuditUnavailable}
	failsPrefer      = append([]user.Failure{user.UnknownUser, user.UserMismatch, user.Forgotten}, failsCandidates...)
)

// routes lists what is served; openapi.yaml describes exactly these.
var routes = func() []*route {
	all := []*route{
		{method: http.MethodPost, path: "/v1/connect/tokens", grant: api.GrantExchange, fields: fieldHuman | fieldToken, clientUser: true, attempt: true, fails: failsExchange, act: (*call).exchange},
		{method: http.MethodPost, path: "/v1/connect/publictokens", grant: api.GrantPublicToken, fields: fieldHuman, attempt: true, fails: failsPublicToken, act: (*call).publicToken},
		{method: http.MethodGet, path: "/v1/users/{humanId}", grant: api.GrantLookup, human: true, clientUser: true, public: true, fails: failsRead, act: (*call).user},
		{method: http.MethodGet, path: "/v1/users/{humanId}/access-token", grant: api.GrantAccessToken, human: true, clientUser: true, attempt: true, fails: failsToken, act: (*call).accessToken},
		{method: http.MethodGet, path: "/v1/users", grant: api.GrantLookup, clientUser: true, public: true, fails: failsList, act: (*call).users},
		{method: http.MethodGet, path: "/v1/admin/status", grant: api.GrantAdminRead, early: true, act: (*call).adminStatus},
		{method: http.MethodGet, path: "/v1/admin/users", grant: api.GrantAdminRead, clientUser: true, perApp: true, fails: failsList, act: (*call).users},
		{method: http.MethodGet, path: "/v1/admin/users/candidates", grant: api.GrantAdminRead, clientUser: true, perApp: true, fails: failsCandidates, act: (*call).candidates},
		{method: http.MethodGet, path: "/v1/admin/policy/explain", grant: api.GrantAdminRead, allApps: true, early: true, params: explainParams, ask: (*call).askExplain, act: (*call).explain},
		{method: http.MethodGet, path: "/v1/admin/policy/who-can", grant: api.GrantAdminRead, allApps: true, early: true, params: whoCanParams, ask: (*call).askWhoCan, act: (*call).whoCan},
		{method: http.MethodGet, path: "/v1/admin/audit/find", grant: api.GrantAdminRead, allApps: true, clientUser: true, params: findParams, ask: (*call).askFind, fails: failsFind, act: (*call).findAudit},
		{method: http.MethodPost, path: "/v1/admin/users/prefer", grant: api.GrantAdmin, fields: fieldHuman | fieldClientUser, perApp: true, attempt: true, fails: failsPrefer, act: (*call).prefer},
		{method: http.MethodPost, path: "/v1/admin/reload", grant: api.GrantAdmin, allApps: true, attempt: true, early: true, act: (*call).reload},
		{method: http.MethodPost, path: "/v1/admin/secrets/check", grant: api.GrantAdmin, act: (*call).checkSecrets},
		{method: http.MethodPost, path: "/v1/admin/store/check", grant: api.GrantAdmin, fails: failsAdmin, act: (*call).checkStore},
		{method: http.MethodPost, path: "/v1/admin/store/backup", grant: api.GrantAdmin, allApps: true, attempt: true, fails: failsBackup, act: (*call).backup},
		{method: http.MethodPost, path: "/v1/admin/store/accept", grant: api.GrantAdmin, fields: fieldSeen, allApps: true, attempt: true, early: true, fails: failsAdmin, act: (*call).accept},
		{method: http.MethodGet, path: pathWhoAmI, early: true, free: true, public: true, act: (*call).whoAmI},
		{method: http.MethodGet, path: pathHealth, early: true, unrecorded: true, act: (*call).health},
	}
	for _, r := range all {
		r.name = r.method + " " + r.path
	}
	return all
}()

// needsApp: the status of the daemon and a list over all apps belong to none.
func (r *route) needsApp(q *call) bool {
	return !r.grant.IsAdmin() || r.perApp && !q.in.state.set
}

// AboutApps says of an endpoint, as the audit log names it, whether it is about one
// app, which the request names or its caller's rights settle on, or takes the grant
// for all apps. Neither is true of one that is about none, and of an unknown one.
func AboutApps(route string) (one, all bool) {
	for _, r := range routes {
		if r.name == route {
			return !r.grant.IsAdmin() && r.grant != "" || r.perApp, r.allApps
		}
	}
	return false, false
}

// find looks for the endpoint. Paths are compared as they were sent: what is
// not canonical is not found, never cleaned or redirected.
func (s *Server) find(q *call) (bool, reply) {
	r, human, other := match(q.path(), q.r.Method)
	if r == nil && other != nil {
		rep := refuse(api.MethodNotAllowed)
		rep.allow = other.method
		if other.method == http.MethodGet {
			rep.allow = "GET, HEAD"
		}
		return false, rep
	}
	if r == nil {
		return false, refuse(api.NotFound)
	}
	q.route, q.event.Route, q.event.Grant = r, r.name, string(r.grant)
	switch {
	case s.refusing.Load() && (!r.early || r.attempt):
		q.close = true
		return false, refuse(api.Draining)
	case q.services == nil && !r.early:
		return false, refuse(api.Starting)
	}
	if r.fields != 0 { // the app stands in the body: spare the reading where no app would do
		if _, n := q.conn.view.Only(r.grant); n == 0 {
			return false, q.denied("", r.grant)
		}
	}
	return q.setHuman(human)
}

// match returns the route, or one with the same path for another method. human
// is the escaped {humanId}.
func match(path, method string) (found *route, human string, other *route) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	pattern := path
	if rest, ok := strings.CutPrefix(path, "/v1/users/"); ok {
		var tail string
		human, tail = rest, ""
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			human, tail = rest[:i], rest[i:]
		}
		switch {
		case !canonicalSegment(human):
			return nil, "", nil
		case tail == "":
			pattern = "/v1/users/{humanId}"
		case tail == "/access-token":
			pattern = "/v1/users/{humanId}/access-token"
		default:
			return nil, "", nil
		}
	}
	for _, r := range routes {
		if r.path != pattern || r.human != (human != "") {
			continue
		}
		if r.method == method {
			return r, human, nil
		}
		other = r
	}
	return nil, "", other
}

// canonicalSegment: not empty, no dots alone, whole escapes, and none of a
// character that needs none (RFC 3986 section 6.2.2.2) or of a slash.
func canonicalSegment(s string) bool {
	if s == "" || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if i+2 >= len(s) {
			return false
		}
		text, err := url.PathUnescape(s[i : i+3])
		if err != nil || text == "/" || unreserved(text[0]) {
			return false
		}
		i += 2
	}
	return true
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
