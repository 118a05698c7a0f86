package config

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// Policy compiles the rules and ceilings. now is the clock of the rate limits;
// nil is time.Now.
func (c *Config) Policy(now func() time.Time) (*policy.Policy, error) {
	p := policy.Config{Apps: c.PolicyApps(), Ceilings: map[string][]api.Grant{}, Now: now}
	byName := map[string]policy.App{}
	for _, a := range p.Apps {
		byName[a.Name] = a
	}
	for _, l := range c.Listeners {
		p.Ceilings[l.Name] = l.Grants()
	}
	for _, r := range c.Rules {
		p.Rules = append(p.Rules, r.compile(byName))
	}
	return policy.New(p)
}

func (r Rule) compile(apps map[string]policy.App) policy.Rule {
	out := policy.Rule{
		Name: r.Name, Users: r.uids, Groups: r.gids, Units: r.Units, Contained: r.Contained,
		Grants: grants(r.Grants), Paths: r.Paths, PerSecond: r.Rate.PerSecond, Burst: r.Rate.Burst,
	}
	for _, name := range r.Apps {
		out.Apps = append(out.Apps, apps[name])
	}
	return out
}

// PolicyApps are the apps as the policy and the server know them.
func (c *Config) PolicyApps() []policy.App {
	out := make([]policy.App, len(c.Apps))
	for i, a := range c.Apps {
		out[i] = policy.App{Name: a.Name, ClientID: user.ClientID(a.ClientID)}
	}
	return out
}

// ClientIDs lists the apps' ids in the order of the file.
func (c *Config) ClientIDs() []user.ClientID {
	out := make([]user.ClientID, len(c.Apps))
	for i, a := range c.Apps {
		out[i] = user.ClientID(a.ClientID)
	}
	return out
}

// Grants is the listener's ceiling.
func (l Listener) Grants() []api.Grant { return grants(l.Ceiling) }

// idle are the grants that this version has no endpoint for. A ceiling may name
// them: it only takes away.
var idle = []api.Grant{api.GrantConnectSession, api.GrantConnectID, api.GrantWebhook, api.GrantProxy, api.GrantForget, api.GrantMetrics}

// served: it gives an app something that this version has an endpoint for.
func (r Rule) served() bool {
	return slices.ContainsFunc(r.Grants, func(g string) bool { return !api.Grant(g).IsAdmin() && !slices.Contains(idle, api.Grant(g)) })
}

// Notes says what is in order and does not do what its author may believe.
func (c *Config) Notes() []string {
	var out []string
	for _, r := range c.Rules {
		for _, g := range r.Grants {
			if slices.Contains(idle, api.Grant(g)) {
				out = append(out, fmt.Sprintf("rule %s: grant %s does nothing in this version", r.Name, g))
			}
		}
		if r.Rate.PerSecond == 0 && r.served() {
			out = append(out, fmt.Sprintf("rule %s: it has no rate, so that only limits.audit_per_uid bounds how often its callers ask", r.Name))
		}
	}
	if p, err := c.Policy(nil); err == nil {
		out = append(out, p.Notes()...)
	}
	return out
}

func grants(list []string) []api.Grant {
	out := make([]api.Grant, len(list))
	for i, g := range list {
		out[i] = api.Grant(g)
	}
	return out
}

// compiled lets the policy have its say before anything is started.
func (k *checker) compiled() {
	if _, err := k.Policy(nil); err != nil {
		k.bad("rule", "%v", err)
	}
}

// DiffersBesideRules lists the keys at the top of the file, rules apart, in which
// next is another configuration.
func (c *Config) DiffersBesideRules(next *Config) []string {
	var out []string
	t := reflect.TypeFor[Config]()
	a, b := reflect.ValueOf(*c), reflect.ValueOf(*next)
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("toml")
		if name != "" && name != "rule" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			out = append(out, name)
		}
	}
	return out
}
