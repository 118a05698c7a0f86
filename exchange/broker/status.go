package broker

import (
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// Status is a snapshot.
type Status struct {
	InFlight int                     // exchanges being worked on now
	Outcomes map[user.Outcome]uint64 // exchanges ended since New, replays not counted
	// Waiting of those in flight are not on the wire, but want to be: for the
	// user's turn, a place, the end of a pause or of an outage.
	Waiting   int
	Uncertain int // of those in flight: an attempt may have taken effect, and no answer came
	Resuming  int // of those in flight: begun before this start
	// Damaged exchanges were left in the store since New, because a row of their
	// user does not open. They are looked at again at the next start.
	Damaged uint64
	Breaker string // BreakerClosed, BreakerOpen or BreakerHalfOpen
	// OpenSince is when the breaker opened; zero while it is closed.
	OpenSince time.Time
}

// Status tells what the broker does and did.
func (b *Broker) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{
		InFlight: len(b.running), Outcomes: make(map[user.Outcome]uint64, len(user.Outcomes)), Damaged: b.damaged,
		Breaker: b.breaker.state(time.Now()), OpenSince: b.breaker.since,
	}
	for _, o := range user.Outcomes {
		s.Outcomes[o] = b.outcomes[o]
	}
	for _, r := range b.running {
		s.Waiting += count(r.phase.waits())
		s.Uncertain += count(r.uncertain)
		s.Resuming += count(r.resumed)
	}
	return s
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
