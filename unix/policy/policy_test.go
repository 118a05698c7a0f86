package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

var (
	shop = policy.App{Name: "shop", ClientID: "id-of-shop"}
	gym  = policy.App{Name: "gym", ClientID: "id-of-gym"}
	bank = policy.App{Name: "bank", ClientID: "id-of-bank"}
	apps = []policy.App{shop, gym, bank}
)

func web() policy.Rule {
	return policy.Rule{Name: "web", Users: []uint32{33}, Apps: []policy.App{shop}, Grants: []api.Grant{api.GrantExchange}}
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*policy.Rule){
		"nor groups nor units":     func(r *policy.Rule) { r.Users = nil },
		"no apps":                  func(r *policy.Rule) { r.Apps = nil },
		"no grants":                func(r *policy.Rule) { r.Grants = nil },
		"needs paths":              func(r *policy.Rule) { r.Grants = []api.Grant{api.GrantProxy} },
		"paths mean nothing":       func(r *policy.Rule) { r.Paths = []string{"/v1/human"} },
		"that is everybody":        func(r *policy.Rule) { r.Users, r.Units = nil, []string{"*.service"} },
		"is no glob":               func(r *policy.Rule) { r.Units = []string{"shop[.service"} },
		"matches none":             func(r *policy.Rule) { r.Units = []string{"shop.socket"} },
		"letters, digits":          func(r *policy.Rule) { r.Units = []string{"/system.slice/shop.service"} },
		"does not exist":           func(r *policy.Rule) { r.Grants = []api.Grant{"everything"} },
		"app \"x\" does not exist": func(r *policy.Rule) { r.Apps = []policy.App{{Name: "x", ClientID: "x"}} },
		"printable":                func(r *policy.Rule) { r.Name = "a\nb" },
		"choose another":           func(r *policy.Rule) { r.Name = policy.RootRule },
		"another rule":             func(r *policy.Rule) { r.Name = "first" },
		"rate must be":             func(r *policy.Rule) { r.PerSecond = -1 },
		"leave the rate out":       func(r *policy.Rule) { r.PerSecond, r.Burst = 0, 5 },
		"/v1/human/**":             func(r *policy.Rule) { r.Grants = []api.Grant{api.GrantProxy} },
		"such as":                  func(r *policy.Rule) { r.Grants, r.Paths = []api.Grant{api.GrantProxy}, []string{"v1/human"} },
		"burst is negative":        func(r *policy.Rule) { r.PerSecond, r.Burst = 1, -1 },
		"must begin with /": func(r *policy.Rule) {
			r.Grants, r.Paths = []api.Grant{api.GrantProxy}, []string{"/v1/human/../x"}
		},
	} {
		first, r := web(), web()
		first.Name = "first"
		change(&r)
		_, err := policy.New(policy.Config{Rules: []policy.Rule{first, r}, Apps: apps})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestRulesLendNothing(t *testing.T) {
	a, b := web(), web()
	a.Name, a.Apps, a.Grants = "a", []policy.App{shop}, []api.Grant{api.GrantLookup}
	b.Name, b.Apps, b.Grants = "b", []policy.App{gym}, []api.Grant{api.GrantExchange}
	p := build(t, a, b)
	caller := peer.Caller{UID: 33}
	for _, q := range []policy.Query{
		{Caller: caller, Listener: "public", ClientID: shop.ClientID, Grant: api.GrantExchange},
		{Caller: caller, Listener: "public", ClientID: gym.ClientID, Grant: api.GrantLookup},
		{Caller: caller, Listener: "public", ClientID: bank.ClientID, Grant: api.GrantLookup},
		{Caller: caller, Listener: "public", ClientID: "none", Grant: api.GrantLookup},
		{Caller: caller, Listener: "public", ClientID: "", Grant: api.GrantLookup},
		{Caller: caller, Listener: "none", ClientID: shop.ClientID, Grant: api.GrantLookup},
		{Caller: peer.Caller{UID: 33, Contained: true}, Listener: "public", ClientID: shop.ClientID, Grant: api.GrantLookup},
	} {
		if d := p.Decide(q); d.Allowed {
			t.Errorf("allowed: app %s, grant %s on %s", q.ClientID, q.Grant, q.Listener)
		}
	}
	if d := p.Decide(policy.Query{Caller: caller, Listener: "public", ClientID: gym.ClientID, Grant: api.GrantExchange}); !d.Allowed || d.Rule != "b" || d.App != "gym" {
		t.Errorf("got %+v", d)
	}
}

func TestOverflowMatchesNothing(t *testing.T) {
	u, g := peer.Overflow()
	r, s := web(), web()
	r.Name, r.Users = "users", []uint32{u, peer.OverflowID}
	s.Name, s.Users, s.Groups = "groups", nil, []uint32{g, peer.OverflowID}
	p := build(t, r, s)
	for _, c := range []peer.Caller{{UID: u, GID: 1}, {UID: peer.OverflowID}, {UID: 1, GID: g}, {UID: 1, GID: 1, Groups: []uint32{peer.OverflowID}}} {
		if p.Known(c, "public") {
			t.Errorf("an overflow id matches")
		}
	}
}

func TestRoot(t *testing.T) {
	p := build(t, web())
	root := peer.Caller{}
	if p.Known(root, "public") || !p.Known(root, "admin") || p.Known(peer.Caller{Contained: true}, "admin") || p.Known(peer.Caller{UID: 1}, "admin") {
		t.Fatal("root has rights where it must not, or none where it must")
	}
	d := p.Decide(policy.Query{Caller: root, Listener: "admin", Grant: api.GrantAdmin})
	if !d.Allowed || d.Rule != policy.RootRule {
		t.Fatalf("got %+v", d)
	}
	if p.Decide(policy.Query{Caller: root, Listener: "admin", ClientID: shop.ClientID, Grant: api.GrantExchange}).Allowed {
		t.Fatal("the admin ceiling has no client grants")
	}
	if got := p.Apps(root, "admin", api.GrantAdminRead); len(got) != 3 {
		t.Fatalf("root has %d apps", len(got))
	}
}

func TestAdminRuleOfSomeApps(t *testing.T) {
	r, all := web(), web()
	r.Grants = []api.Grant{api.GrantAdminRead}
	all.Name, all.Users, all.Apps, all.Grants = "all", []uint32{34}, nil, []api.Grant{api.GrantAdminRead}
	p := build(t, r, all)
	ask := func(uid uint32, app user.ClientID) bool {
		return p.Decide(policy.Query{Caller: peer.Caller{UID: uid}, Listener: "admin", ClientID: app, Grant: api.GrantAdminRead}).Allowed
	}
	if !ask(33, "") || !ask(33, shop.ClientID) || ask(33, gym.ClientID) || !ask(34, "") || !ask(34, gym.ClientID) || ask(34, "none") {
		t.Fatal("apps of admin rules do not bind")
	}
	if got := p.Apps(peer.Caller{UID: 33}, "admin", api.GrantAdminRead); !slices.Equal(got, []policy.App{shop}) {
		t.Fatalf("got %v", got)
	}
}

func TestPaths(t *testing.T) {
	r := web()
	r.Grants, r.Paths = []api.Grant{api.GrantProxy}, []string{"/v1/human/activities/*", "/v1/human/medical/**", "/v1/human/s*s"}
	p := build(t, r)
	for path, want := range map[string]bool{
		"/v1/human/activities/summaries": true, "/v1/human/activities/a/b": false, "/v1/human/activities": false,
		"/v1/human/medical/a/b": true, "/v1/human/medical/a/../../profile": false, "/v1/human/medical/%2e%2e": false,
		"/v1/human/sources": true, "/v1/human/s/s": false, "/v1/human/sources\n": false, "v1/human/sources": false,
		"/v1/human/medical//x": false, "/v1/human/medical/x?y": false, "": false,
	} {
		q := policy.Query{Caller: peer.Caller{UID: 33}, Listener: "private", ClientID: shop.ClientID, Grant: api.GrantProxy, Path: path}
		if got := p.Decide(q).Allowed; got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}

func TestRate(t *testing.T) {
	now := time.Unix(1000, 0)
	r, wide := web(), web()
	r.PerSecond, r.Burst = 2, 3
	wide.Name = "wide"
	p, err := policy.New(policy.Config{Rules: []policy.Rule{r, wide}, Apps: apps, Ceilings: ceilings, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	q := policy.Query{Caller: peer.Caller{UID: 33}, Listener: "public", ClientID: shop.ClientID, Grant: api.GrantExchange}
	for i := range 3 {
		if d := p.Decide(q); !d.Allowed {
			t.Fatalf("request %d is refused", i)
		}
	}
	for range 5 { // a refusal draws nothing, and the next rule lends nothing
		if d := p.Decide(q); d.Allowed || d.RetryAfter != 500*time.Millisecond || d.Rule != "web" {
			t.Fatalf("got %+v", d)
		}
	}
	now = now.Add(500 * time.Millisecond)
	if d := p.Decide(q); !d.Allowed {
		t.Fatalf("got %+v", d)
	}
}

func TestManyUIDsAreForgotten(t *testing.T) {
	r := web()
	r.Users, r.Groups, r.PerSecond = nil, []uint32{5}, 1000
	now := time.Unix(1000, 0)
	p, err := policy.New(policy.Config{Rules: []policy.Rule{r}, Apps: apps, Ceilings: ceilings, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for uid := range uint32(20000) {
		now = now.Add(time.Millisecond)
		q := policy.Query{Caller: peer.Caller{UID: uid, GID: 5}, Listener: "public", ClientID: shop.ClientID, Grant: api.GrantExchange}
		if !p.Decide(q).Allowed {
			t.Fatal("a first request is refused")
		}
	}
	if n := p.Buckets(); n > 4100 {
		t.Fatalf("%d buckets are kept", n)
	}
}

var ceilings = map[string][]api.Grant{
	"public": {api.GrantExchange, api.GrantLookup, api.GrantPublicToken}, "admin": {api.GrantAdmin, api.GrantAdminRead, api.GrantMetrics},
	"private": {api.GrantExchange, api.GrantLookup, api.GrantAccessToken, api.GrantProxy},
}

func build(t testing.TB, rules ...policy.Rule) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Config{Rules: rules, Apps: apps, Ceilings: ceilings})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// slowly is the policy once more, written as the rules are stated.
func slowly(rules []policy.Rule, q policy.Query) (bool, string) {
	c := q.Caller
	if !slices.Contains(ceilings[q.Listener], q.Grant) || (c.Contained && q.Grant.IsAdmin()) {
		return false, ""
	}
	exists := slices.ContainsFunc(apps, func(a policy.App) bool { return a.ClientID == q.ClientID })
	if !exists && !(q.ClientID == "" && q.Grant.IsAdmin()) {
		return false, ""
	}
	if q.Listener == "admin" && c.UID == 0 && !c.Contained {
		return true, "root"
	}
	for _, r := range rules {
		user := len(r.Users) == 0 || c.UID != 65534 && slices.Contains(r.Users, c.UID)
		group := len(r.Groups) == 0
		for _, g := range append([]uint32{c.GID}, c.Groups...) {
			group = group || g != 65534 && slices.Contains(r.Groups, g)
		}
		unit := len(r.Units) == 0
		for _, u := range r.Units {
			unit = unit || u == c.Unit || u == "b-*.service" && c.Unit == "b-1.service" || u == "*.scope" && strings.HasSuffix(c.Unit, ".scope")
		}
		data := q.Grant == api.GrantAccessToken || q.Grant == api.GrantProxy
		if data && !c.Proven && len(r.Units) > 0 && len(r.Users)+len(r.Groups) == 0 {
			continue
		}
		app := slices.ContainsFunc(r.Apps, func(a policy.App) bool { return a.ClientID == q.ClientID }) ||
			q.Grant.IsAdmin() && (len(r.Apps) == 0 || q.ClientID == "")
		path := q.Grant != api.GrantProxy
		for _, p := range r.Paths {
			path = path || p == "/all/**" && strings.HasPrefix(q.Path, "/all/") || p == q.Path
		}
		if user && group && unit && app && path && (!c.Contained || r.Contained) && slices.Contains(r.Grants, q.Grant) {
			return true, r.Name
		}
	}
	return false, ""
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func some[T any](r *rand.Rand, from []T) (out []T) {
	for _, v := range from {
		if r.IntN(3) == 0 {
			out = append(out, v)
		}
	}
	return out
}

func randomRules(r *rand.Rand, ids []uint32) (rules []policy.Rule) {
	for i := range 1 + r.IntN(4) {
		rule := policy.Rule{
			Name: fmt.Sprint(i), Users: some(r, ids), Groups: some(r, ids), Contained: r.IntN(2) == 0,
			Units: some(r, []string{"a.service", "b-*.service", "*.scope"}[:2+r.IntN(2)]), Apps: some(r, apps), Grants: append(some(r, api.Grants), pick(r, api.Grants)),
		}
		if slices.Contains(rule.Grants, api.GrantProxy) {
			rule.Paths = []string{pick(r, []string{"/all/**", "/one"})}
		}
		if len(rule.Users)+len(rule.Groups) == 0 && (len(rule.Units) == 0 || slices.Contains(rule.Units, "*.scope")) {
			rule.Users = []uint32{pick(r, ids)}
		}
		if len(rule.Apps) == 0 && slices.ContainsFunc(rule.Grants, func(g api.Grant) bool { return !g.IsAdmin() }) {
			rule.Apps = []policy.App{pick(r, apps)}
		}
		rules = append(rules, rule)
	}
	return rules
}

var units = []string{"", "a.service", "b-1.service", "c.scope"}

// TestAgreesWithASlowEvaluator compares 20,000 random policies, several
// requests each.
func TestAgreesWithASlowEvaluator(t *testing.T) {
	ids := []uint32{0, 1, 2, 65534}
	allowed := 0
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := randomRules(r, ids)
		p := build(t, rules...)
		for range 8 {
			q := policy.Query{
				Caller:   peer.Caller{UID: pick(r, ids), GID: pick(r, ids), Groups: some(r, ids), Contained: r.IntN(4) == 0, Proven: r.IntN(2) == 0, Unit: pick(r, units)},
				Listener: pick(r, []string{"public", "private", "admin", "none"}), Grant: pick(r, api.Grants),
				ClientID: pick(r, []user.ClientID{shop.ClientID, gym.ClientID, bank.ClientID, "", "none"}), Path: pick(r, []string{"/all/x", "/one", "/two"}),
			}
			want, rule := slowly(rules, q)
			d := p.Decide(q)
			if d.Allowed != want || d.Rule != rule {
				t.Fatalf("seed %d: got %+v, want %v by %q\n%+v\n%+v", seed, d, want, rule, q, rules)
			}
			if want {
				allowed++
			}
			checkApps(t, p, rules, q)
			checkExplained(t, p, q, d)
		}
	}
	if allowed < 2000 {
		t.Fatalf("only %d of the requests were allowed: the test is weak", allowed)
	}
}

func checkApps(t *testing.T, p *policy.Policy, rules []policy.Rule, q policy.Query) {
	t.Helper()
	if q.Grant == api.GrantProxy {
		return // needs a path
	}
	var want []policy.App
	for _, a := range apps {
		one := q
		one.ClientID = a.ClientID
		if ok, _ := slowly(rules, one); ok {
			want = append(want, a)
		}
	}
	if got := p.Apps(q.Caller, q.Listener, q.Grant); !slices.Equal(got, want) {
		t.Fatalf("apps: got %v, want %v", got, want)
	}
	only, n := p.View(q.Caller, q.Listener).Only(q.Grant)
	if n != min(len(want), 2) || n == 1 && only != want[0] {
		t.Fatalf("only: got %v of %d, want %v", only, n, want)
	}
}
