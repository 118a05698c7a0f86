package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// do sends r. A 403 may mean a dead token, so that a new login heals it, or
// rights that are missing; a 404 may mean a mount that was moved. do finds out
// which, repeats r at most once, and returns an error that names path and
// capability. A no counts as Vault's only after a fresh login. An answer with
// another status is the caller's to judge. A token that is known to be dead is
// not sent: a login for another is tried, at most once a minute with the same
// credentials.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	before := c.current()
	if c.knownDead(before.generation) {
		if err := c.replace(ctx, before.generation); err != nil {
			return answer{}, err
		}
		before = c.current()
	}
	a, err := c.send(ctx, r)
	switch {
	case err != nil:
		return a, err
	case a.status == http.StatusForbidden:
		if known := c.knownDenied(r); known != nil {
			return answer{}, known
		}
		err = c.heal(ctx, r, before)
	case !a.nothingThere():
		c.empty.Delete(r.path)
		c.denials.Delete(r.key())
		return a, nil
	case c.knownEmpty(r.path, before):
		return a, nil
	default:
		err = c.confirm(ctx, r, before)
	}
	if err != nil {
		return answer{}, err
	}
	a, err = c.send(ctx, r)
	switch {
	case err == nil && a.status == http.StatusForbidden:
		return answer{}, c.noteDenied(r, c.whyDenied(ctx, r))
	case err == nil && a.nothingThere():
		c.empty.Store(r.path, struct{}{})
	}
	return a, err
}

// heal returns nil when r is worth repeating: there is a newer token than the
// one that was refused.
func (c *Client) heal(ctx context.Context, r request, before session) error {
	if c.current().generation != before.generation {
		return nil
	}
	alive, err := c.askAbout(ctx, before.generation)
	if err != nil {
		return err
	}
	if c.isFresh(before, alive) {
		err := c.whyDenied(ctx, r)
		if alive {
			return c.noteDenied(r, err)
		}
		return err
	}
	if !alive {
		return c.replace(ctx, before.generation)
	}
	if err = c.loginAfter(ctx, before.generation); errors.Is(err, ErrDenied) {
		return c.whyDenied(ctx, r)
	}
	return err
}

// denial is a no that a fresh login has not helped against.
type denial struct {
	at         time.Time
	generation uint64 // of the session that was fresh
	err        error
}

// key is r without what it carries.
func (r request) key() string { return r.capability + " " + r.path }

// noteDenied remembers err, if it is a denial of r, and returns it.
func (c *Client) noteDenied(r request, err error) error {
	if errors.Is(err, ErrDenied) {
		c.denials.Store(r.key(), denial{c.config.Now(), c.current().generation, err})
	}
	return err
}

// knownDenied returns the denial of r that a fresh login has confirmed lately, nil
// when none has: else what stays denied would cost a login and three questions at
// every read. Whether it is the token that is dead, Run finds out meanwhile.
func (c *Client) knownDenied(r request) error {
	held, ok := c.denials.Load(r.key())
	if !ok {
		return nil
	}
	known := held.(denial)
	if known.generation != c.current().generation || c.config.Now().Sub(known.at) >= c.pace.denied {
		return nil
	}
	return known.err
}

// isFresh reports whether s is too young to be replaced because of a no.
func (c *Client) isFresh(s session, alive bool) bool {
	return c.config.Now().Sub(s.since) < c.pace.freshFor(alive)
}

// replace logs in because the token of that generation is dead. Only when the
// login was sent, and Vault refused it too, is the daemon denied: credentials
// that cannot be read here are no word of Vault's, and neither is an outage.
func (c *Client) replace(ctx context.Context, generation uint64) error {
	err := c.loginAfter(ctx, generation)
	switch {
	case err == nil, errors.Is(err, ErrUnreachable):
		return err
	case !errors.Is(err, ErrDenied):
		if c.noteDead(generation, false) {
			c.config.Logger.Error("vault refuses the daemon's token, and there is no login for another", "error", err)
		}
		return err
	}
	if c.noteDead(generation, true) {
		c.config.Logger.Error("vault refuses the daemon's token and a new login", "error", err)
	}
	return fmt.Errorf("%w: the daemon's token is not valid any more, and: %w", ErrDenied, err)
}

// noteDead records that the token of that generation is dead, unless somebody
// has logged in meanwhile, and whether Vault refused a login. It reports whether
// that is news.
func (c *Client) noteDead(generation uint64, refused bool) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session.generation != generation {
		return false
	}
	lost, denied := !refused, c.status.Denied || refused
	news = lost != c.lost || denied != c.status.Denied
	c.lost, c.status.Denied = lost, denied
	c.deaths++
	if news {
		c.announce()
	}
	return news
}

// knownDead reports whether the token of that generation was found dead, and
// nothing has shown since that it is not.
func (c *Client) knownDead(generation uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.generation == generation && (c.lost || c.status.Denied)
}

func (c *Client) deathsSoFar() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deaths
}

// noteAlive records that Vault took the token, in answer to a request that was
// sent when it had been found dead that many times.
func (c *Client) noteAlive(deaths uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deaths == deaths {
		c.lost, c.status.Denied = false, false
	}
}

// nothingThere reports whether a is a 404 that is about the path, and not the
// metadata of something that was deleted.
func (a answer) nothingThere() bool {
	return a.status == http.StatusNotFound && !isObjectWith(a.body, "data")
}

// knownEmpty reports whether a fresh login has shown already that nothing is at
// path, or the session is one: else a path that stays empty would cost a login at
// every read.
func (c *Client) knownEmpty(path string, s session) bool {
	if c.isFresh(s, true) {
		c.empty.Store(path, struct{}{})
	}
	_, known := c.empty.Load(path)
	return known
}

// confirm logs in anew before it is believed that nothing is at r's path. The
// error of a login that was refused is ErrUnconfirmed and does not match
// ErrDenied: the token works.
func (c *Client) confirm(ctx context.Context, r request, before session) error {
	err := c.loginAfter(ctx, before.generation)
	if errors.Is(err, ErrDenied) {
		return fmt.Errorf("%w: %q: nothing is there, which is not believed without a new login: %s", ErrUnconfirmed, r.path, err)
	}
	return err
}

// askAbout asks whether Vault still knows the token. A policy without lookup-self
// looks like a dead token, unless capabilities-self works.
func (c *Client) askAbout(ctx context.Context, generation uint64) (alive bool, err error) {
	for range 2 {
		if alive, err = c.askOnce(ctx, generation); err != nil || alive {
			return alive, err
		}
	}
	return false, nil
}

// askOnce asks in one of both ways. What was refused is not what is asked first
// the next time.
func (c *Client) askOnce(ctx context.Context, generation uint64) (alive bool, err error) {
	lookup := !c.noLookup.Load()
	r := request{path: lookupPath}
	if !lookup {
		r = capabilitiesRequest(lookupPath)
	}
	a, err := c.send(ctx, r)
	defer a.forget() // it has the token
	switch {
	case err != nil:
		return false, err
	case !a.ok():
		c.noLookup.Store(lookup)
		return false, nil
	case !lookup:
		return true, nil
	}
	var self selfLookup
	if err := a.data(&self); err != nil {
		return false, err
	}
	c.prolong(generation, self.left())
	return true, nil
}

// whyDenied returns ErrDenied naming what the policies lack for r.
func (c *Client) whyDenied(ctx context.Context, r request) error {
	held, err := c.capabilities(ctx, r.path)
	switch {
	case errors.Is(err, errNoSelfCapabilities):
		return fmt.Errorf("%w: %q for %s (which of both cannot be told: the policies also lack update on %q)", ErrDenied, r.path, r.capability, capabilitiesPath)
	case err != nil:
		return err
	}
	return denied(r.path, lacking(held[r.path], []string{r.capability})...)
}
