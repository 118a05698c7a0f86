package broker

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// check says why an answer does not fit, or "". The client has seen to it that
// it is complete and of the right types.
func (r *run) check(a exchange.Reply) user.Failure {
	said := ""
	if a.HasClientUserID {
		said = string(a.ClientUserID)
	}
	switch {
	case a.HumanID != r.intent.HumanID:
		return user.UserMismatch
	case a.ClientID != "" && a.ClientID != r.intent.ClientID: // old answers lack it
		return user.UpstreamInvalid
	case r.intent.ExpectedSet && said != string(r.intent.Expected):
		return user.UserMismatch
	case r.intent.BodyUserIDSet && said != "" && said != string(r.intent.BodyUserID):
		return user.UserMismatch
	}
	return ""
}

// accept checks an answer and commits it. One that does not fit ends the exchange
// for good; but after an attempt in doubt, whose tokens may be the user's at Human
// API by now, it is no answer to what became of that.
func (b *Broker) accept(r *run, a exchange.Reply) verdict {
	defer a.AccessToken.Wipe()
	switch why := r.check(a); {
	case why != "" && r.uncertain:
		return indeterminate()
	case why != "":
		return rejected(why)
	}
	b.cfg.Step("checked")
	now := b.cfg.Now().UTC().Truncate(time.Second)
	return b.commit(r, user.Record{
		Public: user.Public{
			ClientID: r.intent.ClientID, HumanID: r.intent.HumanID, ClientUserID: a.ClientUserID,
			PublicToken: a.PublicToken, State: user.Active,
			CreatedAt: now, UpdatedAt: now, Arrival: r.intent.Arrival,
		},
		Private: user.Private{AccessToken: a.AccessToken},
	})
}

// final reports whether the store's error will be the same for ever: the intent
// is not there any more, or the user. Everything else may pass: a disk that is
// full, keys that were wiped until Vault is heard again.
func final(err error) bool {
	kind := user.KindOf(err)
	return kind == "" || kind == user.UnknownUser
}

// commit makes the tokens durable. While the store cannot take them they are
// held here and tried again, for as long as the process lives: Human API gives
// them once. Beside a damaged row, which only a repair can help, that is GiveUp.
func (b *Broker) commit(r *run, rec user.Record) verdict {
	for failed := 1; ; failed++ {
		// THE commit point. Before it nobody is told anything and a crash repeats
		// the exchange; after it the tokens are there whatever happens.
		result, err := b.cfg.Store.Commit(b.life, r.intent, rec)
		switch {
		case err == nil:
			b.cfg.Step("committed")
			return b.settle(r, result.Outcome, result, nil)
		case user.KindOf(err) == user.UserMismatch:
			return rejected(user.UserMismatch)
		case final(err):
			return b.lookAgain(r, err)
		case user.KindOf(err) == user.RowDamaged && r.giveUp.Err() != nil && b.life.Err() == nil:
			b.lament(r, "tokens received that cannot be stored beside a damaged row, given up", err)
			r.failure = err
			return indeterminate()
		}
		if failed == 1 {
			b.enter(r, holding)
			b.lament(r, "tokens received that the store cannot take, held in memory", err)
		}
		if !b.sleep(b.cfg.Backoff.pause(failed)) {
			b.lament(r, "tokens received and never stored, the intent is repeated at the next start", err)
			return pending(r)
		}
	}
}

// finish makes an end without tokens durable, and settles.
func (b *Broker) finish(r *run, v verdict) verdict {
	for failed := 1; ; failed++ {
		result, unreadable, err := b.end(r, v)
		if err == nil {
			b.settle(r, v.outcome, result, cmp.Or(v.failing(r), unreadable))
			break
		}
		if final(err) {
			return b.lookAgain(r, err)
		}
		if user.KindOf(err) == user.RowDamaged {
			return b.undone(r, err)
		}
		if failed == 1 {
			b.enter(r, holding)
			b.log.Warn("the store cannot take the end of an exchange, trying again",
				slog.String("request_id", string(r.intent.RequestID)), slog.String("outcome", string(v.outcome)), slog.Any("error", err))
		}
		if !b.sleep(b.cfg.Backoff.pause(failed)) {
			return pending(r)
		}
	}
	if v.outcome == user.IndeterminateOutcome {
		b.spawn(func() { b.repair(r.intent) })
	}
	return verdict{next: over}
}

// end writes the end of an exchange without tokens. A superseded one is answered
// with the record that the later arrival brought, if that opens.
func (b *Broker) end(r *run, v verdict) (result user.Result, unreadable, err error) {
	outcome, failure := v.kept()
	err = b.cfg.Store.Finish(b.life, r.intent, outcome, failure)
	if err != nil || outcome != user.Superseded {
		return user.Result{}, nil, err
	}
	p, err := b.cfg.Store.Public(b.life, r.intent.ClientID, r.intent.HumanID)
	if user.KindOf(err) == user.RowDamaged {
		return user.Result{}, err, nil
	}
	return user.Result{Public: p, Outcome: outcome}, nil, err
}

// undone leaves an exchange in the store that cannot be ended because a row of
// its user does not open: after a repair the next start, or a repeat, takes it up.
func (b *Broker) undone(r *run, err error) verdict {
	b.mu.Lock()
	b.damaged++
	b.mu.Unlock()
	b.lament(r, "an exchange is left in the store because of a damaged row", err)
	return verdict{next: keep, err: fmt.Errorf("end the exchange of request %s: %w", r.intent.RequestID, err)}
}

// lookAgain settles a run whose intent the store does not have any more, by
// what the store has instead: an earlier try that was answered with an error
// may have taken effect.
func (b *Broker) lookAgain(r *run, cause error) verdict {
	in := r.intent
	s, found, err := b.cfg.Store.Session(b.life, in.ClientID, in.HumanID, in.SessionToken)
	if err == nil && found && !s.Pending {
		result, err := b.recall(in, s)
		return b.settle(r, s.Outcome, result, err)
	}
	b.lament(r, "an exchange could not be ended in the store", cause)
	return b.settle(r, "", user.Result{}, fmt.Errorf("end the exchange of request %s: %w", in.RequestID, cause))
}

// sleep returns false when the process must not wait any longer.
func (b *Broker) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.life.Done():
		return false
	}
}
