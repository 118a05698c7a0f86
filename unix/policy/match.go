package policy

import (
	"path"
	"slices"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
)

// failures are the conditions of a rule that do not hold, in the order of
// api.Conditions; 0: all hold. It is the one answer that decisions and
// explanations are made of.
type failures uint8

const (
	failUsers failures = 1 << iota
	failGroups
	failUnits
	failContained
	failApps
	failGrants
	failPaths
	failProof
)

// words are the failures for people. Never nil.
func (f failures) words() []string {
	out := []string{}
	for i, word := range api.Conditions {
		if f&(1<<i) != 0 {
			out = append(out, word)
		}
	}
	return out
}

// caller holds the rule to who asks.
func (r *rule) caller(c peer.Caller, o overflow) (f failures) {
	if len(r.users) > 0 && (o.user(c.UID) || !slices.Contains(r.users, c.UID)) {
		f |= failUsers
	}
	if len(r.groups) > 0 && !r.matchesGroup(c.GID, o) &&
		!slices.ContainsFunc(c.Groups, func(g uint32) bool { return r.matchesGroup(g, o) }) {
		f |= failGroups
	}
	if len(r.units) > 0 && !r.matchesUnit(c.Unit) {
		f |= failUnits
	}
	if c.Contained && !r.contained {
		f |= failContained
	}
	return f
}

func (r *rule) matchesGroup(g uint32, o overflow) bool {
	return !o.group(g) && slices.Contains(r.groups, g)
}

// matchesUnit: a unit that is not known matches nothing, "*" neither.
func (r *rule) matchesUnit(unit string) bool {
	return unit != "" && slices.ContainsFunc(r.units, func(glob string) bool {
		ok, err := path.Match(glob, unit)
		return ok && err == nil
	})
}

// request holds the rule to what is asked for. It leaves the ceiling to the View.
func (r *rule) request(c peer.Caller, app user.ClientID, g api.Grant, path string) failures {
	f := r.withholds(c, g)
	if !r.hasApp(app, g) {
		f |= failApps
	}
	if g == api.GrantProxy && !r.hasPath(path) {
		f |= failPaths
	}
	return f
}

// withholds says why the rule does not give c the grant, whatever it is asked for
// with: it does not have it, or c is none to get it.
func (r *rule) withholds(c peer.Caller, g api.Grant) failures {
	switch {
	case !r.grants.has(g):
		return failGrants
	case c.Contained && g.IsAdmin():
		return failContained
	case !c.Proven && r.wantsProof(g):
		return failProof
	}
	return 0
}

// wantsProof: the unit is all that the rule knows its callers by, and the grant
// shows health data. A unit that was read before the process was shown to be the
// same may be that of another one, with the same pid.
func (r *rule) wantsProof(g api.Grant) bool {
	return len(r.units) > 0 && len(r.users) == 0 && len(r.groups) == 0 && provenGrants.has(g)
}

// given are the grants that the rule does not withhold.
func (r *rule) given(c peer.Caller) (out grantSet) {
	for _, g := range api.Grants {
		if r.withholds(c, g) == 0 {
			out |= bit(g)
		}
	}
	return out
}
