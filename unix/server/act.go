package server

import (
	"net/http"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// maxUsers is the longest list of users that is answered.
const maxUsers = 1000

func (q *call) exchange() reply {
	res, err := q.services.Broker.Exchange(q.r.Context(), user.Exchange{
		RequestID: q.requestID(), Rule: q.event.Rule, ClientID: q.in.app, HumanID: q.in.human,
		SessionToken: q.in.session, Expected: q.in.expected, ExpectedSet: q.in.expectedSet,
		BodyUserID: user.ClientUserID(q.in.bodyUser.text), BodyUserIDSet: q.in.bodyUser.set,
	})
	q.event.Outcome = string(res.Outcome)
	if err != nil {
		return q.fail(err)
	}
	b := newBuffer()
	b.b = appendField(b.b, `{"humanId":`, string(res.HumanID))
	b.b = appendField(b.b, `,"publicToken":`, string(res.PublicToken))
	b.b = appendField(b.b, `,"clientId":`, string(res.ClientID))
	b.b = appendField(b.b, `,"clientUserId":`, string(res.ClientUserID))
	b.b = append(b.b, '}')
	return success(b)
}

func (q *call) publicToken() reply {
	p, err := q.services.Broker.PublicToken(q.r.Context(), q.in.app, q.in.human, q.requestID())
	if err != nil {
		return q.fail(err)
	}
	b := newBuffer()
	b.b = appendField(b.b, `{"humanId":`, string(p.HumanID))
	b.b = appendField(b.b, `,"publicToken":`, string(p.PublicToken))
	b.b = append(b.b, '}')
	return success(b)
}

func (q *call) user() reply {
	p, err := q.public()
	if err != nil {
		return q.fail(err)
	}
	b := newBuffer()
	b.b = appendUser(b.b, p)
	return success(b)
}

// public reads the user that the path or the header names.
func (q *call) public() (user.Public, error) {
	if q.in.human != "" {
		return q.services.Users.Public(q.r.Context(), q.in.app, q.in.human)
	}
	p, err := q.services.Users.ByClientUserID(q.r.Context(), q.in.app, q.in.expected)
	if err == nil {
		q.event.Subject = q.services.Audit.Subject(p.ClientID, p.HumanID)
	}
	return p, err
}

// accessToken is the only place where an access token leaves the daemon.
func (q *call) accessToken() reply {
	if q.in.human == "" {
		p, err := q.public()
		if err != nil {
			return q.fail(err)
		}
		q.in.human = p.HumanID
	}
	rec, err := q.services.Users.Private(q.r.Context(), q.in.app, q.in.human)
	if err != nil {
		return q.fail(err)
	}
	defer rec.AccessToken.Wipe()
	if rec.AccessToken.IsZero() {
		return refuse(api.NoAccessToken)
	}
	b := newBuffer()
	b.b = appendField(b.b, `{"humanId":`, string(rec.HumanID))
	b.b = appendSecret(append(b.b, `,"accessToken":`...), rec.AccessToken)
	if !rec.ExpiresAt.IsZero() {
		b.b = append(b.b, `,"expiresAt":"`...)
		b.b = rec.ExpiresAt.UTC().AppendFormat(b.b, time.RFC3339)
		b.b = append(b.b, '"')
	}
	b.b = append(b.b, '}')
	return success(b)
}

// users answers lists: of the one user with a clientUserId (or, for
// administrators, a humanId), or of all in a state.
func (q *call) users() reply {
	var list []user.Public
	var err error
	switch {
	case q.in.state.set:
		list, err = q.inState()
	default:
		var p user.Public
		if p, err = q.public(); err == nil {
			list = append(list, p)
		}
	}
	q.missed = user.KindOf(err) == user.UnknownUser
	if err != nil && !q.missed {
		return q.fail(err)
	}
	b := newBuffer()
	b.b = append(appendUsers(b.b, list), '}')
	return success(b)
}

// inState asks app by app where none was named, so that a rule for some apps
// shows those alone.
func (q *call) inState() ([]user.Public, error) {
	apps := []policy.App{{ClientID: q.in.app}}
	if q.in.app == "" {
		apps = q.conn.view.Apps(q.route.grant)
	}
	var out []user.Public
	for _, a := range apps {
		list, err := q.services.Users.InState(q.r.Context(), a.ClientID, user.State(q.in.state.text), maxUsers-len(out))
		if err != nil {
			return nil, err
		}
		if out = append(out, list...); len(out) >= maxUsers {
			break
		}
	}
	return out, nil
}

func (q *call) whoAmI() reply {
	c := q.conn.caller
	groups := c.Groups
	if groups == nil {
		groups = []uint32{}
	}
	return marshal(http.StatusOK, api.WhoAmI{
		UID: c.UID, User: q.server.accounts.name(c.UID), GID: c.GID, Groups: groups, PID: c.PID, Unit: c.Unit, Contained: c.Contained, Proven: c.Proven,
		Listener: q.conn.listener, Rights: q.conn.view.Rights(), Version: q.server.version,
	})
}

func (q *call) health() reply {
	h := q.server.health()
	if h.Reasons == nil {
		h.Reasons = []string{}
	}
	if !h.Ready {
		return marshal(http.StatusServiceUnavailable, h)
	}
	return marshal(http.StatusOK, h)
}
