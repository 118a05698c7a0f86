// Package policy decides who may do what: rules that the operator wrote, under
// the ceilings of the sockets.
//
// It trusts the caller's identity as unix/peer read it from the kernel, and the
// rules as they were compiled. A request is allowed when one rule, alone, has
// the caller, the app, the grant and (for the proxy) the path, and the socket's
// ceiling has the grant: rules never lend each other parts. It never looks
// names up, never reads a request, and keeps no state but rate buckets.
//
// One evaluator, in match.go, says which conditions of a rule do not hold. What
// decides requests ([View]) and what explains decisions ([Policy.Explain],
// [Policy.WhoCan], [Policy.Suggest]) both ask it, so that an explanation cannot
// drift from what happens.
package policy

import (
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
)

// AdminListener is the name of the socket on which uid 0 has all of the ceiling.
const AdminListener = "admin"

// RootRule stands in decisions that no rule made: uid 0 on the admin socket.
const RootRule = "root"

// App is one Human API application.
type App struct {
	Name     string // required
	ClientID user.ClientID
}

// Rule lets some callers do some things. All given conditions must hold; within
// a list any item may match.
type Rule struct {
	Name   string   // required, unique; stands in the audit log
	Users  []uint32 // effective uid; none: no condition
	Groups []uint32 // effective or supplementary gid; none: no condition
	// Units are globs of the system manager's units; none: no condition. As in
	// path.Match, "*" is any characters, "?" one and "[a-c]" one of a class; a
	// backslash stands for itself, because escaped unit names have it
	// (systemd.unit(5), "\x2d" for "-"). "user@1000.service" is a user's own manager
	// as a whole: whatever that user starts in it.
	//
	// A rule with units and neither users nor groups does not give access-token or
	// proxy to a caller whose unit is not proven ([peer.Caller].Proven): before Linux
	// 6.5 none is.
	Units     []string
	Contained bool        // also callers in a container
	Apps      []App       // required unless all grants are of the admin socket, where none means all apps
	Grants    []api.Grant // required
	Paths     []string    // required with the grant proxy, refused without: "*" within a segment, "**" across
	PerSecond float64     // requests per second, rule and uid; 0: no limit, and then Burst must be 0 too
	Burst     int         // 0: PerSecond, rounded up
}

// Config is what a Policy is made of. It is not kept.
type Config struct {
	Rules    []Rule
	Apps     []App                  // all that exist
	Ceilings map[string][]api.Grant // by listener name; a listener that is not here allows nothing
	Now      func() time.Time       // nil: time.Now
}

// Policy is immutable but for its rate buckets; all methods may be called
// concurrently.
type Policy struct {
	rules    []*rule
	apps     []App
	ceilings map[string]grantSet
	overflow overflow
	buckets  buckets
}

// Query is one request to decide on.
type Query struct {
	Caller   peer.Caller
	Listener string
	ClientID user.ClientID // "" is allowed for admin grants only, and then means no particular app
	Grant    api.Grant
	Path     string // for the grant proxy: canonical, from "/"
}

// Decision is the answer to a Query. When it is not allowed and RetryAfter is
// not 0, a rule would allow it but its rate is used up.
type Decision struct {
	Allowed    bool
	Rule       string // that decided; "" when none did
	App        string // name of the app asked for, "" for none or one that does not exist
	RetryAfter time.Duration
}

// Known reports whether any rule matches the caller, whatever it grants. On the
// admin socket uid 0 is known too, unless it is contained.
func (p *Policy) Known(c peer.Caller, listener string) bool { return p.View(c, listener).Known() }

// Decide answers q; a rule's rate is drawn from only when it allows.
func (p *Policy) Decide(q Query) Decision {
	return p.View(q.Caller, q.Listener).Decide(q.ClientID, q.Grant, q.Path)
}

// Apps returns the apps for which the caller holds the grant, as configured.
func (p *Policy) Apps(c peer.Caller, listener string, g api.Grant) []App {
	return p.View(c, listener).Apps(g)
}

// Rights returns the rules that match the caller, with what the socket's
// ceiling leaves of their grants, and what the caller's containment and proof do.
// A rule of which nothing is left is listed without grants, so that its owner
// sees why.
func (p *Policy) Rights(c peer.Caller, listener string) []api.Right {
	return p.View(c, listener).Rights()
}

// CountApps is how many apps there are, whoever asks.
func (p *Policy) CountApps() int { return len(p.apps) }

// View is what a Policy says about one caller on one socket, worked out once
// for a connection.
type View struct {
	policy   *Policy
	caller   peer.Caller
	listener string
	rules    []*rule // that match the caller
	root     bool
	ceiling  grantSet
}

// View matches the caller against the rules.
func (p *Policy) View(c peer.Caller, listener string) *View {
	v := &View{policy: p, caller: c, listener: listener, ceiling: p.ceilings[listener]}
	v.root = listener == AdminListener && c.UID == 0 && !c.Contained && !p.overflow.user(0)
	for _, r := range p.rules {
		if r.caller(c, p.overflow) == 0 {
			v.rules = append(v.rules, r)
		}
	}
	return v
}

// Policy is the one that v was made of.
func (v *View) Policy() *Policy { return v.policy }

// Known is as [Policy.Known].
func (v *View) Known() bool { return v.root || len(v.rules) > 0 }

// Decide is as [Policy.Decide].
func (v *View) Decide(app user.ClientID, g api.Grant, path string) Decision {
	d, r := v.decide(app, g, path)
	if r != nil {
		d.RetryAfter = v.policy.buckets.draw(r, v.caller.UID)
		d.Allowed = d.RetryAfter == 0
	}
	return d
}

// decide draws from no rate. r is the rule that decides; nil: none does, or uid 0
// of the admin socket is allowed without one.
func (v *View) decide(app user.ClientID, g api.Grant, path string) (d Decision, r *rule) {
	d.App = v.policy.appName(app)
	if !v.ceiling.has(g) || (d.App == "" && (app != "" || !g.IsAdmin())) {
		return d, nil
	}
	if v.root && (g != api.GrantProxy || canonical(path)) {
		d.Allowed, d.Rule = true, RootRule
		return d, nil
	}
	for _, r := range v.rules {
		if r.request(v.caller, app, g, path) == 0 {
			d.Allowed, d.Rule = true, r.name
			return d, r
		}
	}
	return d, nil
}

// AppName is the name of an app that is configured, else "". It says nothing
// about the caller's rights.
func (v *View) AppName(id user.ClientID) string { return v.policy.appName(id) }

// Apps is as [Policy.Apps].
func (v *View) Apps(g api.Grant) []App {
	if !v.ceiling.has(g) {
		return nil
	}
	var out []App
	for _, a := range v.policy.apps {
		if v.holds(a, g) {
			out = append(out, a)
		}
	}
	return out
}

// holds: for some path, where the grant is about one.
func (v *View) holds(a App, g api.Grant) bool {
	return v.root || slices.ContainsFunc(v.rules, func(r *rule) bool { return r.withholds(v.caller, g) == 0 && r.hasApp(a.ClientID, g) })
}

// WantsProof reports whether a rule would allow this if the caller's unit were
// proven: it is about rules that match the caller alone.
func (v *View) WantsProof(app user.ClientID, g api.Grant, path string) bool {
	return v.ceiling.has(g) && v.policy.appName(app) != "" &&
		slices.ContainsFunc(v.rules, func(r *rule) bool { return r.request(v.caller, app, g, path) == failProof })
}

// InCeiling reports whether anybody can have the grant on this socket.
func (v *View) InCeiling(g api.Grant) bool { return v.ceiling.has(g) }

// Rights is as [Policy.Rights].
func (v *View) Rights() []api.Right {
	out := []api.Right{}
	if v.root {
		out = append(out, api.Right{Rule: RootRule, Apps: names(v.policy.apps), Grants: v.ceiling.list()})
	}
	for _, r := range v.rules {
		out = append(out, api.Right{Rule: r.name, Apps: names(r.apps), Grants: (r.given(v.caller) & v.ceiling).list(), Paths: r.patterns})
	}
	return out
}

func (p *Policy) appName(id user.ClientID) string {
	for i := range p.apps {
		if p.apps[i].ClientID == id {
			return p.apps[i].Name
		}
	}
	return ""
}

func names(apps []App) []string {
	out := make([]string, len(apps))
	for i, a := range apps {
		out[i] = a.Name
	}
	return out
}

// Only returns the app for which the caller holds the grant when n is 1; n is
// how many there are, counted to 2.
func (v *View) Only(g api.Grant) (only App, n int) {
	if !v.ceiling.has(g) {
		return App{}, 0
	}
	for _, a := range v.policy.apps {
		if !v.holds(a, g) {
			continue
		}
		if n++; n == 2 {
			return App{}, n
		}
		only = a
	}
	return only, n
}
