package policy

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
)

// Explain says what the rules make of q, and why. A client grant without an app is
// for the one app that the caller holds it for, as the server takes it, or that
// there is; q is not checked beyond that. It looks no names up: Caller.User is left empty.
//
// A GET or POST that is about all apps at once takes more than Explain asks for:
// the grant for every app. Reason says when a caller holds it for some only.
func (p *Policy) Explain(q Query) api.Explanation {
	v := p.View(q.Caller, q.Listener)
	only, apps := v.Only(q.Grant)
	switch {
	case q.ClientID != "" || q.Grant.IsAdmin():
	case apps == 1:
		q.ClientID = only.ClientID
	case apps == 0 && len(p.apps) == 1: // which is refused
		q.ClientID = p.apps[0].ClientID
	}
	d, _ := v.decide(q.ClientID, q.Grant, q.Path)
	e := api.Explanation{
		Allowed: d.Allowed, Rule: d.Rule, Listener: q.Listener, Grant: string(q.Grant), App: d.App, Path: q.Path,
		InCeiling: v.ceiling.has(q.Grant), Caller: callerText(q), Rules: []api.RuleVerdict{},
	}
	for _, r := range p.rules {
		f := r.verdict(p, q)
		e.Rules = append(e.Rules, api.RuleVerdict{Rule: r.name, Matches: f == 0, Failed: f.words()})
	}
	if e.Allowed {
		e.Reason = v.allowedBecause(q, d)
		return e
	}
	e.Reason = p.refusedBecause(q, d, apps)
	if r, err := p.Suggest(q); err == nil {
		e.Suggestion = r.TOML()
	}
	return e
}

func callerText(q Query) api.CallerText {
	c := q.Caller
	return api.CallerText{UID: c.UID, GID: c.GID, Groups: append([]uint32{}, c.Groups...), Unit: c.Unit, Contained: c.Contained, Proven: c.Proven}
}

// verdict is all that the rule has against q.
func (r *rule) verdict(p *Policy, q Query) failures {
	return r.caller(q.Caller, p.overflow) | r.request(q.Caller, q.ClientID, q.Grant, q.Path)
}

func (v *View) allowedBecause(q Query, d Decision) string {
	if d.Rule == RootRule {
		return fmt.Sprintf("uid 0 has everything that the ceiling of the socket %s leaves", q.Listener)
	}
	if q.Grant.IsAdmin() && q.ClientID == "" && len(v.Apps(q.Grant)) < len(v.policy.apps) {
		return fmt.Sprintf("rule %s has it, for some apps only: what is about all apps is refused", d.Rule)
	}
	return fmt.Sprintf("rule %s is the first of which every condition holds, and the ceiling of the socket %s has the grant", d.Rule, q.Listener)
}

// refusedBecause names the first obstacle: what no rule could change comes before
// the rules. apps is for how many the caller holds the grant, counted to 2.
func (p *Policy) refusedBecause(q Query, d Decision, apps int) string {
	switch ceiling, known := p.ceilings[q.Listener]; {
	case bit(q.Grant) == 0:
		return "there is no such grant"
	case !known:
		return "there is no socket of that name"
	case !ceiling.has(q.Grant):
		return fmt.Sprintf("the ceiling of the socket %s does not have %s, whatever the rules say%s", q.Listener, q.Grant, p.elsewhere(q.Grant))
	case q.Caller.Contained && q.Grant.IsAdmin():
		return "a caller in a container never has a right of the admin socket"
	case q.ClientID == "" && !q.Grant.IsAdmin() && apps > 1:
		return "the caller holds the grant for more than one app, and has to say which"
	case d.App == "" && q.ClientID != "":
		return "there is no app with that client id"
	case q.Grant == api.GrantProxy && !canonical(q.Path):
		return "the path can be read in more than one way: such a path is never allowed"
	}
	return p.closest(q)
}

// elsewhere names the sockets that do have the grant.
func (p *Policy) elsewhere(g api.Grant) string {
	names := p.listenersWith(g)
	if len(names) == 0 {
		return "; no socket has it"
	}
	return "; it can be had on " + strings.Join(names, ", ")
}

// closest is the rule with the fewest conditions that do not hold, the first of
// several.
func (p *Policy) closest(q Query) string {
	best, fewest := "", 100
	for _, r := range p.rules {
		f := r.verdict(p, q)
		if n := bits.OnesCount8(uint8(f)); n < fewest {
			best, fewest = fmt.Sprintf("no rule, alone, has all of it; %s comes closest, and lacks: %s", r.name, strings.Join(f.words(), ", ")), n
		}
	}
	if best == "" {
		return "there are no rules"
	}
	return best
}
