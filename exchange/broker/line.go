package broker

import (
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// How many may wait for one user, and how many of them by one rule. The humanId
// is only claimed: without the bounds, garbage that names a victim would keep
// the victim's own finish event out.
const (
	waitPerUser = 4
	waitPerRule = 2
)

// tooManyRetry is the advice to who finds a user's line full.
const tooManyRetry = time.Second

// line is the exchanges of one user, of whom one at a time may be on the wire.
// It is guarded by Broker.mu.
type line struct {
	runs      []*run
	committed uint64 // the highest arrival of this user committed while the line stood
}

// room says whether one more may wait that came by that rule.
func (l *line) room(rule string) bool {
	all, same := 0, 0
	for _, r := range l.runs {
		if r.phase.waits() {
			all++
			if r.intent.Rule == rule {
				same++
			}
		}
	}
	return all < waitPerUser && same < waitPerRule
}

// next is who may send now: the lowest arrival of those that want to, when
// nobody is on the wire and nobody is just being given a number, which could
// be a lower one.
func (l *line) next() *run {
	var first *run
	for _, r := range l.runs {
		switch r.phase {
		case beginning, sending:
			return nil
		case waiting:
			if first == nil || r.intent.Arrival < first.intent.Arrival {
				first = r
			}
		}
	}
	return first
}

// wake lets everyone in the line look again whether it may go on.
func (l *line) wake() {
	for _, r := range l.runs {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// joinLine puts r into its user's line. The bounds are not for what is resumed:
// that was let in before.
func (b *Broker) joinLine(r *run) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := userName{r.intent.ClientID, r.intent.HumanID}
	l := b.lines[name]
	if l == nil {
		l = &line{}
		b.lines[name] = l
	}
	if !r.resumed && !l.room(r.intent.Rule) {
		return &user.Error{Kind: user.TooManyWaiting, RetryAfter: tooManyRetry}
	}
	r.line, r.phase = l, beginning
	l.runs = append(l.runs, r)
	return nil
}

// leaveLine takes r out and lets the others look. b.mu is held.
func (b *Broker) leaveLine(r *run) {
	l := r.line
	if l == nil {
		return
	}
	l.runs = slices.DeleteFunc(l.runs, func(o *run) bool { return o == r })
	if len(l.runs) == 0 {
		delete(b.lines, userName{r.intent.ClientID, r.intent.HumanID})
	}
	l.wake()
	r.line = nil
}
