package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// policyDiffed is the JSON answer of policy diff. Its lists are never null.
type policyDiffed struct {
	Since    time.Time `json:"since"`
	Requests int       `json:"requests"` // replayed: those that the rules had decided on
	// Changes are answers that change, from allowed to denied or the other way.
	Changes []policyChange `json:"changes"`
	// Undecided may change: the log does not have what was asked for.
	Undecided []policyChange `json:"undecided"`
	// Moved are answers that stay, given by another rule.
	Moved []policyChange `json:"moved"`
	// Unjudged requests stand in the log with too little to decide on by either
	// configuration: more groups than a line has room for, the proxy's paths.
	Unjudged int `json:"unjudged"`
	// Counted requests stand in the log as counts.
	Counted []policyCounted `json:"counted"`
}

// policyChange is about requests that are alike.
type policyChange struct {
	Requests  int      `json:"requests"`
	Listener  string   `json:"listener"`
	UID       uint32   `json:"uid"`
	GID       uint32   `json:"gid"`
	Groups    []uint32 `json:"groups,omitempty"`
	Unit      string   `json:"unit,omitempty"`
	Contained bool     `json:"contained"`
	Unproven  bool     `json:"unproven,omitempty"`
	Grant     string   `json:"grant"` // "": not known, because no rule knew the caller
	App       string   `json:"app,omitempty"`
	Now       string   `json:"now"`  // with the configuration as it is: "denied", or "allowed by RULE"
	Then      string   `json:"then"` // with the new one: that, or why it is not known
}

// policyCounted are refusals that were repeated so often that they are counted only.
type policyCounted struct {
	Requests int     `json:"requests"`
	Listener string  `json:"listener,omitempty"` // "": several
	UID      *uint32 `json:"uid,omitempty"`      // absent: many callers
	Error    string  `json:"error"`              // "": public reads, whatever their answers
}

// replay puts the requests of a log before two policies. Rates are left out of
// account, and so is what was refused before the rules were asked.
func replay(ctx context.Context, old, next *config.Config, log audit.WalkConfig) (policyDiffed, error) {
	a, err := newJudge(old, old)
	if err != nil {
		return policyDiffed{}, err
	}
	b, err := newJudge(next, old)
	if err != nil {
		return policyDiffed{}, err
	}
	r := replayed{now: a, then: b, alike: map[string]*verdict{}, counted: map[string]*policyCounted{}}
	r.out.Since = log.Since
	if err := audit.Walk(ctx, log, r.line); err != nil {
		return policyDiffed{}, err
	}
	r.out.Changes, r.out.Undecided, r.out.Moved = r.list(changes), r.list(undecided), r.list(moved)
	r.out.Counted = sorted(r.counted, func(c *policyCounted) int { return c.Requests })
	return r.out, nil
}

// replayed is what a replay has come to.
type replayed struct {
	now, then judge
	out       policyDiffed
	alike     map[string]*verdict
	counted   map[string]*policyCounted
}

// verdict is about requests that are alike.
type verdict struct {
	in verdictKind
	policyChange
}

type verdictKind uint8

const (
	same verdictKind = iota
	changes
	undecided
	moved
	unjudged
)

func (r *replayed) list(in verdictKind) []policyChange {
	m := map[string]*policyChange{} // alike but for what is not shown
	for _, v := range r.alike {
		if v.in != in {
			continue
		}
		c := v.policyChange
		c.Requests = 0
		key := fmt.Sprint(c)
		if m[key] == nil {
			m[key] = &c
		}
		m[key].Requests += v.Requests
	}
	return sorted(m, func(c *policyChange) int { return c.Requests })
}

// sorted puts those of most requests first.
func sorted[T any](m map[string]*T, requests func(*T) int) []T {
	out := []T{}
	for _, key := range slices.SortedFunc(maps.Keys(m), func(x, y string) int {
		return cmp.Or(requests(m[y])-requests(m[x]), cmp.Compare(x, y))
	}) {
		out = append(out, *m[key])
	}
	return out
}

// line takes one line of the log.
func (r *replayed) line(l audit.Line) error {
	e := &l.Event
	switch {
	case !decidedByRules(e):
	case e.Kind == audit.Note && e.Count > 0:
		r.count(e)
	case e.Kind == audit.Outcome && e.UID != nil && e.GID != nil:
		r.request(e)
	}
	return nil
}

func (r *replayed) request(e *audit.Event) {
	r.out.Requests++
	key := fmt.Sprintf("%d %d %d %t %q %t %t %q %q %q %q %q %q", *e.UID, *e.GID, e.Groups, e.GroupsCut, e.Unit, e.Contained, e.Unproven,
		e.Listener, e.Grant, e.App, e.AppFrom, e.Route, e.Rule)
	v := r.alike[key]
	if v == nil {
		v = r.judge(e)
		r.alike[key] = v
	}
	if v.Requests++; v.in == unjudged {
		r.out.Unjudged++
	}
}

// judge asks both policies. What the first cannot tell, the log knows.
func (r *replayed) judge(e *audit.Event) *verdict {
	if e.GroupsCut || e.Grant == string(api.GrantProxy) {
		return &verdict{in: unjudged}
	}
	now, then, in := r.now.decide(e), r.then.decide(e), same
	asLittle := now.unsure != "" && now.unsure == then.unsure
	if now.unsure != "" {
		now = ruling{rule: e.Rule}
	}
	switch {
	case asLittle:
		in = unjudged
	case then.unsure != "":
		in = undecided
	case (now.rule == "") != (then.rule == ""):
		in = changes
	case now.rule != then.rule:
		in = moved
	}
	return &verdict{in, policyChange{
		Listener: e.Listener, UID: *e.UID, GID: *e.GID, Groups: slices.Clone(e.Groups), Unit: e.Unit, Contained: e.Contained,
		Unproven: e.Unproven, Grant: e.Grant, App: e.App, Now: now.words(), Then: then.words(),
	}}
}

func (r *replayed) count(e *audit.Event) {
	c := policyCounted{Listener: e.Listener, UID: e.UID, Error: e.Error}
	key := e.Listener + " " + e.Error
	if e.UID != nil {
		key += fmt.Sprint(" ", *e.UID)
	}
	if r.counted[key] == nil {
		r.counted[key] = &c
	}
	r.counted[key].Requests += e.Count
}

// decidedByRules: a rule stands in the line, or the refusal is one for want of a
// rule. Others were answered before the rules were asked, or need none. A caller who
// has exited is refused with a grant in the line, whatever the rules say.
func decidedByRules(e *audit.Event) bool {
	switch api.Code(e.Error) {
	case api.UnknownCaller:
		return e.Grant == ""
	case api.NotGranted, api.ClientIDRequired:
		return true
	}
	lookup, _ := server.AboutApps(e.Route) // of users that are not there
	return e.Rule != "" || e.Kind == audit.Note && (e.Error == string(api.RateLimited) || e.Outcome == "unrecorded" || lookup)
}

// judge is one of two policies.
type judge struct {
	policy *policy.Policy
	// apps are the client ids of the apps as the log names them. more: there are
	// apps that the log's configuration did not have.
	apps map[string]user.ClientID
	more bool
}

// newJudge: log is the configuration that the log was written under.
func newJudge(c, log *config.Config) (judge, error) {
	p, err := c.Policy(nil)
	if err != nil {
		return judge{}, fmt.Errorf("compile the rules: %w", err)
	}
	j := judge{policy: p, apps: map[string]user.ClientID{}}
	known := map[user.ClientID]bool{}
	for _, a := range log.PolicyApps() {
		j.apps[a.Name], known[a.ClientID] = a.ClientID, true
	}
	for _, a := range c.PolicyApps() {
		j.more = j.more || !known[a.ClientID]
		if _, ok := j.apps[a.Name]; !ok {
			j.apps[a.Name] = a.ClientID
		}
	}
	return j, nil
}

// ruling is what a policy says.
type ruling struct {
	rule   string // that allows; "": denied
	detail string // of a denial
	unsure string // why the log does not have enough to tell
}

func (r ruling) words() string {
	switch {
	case r.unsure != "":
		return r.unsure
	case r.rule == "":
		return "denied" + r.detail
	}
	return "allowed by " + r.rule
}

const (
	unsureGrant = "depends on what is asked for"
	unsureApp   = "depends on the app"
	namesNoApp  = " (names no app)" // of several
)

// decide is what the server would do.
func (j judge) decide(e *audit.Event) ruling {
	q := policy.Query{
		Caller: peer.Caller{
			UID: *e.UID, GID: *e.GID, Groups: e.Groups, Unit: e.Unit, Contained: e.Contained, Proven: !e.Unproven,
		},
		Listener: e.Listener, Grant: api.Grant(e.Grant),
	}
	v := j.policy.View(q.Caller, q.Listener)
	switch {
	case !v.Known():
		return ruling{}
	case e.Grant == "":
		return ruling{unsure: unsureGrant}
	}
	id, settled := j.app(e, v)
	if settled != nil {
		return *settled
	}
	q.ClientID = id
	return ruling{rule: j.policy.Explain(q).Rule}
}

// app is which app a request is about; settled, unless it is nil, is what happens to
// it for want of one.
func (j judge) app(e *audit.Event, v *policy.View) (id user.ClientID, settled *ruling) {
	grant := api.Grant(e.Grant)
	only, n := v.Only(grant)
	one, all := server.AboutApps(e.Route)
	switch {
	case e.AppFrom == audit.FromRights && n > 1:
		return "", &ruling{detail: namesNoApp}
	case e.AppFrom == audit.FromRights && n == 0, e.AppFrom == audit.FromNowhere && !j.more:
		return "", &ruling{}
	case e.AppFrom == audit.FromRights:
		return only.ClientID, nil
	case e.App != "" && j.apps[e.App] != "":
		return j.apps[e.App], nil
	case all && len(v.Apps(grant)) < j.policy.CountApps(), one && n == 0:
		return "", &ruling{}
	case e.App != "", e.AppFrom == audit.FromNowhere, one && e.Rule == "":
		return "", &ruling{unsure: unsureApp}
	}
	return "", nil
}
