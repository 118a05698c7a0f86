package broker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// abandoned begins an exchange whose caller hangs up as soon as it is sent.
func (w *world) abandoned(rule string, human int) user.Exchange {
	w.t.Helper()
	x := w.finish(user.HumanID(fmt.Sprintf("marker-human-%d", human)), "")
	x.Rule = rule
	ctx, hangUp := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() { _, _ = w.b.Exchange(ctx, x); close(gone) }()
	w.until("the intent", func() bool { return len(w.intents()) == human })
	hangUp()
	<-gone
	return x
}

// Callers that hang up leave no more behind than the bound, and half of it by one
// rule.
func TestExchangesInFlightAreBounded(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.MaxInFlight = 8 })
	done := w.finish("marker-human", "marker-user")
	_, err := w.exchange(done)
	wantKind(t, err, "")
	w.sim.SetMode(humanapitest.Repeatable)
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, Status: 503, Path: humanapitest.TokensPath})
	next := func(rule string) user.Exchange {
		x := w.finish("marker-next-human", "")
		x.Rule = rule
		return x
	}
	var first user.Exchange
	for n := 1; n <= 4; n++ {
		first = w.abandoned("one rule", n)
	}
	for range 3000 {
		_, err := w.exchange(next("one rule"))
		if user.KindOf(err) != user.TooManyWaiting {
			t.Fatalf("more than a rule's share got kind %q", user.KindOf(err))
		}
	}
	for n := 5; n <= 8; n++ {
		w.abandoned(fmt.Sprintf("rule %d", n%3), n)
	}
	_, err = w.exchange(next("yet another rule"))
	wantKind(t, err, user.TooManyWaiting)
	if n, m := w.b.Status().InFlight, len(w.intents()); n != 8 || m != 8 {
		t.Errorf("%d exchanges and %d intents, want 8", n, m)
	}
	r, err := w.exchange(done)
	wantKind(t, err, "")
	if !r.Replayed {
		t.Error("what is finished is not answered while the broker is full")
	}
	joined := w.begin(first)
	w.sim.ClearFaults()
	wantKind(t, (<-joined).err, "")
	w.awaitOutcome(user.Stored, 9)
	for range 9 {
		_, err = w.exchange(next("one rule"))
		wantKind(t, err, "")
	}
}

// A user who comes back does not wait for the slots that others have: what was
// resumed for that user goes at once, in order, and then the new exchange.
func TestReturningUserDoesNotWaitForASlot(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Backoff = broker.Backoff{First: time.Minute, Max: time.Minute} })
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, Status: 500})
	var all []<-chan answered
	for i := range 6 {
		for range 2 {
			human := user.HumanID(fmt.Sprintf("marker-human-%d", i))
			all = append(all, w.begin(w.finish(human, user.ClientUserID("of "+human))))
		}
		w.until("the intents", func() bool { return len(w.intents()) == len(all) })
	}
	w.awaitSessions(len(all))
	w.crash()
	for _, c := range all {
		wantKind(t, (<-c).err, user.ExchangePending)
	}
	w.config.Backoff = broker.Backoff{First: time.Millisecond, Max: 5 * time.Millisecond}
	w.sim.ClearFaults()
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Times: 4, Status: 503, HoldAnswer: hold})
	before := len(w.sim.Requests())
	w.start()
	w.until("every slot to be taken", func() bool { return len(w.sim.Requests()) == before+4 })
	busy := map[string]bool{}
	for _, r := range w.sim.Requests()[before:] {
		busy[r.Fields["humanId"]] = true
	}
	for i := range 6 {
		human := user.HumanID(fmt.Sprintf("marker-human-%d", i))
		if busy[string(human)] {
			continue
		}
		r, err := w.exchange(w.finish(human, user.ClientUserID("of "+human)))
		wantKind(t, err, "")
		if r.Outcome != user.Stored {
			t.Errorf("outcome %s", r.Outcome)
		}
		w.wantCurrent(human)
	}
	if n := len(w.sim.Requests()) - before; n != 4+2*3 {
		t.Errorf("%d requests while four slots are taken, want three more for each of two users", n)
	}
	close(hold)
	w.idle()
	for i := range 6 {
		w.wantCurrent(user.HumanID(fmt.Sprintf("marker-human-%d", i)))
	}
	if n := len(w.intents()); n != 0 {
		t.Errorf("%d intents left", n)
	}
}
