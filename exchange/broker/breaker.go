package broker

import (
	"errors"
	"time"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Breaker says when the Upstream, which is one origin, counts as down. While it does, what has
// no intent is refused in milliseconds, what has one waits, and one attempt at
// a time finds out whether it is back.
type Breaker struct {
	// Failures in a row that open it: attempts that were not sent, or that met a
	// timeout, a reset, a 5xx or a cut answer, with no other answer between them
	// and none a minute after the one before. Default 5.
	Failures int
	// Users that those must be about at least: the bad session of one user opens
	// nothing. Default 2.
	Users int
	// CoolDown is how long it stays open, by failed attempts to close it. Default
	// 1 s doubling to 30 s, half of it random.
	CoolDown Backoff
}

// States of the breaker in Status.
const (
	BreakerClosed   = "closed"
	BreakerOpen     = "open"      // no attempts
	BreakerHalfOpen = "half-open" // the cool-down is over: one attempt
)

// streakGap is how far two failures may lie apart and still be in a row.
const streakGap = time.Minute

// breaker is guarded by Broker.mu, and takes every moment from its caller.
//
// Requests are not trusted: whoever may exchange could provoke timeouts with
// garbage about several users. So what one rule alone provoked opens the breaker
// for that rule alone; the others' next failure, or one that no request can
// provoke (no connection at all), opens it for everyone.
type breaker struct {
	cfg Breaker

	// The failures in a row.
	failures int
	last     time.Time
	users    map[userName]bool // no more than are needed
	blamed   map[string]bool   // the rules of the requests
	unsent   bool              // a connection failed

	opened    bool
	since     time.Time // when it opened
	until     time.Time // of the cool-down
	trips     int       // failed attempts to close it, and the opening
	probe     *berth    // the attempt that is to close it
	candidate *berth    // has been let in to make it
}

func newBreaker(c Breaker) breaker {
	k := breaker{cfg: c}
	k.reset()
	return k
}

func (k *breaker) reset() {
	*k = breaker{cfg: k.cfg, users: map[userName]bool{}, blamed: map[string]bool{}}
}

// concerns reports whether it is open for requests by that rule.
func (k *breaker) concerns(rule string) bool {
	if !k.opened {
		return false
	}
	all := len(k.blamed)
	if k.blamed[fetchRule] {
		all--
	}
	return k.unsent || all > 1 || k.blamed[rule]
}

func (k *breaker) state(now time.Time) string {
	switch {
	case !k.opened:
		return BreakerClosed
	case now.Before(k.until):
		return BreakerOpen
	}
	return BreakerHalfOpen
}

// admits says whether something new may be begun, or how long not. When the
// cool-down is over one is let in.
func (k *breaker) admits(t *berth, now time.Time) (wait time.Duration) {
	switch {
	case !k.concerns(t.rule):
		return 0
	case now.Before(k.until):
		return k.until.Sub(now)
	case k.probe != nil || k.candidate != nil:
		return k.cfg.CoolDown.First
	}
	k.candidate = t
	return 0
}

// allows reports whether an attempt by that rule may be made now.
func (k *breaker) allows(rule string, now time.Time) bool {
	return !k.concerns(rule) || k.probe == nil && !now.Before(k.until)
}

// boards notes that an attempt is made.
func (k *breaker) boards(t *berth) {
	if k.concerns(t.rule) {
		k.probe = t
	}
	k.forget(t)
}

// forget: t does not go to make the attempt any more.
func (k *breaker) forget(t *berth) {
	if k.candidate == t {
		k.candidate = nil
	}
}

// alights notes that an attempt is over, whether anything was seen of it or not.
func (k *breaker) alights(t *berth) {
	if k.probe == t {
		k.probe = nil
	}
}

// sees what an attempt says of the origin; notSent: nothing left this machine.
func (k *breaker) sees(t *berth, what origin, notSent bool, now time.Time) {
	switch {
	case what == up:
		k.reset()
		return
	case what != down:
		return
	}
	if !k.opened && now.Sub(k.last) > streakGap {
		k.reset()
	}
	k.failures++
	k.last, k.unsent, k.blamed[t.rule] = now, k.unsent || notSent, true
	if len(k.users) < k.cfg.Users {
		k.users[t.who] = true
	}
	switch {
	case k.opened && k.probe == t:
		k.coolDown(now)
	case !k.opened && k.failures >= k.cfg.Failures && len(k.users) >= k.cfg.Users:
		k.opened, k.since = true, now
		k.coolDown(now)
	}
}

func (k *breaker) coolDown(now time.Time) {
	k.trips++
	k.until = now.Add(k.cfg.CoolDown.pause(k.trips))
}

// originOf is what an attempt's end says of the origin. An answer of any kind
// says that it is there, but for those that stand for none: 5xx, and one cut short.
func originOf(err error) origin {
	if err == nil {
		return up
	}
	e, ok := errors.AsType[*exchange.Error](err)
	if ok && e.Class == exchange.Unknown && e.Status >= 300 && e.Status < 500 {
		return up
	}
	return ruleFor(classOf(err), fetching).origin
}

// observe lets the breaker know how a request ended that berth t was for. Once
// the broker cuts off what is on the wire nothing can be learned from it.
func (b *Broker) observe(t *berth, err error) {
	if b.life.Err() != nil {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.breaker.opened
	b.breaker.sees(t, originOf(err), classOf(err) == exchange.NotSent, now)
	switch is := b.breaker.opened; {
	case is && !was:
		b.log.Warn("human api does not answer, no attempts for a while")
	case was && !is:
		b.log.Info("human api answers again")
		b.dispatchAll()
	}
	if b.breaker.opened {
		b.lookAfter(b.breaker.until.Sub(now))
	}
}

// lookAfter lets somebody try when the cool-down is over. b.mu is held.
func (b *Broker) lookAfter(d time.Duration) {
	if b.cooling != nil {
		b.cooling.Stop()
	}
	if b.stopped || d <= 0 {
		return
	}
	b.cooling = time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dispatchAll()
	})
}

// closedTo is the refusal of something new while the origin is down, or nil.
// b.mu is held.
func (b *Broker) closedTo(t *berth) error {
	if wait := b.breaker.admits(t, time.Now()); wait > 0 {
		return &user.Error{Kind: user.UpstreamUnavailable, RetryAfter: wait, Err: errDown}
	}
	return nil
}

var errDown = errors.New("human api did not answer the last attempts")
