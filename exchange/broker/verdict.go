package broker

import (
	"cmp"
	"errors"
	"time"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// verdict is what is to be done with a run next.
type verdict struct {
	next decision
	// retry: not before that time has passed, nor before the backoff's.
	after time.Duration
	// accept: the whole answer.
	reply exchange.Reply
	// finish: how it ends.
	outcome user.Outcome
	failure user.Failure // kept with the session
	unspent bool         // the session token is good for another try: nothing is kept of it
	err     error        // what callers get; nil: an error of kind failure
}

type decision uint8

const (
	proceed decision = iota // it has the turn: send
	retry                   // pause, and then wait for the turn again
	accept                  // answered: check and commit
	finish                  // ends without tokens
	keep                    // stays in the store for the next start
	over                    // settled
)

func rejected(why user.Failure) verdict {
	return verdict{next: finish, outcome: user.Rejected, failure: why}
}

func indeterminate() verdict {
	return verdict{next: finish, outcome: user.IndeterminateOutcome, failure: user.ExchangeUnknown}
}

func superseded() verdict {
	return verdict{next: finish, outcome: user.Superseded}
}

func unsent(err error) verdict {
	return verdict{next: finish, outcome: user.Unsent, unspent: true, err: err}
}

// kept is the outcome that the store keeps for the session.
func (v verdict) kept() (user.Outcome, user.Failure) {
	if v.unspent {
		return user.Unsent, ""
	}
	return v.outcome, v.failure
}

// failing is the error that callers get; nil when they get a record.
func (v verdict) failing(r *run) error {
	if v.err != nil || v.outcome == user.Superseded {
		return v.err
	}
	return user.Fail(v.failure, "request %s ended as %s: %w", r.intent.RequestID, v.outcome, cmp.Or(r.failure, errNoFit))
}

var errNoFit = errors.New("the answer does not fit")

// pending leaves the intent to the next start.
func pending(r *run) verdict {
	return verdict{next: keep, err: user.Fail(user.ExchangePending, "request %s goes on at the next start", r.intent.RequestID)}
}
