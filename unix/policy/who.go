package policy

import (
	"maps"
	"slices"
	"strconv"

	"github.com/tokenvault/tokenvault/unix/api"
)

// WhoCan lists the rules by which somebody can have the grant, on the sockets
// whose ceiling has it. A caller is allowed exactly when one of the holders has it,
// with app and path; a rule that can allow nobody is no holder.
func (p *Policy) WhoCan(g api.Grant) api.WhoCan {
	out := api.WhoCan{Grant: string(g), Holders: []api.Holder{}}
	listeners := p.listenersWith(g)
	if len(listeners) == 0 {
		return out
	}
	if p.ceilings[AdminListener].has(g) && !p.overflow.user(0) {
		out.Holders = append(out.Holders, api.Holder{
			Rule: RootRule, Users: []string{"0"}, Groups: []string{}, Units: []string{}, Apps: names(p.apps),
			Paths: everyPath(g), Listeners: []string{AdminListener},
		})
	}
	for _, r := range p.rules {
		if h, ok := r.holder(p, g); ok {
			h.Listeners = listeners
			out.Holders = append(out.Holders, h)
		}
	}
	return out
}

// listenersWith are the sockets whose ceiling has the grant, sorted.
func (p *Policy) listenersWith(g api.Grant) []string {
	out := []string{}
	for _, name := range slices.Sorted(maps.Keys(p.ceilings)) {
		if p.ceilings[name].has(g) {
			out = append(out, name)
		}
	}
	return out
}

// everyPath is what uid 0 of the admin socket has, should its ceiling have proxy.
func everyPath(g api.Grant) []string {
	if g == api.GrantProxy {
		return []string{"/**"}
	}
	return []string{}
}

// holder leaves overflow ids out, which match nobody: a list of nothing else makes
// the rule match nobody, and not everybody.
func (r *rule) holder(p *Policy, g api.Grant) (api.Holder, bool) {
	h := api.Holder{
		Rule: r.name, Users: numbers(r.users, p.overflow.user), Groups: numbers(r.groups, p.overflow.group),
		Units: append([]string{}, r.globs...), Contained: r.contained && !g.IsAdmin(), Proven: r.wantsProof(g),
		Apps: names(r.apps), Paths: []string{},
	}
	if g.IsAdmin() && len(r.apps) == 0 {
		h.Apps = names(p.apps)
	}
	if g == api.GrantProxy {
		h.Paths = append(h.Paths, r.patterns...)
	}
	nobody := len(h.Users) == 0 && len(r.users) > 0 || len(h.Groups) == 0 && len(r.groups) > 0
	return h, r.grants.has(g) && !nobody
}

func numbers(ids []uint32, nobody func(uint32) bool) []string {
	out := []string{}
	for _, id := range ids {
		if !nobody(id) {
			out = append(out, strconv.FormatUint(uint64(id), 10))
		}
	}
	return out
}
