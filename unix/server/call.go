package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// call is one request on its way through handle.
type call struct {
	server   *Server
	w        http.ResponseWriter
	r        *http.Request
	conn     *conn
	services *Services // nil while starting
	id       [1]string // ours; an array, so that it can stand in a header as it is
	route    *route    // nil until found
	in       input
	event    audit.Event
	acted    bool // from here on the outcome says what was done
	recorded bool
	missed   bool     // the user that it looked for is not there
	account  *account // that pays for its lines; nil: there are none
	close    bool     // the answer closes the connection
	// streaming: the head is sent, and some of the body may be.
	streaming bool
}

// ServeHTTP is called by net/http, for one request of a connection at a time.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok { // not one of our listeners
		w.WriteHeader(http.StatusForbidden)
		return
	}
	c.answering = true
	q := &call{server: s, w: w, r: r, conn: c, services: s.services.Load()}
	q.id[0] = newID()
	q.event = audit.Event{
		RequestID: q.id[0], Listener: c.listener, UID: &c.caller.UID, GID: &c.caller.GID,
		Groups: c.caller.Groups, PID: c.caller.PID, Contained: c.caller.Contained, Label: c.caller.Label,
		Unit: c.caller.Unit, Invocation: c.caller.Invocation, Unproven: c.caller.Unit != "" && !c.caller.Proven,
	}
	if r.ContentLength != 0 {
		done := q.limitBody()
		defer done()
	}
	defer q.forget()
	q.write(s.guarded(q))
}

// forget clears the session token, and what was read of a request behind which
// nothing more is read. Else the next read does.
func (q *call) forget() {
	q.in.session.Wipe()
	if q.close || q.r.Close || q.conn.pathHost {
		clear(q.conn.buffer)
	}
	q.conn.buffer = nil // it may be another connection's from here on
}

// newID makes 128 random bits: unique, not secret.
func newID() string {
	var raw [16]byte
	for i, x := range [2]uint64{rand.Uint64(), rand.Uint64()} {
		for j := range 8 {
			raw[8*i+j] = byte(x >> (8 * j))
		}
	}
	var text [32]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// guarded answers "internal" where handle panics. The panic's value may hold
// anything, so only its type is logged; a stack shows addresses and no values.
func (s *Server) guarded(q *call) (rep reply) {
	defer s.gate.end(q.conn.slot)
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("handler panicked", "request_id", q.id[0], "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			rep = refuse(api.Internal)
			if !q.recorded {
				rep = s.outcome(q, rep)
			}
		}
	}()
	if !s.gate.begin(q.conn.slot) || q.conn.over {
		q.close = q.conn.over
		return s.outcome(q, refuse(api.RateLimited).because("you have too many connections or requests open; close some, or wait"))
	}
	return s.handle(q)
}

// handle is the whole of a request: identify, authorize, record, act, record;
// whoever is refused on the way is recorded as well.
func (s *Server) handle(q *call) reply {
	ok, refused := s.identify(q) // who: the kernel's word, and a rule that matches
	if ok {
		ok, refused = s.find(q) // what: path, method, is it open
	}
	if ok {
		ok, refused = q.understand() // with what: query, header, body
	}
	if ok {
		ok, refused = s.authorize(q) // may they: one rule, alone, and the ceiling
	}
	if ok {
		ok, refused = s.afford(q) // has its user left room on record
	}
	if ok {
		ok, refused = s.attempt(q) // on record before anything is done
	}
	if !ok {
		return s.outcome(q, refused)
	}
	q.acted = true
	return s.outcome(q, q.route.act(q)) // on record before it is answered
}

// identify was the kernel's work, when the caller connected. What the policy
// makes of it is kept with the connection until the policy changes.
func (s *Server) identify(q *call) (bool, reply) {
	p := s.policy.Load()
	if q.conn.view == nil || q.conn.view.Policy() != p {
		q.conn.view = p.View(q.conn.caller, q.conn.listener)
	}
	if path := q.path(); q.conn.view.Known() || path == pathWhoAmI || path == pathHealth {
		return true, reply{}
	}
	return false, q.unknown()
}

// authorize settles which app is meant, and asks the policy. What shows health
// data, deletes, or administers takes the process that connected to be there still:
// its socket may have been left to another.
func (s *Server) authorize(q *call) (bool, reply) {
	g := q.route.grant
	if g == "" {
		return true, reply{}
	}
	if asksAlive(g) && !q.stillThere() {
		return false, q.gone()
	}
	if q.route.allApps {
		if apps, some := q.someApps(); some && len(apps) > 0 {
			return false, refuse(api.NotGranted).because("this is about all apps: it takes the grant for every one of them")
		}
	}
	if q.in.app == "" && q.route.needsApp(q) {
		q.event.AppFrom = audit.FromRights
		only, n := q.conn.view.Only(g)
		switch {
		case n == 0:
			return false, q.denied("", g)
		case n > 1:
			return false, refuse(api.ClientIDRequired)
		}
		q.in.app = only.ClientID
	}
	d := q.conn.view.Decide(q.in.app, g, "")
	if q.event.Rule, q.event.App = d.Rule, d.App; d.App == "" && q.in.app != "" {
		q.event.AppFrom = audit.FromNowhere
	}
	switch {
	case d.RetryAfter > 0:
		return false, refuse(api.RateLimited).after(d.RetryAfter)
	case !d.Allowed:
		return false, q.denied(q.in.app, g)
	case g == api.GrantExchange && s.required[q.in.app] && !q.in.expectedSet:
		return false, refuse(api.BadRequest).because("this app's exchanges must say whose they are: set the header " + api.HeaderClientUserID + " from your own login, percent-encoded")
	}
	return true, reply{}
}

// attempt goes on record where something is done upstream, or a token read.
func (s *Server) attempt(q *call) (bool, reply) {
	if !q.route.attempt {
		return true, reply{}
	}
	if q.services == nil { // an administrator's: there is no audit log yet
		s.log.Warn("administrator acts while the daemon starts", "request_id", q.id[0], "route", q.route.name, "uid", q.conn.caller.UID, "rule", q.event.Rule)
		return true, reply{}
	}
	q.name()
	e := q.event
	e.Kind = audit.Attempt
	write := q.services.Audit.Write
	if q.route.grant.IsAdmin() && s.durable[string(q.route.grant)] {
		write = func(e audit.Event) error {
			return q.services.Audit.WriteDurable(context.WithoutCancel(q.r.Context()), e)
		}
	}
	q.account.pay(&e)
	if err := write(e); err != nil {
		s.log.Error("audit log does not take an attempt", "request_id", q.id[0], "error", err)
		return false, refuse(api.AuditUnavailable)
	}
	return true, reply{}
}

// outcome puts on record how the request ends, before it is answered, and
// replaces an answer that the log cannot take.
func (s *Server) outcome(q *call, rep reply) reply {
	q.recorded = true
	if q.route != nil && q.route.unrecorded {
		return rep
	}
	free := !q.acted || q.route.free
	if q.services == nil || free && !s.refusals.lined(&q.event, s.now()) || s.onlyCounted(q) {
		s.refusals.count(q, rep)
		return rep
	}
	q.name()
	e := q.event
	e.Kind, e.Status, e.Error, e.Refusal = audit.Outcome, rep.status, string(rep.code), free
	if !free {
		q.account.pay(&e)
	}
	var err error
	if q.acted && s.durable[string(q.route.grant)] {
		err = q.services.Audit.WriteDurable(context.WithoutCancel(q.r.Context()), e)
	} else {
		err = q.services.Audit.Write(e)
	}
	if spared(&e, err) {
		s.refusals.count(q, rep)
		return rep
	}
	if err != nil && s.mayGoUnrecorded(q, err) {
		s.goUnrecorded(q, err)
		return rep
	}
	if err != nil {
		s.log.Error("audit log does not take an outcome", "request_id", q.id[0], "error", err)
		rep.drop()
		return refuse(api.AuditUnavailable)
	}
	return rep
}

// name puts on record which app and user were asked for, once both are known,
// also where that is refused. A client id that is not configured is no app: it
// may be anything.
func (q *call) name() {
	if q.in.app == "" {
		return
	}
	if q.event.App == "" {
		q.event.App = q.conn.view.AppName(q.in.app)
	}
	if q.event.App != "" && q.in.human != "" && q.event.Subject == "" {
		q.event.Subject = q.services.Audit.Subject(q.in.app, q.in.human)
	}
}

// requestID is the id in the broker's type.
func (q *call) requestID() user.RequestID { return user.RequestID(q.id[0]) }

// path is the path as it was sent.
func (q *call) path() string {
	path, _, _ := strings.Cut(q.r.RequestURI, "?")
	return path
}

// asksAlive are the grants for which the process is looked at again.
func asksAlive(g api.Grant) bool {
	return g == api.GrantAccessToken || g == api.GrantProxy || g == api.GrantForget || g == api.GrantAdmin
}
