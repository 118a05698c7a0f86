package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// messages say what happened and what to do. What a caller sent and what upstream
// said never go into one. They are constant, but for a denial's, which adds what
// the kernel says of the caller.
var messages = map[api.Code]string{
	api.BadRequest:           "the request is malformed",
	api.ClientIDRequired:     "you hold this grant for more than one app: say which with clientId",
	api.SecretNotAccepted:    "the request holds a field for a client secret, access token or refresh token: they are never sent here; whoever has one should report it as leaked",
	api.UnknownCaller:        "no rule names you: GET /v1/whoami shows who you are here; ask the operator for a rule",
	api.NotGranted:           "no rule lets you do this on this socket, or for this clientId: GET /v1/whoami shows your rights",
	api.NotFound:             "there is no such path: it must be written exactly as documented",
	api.UnknownUser:          "no such user is stored for this app",
	api.MethodNotAllowed:     "this path does not take that method: see the header Allow",
	api.TooSlow:              "the body did not arrive in time: send it at once",
	api.UserMismatch:         "the session belongs to another user than was expected: it was not accepted; check who is logged in",
	api.AmbiguousUser:        "more than one user is stored under this clientUserId: use the humanId, or ask the operator to decide",
	api.SessionConflict:      "this session token came before with another humanId: send the sessionTokenObject as it was received",
	api.Indeterminate:        "it cannot be known whether the exchange took effect: let the user finish the popup again",
	api.NoAccessToken:        "no access token is stored for this user: let the user finish the popup again",
	api.Forgotten:            "this user was deleted: let the user connect anew",
	api.TooLarge:             "the body is too large for this endpoint",
	api.UnsupportedMediaType: "send application/json or application/x-www-form-urlencoded, in UTF-8 and uncompressed",
	api.SessionRefused:       "Human API refused the session token: let the user finish the popup again",
	api.RateLimited:          "too many requests: wait as long as Retry-After says",
	api.HeadersTooLarge:      "the headers are too large",
	api.Internal:             "something went wrong here: the daemon's log has the cause under the request id",
	api.UpstreamInvalid:      "Human API's answer does not fit and nothing was stored: let the user finish the popup again",
	api.TokenRefused:         "Human API refused the stored token: let the user finish the popup again",
	api.Starting:             "the daemon is starting: try again, GET /v1/health shows what it waits for",
	api.Draining:             "the daemon is stopping: connect anew and try again",
	api.VaultUnavailable:     "Vault cannot be reached: try again later",
	api.VaultStale:           "Vault was last reached too long ago: the operator has to look at it",
	api.SecretUnavailable:    "Vault has no client secret for this app, or Human API refuses it: the operator has to look at it; the session token is not spent, so repeat the request then",
	api.StoreUnavailable:     "the store is not available: try again later",
	api.AuditUnavailable:     "the audit log cannot take this request, so it was not answered: repeat it later, which is safe",
	api.UpstreamUnavailable:  "Human API cannot be reached and nothing was sent: repeat the same request",
	api.ExchangePending:      "Human API has not answered yet: repeat the same request, which joins this exchange",
}

// codes turns kinds of failure into codes. What is not in it is internal.
var codes = map[user.Failure]api.Code{
	user.UnknownUser:         api.UnknownUser,
	user.AmbiguousUser:       api.AmbiguousUser,
	user.UserMismatch:        api.UserMismatch,
	user.SessionConflict:     api.SessionConflict,
	user.SessionRefused:      api.SessionRefused,
	user.ExchangeUnknown:     api.Indeterminate,
	user.NoAccessToken:       api.NoAccessToken,
	user.Forgotten:           api.Forgotten,
	user.UpstreamInvalid:     api.UpstreamInvalid,
	user.UpstreamUnavailable: api.UpstreamUnavailable,
	user.ExchangePending:     api.ExchangePending,
	user.TooManyWaiting:      api.RateLimited,
	user.VaultUnavailable:    api.VaultUnavailable,
	user.VaultStale:          api.VaultStale,
	user.SecretUnavailable:   api.SecretUnavailable,
	user.StoreUnavailable:    api.StoreUnavailable,
	user.RowDamaged:          api.StoreUnavailable, // which says so, and no Retry-After
	user.AuditUnavailable:    api.AuditUnavailable,
	user.Draining:            api.Draining,
}

// damaged is what a caller is told of a row that cannot be opened.
const damaged = "what is stored for this user cannot be opened: a row is damaged, and coming again does not help; the operator has to look at it"

// retryAfter is the advice where nobody knows better.
const retryAfter = 5 * time.Second

func refuse(c api.Code) reply {
	r := reply{status: c.Status(), code: c, message: messages[c]}
	if c != api.RateLimited && c != api.Draining {
		r.retry = retryAfter
	}
	return r
}

// because replaces the code's own message by one that says more.
func (r reply) because(message string) reply {
	r.message = message
	return r
}

// forGood takes the advice to come again off.
func (r reply) forGood() reply {
	r.final = true
	return r
}

func (r reply) after(d time.Duration) reply {
	if d > 0 {
		r.retry = d
	}
	return r
}

// interrupted answers a request whose context has ended.
func (q *call) interrupted() reply {
	switch {
	case q.server.cut.Err() == nil: // the caller left: nobody reads it
		return refuse(api.Internal)
	case q.route.grant == api.GrantExchange: // it goes on, or is taken up by the next start
		return refuse(api.ExchangePending)
	}
	return refuse(api.Draining)
}

// fail answers an error of the services. Its cause goes to the daemon's log
// alone, and only where the fault is not the caller's.
func (q *call) fail(err error) reply {
	if errors.Is(err, context.Canceled) && user.KindOf(err) == "" && q.r.Context().Err() != nil {
		return q.interrupted()
	}
	e, ok := errors.AsType[*user.Error](err)
	if !ok {
		q.server.log.Error("request failed", "request_id", q.id[0], "route", q.event.Route, "error", err)
		return refuse(api.Internal)
	}
	c, ok := codes[e.Kind]
	if !ok || e.Kind != user.Draining && !slices.Contains(q.route.fails, e.Kind) {
		c = api.Internal
	}
	q.missed = c == api.UnknownUser
	if c.Status() >= 500 {
		q.server.log.Warn("request failed", "request_id", q.id[0], "route", q.event.Route, "code", string(c), "error", err)
	}
	if e.Kind == user.RowDamaged && c == api.StoreUnavailable {
		return refuse(c).because(damaged).forGood()
	}
	return refuse(c).after(e.RetryAfter)
}
