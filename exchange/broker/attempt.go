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
	r.attempts++
	var reply exchange.Reply
	var unready error
	err, noSecret := b.withSecret(r.limit(), r.intent.ClientID, func(s user.ClientSecret) (err error) {
		if unready = b.cfg.Store.Ready(); unready != nil {
			return unready
		}
		reply, err = b.send(r, s)
		return err
	})
	switch {
	case unready != nil:
		return b.notReady(r, unready)
	case noSecret != nil:
		return b.withoutSecret(r, noSecret)
	case err != nil:
		return b.judge(r, err)
	}
	return verdict{next: accept, reply: reply}
}

func (b *Broker) send(r *run, secret user.ClientSecret) (exchange.Reply, error) {
	b.cfg.Step("sending")
	reply, err := b.cfg.Upstream.Tokens(b.life, exchange.TokensRequest{
		ClientID: r.intent.ClientID, HumanID: r.intent.HumanID,
		SessionToken: r.intent.SessionToken, ClientSecret: secret.Text,
	})
	b.cfg.Step("answered")
	return reply, err
}

// withoutSecret: nothing was sent, or what was sent had no effect. Who is
// uncertain from before goes on trying; who is not is told at once.
func (b *Broker) withoutSecret(r *run, err error) verdict {
	r.failure = err
	if r.uncertain || user.KindOf(err) == "" {
		return verdict{next: retry} // of no kind: the time is up, and awaitTurn says so
	}
	return unsent(fmt.Errorf("get the client secret for request %s: %w", r.intent.RequestID, err))
}

// notReady: the answer's tokens could not be kept, so nothing is sent that asks
// for them. Who is in backoff waits on; who has just come is told at once.
func (b *Broker) notReady(r *run, err error) verdict {
	r.failure = err
	if r.uncertain || r.attempts > 1 {
		return verdict{next: retry}
	}
	return unsent(fmt.Errorf("send request %s: %w", r.intent.RequestID, err))
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

// judge says what a failed attempt means. What may have taken effect makes r
// uncertain, and from then on nothing but a whole answer can end it well: a
// refusal may be the refusal of a session token that we spent ourselves.
func (b *Broker) judge(r *run, err error) verdict {
	r.failure = err
	switch classOf(err) {
	case exchange.NotSent:
		return verdict{next: retry}
	case exchange.TryLater:
		r.advice = adviceIn(err)
		return verdict{next: retry, after: r.advice}
	case exchange.Unauthorized:
		if r.uncertain {
			return indeterminate()
		}
		return badSecret()
	case exchange.Refused:
		if r.uncertain {
			return indeterminate()
		}
		return refused()
	case exchange.Invalid:
		return rejected(user.UpstreamInvalid)
	case exchange.Unreadable:
		return indeterminate()
	}
	b.mu.Lock()
	r.uncertain = true
	b.mu.Unlock()
	return verdict{next: retry, after: adviceIn(err)}
}
