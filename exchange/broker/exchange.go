package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// maxGrace bounds how long a caller whose deadline has passed is kept for the
// end of an exchange that nothing is uncertain about: either it ends now, as
// unsent, or its first attempt is just under way. It is a tenth of the deadline.
const maxGrace = time.Second

// Exchange takes a finish event and answers with the user's public part. ctx is
// the caller's: its end stops the waiting, not the exchange. So is the session
// token, which may be wiped once Exchange has returned.
//
// Errors are *user.Error: SessionConflict, SessionRefused, UserMismatch,
// UpstreamInvalid, ExchangeUnknown are final for that session token;
// UpstreamUnavailable (within milliseconds, with the breaker's RetryAfter, while
// Human API is down), TooManyWaiting, StoreUnavailable, VaultUnavailable,
// VaultStale, SecretUnavailable (also when Human API refuses every client secret
// that there is: counted as refused, and a repeat is sent again), Draining leave
// it unspent; after
// ExchangePending the same call joins the exchange that goes on. RowDamaged: a row
// of the user does not open, and only a repair helps; nothing was sent, or the
// exchange is taken up again then. An error of no
// kind is ctx's, or a defect. Beside an error the Result says only how the exchange
// ended, for the record; "" when it has not.
func (b *Broker) Exchange(ctx context.Context, x user.Exchange) (user.Result, error) {
	if err := b.vet(x); err != nil {
		return user.Result{}, err
	}
	deadline := time.NewTimer(b.cfg.Deadline)
	defer deadline.Stop()
	if err := b.awaitResumption(ctx, deadline.C); err != nil {
		return user.Result{}, err
	}
	r, err := b.join(x)
	if err != nil {
		return user.Result{}, err
	}
	if err := b.await(ctx, r, deadline.C); err != nil {
		return user.Result{}, err
	}
	b.cfg.Step("answering")
	return answer(x, r)
}

// vet asserts what the server has checked.
func (b *Broker) vet(x user.Exchange) error {
	app, known := b.cfg.Apps[x.ClientID]
	switch {
	case !known:
		return fmt.Errorf("exchange for request %s: the app is not configured", x.RequestID)
	case x.HumanID == "" || x.SessionToken.IsZero():
		return fmt.Errorf("exchange for request %s: humanId or session token is empty", x.RequestID)
	case app.RequireClientUserID && !x.ExpectedSet:
		return fmt.Errorf("exchange for request %s: app %q requires an expected clientUserId", x.RequestID, app.Name)
	}
	return nil
}

// awaitResumption waits until Run has lined up what it found in the store: no
// new exchange may overtake it.
func (b *Broker) awaitResumption(ctx context.Context, deadline <-chan time.Time) error {
	select {
	case <-b.resumed:
		return nil
	default:
	}
	select {
	case <-b.resumed:
		return nil
	case <-b.stopping:
		return user.Fail(user.Draining, "the broker stops")
	case <-ctx.Done():
		return fmt.Errorf("wait for the resumption of exchanges: %w", ctx.Err())
	case <-deadline:
		return user.Fail(user.StoreUnavailable, "the intents in the store are not read yet")
	}
}

// join finds the run of that session, or starts one, and counts the caller in.
func (b *Broker) join(x user.Exchange) (*run, error) {
	in := user.Intent{
		RequestID: x.RequestID, Rule: x.Rule, ClientID: x.ClientID, HumanID: x.HumanID,
		SessionToken: x.SessionToken, Expected: x.Expected, ExpectedSet: x.ExpectedSet,
		BodyUserID: x.BodyUserID, BodyUserIDSet: x.BodyUserIDSet,
		ReceivedAt: b.cfg.Now().UTC().Truncate(time.Second),
	}
	name := b.sessionName(in)
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.running[name]; r != nil {
		if r.human != x.HumanID {
			return nil, user.Fail(user.SessionConflict, "request %s brings a session that is in flight for another user", x.RequestID)
		}
		r.waiters++
		return r, nil
	}
	in.SessionToken = owned(x.SessionToken)
	r := b.newRun(name, in)
	if !b.spawnLocked(func() { b.lead(r) }) {
		r.release()
		in.SessionToken.Wipe()
		return nil, user.Fail(user.Draining, "the broker stops")
	}
	r.waiters = 1
	b.running[name] = r
	return r, nil
}

// await waits for r to be settled. When the caller's patience ends first it
// says how things stand, in the same moment in which the caller is counted out.
func (b *Broker) await(ctx context.Context, r *run, deadline <-chan time.Time) error {
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return b.leave(r, fmt.Errorf("wait for the exchange: %w", ctx.Err()))
	case <-deadline:
	}
	if !b.isUncertain(r) {
		late := time.NewTimer(min(maxGrace, b.cfg.Deadline/10))
		defer late.Stop()
		select {
		case <-r.done:
			return nil
		case <-late.C:
		}
	}
	return b.leave(r, user.Fail(user.ExchangePending, "no answer within %s", b.cfg.Deadline))
}

func (b *Broker) isUncertain(r *run) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return r.uncertain
}

// leave counts a caller out and returns why, or nil when r was settled before.
func (b *Broker) leave(r *run, why error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.phase != settled {
		r.waiters--
		return why
	}
	return nil
}

// answer is what one caller gets of a settled run. Each has expectations of its
// own, also the one who only joined, and the one who is answered from the store.
func answer(x user.Exchange, r *run) (user.Result, error) {
	if r.err != nil {
		return user.Result{Outcome: r.result.Outcome}, r.err
	}
	known := r.result.ClientUserID
	if x.ExpectedSet && known != x.Expected {
		return user.Result{}, user.Fail(user.UserMismatch, "request %s expects another clientUserId", x.RequestID)
	}
	if x.BodyUserIDSet && known != "" && known != x.BodyUserID {
		return user.Result{}, user.Fail(user.UserMismatch, "the body of request %s names another clientUserId", x.RequestID)
	}
	return r.result, nil
}

// lookUp asks the store whether the session is known. Known: the result or the
// error is that of its end. An intent that nobody here works on (its Begin
// failed and took effect all the same) is adopted: r becomes its resumption.
func (b *Broker) lookUp(r *run) (result user.Result, known bool, err error) {
	in := r.intent
	s, found, err := b.cfg.Store.Session(b.life, in.ClientID, in.HumanID, in.SessionToken)
	if err != nil {
		return user.Result{}, false, fmt.Errorf("look up the session of request %s: %w", in.RequestID, err)
	}
	if !found {
		return user.Result{}, false, nil
	}
	if s.SameUser && s.Pending {
		return user.Result{}, false, b.adopt(r)
	}
	result, err = b.recall(in, s)
	return result, true, err
}

// recall answers from what a finished session left behind.
func (b *Broker) recall(in user.Intent, s user.Session) (user.Result, error) {
	switch {
	case !s.SameUser:
		return user.Result{}, user.Fail(user.SessionConflict, "request %s brings the session of another user", in.RequestID)
	case s.Outcome == user.Stored || s.Outcome == user.Superseded:
		p, err := b.cfg.Store.Public(b.life, in.ClientID, in.HumanID)
		if err != nil {
			return user.Result{}, fmt.Errorf("answer request %s from the store: %w", in.RequestID, err)
		}
		return user.Result{Public: p, Outcome: s.Outcome, Replayed: true}, nil
	case s.Outcome == user.Refused, s.Outcome == user.Rejected:
		return user.Result{}, user.Fail(s.Failure, "the session of request %s ended so before", in.RequestID)
	}
	return user.Result{}, user.Fail(user.ExchangeUnknown, "the session of request %s ended so before", in.RequestID)
}

func (b *Broker) adopt(r *run) error {
	in, found, err := b.cfg.Store.Intent(b.life, r.intent.ClientID, r.intent.SessionToken)
	if err == nil && !found {
		err = errors.New("it ended meanwhile")
	}
	if err != nil {
		return fmt.Errorf("find the intent of request %s: %w", r.intent.RequestID, err)
	}
	r.intent.SessionToken.Wipe()
	b.mu.Lock()
	defer b.mu.Unlock()
	r.intent, r.resumed, r.uncertain = in, true, true
	return nil
}
