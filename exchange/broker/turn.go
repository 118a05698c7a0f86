package broker

import (
	"math/rand/v2"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// awaitTurn pauses, and then waits until r has its user's turn, or until there
// is a reason that it never will.
func (b *Broker) awaitTurn(r *run, pause time.Duration) verdict {
	var over <-chan time.Time // never, when there is no pause
	if pause <= 0 {
		b.enter(r, waiting)
	} else {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		over = timer.C
	}
	for {
		if v, ok := b.mayGo(r); ok {
			return v
		}
		select {
		case <-over:
			b.enter(r, waiting)
		case b.slotsFor(r) <- struct{}{}:
			b.giveSlot(r)
		case <-r.wake:
		case <-r.limit().Done():
		case <-b.stopping:
		}
	}
}

// mayGo decides, in one moment, whether r sends now, ends now, or waits on
// (false).
func (b *Broker) mayGo(r *run) (v verdict, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.line.committed > r.intent.Arrival:
		v = superseded()
	case b.stopped && r.uncertain:
		v = pending(r)
	case b.stopped:
		v = unsent(user.Fail(user.Draining, "request %s was not sent", r.intent.RequestID))
	case r.displaced:
		v = unsent(&user.Error{Kind: user.TooManyWaiting, RetryAfter: tooManyRetry, Err: errDisplaced})
	case r.limit().Err() != nil:
		r.advice = max(r.advice, time.Until(b.breaker.until))
		v = r.timeUp()
	case r.phase == sending: // dispatch says so
		return verdict{next: proceed}, true
	default:
		if r.slotted && r.line.bars(r) { // since it got the slot, which another needs
			b.freeSlotLocked(r)
			b.stir(r.line)
		}
		return verdict{}, false
	}
	b.freeSlotLocked(r)
	r.phase = holding
	b.alightLocked(&r.berth)
	b.stir(r.line)
	return v, true
}

// slotsFor is where r gets a slot, or nil when it must not take one now. A restart
// must not fall upon Human API with all it has; but a user who comes back is not
// kept waiting with it (line.next).
func (b *Broker) slotsFor(r *run) chan<- struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.phase == waiting && r.line.wantsSlot() == r {
		return b.slots
	}
	return nil
}

// giveSlot notes that r has a slot.
func (b *Broker) giveSlot(r *run) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.slotted = true
	b.stir(r.line)
}

func (b *Broker) freeSlot(r *run) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeSlotLocked(r)
}

func (b *Broker) freeSlotLocked(r *run) {
	if r.slotted {
		r.slotted = false
		<-b.slots
	}
}

// freeTurn gives the user's turn to whoever is next, unless r still needs it: a
// commit that is overtaken by the next exchange's would end as superseded, and an
// end that is not durable when the next one is sent would, after a crash, have r
// sent behind it.
func (b *Broker) freeTurn(r *run, v verdict) {
	switch v.next {
	case retry:
		b.enter(r, pausing)
	case keep:
		b.enter(r, holding)
	}
}

func (b *Broker) enter(r *run, p phase) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enterLocked(r, p)
}

func (b *Broker) enterLocked(r *run, p phase) {
	r.phase = p
	if p == waiting && r.line.wantsSlot() == r {
		select { // in the same moment, or a later arrival would slip through
		case b.slots <- struct{}{}:
			r.slotted = true
		default:
		}
	}
	b.stir(r.line)
}

// pauseAfter is how long to wait before the next attempt: nothing before the
// first, then what Human API asked for, and at least the backoff.
func (b *Broker) pauseAfter(r *run, v verdict) time.Duration {
	if r.attempts == 0 {
		return 0
	}
	return max(v.after, b.cfg.Backoff.pause(r.attempts))
}

// pause after that many attempts, from 1.
func (o Backoff) pause(attempts int) time.Duration {
	d := o.First
	for i := 1; i < attempts && d < o.Max; i++ {
		d *= 2
	}
	d = min(d, o.Max)
	return d/2 + rand.N(d/2+1)
}
