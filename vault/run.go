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
	away    time.Duration // the longest wait while nothing is there that works for an answer
	last    time.Duration // the longest wait after another failure
	refused time.Duration // between two logins that Vault refuses
	dead    time.Duration // between two questions about a token that is known to be dead
	denied  time.Duration // how long what a fresh login has not helped against is believed
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

// A Vault that is away is asked every 3 to 4 seconds, which costs it nothing, so
// that five seconds after its return all is well; one that answers errors every 30
// to 40, which is what an idle one is asked.
var defaultPace = pace{
	floor: 5 * time.Second, first: time.Second, away: 4 * time.Second, last: 40 * time.Second,
	refused: time.Minute, dead: time.Minute, denied: 5 * time.Minute, fresh: time.Minute,
}

// after is the pace once err came; heartbeat is the pace of an idle client.
func (p pace) after(err error, heartbeat time.Duration) pace {
	limit := heartbeat * 4 / 3
	if errors.Is(err, ErrUnreachable) && !isBusy(err) {
		limit = min(p.away, heartbeat)
	}
	p.last = min(p.last, limit)
	p.first = min(p.first, p.last)
	return p
}

// backoff counts failures in a row that are of one kind.
type backoff struct {
	failures int
	busy     bool
}

// next is the wait after one more failure: doubled each time, capped, and
// between three quarters and all of it, so that many daemons do not come back as
// one.
func (b *backoff) next(p pace) time.Duration {
	d := p.last
	if b.failures < 16 {
		d = min(d, p.first<<b.failures)
	}
	b.failures++
	return d - rand.N(d/4+1)
}

// after is next for err. A Vault that comes back may answer errors for a moment:
// the first ones after silence are not waited for as the last ones of many.
func (b *backoff) after(err error, c *Client) time.Duration {
	if busy := isBusy(err); busy != b.busy {
		*b = backoff{busy: busy}
	}
	return b.next(c.pace.after(err, c.config.Heartbeat))
}

// Run keeps the token alive until ctx ends, and then returns nil. It renews the
// token, logs in again before the token's last moment and when Vault no longer
// knows it, and asks for a sign of life whenever nothing was heard for
// Heartbeat. Run it once, after a first successful Login or a Recall (or before:
// it then logs in itself).
//
// A token that was revoked is noticed within Heartbeat. With the method token
// that is the end: the file holds the same one, and Status is Denied. With a method
// that can log in again, Run does: there the operator's switch is to take the way
// in away first (the role, or the secret id) and then to revoke the token.
//
// Requests in a minute in which nothing is asked for: one per Heartbeat, beside a
// renewal in two thirds of a lease. The same holds when Vault answers errors, or
// refuses the daemon. While nothing answers, or a sealed Vault does, it is asked
// every 3 to 4 s, by one request at a time.
func (c *Client) Run(ctx context.Context) error {
	k := &keeper{client: c, until: ctx, login: stoppedTimer(), beat: time.NewTimer(c.config.Heartbeat), news: c.changes()}
	defer k.stop()
	select {
	case <-c.changed: // by a Login before: adopt sees it
	default:
	}
	k.adopt()
	k.heed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.changed:
			k.adopt()
		case <-k.news:
			k.heed()
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
	news   <-chan struct{} // of the client's changes
	down   bool            // Vault was unreachable when last looked
	wants  bool            // a login waits for Vault's return
	asked  time.Time       // when the token was last asked about
	told   string          // the last failed login that was logged
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
	k.kept, k.logins, k.wants, k.told = k.client.current(), backoff{}, false, ""
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

// tryLogin logs in. While there is a token and Vault is away, the heartbeat alone
// asks whether it is back.
func (k *keeper) tryLogin(ctx context.Context) {
	c := k.client
	if k.kept.generation > 0 && c.knownOutage() != nil {
		k.wants = true
		return
	}
	err := c.loginAfter(ctx, k.kept.generation)
	if err == nil || ctx.Err() != nil {
		return // a new session comes through changed
	}
	pause := k.logins.after(err, c)
	if errors.Is(err, ErrDenied) {
		pause = c.pace.refused
	}
	if text := err.Error(); text != k.told {
		k.told = text
		c.config.Logger.Warn("cannot log in to vault", "error", err, "retry_in", pause)
	}
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
	k.beat.Reset(c.config.Heartbeat)
	if k.kept.generation == 0 {
		return // logins are tried, which show the same
	}
	before := c.Status()
	if quiet := c.quiet(); before.Reachable && !before.Denied && quiet < c.config.Heartbeat {
		k.beat.Reset(max(c.config.Heartbeat-quiet, time.Millisecond))
		return
	}
	began := time.Now()
	err := k.lookup(ctx)
	if !errors.Is(err, ErrUnreachable) {
		k.beats = backoff{}
		return
	}
	k.beat.Reset(max(k.beats.after(err, c)-time.Since(began), c.pace.first/4))
}

// heed reacts to Vault going and coming back, whoever noticed.
func (k *keeper) heed() {
	c := k.client
	k.news = c.changes()
	outage := c.knownOutage()
	switch was := k.down; {
	case outage != nil && !was:
		c.config.Logger.Warn("vault cannot be reached", "error", outage)
		if errors.Is(outage, errUnasked) {
			k.beat.Reset(0)
		} else if k.beats.failures == 0 {
			k.beat.Reset(k.beats.after(outage, c))
		}
	case outage == nil && was:
		c.config.Logger.Info("vault is reachable again")
		k.beats = backoff{}
		k.beat.Reset(c.config.Heartbeat)
		if k.wants {
			k.wantLogin(0)
		}
		k.rewatch()
	}
	k.down = outage != nil
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
	if k.watch == nil || k.watch.sentJustNow() {
		return
	}
	s := k.client.current()
	if s.generation == k.kept.generation {
		k.adopt()
	}
}

// lookup asks about the token; a dead one is replaced. Of one that is known to be
// dead it asks rarely, and only once: it may have got rights back.
func (k *keeper) lookup(ctx context.Context) error {
	c, generation := k.client, k.kept.generation
	ask := c.askAbout
	if c.knownDead(generation) {
		ask = c.askOnce
		if time.Since(k.asked) < c.pace.dead {
			return c.replace(ctx, generation)
		}
	}
	k.asked = time.Now()
	if alive, err := ask(ctx, generation); err != nil || alive {
		return err
	}
	return c.replace(ctx, generation)
}
