package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// A user in state indeterminate gets the publicToken fetched, so that the popup
// can be opened again in edit mode: when the exchange ends so, and at every start,
// as the process may have ended before.
const (
	// repairsPerStart bounds what a start asks for, of each app; the others' is
	// fetched when somebody asks for it.
	repairsPerStart = 1000
	// repairPace is how far apart they begin, so that a start, or one after the
	// other, is at most ten requests a second.
	repairPace = 100 * time.Millisecond
)

// repair fetches the publicToken of a user whose exchange has just ended
// indeterminate.
func (b *Broker) repair(in user.Intent) {
	_, err := b.fetchPatiently(in.ClientID, in.HumanID)
	if err != nil {
		b.log.Warn("the publicToken of a user in state indeterminate could not be fetched",
			slog.String("request_id", string(in.RequestID)), slog.Any("error", err))
	}
	b.write(in, audit.Event{Kind: audit.Note, Outcome: string(user.IndeterminateOutcome), Error: kindName(err)})
}

// fetchPatiently tries again, for GiveUp, what Human API does not answer. The
// place among the repairs is free while it pauses.
func (b *Broker) fetchPatiently(app user.ClientID, human user.HumanID) (user.Public, error) {
	giveUp, cancel := context.WithTimeout(b.life, b.cfg.GiveUp)
	defer cancel()
	for failed := 1; ; failed++ {
		p, err := b.fetchOnce(app, human)
		if user.KindOf(err) != user.UpstreamUnavailable {
			return p, err
		}
		pause := time.NewTimer(max(b.cfg.Backoff.pause(failed), adviceTo(err)))
		select {
		case <-pause.C:
			continue
		case <-giveUp.Done():
		case <-b.stopping:
		}
		pause.Stop()
		return user.Public{}, err
	}
}

func (b *Broker) fetchOnce(app user.ClientID, human user.HumanID) (user.Public, error) {
	select {
	case b.repairs <- struct{}{}:
		defer func() { <-b.repairs }()
	case <-b.stopping:
		return user.Public{}, user.Fail(user.Draining, "the broker stops")
	}
	ctx, cancel := context.WithTimeout(b.life, b.cfg.Deadline)
	defer cancel()
	return b.fetch(ctx, app, human)
}

// doubtful lists the users that are in doubt since before this start. What the
// store cannot tell is said, and stops nothing.
func (b *Broker) doubtful(ctx context.Context) (all []user.Public) {
	for app := range b.cfg.Apps {
		some, err := b.cfg.Store.InState(ctx, app, user.Indeterminate, repairsPerStart)
		if err != nil && ctx.Err() == nil {
			b.log.Error("the users in state indeterminate cannot be listed, their publicTokens are not fetched", slog.Any("error", err))
		}
		all = append(all, some...)
	}
	return all
}

// repairAll fetches their publicTokens, a few at a time and paced.
func (b *Broker) repairAll(doubtful []user.Public) {
	if len(doubtful) == 0 {
		return
	}
	next := make(chan user.Public)
	var workers sync.WaitGroup
	for range repairSlots {
		workers.Go(func() {
			for p := range next {
				b.renew(p)
			}
		})
	}
	defer workers.Wait()
	defer close(next)
	pace := time.NewTicker(repairPace)
	defer pace.Stop()
	for _, p := range doubtful {
		select {
		case next <- p:
		case <-b.stopping:
			return
		}
		select {
		case <-pace.C:
		case <-b.stopping:
			return
		}
	}
}

// renew is recorded where it brings another publicToken; no request stands
// behind it.
func (b *Broker) renew(old user.Public) {
	p, err := b.fetchPatiently(old.ClientID, old.HumanID)
	if err != nil {
		b.log.Warn("the publicToken of a user in state indeterminate could not be fetched", slog.Any("error", err))
		return
	}
	if p.PublicToken != old.PublicToken {
		in := user.Intent{ClientID: old.ClientID, HumanID: old.HumanID}
		b.write(in, audit.Event{Kind: audit.Note, Outcome: string(user.IndeterminateOutcome)})
	}
}
