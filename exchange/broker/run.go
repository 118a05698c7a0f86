package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// phase of a run. The arrows are all there are:
//
//	opening   → beginning, settled (known, refused, or the store fails)
//	beginning → waiting, opening (known after all), settled (the store fails)
//	waiting   → sending, holding (superseded, time up, stopping)
//	sending   → pausing, holding (a final verdict, or the commit failed), settled
//	pausing   → waiting, holding (superseded, time up, stopping)
//	holding   → settled
type phase uint8

const (
	opening   phase = iota // asking the store whether the session is known; in no line
	beginning              // has a place in the user's line; the intent is being written
	waiting                // the intent is durable; wants the user's turn
	sending                // has the turn: on the wire, or the end is being made durable for the first time
	pausing                // between two attempts; the turn is free
	holding                // the end is known and is (still) being made durable; the turn is free
	settled                // done is closed
)

// waits reports whether a run in that phase takes one of the places of those
// who wait for the user.
func (p phase) waits() bool { return p == beginning || p == waiting || p == pausing }

// run is one exchange being worked on, by one goroutine, which every caller
// with the same session token waits for.
type run struct {
	name    sessionName
	intent  user.Intent
	human   user.HumanID // claimed
	claim   claim
	resumed bool // found in the store: it may have been sent

	// Who has not been sent gives up with unsentBy, who is uncertain with giveUp.
	unsentBy, giveUp context.Context
	release          func()        // of both contexts
	wake             chan struct{} // capacity 1: look again whether to go on

	attempts int           // made; for the backoff
	advice   time.Duration // Human API's last Retry-After
	failure  error         // of the last attempt
	retraced bool          // the session was looked up a second time

	// Guarded by Broker.mu:
	phase     phase
	uncertain bool // an attempt may have taken effect at Human API
	tried     bool // this process has sent it
	slotted   bool // has one of Broker.slots, which a resumed one needs to send
	counted   bool // in Broker.begun and byRule
	charged   bool // in Broker.garbage, under claim
	displaced bool // has lost its place, and ends as unsent
	berth     berth
	waiters   int // callers that wait
	line      *line

	done   chan struct{} // closed when settled; then result and err are fixed
	result user.Result
	err    error
}

func (b *Broker) newRun(name sessionName, in user.Intent) *run {
	r := &run{
		name: name, human: in.HumanID, intent: in, claim: b.claimOf(in),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	var c1, c2 context.CancelFunc
	r.unsentBy, c1 = context.WithTimeout(b.life, b.cfg.Deadline)
	r.giveUp, c2 = context.WithTimeout(b.life, b.cfg.GiveUp)
	r.release = func() { c1(); c2() }
	return r
}

// limit ends when r must end one way or the other. It is asked by r's own
// goroutine, the only one that sets uncertain.
func (r *run) limit() context.Context {
	if limits[r.stage()].long {
		return r.giveUp
	}
	return r.unsentBy
}

// stage is asked like limit. The attempt that is being judged is counted.
func (r *run) stage() stage {
	switch {
	case r.uncertain && r.resumed:
		return resumed
	case r.uncertain:
		return uncertain
	case r.attempts > 1:
		return later
	}
	return first
}

// timeUp is the end of a run whose limit has passed.
func (r *run) timeUp() verdict {
	end := limits[r.stage()]
	if end.outcome == user.Unsent {
		return unsent(r.unreachable(end.failure))
	}
	return verdict{next: finish, outcome: end.outcome, failure: end.failure}
}

// unreachable is why an exchange that was never sent is given up.
func (r *run) unreachable(kind user.Failure) error {
	return &user.Error{
		Kind: cmp.Or(user.KindOf(r.failure), kind), RetryAfter: r.advice,
		Err: fmt.Errorf("send request %s: %w", r.intent.RequestID, cmp.Or(r.failure, errNoTurn)),
	}
}

var errNoTurn = errors.New("the user's turn did not come in time")

// lead works on a new exchange from the first look at the store to its end.
func (b *Broker) lead(r *run) {
	defer r.release()
	for {
		result, known, err := b.lookUp(r)
		if known || err != nil {
			b.settle(r, "", result, err)
			return
		}
		if err := b.joinLine(r); err != nil {
			b.settle(r, "", user.Result{}, err)
			return
		}
		if r.resumed {
			break // an intent that nobody works on: go on with it
		}
		if again, err := b.begin(r); err != nil {
			b.settle(r, "", user.Result{}, err)
			return
		} else if !again {
			break
		}
	}
	b.pursue(r, b.outset(r))
}

// begin writes the intent, if the tokens that it is about could be kept. It says
// again when the session came to be known since it was looked up.
func (b *Broker) begin(r *run) (again bool, err error) {
	if err := b.cfg.Store.Ready(); err != nil {
		return false, fmt.Errorf("begin request %s: %w", r.intent.RequestID, err)
	}
	in, err := b.cfg.Store.Begin(b.life, r.intent)
	switch {
	case err == nil:
		b.mu.Lock()
		r.intent = in
		b.mu.Unlock()
		b.cfg.Step("intent-written")
		return false, nil
	case user.KindOf(err) == "" && !r.retraced:
		r.retraced = true
		b.mu.Lock()
		b.leaveLine(r)
		b.mu.Unlock()
		return true, nil
	}
	return false, fmt.Errorf("write the intent of request %s: %w", r.intent.RequestID, err)
}

// outset is the first verdict on a run whose intent is durable.
func (b *Broker) outset(r *run) verdict {
	if !r.resumed {
		return verdict{next: retry}
	}
	if r.intent.Incarnation != b.cfg.Incarnation {
		return indeterminate()
	}
	known, err := b.cfg.Store.Public(b.life, r.intent.ClientID, r.intent.HumanID)
	if user.KindOf(err) == user.RowDamaged { // its tokens could not be kept
		return b.undone(r, err)
	}
	if err == nil && known.Arrival > r.intent.Arrival {
		return superseded()
	}
	return verdict{next: retry} // a store that fails here fails again at the end, and is waited for there
}

// pursue works on an exchange whose intent is durable until it is settled.
func (b *Broker) pursue(r *run, v verdict) {
	for v.next != over {
		switch v.next {
		case retry:
			v = b.awaitTurn(r, b.pauseAfter(r, v))
		case proceed:
			v = b.attempt(r)
			b.freeTurn(r, v)
		case accept:
			v = b.accept(r, v.reply)
			b.freeTurn(r, v)
		case finish:
			v = b.finish(r, v)
		case keep:
			v = b.settle(r, "", user.Result{}, v.err)
		}
	}
}

// settle ends r: it leaves its line, its callers get their answers, and when
// none is left the end is recorded here. An outcome of "" is not counted: a
// replay, a refusal before the intent, or an intent that stays.
func (b *Broker) settle(r *run, outcome user.Outcome, result user.Result, err error) verdict {
	b.mu.Lock()
	r.result, r.err = result, err
	r.result.Outcome = cmp.Or(result.Outcome, outcome)
	r.phase = settled
	if outcome == user.Stored {
		r.line.committed = max(r.line.committed, r.intent.Arrival)
	}
	if outcome != "" {
		b.outcomes[outcome]++
	}
	delete(b.running, r.name)
	switch {
	case r.charged && isGarbage(outcome, err):
		b.garbage.blame(r.claim)
	case r.charged:
		b.garbage.giveBack(r.claim, time.Now())
	}
	b.leaveLine(r)
	orphan := r.waiters == 0
	b.mu.Unlock()
	if orphan && outcome != "" {
		b.record(r, outcome, err)
	}
	r.intent.SessionToken.Wipe()
	close(r.done)
	return verdict{next: over}
}
