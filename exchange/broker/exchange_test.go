package broker_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

func TestStored(t *testing.T) {
	var steps []string
	w := newWorld(t, func(w *world) { w.config.Step = func(s string) { steps = append(steps, s) } })
	x := w.finish("marker-human", "marker-user@example.org")
	r, err := w.exchange(x)
	wantKind(t, err, "")
	if r.Outcome != user.Stored || r.Replayed || r.HumanID != x.HumanID || r.ClientID != app || r.ClientUserID != "marker-user@example.org" || r.State != user.Active {
		t.Error("the result is not that of a stored exchange")
	}
	w.wantCurrent(x.HumanID)
	if want := []string{"intent-written", "sending", "answered", "checked", "committed", "answering"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if n := len(w.intents()); n != 0 {
		t.Errorf("%d intents are left", n)
	}
	if n := len(w.events("outcome")); n != 0 {
		t.Errorf("the broker recorded %d outcomes that have a caller", n)
	}
}

func TestSecondFinishReplacesBothTokens(t *testing.T) {
	w := newWorld(t)
	first, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	second, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	if first.PublicToken == second.PublicToken || second.Arrival <= first.Arrival || !second.CreatedAt.Equal(first.CreatedAt) {
		t.Error("the second finish event did not replace the first")
	}
	w.wantCurrent("marker-human")
}

func TestSameSessionIsAskedOnce(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	const callers = 100
	results := make([]answered, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			r, err := w.exchange(x)
			results[i] = answered{r, err}
		})
	}
	all.Wait()
	for _, r := range results {
		wantKind(t, r.err, "")
		if r.Public != results[0].Public || r.Outcome != user.Stored {
			t.Error("two callers with one session were answered differently")
		}
	}
	if n := w.asked(); n != 1 {
		t.Errorf("Human API was asked %d times", n)
	}
	if n := w.b.Status().Outcomes[user.Stored]; n != 1 {
		t.Errorf("%d stored outcomes are counted", n)
	}
}

func TestReplay(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, "")
	current, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	again, err := w.exchange(x)
	wantKind(t, err, "")
	if !again.Replayed || again.Public != current.Public {
		t.Error("a replay is not answered with the current public part")
	}
	other := x
	other.HumanID = "marker-other-human"
	_, err = w.exchange(other)
	wantKind(t, err, user.SessionConflict)
	for _, c := range []struct {
		expected user.ClientUserID
		kind     user.Failure
	}{{"marker-user", ""}, {"marker-somebody-else", user.UserMismatch}} {
		y := x
		y.Expected, y.ExpectedSet = c.expected, true
		_, err = w.exchange(y)
		wantKind(t, err, c.kind)
		y = x
		y.BodyUserID, y.BodyUserIDSet = c.expected, true
		_, err = w.exchange(y)
		wantKind(t, err, c.kind)
	}
	if n := w.asked(); n != 2 {
		t.Errorf("Human API was asked %d times for two finish events", n)
	}
}

func TestReplayOfUserWithoutClientUserID(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "")
	_, err := w.exchange(x)
	wantKind(t, err, "")
	x.Expected, x.ExpectedSet = "marker-user", true
	_, err = w.exchange(x)
	wantKind(t, err, user.UserMismatch)
}

func TestJoinInFlight(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{HoldAnswer: hold})
	x := w.finish("marker-human", "marker-user")
	first := w.begin(x)
	w.awaitAsked(1)
	other := x
	other.HumanID = "marker-other-human"
	_, err := w.exchange(other)
	wantKind(t, err, user.SessionConflict)
	wrong := x
	wrong.Expected, wrong.ExpectedSet = "marker-somebody-else", true
	second, third := w.begin(x), w.begin(wrong)
	close(hold)
	r1, r2, r3 := <-first, <-second, <-third
	wantKind(t, r1.err, "")
	wantKind(t, r2.err, "")
	wantKind(t, r3.err, user.UserMismatch)
	if r1.Public != r2.Public {
		t.Error("the joiner was answered differently")
	}
	if n := w.asked(); n != 1 {
		t.Errorf("Human API was asked %d times", n)
	}
}

func TestAskedAgainAfterDeadline(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Deadline = 100 * time.Millisecond })
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{HoldAnswer: hold})
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, user.ExchangePending)
	_, err = w.exchange(x) // has a deadline of its own
	wantKind(t, err, user.ExchangePending)
	close(hold)
	w.awaitOutcome(user.Stored, 1)
	r, err := w.exchange(x)
	wantKind(t, err, "")
	if !r.Replayed || w.asked() != 1 {
		t.Error("the exchange that went on was not the one that is answered")
	}
	w.wantRecorded(user.Stored, "")
}

// wantRecorded checks that exactly one end without a caller stands in the log.
func (w *world) wantRecorded(o user.Outcome, code string) {
	w.t.Helper()
	w.until("an outcome in the audit log", func() bool { return len(w.events("outcome")) > 0 })
	e := w.events("outcome")
	if len(e) != 1 || e[0]["outcome"] != string(o) || e[0]["app"] != "shop" || e[0]["rule"] != "shop-web" || e[0]["requestId"] == nil || e[0]["subject"] == nil {
		w.t.Errorf("the audit log has %d ends without a caller, or a wrong one", len(e))
		return
	}
	if got, _ := e[0]["error"].(string); got != code {
		w.t.Errorf("the audit log says error %q, want %q", got, code)
	}
}

func TestHungUpCaller(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{HoldAnswer: hold})
	x := w.finish("marker-human", "marker-user")
	ctx, hangUp := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() { _, err := w.b.Exchange(ctx, x); gone <- err }()
	w.awaitAsked(1)
	hangUp()
	if err := <-gone; err == nil || user.KindOf(err) != "" {
		t.Errorf("a caller that hung up got kind %q", user.KindOf(err))
	}
	close(hold)
	w.awaitOutcome(user.Stored, 1)
	w.wantCurrent(x.HumanID)
	w.wantRecorded(user.Stored, "")
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.config.Deadline = 500 * time.Millisecond
		w.url = "http://127.0.0.1:1" // nobody listens on tcpmux
	})
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, user.UpstreamUnavailable)
	if len(w.intents()) != 0 || w.b.Status().Outcomes[user.Unsent] != 1 {
		t.Error("an exchange that was never sent left its intent")
	}
	_, found, err := w.store.Session(context.Background(), app, x.HumanID, x.SessionToken)
	if err != nil || found {
		t.Error("an unspent session token is remembered")
	}
}

func TestGivenUp(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.GiveUp = time.Second })
	w.sim.Misbehave(humanapitest.Fault{Path: humanapitest.TokensPath, Permanent: true, Status: 500})
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.ExchangeUnknown)
	if w.asked() < 2 || w.b.Status().Outcomes[user.IndeterminateOutcome] != 1 {
		t.Errorf("after %d attempts it did not end as indeterminate", w.asked())
	}
}

func TestRequireClientUserID(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.config.Apps = map[user.ClientID]broker.App{app: {Name: "shop", RequireClientUserID: true}}
	})
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	if err == nil || user.KindOf(err) != "" || w.asked() != 0 {
		t.Error("an exchange that does not say whose it is was let in")
	}
	x.Expected, x.ExpectedSet = "marker-user", true
	_, err = w.exchange(x)
	wantKind(t, err, "")
	x.ClientID = "marker-unknown-app"
	if _, err = w.exchange(x); err == nil {
		t.Error("an app that is not configured was let in")
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := broker.New(broker.Config{}); err == nil {
		t.Error("a broker without a store was made")
	}
}
