package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// queued starts an exchange and waits until its intent is written, so that the
// next one arrives later.
func (w *world) queued(x user.Exchange, intents int) <-chan answered {
	w.t.Helper()
	out := w.begin(x)
	w.until("an intent", func() bool { return len(w.intents()) == intents })
	return out
}

func TestOrderOfArrival(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{HoldAnswer: hold})
	first := w.begin(w.finish("marker-human", "marker-user"))
	w.awaitAsked(1)
	var rest []<-chan answered
	for i := range 4 {
		x := w.finish("marker-human", "marker-user")
		x.Rule = fmt.Sprintf("rule-%d", i%2)
		rest = append(rest, w.queued(x, i+2))
	}
	other := <-w.begin(w.finish("marker-other-human", "marker-other-user"))
	wantKind(t, other.err, "") // another user does not wait
	if n := w.asked(); n != 2 {
		t.Errorf("%d requests are on the wire for two users", n)
	}
	close(hold)
	last := (<-first).Arrival
	for _, c := range rest {
		r := <-c
		wantKind(t, r.err, "")
		if r.Arrival <= last {
			t.Error("an exchange was committed before one that arrived earlier")
		}
		last = r.Arrival
	}
	w.wantCurrent("marker-human")
	wanted := w.intentsInOrder("marker-human")
	if len(wanted) != 5 {
		t.Errorf("%d requests for 5 finish events", len(wanted))
	}
}

// intentsInOrder lists the session tokens in the order in which Human API saw
// them; the simulator counts them up, so they must be sorted.
func (w *world) intentsInOrder(human string) (tokens []string) {
	w.t.Helper()
	for _, r := range w.sim.Requests() {
		if r.Fields["humanId"] == human {
			tokens = append(tokens, r.Fields["sessionToken"])
		}
	}
	for i := 1; i < len(tokens); i++ {
		if len(tokens[i-1]) == len(tokens[i]) && tokens[i-1] > tokens[i] {
			w.t.Error("requests of one user were not sent in order of arrival")
		}
	}
	return tokens
}

// Garbage that names a victim fills its rule's places, and not the victim's.
func TestGarbageNamingAVictim(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Hold: hold})
	garbage := func(i int) user.Exchange {
		x := w.event("marker-victim", fmt.Sprintf("marker-garbage-%d", i))
		x.Rule = "attacker"
		return x
	}
	waiting := []<-chan answered{w.begin(garbage(0))}
	w.awaitAsked(1)
	for i := 1; i <= 2; i++ {
		waiting = append(waiting, w.queued(garbage(i), i+1))
	}
	for i := range 200 {
		_, err := w.exchange(garbage(1000 + i))
		wantKind(t, err, user.TooManyWaiting)
		if e, ok := err.(*user.Error); !ok || e.RetryAfter != time.Second {
			t.Fatal("the refusal does not say when to come back")
		}
	}
	if n := len(w.intents()); n != 3 {
		t.Fatalf("garbage wrote %d intents", n)
	}
	mine := w.queued(w.finish("marker-victim", "marker-user"), 4)
	also := w.queued(w.finish("marker-victim", "marker-user"), 5)
	third := w.finish("marker-victim", "marker-user")
	third.Rule = "third rule"
	_, err := w.exchange(third) // four wait
	wantKind(t, err, user.TooManyWaiting)
	close(hold)
	for _, c := range waiting {
		wantKind(t, (<-c).err, user.SessionRefused)
	}
	wantKind(t, (<-mine).err, "")
	wantKind(t, (<-also).err, "")
	w.wantCurrent("marker-victim")
	_, err = w.exchange(third)
	wantKind(t, err, "")
}

// An uncertain exchange leaves the turn free while it pauses; when a later
// arrival is committed meanwhile, it is not sent again.
func TestSupersededWhilePausing(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.config.Backoff.First, w.config.Backoff.Max = time.Minute, time.Minute
	})
	w.sim.Misbehave(humanapitest.Fault{Status: 500})
	x := w.finish("marker-human", "marker-user")
	first := w.begin(x)
	w.awaitAsked(1)
	second, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	r := <-first
	wantKind(t, r.err, "")
	if r.Outcome != user.Superseded || r.Public != second.Public || w.asked() != 2 {
		t.Errorf("the earlier exchange ended as %q after %d requests", r.Outcome, w.asked())
	}
	w.wantCurrent("marker-human")
	again, err := w.exchange(x)
	wantKind(t, err, "")
	if !again.Replayed || again.Outcome != user.Superseded || again.Public != second.Public {
		t.Error("the repeat of a superseded exchange is not answered from the store")
	}
}

func TestManyUsersAtOnce(t *testing.T) {
	w := newWorld(t)
	const users = 40
	var all []<-chan answered
	for i := range users {
		for range 2 {
			human := user.HumanID(fmt.Sprintf("marker-human-%d", i))
			all = append(all, w.begin(w.finish(human, user.ClientUserID("of "+human))))
		}
	}
	for _, c := range all {
		r := <-c
		wantKind(t, r.err, "")
	}
	for i := range users {
		w.wantCurrent(user.HumanID(fmt.Sprintf("marker-human-%d", i)))
	}
	s := w.b.Status()
	if s.Outcomes[user.Stored]+s.Outcomes[user.Superseded] != 2*users || s.InFlight != 0 {
		t.Errorf("the status does not add up: %v", s)
	}
}
