package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// attempt sends the exchange once, with the client secret that Human API takes.
// It is the one place where tokens are asked for, by whoever has the turn.
func (b *Broker) attempt(r *run) verdict {
	defer b.freeSlot(r)
	defer b.alight(&r.berth)
	r.attempts++
	var reply exchange.Reply
	var unready error
	err, secretless := b.withSecret(r.limit(), r.intent.ClientID, func(s user.ClientSecret) (err error) {
		if unready = b.cfg.Store.Ready(); unready != nil {
			return unready
		}
		reply, err = b.send(r, s)
		return err
	})
	switch {
	case unready != nil:
		return b.judge(r, notReady, unready)
	case secretless != nil:
		return b.judge(r, noSecret, secretless)
	case err != nil:
		return b.judge(r, classOf(err), err)
	}
	return verdict{next: accept, reply: reply}
}

func (b *Broker) send(r *run, secret user.ClientSecret) (exchange.Reply, error) {
	b.cfg.Step("sending")
	reply, err := b.cfg.Upstream.Tokens(b.life, exchange.TokensRequest{
		ClientID: r.intent.ClientID, HumanID: r.intent.HumanID,
		SessionToken: r.intent.SessionToken, ClientSecret: secret.Text,
	})
	b.observe(&r.berth, err)
	b.cfg.Step("answered")
	return reply, err
}

func classOf(err error) exchange.Class {
	if e, ok := errors.AsType[*exchange.Error](err); ok {
		return e.Class
	}
	return exchange.Unknown
}

// adviceIn is Human API's Retry-After, which a 5xx may carry too.
func adviceIn(err error) time.Duration {
	if e, ok := errors.AsType[*exchange.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// adviceTo is the advice in an error of ours.
func adviceTo(err error) time.Duration {
	if e, ok := errors.AsType[*user.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// judge applies the policy to what an attempt met. What may have taken effect
// makes r uncertain, and from then on nothing but a whole answer can end it well:
// a refusal may be the refusal of a session token that we spent ourselves.
func (b *Broker) judge(r *run, met exchange.Class, err error) verdict {
	r.failure = err
	do := ruleFor(met, r.stage())
	if do.doubt {
		b.mu.Lock()
		r.uncertain = true
		b.mu.Unlock()
	}
	v := verdict{next: finish, outcome: do.outcome, failure: do.failure, unspent: do.unspent}
	switch {
	case met == noSecret && user.KindOf(err) == "":
		return verdict{next: retry} // the time is up, and awaitTurn says so
	case do.retry:
		v = verdict{next: retry}
	case v.failure == "":
		v.err = fmt.Errorf("send request %s: %s: %w", r.intent.RequestID, met, err)
	}
	if do.advice {
		v.after = adviceIn(err)
		r.advice = v.after
	}
	return v
}
