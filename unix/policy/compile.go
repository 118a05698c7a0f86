package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
)

// maxName is the longest rule name: it stands in every line of the audit log.
const maxName = 64

// New checks and compiles the rules. It refuses a rule that could match more or
// less than its author can have meant; the error names the rule and the reason.
func New(c Config) (*Policy, error) {
	p := &Policy{apps: slices.Clone(c.Apps), ceilings: map[string]grantSet{}}
	p.overflow.uid, p.overflow.gid = peer.Overflow()
	p.buckets.now = c.Now
	if p.buckets.now == nil {
		p.buckets.now = time.Now
	}
	if err := checkApps(c.Apps); err != nil {
		return nil, err
	}
	for name, grants := range c.Ceilings {
		set, err := compileGrants(grants)
		if err != nil {
			return nil, fmt.Errorf("compile the ceiling of listener %q: %w", name, err)
		}
		p.ceilings[name] = set
	}
	for _, r := range c.Rules {
		if slices.ContainsFunc(p.rules, func(o *rule) bool { return o.name == r.Name }) {
			return nil, fmt.Errorf("compile rule %q: another rule has that name", r.Name)
		}
		compiled, err := compile(r, p.apps)
		if err != nil {
			return nil, fmt.Errorf("compile rule %q: %w", r.Name, err)
		}
		p.rules = append(p.rules, compiled)
	}
	return p, nil
}

func checkApps(apps []App) error {
	for i, a := range apps {
		if a.Name == "" || a.ClientID == "" {
			return fmt.Errorf("compile app %q: it needs a name and a client id", a.Name)
		}
		for _, o := range apps[:i] {
			if o.Name == a.Name || o.ClientID == a.ClientID {
				return fmt.Errorf("compile app %q: app %q has the same name or client id", a.Name, o.Name)
			}
		}
	}
	return nil
}

func compile(r Rule, apps []App) (*rule, error) {
	if err := checkConditions(r); err != nil {
		return nil, err
	}
	grants, err := compileGrants(r.Grants)
	if err != nil {
		return nil, err
	}
	if err := checkScope(r, grants, apps); err != nil {
		return nil, err
	}
	out := &rule{
		name: r.Name, users: slices.Clone(r.Users), groups: slices.Clone(r.Groups), contained: r.Contained,
		apps: slices.Clone(r.Apps), grants: grants, patterns: slices.Clone(r.Paths), globs: slices.Clone(r.Units),
	}
	for _, glob := range r.Units {
		out.units = append(out.units, matchable(glob))
	}
	for _, pattern := range r.Paths {
		if !canonical(pattern) {
			return nil, fmt.Errorf("path %q: it must begin with / and have no empty, . or .. segment, and none of %% ? # and \\, such as %q", pattern, "/v1/human/activities/*")
		}
		re, err := compilePath(pattern)
		if err != nil {
			return nil, fmt.Errorf("path %q: %w", pattern, err)
		}
		out.paths = append(out.paths, re)
	}
	out.perSecond, out.burst, err = compileRate(r.PerSecond, r.Burst)
	return out, err
}

func checkConditions(r Rule) error {
	switch {
	case r.Name == "" || len(r.Name) > maxName || strings.ContainsFunc(r.Name, func(c rune) bool { return !unicode.IsPrint(c) }):
		return fmt.Errorf("its name must be 1 to %d printable bytes", maxName)
	case r.Name == RootRule:
		return fmt.Errorf("the name stands for uid 0 on the admin socket in the audit log: choose another")
	case len(r.Users)+len(r.Groups)+len(r.Units) == 0:
		return fmt.Errorf("it has neither users nor groups nor units, so anybody would match")
	}
	for _, glob := range r.Units {
		if err := checkUnit(glob); err != nil {
			return fmt.Errorf("unit %q: %w", glob, err)
		}
		if len(r.Users)+len(r.Groups) == 0 && anyUnit(glob) {
			return fmt.Errorf("unit %q: without users and groups that is everybody: name one of them too, or the unit", glob)
		}
	}
	return nil
}

func checkScope(r Rule, grants grantSet, apps []App) error {
	switch {
	case grants == 0:
		return fmt.Errorf("it has no grants")
	case len(r.Apps) == 0 && grants&^adminGrants != 0:
		return fmt.Errorf("it has no apps")
	case grants.has(api.GrantProxy) && len(r.Paths) == 0:
		return fmt.Errorf("the grant %s needs paths, such as %q, or %q for all", api.GrantProxy, "/v1/human/activities/*", "/v1/human/**")
	case !grants.has(api.GrantProxy) && len(r.Paths) > 0:
		return fmt.Errorf("paths mean nothing without the grant %s", api.GrantProxy)
	}
	for _, a := range r.Apps {
		if !slices.Contains(apps, a) {
			return fmt.Errorf("app %q does not exist", a.Name)
		}
	}
	return nil
}

func compileGrants(grants []api.Grant) (grantSet, error) {
	var set grantSet
	for _, g := range grants {
		if bit(g) == 0 {
			return 0, fmt.Errorf("grant %q does not exist", g)
		}
		set |= bit(g)
	}
	return set, nil
}

func compileRate(perSecond float64, burst int) (float64, int, error) {
	switch {
	case math.IsNaN(perSecond) || perSecond < 0 || perSecond > 1e9:
		return 0, 0, fmt.Errorf("its rate must be between 0 and 1e9 per second")
	case burst < 0:
		return 0, 0, fmt.Errorf("its burst is negative")
	case perSecond == 0 && burst > 0:
		return 0, 0, fmt.Errorf("its rate is 0 per second, which would allow nothing after the burst: leave the rate out for no limit, or give a number above 0")
	case perSecond > 0 && burst == 0:
		burst = int(math.Ceil(perSecond))
	}
	return perSecond, burst, nil
}
