package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/api"
)

// pace is how often things may be done. Tests shorten it.
type pace struct {
	floor   time.Duration // between two logins, and between two renewals
	first   time.Duration // wait after the first failure
	last    time.Duration // the longest wait after a failure
	refused time.Duration // between two logins that Vault refuses
	fresh   time.Duration // a token younger than this is not replaced because of a 403 while it lives
}

// freshFor is the age below which a token is not replaced because of a 403. One
// that looks dead may also be one whose policies grant nothing at all.
func (p pace) freshFor(alive bool) time.Duration {
	if alive {
		return p.fresh
	}
	return p.floor
}

var defaultPace = pace{floor: 5 * time.Second, first: time.Second, last: 30 * time.Second, refused: time.Minute, fresh: time.Minute}

// backoff counts failures in a row.
type backoff struct{ failures int }

// next is the wait after one more failure: doubled each time, capped, and
// between half and all of it, so that many daemons do not come back as one.
func (b *backoff) next(p pace) time.Duration {
	d := p.last
	if b.failures < 16 {
		d = min(d, p.first<<b.failures)
	}
	b.failures++
	return d/2 + rand.N(d/2+1)
}

// Run keeps the token alive until ctx ends, and then returns nil. It renews the
// token, logs in again before the token's last moment and when Vault no longer
// knows it, and asks for a sign of life whenever nothing was heard for
// Heartbeat. Run it once, after a first successful Login (or before: it then
// logs in itself).
func (c *Client) Run(ctx context.Context) error {
	k := &keeper{client: c, until: ctx, login: stoppedTimer(), beat: time.NewTimer(c.config.Heartbeat)}
	defer k.stop()
	select {
	case <-c.changed: // by a Login before: adopt sees it
	default:
	}
	k.adopt()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.changed:
			k.adopt()
		case renewal := <-k.watch.renewed():
			k.renewed(renewal)
		case <-k.watch.ended():
			k.stopWatch()
			k.wantLogin(0)
		case <-k.watch.hasty():
			k.stopWatch()
			k.wantLogin(0)
		case <-k.login.C:
			k.tryLogin(ctx)
		case <-k.beat.C:
			k.heartbeat(ctx)
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// keeper is the state of Run; only its goroutine touches it.
type keeper struct {
	client *Client
	until  context.Context // of Run
	kept   session         // the session that watch and timers are about
	watch  *watch          // nil: the token is not renewed
	login  *time.Timer
	beat   *time.Timer
	logins backoff
	beats  backoff
}

func (k *keeper) stop() {
	k.stopWatch()
	k.login.Stop()
	k.beat.Stop()
}

func (k *keeper) stopWatch() {
	k.watch.stop()
	k.watch = nil
}

// adopt starts to keep the client's current session alive.
func (k *keeper) adopt() {
	k.stopWatch()
	k.login.Stop()
	k.kept, k.logins = k.client.current(), backoff{}
	floor := k.client.pace.floor
	switch s := k.kept; {
	case s.generation == 0:
		k.wantLogin(0)
	case s.lease == 0: // without end
	case s.renewable && s.lease >= 4*floor:
		k.startWatch()
	default:
		k.wantLogin(s.lease * 2 / 3)
	}
}

// wantLogin logs in after d, but not within floor of the login before.
func (k *keeper) wantLogin(d time.Duration) {
	if k.kept.generation > 0 {
		d = max(d, k.client.pace.floor-k.client.config.Now().Sub(k.kept.since))
	}
	k.login.Reset(max(d, 0))
}

func (k *keeper) tryLogin(ctx context.Context) {
	c := k.client
	err := c.loginAfter(ctx, k.kept.generation)
	if err == nil || ctx.Err() != nil {
		return // a new session comes through changed
	}
	pause := k.logins.next(c.pace)
	if errors.Is(err, ErrDenied) {
		pause = c.pace.refused
	}
	c.config.Logger.Warn("cannot log in to vault", "error", err, "retry_in", pause)
	k.login.Reset(pause)
}

// renewed takes note of a renewal.
func (k *keeper) renewed(out *api.RenewOutput) {
	if out.Secret == nil || out.Secret.Auth == nil {
		return
	}
	k.client.noteWord()
	k.client.prolong(k.kept.generation, out.Secret.Auth.LeaseDuration)
}

// prolong sets what is left of the session's life.
func (c *Client) prolong(generation uint64, seconds int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session.generation == generation {
		c.session.setLease(c.config.Now(), seconds)
	}
}

// heartbeat asks for a sign of life, unless there was one since the last.
func (k *keeper) heartbeat(ctx context.Context) {
	c := k.client
	before := c.Status()
	if quiet := c.quiet(); before.Reachable && !before.Denied && quiet < c.config.Heartbeat {
		k.beat.Reset(max(c.config.Heartbeat-quiet, time.Millisecond))
		return
	}
	err := k.lookup(ctx)
	if errors.Is(err, ErrUnreachable) {
		if k.beats.failures == 0 && ctx.Err() == nil {
			c.config.Logger.Warn("vault cannot be reached", "error", err)
		}
		k.beat.Reset(min(k.beats.next(c.pace), c.config.Heartbeat))
		return
	}
	if !before.Reachable && c.Status().Reachable {
		c.config.Logger.Info("vault is reachable again")
		k.rewatch()
	}
	k.beats = backoff{}
	k.beat.Reset(c.config.Heartbeat)
}

// quiet is how long ago Vault last answered.
func (c *Client) quiet() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.heard)
}

// rewatch renews at once after an outage: the watcher's own patience with
// errors is up to five minutes.
func (k *keeper) rewatch() {
	if k.watch == nil || k.watch.justNow() {
		return
	}
	s := k.client.current()
	if s.generation == k.kept.generation {
		k.adopt()
	}
}

// lookup asks about the token; a dead one is replaced.
func (k *keeper) lookup(ctx context.Context) error {
	c := k.client
	a, err := c.send(ctx, request{path: "auth/token/lookup-self"})
	if err != nil {
		return err
	}
	if a.ok() {
		var self selfLookup
		if err := a.data(&self); err != nil {
			return err
		}
		c.prolong(k.kept.generation, self.left())
		c.noteAlive()
		return nil
	}
	alive, err := c.tokenAlive(ctx)
	if err != nil || alive {
		return err
	}
	err = c.replace(ctx, k.kept.generation)
	if errors.Is(err, ErrDenied) {
		k.login.Reset(c.pace.refused)
	}
	return err
}
