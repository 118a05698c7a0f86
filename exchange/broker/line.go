package broker

import (
	"errors"
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

// tooManyRetry is the advice to who finds the user's line full, or all of them.
const tooManyRetry = time.Second

// line is the exchanges of one user, of whom one at a time may be on the wire.
// It is guarded by Broker.mu.
type line struct {
	runs      []*run
	committed uint64 // the highest arrival of this user committed while the line stood
}

// room says whether one more may wait that came by that rule. Who waits for a
// slot takes nobody's place: that line is the daemon's, not the user's.
func (l *line) room(rule string) bool {
	all, same := 0, 0
	for _, r := range l.runs {
		if r.phase.waits() && !r.displaced && (r.slotted || !r.resumed) {
			all++
			if r.intent.Rule == rule {
				same++
			}
		}
	}
	return all < waitPerUser && same < waitPerRule
}

// next is who may send now: the lowest arrival of those that want to and are not
// barred, when nobody is on the wire and nobody is just being given a number,
// which could be a lower one. What was resumed goes before what is new; it waits
// for a slot only as long as nobody new waits behind it.
func (l *line) next() *run {
	var first *run
	returned := l.returned()
	for _, r := range l.runs {
		switch r.phase {
		case beginning, sending:
			return nil
		case waiting:
			if !r.displaced && (r.slotted || !r.resumed || returned) && r.before(first) && !l.bars(r) {
				first = r
			}
		}
	}
	return first
}

// bars reports whether r must not be sent now, for the first time or again: a later
// arrival may have taken effect at Human API, or has tokens that the store cannot
// take yet. Sent behind it, r would leave the user with r's tokens at Human API
// while those of the later arrival are kept. When the later one is stored, r is
// superseded; when it ends in doubt r goes on, and the store keeps the user's state
// indeterminate. What was only sent by an earlier process bars nobody: it is resumed
// in order, and comes after r.
func (l *line) bars(r *run) bool {
	return slices.ContainsFunc(l.runs, func(o *run) bool {
		return o.intent.Arrival > r.intent.Arrival && (o.uncertain && o.tried || o.phase == holding)
	})
}

// returned reports whether the user has come back since the start.
func (l *line) returned() bool {
	return slices.ContainsFunc(l.runs, func(r *run) bool { return !r.resumed && r.phase.waits() })
}

// wantsSlot is the resumed run that may take a slot now, so as not to hold it in
// vain: the first of those that want to send and are not barred, when nobody is on
// the wire and none has a slot already.
func (l *line) wantsSlot() *run {
	var first *run
	for _, r := range l.runs {
		switch {
		case r.phase == sending, r.slotted:
			return nil
		case r.resumed && (r.phase == beginning || r.phase == waiting) && r.before(first) && !l.bars(r):
			first = r
		}
	}
	return first
}

func (r *run) before(o *run) bool { return o == nil || r.intent.Arrival < o.intent.Arrival }

// wake lets everyone in the line look again whether it may go on.
func (l *line) wake() {
	for _, r := range l.runs {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// room says whether one more may begin that came by that rule. b.mu is held.
func (b *Broker) room(rule string) bool {
	return b.begun < b.cfg.MaxInFlight && b.byRule[rule] < max(1, b.cfg.MaxInFlight/2)
}

// joinLine puts r into its user's line. The bounds are not for what is resumed:
// that was let in before.
func (b *Broker) joinLine(r *run) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	name, rule := userName{r.intent.ClientID, r.intent.HumanID}, r.intent.Rule
	l := b.lines[name]
	if l == nil {
		l = &line{}
	}
	r.berth = berth{rule: rule, who: name, run: r}
	if !r.resumed {
		if err := b.admit(r, l); err != nil {
			return err
		}
		r.counted = true
		b.begun++
		b.byRule[rule]++
	}
	b.lines[name] = l
	r.line, r.phase = l, beginning
	l.runs = append(l.runs, r)
	return nil
}

// admit refuses a new exchange before anything is written of it: too many wait,
// too many failed lately, or Human API is down. Others lose their places only when
// r gets in. b.mu is held.
func (b *Broker) admit(r *run, l *line) error {
	if !b.room(r.intent.Rule) {
		return &user.Error{Kind: user.TooManyWaiting, RetryAfter: tooManyRetry}
	}
	if !r.charged {
		if wait := b.garbage.take(r.claim, time.Now()); wait > 0 {
			return &user.Error{Kind: user.TooManyWaiting, RetryAfter: max(wait, tooManyRetry)}
		}
		r.charged = true // and given back by settle
	}
	if err := b.closedTo(&r.berth); err != nil {
		return err
	}
	if !b.displace(r, l) {
		b.breaker.forget(&r.berth)
		return &user.Error{Kind: user.TooManyWaiting, RetryAfter: tooManyRetry}
	}
	return nil
}

var errDisplaced = errors.New("another login's exchange for that user took its place")

// displace makes room for r, and reports whether there is any: garbage gives way,
// and so does who has more than one place in a line that is full for r's rule. So
// one login cannot keep out another. Only who is new to the line and did not fail
// lately is made room for, and what may have been sent stays. When there is no room
// all the same nobody has moved. b.mu is held.
func (b *Broker) displace(r *run, l *line) bool {
	now := time.Now()
	var moved []*run
	if !b.garbage.blames(r.claim, now) && l.of(r.claim) == 0 {
		moved = b.movable(r, l, now)
	}
	if !l.room(r.intent.Rule) {
		for _, o := range moved {
			o.displaced = false
		}
		return false
	}
	l.wake()
	return true
}

// movable displaces those that give way to r, the last to come first, and returns them.
func (b *Broker) movable(r *run, l *line, now time.Time) (moved []*run) {
	for _, o := range slices.Backward(l.runs) {
		if !o.phase.waits() || o.resumed || o.uncertain || o.displaced {
			continue
		}
		crowds := o.intent.Rule == r.intent.Rule && l.of(o.claim) > 1 && !l.room(r.intent.Rule)
		if crowds || b.garbage.blames(o.claim, now) {
			o.displaced = true
			moved = append(moved, o)
		}
	}
	return moved
}

// of counts the runs of a claim that have a place: who was displaced leaves, and
// is no reason to take the claim's last place too.
func (l *line) of(c claim) (n int) {
	for _, r := range l.runs {
		n += count(r.claim == c && !r.displaced)
	}
	return n
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
	if r.counted {
		r.counted = false
		b.begun--
		if b.byRule[r.berth.rule]--; b.byRule[r.berth.rule] == 0 {
			delete(b.byRule, r.berth.rule)
		}
	}
	r.line = nil
	b.alightLocked(&r.berth)
	b.stir(l)
}
