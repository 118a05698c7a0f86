package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// fetchRule stands for whoever asks for a publicToken; no rule has that name.
const fetchRule = "\x00fetch"

// berth is a place on the wire: wanted, had, or given back. It is guarded by
// Broker.mu.
type berth struct {
	rule   string
	who    userName
	run    *run          // whose attempt it is for; nil: a publicToken is fetched
	ready  chan struct{} // of a fetch: closed when it has the place
	gone   bool          // of a fetch: nobody wants it any more
	queued bool
	aboard bool
}

// wants reports whether the place can be used at once.
func (t *berth) wants() bool {
	if t.run == nil {
		return !t.gone
	}
	return t.run.phase == waiting && t.run.line.next() == t.run
}

// wire shares out the attempts that an app may have under way at Human API: a
// free place goes to the rule that has the fewest of them, and of equals to the
// one that waits longer. What is resumed stands under the rule that brought it.
// It is guarded by Broker.mu.
type wire struct {
	places int
	share  int // of one rule: some are left, so that no rule's hanging attempts hold up the others
	total  int
	on     map[string]int      // taken, by rule
	queues map[string][]*berth // wanted, by rule, in the order of coming
	last   map[string]uint64   // by rule: when it got its last place
	served uint64              // places given so far
}

func newWire(places int) *wire {
	return &wire{
		places: places, share: max(1, places-max(1, places/8)),
		on: map[string]int{}, queues: map[string][]*berth{}, last: map[string]uint64{},
	}
}

func (w *wire) join(t *berth) {
	if !t.queued {
		t.queued = true
		w.queues[t.rule] = append(w.queues[t.rule], t)
	}
}

// head is the first of a rule's that can use a place. The others in front of it
// join anew when they can.
func (w *wire) head(rule string) *berth {
	q := w.queues[rule]
	for len(q) > 0 && !q[0].wants() {
		q[0].queued = false
		q = q[1:]
	}
	if len(q) == 0 {
		delete(w.queues, rule)
		return nil
	}
	w.queues[rule] = q
	return q[0]
}

// pick chooses who gets the next free place, among the rules that are allowed.
func (w *wire) pick(allowed func(rule string) bool) (best *berth) {
	if w.total >= w.places {
		return nil
	}
	for rule := range w.queues {
		t := w.head(rule)
		if t == nil || w.on[rule] >= w.share || !allowed(rule) {
			continue
		}
		if best == nil || w.on[rule] < w.on[best.rule] || w.on[rule] == w.on[best.rule] && w.last[rule] < w.last[best.rule] {
			best = t
		}
	}
	return best
}

func (w *wire) board(t *berth) {
	w.queues[t.rule] = w.queues[t.rule][1:]
	t.queued, t.aboard = false, true
	w.total++
	w.on[t.rule]++
	w.served++
	w.last[t.rule] = w.served
}

func (w *wire) alight(t *berth) {
	t.aboard = false
	w.total--
	if w.on[t.rule]--; w.on[t.rule] == 0 {
		delete(w.on, t.rule)
	}
}

// stir lets everyone in a line look again, and whoever may send now stand in
// for a place on the wire. It follows every change of a line. b.mu is held.
func (b *Broker) stir(l *line) {
	l.wake()
	if r := l.next(); r != nil {
		w := b.wireOf(r.intent.ClientID)
		w.join(&r.berth)
		b.dispatch(w)
	}
}

// wireOf makes one also for an app that is not configured any more: its intents
// are ended like others. b.mu is held.
func (b *Broker) wireOf(app user.ClientID) *wire {
	w := b.wires[app]
	if w == nil {
		w = newWire(b.cfg.PerApp)
		b.wires[app] = w
	}
	return w
}

// dispatch gives out the places that are free. Whoever gets one has the user's
// turn in the same moment. b.mu is held.
func (b *Broker) dispatch(w *wire) {
	now := time.Now()
	for !b.stopped {
		t := w.pick(func(rule string) bool { return b.breaker.allows(rule, now) })
		if t == nil {
			return
		}
		w.board(t)
		b.breaker.boards(t)
		if t.run == nil {
			close(t.ready)
			continue
		}
		t.run.phase, t.run.tried = sending, true
		t.run.line.wake()
	}
}

func (b *Broker) dispatchAll() {
	for _, w := range b.wires {
		b.dispatch(w)
	}
}

// alight gives a place back, if t has one.
func (b *Broker) alight(t *berth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alightLocked(t)
}

func (b *Broker) alightLocked(t *berth) {
	b.breaker.forget(t)
	if !t.aboard {
		return
	}
	w, probed := b.wireOf(t.who.app), b.breaker.probe == t
	w.alight(t)
	b.breaker.alights(t)
	if probed {
		b.dispatchAll()
		return
	}
	b.dispatch(w)
}

// boardFetch waits for a place to fetch a publicToken in. While the origin is
// down it says so at once.
func (b *Broker) boardFetch(ctx context.Context, who userName) (*berth, error) {
	t := &berth{rule: fetchRule, who: who, ready: make(chan struct{})}
	b.mu.Lock()
	err := b.closedTo(t)
	if err == nil {
		w := b.wireOf(who.app)
		w.join(t)
		b.dispatch(w)
	}
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-t.ready:
		return t, nil
	case <-ctx.Done():
		err = &user.Error{Kind: user.UpstreamUnavailable, Err: fmt.Errorf("wait for a place on the wire: %w", ctx.Err())}
	case <-b.stopping:
		err = user.Fail(user.Draining, "the broker stops")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.gone = true
	b.alightLocked(t)
	return nil, err
}
