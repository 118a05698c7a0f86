package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// PublicToken returns a user's public part with a publicToken: from the store,
// where a user in state indeterminate counts as having none, else fetched from
// Human API once for everyone who waits, and kept.
//
// Errors are *user.Error: UnknownUser (Human API says no to that user),
// UpstreamUnavailable (at once while Human API is down), UpstreamInvalid, RowDamaged, SecretUnavailable (also when Human API
// refuses the secret), VaultUnavailable, VaultStale, StoreUnavailable, Draining.
// An error of no kind is ctx's, or a defect.
func (b *Broker) PublicToken(ctx context.Context, app user.ClientID, human user.HumanID, id user.RequestID) (user.Public, error) {
	if _, known := b.cfg.Apps[app]; !known {
		return user.Public{}, fmt.Errorf("public token for request %s: the app is not configured", id)
	}
	p, found, err := b.kept(ctx, app, human)
	if err != nil {
		return user.Public{}, fmt.Errorf("public token for request %s: %w", id, err)
	}
	if found {
		return p, nil
	}
	key := strconv.Quote(string(app)) + strconv.Quote(string(human))
	fetched := b.fetches.DoChan(key, func() (any, error) { return b.sharedFetch(app, human) })
	select {
	case got := <-fetched:
		if got.Err != nil {
			return user.Public{}, fmt.Errorf("public token for request %s: %w", id, got.Err)
		}
		return got.Val.(user.Public), nil
	case <-ctx.Done():
		return user.Public{}, fmt.Errorf("wait for the public token for request %s: %w", id, ctx.Err())
	}
}

// kept is the user's public part when it has a publicToken to rely on.
func (b *Broker) kept(ctx context.Context, app user.ClientID, human user.HumanID) (user.Public, bool, error) {
	p, err := b.cfg.Store.Public(ctx, app, human)
	if user.KindOf(err) == user.UnknownUser {
		return user.Public{}, false, nil
	}
	return p, err == nil && p.PublicToken != "" && p.State == user.Active, err
}

// sharedFetch is a fetch that no single caller owns: it ends with the deadline
// or with Drain. It looks into the store again, where an earlier one may have
// left its token since the caller looked.
func (b *Broker) sharedFetch(app user.ClientID, human user.HumanID) (user.Public, error) {
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		return user.Public{}, user.Fail(user.Draining, "the broker stops")
	}
	b.work.Add(1)
	b.mu.Unlock()
	defer b.work.Done()
	ctx, cancel := context.WithTimeout(b.life, b.cfg.Deadline)
	defer cancel()
	if p, found, err := b.kept(ctx, app, human); found || err != nil {
		return p, err
	}
	return b.fetch(ctx, app, human)
}

// fetch asks Human API for a user's publicToken and keeps it.
func (b *Broker) fetch(ctx context.Context, app user.ClientID, human user.HumanID) (user.Public, error) {
	t, err := b.boardFetch(ctx, userName{app, human})
	if err != nil {
		return user.Public{}, err
	}
	defer b.alight(t)
	var token user.PublicToken
	err, secretless := b.withSecret(ctx, app, func(s user.ClientSecret) (err error) {
		token, err = b.cfg.Upstream.PublicToken(ctx, exchange.PublicTokenRequest{ClientID: app, HumanID: human, ClientSecret: s.Text})
		b.observe(t, err)
		return err
	})
	switch {
	case secretless != nil:
		return user.Public{}, timeUp(fmt.Errorf("get the client secret: %w", secretless))
	case err != nil:
		return user.Public{}, fetchFailure(err)
	}
	return b.cfg.Store.PutPublicToken(ctx, app, human, token)
}

// timeUp gives the end of our own deadline, the only error of no kind that is
// to be expected, a kind.
func timeUp(err error) error {
	if user.KindOf(err) == "" && errors.Is(err, context.DeadlineExceeded) {
		return &user.Error{Kind: user.UpstreamUnavailable, Err: err}
	}
	return err
}

// fetchFailure gives a failed fetch its kind. The call changes nothing at Human
// API, so that whether it was sent makes no difference.
func fetchFailure(err error) error {
	return &user.Error{
		Kind: ruleFor(classOf(err), fetching).failure, RetryAfter: adviceIn(err),
		Err: fmt.Errorf("fetch the public token: %w", err),
	}
}
