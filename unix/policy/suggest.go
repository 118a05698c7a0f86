package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
)

// Suggest returns the narrowest rule that would allow q: the uid, the unit when it
// is known, one app, one grant, one path. It is tried before it is returned, by
// what decides requests. It is a proposal: whether the caller should have this is
// for its reader to say.
//
// The error says why there is none: it is allowed already, or no rule could do it.
// A client grant without an app is for the one app there is.
func (p *Policy) Suggest(q Query) (Rule, error) {
	if q.ClientID == "" && !q.Grant.IsAdmin() && len(p.apps) == 1 {
		q.ClientID = p.apps[0].ClientID
	}
	if d, _ := p.View(q.Caller, q.Listener).decide(q.ClientID, q.Grant, q.Path); d.Allowed {
		return Rule{}, fmt.Errorf("suggest a rule: rule %s allows it already", d.Rule)
	}
	if err := p.beyondRules(q); err != nil {
		return Rule{}, fmt.Errorf("suggest a rule: %w", err)
	}
	r := Rule{Name: p.freeName(q), Users: []uint32{q.Caller.UID}, Contained: q.Caller.Contained, Grants: []api.Grant{q.Grant}}
	if q.Caller.Unit != "" {
		r.Units = []string{q.Caller.Unit}
	}
	if i := slices.IndexFunc(p.apps, func(a App) bool { return a.ClientID == q.ClientID }); i >= 0 {
		r.Apps = []App{p.apps[i]}
	} else {
		r.Apps = slices.Clone(p.apps) // an admin grant about no particular app
	}
	if q.Grant == api.GrantProxy {
		r.Paths = []string{q.Path}
	}
	compiled, err := compile(r, p.apps)
	if err != nil {
		return Rule{}, fmt.Errorf("suggest a rule: %w", err)
	}
	if f := compiled.verdict(p, q); f != 0 {
		return Rule{}, fmt.Errorf("suggest a rule: even the narrowest one lacks: %s", strings.Join(f.words(), ", "))
	}
	return r, nil
}

// beyondRules says why no rule can allow q, or none that is as narrow as q is.
func (p *Policy) beyondRules(q Query) error {
	_, known := p.ceilings[q.Listener]
	switch {
	case bit(q.Grant) == 0:
		return errors.New("there is no such grant")
	case !known:
		return fmt.Errorf("there is no socket %q", q.Listener)
	case !p.ceilings[q.Listener].has(q.Grant):
		return fmt.Errorf("the ceiling of the socket %s does not have %s%s", q.Listener, q.Grant, p.elsewhere(q.Grant))
	case p.overflow.user(q.Caller.UID):
		return fmt.Errorf("uid %d stands for everybody whom the kernel cannot express here: no rule matches it", q.Caller.UID)
	case q.Caller.Contained && q.Grant.IsAdmin():
		return errors.New("a caller in a container never has a right of the admin socket")
	case q.ClientID == "" && !q.Grant.IsAdmin():
		return errors.New("it does not say for which app")
	case q.ClientID != "" && p.appName(q.ClientID) == "":
		return errors.New("there is no such app")
	case strings.ContainsAny(q.Caller.Unit, "*?["):
		return errors.New("the name of the unit is no unit's: a rule would read it as a glob")
	case q.Grant == api.GrantProxy && strings.Contains(q.Path, "*"):
		return errors.New(`the path has a "*", which stands for more in a rule: write it by hand`)
	}
	return nil
}

// freeName is one that no rule has.
func (p *Policy) freeName(q Query) string {
	name := fmt.Sprintf("uid-%d-%s", q.Caller.UID, q.Grant)
	for n := 2; slices.ContainsFunc(p.rules, func(r *rule) bool { return r.name == name }); n++ {
		name = fmt.Sprintf("uid-%d-%s-%d", q.Caller.UID, q.Grant, n)
	}
	return name
}
