package server

import (
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// What is granted has a line each, and two where something is done upstream. So a
// uid has Limits.AuditPerUID bytes of such lines a second, and auditBurst seconds'
// worth at once; beyond that it is told to wait before anything is done. A lookup's
// line has some 470 bytes: by default that is 142,000 of them at any speed and 2,200
// a second from then on, 3.6 GiB an hour where 66 were measured without it.
//
// Who looks up users that are not there has lines for missesPerSecond of them; the
// others are counted in notes, as refusals are.
const (
	auditBurst      = 64
	missesPerSecond = 64
	maxAccounted    = 4096
)

// ledger has an account for each uid; the admin socket is apart.
type ledger struct {
	perSecond int64

	mu    sync.Mutex
	of    map[holdKey]*account
	rest  *account // of whoever there is no room for
	swept time.Time
}

// account is what one uid may put on record. It may owe bytes: what a line takes is
// known when it is written.
type account struct {
	ledger *ledger
	bytes  float64 // left; under the ledger's lock, as all of it
	misses float64
	at     time.Time
}

func (l *ledger) open(perSecond int64) {
	l.perSecond, l.of = perSecond, map[holdKey]*account{}
	l.rest = l.account(time.Time{})
}

func (l *ledger) account(now time.Time) *account {
	return &account{ledger: l, bytes: float64(l.perSecond) * auditBurst, misses: missesPerSecond, at: now}
}

// find returns a uid's account, and how long until there is something in it; 0:
// there is.
func (l *ledger) find(key holdKey, now time.Time) (*account, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of[key]
	if a == nil {
		a = l.add(key, now)
	}
	a.fill(now)
	if a.bytes > 0 {
		return a, 0
	}
	return a, time.Duration((1 - a.bytes) / float64(l.perSecond) * float64(time.Second))
}

// add forgets accounts from which nothing is missing where there is no room: new
// ones would be the same.
func (l *ledger) add(key holdKey, now time.Time) *account {
	if len(l.of) >= maxAccounted && now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, a := range l.of {
			if a.fill(now) {
				delete(l.of, k)
			}
		}
	}
	if len(l.of) >= maxAccounted {
		return l.rest
	}
	a := l.account(now)
	l.of[key] = a
	return a
}

// fill adds what time has brought; true: nothing is missing.
func (a *account) fill(now time.Time) bool {
	most := float64(a.ledger.perSecond) * auditBurst
	if passed := now.Sub(a.at).Seconds(); passed > 0 {
		a.bytes = min(most, a.bytes+passed*float64(a.ledger.perSecond))
		a.misses = min(missesPerSecond, a.misses+passed*missesPerSecond)
		a.at = now
	}
	return a.bytes >= most && a.misses >= missesPerSecond
}

// pay takes a line's bytes.
func (a *account) pay(e *audit.Event) {
	a.ledger.mu.Lock()
	defer a.ledger.mu.Unlock()
	a.bytes -= float64(lineSize(e))
}

// miss reports whether a lookup of nobody has a line of its own.
func (a *account) miss() bool {
	a.ledger.mu.Lock()
	defer a.ledger.mu.Unlock()
	if a.misses < 1 {
		return false
	}
	a.misses--
	return true
}

// lineSize is about what e takes in the log; Event.Size is exact, and would be a
// tenth of what a lookup costs.
func lineSize(e *audit.Event) int {
	const always, name, group = 300, 14, 11 // numbers and the hash; a field's name and quotes; a number
	size := always + len(e.RequestID) + len(e.Listener) + len(e.Rule) + len(e.Grant) + len(e.App) + len(e.Route)
	if n := len(e.Groups); n > 0 {
		size += 2*name + group*min(n, 16)
	}
	for _, s := range [...]string{e.Unit, e.Invocation, e.Label, e.AppFrom, e.Subject, e.Error, e.Outcome} {
		if s != "" {
			size += name + len(s)
		}
	}
	return size
}

// afford refuses, before anything is done, who has filled the audit log.
func (s *Server) afford(q *call) (bool, reply) {
	if q.services == nil || q.route.free || q.route.unrecorded {
		return true, reply{}
	}
	var wait time.Duration
	q.account, wait = s.ledger.find(holdKey{q.conn.caller.UID, q.conn.listener == policy.AdminListener}, s.now())
	if wait > 0 {
		return false, refuse(api.RateLimited).after(wait).
			because("your user's requests fill the audit log faster than they may (limits.audit_per_uid): wait as long as Retry-After says")
	}
	return true, reply{}
}

// onlyCounted: it looked for a user that is not there, and there are many of those.
func (s *Server) onlyCounted(q *call) bool {
	return q.missed && q.account != nil && q.route.public && !s.durable[string(q.route.grant)] && !q.account.miss()
}
