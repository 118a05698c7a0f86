package server

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// question is what an administrator asks of the rules or of the audit log.
type question struct {
	query policy.Query
	app   string // the name; it is looked up once the caller may know
	find  api.AuditQuery
}

// maxGroups is how many groups a caller that is asked about may have.
const maxGroups = 64

// params are the fields of the query of an administrator's question. Nothing that
// is not understood is passed over: the answer would be to another question.
type params map[string][]string

func parseParams(raw string, known []string) (params, *fault) {
	p := params{}
	f := pairs(raw, func(name, val string) *fault {
		switch {
		case isSecretName(name):
			return &fault{code: api.SecretNotAccepted}
		case !slices.Contains(known, name):
			return bad("the query has a field that is not read here; there are: " + strings.Join(known, ", "))
		case len(p[name]) > 0 && name != "group" || len(p[name]) >= maxGroups:
			return bad("a field of the query stands there twice, or too often")
		case !validID(val):
			return bad(name + " is empty, too long, or no plain text")
		}
		p[name] = append(p[name], val)
		return nil
	})
	return p, f
}

func (p params) text(name string) string {
	if len(p[name]) == 0 {
		return ""
	}
	return p[name][0]
}

// id reads a uid or gid; otherwise where it is not there.
func (p params) id(name string, otherwise uint32) (uint32, *fault) {
	if len(p[name]) == 0 {
		return otherwise, nil
	}
	return number(name, p[name][0])
}

func number(name, text string) (uint32, *fault) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 1<<32-1 { // (uid_t)-1 is nobody (chown(2))
		return 0, bad(name + " must be a number: an id of the system's")
	}
	return uint32(n), nil
}

func (p params) flag(name string) (bool, *fault) {
	switch p.text(name) {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, bad(name + " must be true or false")
}

func (p params) moment(name string) (time.Time, *fault) {
	if len(p[name]) == 0 {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, p[name][0])
	if err != nil {
		return time.Time{}, bad(name + " must be a time of RFC 3339, such as 2006-01-02T15:04:05Z")
	}
	return t, nil
}

// understandQuestion reads an administrator's question.
func (q *call) understandQuestion() (bool, reply) {
	if f := q.checkUnread(); f != nil {
		return f.reply()
	}
	if q.route.clientUser {
		if f := q.readClientUser(); f != nil {
			return f.reply()
		}
	}
	p, f := parseParams(q.r.URL.RawQuery, q.route.params)
	if f != nil {
		return f.reply()
	}
	q.in.question, f = q.route.ask(q, p)
	return f.reply()
}

// Fields of the questions.
var (
	explainParams = []string{"uid", "gid", "group", "unit", "contained", "proven", "listener", "app", "grant", "path"}
	whoCanParams  = []string{"grant"}
	findParams    = []string{"requestId", "clientId", "humanId", "clientUserId", "since", "until", "limit"}
)

// askExplain: a gid that is left out is nobody's, and not root's.
func (q *call) askExplain(p params) (*question, *fault) {
	out := &question{app: p.text("app"), query: policy.Query{
		Listener: p.text("listener"), Grant: api.Grant(p.text("grant")), Path: p.text("path"),
	}}
	if len(p["uid"]) == 0 || out.query.Listener == "" {
		return nil, bad("uid, listener and grant must be there")
	}
	if f := checkGrant(out.query.Grant); f != nil {
		return nil, f
	}
	if out.query.Path != "" && out.query.Grant != api.GrantProxy {
		return nil, bad("path means something with the grant proxy alone")
	}
	var f *fault
	out.query.Caller, f = p.caller()
	return out, f
}

func (p params) caller() (peer.Caller, *fault) {
	c := peer.Caller{Unit: p.text("unit")}
	var faults [4]*fault
	c.UID, faults[0] = p.id("uid", peer.OverflowID)
	c.GID, faults[1] = p.id("gid", peer.OverflowID)
	c.Contained, faults[2] = p.flag("contained")
	c.Proven, faults[3] = p.flag("proven")
	for _, f := range faults {
		if f != nil {
			return c, f
		}
	}
	for _, text := range p["group"] {
		g, f := number("group", text)
		if f != nil {
			return c, f
		}
		c.Groups = append(c.Groups, g)
	}
	return c, nil
}

func checkGrant(g api.Grant) *fault {
	if !slices.Contains(api.Grants, g) {
		return bad("grant must be there, and one of those that GET /v1/whoami and the documentation name")
	}
	return nil
}

func (q *call) askWhoCan(p params) (*question, *fault) {
	g := api.Grant(p.text("grant"))
	return &question{query: policy.Query{Grant: g}}, checkGrant(g)
}

// askFind takes one selector: a request, or a user. Without one it takes a time to
// begin with.
func (q *call) askFind(p params) (*question, *fault) {
	a := api.AuditQuery{
		RequestID: p.text("requestId"), ClientID: p.text("clientId"), HumanID: p.text("humanId"), ClientUserID: p.text("clientUserId"),
		Limit: api.DefaultAuditLines,
	}
	if q.in.expectedSet && a.ClientUserID != "" {
		return nil, bad("clientUserId stands in the query and in the header: send it once")
	}
	if q.in.expectedSet {
		a.ClientUserID = string(q.in.expected)
	}
	var f1, f2 *fault
	a.Since, f1 = p.moment("since")
	a.Until, f2 = p.moment("until")
	switch {
	case f1 != nil:
		return nil, f1
	case f2 != nil:
		return nil, f2
	case !a.Until.IsZero() && !a.Since.Before(a.Until):
		return nil, bad("until must be later than since")
	}
	if text := p.text("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > api.MaxAuditLines {
			return nil, bad("limit must be 1 to " + strconv.Itoa(api.MaxAuditLines))
		}
		a.Limit = n
	}
	return &question{find: a}, checkSelector(a)
}

func checkSelector(a api.AuditQuery) *fault {
	selectors := 0
	for _, text := range []string{a.RequestID, a.HumanID, a.ClientUserID} {
		if text != "" {
			selectors++
		}
	}
	switch {
	case selectors > 1:
		return bad("requestId, humanId and clientUserId each say what to look for: send one")
	case a.ClientID != "" && a.HumanID == "" && a.ClientUserID == "":
		return bad("clientId goes with humanId or clientUserId")
	case selectors == 0 && a.Since.IsZero():
		return bad("say what to look for: requestId, humanId, the header " + api.HeaderClientUserID + ", or since")
	}
	return nil
}

// settleFound takes the one app there is where none was named.
func (q *call) settleFound() (user.ClientID, *fault) {
	a := &q.in.question.find
	if a.HumanID == "" && a.ClientUserID == "" {
		return "", nil
	}
	if a.ClientID == "" {
		only, n := q.conn.view.Only(q.route.grant)
		if n != 1 {
			return "", &fault{code: api.ClientIDRequired, message: "there is more than one app: say whose user it is with clientId"}
		}
		a.ClientID = string(only.ClientID)
	}
	if q.conn.view.AppName(user.ClientID(a.ClientID)) == "" {
		return "", bad("there is no app with that clientId")
	}
	return user.ClientID(a.ClientID), nil
}
