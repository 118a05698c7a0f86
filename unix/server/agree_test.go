package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// willing does whatever it is asked for, and keeps the last outcome.
type willing struct {
	Admin
	last audit.Event
}

func (w *willing) Write(e audit.Event) error {
	if e.Kind == audit.Outcome {
		w.last = e
	}
	return nil
}
func (w *willing) WriteDurable(_ context.Context, e audit.Event) error { return w.Write(e) }
func (*willing) Subject(user.ClientID, user.HumanID) string            { return "" }
func (*willing) Exchange(context.Context, user.Exchange) (user.Result, error) {
	return user.Result{Outcome: user.Stored}, nil
}
func (*willing) PublicToken(context.Context, user.ClientID, user.HumanID, user.RequestID) (user.Public, error) {
	return user.Public{}, nil
}
func (*willing) Public(context.Context, user.ClientID, user.HumanID) (user.Public, error) {
	return user.Public{}, nil
}
func (*willing) Private(context.Context, user.ClientID, user.HumanID) (user.Record, error) {
	return user.Record{Private: user.Private{AccessToken: secret.FromString("marker-access-token")}}, nil
}
func (*willing) ByClientUserID(context.Context, user.ClientID, user.ClientUserID) (user.Public, error) {
	return user.Public{}, nil
}
func (*willing) InState(context.Context, user.ClientID, user.State, int) ([]user.Public, error) {
	return nil, nil
}
func (*willing) Status(context.Context) api.Status            { return api.Status{} }
func (*willing) CheckSecrets(context.Context) api.SecretCheck { return api.SecretCheck{} }
func (*willing) Prefer(context.Context, user.ClientID, user.ClientUserID, user.HumanID) (user.Public, error) {
	return user.Public{}, nil
}

// newWilling is a server that never runs.
func newWilling(t *testing.T) (*Server, *willing) {
	does := &willing{}
	s := &Server{admin: does}
	s.cut, s.cutOff = context.WithCancel(t.Context())
	s.limits, _ = Limits{}.withDefaults()
	s.gate.open(s.limits, []Listener{{Name: "public"}, {Name: "private"}})
	s.ledger.open(s.limits.AuditPerUID)
	s.defaults()
	s.refusals.wake = make(chan struct{}, 1)
	s.Open(Services{Broker: does, Users: does, Audit: does})
	return s, does
}

// asked are requests for each grant that has an endpoint; %s stands for the app.
var asked = map[api.Grant]struct{ method, path, body string }{
	api.GrantExchange:    {"POST", "/v1/connect/tokens", `{"humanId":"h","sessionToken":"s"%s}`},
	api.GrantPublicToken: {"POST", "/v1/connect/publictokens", `{"humanId":"h"%s}`},
	api.GrantLookup:      {"GET", "/v1/users/h%s", ""},
	api.GrantAccessToken: {"GET", "/v1/users/h/access-token%s", ""},
	api.GrantAdminRead:   {"GET", "/v1/admin/users?state=indeterminate%s", ""},
	api.GrantAdmin:       {"POST", "/v1/admin/users/prefer", `{"clientUserId":"c","humanId":"h"%s}`},
}

// send asks the real handler for q, on a connection of q's caller.
func (s *Server) send(q policy.Query) (int, string) { return s.sendFrom(q, &peer.Process{}) }

func (s *Server) sendFrom(q policy.Query, from *peer.Process) (int, string) {
	a := asked[q.Grant]
	if q.ClientID == "" && q.Grant == api.GrantAdmin { // about no app
		a.path, a.body = "/v1/admin/secrets/check", ""
	}
	app, field := "", ""
	switch {
	case q.ClientID == "":
	case strings.Contains(a.path, "?"):
		app = "&clientId=" + string(q.ClientID)
	default:
		app, field = "?clientId="+string(q.ClientID), fmt.Sprintf(`,"clientId":%q`, q.ClientID)
	}
	path, body := strings.Replace(a.path, "%s", app, 1), io.Reader(nil)
	if a.body != "" {
		body = strings.NewReader(strings.Replace(a.body, "%s", field, 1))
	}
	r := httptest.NewRequest(a.method, path, body)
	c := &conn{server: s, listener: q.Listener, caller: q.Caller, process: from, slot: &slot{}}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.WithContext(withConn(r.Context(), c)))
	if w.Code == 403 {
		return w.Code, w.Body.String()
	}
	return w.Code, ""
}

var (
	agreeApps     = []policy.App{{Name: "shop", ClientID: "id-1"}, {Name: "gym", ClientID: "id-2"}, {Name: "bank", ClientID: "id-3"}}
	agreeCeilings = map[string][]api.Grant{
		"public": {api.GrantExchange, api.GrantLookup, api.GrantPublicToken}, "admin": {api.GrantAdmin, api.GrantAdminRead},
		"private": {api.GrantExchange, api.GrantLookup, api.GrantAccessToken},
	}
)

func some[T any](r *rand.Rand, from ...T) (out []T) {
	for _, v := range from {
		if r.IntN(3) == 0 {
			out = append(out, v)
		}
	}
	return out
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomPolicy(t *testing.T, r *rand.Rand) *policy.Policy {
	c := policy.Config{Apps: agreeApps, Ceilings: agreeCeilings}
	for i := range 1 + r.IntN(4) {
		rule := policy.Rule{
			Name: fmt.Sprint("rule-", i), Users: some[uint32](r, 0, 33, 34, 65534), Groups: some[uint32](r, 33, 61),
			Units: some(r, "shop.service", "shop-?.service", "user@*.service"), Contained: r.IntN(3) == 0, Apps: some(r, agreeApps...),
			Grants: append(some(r, api.GrantExchange, api.GrantLookup, api.GrantPublicToken, api.GrantAdmin), pick(r, api.GrantAccessToken, api.GrantLookup, api.GrantAdminRead)),
		}
		if len(rule.Users)+len(rule.Groups)+len(rule.Units) == 0 {
			rule.Users = []uint32{33}
		}
		if len(rule.Apps) == 0 && slices.ContainsFunc(rule.Grants, func(g api.Grant) bool { return !g.IsAdmin() }) {
			rule.Apps = agreeApps[:1+r.IntN(3)]
		}
		c.Rules = append(c.Rules, rule)
	}
	p, err := policy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func randomQuery(r *rand.Rand) policy.Query {
	q := policy.Query{
		Caller: peer.Caller{
			UID: pick[uint32](r, 0, 33, 34, 65534), GID: pick[uint32](r, 0, 33, 61), Groups: some[uint32](r, 61, 65534), Contained: r.IntN(4) == 0,
			Unit: pick(r, "", "shop.service", "shop-1.service", "user@33.service", "other.scope"), Proven: r.IntN(2) == 0,
		},
		Listener: pick(r, "public", "private", "admin"), ClientID: pick(r, "id-1", "id-2", "id-3", "", user.ClientID("none")),
		Grant: pick(r, api.GrantExchange, api.GrantPublicToken, api.GrantLookup, api.GrantAccessToken, api.GrantAdminRead, api.GrantAdmin),
	}
	if r.IntN(2) == 0 { // likelier to be allowed
		q.Listener, q.ClientID, q.Caller.Contained = "private", "id-1", false
		q.Caller.UID, q.Caller.GID, q.Caller.Unit = 33, 33, "shop.service"
		if q.Grant.IsAdmin() {
			q.Listener = "admin"
		}
	}
	return q
}

// holds asks who-can as an operator reads it: it knows nothing of rules.
func holds(w api.WhoCan, q policy.Query, app string) bool {
	c := q.Caller
	among := func(list []string, ids ...uint32) bool {
		return len(list) == 0 || slices.ContainsFunc(ids, func(id uint32) bool { return slices.Contains(list, fmt.Sprint(id)) })
	}
	for _, h := range w.Holders {
		unit := len(h.Units) == 0 || slices.Contains(h.Units, c.Unit) || c.Unit == "shop-1.service" && slices.Contains(h.Units, "shop-?.service") ||
			c.Unit == "user@33.service" && slices.Contains(h.Units, "user@*.service")
		if among(h.Users, c.UID) && among(h.Groups, append([]uint32{c.GID}, c.Groups...)...) && unit && slices.Contains(h.Listeners, q.Listener) &&
			(h.Contained || !c.Contained) && (c.Proven || !h.Proven) && (slices.Contains(h.Apps, app) || q.ClientID == "" && q.Grant.IsAdmin()) {
			return true
		}
	}
	return false
}

// TestExplainedIsWhatHappens: explain and who-can say what the server does, and the
// audit log has the rule that explain names, for random policies and callers.
func TestExplainedIsWhatHappens(t *testing.T) {
	s, does := newWilling(t)
	policies, asks, allowed := uint64(12000), 0, 0
	for seed := range policies {
		r := rand.New(rand.NewPCG(seed, 4))
		p := randomPolicy(t, r)
		s.SetPolicy(p)
		for range 4 {
			q := randomQuery(r)
			asks++
			if s.agrees(t, p, q, does) {
				allowed++
			}
		}
	}
	t.Logf("%d random policies, %d requests of random callers: %d allowed, explain and who-can agree with the server on all", policies, asks, allowed)
	if allowed < asks/15 || allowed > asks*9/10 {
		t.Fatal("hardly any are allowed, or refused: the test is weak")
	}
}

// agrees returns whether q is allowed.
func (s *Server) agrees(t *testing.T, p *policy.Policy, q policy.Query, does *willing) bool {
	t.Helper()
	does.last = audit.Event{}
	status, body := s.send(q)
	e := p.Explain(q)
	which := status == 400 && q.ClientID == "" && !q.Grant.IsAdmin() // more than one app
	if e.Allowed != (status == 200) || !e.Allowed && status != 403 && !which {
		t.Fatalf("the server answers %d, explained is %+v\n%+v", status, e, q)
	}
	if got := holds(p.WhoCan(q.Grant), q, e.App); got != e.Allowed && !which && e.App+string(q.ClientID) != "" {
		t.Fatalf("the server answers %d, who-can says %v\n%+v", status, got, q)
	}
	if e.Allowed && (does.last.Rule != e.Rule || does.last.App != e.App || does.last.Unproven != (q.Caller.Unit != "" && !q.Caller.Proven)) {
		t.Fatalf("on record is rule %q for app %q, explained %q for %q", does.last.Rule, does.last.App, e.Rule, e.App)
	}
	from := map[user.ClientID]string{"": audit.FromRights, "none": audit.FromNowhere}[q.ClientID]
	if got := does.last.AppFrom; !q.Grant.IsAdmin() && got != "" && got != from || e.Allowed && !q.Grant.IsAdmin() && got != from {
		t.Fatalf("the app is on record as from %q, want %q\n%+v", got, from, q)
	}
	if status == 403 && (!strings.Contains(body, fmt.Sprintf("you are uid %d", q.Caller.UID)) || bytes.Contains([]byte(body), []byte("rule-"))) {
		t.Fatalf("a denial does not say as what the caller is seen, or names a rule: %s", body)
	}
	return e.Allowed
}

// TestGoneCallers: what shows health data or administers takes the process that
// connected to be there; what any holder of the socket may know does not.
func TestGoneCallers(t *testing.T) {
	s, does := newWilling(t)
	rule := policy.Rule{Name: "all", Users: []uint32{33}, Grants: []api.Grant{api.GrantLookup, api.GrantAccessToken, api.GrantAdmin, api.GrantAdminRead}, Apps: agreeApps[:1]}
	p, err := policy.New(policy.Config{Apps: agreeApps[:1], Ceilings: map[string][]api.Grant{"all": api.Grants}, Rules: []policy.Rule{rule}})
	if err != nil {
		t.Fatal(err)
	}
	s.SetPolicy(p)
	for g, want := range map[api.Grant]int{api.GrantLookup: 200, api.GrantAdminRead: 200, api.GrantAccessToken: 403, api.GrantAdmin: 403} {
		gone := &peer.Process{}
		q := policy.Query{Caller: peer.Caller{UID: 33}, Listener: "all", Grant: g, ClientID: "id-1"}
		if status, _ := s.send(q); status != 200 {
			t.Fatalf("%s of a process that is there: %d", g, status)
		}
		if err := gone.Close(); err != nil {
			t.Fatal(err)
		}
		status, body := s.sendFrom(q, gone)
		if status != want || want == 403 && (does.last.Error != string(api.UnknownCaller) || !strings.Contains(body, "has exited")) {
			t.Errorf("%s of a process that is gone: %d, on record %q", g, status, does.last.Error)
		}
	}
}
