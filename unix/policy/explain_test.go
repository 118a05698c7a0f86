package policy_test

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// checkExplained holds everything that explains to what was decided.
func checkExplained(t *testing.T, p *policy.Policy, q policy.Query, d policy.Decision) {
	t.Helper()
	if q.ClientID != "" || q.Grant.IsAdmin() { // else Explain takes the one app there is
		if e := p.Explain(q); e.Allowed != d.Allowed || e.Rule != d.Rule || e.App != d.App || e.Reason == "" || e.Allowed && e.Suggestion != "" {
			t.Fatalf("explained is %+v, decided was %+v\n%+v", e, d, q)
		}
	}
	if got, rule := held(p.WhoCan(q.Grant), q, d.App); got != d.Allowed && (q.ClientID == "" || d.App != "") || got && d.Rule != rule {
		t.Fatalf("who-can says %v by %q, decided was %+v\n%+v", got, rule, d, q)
	}
	checkSuggested(t, p, q, d)
}

// held asks a list of holders, as its reader would: it knows nothing of rules.
func held(w api.WhoCan, q policy.Query, app string) (bool, string) {
	for _, h := range w.Holders {
		c := q.Caller
		in := func(list []string, ids ...uint32) bool {
			return len(list) == 0 || slices.ContainsFunc(ids, func(id uint32) bool { return slices.Contains(list, fmt.Sprint(id)) })
		}
		unit := len(h.Units) == 0 || slices.ContainsFunc(h.Units, func(glob string) bool {
			ok, _ := path.Match(glob, c.Unit)
			return ok && c.Unit != ""
		})
		way := len(h.Paths) == 0 || slices.ContainsFunc(h.Paths, func(p string) bool {
			return p == q.Path || strings.HasSuffix(p, "/**") && strings.HasPrefix(q.Path, strings.TrimSuffix(p, "**"))
		})
		listener := slices.Contains(h.Listeners, q.Listener)
		if in(h.Users, c.UID) && in(h.Groups, append([]uint32{c.GID}, c.Groups...)...) && unit && way && listener &&
			(!c.Contained || h.Contained) && (!h.Proven || c.Proven) &&
			(slices.Contains(h.Apps, app) || q.Grant.IsAdmin() && q.ClientID == "") {
			return true, h.Rule
		}
	}
	return false, ""
}

// checkSuggested: a suggestion added to the rules allows what was refused, and
// nothing that differs from it in one condition.
func checkSuggested(t *testing.T, p *policy.Policy, q policy.Query, d policy.Decision) {
	t.Helper()
	r, err := p.Suggest(q)
	if d.Allowed && err == nil {
		t.Fatal("a rule is suggested for what is allowed")
	}
	if err != nil {
		return
	}
	alone := build(t, r)
	if got := alone.Decide(q); !got.Allowed || got.Rule != r.Name {
		t.Fatalf("the suggestion does not allow it: %+v\n%+v", r, q)
	}
	for name, other := range neighbours(q) {
		if alone.Decide(other).Allowed {
			t.Fatalf("the suggestion allows another %s: %+v", name, r)
		}
	}
}

func neighbours(q policy.Query) map[string]policy.Query {
	out := map[string]policy.Query{}
	vary := func(name string, change func(*policy.Query)) {
		n := q
		change(&n)
		out[name] = n
	}
	vary("uid", func(n *policy.Query) { n.Caller.UID = 4711 })
	if q.Caller.Unit != "" {
		vary("unit", func(n *policy.Query) { n.Caller.Unit = "other.service" })
	}
	if !q.Caller.Contained {
		vary("containment", func(n *policy.Query) { n.Caller.Contained = true })
	}
	if q.ClientID == shop.ClientID {
		vary("app", func(n *policy.Query) { n.ClientID = gym.ClientID })
	}
	for _, g := range api.Grants {
		if g != q.Grant {
			vary("grant", func(n *policy.Query) { n.Grant = g })
		}
	}
	if q.Grant == api.GrantProxy {
		vary("path", func(n *policy.Query) { n.Path = q.Path + "/x" })
	}
	return out
}

// TestSuggestionPastes: what is suggested is TOML that says the same.
func TestSuggestionPastes(t *testing.T) {
	q := policy.Query{
		Caller: peer.Caller{UID: 33, Unit: `shop\x2dweb.service`, Contained: true}, Listener: "private",
		ClientID: shop.ClientID, Grant: api.GrantProxy, Path: `/v1/human/"a"`,
	}
	var read struct {
		Rule []struct {
			Name, Unknown              string
			Users                      []uint32
			Units, Apps, Grants, Paths []string
			Contained                  bool
		}
	}
	e := build(t, web()).Explain(q)
	if err := toml.Unmarshal([]byte(e.Suggestion), &read); err != nil || len(read.Rule) != 1 {
		t.Fatalf("not one rule: %v\n%s", err, e.Suggestion)
	}
	r := read.Rule[0]
	if r.Name != "uid-33-proxy" || !slices.Equal(r.Users, []uint32{33}) || !slices.Equal(r.Units, []string{q.Caller.Unit}) || !r.Contained ||
		!slices.Equal(r.Apps, []string{"shop"}) || !slices.Equal(r.Grants, []string{"proxy"}) || !slices.Equal(r.Paths, []string{q.Path}) {
		t.Fatalf("got\n%s", e.Suggestion)
	}
	rated := policy.Rule{Name: "a\"\x01b", PerSecond: 0.5, Burst: 2}.TOML()
	var one map[string][]map[string]any
	if err := toml.Unmarshal([]byte(rated), &one); err != nil || one["rule"][0]["name"] != "a\"\x01b" {
		t.Fatalf("not TOML: %v\n%s", err, rated)
	}
}

// TestNoSuggestion: the reasons why no rule would help, or none that is narrow.
func TestNoSuggestion(t *testing.T) {
	uid, _ := peer.Overflow()
	for want, change := range map[string]func(*policy.Query){
		"no such grant":         func(q *policy.Query) { q.Grant = "everything" },
		"no socket":             func(q *policy.Query) { q.Listener = "none" },
		"it can be had on priv": func(q *policy.Query) { q.Grant = api.GrantAccessToken },
		"no socket has it":      func(q *policy.Query) { q.Grant = api.GrantForget },
		"cannot express":        func(q *policy.Query) { q.Caller.UID = uid },
		"in a container":        func(q *policy.Query) { q.Caller.Contained, q.Listener, q.Grant = true, "admin", api.GrantAdmin },
		"for which app":         func(q *policy.Query) { q.ClientID = "" },
		"no such app":           func(q *policy.Query) { q.ClientID = "none" },
		"glob":                  func(q *policy.Query) { q.Caller.Unit = "*.service" },
		"stands for more":       func(q *policy.Query) { q.Listener, q.Grant, q.Path = "private", api.GrantProxy, "/a*" },
		"must begin with /":     func(q *policy.Query) { q.Listener, q.Grant, q.Path = "private", api.GrantProxy, "/a/../b" },
		"matches none":          func(q *policy.Query) { q.Caller.Unit = "x.slice" },
		"rule web allows it":    func(q *policy.Query) { q.Caller.UID = 33 },
	} {
		q := policy.Query{Caller: peer.Caller{UID: 34}, Listener: "public", ClientID: shop.ClientID, Grant: api.GrantExchange}
		change(&q)
		p := build(t, web())
		if _, err := p.Suggest(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
		if e := p.Explain(q); e.Suggestion != "" && q.ClientID != "" {
			t.Errorf("%s: explained with a suggestion", want)
		}
	}
}

// TestExplainSays: the sentence names the first obstacle, the rules what each lacks.
func TestExplainSays(t *testing.T) {
	a, b := web(), web()
	b.Name, b.Users, b.Units, b.Grants = "b", nil, []string{"shop-*.service"}, []api.Grant{api.GrantAccessToken, api.GrantAdmin}
	p := build(t, a, b)
	unit := peer.Caller{UID: 34, Unit: "shop-1.service"}
	for _, c := range []struct {
		caller   peer.Caller
		listener string
		app      policy.App
		grant    api.Grant
		failed   [2]string
		reason   string
	}{
		{unit, "private", shop, api.GrantAccessToken, [2]string{"users grants", "proof"}, "b comes closest, and lacks: proof"},
		{peer.Caller{UID: 34, Unit: "shop-1.service", Proven: true}, "private", shop, api.GrantAccessToken, [2]string{"users grants", ""}, "rule b is the first"},
		{unit, "public", shop, api.GrantAccessToken, [2]string{"users grants", "proof"}, "it can be had on private"},
		{peer.Caller{UID: 33, Contained: true}, "public", gym, api.GrantExchange, [2]string{"contained apps", "units contained apps grants"}, "web comes closest"},
		{peer.Caller{UID: 33, Unit: "shop-1.service", Contained: true}, "admin", policy.App{}, api.GrantAdmin, [2]string{"contained grants", "contained"}, "never has a right"},
		{unit, "admin", policy.App{}, api.GrantAdmin, [2]string{"users grants", ""}, "for some apps only"},
		{peer.Caller{}, "admin", policy.App{}, api.GrantAdmin, [2]string{"users grants", "units"}, "uid 0 has everything"},
		{unit, "none", shop, api.GrantExchange, [2]string{"users", "grants"}, "no socket of that name"},
	} {
		e := p.Explain(policy.Query{Caller: c.caller, Listener: c.listener, ClientID: c.app.ClientID, Grant: c.grant})
		var failed [2]string
		for i, r := range e.Rules {
			failed[i] = strings.Join(r.Failed, " ")
			if r.Matches != (failed[i] == "") {
				t.Errorf("rule %s matches and fails", r.Rule)
			}
		}
		if failed != c.failed || !strings.Contains(e.Reason, c.reason) {
			t.Errorf("%+v: got %q, %q", c, failed, e.Reason)
		}
	}
	if e := p.Explain(policy.Query{Caller: peer.Caller{UID: 33}, Listener: "public", Grant: api.GrantExchange}); !e.Allowed || e.App != "shop" {
		t.Errorf("the one app is not taken: %+v", e)
	}
}

// TestUnits: globs as written, a backslash for itself, and an unknown unit nothing.
func TestUnits(t *testing.T) {
	for _, c := range []struct {
		glob, unit string
		want       bool
	}{
		{"shop.service", "shop.service", true}, {"shop.service", "shop.service.service", false}, {"shop.service", "Shop.service", false},
		{"shop@*.service", "shop@eu-1.service", true}, {"shop-?.service", "shop-1.service", true}, {"shop-?.service", "shop-10.service", false},
		{"shop-[0-2].service", "shop-2.service", true}, {"shop-[^0-2].service", "shop-2.service", false},
		{`a\x2db.service`, `a\x2db.service`, true}, {`a\x2db.service`, "ax2db.service", false}, {`a\x2d*.service`, `a\x2dz.service`, true},
		{"s*", "session-c1.scope", true}, {"s*", "", false}, {"s*", "x/s.service", false}, {"a*[a-z]", "ab.scope", true},
	} {
		r := web()
		r.Units = []string{c.glob}
		if got := build(t, r).Known(peer.Caller{UID: 33, Unit: c.unit}, "public"); got != c.want {
			t.Errorf("%q, %q: got %v", c.glob, c.unit, got)
		}
	}
}

func TestNotes(t *testing.T) {
	for glob, want := range map[string]bool{
		"user@*.service": true, "user@1000.service": true, "u*": true, "user@100[1-5].service": true, "*[0-9].service": true,
		"shop.service": false, "*-web.service": false, "user@*.scope": false, "users.service": false, "user-*.service": false,
	} {
		r := web()
		r.Units = []string{glob}
		if got := build(t, r).Notes(); (len(got) == 1) != want {
			t.Errorf("%s: got %v", glob, got)
		}
	}
}

// TestAnyUnit: without users and groups, what tells no unit from another is everybody,
// however it is written.
func TestAnyUnit(t *testing.T) {
	for glob, everybody := range map[string]bool{
		"*": true, "*.service": true, "????.scope": true, "*service": true, "*e": true, "*.s*": true, "*pe": true,
		"[a-z]*": true, "[^_]*": true, "[^@]*.service": true, "*[a-z].scope": true,
		"shop*": false, "s*": false, "[ab]*.service": false, "*-web.service": false, "shop@*.service": false, "*[0-9].service": false,
	} {
		r := web()
		r.Users, r.Units = nil, []string{glob}
		_, err := policy.New(policy.Config{Rules: []policy.Rule{r}, Apps: apps})
		if (err != nil) != everybody {
			t.Errorf("%q: got %v", glob, err)
		}
	}
}

// TestSessionNotes: the session of a login is everybody's who may log in.
func TestSessionNotes(t *testing.T) {
	for glob, want := range map[string]bool{"session-*.scope": true, "s*": true, "session-1.scope": true, "shop*": false, "session-web.service": false} {
		r := web()
		r.Units = []string{glob}
		if got := build(t, r).Notes(); len(got) != 0 {
			t.Errorf("%q beside a user: got %q", glob, got)
		}
		r.Users = nil
		if got := build(t, r).Notes(); (len(got) == 1) != want {
			t.Errorf("%q: got %q", glob, got)
		}
	}
}

// FuzzUnit: a glob that is taken can match a unit that processes live in, and
// matching never fails.
func FuzzUnit(f *testing.F) {
	for _, s := range []string{"shop.service", "shop@*.service", "*", "[a-z]x.scope", `a\x2d[\].service`, "[]].service", "a[^-].service", "shop.service[e]", "s-[", ".service"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, glob string) {
		r := web()
		r.Units = []string{glob}
		p, err := policy.New(policy.Config{Rules: []policy.Rule{r}, Apps: apps})
		if err != nil {
			return
		}
		if p.Known(peer.Caller{UID: 33}, "public") {
			t.Fatal("an unknown unit matches")
		}
		plain := !strings.ContainsAny(glob, "*?[")
		if p.Known(peer.Caller{UID: 33, Unit: glob}, "public") != plain && plain {
			t.Fatalf("%q does not match itself", glob)
		}
		if plain && !strings.HasSuffix(glob, ".service") && !strings.HasSuffix(glob, ".scope") {
			t.Fatalf("%q names no unit of processes", glob)
		}
		p.Notes()
		random := rand.New(rand.NewPCG(1, uint64(len(glob))))
		for range 3 {
			p.Known(peer.Caller{UID: 33, Unit: pick(random, units) + glob}, "public")
		}
	})
}
