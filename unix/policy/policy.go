// Package policy decides who may do what: rules that the operator wrote, under
// the ceilings of the sockets.
//
// It trusts the caller's identity as unix/peer read it from the kernel, and the
// rules as they were compiled. A request is allowed when one rule, alone, has
// the caller, the app, the grant and (for the proxy) the path, and the socket's
// ceiling has the grant: rules never lend each other parts. It never looks
// names up, never reads a request, and keeps no state but rate buckets.
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
	Name      string      // required, unique; stands in the audit log
	Users     []uint32    // effective uid; none: no condition
	Groups    []uint32    // effective or supplementary gid; none: no condition
	Units     []string    // refused: not built yet
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
// ceiling leaves of their grants. A rule of which it leaves nothing is listed
// without grants, so that its owner sees why.
func (p *Policy) Rights(c peer.Caller, listener string) []api.Right {
	return p.View(c, listener).Rights()
}

// CountApps is how many apps there are, whoever asks.
func (p *Policy) CountApps() int { return len(p.apps) }

// View is what a Policy says about one caller on one socket, worked out once
// for a connection.
type View struct {
	policy  *Policy
	uid     uint32
	rules   []*rule
	root    bool
	ceiling grantSet
}

// View matches the caller against the rules.
func (p *Policy) View(c peer.Caller, listener string) *View {
	v := &View{policy: p, uid: c.UID, ceiling: p.ceilings[listener]}
	if c.Contained {
		v.ceiling &^= adminGrants
	}
	v.root = listener == AdminListener && c.UID == 0 && !c.Contained && !p.overflow.user(0)
	for _, r := range p.rules {
		if r.matches(c, p.overflow) {
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
	d := Decision{App: v.policy.appName(app)}
	if !v.ceiling.has(g) || (d.App == "" && (app != "" || !g.IsAdmin())) {
		return d
	}
	if v.root {
		d.Allowed, d.Rule = true, RootRule
		return d
	}
	for _, r := range v.rules {
		if r.allows(app, g, path) {
			d.Rule = r.name
			d.RetryAfter = v.policy.buckets.draw(r, v.uid)
			d.Allowed = d.RetryAfter == 0
			return d
		}
	}
	return d
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
		if v.root || slices.ContainsFunc(v.rules, func(r *rule) bool { return r.grants.has(g) && r.hasApp(a.ClientID, g) }) {
			out = append(out, a)
		}
	}
	return out
}

// Rights is as [Policy.Rights].
func (v *View) Rights() []api.Right {
	out := []api.Right{}
	if v.root {
		out = append(out, api.Right{Rule: RootRule, Apps: names(v.policy.apps), Grants: v.ceiling.list()})
	}
	for _, r := range v.rules {
		out = append(out, api.Right{Rule: r.name, Apps: names(r.apps), Grants: (r.grants & v.ceiling).list(), Paths: r.patterns})
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
		if !v.root && !slices.ContainsFunc(v.rules, func(r *rule) bool { return r.grants.has(g) && r.hasApp(a.ClientID, g) }) {
			continue
		}
		if n++; n == 2 {
			return App{}, n
		}
		only = a
	}
	return only, n
}
