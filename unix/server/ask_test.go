package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// finder is an admin that is asked for lines, and remembers what it was asked.
type finder struct {
	worker
	asked *[]api.AuditQuery
	err   error
}

func (f finder) FindAudit(_ context.Context, q api.AuditQuery) (api.AuditLines, error) {
	*f.asked = append(*f.asked, q)
	return api.AuditLines{}, f.err
}

// asking is a server on which the caller administers all of apps, or some.
func asking(t *testing.T, f *finder, of []policy.App) *bare {
	t.Helper()
	return startBare(t, func(s *server.Config) {
		s.Admin, s.Apps = f, adminApps
		if f == nil {
			s.Admin = twoApps{}
		}
		rules := []policy.Rule{
			{Name: "ops", Users: []uint32{me()}, Contained: true, Apps: of, Grants: []api.Grant{api.GrantAdminRead}},
			{Name: "web", Users: []uint32{33}, Units: []string{"shop.service"}, Apps: adminApps[:1], Grants: []api.Grant{api.GrantLookup}},
		}
		p, err := policy.New(policy.Config{Rules: rules, Apps: adminApps, Ceilings: map[string][]api.Grant{"private": {api.GrantAdminRead, api.GrantLookup}}})
		if err != nil {
			t.Fatal(err)
		}
		s.Policy = p
	})
}

func TestPolicyExplain(t *testing.T) {
	b := asking(t, &finder{}, nil) // not open: it is answered while the daemon starts
	const path = "/v1/admin/policy/explain?uid=33&listener=private&grant=lookup"
	for query, want := range map[string]struct {
		rule   string
		reason string
		failed string
	}{
		"&unit=shop.service":                        {"web", "rule web is the first", "users apps grants|"},
		"&unit=shop.service&app=gym":                {"", "web comes closest, and lacks: apps", "users apps grants|apps"},
		"&gid=33&group=7&group=8&contained=true":    {"", "ops comes closest, and lacks: users, apps, grants", ""},
		"&proven=false&unit=shop.service&app=shop":  {"web", "rule web is the first", "users apps grants|"},
		"&proven=true&contained=false&unit=a.scope": {"", "web comes closest, and lacks: units", "users apps grants|units apps"},
	} {
		a := b.get(t, path+query)
		var e api.Explanation
		if err := json.Unmarshal(a.body, &e); err != nil || a.status != 200 {
			t.Fatalf("%s: %d %v", query, a.status, err)
		}
		failed := ""
		for _, r := range e.Rules {
			failed += "|" + strings.Join(r.Failed, " ")
		}
		failed = strings.TrimPrefix(failed, "|")
		if e.Rule != want.rule || e.Allowed != (want.rule != "") || !strings.Contains(e.Reason, want.reason) || e.Caller.UID != 33 || !e.InCeiling {
			t.Errorf("%s: got %+v", query, e)
		}
		if strings.Contains(query, "app=") && failed != want.failed {
			t.Errorf("%s: failed are %q, want %q", query, failed, want.failed)
		}
		if strings.Contains(query, "group") && (!slices.Equal(e.Caller.Groups, []uint32{7, 8}) || e.Caller.GID != 33) {
			t.Errorf("the groups are %+v", e.Caller)
		}
	}
	root := b.get(t, "/v1/admin/policy/explain?uid=0&listener=private&grant=lookup")
	var e api.Explanation
	if err := json.Unmarshal(root.body, &e); err != nil || e.Caller.User != "root" || e.Caller.GID == 0 {
		t.Errorf("uid 0 is %+v: a gid that is left out must not be root's", e.Caller)
	}
}

func TestQuestionsRefused(t *testing.T) {
	asked := &[]api.AuditQuery{}
	b := asking(t, &finder{asked: asked}, nil)
	b.open()
	const explain, who, find = "/v1/admin/policy/explain?", "/v1/admin/policy/who-can?", "/v1/admin/audit/find?"
	for query, code := range map[string]api.Code{
		explain: api.BadRequest, explain + "uid=1&listener=private": api.BadRequest, explain + "uid=1&grant=lookup": api.BadRequest,
		explain + "listener=private&grant=lookup": api.BadRequest, explain + "uid=-1&listener=a&grant=lookup": api.BadRequest,
		explain + "uid=4294967295&listener=a&grant=lookup": api.BadRequest, explain + "uid=1&listener=a&grant=everything": api.BadRequest,
		explain + "uid=1&uid=2&listener=a&grant=lookup": api.BadRequest, explain + "uid=1&listener=a&grant=lookup&Uid=3": api.BadRequest,
		explain + "uid=1&listener=a&grant=lookup&group=x": api.BadRequest, explain + "uid=1&listener=a&grant=lookup&contained=1": api.BadRequest,
		explain + "uid=1&listener=a&grant=lookup&path=/v1": api.BadRequest, explain + "uid=1&listener=a&grant=lookup&app=none": api.BadRequest,
		explain + "uid=1&listener=a&grant=lookup&access_token=x": api.SecretNotAccepted, explain + "uid=1&listener=a&grant=lookup&clientId=a": api.BadRequest,
		explain + "uid=1&listener=a&grant=lookup&" + strings.Repeat("group=1&", 65): api.BadRequest,
		who: api.BadRequest, who + "grant=": api.BadRequest, who + "grant=none": api.BadRequest, who + "grant=lookup&x=1": api.BadRequest,
		find: api.BadRequest, find + "clientId=id-of-shop": api.BadRequest, find + "requestId=a&humanId=b": api.BadRequest, find + "humanId=a": api.ClientIDRequired,
		find + "humanId=a&clientId=none": api.BadRequest, find + "since=yesterday": api.BadRequest, find + "requestId=a&limit=0": api.BadRequest,
		find + "requestId=a&limit=10001": api.BadRequest, find + "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z": api.BadRequest,
		find + "requestId=a&clientSecret=b": api.SecretNotAccepted, find + "until=2026-01-02T00:00:00Z": api.BadRequest,
	} {
		if a := b.get(t, query); a.err.Code != code {
			t.Errorf("%s: got %d %s", query, a.status, a.err.Code)
		}
	}
	if len(*asked) > 0 {
		t.Error("the log was searched for what is refused")
	}
	both := raw(t, b.socket, request("GET", find+"clientId=id-of-shop&clientUserId=a", "", "X-Client-User-Id: a"))
	both.wantCode(t, api.BadRequest)
}

func TestAuditFind(t *testing.T) {
	asked := &[]api.AuditQuery{}
	f := &finder{asked: asked}
	b := asking(t, f, nil)
	b.open()
	a := raw(t, b.socket, request("GET", "/v1/admin/audit/find?clientId=id-of-shop&since=2026-01-02T00:00:00Z&limit=5", "", "X-Client-User-Id: caf%C3%A9"))
	if a.status != 200 || string(a.body) != `{"lines":[],"truncated":false,"verified":false}` {
		t.Fatalf("got %d", a.status)
	}
	if got := (*asked)[0]; got.ClientID != "id-of-shop" || got.ClientUserID != "café" || got.Limit != 5 || got.Since.Year() != 2026 || !got.Until.IsZero() {
		t.Fatalf("asked was %+v", got)
	}
	if a := b.get(t, "/v1/admin/audit/find?humanId=h&clientId=id-of-gym"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	if e := b.f.events[len(b.f.events)-1]; e.App != "gym" || e.Subject != "subject" {
		t.Error("whose lines were looked for is not on record")
	}
	if a := b.get(t, "/v1/admin/audit/find?requestId=r"); a.status != 200 || (*asked)[2].Limit != api.DefaultAuditLines {
		t.Errorf("got %d", a.status)
	}
	f.err = user.Fail(user.StoreUnavailable, "closed")
	b.get(t, "/v1/admin/audit/find?requestId=r").wantCode(t, api.StoreUnavailable)
	none := asking(t, nil, nil)
	none.open()
	none.get(t, "/v1/admin/audit/find?requestId=r").wantCode(t, api.NotFound)
}

// TestQuestionsAreAboutAll: whoever administers some apps does not read the rules
// and records of the others.
func TestQuestionsAreAboutAll(t *testing.T) {
	b := asking(t, &finder{asked: &[]api.AuditQuery{}}, adminApps[:1])
	b.open()
	for _, path := range []string{
		"/v1/admin/policy/explain?uid=33&listener=private&grant=lookup&app=gym", "/v1/admin/policy/explain?uid=33&listener=private&grant=lookup&app=none",
		"/v1/admin/policy/who-can?grant=lookup", "/v1/admin/audit/find?requestId=r", "/v1/admin/audit/find?humanId=h&clientId=id-of-gym",
	} {
		b.get(t, path).wantCode(t, api.NotGranted)
	}
	var w api.WhoCan
	all := asking(t, &finder{}, adminApps)
	a := all.get(t, "/v1/admin/policy/who-can?grant=lookup")
	if err := json.Unmarshal(a.body, &w); err != nil || len(w.Holders) != 1 || w.Holders[0].Rule != "web" || w.Holders[0].Units[0] != "shop.service" {
		t.Errorf("got %+v", w)
	}
}

// TestDenialsSay: a caller learns what it is seen as and what it lacks, and nothing
// about others.
func TestDenialsSay(t *testing.T) {
	rules := []policy.Rule{
		{Name: "mine", Users: []uint32{me()}, Contained: true, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup}},
		{Name: "theirs", Users: []uint32{me() + 1}, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantExchange, api.GrantAccessToken}},
	}
	s := clienttest.Start(t, clienttest.Config{Rules: rules})
	var who api.WhoAmI
	if err := json.Unmarshal(raw(t, s.Private, request("GET", "/v1/whoami", "")).body, &who); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ socket, path, listener, want string }{
		{s.Private, "/v1/users/x/access-token", "private", "no rule gives you access-token for this app"},
		{s.Private, "/v1/users/x/access-token?clientId=none", "private", "no rule gives you access-token for this app"},
		{s.Public, "/v1/users/x/access-token", "public", "nobody is given access-token there"},
	} {
		a := raw(t, c.socket, request("GET", c.path, ""))
		a.wantCode(t, api.NotGranted)
		for _, want := range []string{c.want, fmt.Sprintf("you are uid %d", os.Getuid()), "on the socket " + c.listener, "contained"} {
			if !strings.Contains(a.err.Message, want) {
				t.Errorf("%s: %q does not say %q", c.path, a.err.Message, want)
			}
		}
		if strings.Contains(a.err.Message, "theirs") || who.User != "" && !strings.Contains(a.err.Message, "("+who.User+")") {
			t.Errorf("%s: %q", c.path, a.err.Message)
		}
		if unit := who.Unit; unit != "" && !strings.Contains(a.err.Message, unit) {
			t.Errorf("%q does not say the unit", a.err.Message)
		}
	}
	stranger := clienttest.Start(t, clienttest.Config{Rules: rules[1:]})
	a := raw(t, stranger.Public, request("GET", "/v1/nothing", ""))
	a.wantCode(t, api.UnknownCaller)
	if !strings.Contains(a.err.Message, fmt.Sprintf("you are uid %d", os.Getuid())) || strings.Contains(a.err.Message, "theirs") {
		t.Errorf("got %q", a.err.Message)
	}
}
